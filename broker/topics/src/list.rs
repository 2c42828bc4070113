//! Sorted lists from one to millions of items: one inline, a few in one block, then chunks.
//!
//! Insert, remove and "the next key above x" touch one chunk and a directory of the chunks' first
//! keys, whatever the list's length. No position outlives a change; keys do.

use smallvec::SmallVec;

/// Items per chunk. A full one splits in halves, or stays full when the list grows at its end.
const CHUNK: usize = 256;
/// Chunks this small join a neighbour.
const CHUNK_LOW: usize = 64;
/// The longest list in one block, and the length at which chunks become one block again.
const FEW_MAX: usize = 32;
const FEW_AGAIN: usize = 16;

/// What a list is sorted by.
pub(crate) trait Keyed: Copy {
    fn key(&self) -> u32;
}

impl Keyed for u32 {
    fn key(&self) -> u32 {
        *self
    }
}

/// A list with at least one item: 16 bytes for items up to 12.
#[derive(Debug)]
pub(crate) enum List<T: Keyed> {
    One(T),
    Few(Box<SmallVec<[T; 4]>>),
    Many(Box<Chunks<T>>),
}

/// What became of a list from which an item was taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removed<T> {
    /// No item has that key.
    Absent,
    /// The item, with others left.
    Item(T),
    /// The item was the only one. It still stands in the list, which must go.
    Last(T),
}

impl<T: Keyed> List<T> {
    pub(crate) fn new(item: T) -> Self {
        Self::One(item)
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len,
        }
    }

    /// Adds an item, or puts it in the place of the one with its key, which is returned.
    pub(crate) fn insert(&mut self, item: T) -> Option<T> {
        match self {
            Self::One(one) if one.key() == item.key() => Some(std::mem::replace(one, item)),
            Self::One(one) => {
                let mut few = SmallVec::new();
                few.push(*one);
                insert_sorted(&mut few, item);
                *self = Self::Few(Box::new(few));
                None
            }
            Self::Few(few) => match few.binary_search_by_key(&item.key(), T::key) {
                Ok(at) => Some(std::mem::replace(&mut few[at], item)),
                Err(at) if few.len() < FEW_MAX => {
                    few.insert(at, item);
                    None
                }
                Err(_) => {
                    let mut many = Chunks::of(few);
                    many.insert(item);
                    *self = Self::Many(Box::new(many));
                    None
                }
            },
            Self::Many(many) => many.insert(item),
        }
    }

    pub(crate) fn remove(&mut self, key: u32) -> Removed<T> {
        match self {
            Self::One(one) if one.key() == key => Removed::Last(*one),
            Self::One(_) => Removed::Absent,
            Self::Few(few) => {
                let Ok(at) = few.binary_search_by_key(&key, T::key) else {
                    return Removed::Absent;
                };
                let item = few.remove(at);
                match few.as_slice() {
                    [last] => *self = Self::One(*last),
                    left if left.len() <= 4 && few.spilled() => few.shrink_to_fit(),
                    _ => {}
                }
                Removed::Item(item)
            }
            Self::Many(many) => {
                let Some(item) = many.remove(key) else { return Removed::Absent };
                if many.len <= FEW_AGAIN {
                    let few = many.chunks.iter().flatten().copied().collect();
                    *self = Self::Few(Box::new(few));
                }
                Removed::Item(item)
            }
        }
    }

    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        let (chunk, at) = self.seek(key);
        self.chunk(chunk)?.get(at).filter(|item| item.key() == key)
    }

    /// The items of one chunk, `None` behind the last. Chunks are never empty.
    #[inline]
    pub(crate) fn chunk(&self, chunk: usize) -> Option<&[T]> {
        match self {
            Self::One(one) => (chunk == 0).then_some(std::slice::from_ref(one)),
            Self::Few(few) => (chunk == 0).then_some(few.as_slice()),
            Self::Many(many) => many.chunks.get(chunk).map(Vec::as_slice),
        }
    }

    /// The chunk, and the place in it, of the first item whose key is not below `key`. The place
    /// may be the chunk's end: then it is the first of the next chunk.
    pub(crate) fn seek(&self, key: u32) -> (usize, usize) {
        let chunk = match self {
            Self::Many(many) => many.chunk_of(key),
            _ => 0,
        };
        (chunk, self.chunk(chunk).map_or(0, |items| items.partition_point(|i| i.key() < key)))
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Few(few) => {
                let spilled = if few.spilled() { few.capacity() * size_of::<T>() } else { 0 };
                size_of::<SmallVec<[T; 4]>>() + spilled
            }
            Self::Many(many) => {
                let items: usize = many.chunks.iter().map(Vec::capacity).sum();
                size_of::<Chunks<T>>()
                    + items * size_of::<T>()
                    + many.firsts.capacity() * size_of::<u32>()
                    + many.chunks.capacity() * size_of::<Vec<T>>()
            }
        }
    }
}

fn insert_sorted<T: Keyed>(few: &mut SmallVec<[T; 4]>, item: T) {
    let at = few.partition_point(|other| other.key() < item.key());
    few.insert(at, item);
}

/// A long list: chunks in order, none empty, and the first key of each.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    len: usize,
    firsts: Vec<u32>,
    chunks: Vec<Vec<T>>,
}

