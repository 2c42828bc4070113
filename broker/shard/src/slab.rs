//! Chunked slabs: stable u32 numbers, no copy when they grow, freed numbers are used again.

const CHUNK_BITS: u32 = 9;
const CHUNK: usize = 1 << CHUNK_BITS;

/// A slab of `T`. Numbers are dense from 0.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), free: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One past the highest number ever used.
    pub(crate) fn end(&self) -> u32 {
        let full = self.chunks.len().saturating_sub(1) << CHUNK_BITS;
        (full + self.chunks.last().map_or(0, Vec::len)) as u32
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            if let Some(place) = self.place(index) {
                *place = Some(value);
            }
            return index;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let last = self.chunks.len() - 1;
        self.chunks[last].push(Some(value));
        ((last << CHUNK_BITS) + self.chunks[last].len() - 1) as u32
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.place(index)?.take()?;
        self.free.push(index);
        self.len -= 1;
        Some(value)
    }

    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        let chunk = self.chunks.get((index >> CHUNK_BITS) as usize)?;
        chunk.get(index as usize & (CHUNK - 1))?.as_ref()
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.place(index)?.as_mut()
    }

    #[inline]
    fn place(&mut self, index: u32) -> Option<&mut Option<T>> {
        let chunk = self.chunks.get_mut((index >> CHUNK_BITS) as usize)?;
        chunk.get_mut(index as usize & (CHUNK - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_reused() {
        let mut slab = Slab::new();
        let numbers: Vec<u32> = (0..1500).map(|value| slab.insert(value)).collect();
        assert_eq!(numbers, (0..1500).collect::<Vec<u32>>());
        assert_eq!(slab.remove(700), Some(700));
        assert_eq!(slab.remove(700), None);
        assert_eq!(slab.at(700), None);
        assert_eq!((slab.len(), slab.end()), (1499, 1500));
        assert_eq!(slab.insert(9), 700);
        assert_eq!(slab.at(700), Some(&9));
        assert_eq!(slab.at(5000), None);
    }
}
