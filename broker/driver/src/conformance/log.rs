//! The log operation: bytes at their place, errors told, sockets served meanwhile.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::files::Scratch;
use super::{Stage, T, World, pattern, plain};
use crate::{Completion, Driver, LogOp, ReadOp, Wait};

/// `EBUSY`.
const EBUSY: i32 = 16;
/// `EBADF`.
const EBADF: i32 = 9;
/// `ENOSPC`.
const ENOSPC: i32 = 28;

impl Scratch {
    fn bytes_at(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).expect("the file is long enough");
        bytes
    }

    fn len(&self) -> u64 {
        self.file.metadata().expect("the file is there").len()
    }
}

impl<W: World> Stage<W> {
    fn write_log(&mut self, file: &File, offset: u64, bytes: &[u8], sync: bool) {
        let write = LogOp { file: file.as_raw_fd(), offset, bytes: bytes.to_vec(), sync };
        self.driver().write_log(write);
    }

    /// The end of the log write; its bytes are the ones that were given.
    fn log_written(&mut self, given: &[u8]) -> i32 {
        let (bytes, errno) = self.wait_for("log written", |c| match c {
            Completion::LogWritten { bytes, errno } => Some((bytes.clone(), *errno)),
            _ => None,
        });
        assert!(bytes == given, "other bytes came back");
        errno
    }
}

pub(super) fn check_writes<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let scratch = Scratch::new();
    let mut offset = 0;
    for (round, len) in [1, 512, 4096, 100_000, 3 << 20, 7].into_iter().enumerate() {
        for sync in [false, true] {
            let bytes = pattern(len, round as u32 + 20);
            stage.write_log(&scratch.file, offset, &bytes, sync);
            assert_eq!(stage.log_written(&bytes), 0);
            assert!(scratch.bytes_at(offset, len) == bytes, "{len} bytes at {offset} differ");
            offset += len as u64;
        }
    }
    assert_eq!(scratch.len(), offset);
    // Back to the middle: what stands around it stays.
    let before = scratch.bytes_at(0, offset as usize);
    let bytes = pattern(1000, 40);
    stage.write_log(&scratch.file, 5000, &bytes, true);
    assert_eq!(stage.log_written(&bytes), 0);
    let mut expected = before;
    expected[5000..6000].copy_from_slice(&bytes);
    assert!(scratch.bytes_at(0, offset as usize) == expected, "more than its place was written");
}

pub(super) fn check_nothing<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let scratch = Scratch::new();
    for sync in [false, true] {
        stage.write_log(&scratch.file, 100, &[], sync);
        assert_eq!(stage.log_written(&[]), 0);
    }
    assert_eq!(scratch.len(), 0);
}

pub(super) fn check_failures<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let scratch = Scratch::new();
    let read_only = File::open(&scratch.path).expect("it can be read");
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    for sync in [false, true] {
        let bytes = pattern(5000, 30);
        stage.driver().write_log(LogOp { file: -1, offset: 0, bytes: bytes.clone(), sync });
        assert_eq!(stage.log_written(&bytes), EBADF);
        stage.write_log(&read_only, 0, &bytes, sync);
        assert_eq!(stage.log_written(&bytes), EBADF);
        stage.write_log(&full, 0, &bytes, sync);
        assert_eq!(stage.log_written(&bytes), ENOSPC);
        // A failure is that write's only.
        stage.write_log(&scratch.file, 0, &bytes, sync);
        assert_eq!(stage.log_written(&bytes), 0);
    }
    stage.driver().write_log(LogOp { file: -1, offset: 0, bytes: Vec::new(), sync: true });
    assert_eq!(stage.log_written(&[]), EBADF);
}

pub(super) fn check_one_at_a_time<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let scratch = Scratch::new();
    let (first, second) = (pattern(200_000, 31), pattern(10, 32));
    stage.write_log(&scratch.file, 0, &first, true);
    stage.write_log(&scratch.file, 0, &second, true);
    let mut ends = Vec::new();
    while ends.len() < 2 {
        ends.push(stage.wait_for("log written", |c| match c {
            Completion::LogWritten { bytes, errno } => Some((bytes.len(), *errno)),
            _ => None,
        }));
    }
    ends.sort_unstable();
    assert_eq!(ends, [(10, EBUSY), (200_000, 0)]);
    assert!(scratch.bytes_at(0, first.len()) == first, "the refused write was made");
}

