//! The states of some shards as those of another number of shards.
//!
//! What is pending between shards cannot simply be addressed anew: it is meant for the sessions of
//! one old shard, those of the others have it already or get it by places of their own, and the
//! sessions of one new shard come from several old ones. So every pending message is first taken
//! over under the old number of shards, as its destination would have done: the caller says which
//! of that shard's sessions it is for, those who had it are left out, and it is pending no more.
//! Then sessions move with all that waits for them, and retained messages with their topics. So
//! nothing is lost, and nothing is given twice.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::session::Session;
use super::{State, UnderWay};
use crate::record::{Entry, MessageHead, SessionId, WatermarkRecord};

/// A message that is taken over under the old number of shards.
#[derive(Debug)]
pub struct Due<'a> {
    /// The old shard whose sessions it is for.
    pub shard: u16,
    /// The old shard that it comes from.
    pub origin: u16,
    /// The shared group for one of whose members it is, by hash; 0 = for all that match there,
    /// [`ANEW`](crate::record::ANEW) = for those and for one member of each shared group that
    /// matches. Of a group's members one is to be taken, on whatever shard: every shard is asked.
    pub group: u64,
    /// The message.
    pub message: &'a Bytes,
}

/// What follows from such a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// The sessions of the old shard that it is for, by their old ids; [`Entry::seq`] is not
    /// looked at.
    pub entries: Vec<Entry<'static>>,
    /// It is (or, with an empty payload, clears) the retained message of its topic, whose home is
    /// the old shard.
    pub retained: bool,
}

impl State {
    /// Distributes the states of shards 0, 1, ... (`states` in that order, after
    /// [`State::discard_uncommitted`]) over `shards` new ones: `shard_of` gives the home of a
    /// client id or topic of a tenant, `take_over` what follows from a pending message.
    ///
    /// Sessions get new ids, from 1; the places of their entries stay. Nothing is pending in the
    /// new states, and their places between shards begin anew.
    pub fn redistribute(
        mut states: Vec<State>,
        shards: u16,
        shard_of: impl Fn(u32, &str) -> u16,
        take_over: &mut dyn FnMut(&Due<'_>) -> Followed,
    ) -> Vec<State> {
        settle(&mut states, take_over);
        let shards = shards.max(1);
        let Some(topic_of) = states.first().map(|state| state.topic_of) else { return Vec::new() };
        let mut new: Vec<State> = (0..shards).map(|shard| State::new(shard, topic_of)).collect();
        let last_seq = states.iter().map(|state| state.last_seq).max().unwrap_or(0);
        for state in &mut new {
            state.last_seq = last_seq;
        }
        for old in states {
            move_all(old, &mut new, |tenant, key| shard_of(tenant, key) % shards);
        }
        new
    }
}

/// Takes over all that is pending.
fn settle(states: &mut [State], take_over: &mut dyn FnMut(&Due<'_>) -> Followed) {
    for origin in 0..states.len() as u16 {
        for shard in 0..states.len() as u16 {
            settle_between(states, origin, shard, take_over);
        }
    }
}

/// Takes over what is pending from one shard to one other, or to itself.
fn settle_between(
    states: &mut [State],
    origin: u16,
    shard: u16,
    take_over: &mut dyn FnMut(&Due<'_>) -> Followed,
) {
    let (from, to) = (usize::from(origin), usize::from(shard));
    let mark = states[to].watermark(origin);
    states[from].taken_over(shard, mark);
    let pending = states[from].pending_to(shard);
    let Some((last, ..)) = pending.last().copied() else { return };
    let under_way = states[to].under_way().into_iter().filter(|one| one.origin == origin);
    let under_way: BTreeMap<u64, UnderWay> = under_way.map(|one| (one.seq, one)).collect();
    for (seq, lsn, group) in pending {
        let message = states[from].messages.bytes(lsn);
        let had = under_way.get(&seq);
        // One member has it, or another shard that has one.
        let settled = group != 0 && had.is_some_and(UnderWay::is_passed_on);
        if group != 0 && !settled {
            // The members may live anywhere: the one that it was meant for may be gone.
            for shard in 0..states.len() as u16 {
                let due = Due { shard, origin, group, message: &message };
                let followed = take_over(&due);
                states[usize::from(shard)].follow(&due, None, followed, None);
            }
        } else if !settled {
            let due = Due { shard, origin, group, message: &message };
            let mut followed = take_over(&due);
            // It was retained when it came: another one may have taken its topic since.
            followed.retained &= origin != shard && !had.is_some_and(|one| one.retained);
            states[to].follow(&due, Some(seq), followed, had);
        }
    }
    let record = WatermarkRecord { marks: vec![(origin, last)], sent: Vec::new() };
    states[to].apply_watermark(&record);
    states[from].taken_over(shard, last);
}

impl State {
    /// What is pending to a shard: place, position, group.
    fn pending_to(&self, shard: u16) -> Vec<(u64, u64, u64)> {
        let pending = self.pending.range((shard, 0)..=(shard, u64::MAX));
        pending.map(|(&(_, seq), &(lsn, group))| (seq, lsn, group)).collect()
    }

    /// Adds what follows from a message that was pending, but for those who had it.
    fn follow(
        &mut self,
        due: &Due<'_>,
        seq: Option<u64>,
        followed: Followed,
        had: Option<&UnderWay>,
    ) {
        let had = had.map_or(&[][..], |one| &one.had);
        let mut entries = followed.entries;
        entries.retain(|entry| !had.contains(&(entry.session, entry.membership)));
        for entry in &mut entries {
            self.last_seq += 1;
            entry.seq = self.last_seq;
        }
        let origin = seq.map(|seq| (due.origin, seq));
        let head = MessageHead {
            retained: followed.retained,
            origin,
            entries,
            destinations: Cow::Borrowed(&[]),
            inbound: None,
        };
        self.last_lsn += 1;
        if self.apply_message(self.last_lsn, &head, due.message, None).is_err() {
            self.ignored += 1;
        }
    }
}

/// Moves sessions and retained messages to their new homes.
fn move_all(mut old: State, new: &mut [State], shard_of: impl Fn(u32, &str) -> u16) {
    // Where each message stands in each new state that has it.
    let mut places: HashMap<(u16, u64), u64> = HashMap::new();
    let mut sessions: Vec<(SessionId, Box<Session>)> =
        std::mem::take(&mut old.sessions).into_iter().collect();
    sessions.sort_unstable_by_key(|(id, _)| *id);
    for (_, mut session) in sessions {
        let to = shard_of(session.tenant(), session.client_id());
        let target = &mut new[usize::from(to)];
        for slot in session.waiting.values_mut() {
            slot.lsn = target.adopt(&old, slot.lsn, places.entry((to, slot.lsn)).or_default());
        }
        target.last_session.0 += 1;
        target.sessions.insert(target.last_session, session);
    }
    for ((tenant, topic), lsn) in &old.retained {
        let to = shard_of(*tenant, topic);
        let target = &mut new[usize::from(to)];
        let lsn = target.adopt(&old, *lsn, places.entry((to, *lsn)).or_default());
        if let Some(double) = target.retained.insert((*tenant, topic.clone()), lsn) {
            target.messages.release(double);
        }
    }
}

impl State {
    /// Takes a message of another state over, with one hold. `place` is its position here, 0 if
    /// it has none yet.
    fn adopt(&mut self, old: &State, lsn: u64, place: &mut u64) -> u64 {
        if *place == 0 {
            self.last_lsn += 1;
            *place = self.last_lsn;
        }
        self.messages.insert_shared(*place, || old.messages.bytes(lsn));
        *place
    }
}
