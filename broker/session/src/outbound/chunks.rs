//! A double-ended queue that grows without moving what it holds: a doubling of one array with a
//! million messages would copy them all, hold twice their room and stop its shard for that long.

use std::collections::VecDeque;

/// Bytes of a chunk, and what a short queue's one array grows to at most.
const CHUNK_BYTES: usize = 32 << 10;

/// See the module's documentation. A queue that fits into one chunk is one array.
#[derive(Clone, Debug)]
pub(super) struct Chunks<T> {
    /// The oldest; empty only if all is.
    first: VecDeque<T>,
    /// Boxed, since most queues are short.
    rest: Option<Box<Rest<T>>>,
}

/// All chunks but the first. Each but the last was full once, and none is empty.
#[derive(Clone, Debug)]
struct Rest<T> {
    chunks: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> Chunks<T> {
    /// Entries of a chunk.
    const LEN: usize = {
        let len = CHUNK_BYTES / size_of::<T>();
        if len < 4 { 4 } else { len }
    };

    pub(super) const fn new() -> Chunks<T> {
        Chunks { first: VecDeque::new(), rest: None }
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() + self.rest.as_ref().map_or(0, |rest| rest.len)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Entries that the first array has room for.
    pub(super) fn capacity(&self) -> usize {
        self.first.capacity()
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.first.front()
    }

    pub(super) fn push_back(&mut self, value: T) {
        if let Some(rest) = &mut self.rest {
            return rest.push_back(value);
        }
        let len = self.first.len();
        if len == Self::LEN {
            let chunk = VecDeque::with_capacity(Self::LEN);
            let mut rest = Rest { chunks: VecDeque::from([chunk]), len: 0 };
            rest.push_back(value);
            self.rest = Some(Box::new(rest));
            return;
        }
        if len == self.first.capacity() && 2 * len > Self::LEN {
            self.first.reserve_exact(Self::LEN - len);
        }
        self.first.push_back(value);
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        let value = self.first.pop_front()?;
        if self.first.is_empty()
            && let Some(rest) = &mut self.rest
        {
            self.first = rest.chunks.pop_front().unwrap_or_default();
            rest.len -= self.first.len();
            if rest.chunks.is_empty() {
                self.rest = None;
            }
        }
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(self.others().flatten())
    }

    /// What comes behind those for which `is_before` holds, which must be the oldest.
    pub(super) fn behind(&self, mut is_before: impl FnMut(&T) -> bool) -> impl Iterator<Item = &T> {
        let chunks = self.rest.as_deref().map(|rest| &rest.chunks);
        // The last chunk whose oldest entry is before holds the border, if it is not in the first.
        let whole = chunks.map_or(0, |chunks| {
            chunks.partition_point(|chunk| chunk.front().is_some_and(&mut is_before))
        });
        let place = whole.checked_sub(1);
        let border = place.and_then(|at| chunks?.get(at)).unwrap_or(&self.first);
        let from = border.partition_point(is_before);
        border.range(from..).chain(self.others().skip(whole).flatten())
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = T> {
        let chunks = self.rest.map(|rest| rest.chunks).unwrap_or_default();
        self.first.into_iter().chain(chunks.into_iter().flatten())
    }

    fn others(&self) -> impl Iterator<Item = &VecDeque<T>> {
        self.rest.iter().flat_map(|rest| &rest.chunks)
    }
}

impl<T> Rest<T> {
    fn push_back(&mut self, value: T) {
        let last = match self.chunks.back_mut() {
            Some(last) if last.len() < Chunks::<T>::LEN => last,
            _ => self.chunks.push_back_mut(VecDeque::with_capacity(Chunks::<T>::LEN)),
        };
        last.push_back(value);
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// So large that a chunk has 32 of them.
    #[derive(Clone, Debug, PartialEq)]
    struct Entry(u32, [u8; 1020]);

    fn entry(number: u32) -> Entry {
        Entry(number, [number as u8; 1020])
    }

    #[test]
    fn a_long_queue_moves_nothing_and_wastes_less_than_a_chunk() {
        let mut queue = Chunks::new();
        for number in 0..1000 {
            queue.push_back(entry(number));
        }
        let rest = queue.rest.as_ref().unwrap();
        assert_eq!((Chunks::<Entry>::LEN, queue.capacity(), rest.chunks.len()), (32, 32, 31));
        assert!(rest.chunks.iter().all(|chunk| chunk.capacity() == 32));
        let place: *const Entry = queue.iter().nth(500).unwrap();
        for number in 1000..3000 {
            queue.push_back(entry(number));
        }
        for _ in 0..500 {
            queue.pop_front();
        }
        assert!(core::ptr::eq(place, queue.front().unwrap()));
    }

    proptest! {
        #[test]
        fn it_is_what_one_array_would_be(pieces in vec((0..90_u32, 0..90_u32), 0..40)) {
            let (mut queue, mut model) = (Chunks::new(), VecDeque::new());
            let mut number = 0;
            for (pushes, pops) in pieces {
                for _ in 0..pushes {
                    queue.push_back(entry(number));
                    model.push_back(entry(number));
                    number += 1;
                }
                for _ in 0..pops {
                    prop_assert_eq!(queue.pop_front(), model.pop_front());
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                prop_assert_eq!(queue.front(), model.front());
                prop_assert!(queue.iter().eq(&model));
                for border in (number.saturating_sub(120)..=number).step_by(7) {
                    let behind = model.iter().filter(|one| one.0 >= border);
                    prop_assert!(queue.behind(|one| one.0 < border).eq(behind));
                }
            }
            prop_assert!(queue.into_iter().eq(model));
        }
    }
}
