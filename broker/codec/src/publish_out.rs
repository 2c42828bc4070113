//! PUBLISH as sent: one head per subscriber, the payload once. The hot path of encoding.

use crate::publish::publish_flag_bits;
use crate::writer::{fitting_text, packet_len, put_four, put_two, text_len};
use crate::{PacketId, PacketType, PropertyId, QoS, VARINT_MAX, Version, varint};
use alloc::vec::Vec;

/// A message to send to one client. All borrowed; encoding allocates only where `out` must grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishOut<'a> {
    /// The version that the receiver speaks.
    pub version: Version,
    /// This is a repetition. Ignored with QoS 0.
    pub dup: bool,
    /// The quality of service of this delivery.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// The topic name; empty where a topic alias that the receiver knows stands for it.
    pub topic: &'a str,
    /// The exchange's identifier. Given exactly when the QoS is 1 or 2; ignored with QoS 0.
    pub packet_id: Option<PacketId>,
    /// Seconds until the message is of no use, counted from now. Ignored below version 5.
    pub message_expiry_s: Option<u32>,
    /// The number that stands for the topic from now on. Ignored below version 5.
    pub topic_alias: Option<u16>,
    /// The identifiers of the subscriptions that matched, 1 to 268 435 455 each. Ignored below
    /// version 5.
    pub subscription_ids: &'a [u32],
    /// Property bytes that travel with the message (see `PublishProperties::forward_into`).
    /// Ignored below version 5.
    pub forward: &'a [u8],
    /// Bytes of payload that follow the head.
    pub payload_len: usize,
}

impl PublishOut<'_> {
    /// The identifier as it will stand in the packet.
    #[inline]
    fn packet_id(&self) -> Option<PacketId> {
        //= [MQTT-2.2.1-2]
        //= 3.1.1 [MQTT-2.3.1-5]
        if self.qos == QoS::AtMostOnce { None } else { self.packet_id }
    }

    /// Bytes of properties without the length in front.
    #[inline]
    fn properties_len(&self) -> usize {
        let alias = if self.topic_alias.is_some() { 3 } else { 0 };
        let expiry = if self.message_expiry_s.is_some() { 5 } else { 0 };
        let ids: usize = self.subscription_ids.iter().map(|&id| 1 + varint::len(id as usize)).sum();
        alias + expiry + ids + self.forward.len()
    }

    #[inline]
    fn remaining_len(&self, properties_len: usize) -> usize {
        let block =
            if self.version.is_v5() { varint::len(properties_len) + properties_len } else { 0 };
        let packet_id = if self.packet_id().is_some() { 2 } else { 0 };
        text_len(self.topic) + packet_id + block + self.payload_len
    }

    /// Bytes of the whole packet, fixed header and payload included.
    #[inline]
    pub fn packet_len(&self) -> usize {
        let properties = if self.version.is_v5() { self.properties_len() } else { 0 };
        packet_len(self.remaining_len(properties))
    }

    /// Appends everything but the payload. Nothing, if the whole packet would be longer than
    /// [`crate::PACKET_BYTES_MAX`].
    #[inline]
    pub fn write_head(&self, out: &mut Vec<u8>) {
        let properties_len = if self.version.is_v5() { self.properties_len() } else { 0 };
        let remaining_len = self.remaining_len(properties_len);
        if remaining_len > VARINT_MAX as usize {
            return;
        }
        out.reserve(5 + remaining_len - self.payload_len);
        //= [MQTT-3.3.1-2]
        //= [MQTT-4.3.1-1]
        //= 3.1.1 [MQTT-3.3.1-2]
        //= 3.1.1 [MQTT-4.3.1-1]
        let dup = self.dup && self.qos != QoS::AtMostOnce;
        let topic = fitting_text(self.topic);
        let [high, low] = (topic.len() as u16).to_be_bytes();
        let first =
            (PacketType::Publish as u8) << 4 | publish_flag_bits(dup, self.qos, self.retain);
        if remaining_len < 0x80 {
            out.extend_from_slice(&[first, remaining_len as u8, high, low]);
        } else {
            out.push(first);
            varint::write(remaining_len, out);
            out.extend_from_slice(&[high, low]);
        }
        out.extend_from_slice(topic.as_bytes());
        if let Some(id) = self.packet_id() {
            put_two(id.get(), out);
        }
        if self.version.is_v5() {
            self.write_properties(properties_len, out);
        }
    }

    #[inline]
    fn write_properties(&self, properties_len: usize, out: &mut Vec<u8>) {
        //= [MQTT-2.2.2-1]
        varint::write(properties_len, out);
        if let Some(alias) = self.topic_alias {
            out.push(PropertyId::TopicAlias as u8);
            put_two(alias, out);
        }
        if let Some(seconds) = self.message_expiry_s {
            out.push(PropertyId::MessageExpiryInterval as u8);
            put_four(seconds, out);
        }
        //= [MQTT-3.3.4-3]
        //= [MQTT-3.3.4-4]
        for &id in self.subscription_ids {
            out.push(PropertyId::SubscriptionIdentifier as u8);
            varint::write(id as usize, out);
        }
        out.extend_from_slice(self.forward);
    }

    /// Appends the whole packet. `payload` must be `payload_len` bytes long; if it is not, or the
    /// packet would be too long for MQTT, nothing is written.
    pub fn write(&self, payload: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        if payload.len() != self.payload_len {
            return;
        }
        self.write_head(out);
        if out.len() > start {
            out.extend_from_slice(payload);
        }
    }
}
