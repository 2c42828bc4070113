//! Stored messages by position, each as long as something refers to it; above a limit not their
//! bytes, but where those stand in the log.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{Body, Digest, DigestOf, OriginOf, UnderWay};
use crate::Place;
use crate::record::SessionId;

/// One message.
#[derive(Clone, Debug)]
struct Stored {
    body: Body,
    /// Where the log has it, if that is known.
    place: Option<Place>,
    /// It might have been left in the log.
    may_be_away: bool,
    /// Entries, pending places, retained topics and open fan-outs that refer to it.
    holds: u32,
    /// Open fan-outs among them; only while there is one is it noted who had the message.
    open: u32,
    had: Vec<(SessionId, u16)>,
    forwarded: Vec<(u16, u64)>,
    /// The shard that it came from, and its place in the order from there.
    from: Option<(u16, u64)>,
    /// It was retained as it came.
    retained: bool,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Messages {
    by_lsn: HashMap<u64, Stored>,
    /// How many bytes may be in memory of messages that may be left in the log, and what tells
    /// apart those that are.
    limit: Option<(u64, DigestOf)>,
    /// Bytes of these.
    here_bytes: u64,
}

impl Messages {
    pub(super) fn len(&self) -> usize {
        self.by_lsn.len()
    }

    pub(super) fn contains(&self, lsn: u64) -> bool {
        self.by_lsn.contains_key(&lsn)
    }

    /// From now on leaves messages in the log for which there is no room.
    pub(super) fn limit(&mut self, bytes_max: u64, digest_of: DigestOf) {
        self.limit = Some((bytes_max, digest_of));
    }

    /// Adds a message with one hold, which is the caller's to release. It may be left at its place
    /// in the log if `may_be_away`.
    pub(super) fn insert(
        &mut self,
        lsn: u64,
        message: &[u8],
        place: Option<Place>,
        may_be_away: bool,
    ) {
        let may_be_away = may_be_away && place.is_some();
        let bytes = message.len() as u64;
        let digest = match self.limit {
            Some((max, of)) if may_be_away && self.here_bytes + bytes > max => of(message),
            _ => None,
        };
        if may_be_away && digest.is_none() && !self.contains(lsn) {
            self.here_bytes += bytes;
        }
        let body = || match digest {
            Some(digest) => Body::Away(digest),
            None => Body::Here(Bytes::copy_from_slice(message)),
        };
        self.insert_body(lsn, body, place, may_be_away);
    }

    pub(super) fn insert_shared(&mut self, lsn: u64, bytes: impl FnOnce() -> Bytes) {
        self.insert_body(lsn, || Body::Here(bytes()), None, false);
    }

    fn insert_body(
        &mut self,
        lsn: u64,
        body: impl FnOnce() -> Body,
        place: Option<Place>,
        may_be_away: bool,
    ) {
        let stored = self.by_lsn.entry(lsn).or_insert_with(|| Stored {
            body: body(),
            place,
            may_be_away,
            holds: 0,
            open: 0,
            had: Vec::new(),
            forwarded: Vec::new(),
            from: None,
            retained: false,
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
                if let (Body::Here(bytes), true) = (&stored.body, stored.may_be_away) {
                    self.here_bytes -= bytes.len() as u64;
                }
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

    /// The message came from another shard, or out of this one's own custody, and was retained or
    /// not.
    pub(super) fn note_from(&mut self, lsn: u64, from: (u16, u64), retained: bool) {
        if let Some(stored) = self.by_lsn.get_mut(&lsn) {
            (stored.from, stored.retained) = (Some(from), retained);
        }
    }

    /// The bytes of a message that is in memory: one that was not left in the log.
    pub(super) fn bytes(&self, lsn: u64) -> Bytes {
        match self.by_lsn.get(&lsn).map(|stored| &stored.body) {
            Some(Body::Here(bytes)) => bytes.clone(),
            Some(Body::Away(_)) | None => Bytes::new(),
        }
    }

    /// What there is of a message, its place, and whether more than one thing refers to it.
    pub(super) fn body(&self, lsn: u64) -> (Body, Option<Place>, bool) {
        match self.by_lsn.get(&lsn) {
            Some(stored) => (stored.body.clone(), stored.place, stored.holds > 1),
            None => (Body::Here(Bytes::new()), None, false),
        }
    }

    /// Where a message stands that was left in the log.
    pub(super) fn away(&self, lsn: u64) -> Option<(Place, Digest)> {
        let stored = self.by_lsn.get(&lsn)?;
        match stored.body {
            Body::Away(digest) => Some((stored.place?, digest)),
            Body::Here(_) => None,
        }
    }

    /// Brings a message back that was left in the log.
    pub(super) fn bring(&mut self, lsn: u64, bytes: Bytes) {
        if let Some(stored) = self.by_lsn.get_mut(&lsn) {
            stored.body = Body::Here(bytes);
            stored.may_be_away = false;
        }
    }

    /// Adds what a record says of who had the message of a place, and which shards and groups it
    /// went on to. The record that gave the place to a part of the message names those who had the
    /// other parts: they are not of this one, unless the part is the rest of the very fan-out that
    /// served them (`is_for_all`), and it never is what a member of a group had.
    pub(super) fn add_had(&self, lsn: u64, is_for_all: bool, into: &mut UnderWay) {
        let Some(stored) = self.by_lsn.get(&lsn) else { return };
        if stored.from == Some((into.origin, into.seq)) {
            into.had.extend_from_slice(&stored.had);
            into.forwarded.extend_from_slice(&stored.forwarded);
            into.retained |= stored.retained;
        } else if is_for_all {
            into.had.extend(stored.had.iter().filter(|(_, membership)| *membership == 0));
        }
    }

    /// The positions of the messages that `pick` takes, by where their first record stands
    /// (`origin_of`) and where they came from.
    pub(super) fn select(
        &self,
        origin_of: OriginOf,
        pick: impl Fn(Option<(u16, u64)>, Option<(u16, u64)>) -> bool,
    ) -> HashSet<u64> {
        let first = |body: &Body| match body {
            Body::Here(bytes) => origin_of(bytes),
            Body::Away(digest) => Some(digest.origin),
        };
        let all = self.by_lsn.iter();
        let picked = all.filter(|(_, stored)| pick(first(&stored.body), stored.from));
        picked.map(|(lsn, _)| *lsn).collect()
    }
}
