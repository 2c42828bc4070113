//! The checkpoint: the whole live state is written to the log again, a slice per turn, so that
//! what lies before its begin can be freed. What changes meanwhile is recorded as ever; a record
//! of the checkpoint says how things stand when it is written, so both fit together in any order.

use std::collections::HashMap;
use std::num::NonZeroU64;

use ringtide_codec::QoS;
use ringtide_session::Delivery;
use ringtide_storage::record::{
    CheckpointEndRecord, Destination, MessageHead, SessionId, WatermarkRecord,
};
use ringtide_storage::{RecordKind, Store};

use crate::core::Core;
use crate::message::Message;
use crate::session::Stored;

/// Bytes of records that one turn adds to the log for a checkpoint.
const TURN_BYTES: usize = 256 << 10;
/// What a session's record counts as.
const SESSION_BYTES: usize = 256;
/// Sessions and retained messages that one turn looks at.
const TURN_VISITS: usize = 4096;

/// A checkpoint under way.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    at: Progress,
    written: Written,
}

/// Messages with more than one holder that a checkpoint has written, by the address of the buffer
/// and the place from an origin, with their positions: a message that waits for many sessions
/// stands in the log once, and is one message again after a restart. Holding it keeps its address
/// its own.
type Written = HashMap<(usize, Option<(u16, NonZeroU64)>), (u64, Message)>;

/// How far a checkpoint has come.
#[derive(Clone, Copy, Debug)]
enum Progress {
    /// Sessions from this number on.
    Sessions(u32),
    /// What waits for a session, behind this entry.
    Queue(u32, u64),
    /// Retained messages from this number on.
    Retained(u32),
}

impl<S: Store> Core<S> {
    /// Goes on with a checkpoint, or begins one when the log asks for it. True if there is more to
    /// do at once.
    pub(crate) fn checkpoint(&mut self) -> bool {
        let mut job = match self.checkpoint.take() {
            Some(job) => job,
            // Who had a message whose fan-out is not over a checkpoint cannot say.
            None if !self.routes.custody.is_under_way() && self.is_checkpoint_due() => {
                self.begin_checkpoint()
            }
            None => return false,
        };
        if !self.may_write_checkpoint() {
            self.checkpoint = Some(job);
            return false;
        }
        let mut left = TURN_BYTES;
        for _ in 0..TURN_VISITS {
            let Some(next) = self.checkpoint_step(&mut job, &mut left) else {
                let mut body = Vec::new();
                CheckpointEndRecord.encode(&mut body);
                self.record(RecordKind::CheckpointEnd, &body);
                self.store.end_checkpoint();
                return false;
            };
            job.at = next;
            if left == 0 {
                break;
            }
        }
        self.checkpoint = Some(job);
        true
    }

    /// The small things that are written at once: who has taken over what, what is pending.
    fn begin_checkpoint(&mut self) -> Checkpoint {
        self.clients.journal.flush(&mut self.store);
        self.store.begin_checkpoint();
        let (marks, sent) = self.routes.custody.all_marks();
        let mut body = Vec::new();
        WatermarkRecord { marks, sent }.encode(&mut body);
        self.store.append(RecordKind::Watermark, &[&body]);
        let pending: Vec<(Destination, Message)> = self
            .routes
            .custody
            .pending()
            .map(|(shard, one)| {
                (Destination { shard, seq: one.seq, group: one.group }, one.message.clone())
            })
            .collect();
        for (destination, message) in pending {
            let destinations = std::borrow::Cow::Borrowed(std::slice::from_ref(&destination));
            let head = MessageHead { destinations, ..MessageHead::default() };
            self.append_copy(&head, &message);
        }
        Checkpoint { at: Progress::Sessions(0), written: HashMap::new() }
    }

    fn append_copy(&mut self, head: &MessageHead<'_>, message: &Message) -> u64 {
        let journal = &mut self.clients.journal;
        journal.append(&mut self.store, RecordKind::Checkpoint, head, &message.view())
    }

