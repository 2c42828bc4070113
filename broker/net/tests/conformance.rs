//! The driver's interface, checked over loopback with every set-up that changes how it works.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use ringtide_driver::conformance::all;
use ringtide_net::{Descriptors, UringConfig};
use support::loopback;

fn check_all(adjust: fn(&mut UringConfig)) {
    for (name, check) in all() {
        eprintln!("check {name}");
        check(loopback(adjust));
    }
}

#[test]
fn plain_descriptors() {
    check_all(|_| {});
}

#[test]
fn direct_descriptors() {
    check_all(|config| config.descriptors = Descriptors::Direct { slots_max: 64 });
}

#[test]
fn a_completion_queue_of_8() {
    check_all(|config| {
        config.submission_entries = 8;
        config.completion_entries = Some(8);
    });
}

#[test]
fn direct_descriptors_and_a_completion_queue_of_8() {
    check_all(|config| {
        config.descriptors = Descriptors::Direct { slots_max: 64 };
        config.submission_entries = 4;
        config.completion_entries = Some(8);
    });
}

#[test]
fn one_entry_per_enter() {
    check_all(|config| config.submit_max = Some(1));
}

#[test]
fn counted_sends() {
    check_all(|config| config.counted_sends = true);
}

#[test]
fn closes_by_shutdown() {
    check_all(|config| config.cancel_scan_max = 0);
}

#[test]
fn one_buffer_of_64_bytes() {
    check_all(|config| {
        config.receive_buffers = 1;
        config.receive_buffer_bytes = 64;
    });
}
