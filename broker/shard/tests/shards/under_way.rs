//! What a crash finds half done: fan-outs, messages for other members of groups, wills of the
//! start.

use std::borrow::Cow;

use ringtide_codec::{Connect, PublishOut, QoS};
use ringtide_shard::message::{Message, origin_of, topic_of};
use ringtide_storage::record::{Entry, Filter, MessageHead, SessionId, SessionRecord, WillRecord};
use ringtide_storage::state::{Body, Kept, Parts, Pending, Retained, SessionPart, UnderWay};
use ringtide_storage::{Lsn, RecordKind, State};

use crate::harness::{World, quiet};
use crate::packets::*;

fn message(topic: &str, retain: bool, payload: &str) -> Message {
    left_message(0, topic, retain, payload)
}

fn kept(lsn: u64, message: &Message) -> Kept {
    Kept { lsn, body: Body::Here(message.raw()), place: None, is_shared: false }
}

fn lasting(id: u64, client_id: &str, filter: &str) -> SessionRecord {
    let filter = Filter { filter: filter.to_owned(), options: 1, id: 0 };
    SessionRecord {
        id: SessionId(id),
        client_id: client_id.to_owned(),
        expiry_s: u32::MAX,
        filters: vec![filter],
        ..SessionRecord::default()
    }
}

/// A session that was connected when the process ended, with a will.
fn testator(id: u64, client_id: &str, will: &Message) -> SessionRecord {
    let message = will.raw().to_vec();
    let will = Some(WillRecord { message, expiry_s: None, delay_s: 0, due_ms: 0 });
    SessionRecord {
        id: SessionId(id),
        client_id: client_id.to_owned(),
        will,
        ..SessionRecord::default()
    }
}

fn parts_of(sessions: &[SessionRecord]) -> Parts {
    let part = |record: &SessionRecord| SessionPart { record: record.clone(), waiting: Vec::new() };
    Parts {
        sessions: sessions.iter().map(part).collect(),
        last_session: SessionId(sessions.len() as u64),
        ..Parts::default()
    }
}

/// What a start finds after a crash of a single shard that began with these sessions.
fn after_crash(sessions: &[SessionRecord], world: &World) -> Vec<Parts> {
    let mut state = State::new(0, topic_of);
    let begun = sessions.iter().map(|record| {
        let mut body = Vec::new();
        record.encode(&mut body);
        (RecordKind::Session, body)
    });
    let log = world.shelf.since_begin.borrow();
    let mut last = Lsn(0);
    for (lsn, (kind, body)) in (1..).zip(begun.chain(log.iter().cloned())) {
        last = Lsn(lsn);
        state.apply(last, kind, &body).expect("a good record");
    }
    let mut states = vec![state];
    State::settle(&mut states, &[last], origin_of);
    State::into_aligned_parts(states)
}

/// More than the steps of a fan-out serve in one turn.
const READERS: u64 = 800;

/// A start publishes the wills of all who were connected. Wherever a second crash comes, every will
/// comes to everybody at least once, and to a group's member.
#[test]
fn wills_of_a_start_outlive_the_next_crash_wherever_it_comes() {
    let mut sessions: Vec<SessionRecord> =
        (1..=READERS).map(|id| lasting(id, &format!("r{id}"), "w")).collect();
    let texts = ["first", "second", "third"];
    for (id, text) in (READERS + 1..).zip(texts) {
        sessions.push(testator(id, text, &message("w", false, text)));
    }
    sessions.push(lasting(READERS + 4, "member", "$share/g/w"));
    let mut limits = quiet();
    limits.turn_sends_max = 1;
    for turns in 0..14 {
        let mut world = World::restored(vec![parts_of(&sessions)], limits.clone());
        world.turns(turns);
        let mut again = World::restored(after_crash(&sessions, &world), quiet());
        again.turns(60);
        // The first and the last of the readers, and one whose turn comes late.
        for reader in ["r1", "r799", "r800", "member"] {
            again.accept(0, 1, &connect_lasting(reader, None));
            again.turns(10);
            let got = read(&again.sent(0, 1));
            for text in texts {
                assert!(payloads(&got).contains(&text), "{reader} after {turns} turns: {got:?}");
            }
            again.end(0, 1);
            again.turns(2);
        }
    }
}

