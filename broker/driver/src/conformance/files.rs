//! Log files and their driver's end, and what is on the device when a write has ended.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use super::loopback::until;
use super::pattern;
use crate::{Completion, Driver, LogOp, Wait};

/// A file for one check, gone with it.
#[derive(Debug)]
pub struct Scratch {
    /// Where it is.
    pub path: PathBuf,
    /// Open for reading and writing.
    pub file: File,
}

impl Scratch {
    /// A new, empty one.
    #[expect(clippy::new_without_default, reason = "it makes a file")]
    pub fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringtide-conformance-{}-{number}", process::id());
        let path = std::env::temp_dir().join(name);
        // One that was killed under the same number may have left it.
        let _ = fs::remove_file(&path);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        Scratch { path, file: file.expect("a temporary file can be made") }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The end of a log write: its bytes and its error.
pub fn log_written(driver: &mut impl Driver) -> (Vec<u8>, i32) {
    until(driver, |_, completion| match completion {
        Completion::LogWritten { bytes, errno } => Some((bytes, errno)),
        _ => None,
    })
}

/// A driver that is dropped has made its write, whether it was submitted or not.
pub fn end_with_a_write<D: Driver>(make: impl Fn() -> D) {
    let scratch = Scratch::new();
    let file = scratch.file.as_raw_fd();
    for (round, submitted) in [true, false].into_iter().enumerate() {
        let bytes = pattern(8 << 20, round as u32);
        let mut driver = make();
        driver.write_log(LogOp { file, offset: 0, bytes: bytes.clone(), sync: true });
        if submitted {
            driver.submit_and_wait(Wait::Poll).expect("the driver goes on");
        }
        drop(driver);
        assert!(fs::read(&scratch.path).is_ok_and(|read| read == bytes), "it was cut short");
    }
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
    String::from_utf8_lossy(&python.stdout).trim().parse().ok()
}

/// What was to be synced is on the device when its write ends. Says so and checks nothing where the
/// host does not tell.
pub fn sync_what_is_written(mut driver: impl Driver) {
    let scratch = Scratch::new();
    let bytes = pattern(300_000, 1);
    let mut write = |offset, sync| {
        let file = scratch.file.as_raw_fd();
        driver.write_log(LogOp { file, offset, bytes: bytes.clone(), sync });
        assert_eq!(log_written(&mut driver), (bytes.clone(), 0));
    };
    write(0, false);
    if dirty_pages(&scratch.path).is_none_or(|dirty| dirty == 0) {
        eprintln!("skipped: this host does not tell what is not yet on the device");
        return;
    }
    scratch.file.sync_data().expect("a temporary file can be synced");
    for round in 0..20 {
        write(round * 300_000, true);
        assert_eq!(dirty_pages(&scratch.path), Some(0), "round {round}");
    }
}
