//! Nanoseconds per operation of the codec's hot path: `cargo bench -p ringtide-codec`.
//!
//! Prints one line an operation, the best of several rounds: the machine's noise only adds. Nothing
//! is judged here, so a busy machine fails no test.

#![allow(clippy::print_stdout, reason = "the figures are what a benchmark is for")]

use ringtide_codec::{
    Ack, AckKind, Packet, PacketId, Publish, PublishOut, QoS, ReasonCode, Role, Version, decode,
    fixed_header, push_user_property, write_ack,
};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: u32 = 300;
const OPERATIONS: u32 = 10_000;
const TOPIC: &str = "sensors/4711";

/// Runs the operation and prints the best round.
fn measure(name: &str, mut operation: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..OPERATIONS {
            operation();
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(OPERATIONS) * 1e9);
    }
    println!("{name:<52} {best:>8.1} ns");
}

/// A PUBLISH of a 12-byte topic; in version 5 with `forward` as its properties.
fn publish_out<'a>(
    version: Version,
    qos: QoS,
    forward: &'a [u8],
    payload: usize,
) -> PublishOut<'a> {
    PublishOut {
        version,
        dup: false,
        qos,
        retain: false,
        topic: TOPIC,
        packet_id: PacketId::new(7),
        message_expiry_s: None,
        topic_alias: None,
        subscription_ids: &[],
        forward,
        payload_len: payload,
    }
}

fn decode_publish(name: &str, version: Version, qos: QoS, forward: &[u8]) {
    let payload = [0x55; 256];
    let mut bytes = Vec::new();
    publish_out(version, qos, forward, payload.len()).write(&payload, &mut bytes);
    measure(name, || {
        let bytes = black_box(bytes.as_slice());
        let Ok(Some(header)) = fixed_header(bytes, 1 << 20) else {
            panic!("a whole header");
        };
        let body = &bytes[usize::from(header.header_len)..];
        match Publish::decode(black_box(version), header.flags, body) {
            Ok(publish) => black_box((publish.topic, publish.payload, publish.properties.raw)),
            Err(error) => panic!("{error}"),
        };
    });
}

fn encode_publish(name: &str, out: PublishOut<'_>) {
    let mut bytes = Vec::with_capacity(1 << 12);
    measure(name, || {
        bytes.clear();
        black_box(&out).write_head(&mut bytes);
        black_box(&bytes);
    });
}

fn main() {
    let mut user = Vec::new();
    push_user_property(&mut user, "trace", "0af7651916cd43dd");
    let none: &[u8] = &[];

    decode_publish("decode PUBLISH 3.1.1 QoS 0, 256 B", Version::V3_1_1, QoS::AtMostOnce, none);
    decode_publish("decode PUBLISH 5.0 QoS 0, 256 B", Version::V5, QoS::AtMostOnce, none);
    decode_publish("decode PUBLISH 5.0 QoS 1, 256 B", Version::V5, QoS::AtLeastOnce, none);
    decode_publish(
        "decode PUBLISH 5.0 QoS 0, 256 B, a user property",
        Version::V5,
        QoS::AtMostOnce,
        &user,
    );

    let head = |version, qos, forward| publish_out(version, qos, forward, 256);
    encode_publish("encode head 3.1.1 QoS 0", head(Version::V3_1_1, QoS::AtMostOnce, none));
    encode_publish("encode head 5.0 QoS 0", head(Version::V5, QoS::AtMostOnce, none));
    encode_publish("encode head 5.0 QoS 1", head(Version::V5, QoS::AtLeastOnce, none));
    let full = PublishOut {
        message_expiry_s: Some(60),
        subscription_ids: &[1, 1000],
        ..head(Version::V5, QoS::AtLeastOnce, &user)
    };
    encode_publish("encode head 5.0 QoS 1, expiry, 2 ids, user property", full);
    measure("length of the same packet", || {
        black_box(black_box(&full).packet_len());
    });

    let mut ack = Vec::with_capacity(16);
    let id = PacketId::MIN;
    measure("write PUBACK", || {
        ack.clear();
        write_ack(AckKind::PubAck, black_box(Version::V5), id, ReasonCode::Success, &mut ack);
        black_box(&ack);
    });
    measure("decode PUBACK", || {
        let body = black_box(&ack[2..]);
        black_box(Ack::decode(AckKind::PubAck, Version::V5, 0, body).expect("valid"));
    });
    measure("decode PUBACK as any packet", || {
        let bytes = black_box(ack.as_slice());
        let Ok(Some(header)) = fixed_header(bytes, 1 << 20) else {
            panic!("a whole header");
        };
        match decode(Role::Server, Version::V5, &header, &bytes[2..]) {
            Ok(Packet::PubAck(ack)) => black_box((ack.packet_id, ack.reason)),
            other => panic!("{other:?}"),
        };
    });
}
