//! A message as it travels between connections, shards and the log: header version 1 (64 bytes,
//! little-endian) followed by topic, forwardable MQTT 5 properties and payload in one buffer.
//!
//! The same bytes are a ring entry's body and a log record's body, so nothing is encoded twice.
//! This file knows no connection and no session.

use bytes::{BufMut, Bytes, BytesMut};
use ringtide_codec::QoS;
use ringtide_storage::state::Digest;
use ringtide_topics::TenantId;

/// Bytes of a version 1 header.
pub const HEADER_BYTES: usize = 64;
/// The version that this build writes.
pub const HEADER_VERSION: u8 = 1;

/// The broker itself is the publisher (`$SYS`).
pub const FLAG_INTERNAL: u8 = 0b10;

/// Header version 1. Offsets in bytes are given beside each field; the lengths of topic and
/// properties are kept in the encoded form, and the payload is what remains of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// 1: trace 1, internal 2, bridged 4.
    pub flags: u8,
    /// 2: bits 0-1 QoS, bit 2 RETAIN.
    pub qos: QoS,
    /// 2: the publisher's RETAIN flag.
    pub retain: bool,
    /// 3: hops over bridges and nodes so far.
    pub hops: u8,
    /// 4: tenant.
    pub tenant: TenantId,
    /// 8: node where it was published.
    pub origin_node: u16,
    /// 10: log (shard) where it was published.
    pub origin_log: u16,
    /// 12: partition of the topic.
    pub partition: u16,
    /// 16: position in the origin's log; with node and log the message's global id.
    pub lsn: u64,
    /// 24: keyed hash of the publisher's client id.
    pub publisher: u64,
    /// 32: ingress time, milliseconds since the epoch.
    pub ingress_ms: u64,
    /// 40: expiry, milliseconds since the epoch; 0 = never.
    pub expires_ms: u64,
    /// 48: hash of tenant and topic.
    pub topic_hash: u64,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// Fewer bytes than the header or than the lengths in it say.
    Truncated,
    /// A header version that this build does not know.
    Version(u8),
    /// The topic is not UTF-8 or the QoS bits are 3.
    Invalid,
}

impl Header {
    fn write(&self, topic_at: u16, topic_len: u16, properties_len: u32) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0] = HEADER_VERSION;
        out[1] = self.flags;
        out[2] = self.qos as u8 | (u8::from(self.retain) << 2);
        out[3] = self.hops;
        out[4..8].copy_from_slice(&self.tenant.0.to_le_bytes());
        out[8..10].copy_from_slice(&self.origin_node.to_le_bytes());
        out[10..12].copy_from_slice(&self.origin_log.to_le_bytes());
        out[12..14].copy_from_slice(&self.partition.to_le_bytes());
        out[14..16].copy_from_slice(&topic_at.to_le_bytes());
        out[16..24].copy_from_slice(&self.lsn.to_le_bytes());
        out[24..32].copy_from_slice(&self.publisher.to_le_bytes());
        out[32..40].copy_from_slice(&self.ingress_ms.to_le_bytes());
        out[40..48].copy_from_slice(&self.expires_ms.to_le_bytes());
        out[48..56].copy_from_slice(&self.topic_hash.to_le_bytes());
        out[56..58].copy_from_slice(&topic_len.to_le_bytes());
        out[60..64].copy_from_slice(&properties_len.to_le_bytes());
        out
    }

    fn read(raw: &[u8; HEADER_BYTES]) -> Result<Header, MessageError> {
        if raw[0] != HEADER_VERSION {
            return Err(MessageError::Version(raw[0]));
        }
        Ok(Header {
            flags: raw[1],
            qos: QoS::from_bits(raw[2] & 3).ok_or(MessageError::Invalid)?,
            retain: raw[2] & 4 != 0,
            hops: raw[3],
            tenant: TenantId(u32_at(raw, 4)),
            origin_node: u16_at(raw, 8),
            origin_log: u16_at(raw, 10),
            partition: u16_at(raw, 12),
            lsn: u64_at(raw, 16),
            publisher: u64_at(raw, 24),
            ingress_ms: u64_at(raw, 32),
            expires_ms: u64_at(raw, 40),
            topic_hash: u64_at(raw, 48),
        })
    }
}

/// Reads the tenant and topic of a message, and whether its payload is empty.
pub fn topic_of(message: &[u8]) -> Option<(u32, &str, bool)> {
    let view = View::read(message).ok()?;
    Some((view.header.tenant.0, view.topic, view.payload.is_empty()))
}