/// A message that another shard sends again was retained here before the crash, and another one has
/// taken its place.
#[test]
fn what_was_retained_once_is_not_retained_again() {
    let mut names = World::new(2, quiet());
    let topic = names.name_at(0, "topic");
    let (old, new) = (message(&topic, true, "old"), message(&topic, true, "new"));
    let under_way =
        UnderWay { origin: 1, seq: 5, had: Vec::new(), forwarded: Vec::new(), retained: true };
    let home = Parts {
        retained: vec![Retained { tenant: 0, topic: topic.clone(), message: kept(9, &new) }],
        under_way: vec![under_way],
        watermarks: vec![(1, 4)],
        ..Parts::default()
    };
    let origin = Parts {
        pending: vec![Pending { shard: 0, seq: 5, group: 0, message: kept(7, &old) }],
        sent: vec![(0, 5)],
        ..Parts::default()
    };
    let mut world = World::restored(vec![home, origin], quiet());
    world.turns(20);
    let name = world.name_at(0, "c");
    world.accept(0, 1, &connect(&name));
    world.send(0, 1, &subscribe(1, &topic, options(QoS::AtLeastOnce)));
    world.turns(20);
    assert_eq!(payloads(&read(&world.sent(0, 1))), ["new"]);
}

/// A message of QoS 2 goes from a member that has left to one on a third shard: not before its
/// origin has it, or a crash would let its publisher send it again.
#[test]
fn another_member_gets_nothing_that_its_origin_may_lose() {
    let mut relayed = 0;
    // The members take turns: one of the two has the turn.
    for before in 0..2 {
        let mut world = World::new(3, quiet());
        let filter = "$share/g/work";
        for shard in [1_u16, 2, 0] {
            let name = world.name_at(shard, "c");
            let (shard, socket) = (usize::from(shard), u32::from(shard) + 10);
            world.accept(shard, socket, &connect_lasting(&name, None));
            if shard > 0 {
                world.send(shard, socket, &subscribe(1, filter, options(QoS::ExactlyOnce)));
            }
        }
        world.turns(10);
        for _ in 0..before {
            world.send(0, 10, &publish("work", QoS::AtMostOnce, 0, b"before"));
        }
        world.turns(10);
        world.sent(1, 11);
        world.sent(2, 12);
        world.space[0].held.set(true);
        world.send(1, 11, &unsubscribe(2, filter));
        world.turn(1);
        world.send(0, 10, &publish("work", QoS::ExactlyOnce, 1, b"once"));
        let records = world.space[1].records.get();
        world.turn(0);
        world.turns(20);
        relayed += u32::from(world.space[1].records.get() > records);
        let none: [&str; 0] = [];
        assert_eq!(payloads(&read(&world.sent(2, 12))), none, "the origin may still lose it");
        world.space[0].held.set(false);
        world.turns(20);
        relayed += u32::from(world.space[1].records.get() > records);
        assert_eq!(payloads(&read(&world.sent(2, 12))), ["once"]);
    }
    assert!(relayed > 0, "it went to its member at once both times");
}

/// The records of messages that all shards together have written: heads and messages.
fn recorded(world: &World) -> Vec<(MessageHead<'static>, Vec<u8>)> {
    let log = world.shelf.since_begin.borrow();
    let messages = log.iter().filter(|(kind, _)| *kind == RecordKind::Message);
    let of = |(_, body): &(RecordKind, Vec<u8>)| {
        let (head, message) = MessageHead::decode(body).expect("a good record");
        let entries = head.entries.iter().map(|one| Entry { ids: Cow::Owned(Vec::new()), ..*one });
        let entries = entries.collect();
        let destinations = Cow::Owned(head.destinations.into_owned());
        (MessageHead { entries, destinations, ..head }, message.to_vec())
    };
    messages.map(of).collect()
}

