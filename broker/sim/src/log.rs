//! Log writes and reads of a simulated shard: carried out on the real file, at the end of a virtual
//! delay.
//!
//! Until the delay is over the file is untouched, as after a crash that came before the write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ringtide_driver::{Completion, LogOp, ReadOp};

use crate::net::Net;
use crate::random::Random;

/// `EIO`, for an error without a number.
const EIO: i32 = 5;
/// `EBUSY`.
const EBUSY: i32 = 16;
/// The quickest write with its sync, in microseconds.
const WRITE_MIN_US: u64 = 60;
/// The slowest, but for one in `SLOW_ONE_IN`.
const WRITE_MAX_US: u64 = 500;
/// The slowest read, in microseconds.
const READ_MAX_US: u64 = 2000;
/// One write in so many takes `SLOW_US`.
const SLOW_ONE_IN: u64 = 50;
/// A slow one, in microseconds.
const SLOW_US: u64 = 30_000;

/// The log write of one shard, if one is under way, and its reads.
#[derive(Debug, Default)]
pub(crate) struct LogQueue {
    under_way: Option<(u64, LogOp)>,
    reads: Vec<(u64, ReadOp)>,
}

impl LogQueue {
    /// When the first of them ends, in virtual microseconds.
    pub(crate) fn due_us(&self) -> Option<u64> {
        let write = self.under_way.iter().map(|(due_us, _)| *due_us);
        write.chain(self.reads.iter().map(|(due_us, _)| *due_us)).min()
    }

    /// Starts a read.
    pub(crate) fn start_read(&mut self, read: ReadOp, now_us: u64, random: &mut Random) {
        self.reads.push((now_us + random.below(READ_MAX_US), read));
    }

    /// The ends of the reads that are due. What they find is what stands there now.
    pub(crate) fn finish_reads(&mut self, now_us: u64) -> Vec<Completion> {
        let due = self.reads.extract_if(.., |(due_us, _)| *due_us <= now_us);
        let ended = |(_, read): (u64, ReadOp)| {
            let ReadOp { tag, file, offset, mut bytes } = read;
            let errno = match read_out(file, offset, &mut bytes) {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(EIO),
            };
            if errno != 0 {
                bytes.clear();
            }
            Completion::LogRead { tag, bytes, errno }
        };
        due.map(ended).collect()
    }

    /// Starts a write; its completion comes at once if another one is under way.
    pub(crate) fn start(
        &mut self,
        write: LogOp,
        now_us: u64,
        random: &mut Random,
    ) -> Option<Completion> {
        if self.under_way.is_some() {
            return Some(Completion::LogWritten { bytes: write.bytes, errno: EBUSY });
        }
        let slow = random.below(SLOW_ONE_IN) == 0;
        let takes_us = if slow { SLOW_US } else { random.range(WRITE_MIN_US, WRITE_MAX_US) };
        self.under_way = Some((now_us + takes_us, write));
        None
    }

    /// The end of the write, if it is due.
    pub(crate) fn finish(&mut self, now_us: u64) -> Option<Completion> {
        let (_, write) = self.under_way.take_if(|(due_us, _)| *due_us <= now_us)?;
        let errno = match carry_out(&write) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(EIO),
        };
        Some(Completion::LogWritten { bytes: write.bytes, errno })
    }
}

impl Net {
    /// Starts a shard's log read.
    pub(crate) fn read_log(&mut self, me: u16, read: ReadOp) {
        let (offset, len) = (read.offset, read.bytes.len());
        let numbers = [6, u64::from(me), offset, len as u64];
        self.trace.event(numbers, format_args!("s{me} log: reads {len} bytes at {offset}"));
        let Net { logs, now_us, random, .. } = self;
        logs[usize::from(me)].start_read(read, *now_us, random);
    }

