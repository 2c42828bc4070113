//! Listeners: multishot accepts, or single-shot ones that bring the address along.
//!
//! Owns the listening sockets and the memory that the kernel writes addresses to. A listener that
//! fails (descriptors or memory used up) pauses and then goes on by itself.

use std::cell::UnsafeCell;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};
use ringtide_driver::ListenerId;
use socket2::{SockAddr, SockAddrStorage};

use super::kind::Kind;

/// How long a listener rests after a failure: long enough that a process out of descriptors does
/// not spin, short enough that clients' own retries find it again.
const PAUSE: Duration = Duration::from_millis(100);
/// Single-shot accepts in flight per listener.
const SLOTS: u16 = 32;

struct Slot {
    address: UnsafeCell<(SockAddrStorage, libc::socklen_t)>,
}

struct Listener {
    fd: OwnedFd,
    /// The shard wants connections.
    wanted: bool,
    /// Operations that the kernel holds.
    in_flight: u16,
    /// A failure's pause lasts until then.
    paused_until: Option<Instant>,
    /// One per single-shot accept; empty for multishot.
    slots: Box<[Slot]>,
    /// Slots whose accept is not in flight.
    free_slots: Vec<u16>,
}

/// All listeners of a driver.
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    /// Accepted sockets become direct descriptors, their addresses come with the accept.
    direct: bool,
    paused: usize,
}

/// What a failed accept means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Cancelled, or the client gave up: nothing to tell.
    None,
    /// The listener rests for a while.
    Paused,
}

impl Acceptor {
    pub(super) fn new(listeners: Vec<OwnedFd>, direct: bool) -> Acceptor {
        let slots = if direct { SLOTS } else { 0 };
        let listeners = listeners.into_iter().map(|fd| Listener {
            fd,
            wanted: false,
            in_flight: 0,
            paused_until: None,
            slots: (0..slots)
                .map(|_| Slot { address: UnsafeCell::new((SockAddrStorage::zeroed(), 0)) })
                .collect(),
            free_slots: (0..slots).collect(),
        });
        Acceptor { listeners: listeners.collect(), direct, paused: 0 }
    }

    /// Marks a listener as wanted or not. True if that is news.
    pub(super) fn want(&mut self, listener: ListenerId, wanted: bool) -> bool {
        match self.listeners.get_mut(usize::from(listener.0)) {
            Some(l) => std::mem::replace(&mut l.wanted, wanted) != wanted,
            None => false,
        }
    }

    /// The entries that bring a listener to its full number of accepts.
    pub(super) fn arm(&mut self, listener: ListenerId, mut push: impl FnMut(squeue::Entry)) {
        let direct = self.direct;
        let Some(l) = self.listeners.get_mut(usize::from(listener.0)) else { return };
        if !l.wanted || l.paused_until.is_some() {
            return;
        }
        let fd = types::Fd(l.fd.as_raw_fd());
        if !direct {
            if l.in_flight == 0 {
                l.in_flight = 1;
                let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
                push(entry.user_data(Kind::Accept.with(u64::from(listener.0))));
            }
            return;
        }
        while let Some(number) = l.free_slots.pop() {
            let (address, len) = {
                let pair = l.slots[usize::from(number)].address.get();
                // SAFETY: the slot's accept is not in flight, so nothing else refers to it.
                let pair = unsafe { &mut *pair };
                pair.1 = pair.0.size_of();
                ((&raw mut pair.0).cast(), &raw mut pair.1)
            };
            l.in_flight += 1;
            let entry = opcode::Accept::new(fd, address, len)
                .file_index(Some(types::DestinationSlot::auto_target()))
                .build();
            let rest = u64::from(listener.0) << 16 | u64::from(number);
            push(entry.user_data(Kind::AcceptOne.with(rest)));
        }
    }

    /// The `user_data` of every accept that a listener may have in flight.
    pub(super) fn in_flight(&self, listener: ListenerId) -> Vec<u64> {
        let Some(l) = self.listeners.get(usize::from(listener.0)) else { return Vec::new() };
        if !self.direct {
            return vec![Kind::Accept.with(u64::from(listener.0))];
        }
        let number = |slot: u16| u64::from(listener.0) << 16 | u64::from(slot);
        (0..l.slots.len() as u16)
            .filter(|slot| !l.free_slots.contains(slot))
            .map(|slot| Kind::AcceptOne.with(number(slot)))
            .collect()
    }

    /// The address that a single-shot accept brought.
    pub(super) fn address(&self, listener: ListenerId, slot: u16) -> Option<SocketAddr> {
        let l = self.listeners.get(usize::from(listener.0))?;
        let pair = l.slots.get(usize::from(slot))?.address.get();
        // SAFETY: the slot's accept has completed and has not been armed again, so the kernel is
        // done with it; the storage was zeroed at first and then written by the kernel, `1` holds
        // the length it wrote.
        unsafe {
            let storage = std::ptr::read(&raw const (*pair).0);
            SockAddr::new(storage, (*pair).1).as_socket()
        }
    }

    /// An accept is no longer in the kernel.
    pub(super) fn ended(&mut self, listener: ListenerId, slot: Option<u16>) {
        if let Some(l) = self.listeners.get_mut(usize::from(listener.0)) {
            l.in_flight = l.in_flight.saturating_sub(1);
            l.free_slots.extend(slot);
        }
    }

    /// Notes a failure; one that will happen again at once pauses the listener.
    pub(super) fn failed(&mut self, listener: ListenerId, errno: i32) -> Failure {
        let transient = [libc::ECANCELED, libc::ECONNABORTED, libc::EINTR, libc::EAGAIN];
        let Some(l) = self.listeners.get_mut(usize::from(listener.0)) else {
            return Failure::None;
        };
        if transient.contains(&errno) || !l.wanted {
            return Failure::None;
        }
        let first = l.paused_until.replace(Instant::now() + PAUSE).is_none();
        self.paused += usize::from(first);
        if first { Failure::Paused } else { Failure::None }
    }

    /// Ends the pauses that are over; calls `resume` for each, and says how long the next lasts.
    pub(super) fn resume(&mut self, mut resume: impl FnMut(ListenerId)) -> Option<Duration> {
        if self.paused == 0 {
            return None;
        }
        let now = Instant::now();
        let mut next = None;
        for (number, l) in self.listeners.iter_mut().enumerate() {
            let Some(until) = l.paused_until else { continue };
            if until <= now {
                l.paused_until = None;
                self.paused -= 1;
                resume(ListenerId(number as u16));
            } else {
                let rest = until - now;
                next = Some(next.map_or(rest, |n: Duration| n.min(rest)));
            }
        }
        next
    }
}