/// Reads the shard whose log has a message's first record, and that record's position.
pub fn origin_of(message: &[u8]) -> Option<(u16, u64)> {
    let header = View::read(message).ok()?.header;
    Some((header.origin_log, header.lsn))
}

/// Reads what must be known of a message whose bytes are left in the log.
pub fn digest_of(message: &[u8]) -> Option<Digest> {
    let view = View::read(message).ok()?;
    Some(Digest {
        bytes: u32::try_from(message.len()).ok()?,
        topic_hash: view.header.topic_hash,
        expires_ms: view.header.expires_ms,
        origin: (view.header.origin_log, view.header.lsn),
    })
}

/// Makes a message's bytes those of one that no log holds yet: its position in a log that was
/// dealt out anew means nothing in the new ones.
pub fn forget_position(message: &mut [u8]) {
    if let Some(lsn) = message.get_mut(16..24) {
        lsn.fill(0);
    }
}

fn u16_at(raw: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([raw[at], raw[at + 1]])
}

fn u32_at(raw: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from(u16_at(raw, at)) | (u32::from(u16_at(raw, at + 2)) << 16)
}

fn u64_at(raw: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(raw, at)) | (u64::from(u32_at(raw, at + 4)) << 32)
}

/// A message whose parts are borrowed: from a received frame, from a lane, or from a [`Message`].
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The header.
    pub header: Header,
    /// The topic name.
    pub topic: &'a str,
    /// MQTT 5 properties that are forwarded unchanged, without alias, expiry, subscription ids.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> View<'a> {
    /// Reads a message from its encoded form.
    ///
    /// # Errors
    /// When the bytes are not a whole message of a known version.
    pub fn read(raw: &'a [u8]) -> Result<View<'a>, MessageError> {
        let (head, _) = raw.split_first_chunk::<HEADER_BYTES>().ok_or(MessageError::Truncated)?;
        let header = Header::read(head)?;
        let topic_at = usize::from(u16_at(head, 14));
        let topic_end = topic_at + usize::from(u16_at(head, 56));
        // Properties start right behind the topic, unless a frame's own fields lie between.
        let properties_at = topic_end + usize::from(u16_at(head, 58));
        let properties_end = properties_at + u32_at(head, 60) as usize;
        let topic = raw.get(topic_at..topic_end).ok_or(MessageError::Truncated)?;
        Ok(View {
            header,
            topic: core::str::from_utf8(topic).map_err(|_| MessageError::Invalid)?,
            properties: raw.get(properties_at..properties_end).ok_or(MessageError::Truncated)?,
            payload: raw.get(properties_end..).ok_or(MessageError::Truncated)?,
        })
    }

    /// The encoded header for these parts laid one behind the other.
    pub fn head(&self) -> [u8; HEADER_BYTES] {
        // The codec bounds a topic to 65535 bytes and a packet to 256 MiB.
        self.header.write(
            HEADER_BYTES as u16,
            self.topic.len() as u16,
            self.properties.len() as u32,
        )
    }

    /// The encoded form behind something of the caller's, as a record's parts. `head` is
    /// [`View::head`].
    pub(crate) fn parts<'p>(
        &'p self,
        before: &'p [u8],
        head: &'p [u8; HEADER_BYTES],
    ) -> [&'p [u8]; 5] {
        [before, head, self.topic.as_bytes(), self.properties, self.payload]
    }

    /// Bytes of the encoded form.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.topic.len() + self.properties.len() + self.payload.len()
    }
}

/// An owned message behind one reference-counted buffer.
#[derive(Clone, Debug)]
pub struct Message(Bytes);

impl Message {
    /// Copies the parts into a buffer of their own.
    pub fn new(view: &View<'_>) -> Message {
        let mut raw = BytesMut::with_capacity(view.encoded_len());
        raw.put_slice(&view.head());
        raw.put_slice(view.topic.as_bytes());
        raw.put_slice(view.properties);
        raw.put_slice(view.payload);
        Message(raw.freeze())
    }

