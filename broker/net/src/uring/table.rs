//! Which sockets have something in flight: token -> socket and flags.
//!
//! An idle connection costs one entry of 12 bytes (it has a multishot receive in flight), one
//! that is only sent to costs none. The table is looked up when an operation starts, ends or
//! fails, never per received buffer or sent packet. Pure data, no I/O.

use hashbrown::HashTable;

/// A multishot receive is wanted; in the kernel unless `STARVED`.
pub(super) const RECEIVE: u8 = 1;
/// A single-shot receive is wanted; in the kernel unless `STARVED`.
pub(super) const ONCE: u8 = 1 << 1;
/// A receive into the caller's buffer is in the kernel.
pub(super) const EXACT: u8 = 1 << 2;
/// No buffer was free: the receive waits in the driver's queue.
pub(super) const STARVED: u8 = 1 << 3;
/// The rest of a stalled send is in the kernel.
pub(super) const SENDING: u8 = 1 << 4;
/// A stop has been asked for and not yet answered.
pub(super) const STOPPING: u8 = 1 << 5;
/// A close has been asked for: no completion but `Closed` may come any more.
pub(super) const CLOSING: u8 = 1 << 6;
/// The close itself has not been answered yet.
pub(super) const CLOSE_PENDING: u8 = 1 << 7;

/// Any receive that the kernel or the driver's queue holds.
pub(super) const RECEIVING: u8 = RECEIVE | ONCE | EXACT;

/// What one token has in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    low: u32,
    high_and_flags: u32,
    /// The descriptor or slot.
    pub(super) socket: u32,
}

impl Entry {
    fn new(token: u64, socket: u32) -> Entry {
        Entry { low: token as u32, high_and_flags: ((token >> 32) as u32) << 8, socket }
    }

    fn token(&self) -> u64 {
        (u64::from(self.high_and_flags >> 8) << 32) | u64::from(self.low)
    }

    /// True if any of `flags` is set.
    pub(super) fn has(&self, flags: u8) -> bool {
        self.high_and_flags & u32::from(flags) != 0
    }

    pub(super) fn set(&mut self, flags: u8) {
        self.high_and_flags |= u32::from(flags);
    }

    pub(super) fn clear(&mut self, flags: u8) {
        self.high_and_flags &= !u32::from(flags);
    }

    /// True if nothing is in flight or wanted.
    pub(super) fn is_idle(&self) -> bool {
        self.high_and_flags & 0xff == 0
    }
}

/// Segments, so that growth moves a 64th of the entries at a time and no turn stalls for it.
const SEGMENTS: usize = 64;

pub(super) struct Table {
    segments: Box<[HashTable<Entry>]>,
    len: usize,
}

fn hash(token: u64) -> u64 {
    // Tokens are small numbers that a shard made: one multiplication spreads them, and the high
    // half is folded in because hashbrown takes bucket and tag from different ends.
    let product = token.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

impl Table {
    pub(super) fn new() -> Table {
        Table { segments: (0..SEGMENTS).map(|_| HashTable::new()).collect(), len: 0 }
    }

    /// Tokens with something in flight.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn segment(&mut self, hash: u64) -> &mut HashTable<Entry> {
        &mut self.segments[(hash >> 20) as usize % SEGMENTS]
    }

    pub(super) fn find(&mut self, token: u64) -> Option<&mut Entry> {
        let hash = hash(token);
        self.segment(hash).find_mut(hash, |entry| entry.token() == token)
    }

    /// The token's entry, made if there is none.
    pub(super) fn open(&mut self, token: u64, socket: u32) -> &mut Entry {
        let hash = hash(token);
        let len = &mut self.len;
        self.segments[(hash >> 20) as usize % SEGMENTS]
            .entry(hash, |entry| entry.token() == token, |entry| self::hash(entry.token()))
            .or_insert_with(|| {
                *len += 1;
                Entry::new(token, socket)
            })
            .into_mut()
    }

    pub(super) fn remove(&mut self, token: u64) -> Option<Entry> {
        let hash = hash(token);
        let found = self.segment(hash).find_entry(hash, |entry| entry.token() == token);
        let entry = found.ok()?.remove().0;
        self.len -= 1;
        Some(entry)
    }
}
