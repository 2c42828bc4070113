//! The connections and sessions of one shard, and the tools that act on one of them: writing to a
//! connection, counting a drop, keeping the list of connections with output.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;
use ringtide_codec::{AckKind, PacketId, ReasonCode, Version, write_ack};
use ringtide_driver::Token;
use ringtide_filter::Filter;
use ringtide_topics::TenantId;

use crate::config::Limits;
use crate::conn::{Cause, Conn, NONE, Phase, index_of};
use crate::counters::{Counter, Counters};
use crate::filtered::Filtering;
use crate::journal::Journal;
use crate::ledger::{DropReason, Dropped};
use crate::pace::Meters;
use crate::pages::Pages;
use crate::rate::{Bucket, Rate};
use crate::session::Session;
use crate::slab::Slab;

/// Send buffers that a shard keeps for its next turns.
const POOL_MAX: usize = 1024;
/// The largest that is kept.
const POOLED_BYTES_MAX: usize = 64 << 10;

/// One listener's connections.
#[derive(Clone, Copy, Debug)]
struct OfListener {
    count: u32,
    /// What is left of the connections that it takes in a second.
    connects: Bucket,
}

pub(crate) struct Clients {
    pub(crate) now_ms: u64,
    pub(crate) conns: Slab<Conn>,
    pub(crate) sessions: Slab<Session>,
    pub(crate) by_client: HashTable<u32>,
    /// Connections with output, each once.
    pub(crate) dirty: Vec<u32>,
    /// Connections to close after their output has been tried.
    pub(crate) closing: Vec<u32>,
    /// Sessions whose queue may move on, each once.
    pub(crate) pumping: VecDeque<u32>,
    /// Empty vectors for output, so that an idle connection owns none.
    pub(crate) pool: Vec<Vec<u8>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) journal: Journal,
    pub(crate) pages: Pages,
    pub(crate) write_buffer_max: usize,
    pub(crate) filtering: Filtering,
    pub(crate) meters: Meters,
    /// Sessions with a connection.
    pub(crate) online: usize,
    /// Connections by listener.
    by_listener: Vec<OfListener>,
    next_generation: u32,
}

impl Clients {
    pub(crate) fn new(
        now_ms: u64,
        counters: Arc<Counters>,
        limits: &Limits,
        keeps: bool,
    ) -> Clients {
        Clients {
            now_ms,
            conns: Slab::new(),
            sessions: Slab::new(),
            by_client: HashTable::new(),
            dirty: Vec::new(),
            closing: Vec::new(),
            pumping: VecDeque::new(),
            pool: Vec::new(),
            counters,
            journal: Journal::new(keeps),
            pages: Pages::new(limits.waiting_memory_bytes_max),
            write_buffer_max: limits.write_buffer_max_bytes,
            filtering: Filtering::default(),
            meters: Meters::default(),
            online: 0,
            by_listener: Vec::new(),
            next_generation: 0,
        }
    }

    /// A number that no other connection or session of this shard has had lately.
    pub(crate) fn generation(&mut self) -> u32 {
        self.next_generation = (self.next_generation + 1) & 0x00ff_ffff;
        self.next_generation
    }

    /// The connection of a token, unless its slot has been used again since.
    pub(crate) fn by_token(&mut self, token: Token) -> Option<(u32, &mut Conn)> {
        let (index, generation) = index_of(token);
        let conn = self.conns.at_mut(index)?;
        (conn.generation & 0x00ff_ffff == generation).then_some((index, conn))
    }

    /// The session of a client.
    pub(crate) fn find(&self, hash: u64, tenant: TenantId, client_id: &str) -> Option<u32> {
        self.by_client
            .find(hash, |&index| {
                self.sessions.at(index).is_some_and(|session| {
                    session.tenant == tenant && *session.client_id == *client_id
                })
            })
            .copied()
    }

    /// Makes room for so many sessions more to be found by their clients.
    pub(crate) fn reserve_sessions(&mut self, count: usize) {
        let sessions = &self.sessions;
        self.by_client
            .reserve(count, |&index| sessions.at(index).map_or(0, |session| session.hash));
    }

    /// Adds a session.
    pub(crate) fn add_session(&mut self, session: Session) -> u32 {
        let hash = session.hash;
        let index = self.sessions.insert(session);
        let sessions = &self.sessions;
        self.by_client.insert_unique(hash, index, |&other| {
            sessions.at(other).map_or(0, |session| session.hash)
        });
        self.counters.add(Counter::Sessions, 1);
        index
    }

    /// Removes a session.
    pub(crate) fn remove_session(&mut self, index: u32) -> Option<Session> {
        let session = self.sessions.remove(index)?;
        if let Ok(entry) = self.by_client.find_entry(session.hash, |&other| other == index) {
            entry.remove();
        }
        self.counters.sub(Counter::Sessions, 1);
        Some(session)
    }

