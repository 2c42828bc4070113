//! SUBACK (MQTT 5.0 section 3.9).

use crate::header::expect_flags;
use crate::property::{Place, PropertySource, read_block};
use crate::user_properties::visit;
use crate::writer::{begin, packet_len, put_two};
use crate::{
    DecodeError, DecodeErrorKind, PacketId, PacketType, Property, Reader, ReasonCode,
    UserProperties, Version,
};
use alloc::vec::Vec;

/// A server's answer to SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// The request's identifier.
    pub packet_id: PacketId,
    /// One reason code a filter, in the request's order: the QoS granted or why not.
    pub codes: &'a [u8],
    /// A diagnosis for people.
    pub reason_string: Option<&'a str>,
    /// The application's own properties.
    pub user_properties: UserProperties<'a>,
}

/// The code in 3.1.1 for a filter that was refused.
const V3_FAILURE: u8 = 0x80;

impl<'a> SubAck<'a> {
    /// An answer without properties.
    pub const fn new(packet_id: PacketId, codes: &'a [u8]) -> Self {
        Self { packet_id, codes, reason_string: None, user_properties: UserProperties::EMPTY }
    }

    /// Decodes what follows the fixed header.
    ///
    /// Errors: wrong flags, identifier 0, a code that is not defined, no code at all, bad
    /// properties.
    pub fn decode(version: Version, flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        expect_flags(PacketType::SubAck, version, flags)?;
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut reason_string = None;
        let mut raw: &[u8] = &[];
        if version.is_v5() {
            raw = read_block(&mut reader, Place::Packet(PacketType::SubAck), |property| {
                if let Property::ReasonString(text) = property {
                    reason_string = Some(text);
                }
                Ok(())
            })?;
        }
        let codes = reader.rest();
        if codes.is_empty() {
            return Err(DecodeErrorKind::Truncated.into());
        }
        if !codes.iter().all(|&code| defined(version, code)) {
            return Err(DecodeErrorKind::ReasonCodeUndefined.into());
        }
        let user_properties = UserProperties::of_checked(raw);
        Ok(Self { packet_id, codes, reason_string, user_properties })
    }

    fn remaining_len(&self, version: Version) -> usize {
        2 + if version.is_v5() { self.block_len() } else { 0 } + self.codes.len()
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self, version: Version) -> usize {
        packet_len(self.remaining_len(version))
    }

    /// Appends the packet. Below version 5 every failure becomes 0x80.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        if !begin(PacketType::SubAck, 0, self.remaining_len(version), out) {
            return;
        }
        //= [MQTT-2.2.1-6]
        //= [MQTT-3.8.4-2]
        //= 3.1.1 [MQTT-2.3.1-7]
        //= 3.1.1 [MQTT-3.8.4-2]
        put_two(self.packet_id.get(), out);
        //= [MQTT-3.9.3-1]
        //= 3.1.1 [MQTT-3.9.3-1]
        if version.is_v5() {
            self.write_block(out);
            out.extend_from_slice(self.codes);
        } else {
            //= 3.1.1 [MQTT-3.9.3-2]
            out.extend(self.codes.iter().map(|&code| code.min(V3_FAILURE)));
        }
    }
}

fn defined(version: Version, code: u8) -> bool {
    if !version.is_v5() {
        return code <= 2 || code == V3_FAILURE;
    }
    ReasonCode::from_u8(code).is_some_and(|reason| reason.valid_in(PacketType::SubAck, false))
}

impl PropertySource for SubAck<'_> {
    fn each(&self, each: &mut dyn FnMut(Property<'_>)) {
        if let Some(text) = self.reason_string {
            each(Property::ReasonString(text));
        }
        visit(&self.user_properties, each);
    }
}
