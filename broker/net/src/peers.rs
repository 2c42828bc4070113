//! How drivers of one process find and wake each other.
//!
//! Owns one slot per shard: the ring's number while its driver lives, and an eventfd for threads
//! that have no ring. Built before any driver, shared by all.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use ringtide_driver::Waker;

use crate::sys;

/// The drivers of all shards, by shard number.
#[derive(Debug)]
pub struct Peers {
    slots: Box<[Slot]>,
}

#[derive(Debug)]
struct Slot {
    ring: AtomicI32,
    waker: Arc<EventWaker>,
}

impl Peers {
    /// Makes room for `shards` drivers.
    ///
    /// # Errors
    /// No eventfd could be made, for example because the process is out of descriptors.
    pub fn new(shards: u16) -> io::Result<Arc<Peers>> {
        let slots = (0..shards)
            .map(|_| {
                let waker = Arc::new(EventWaker::new()?);
                Ok(Slot { ring: AtomicI32::new(-1), waker })
            })
            .collect::<io::Result<_>>()?;
        Ok(Arc::new(Peers { slots }))
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.slots.len() as u16
    }

    /// A waker for the driver of `shard`, usable from any thread, before and after its start.
    pub fn waker(&self, shard: u16) -> Option<Arc<EventWaker>> {
        self.slots.get(usize::from(shard)).map(|slot| Arc::clone(&slot.waker))
    }

    /// The ring of `shard`; `None` before its driver has started or after it has ended.
    pub(crate) fn ring(&self, shard: u16) -> Option<RawFd> {
        let fd = self.slots.get(usize::from(shard))?.ring.load(Ordering::Acquire);
        (fd >= 0).then_some(fd)
    }

    /// Says which ring serves `shard` from now on; -1 for none.
    pub(crate) fn publish(&self, shard: u16, ring: RawFd) {
        if let Some(slot) = self.slots.get(usize::from(shard)) {
            slot.ring.store(ring, Ordering::Release);
        }
    }

    /// Wakes a shard by its eventfd: the way that always works.
    pub(crate) fn ring_bell(&self, shard: u16) {
        if let Some(slot) = self.slots.get(usize::from(shard)) {
            slot.waker.wake();
        }
    }
}

/// Wakes one driver through an eventfd that its ring reads.
#[derive(Debug)]
pub struct EventWaker {
    fd: OwnedFd,
    /// True from a wake until the driver has noticed it: wakes in between cost no system call.
    rung: AtomicBool,
}

impl EventWaker {
    fn new() -> io::Result<EventWaker> {
        Ok(EventWaker { fd: sys::eventfd()?, rung: AtomicBool::new(false) })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The driver has read the eventfd and is about to look at what it was woken for.
    pub(crate) fn noticed(&self) {
        // AcqRel: a wake that found `rung` set, and so wrote nothing, has pushed its work before
        // this swap, and the driver looks for it after.
        self.rung.swap(false, Ordering::AcqRel);
    }
}

impl Waker for EventWaker {
    fn wake(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            sys::eventfd_ring(self.fd.as_raw_fd());
        }
    }
}
