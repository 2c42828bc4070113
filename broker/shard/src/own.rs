//! The messages that the broker itself publishes, wills and `$SYS`, and the rest of publishes
//! whose connection has ended: a queue in order, and whose messages are in it.

use std::collections::{HashMap, VecDeque};

use crate::message::Message;
use crate::park::Progress;

/// A message that the broker itself publishes.
pub(crate) struct Internal {
    pub(crate) message: Message,
    /// The session that it speaks for, with its generation: No Local holds for its will too.
    pub(crate) publisher: Option<(u32, u32)>,
    pub(crate) progress: Progress,
    /// A place in this shard's own custody: it is published again if a crash comes first.
    pub(crate) custody: Option<(u16, u64)>,
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct OwnMessages {
    queue: VecDeque<Internal>,
    /// How many messages of a publisher wait: each publish asks, so it must not walk the queue.
    by_publisher: HashMap<u64, u32>,
    /// The first one found no room when it was last tried.
    stuck: bool,
}

impl OwnMessages {
    pub(crate) fn push(&mut self, internal: Internal) {
        *self.by_publisher.entry(internal.message.view().header.publisher).or_insert(0) += 1;
        self.queue.push_back(internal);
    }

    pub(crate) fn pop(&mut self) -> Option<Internal> {
        let internal = self.queue.pop_front()?;
        self.stuck = false;
        let publisher = internal.message.view().header.publisher;
        if let Some(count) = self.by_publisher.get_mut(&publisher) {
            *count -= 1;
            if *count == 0 {
                self.by_publisher.remove(&publisher);
            }
        }
        Some(internal)
    }

    /// Gives back one that found no room: it goes first again, when there is some.
    pub(crate) fn put_back(&mut self, internal: Internal) {
        *self.by_publisher.entry(internal.message.view().header.publisher).or_insert(0) += 1;
        self.queue.push_front(internal);
        self.stuck = true;
    }

    /// True if a message of this publisher waits.
    #[inline]
    pub(crate) fn holds_of(&self, publisher: u64) -> bool {
        !self.queue.is_empty() && self.by_publisher.contains_key(&publisher)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// True if a message waits for its turn only, not for room.
    pub(crate) fn could_go_on(&self) -> bool {
        !self.stuck && !self.queue.is_empty()
    }
}