    /// Connections of a listener now.
    pub(crate) fn of_listener(&self, listener: u16) -> u32 {
        self.by_listener.get(usize::from(listener)).map_or(0, |own| own.count)
    }

    /// Whether a listener takes another connection in this second; if so, it is counted.
    pub(crate) fn takes_connection(&mut self, listener: u16, rate: Rate) -> bool {
        let now_ms = self.now_ms;
        !rate.is_bounded() || self.listener(listener).connects.take_one(rate, now_ms)
    }

    fn listener(&mut self, listener: u16) -> &mut OfListener {
        let listener = usize::from(listener);
        if self.by_listener.len() <= listener {
            let connects = Bucket::full();
            self.by_listener.resize(listener + 1, OfListener { count: 0, connects });
        }
        &mut self.by_listener[listener]
    }

    /// Counts a listener's connections up or down.
    pub(crate) fn count_listener(&mut self, listener: u16, by: i32) {
        let own = self.listener(listener);
        own.count = own.count.saturating_add_signed(by);
    }

    /// Sessions without a connection.
    pub(crate) fn offline(&self) -> usize {
        self.sessions.len().saturating_sub(self.online)
    }

    /// Lets `write` append to a connection's output.
    pub(crate) fn write(&mut self, index: u32, write: impl FnOnce(Version, &mut Vec<u8>)) {
        let Some(conn) = self.conns.at_mut(index) else { return };
        if conn.phase == Phase::Closing {
            return;
        }
        prepare(conn, index, &mut self.dirty, &mut self.pool);
        write(conn.version, &mut conn.out);
    }

    /// Gives a connection the filter that it had on another shard, and what that had to send.
    pub(crate) fn adopt_filter(&mut self, index: u32, filter: Option<Box<Filter>>, wire: Vec<u8>) {
        let Some(conn) = self.conns.at_mut(index) else { return };
        conn.ended = filter.as_ref().is_some_and(|filter| filter.has_ended());
        conn.filter = filter;
        if !wire.is_empty() {
            conn.cold().wire = wire;
            prepare(conn, index, &mut self.dirty, &mut self.pool);
        }
    }

    /// The user name that a connection's proxy vouches for is of no use any more.
    pub(crate) fn forget_name(&mut self, index: u32) {
        if let Some(conn) = self.conns.at(index) {
            self.filtering.take_name(conn.token(index));
        }
    }

    /// A connection's filter, if it has one, says goodbye with the last that is sent.
    pub(crate) fn end_filter(&mut self, index: u32, cause: Cause) {
        let Some(conn) = self.conns.at_mut(index).filter(|conn| conn.filter.is_some()) else {
            return;
        };
        conn.end_filter(cause);
        prepare(conn, index, &mut self.dirty, &mut self.pool);
    }

    /// Writes an acknowledgement.
    pub(crate) fn write_ack(&mut self, index: u32, kind: AckKind, id: PacketId, code: ReasonCode) {
        self.write(index, |version, out| write_ack(kind, version, id, code, out));
    }

    /// Counts a dropped message and notes it in the client's ledger.
    pub(crate) fn note_drop(&mut self, session: u32, topic_hash: u64, reason: DropReason) {
        let at_ms = self.now_ms;
        self.counters.add(reason.counter(), 1);
        if let Some(session) = self.sessions.at_mut(session) {
            let ledger = session.ledger.get_or_insert_default();
            ledger.note(Dropped { at_ms, topic_hash, reason });
        }
    }

    /// Asks that a session's queue is moved on.
    pub(crate) fn want_pump(&mut self, session: u32) {
        if let Some(record) = self.sessions.at_mut(session)
            && !record.pumping
        {
            record.pumping = true;
            self.pumping.push_back(session);
        }
    }

    /// Takes back a vector whose bytes have been sent.
    pub(crate) fn recycle(&mut self, vector: Vec<u8>) {
        if self.pool.len() < POOL_MAX && vector.capacity() <= POOLED_BYTES_MAX {
            self.pool.push(vector);
        }
    }

    /// True if the connection takes more output without growing past its limit.
    pub(crate) fn is_writable(&self, index: u32) -> bool {
        index != NONE
            && self.conns.at(index).is_some_and(|conn| {
                conn.phase == Phase::Open && !conn.stalled && conn.out_len() < self.write_buffer_max
            })
    }
}

/// Puts a connection on the list of those with output and gives it a vector if it has none.
#[inline]
pub(crate) fn prepare(conn: &mut Conn, index: u32, dirty: &mut Vec<u32>, pool: &mut Vec<Vec<u8>>) {
    if !conn.dirty {
        conn.dirty = true;
        dirty.push(index);
        if conn.out.capacity() == 0 {
            conn.out = pool.pop().unwrap_or_default();
        }
    }
}
