//! One io_uring: entries in, completions out, and exact knowledge of what the kernel has taken.
//!
//! Owns the queues and the one `io_uring_enter` of a turn. What the entries mean is not its
//! business. `submit_and_wait` returns only when every pushed entry has been taken by the kernel
//! and no completion is left in the kernel's overflow list: that is what makes "no completion
//! means success" true for the sends of a turn.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};
use ringtide_driver::Wait;

use super::Stats;

/// Tries of an enter that takes nothing before the driver gives up: memory is gone for good.
const TRIES_MAX: u32 = 10_000;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const ENTER_NO_IOWAIT: u32 = 1 << 7;
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

pub(super) struct Ring {
    uring: IoUring,
    /// Entries for which the submission queue had no room, oldest first.
    waiting: VecDeque<squeue::Entry>,
    /// Completions that were moved out of the kernel's queue to make room, oldest first.
    backlog: VecDeque<cqueue::Entry>,
    /// Entries ever pushed, wrapping: the position of the next one.
    pushed: u32,
    /// Entries ever taken by the kernel, wrapping: those with a position before it.
    taken: u32,
    /// The most entries that one enter is told of (less than the queue only in tests).
    submit_max: u32,
    enter_fd: RawFd,
    enter_flags: u32,
    pub(super) stats: Stats,
}

/// Sets a ring up with all that this kernel offers of the optional flags.
///
/// # Errors
/// As io_uring_setup(2).
pub(super) fn build(submissions: u32, completions: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions)
        .dontfork();
    // From 6.6 on the indirection array can be left out: one cache line less per entry.
    let mut lean = builder.clone();
    match lean.setup_no_sqarray().build(submissions) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => builder.build(submissions),
        other => other,
    }
}

impl Ring {
    pub(super) fn new(uring: IoUring, submit_max: Option<u32>) -> Ring {
        let params = uring.params();
        let mut enter_flags = ENTER_GETEVENTS;
        if params.is_feature_no_iowait() {
            enter_flags |= ENTER_NO_IOWAIT;
        }
        let submit_max = submit_max.unwrap_or(u32::MAX).max(1);
        let enter_fd = uring.as_raw_fd();
        let mut ring = Ring {
            uring,
            waiting: VecDeque::new(),
            backlog: VecDeque::new(),
            pushed: 0,
            taken: 0,
            submit_max,
            enter_fd,
            enter_flags,
            stats: Stats::default(),
        };
        ring.register_own_fd();
        ring
    }

    pub(super) fn uring(&self) -> &IoUring {
        &self.uring
    }

