//! The interest table: which shards may have a match for a topic. The one structure that all
//! shards share.
//!
//! Owns one slot per (key, shard) that a shard has announced, and the set of filter shapes in use.
//! Must not: know filters as text, sessions, or what is sent; block a reader, or wait for a lock.
//!
//! A false hit costs one forwarded message; a miss cannot happen: whoever reads after
//! [`InterestTable::insert`] returned (an acknowledged SUBSCRIBE) finds the shard, until
//! [`InterestTable::remove`] is called. Three rules make that so:
//! - A shape is published before the first slot under it, and withdrawn after the last.
//! - Slots never move: a key is found at the same place for as long as its array lives.
//! - A new array is filled before it is swapped in; readers of the old one began earlier.
//!
//! Readers take an arc-swap guard per array and no lock. Writers of one segment exclude each other
//! by a lock that is only ever tried: who finds it held gets [`Busy`] and comes back next turn.
//!
//! Up to [`SHAPES_DIRECT_MAX`] shapes are probed one by one. A shape beyond these is held under
//! its [`Shape::fallback`](crate::Shape::fallback), which is shorter: it finds too much, never too
//! little.

mod segment;
mod shapes_in_use;
mod sync;

use std::collections::BTreeMap;
use std::fmt;

use self::segment::{Segment, scan};
use self::shapes_in_use::ShapesInUse;
use self::sync::{Mutex, attempt};
use crate::TenantId;
use crate::shapes::{InterestKey, Levels, key_for_topic};

pub use self::shapes_in_use::SHAPES_DIRECT_MAX;

/// How many shards a table tells apart; the value above is kept for later.
pub const SHARDS_MAX: usize = if cfg!(loom) { 3 } else { 255 };

/// Segments of a table for tens of millions of keys. Each costs 16 bytes empty and about 90 with
/// its first key, so a smaller table takes fewer.
pub const SEGMENTS_DEFAULT: usize = 16_384;

/// Probes under way at once. Each holds a guard, and a thread has eight cheap ones.
const PROBES: usize = 6;

/// Another shard holds a lock that is needed: nothing was changed, try again next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the segment is being written by another shard")
    }
}

impl std::error::Error for Busy {}

/// A set of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet([u64; 4]);

impl ShardSet {
    /// No shard.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; 4])
    }

    /// Adds a shard; numbers above 255 are not in any set.
    #[inline]
    pub fn insert(&mut self, shard: u16) {
        if let Some(word) = self.0.get_mut(usize::from(shard >> 6)) {
            *word |= 1 << (shard & 63);
        }
    }

    /// Takes a shard out.
    #[inline]
    pub fn remove(&mut self, shard: u16) {
        if let Some(word) = self.0.get_mut(usize::from(shard >> 6)) {
            *word &= !(1 << (shard & 63));
        }
    }

    /// Whether a shard is in the set.
    #[inline]
    #[must_use]
    pub fn contains(&self, shard: u16) -> bool {
        self.0.get(usize::from(shard >> 6)).is_some_and(|word| word >> (shard & 63) & 1 == 1)
    }

    /// Whether no shard is in the set.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// How many shards are in the set.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Takes all shards out.
    #[inline]
    pub fn clear(&mut self) {
        self.0 = [0; 4];
    }

    /// The shards, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u16> + use<> {
        let mut words = self.0;
        std::iter::from_fn(move || {
            let at = words.iter().position(|&word| word != 0)?;
            let bit = words[at].trailing_zeros();
            words[at] &= words[at] - 1;
            Some((at as u32 * 64 + bit) as u16)
        })
    }
}

impl FromIterator<u16> for ShardSet {
    fn from_iter<I: IntoIterator<Item = u16>>(shards: I) -> Self {
        let mut set = Self::new();
        shards.into_iter().for_each(|shard| set.insert(shard));
        set
    }
}

