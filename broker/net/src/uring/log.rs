//! The write to the log, with the sync of what it writes (RWF_DSYNC), at most one under way; and
//! reads of logs.
//!
//! Owns the bytes while the kernel uses them; they go back to the shard when it no longer does.

use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::types::Fd;
use io_uring::{opcode, squeue};
use ringtide_driver::{Completion, Driver, LogOp, ReadOp, Wait};

use super::UringDriver;
use super::kind::Kind;

/// Bytes of one operation: the kernel's results are positive i32.
const CHUNK_BYTES_MAX: usize = 1 << 30;
/// Tries of an operation that was interrupted before the log counts as failed.
const TRIES_MAX: u32 = 100;
/// Worker threads of the kernel that one shard's file operations may occupy: the write, and a read
/// that found nothing in memory where the file system cannot read without a thread.
const WORKERS_MAX: u32 = 2;
/// Waits of 20 ms for file operations when the driver ends: a disk that needs longer has failed.
const LAST_WAITS_MAX: u32 = 1500;

/// A write under way.
struct Write {
    op: LogOp,
    /// Bytes that are written, and synced if that was asked for.
    done: usize,
    tries: u32,
}

impl Write {
    /// The next operation. The sync is a part of it, over its own bytes only: what a short one has
    /// left is written and synced by the next.
    fn entry(&self) -> squeue::Entry {
        let rest = &self.op.bytes[self.done..];
        let len = rest.len().min(CHUNK_BYTES_MAX);
        let sync = if self.op.sync { libc::RWF_DSYNC } else { 0 };
        // Some file systems would wait for the device inside the shard's own submission: a sync is
        // for a worker from the start.
        let flags = if self.op.sync { Flags::ASYNC } else { Flags::empty() };
        opcode::Write::new(Fd(self.op.file), rest.as_ptr(), len as u32)
            .offset(self.op.offset + self.done as u64)
            .rw_flags(sync)
            .build()
            .flags(flags)
            .user_data(Kind::LogWrite.with(0))
    }

    /// True if an operation that ended so may be tried again. One that failed for want of the
    /// device may not: the kernel tells such an error of a sync once.
    fn tries_again(&mut self, result: i32) -> bool {
        self.tries += 1;
        matches!(-result, libc::EINTR | libc::EAGAIN) && self.tries < TRIES_MAX
    }
}

/// A read under way.
struct Read {
    op: ReadOp,
    /// Bytes that are read.
    done: usize,
    tries: u32,
}

impl Read {
    /// The next operation.
    fn entry(&mut self, place: usize) -> squeue::Entry {
        let rest = &mut self.op.bytes[self.done..];
        let len = rest.len().min(CHUNK_BYTES_MAX);
        opcode::Read::new(Fd(self.op.file), rest.as_mut_ptr(), len as u32)
            .offset(self.op.offset + self.done as u64)
            .build()
            .user_data(Kind::LogRead.with(place as u64))
    }
}

/// The file operations of a driver.
#[derive(Default)]
pub(super) struct LogIo {
    write: Option<Write>,
    reads: Vec<Option<Read>>,
}

impl LogIo {
    fn is_idle(&self) -> bool {
        self.write.is_none() && self.reads.iter().all(Option::is_none)
    }
}

impl UringDriver {
    /// Bounds the kernel's worker threads for this ring's file operations. A kernel that cannot
    /// only has more of them.
    pub(super) fn bound_workers(&mut self) {
        let _ = self.ring.uring().submitter().register_iowq_max_workers(&mut [WORKERS_MAX, 0]);
    }

    pub(super) fn begin_log_write(&mut self, op: LogOp) {
        if self.log.write.is_some() {
            let busy = Completion::LogWritten { bytes: op.bytes, errno: libc::EBUSY };
            self.ready.push_back(busy);
            return;
        }
        self.log.write = Some(Write { op, done: 0, tries: 0 });
        self.go_on_with_log();
    }

    fn go_on_with_log(&mut self) {
        let Some(entry) = self.log.write.as_ref().map(Write::entry) else { return };
        self.push(&entry);
    }

    /// An operation has ended; the end of the write if it was the last.
    pub(super) fn log_written(&mut self, result: i32) -> Option<Completion> {
        let write = self.log.write.as_mut()?;
        let errno = match result {
            // A file that takes nothing has no room.
            0 if !write.op.bytes.is_empty() => libc::ENOSPC,
            0 => 0,
            1.. => {
                write.done = (write.done + result as usize).min(write.op.bytes.len());
                0
            }
            _ if write.tries_again(result) => 0,
            _ => -result,
        };
        if errno == 0 && write.done < write.op.bytes.len() {
            self.go_on_with_log();
            return None;
        }
        let write = self.log.write.take()?;
        Some(Completion::LogWritten { bytes: write.op.bytes, errno })
    }

    pub(super) fn begin_log_read(&mut self, op: ReadOp) {
        let read = Read { op, done: 0, tries: 0 };
        let free = self.log.reads.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.log.reads.push(None);
            self.log.reads.len() - 1
        });
        let entry = self.log.reads[place].insert(read).entry(place);
        self.push(&entry);
    }

    /// An operation has ended; the end of the read if it was the last.
    pub(super) fn log_read(&mut self, place: usize, result: i32) -> Option<Completion> {
        let read = self.log.reads.get_mut(place)?.as_mut()?;
        read.tries += 1;
        let retry = matches!(-result, libc::EINTR | libc::EAGAIN) && read.tries < TRIES_MAX;
        read.done = (read.done + result.max(0) as usize).min(read.op.bytes.len());
        if retry || (result > 0 && read.done < read.op.bytes.len()) {
            let entry = read.entry(place);
            self.push(&entry);
            return None;
        }
        let Read { op: ReadOp { tag, mut bytes, .. }, done, .. } =
            self.log.reads.get_mut(place)?.take()?;
        let errno = if result < 0 { -result } else { 0 };
        bytes.truncate(if errno == 0 { done } else { 0 });
        Some(Completion::LogRead { tag, bytes, errno })
    }

    /// Waits for the file operations under way: their bytes must not go while the kernel uses them,
    /// and what a write holds should not be lost to a cancel.
    pub(super) fn end_log(&mut self) {
        for _ in 0..LAST_WAITS_MAX {
            let wait = Wait::AtMost(Duration::from_millis(20));
            if self.log.is_idle() || self.ring.submit_and_wait(wait).is_err() {
                break;
            }
            while self.next().is_some() {}
        }
        // The kernel may still use them.
        std::mem::forget(std::mem::take(&mut self.log));
    }
}
