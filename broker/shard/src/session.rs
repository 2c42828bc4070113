//! A session's record: what is kept for a client, connected or not. The exchanges themselves are
//! the state machines of `ringtide-session`; big parts are boxed on first use and freed when idle.

use std::num::NonZeroU64;
use std::sync::Arc;

use ringtide_session::{Inbound, Outbound, Owed, WillState, expiry};
use ringtide_storage::record::SessionId;
use ringtide_topics::{FilterId, TenantId};
use smallvec::SmallVec;

use crate::conn::NONE;
use crate::kept::Kept;
use crate::ledger::Ledger;
use crate::message::Message;
use crate::replay::Replay;
use crate::timer::TimerId;

/// A will as it waits for the connection's end.
#[derive(Clone, Debug)]
pub(crate) struct Will {
    pub(crate) message: Message,
    /// Seconds after the publication until the message expires.
    pub(crate) expiry_s: Option<u32>,
    pub(crate) delay_s: u32,
    pub(crate) state: WillState,
}

/// A message that waits for a client, and how the log names it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) message: Kept,
    /// Its entry in the log; 0 for one that is not kept.
    pub(crate) seq: u64,
    /// The other shard that it came from, and its place in the order from there: with QoS 2 it may
    /// not go on before it is durable there.
    pub(crate) origin: Option<(u16, NonZeroU64)>,
}

/// A membership of a shared group.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    /// The group, by the hash of tenant and whole filter.
    pub(crate) group: u64,
    /// The whole filter, `$share/NAME/FILTER`.
    pub(crate) filter: Arc<str>,
    pub(crate) options: u8,
    pub(crate) id: u32,
}

impl Membership {
    /// Names the group on what waits for this member, never 0. It follows from the group alone,
    /// so that a later membership of another group is not taken for this one.
    pub(crate) fn tag(&self) -> u16 {
        ((self.group >> 48) as u16).max(1)
    }
}

/// A client's session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its name in the log, 0 if it is not kept there.
    pub(crate) log_id: SessionId,
    pub(crate) client_id: Box<str>,
    pub(crate) username: Option<Box<str>>,
    pub(crate) tenant: TenantId,
    /// The connection's number, or NONE while offline.
    pub(crate) conn: u32,
    pub(crate) generation: u32,
    /// Session Expiry Interval in force, in seconds; `u32::MAX` = never.
    pub(crate) expiry_s: u32,
    /// The interval that the CONNECT named: what a DISCONNECT may not raise from 0.
    pub(crate) connect_expiry_s: u32,
    /// When its last connection ended, in milliseconds since the epoch; without meaning while it
    /// is connected.
    pub(crate) detached_ms: u64,
    /// Keyed hash of the client id.
    pub(crate) hash: u64,
    pub(crate) connected_ms: u64,
    pub(crate) receive_maximum: u16,
    /// In the list of sessions whose queue may move on.
    pub(crate) pumping: bool,
    /// In one of the lists of sessions whose replay moves on.
    pub(crate) replaying: bool,
    pub(crate) timer: Option<TimerId>,
    pub(crate) filters: SmallVec<[FilterId; 4]>,
    #[expect(clippy::box_collection, reason = "most sessions are in no group: 8 bytes, not 24")]
    pub(crate) groups: Option<Box<Vec<Membership>>>,
    pub(crate) inbound: Option<Box<Inbound>>,
    pub(crate) outbound: Option<Box<Outbound<Stored>>>,
    pub(crate) owed: Option<Box<Owed>>,
    pub(crate) will: Option<Box<Will>>,
    pub(crate) replay: Option<Box<Replay>>,
    pub(crate) ledger: Option<Box<Ledger>>,
}

impl Session {
    pub(crate) fn new(client_id: &str, tenant: TenantId, hash: u64, generation: u32) -> Session {
        Session {
            log_id: SessionId(0),
            client_id: client_id.into(),
            username: None,
            tenant,
            conn: NONE,
            generation,
            expiry_s: 0,
            connect_expiry_s: 0,
            detached_ms: 0,
            hash,
            connected_ms: 0,
            receive_maximum: u16::MAX,
            pumping: false,
            replaying: false,
            timer: None,
            filters: SmallVec::new(),
            groups: None,
            inbound: None,
            outbound: None,
            owed: None,
            will: None,
            replay: None,
            ledger: None,
        }
    }

    /// Its name in the log, if what waits for it must be kept there; else 0.
    pub(crate) fn kept(&self) -> SessionId {
        if self.is_persistent() { self.log_id } else { SessionId(0) }
    }

    /// When it expires, in milliseconds since the epoch; absent while it is connected, and if it
    /// never does.
    pub(crate) fn expires_ms(&self) -> Option<u64> {
        let detached = self.conn == NONE;
        detached.then(|| expiry::deadline(self.detached_ms, self.expiry_s)).flatten()
    }

    /// True if its state outlives the connection.
    pub(crate) fn is_persistent(&self) -> bool {
        self.expiry_s > 0
    }

    /// Frees the boxes that are idle.
    pub(crate) fn trim(&mut self) {
        if self.inbound.as_ref().is_some_and(|inbound| inbound.is_idle()) {
            self.inbound = None;
        }
        if self.outbound.as_ref().is_some_and(|outbound| outbound.is_idle()) {
            self.outbound = None;
        }
        if self.owed.as_ref().is_some_and(|owed| owed.is_empty()) {
            self.owed = None;
        }
    }

    pub(crate) fn subscription_count(&self) -> usize {
        self.filters.len() + self.groups.as_ref().map_or(0, |groups| groups.len())
    }
}
