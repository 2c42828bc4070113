//! A hash index from 64-bit hashes to u32 values, in segments that grow each alone.
//!
//! It holds 32 bits of each hash, so growing touches no value's owner, and one segment at a time.
//! It knows no keys: whoever looks up must say which of the few values with like hash it meant.
//!
//! The last segment takes twice as many entries as the first, and those between take shares
//! between. So they do not all double at once: memory stays near its mean, and what one segment
//! outgrew fits another.

use hashbrown::HashTable;

const SEGMENTS: usize = 192;

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    value: u32,
}

#[derive(Debug)]
pub(crate) struct Index {
    segments: Box<[HashTable<Slot>]>,
    len: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self { segments: (0..SEGMENTS).map(|_| HashTable::new()).collect(), len: 0 }
    }
}

/// The table wants its index in the low bits and its tag in the top ones.
#[inline]
fn spread(hash: u32) -> u64 {
    u64::from(hash) | u64::from(hash) << 32
}

/// With u from 0 to 1 for the top bits, 64 x (4u - u^2): twice as steep at 0 as at 1.
#[inline]
fn segment(hash: u64) -> usize {
    let top = hash >> 48;
    ((top * ((4 << 16) - top)) >> 26) as usize
}

impl Index {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first value of that hash (of 39 bits of it) that `is` accepts.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let short = hash as u32;
        self.segments[segment(hash)]
            .find(spread(short), |slot| slot.hash == short && is(slot.value))
            .map(|slot| slot.value)
    }

    /// Adds a value; several may have one hash.
    pub(crate) fn insert(&mut self, hash: u64, value: u32) {
        let short = hash as u32;
        let slot = Slot { hash: short, value };
        self.segments[segment(hash)].insert_unique(spread(short), slot, |s| spread(s.hash));
        self.len += 1;
    }

    /// Puts another value in the place of one.
    pub(crate) fn replace(&mut self, hash: u64, old: u32, new: u32) -> bool {
        let short = hash as u32;
        let slot = self.segments[segment(hash)]
            .find_mut(spread(short), |slot| slot.hash == short && slot.value == old);
        slot.map(|slot| slot.value = new).is_some()
    }

    pub(crate) fn remove(&mut self, hash: u64, value: u32) -> bool {
        let short = hash as u32;
        let segment = &mut self.segments[segment(hash)];
        let Ok(entry) =
            segment.find_entry(spread(short), |slot| slot.hash == short && slot.value == value)
        else {
            return false;
        };
        entry.remove();
        self.len -= 1;
        if segment.len() * 8 < segment.capacity() {
            segment.shrink_to(segment.len() * 2, |slot| spread(slot.hash));
        }
        true
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let own = SEGMENTS * size_of::<HashTable<Slot>>();
        own + self.segments.iter().map(HashTable::allocation_size).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TenantId;
    use crate::hash::topic_hash;

    #[test]
    fn shares_of_segments_go_from_one_to_two() {
        let mut shares = [0u32; SEGMENTS];
        for top in 0..=u64::from(u16::MAX) {
            shares[segment(top << 48)] += 1;
        }
        assert!((252..=260).contains(&shares[0]), "{shares:?}");
        assert!((500..=516).contains(&shares[SEGMENTS - 1]), "{shares:?}");
        assert!(shares.is_sorted_by(|one, next| *one <= next + 2));
    }

    #[test]
    fn like_hashes_are_told_apart_and_memory_comes_back() {
        let mut index = Index::default();
        let hash = |n: u32| topic_hash(TenantId(0), &(n / 2).to_string());
        for n in 0..20_000 {
            index.insert(hash(n), n);
        }
        for n in 0..20_000 {
            assert_eq!(index.find(hash(n), |value| value == n), Some(n));
        }
        let full = index.memory_bytes();
        assert!(index.replace(hash(8), 9, 77) && !index.replace(hash(8), 9, 77));
        assert!(index.remove(hash(8), 77) && index.remove(hash(8), 8));
        assert_eq!((index.find(hash(8), |_| true), index.len()), (None, 19_998));
        for n in 10..20_000 {
            assert!(index.remove(hash(n), n), "{n}");
        }
        assert!(index.memory_bytes() * 4 < full);
    }
}
