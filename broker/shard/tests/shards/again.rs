//! Publishes that repeat the one before them take a shorter way, which must not be told from the
//! whole one.

use ringtide_codec::{QoS, ReasonCode};

use crate::harness::{World, quiet};
use crate::packets::*;

const READER: u32 = 1;
const PUBLISHER: u32 = 2;

/// A reader of `t` with this QoS and a publisher, on one shard.
fn reader_and_publisher(connect_reader: &[u8], qos: QoS) -> World {
    let mut world = World::new(1, quiet());
    world.accept(0, READER, connect_reader);
    world.accept(0, PUBLISHER, &connect("publisher"));
    world.turns(3);
    world.send(0, READER, &subscribe(1, "t", options(qos)));
    world.turns(2);
    world.sent(0, READER);
    world.sent(0, PUBLISHER);
    world
}

fn publish_numbers(world: &mut World, numbers: std::ops::RangeInclusive<u16>) {
    let mut bytes = Vec::new();
    for number in numbers {
        bytes.extend(publish("t", QoS::AtLeastOnce, number, number.to_string().as_bytes()));
    }
    world.send(0, PUBLISHER, &bytes);
    world.turns(2);
}

/// The packet ids and payloads that a reader got.
fn ids_and_payloads(world: &World) -> Vec<(u16, String)> {
    let mut all = Vec::new();
    for got in read(&world.sent(0, READER)) {
        if let Got::Publish { topic, payload, id, retain, .. } = got {
            assert!(topic == "t" && !retain);
            all.push((id, payload));
        }
    }
    all
}

fn pairs(ids: impl Iterator<Item = u16>, numbers: impl Iterator<Item = u16>) -> Vec<(u16, String)> {
    ids.zip(numbers.map(|number| number.to_string())).collect()
}

fn expect_pubacks(world: &World, numbers: std::ops::RangeInclusive<u16>) {
    let expected: Vec<_> = numbers.map(|id| Got::PubAck(id, ReasonCode::Success)).collect();
    assert_eq!(read(&world.sent(0, PUBLISHER)), expected);
}

#[test]
fn each_copy_has_the_readers_own_packet_id() {
    let mut world = reader_and_publisher(&connect("reader"), QoS::AtLeastOnce);
    publish_numbers(&mut world, 1..=5);
    expect_pubacks(&world, 1..=5);
    assert_eq!(ids_and_payloads(&world), pairs(1..=5, 1..=5));
    (1..=5).for_each(|id| world.send(0, READER, &puback(id)));
    // Other ids of the publisher, the next ones of the reader.
    publish_numbers(&mut world, 100..=105);
    expect_pubacks(&world, 100..=105);
    assert_eq!(ids_and_payloads(&world), pairs(6..=11, 100..=105));
}

#[test]
fn what_the_quota_does_not_allow_waits_in_order() {
    let packet = {
        let mut packet = connect_as("reader");
        packet.properties.receive_maximum = Some(3);
        bytes_of(&packet)
    };
    let mut world = reader_and_publisher(&packet, QoS::AtLeastOnce);
    publish_numbers(&mut world, 1..=6);
    expect_pubacks(&world, 1..=6);
    assert_eq!(ids_and_payloads(&world), pairs(1..=3, 1..=3));
    world.send(0, READER, &puback(2));
    publish_numbers(&mut world, 7..=7);
    assert_eq!(ids_and_payloads(&world), pairs(4..=4, 4..=4));
    for id in [1, 3, 4] {
        world.send(0, READER, &puback(id));
    }
    world.turns(2);
    assert_eq!(ids_and_payloads(&world), pairs(5..=7, 5..=7));
}

#[test]
fn a_reader_of_qos_0_gets_no_packet_id() {
    let mut world = reader_and_publisher(&connect("reader"), QoS::AtMostOnce);
    publish_numbers(&mut world, 1..=4);
    expect_pubacks(&world, 1..=4);
    assert_eq!(ids_and_payloads(&world), pairs([0; 4].into_iter(), 1..=4));
}

#[test]
fn a_reader_whose_session_lasts_gets_again_what_it_did_not_acknowledge() {
    let mut world = reader_and_publisher(&connect_lasting("reader", None), QoS::AtLeastOnce);
    publish_numbers(&mut world, 1..=4);
    assert_eq!(ids_and_payloads(&world), pairs(1..=4, 1..=4));
    world.send(0, READER, &puback(2));
    world.turns(1);
    world.end(0, READER);
    world.turns(2);
    publish_numbers(&mut world, 5..=5);
    world.accept(0, READER + 10, &connect_lasting("reader", None));
    world.turns(10);
    let again = read(&world.sent(0, READER + 10));
    assert_eq!(payloads(&again), ["1", "3", "4", "5"]);
}

#[test]
fn what_only_looks_like_a_repetition_takes_the_whole_way() {
    let mut world = reader_and_publisher(&connect("reader"), QoS::AtLeastOnce);
    publish_numbers(&mut world, 1..=2);
    world.sent(0, PUBLISHER);
    // A retained one, properties, another topic with the same beginning.
    let retained =
        ringtide_codec::PublishOut { retain: true, ..publish_as("t", QoS::AtLeastOnce, 7) };
    world.send(0, PUBLISHER, &frame_of(retained, b"retained"));
    let expiring = ringtide_codec::PublishOut {
        message_expiry_s: Some(5),
        ..publish_as("t", QoS::AtLeastOnce, 3)
    };
    world.send(0, PUBLISHER, &frame_of(expiring, b"expiring"));
    world.send(0, PUBLISHER, &publish("tt", QoS::AtLeastOnce, 4, b"other"));
    world.send(0, PUBLISHER, &publish("t", QoS::AtMostOnce, 0, b"once"));
    world.turns(2);
    let got = ids_and_payloads(&world);
    let payloads: Vec<&str> = got.iter().map(|(_, payload)| payload.as_str()).collect();
    assert_eq!(payloads, ["1", "2", "retained", "expiring", "once"]);
    assert_eq!(got.last().map(|(id, _)| *id), Some(0));
    // A packet id of 0 is a malformed packet, as on the whole way.
    publish_numbers(&mut world, 5..=5);
    world.sent(0, PUBLISHER);
    let mut bytes = publish("t", QoS::AtLeastOnce, 6, b"x");
    let at = bytes.len() - 1 - 3;
    bytes[at..at + 2].copy_from_slice(&[0, 0]);
    world.send(0, PUBLISHER, &bytes);
    world.turns(2);
    let end = read(&world.sent(0, PUBLISHER));
    assert!(matches!(end[..], [Got::Disconnect(reason)] if reason.is_error()), "{end:?}");
    assert!(world.is_closed(0, PUBLISHER));
}

#[test]
fn the_dup_flag_of_a_publisher_goes_to_nobody() {
    let mut world = reader_and_publisher(&connect("reader"), QoS::AtLeastOnce);
    world.send(0, PUBLISHER, &publish("t", QoS::AtLeastOnce, 1, b"1"));
    let dup = ringtide_codec::PublishOut { dup: true, ..publish_as("t", QoS::AtLeastOnce, 2) };
    world.send(0, PUBLISHER, &frame_of(dup, b"2"));
    world.turns(2);
    let expected =
        [publish("t", QoS::AtLeastOnce, 1, b"1"), publish("t", QoS::AtLeastOnce, 2, b"2")];
    assert_eq!(world.sent(0, READER), expected.concat());
}
