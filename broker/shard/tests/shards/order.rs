//! The order in which a shard takes what the others send.

use ringtide_codec::QoS;

use crate::harness::{World, quiet};
use crate::packets::*;

/// A client on each shard under socket 10, of which this one reads `t`.
fn clients_and_reader_on(reader: usize, shards: u16) -> World {
    let mut world = World::new(shards, quiet());
    for shard in 0..shards {
        let name = world.name_at(shard, "c");
        world.accept(usize::from(shard), 10, &connect(&name));
    }
    world.turns(2);
    world.send(reader, 10, &subscribe(1, "t", options(QoS::AtMostOnce)));
    world.turns(2);
    (0..usize::from(shards)).for_each(|shard| drop(world.sent(shard, 10)));
    world
}

/// What was published later comes later, whichever lane it came through and wherever it began.
#[test]
fn what_several_shards_published_is_taken_in_the_order_of_time() {
    let mut world = clients_and_reader_on(0, 4);
    // The reader's shard sleeps through all of it.
    let publishers = [3, 1, 2, 3, 3, 2, 1, 1, 3];
    for (number, shard) in publishers.into_iter().enumerate() {
        let text = number.to_string();
        world.send(shard, 10, &publish("t", QoS::AtMostOnce, 0, text.as_bytes()));
        world.turn(shard);
        world.pass_ms(1);
    }
    world.turn(0);
    let got = read(&world.sent(0, 10));
    assert_eq!(payloads(&got), ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
}

/// A turn that has no time left goes on with the oldest, not with what is first in a lane.
#[test]
fn a_turn_that_is_over_leaves_the_younger() {
    let mut world = clients_and_reader_on(0, 3);
    for number in 0..60 {
        let shard = 2 - number / 10 % 2;
        let text = number.to_string();
        world.send(shard, 10, &publish("t", QoS::AtMostOnce, 0, text.as_bytes()));
        world.turn(shard);
        world.pass_ms(1);
    }
    world.look_takes_us(10_000);
    let mut got = Vec::new();
    let mut turns = 0;
    while got.len() < 60 {
        world.turn(0);
        let came = read(&world.sent(0, 10));
        assert!(!came.is_empty() && came.len() < 60, "{} in one turn", came.len());
        got.extend(payloads(&came).iter().map(ToString::to_string));
        turns += 1;
    }
    assert_eq!(got, (0..60).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(turns > 2, "the test is about turns that are over");
}

/// A long turn's sends are submitted before its end: what a PUBACK among them acknowledges must be
/// in the lanes by then.
#[test]
fn the_lanes_are_published_before_anything_is_sent() {
    let mut world = clients_and_reader_on(1, 2);
    world.shared.as_ref().expect("two shards").going_to_sleep(1);
    world.wires[0].borrow_mut().sends_at_wake.clear();
    world.send(0, 10, &publish("t", QoS::AtLeastOnce, 1, b"x"));
    let before = world.wires[0].borrow().sends;
    world.turn(0);
    assert_eq!(world.wires[0].borrow().sends_at_wake, [before], "published after the PUBACK left");
    assert_eq!(read(&world.sent(0, 10)), [Got::PubAck(1, ringtide_codec::ReasonCode::Success)]);
}
