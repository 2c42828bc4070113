//! The way out to the other shards: lanes for publishes, which push back when they are full, and
//! a queue per shard for everything else, which is bounded by what asks for it (a question per
//! connection or group), so that taking a note from a lane never waits for room in another.

use std::collections::VecDeque;
use std::sync::Arc;

use ringtide_ring::{Sender, Shared};

use crate::counters::{Counter, Counters};
use crate::message::{Message, View};
use crate::note::{Chosen, Note};

/// Messages above this, encoded, go between shards by reference. Topic and properties count as
/// much as the payload: a record that is larger than half a lane would never find room.
const INLINE_MAX_BYTES: usize = 1280;

pub(crate) struct MeshOut {
    pub(crate) me: u16,
    pub(crate) shards: u16,
    lanes: Vec<Option<Sender<Note>>>,
    waiting: Vec<VecDeque<Note>>,
    /// Notes in `waiting`, all shards together.
    waiting_count: usize,
    /// [`INLINE_MAX_BYTES`], or what the lanes take if that is less.
    inline_max: usize,
    pub(crate) shared: Arc<Shared>,
    counters: Arc<Counters>,
    /// The counters of all shards: which of them keep sessions.
    all: Arc<[Arc<Counters>]>,
}

impl MeshOut {
    pub(crate) fn new(
        me: u16,
        lanes: Vec<Option<Sender<Note>>>,
        shared: Arc<Shared>,
        counters: Arc<Counters>,
        all: Arc<[Arc<Counters>]>,
    ) -> MeshOut {
        let shards = lanes.len() as u16;
        let waiting = lanes.iter().map(|_| VecDeque::new()).collect();
        let half = lanes.iter().flatten().map(|lane| lane.capacity_bytes() / 2).min();
        let fits = half.unwrap_or(0).saturating_sub(Sender::<Note>::record_bytes(0));
        let inline_max = INLINE_MAX_BYTES.min(fits);
        MeshOut { me, shards, lanes, waiting, waiting_count: 0, inline_max, shared, counters, all }
    }

    /// Sends a publish, with its place in the order of what `to` must take over or 0. False if
    /// the lane is full: the publisher waits.
    pub(crate) fn publish(
        &mut self,
        to: u16,
        seq: u64,
        view: &View<'_>,
        message: &mut Option<Message>,
    ) -> bool {
        let Some(lane) = self.lanes.get_mut(usize::from(to)).and_then(Option::as_mut) else {
            return true;
        };
        let pushed = if view.encoded_len() > self.inline_max {
            let message = message.get_or_insert_with(|| Message::new(view)).clone();
            lane.try_push(Note::PublishShared(seq, message), &[]).is_ok()
        } else {
            let parts = [&view.head()[..], view.topic.as_bytes(), view.properties, view.payload];
            lane.try_push(Note::Publish(seq), &parts).is_ok()
        };
        if pushed {
            self.counters.add(Counter::RecordsOut, 1);
        }
        pushed
    }

    /// Sends a publish to one member of a shared group. False if the lane is full.
    pub(crate) fn member(
        &mut self,
        to: u16,
        seq: u64,
        chosen: Chosen,
        view: &View<'_>,
        message: &mut Option<Message>,
    ) -> bool {
        let Some(lane) = self.lanes.get_mut(usize::from(to)).and_then(Option::as_mut) else {
            return true;
        };
        let pushed = if view.encoded_len() > self.inline_max {
            let message = message.get_or_insert_with(|| Message::new(view)).clone();
            lane.try_push(Note::MemberShared(seq, Box::new((chosen, message))), &[]).is_ok()
        } else {
            let parts = [&view.head()[..], view.topic.as_bytes(), view.properties, view.payload];
            lane.try_push(Note::Member(seq, chosen), &parts).is_ok()
        };
        if pushed {
            self.counters.add(Counter::RecordsOut, 1);
        }
        pushed
    }

    /// True if sessions of a shard may outlive a restart: what they match must not be lost on the
    /// way. Counted before such a session's first SUBACK, so that none is missed.
    pub(crate) fn keeps(&self, shard: u16) -> bool {
        self.counter_of(shard, Counter::SessionsKept) > 0
    }

    /// A counter of another shard.
    pub(crate) fn counter_of(&self, shard: u16, counter: Counter) -> u64 {
        self.all[usize::from(shard)].value(counter)
    }

    /// True if a shard can be sent `count` records of a message now.
    pub(crate) fn has_room(&mut self, to: u16, view: &View<'_>, count: usize) -> bool {
        let Some(lane) = self.lanes.get_mut(usize::from(to)).and_then(Option::as_mut) else {
            return true;
        };
        let len = view.encoded_len();
        let inline = if len > self.inline_max { 0 } else { len };
        if count <= 1 { lane.fits(inline) } else { lane.fits_all(inline, count) }
    }

    /// Sends a note if there is room for it, behind those that wait.
    pub(crate) fn try_tell(&mut self, to: u16, note: Note) -> bool {
        let to = usize::from(to);
        let Some(lane) = self.lanes.get_mut(to).and_then(Option::as_mut) else { return true };
        self.waiting[to].is_empty() && lane.try_push(note, &[]).is_ok()
    }

    /// Sends anything else; what finds no room waits here, in order.
    pub(crate) fn tell(&mut self, to: u16, note: Note) {
        let to = usize::from(to);
        let Some(lane) = self.lanes.get_mut(to).and_then(Option::as_mut) else { return };
        if !self.waiting[to].is_empty() {
            self.waiting[to].push_back(note);
            self.waiting_count += 1;
        } else if let Err(full) = lane.try_push(note, &[]) {
            self.waiting[to].push_back(full.item);
            self.waiting_count += 1;
        }
    }

    /// True if records or notes have not been made visible yet.
    pub(crate) fn has_unpublished(&self) -> bool {
        self.waiting_count > 0 || self.lanes.iter().flatten().any(Sender::has_unpublished)
    }

    /// Makes this turn's records visible as of now, and names the shards to wake.
    pub(crate) fn flush(&mut self, now_us: u64, mut wake: impl FnMut(u16)) {
        for (to, lane) in self.lanes.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            while let Some(note) = self.waiting[to].pop_front() {
                self.waiting_count -= 1;
                if let Err(full) = lane.try_push(note, &[]) {
                    self.waiting[to].push_front(full.item);
                    self.waiting_count += 1;
                    break;
                }
            }
            if lane.publish(now_us) && self.shared.must_wake(to as u16) {
                wake(to as u16);
            }
        }
    }

    /// True if something waits for room: the shard must not sleep long.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting_count > 0
    }
}