    /// Starts a shard's log write; its completion if that cannot be.
    pub(crate) fn write_log(&mut self, me: u16, write: LogOp) -> Option<Completion> {
        let (offset, len) = (write.offset, write.bytes.len());
        let numbers = [5, u64::from(me), offset, len as u64];
        self.trace.event(numbers, format_args!("s{me} log: writes {len} bytes at {offset}"));
        let log = &mut self.logs[usize::from(me)];
        let refused = log.start(write, self.now_us, &mut self.random);
        if refused.is_some() {
            let words = "a log write is begun while another is under way";
            self.trace.fail(format_args!("shard {me} breaks the driver's rules: {words}"));
        }
        refused
    }
}

/// Opens the descriptor's file anew: that needs no unsafe code. Nothing is synced, because no
/// power is cut here.
fn carry_out(write: &LogOp) -> io::Result<()> {
    let file = File::options().write(true).open(format!("/proc/self/fd/{}", write.file))?;
    file.write_all_at(&write.bytes, write.offset)
}

/// Reads what there is of `bytes`, which is shortened to that.
fn read_out(file: i32, offset: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let file = File::open(format!("/proc/self/fd/{file}"))?;
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            more => done += more,
        }
    }
    bytes.truncate(done);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;

    use super::*;

    fn write(file: i32, offset: u64, bytes: &[u8]) -> LogOp {
        LogOp { file, offset, bytes: bytes.to_vec(), sync: true }
    }

    #[test]
    fn a_write_reaches_the_file_when_it_is_due_and_not_before() {
        let path = std::env::temp_dir().join(format!("ringtide-sim-log-{}", std::process::id()));
        // One that was killed under the same number may have left it.
        let _ = fs::remove_file(&path);
        let file = File::create_new(&path).expect("a file can be made");
        let mut random = Random::stream(1, "log");
        let mut log = LogQueue::default();
        assert!(log.start(write(file.as_raw_fd(), 3, b"abc"), 1000, &mut random).is_none());
        let due_us = log.due_us().expect("a write is under way");
        assert!(due_us >= 1000 + WRITE_MIN_US);
        let second = log.start(write(file.as_raw_fd(), 0, b"x"), 1000, &mut random);
        assert!(matches!(second, Some(Completion::LogWritten { errno: EBUSY, .. })));
        assert!(log.finish(due_us - 1).is_none());
        assert_eq!(fs::read(&path).expect("readable"), b"");
        let Some(Completion::LogWritten { bytes, errno: 0 }) = log.finish(due_us) else {
            panic!("the write has not ended well");
        };
        assert_eq!(bytes, b"abc");
        assert_eq!(fs::read(&path).expect("readable"), b"\0\0\0abc");
        assert_eq!(log.due_us(), None);
        fs::remove_file(&path).expect("the file can be removed");
    }

    #[test]
    fn a_read_finds_what_stands_there_when_it_is_due() {
        let name = format!("ringtide-sim-log-read-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, b"before").expect("a file can be made");
        let file = File::open(&path).expect("it can be read");
        let mut random = Random::stream(1, "log");
        let mut log = LogQueue::default();
        let read = ReadOp { tag: 7, file: file.as_raw_fd(), offset: 2, bytes: vec![0; 100] };
        log.start_read(read, 1000, &mut random);
        let due_us = log.due_us().expect("a read is under way");
        assert!(log.finish_reads(due_us - 1).is_empty());
        fs::write(&path, b"behind").expect("it can be written");
        let ended = log.finish_reads(due_us);
        let [Completion::LogRead { tag: 7, bytes, errno: 0 }] = &ended[..] else {
            panic!("the read has not ended well: {ended:?}");
        };
        assert_eq!(bytes, b"hind");
        assert_eq!(log.due_us(), None);
        fs::remove_file(&path).expect("the file can be removed");
    }

    #[test]
    fn a_bad_descriptor_gives_an_error() {
        let mut log = LogQueue::default();
        log.start(write(-1, 0, b"abc"), 0, &mut Random::stream(1, "log"));
        let Some(Completion::LogWritten { errno, .. }) = log.finish(u64::MAX) else {
            panic!("the write has not ended");
        };
        assert_ne!(errno, 0);
    }
}
