//! A store without space, and one that is far behind: what is refused, what waits, what goes on.

use ringtide_codec::{AckKind, Connect, PublishOut, QoS, ReasonCode, Version};
use ringtide_shard::Limits;
use ringtide_shard::counters::Counter;

use crate::harness::{World, quiet};
use crate::packets::*;

const NO_SPACE: ReasonCode = ReasonCode::QuotaExceeded;
const OK: ReasonCode = ReasonCode::Success;

/// Clean Session 1 or 0, MQTT 3.1.1.
fn connect_v3(client_id: &str, clean_start: bool) -> Vec<u8> {
    bytes_of(&Connect { version: Version::V3_1_1, clean_start, ..connect_as(client_id) })
}

/// A PUBLISH of QoS 1 from a client of MQTT 3.1.1.
fn publish_v3(topic: &str, number: u16, payload: &[u8]) -> Vec<u8> {
    let packet = publish_as(topic, QoS::AtLeastOnce, number);
    frame_of(PublishOut { version: Version::V3_1_1, ..packet }, payload)
}

/// The topic of a retained message, QoS 1 or 0.
fn retain_as(topic: &str, qos: QoS, number: u16, payload: &[u8]) -> Vec<u8> {
    frame_of(PublishOut { retain: true, ..publish_as(topic, qos, number) }, payload)
}

fn set_full(world: &mut World, full: bool) {
    world.space.iter().for_each(|space| space.full.set(full));
    world.turns(1);
}

/// A lasting session on socket 1 that reads `kept/#`, a publisher on socket 2 and a passing reader
/// of `live/#` on socket 3.
fn populated(limits: Limits) -> World {
    let mut world = World::new(1, limits);
    world.accept(0, 1, &connect_lasting("lasting", None));
    world.send(0, 1, &subscribe(1, "kept/#", options(QoS::ExactlyOnce)));
    world.accept(0, 2, &connect("publisher"));
    world.accept(0, 3, &connect("passing"));
    world.send(0, 3, &subscribe(1, "live/#", options(QoS::AtLeastOnce)));
    world.turns(5);
    (1..=3).for_each(|socket| drop(world.sent(0, socket)));
    world
}

#[test]
fn new_state_of_clients_is_refused_and_old_state_is_served() {
    let mut world = populated(quiet());
    world.send(0, 2, &publish("kept/1", QoS::AtLeastOnce, 1, b"before"));
    world.end(0, 1);
    world.turns(5);
    set_full(&mut world, true);
    world.accept(0, 11, &connect_lasting("new", None));
    world.accept(0, 12, &connect_v3("old and new", false));
    let with_will = Connect { will: Some(will("w", QoS::AtMostOnce)), ..connect_as("mortal") };
    world.accept(0, 13, &bytes_of(&with_will));
    world.accept(0, 14, &connect("clean"));
    world.accept(0, 15, &connect_v3("clean and old", true));
    world.accept(0, 16, &connect_lasting("lasting", None));
    world.turns(5);
    assert_eq!(read(&world.sent(0, 11)), [Got::ConnAck(NO_SPACE)]);
    assert_eq!(world.sent(0, 12), [0x20, 2, 0, 3], "server unavailable");
    assert_eq!(read(&world.sent(0, 13)), [Got::ConnAck(NO_SPACE)]);
    assert!((11..=13).all(|socket| world.is_closed(0, socket)));
    assert_eq!(read(&world.sent(0, 14)), [Got::ConnAck(OK)]);
    assert_eq!(world.sent(0, 15), [0x20, 2, 0, 0]);
    let got = read(&world.sent(0, 16));
    assert_eq!((&got[0], payloads(&got)), (&Got::ConnAck(OK), vec!["before"]));
    assert_eq!(world.count(Counter::StoreRefused), 3);
    set_full(&mut world, false);
    world.accept(0, 17, &connect_lasting("new", None));
    world.turns(5);
    assert_eq!(read(&world.sent(0, 17)), [Got::ConnAck(OK)]);
}

