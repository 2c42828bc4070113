//! The sockets of one driver: what is owned, wanted and known of each, in 24 bytes.

use std::os::fd::OwnedFd;

use crate::sends::Pending;

/// Received from until it ends or is stopped.
pub(crate) const RECEIVE: u8 = 1;
/// One chunk is to be received.
pub(crate) const ONCE: u8 = 1 << 1;
/// A caller's buffer is to be filled.
pub(crate) const EXACT: u8 = 1 << 2;
/// The kernel has told of bytes, or of an end, and has not been read dry since.
pub(crate) const READABLE: u8 = 1 << 3;
/// The kernel has told of the end: after the bytes that are left comes 0 or an error, and no
/// further edge tells of that.
pub(crate) const HANGUP: u8 = 1 << 4;
/// Waits in the driver's queue of sockets to be read.
pub(crate) const QUEUED: u8 = 1 << 5;
/// The kernel tells when the socket has room.
pub(crate) const ARMED: u8 = 1 << 6;
/// Closed, but the shard has not been told yet: no completion but `Closed` may come any more.
pub(crate) const CLOSING: u8 = 1 << 7;

/// Any receive that is wanted.
pub(crate) const RECEIVING: u8 = RECEIVE | ONCE | EXACT;

/// One socket, or the place for one.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) token: u64,
    /// What is left of a send that has stalled.
    pub(crate) pending: Option<Box<Pending>>,
    /// None in a free place, and while `CLOSING`.
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) flags: u8,
}

impl Entry {
    /// True if any of `flags` is set.
    #[inline]
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    #[inline]
    pub(crate) fn set(&mut self, flags: u8) {
        self.flags |= flags;
    }

    #[inline]
    pub(crate) fn clear(&mut self, flags: u8) {
        self.flags &= !flags;
    }
}

/// Entries of one chunk: places are made so many at a time, and growth moves none of them.
const CHUNK: usize = 1024;

/// The sockets by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    chunks: Vec<Box<[Entry]>>,
    free: Vec<u32>,
}

impl Sockets {
    /// Takes a socket in and numbers it.
    pub(crate) fn insert(&mut self, fd: OwnedFd) -> u32 {
        if self.free.is_empty() {
            let first = (self.chunks.len() * CHUNK) as u32;
            self.chunks.push((0..CHUNK).map(|_| Entry::default()).collect());
            self.free.extend((first..first + CHUNK as u32).rev());
        }
        // The chunk just made has places.
        let number = self.free.pop().unwrap_or_default();
        if let Some(entry) = self.at(number) {
            *entry = Entry { fd: Some(fd), ..Entry::default() };
        }
        number
    }

    /// The entry of a number; `None` for one that was never given.
    #[inline]
    pub(crate) fn at(&mut self, number: u32) -> Option<&mut Entry> {
        self.chunks.get_mut(number as usize / CHUNK)?.get_mut(number as usize % CHUNK)
    }

    /// The entry of a socket that is there and not closed.
    #[inline]
    pub(crate) fn open(&mut self, number: u32) -> Option<&mut Entry> {
        self.at(number).filter(|entry| entry.fd.is_some())
    }

    /// Makes a place free; gives what was there.
    pub(crate) fn remove(&mut self, number: u32) -> Option<Entry> {
        let entry = std::mem::take(self.at(number)?);
        self.free.push(number);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again_and_growth_moves_nothing() {
        assert_eq!(size_of::<Entry>(), 24);
        let any = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut sockets = Sockets::default();
        assert!(sockets.open(0).is_none());
        let numbers: Vec<u32> = (0..100).map(|_| sockets.insert(any())).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<u32>>());
        sockets.open(7).unwrap().set(RECEIVE | READABLE);
        assert!(sockets.remove(7).unwrap().has(RECEIVE));
        assert!(sockets.open(7).is_none() && sockets.at(1024).is_none());
        assert_eq!(sockets.insert(any()), 7);
        assert!(!sockets.open(7).unwrap().has(RECEIVE), "nothing is left of the one before");
        sockets.free.clear();
        assert_eq!(sockets.insert(any()), 1024);
        assert!(sockets.open(99).is_some());
    }
}
