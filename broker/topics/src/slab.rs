//! A chunked slab: values by u32 id, in chunks that never move.
//!
//! One huge vector would copy itself when it grows and stall its shard; here growing costs one
//! chunk. Ids are used again, last freed first.

/// Values per chunk. A power of two of them fills the allocator's pages badly: a million entries
/// of 64 bytes, with their index, then took 105 bytes each instead of 86.
const CHUNK: usize = 500;
/// Ids per chunk, so that a shift finds it; the last few are not used.
const SPAN: usize = 512;
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[Slot<T>; CHUNK]>>,
    free: u32,
    /// One above the highest id ever used.
    end: u32,
    len: usize,
}

#[derive(Debug)]
enum Slot<T> {
    Used(T),
    Free(u32),
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: NONE, end: 0, len: 0 }
    }
}

impl<T> Slab<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One above the highest id ever used.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// Ids stay below 2^31; more would not fit in memory.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if self.free != NONE {
            let id = self.free;
            if let Some(slot) = self.slot_mut(id)
                && let Slot::Free(next) = *slot
            {
                *slot = Slot::Used(value);
                self.free = next;
                return id;
            }
        }
        let id = self.end;
        assert!(id < 1 << 31, "a slab is full");
        if id as usize == self.chunks.len() * SPAN {
            self.chunks.push(empty_chunk());
        }
        if let Some(slot) = self.slot_mut(id) {
            *slot = Slot::Used(value);
        }
        self.end += if id as usize % SPAN + 1 < CHUNK { 1 } else { 1 + (SPAN - CHUNK) as u32 };
        id
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        match self.chunks.get(id as usize / SPAN)?.get(id as usize % SPAN)? {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        match self.slot_mut(id)? {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<T> {
        let free = self.free;
        let slot = self.slot_mut(id)?;
        if matches!(slot, Slot::Free(_)) {
            return None;
        }
        let Slot::Used(value) = std::mem::replace(slot, Slot::Free(free)) else { return None };
        self.free = id;
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Slot<T>>()
            + self.chunks.capacity() * size_of::<usize>()
    }

    #[inline]
    fn slot_mut(&mut self, id: u32) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(id as usize / SPAN)?.get_mut(id as usize % SPAN)
    }
}

fn empty_chunk<T>() -> Box<[Slot<T>; CHUNK]> {
    let slots: Box<[Slot<T>]> = (0..CHUNK).map(|_| Slot::Free(NONE)).collect();
    slots.try_into().unwrap_or_else(|_| unreachable!("it was made with that length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_used_again() {
        let mut slab = Slab::default();
        let ids: Vec<u32> = (0..3000usize).map(|n| slab.insert(n)).collect();
        // Six chunks exactly; the next id is in the seventh.
        assert_eq!((ids[0], ids[499], ids[500], ids[2999]), (0, 499, 512, 3059));
        assert_eq!((slab.len(), slab.end()), (3000, 3072));
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(slab.get(*id).copied(), Some(n));
        }
        assert_eq!(slab.remove(1500), Some(1500 - 24));
        assert_eq!(slab.remove(7), Some(7));
        assert_eq!(slab.remove(7), None);
        assert_eq!((slab.get(1500), slab.get(9999)), (None, None));
        assert_eq!(slab.get(505), None);
        assert_eq!(slab.remove(505), None);
        assert_eq!((slab.insert(1), slab.insert(2), slab.insert(3)), (7, 1500, 3072));
        assert_eq!((slab.len(), slab.get(7), slab.get(3059)), (3001, Some(&1), Some(&2999)));
    }
}
