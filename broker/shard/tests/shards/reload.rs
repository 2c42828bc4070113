//! New settings while the broker runs: what clients were told still holds, everything else is in
//! force at once, and nothing that waits is lost.

use ringtide_codec::{QoS, ReasonCode};
use ringtide_session::ServerLimits;
use ringtide_shard::Limits;
use ringtide_shard::access::{Access, Acl, LateAccess};
use ringtide_shard::counters::Counter;
use ringtide_topics::shared::Strategy;

use crate::harness::{World, quiet};
use crate::packets::*;

fn open() -> Access {
    Access::Open
}

fn never() -> Access {
    Access::Late(LateAccess::new(Acl::default(), u64::MAX / 2))
}

fn deny() -> Access {
    Access::Rules(Acl::parse("default deny").expect("rules"))
}

#[test]
fn a_client_is_held_to_what_it_was_told() {
    let mut world = World::new(1, quiet());
    world.accept(0, 1, &connect("old"));
    world.turns(5);
    let server = ServerLimits {
        maximum_packet_bytes: 100,
        maximum_qos: QoS::AtMostOnce,
        retain_available: false,
        receive_maximum: 1,
        topic_alias_maximum: 0,
        ..quiet().server
    };
    world.reload(Limits { server, ..quiet() }, open);
    world.accept(0, 2, &connect("new"));
    world.turns(5);
    world.sent(0, 1);
    world.sent(0, 2);
    world.shelf.held.set(true);
    let packet = publish_as("topic", QoS::AtLeastOnce, 0x10);
    let aliased = ringtide_codec::PublishOut { topic_alias: Some(3), ..packet };
    world.send(0, 1, &publish("x", QoS::AtLeastOnce, 1, &[1; 1000]));
    world.send(0, 1, &publish("x", QoS::AtLeastOnce, 2, b"1"));
    world.send(0, 1, &frame_of(aliased, b"1"));
    world.send(0, 1, &retain("x", b"1"));
    world.turns(2);
    world.shelf.held.set(false);
    world.turns(2);
    let ack = |number| Got::PubAck(number, ReasonCode::NoMatchingSubscribers);
    assert_eq!(read(&world.sent(0, 1)), [ack(1), ack(2), ack(0x10)]);
    world.send(0, 2, &publish("x", QoS::AtMostOnce, 0, &[1; 1000]));
    world.turns(2);
    assert_eq!(read(&world.sent(0, 2)), [Got::Disconnect(ReasonCode::PacketTooLarge)]);
}

#[test]
fn strategies_of_groups_that_are_there() {
    let limits = Limits { shared_strategy: Strategy::RoundRobin, ..quiet() };
    let mut world = World::new(2, limits);
    for shard in [0_u16, 1] {
        let name = world.name_at(shard, "c");
        world.accept(shard.into(), shard.into(), &connect(&name));
        let packet = subscribe(1, "$share/g/x", options(QoS::AtMostOnce));
        world.send(shard.into(), shard.into(), &packet);
    }
    let name = world.name_at(0, "p");
    world.accept(0, 9, &connect(&name));
    world.turns(10);
    let shares = |world: &mut World| {
        (0..10).for_each(|_| world.send(0, 9, &publish("x", QoS::AtMostOnce, 0, b"1")));
        world.turns(5);
        let of = |shard| payloads(&read(&world.sent(shard, shard as u32))).len();
        (of(0), of(1))
    };
    assert_eq!(shares(&mut world), (5, 5));
    world.reload(Limits { shared_strategy: Strategy::HashTopic, ..quiet() }, open);
    world.turns(5);
    let (first, second) = shares(&mut world);
    assert_eq!((first + second, first.max(second)), (10, 10), "one topic, one member");
}

#[test]
fn limits_of_retained_messages() {
    let mut world = World::new(1, quiet());
    world.accept(0, 1, &connect("c"));
    world.reload(Limits { retained_count_max: 1, ..quiet() }, open);
    world.turns(5);
    world.send(0, 1, &retain("a", b"1"));
    world.send(0, 1, &retain("b", b"1"));
    world.turns(2);
    assert_eq!(
        (world.count(Counter::Retained), world.count(Counter::DroppedRetainedLimit)),
        (1, 1)
    );
    world.reload(quiet(), open);
    world.send(0, 1, &retain("b", b"1"));
    world.turns(2);
    assert_eq!(world.count(Counter::Retained), 2);
}

#[test]
fn the_topics_of_the_broker_may_be_switched_on() {
    let mut world = World::new(1, quiet());
    world.accept(0, 1, &connect("c"));
    world.send(0, 1, &subscribe(1, "$SYS/broker/uptime", options(QoS::AtMostOnce)));
    world.turns(5);
    world.sent(0, 1);
    let seconds = |world: &mut World| {
        (0..5).for_each(|_| {
            world.pass_ms(1000);
            world.turns(2);
        });
        payloads(&read(&world.sent(0, 1))).len()
    };
    assert_eq!(seconds(&mut world), 0);
    world.reload(Limits { sys_interval_ms: 900, ..quiet() }, open);
    world.turns(1);
    assert!((4..=5).contains(&seconds(&mut world)));
    world.reload(quiet(), open);
    world.turns(1);
    assert_eq!(seconds(&mut world), 0);
}

#[test]
fn packets_that_wait_for_the_old_rules_are_judged_by_the_new() {
    let mut world = World::new(1, quiet());
    for socket in 1..=2 {
        world.accept(0, socket, &connect(&format!("c{socket}")));
    }
    world.reload(quiet(), never);
    world.turns(5);
    world.send(0, 1, &publish("x", QoS::AtLeastOnce, 1, b"1"));
    world.send(0, 2, &subscribe(1, "x", options(QoS::AtLeastOnce)));
    world.turns(20);
    world.reload(quiet(), never);
    world.turns(20);
    let connected = [Got::ConnAck(ReasonCode::Success)];
    assert_eq!(read(&world.sent(0, 1)), connected);
    assert_eq!(read(&world.sent(0, 2)), connected);
    world.reload(quiet(), deny);
    world.turns(2);
    assert_eq!(read(&world.sent(0, 1)), [Got::PubAck(1, ReasonCode::NotAuthorized)]);
    assert_eq!(read(&world.sent(0, 2)), [Got::SubAck(1, vec![0x87])]);
}

/// What a client was sent in a session that was to end with its connection is not kept, so that
/// such a session cannot come to last.
#[test]
fn a_session_that_was_bounded_to_its_connection_ends_with_it() {
    let mut limits = quiet();
    limits.server.session_expiry_max_s = 0;
    let mut world = World::new(1, limits.clone());
    let reader = connect_lasting("reader", None);
    world.accept(0, 1, &reader);
    world.accept(0, 2, &connect("publisher"));
    world.turns(3);
    world.send(0, 1, &subscribe(1, "t", options(QoS::AtLeastOnce)));
    world.turns(2);
    world.send(0, 2, &publish("t", QoS::AtLeastOnce, 1, b"one"));
    world.turns(2);
    assert_eq!(payloads(&read(&world.sent(0, 1))), ["one"]);
    limits.server.session_expiry_max_s = 1000;
    world.reload(limits, open);
    world.turns(2);
    // DISCONNECT with a Session Expiry Interval of 50.
    world.send(0, 1, &[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 50]);
    world.turns(3);
    world.send(0, 2, &publish("t", QoS::AtLeastOnce, 2, b"two"));
    world.turns(2);
    world.accept(0, 3, &reader);
    world.turns(5);
    assert_eq!(read(&world.sent(0, 3)), [Got::ConnAck(ReasonCode::Success)], "a new session");
}
