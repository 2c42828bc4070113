//! Log writes: what is synced when they end, and where the kernel does less than it is asked for:
//! short writes, a full queue, a driver that ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use ringtide_driver::conformance::files::{self, Scratch, log_written};
use ringtide_driver::conformance::loopback::turn;
use ringtide_driver::conformance::pattern;
use ringtide_driver::{Driver, LogOp, Wait};
use ringtide_net::UringConfig;
use support::driver;

/// A pipe takes 64 KiB at a time: every write to it is short.
const SHORT: usize = 1_000_000;

fn short_writes_are_continued(adjust: impl FnOnce(&mut UringConfig), sync: bool) {
    let (mut driver, _) = driver(adjust);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let read = thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    let bytes = pattern(SHORT, 1);
    let file = writer.as_raw_fd();
    driver.write_log(LogOp { file, offset: 0, bytes: bytes.clone(), sync });
    let (back, errno) = log_written(&mut driver);
    assert!(back == bytes, "other bytes came back");
    assert_eq!(errno, 0);
    drop(writer);
    // The kernel may hold the pipe until the ring is next entered: its worker lets go of a write
    // after the completion.
    let end = Instant::now() + Duration::from_secs(60);
    while !read.is_finished() {
        assert!(Instant::now() < end, "the pipe stays open");
        assert!(turn(&mut driver, Wait::AtMost(Duration::from_millis(10))).is_empty());
    }
    assert!(read.join().unwrap() == bytes, "the bytes differ");
}

#[test]
fn short_writes_are_continued_synced_or_not() {
    short_writes_are_continued(|_| {}, false);
    short_writes_are_continued(|_| {}, true);
    short_writes_are_continued(
        |config| {
            config.submission_entries = 4;
            config.completion_entries = Some(4);
        },
        true,
    );
}

#[test]
fn a_driver_that_ends_waits_for_its_write() {
    files::end_with_a_write(|| driver(|_| {}).0);
}

#[test]
fn what_was_to_be_synced_is_on_the_device_when_the_write_ends() {
    files::sync_what_is_written(driver(|_| {}).0);
}

/// Cancelled accepts fill the submission queue, so that the write meets its end at every place.
#[test]
fn a_write_finds_its_place_in_a_full_queue() {
    let scratch = Scratch::new();
    let (mut driver, _) = driver(|config| {
        config.submission_entries = 4;
        config.completion_entries = Some(8);
    });
    let mut written = Vec::new();
    for round in 0..64_u32 {
        for _ in 0..round % 8 {
            driver.start_accept(ringtide_driver::ListenerId(0));
            driver.stop_accept(ringtide_driver::ListenerId(0));
        }
        let bytes = pattern(3000, round);
        let offset = written.len() as u64;
        let write =
            LogOp { file: scratch.file.as_raw_fd(), offset, bytes: bytes.clone(), sync: true };
        driver.write_log(write);
        assert_eq!(log_written(&mut driver), (bytes.clone(), 0));
        written.extend_from_slice(&bytes);
    }
    assert!(std::fs::read(&scratch.path).unwrap() == written, "the bytes differ");
    assert!(turn(&mut driver, Wait::Poll).is_empty());
}