    /// Takes a buffer that holds [`HEADER_BYTES`] of room, then a PUBLISH body whose topic starts
    /// at `topic_at` and whose last bytes are properties and payload, and writes the header into
    /// the room: a large payload is never copied.
    ///
    /// # Errors
    /// When the lengths do not fit the buffer.
    pub fn in_place(
        mut raw: BytesMut,
        header: &Header,
        topic_at: usize,
        topic_len: usize,
        properties_len: usize,
        payload_len: usize,
    ) -> Result<Message, MessageError> {
        let topic_end = topic_at + topic_len;
        let properties_at =
            raw.len().checked_sub(payload_len + properties_len).ok_or(MessageError::Truncated)?;
        let gap = properties_at.checked_sub(topic_end).ok_or(MessageError::Truncated)?;
        let fits = u16::try_from(topic_at).is_ok() && u16::try_from(gap).is_ok();
        if !fits || topic_len > usize::from(u16::MAX) || raw.len() < HEADER_BYTES {
            return Err(MessageError::Truncated);
        }
        let mut head = header.write(topic_at as u16, topic_len as u16, properties_len as u32);
        head[58..60].copy_from_slice(&(gap as u16).to_le_bytes());
        raw[..HEADER_BYTES].copy_from_slice(&head);
        Ok(Message(raw.freeze()))
    }

    /// Takes an encoded message as it is, for example from a log record.
    ///
    /// # Errors
    /// When the bytes are not a message.
    pub fn from_encoded(raw: Bytes) -> Result<Message, MessageError> {
        View::read(&raw)?;
        Ok(Message(raw))
    }

    /// The message's parts.
    pub fn view(&self) -> View<'_> {
        match View::read(&self.0) {
            Ok(view) => view,
            // Every constructor has written or checked the header.
            Err(error) => unreachable!("a message lost its header: {error:?}"),
        }
    }

    /// The payload as a shared slice of the same buffer, for sending without a copy.
    pub fn payload_bytes(&self) -> Bytes {
        self.0.slice(self.0.len() - self.view().payload.len()..)
    }

    /// The parts laid one behind the other, for a record.
    pub(crate) fn canonical(&self) -> Vec<u8> {
        let view = self.view();
        let head = view.head();
        view.parts(&[], &head).concat()
    }

    /// The buffer of the encoded form.
    pub fn raw(&self) -> Bytes {
        self.0.clone()
    }

    /// Bytes of the encoded form, as accounted in queues.
    pub fn encoded_len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            flags: FLAG_INTERNAL,
            qos: QoS::ExactlyOnce,
            retain: true,
            hops: 3,
            tenant: TenantId(7),
            origin_node: 0x0102,
            origin_log: 0x0304,
            partition: 0x0506,
            lsn: 0x1112_1314_1516_1718,
            publisher: 0x2122_2324_2526_2728,
            ingress_ms: 0x3132_3334_3536_3738,
            expires_ms: 0x4142_4344_4546_4748,
            topic_hash: 0x5152_5354_5556_5758,
        }
    }

    /// The layout is frozen: logs and other nodes read it.
    #[test]
    fn golden_bytes_of_version_1() {
        let view = View { header: header(), topic: "a/b", properties: &[1, 0], payload: b"xyz" };
        let hex: String = view.head().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "010206030700000002010403060540001817161514131211282726252423222138373635343332\
             31484746454443424158575655545352510300000002000000"
        );
    }

    #[test]
    fn round_trip_and_truncation() {
        let view = View { header: header(), topic: "a/b", properties: &[1, 0], payload: b"xyz" };
        let message = Message::new(&view);
        let again = message.view();
        assert_eq!(again.header, view.header);
        assert_eq!((again.topic, again.properties), ("a/b", &[1, 0][..]));
        assert_eq!(again.payload, b"xyz");
        assert_eq!(&message.payload_bytes()[..], b"xyz");
        for cut in 0..HEADER_BYTES + 5 {
            assert!(View::read(&message.0[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn in_place_keeps_the_parts_where_they_lie() {
        let mut raw = BytesMut::zeroed(HEADER_BYTES);
        raw.put_slice(&[0, 3]);
        raw.put_slice(b"a/b");
        raw.put_slice(&[0, 9, 2]); // packet id and property length
        raw.put_slice(&[1, 0]);
        raw.put_slice(b"payload");
        let message = Message::in_place(raw, &header(), HEADER_BYTES + 2, 3, 2, 7).unwrap();
        let view = message.view();
        assert_eq!(
            (view.topic, view.properties, view.payload),
            ("a/b", &[1, 0][..], &b"payload"[..])
        );
        assert_eq!(view.header, header());
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let raw = BytesMut::zeroed(HEADER_BYTES + 4);
        assert!(Message::in_place(raw, &header(), HEADER_BYTES, 3, 2, 7).is_err());
    }
}
