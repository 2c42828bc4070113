//! What a crash finds half done: fan-outs, messages for other members of groups, wills of the
//! start.

use ringtide_codec::QoS;
use ringtide_shard::message::{Header, Message, View, origin_of, topic_of};
use ringtide_storage::record::{Filter, SessionId, SessionRecord, WillRecord};
use ringtide_storage::state::{Body, Kept, Parts, Pending, Retained, SessionPart, UnderWay};
use ringtide_storage::{Lsn, RecordKind, State};
use ringtide_topics::{TenantId, topic_hash};

use crate::harness::{World, quiet};
use crate::packets::*;

fn message(topic: &str, retain: bool, payload: &str) -> Message {
    let tenant = TenantId(0);
    let header = Header {
        flags: 0,
        qos: QoS::AtLeastOnce,
        retain,
        hops: 0,
        tenant,
        origin_node: 0,
        origin_log: 0,
        // Of the first shard.
        partition: 0,
        lsn: 1,
        publisher: 1,
        ingress_ms: 0,
        expires_ms: 0,
        topic_hash: topic_hash(tenant, topic),
    };
    Message::new(&View { header, topic, properties: &[], payload: payload.as_bytes() })
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
