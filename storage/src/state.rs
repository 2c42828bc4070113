//! What the records of one log amount to: sessions with what waits for them, retained messages,
//! what is on its way to other shards.
//!
//! Owns no file and knows no MQTT: a [`State`] is fed with records in the order of their positions
//! and taken apart at the end ([`State::into_parts`]). What a shard keeps in memory follows from
//! it, and nothing else is needed to go on after a crash.
//!
//! # Why any end of a log is enough
//!
//! A log is replayed from its oldest segment, which begins anywhere before the begin of the last
//! whole checkpoint and may be followed by checkpoints that a crash cut short. This is why it
//! works:
//!
//! * A record about a session that is not known does nothing. So what is left of the time before
//!   the checkpoint cannot bring a session back halfway; the checkpoint then brings it as a whole.
//! * A Session record does not touch what waits for the session: a checkpoint that was cut short
//!   has not written that again. What is done is done by records of its own.
//! * An entry, a pending message and a retained one are each put in their place by their key
//!   (session and seq, destination and seq, topic): writing them again changes nothing.
//! * What a checkpoint finds is written as it is at that moment, so it fits what was recorded
//!   before and after, in whatever slices it is written. One thing it cannot say is who had a
//!   message whose fan-out is not over: fan-outs that began before a checkpoint must end (have
//!   their watermark recorded) before it does.
//!
//! # How long a message stays
//!
//! As long as an entry waits, it is pending, it is retained, or it came from an origin (another
//! shard, or this shard's own custody) whose watermark has not passed it. So a message to which
//! [`QueueRecord`]s may still be added must be pending to its own
//! shard, or above its origin's watermark, or of a checkpoint whose end has not come: those stay
//! until it does.

mod checkpoint;
mod messages;
mod parts;
mod redistribute;
mod session;
mod together;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;

use crate::record::{
    CheckpointEndRecord, ConnectionRecord, Destination, Entry, ExchangeRecord, MessageHead,
    QueueRecord, RecordError, SessionEndRecord, SessionId, SessionRecord, SubscriptionRecord,
    VoidRecord, WatermarkRecord,
};
use crate::{Lsn, Place, RecordKind};

use messages::Messages;
pub use parts::{Body, Digest, Kept, Parts, Pending, Retained, SessionPart, UnderWay, Waiting};
pub use redistribute::{Due, Followed};
use session::Session;

/// Reads a message: its tenant, its topic, and whether its payload is empty. `None` if the bytes
/// are no message.
pub type TopicOf = fn(&[u8]) -> Option<(u32, &str, bool)>;

/// Reads a message: the shard whose log has its first record, and that record's position. `None`
/// if the bytes are no message.
pub type OriginOf = fn(&[u8]) -> Option<(u16, u64)>;

/// Reads what must be known of a message that is left in the log. `None` if the bytes are no
/// message.
pub type DigestOf = fn(&[u8]) -> Option<Digest>;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct State {
    shard: u16,
    topic_of: TopicOf,
    /// Boxed: a table of a million sessions grows without moving them.
    sessions: HashMap<SessionId, Box<Session>>,
    messages: Messages,
    /// The position of the message of each tenant and topic.
    retained: BTreeMap<(u32, Box<str>), u64>,
    /// By destination and place: the message's position and the group.
    pending: BTreeMap<(u16, u64), (u64, u64)>,
    /// Messages above their origin's watermark: origin, place, position.
    open: BTreeSet<(u16, u64, u64)>,
    /// By origin: the last place taken over.
    watermarks: BTreeMap<u16, u64>,
    /// By destination: the last place given.
    sent: BTreeMap<u16, u64>,
    /// By destination: the last place that it has taken over, as far as is known.
    taken: BTreeMap<u16, u64>,
    /// Messages of a checkpoint whose end has not come: further sessions may follow, also when the
    /// first have done with them.
    followed: Vec<u64>,
    /// Messages that were left in the log and are needed after all.
    needed: Vec<u64>,
    /// By origin: the highest place from there that the log names, whatever became of it.
    known: BTreeMap<u16, u64>,
    /// Messages that the log says are void, of its own and of others: shard and position.
    void: Vec<(u16, u64)>,
    last_lsn: u64,
    last_session: SessionId,
    last_seq: u64,
    ignored: u64,
}