/// Which shards may have a match, by the keys of their filters. Shared by all shards.
///
/// A shard counts its filters per key, calls [`InterestTable::insert`] when the count of a key
/// leaves zero and [`InterestTable::remove`] when it returns to it. A shard's calls come from one
/// thread; those of different shards from any.
pub struct InterestTable {
    segments: Box<[Segment]>,
    shapes: ShapesInUse,
    /// What each shard holds under wildcard shapes; locked by that shard alone.
    shards: Box<[ShardKeys]>,
}

/// One shard's wildcard keys, counted. Lines of their own, because each is its shard's.
#[derive(Default)]
#[repr(align(128))]
struct ShardKeys(Mutex<KeyCounts>);

#[derive(Default)]
struct KeyCounts {
    /// Keys per shape, by the shape's bits.
    shapes: BTreeMap<u64, ShapeKeys>,
    /// Keys held under each fallback hash, which has one slot.
    fallbacks: BTreeMap<u64, u64>,
}

/// What a shard holds under one shape.
#[derive(Clone, Copy)]
struct ShapeKeys {
    keys: u64,
    /// Whether they have slots of their own, or share those of their fallbacks. Stays as it is
    /// while the shard has a key of the shape.
    direct: bool,
}

impl InterestTable {
    /// An empty table of `segments` segments, each with a lock and growth of its own.
    ///
    /// # Panics
    /// If there is no segment.
    #[must_use]
    pub fn new(segments: usize) -> Self {
        assert!(segments > 0, "a table has at least one segment");
        Self {
            segments: (0..segments).map(|_| Segment::default()).collect(),
            shapes: ShapesInUse::default(),
            shards: (0..SHARDS_MAX).map(|_| ShardKeys::default()).collect(),
        }
    }

    /// Announces that `shard` has a filter of this key. Found by every look-up that begins after
    /// this has returned.
    ///
    /// # Errors
    /// [`Busy`] when another shard is writing there: nothing was changed.
    ///
    /// # Panics
    /// If the shard is none of [`SHARDS_MAX`].
    pub fn insert(&self, key: InterestKey, shard: u16) -> Result<(), Busy> {
        let place = self.shard_keys(shard);
        if key.shape.is_exact() {
            return self.segment(key.hash).insert(key.hash, shard);
        }
        let mut counts = attempt(&place.0)?;
        let counts = &mut *counts;
        if let Some(held) = counts.shapes.get_mut(&key.shape.bits()) {
            self.add(&mut counts.fallbacks, key, shard, held.direct)?;
            held.keys += 1;
            return Ok(());
        }
        let mut users = self.shapes.attempt()?;
        let direct = self.shapes.enter(&mut users, key.shape);
        if let Err(busy) = self.add(&mut counts.fallbacks, key, shard, direct) {
            self.shapes.leave(&mut users, key.shape, direct);
            return Err(busy);
        }
        counts.shapes.insert(key.shape.bits(), ShapeKeys { keys: 1, direct });
        Ok(())
    }

    /// Takes back what [`InterestTable::insert`] announced.
    ///
    /// # Errors
    /// [`Busy`] when another shard is writing there: nothing was changed.
    ///
    /// # Panics
    /// If the shard has not announced the key: its counts are wrong, and some other shard's
    /// subscribers would be missed next.
    pub fn remove(&self, key: InterestKey, shard: u16) -> Result<(), Busy> {
        let place = self.shard_keys(shard);
        if key.shape.is_exact() {
            return self.segment(key.hash).remove(key.hash, shard);
        }
        let mut counts = attempt(&place.0)?;
        let counts = &mut *counts;
        let held = counts.shapes.get_mut(&key.shape.bits()).expect("a key announced before");
        if held.keys > 1 {
            self.subtract(&mut counts.fallbacks, key, shard, held.direct)?;
            held.keys -= 1;
            return Ok(());
        }
        let mut users = self.shapes.attempt()?;
        self.subtract(&mut counts.fallbacks, key, shard, held.direct)?;
        self.shapes.leave(&mut users, key.shape, held.direct);
        counts.shapes.remove(&key.shape.bits());
        Ok(())
    }

