//! The format of an exported store: one JSON object a line, UTF-8, each under the name of what it
//! is.
//!
//! ```text
//! {"export":{"format":"ringtide-store","version":1,...}}      first
//! {"session":{"number":1,"client_id":"...",...}}              one for each session
//! {"message":{"content":{"topic":"...",...},...}}             one for each message
//! {"end":{"sessions":1,...,"crc32c":1}}                   last
//! ```
//!
//! A field that is 0, false, empty or absent is left out. Times are milliseconds since the epoch.
//! Sessions stand in the order of tenant and client id and are numbered from 1. A message stands
//! once, however many sessions it waits for; what waits for a session has places from 1 on, which
//! give the order. Messages stand in the order in which sessions and places first name them; those
//! that are only retained follow in the order of tenant and topic. So equal stores give equal
//! lines, but for `release`, `written_ms` and `shards` in the first one and the checksum in the
//! last. A line that is not understood as a whole is refused: a new field needs a new version.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What [`Export::format`] says.
pub(super) const FORMAT: &str = "ringtide-store";
/// The version that this release writes and reads.
pub(super) const VERSION: u32 = 1;

/// A line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<'a> {
    Export(Export),
    #[serde(borrow)]
    Session(Session<'a>),
    Message(Message<'a>),
    End(End),
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Export {
    /// [`FORMAT`].
    pub(super) format: String,
    /// [`VERSION`].
    pub(super) version: u32,
    /// The release of ringtide that wrote it.
    pub(super) release: String,
    /// When it was written.
    pub(super) written_ms: u64,
    /// Shards of the store that was exported.
    pub(super) shards: u16,
    /// The key of the hash that deals clients out to shards, 16 hexadecimal digits: members of
    /// shared groups and publishers are known by hashes under it.
    pub(super) partition_key: Hex,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session<'a> {
    /// From 1 on, in the order of the lines.
    pub(super) number: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) tenant: u32,
    #[serde(borrow)]
    pub(super) client_id: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) username: Option<Cow<'a, str>>,
    /// Session Expiry Interval in seconds; 4294967295 = never. 0: kept for its will alone.
    pub(super) expiry_s: u32,
    /// When it was connected last.
    pub(super) connected_ms: u64,
    /// When its connection ended; 0 if it was connected when the broker ended.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) detached_ms: u64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) will: Option<Will<'a>>,
    /// In the order of the filters' bytes.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub(super) subscriptions: Vec<Subscription<'a>>,
    /// Packet ids of QoS 2 messages that the client sent and has not released (PUBREL), ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) unreleased: Vec<u16>,
    /// QoS 2 messages that were sent to the client and are not completed (PUBCOMP), in the order
    /// in which they were sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) uncompleted: Vec<Uncompleted>,
    /// Messages that wait for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) waiting: u32,
}

/// A will.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Will<'a> {
    /// Will Delay Interval in seconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) delay_s: u32,
    /// When a delay under way ends; 0 = none is under way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) due_ms: u64,
    /// Seconds from its publication until it expires; absent = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expiry_s: Option<u32>,
    #[serde(borrow)]
    pub(super) content: Content<'a>,
}

/// A subscription, shared ones with their whole filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subscription<'a> {
    #[serde(borrow)]
    pub(super) filter: Cow<'a, str>,
    pub(super) qos: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) no_local: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) retain_as_published: bool,
    /// Subscription identifier, 0 = none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) id: u32,
}

/// An outgoing QoS 2 exchange under way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Uncompleted {
    pub(super) packet_id: u16,
    /// The place of the message that was sent; 0 once the client has it (PUBREC).
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) place: u32,
}

/// A message that is retained, or waits for sessions, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub(super) content: Content<'a>,
    /// It is the retained message of its topic.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) retained: bool,
    /// The sessions that it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) waits_for: Vec<WaitsFor>,
}

/// A message waits for a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitsFor {
    /// The session's number.
    pub(super) session: u32,
    /// Its place among what waits for the session, from 1 on.
    pub(super) place: u32,
    /// QoS of the delivery, 1 or 2.
    pub(super) qos: u8,
    /// The RETAIN flag as the client gets it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) retain: bool,
    /// The membership of a shared group for which it was chosen, 0 = none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) membership: u16,
    /// Subscription identifiers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ids: Vec<u32>,
}

/// What was published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content<'a> {
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) tenant: u32,
    #[serde(borrow)]
    pub(super) topic: Cow<'a, str>,
    /// QoS as published, 0 to 2.
    pub(super) qos: u8,
    /// The publisher's RETAIN flag.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) retain: bool,
    /// 1 = trace, 2 = published by the broker itself, 4 = came over a bridge.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) flags: u8,
    /// Hops over bridges and nodes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) hops: u8,
    /// The node where it was published.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) node: u16,
    /// Hash of the publisher's client id, 16 hexadecimal digits.
    pub(super) publisher: Hex,
    /// When it came in.
    pub(super) published_ms: u64,
    /// When it expires; 0 = never.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) expires_ms: u64,
    /// MQTT 5 properties that travel with it, as in a PUBLISH without their length: base64.
    #[serde(borrow, default, skip_serializing_if = "Base64::is_empty")]
    pub(super) properties: Base64<'a>,
    /// Base64.
    #[serde(borrow)]
    pub(super) payload: Base64<'a>,
}

/// The last line: what stood before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub(super) sessions: u64,
    pub(super) subscriptions: u64,
    pub(super) wills: u64,
    /// Message lines.
    pub(super) messages: u64,
    /// Those that are retained.
    pub(super) retained: u64,
    /// Entries of `waits_for`.
    pub(super) waiting: u64,
    /// CRC-32C of all bytes before this line.
    pub(super) crc32c: u32,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A number as 16 hexadecimal digits: many readers of JSON keep only 53 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hex(pub(super) u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hex, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = digits.then(|| u64::from_str_radix(&text, 16).ok()).flatten();
        number.map(Hex).ok_or_else(|| D::Error::custom("expected 16 hexadecimal digits"))
    }
}

/// Bytes as base64 with padding (RFC 4648, section 4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Base64<'a>(pub(super) Cow<'a, [u8]>);

impl Base64<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &STANDARD))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Base64<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base64<'a>, D::Error> {
        deserializer.deserialize_str(Decoding)
    }
}

/// Decodes as it reads, so that no copy of the text is made.
struct Decoding;

impl Visitor<'_> for Decoding {
    type Value = Base64<'static>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string of base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Base64<'static>, E> {
        let bytes = STANDARD.decode(text).map_err(|error| E::custom(format!("base64: {error}")))?;
        Ok(Base64(Cow::Owned(bytes)))
    }
}
