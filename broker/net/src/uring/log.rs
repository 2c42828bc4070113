//! The write to the log: WRITE linked to FSYNC(DATASYNC), at most one under way.
//!
//! Owns the bytes while the kernel reads them. Both entries post their completions; the bytes go
//! back to the shard when none of them is in flight. The kernel keeps the order of the pair only
//! if the write is neither short nor failed and both were taken in one submission: in every other
//! case the sync is made again after the write.

use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};
use ringtide_driver::{Completion, Driver, LogOp, Wait};

use super::UringDriver;
use super::kind::Kind;

/// Bytes of one operation: the kernel's results are positive i32.
const CHUNK_BYTES_MAX: usize = 1 << 30;
/// Tries of an operation that was interrupted before the log counts as failed.
const TRIES_MAX: u32 = 100;
/// Worker threads of the kernel that one shard's file operations may occupy: a write and its sync
/// follow each other.
const WORKERS_MAX: u32 = 2;
/// Waits of 20 ms for a write when the driver ends: a disk that needs longer has failed.
const LAST_WAITS_MAX: u32 = 1500;

/// A write under way.
struct Write {
    op: LogOp,
    /// Bytes that are written.
    done: usize,
    /// Entries whose completions have not come.
    in_flight: u32,
    /// The data is synced, or need not be.
    synced: bool,
    /// The first error, 0 = none.
    errno: i32,
    tries: u32,
}

impl Write {
    /// The next write, and whether it is the last.
    fn entry(&self) -> (squeue::Entry, bool) {
        let rest = &self.op.bytes[self.done..];
        let len = rest.len().min(CHUNK_BYTES_MAX);
        let entry = opcode::Write::new(Fd(self.op.file), rest.as_ptr(), len as u32)
            .offset(self.op.offset + self.done as u64)
            .build()
            .user_data(Kind::LogWrite.with(0));
        (entry, len == rest.len())
    }

    fn sync_entry(&self, linked: bool) -> squeue::Entry {
        let sync = opcode::Fsync::new(Fd(self.op.file)).flags(FsyncFlags::DATASYNC).build();
        sync.user_data(Kind::LogSync.with(u64::from(linked)))
    }

    /// True if an operation that ended so may be tried again.
    fn tries_again(&mut self, result: i32) -> bool {
        self.tries += 1;
        matches!(-result, libc::EINTR | libc::EAGAIN) && self.tries < TRIES_MAX
    }
}

/// The log of a driver.
#[derive(Default)]
pub(super) struct LogWriter {
    write: Option<Write>,
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
        let synced = !op.sync;
        let write = Write { op, done: 0, in_flight: 0, synced, errno: 0, tries: 0 };
        self.log.write = Some(write);
        if let Some(completion) = self.go_on_with_log() {
            self.ready.push_back(completion);
        }
    }

    /// Starts what is to be done next; the end of the write if nothing is.
    fn go_on_with_log(&mut self) -> Option<Completion> {
        let write = self.log.write.as_mut()?;
        if write.in_flight > 0 {
            return None;
        }
        let (failed, whole) = (write.errno != 0, write.done == write.op.bytes.len());
        if failed || (whole && write.synced) {
            let write = self.log.write.take()?;
            return Some(Completion::LogWritten { bytes: write.op.bytes, errno: write.errno });
        }
        if whole {
            write.in_flight = 1;
            let sync = write.sync_entry(false);
            self.ring.stats.syncs_apart += 1;
            self.push(&sync);
            return None;
        }
        let (entry, last) = write.entry();
        if !last || write.synced {
            write.in_flight = 1;
            self.push(&entry);
            return None;
        }
        write.in_flight = 2;
        let sync = write.sync_entry(true);
        // SAFETY: as in `push`: the bytes are `log`'s until both completions have been read.
        unsafe { self.ring.push_linked(&entry.flags(Flags::IO_LINK), &sync) };
        None
    }

    /// A write has ended.
    pub(super) fn log_written(&mut self, result: i32) -> Option<Completion> {
        let write = self.log.write.as_mut()?;
        write.in_flight -= 1;
        match result {
            // A file that takes nothing has no room.
            0 => write.errno = libc::ENOSPC,
            1.. => write.done = (write.done + result as usize).min(write.op.bytes.len()),
            _ if write.tries_again(result) => {}
            _ => write.errno = -result,
        }
        self.go_on_with_log()
    }

    /// A sync has ended. One that was linked counts only if it came after the whole write.
    pub(super) fn log_synced(&mut self, linked: bool, result: i32) -> Option<Completion> {
        let split = linked && self.ring.is_split();
        let write = self.log.write.as_mut()?;
        write.in_flight -= 1;
        // Without its whole write a linked sync is cancelled and made later.
        let undone = linked && result == -libc::ECANCELED;
        if result < 0 && !undone && write.errno == 0 {
            // An error of a sync is told once by the kernel: never taken back.
            write.errno = -result;
        }
        let whole = write.in_flight == 0 && write.done == write.op.bytes.len();
        write.synced |= result >= 0 && !split && whole;
        self.go_on_with_log()
    }

    /// Waits for the write under way: its bytes must not go while the kernel reads them, and what
    /// it holds should not be lost to a cancel.
    pub(super) fn end_log_write(&mut self) {
        for _ in 0..LAST_WAITS_MAX {
            let wait = Wait::AtMost(Duration::from_millis(20));
            if self.log.write.is_none() || self.ring.submit_and_wait(wait).is_err() {
                break;
            }
            while self.next().is_some() {}
        }
        // The kernel may still read them.
        std::mem::forget(self.log.write.take());
    }
}
