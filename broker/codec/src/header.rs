//! The fixed header (MQTT 5.0 section 2.1): packet type, flags, and the size that is checked before
//! anything of the body is buffered.

use crate::{DecodeError, DecodeErrorKind, QoS, Role, varint};

/// The type of a control packet; the number is the high half of its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// Client asks to connect.
    Connect = 1,
    /// Server answers CONNECT.
    ConnAck = 2,
    /// A message, either way.
    Publish = 3,
    /// Answer to a QoS 1 PUBLISH.
    PubAck = 4,
    /// First answer to a QoS 2 PUBLISH.
    PubRec = 5,
    /// Answer to PUBREC.
    PubRel = 6,
    /// Answer to PUBREL.
    PubComp = 7,
    /// Client subscribes.
    Subscribe = 8,
    /// Server answers SUBSCRIBE.
    SubAck = 9,
    /// Client unsubscribes.
    Unsubscribe = 10,
    /// Server answers UNSUBSCRIBE.
    UnsubAck = 11,
    /// Client asks for a sign of life.
    PingReq = 12,
    /// Server answers PINGREQ.
    PingResp = 13,
    /// The connection ends; from a server only in MQTT 5.
    Disconnect = 14,
    /// Enhanced authentication, MQTT 5 only.
    Auth = 15,
}

impl PacketType {
    /// The type for the high half of a first byte; `None` for 0 and above 15.
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// Whether a side in that role may receive this packet. Neither role refuses the packets that
    /// travel both ways.
    pub const fn may_reach(self, role: Role) -> bool {
        match self {
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::PingReq => {
                matches!(role, Role::Server)
            }
            Self::ConnAck | Self::SubAck | Self::UnsubAck | Self::PingResp => {
                matches!(role, Role::Client)
            }
            _ => true,
        }
    }

    /// The flags that this type always has; PUBLISH has its own.
    pub(crate) const fn fixed_flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }
}

/// DUP, which MQTT 3.1 also defines for PUBREL, SUBSCRIBE and UNSUBSCRIBE.
pub(crate) const DUP: u8 = 0b1000;

/// Checks the low half of the first byte as far as it can be told without the version.
#[inline]
//= [MQTT-2.1.3-1]
//= 3.1.1 [MQTT-2.2.2-1]
//= 3.1.1 [MQTT-2.2.2-2]
fn check_flags(packet_type: PacketType, flags: u8) -> Result<(), DecodeErrorKind> {
    if packet_type == PacketType::Publish {
        return publish_flags(flags).map(|_| ());
    }
    let fixed = packet_type.fixed_flags();
    let dup_of_v3_1 = fixed != 0 && flags == fixed | DUP;
    if flags == fixed || dup_of_v3_1 { Ok(()) } else { Err(DecodeErrorKind::ReservedFlags) }
}

/// The QoS of a PUBLISH by its flags.
#[inline]
pub(crate) fn publish_flags(flags: u8) -> Result<QoS, DecodeErrorKind> {
    //= [MQTT-3.3.1-4]
    //= 3.1.1 [MQTT-3.3.1-4]
    let qos = QoS::from_bits(flags >> 1 & 3).ok_or(DecodeErrorKind::PublishQoS)?;
    //= [MQTT-3.3.1-2]
    //= 3.1.1 [MQTT-3.3.1-2]
    if flags & DUP != 0 && qos == QoS::AtMostOnce {
        return Err(DecodeErrorKind::DupWithoutQoS);
    }
    Ok(qos)
}

/// The first two to five bytes of every packet.
// Laid out in C order: with the compiler's own order, the result of `fixed_header` was read back in
// wider pieces than it was written in, and the stall cost 10 of 35 ns a PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FixedHeader {
    /// The packet's type.
    pub packet_type: PacketType,
    /// The low four bits of the first byte.
    pub flags: u8,
    /// Bytes of the fixed header itself, 2 to 5.
    pub header_len: u8,
    /// Bytes that follow the fixed header, 0 to 268 435 455.
    pub remaining_len: u32,
}

impl FixedHeader {
    /// The bytes of the whole packet.
    #[inline]
    pub const fn total_len(&self) -> usize {
        self.header_len as usize + self.remaining_len as usize
    }
}

/// Reads the fixed header at the front of what has been received. `None`: more bytes are needed.
///
/// Errors: reserved packet type, wrong flag bits, a remaining length of more than four bytes or
/// not in its shortest form, and a packet of more than `max_packet_bytes` in all. They are found
/// before the body is there, so an oversized packet is never buffered. DUP on PUBREL, SUBSCRIBE
/// and UNSUBSCRIBE passes here, since only the packet's decoder knows whether this is MQTT 3.1.
#[inline]
pub fn fixed_header(buf: &[u8], max_packet_bytes: u32) -> Result<Option<FixedHeader>, DecodeError> {
    let Some((&first, rest)) = buf.split_first() else {
        return Ok(None);
    };
    let packet_type =
        PacketType::from_bits(first >> 4).ok_or(DecodeErrorKind::ReservedPacketType)?;
    let flags = first & 0x0F;
    check_flags(packet_type, flags)?;
    let Some((remaining_len, used)) = varint::read(rest)? else {
        return Ok(None);
    };
    let header = FixedHeader { packet_type, flags, header_len: 1 + used, remaining_len };
    //= [MQTT-3.2.2-15]
    if header.total_len() > max_packet_bytes as usize {
        return Err(DecodeErrorKind::PacketTooLarge.into());
    }
    Ok(Some(header))
}

/// Checks that a packet other than PUBLISH has the flags of its type, DUP aside in MQTT 3.1.
pub(crate) fn expect_flags(
    packet_type: PacketType,
    version: crate::Version,
    flags: u8,
) -> Result<(), DecodeError> {
    check_flags(packet_type, flags)?;
    //= [MQTT-3.6.1-1]
    //= [MQTT-3.8.1-1]
    //= [MQTT-3.10.1-1]
    //= [MQTT-3.14.1-1]
    //= [MQTT-3.15.1-1]
    //= 3.1.1 [MQTT-3.6.1-1]
    //= 3.1.1 [MQTT-3.8.1-1]
    //= 3.1.1 [MQTT-3.10.1-1]
    //= 3.1.1 [MQTT-3.14.1-1]
    if flags & DUP != 0 && version != crate::Version::V3_1 {
        return Err(DecodeErrorKind::ReservedFlags.into());
    }
    Ok(())
}