#[test]
fn a_publish_that_must_be_kept_is_refused_and_others_are_not() {
    let mut world = populated(quiet());
    set_full(&mut world, true);
    let records = world.space[0].records.get();
    world.send(0, 2, &publish("kept/1", QoS::AtLeastOnce, 1, b"lost"));
    world.send(0, 2, &publish("kept/2", QoS::ExactlyOnce, 2, b"lost"));
    world.send(0, 2, &publish("live/1", QoS::AtLeastOnce, 3, b"live"));
    world.send(0, 2, &publish("kept/3", QoS::AtMostOnce, 0, b"passing by"));
    world.send(0, 2, &publish("nobody", QoS::ExactlyOnce, 4, b"x"));
    world.turns(3);
    let nobody = ReasonCode::NoMatchingSubscribers;
    let expected = [
        Got::PubAck(1, NO_SPACE),
        Got::PubRec(2, NO_SPACE),
        Got::PubAck(3, OK),
        Got::PubRec(4, nobody),
    ];
    assert_eq!(read(&world.sent(0, 2)), expected);
    assert_eq!(payloads(&read(&world.sent(0, 3))), ["live"]);
    assert_eq!(payloads(&read(&world.sent(0, 1))), ["passing by"]);
    assert_eq!(world.space[0].records.get(), records, "nothing was recorded");
    // The id of what was refused is free, and a new message under it is no repetition.
    set_full(&mut world, false);
    world.send(0, 2, &publish("kept/2", QoS::ExactlyOnce, 2, b"kept"));
    world.turns(5);
    assert_eq!(read(&world.sent(0, 2)), [Got::PubRec(2, OK)]);
    assert_eq!(payloads(&read(&world.sent(0, 1))), ["kept"]);
}

#[test]
fn a_refusal_does_not_overtake_what_waits_for_the_log() {
    let mut world = populated(quiet());
    world.shelf.held.set(true);
    world.send(0, 2, &publish("kept/1", QoS::AtLeastOnce, 1, b"1"));
    world.turns(2);
    set_full(&mut world, true);
    world.send(0, 2, &publish("kept/1", QoS::AtLeastOnce, 2, b"2"));
    world.turns(2);
    assert_eq!(world.sent(0, 2), []);
    world.shelf.held.set(false);
    world.turns(2);
    assert_eq!(read(&world.sent(0, 2)), [Got::PubAck(1, OK), Got::PubAck(2, NO_SPACE)]);
}

#[test]
fn a_publish_of_an_older_client_waits_for_space() {
    let mut world = populated(quiet());
    world.accept(0, 5, &connect_v3("old", true));
    world.turns(5);
    world.sent(0, 5);
    set_full(&mut world, true);
    world.send(0, 5, &publish_v3("live/1", 1, b"live"));
    world.send(0, 5, &publish_v3("kept/1", 2, b"kept"));
    world.send(0, 5, &publish_v3("live/2", 3, b"behind"));
    for _ in 0..20 {
        world.pass_ms(1000);
        world.turns(2);
    }
    assert_eq!(world.sent(0, 5), [0x40, 2, 0, 1], "what needs no record before it");
    assert!(!world.is_read(0, 5) && !world.is_closed(0, 5));
    set_full(&mut world, false);
    world.turns(5);
    assert_eq!(world.sent(0, 5), [0x40, 2, 0, 2, 0x40, 2, 0, 3]);
    assert_eq!(payloads(&read(&world.sent(0, 1))), ["kept"]);
    assert_eq!(payloads(&read(&world.sent(0, 3))), ["live", "behind"]);
    assert!(world.is_read(0, 5));
}

#[test]
fn what_an_older_client_leaves_behind_may_come_again() {
    let mut world = populated(quiet());
    let connect = connect_v3("old", true);
    world.accept(0, 5, &connect);
    world.turns(5);
    set_full(&mut world, true);
    world.send(0, 5, &publish_v3("kept/1", 2, b"once"));
    world.turns(3);
    // Its next connection takes this one over.
    world.accept(0, 6, &connect);
    world.turns(5);
    assert!(world.is_closed(0, 5));
    assert_eq!(world.sent(0, 6), [0x20, 2, 0, 0]);
    world.send(0, 6, &publish_v3("kept/1", 2, b"once"));
    world.turns(3);
    set_full(&mut world, false);
    world.turns(5);
    assert_eq!(world.sent(0, 6), [0x40, 2, 0, 2]);
    assert_eq!(payloads(&read(&world.sent(0, 1))), ["once"]);
}

#[test]
fn retained_messages_are_not_kept_but_cleared() {
    let mut world = populated(quiet());
    world.send(0, 2, &retain("live/old", b"old"));
    world.send(0, 2, &retain("live/older", b"older"));
    world.turns(3);
    world.sent(0, 3);
    set_full(&mut world, true);
    world.send(0, 2, &retain("live/new", b"new"));
    world.send(0, 2, &retain_as("live/acked", QoS::AtLeastOnce, 1, b"no"));
    world.send(0, 2, &retain("live/old", b""));
    world.send(0, 2, &retain_as("live/older", QoS::AtLeastOnce, 2, b""));
    world.turns(3);
    assert_eq!(payloads(&read(&world.sent(0, 3))), ["new", "", ""], "delivered live");
    assert_eq!(read(&world.sent(0, 2)), [Got::PubAck(1, NO_SPACE), Got::PubAck(2, OK)]);
    assert_eq!(world.count(Counter::DroppedRetainedFull), 1);
    assert_eq!(world.count(Counter::Retained), 0);
}

