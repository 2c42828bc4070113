//! Shared groups over several shards: who joins and leaves, and when its client is told.

use ringtide_codec::QoS;
use ringtide_shard::counters::Counter;

use ringtide_storage::record::{Filter, SessionId, SessionRecord};
use ringtide_storage::state::{Parts, SessionPart};

use crate::harness::{World, quiet};
use crate::packets::*;

/// A group's filter whose home is this shard.
fn group_at(world: &mut World, shard: u16) -> String {
    world.name_at(shard, "$share/g/t")
}

#[test]
fn a_member_gets_nothing_after_its_unsuback() {
    let mut world = World::new(3, quiet());
    let filter = "$share/g/work";
    let mut sockets = Vec::new();
    for shard in [1_u16, 2, 0] {
        let name = world.name_at(shard, "c");
        let socket = u32::from(shard) + 10;
        world.accept(usize::from(shard), socket, &connect(&name));
        if shard > 0 {
            world.send(
                usize::from(shard),
                socket,
                &subscribe(1, filter, options(QoS::AtLeastOnce)),
            );
        }
        sockets.push(socket);
    }
    world.turns(10);
    world.sent(1, 11);
    world.sent(2, 12);
    world.send(1, 11, &unsubscribe(2, filter));
    // Only its own shard turns: the publisher's does not know, nor does the group's home.
    world.turn(1);
    assert_eq!(read(&world.sent(1, 11)), [Got::UnsubAck(2, vec![0])]);
    for number in 1..=8 {
        world.send(
            0,
            10,
            &publish("work", QoS::AtLeastOnce, number, number.to_string().as_bytes()),
        );
    }
    world.turn(0);
    world.turns(20);
    assert_eq!(read(&world.sent(1, 11)), []);
    let got = read(&world.sent(2, 12));
    let mut came: Vec<u32> = payloads(&got).iter().filter_map(|own| own.parse().ok()).collect();
    came.sort_unstable();
    assert_eq!(came, (1..=8).collect::<Vec<u32>>(), "the other member has all of them");
    assert_eq!(world.count(Counter::DroppedNoMember), 0);
}

/// A message that was chosen for a member that has ended, whose number its successor has.
#[test]
fn the_only_member_gets_a_message_that_came_for_the_one_before_it() {
    let mut world = World::new(3, quiet());
    let filter = group_at(&mut world, 2);
    let (before, after) = (world.name_at(1, "c"), world.name_at(1, "c"));
    let publisher = world.name_at(0, "c");
    let join = subscribe(1, &filter, options(QoS::AtLeastOnce));
    world.accept(0, 10, &connect(&publisher));
    world.accept(1, 11, &connect(&before));
    world.send(1, 11, &join);
    world.turns(10);
    world.end(1, 11);
    (0..3).for_each(|_| world.turn(1));
    world.accept(1, 12, &connect(&after));
    world.send(1, 12, &join);
    (0..3).for_each(|_| world.turn(1));
    // The publisher's shard knows of neither; the member's hears of them with the message.
    world.send(
        0,
        10,
        &publish(filter.strip_prefix("$share/g/").unwrap(), QoS::AtLeastOnce, 1, b"1"),
    );
    world.turn(0);
    world.turn(2);
    world.turns(10);
    assert_eq!(payloads(&read(&world.sent(1, 12))), ["1"]);
    assert_eq!(world.count(Counter::DroppedNoMember), 0);
}

#[test]
fn a_join_of_an_earlier_connection_answers_no_later_subscribe() {
    let mut world = World::new(3, quiet());
    let (first, second) = (group_at(&mut world, 1), group_at(&mut world, 2));
    let name = world.name_at(0, "c");
    world.accept(0, 1, &connect_lasting(&name, None));
    world.turns(5);
    world.send(0, 1, &subscribe(1, &first, options(QoS::AtLeastOnce)));
    world.turn(0);
    world.end(0, 1);
    world.accept(0, 2, &connect_lasting(&name, None));
    (0..3).for_each(|_| world.turn(0));
    world.send(0, 2, &subscribe(2, &second, options(QoS::AtLeastOnce)));
    world.turn(0);
    world.sent(0, 2);
    // The first group's home hears of the join, then everybody of its snapshot, then the home
    // that everybody knows; the second group's home has only begun.
    for shard in [1, 2, 0, 1, 0] {
        world.turn(shard);
    }
    assert_eq!(read(&world.sent(0, 2)), [], "the second group's members are not known yet");
    world.turns(10);
    assert_eq!(read(&world.sent(0, 2)), [Got::SubAck(2, vec![1])]);
}

/// What an earlier run has left of a session with these subscriptions.
fn left(id: u64, client_id: &str, filters: &[String]) -> Parts {
    let filter = |filter: &String| Filter { filter: filter.clone(), options: 1, id: 0 };
    let record = SessionRecord {
        id: SessionId(id),
        client_id: client_id.to_owned(),
        expiry_s: u32::MAX,
        filters: filters.iter().map(filter).collect(),
        ..SessionRecord::default()
    };
    let session = SessionPart { record, waiting: Vec::new() };
    Parts { sessions: vec![session], last_session: SessionId(id), ..Parts::default() }
}

/// A publish that were let in before its shard knows the group would be acknowledged and nobody's.
#[test]
fn after_a_restart_nobody_is_let_in_before_every_shard_knows_the_groups() {
    let mut names = World::new(3, quiet());
    let member = names.name_at(1, "c");
    let filters: Vec<String> = (0..200).map(|_| group_at(&mut names, 2)).collect();
    let mut world = World::restored(
        vec![Parts::default(), left(1, &member, &filters), Parts::default()],
        quiet(),
    );
    // The groups' home has not the time for all of them in a turn, and shard 0 is quick.
    world.look_takes_us(50);
    let mut turns = 0;
    while !world.accepts(0) {
        world.turns(1);
        turns += 1;
        assert!(turns < 10_000, "the start does not go on");
    }
    let name = world.name_at(0, "c");
    world.accept(0, 10, &connect(&name));
    for (number, filter) in (1..).zip(&filters) {
        let topic = filter.strip_prefix("$share/g/").unwrap();
        world.send(0, 10, &publish(topic, QoS::AtLeastOnce, number, b"for one"));
    }
    (0..300).for_each(|_| world.turn(0));
    world.look_takes_us(0);
    world.turns(50);
    world.accept(1, 11, &connect_lasting(&member, None));
    world.turns(50);
    assert_eq!(payloads(&read(&world.sent(1, 11))).len(), filters.len());
}
