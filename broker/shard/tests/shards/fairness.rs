//! Nothing that comes in a mass holds up the others: a step ends with the turn's time and goes on
//! in the next turn. Each look at the clock takes 100 us here, and a turn may take 250.

use ringtide_codec::QoS;
use ringtide_shard::Limits;
use ringtide_shard::counters::Counter;

use crate::harness::{World, quiet};
use crate::packets::*;

const MANY: u32 = 2000;
const BYSTANDER: u32 = 1_000_000;
const OBSERVER: u32 = 1_000_001;

/// A bystander's PINGREQ is answered in the turn in which it comes, and the shard does not sleep.
fn assert_not_held_up(world: &mut World, shard: usize) {
    world.send(shard, BYSTANDER, &ping());
    world.turn(shard);
    assert_eq!(read(&world.sent(shard, BYSTANDER)), [Got::Pong]);
    assert!(world.polls(shard), "work is left, so the shard must not sleep");
}

fn join_as(world: &mut World, shard: usize, socket: u32, filter: &str) {
    let name = world.name_at(shard as u16, "by");
    world.accept(shard, socket, &connect(&name));
    world.send(shard, socket, &subscribe(1, filter, options(QoS::AtMostOnce)));
    world.turns(4);
    world.sent(shard, socket);
}

fn until(world: &mut World, what: &str, done: impl Fn(&World) -> bool) {
    for _ in 0..2000 {
        if done(world) {
            return;
        }
        world.turns(1);
    }
    panic!("{what} never came");
}

#[test]
fn the_ends_and_wills_of_many_connections() {
    let mut world = World::new(1, quiet());
    join_as(&mut world, 0, OBSERVER, "will/#");
    join_as(&mut world, 0, BYSTANDER, "other");
    for socket in 0..MANY {
        let packet = connect_lasting(&format!("c{socket}"), Some(will("will/x", QoS::AtMostOnce)));
        world.accept(0, socket, &packet);
    }
    world.turns(20);
    world.look_takes_us(100);
    (0..MANY).for_each(|socket| world.end(0, socket));
    assert_not_held_up(&mut world, 0);
    assert!(world.count(Counter::WillsPublished) < u64::from(MANY) / 4);
    for _ in 0..20 {
        assert_not_held_up(&mut world, 0);
    }
    until(&mut world, "the last will", |w| w.count(Counter::WillsPublished) == u64::from(MANY));
    world.turns(300);
    let wills = read(&world.sent(0, OBSERVER));
    assert_eq!(payloads(&wills).len(), MANY as usize);
}

#[test]
fn the_publishes_of_another_shard() {
    let mut world = World::new(2, quiet());
    join_as(&mut world, 1, OBSERVER, "far/#");
    join_as(&mut world, 1, BYSTANDER, "other");
    let name = world.name_at(0, "p");
    world.accept(0, 7, &connect(&name));
    world.turns(4);
    for _ in 0..MANY {
        world.send(0, 7, &publish("far/x", QoS::AtMostOnce, 0, b"1"));
    }
    (0..20).for_each(|_| world.turn(0));
    world.look_takes_us(100);
    assert_not_held_up(&mut world, 1);
    let taken = world.count(Counter::RecordsIn);
    assert!(taken < u64::from(MANY) / 4, "{taken} in one turn");
    world.turns(300);
    let came = read(&world.sent(1, OBSERVER));
    assert_eq!(payloads(&came).len(), MANY as usize);
}

#[test]
fn retained_messages_for_many_subscribers() {
    let mut world = World::new(1, quiet());
    join_as(&mut world, 0, BYSTANDER, "other");
    world.accept(0, OBSERVER, &connect("publisher"));
    for number in 0..200 {
        world.send(0, OBSERVER, &retain(&format!("kept/{number}"), b"1"));
    }
    for socket in 0..200 {
        world.accept(0, socket, &connect(&format!("c{socket}")));
    }
    world.turns(20);
    (0..200).for_each(|socket| {
        world.sent(0, socket);
    });
    world.look_takes_us(100);
    for socket in 0..200 {
        world.send(0, socket, &subscribe(1, "kept/#", options(QoS::AtMostOnce)));
    }
    world.turns(5);
    for _ in 0..20 {
        let before = world.count(Counter::PublishSentQos0);
        assert_not_held_up(&mut world, 0);
        let sent = world.count(Counter::PublishSentQos0) - before;
        assert!(sent < 1000, "{sent} in one turn");
    }
    until(&mut world, "every copy", |w| w.count(Counter::PublishSentQos0) == 200 * 200);
    for socket in 0..200 {
        assert_eq!(payloads(&read(&world.sent(0, socket))).len(), 200);
    }
}

