//! Another number of shards: every client gets every message once and in order, whatever was on
//! its way when the broker ended.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::borrow::Cow;
use std::collections::BTreeMap;

use common::message::{message, number_of, topic_of};
use proptest::collection::vec;
use proptest::prelude::*;
use ringtide_storage::record::{
    Destination, Entry, Filter, MessageHead, SessionId, SessionRecord, WatermarkRecord,
};
use ringtide_storage::state::{Due, Followed};
use ringtide_storage::{Lsn, RecordKind, State};

const OLD: u16 = 3;
const TOPICS: u8 = 3;

/// The shared group that the tests know.
const GROUP: u64 = 77;

fn home(key: &str, shards: u16) -> u16 {
    let hash = key.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(byte));
    (hash % u32::from(shards)) as u16
}

/// Old shards that write their logs straight into states.
struct World {
    states: Vec<State>,
    lsns: Vec<u64>,
    seqs: Vec<u64>,
    /// Client id, shard, id, filter.
    clients: Vec<(String, u16, u64, String)>,
    sent: BTreeMap<(u16, u16), u64>,
    /// What each client must get, by publishing shard.
    owed: BTreeMap<(String, u16), Vec<u64>>,
    /// Pairs of shards between which nothing more is taken over.
    stuck: [[bool; OLD as usize]; OLD as usize],
}

impl World {
    fn new() -> World {
        World {
            states: (0..OLD).map(|shard| State::new(shard, topic_of)).collect(),
            lsns: vec![0; usize::from(OLD)],
            seqs: vec![0; usize::from(OLD)],
            clients: Vec::new(),
            sent: BTreeMap::new(),
            owed: BTreeMap::new(),
            stuck: Default::default(),
        }
    }

    fn put(&mut self, shard: u16, kind: RecordKind, body: &[u8]) {
        let at = usize::from(shard);
        self.lsns[at] += 1;
        self.states[at].apply(Lsn(self.lsns[at]), kind, body).unwrap();
    }

    fn put_message(&mut self, shard: u16, head: &MessageHead<'_>, bytes: &[u8]) {
        let mut body = Vec::new();
        head.encode(&mut body);
        body.extend_from_slice(bytes);
        self.put(shard, RecordKind::Message, &body);
    }

    fn client(&mut self, topic: u8) {
        let number = self.clients.len();
        let client_id = format!("client-{number}");
        let shard = home(&client_id, OLD);
        let id = number as u64 + 100;
        let filter = format!("topic/{}", topic % TOPICS);
        let record = SessionRecord {
            id: SessionId(id),
            tenant: 7,
            client_id: client_id.clone(),
            filters: vec![Filter { filter: filter.clone(), options: 2, id: 0 }],
            ..SessionRecord::default()
        };
        let mut body = Vec::new();
        record.encode(&mut body);
        self.put(shard, RecordKind::Session, &body);
        self.clients.push((client_id, shard, id, filter));
    }

    /// Entries for matching sessions of a shard, as far as `part` of them.
    fn entries(&mut self, shard: u16, topic: &str, part: usize) -> Vec<Entry<'static>> {
        let clients = self.clients.iter().filter(|one| one.1 == shard && one.3 == topic);
        let seqs = &mut self.seqs[usize::from(shard)];
        let entry = |one: &(String, u16, u64, String)| {
            *seqs += 1;
            plain(one.2, *seqs)
        };
        clients.take(part).map(entry).collect()
    }

    /// A publish at `origin`. Each other shard takes it over, in part, or not at all; once it has
    /// not, it takes nothing more from there.
    fn publish(&mut self, number: u64, origin: u16, topic: u8, fates: [u8; OLD as usize]) {
        let topic = format!("topic/{}", topic % TOPICS);
        for (client_id, _, _, filter) in &self.clients {
            if *filter == topic {
                self.owed.entry((client_id.clone(), origin)).or_default().push(number);
            }
        }
        let bytes = message(&topic, number, (origin, number), false);
        let entries = self.entries(origin, &topic, usize::MAX);
        let mut destinations = Vec::new();
        let mut arrivals = Vec::new();
        for shard in (0..OLD).filter(|shard| *shard != origin) {
            let seq = self.sent.entry((origin, shard)).or_default();
            *seq += 1;
            destinations.push(Destination { shard, seq: *seq, group: 0 });
            arrivals.push((shard, *seq));
        }
        let retained = home(&topic, OLD) == origin;
        let destinations = Cow::Owned(destinations);
        let head = MessageHead { retained, inbound: None, origin: None, destinations, entries };
        self.put_message(origin, &head, &bytes);
        for (shard, seq) in arrivals {
            let stuck = &mut self.stuck[usize::from(origin)][usize::from(shard)];
            let fate = fates[usize::from(shard)] % 8;
            if *stuck || fate == 0 {
                *stuck = true;
                continue;
            }
            let part = if fate == 1 { usize::from(fates[usize::from(shard)] / 8 % 4) } else { 99 };
            *stuck = fate == 1;
            let retained = home(&topic, OLD) == shard;
            let entries = self.entries(shard, &topic, part);
            let place = Some((origin, seq));
            let head = MessageHead { retained, origin: place, entries, ..MessageHead::default() };
            self.put_message(shard, &head, &bytes);
            if fate > 1 {
                let record = WatermarkRecord { marks: vec![(origin, seq)], sent: Vec::new() };
                let mut body = Vec::new();
                record.encode(&mut body);
                self.put(shard, RecordKind::Watermark, &body);
            }
        }
    }

    fn redistribute(self, shards: u16) -> Vec<State> {
        let clients = self.clients;
        let mut take_over = |due: &Due<'_>| {
            let (_, topic, _) = topic_of(due.message).unwrap();
            let matching = clients.iter().filter(|one| one.1 == due.shard && one.3 == topic);
            Followed {
                entries: matching.map(|one| plain(one.2, 0)).collect(),
                retained: home(topic, OLD) == due.shard,
            }
        };
        State::redistribute(self.states, shards, |_, key| home(key, shards), &mut take_over)
    }
}

