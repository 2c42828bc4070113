//! What a shard itself costs per message, without a kernel: pairs of clients over a driver in
//! memory. Prints nanoseconds per message; under callgrind the instructions per message follow
//! from its total and the number of messages, which is printed too.
//!
//! `cargo bench -p ringtide-shard` (all), or one work by name: `... -- pairs-qos1`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::rc::Rc;
use std::time::Instant;

use common::{Carrier, shard};
use ringtide_codec::{
    AckKind, Connect, ConnectProperties, PacketId, PublishOut, QoS, ReasonCode, SubscribeOut,
    SubscriptionOptions, Version, write_ack,
};
use ringtide_driver::Turn;
use ringtide_shard::clock::SystemClock;

const PAIRS: u32 = 50;
const BATCH: usize = 32;

struct Work {
    name: &'static str,
    payload_bytes: usize,
    qos: QoS,
    filter: fn(u32) -> String,
    topic: fn(u32) -> String,
    carrier: Carrier,
}

const WORKS: [Work; 6] = [
    Work {
        name: "pairs-16",
        payload_bytes: 16,
        qos: QoS::AtMostOnce,
        filter: |pair| format!("bench/{pair}"),
        topic: |pair| format!("bench/{pair}"),
        carrier: Carrier::Tcp,
    },
    Work {
        name: "pairs-256",
        payload_bytes: 256,
        qos: QoS::AtMostOnce,
        filter: |pair| format!("bench/{pair}"),
        topic: |pair| format!("bench/{pair}"),
        carrier: Carrier::Tcp,
    },
    Work {
        name: "wildcard-16",
        payload_bytes: 16,
        qos: QoS::AtMostOnce,
        filter: |pair| format!("+/{pair}/#"),
        topic: |pair| format!("w/{pair}/x"),
        carrier: Carrier::Tcp,
    },
    Work {
        name: "pairs-qos1-256",
        payload_bytes: 256,
        qos: QoS::AtLeastOnce,
        filter: |pair| format!("bench/{pair}"),
        topic: |pair| format!("bench/{pair}"),
        carrier: Carrier::Tcp,
    },
    // Of the time over WebSocket a part is the driver's: bytes that are worked on in place it
    // copies first, since they are sent again in the next round.
    Work {
        name: "ws-pairs-256",
        payload_bytes: 256,
        qos: QoS::AtMostOnce,
        filter: |pair| format!("bench/{pair}"),
        topic: |pair| format!("bench/{pair}"),
        carrier: Carrier::WebSocket,
    },
    Work {
        name: "ws-pairs-qos1-256",
        payload_bytes: 256,
        qos: QoS::AtLeastOnce,
        filter: |pair| format!("bench/{pair}"),
        topic: |pair| format!("bench/{pair}"),
        carrier: Carrier::WebSocket,
    },
];

fn connect(socket: u32) -> Rc<[u8]> {
    let packet = Connect {
        version: Version::V3_1_1,
        bridge: false,
        clean_start: true,
        keep_alive_s: 60,
        client_id: &format!("client-{socket}"),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    };
    let mut out = Vec::new();
    packet.encode(&mut out);
    out.into()
}

fn subscribe(filter: &str, qos: QoS) -> Rc<[u8]> {
    let packet = SubscribeOut {
        packet_id: PacketId::new(1).expect("1 is an id"),
        subscription_id: None,
        filters: &[(filter, SubscriptionOptions::with_qos(qos))],
    };
    let mut out = Vec::new();
    packet.encode(Version::V3_1_1, &mut out);
    out.into()
}

fn burst(work: &Work, pair: u32) -> Rc<[u8]> {
    let payload = vec![7; work.payload_bytes];
    let topic = (work.topic)(pair);
    let mut packets = Vec::new();
    for message in 0..BATCH {
        let mut out = Vec::new();
        let packet = PublishOut {
            version: Version::V3_1_1,
            dup: false,
            qos: work.qos,
            retain: false,
            topic: &topic,
            packet_id: (work.qos != QoS::AtMostOnce)
                .then(|| PacketId::new(message as u16 + 1))
                .flatten(),
            message_expiry_s: None,
            topic_alias: None,
            subscription_ids: &[],
            forward: &[],
            payload_len: payload.len(),
        };
        packet.write(&payload, &mut out);
        packets.push(out);
    }
    work.carrier.carry(packets.iter().map(Vec::as_slice))
}

/// What a reader answers to the messages of one round, whose packet ids go in turn from 1.
fn pubacks(carrier: Carrier, round: usize) -> Rc<[u8]> {
    let ids = round * BATCH..(round + 1) * BATCH;
    let mut out = Vec::with_capacity(4 * BATCH);
    for id in ids.filter_map(|number| PacketId::new((number % 65_535) as u16 + 1)) {
        write_ack(AckKind::PubAck, Version::V3_1_1, id, ReasonCode::Success, &mut out);
    }
    carrier.carry(out.chunks(4))
}

fn run(work: &Work, rounds: usize) {
    let (mut shard, wire) = shard(work.carrier, SystemClock::new());
    for socket in 0..2 * PAIRS {
        let mut wire = wire.borrow_mut();
        wire.connects.push_back(socket);
        wire.arrivals.extend(work.carrier.opening().map(|opening| (socket, opening)));
        wire.arrivals.push_back((socket, work.carrier.carry([&*connect(socket)])));
        if socket >= PAIRS {
            let packet = subscribe(&(work.filter)(socket - PAIRS), work.qos);
            wire.arrivals.push_back((socket, work.carrier.carry([&*packet])));
        }
    }
    (0..10).for_each(|_| {
        let _ = shard.turn();
    });
    let bursts: Vec<Rc<[u8]>> = (0..PAIRS).map(|pair| burst(work, pair)).collect();
    let started = Instant::now();
    let sent = wire.borrow().sent_bytes;
    for round in 0..rounds {
        for (socket, burst) in (0..PAIRS).zip(&bursts) {
            wire.borrow_mut().arrivals.push_back((socket, Rc::clone(burst)));
        }
        while !wire.borrow().arrivals.is_empty() {
            let _ = shard.turn();
        }
        let _ = shard.turn();
        if work.qos == QoS::AtLeastOnce {
            let answer = pubacks(work.carrier, round);
            for socket in PAIRS..2 * PAIRS {
                wire.borrow_mut().arrivals.push_back((socket, Rc::clone(&answer)));
            }
        }
    }
    let messages = rounds * PAIRS as usize * BATCH;
    let ns = started.elapsed().as_nanos() as f64 / messages as f64;
    let bytes = (wire.borrow().sent_bytes - sent) / messages;
    eprintln!("{:18} {ns:8.1} ns/message, {messages} messages, {bytes} bytes out each", work.name);
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let wanted = arguments.next();
    let rounds = arguments.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(2000);
    for work in WORKS.iter().filter(|work| wanted.as_ref().is_none_or(|name| name == work.name)) {
        run(work, rounds);
    }
}
