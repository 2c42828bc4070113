//! The device below the data: how long a bare sync takes, and how much of it a directory holds.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::failure::Failure;

/// Bytes of one write: the least that a log appends.
const WRITE_BYTES: usize = 4096;
const FILE_BYTES: usize = 8 << 20;
/// The syncs end after this time if there are many.
const TIME_MAX: Duration = Duration::from_secs(3);
const SYNCS: usize = 1000;
/// Between two looks at a directory's size.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// How long an append of 4096 bytes and its fdatasync take, in a file that was filled before.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct SyncTime {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) samples: u64,
}

/// Measures it in `directory`.
///
/// # Errors
/// If nothing can be written there.
pub(crate) fn sync_time(directory: &Path) -> Result<SyncTime, Failure> {
    let path = directory.join(format!("sync-{}", std::process::id()));
    let times = sync_times(&path);
    let _ = fs::remove_file(&path);
    let times = times.map_err(|error| Failure::Io("cannot measure the device", error))?;
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(SyncTime { p50_us: at(0.5), p99_us: at(0.99), samples: times.len() })
}

fn sync_times(path: &Path) -> io::Result<Histogram<u64>> {
    let file = fs::OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    file.write_all_at(&vec![0; FILE_BYTES], 0)?;
    file.sync_all()?;
    let mut times = Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(io::Error::other)?;
    let block = [1; WRITE_BYTES];
    let began = Instant::now();
    for number in 0..SYNCS {
        let offset = number % (FILE_BYTES / WRITE_BYTES) * WRITE_BYTES;
        let from = Instant::now();
        file.write_all_at(&block, offset as u64)?;
        file.sync_data()?;
        times.saturating_record(from.elapsed().as_nanos() as u64);
        if began.elapsed() > TIME_MAX {
            break;
        }
    }
    Ok(times)
}

/// Bytes of the device that the files below a directory take. Files that go meanwhile count 0.
pub(crate) fn disk_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => disk_bytes(&entry.path()),
        // Blocks of a stat are of 512 bytes, whatever the file system's are.
        Ok(data) => data.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Waits until a directory's size has not changed for `quiet`, at most for `within`. The size.
pub(crate) fn settled_bytes(directory: &Path, quiet: Duration, within: Duration) -> u64 {
    let began = Instant::now();
    let mut last = (disk_bytes(directory), Instant::now());
    while last.1.elapsed() < quiet && began.elapsed() < within {
        std::thread::sleep(SAMPLE_EVERY);
        let now = disk_bytes(directory);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

/// Looks at a directory's size again and again, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Sampler {
    end: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Sampler {
    pub(crate) fn start(directory: PathBuf) -> Sampler {
        let end = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut largest = 0;
            loop {
                // Looked at once more after the end.
                let is_last = seen.load(Ordering::Relaxed);
                largest = disk_bytes(&directory).max(largest);
                if is_last {
                    return largest;
                }
                std::thread::sleep(SAMPLE_EVERY);
            }
        });
        Sampler { end, thread }
    }

    /// The largest size seen.
    pub(crate) fn end(self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let name = format!("ringtide-perf-device-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("below")).unwrap();
        directory
    }

    #[test]
    fn syncs_are_timed_and_leave_nothing() {
        let directory = scratch("sync");
        let time = sync_time(&directory).unwrap();
        assert!(time.samples > 0 && time.p50_us > 0.1 && time.p50_us <= time.p99_us, "{time:?}");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
        assert!(sync_time(&directory).is_err());
    }

    #[test]
    fn a_directory_counts_with_all_below_it() {
        let directory = scratch("size");
        assert_eq!(disk_bytes(&directory.join("missing")), 0);
        let bytes = vec![1; 1 << 20];
        let file = fs::File::create(directory.join("below/file")).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
        let sampler = Sampler::start(directory.clone());
        let settled = settled_bytes(&directory, SAMPLE_EVERY * 2, TIME_MAX * 10);
        // How much that is depends on the file system.
        assert!(settled > 0);
        assert!(sampler.end() >= settled);
        fs::remove_dir_all(&directory).unwrap();
    }
}
