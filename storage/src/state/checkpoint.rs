//! A whole state as the records of a checkpoint.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::State;
use super::session::Session;
use crate::RecordKind;
use crate::record::{
    CheckpointEndRecord, Destination, EntryWriter, MessageHead, SessionId, WatermarkRecord,
};

/// Entries of one record: with more sessions than that a message is written again for the rest.
const ENTRIES_MAX: u32 = 4096;

/// What refers to one message.
#[derive(Default)]
struct References {
    retained: bool,
    destinations: Vec<Destination>,
    entries: Vec<EntryWriter>,
}

impl State {
    /// Writes the state as records that amount to it: each call of `sink` gives one record's kind
    /// and the parts of its body. For tools that work offline; a shard writes its checkpoint from
    /// what it has in memory. Fan-outs under way are written as far as their entries wait.
    pub fn write_checkpoint(&self, sink: &mut dyn FnMut(RecordKind, &[&[u8]])) {
        let mut body = Vec::new();
        let marks = self.watermarks.iter().map(|(shard, seq)| (*shard, *seq)).collect();
        let sent = self.sent.iter().map(|(shard, seq)| (*shard, *seq)).collect();
        WatermarkRecord { marks, sent }.encode(&mut body);
        sink(RecordKind::Watermark, &[&body]);
        for (id, session) in self.sessions_in_order() {
            body.clear();
            session.record(*id).encode(&mut body);
            sink(RecordKind::Session, &[&body]);
        }
        let mut origins = BTreeMap::new();
        for &(origin, seq, lsn) in &self.open {
            // Its own custody stands among the destinations.
            if !(origin == self.shard && self.pending.contains_key(&(origin, seq))) {
                origins.insert(lsn, (origin, seq));
            }
        }
        for (lsn, references) in self.references() {
            let mut head = MessageHead {
                retained: references.retained,
                origin: origins.get(&lsn).copied(),
                destinations: Cow::Owned(references.destinations),
                ..MessageHead::default()
            };
            let message = self.messages.bytes(lsn);
            let mut rest = &references.entries[..];
            loop {
                body.clear();
                let (bytes, count) = rest.first().map_or((&[][..], 0), |e| (e.bytes(), e.count()));
                head.encode_with_entries(bytes, count, &mut body);
                sink(RecordKind::Checkpoint, &[&body, &message]);
                rest = rest.get(1..).unwrap_or_default();
                if rest.is_empty() {
                    break;
                }
                head = MessageHead { origin: head.origin, ..MessageHead::default() };
            }
        }
        body.clear();
        CheckpointEndRecord.encode(&mut body);
        sink(RecordKind::CheckpointEnd, &[&body]);
    }

    pub(super) fn sessions_in_order(&self) -> Vec<(&SessionId, &Session)> {
        let sessions = self.sessions.iter().map(|(id, session)| (id, &**session));
        let mut sessions: Vec<_> = sessions.collect();
        sessions.sort_unstable_by_key(|(id, _)| **id);
        sessions
    }

    /// What refers to each message, in the order of the messages.
    fn references(&self) -> BTreeMap<u64, References> {
        let mut all: BTreeMap<u64, References> = BTreeMap::new();
        for lsn in self.retained.values() {
            all.entry(*lsn).or_default().retained = true;
        }
        for (&(shard, seq), &(lsn, group)) in &self.pending {
            let destinations = &mut all.entry(lsn).or_default().destinations;
            destinations.push(Destination { shard, seq, group });
        }
        for (_, _, lsn) in &self.open {
            all.entry(*lsn).or_default();
        }
        for (id, session) in self.sessions_in_order() {
            for (seq, slot) in &session.waiting {
                let entries = &mut all.entry(slot.lsn).or_default().entries;
                if entries.last().is_none_or(|last| last.count() == ENTRIES_MAX) {
                    entries.push(EntryWriter::default());
                }
                let Some(last) = entries.last_mut() else { continue };
                last.push(&slot.entry(*id, *seq));
            }
        }
        all
    }
}
