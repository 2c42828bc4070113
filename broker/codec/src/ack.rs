//! PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 5.0 sections 3.4 to 3.7): four packets, one shape.

use crate::header::expect_flags;
use crate::property::{Place, PropertySource, read_block};
use crate::user_properties::visit;
use crate::writer::{begin, packet_len, put_two};
use crate::{
    DecodeError, DecodeErrorKind, PacketId, PacketType, Property, Reader, ReasonCode,
    UserProperties, Version,
};
use alloc::vec::Vec;

/// Which of the four acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AckKind {
    /// Ends a QoS 1 exchange.
    PubAck = 4,
    /// The receiver of a QoS 2 message has it.
    PubRec = 5,
    /// The sender of a QoS 2 message will not repeat it.
    PubRel = 6,
    /// Ends a QoS 2 exchange.
    PubComp = 7,
}

impl AckKind {
    /// The packet type of this acknowledgement.
    #[inline]
    pub const fn packet_type(self) -> PacketType {
        match self {
            Self::PubAck => PacketType::PubAck,
            Self::PubRec => PacketType::PubRec,
            Self::PubRel => PacketType::PubRel,
            Self::PubComp => PacketType::PubComp,
        }
    }
}

/// An acknowledgement. Below version 5 the reason is always `Success` and nothing else is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The exchange that it belongs to.
    pub packet_id: PacketId,
    /// The outcome. Not sent below version 5.
    pub reason: ReasonCode,
    /// A diagnosis for people.
    pub reason_string: Option<&'a str>,
    /// The application's own properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Ack<'a> {
    /// An acknowledgement with nothing but its identifier and reason.
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, reason_string: None, user_properties: UserProperties::EMPTY }
    }

    /// Decodes what follows the fixed header.
    ///
    /// Errors: wrong flags, identifier 0, a reason not defined for `kind`, bad properties,
    /// left-over bytes.
    #[inline]
    pub fn decode(
        kind: AckKind,
        version: Version,
        flags: u8,
        body: &'a [u8],
    ) -> Result<Self, DecodeError> {
        let packet_type = kind.packet_type();
        expect_flags(packet_type, version, flags)?;
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        if reader.is_empty() {
            return Ok(Self::new(packet_id, ReasonCode::Success));
        }
        if !version.is_v5() {
            return Err(DecodeErrorKind::TrailingBytes.into());
        }
        Self::read_outcome(packet_type, packet_id, reader)
    }

    /// Reads the reason and what may follow it.
    fn read_outcome(
        packet_type: PacketType,
        packet_id: PacketId,
        mut reader: Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let mut ack = Self::new(packet_id, read_reason(packet_type, &mut reader)?);
        // The property length may be left out when there are none.
        if reader.is_empty() {
            return Ok(ack);
        }
        let raw = read_block(&mut reader, Place::Packet(packet_type), |property| {
            if let Property::ReasonString(text) = property {
                ack.reason_string = Some(text);
            }
            Ok(())
        })?;
        ack.user_properties = UserProperties::of_checked(raw);
        reader.finish()?;
        Ok(ack)
    }

    fn remaining_len(&self, version: Version) -> usize {
        if !version.is_v5() {
            return 2;
        }
        match (self.properties_len(), self.reason) {
            (0, ReasonCode::Success) => 2,
            (0, _) => 3,
            _ => 3 + self.block_len(),
        }
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self, _kind: AckKind, version: Version) -> usize {
        packet_len(self.remaining_len(version))
    }

    /// Appends the packet, in its shortest form. Below version 5 reason and properties are left
    /// out.
    pub fn encode(&self, kind: AckKind, version: Version, out: &mut Vec<u8>) {
        let packet_type = kind.packet_type();
        let len = self.remaining_len(version);
        if !begin(packet_type, packet_type.fixed_flags(), len, out) {
            return;
        }
        //= [MQTT-2.2.1-5]
        //= 3.1.1 [MQTT-2.3.1-6]
        put_two(self.packet_id.get(), out);
        if len > 2 {
            out.push(self.reason as u8);
        }
        if len > 3 {
            self.write_block(out);
        }
    }
}

impl PropertySource for Ack<'_> {
    fn each(&self, each: &mut dyn FnMut(Property<'_>)) {
        if let Some(text) = self.reason_string {
            each(Property::ReasonString(text));
        }
        visit(&self.user_properties, each);
    }
}

/// Reads a reason code that must be defined for the packet.
pub(crate) fn read_reason(
    packet_type: PacketType,
    reader: &mut Reader<'_>,
) -> Result<ReasonCode, DecodeError> {
    let reason = ReasonCode::from_u8(reader.byte()?);
    reason
        .filter(|reason| reason.defined_in(packet_type))
        .ok_or(DecodeErrorKind::ReasonCodeUndefined.into())
}

/// Appends an acknowledgement without properties: 4 bytes on `Success` and below version 5, else 5.
#[inline]
pub fn write_ack(
    kind: AckKind,
    version: Version,
    id: PacketId,
    reason: ReasonCode,
    out: &mut Vec<u8>,
) {
    let packet_type = kind.packet_type();
    let first = (packet_type as u8) << 4 | packet_type.fixed_flags();
    //= [MQTT-2.2.1-5]
    //= 3.1.1 [MQTT-2.3.1-6]
    let [high, low] = id.get().to_be_bytes();
    if version.is_v5() && reason != ReasonCode::Success {
        out.extend_from_slice(&[first, 3, high, low, reason as u8]);
    } else {
        out.extend_from_slice(&[first, 2, high, low]);
    }
}
