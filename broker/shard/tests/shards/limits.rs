//! Limits on what one client may cost, and what they must not refuse.

use ringtide_codec::{AckKind, Connect, ConnectProperties, PublishOut, QoS, ReasonCode};
use ringtide_shard::counters::Counter;
use ringtide_shard::{Limits, ListenerLimits};

use crate::harness::{World, quiet};
use crate::packets::*;

/// A client that reads nothing and floods the broker with PINGREQ, until no more is read from it.
fn choke(world: &mut World, socket: u32, keep_alive_s: u16) {
    let name = format!("c{socket}");
    world.accept(0, socket, &bytes_of(&Connect { keep_alive_s, ..connect_as(&name) }));
    world.turns(5);
    world.stall(0, socket);
    world.send(0, socket, &ping());
    world.turns(2);
    let flood = ping().repeat(2000);
    (0..4).for_each(|_| world.send(0, socket, &flood));
    world.turns(10);
    assert!(!world.is_read(0, socket), "it is still read");
}

fn pass_s(world: &mut World, seconds: u64) {
    for _ in 0..seconds {
        world.pass_ms(1000);
        world.turns(1);
    }
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let limits = Limits { write_buffer_max_bytes: 1000, choked_max_ms: 20_000, ..quiet() };
    let mut world = World::new(1, limits);
    choke(&mut world, 1, 10);
    choke(&mut world, 2, 0);
    pass_s(&mut world, 16);
    assert!(!world.is_closed(0, 1), "its keep alive is not held against it");
    assert!(!world.is_closed(0, 2));
    pass_s(&mut world, 8);
    assert!(!world.is_closed(0, 1) && world.is_closed(0, 2), "no keep alive: the limit alone");
    pass_s(&mut world, 14);
    assert!(world.is_closed(0, 1), "1.5 times the keep alive and the limit");
    assert_eq!(world.count(Counter::ChokedTimeouts), 2);
    assert_eq!(world.count(Counter::KeepAliveTimeouts), 0);
}

#[test]
fn no_more_is_read_from_a_client_that_is_owed_much() {
    let mut world = World::new(1, quiet());
    world.accept(0, 1, &connect("publisher"));
    world.accept(0, 2, &connect_lasting("reader", None));
    world.send(0, 2, &subscribe(1, "x", options(QoS::AtLeastOnce)));
    world.turns(5);
    world.sent(0, 1);
    world.shelf.held.set(true);
    // Older clients and those with a high Receive Maximum may have this many under way.
    let chunk = |at: u16| -> Vec<u8> {
        let one = |number| unsubscribe(number, "never");
        (0..100).flat_map(|offset| one(at * 100 + offset + 1)).collect()
    };
    // Something must wait for the log, or nothing is owed.
    world.send(0, 1, &publish("x", QoS::AtLeastOnce, 60_000, b"1"));
    world.turns(2);
    (0..100).for_each(|at| world.send(0, 1, &chunk(at)));
    world.turns(20);
    assert!(!world.is_read(0, 1), "it is still read");
    assert_eq!(world.sent(0, 1), [], "nothing is durable");
    world.shelf.held.set(false);
    world.turns(30);
    let got = read(&world.sent(0, 1));
    assert_eq!(got.len(), 10_001, "every packet is answered");
    assert!(world.is_read(0, 1));
}

#[test]
fn a_message_that_only_an_alias_makes_too_large_goes_without() {
    let mut world = World::new(1, quiet());
    let frame = publish("topic/long/enough", QoS::AtMostOnce, 0, &[7; 40]);
    let properties = ConnectProperties {
        maximum_packet_bytes: Some(frame.len() as u32),
        topic_alias_maximum: Some(5),
        ..Default::default()
    };
    world.accept(0, 1, &bytes_of(&Connect { properties, ..connect_as("reader") }));
    world.send(0, 1, &subscribe(1, "topic/#", options(QoS::AtLeastOnce)));
    world.accept(0, 2, &connect("publisher"));
    world.turns(5);
    world.sent(0, 1);
    world.send(0, 2, &frame);
    world.turns(2);
    assert_eq!(world.sent(0, 1), frame);
    // One that is larger is dropped all the same.
    world.send(0, 2, &publish("topic/long/enough", QoS::AtMostOnce, 0, &[7; 41]));
    world.turns(2);
    assert_eq!(world.sent(0, 1), []);
    assert_eq!(world.count(Counter::DroppedTooLarge), 1);
}

#[test]
fn a_subscription_may_be_replaced_at_the_quota() {
    let mut world = World::new(1, Limits { subscriptions_max: 2, ..quiet() });
    world.accept(0, 1, &connect("c"));
    for (number, filter) in ["a", "$share/g/b", "c", "a", "$share/g/b"].into_iter().enumerate() {
        world.send(0, 1, &subscribe(number as u16 + 1, filter, options(QoS::AtLeastOnce)));
    }
    world.turns(10);
    let got = read(&world.sent(0, 1));
    let codes = |number, code| Got::SubAck(number, vec![code]);
    let expected = [codes(1, 1), codes(2, 1), codes(3, 0x97), codes(4, 1), codes(5, 1)];
    assert_eq!(got[1..], expected);
}

