//! Messages that wait for a client: for its return, for its send quota. Owns their order, their
//! limits in count and bytes and which one is dropped at a limit. Knows no packet ids.
//!
//! A queue may hold more than its limits allow: after a restart what was in flight waits in it too,
//! and limits may be lowered. What it holds then stays, and its limits are what it holds, until so
//! much has gone that it is within them: no message goes but for another one that comes.

use super::chunks::Chunks;
use super::{Delivery, DropPolicy, DropReason, QueueLimits};

/// An empty queue keeps room for this many messages, so that a busy client allocates nothing.
const KEPT_CAPACITY: usize = 256;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Queue<M> {
    waiting: Chunks<Delivery<M>>,
    bytes: u64,
    limits: QueueLimits,
    /// Bytes that it may hold above its limit; what it holds above the other one, its length says.
    allowance: u64,
}

impl<M> Queue<M> {
    pub(super) const fn new(limits: QueueLimits) -> Queue<M> {
        Queue { waiting: Chunks::new(), bytes: 0, limits, allowance: 0 }
    }

    /// Sets the limits, above which all that waits now may stay.
    pub(super) fn set_limits(&mut self, limits: QueueLimits) {
        self.limits = limits;
        self.allowance = self.bytes.saturating_sub(limits.bytes_max);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a message. What had to go for it, which may be the message itself.
    pub(super) fn push(
        &mut self,
        delivery: Delivery<M>,
        now_ms: u64,
    ) -> Option<(Delivery<M>, DropReason)> {
        // What the caller did not collect after the last message must not pile up.
        while self.pop_excess().is_some() {}
        let bytes = u64::from(delivery.bytes);
        if let Some(reason) = self.limits.reached_by(1, bytes) {
            return Some((delivery, reason));
        }
        let charged = self.charged(self.bytes + bytes);
        let Some(reason) = self.limits.reached_by(self.len() + 1, charged) else {
            self.append(delivery);
            return None;
        };
        let reason = match self.limits.policy {
            _ if self.front_makes_room(bytes, now_ms) => DropReason::Expired,
            DropPolicy::Newest => return Some((delivery, reason)),
            DropPolicy::Oldest => reason,
        };
        // First in, then out: the new one takes the old one's place, also above the limits.
        self.append(delivery);
        self.pop().map(|oldest| (oldest, reason))
    }

    /// What counts against the limit of a queue with so many bytes.
    fn charged(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.allowance)
    }

    /// Whether the oldest message has expired and its place is all that is missing.
    fn front_makes_room(&self, bytes: u64, now_ms: u64) -> bool {
        self.waiting.front().filter(|front| front.is_expired(now_ms)).is_some_and(|front| {
            let left = self.bytes - u64::from(front.bytes);
            self.charged(left + bytes) <= self.limits.bytes_max
        })
    }

    /// Puts a message back that another queue held, whatever the limits. [`Queue::set_limits`] is
    /// to follow.
    pub(super) fn append(&mut self, delivery: Delivery<M>) {
        self.bytes += u64::from(delivery.bytes);
        self.waiting.push_back(delivery);
    }

    /// The oldest message, if a larger one has brought the queue above what it may hold in bytes.
    pub(super) fn pop_excess(&mut self) -> Option<(Delivery<M>, DropReason)> {
        if self.charged(self.bytes) <= self.limits.bytes_max {
            return None;
        }
        self.pop().map(|oldest| (oldest, DropReason::QueueBytes))
    }

    /// The oldest message, which stays.
    pub(super) fn front(&self) -> Option<&Delivery<M>> {
        self.waiting.front()
    }

    /// The oldest message.
    pub(super) fn pop(&mut self) -> Option<Delivery<M>> {
        let delivery = self.take_front()?;
        self.tighten();
        Some(delivery)
    }

    /// What the queue no longer holds above its limit it may not hold again.
    fn tighten(&mut self) {
        self.allowance = self.allowance.min(self.bytes.saturating_sub(self.limits.bytes_max));
    }

    fn take_front(&mut self) -> Option<Delivery<M>> {
        let delivery = self.waiting.pop_front()?;
        self.bytes -= u64::from(delivery.bytes);
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT_CAPACITY {
            self.waiting = Chunks::new();
        }
        Some(delivery)
    }