#[test]
fn queues_of_many_sessions_that_come_back() {
    let mut world = World::new(1, quiet());
    join_as(&mut world, 0, BYSTANDER, "other");
    world.accept(0, OBSERVER, &connect("publisher"));
    for socket in 0..50 {
        world.accept(0, socket, &connect_lasting(&format!("c{socket}"), None));
        world.send(0, socket, &subscribe(1, "queued", options(QoS::AtLeastOnce)));
    }
    world.turns(20);
    (0..50).for_each(|socket| world.end(0, socket));
    world.turns(5);
    for number in 1..=600 {
        world.send(0, OBSERVER, &publish("queued", QoS::AtLeastOnce, number, b"1"));
    }
    world.turns(300);
    for socket in 0..50 {
        world.accept(0, 1000 + socket, &connect_lasting(&format!("c{socket}"), None));
    }
    world.turns(2);
    world.look_takes_us(100);
    for _ in 0..5 {
        let before = world.count(Counter::PublishSentQos1);
        assert_not_held_up(&mut world, 0);
        let sent = world.count(Counter::PublishSentQos1) - before;
        assert!(sent < 20 * 256, "{sent} in one turn");
    }
    until(&mut world, "every message", |w| w.count(Counter::PublishSentQos1) == 50 * 600);
}

#[test]
fn timers_and_the_drain() {
    let mut world = World::new(1, quiet());
    join_as(&mut world, 0, BYSTANDER, "other");
    for socket in 0..MANY {
        let mut packet = connect_as("");
        packet.keep_alive_s = 2;
        let name = format!("c{socket}");
        packet.client_id = &name;
        world.accept(0, socket, &bytes_of(&packet));
    }
    world.turns(20);
    world.pass_ms(3100);
    world.look_takes_us(100);
    let gone = |world: &World| world.count(Counter::KeepAliveTimeouts);
    assert_not_held_up(&mut world, 0);
    assert!((1..u64::from(MANY) / 4).contains(&gone(&world)), "{} at once", gone(&world));
    until(&mut world, "the last timeout", |w| gone(w) == u64::from(MANY));

    for socket in 0..MANY {
        world.accept(0, 10_000 + socket, &connect(&format!("d{socket}")));
    }
    until(&mut world, "every CONNACK", |w| w.count(Counter::Sessions) == u64::from(MANY) + 1);
    world.turns(100);
    world.drain();
    world.turn(0);
    let open = world.count(Counter::ConnectionsOpen);
    let closed = world.wires[0].borrow().closed.len();
    assert!(open > u64::from(MANY) / 2, "{open} open, {closed} closed");
    assert!(world.polls(0));
}

#[test]
fn what_comes_up_after_the_steps_is_not_slept_over() {
    let mut world = World::new(1, quiet());
    world.accept(0, 1, &connect("publisher"));
    world.accept(0, 2, &connect_lasting("reader", None));
    world.send(0, 2, &subscribe(1, "queued", options(QoS::AtLeastOnce)));
    world.turns(5);
    world.end(0, 2);
    world.turns(2);
    for number in 1..=600 {
        world.send(0, 1, &publish("queued", QoS::AtLeastOnce, number, b"1"));
    }
    world.turns(10);
    // The CONNACK waits for the log: the queue is first moved at the end of the turn after.
    world.shelf.held.set(true);
    world.accept(0, 3, &connect_lasting("reader", None));
    world.turns(3);
    assert_eq!(world.sent(0, 3), []);
    world.shelf.held.set(false);
    world.turns(2);
    assert!(!world.sent(0, 3).is_empty());
    assert!(world.polls(0), "messages are left");
}

#[test]
fn the_filters_of_one_subscribe() {
    let mut world = World::new(1, Limits { subscriptions_max: MANY, ..quiet() });
    join_as(&mut world, 0, BYSTANDER, "other");
    world.accept(0, 1, &connect("c"));
    world.turns(4);
    world.sent(0, 1);
    let names: Vec<String> = (0..MANY).map(|number| format!("f/{number}")).collect();
    let all: Vec<_> = names.iter().map(|name| (&**name, options(QoS::AtLeastOnce))).collect();
    world.send(0, 1, &subscribe_all(2, &all));
    world.send(0, 1, &ping());
    for _ in 0..4 {
        world.send(0, BYSTANDER, &ping());
        world.turn(0);
        assert_eq!(read(&world.sent(0, BYSTANDER)), [Got::Pong]);
        assert_eq!(read(&world.sent(0, 1)), [], "it is not in place as a whole");
    }
    world.turns(MANY as usize / 100);
    let answers = read(&world.sent(0, 1));
    assert_eq!(answers, [Got::SubAck(2, vec![1; MANY as usize]), Got::Pong], "and in order");
    assert_eq!(world.count(Counter::Subscriptions), u64::from(MANY) + 1);
}