pub(super) fn check_beside_sends<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let scratch = Scratch::new();
    let (client, socket) = stage.accept();
    let (mut sent, mut got, mut logged) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..50 {
        let block = pattern(10_000, 50 + round);
        stage.write_log(&scratch.file, logged.len() as u64, &block, round % 3 > 0);
        // Sends in the same turn, whose silence means success.
        let message = pattern(2_000, round);
        stage.driver().send(T, socket, plain(message.clone()));
        stage.turn(Wait::Poll);
        sent.extend_from_slice(&message);
        got.extend(stage.client_reads(client, message.len()));
        assert_eq!(stage.log_written(&block), 0);
        logged.extend_from_slice(&block);
    }
    assert!(got == sent, "bytes of a send were lost beside a log write");
    assert!(scratch.bytes_at(0, logged.len()) == logged, "the log differs");
    stage.close(T, socket);
}

/// Reads under way at once: more than any driver keeps ready.
const READS: usize = 70;

impl<W: World> Stage<W> {
    fn read_log(&mut self, file: i32, tag: u64, offset: u64, len: usize) {
        let read = ReadOp { tag, file, offset, bytes: vec![0; len] };
        self.driver().read_log(read);
    }

    /// The end of a log read: tag, bytes, error.
    fn log_read(&mut self) -> (u64, Vec<u8>, i32) {
        self.wait_for("log read", |c| match c {
            Completion::LogRead { tag, bytes, errno } => Some((*tag, bytes.clone(), *errno)),
            _ => None,
        })
    }
}

pub(super) fn check_reads<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let scratch = Scratch::new();
    let bytes = pattern(1 << 20, 60);
    scratch.file.write_all_at(&bytes, 0).expect("it can be written");
    let file = scratch.file.as_raw_fd();
    let span = |n: usize| (n * 7919, 1 + (n * 1013) % 60_000);
    for n in 0..READS {
        let (offset, len) = span(n);
        stage.read_log(file, n as u64, offset as u64, len);
    }
    let mut seen = [false; READS];
    for _ in 0..READS {
        let (tag, got, errno) = stage.log_read();
        let (offset, len) = span(tag as usize);
        assert_eq!(errno, 0);
        assert!(got == bytes[offset..offset + len], "read {tag} has other bytes");
        assert!(!std::mem::replace(&mut seen[tag as usize], true), "read {tag} ended twice");
    }
    // Only what there is; nothing at all behind the end.
    stage.read_log(file, 1, (bytes.len() - 10) as u64, 100);
    assert_eq!(stage.log_read(), (1, bytes[bytes.len() - 10..].to_vec(), 0));
    stage.read_log(file, 2, bytes.len() as u64, 100);
    assert_eq!(stage.log_read(), (2, Vec::new(), 0));
    stage.read_log(-1, 3, 0, 100);
    assert_eq!(stage.log_read(), (3, Vec::new(), EBADF));
}

/// A read beside a write that is being synced, and sockets beside both.
pub(super) fn check_read_beside_write<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let scratch = Scratch::new();
    let bytes = pattern(300_000, 61);
    scratch.file.write_all_at(&bytes, 0).expect("it can be written");
    let next = pattern(200_000, 62);
    stage.write_log(&scratch.file, bytes.len() as u64, &next, true);
    stage.read_log(scratch.file.as_raw_fd(), 9, 1000, 250_000);
    let (tag, got, errno) = stage.log_read();
    assert_eq!((tag, errno), (9, 0));
    assert!(got[..] == bytes[1000..251_000], "other bytes were read");
    assert_eq!(stage.log_written(&next), 0);
    assert!(scratch.bytes_at(bytes.len() as u64, next.len()) == next, "the log differs");
}
