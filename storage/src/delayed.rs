//! A store for tests: records become durable 0 to 5 turns after they were appended, by seed, so
//! that everything that must wait for durability is seen waiting.

use std::collections::VecDeque;

use crate::{Lsn, RecordKind, Store};

/// The most turns that a batch stays undurable.
const DELAY_TURNS_MAX: u64 = 5;

/// See the module's documentation.
#[derive(Debug)]
pub struct DelayedStore {
    appended: Lsn,
    durable: Lsn,
    turn: u64,
    /// Batches under way: (turn at which it is durable, its last position). Turns never decrease,
    /// because a log becomes durable in order.
    pending: VecDeque<(u64, Lsn)>,
    random: u64,
}

impl DelayedStore {
    /// A store whose delays follow from `seed`.
    pub fn new(seed: u64) -> DelayedStore {
        DelayedStore {
            appended: Lsn(0),
            durable: Lsn(0),
            turn: 0,
            pending: VecDeque::new(),
            random: seed | 1,
        }
    }

    fn delay_turns(&mut self) -> u64 {
        // xorshift64: small and repeatable, which is all that a delay needs.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % (DELAY_TURNS_MAX + 1)
    }
}

impl Store for DelayedStore {
    fn append(&mut self, _kind: RecordKind, _parts: &[&[u8]]) -> Lsn {
        self.appended.0 += 1;
        self.appended
    }

    fn end_turn(&mut self) {
        let last = self.pending.back().map_or(self.durable, |(_, lsn)| *lsn);
        if self.appended > last {
            let earliest = self.pending.back().map_or(0, |(turn, _)| *turn);
            let due = (self.turn + self.delay_turns()).max(earliest);
            self.pending.push_back((due, self.appended));
        }
        while let Some(&(due, lsn)) = self.pending.front() {
            if due > self.turn {
                break;
            }
            self.durable = lsn;
            self.pending.pop_front();
        }
        self.turn += 1;
    }

    fn durable(&self) -> Lsn {
        self.durable
    }

    fn appended(&self) -> Lsn {
        self.appended
    }

    fn is_immediate(&self) -> bool {
        false
    }

    fn keeps(&self) -> bool {
        true
    }

    fn is_waiting(&self) -> bool {
        self.appended > self.durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_becomes_durable_in_order_and_within_the_delay() {
        for seed in 1..200 {
            let mut store = DelayedStore::new(seed);
            let mut last = Lsn(0);
            for turn in 0..50_u64 {
                if turn % 3 != 1 {
                    store.append(RecordKind::Message, &[b"x"]);
                }
                store.end_turn();
                assert!(store.durable() >= last && store.durable() <= store.appended());
                last = store.durable();
            }
            for _ in 0..=DELAY_TURNS_MAX {
                store.end_turn();
            }
            assert_eq!(store.durable(), store.appended(), "seed {seed}");
        }
    }

    #[test]
    fn some_seed_delays() {
        let delayed = (1..20).any(|seed| {
            let mut store = DelayedStore::new(seed);
            store.append(RecordKind::Session, &[]);
            store.end_turn();
            store.durable() < store.appended()
        });
        assert!(delayed);
    }
}
