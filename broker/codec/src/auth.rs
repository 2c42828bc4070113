//! AUTH (MQTT 5.0 section 3.15): enhanced authentication, version 5 only.

use crate::ack::read_reason;
use crate::header::expect_flags;
use crate::property::{Place, PropertySource, read_block};
use crate::user_properties::visit;
use crate::writer::{begin, packet_len};
use crate::{
    DecodeError, DecodeErrorKind, PacketType, Property, Reader, ReasonCode, UserProperties, Version,
};
use alloc::vec::Vec;

/// One step of an authentication exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// `Success`, `ContinueAuthentication` or `ReAuthenticate`.
    pub reason: ReasonCode,
    /// The method's name. Absent only in an AUTH without any content, which means `Success`.
    pub method: Option<&'a str>,
    /// What the method sends.
    pub data: Option<&'a [u8]>,
    /// A diagnosis for people.
    pub reason_string: Option<&'a str>,
    /// The application's own properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Auth<'a> {
    /// A step without anything but its reason.
    pub const fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            method: None,
            data: None,
            reason_string: None,
            user_properties: UserProperties::EMPTY,
        }
    }

    /// Decodes what follows the fixed header, sent by either side.
    ///
    /// Errors: a version below 5, wrong flags, a reason not defined for AUTH, no method, bad
    /// properties, left-over bytes.
    pub fn decode(version: Version, flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        if !version.is_v5() {
            return Err(DecodeErrorKind::ReservedPacketType.into());
        }
        expect_flags(PacketType::Auth, version, flags)?;
        let mut reader = Reader::new(body);
        let mut auth = Self::new(ReasonCode::Success);
        if reader.is_empty() {
            return Ok(auth);
        }
        auth.reason = read_reason(PacketType::Auth, &mut reader)?;
        auth.read_properties(&mut reader)?;
        if auth.method.is_none() {
            return Err(DecodeErrorKind::AuthenticationMethodMissing.into());
        }
        reader.finish()?;
        Ok(auth)
    }

    fn read_properties(&mut self, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let raw = read_block(reader, Place::Packet(PacketType::Auth), |property| {
            match property {
                Property::AuthenticationMethod(name) => self.method = Some(name),
                Property::AuthenticationData(data) => self.data = Some(data),
                Property::ReasonString(text) => self.reason_string = Some(text),
                _ => {}
            }
            Ok(())
        })?;
        self.user_properties = UserProperties::of_checked(raw);
        Ok(())
    }

    fn remaining_len(&self) -> usize {
        match (self.properties_len(), self.reason) {
            (0, ReasonCode::Success) => 0,
            _ => 1 + self.block_len(),
        }
    }

    /// Bytes of the whole packet; 0 below version 5, which has no AUTH.
    pub fn packet_len(&self, version: Version) -> usize {
        if version.is_v5() { packet_len(self.remaining_len()) } else { 0 }
    }

    /// Appends the packet; nothing below version 5.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let len = self.remaining_len();
        if !version.is_v5() || !begin(PacketType::Auth, 0, len, out) {
            return;
        }
        if len > 0 {
            out.push(self.reason as u8);
            self.write_block(out);
        }
    }
}

impl PropertySource for Auth<'_> {
    fn each(&self, each: &mut dyn FnMut(Property<'_>)) {
        if let Some(name) = self.method {
            each(Property::AuthenticationMethod(name));
        }
        if let Some(data) = self.data {
            each(Property::AuthenticationData(data));
        }
        if let Some(text) = self.reason_string {
            each(Property::ReasonString(text));
        }
        visit(&self.user_properties, each);
    }
}
