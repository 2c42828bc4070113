//! The few MQTT bytes that the generator needs: encoders for the cold packets, a scanner that cuts
//! a byte stream into frames, and the head of a PUBLISH.
//!
//! Written apart from the broker's codec on purpose: two independent readings of the standard check
//! each other, and the hot path here does no more than counting needs. It validates nothing beyond
//! what it must to find the next frame.

use std::fmt;

/// Frames up to this size are handed out whole; of a larger one only the first bytes are kept.
pub(crate) const PREFIX_MAX_BYTES: usize = 16 * 1024;

/// The protocol version that all clients of a run speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1.
    V3_1_1,
    /// MQTT 5.0.
    V5,
}

impl Version {
    fn level(self) -> u8 {
        match self {
            Self::V3_1_1 => 4,
            Self::V5 => 5,
        }
    }

    /// The protocol level as in the CONNECT packet, 4 or 5.
    pub(crate) fn from_level(level: u8) -> Option<Self> {
        match level {
            3 | 4 => Some(Self::V3_1_1),
            5 => Some(Self::V5),
            _ => None,
        }
    }
}

/// Packet types as in the upper half of a frame's first byte.
pub(crate) mod packet {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const CONNACK: u8 = 2;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const PUBACK: u8 = 4;
    pub(crate) const PUBREC: u8 = 5;
    pub(crate) const PUBREL: u8 = 6;
    pub(crate) const PUBCOMP: u8 = 7;
    pub(crate) const SUBSCRIBE: u8 = 8;
    pub(crate) const SUBACK: u8 = 9;
    pub(crate) const PINGREQ: u8 = 12;
    pub(crate) const PINGRESP: u8 = 13;
}

/// Bytes that are no MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer sent bytes that are no MQTT frame")
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Reads a variable byte integer: its value and how many bytes it took. `Ok(None)`: more is needed.
pub(crate) fn varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= 4 { Err(Malformed) } else { Ok(None) }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 5);
    out.push(first);
    put_varint(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

/// A DISCONNECT without a reason, in every version.
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// A PINGREQ.
pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];

/// What a CONNECT asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connect<'a> {
    pub(crate) version: Version,
    pub(crate) client_id: &'a str,
    pub(crate) user_name: Option<&'a str>,
    /// Sent only with a user name.
    pub(crate) password: Option<&'a str>,
    pub(crate) keep_alive_s: u16,
    /// The session is resumed, and outlives the connection: 3.1.1 Clean Session 0; MQTT 5 Clean
    /// Start 0 with an expiry of "never". Else it is a clean one that ends with the connection.
    pub(crate) persistent: bool,
    /// MQTT 5 only.
    pub(crate) receive_maximum: Option<u16>,
}

/// A CONNECT.
pub(crate) fn connect(asked: &Connect<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    put_string(&mut body, "MQTT");
    body.push(asked.version.level());
    let clean = if asked.persistent { 0 } else { 0x02 };
    let password = asked.user_name.and(asked.password);
    let user_name = if asked.user_name.is_some() { 0x80 } else { 0 };
    body.push(clean | user_name | if password.is_some() { 0x40 } else { 0 });
    body.extend_from_slice(&asked.keep_alive_s.to_be_bytes());
    if asked.version == Version::V5 {
        let mut properties = Vec::with_capacity(8);
        if asked.persistent {
            properties.extend_from_slice(&[0x11, 0xff, 0xff, 0xff, 0xff]);
        }
        if let Some(maximum) = asked.receive_maximum {
            properties.push(0x21);
            properties.extend_from_slice(&maximum.to_be_bytes());
        }
        put_varint(&mut body, properties.len());
        body.extend_from_slice(&properties);
    }
    put_string(&mut body, asked.client_id);
    for text in [asked.user_name, password].into_iter().flatten() {
        put_string(&mut body, text);
    }
    framed(0x10, &body)
}

/// A SUBSCRIBE for some filters, all with one QoS.
pub(crate) fn subscribe(version: Version, packet_id: u16, filters: &[String], qos: u8) -> Vec<u8> {
    let mut body = Vec::with_capacity(filters.len() * 24 + 3);
    body.extend_from_slice(&packet_id.to_be_bytes());
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        put_string(&mut body, filter);
        body.push(qos);
    }
    framed(0x82, &body)
}

/// A PUBLISH up to where its payload begins; the packet id, if any, is 0.
pub(crate) fn publish_head(version: Version, qos: u8, topic: &str, payload_len: usize) -> Vec<u8> {
    let mut variable = Vec::with_capacity(topic.len() + 8);
    put_string(&mut variable, topic);
    if qos > 0 {
        variable.extend_from_slice(&[0, 0]);
    }
    if version == Version::V5 {
        variable.push(0);
    }
    let mut out = Vec::with_capacity(variable.len() + 6);
    out.push(0x30 | (qos << 1));
    put_varint(&mut out, variable.len() + payload_len);
    out.extend_from_slice(&variable);
    out
}

/// Appends a PUBACK, PUBREC, PUBREL or PUBCOMP for success: four bytes in every version.
pub(crate) fn put_ack(out: &mut Vec<u8>, packet_type: u8, packet_id: u16) {
    let flags = if packet_type == packet::PUBREL { 2 } else { 0 };
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[(packet_type << 4) | flags, 2, high, low]);
}

/// The packet id at the start of an acknowledgement's body, 0 if there is none.
pub(crate) fn ack_id(body: &[u8]) -> u16 {
    body.first_chunk().map_or(0, |id| u16::from_be_bytes(*id))
}

/// What the generator wants to know of a CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnAck {
    /// 0: accepted.
    pub(crate) code: u8,
    /// The server had the session.
    pub(crate) session_present: bool,
    /// How many QoS 1 and 2 messages the server takes at once.
    pub(crate) receive_maximum: u16,
}

