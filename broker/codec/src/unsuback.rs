//! UNSUBACK (MQTT 5.0 section 3.11).

use crate::header::expect_flags;
use crate::property::{Place, PropertySource, read_block};
use crate::user_properties::visit;
use crate::writer::{begin, packet_len, put_two};
use crate::{
    DecodeError, DecodeErrorKind, PacketId, PacketType, Property, Reader, ReasonCode,
    UserProperties, Version,
};
use alloc::vec::Vec;

/// A server's answer to UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// The request's identifier.
    pub packet_id: PacketId,
    /// One reason code a filter, in the request's order. Not there below version 5.
    pub codes: &'a [u8],
    /// A diagnosis for people.
    pub reason_string: Option<&'a str>,
    /// The application's own properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> UnsubAck<'a> {
    /// An answer without properties.
    pub const fn new(packet_id: PacketId, codes: &'a [u8]) -> Self {
        Self { packet_id, codes, reason_string: None, user_properties: UserProperties::EMPTY }
    }

    /// Decodes what follows the fixed header.
    ///
    /// Errors: wrong flags, identifier 0, a code that is not defined, in version 5 no code at all,
    /// bad properties, below version 5 left-over bytes.
    pub fn decode(version: Version, flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        expect_flags(PacketType::UnsubAck, version, flags)?;
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        if !version.is_v5() {
            reader.finish()?;
            return Ok(Self::new(packet_id, &[]));
        }
        let mut reason_string = None;
        let raw = read_block(&mut reader, Place::Packet(PacketType::UnsubAck), |property| {
            if let Property::ReasonString(text) = property {
                reason_string = Some(text);
            }
            Ok(())
        })?;
        let codes = reader.rest();
        if codes.is_empty() {
            return Err(DecodeErrorKind::Truncated.into());
        }
        if !codes.iter().all(|&code| defined(code)) {
            return Err(DecodeErrorKind::ReasonCodeUndefined.into());
        }
        let user_properties = UserProperties::of_checked(raw);
        Ok(Self { packet_id, codes, reason_string, user_properties })
    }

    fn remaining_len(&self, version: Version) -> usize {
        2 + if version.is_v5() { self.block_len() + self.codes.len() } else { 0 }
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self, version: Version) -> usize {
        packet_len(self.remaining_len(version))
    }

    /// Appends the packet. Below version 5 only the identifier is sent.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        if !begin(PacketType::UnsubAck, 0, self.remaining_len(version), out) {
            return;
        }
        //= [MQTT-2.2.1-6]
        //= 3.1.1 [MQTT-2.3.1-7]
        //= 3.1.1 [MQTT-3.10.4-4]
        put_two(self.packet_id.get(), out);
        if version.is_v5() {
            self.write_block(out);
            //= [MQTT-3.11.3-1]
            out.extend_from_slice(self.codes);
        }
    }
}

fn defined(code: u8) -> bool {
    ReasonCode::from_u8(code).is_some_and(|reason| reason.valid_in(PacketType::UnsubAck, false))
}

impl PropertySource for UnsubAck<'_> {
    fn each(&self, each: &mut dyn FnMut(Property<'_>)) {
        if let Some(text) = self.reason_string {
            each(Property::ReasonString(text));
        }
        visit(&self.user_properties, each);
    }
}