    /// Spares the kernel the look-up of the ring's descriptor in every enter, if a slot is free.
    fn register_own_fd(&mut self) {
        let fd = self.uring.as_raw_fd();
        let mut update = RingUpdate { offset: u32::MAX, reserved: 0, data: fd as u64 };
        // SAFETY: `update` has the layout the kernel expects and outlives the call.
        let rc = unsafe {
            let update = &raw mut update;
            libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, update, 1)
        };
        if rc == 1 {
            self.enter_fd = update.offset as RawFd;
            self.enter_flags |= ENTER_REGISTERED_RING;
        }
    }

    /// The position that the next pushed entry gets.
    #[inline]
    pub(super) fn position(&self) -> u32 {
        self.pushed
    }

    /// True if the kernel has taken the entry at `position`.
    #[inline]
    pub(super) fn has_taken(&self, position: u32) -> bool {
        self.taken.wrapping_sub(position) as i32 > 0
    }

    /// True if every completion so far has been read: none queued, none in the overflow list.
    #[inline]
    pub(super) fn is_drained(&mut self) -> bool {
        self.backlog.is_empty()
            && self.uring.completion().is_empty()
            && !self.uring.submission().cq_overflow()
    }

    /// Queues an entry; submits first if the queue is full.
    ///
    /// # Safety
    /// What the entry points to stays valid and untouched until its completion has been read, or
    /// (for an entry that skips its completion on success) until `has_taken` and `is_drained`.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        self.pushed = self.pushed.wrapping_add(1);
        if self.waiting.is_empty() {
            // SAFETY: passed on to the caller.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
            self.make_room();
            // SAFETY: passed on to the caller.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
        }
        self.waiting.push_back(entry.clone());
    }

    fn note_taken(&mut self, taken: u32) {
        self.taken = self.taken.wrapping_add(taken);
    }

    /// Submits in the middle of a turn. What the kernel does not take now it takes later.
    #[cold]
    fn make_room(&mut self) {
        let len = self.uring.submission().len() as u32;
        if let Ok(taken) = self.enter(len.min(self.submit_max), 0, 0, None) {
            self.note_taken(taken);
        }
    }

    fn enter(
        &mut self,
        to_submit: u32,
        want: u32,
        events: u32,
        limit: Option<&Timespec>,
    ) -> io::Result<u32> {
        self.stats.enters += 1;
        let mut flags = (self.enter_flags & !ENTER_GETEVENTS) | events;
        let mut args = SubmitArgs::new();
        let mut pointer = std::ptr::null();
        let mut size = 0;
        if let Some(limit) = limit {
            args = args.timespec(limit);
            pointer = &raw const args;
            size = size_of_val(&args);
            flags |= ENTER_EXT_ARG;
        }
        let fd = self.enter_fd;
        // SAFETY: the queues are those of this ring; `args` and the time it points to outlive the
        // call; what the entries point to is valid by the contract of `push`.
        let rc = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, fd, to_submit, want, flags, pointer, size)
        };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(rc as u32)
    }

    /// Submits everything and waits as told. In the usual turn this is one system call; none if
    /// there is neither anything to submit nor anything to fetch and `wait` says not to sleep.
    ///
    /// # Errors
    /// The kernel takes no entries any more, or refuses the ring.
    pub(super) fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        let limit = match wait {
            Wait::AtMost(time) if time.is_zero() => None,
            Wait::Poll => None,
            Wait::AtMost(time) => Some(Timespec::from(time)),
        };
        let mut tries = 0;
        // The last enter of a call is told of everything; only that one may sleep.
        let mut complete = false;
        loop {
            self.refill();
            let (queued, overflow, work) = self.pending();
            let settled = queued == 0 && self.waiting.is_empty() && !overflow;
            let limit = limit.as_ref().filter(|_| self.has_nothing());
            if settled && (complete || (limit.is_none() && !work)) {
                return Ok(());
            }
            if overflow {
                self.reap();
            }
            let last = queued <= self.submit_max && self.waiting.is_empty() && !overflow;
            let limit = limit.filter(|_| last && !complete);
            let to_submit = queued.min(self.submit_max);
            let want = u32::from(limit.is_some());
            match self.enter(to_submit, want, ENTER_GETEVENTS, limit) {
                Ok(taken) => {
                    let taken = taken.min(to_submit);
                    self.note_taken(taken);
                    complete |= last && taken == to_submit;
                    self.stats.short_submits += u64::from(taken < queued);
                    tries = if taken == 0 && to_submit > 0 { tries + 1 } else { 0 };
                }
                Err(error) => {
                    self.after_error(error, &mut tries)?;
                    complete |= last && to_submit == 0;
                }
            }
            if tries > TRIES_MAX {
                return Err(io::Error::from_raw_os_error(libc::EBUSY));
            }
        }
    }

    fn after_error(&mut self, error: io::Error, tries: &mut u32) -> io::Result<()> {
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR) => Ok(()),
            Some(libc::EAGAIN | libc::EBUSY) => {
                // The kernel is short of memory or of room for completions.
                *tries += 1;
                self.reap();
                std::thread::yield_now();
                if *tries > TRIES_MAX { Err(error) } else { Ok(()) }
            }
            _ => Err(error),
        }
    }

    /// Entries in the submission queue; whether completions overflowed; whether work is pending
    /// that only an enter runs.
    fn pending(&mut self) -> (u32, bool, bool) {
        let queue = self.uring.submission();
        (queue.len() as u32, queue.cq_overflow(), queue.taskrun())
    }

    fn has_nothing(&mut self) -> bool {
        self.backlog.is_empty() && self.uring.completion().is_empty()
    }

    /// Moves waiting entries into the submission queue as far as there is room.
    fn refill(&mut self) {
        while let Some(entry) = self.waiting.front() {
            // SAFETY: the contract of `push` held when the entry was queued and still does.
            if unsafe { self.uring.submission().push(entry) }.is_err() {
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// Empties the kernel's completion queue into the backlog.
    fn reap(&mut self) {
        self.stats.overflows += 1;
        self.backlog.extend(self.uring.completion());
    }

    /// The oldest completion that has not been read.
    #[inline]
    pub(super) fn next(&mut self) -> Option<cqueue::Entry> {
        if !self.backlog.is_empty() {
            return self.backlog.pop_front();
        }
        self.uring.completion().next()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.enter_flags & ENTER_REGISTERED_RING == 0 {
            return;
        }
        // The registration holds the ring open; it must go before the descriptor does.
        let update = RingUpdate { offset: self.enter_fd as u32, reserved: 0, data: 0 };
        let fd = self.uring.as_raw_fd();
        // SAFETY: `update` has the layout the kernel expects and outlives the call.
        unsafe {
            let update = &raw const update;
            libc::syscall(libc::SYS_io_uring_register, fd, UNREGISTER_RING_FDS, update, 1);
        }
    }
}
