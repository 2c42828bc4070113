//! Stored messages by position, each as long as something refers to it.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::UnderWay;
use crate::record::SessionId;

/// One message.
#[derive(Clone, Debug)]
struct Stored {
    bytes: Bytes,
    /// Entries, pending places, retained topics and open fan-outs that refer to it.
    holds: u32,
    /// Open fan-outs among them; only while there is one is it noted who had the message.
    open: u32,
    had: Vec<(SessionId, u16)>,
    forwarded: Vec<(u16, u64)>,
    /// The shard that it came from, and its place in the order from there.
    from: Option<(u16, u64)>,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Messages {
    by_lsn: HashMap<u64, Stored>,
}

impl Messages {
    pub(super) fn len(&self) -> usize {
        self.by_lsn.len()
    }

    pub(super) fn contains(&self, lsn: u64) -> bool {
        self.by_lsn.contains_key(&lsn)
    }

    /// Adds a message with one hold, which is the caller's to release.
    pub(super) fn insert(&mut self, lsn: u64, message: &[u8]) {
        self.insert_shared(lsn, || Bytes::copy_from_slice(message));
    }

    pub(super) fn insert_shared(&mut self, lsn: u64, bytes: impl FnOnce() -> Bytes) {
        let stored = self.by_lsn.entry(lsn).or_insert_with(|| Stored {
            bytes: bytes(),
            holds: 0,
            open: 0,
            had: Vec::new(),
            forwarded: Vec::new(),
            from: None,
        });
        stored.holds += 1;
    }

    pub(super) fn hold(&mut self, lsn: u64) {
        if let Some(stored) = self.by_lsn.get_mut(&lsn) {
            stored.holds += 1;
        }
    }

    pub(super) fn release(&mut self, lsn: u64) {
        if let Some(stored) = self.by_lsn.get_mut(&lsn) {
            stored.holds -= 1;
            if stored.holds == 0 {
                self.by_lsn.remove(&lsn);
            }
        }
    }

    /// A fan-out of the message is under way.
    pub(super) fn open(&mut self, lsn: u64) {
        self.hold(lsn);
        if let Some(stored) = self.by_lsn.get_mut(&lsn) {
            stored.open += 1;
        }
    }

    /// The fan-out is over.
    pub(super) fn close(&mut self, lsn: u64) {
        if let Some(stored) = self.by_lsn.get_mut(&lsn) {
            stored.open -= 1;
            if stored.open == 0 {
                stored.had = Vec::new();
                stored.forwarded = Vec::new();
            }
        }
        self.release(lsn);
    }

    /// A session was given the message.
    pub(super) fn note_had(&mut self, lsn: u64, session: SessionId, membership: u16) {
        if let Some(stored) = self.by_lsn.get_mut(&lsn).filter(|stored| stored.open > 0) {
            stored.had.push((session, membership));
        }
    }

    /// The message went on to other shards: shard and group.
    pub(super) fn note_forwarded(&mut self, lsn: u64, to: impl Iterator<Item = (u16, u64)>) {
        if let Some(stored) = self.by_lsn.get_mut(&lsn).filter(|stored| stored.open > 0) {
            stored.forwarded.extend(to);
        }
    }

    /// The message came from another shard.
    pub(super) fn note_from(&mut self, lsn: u64, from: (u16, u64)) {
        if let Some(stored) = self.by_lsn.get_mut(&lsn) {
            stored.from = Some(from);
        }
    }

    pub(super) fn bytes(&self, lsn: u64) -> Bytes {
        self.by_lsn.get(&lsn).map(|stored| stored.bytes.clone()).unwrap_or_default()
    }

    /// Adds who had the message, and which shards and groups it went on to.
    pub(super) fn add_had(&self, lsn: u64, into: &mut UnderWay) {
        if let Some(stored) = self.by_lsn.get(&lsn) {
            into.had.extend_from_slice(&stored.had);
            into.forwarded.extend_from_slice(&stored.forwarded);
        }
    }

    /// The positions of the messages that `pick` takes.
    pub(super) fn select(&self, pick: impl Fn(&[u8], Option<(u16, u64)>) -> bool) -> HashSet<u64> {
        let all = self.by_lsn.iter();
        all.filter(|(_, stored)| pick(&stored.bytes, stored.from)).map(|(lsn, _)| *lsn).collect()
    }
}