    /// Adds to `out` all shards that may have a match for the topic; `hash` is its
    /// [`crate::topic_hash`], `levels` a scratch (or what already holds this topic).
    ///
    /// Takes no lock and allocates nothing in the steady state.
    pub fn shards_for(
        &self,
        tenant: TenantId,
        topic: &str,
        levels: &mut Levels,
        hash: u64,
        out: &mut ShardSet,
    ) {
        let (direct, fallbacks) = self.shapes.masks();
        if direct | fallbacks == 0 {
            return self.segment(hash).find(hash, out);
        }
        levels.fill(topic);
        let mut hashes = [hash; PROBES];
        let mut filled = 1;
        self.shapes.each(direct, fallbacks, |shape| {
            let Some(hash) = key_for_topic(tenant, levels, shape) else { return };
            hashes[filled] = hash;
            filled += 1;
            if filled == PROBES {
                self.probe(&hashes, out);
                filled = 0;
            }
        });
        self.probe(&hashes[..filled], out);
    }

    /// Bytes of the table with all arrays: for metrics, takes a while.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let segments: usize = self.segments.iter().map(Segment::memory_bytes).sum();
        size_of::<Self>() + segments + size_of_val(&*self.shards)
    }

    /// Slots in use: for metrics, takes a while.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.iter().map(Segment::len).sum()
    }

    /// Whether no slot is in use; takes a while.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks up to [`PROBES`] hashes up. All arrays are held first and all first slots read next,
    /// so that their cache misses overlap: taking a guard is a full barrier.
    fn probe(&self, hashes: &[u64], out: &mut ShardSet) {
        let guards: [_; PROBES] =
            std::array::from_fn(|at| hashes.get(at).map(|&hash| self.segment(hash).hold()));
        let mut arrays = [None; PROBES];
        for ((array, guard), &hash) in arrays.iter_mut().zip(&guards).zip(hashes) {
            *array = guard.as_ref().and_then(|guard| segment::begin(guard, hash));
        }
        for (array, &hash) in arrays.iter().zip(hashes) {
            if let Some(begun) = array {
                scan(begun, hash, out);
            }
        }
    }

    fn segment(&self, hash: u64) -> &Segment {
        // The high half chooses the segment, the low half the place in it.
        let at = ((hash >> 32) * self.segments.len() as u64) >> 32;
        &self.segments[at as usize]
    }

    fn shard_keys(&self, shard: u16) -> &ShardKeys {
        assert!(usize::from(shard) < SHARDS_MAX, "a table tells {SHARDS_MAX} shards apart");
        &self.shards[usize::from(shard)]
    }

    fn add(
        &self,
        fallbacks: &mut BTreeMap<u64, u64>,
        key: InterestKey,
        shard: u16,
        direct: bool,
    ) -> Result<(), Busy> {
        if direct {
            return self.segment(key.hash).insert(key.hash, shard);
        }
        if let Some(keys) = fallbacks.get_mut(&key.fallback) {
            *keys += 1;
            return Ok(());
        }
        self.segment(key.fallback).insert(key.fallback, shard)?;
        fallbacks.insert(key.fallback, 1);
        Ok(())
    }

    fn subtract(
        &self,
        fallbacks: &mut BTreeMap<u64, u64>,
        key: InterestKey,
        shard: u16,
        direct: bool,
    ) -> Result<(), Busy> {
        if direct {
            return self.segment(key.hash).remove(key.hash, shard);
        }
        let keys = fallbacks.get_mut(&key.fallback).expect("a key announced before");
        if *keys > 1 {
            *keys -= 1;
            return Ok(());
        }
        self.segment(key.fallback).remove(key.fallback, shard)?;
        fallbacks.remove(&key.fallback);
        Ok(())
    }
}

impl fmt::Debug for InterestTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterestTable").field("segments", &self.segments.len()).finish()
    }
}