/// Reads a CONNACK's body.
pub(crate) fn connack(version: Version, body: &[u8]) -> Option<ConnAck> {
    let [flags, code, ..] = *body else { return None };
    let mut receive_maximum = u16::MAX;
    if version == Version::V5
        && let Some(Ok(Some((len, header)))) = body.get(2..).map(varint)
    {
        let properties = body.get(2 + header..2 + header + len)?;
        receive_maximum = find_receive_maximum(properties).unwrap_or(u16::MAX);
    }
    Some(ConnAck { code, session_present: flags & 1 == 1, receive_maximum })
}

fn find_receive_maximum(mut rest: &[u8]) -> Option<u16> {
    while let Some((id, value)) = rest.split_first() {
        let len = match id {
            0x21 => return value.first_chunk().map(|v| u16::from_be_bytes(*v)),
            0x11 | 0x27 => 4,
            0x13 | 0x22 => 2,
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => string_len(value)?,
            0x26 => {
                let name = string_len(value)?;
                name + string_len(value.get(name..)?)?
            }
            _ => return None,
        };
        rest = value.get(len..)?;
    }
    None
}

fn string_len(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|len| 2 + usize::from(u16::from_be_bytes(*len)))
}

/// One frame. `body` is all of it, or its first bytes if the frame is larger than
/// [`PREFIX_MAX_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// The first byte: type and flags.
    pub(crate) first: u8,
    /// What follows the fixed header.
    pub(crate) body: &'a [u8],
    /// The true length of what follows the fixed header.
    pub(crate) body_len: usize,
}

impl Frame<'_> {
    pub(crate) fn packet_type(&self) -> u8 {
        self.first >> 4
    }

    pub(crate) fn qos(&self) -> u8 {
        (self.first >> 1) & 3
    }
}

/// The fixed header's length and the whole frame's, or `None` if more bytes are needed.
#[inline]
fn frame_len(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    match bytes {
        [_, len, ..] if len & 0x80 == 0 => Ok(Some((2, 2 + usize::from(*len)))),
        [_, low, high, ..] if high & 0x80 == 0 => {
            Ok(Some((3, 3 + (usize::from(low & 0x7f) | (usize::from(*high) << 7)))))
        }
        [] | [_] => Ok(None),
        [_, rest @ ..] => Ok(varint(rest)?.map(|(len, taken)| (1 + taken, 1 + taken + len))),
    }
}

/// Cuts a stream into frames. Frames that lie whole in the given bytes are not copied.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// The first bytes of a frame of which more is to come.
    carry: Vec<u8>,
    /// How many bytes of that frame have been seen; more than `carry` holds if it is large.
    seen: usize,
}

impl Scanner {
    /// Calls `on` for each frame that these bytes complete.
    #[inline]
    pub(crate) fn scan(
        &mut self,
        mut bytes: &[u8],
        mut on: impl FnMut(Frame<'_>),
    ) -> Result<(), Malformed> {
        loop {
            if self.seen == 0 {
                while let Some((header, total)) = frame_len(bytes)? {
                    let Some((frame, rest)) = bytes.split_at_checked(total) else { break };
                    let body = &frame[header..];
                    on(Frame { first: frame[0], body, body_len: body.len() });
                    bytes = rest;
                }
            }
            if bytes.is_empty() {
                return Ok(());
            }
            bytes = self.absorb(bytes, &mut on)?;
        }
    }

    /// Adds bytes to the unfinished frame; what does not belong to it comes back.
    fn absorb<'a>(
        &mut self,
        mut bytes: &'a [u8],
        on: &mut impl FnMut(Frame<'_>),
    ) -> Result<&'a [u8], Malformed> {
        let (header, total) = loop {
            if let Some(found) = frame_len(&self.carry)? {
                break found;
            }
            let Some((byte, rest)) = bytes.split_first() else { return Ok(bytes) };
            self.carry.push(*byte);
            self.seen += 1;
            bytes = rest;
        };
        let (mine, rest) = bytes.split_at(bytes.len().min(total - self.seen));
        let keep = total.min(PREFIX_MAX_BYTES).saturating_sub(self.carry.len()).min(mine.len());
        self.carry.extend_from_slice(&mine[..keep]);
        self.seen += mine.len();
        if self.seen == total {
            let first = self.carry[0];
            on(Frame { first, body: &self.carry[header..], body_len: total - header });
            self.carry.clear();
            self.seen = 0;
        }
        Ok(rest)
    }
}

/// Where things are in the body of a PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublishHead {
    /// 0 with QoS 0.
    pub(crate) packet_id: u16,
    /// The offset of the payload in the body.
    pub(crate) payload_at: usize,
}

/// Finds the packet id and the payload of a PUBLISH.
#[inline]
pub(crate) fn parse_publish(version: Version, frame: &Frame<'_>) -> Option<PublishHead> {
    let body = frame.body;
    let mut at = 2 + usize::from(u16::from_be_bytes(*body.first_chunk()?));
    let mut packet_id = 0;
    if frame.qos() > 0 {
        packet_id = u16::from_be_bytes(*body.get(at..)?.first_chunk()?);
        at += 2;
    }
    if version == Version::V5 {
        let (len, taken) = varint(body.get(at..)?).ok()??;
        at += taken + len;
    }
    (at <= frame.body_len).then_some(PublishHead { packet_id, payload_at: at })
}

/// The topic of a PUBLISH.
pub(crate) fn publish_topic<'a>(frame: &Frame<'a>) -> Option<&'a [u8]> {
    let len = usize::from(u16::from_be_bytes(*frame.body.first_chunk()?));
    frame.body.get(2..2 + len)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
