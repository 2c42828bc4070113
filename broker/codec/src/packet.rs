//! Any packet, by its fixed header; and what each side must not send the other.

use crate::{
    Ack, AckKind, Auth, ConnAck, Connect, DecodeError, DecodeErrorKind, Disconnect, FixedHeader,
    PacketType, PingReq, PingResp, Publish, ReasonCode, SubAck, Subscribe, UnsubAck, Unsubscribe,
    Version,
};
use alloc::vec::Vec;

/// Who is decoding. A server refuses what only servers send, a client what only clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// This side is the server: the bytes come from a client.
    Server,
    /// This side is a client: the bytes come from a server.
    Client,
}

/// A decoded packet, borrowed from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// CONNECT.
    Connect(Connect<'a>),
    /// CONNACK.
    ConnAck(ConnAck<'a>),
    /// PUBLISH.
    Publish(Publish<'a>),
    /// PUBACK.
    PubAck(Ack<'a>),
    /// PUBREC.
    PubRec(Ack<'a>),
    /// PUBREL.
    PubRel(Ack<'a>),
    /// PUBCOMP.
    PubComp(Ack<'a>),
    /// SUBSCRIBE.
    Subscribe(Subscribe<'a>),
    /// SUBACK.
    SubAck(SubAck<'a>),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe<'a>),
    /// UNSUBACK.
    UnsubAck(UnsubAck<'a>),
    /// PINGREQ.
    PingReq,
    /// PINGRESP.
    PingResp,
    /// DISCONNECT.
    Disconnect(Disconnect<'a>),
    /// AUTH.
    Auth(Auth<'a>),
}

/// Decodes a packet from the `header.remaining_len` bytes that follow its fixed header.
///
/// `version` is the connection's; CONNECT names its own. Errors: a packet, property or reason code
/// that `role` must not be sent, and what the packet's own `decode` refuses.
#[inline]
pub fn decode<'a>(
    role: Role,
    version: Version,
    header: &FixedHeader,
    body: &'a [u8],
) -> Result<Packet<'a>, DecodeError> {
    //= [MQTT-4.13.1-1]
    //= 3.1.1 [MQTT-4.8.0-1]
    if !header.packet_type.may_reach(role) {
        return Err(DecodeErrorKind::WrongDirection.into());
    }
    let flags = header.flags;
    let ack = |kind| decode_ack(role, kind, version, flags, body);
    Ok(match header.packet_type {
        PacketType::Connect => Packet::Connect(Connect::decode(flags, body)?),
        PacketType::ConnAck => Packet::ConnAck(ConnAck::decode(version, flags, body)?),
        PacketType::Publish => Packet::Publish(Publish::decode_as(role, version, flags, body)?),
        PacketType::PubAck => Packet::PubAck(ack(AckKind::PubAck)?),
        PacketType::PubRec => Packet::PubRec(ack(AckKind::PubRec)?),
        PacketType::PubRel => Packet::PubRel(ack(AckKind::PubRel)?),
        PacketType::PubComp => Packet::PubComp(ack(AckKind::PubComp)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(version, flags, body)?),
        PacketType::SubAck => Packet::SubAck(SubAck::decode(version, flags, body)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(version, flags, body)?),
        PacketType::UnsubAck => Packet::UnsubAck(UnsubAck::decode(version, flags, body)?),
        PacketType::PingReq => {
            PingReq::decode(version, flags, body)?;
            Packet::PingReq
        }
        PacketType::PingResp => {
            PingResp::decode(version, flags, body)?;
            Packet::PingResp
        }
        PacketType::Disconnect => {
            Packet::Disconnect(decode_disconnect(role, version, flags, body)?)
        }
        PacketType::Auth => {
            let auth = Auth::decode(version, flags, body)?;
            sent_by_peer(role, PacketType::Auth, auth.reason)?;
            Packet::Auth(auth)
        }
    })
}

fn decode_ack<'a>(
    role: Role,
    kind: AckKind,
    version: Version,
    flags: u8,
    body: &'a [u8],
) -> Result<Ack<'a>, DecodeError> {
    let ack = Ack::decode(kind, version, flags, body)?;
    sent_by_peer(role, kind.packet_type(), ack.reason)?;
    Ok(ack)
}

fn decode_disconnect<'a>(
    role: Role,
    version: Version,
    flags: u8,
    body: &'a [u8],
) -> Result<Disconnect<'a>, DecodeError> {
    // A server's DISCONNECT came with version 5.
    if role == Role::Client && !version.is_v5() {
        return Err(DecodeErrorKind::WrongDirection.into());
    }
    let disconnect = Disconnect::decode(version, flags, body)?;
    sent_by_peer(role, PacketType::Disconnect, disconnect.reason)?;
    let foreign = match role {
        Role::Server => disconnect.server_reference.is_some(),
        Role::Client => disconnect.session_expiry_s.is_some(),
    };
    if foreign { Err(DecodeErrorKind::PropertyDirection.into()) } else { Ok(disconnect) }
}

/// Refuses a reason code that the peer must not send. A client lets its server's codes pass: to
/// refuse them would gain nothing, and servers do send 0x00 in DISCONNECT.
fn sent_by_peer(role: Role, packet: PacketType, reason: ReasonCode) -> Result<(), DecodeError> {
    if role == Role::Server && !reason.valid_in(packet, true) {
        return Err(DecodeErrorKind::ReasonCodeDirection.into());
    }
    Ok(())
}

impl Packet<'_> {
    /// The packet's type.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Bytes of the whole packet; 0 where it cannot be sent in that version. CONNECT has the length
    /// of the version that it names.
    pub fn packet_len(&self, version: Version) -> usize {
        match self {
            Self::Connect(packet) => packet.packet_len(),
            Self::ConnAck(packet) => packet.packet_len(version),
            Self::Publish(packet) => packet.packet_len(version),
            Self::PubAck(packet) => packet.packet_len(AckKind::PubAck, version),
            Self::PubRec(packet) => packet.packet_len(AckKind::PubRec, version),
            Self::PubRel(packet) => packet.packet_len(AckKind::PubRel, version),
            Self::PubComp(packet) => packet.packet_len(AckKind::PubComp, version),
            Self::Subscribe(packet) => packet.packet_len(version),
            Self::SubAck(packet) => packet.packet_len(version),
            Self::Unsubscribe(packet) => packet.packet_len(version),
            Self::UnsubAck(packet) => packet.packet_len(version),
            Self::PingReq => PingReq.packet_len(version),
            Self::PingResp => PingResp.packet_len(version),
            Self::Disconnect(packet) => packet.packet_len(version),
            Self::Auth(packet) => packet.packet_len(version),
        }
    }

    /// Appends the packet. CONNECT is written in the version that it names.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        match self {
            Self::Connect(packet) => packet.encode(out),
            Self::ConnAck(packet) => packet.encode(version, out),
            Self::Publish(packet) => packet.encode(version, out),
            Self::PubAck(packet) => packet.encode(AckKind::PubAck, version, out),
            Self::PubRec(packet) => packet.encode(AckKind::PubRec, version, out),
            Self::PubRel(packet) => packet.encode(AckKind::PubRel, version, out),
            Self::PubComp(packet) => packet.encode(AckKind::PubComp, version, out),
            Self::Subscribe(packet) => packet.encode(version, out),
            Self::SubAck(packet) => packet.encode(version, out),
            Self::Unsubscribe(packet) => packet.encode(version, out),
            Self::UnsubAck(packet) => packet.encode(version, out),
            Self::PingReq => PingReq.encode(version, out),
            Self::PingResp => PingResp.encode(version, out),
            Self::Disconnect(packet) => packet.encode(version, out),
            Self::Auth(packet) => packet.encode(version, out),
        }
    }
}