fn plain(session: u64, seq: u64) -> Entry<'static> {
    let (session, ids) = (SessionId(session), Cow::Borrowed(&[][..]));
    Entry { session, seq, qos: 2, retain: false, membership: 0, ids }
}

proptest! {
    #[test]
    fn every_client_gets_every_message_once_and_in_order(
        clients in vec(any::<u8>(), 1..12),
        publishes in vec((0..OLD, any::<u8>(), any::<[u8; OLD as usize]>()), 0..25),
        shards in 1..6_u16,
    ) {
        let mut world = World::new();
        for topic in &clients {
            world.client(*topic);
        }
        let mut last = BTreeMap::new();
        for (number, (origin, topic, fates)) in (1..).zip(&publishes) {
            world.publish(number, *origin, *topic, *fates);
            last.insert((format!("topic/{}", topic % TOPICS), *origin), number);
        }
        let owed = world.owed.clone();
        let states = world.redistribute(shards);
        prop_assert_eq!(states.len(), usize::from(shards));
        let mut found = 0;
        for (shard, state) in (0..).zip(states) {
            prop_assert_eq!(state.pending(), 0);
            // What it amounts to can be written and read.
            let mut again = State::new(shard, topic_of);
            let mut lsn = 0;
            state.write_checkpoint(&mut |kind, parts| {
                lsn += 1;
                again.apply(Lsn(lsn), kind, &parts.concat()).unwrap();
            });
            let parts = again.into_parts();
            prop_assert!(parts.under_way.is_empty() && parts.ignored == 0);
            for session in &parts.sessions {
                found += 1;
                let client_id = &session.record.client_id;
                prop_assert_eq!(home(client_id, shards), shard);
                for origin in 0..OLD {
                    let numbers = session.waiting.iter().map(|one| one.message.bytes());
                    let from = |bytes: &&bytes::Bytes| bytes[5] == origin as u8;
                    let got: Vec<u64> = numbers.filter(from).map(|b| number_of(b)).collect();
                    let due = owed.get(&(client_id.clone(), origin)).cloned().unwrap_or_default();
                    prop_assert_eq!(got, due, "{} from {}", client_id, origin);
                }
            }
            for one in &parts.retained {
                prop_assert_eq!(home(&one.topic, shards), shard);
                // The last of some publisher; nobody says which publisher was the last.
                let number = number_of(one.message.bytes());
                let last_of = |origin| last.get(&(one.topic.clone(), origin));
                prop_assert!((0..OLD).filter_map(last_of).any(|last| *last == number));
            }
        }
        prop_assert_eq!(found, clients.len());
    }
}

#[test]
fn a_groups_message_goes_to_one_member_and_not_again() {
    for had in [false, true] {
        let mut world = World::new();
        (0..6).for_each(|_| world.client(0));
        let (_, shard, id, topic) = world.clients[0].clone();
        let bytes = message(&topic, 1, (0, 1), false);
        let origin = (shard + 1) % OLD;
        let destination = Destination { shard, seq: 1, group: GROUP };
        let destinations = Cow::Owned(vec![destination]);
        let head = MessageHead { destinations, ..MessageHead::default() };
        world.put_message(origin, &head, &bytes);
        if had {
            let entries = vec![Entry { membership: 4, ..plain(id, 9) }];
            let place = Some((origin, 1));
            let head = MessageHead { origin: place, entries, ..MessageHead::default() };
            world.put_message(shard, &head, &bytes);
        }
        // The member that it was meant for may be gone: another one lives elsewhere.
        let (_, elsewhere, other, _) =
            world.clients.iter().find(|one| one.1 == origin).unwrap().clone();
        let mut asked = Vec::new();
        let mut take_over = |due: &Due<'_>| {
            asked.push(due.shard);
            assert_eq!((due.origin, due.group), (origin, GROUP));
            let entries = vec![Entry { membership: 4, ..plain(other, 0) }];
            let here = due.shard == elsewhere;
            Followed { entries: if here { entries } else { Vec::new() }, retained: false }
        };
        let states = State::redistribute(world.states, 2, |_, key| home(key, 2), &mut take_over);
        assert_eq!(asked, if had { vec![] } else { vec![0, 1, 2] });
        let parts = states.into_iter().map(State::into_parts);
        let waiting = parts.flat_map(|one| one.sessions).flat_map(|one| one.waiting);
        let members: Vec<_> = waiting.map(|one| one.membership).collect();
        assert_eq!(members, [4]);
    }
}

#[test]
fn nothing_comes_of_nothing() {
    let states = State::redistribute(Vec::new(), 4, |_, _| 0, &mut |_| Followed::default());
    assert!(states.is_empty());
}
