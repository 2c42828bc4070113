//! Rates of a listener: connections a second, and what each client may send.

use ringtide_codec::{Connect, QoS};
use ringtide_shard::counters::Counter;
use ringtide_shard::{Limits, ListenerLimits, Pace, Rate};

use crate::harness::{World, quiet};
use crate::packets::*;

const WRITER: u32 = 1;
const READER: u32 = 2;

fn with(own: ListenerLimits) -> Limits {
    Limits { listeners: vec![own], ..quiet() }
}

fn paced(bytes: u64, messages: u64) -> Limits {
    let pace = Pace { bytes: Rate::share(bytes, 1), messages: Rate::share(messages, 1) };
    with(ListenerLimits { pace, ..ListenerLimits::default() })
}

/// A writer whose keep alive is short, and a reader of all that it publishes.
fn world(limits: Limits) -> World {
    let mut world = World::new(1, limits);
    world.accept(0, WRITER, &bytes_of(&Connect { keep_alive_s: 2, ..connect_as("writer") }));
    world.accept(0, READER, &connect("reader"));
    world.send(0, READER, &subscribe(1, "x", options(QoS::AtMostOnce)));
    world.turns(5);
    world.sent(0, READER);
    world
}

/// How many messages come while so much time passes.
fn come_within(world: &mut World, ms: u64) -> usize {
    let mut got = Vec::new();
    for _ in 0..ms / 10 {
        world.pass_ms(10);
        world.turns(2);
        got.extend(world.sent(0, READER));
    }
    payloads(&read(&got)).len()
}

#[test]
fn who_publishes_more_than_it_may_waits_and_loses_nothing() {
    let mut world = world(paced(0, 10));
    let numbers: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let all: Vec<u8> =
        numbers.iter().flat_map(|n| publish("x", QoS::AtMostOnce, 0, n.as_bytes())).collect();
    world.send(0, WRITER, &all);
    world.turns(5);
    let mut got = world.sent(0, READER);
    assert_eq!(payloads(&read(&got)).len(), 10, "a second's worth at once");
    assert!(!world.is_read(0, WRITER));
    for _ in 0..390 {
        world.pass_ms(10);
        world.turns(2);
        got.extend(world.sent(0, READER));
    }
    assert_eq!(payloads(&read(&got)).len(), 49);
    world.pass_ms(200);
    world.turns(4);
    got.extend(world.sent(0, READER));
    assert_eq!(payloads(&read(&got)), numbers, "in order, each once");
    assert!(world.is_read(0, WRITER));
    assert!(!world.is_closed(0, WRITER), "its keep alive of 2 s is not held against it");
    assert!(world.count(Counter::RateDelays) >= 40);
}

#[test]
fn bytes_count_whatever_they_are_and_a_large_packet_is_paid_for() {
    let mut world = world(paced(10_000, 0));
    let large = publish("x", QoS::AtMostOnce, 0, &[b'x'; 30_000]);
    for piece in large.chunks(3000) {
        world.send(0, WRITER, piece);
        world.turns(2);
    }
    assert!(!world.is_read(0, WRITER), "a second's worth has come");
    assert_eq!(come_within(&mut world, 1000), 1, "what has come is not held back for its size");
    world.send(0, WRITER, &ping());
    come_within(&mut world, 900);
    assert_eq!(read(&world.sent(0, WRITER)).len(), 1, "CONNACK alone: 30 KB are not paid for");
    come_within(&mut world, 200);
    assert_eq!(read(&world.sent(0, WRITER)).len(), 1, "PINGRESP");
    // Packets that are no messages count, too.
    world.pass_ms(1500);
    world.turns(2);
    world.send(0, WRITER, &ping().repeat(6000));
    world.turns(5);
    let answered = world.sent(0, WRITER).len();
    assert!((10_000..10_100).contains(&answered), "{answered} bytes of PINGRESP");
    come_within(&mut world, 1000);
    assert_eq!(answered + world.sent(0, WRITER).len(), 12_000);
}

#[test]
fn a_client_that_rests_may_be_taken_over_and_its_timer_harms_nobody() {
    let mut world = world(paced(0, 1));
    let two = publish("x", QoS::AtMostOnce, 0, b"1").repeat(3);
    world.send(0, WRITER, &two);
    world.turns(3);
    assert!(!world.is_read(0, WRITER));
    world.accept(0, 7, &connect("writer"));
    world.turns(5);
    assert!(world.is_closed(0, WRITER));
    world.sent(0, READER);
    world.send(0, 7, &publish("x", QoS::AtMostOnce, 0, b"new"));
    world.turns(3);
    assert_eq!(payloads(&read(&world.sent(0, READER))), ["new"]);
    assert_eq!(come_within(&mut world, 3000), 0, "what waited went with its connection");
    assert!(!world.is_closed(0, 7));
}

#[test]
fn nothing_behind_the_end_of_a_connection_is_handled() {
    const DISCONNECT: [u8; 2] = [0xE0, 0];
    const RESERVED: [u8; 2] = [0xF7, 0];
    for end in [DISCONNECT, RESERVED] {
        let mut world = world(paced(1_000_000, 1000));
        let one = |text: &[u8]| publish("x", QoS::AtMostOnce, 0, text);
        world.send(0, WRITER, &[one(b"before"), end.to_vec(), one(b"behind")].concat());
        world.turns(5);
        assert_eq!(payloads(&read(&world.sent(0, READER))), ["before"]);
        assert!(world.is_closed(0, WRITER));
    }
}

#[test]
fn rates_of_a_reload_are_in_force_at_once() {
    let mut world = world(paced(0, 1));
    world.send(0, WRITER, &publish("x", QoS::AtMostOnce, 0, b"1").repeat(200));
    world.turns(3);
    world.reload(paced(0, 0), || ringtide_shard::access::Access::Open);
    assert_eq!(come_within(&mut world, 2000), 200);
}

#[test]
fn connections_above_the_rate_are_refused_and_counted() {
    let connects = Rate::share(6, 2);
    let limits = with(ListenerLimits { connects, ..ListenerLimits::default() });
    let mut world = World::new(1, limits);
    let storm = |world: &mut World, from: u32| {
        for socket in from..from + 10 {
            world.accept(0, socket, &connect(&format!("c{socket}")));
        }
        world.turns(5);
        (from..from + 10).filter(|socket| !world.is_closed(0, *socket)).count()
    };
    assert_eq!(storm(&mut world, 100), 3, "this shard's half");
    assert_eq!(storm(&mut world, 200), 0);
    assert_eq!(world.count(Counter::ConnectRateRefused), 17);
    world.pass_ms(400);
    assert_eq!(storm(&mut world, 300), 1);
    world.pass_ms(60_000);
    assert_eq!(storm(&mut world, 400), 3);
    assert_eq!(world.count(Counter::ConnectionsOpen), 7);
}
