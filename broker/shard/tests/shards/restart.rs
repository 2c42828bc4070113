//! What shards do with what an earlier run has left.

use bytes::Bytes;
use ringtide_codec::QoS;
use ringtide_session::DropPolicy;
use ringtide_shard::Limits;
use ringtide_shard::counters::Counter;
use ringtide_shard::message::Message;
use ringtide_storage::record::{Filter, SessionId, SessionRecord, WillRecord};
use ringtide_storage::state::{Body, Kept, Parts, Pending, SessionPart, Waiting};

use crate::harness::{World, quiet};
use crate::packets::*;

/// More than a lane holds.
const MESSAGES: usize = 700;
const BYTES: usize = 2000;

fn message(topic: &str, payload: &str) -> Message {
    left_message(0, topic, false, payload)
}

/// A session of an earlier run: kept for its will alone, if it has one.
fn session(client_id: &str, filters: &[&str], will: Option<Message>) -> SessionPart {
    let filter = |filter: &&str| Filter { filter: (*filter).to_owned(), options: 1, id: 0 };
    let expiry_s = if will.is_some() { 0 } else { u32::MAX };
    let will = will.map(|will| WillRecord {
        message: will.raw().to_vec(),
        expiry_s: None,
        delay_s: 0,
        due_ms: 0,
    });
    let record = SessionRecord {
        id: SessionId(1),
        client_id: client_id.to_owned(),
        expiry_s,
        will,
        filters: filters.iter().map(filter).collect(),
        ..SessionRecord::default()
    };
    SessionPart { record, waiting: Vec::new() }
}

/// A destination takes what it is given in order, so a will that came before what was under way at
/// the crash would make that count as taken. (With a thread for each shard the lane may get room
/// between the two; the crash tests have that.)
#[test]
fn a_will_of_the_start_does_not_overtake_what_is_sent_again() {
    let mut names = World::new(2, quiet());
    let (reader, testator) = (names.name_at(1, "reader"), names.name_at(0, "testator"));
    let pending = (0..MESSAGES).map(|number| {
        let text = format!("{number:0BYTES$}");
        let body = Body::Here(message("t", &text).raw());
        let seq = number as u64 + 1;
        let message = Kept { lsn: seq, body, place: None, is_shared: false };
        Pending { shard: 1, seq, group: 0, message }
    });
    let sends = Parts {
        sessions: vec![session(&testator, &[], Some(message("will", "gone")))],
        pending: pending.collect(),
        last_session: SessionId(1),
        ..Parts::default()
    };
    let takes = Parts {
        sessions: vec![session(&reader, &["t", "will"], None)],
        last_session: SessionId(1),
        ..Parts::default()
    };
    let mut world = World::restored(vec![sends, takes], quiet());
    // The reader's shard has not the time for a lane in a turn.
    world.look_takes_us(50);
    world.turns(500);
    world.look_takes_us(0);
    world.turns(50);
    world.accept(1, 10, &connect_lasting(&reader, None));
    let mut got = Vec::new();
    for _ in 0..200 {
        world.turns(5);
        let sent = read(&world.sent(1, 10));
        got.extend(payloads(&sent).into_iter().map(str::to_owned));
    }
    let numbers = (0..MESSAGES).map(|number| format!("{number:0BYTES$}"));
    let wanted: Vec<String> = numbers.chain(["gone".to_owned()]).collect();
    assert_eq!(got.len(), wanted.len());
    assert!(got == wanted, "they came in another order");
}

fn waits(seq: u64, qos: u8, message: Bytes) -> Waiting {
    let message = Kept { lsn: seq, body: Body::Here(message), place: None, is_shared: false };
    Waiting { seq, qos, retain: false, membership: 0, ids: Vec::new(), message }
}

/// When the shards start.
const START_MS: u64 = 1_700_000_000_000;

/// What a client is sent after a start that may have been sent to it before, by its DUP flag.
fn marked_again(detached_ms: u64, expiry_s: u32) -> Vec<(String, bool)> {
    let came = [(1, 90_000, "before"), (2, 90_000, "exactly"), (1, 30_000, "after")];
    let waiting = (1..).zip(came).map(|(seq, (qos, ago_ms, text))| {
        let message = left_message(START_MS - ago_ms, "t", false, text);
        waits(seq, qos, message.raw())
    });
    let mut part = session("reader", &["t"], None);
    part.waiting = waiting.collect();
    (part.record.detached_ms, part.record.expiry_s) = (detached_ms, expiry_s);
    let left =
        Parts { sessions: vec![part], last_session: SessionId(1), last_seq: 3, ..Parts::default() };
    let mut world = World::restored(vec![left], quiet());
    world.turns(5);
    world.accept(0, 1, &connect_lasting("reader", None));
    world.turns(5);
    // What comes from now on is new, whatever still waits.
    world.accept(0, 2, &connect("publisher"));
    world.send(0, 2, &publish("t", QoS::AtLeastOnce, 1, b"new"));
    world.turns(5);
    let sent = read(&world.sent(0, 1)).into_iter();
    let publishes = sent.filter_map(|one| match one {
        Got::Publish { payload, dup, .. } => Some((payload, dup)),
        _ => None,
    });
    publishes.collect()
}

