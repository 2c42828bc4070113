//! The hot path allocates nothing per message once buffers have grown to their size (with QoS 1 to
//! clients whose session ends with their connection), and a turn is one call of the driver's
//! `submit_and_wait`.

mod common;

use std::rc::Rc;

use common::{Carrier, shard};
use ringtide_codec::{
    AckKind, Connect, ConnectProperties, PacketId, PublishOut, QoS, ReasonCode, SubscribeOut,
    SubscriptionOptions, Version, write_ack,
};
use ringtide_driver::Turn;
use ringtide_shard::clock::Clock;

/// Time stands still: what a turn does is then the same on a machine that is busy with other work.
struct Still;

impl Clock for Still {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn now_us(&self) -> u64 {
        1
    }
}

const CLIENTS: u32 = 20;
const MESSAGES: usize = 50;

fn connect(version: Version, socket: u32) -> Rc<[u8]> {
    let client_id = format!("client-{socket}");
    let packet = Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_s: 60,
        client_id: &client_id,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    };
    let mut out = Vec::new();
    packet.encode(&mut out);
    out.into()
}

fn subscribe(version: Version, filter: &str, qos: QoS) -> Rc<[u8]> {
    let packet = SubscribeOut {
        packet_id: PacketId::new(1).expect("1 is an id"),
        subscription_id: None,
        filters: &[(filter, SubscriptionOptions::with_qos(qos))],
    };
    let mut out = Vec::new();
    packet.encode(version, &mut out);
    out.into()
}

/// A buffer of messages from one publisher.
fn publishes(version: Version, topic: &str, qos: QoS) -> Rc<[u8]> {
    let payload = [7; 64];
    let mut out = Vec::new();
    for number in 1..=MESSAGES {
        let packet = PublishOut {
            version,
            dup: false,
            qos,
            retain: false,
            topic,
            packet_id: PacketId::new(number as u16).filter(|_| qos != QoS::AtMostOnce),
            message_expiry_s: None,
            topic_alias: None,
            subscription_ids: &[],
            forward: &[],
            payload_len: payload.len(),
        };
        packet.write(&payload, &mut out);
    }
    out.into()
}

#[test]
fn no_allocation_per_qos0_message_in_the_steady_state() {
    for (publisher, subscriber) in [
        (Version::V3_1_1, Version::V3_1_1),
        (Version::V5, Version::V5),
        (Version::V3_1_1, Version::V5),
        (Version::V5, Version::V3_1_1),
    ] {
        let (mut shard, wire) = shard(Carrier::Tcp, Still);
        for socket in 0..CLIENTS {
            let version = if socket == 0 { publisher } else { subscriber };
            wire.borrow_mut().connects.push_back(socket);
            wire.borrow_mut().arrivals.push_back((socket, connect(version, socket)));
            let filter = if socket % 2 == 0 { "sensors/+/t" } else { "sensors/7/t" };
            if socket > 0 {
                let packet = subscribe(version, filter, QoS::AtMostOnce);
                wire.borrow_mut().arrivals.push_back((socket, packet));
            }
        }
        let burst = publishes(publisher, "sensors/7/t", QoS::AtMostOnce);
        // Cut inside a packet, as the ends of received buffers are.
        let cut = burst.len() / 3 + 5;
        let parts: [Rc<[u8]>; 2] = [burst[..cut].into(), burst[cut..].into()];
        let mut round = || {
            for part in &parts {
                wire.borrow_mut().arrivals.push_back((0, Rc::clone(part)));
            }
            let _ = shard.turn();
            let _ = shard.turn();
        };
        (0..50).for_each(|_| round());
        let sent_before = wire.borrow().sent_bytes;
        let info = allocation_counter::measure(|| (0..50).for_each(|_| round()));
        let sent = wire.borrow().sent_bytes - sent_before;
        let least = 50 * MESSAGES * (CLIENTS as usize - 1) * 64;
        assert!(sent >= least, "{sent} bytes delivered, at least {least} expected");
        assert_eq!(info.count_total, 0, "{publisher:?} to {subscriber:?}: allocations");
    }
}

