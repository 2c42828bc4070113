//! What the store is told. Records are gathered here in the order in which things happened and
//! given to the store before the next one is appended directly; so files that know no store
//! (delivery, replay) tell their part of the truth too.
//!
//! The entries of a message (the sessions here that it waits for) are gathered while it is
//! delivered and become part of its record; what follows from them within the same delivery
//! (a packet id, a message that gave way) goes behind that record.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use ringtide_codec::PacketId;
use ringtide_storage::record::{
    Entry, EntryWriter, ExchangeRecord, MessageHead, QueueRecord, SessionId, Step,
};
use ringtide_storage::{RecordKind, Store};

use crate::earlier::Earlier;
use crate::kept::Kept;
use crate::message::View;
use crate::pages::Appended;

const MESSAGE: u8 = RecordKind::Message as u8;
/// Bytes of a gathered record's kind and length.
const FRAME_BYTES: usize = 5;

/// A PUBLISH that must not leave before its record, and its origin's, is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) id: PacketId,
    pub(crate) dup: bool,
    /// Its origin, if it came from another shard and of QoS 2.
    pub(crate) origin: Option<(u16, u64)>,
    /// The log position that it waits for; `u64::MAX` until the turn ends.
    pub(crate) lsn: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// False if the store keeps nothing: then nothing is gathered.
    pub(crate) on: bool,
    /// Records for the store: kind, length, body, one behind the other.
    records: Vec<u8>,
    /// The same, for behind the record of the message under way.
    behind: Vec<u8>,
    /// Entries of the message under way.
    entries: EntryWriter,
    next_seq: u64,
    next_session: u64,
    /// What an earlier run may have sent.
    pub(crate) earlier: Earlier,
    scratch: Vec<u8>,
    /// The messages of the gathered records, in their order: those that wait for somebody.
    gathered: VecDeque<Option<Kept>>,
    /// Messages whose records the store has, and that are not known to be durable.
    pub(crate) appended: VecDeque<Appended>,
    /// Sends that wait, by session.
    pub(crate) held: HashMap<u32, VecDeque<Held>>,
    /// Sessions (and their generation) with sends held in this turn.
    pub(crate) holding: Vec<(u32, u32)>,
}

impl Journal {
    pub(crate) fn new(on: bool) -> Journal {
        Journal { on, next_seq: 1, next_session: 1, ..Journal::default() }
    }

    /// Goes on behind what an earlier run has used.
    pub(crate) fn start_behind(&mut self, seq: u64, session: u64) {
        self.next_seq = self.next_seq.max(seq + 1);
        self.next_session = self.next_session.max(session + 1);
    }

    /// A place in the order of what waits; 0 for a session that is not kept.
    pub(crate) fn seq(&mut self, session: SessionId) -> u64 {
        if session == SessionId(0) {
            return 0;
        }
        self.next_seq += 1;
        self.next_seq - 1
    }

    /// A name for a session.
    pub(crate) fn session(&mut self) -> SessionId {
        self.next_session += 1;
        SessionId(self.next_session - 1)
    }

    /// The message under way waits for a session.
    pub(crate) fn entry(
        &mut self,
        session: SessionId,
        seq: u64,
        qos: u8,
        retain: bool,
        membership: u16,
        ids: &[u32],
    ) {
        let ids = Cow::Borrowed(ids);
        self.entries.push(&Entry { session, seq, qos, retain, membership, ids });
    }

    /// True if the message under way waits for a session.
    pub(crate) fn has_entries(&self) -> bool {
        !self.entries.is_empty()
    }

    /// An exchange moved on.
    pub(crate) fn step(&mut self, session: SessionId, step: Step) {
        if session == SessionId(0) {
            return;
        }
        self.scratch.clear();
        ExchangeRecord { session, step }.encode(&mut self.scratch);
        let out = if self.has_entries() { &mut self.behind } else { &mut self.records };
        frame(out, RecordKind::Exchange, &[&self.scratch]);
    }

