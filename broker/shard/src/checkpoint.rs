//! The checkpoint: the whole live state is written to the log again, a slice per turn, so that
//! what lies before its begin can be freed. What changes meanwhile is recorded as ever; a record
//! of the checkpoint says how things stand when it is written, so both fit together in any order.

use ringtide_codec::QoS;
use ringtide_session::Delivery;
use ringtide_storage::record::{Destination, MessageHead, SessionId, WatermarkRecord};
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

/// How far a checkpoint has come.
#[derive(Debug)]
pub(crate) enum Checkpoint {
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
        let mut at = match self.checkpoint.take() {
            Some(at) => at,
            // Who had a message whose fan-out is not over a checkpoint cannot say.
            None if self.is_checkpoint_due() && !self.routes.custody.is_under_way() => {
                self.begin_checkpoint()
            }
            None => return false,
        };
        if !self.may_write_checkpoint() {
            self.checkpoint = Some(at);
            return false;
        }
        let mut left = TURN_BYTES;
        for _ in 0..TURN_VISITS {
            let Some(next) = self.checkpoint_step(at, &mut left) else {
                self.clients.journal.flush(&mut self.store);
                self.store.end_checkpoint();
                return false;
            };
            at = next;
            if left == 0 {
                break;
            }
        }
        self.checkpoint = Some(at);
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
        Checkpoint::Sessions(0)
    }

    fn append_copy(&mut self, head: &MessageHead<'_>, message: &Message) {
        let journal = &mut self.clients.journal;
        journal.append(&mut self.store, RecordKind::Checkpoint, head, &message.view());
    }

    fn checkpoint_step(&mut self, at: Checkpoint, left: &mut usize) -> Option<Checkpoint> {
        match at {
            Checkpoint::Sessions(index) if index >= self.clients.sessions.end() => {
                Some(Checkpoint::Retained(0))
            }
            Checkpoint::Sessions(index) => {
                let session = self.clients.sessions.at(index);
                if session.is_none_or(|session| session.log_id == SessionId(0)) {
                    return Some(Checkpoint::Sessions(index + 1));
                }
                self.record_session(index);
                *left = left.saturating_sub(SESSION_BYTES);
                Some(Checkpoint::Queue(index, 0))
            }
            Checkpoint::Queue(index, behind) => Some(self.checkpoint_queue(index, behind, left)),
            Checkpoint::Retained(from) => {
                let (messages, next) = self.routes.retained.page_of_all(from);
                for message in messages {
                    let head = MessageHead { retained: true, ..MessageHead::default() };
                    self.append_copy(&head, &message);
                    *left = left.saturating_sub(message.encoded_len());
                }
                next.map(Checkpoint::Retained)
            }
        }
    }

    /// Writes what waits for a session, as far as the turn allows.
    fn checkpoint_queue(&mut self, index: u32, behind: u64, left: &mut usize) -> Checkpoint {
        let next = Checkpoint::Sessions(index + 1);
        let Some(session) = self.clients.sessions.at(index) else { return next };
        let kept = session.kept();
        let Some(outbound) = session.outbound.as_ref() else { return next };
        if kept == SessionId(0) {
            return next;
        }
        let mut bytes = 0;
        let mut queue = outbound.waiting_behind(|delivery| delivery.message.seq <= behind);
        let mut waiting: Vec<Delivery<Stored>> = Vec::new();
        while bytes < *left
            && let Some(delivery) = queue.next()
        {
            bytes += delivery.bytes as usize;
            waiting.push(delivery.clone());
        }
        // What is under way may stand anywhere in the order: after a restart an exchange of QoS 2
        // is before older messages of QoS 1. It is written with those around it.
        let last = match queue.next() {
            Some(_) => waiting.last().map_or(behind, |delivery| delivery.message.seq),
            None => u64::MAX,
        };
        let slice = behind + 1..=last;
        let under_way = outbound.under_way().filter_map(|(_, delivery)| delivery);
        waiting.extend(under_way.filter(|one| slice.contains(&one.message.seq)).cloned());
        drop(queue);
        *left = left.saturating_sub(bytes);
        for delivery in waiting {
            let Delivery { qos, retain, membership, .. } = delivery;
            let Stored { seq, message, origin } = delivery.message;
            let origin = origin.map(|(shard, seq)| (shard, seq.get()));
            debug_assert!(qos != QoS::AtMostOnce);
            let ids = &delivery.subscription_ids;
            let journal = &mut self.clients.journal;
            journal.entry(kept, seq, qos as u8, retain, membership, ids);
            // Its origin may yet turn out to have lost it.
            let head = MessageHead { origin, ..MessageHead::default() };
            self.append_copy(&head, &message);
        }
        if last == u64::MAX { next } else { Checkpoint::Queue(index, last) }
    }
}