#[test]
fn what_a_run_that_crashed_may_have_sent_comes_with_dup() {
    let seen = |flags: [bool; 4]| {
        let texts = ["before", "exactly", "after", "new"].map(str::to_owned);
        texts.into_iter().zip(flags).collect::<Vec<_>>()
    };
    for expiry_s in [100_000, u32::MAX] {
        // It was connected at the crash: all may have been sent, but not with QoS 2, of which the
        // log would know.
        assert_eq!(marked_again(0, expiry_s), seen([true, false, true, false]));
        let away = marked_again(START_MS - 60_000, expiry_s);
        assert_eq!(away, seen([true, false, false, false]), "it was away when the last came");
    }
    // An older version did not say when a session that never expires was left.
    assert_eq!(marked_again(1, u32::MAX), seen([true, false, true, false]));
}

/// The texts that a client reads in some turns.
fn texts(world: &mut World, socket: u32) -> Vec<String> {
    world.turns(20);
    payloads(&read(&world.sent(0, socket))).into_iter().map(str::to_owned).collect()
}

/// What was in flight did not count against the limit of the queue; after a start it waits.
#[test]
fn what_was_in_flight_is_not_dropped_for_the_first_message_of_the_next_run() {
    for (queue_policy, wanted) in [(DropPolicy::Newest, 0..21), (DropPolicy::Oldest, 1..22)] {
        let waiting = |number: u64| {
            let body = Body::Here(message("t", &number.to_string()).raw());
            let message = Kept { lsn: number + 1, body, place: None, is_shared: false };
            let seq = number + 1;
            Waiting { seq, qos: 1, retain: false, membership: 0, ids: Vec::new(), message }
        };
        let reader = session("reader", &["t"], None);
        let left = Parts {
            sessions: vec![SessionPart { waiting: (0..21).map(waiting).collect(), ..reader }],
            last_session: SessionId(1),
            last_seq: 21,
            ..Parts::default()
        };
        let limits = Limits { queue_count_max: 5, queue_policy, ..quiet() };
        let mut world = World::restored(vec![left], limits);
        world.turns(5);
        world.accept(0, 1, &connect("publisher"));
        world.send(0, 1, &publish("t", QoS::AtLeastOnce, 1, b"21"));
        world.turns(5);
        assert_eq!(world.count(Counter::DroppedQueueFull), 1, "one for the other, and counted");
        world.accept(0, 2, &connect_lasting("reader", None));
        let wanted: Vec<String> = wanted.map(|number: u64| number.to_string()).collect();
        assert_eq!(texts(&mut world, 2), wanted);
    }
}

/// The clock of the run before was a year ahead.
#[test]
fn expiry_and_delay_of_a_run_with_a_wrong_clock_end_in_their_time() {
    let names = World::new(1, quiet());
    let ahead_ms = names.now_ms() + 365 * 86_400_000;
    let part = |id: u64, name: &str, expiry_s: u32, detached_ms: u64, will| {
        let part = session(name, &["t"], None);
        let id = SessionId(id);
        let record = SessionRecord { id, expiry_s, detached_ms, will, ..part.record };
        SessionPart { record, ..part }
    };
    let will = WillRecord {
        message: message("will", "gone").raw().to_vec(),
        expiry_s: None,
        delay_s: 10,
        due_ms: ahead_ms + 10_000,
    };
    let left = Parts {
        // Of a session that never expires the log does not say when it was left.
        sessions: vec![
            part(1, "testator", u32::MAX, 1, Some(will)),
            part(2, "away", 60, ahead_ms, None),
        ],
        last_session: SessionId(2),
        ..Parts::default()
    };
    let mut world = World::restored(vec![left], quiet());
    world.turns(5);
    world.accept(0, 1, &connect("watcher"));
    world.send(0, 1, &subscribe(1, "will", options(QoS::AtMostOnce)));
    world.turns(5);
    world.sent(0, 1);
    for (seconds, wanted, sessions) in [(9, &[][..], 3), (2, &["gone"][..], 3), (50, &[][..], 2)] {
        (0..seconds).for_each(|_| {
            world.pass_ms(1000);
            world.turns(1);
        });
        assert_eq!(texts(&mut world, 1), wanted);
        assert_eq!(world.count(Counter::Sessions), sessions, "after {seconds} s more");
    }
}
