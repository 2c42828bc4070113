//! What a connection waits for when one of its packets cannot be finished in this turn. Later
//! packets of that connection wait behind it; nothing else does.

use ringtide_codec::{PacketId, QoS};
use ringtide_topics::interest::ShardSet;

use crate::connect::Identity;
use crate::message::Message;
use crate::subscribe::SubscribeJob;

/// The acknowledgement that a publish asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckWanted {
    pub(crate) qos: QoS,
    pub(crate) id: Option<PacketId>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) enum Parked {
    /// A publish waits for a verdict.
    Verdict { message: Message, ack: AckWanted },
    /// A publish waits for room in the lanes to other shards, or for the disk; `done` have it.
    Lanes(Box<LanesParked>),
    /// A SUBSCRIBE waits for a verdict, for the interest table, for a shared group or for the disk.
    Subscribe(Box<SubscribeJob>),
    /// A CONNECT, with all that followed it, waits for the disk.
    Connect(Box<(Identity, Vec<u8>)>),
}

/// A publish that some shards or group members still miss.
#[derive(Debug)]
pub(crate) struct LanesParked {
    pub(crate) message: Message,
    pub(crate) ack: AckWanted,
    pub(crate) progress: Progress,
}

/// How far a publish has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Shards that have it.
    pub(crate) done: ShardSet,
    /// Local sessions, local retained store and shared groups are served.
    pub(crate) local_done: bool,
    /// Members of shared groups have been chosen.
    pub(crate) chosen: bool,
    /// Shared groups whose chosen member is on a shard without room.
    pub(crate) members: Vec<(u16, crate::note::Chosen)>,
    /// Somebody has it or will.
    pub(crate) reached: bool,
}
