//! A hierarchical timer wheel: one per shard, O(1) to set, move and cancel, no allocation while
//! the number of timers does not grow.
//!
//! Six levels of 64 slots; a tick is [`TICK_MS`]. A timer sits in the level whose span covers its
//! distance and is moved down when the level below comes round. Timers fire at or after their
//! deadline, never before.

use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};

/// Milliseconds per tick: the resolution of every deadline.
pub const TICK_MS: u64 = 16;

const LEVELS: usize = 6;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The furthest that a timer is kept without being re-filed: 64^6 ticks.
const SPAN_TICKS: u64 = 1 << (SLOT_BITS * LEVELS as u32);
const NONE: u32 = u32::MAX;

/// Names a timer that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId(NonZeroU32);

impl TimerId {
    fn of(index: u32) -> TimerId {
        // One up, so that an optional id is no larger than an id.
        TimerId(NonZeroU32::MIN.saturating_add(index))
    }

    fn index(self) -> u32 {
        self.0.get() - 1
    }
}

#[derive(Clone, Copy, Debug)]
struct Node<K> {
    deadline_ms: u64,
    key: K,
    next: u32,
    previous: u32,
    /// Slot in which the node is linked, level * 64 + slot; NONE when it is free.
    slot: u32,
}

const CHUNK_BITS: u32 = 10;

/// Nodes in chunks: growing moves none of them.
#[derive(Debug)]
struct Nodes<K>(Vec<Vec<Node<K>>>);

impl<K> Nodes<K> {
    fn push(&mut self, node: Node<K>) -> u32 {
        if self.0.last().is_none_or(|chunk| chunk.len() == 1 << CHUNK_BITS) {
            self.0.push(Vec::with_capacity(1 << CHUNK_BITS));
        }
        let last = self.0.len() - 1;
        self.0[last].push(node);
        ((last << CHUNK_BITS) + self.0[last].len() - 1) as u32
    }
}

impl<K> Index<u32> for Nodes<K> {
    type Output = Node<K>;

    fn index(&self, index: u32) -> &Node<K> {
        &self.0[(index >> CHUNK_BITS) as usize][index as usize & ((1 << CHUNK_BITS) - 1)]
    }
}

impl<K> IndexMut<u32> for Nodes<K> {
    fn index_mut(&mut self, index: u32) -> &mut Node<K> {
        &mut self.0[(index >> CHUNK_BITS) as usize][index as usize & ((1 << CHUNK_BITS) - 1)]
    }
}

/// See the module's documentation. `K` says what a timer is for.
#[derive(Debug)]
pub struct Wheel<K> {
    nodes: Nodes<K>,
    free: u32,
    slots: Vec<u32>,
    /// A bit per slot that holds timers, one word per level.
    occupied: [u64; LEVELS],
    /// The last tick that was processed.
    tick: u64,
    len: usize,
}

impl<K: Copy> Wheel<K> {
    /// A wheel that starts at `now_ms`.
    pub fn new(now_ms: u64) -> Wheel<K> {
        Wheel {
            nodes: Nodes(Vec::new()),
            free: NONE,
            slots: vec![NONE; LEVELS * SLOTS],
            occupied: [0; LEVELS],
            tick: now_ms / TICK_MS,
            len: 0,
        }
    }

    /// Timers that are set.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if no timer is set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets a timer.
    pub fn set(&mut self, deadline_ms: u64, key: K) -> TimerId {
        let node = Node { deadline_ms, key, next: NONE, previous: NONE, slot: NONE };
        let index = if self.free == NONE {
            self.nodes.push(node)
        } else {
            let index = self.free;
            self.free = self.nodes[index].next;
            self.nodes[index] = node;
            index
        };
        self.len += 1;
        self.link(index);
        TimerId::of(index)
    }

    /// Cancels a timer that has not fired.
    pub fn cancel(&mut self, timer: TimerId) {
        self.unlink(timer.index());
        self.release(timer.index());
    }

    /// Takes one timer whose deadline has passed. Call until `None`, at most as often as the
    /// turn's budget allows; the rest stays due.
    pub fn expire(&mut self, now_ms: u64) -> Option<(K, u64)> {
        let now = now_ms / TICK_MS;
        loop {
            let slot = self.tick as usize % SLOTS;
            let head = self.slots[slot];
            if head != NONE {
                let Node { deadline_ms, key, .. } = self.nodes[head];
                self.unlink(head);
                self.release(head);
                return Some((key, deadline_ms));
            }
            if self.tick >= now {
                return None;
            }
            self.advance(now);
        }
    }

