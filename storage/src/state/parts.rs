//! A state taken apart into what a shard restores.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::State;
use crate::Place;
use crate::record::{SessionId, SessionRecord};

/// A stored message. Copies share its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The position of the record that it stands in.
    pub lsn: u64,
    /// The message, as far as it is in memory.
    pub body: Body,
    /// Where the log has that record, if it is known.
    pub place: Option<Place>,
    /// More than one thing refers to it.
    pub is_shared: bool,
}

/// A message, or what is known of one that was left in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// It is in memory.
    Here(Bytes),
    /// Only the log has it.
    Away(Digest),
}

/// What is known of a message that was left in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Its length: it is the end of its record's body.
    pub bytes: u32,
    /// Hash of tenant and topic.
    pub topic_hash: u64,
    /// When it expires, in milliseconds since the epoch; 0 = never.
    pub expires_ms: u64,
    /// The shard whose log has its first record, and that record's position.
    pub origin: (u16, u64),
}

impl Kept {
    /// The message's bytes; empty if it was left in the log ([`State::leave_above`]).
    pub fn bytes(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match &self.body {
            Body::Here(bytes) => bytes,
            Body::Away(_) => &NONE,
        }
    }
}

/// A message that waits for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its place in the session's order.
    pub seq: u64,
    /// QoS of the delivery.
    pub qos: u8,
    /// The RETAIN flag as the client gets it.
    pub retain: bool,
    /// The membership of a shared group for which it was chosen, 0 = none.
    pub membership: u16,
    /// Subscription identifiers.
    pub ids: Vec<u32>,
    /// The message.
    pub message: Kept,
}

/// A session with what waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPart {
    /// Filters are in the order of their bytes. Every exchange with an entry has it among
    /// `waiting`.
    pub record: SessionRecord,
    /// In order.
    pub waiting: Vec<Waiting>,
}

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Tenant.
    pub tenant: u32,
    /// Topic.
    pub topic: String,
    /// The message.
    pub message: Kept,
}

/// A message that another shard, or this one, must still take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The destination.
    pub shard: u16,
    /// Its place in the order.
    pub seq: u64,
    /// The shared group for one of whose members it is, by hash; 0 = for all that match there.
    pub group: u64,
    /// The message.
    pub message: Kept,
}

/// A message above its origin's watermark that was taken over in part: when it comes again, those
/// who had it must not get it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// The origin: another shard, or this one for what is in its own custody.
    pub origin: u16,
    /// Its place in the order.
    pub seq: u64,
    /// Sessions that were given it, whether it still waits for them or not, each with the
    /// membership of a shared group for which it was chosen (0 = none).
    pub had: Vec<(SessionId, u16)>,
    /// Shards that it was passed on to, each with the shared group by hash (0 = none).
    pub forwarded: Vec<(u16, u64)>,
    /// It was retained: another message may have taken its topic since.
    pub retained: bool,
}

impl UnderWay {
    /// True if something followed from it: one that is for a single taker has found it, one that
    /// was to be published anew has been.
    pub fn is_passed_on(&self) -> bool {
        self.retained || !self.had.is_empty() || !self.forwarded.is_empty()
    }
}

/// See the module's documentation. Every list is sorted by its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Sessions, by id.
    pub sessions: Vec<SessionPart>,
    /// Retained messages, by tenant and topic.
    pub retained: Vec<Retained>,
    /// What is to be sent again, by destination and place. What the destination's watermark
    /// covers is among it unless [`State::taken_over`] was told so.
    pub pending: Vec<Pending>,
    /// What was taken over in part, by origin and place.
    pub under_way: Vec<UnderWay>,
    /// The last place taken over from each origin.
    pub watermarks: Vec<(u16, u64)>,
    /// The last place given to a message for each destination; once settled at least the last one
    /// that the destination's log names ([`State::settle`]).
    pub sent: Vec<(u16, u64)>,
    /// The highest session id seen.
    pub last_session: SessionId,
    /// The highest place of an entry seen.
    pub last_seq: u64,
    /// As [`State::ignored`].
    pub ignored: u64,
}

impl State {
    fn kept(&self, lsn: u64) -> Kept {
        let (body, place, is_shared) = self.messages.body(lsn);
        Kept { lsn, body, place, is_shared }
    }

    /// Takes the state apart. Memory is given up session by session, so that the peak stays near
    /// that of the state.
    pub fn into_parts(mut self) -> Parts {
        let sessions = self.take_sessions();
        let retained = self.retained.iter().map(|((tenant, topic), lsn)| Retained {
            tenant: *tenant,
            topic: String::from(&**topic),
            message: self.kept(*lsn),
        });
        let pending = self.pending.iter().map(|(&(shard, seq), &(lsn, group))| Pending {
            shard,
            seq,
            group,
            message: self.kept(lsn),
        });
        Parts {
            retained: retained.collect(),
            pending: pending.collect(),
            under_way: self.under_way(),
            watermarks: self.watermarks.iter().map(|(shard, seq)| (*shard, *seq)).collect(),
            sent: self.sent.iter().map(|(shard, seq)| (*shard, *seq)).collect(),
            last_session: self.last_session,
            last_seq: self.last_seq,
            ignored: self.ignored,
            sessions,
        }
    }

    /// Gives every session as a record to `sink`, in the order of their ids.
    pub fn each_session(&self, sink: &mut dyn FnMut(&SessionRecord)) {
        for (id, session) in self.sessions_in_order() {
            sink(&session.record(*id));
        }
    }

    fn take_sessions(&mut self) -> Vec<SessionPart> {
        let sessions = std::mem::take(&mut self.sessions);
        let mut sessions: Vec<_> = sessions.into_iter().collect();
        sessions.sort_unstable_by_key(|(id, _)| *id);
        let part = |(id, session): (SessionId, Box<super::session::Session>)| {
            let (mut record, waiting) = session.into_record(id);
            record.exchanges.retain(|one| one.seq.is_none_or(|seq| waiting.contains_key(&seq)));
            let waiting = waiting.into_iter().map(|(seq, slot)| Waiting {
                seq,
                qos: slot.qos,
                retain: slot.retain,
                membership: slot.membership,
                ids: slot.ids.into_vec(),
                message: self.kept(slot.lsn),
            });
            let waiting = waiting.collect();
            SessionPart { record, waiting }
        };
        sessions.into_iter().map(part).collect()
    }

    /// What was taken over in part. A message that came twice may stand in several records.
    pub(super) fn under_way(&self) -> Vec<UnderWay> {
        let mut all: BTreeMap<(u16, u64), UnderWay> = BTreeMap::new();
        for &(origin, seq, lsn) in &self.open {
            let one = all.entry((origin, seq)).or_insert_with(|| UnderWay {
                origin,
                seq,
                had: Vec::new(),
                forwarded: Vec::new(),
                retained: false,
            });
            let group = self.pending.get(&(origin, seq)).map_or(0, |(_, group)| *group);
            self.messages.add_had(lsn, origin != self.shard || group == 0, one);
        }
        let tidy = |mut one: UnderWay| {
            one.had.sort_unstable();
            one.had.dedup();
            one.forwarded.sort_unstable();
            one.forwarded.dedup();
            one
        };
        all.into_values().map(tidy).collect()
    }
}