    fn checkpoint_step(&mut self, job: &mut Checkpoint, left: &mut usize) -> Option<Progress> {
        match job.at {
            Progress::Sessions(index) if index >= self.clients.sessions.end() => {
                Some(Progress::Retained(0))
            }
            Progress::Sessions(index) => {
                let session = self.clients.sessions.at(index);
                if session.is_none_or(|session| session.log_id == SessionId(0)) {
                    return Some(Progress::Sessions(index + 1));
                }
                self.record_session(index);
                *left = left.saturating_sub(SESSION_BYTES);
                Some(Progress::Queue(index, 0))
            }
            Progress::Queue(index, behind) => {
                Some(self.checkpoint_queue(job, (index, behind), left))
            }
            Progress::Retained(from) => {
                let (messages, next) = self.routes.retained.page_of_all(from);
                for message in messages {
                    let head = MessageHead { retained: true, ..MessageHead::default() };
                    self.append_copy(&head, &message);
                    *left = left.saturating_sub(message.encoded_len());
                }
                next.map(Progress::Retained)
            }
        }
    }

    /// Writes what waits for a session, as far as the turn allows.
    fn checkpoint_queue(
        &mut self,
        job: &mut Checkpoint,
        (index, behind): (u32, u64),
        left: &mut usize,
    ) -> Progress {
        let next = Progress::Sessions(index + 1);
        let Some(session) = self.clients.sessions.at(index) else { return next };
        let kept = session.kept();
        let Some(outbound) = session.outbound.as_ref() else { return next };
        if kept == SessionId(0) {
            return next;
        }
        let mut bytes = 0;
        let mut queue = outbound.waiting_behind(|delivery| delivery.message.seq <= behind);
        let copied = |delivery: &Delivery<Stored>| {
            let shared = !delivery.message.message.is_unique();
            (shared, delivery.clone())
        };
        let mut waiting: Vec<(bool, Delivery<Stored>)> = Vec::new();
        while bytes < *left
            && let Some(delivery) = queue.next()
        {
            bytes += delivery.bytes as usize;
            waiting.push(copied(delivery));
        }
        // What is under way may stand anywhere in the order: after a restart an exchange of QoS 2
        // is before older messages of QoS 1. It is written with those around it.
        let last = match queue.next() {
            Some(_) => waiting.last().map_or(behind, |(_, delivery)| delivery.message.seq),
            None => u64::MAX,
        };
        let slice = behind + 1..=last;
        let under_way = outbound.under_way().filter_map(|(_, delivery)| delivery);
        waiting.extend(under_way.filter(|one| slice.contains(&one.message.seq)).map(copied));
        drop(queue);
        *left = left.saturating_sub(bytes);
        for (shared, delivery) in waiting {
            let written = shared.then_some(&mut job.written);
            self.checkpoint_delivery(written, kept, delivery);
        }
        if last == u64::MAX { next } else { Progress::Queue(index, last) }
    }

    fn checkpoint_delivery(
        &mut self,
        written: Option<&mut Written>,
        session: SessionId,
        delivery: Delivery<Stored>,
    ) {
        let Delivery { qos, retain, membership, subscription_ids: ids, .. } = delivery;
        let Stored { seq, message, origin } = delivery.message;
        debug_assert!(qos != QoS::AtMostOnce);
        self.clients.journal.entry(session, seq, qos as u8, retain, membership, &ids);
        let place = (message.address(), origin);
        if let Some(&(lsn, _)) = written.as_ref().and_then(|written| written.get(&place)) {
            self.clients.journal.append_entries(&mut self.store, lsn);
            return;
        }
        // Its origin may yet turn out to have lost it.
        let origin = origin.map(|(shard, seq)| (shard, seq.get()));
        let head = MessageHead { origin, ..MessageHead::default() };
        let lsn = self.append_copy(&head, &message);
        if let Some(written) = written {
            written.insert(place, (lsn, message));
        }
    }
}
