//! Log writes: what is synced when they end, and where the kernel does less than it is asked for:
//! short writes, a full queue, a driver that ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

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

/// Tells pages of a file that are not on the device, by cachestat(2).
const COUNT_DIRTY: &str = "
import ctypes, os, sys
class Range(ctypes.Structure):
    _fields_ = [('offset', ctypes.c_uint64), ('bytes', ctypes.c_uint64)]
class Pages(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ('cache', 'dirty', 'writeback', 'evicted', 'recent')]
file, of, pages = os.open(sys.argv[1], os.O_RDONLY), Range(0, 0), Pages()
rc = ctypes.CDLL(None).syscall(451, file, ctypes.byref(of), ctypes.byref(pages), 0)
print(pages.dirty + pages.writeback if rc == 0 else -1)
";

/// Pages of the file that are not on the device; `None` where the kernel (before 6.5) or the file
/// system does not say, or Python is missing.
fn dirty_pages(path: &Path) -> Option<u64> {
    let python = Command::new("python3").args(["-c", COUNT_DIRTY]).arg(path).output().ok()?;
    assert!(python.status.success(), "{python:?}");
    String::from_utf8(python.stdout).unwrap().trim().parse().ok()
}

#[test]
fn what_was_to_be_synced_is_on_the_device_when_the_write_ends() {
    let (path, file) = scratch("sync");
    let (mut driver, _) = driver(|_| {});
    let bytes = pattern(300_000, 1);
    let mut write = |offset, sync| {
        let file = file.as_raw_fd();
        driver.write_log(LogOp { file, offset, bytes: bytes.clone(), sync });
        assert_eq!(log_written(&mut driver), (bytes.clone(), 0));
    };
    write(0, false);
    if dirty_pages(&path).is_none_or(|dirty| dirty == 0) {
        eprintln!("skipped: this host does not tell what is not yet on the device");
    } else {
        file.sync_data().unwrap();
        for round in 0..20 {
            write(round * 300_000, true);
            assert_eq!(dirty_pages(&path), Some(0), "round {round}");
        }
    }
    std::fs::remove_file(path).unwrap();
}

/// Cancelled accepts fill the submission queue, so that the write meets its end at every place.
#[test]
fn a_write_finds_its_place_in_a_full_queue() {
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