#[test]
fn expired_messages_of_a_session_that_is_away_are_freed() {
    let mut world = World::new(1, quiet());
    world.accept(0, 1, &connect_lasting("away", None));
    world.send(0, 1, &subscribe(1, "x", options(QoS::AtLeastOnce)));
    world.accept(0, 2, &connect("publisher"));
    world.turns(5);
    world.end(0, 1);
    world.turns(2);
    for number in 1..=10 {
        let packet = publish_as("x", QoS::AtLeastOnce, number);
        let expiry = PublishOut { message_expiry_s: Some(5), ..packet };
        world.send(0, 2, &frame_of(expiry, b"1"));
    }
    world.send(0, 2, &publish("x", QoS::AtLeastOnce, 11, b"stays"));
    world.turns(2);
    pass_s(&mut world, 3);
    assert_eq!(world.count(Counter::DroppedExpired), 0);
    pass_s(&mut world, 5);
    assert_eq!(world.count(Counter::DroppedExpired), 10);
    world.accept(0, 3, &connect_lasting("away", None));
    world.turns(6);
    assert_eq!(payloads(&read(&world.sent(0, 3))), ["stays"]);
}

/// The store is behind: only clients of a listener that promises nothing are answered.
#[test]
fn acknowledgements_of_a_listener_that_promises_nothing_do_not_wait() {
    for durable_acks in [true, false] {
        let listener = ListenerLimits { durable_acks, ..ListenerLimits::default() };
        let mut world = World::new(1, Limits { listeners: vec![listener], ..quiet() });
        world.shelf.held.set(true);
        world.accept(0, 1, &connect_lasting("lasting", None));
        world.send(0, 1, &subscribe(1, "x", options(QoS::AtLeastOnce)));
        world.send(0, 1, &publish("x", QoS::AtLeastOnce, 1, b"1"));
        world.turns(5);
        let early = read(&world.sent(0, 1));
        world.shelf.held.set(false);
        world.turns(5);
        let late = read(&world.sent(0, 1));
        let all = [
            Got::ConnAck(ReasonCode::Success),
            Got::SubAck(1, vec![1]),
            Got::Publish {
                topic: "x".into(),
                payload: "1".into(),
                id: 1,
                retain: false,
                dup: false,
            },
            Got::PubAck(1, ReasonCode::Success),
        ];
        let (first, second) = if durable_acks { (&late, &early) } else { (&early, &late) };
        assert!(all.iter().all(|one| first.contains(one)), "{first:?}");
        assert_eq!((first.len(), second.len()), (4, 0));
    }
}

/// What a client of such a listener hears of the end of a packet id that the log holds it may rely
/// on at another listener, after a crash: a publish under that id must not count as a repeat.
#[test]
fn a_listener_that_promises_nothing_keeps_to_what_the_log_holds_of_packet_ids() {
    let listener = ListenerLimits { durable_acks: false, ..ListenerLimits::default() };
    let mut world = World::new(1, Limits { listeners: vec![listener], ..quiet() });
    let told = |world: &mut World, sent: Vec<u8>| {
        world.shelf.held.set(true);
        world.send(0, 1, &sent);
        world.turns(5);
        let early = read(&world.sent(0, 1));
        world.shelf.held.set(false);
        world.turns(5);
        (early, read(&world.sent(0, 1)))
    };
    world.accept(0, 1, &connect_lasting("lasting", None));
    world.send(0, 1, &subscribe(1, "x", options(QoS::ExactlyOnce)));
    world.turns(5);
    world.sent(0, 1);
    let came =
        Got::Publish { topic: "x".into(), payload: "1".into(), id: 1, retain: false, dup: false };
    let (received, completed) =
        (Got::PubRec(1, ReasonCode::Success), Got::PubComp(1, ReasonCode::Success));
    let got = told(&mut world, publish("x", QoS::ExactlyOnce, 1, b"1"));
    assert_eq!(got, (vec![received], vec![came]));
    assert_eq!(told(&mut world, ack(AckKind::PubRel, 1)), (vec![], vec![completed]));
    // Its own PUBREC: a PUBREL makes it forget the id.
    assert_eq!(told(&mut world, ack(AckKind::PubRec, 1)), (vec![], vec![Got::Other]));
    assert_eq!(told(&mut world, ack(AckKind::PubComp, 1)), (vec![], vec![]));
    // A new session ends all ids of the old one.
    assert_eq!(told(&mut world, publish("y", QoS::ExactlyOnce, 1, b"1")).0.len(), 1);
    world.end(0, 1);
    world.turns(5);
    world.shelf.held.set(true);
    world.accept(0, 2, &bytes_of(&Connect { clean_start: true, ..connect_as("lasting") }));
    world.turns(5);
    assert_eq!(world.sent(0, 2), []);
    world.shelf.held.set(false);
    world.turns(5);
    assert_eq!(read(&world.sent(0, 2)), [Got::ConnAck(ReasonCode::Success)]);
}