impl<T: Keyed> Chunks<T> {
    fn of(items: &[T]) -> Self {
        let firsts = items.first().map(T::key).into_iter().collect();
        Self { len: items.len(), firsts, chunks: vec![items.to_vec()] }
    }

    /// The chunk that holds a key, or would.
    #[inline]
    fn chunk_of(&self, key: u32) -> usize {
        self.firsts.partition_point(|first| *first <= key).saturating_sub(1)
    }

    fn insert(&mut self, item: T) -> Option<T> {
        let mut at = self.chunk_of(item.key());
        let chunk = &mut self.chunks[at];
        let mut place = match chunk.binary_search_by_key(&item.key(), T::key) {
            Ok(place) => return Some(std::mem::replace(&mut chunk[place], item)),
            Err(place) => place,
        };
        self.len += 1;
        if chunk.len() == CHUNK {
            // A list that grows at its end keeps full chunks: sessions are numbered upwards.
            let at_end = place == CHUNK && at + 1 == self.chunks.len();
            let half = if at_end { CHUNK } else { CHUNK / 2 };
            self.split(at, half, item);
            if place >= half {
                at += 1;
                place -= half;
            }
        }
        self.chunks[at].insert(place, item);
        self.firsts[at] = self.chunks[at][0].key();
        None
    }

    /// Cuts a chunk in two at `half`; `item` is what the new one begins with if it is empty.
    fn split(&mut self, at: usize, half: usize, item: T) {
        let chunk = &mut self.chunks[at];
        let mut next = Vec::with_capacity(if half == CHUNK { CHUNK / 8 } else { CHUNK });
        next.extend_from_slice(&chunk[half..]);
        chunk.truncate(half);
        self.firsts.insert(at + 1, next.first().unwrap_or(&item).key());
        self.chunks.insert(at + 1, next);
    }

    fn remove(&mut self, key: u32) -> Option<T> {
        let at = self.chunk_of(key);
        let chunk = &mut self.chunks[at];
        let place = chunk.binary_search_by_key(&key, T::key).ok()?;
        let item = chunk.remove(place);
        self.len -= 1;
        let first = chunk.first().map(T::key);
        match first {
            Some(first) => self.firsts[at] = first,
            None if self.chunks.len() > 1 => self.drop_chunk(at),
            None => {}
        }
        if self.chunks.get(at).is_some_and(|chunk| chunk.len() < CHUNK_LOW) {
            self.join(at);
        }
        Some(item)
    }

    fn drop_chunk(&mut self, at: usize) {
        self.chunks.remove(at);
        self.firsts.remove(at);
    }

    /// Joins a small chunk with its neighbour if both together leave room for more.
    fn join(&mut self, at: usize) {
        let left = if at + 1 < self.chunks.len() { at } else { at.saturating_sub(1) };
        let [first, second, ..] = &mut self.chunks[left..] else { return };
        if first.len() + second.len() > CHUNK - CHUNK_LOW {
            return;
        }
        first.append(second);
        self.drop_chunk(left + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn items(list: &List<u32>) -> Vec<u32> {
        (0..).map_while(|chunk| list.chunk(chunk)).flatten().copied().collect()
    }

    /// A small deterministic generator, so that the test needs no seed.
    fn scrambled(n: u32, below: u32) -> u32 {
        ((u64::from(n.wrapping_mul(2_654_435_761)) * u64::from(below)) >> 32) as u32
    }

    #[test]
    fn grows_and_shrinks_like_a_set() {
        let mut list = List::new(500);
        let mut set = BTreeSet::from([500]);
        for n in 0..60_000u32 {
            // Grow for a third, hold, then shrink to nothing but one.
            let key = scrambled(n, 4000);
            let grow = n < 20_000 || (n < 40_000 && n % 2 == 0);
            if grow {
                assert_eq!(list.insert(key).is_none(), set.insert(key));
            } else if set.len() > 1 {
                assert_eq!(list.remove(key) != Removed::Absent, set.remove(&key));
            }
            assert_eq!(list.len(), set.len());
            if n % 97 == 0 {
                assert!(items(&list).iter().eq(&set));
                let (chunk, at) = list.seek(key);
                let next = list.chunk(chunk).and_then(|items| items.get(at));
                let next = next.or(list.chunk(chunk + 1).and_then(|items| items.first()));
                assert_eq!(next, set.range(key..).next());
                assert_eq!(list.get(key), set.get(&key));
            }
        }
        assert!(items(&list).iter().eq(&set));
    }

    #[test]
    fn the_last_item_is_announced() {
        let mut list = List::new(1u32);
        assert_eq!(list.insert(2), None);
        assert_eq!(list.insert(2), Some(2));
        assert_eq!(list.remove(1), Removed::Item(1));
        assert_eq!(list.remove(1), Removed::Absent);
        assert_eq!(list.remove(2), Removed::Last(2));
    }

    #[test]
    fn a_long_list_is_dense_when_it_grows_at_its_end() {
        let mut list = List::new(0u32);
        for n in 1..100_000 {
            list.insert(n);
        }
        assert!(list.memory_bytes() < 100_000 * 5, "{}", list.memory_bytes());
        for n in 0..99_990 {
            assert_eq!(list.remove(n), Removed::Item(n));
        }
        assert_eq!(items(&list), (99_990..100_000).collect::<Vec<_>>());
        assert!(list.memory_bytes() < 200);
    }
}
