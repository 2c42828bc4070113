//! Log writes where the kernel does less than it is asked for: short writes, broken links, a
//! driver that ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread;

use ringtide_driver::conformance::pattern;
use ringtide_driver::{Completion, Driver, LogOp, Wait};
use ringtide_net::{UringConfig, UringDriver};
use support::{driver, turn, until};

/// A pipe takes 64 KiB at a time: every write to it is short.
const SHORT: usize = 1_000_000;

fn log_written(driver: &mut UringDriver) -> (Vec<u8>, i32) {
    until(driver, |_, completion| match completion {
        Completion::LogWritten { bytes, errno } => Some((bytes, errno)),
        _ => None,
    })
}

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
    // A pipe cannot be synced: the error shows that it was tried, after all was written.
    assert_eq!(errno, if sync { libc::EINVAL } else { 0 });
    drop(writer);
    assert!(read.join().unwrap() == bytes, "the bytes differ");
}

#[test]
fn short_writes_are_continued_and_then_synced() {
    short_writes_are_continued(|_| {}, false);
    short_writes_are_continued(|_| {}, true);
    short_writes_are_continued(
        |config| {
            config.submission_entries = 4;
            config.completion_entries = Some(4);
        },
        false,
    );
}

fn scratch(name: &str) -> (PathBuf, File) {
    let name = format!("ringtide-net-{}-{name}", std::process::id());
    let path = std::env::temp_dir().join(name);
    // One that was killed under the same number may have left it.
    let _ = std::fs::remove_file(&path);
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    (path, file)
}

#[test]
fn a_driver_that_ends_waits_for_its_write() {
    let (path, file) = scratch("end");
    for (round, submitted) in [true, false].into_iter().enumerate() {
        let bytes = pattern(8 << 20, round as u32);
        let (mut driver, _) = driver(|_| {});
        let write = LogOp { file: file.as_raw_fd(), offset: 0, bytes: bytes.clone(), sync: true };
        driver.write_log(write);
        if submitted {
            driver.submit_and_wait(Wait::Poll).unwrap();
        }
        drop(driver);
        assert!(std::fs::read(&path).unwrap() == bytes, "the write was cut short");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_link_that_did_not_hold_is_made_good() {
    let (path, file) = scratch("split");
    for (submit_max, apart) in [(None, 0), (Some(1), 20)] {
        let (mut driver, _) = driver(|config| config.submit_max = submit_max);
        for round in 0..20 {
            let bytes = pattern(10_000, round);
            let file = file.as_raw_fd();
            driver.write_log(LogOp { file, offset: 0, bytes: bytes.clone(), sync: true });
            assert_eq!(log_written(&mut driver), (bytes, 0));
        }
        assert_eq!(driver.stats().syncs_apart, apart);
    }
    std::fs::remove_file(path).unwrap();
}

/// Cancelled accepts fill the submission queue, so that the pair meets its end at every place.
#[test]
fn a_pair_finds_its_place_in_a_full_queue() {
    let (path, file) = scratch("full");
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
        let write = LogOp { file: file.as_raw_fd(), offset, bytes: bytes.clone(), sync: true };
        driver.write_log(write);
        assert_eq!(log_written(&mut driver), (bytes.clone(), 0));
        written.extend_from_slice(&bytes);
    }
    assert!(std::fs::read(&path).unwrap() == written, "the bytes differ");
    assert!(turn(&mut driver, Wait::Poll).is_empty());
    std::fs::remove_file(path).unwrap();
}
