//! The driver's interface, checked over loopback with every set-up that changes how it works.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use ringtide_driver::conformance::all;
use ringtide_epoll::EpollConfig;
use support::loopback;

fn check_all(adjust: fn(&mut EpollConfig)) {
    for (name, check) in all() {
        eprintln!("check {name}");
        check(loopback(adjust));
    }
}

#[test]
fn as_usual() {
    check_all(|_| {});
}

#[test]
fn one_block_of_64_bytes() {
    check_all(|config| {
        config.receive_blocks = 1;
        config.receive_block_bytes = 64;
    });
}

#[test]
fn two_blocks_that_no_chunk_fits_into() {
    check_all(|config| {
        config.receive_blocks = 2;
        config.receive_block_bytes = 1000;
    });
}