#[test]
fn a_lasting_session_gets_no_new_subscription() {
    let mut world = populated(quiet());
    world.accept(0, 6, &connect_v3("old", false));
    world.turns(5);
    world.sent(0, 6);
    set_full(&mut world, true);
    world.send(0, 1, &subscribe(1, "more", options(QoS::AtLeastOnce)));
    world.send(0, 1, &subscribe(2, "kept/#", options(QoS::AtLeastOnce)));
    world.send(0, 1, &subscribe(3, "$share/g/more", options(QoS::AtLeastOnce)));
    world.send(0, 1, &unsubscribe(4, "kept/#"));
    world.send(0, 3, &subscribe(5, "more", options(QoS::AtLeastOnce)));
    world.send(0, 6, &[0x82, 6, 0, 7, 0, 1, b'x', 1]);
    world.turns(8);
    let expected = [
        Got::SubAck(1, vec![0x97]),
        Got::SubAck(2, vec![1]),
        Got::SubAck(3, vec![0x97]),
        Got::UnsubAck(4, vec![0]),
    ];
    assert_eq!(read(&world.sent(0, 1)), expected);
    assert_eq!(read(&world.sent(0, 3)), [Got::SubAck(5, vec![1])]);
    assert_eq!(world.sent(0, 6), [0x90, 3, 0, 7, 0x80]);
    assert_eq!(world.count(Counter::Subscriptions), 2);
}

#[test]
fn what_has_begun_is_finished() {
    let mut world = populated(quiet());
    let dying = Connect { will: Some(will("live/will", QoS::AtLeastOnce)), ..connect_as("dying") };
    world.accept(0, 5, &bytes_of(&dying));
    world.accept(0, 6, &connect_lasting("sender", None));
    world.turns(5);
    world.send(0, 6, &publish("kept/1", QoS::ExactlyOnce, 7, b"twice asked"));
    world.turns(3);
    world.sent(0, 6);
    set_full(&mut world, true);
    // A repetition, and the release.
    world.send(0, 6, &publish("kept/1", QoS::ExactlyOnce, 7, b"twice asked"));
    world.send(0, 6, &ack(AckKind::PubRel, 7));
    world.end(0, 5);
    world.turns(5);
    assert_eq!(read(&world.sent(0, 6)), [Got::PubRec(7, OK), Got::PubComp(7, OK)]);
    assert_eq!(payloads(&read(&world.sent(0, 3))), ["gone"]);
    let got = read(&world.sent(0, 1));
    assert_eq!(payloads(&got), ["twice asked"]);
    let Got::Publish { id, .. } = got[0] else { panic!("{got:?}") };
    world.send(0, 1, &ack(AckKind::PubRec, id));
    world.send(0, 1, &ack(AckKind::PubComp, id));
    world.turns(3);
    assert_eq!(read(&world.sent(0, 1)), [Got::Other], "PUBREL");
    world.end(0, 6);
    world.turns(3);
    assert_eq!(world.count(Counter::Sessions), 4);
}

#[test]
fn memory_for_what_the_disk_has_not_taken_is_bounded() {
    const BOUND: u64 = 64 << 10;
    let limits = Limits { store_backlog_bytes_max: BOUND, ..quiet() };
    let mut world = populated(limits);
    world.accept(0, 5, &connect_v3("old", true));
    world.turns(5);
    world.sent(0, 5);
    world.shelf.held.set(true);
    for number in 1..=500 {
        world.send(0, 2, &publish("kept/1", QoS::AtLeastOnce, number, &[b'x'; 1000]));
        world.send(0, 5, &publish_v3("kept/1", number, &[b'x'; 1000]));
    }
    world.turns(200);
    let waiting = world.space[0].waiting_bytes.get();
    assert!(waiting > BOUND && waiting < BOUND + 1500, "{waiting} bytes wait");
    assert!(!world.is_read(0, 2) && !world.is_read(0, 5));
    assert_eq!((world.sent(0, 2), world.sent(0, 5)), (vec![], vec![]));
    let took = world.count(Counter::PublishReceivedQos1);
    // Others go on; what they would add to the log waits too.
    world.accept(0, 6, &connect("other"));
    world.send(0, 6, &publish("live/1", QoS::AtLeastOnce, 1, b"live"));
    world.accept(0, 7, &connect_lasting("late", None));
    world.send(0, 1, &subscribe(9, "more", options(QoS::AtLeastOnce)));
    world.turns(20);
    assert_eq!(read(&world.sent(0, 6)), [Got::ConnAck(OK), Got::PubAck(1, OK)]);
    assert_eq!(payloads(&read(&world.sent(0, 3))), ["live"]);
    assert_eq!(world.sent(0, 7), []);
    let news = read(&world.sent(0, 1));
    assert!(!news.contains(&Got::SubAck(9, vec![1])), "{news:?}");
    assert_eq!(world.count(Counter::PublishReceivedQos1), took + 1);
    assert_eq!(world.space[0].waiting_bytes.get(), waiting);
    world.shelf.held.set(false);
    world.turns(1200);
    let acked = read(&world.sent(0, 2));
    let expected: Vec<Got> = (1..=500).map(|number| Got::PubAck(number, OK)).collect();
    assert_eq!(acked, expected);
    assert_eq!(world.sent(0, 5).len(), 500 * 4);
    assert_eq!(read(&world.sent(0, 7)), [Got::ConnAck(OK)]);
    assert!(read(&world.sent(0, 1)).contains(&Got::SubAck(9, vec![1])));
}

