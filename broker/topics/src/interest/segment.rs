//! One segment of the interest table: an array of slots, probed linearly.
//!
//! Owns the slots' format and their life: written once, turned into a tombstone, cleared or
//! written again, never moved. Must not: know shapes or what is counted.
//!
//! ```text
//! slot   = fingerprint (56 bits, never 0) | shard (8 bits);  0 empty;  255 tombstone
//! place  = low 32 bits of the hash, scaled to the length; then onwards, going round
//! ```
//! A look-up ends at the first empty slot, so a slot may only become empty when the next one is.

use super::sync::{Arc, AtomicU32, AtomicU64, Held, Mutex, Ordering, Published, attempt};
use super::{Busy, ShardSet};

const EMPTY: u64 = 0;
const TOMBSTONE: u64 = 0xFF;

/// The shortest array, slots.
const LENGTH_MIN: usize = 4;

/// A segment: 16 bytes while it is empty.
#[derive(Default)]
pub(super) struct Segment {
    slots: Published<Slots>,
    /// Held by the one who changes the slots or the counts.
    writer: Mutex<()>,
}

/// An array of slots. The counts are written under the segment's lock, read also for metrics.
pub(super) struct Slots {
    slots: Box<[AtomicU64]>,
    live: AtomicU32,
    tombstones: AtomicU32,
}

/// A look-up whose first slot has been read.
#[derive(Clone, Copy)]
pub(super) struct Begun<'a> {
    slots: &'a [AtomicU64],
    at: usize,
    slot: u64,
}

impl Segment {
    /// Puts a slot for the hash and shard in.
    pub(super) fn insert(&self, hash: u64, shard: u16) -> Result<(), Busy> {
        let _writer = attempt(&self.writer)?;
        let held = self.slots.load();
        match held.as_deref() {
            Some(slots) if slots.put(hash, shard) => {}
            Some(slots) => {
                let copy = slots.copy(slots.live() + 1);
                assert!(copy.put(hash, shard), "a new array has room");
                self.slots.store(Some(copy));
            }
            None => {
                let first = Slots::new(1);
                assert!(first.put(hash, shard), "a new array has room");
                self.slots.store(Some(first));
            }
        }
        Ok(())
    }

    /// Takes one slot for the hash and shard out; panics when there is none.
    pub(super) fn remove(&self, hash: u64, shard: u16) -> Result<(), Busy> {
        let _writer = attempt(&self.writer)?;
        let held = self.slots.load();
        let removed = held.as_deref().is_some_and(|slots| slots.take(hash, shard));
        assert!(removed, "a key announced before");
        if let Some(slots) = held.as_deref() {
            if slots.live() == 0 {
                self.slots.store(None);
            } else if slots.wasteful() {
                self.slots.store(Some(slots.copy(slots.live())));
            }
        }
        Ok(())
    }

    /// Adds to `out` the shards with a slot for the hash.
    #[inline]
    pub(super) fn find(&self, hash: u64, out: &mut ShardSet) {
        if let Some(begun) = begin(&self.hold(), hash) {
            scan(&begun, hash, out);
        }
    }

    /// The array as it is now.
    #[inline]
    pub(super) fn hold(&self) -> Held<Slots> {
        self.slots.load()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // Two counts stand before what an Arc holds.
        let array = |slots: &Slots| 16 + size_of::<Slots>() + size_of_val(&*slots.slots);
        size_of::<Self>() + self.slots.load().as_deref().map_or(0, array)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.load().as_deref().map_or(0, Slots::live)
    }
}

/// Reads the first slot of a look-up; `None` when the segment is empty.
#[inline]
pub(super) fn begin(held: &Option<Arc<Slots>>, hash: u64) -> Option<Begun<'_>> {
    let slots = &*held.as_deref()?.slots;
    let at = place(hash, slots.len());
    Some(Begun { slots, at, slot: slots[at].load(Ordering::Acquire) })
}

/// Finishes a look-up: adds to `out` the shards with a slot for the hash.
#[inline]
pub(super) fn scan(begun: &Begun<'_>, hash: u64, out: &mut ShardSet) {
    let fingerprint = fingerprint(hash);
    let (mut at, mut slot) = (begun.at, begun.slot);
    // There is always an empty slot; the count ends a look-up that writers keep ahead of.
    for _ in 0..begun.slots.len() {
        if slot == EMPTY {
            return;
        }
        if slot >> 8 == fingerprint {
            out.insert((slot & 0xFF) as u16);
        }
        at = next(at, begun.slots.len());
        slot = begun.slots[at].load(Ordering::Acquire);
    }
}

