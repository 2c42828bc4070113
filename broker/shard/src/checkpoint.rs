//! The checkpoint: the whole live state is written to the log again, a slice per turn, so that
//! what lies before its begin can be freed. What changes meanwhile is recorded as ever; a record
//! of the checkpoint says how things stand when it is written, so both fit together in any order.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;

use ringtide_codec::QoS;
use ringtide_session::Delivery;
use ringtide_storage::record::{
    CheckpointEndRecord, Destination, MessageHead, SessionId, WatermarkRecord,
};
use ringtide_storage::{RecordKind, Store};

use crate::core::Core;
use crate::kept::Kept;
use crate::message::Message;
use crate::pages::Reader;
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
    /// What waits for a session and is to be written next, once all of it is in memory.
    slice: Option<Slice>,
}

/// Messages with more than one holder that a checkpoint has written, by the handle's address and
/// the place from an origin, with their positions: a message that waits for many sessions stands in
/// the log once, and is one message again after a restart. Holding it keeps its address its own.
type Written = HashMap<(usize, Option<(u16, NonZeroU64)>), (u64, Kept)>;

/// Some of what waits for a session, in the order of its log; pinned.
#[derive(Debug)]
struct Slice {
    session: u32,
    generation: u32,
    /// It was not written in the turn in which it was taken: some may have been delivered since.
    waited: bool,
    /// Each with whether others wait for it, too.
    deliveries: Vec<(bool, Delivery<Stored>)>,
    next: Progress,
}

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
            if !self.is_slice_here(&mut job) {
                // Goes on when it has been read.
                self.checkpoint = Some(job);
                return false;
            }
            let Some(next) = self.checkpoint_step(&mut job, &mut left) else {
                let mut body = Vec::new();
                CheckpointEndRecord.encode(&mut body);
                self.record(RecordKind::CheckpointEnd, &body);
                self.store.end_checkpoint();
                return false;
            };
            job.at = next;
            if left == 0 && job.slice.is_none() {
                break;
            }
        }
        if let Some(slice) = &mut job.slice {
            slice.waited = true;
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
        Checkpoint { at: Progress::Sessions(0), written: HashMap::new(), slice: None }
    }

    fn append_copy(&mut self, head: &MessageHead<'_>, message: &Message) -> u64 {
        let journal = &mut self.clients.journal;
        journal.append(&mut self.store, RecordKind::Checkpoint, head, &message.view(), None)
    }

    /// True if all of what is to be written next is in memory; asks for what is not.
    fn is_slice_here(&mut self, job: &mut Checkpoint) -> bool {
        let Some(slice) = &mut job.slice else { return true };
        let messages = slice.deliveries.iter().map(|(_, one)| one.message.message.clone());
        let waits = self.clients.pages.want(messages, Reader::Checkpoint);
        slice.waited |= waits;
        !waits
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
            Progress::Queue(index, behind) => Some(match job.slice.take() {
                Some(slice) => self.write_slice(job, slice),
                None => {
                    job.slice = self.take_slice((index, behind), left);
                    let done = Progress::Sessions(index + 1);
                    if job.slice.is_some() { job.at } else { done }
                }
            }),
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

    /// What waits for a session, as far as the turn allows; `None` if nothing is left.
    fn take_slice(&mut self, (index, behind): (u32, u64), left: &mut usize) -> Option<Slice> {
        let session = self.clients.sessions.at(index)?;
        let generation = session.generation;
        let outbound = session.outbound.as_ref()?;
        let mut bytes = 0;
        // A session that was resumed to end with its connection has what the log knows before what
        // it does not.
        let is_before = |one: &Delivery<Stored>| one.message.seq != 0 && one.message.seq <= behind;
        let mut queue =
            outbound.waiting_behind(is_before).take_while(|delivery| delivery.message.seq != 0);
        let copied = |delivery: &Delivery<Stored>| {
            let shared = delivery.message.message.is_shared();
            (shared, delivery.clone())
        };
        let mut deliveries: Vec<(bool, Delivery<Stored>)> = Vec::new();
        while bytes < *left
            && let Some(delivery) = queue.next()
        {
            bytes += delivery.bytes as usize;
            deliveries.push(copied(delivery));
        }
        // What is under way may stand anywhere in the order: after a restart an exchange of QoS 2
        // is before older messages of QoS 1. It is written with those around it.
        let mut last = match queue.next() {
            Some(_) => deliveries.last().map_or(behind, |(_, delivery)| delivery.message.seq),
            None => u64::MAX,
        };
        let slice = behind + 1..=last;
        let under_way = outbound.under_way().filter_map(|(_, delivery)| delivery);
        deliveries.extend(under_way.filter(|one| slice.contains(&one.message.seq)).map(copied));
        drop(queue);
        deliveries.sort_unstable_by_key(|(_, one)| one.message.seq);
        bytes = 0;
        let fits = deliveries.iter().take_while(|(_, one)| {
            let more = bytes < *left;
            bytes += one.bytes as usize;
            more
        });
        let fits = fits.count();
        if fits < deliveries.len() {
            deliveries.truncate(fits);
            last = deliveries.last().map_or(behind, |(_, one)| one.message.seq);
        }
        *left = left.saturating_sub(bytes);
        for (_, delivery) in &deliveries {
            delivery.message.message.pin();
        }
        let done = Progress::Sessions(index + 1);
        let next = if last == u64::MAX { done } else { Progress::Queue(index, last) };
        (!deliveries.is_empty() || last != u64::MAX).then_some(Slice {
            session: index,
            generation,
            waited: false,
            deliveries,
            next,
        })
    }

    /// Writes what was taken, as far as it still waits.
    fn write_slice(&mut self, job: &mut Checkpoint, slice: Slice) -> Progress {
        let waiting = slice.waited.then(|| self.still_waiting(&slice));
        let owner = self.clients.sessions.at(slice.session);
        let owner = owner.filter(|session| session.generation == slice.generation);
        let owner = owner.map(|session| session.log_id).filter(|id| *id != SessionId(0));
        for (shared, delivery) in slice.deliveries {
            let message = delivery.message.message.clone();
            let waits = waiting.as_ref().is_none_or(|all| all.contains(&delivery.message.seq));
            if let Some(owner) = owner.filter(|_| waits) {
                let written = shared.then_some(&mut job.written);
                self.checkpoint_delivery(written, owner, delivery);
            }
            self.clients.pages.unpin(message);
        }
        slice.next
    }

    /// What of a slice still waits: a record of what was delivered or dropped while others were
    /// read would bring it back.
    fn still_waiting(&self, slice: &Slice) -> HashSet<u64> {
        let seqs = slice.deliveries.iter().map(|(_, one)| one.message.seq);
        let Some((first, last)) = seqs.clone().min().zip(seqs.max()) else {
            return HashSet::new();
        };
        let session = self.clients.sessions.at(slice.session);
        let Some(outbound) = session.and_then(|session| session.outbound.as_ref()) else {
            return HashSet::new();
        };
        let is_before = |one: &Delivery<Stored>| one.message.seq != 0 && one.message.seq < first;
        let queue = outbound.waiting_behind(is_before).map(|one| one.message.seq);
        let queue = queue.take_while(|seq| (first..=last).contains(seq));
        let under_way = outbound.under_way().filter_map(|(_, one)| Some(one?.message.seq));
        queue.chain(under_way).collect()
    }

    fn checkpoint_delivery(
        &mut self,
        written: Option<&mut Written>,
        session: SessionId,
        delivery: Delivery<Stored>,
    ) {
        let Delivery { qos, retain, membership, subscription_ids: ids, .. } = delivery;
        let Stored { seq, message: handle, origin } = delivery.message;
        debug_assert!(qos != QoS::AtMostOnce);
        // What the log did not give back is noted where it is to be sent.
        let Some(message) = handle.message().map(|message| message.clone()) else { return };
        self.clients.journal.entry(session, seq, qos as u8, retain, membership, &ids);
        let place = (handle.address(), origin);
        if let Some(&(lsn, _)) = written.as_ref().and_then(|written| written.get(&place)) {
            self.clients.journal.append_entries(&mut self.store, lsn);
            return;
        }
        // Its origin may yet turn out to have lost it.
        let from = origin.map(|(shard, seq)| (shard, seq.get()));
        let head = MessageHead { origin: from, ..MessageHead::default() };
        let journal = &mut self.clients.journal;
        let (kind, own) = (RecordKind::Checkpoint, Some(&handle));
        let lsn = journal.append(&mut self.store, kind, &head, &message.view(), own);
        if let Some(written) = written {
            written.insert(place, (lsn, handle));
        }
    }
}