fn member_at(world: &mut World, shard: u16, filter: &str, lasting: bool) -> String {
    let name = world.name_at(shard, "c");
    let (at, socket) = (usize::from(shard), u32::from(shard) + 10);
    let packet = if lasting { connect_lasting(&name, None) } else { connect(&name) };
    world.accept(at, socket, &packet);
    world.send(at, socket, &subscribe(1, filter, options(QoS::ExactlyOnce)));
    world.turns(10);
    world.sent(at, socket);
    name
}

/// A message that clears nothing when it comes would clear what came after it, were it taken for
/// new when it is sent again after a crash.
#[test]
fn what_clears_nothing_is_recorded_as_taken() {
    let mut world = World::new(2, quiet());
    member_at(&mut world, 1, "other", true);
    let topic = world.name_at(1, "topic");
    let name = world.name_at(0, "c");
    world.accept(0, 20, &connect(&name));
    let clear = PublishOut { retain: true, ..publish_as(&topic, QoS::AtLeastOnce, 1) };
    world.send(0, 20, &frame_of(clear, b""));
    world.turns(10);
    let taken = recorded(&world).into_iter().filter(|(head, _)| head.origin.is_some());
    let taken: Vec<_> = taken.map(|(head, _)| (head.origin, head.retained)).collect();
    assert_eq!(taken, [(Some((0, 1)), true)]);
}

/// What waits for a member's session when that ends is this shard's own business from then on, and
/// still its origin's: what the origin loses is void with it.
#[test]
fn what_a_session_leaves_to_others_says_where_it_came_from() {
    let mut world = World::new(2, quiet());
    let name = member_at(&mut world, 1, "$share/g/work", true);
    world.end(1, 11);
    world.turns(5);
    let publisher = world.name_at(0, "c");
    world.accept(0, 10, &connect(&publisher));
    world.send(0, 10, &publish("work", QoS::ExactlyOnce, 1, b"once"));
    world.turns(10);
    world.accept(1, 12, &bytes_of(&Connect { clean_start: true, ..connect_as(&name) }));
    world.turns(5);
    let all = recorded(&world);
    let own = |head: &&MessageHead<'_>| head.destinations.iter().any(|to| to.shard == 1);
    let left = all.iter().map(|(head, _)| head).filter(own).map(|head| head.origin);
    // The first is the origin's own record, for this shard.
    assert_eq!(left.collect::<Vec<_>>(), [None, Some((0, 1))]);
}

/// Where no session outlives its connection an origin records nothing: a member elsewhere whose
/// session does must not lose the message for that.
#[test]
fn what_its_origin_did_not_record_is_this_shards_for_another_member() {
    let mut world = World::new(3, quiet());
    let filter = "$share/g/work";
    member_at(&mut world, 1, filter, false);
    member_at(&mut world, 2, filter, true);
    let publisher = world.name_at(0, "c");
    world.accept(0, 10, &connect(&publisher));
    world.turns(5);
    world.send(1, 11, &unsubscribe(2, filter));
    world.turn(1);
    for number in 1..=2 {
        world.send(0, 10, &publish("work", QoS::AtLeastOnce, number, b"one each"));
    }
    world.turn(0);
    world.turns(20);
    assert_eq!(payloads(&read(&world.sent(2, 12))).len(), 2);
    let all = recorded(&world);
    let kept = all.iter().filter(|(head, _)| !head.entries.is_empty());
    let mut origins: Vec<_> = kept.filter_map(|(_, message)| origin_of(message)).collect();
    origins.sort_unstable();
    assert_eq!(origins.iter().map(|one| one.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(origins[1], (1, 0), "it counts whatever the origin's log holds");
}
