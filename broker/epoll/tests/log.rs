//! Log files: what is synced when a write ends, a driver that ends, reads that find nothing in
//! memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use ringtide_driver::conformance::files::{self, Scratch, log_written};
use ringtide_driver::conformance::loopback::until;
use ringtide_driver::conformance::pattern;
use ringtide_driver::{Completion, Driver, LogOp, ReadOp};
use rustix::fs::{Advice, fadvise};
use support::driver;

#[test]
fn a_driver_that_ends_waits_for_its_write() {
    files::end_with_a_write(|| driver(|_| {}).0);
}

#[test]
fn what_was_to_be_synced_is_on_the_device_when_the_write_ends() {
    files::sync_what_is_written(driver(|_| {}).0);
}

/// The number of a file that was closed is used again: never is the one before written to.
#[test]
fn each_write_goes_to_the_file_that_has_the_number_now() {
    let (mut driver, _) = driver(|_| {});
    let (one, two) = (Scratch::new(), Scratch::new());
    for round in 0..20 {
        for scratch in [&one, &two] {
            let file = File::options().write(true).open(&scratch.path).unwrap();
            let bytes = pattern(1000, round);
            let (offset, file) = (u64::from(round) * 1000, file);
            let write = LogOp { file: file.as_raw_fd(), offset, bytes, sync: round % 2 == 0 };
            driver.write_log(write);
            assert_eq!(log_written(&mut driver), (pattern(1000, round), 0));
        }
    }
    let all: Vec<u8> = (0..20).flat_map(|round| pattern(1000, round)).collect();
    for scratch in [&one, &two] {
        assert!(std::fs::read(&scratch.path).unwrap() == all, "another file was written to");
    }
}

/// A file whose name is gone is written and read all the same.
#[test]
fn a_file_without_a_name_is_written_and_read() {
    let (mut driver, _) = driver(|_| {});
    let scratch = Scratch::new();
    std::fs::remove_file(&scratch.path).unwrap();
    let (file, bytes) = (scratch.file.as_raw_fd(), pattern(5000, 3));
    driver.write_log(LogOp { file, offset: 10, bytes: bytes.clone(), sync: true });
    assert_eq!(log_written(&mut driver), (bytes.clone(), 0));
    driver.read_log(ReadOp { tag: 4, file, offset: 10, bytes: vec![0; 5000] });
    assert_eq!(log_read(&mut driver), (4, bytes, 0));
}

#[test]
fn what_is_not_in_memory_is_read_by_a_thread() {
    let (mut driver, _) = driver(|_| {});
    let scratch = Scratch::new();
    let bytes = pattern(2 << 20, 5);
    scratch.file.write_all_at(&bytes, 0).unwrap();
    scratch.file.sync_all().unwrap();
    for _ in 0..5 {
        // Where the file system keeps it in memory nevertheless, it is read at once.
        fadvise(&scratch.file, 0, None, Advice::DontNeed).unwrap();
        let file = scratch.file.as_raw_fd();
        driver.read_log(ReadOp { tag: 1, file, offset: 4096, bytes: vec![0; 1 << 20] });
        let (tag, read, errno) = log_read(&mut driver);
        assert_eq!((tag, errno), (1, 0));
        assert!(read == bytes[4096..4096 + (1 << 20)], "other bytes were read");
    }
}

fn log_read(driver: &mut impl Driver) -> (u64, Vec<u8>, i32) {
    until(driver, |_, completion| match completion {
        Completion::LogRead { tag, bytes, errno } => Some((tag, bytes, errno)),
        _ => None,
    })
}