impl Slots {
    /// An empty array for so many live slots, five eighths full with them.
    fn new(live: usize) -> Self {
        let length = (live * 8).div_ceil(5).max(LENGTH_MIN);
        Self {
            slots: (0..length).map(|_| AtomicU64::new(EMPTY)).collect(),
            live: AtomicU32::new(0),
            tombstones: AtomicU32::new(0),
        }
    }

    /// The live slots in a new array, with room for `live` of them.
    fn copy(&self, live: usize) -> Self {
        let copy = Self::new(live);
        for slot in &self.slots {
            let slot = slot.load(Ordering::Relaxed);
            if slot > TOMBSTONE {
                copy.write(slot);
            }
        }
        copy
    }

    fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed) as usize
    }

    fn tombstones(&self) -> usize {
        self.tombstones.load(Ordering::Relaxed) as usize
    }

    /// More than a quarter tombstones, or more than nine tenths of the length unused.
    fn wasteful(&self) -> bool {
        let length = self.slots.len();
        self.tombstones() * 4 > length || (length > LENGTH_MIN && self.live() * 10 < length)
    }

    /// Writes a slot; false when the array is three quarters full.
    fn put(&self, hash: u64, shard: u16) -> bool {
        if (self.live() + self.tombstones() + 1) * 4 > self.slots.len() * 3 {
            return false;
        }
        self.write(fingerprint(hash) << 8 | u64::from(shard));
        true
    }

    /// Writes a slot into the first free place from its own on.
    fn write(&self, slot: u64) {
        // A slot holds the low bits of its hash, which are all that its place depends on.
        let mut at = place(slot >> 8, self.slots.len());
        let mut found = self.slots[at].load(Ordering::Relaxed);
        while found > TOMBSTONE {
            at = next(at, self.slots.len());
            found = self.slots[at].load(Ordering::Relaxed);
        }
        if found == TOMBSTONE {
            self.tombstones.store(self.tombstones() as u32 - 1, Ordering::Relaxed);
        }
        self.live.store(self.live() as u32 + 1, Ordering::Relaxed);
        // Release: pairs with the readers' Acquire.
        self.slots[at].store(slot, Ordering::Release);
    }

    /// Takes one slot out; false when there is none.
    fn take(&self, hash: u64, shard: u16) -> bool {
        let wanted = fingerprint(hash) << 8 | u64::from(shard);
        let mut at = place(wanted >> 8, self.slots.len());
        loop {
            match self.slots[at].load(Ordering::Relaxed) {
                EMPTY => return false,
                slot if slot == wanted => break,
                _ => at = next(at, self.slots.len()),
            }
        }
        self.slots[at].store(TOMBSTONE, Ordering::Release);
        self.tombstones.store(self.tombstones() as u32 + 1, Ordering::Relaxed);
        self.live.store(self.live() as u32 - 1, Ordering::Relaxed);
        self.clear_before(next(at, self.slots.len()));
        true
    }

    /// Empties the tombstones that end at `end`, if that slot is empty. Whatever a reader looks
    /// for is never behind them: it would then be behind an empty slot.
    fn clear_before(&self, end: usize) {
        if self.slots[end].load(Ordering::Relaxed) != EMPTY {
            return;
        }
        let mut at = end;
        loop {
            at = at.checked_sub(1).unwrap_or(self.slots.len() - 1);
            if self.slots[at].load(Ordering::Relaxed) != TOMBSTONE {
                return;
            }
            self.slots[at].store(EMPTY, Ordering::Release);
            self.tombstones.store(self.tombstones() as u32 - 1, Ordering::Relaxed);
        }
    }
}

/// The low 56 bits; 0 is taken by empty slots and tombstones.
#[inline]
fn fingerprint(hash: u64) -> u64 {
    (hash & (u64::MAX >> 8)).max(1)
}

/// The place of a hash, or of its fingerprint, in an array of that length.
#[inline]
fn place(hash: u64, length: usize) -> usize {
    ((u64::from(hash as u32) * length as u64) >> 32) as usize
}

#[inline]
fn next(at: usize, length: usize) -> usize {
    if at + 1 == length { 0 } else { at + 1 }
}
