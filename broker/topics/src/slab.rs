//! A chunked slab: values by u32 id, in chunks that never move once full.
//!
//! One huge vector would copy itself when it grows and stall its shard; here growing costs one
//! chunk. Ids are used again, last freed first.

/// Values per chunk.
const CHUNK: usize = 1024;
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<Slot<T>>>,
    free: u32,
    len: usize,
}

#[derive(Debug)]
enum Slot<T> {
    Used(T),
    Free(u32),
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: NONE, len: 0 }
    }
}

impl<T> Slab<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One above the highest id ever used.
    pub(crate) fn end(&self) -> u32 {
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        (full + self.chunks.last().map_or(0, Vec::len)) as u32
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
        let id = self.end();
        assert!(id < 1 << 31, "a slab is full");
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(Slot::Used(value)),
            // The first chunk grows as it must, so that a small table stays small.
            None => self.chunks.push(vec![Slot::Used(value)]),
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(Slot::Used(value));
                self.chunks.push(chunk);
            }
        }
        id
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        match self.chunks.get(id as usize / CHUNK)?.get(id as usize % CHUNK)? {
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
        let slots: usize = self.chunks.iter().map(Vec::capacity).sum();
        slots * size_of::<Slot<T>>() + self.chunks.capacity() * size_of::<Vec<Slot<T>>>()
    }

    #[inline]
    fn slot_mut(&mut self, id: u32) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(id as usize / CHUNK)?.get_mut(id as usize % CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_used_again() {
        let mut slab = Slab::default();
        let ids: Vec<u32> = (0..3000).map(|n| slab.insert(n)).collect();
        assert_eq!((ids[0], ids[2999], slab.len(), slab.end()), (0, 2999, 3000, 3000));
        assert_eq!(slab.remove(1500), Some(1500));
        assert_eq!(slab.remove(7), Some(7));
        assert_eq!((slab.remove(7), slab.get(1500), slab.get(9999)), (None, None, None));
        assert_eq!((slab.insert(1), slab.insert(2), slab.insert(3)), (7, 1500, 3000));
        assert_eq!((slab.len(), slab.get(7), slab.get(2999)), (3001, Some(&1), Some(&2999)));
    }
}
