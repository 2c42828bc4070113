//! DISCONNECT (MQTT 5.0 section 3.14).

use crate::ack::read_reason;
use crate::header::expect_flags;
use crate::property::{Place, PropertySource, read_block};
use crate::user_properties::visit;
use crate::writer::{begin, packet_len};
use crate::{DecodeError, PacketType, Property, Reader, ReasonCode, UserProperties, Version};
use alloc::vec::Vec;

/// The last packet of a connection. Below version 5 only a client sends it, and it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why; `Success` is the normal end, which discards the will.
    pub reason: ReasonCode,
    /// Seconds that the session is kept, instead of what CONNECT said. Only a client sends it.
    pub session_expiry_s: Option<u32>,
    /// A diagnosis for people.
    pub reason_string: Option<&'a str>,
    /// Another server to use. Only a server sends it.
    pub server_reference: Option<&'a str>,
    /// The application's own properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Disconnect<'a> {
    /// A goodbye with nothing but its reason.
    pub const fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_s: None,
            reason_string: None,
            server_reference: None,
            user_properties: UserProperties::EMPTY,
        }
    }

    /// Decodes what follows the fixed header, sent by either side.
    ///
    /// Errors: wrong flags, a reason not defined for DISCONNECT, bad properties, left-over bytes
    /// (below version 5: any byte at all).
    pub fn decode(version: Version, flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        expect_flags(PacketType::Disconnect, version, flags)?;
        let mut reader = Reader::new(body);
        let mut disconnect = Self::new(ReasonCode::Success);
        // Reason and properties may each be left out from the end.
        if version.is_v5() && !reader.is_empty() {
            disconnect.reason = read_reason(PacketType::Disconnect, &mut reader)?;
            if !reader.is_empty() {
                disconnect.read_properties(&mut reader)?;
            }
        }
        reader.finish()?;
        Ok(disconnect)
    }

    fn read_properties(&mut self, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let raw = read_block(reader, Place::Packet(PacketType::Disconnect), |property| {
            match property {
                Property::SessionExpiryInterval(seconds) => self.session_expiry_s = Some(seconds),
                Property::ReasonString(text) => self.reason_string = Some(text),
                Property::ServerReference(text) => self.server_reference = Some(text),
                _ => {}
            }
            Ok(())
        })?;
        self.user_properties = UserProperties::of_checked(raw);
        Ok(())
    }

    fn remaining_len(&self, version: Version) -> usize {
        if !version.is_v5() {
            return 0;
        }
        match (self.properties_len(), self.reason) {
            (0, ReasonCode::Success) => 0,
            (0, _) => 1,
            _ => 1 + self.block_len(),
        }
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self, version: Version) -> usize {
        packet_len(self.remaining_len(version))
    }

    /// Appends the packet, in its shortest form. Below version 5 it has no reason; a server then
    /// sends none at all and closes.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let len = self.remaining_len(version);
        if !begin(PacketType::Disconnect, 0, len, out) {
            return;
        }
        if len > 0 {
            out.push(self.reason as u8);
        }
        if len > 1 {
            self.write_block(out);
        }
    }
}

impl PropertySource for Disconnect<'_> {
    fn each(&self, each: &mut dyn FnMut(Property<'_>)) {
        if let Some(seconds) = self.session_expiry_s {
            each(Property::SessionExpiryInterval(seconds));
        }
        if let Some(text) = self.reason_string {
            each(Property::ReasonString(text));
        }
        if let Some(text) = self.server_reference {
            each(Property::ServerReference(text));
        }
        visit(&self.user_properties, each);
    }
}