    /// Hands every expired message to `sink` and keeps the order of the others.
    //= [MQTT-3.3.2-5]
    pub(super) fn sweep_expired(&mut self, now_ms: u64, mut sink: impl FnMut(Delivery<M>)) {
        // Most queues hold none, and looking is cheaper than moving.
        if !self.waiting.iter().any(|delivery| delivery.is_expired(now_ms)) {
            return;
        }
        for _ in 0..self.waiting.len() {
            match self.take_front() {
                Some(delivery) if delivery.is_expired(now_ms) => sink(delivery),
                Some(delivery) => self.append(delivery),
                None => break,
            }
        }
        self.tighten();
    }

    pub(super) fn behind(
        &self,
        is_before: impl FnMut(&Delivery<M>) -> bool,
    ) -> impl Iterator<Item = &Delivery<M>> {
        self.waiting.behind(is_before)
    }

    pub(super) fn into_waiting(self) -> impl Iterator<Item = Delivery<M>> {
        self.waiting.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU64;

    use super::super::tests::delivery;
    use super::*;

    fn sized(message: u32, bytes: u32) -> Delivery<u32> {
        Delivery { bytes, ..delivery(message) }
    }

    fn expiring(message: u32, at_ms: u64) -> Delivery<u32> {
        Delivery { expires_at_ms: NonZeroU64::new(at_ms), ..delivery(message) }
    }

    fn queue(count_max: u32, bytes_max: u64, policy: DropPolicy) -> Queue<u32> {
        Queue::new(QueueLimits { count_max, bytes_max, policy })
    }

    fn contents(queue: Queue<u32>) -> Vec<u32> {
        queue.into_waiting().map(|delivery| delivery.message).collect()
    }

    #[test]
    fn at_the_count_limit_the_policy_says_which_goes() {
        let mut newest = queue(2, 1000, DropPolicy::Newest);
        let mut oldest = queue(2, 1000, DropPolicy::Oldest);
        for n in 0..2 {
            assert!(newest.push(sized(n, 10), 0).is_none());
            assert!(oldest.push(sized(n, 10), 0).is_none());
        }
        let (dropped, reason) = newest.push(sized(2, 10), 0).unwrap();
        assert_eq!((dropped.message, reason), (2, DropReason::QueueCount));
        let (dropped, reason) = oldest.push(sized(2, 10), 0).unwrap();
        assert_eq!((dropped.message, reason), (0, DropReason::QueueCount));
        assert_eq!(contents(newest), [0, 1]);
        assert_eq!(contents(oldest), [1, 2]);
    }

    #[test]
    fn a_large_message_evicts_as_many_old_ones_as_it_needs() {
        let mut queue = queue(100, 100, DropPolicy::Oldest);
        for n in 0..10 {
            assert!(queue.push(sized(n, 10), 0).is_none());
        }
        let (dropped, reason) = queue.push(sized(10, 35), 0).unwrap();
        assert_eq!((dropped.message, reason), (0, DropReason::QueueBytes));
        let more: Vec<u32> =
            core::iter::from_fn(|| queue.pop_excess()).map(|(d, _)| d.message).collect();
        assert_eq!(more, [1, 2, 3]);
        assert_eq!(queue.bytes(), 95);
    }

    #[test]
    fn excess_that_nobody_collects_goes_with_the_next_message() {
        let mut queue = queue(100, 100, DropPolicy::Oldest);
        for n in 0..10 {
            assert!(queue.push(sized(n, 10), 0).is_none());
        }
        assert!(queue.push(sized(10, 100), 0).is_some());
        assert!(queue.push(sized(11, 100), 0).is_some());
        assert!(queue.bytes() <= 200);
        while queue.pop_excess().is_some() {}
        assert_eq!(contents(queue), [11]);
    }

    #[test]
    fn a_message_larger_than_the_whole_queue_evicts_nothing() {
        let mut queue = queue(100, 100, DropPolicy::Oldest);
        assert!(queue.push(sized(0, 60), 0).is_none());
        let (dropped, reason) = queue.push(sized(1, 101), 0).unwrap();
        assert_eq!((dropped.message, reason), (1, DropReason::QueueBytes));
        assert_eq!(contents(queue), [0]);
    }

    #[test]
    fn an_expired_message_makes_way_for_a_fresh_one_under_either_policy() {
        for policy in [DropPolicy::Newest, DropPolicy::Oldest] {
            let mut queue = queue(2, 1000, policy);
            assert!(queue.push(expiring(0, 50), 0).is_none());
            assert!(queue.push(delivery(1), 0).is_none());
            let (dropped, reason) = queue.push(delivery(2), 50).unwrap();
            assert_eq!((dropped.message, reason), (0, DropReason::Expired));
            assert_eq!(contents(queue), [1, 2]);
        }
    }

    #[test]
    fn a_sweep_takes_expired_messages_wherever_they_lie() {
        let mut queue = queue(100, 1000, DropPolicy::Newest);
        for n in 0..6_u32 {
            let waiting = if n % 2 == 0 { expiring(n, 100) } else { delivery(n) };
            assert!(queue.push(waiting, 0).is_none());
        }
        let mut expired = Vec::new();
        queue.sweep_expired(99, |delivery| expired.push(delivery.message));
        assert!(expired.is_empty());
        queue.sweep_expired(100, |delivery| expired.push(delivery.message));
        assert_eq!(expired, [0, 2, 4]);
        assert_eq!(contents(queue), [1, 3, 5]);
    }

    /// A queue with ten messages of 10 bytes that waited in another one.
    fn restored(count_max: u32, bytes_max: u64, policy: DropPolicy) -> Queue<u32> {
        let mut queue = queue(count_max, bytes_max, policy);
        (0..10).for_each(|n| queue.append(sized(n, 10)));
        queue.set_limits(queue.limits);
        queue
    }

    #[test]
    fn what_it_holds_above_its_limits_goes_for_nothing_but_another_message() {
        for (count_max, bytes_max) in [(5, 1000), (100, 50)] {
            let mut newest = restored(count_max, bytes_max, DropPolicy::Newest);
            assert!(newest.pop_excess().is_none());
            assert_eq!(newest.push(sized(10, 10), 0).unwrap().0.message, 10);
            assert_eq!(contents(newest), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
            let mut oldest = restored(count_max, bytes_max, DropPolicy::Oldest);
            assert_eq!(oldest.push(sized(10, 10), 0).unwrap().0.message, 0);
            assert!(oldest.pop_excess().is_none());
            assert_eq!(contents(oldest), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        }
    }

    #[test]
    fn room_above_the_limits_is_not_used_again() {
        for (count_max, bytes_max) in [(5, 1000), (100, 50)] {
            let mut queue = restored(count_max, bytes_max, DropPolicy::Newest);
            for n in 0..5 {
                assert_eq!(queue.pop().unwrap().message, n);
                assert_eq!(queue.push(sized(100, 10), 0).unwrap().0.message, 100);
            }
            assert_eq!(queue.pop().unwrap().message, 5);
            assert!(queue.push(sized(10, 10), 0).is_none());
            assert_eq!(contents(queue), [6, 7, 8, 9, 10]);
        }
    }

    #[test]
    fn a_large_message_evicts_down_to_what_the_queue_held() {
        let mut queue = restored(100, 50, DropPolicy::Oldest);
        assert_eq!(queue.push(sized(10, 25), 0).unwrap().0.message, 0);
        let more = core::iter::from_fn(|| queue.pop_excess()).map(|(d, _)| d.message);
        assert_eq!(more.collect::<Vec<u32>>(), [1, 2]);
        assert_eq!(queue.bytes(), 95);
    }

    #[test]
    fn a_sweep_leaves_what_the_queue_holds_above_its_limits() {
        let mut queue = restored(100, 50, DropPolicy::Newest);
        queue.append(Delivery { bytes: 20, ..expiring(10, 100) });
        queue.set_limits(queue.limits);
        queue.sweep_expired(100, |expired| assert_eq!(expired.message, 10));
        assert!(queue.pop_excess().is_none());
        assert_eq!(queue.push(sized(11, 10), 0).unwrap().0.message, 11);
        assert_eq!(contents(queue), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn an_emptied_queue_gives_a_large_room_back() {
        let mut queue = queue(10_000, 1_000_000, DropPolicy::Newest);
        for n in 0..5000 {
            assert!(queue.push(sized(n, 10), 0).is_none());
        }
        while queue.pop().is_some() {}
        assert_eq!((queue.bytes(), queue.waiting.capacity()), (0, 0));
    }
}
