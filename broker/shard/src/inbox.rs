//! What the other shards send: notes, taken at the beginning of a turn in the order in which they
//! were published, over all lanes.
//!
//! The order is that of cause and effect between clients: what one publishes because another's
//! PUBACK came, on whatever shard, is seen after that other one's message of the same topic. (A
//! fan-out that takes several turns is passed by messages of other topics.) A batch in a lane
//! carries the time at which it was published, and what brought about a batch was published at
//! least the microseconds earlier that a client takes to hear of it. So it is enough to take
//! batches by their time, and none that is younger than the look at the lanes: what an older one
//! follows from was visible then.
//!
//! The limit: notes end with half of a turn's time, or half of its sends, and the shard's own
//! clients have the rest. What those publish is then seen before the notes that are left.

use std::cmp::Reverse;
use std::collections::HashMap;

use ringtide_driver::{Driver, Socket};
use ringtide_ring::Receiver;
use ringtide_storage::Store;

use crate::clock::Clock;
use crate::core::Core;
use crate::counters::Counter;
use crate::message::{Message, View};
use crate::note::{HandOver, Note};
use crate::retained::Waiting;
use crate::route;
use crate::share::Share;
use crate::turn::{HAND_OVER_MS, Shard};

/// Notes that are taken before the clock is looked at.
const NOTES_LEAST: u32 = 16;

impl<D: Driver, S: Store, C: Clock> Shard<D, S, C> {
    /// Takes the notes of the other shards, in rounds: one is done when all that was in the lanes
    /// at its beginning has been taken in. This never needs room in a lane.
    pub(crate) fn take_notes(&mut self, until_us: u64) {
        let Shard { clock, from, core, batches, .. } = self;
        if core.replays.rounds.begun == core.replays.rounds.done {
            core.replays.rounds.begun += 1;
            for (until, lane) in self.round_until.iter_mut().zip(from.iter()) {
                *until = lane.as_ref().map_or(0, Receiver::published);
            }
        }
        if core.mesh.shards == 1 {
            return self.note_positions();
        }
        // Before the lanes are looked at: see the module's documentation.
        let looked_us = clock.now_us();
        for (at, lane) in from.iter_mut().enumerate() {
            let oldest = lane.as_mut().and_then(Receiver::next_stamp);
            batches.extend(oldest.map(|stamp| Reverse((stamp, at as u16))));
        }
        let over = || clock.now_us() >= until_us;
        let mut share = Share::new(&over, NOTES_LEAST);
        let budget_least = core.limits.turn_sends_max / 2;
        let has_room = |core: &Core<S>| {
            core.routes.budget > budget_least && core.routes.fans.len() < route::FANS_MAX
        };
        let mut go_on = core.routes.fans.len() < route::FANS_MAX;
        while go_on && let Some(Reverse((stamp, at))) = batches.pop() {
            let Some(lane) = from.get_mut(usize::from(at)).and_then(Option::as_mut) else { break };
            if stamp > looked_us {
                break;
            }
            let mut taken = 0;
            while go_on && let Some(record) = lane.pop_of(stamp) {
                taken += 1;
                match record.item {
                    Note::HandOver(hand_over) => {
                        take_over(core, &mut self.expected, &mut self.arrived, hand_over);
                    }
                    Note::RetainedQuery(query) => {
                        // The positions are filled in once all lanes can be looked at.
                        let waiting = Waiting { positions: Vec::new(), query };
                        core.routes.retained.waiting.push_back(waiting);
                    }
                    item => core.on_note(at, item, record.bytes),
                }
                go_on = share.go_on() && has_room(core);
            }
            core.clients.counters.add(Counter::RecordsIn, taken);
            lane.commit();
            batches.extend(lane.next_stamp().map(|stamp| Reverse((stamp, at))));
        }
        batches.clear();
        self.note_positions();
    }

    /// Notes what questions for retained messages wait for, and whether the round is done.
    fn note_positions(&mut self) {
        let Shard { from, core, round_until, .. } = self;
        let passed = |lane: &Option<Receiver<Note>>, until: u64| {
            lane.as_ref().is_none_or(|lane| lane.position() >= until)
        };
        if from.iter().zip(round_until.iter()).all(|(lane, until)| passed(lane, *until)) {
            core.replays.rounds.done = core.replays.rounds.begun;
        }
        // Those that have theirs stand before those that have none yet.
        for waiting in core.routes.retained.waiting.iter_mut().rev() {
            if !waiting.positions.is_empty() {
                break;
            }
            waiting.positions =
                from.iter().map(|lane| lane.as_ref().map_or(0, Receiver::published)).collect();
        }
    }
}

/// A connection has been handed over to this shard.
fn take_over<S: Store>(
    core: &mut Core<S>,
    expected: &mut HashMap<u64, (u64, Box<HandOver>)>,
    arrived: &mut HashMap<u64, (u64, Socket)>,
    hand_over: Box<HandOver>,
) {
    let arrived = arrived.remove(&hand_over.tag).map(|(_, socket)| socket);
    match hand_over.socket.or(arrived) {
        Some(socket) => core.adopt(socket, *hand_over),
        None => {
            let deadline_ms = core.clients.now_ms + HAND_OVER_MS;
            expected.insert(hand_over.tag, (deadline_ms, hand_over));
        }
    }
}

impl<S: Store> Core<S> {
    /// Takes in a note of another shard.
    fn on_note(&mut self, from: u16, note: Note, bytes: &[u8]) {
        let Core { routes, clients, mesh, .. } = self;
        match note {
            Note::Publish(seq) => {
                if let Ok(view) = View::read(bytes) {
                    route::arrived(routes, clients, (from, seq), view, None);
                }
            }
            Note::PublishShared(seq, message) => {
                let view = message.view();
                route::arrived(routes, clients, (from, seq), view, Some(message.clone()));
            }
            Note::Member(seq, chosen) => {
                if let Ok(view) = View::read(bytes) {
                    let fan = crate::deliver::Fan::new(view);
                    route::member_arrived(routes, clients, (from, seq), fan, chosen);
                }
            }
            Note::MemberShared(seq, both) => {
                let (chosen, message): (_, Message) = *both;
                let mut fan = crate::deliver::Fan::new(message.view());
                fan.message = Some(message.clone());
                route::member_arrived(routes, clients, (from, seq), fan, chosen);
            }
            Note::MemberAgain(seq, both) => {
                let (group, message) = *both;
                self.on_member_again(from, seq, group, message);
            }
            Note::TakenOver(seq) => routes.custody.taken_over(from, seq),
            Note::Committed(seq) => self.on_committed(from, seq),
            Note::RetainedPage(page) => self.on_page(*page),
            Note::GroupChange(change) => routes.groups.at_home(&routes.partitions, *change),
            Note::GroupSnapshot(snapshot) => {
                let group = routes.partitions.hash(snapshot.tenant, &snapshot.filter);
                let epoch = snapshot.snapshot.epoch;
                routes.groups.learn(group, *snapshot);
                routes.changes += 1;
                mesh.tell(from, Note::GroupKnown { group, epoch });
            }
            Note::GroupKnown { group, epoch } => routes.groups.known(from, group, epoch),
            Note::GroupJoined(who) => self.on_joined(who),
            // Taken before they come here.
            Note::HandOver(_) | Note::RetainedQuery(_) => {}
        }
    }
}