impl State {
    /// An empty state of the shard with this number.
    pub fn new(shard: u16, topic_of: TopicOf) -> State {
        State {
            shard,
            topic_of,
            sessions: HashMap::new(),
            messages: Messages::default(),
            retained: BTreeMap::new(),
            pending: BTreeMap::new(),
            open: BTreeSet::new(),
            watermarks: BTreeMap::new(),
            sent: BTreeMap::new(),
            taken: BTreeMap::new(),
            followed: Vec::new(),
            needed: Vec::new(),
            known: BTreeMap::new(),
            void: Vec::new(),
            last_lsn: 0,
            last_session: SessionId(0),
            last_seq: 0,
            ignored: 0,
        }
    }

    /// From now on leaves messages in the log, of whom at most `bytes_max` bytes are in memory:
    /// those that wait for sessions and are needed for nothing else. For [`State::apply_at`]; a
    /// state that leaves messages in the log can be taken apart, and nothing else.
    pub fn leave_above(&mut self, bytes_max: u64, digest_of: DigestOf) {
        self.messages.limit(bytes_max, digest_of);
    }

    /// The messages that were left in the log and are needed in memory all the same, with their
    /// places, for [`State::bring`].
    pub fn needed(&self) -> Vec<(u64, Place)> {
        let places = self.needed.iter().map(|&lsn| Some((lsn, self.messages.away(lsn)?.0)));
        places.flatten().collect()
    }

    /// Brings the message of a position back, whose record's body is `body`.
    pub fn bring(&mut self, lsn: u64, body: &[u8]) {
        let Some((_, digest)) = self.messages.away(lsn) else { return };
        if let Some(at) = body.len().checked_sub(digest.bytes as usize) {
            self.messages.bring(lsn, Bytes::copy_from_slice(&body[at..]));
        }
    }

    /// Records, and entries of records, that did nothing because what they are about is not known.
    /// After a checkpoint some are usual.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Messages that are held.
    pub fn messages(&self) -> usize {
        self.messages.len()
    }

    /// Sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Messages pending to any shard.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Takes a record in. Positions must ascend.
    ///
    /// # Errors
    /// The body is not a record of this kind; nothing has changed then.
    pub fn apply(&mut self, lsn: Lsn, kind: RecordKind, body: &[u8]) -> Result<(), RecordError> {
        self.apply_at(lsn, kind, body, None)
    }

    /// As [`State::apply`], of a record that stands at a place where it can be read again.
    ///
    /// # Errors
    /// The body is not a record of this kind; nothing has changed then.
    pub fn apply_at(
        &mut self,
        lsn: Lsn,
        kind: RecordKind,
        body: &[u8],
        place: Option<Place>,
    ) -> Result<(), RecordError> {
        match kind {
            RecordKind::Message | RecordKind::Checkpoint => {
                let (head, message) = MessageHead::decode(body)?;
                self.apply_message(lsn.0, &head, message, place)?;
                if kind == RecordKind::Checkpoint {
                    self.followed.push(lsn.0);
                } else {
                    self.messages.release(lsn.0);
                }
            }
            RecordKind::CheckpointEnd => {
                CheckpointEndRecord::decode(body)?;
                for lsn in self.followed.drain(..) {
                    self.messages.release(lsn);
                }
            }
            RecordKind::Session => self.apply_session(SessionRecord::decode(body)?),
            RecordKind::Subscription => self.apply_subscription(SubscriptionRecord::decode(body)?),
            RecordKind::Queue => self.apply_queue(&QueueRecord::decode(body)?),
            RecordKind::Exchange => self.apply_exchange(ExchangeRecord::decode(body)?),
            RecordKind::Connection => self.apply_connection(ConnectionRecord::decode(body)?),
            RecordKind::SessionEnd => self.end_session(SessionEndRecord::decode(body)?.session),
            RecordKind::Watermark => self.apply_watermark(&WatermarkRecord::decode(body)?),
            RecordKind::Void => self.apply_void(VoidRecord::decode(body)?),
        }
        Ok(())
    }

