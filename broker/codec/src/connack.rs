//! CONNACK (MQTT 5.0 section 3.2).

use crate::ack::read_reason;
use crate::header::expect_flags;
use crate::property::{Place, PropertySource, read_block};
use crate::user_properties::visit;
use crate::writer::{begin, packet_len};
use crate::{
    DecodeError, DecodeErrorKind, PacketType, Property, QoS, Reader, ReasonCode, UserProperties,
    Version,
};
use alloc::vec::Vec;

/// A server's answer to CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// The server carries on from a stored session. Never sent beside an error.
    pub session_present: bool,
    /// The outcome; a 3.x return code is given as the reason that it stands for.
    pub reason: ReasonCode,
    /// The properties; all absent below version 5.
    pub properties: ConnAckProperties<'a>,
}

/// The properties of CONNACK. Absent ones have the standard's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnAckProperties<'a> {
    /// Seconds that the session outlives its connection; absent: as the client asked.
    pub session_expiry_s: Option<u32>,
    /// QoS 1 and 2 messages that the server takes unacknowledged; absent: 65 535; never 0.
    pub receive_maximum: Option<u16>,
    /// The highest QoS that the server supports, 0 or 1; absent: 2. QoS 2 is not sent.
    pub maximum_qos: Option<QoS>,
    /// Whether the server keeps retained messages; absent: yes.
    pub retain_available: Option<bool>,
    /// The largest packet in bytes that the server takes; absent: no limit; never 0.
    pub maximum_packet_bytes: Option<u32>,
    /// The client identifier that the server made up.
    pub assigned_client_id: Option<&'a str>,
    /// The highest topic alias that the server takes; absent: 0.
    pub topic_alias_maximum: Option<u16>,
    /// A diagnosis for people.
    pub reason_string: Option<&'a str>,
    /// Whether the server takes wildcards in filters; absent: yes.
    pub wildcard_available: Option<bool>,
    /// Whether the server takes subscription identifiers; absent: yes.
    pub subscription_ids_available: Option<bool>,
    /// Whether the server takes shared subscriptions; absent: yes.
    pub shared_available: Option<bool>,
    /// The keep alive in seconds that holds instead of the client's.
    pub server_keep_alive_s: Option<u16>,
    /// The basis for the client's response topics.
    pub response_information: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// The method of enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// What that method sends.
    pub authentication_data: Option<&'a [u8]>,
    /// The application's own properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> ConnAckProperties<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut seen = Self::default();
        let raw = read_block(reader, Place::Packet(PacketType::ConnAck), |property| {
            seen.set(property);
            Ok(())
        })?;
        if seen.authentication_data.is_some() && seen.authentication_method.is_none() {
            return Err(DecodeErrorKind::AuthenticationDataAlone.into());
        }
        seen.user_properties = UserProperties::of_checked(raw);
        Ok(seen)
    }

    fn set(&mut self, property: Property<'a>) {
        match property {
            Property::SessionExpiryInterval(seconds) => self.session_expiry_s = Some(seconds),
            Property::ReceiveMaximum(count) => self.receive_maximum = Some(count),
            Property::MaximumQoS(qos) => self.maximum_qos = Some(qos),
            Property::RetainAvailable(yes) => self.retain_available = Some(yes),
            Property::MaximumPacketSize(bytes) => self.maximum_packet_bytes = Some(bytes),
            Property::AssignedClientIdentifier(id) => self.assigned_client_id = Some(id),
            Property::TopicAliasMaximum(alias) => self.topic_alias_maximum = Some(alias),
            Property::ReasonString(text) => self.reason_string = Some(text),
            Property::WildcardSubscriptionAvailable(yes) => self.wildcard_available = Some(yes),
            Property::SubscriptionIdentifierAvailable(yes) => {
                self.subscription_ids_available = Some(yes);
            }
            Property::SharedSubscriptionAvailable(yes) => self.shared_available = Some(yes),
            Property::ServerKeepAlive(seconds) => self.server_keep_alive_s = Some(seconds),
            Property::ResponseInformation(text) => self.response_information = Some(text),
            Property::ServerReference(text) => self.server_reference = Some(text),
            Property::AuthenticationMethod(name) => self.authentication_method = Some(name),
            Property::AuthenticationData(data) => self.authentication_data = Some(data),
            _ => {}
        }
    }
}