    /// An entry was delivered or dropped; 0 stands for one that is not kept.
    pub(crate) fn done(&mut self, session: SessionId, seq: u64) {
        if seq != 0 {
            self.step(session, Step::Done { seq });
        }
    }

    /// Ends the message under way with a record of its own, gathered here. `kept` is the handle by
    /// which sessions have it.
    pub(crate) fn message(&mut self, head: &MessageHead<'_>, view: &View<'_>, kept: Option<&Kept>) {
        self.gathered.push_back(kept.cloned());
        self.encode_head(head);
        frame(&mut self.records, RecordKind::Message, &view.parts(&self.scratch, &view.head()));
        self.end_message();
    }

    fn encode_head(&mut self, head: &MessageHead<'_>) {
        self.scratch.clear();
        head.encode_with_entries(self.entries.bytes(), self.entries.count(), &mut self.scratch);
    }

    fn end_message(&mut self) {
        self.entries.clear();
        self.records.append(&mut self.behind);
    }

    /// A PUBLISH waits for the log.
    pub(crate) fn hold(&mut self, session: u32, generation: u32, held: Held) {
        let queue = self.held.entry(session).or_default();
        // Each session once in a turn.
        if queue.back().is_none_or(|last| last.lsn != u64::MAX) {
            self.holding.push((session, generation));
        }
        queue.push_back(held);
    }

    /// True if a session's sends wait: later ones must wait behind them.
    pub(crate) fn holds(&self, session: u32) -> bool {
        !self.held.is_empty() && self.held.contains_key(&session)
    }

    /// True if the store has all that was gathered.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Gives the store what was gathered.
    pub(crate) fn flush<S: Store>(&mut self, store: &mut S) {
        let mut rest = &self.records[..];
        while let Some((head, tail)) = rest.split_first_chunk::<FRAME_BYTES>() {
            let [kind, len @ ..] = *head;
            let (body, tail) = tail.split_at(u32::from_le_bytes(len) as usize);
            // Nothing else is gathered.
            if kind == MESSAGE {
                let lsn = store.append(RecordKind::Message, &[body]).0;
                let kept = self.gathered.pop_front().flatten();
                note(&mut self.appended, store, lsn, kept.as_ref());
            } else {
                store.append(RecordKind::Exchange, &[body]);
            }
            rest = tail;
        }
        self.records.clear();
    }

    /// Appends the record of the message under way to the store. Its position. `kept` is the handle
    /// by which sessions have it.
    pub(crate) fn append<S: Store>(
        &mut self,
        store: &mut S,
        kind: RecordKind,
        head: &MessageHead<'_>,
        view: &View<'_>,
        kept: Option<&Kept>,
    ) -> u64 {
        self.flush(store);
        self.encode_head(head);
        let lsn = store.append(kind, &view.parts(&self.scratch, &view.head())).0;
        note(&mut self.appended, store, lsn, kept);
        self.end_message();
        lsn
    }

    /// Appends the gathered entries to the store for the message whose record is at `message`.
    pub(crate) fn append_entries<S: Store>(&mut self, store: &mut S, message: u64) {
        self.flush(store);
        let (bytes, count) = (self.entries.bytes(), self.entries.count());
        self.scratch.clear();
        QueueRecord::encode_with_entries(message, bytes, count, &mut self.scratch);
        store.append(RecordKind::Queue, &[&self.scratch]);
        self.end_message();
    }
}

/// Notes where the record that was appended last will stand.
fn note<S: Store>(appended: &mut VecDeque<Appended>, store: &S, lsn: u64, kept: Option<&Kept>) {
    if let Some(kept) = kept
        && let Some(mark) = store.mark()
    {
        appended.push_back(Appended { lsn, mark, kept: kept.downgrade() });
    }
}

fn frame(out: &mut Vec<u8>, kind: RecordKind, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind as u8);
    // A message is at most 256 MiB, its head far less.
    out.extend_from_slice(&(len as u32).to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}