    /// Milliseconds from `now_ms` until the wheel wants to be looked at again; `None` without
    /// timers. May be early, never late.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let slot = self.tick % SLOTS as u64;
        if self.slots[slot as usize] != NONE {
            return Some(0);
        }
        let ahead = u64::from(self.occupied[0].rotate_right(slot as u32).trailing_zeros());
        // Level 0 empty until it comes round: then a higher level is filed down.
        let ticks = ahead.min(SLOTS as u64 - slot);
        Some(((self.tick + ticks) * TICK_MS).saturating_sub(now_ms))
    }

    /// Moves on by one tick, or to the next that matters, filing higher levels down.
    fn advance(&mut self, now: u64) {
        let slot = self.tick % SLOTS as u64;
        let rest = self.occupied[0] >> slot >> 1;
        let step =
            if rest == 0 { SLOTS as u64 - slot } else { u64::from(rest.trailing_zeros()) + 1 };
        self.tick = (self.tick + step).min(now);
        if self.tick.is_multiple_of(SLOTS as u64) {
            self.file_down();
        }
    }

    fn file_down(&mut self) {
        for level in 1..LEVELS {
            let slot = (self.tick >> (SLOT_BITS * level as u32)) as usize % SLOTS;
            let mut index = self.slots[level * SLOTS + slot];
            self.slots[level * SLOTS + slot] = NONE;
            self.occupied[level] &= !(1 << slot);
            while index != NONE {
                let next = self.nodes[index].next;
                self.link(index);
                index = next;
            }
            if slot != 0 {
                break;
            }
        }
    }

    fn link(&mut self, index: u32) {
        // Rounded up: a timer may be late by a tick, never early.
        let due = self.nodes[index].deadline_ms.div_ceil(TICK_MS).max(self.tick);
        let distance = (due - self.tick).min(SPAN_TICKS - 1);
        let due = self.tick + distance;
        let level = if distance < SLOTS as u64 {
            0
        } else {
            ((63 - distance.leading_zeros()) / SLOT_BITS) as usize
        };
        let slot = (due >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        let at = level * SLOTS + slot;
        let head = self.slots[at];
        let node = &mut self.nodes[index];
        node.slot = at as u32;
        node.previous = NONE;
        node.next = head;
        if head != NONE {
            self.nodes[head].previous = index;
        }
        self.slots[at] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let Node { next, previous, slot, .. } = self.nodes[index];
        assert!(slot != NONE, "a timer was cancelled twice");
        if previous == NONE {
            self.slots[slot as usize] = next;
        } else {
            self.nodes[previous].next = next;
        }
        if next != NONE {
            self.nodes[next].previous = previous;
        }
        if self.slots[slot as usize] == NONE {
            self.occupied[slot as usize / SLOTS] &= !(1 << (slot as usize % SLOTS));
        }
    }

    fn release(&mut self, index: u32) {
        let node = &mut self.nodes[index];
        node.slot = NONE;
        node.next = self.free;
        self.free = index;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(wheel: &mut Wheel<u32>, now_ms: u64) -> Vec<u32> {
        std::iter::from_fn(|| wheel.expire(now_ms).map(|(key, _)| key)).collect()
    }

    #[test]
    fn fires_at_or_after_the_deadline_at_every_distance() {
        for start in [0, 15, 1_000_003, 1_790_000_000_123] {
            for distance in [0, 1, 16, 17, 1000, 1023, 1024, 1025, 65_536, 70_000, 5_000_000] {
                let mut wheel = Wheel::new(start);
                wheel.set(start + distance, 1);
                let early = (start + distance).saturating_sub(1);
                if early >= start && distance > 0 {
                    assert!(drain(&mut wheel, early).is_empty(), "{start}+{distance} early");
                }
                assert_eq!(
                    drain(&mut wheel, start + distance + TICK_MS),
                    [1],
                    "{start}+{distance}"
                );
                assert!(wheel.is_empty());
            }
        }
    }

    #[test]
    fn random_operations_agree_with_a_list() {
        let mut random = 88_172_645_463_325_252_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut now = 1_000_000;
        let mut wheel = Wheel::new(now);
        let mut model: Vec<(u32, u64, TimerId)> = Vec::new();
        for key in 0..20_000_u32 {
            match next() % 4 {
                0 | 1 => {
                    let deadline = now + next() % [50, 5000, 500_000, 90_000_000][key as usize % 4];
                    model.push((key, deadline, wheel.set(deadline, key)));
                }
                2 if !model.is_empty() => {
                    let (_, _, timer) = model.swap_remove(next() as usize % model.len());
                    wheel.cancel(timer);
                }
                _ => {
                    now += next() % 10_000;
                    for fired in drain(&mut wheel, now) {
                        let at = model.iter().position(|entry| entry.0 == fired).unwrap();
                        assert!(model.swap_remove(at).1 <= now, "{fired} fired early");
                    }
                    assert!(model.iter().all(|entry| entry.1 + TICK_MS > now), "a timer is late");
                }
            }
            assert_eq!(wheel.len(), model.len());
        }
    }

    #[test]
    fn next_is_never_late() {
        let mut wheel = Wheel::new(0);
        assert_eq!(wheel.next_ms(0), None);
        wheel.set(10_000_000, 1);
        let mut now = 0;
        let mut looks = 0;
        while wheel.expire(now).is_none() {
            now += wheel.next_ms(now).unwrap().max(1);
            looks += 1;
        }
        assert!(now < 10_000_000 + 2 * TICK_MS, "fired at {now}");
        assert!(looks < 20_000, "{looks} looks");
    }
}