impl PropertySource for ConnAckProperties<'_> {
    fn each(&self, each: &mut dyn FnMut(Property<'_>)) {
        let maximum_qos = self.maximum_qos.filter(|&qos| qos != QoS::ExactlyOnce);
        let listed = [
            self.session_expiry_s.map(Property::SessionExpiryInterval),
            self.receive_maximum.map(Property::ReceiveMaximum),
            maximum_qos.map(Property::MaximumQoS),
            self.retain_available.map(Property::RetainAvailable),
            self.maximum_packet_bytes.map(Property::MaximumPacketSize),
            self.assigned_client_id.map(Property::AssignedClientIdentifier),
            self.topic_alias_maximum.map(Property::TopicAliasMaximum),
            self.reason_string.map(Property::ReasonString),
            self.wildcard_available.map(Property::WildcardSubscriptionAvailable),
            self.subscription_ids_available.map(Property::SubscriptionIdentifierAvailable),
            self.shared_available.map(Property::SharedSubscriptionAvailable),
            self.server_keep_alive_s.map(Property::ServerKeepAlive),
            self.response_information.map(Property::ResponseInformation),
            self.server_reference.map(Property::ServerReference),
            self.authentication_method.map(Property::AuthenticationMethod),
            self.authentication_data.map(Property::AuthenticationData),
        ];
        listed.into_iter().flatten().for_each(&mut *each);
        visit(&self.user_properties, each);
    }
}

impl<'a> ConnAck<'a> {
    /// An answer without properties.
    pub fn new(session_present: bool, reason: ReasonCode) -> Self {
        Self { session_present, reason, properties: ConnAckProperties::default() }
    }

    /// Decodes what follows the fixed header.
    ///
    /// Errors: wrong flags, a reserved bit, a session present beside an error, a reason or return
    /// code that is not defined, bad properties, left-over bytes.
    pub fn decode(version: Version, flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        expect_flags(PacketType::ConnAck, version, flags)?;
        let mut reader = Reader::new(body);
        let acknowledge_flags = reader.byte()?;
        // MQTT 3.1 reserves the whole byte and sets no rule.
        let session_present = match (version, acknowledge_flags) {
            (Version::V3_1, _) => false,
            (_, 0) => false,
            (_, 1) => true,
            _ => return Err(DecodeErrorKind::ConnAckFlags.into()),
        };
        let reason = if version.is_v5() {
            read_reason(PacketType::ConnAck, &mut reader)?
        } else {
            ReasonCode::from_v3_connack_code(reader.byte()?)
                .ok_or(DecodeErrorKind::ReasonCodeUndefined)?
        };
        if session_present && reason != ReasonCode::Success {
            return Err(DecodeErrorKind::ConnAckFlags.into());
        }
        let properties = if version.is_v5() {
            ConnAckProperties::read(&mut reader)?
        } else {
            ConnAckProperties::default()
        };
        reader.finish()?;
        Ok(Self { session_present, reason, properties })
    }

    /// The code byte; `None` if a 3.x client cannot be told this reason.
    fn code(&self, version: Version) -> Option<u8> {
        if version.is_v5() { Some(self.reason as u8) } else { self.reason.v3_connack_code() }
    }

    fn remaining_len(&self, version: Version) -> usize {
        2 + if version.is_v5() { self.properties.block_len() } else { 0 }
    }

    /// Bytes of the whole packet; 0 if none can be sent (see [`ConnAck::encode`]).
    pub fn packet_len(&self, version: Version) -> usize {
        match self.code(version) {
            Some(_) => packet_len(self.remaining_len(version)),
            None => 0,
        }
    }

    /// Appends the packet. Below version 5 the reason becomes a return code; where none fits,
    /// nothing is written, and the connection is to be closed without an answer.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        //= 3.1.1 [MQTT-3.2.2-6]
        let Some(code) = self.code(version) else {
            return;
        };
        if !begin(PacketType::ConnAck, 0, self.remaining_len(version), out) {
            return;
        }
        //= [MQTT-3.2.2-1]
        //= [MQTT-3.2.2-6]
        //= 3.1.1 [MQTT-3.2.2-4]
        let present =
            self.session_present && self.reason == ReasonCode::Success && version != Version::V3_1;
        out.extend_from_slice(&[u8::from(present), code]);
        if version.is_v5() {
            self.properties.write_block(out);
        }
    }
}
