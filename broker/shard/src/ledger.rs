//! Why messages were dropped: a typed reason, a counter per shard and the last drops per client.

use crate::counters::Counter;

/// Why one message did not reach one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DropReason {
    /// QoS 0, and the client reads too slowly.
    SlowConsumer,
    /// The queue's limit in messages or bytes was reached.
    QueueFull,
    /// The message expired before it could be sent.
    Expired,
    /// Larger than the client's Maximum Packet Size.
    TooLarge,
    /// QoS 0 and no connection.
    Offline,
    /// It waited in the log, which did not give it back: the disk is damaged.
    Unreadable,
}

impl DropReason {
    /// The counter of this reason.
    pub fn counter(self) -> Counter {
        match self {
            DropReason::SlowConsumer => Counter::DroppedSlow,
            DropReason::QueueFull => Counter::DroppedQueueFull,
            DropReason::Expired => Counter::DroppedExpired,
            DropReason::TooLarge => Counter::DroppedTooLarge,
            DropReason::Offline => Counter::DroppedOffline,
            DropReason::Unreadable => Counter::DroppedUnreadable,
        }
    }
}

/// One drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// Hash of the topic.
    pub topic_hash: u64,
    /// Why.
    pub reason: DropReason,
}

/// Drops that a client's ledger remembers.
pub const LEDGER_ENTRIES: usize = 16;

/// The last drops of one client, and how many there were. Boxed by the session on the first drop.
#[derive(Clone, Debug)]
pub struct Ledger {
    total: u64,
    last: [Option<Dropped>; LEDGER_ENTRIES],
}

impl Ledger {
    /// No drops yet.
    pub fn new() -> Ledger {
        Ledger { total: 0, last: [None; LEDGER_ENTRIES] }
    }

    /// Notes a drop, overwriting the oldest.
    pub fn note(&mut self, dropped: Dropped) {
        self.last[(self.total % LEDGER_ENTRIES as u64) as usize] = Some(dropped);
        self.total += 1;
    }

    /// Drops in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The remembered drops, newest first.
    pub fn recent(&self) -> impl Iterator<Item = &Dropped> {
        let newest = self.total as usize + LEDGER_ENTRIES;
        (1..=LEDGER_ENTRIES)
            .filter_map(move |back| self.last[(newest - back) % LEDGER_ENTRIES].as_ref())
    }
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_newest() {
        let mut ledger = Ledger::new();
        for at_ms in 0..40 {
            ledger.note(Dropped { at_ms, topic_hash: at_ms * 7, reason: DropReason::QueueFull });
        }
        assert_eq!(ledger.total(), 40);
        let times: Vec<u64> = ledger.recent().map(|drop| drop.at_ms).collect();
        assert_eq!(times, (24..40).rev().collect::<Vec<u64>>());
    }
}
