//! What one shard tells another. A note is the typed item of a lane's record; messages ride as
//! the record's inline bytes (header version 1), large ones as a shared handle.
//!
//! Taking a note from a lane never needs room in another lane: answers go through
//! `mesh_out.rs`'s queues, which are bounded by the questions outstanding. So no
//! cycle of full lanes can lock.

use std::net::SocketAddr;
use std::sync::Arc;

use ringtide_driver::Socket;
use ringtide_filter::Filter;
use ringtide_topics::TenantId;
use ringtide_topics::retained::Cursor;
use ringtide_topics::shared::{Member, Snapshot};

use crate::message::Message;

/// A session on another shard. The generation fences the reuse of session numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RemoteSession {
    /// Its shard.
    pub shard: u16,
    /// Its number there.
    pub session: u32,
    /// Which use of that number.
    pub generation: u32,
}

/// A SUBSCRIBE whose new member every shard knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The member.
    pub who: RemoteSession,
    /// The number that its shard gave to the join.
    pub join: u64,
}

/// The member of a shared group that was chosen for a message.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    /// The group, by the hash of tenant and whole filter.
    pub group: u64,
    /// The member's session number.
    pub session: u32,
    /// Which use of that number.
    pub generation: u32,
    /// The member's subscription options.
    pub options: u8,
    /// The member's subscription identifier, 0 = none.
    pub id: u32,
}

/// One entry between shards.
#[derive(Debug)]
pub enum Note {
    /// A publish: the message is in the record's bytes. The number is its place in the order of
    /// what must be taken over from the sender, 0 for one that need not.
    Publish(u64),
    /// A publish with a large payload, by reference.
    PublishShared(u64, Message),
    /// A publish for one member of a shared group: the message is in the record's bytes.
    Member(u64, Chosen),
    /// The same with a large payload.
    MemberShared(u64, Box<(Chosen, Message)>),
    /// A message of an earlier run for a member of a shared group, to be chosen anew.
    MemberAgain(u64, Box<(u64, Message)>),
    /// The receiver's messages up to this place have been taken over.
    TakenOver(u64),
    /// The sender's messages of QoS 2 up to this place are durable.
    Committed(u64),
    /// A connection whose client lives at the receiving shard.
    HandOver(Box<HandOver>),
    /// A question for retained messages.
    RetainedQuery(Box<RetainedQuery>),
    /// A page of retained messages.
    RetainedPage(Box<RetainedPage>),
    /// A change of a shared group's membership, to the group's home.
    GroupChange(Box<GroupChange>),
    /// The membership of a shared group, from its home.
    GroupSnapshot(Box<GroupSnapshot>),
    /// A shard knows a group's membership as of this epoch.
    GroupKnown {
        /// The group.
        group: u64,
        /// The epoch that is known.
        epoch: u64,
    },
    /// Every shard knows of a member that joined.
    GroupJoined(Joined),
}

/// A connection on its way to its client's home.
#[derive(Debug)]
pub struct HandOver {
    /// The socket, if it is valid at the home at once; else it arrives by its tag.
    pub socket: Option<Socket>,
    /// Names the hand-over between the two drivers.
    pub tag: u64,
    /// The listener that accepted it.
    pub listener: u16,
    /// The client's address.
    pub peer: Option<SocketAddr>,
    /// The client id, which the server may have assigned.
    pub client_id: Box<str>,
    /// Tenant.
    pub tenant: TenantId,
    /// The enhanced authentication, for the time after CONNACK.
    pub(crate) auth: Option<Box<crate::auth::Exchange>>,
    /// The enhanced authentication's last data for CONNACK.
    pub auth_data: Option<Box<[u8]>>,
    /// The user name that the client's proxy vouches for.
    pub vouched: Option<Box<str>>,
    /// What was to be sent and has not been: the end of an authentication exchange.
    pub(crate) unsent: Vec<u8>,
    /// The same of the filter's own.
    pub(crate) wire: Vec<u8>,
    /// What the connection's bytes go through, with all that it has not passed on.
    pub(crate) filter: Option<Box<Filter>>,
    /// The CONNECT packet and all that followed it unread.
    pub bytes: Vec<u8>,
}

/// Asks for the retained messages that match a filter.
#[derive(Debug)]
pub struct RetainedQuery {
    /// Who asks.
    pub asker: RemoteSession,
    /// Which of its replays.
    pub replay: u32,
    /// Tenant.
    pub tenant: TenantId,
    /// The filter.
    pub filter: Arc<str>,
    /// Where to go on.
    pub cursor: Cursor,
}

/// Answers a [`RetainedQuery`].
#[derive(Debug)]
pub struct RetainedPage {
    /// Who asked.
    pub asker: RemoteSession,
    /// Which of its replays.
    pub replay: u32,
    /// The messages.
    pub messages: Vec<Message>,
    /// Where to go on; `None` at the end.
    pub cursor: Option<Cursor>,
}

/// What happened to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It subscribed, or changed its options; its shard names the SUBSCRIBE by this number.
    Join(u64),
    /// It unsubscribed or its session ended.
    Leave,
    /// It connected or disconnected.
    Online(bool),
    /// This many messages wait for it.
    Backlog(u32),
}

/// A change of a shared group's membership.
#[derive(Debug)]
pub struct GroupChange {
    /// Tenant.
    pub tenant: TenantId,
    /// The whole filter, `$share/NAME/FILTER`.
    pub filter: Arc<str>,
    /// The member concerned.
    pub member: Member,
    /// What happened.
    pub change: Change,
}

/// The membership of a shared group.
#[derive(Debug)]
pub struct GroupSnapshot {
    /// Tenant.
    pub tenant: TenantId,
    /// The whole filter, `$share/NAME/FILTER`.
    pub filter: Arc<str>,
    /// The membership; without members the group is gone.
    pub snapshot: Arc<Snapshot>,
}
