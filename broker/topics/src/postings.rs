//! Which topics have a property: from a 64-bit key to a sorted list of topic numbers.
//!
//! Most keys have one topic, kept in the index itself. Keys are told apart by 39 bits only, so a
//! list may hold topics of another key; whoever reads it checks each topic anyway.

use std::ops::ControlFlow;

use crate::index::Index;
use crate::list::{List, Removed};
use crate::slab::Slab;

/// Set in an index value that is a list's number; else it is the only topic.
const LISTED: u32 = 1 << 31;

#[derive(Debug, Default)]
pub(crate) struct Postings {
    index: Index,
    lists: Slab<List<u32>>,
    list_bytes: usize,
}

impl Postings {
    /// Adds a topic to a key; a topic that it has is not added again.
    pub(crate) fn add(&mut self, key: u64, topic: u32) {
        let Some(head) = self.head(key) else {
            self.index.insert(key, topic);
            return;
        };
        if head == topic {
            return;
        }
        if head & LISTED == 0 {
            let mut list = List::new(head);
            list.insert(topic);
            self.list_bytes += list.memory_bytes();
            let new = self.lists.insert(list) | LISTED;
            self.index.replace(key, head, new);
        } else if let Some(list) = self.lists.get_mut(head & !LISTED) {
            let before = list.memory_bytes();
            list.insert(topic);
            self.list_bytes = self.list_bytes + list.memory_bytes() - before;
        }
    }

    pub(crate) fn remove(&mut self, key: u64, topic: u32) {
        let Some(head) = self.head(key) else { return };
        if head & LISTED == 0 {
            if head == topic {
                self.index.remove(key, head);
            }
            return;
        }
        let Some(list) = self.lists.get_mut(head & !LISTED) else { return };
        let before = list.memory_bytes();
        let removed = list.remove(topic);
        self.list_bytes = self.list_bytes + list.memory_bytes() - before;
        if let (Removed::Item(_), List::One(last)) = (removed, &*list) {
            self.index.replace(key, head, *last);
            self.lists.remove(head & !LISTED);
        }
    }

    /// How many topics a key has.
    pub(crate) fn len(&self, key: u64) -> usize {
        match self.head(key) {
            None => 0,
            Some(head) if head & LISTED == 0 => 1,
            Some(head) => self.lists.get(head & !LISTED).map_or(0, List::len),
        }
    }

    /// Calls `visit` with each topic of a key not below `from`, in ascending order.
    pub(crate) fn visit<B>(
        &self,
        key: u64,
        from: u32,
        mut visit: impl FnMut(u32) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Some(head) = self.head(key) else { return ControlFlow::Continue(()) };
        if head & LISTED == 0 {
            return if head >= from { visit(head) } else { ControlFlow::Continue(()) };
        }
        let Some(list) = self.lists.get(head & !LISTED) else {
            return ControlFlow::Continue(());
        };
        let (mut chunk, mut at) = list.seek(from);
        while let Some(topics) = list.chunk(chunk) {
            for topic in topics.get(at..).unwrap_or_default() {
                visit(*topic)?;
            }
            chunk += 1;
            at = 0;
        }
        ControlFlow::Continue(())
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes() + self.lists.memory_bytes() + self.list_bytes
    }

    fn head(&self, key: u64) -> Option<u32> {
        self.index.find(key, |_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(postings: &Postings, key: u64, from: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let _ = postings.visit::<()>(key, from, |topic| {
            found.push(topic);
            ControlFlow::Continue(())
        });
        found
    }

    #[test]
    fn one_becomes_many_and_one_again() {
        let mut postings = Postings::default();
        for topic in [5, 5, 3, 9, 3] {
            postings.add(77, topic);
        }
        postings.add(78, 1);
        assert_eq!((postings.len(77), postings.len(78), postings.len(79)), (3, 1, 0));
        assert_eq!(topics(&postings, 77, 0), [3, 5, 9]);
        assert_eq!(topics(&postings, 77, 4), [5, 9]);
        assert_eq!(topics(&postings, 78, 2), []);
        for topic in [5, 5, 9] {
            postings.remove(77, topic);
        }
        assert_eq!((topics(&postings, 77, 0), postings.lists.len()), (vec![3], 0));
        postings.remove(77, 4);
        postings.remove(77, 3);
        postings.remove(78, 1);
        assert_eq!((postings.len(77), postings.index.len(), postings.list_bytes), (0, 0, 0));
    }
}