    /// Leaves the message with a hold that is the caller's to release.
    fn apply_message(
        &mut self,
        lsn: u64,
        head: &MessageHead<'_>,
        message: &[u8],
        place: Option<Place>,
    ) -> Result<(), RecordError> {
        self.last_lsn = self.last_lsn.max(lsn);
        let topic = if head.retained {
            Some((self.topic_of)(message).ok_or(RecordError::Invalid)?)
        } else {
            None
        };
        let for_sessions = !head.retained && head.destinations.is_empty();
        self.messages.insert(lsn, message, place, for_sessions);
        if let Some((session, packet_id)) = head.inbound {
            match self.sessions.get_mut(&session) {
                Some(session) => session.begin_inbound(packet_id),
                None => self.ignored += 1,
            }
        }
        if let Some((origin, seq)) = head.origin {
            self.know(origin, seq);
            self.open(lsn, origin, seq);
            self.messages.note_from(lsn, (origin, seq), head.retained);
        }
        for destination in head.destinations.iter() {
            self.add_pending(lsn, destination);
            if destination.shard == self.shard {
                self.open(lsn, destination.shard, destination.seq);
            }
        }
        if let Some((tenant, topic, cleared)) = topic {
            let key = (tenant, Box::from(topic));
            let old = if cleared {
                self.retained.remove(&key)
            } else {
                self.messages.hold(lsn);
                self.retained.insert(key, lsn)
            };
            if let Some(old) = old {
                self.messages.release(old);
            }
        }
        if head.origin.is_some() {
            let forwarded = head.destinations.iter().map(|to| (to.shard, to.group));
            self.messages.note_forwarded(lsn, forwarded);
        }
        self.add_entries(lsn, &head.entries);
        Ok(())
    }

    fn know(&mut self, origin: u16, seq: u64) {
        let known = self.known.entry(origin).or_default();
        *known = seq.max(*known);
    }

    /// Notes that a message's fan-out is under way, unless its watermark says that it is over.
    fn open(&mut self, lsn: u64, origin: u16, seq: u64) {
        let over = self.watermarks.get(&origin).is_some_and(|mark| *mark >= seq);
        if !over && self.open.insert((origin, seq, lsn)) {
            self.messages.open(lsn);
        }
    }

    fn add_pending(&mut self, lsn: u64, destination: &Destination) {
        let Destination { shard, seq, group } = *destination;
        let sent = self.sent.entry(shard).or_default();
        *sent = seq.max(*sent);
        if self.taken.get(&shard).is_some_and(|taken| *taken >= seq) {
            return;
        }
        self.messages.hold(lsn);
        if let Some((old, _)) = self.pending.insert((shard, seq), (lsn, group)) {
            self.messages.release(old);
        }
    }

