//! PUBLISH as received (MQTT 5.0 section 3.3): borrowed, checked, nothing allocated.
//!
//! This is the hot path of decoding; sending is `publish_out`.

use crate::header::{DUP, publish_flags};
use crate::property::{Place, PropertyIter, copy_if, raw_block, walk};
use crate::writer::{begin, packet_len, put_two, text_len};
use crate::{
    DecodeError, DecodeErrorKind, PacketId, PacketType, Property, PropertyId, QoS, Reader, Role,
    Version, varint, writer,
};
use alloc::vec::Vec;

/// RETAIN in the flags of the first byte.
pub(crate) const RETAIN: u8 = 0b0001;

/// A received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The sender may have sent this before.
    pub dup: bool,
    /// The quality of service it was sent with.
    pub qos: QoS,
    /// The message is to be retained, or was.
    pub retain: bool,
    /// The topic name; empty in version 5 where a topic alias stands for it.
    pub topic: &'a str,
    /// The exchange's identifier; present exactly when the QoS is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// The properties; all absent below version 5.
    pub properties: PublishProperties<'a>,
    /// The application's bytes.
    pub payload: &'a [u8],
}

/// The properties of a PUBLISH: those that a broker acts on, and all of them as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// The number that stands for the topic, 1 to 65 535.
    pub topic_alias: Option<u16>,
    /// Seconds until the message is of no use.
    pub message_expiry_s: Option<u32>,
    /// The checked property bytes, without the length in front.
    pub raw: &'a [u8],
    /// `raw` holds no alias, expiry or subscription identifier and can be forwarded unchanged.
    pub forward_is_raw: bool,
    /// There are subscription identifiers, which only a server may send.
    pub subscription_ids: bool,
    /// Where an answer is expected: a topic name, not empty.
    pub response_topic: Option<&'a str>,
    /// The payload is said to be UTF-8 text.
    pub payload_format_utf8: bool,
}

impl PublishProperties<'_> {
    /// No properties.
    pub const EMPTY: Self = Self {
        topic_alias: None,
        message_expiry_s: None,
        raw: &[],
        forward_is_raw: true,
        subscription_ids: false,
        response_topic: None,
        payload_format_utf8: false,
    };
}

impl Default for PublishProperties<'_> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<'a> PublishProperties<'a> {
    /// Fills in what a block that is not empty says.
    fn read(&mut self, raw: &'a [u8]) -> Result<(), DecodeError> {
        walk(raw, Place::Packet(PacketType::Publish), &mut |property| {
            match property {
                Property::TopicAlias(alias) => self.topic_alias = Some(alias),
                Property::MessageExpiryInterval(seconds) => self.message_expiry_s = Some(seconds),
                Property::SubscriptionIdentifier(_) => self.subscription_ids = true,
                Property::ResponseTopic(topic) => self.response_topic = Some(topic),
                Property::PayloadFormatIndicator(utf8) => self.payload_format_utf8 = utf8,
                _ => {}
            }
            Ok(())
        })?;
        self.raw = raw;
        self.forward_is_raw =
            self.topic_alias.is_none() && self.message_expiry_s.is_none() && !self.subscription_ids;
        Ok(())
    }

    /// Appends the properties that travel on with the message, in order: all but the topic alias,
    /// the message expiry and the subscription identifiers, which the sender writes anew.
    pub fn forward_into(&self, out: &mut Vec<u8>) {
        //= [MQTT-3.3.2-4]
        //= [MQTT-3.3.2-15]
        //= [MQTT-3.3.2-16]
        //= [MQTT-3.3.2-17]
        //= [MQTT-3.3.2-18]
        //= [MQTT-3.3.2-20]
        if self.forward_is_raw {
            out.extend_from_slice(self.raw);
            return;
        }
        copy_if(self.raw, out, |id| {
            !matches!(
                id,
                PropertyId::TopicAlias
                    | PropertyId::MessageExpiryInterval
                    | PropertyId::SubscriptionIdentifier
            )
        });
    }

    /// All properties in the order they were sent.
    pub fn iter(&self) -> PropertyIter<'a> {
        PropertyIter::new(self.raw)
    }
}

impl<'a> Publish<'a> {
    /// Decodes what follows the fixed header, sent by either side.
    ///
    /// Errors: QoS 3, DUP with QoS 0, a topic that is not a topic name or empty without an alias,
    /// packet identifier 0, and everything that can be wrong with a property.
    #[inline]
    pub fn decode(version: Version, flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        let qos = publish_flags(flags)?;
        let mut reader = Reader::new(body);
        let topic = reader.topic_name()?;
        //= [MQTT-2.2.1-2]
        //= 3.1.1 [MQTT-2.3.1-5]
        let packet_id = if qos == QoS::AtMostOnce { None } else { Some(reader.packet_id()?) };
        let mut publish = Self {
            dup: flags & DUP != 0,
            qos,
            retain: flags & RETAIN != 0,
            topic,
            packet_id,
            properties: PublishProperties::EMPTY,
            payload: &[],
        };
        if version.is_v5() {
            let raw = raw_block(&mut reader)?;
            if !raw.is_empty() {
                publish.properties.read(raw)?;
            }
        }
        //= [MQTT-4.7.3-1]
        //= 3.1.1 [MQTT-4.7.3-1]
        if topic.is_empty() && publish.properties.topic_alias.is_none() {
            return Err(DecodeErrorKind::TopicEmpty.into());
        }
        publish.payload = reader.rest();
        Ok(publish)
    }

    /// Decodes as [`Publish::decode`] and refuses what a side in that role must not be sent.
    ///
    /// Errors: a subscription identifier sent to a server.
    #[inline]
    pub fn decode_as(
        role: Role,
        version: Version,
        flags: u8,
        body: &'a [u8],
    ) -> Result<Self, DecodeError> {
        let publish = Self::decode(version, flags, body)?;
        //= [MQTT-3.3.4-6]
        if publish.properties.subscription_ids && role == Role::Server {
            return Err(DecodeErrorKind::SubscriptionIdFromClient.into());
        }
        Ok(publish)
    }

    fn remaining_len(&self, version: Version) -> usize {
        let raw = self.properties.raw.len();
        let block = if version.is_v5() { varint::len(raw) + raw } else { 0 };
        let packet_id = if self.packet_id.is_some() { 2 } else { 0 };
        text_len(self.topic) + packet_id + block + self.payload.len()
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self, version: Version) -> usize {
        packet_len(self.remaining_len(version))
    }

    /// Appends the packet with its properties as they are in `raw`.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let flags = publish_flag_bits(self.dup, self.qos, self.retain);
        if !begin(PacketType::Publish, flags, self.remaining_len(version), out) {
            return;
        }
        writer::put_text(self.topic, out);
        if let Some(id) = self.packet_id {
            put_two(id.get(), out);
        }
        if version.is_v5() {
            varint::write(self.properties.raw.len(), out);
            out.extend_from_slice(self.properties.raw);
        }
        out.extend_from_slice(self.payload);
    }
}

/// The low four bits of the first byte.
#[inline]
pub(crate) const fn publish_flag_bits(dup: bool, qos: QoS, retain: bool) -> u8 {
    (dup as u8) << 3 | qos.bits() << 1 | retain as u8
}
