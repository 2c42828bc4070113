//! Packets of MQTT 5 clients, and what comes back.

use ringtide_codec::{
    Ack, AckKind, Connect, ConnectProperties, Packet, PacketId, PingReq, PublishOut, QoS,
    ReasonCode, RetainHandling, Role, SubscribeOut, SubscriptionOptions, UnsubscribeOut, Version,
    Will, decode, fixed_header, write_ack,
};
use ringtide_shard::message::{Header, Message, View};
use ringtide_topics::{TenantId, topic_hash};

pub(crate) fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("tests use ids from 1")
}

pub(crate) fn connect_as<'a>(client_id: &'a str) -> Connect<'a> {
    Connect {
        version: Version::V5,
        bridge: false,
        clean_start: false,
        keep_alive_s: 0,
        client_id,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

pub(crate) fn bytes_of(packet: &Connect<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(&mut out);
    out
}

pub(crate) fn connect(client_id: &str) -> Vec<u8> {
    bytes_of(&connect_as(client_id))
}

/// A client whose session outlives its connection.
pub(crate) fn connect_lasting(client_id: &str, will: Option<Will<'_>>) -> Vec<u8> {
    let properties = ConnectProperties { session_expiry_s: Some(1000), ..Default::default() };
    bytes_of(&Connect { will, properties, ..connect_as(client_id) })
}

pub(crate) fn will<'a>(topic: &'a str, qos: QoS) -> Will<'a> {
    Will {
        qos,
        retain: false,
        topic,
        payload: b"gone",
        delay_s: 0,
        message_expiry_s: None,
        properties: Default::default(),
    }
}

pub(crate) fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions::with_qos(qos)
}

pub(crate) fn no_local(qos: QoS) -> SubscriptionOptions {
    let retain_handling = RetainHandling::DoNotSend;
    SubscriptionOptions { no_local: true, retain_handling, ..options(qos) }
}

pub(crate) fn subscribe(number: u16, filter: &str, options: SubscriptionOptions) -> Vec<u8> {
    subscribe_all(number, &[(filter, options)])
}

pub(crate) fn subscribe_all(number: u16, filters: &[(&str, SubscriptionOptions)]) -> Vec<u8> {
    let packet = SubscribeOut { packet_id: id(number), subscription_id: None, filters };
    let mut out = Vec::new();
    packet.encode(Version::V5, &mut out);
    out
}

pub(crate) fn unsubscribe(number: u16, filter: &str) -> Vec<u8> {
    let mut out = Vec::new();
    UnsubscribeOut { packet_id: id(number), filters: &[filter] }.encode(Version::V5, &mut out);
    out
}

pub(crate) fn publish_as<'a>(topic: &'a str, qos: QoS, number: u16) -> PublishOut<'a> {
    PublishOut {
        version: Version::V5,
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: (qos != QoS::AtMostOnce).then(|| id(number)),
        message_expiry_s: None,
        topic_alias: None,
        subscription_ids: &[],
        forward: &[],
        payload_len: 0,
    }
}

pub(crate) fn frame_of(packet: PublishOut<'_>, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PublishOut { payload_len: payload.len(), ..packet }.write(payload, &mut out);
    out
}

pub(crate) fn publish(topic: &str, qos: QoS, number: u16, payload: &[u8]) -> Vec<u8> {
    frame_of(publish_as(topic, qos, number), payload)
}

pub(crate) fn retain(topic: &str, payload: &[u8]) -> Vec<u8> {
    frame_of(PublishOut { retain: true, ..publish_as(topic, QoS::AtMostOnce, 0) }, payload)
}

pub(crate) fn ping() -> Vec<u8> {
    let mut out = Vec::new();
    PingReq.encode(Version::V5, &mut out);
    out
}

pub(crate) fn puback(number: u16) -> Vec<u8> {
    let mut out = Vec::new();
    write_ack(AckKind::PubAck, Version::V5, id(number), ReasonCode::Success, &mut out);
    out
}

/// What a client of QoS 2 sends and answers.
pub(crate) fn ack(kind: AckKind, number: u16) -> Vec<u8> {
    let mut out = Vec::new();
    write_ack(kind, Version::V5, id(number), ReasonCode::Success, &mut out);
    out
}

/// What a client reads, in words that tests compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    ConnAck(ReasonCode),
    Publish { topic: String, payload: String, id: u16, retain: bool, dup: bool },
    PubAck(u16, ReasonCode),
    PubRec(u16, ReasonCode),
    PubComp(u16, ReasonCode),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16, Vec<u8>),
    Pong,
    Auth(Vec<u8>),
    Disconnect(ReasonCode),
    Other,
}

pub(crate) fn read(mut bytes: &[u8]) -> Vec<Got> {
    let mut all = Vec::new();
    while let Ok(Some(header)) = fixed_header(bytes, u32::MAX) {
        let (frame, rest) = bytes.split_at(header.total_len());
        bytes = rest;
        let body = &frame[usize::from(header.header_len)..];
        let packet = decode(Role::Client, Version::V5, &header, body).expect("a packet");
        all.push(match packet {
            Packet::ConnAck(packet) => Got::ConnAck(packet.reason),
            Packet::Publish(packet) => Got::Publish {
                topic: packet.topic.to_string(),
                payload: String::from_utf8_lossy(packet.payload).into(),
                id: packet.packet_id.map_or(0, PacketId::get),
                retain: packet.retain,
                dup: packet.dup,
            },
            Packet::PubAck(Ack { packet_id, reason, .. }) => Got::PubAck(packet_id.get(), reason),
            Packet::PubRec(Ack { packet_id, reason, .. }) => Got::PubRec(packet_id.get(), reason),
            Packet::PubComp(Ack { packet_id, reason, .. }) => Got::PubComp(packet_id.get(), reason),
            Packet::SubAck(packet) => Got::SubAck(packet.packet_id.get(), packet.codes.to_vec()),
            Packet::UnsubAck(packet) => {
                Got::UnsubAck(packet.packet_id.get(), packet.codes.to_vec())
            }
            Packet::PingResp => Got::Pong,
            Packet::Auth(packet) => Got::Auth(packet.data.unwrap_or_default().to_vec()),
            Packet::Disconnect(packet) => Got::Disconnect(packet.reason),
            _ => Got::Other,
        });
    }
    assert!(bytes.is_empty(), "half a packet came");
    all
}

/// The payloads of the publishes among them.
pub(crate) fn payloads(got: &[Got]) -> Vec<&str> {
    let mut all = Vec::new();
    for one in got {
        if let Got::Publish { payload, .. } = one {
            all.push(payload.as_str());
        }
    }
    all
}

/// A message as an earlier run has left it, of QoS 1 and of the first shard's partition.
pub(crate) fn left_message(ingress_ms: u64, topic: &str, retain: bool, payload: &str) -> Message {
    let tenant = TenantId(0);
    let header = Header {
        flags: 0,
        qos: QoS::AtLeastOnce,
        retain,
        hops: 0,
        tenant,
        origin_node: 0,
        origin_log: 0,
        partition: 0,
        lsn: 1,
        publisher: 1,
        ingress_ms,
        expires_ms: 0,
        topic_hash: topic_hash(tenant, topic),
    };
    Message::new(&View { header, topic, properties: &[], payload: payload.as_bytes() })
}
