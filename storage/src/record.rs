//! The bodies of records. All numbers are little-endian; every body begins with its version.
//!
//! A body is checked when it is decoded: no bytes make it panic, and bytes that are missing, left
//! over or impossible are an error. What a record does is in [`crate::state`]; damage is the
//! envelope's business (its crc32c), not the body's.

mod message;
mod reader;
mod session;
mod small;

pub use message::{EntryWriter, encode_entry};

use std::fmt;

/// Names a session in the records of one log; never used again there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Why a body is not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Fewer bytes than its fields say.
    Truncated,
    /// A version that this build does not know.
    Version(u8),
    /// A field has a value that it cannot have, or bytes are left over.
    Invalid,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Truncated => f.write_str("the record is cut short"),
            RecordError::Version(version) => {
                write!(f, "the record has version {version}, which this build does not know")
            }
            RecordError::Invalid => f.write_str("the record has a field that cannot be"),
        }
    }
}

impl std::error::Error for RecordError {}

/// A message for one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The session.
    pub session: SessionId,
    /// Names the entry within its session and gives its place in the order.
    pub seq: u64,
    /// QoS of the delivery, 0 to 2.
    pub qos: u8,
    /// The RETAIN flag as the client gets it.
    pub retain: bool,
    /// The membership of a shared group for which it was chosen, 0 = none.
    pub membership: u16,
    /// Subscription identifiers, at most 65 535.
    pub ids: std::borrow::Cow<'a, [u32]>,
}

/// The group of a message that its own shard is to publish as a whole: nobody has it yet.
pub const ANEW: u64 = u64::MAX;

/// Another shard (or this one, later) that must take a message over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The shard.
    pub shard: u16,
    /// Its place in the order between this shard and that.
    pub seq: u64,
    /// The shared group for one of whose members it is, by hash; 0 = for all that match there;
    /// [`ANEW`].
    pub group: u64,
}

/// All of a [`crate::RecordKind::Message`] but the message itself, whose bytes end the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageHead<'a> {
    /// It was set as (or, with an empty payload, cleared) the retained message of its topic here.
    pub retained: bool,
    /// The inbound QoS 2 exchange that it opened: the publisher's session and packet id.
    pub inbound: Option<(SessionId, u16)>,
    /// The origin's shard and its place in the order from there, if it came from another shard.
    pub origin: Option<(u16, u64)>,
    /// Shards that must take it over.
    pub destinations: std::borrow::Cow<'a, [Destination]>,
    /// Sessions here for which it waits.
    pub entries: Vec<Entry<'a>>,
}

/// A will as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WillRecord {
    /// The message's bytes.
    pub message: Vec<u8>,
    /// Seconds after the publication until it expires; `None` = never.
    pub expiry_s: Option<u32>,
    /// Will Delay Interval in seconds.
    pub delay_s: u32,
    /// When a delay under way ends, in milliseconds since the epoch; 0 = none is under way.
    pub due_ms: u64,
}

/// A subscription, shared ones with their whole filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The filter as the client gave it.
    pub filter: String,
    /// QoS in bits 0-1, No Local in 2, Retain As Published in 3.
    pub options: u8,
    /// Subscription identifier, 0 = none.
    pub id: u32,
}

/// An outgoing QoS 2 exchange under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Its packet id.
    pub packet_id: u16,
    /// The entry that is sent under it; `None` once PUBREC has come.
    pub seq: Option<u64>,
}

/// A session as a whole, but for what waits: all else that was known of it before is void. What
/// waits stays until it is done or written again: a checkpoint that a crash cuts short has not
/// written it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its name in this log.
    pub id: SessionId,
    /// Tenant.
    pub tenant: u32,
    /// Client id.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// Session Expiry Interval in seconds; `u32::MAX` = never. 0: kept for its will alone.
    pub expiry_s: u32,
    /// When it was connected last, in milliseconds since the epoch.
    pub connected_ms: u64,
    /// When its connection ended, in milliseconds since the epoch; 0 while connected.
    pub detached_ms: u64,
    /// Will.
    pub will: Option<WillRecord>,
    /// Subscriptions.
    pub filters: Vec<Filter>,
    /// Packet ids of inbound QoS 2 exchanges that PUBREL has not ended.
    pub inbound: Vec<u16>,
    /// Outgoing QoS 2 exchanges under way, in the order in which they began.
    pub exchanges: Vec<Exchange>,
}

/// A subscription was made or changed (`Some`), or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord<'a> {
    /// The session.
    pub session: SessionId,
    /// The filter as the client gave it.
    pub filter: &'a str,
    /// Options and subscription identifier as in [`Filter`]; `None` removes it.
    pub options: Option<(u8, u32)>,
}

/// Further sessions for which a stored message waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRecord<'a> {
    /// The position of the message's record.
    pub message: u64,
    /// The sessions.
    pub entries: Vec<Entry<'a>>,
}

/// A checkpoint has named everything: no [`QueueRecord`] follows for the messages that it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointEndRecord;

/// How an exchange moved on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An entry is sent under a packet id (QoS 2 only).
    Sent {
        /// The entry.
        seq: u64,
        /// The packet id.
        packet_id: u16,
    },
    /// PUBREC has come: the entry is gone, the packet id is held until PUBCOMP.
    Received {
        /// The packet id.
        packet_id: u16,
    },
    /// PUBCOMP has come, or a PUBREC that refuses: the packet id is free, its entry gone.
    Completed {
        /// The packet id.
        packet_id: u16,
    },
    /// An entry was delivered or dropped.
    Done {
        /// The entry.
        seq: u64,
    },
    /// An inbound QoS 2 exchange was ended by PUBREL or by a refusal.
    InboundDone {
        /// The packet id.
        packet_id: u16,
    },
    /// A QoS 2 PUBLISH was accepted that waits for nobody: its packet id is remembered.
    InboundBegun {
        /// The packet id.
        packet_id: u16,
    },
}

/// An exchange moved on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeRecord {
    /// The session.
    pub session: SessionId,
    /// What happened.
    pub step: Step,
}

/// A session was connected or disconnected, or its will changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// The session.
    pub session: SessionId,
    /// User name of the last connection.
    pub username: Option<String>,
    /// As in [`SessionRecord::expiry_s`].
    pub expiry_s: u32,
    /// As in [`SessionRecord::connected_ms`].
    pub connected_ms: u64,
    /// As in [`SessionRecord::detached_ms`].
    pub detached_ms: u64,
    /// The will as it is now.
    pub will: Option<WillRecord>,
}

/// A session ended: all that was known of it is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEndRecord {
    /// The session.
    pub session: SessionId,
}

/// For each origin, up to which place in the order its messages have been taken over here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatermarkRecord {
    /// Origin shard and the last place taken over from it.
    pub marks: Vec<(u16, u64)>,
    /// Destination shard and the last place given to a message for it: in a checkpoint, which
    /// holds no messages that were taken over.
    pub sent: Vec<(u16, u64)>,
}

/// Messages that count as never taken over, since their origin has lost them and its publisher was
/// told nothing. Written by a start, which writes the same record to every log that has one of
/// them: whichever a crash lets through says all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VoidRecord {
    /// The shards whose logs hold them, and their positions there.
    pub messages: Vec<(u16, u64)>,
}