#[test]
fn no_allocation_per_message_over_websocket() {
    const ROUNDS: usize = 100;
    let carrier = Carrier::WebSocket;
    let (mut shard, wire) = shard(carrier, Still);
    for socket in 0..CLIENTS {
        wire.borrow_mut().connects.push_back(socket);
        let first = carrier.opening().expect("a request");
        let packet = carrier.carry([&*connect(Version::V5, socket)]);
        wire.borrow_mut().arrivals.extend([(socket, first), (socket, packet)]);
        if socket > 0 {
            let packet = subscribe(Version::V5, "sensors/+/t", QoS::AtMostOnce);
            wire.borrow_mut().arrivals.push_back((socket, carrier.carry([&*packet])));
        }
    }
    let packets = publishes(Version::V5, "sensors/7/t", QoS::AtMostOnce);
    let burst = carrier.carry(packets.chunks(packets.len() / MESSAGES));
    let cut = burst.len() / 3 + 5;
    // The shard works on received bytes in place: each round has its own.
    let mut parts: Vec<[Rc<[u8]>; 2]> =
        (0..ROUNDS).map(|_| [burst[..cut].into(), burst[cut..].into()]).collect();
    let mut round = || {
        for part in parts.pop().expect("bytes for each round") {
            wire.borrow_mut().arrivals.push_back((0, part));
        }
        let _ = shard.turn();
        let _ = shard.turn();
    };
    (0..ROUNDS / 2).for_each(|_| round());
    let sent_before = wire.borrow().sent_bytes;
    let info = allocation_counter::measure(|| (0..ROUNDS / 2).for_each(|_| round()));
    let sent = wire.borrow().sent_bytes - sent_before;
    let least = ROUNDS / 2 * MESSAGES * (CLIENTS as usize - 1) * 64;
    assert!(sent >= least, "{sent} bytes delivered, at least {least} expected");
    assert_eq!(info.count_total, 0, "allocations");
}

/// What a client answers to the publishes of one round: ids are handed out in turn.
fn pubacks(version: Version, round: usize) -> Rc<[u8]> {
    let mut out = Vec::new();
    for number in round * MESSAGES..(round + 1) * MESSAGES {
        let id = PacketId::new(number as u16 + 1).expect("fewer messages than ids");
        write_ack(AckKind::PubAck, version, id, ReasonCode::Success, &mut out);
    }
    out.into()
}

#[test]
fn no_allocation_per_qos1_message_that_need_not_be_kept() {
    const ROUNDS: usize = 100;
    for (version, subscribers) in
        [(Version::V3_1_1, 1), (Version::V5, 1), (Version::V3_1_1, 19), (Version::V5, 19)]
    {
        let (mut shard, wire) = shard(Carrier::Tcp, Still);
        for socket in 0..=subscribers {
            wire.borrow_mut().connects.push_back(socket);
            wire.borrow_mut().arrivals.push_back((socket, connect(version, socket)));
            if socket > 0 {
                let packet = subscribe(version, "sensors/7/t", QoS::AtLeastOnce);
                wire.borrow_mut().arrivals.push_back((socket, packet));
            }
        }
        let burst = publishes(version, "sensors/7/t", QoS::AtLeastOnce);
        let answers: Vec<_> = (0..ROUNDS).map(|round| pubacks(version, round)).collect();
        let mut answers = answers.iter();
        let mut round = || {
            wire.borrow_mut().arrivals.push_back((0, Rc::clone(&burst)));
            let _ = shard.turn();
            let answer = answers.next().expect("an answer for each round");
            for socket in 1..=subscribers {
                wire.borrow_mut().arrivals.push_back((socket, Rc::clone(answer)));
            }
            let _ = shard.turn();
        };
        (0..ROUNDS / 2).for_each(|_| round());
        let sent_before = wire.borrow().sent_bytes;
        let info = allocation_counter::measure(|| (0..ROUNDS / 2).for_each(|_| round()));
        let sent = wire.borrow().sent_bytes - sent_before;
        let least = ROUNDS / 2 * MESSAGES * subscribers as usize * 64;
        assert!(sent >= least, "{sent} bytes delivered, at least {least} expected");
        assert_eq!(info.count_total, 0, "{version:?}, {subscribers} subscribers: allocations");
    }
}

#[test]
fn one_enter_per_turn() {
    let (mut shard, wire) = shard(Carrier::Tcp, Still);
    wire.borrow_mut().connects.push_back(1);
    wire.borrow_mut().arrivals.push_back((1, connect(Version::V5, 1)));
    for turn in 1..100 {
        wire.borrow_mut().arrivals.push_back((1, publishes(Version::V5, "a/b", QoS::AtMostOnce)));
        let _ = shard.turn();
        assert_eq!(wire.borrow().enters, turn);
    }
}
