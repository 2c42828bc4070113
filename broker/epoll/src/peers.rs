//! How drivers of one process find each other: an eventfd to wake each, and a mailbox for sockets
//! that are handed over. Built before any driver, shared by all.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringtide_driver::Waker;
use rustix::event::{EventfdFlags, eventfd};

/// The drivers of all shards, by shard number.
#[derive(Debug)]
pub struct Peers {
    shards: Box<[Peer]>,
}

#[derive(Debug)]
struct Peer {
    waker: Arc<EventWaker>,
    mailbox: Mutex<Mailbox>,
}

/// Sockets on their way to a driver: locked once for a hand-over, never for a message.
#[derive(Debug, Default)]
struct Mailbox {
    /// A driver is there to take them.
    open: bool,
    arrivals: Vec<Arrival>,
}

/// A socket that was handed over.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The tag that the sender gave.
    pub(crate) tag: u64,
    pub(crate) socket: OwnedFd,
}

impl Peers {
    /// Makes room for `shards` drivers.
    ///
    /// # Errors
    /// No eventfd could be made, for example because the process is out of descriptors.
    pub fn new(shards: u16) -> io::Result<Arc<Peers>> {
        let peer = |_| {
            let waker = Arc::new(EventWaker::new()?);
            Ok(Peer { waker, mailbox: Mutex::default() })
        };
        let shards = (0..shards).map(peer).collect::<io::Result<_>>()?;
        Ok(Arc::new(Peers { shards }))
    }

    /// A waker for the driver of `shard`, usable from any thread, before and after its start.
    pub fn waker(&self, shard: u16) -> Option<Arc<EventWaker>> {
        self.shards.get(usize::from(shard)).map(|peer| Arc::clone(&peer.waker))
    }

    pub(crate) fn wake(&self, shard: u16) {
        if let Some(peer) = self.shards.get(usize::from(shard)) {
            peer.waker.wake();
        }
    }

    fn mailbox(&self, shard: u16) -> Option<MutexGuard<'_, Mailbox>> {
        let peer = self.shards.get(usize::from(shard))?;
        Some(peer.mailbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The driver of `shard` begins to take what is handed over.
    pub(crate) fn open(&self, shard: u16) {
        if let Some(mut mailbox) = self.mailbox(shard) {
            mailbox.open = true;
        }
    }

    /// The driver of `shard` has ended: what is still on its way is closed.
    pub(crate) fn close(&self, shard: u16) {
        if let Some(mut mailbox) = self.mailbox(shard) {
            *mailbox = Mailbox::default();
        }
    }

    /// Hands a socket over and wakes its new owner. False, and the socket is closed, if there is
    /// none.
    pub(crate) fn hand_over(&self, shard: u16, arrival: Arrival) -> bool {
        let Some(mut mailbox) = self.mailbox(shard).filter(|mailbox| mailbox.open) else {
            return false;
        };
        mailbox.arrivals.push(arrival);
        drop(mailbox);
        self.wake(shard);
        true
    }

    /// What has been handed over to `shard` since the last call.
    pub(crate) fn arrivals(&self, shard: u16) -> Vec<Arrival> {
        self.mailbox(shard).map_or_else(Vec::new, |mut mailbox| mem::take(&mut mailbox.arrivals))
    }
}

/// Wakes one driver through an eventfd that its epoll watches.
#[derive(Debug)]
pub struct EventWaker {
    fd: OwnedFd,
    /// True from a wake until the driver has noticed it: wakes in between cost no system call.
    rung: AtomicBool,
}

impl EventWaker {
    fn new() -> io::Result<EventWaker> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(EventWaker { fd, rung: AtomicBool::new(false) })
    }

    /// The driver has been woken and is about to look at what for.
    pub(crate) fn noticed(&self) {
        // AcqRel: a wake that found `rung` set, and so wrote nothing, has pushed its work before
        // this swap, and the driver looks for it after.
        self.rung.swap(false, Ordering::AcqRel);
    }
}

impl AsFd for EventWaker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Waker for EventWaker {
    fn wake(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // Never read: watched edge-triggered, each write counts. It fails only when the
            // counter is full, after 2^64 - 2 wakes.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }
}