#[test]
fn what_waits_for_a_checkpoint_is_not_refused() {
    let mut world = populated(quiet());
    world.space[0].tight.set(true);
    world.turns(1);
    world.send(0, 2, &publish("kept/1", QoS::AtLeastOnce, 1, b"waits"));
    world.send(0, 2, &publish("live/1", QoS::AtLeastOnce, 2, b"behind"));
    world.turns(5);
    assert_eq!(world.sent(0, 2), []);
    world.space[0].tight.set(false);
    world.turns(5);
    assert_eq!(read(&world.sent(0, 2)), [Got::PubAck(1, OK), Got::PubAck(2, OK)]);
}

#[test]
fn a_full_store_writes_checkpoints_now_and_then() {
    let mut world = populated(quiet());
    set_full(&mut world, true);
    for _ in 0..100 {
        world.pass_ms(100);
        world.turns(3);
    }
    let count = world.space[0].checkpoints.get();
    assert!((8..=11).contains(&count), "{count} in ten seconds");
    set_full(&mut world, false);
    world.pass_ms(5000);
    world.turns(10);
    assert_eq!(world.space[0].checkpoints.get(), count, "nobody wants one any more");
}

/// Acknowledgements take the room that is left: the next checkpoint does not wait for its time.
#[test]
fn a_full_store_writes_a_checkpoint_while_it_finds_room() {
    let mut world = populated(quiet());
    set_full(&mut world, true);
    world.pass_ms(5000);
    world.turns(10);
    let count = world.space[0].checkpoints.get();
    assert!(count > 0);
    world.pass_ms(1);
    world.turns(10);
    assert_eq!(world.space[0].checkpoints.get(), count, "the next one has its time");
    world.space[0].last_chance.set(true);
    world.turn(0);
    world.space[0].last_chance.set(false);
    world.turns(10);
    assert_eq!(world.space[0].checkpoints.get(), count + 1);
}

#[test]
fn a_publish_goes_by_the_shards_that_must_keep_it() {
    let mut world = World::new(2, quiet());
    let (reader, passing) = (world.name_at(1, "reader"), world.name_at(1, "passing"));
    let publisher = world.name_at(0, "publisher");
    world.accept(1, 1, &connect_lasting(&reader, None));
    world.send(1, 1, &subscribe(1, "kept", options(QoS::AtLeastOnce)));
    world.accept(0, 2, &connect(&publisher));
    world.accept(1, 3, &connect(&passing));
    world.turns(20);
    drop((world.sent(1, 1), world.sent(0, 2)));
    world.space[1].full.set(true);
    world.pass_ms(1);
    world.turns(2);
    world.pass_ms(1);
    world.turns(2);
    world.send(0, 2, &publish("kept", QoS::AtLeastOnce, 1, b"no"));
    world.turns(5);
    assert_eq!(read(&world.sent(0, 2)), [Got::PubAck(1, NO_SPACE)]);
    assert_eq!(world.sent(1, 1), []);
    world.space[1].full.set(false);
    world.pass_ms(1);
    world.turns(2);
    world.pass_ms(1);
    world.turns(2);
    world.send(0, 2, &publish("kept", QoS::AtLeastOnce, 1, b"yes"));
    world.turns(5);
    assert_eq!(read(&world.sent(0, 2)), [Got::PubAck(1, OK)]);
    assert_eq!(payloads(&read(&world.sent(1, 1))), ["yes"]);
}

#[test]
fn a_client_that_was_handed_over_is_refused_in_its_own_version() {
    let mut world = World::new(2, quiet());
    let names = [world.name_at(1, "new"), world.name_at(1, "old")];
    set_full(&mut world, true);
    world.accept(0, 1, &connect_lasting(&names[0], None));
    world.accept(0, 2, &connect_v3(&names[1], false));
    world.turns(5);
    assert_eq!(read(&world.sent(1, 1)), [Got::ConnAck(NO_SPACE)]);
    assert_eq!(world.sent(1, 2), [0x20, 2, 0, 3]);
}