    fn add_entries(&mut self, lsn: u64, entries: &[Entry<'_>]) {
        for entry in entries {
            self.last_seq = self.last_seq.max(entry.seq);
            if entry.membership != 0 && self.messages.away(lsn).is_some() {
                // When its session ends another member gets it, at once.
                self.needed.push(lsn);
            }
            // Also one that a checkpoint brings only later: it had the message all the same.
            self.messages.note_had(lsn, entry.session, entry.membership);
            let Some(session) = self.sessions.get_mut(&entry.session) else {
                self.ignored += 1;
                continue;
            };
            self.messages.hold(lsn);
            if let Some(old) = session.add_entry(lsn, entry) {
                self.messages.release(old);
            }
        }
    }

    fn apply_queue(&mut self, record: &QueueRecord<'_>) {
        if self.messages.contains(record.message) {
            self.add_entries(record.message, &record.entries);
        } else {
            self.ignored += 1;
        }
    }

    fn apply_session(&mut self, record: SessionRecord) {
        self.last_session = self.last_session.max(record.id);
        self.sessions.entry(record.id).or_default().reset(record);
    }

    fn apply_subscription(&mut self, record: SubscriptionRecord<'_>) {
        match self.sessions.get_mut(&record.session) {
            Some(session) => session.subscribe(record.filter, record.options),
            None => self.ignored += 1,
        }
    }

    fn apply_connection(&mut self, record: ConnectionRecord) {
        match self.sessions.get_mut(&record.session) {
            Some(session) => session.connection(record),
            None => self.ignored += 1,
        }
    }

    fn apply_exchange(&mut self, record: ExchangeRecord) {
        match self.sessions.get_mut(&record.session) {
            Some(session) => {
                if let Some(lsn) = session.step(record.step) {
                    self.messages.release(lsn);
                }
            }
            None => self.ignored += 1,
        }
    }

    fn end_session(&mut self, id: SessionId) {
        match self.sessions.remove(&id) {
            Some(session) => {
                for lsn in session.messages() {
                    self.messages.release(lsn);
                }
            }
            None => self.ignored += 1,
        }
    }

    fn apply_watermark(&mut self, record: &WatermarkRecord) {
        for &(origin, seq) in &record.marks {
            self.know(origin, seq);
            let mark = self.watermarks.entry(origin).or_default();
            *mark = seq.max(*mark);
            while let Some(first) = self.open.range((origin, 0, 0)..=(origin, seq, u64::MAX)).next()
            {
                let first = *first;
                self.open.remove(&first);
                self.messages.close(first.2);
            }
            if origin == self.shard {
                self.taken_over(origin, seq);
            }
        }
        for &(shard, seq) in &record.sent {
            let sent = self.sent.entry(shard).or_default();
            *sent = seq.max(*sent);
        }
    }

    fn apply_void(&mut self, record: VoidRecord) {
        let own = record.messages.iter().filter(|(shard, _)| *shard == self.shard);
        let own = own.map(|(_, lsn)| *lsn).collect();
        self.discard(&own);
        self.void.extend(record.messages);
    }

    /// Another shard has taken over the messages of this one up to a place, as its own log says:
    /// they are not pending any more. May be told before the replay as well as after it.
    pub fn taken_over(&mut self, shard: u16, seq: u64) {
        let taken = self.taken.entry(shard).or_default();
        *taken = seq.max(*taken);
        while let Some((&key, &(lsn, _))) = self.pending.range((shard, 0)..=(shard, seq)).next() {
            self.pending.remove(&key);
            self.messages.release(lsn);
        }
    }

    /// The last place that this shard has taken over from an origin, 0 = none.
    pub fn watermark(&self, origin: u16) -> u64 {
        self.watermarks.get(&origin).copied().unwrap_or(0)
    }

    /// The last place given to a message for another shard, 0 = none.
    pub fn sent(&self, shard: u16) -> u64 {
        self.sent.get(&shard).copied().unwrap_or(0)
    }

    /// Discards what follows from messages that their origin has lost: those whose first record
    /// would be in the log of `origin` behind `last`, the last position of that log, and those that
    /// came from there at a place behind `sent`, the last that its log says was given. Their
    /// publishers were told nothing and send them again. Gives the positions of the messages of
    /// which something went.
    ///
    /// The log still has them, and by the next start their origin may have used their positions and
    /// places for other messages: the caller must record ([`VoidRecord`]) that they are void,
    /// durably, before any of the logs goes on.
    ///
    /// A retained message stays: which of the two the topic holds was never promised.
    pub fn discard_uncommitted(
        &mut self,
        origin: u16,
        last: Lsn,
        sent: u64,
        origin_of: OriginOf,
    ) -> BTreeSet<u64> {
        let is_lost = |first: Option<(u16, u64)>, from: Option<(u16, u64)>| {
            first.is_some_and(|(shard, lsn)| shard == origin && lsn > last.0)
                || from.is_some_and(|(shard, seq)| shard == origin && seq > sent)
        };
        let lost = self.messages.select(origin_of, is_lost);
        self.discard(&lost)
    }

    /// Takes back what follows from messages, but that one is retained. The positions of those of
    /// which something went.
    fn discard(&mut self, lost: &HashSet<u64>) -> BTreeSet<u64> {
        let mut gone = Vec::new();
        if lost.is_empty() {
            return BTreeSet::new();
        }
        for session in self.sessions.values_mut() {
            session.discard(lost, &mut gone);
        }
        let pending = self.pending.extract_if(.., |_, (lsn, _)| lost.contains(lsn));
        gone.extend(pending.map(|(_, (lsn, _))| lsn));
        let mut all: BTreeSet<u64> = gone.iter().copied().collect();
        for lsn in gone {
            self.messages.release(lsn);
        }
        for (_, _, lsn) in self.open.extract_if(.., |(_, _, lsn)| lost.contains(lsn)) {
            self.messages.close(lsn);
            all.insert(lsn);
        }
        all
    }
}
