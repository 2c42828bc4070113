//! What must outlive a crash, as the log's records say it, and what waits until it does:
//! acknowledgements, the first sends of QoS 2, the news to other shards that a message has been
//! taken over.

use std::borrow::Cow;
use std::mem;

use ringtide_codec::{PacketId, QoS};
use ringtide_session::WillState;
use ringtide_storage::record::{
    ConnectionRecord, Exchange, Filter, MessageHead, SessionEndRecord, SessionId, SessionRecord,
    Step, WatermarkRecord, WillRecord,
};
use ringtide_storage::{RecordKind, Store};
use ringtide_topics::SessionRef;

use crate::clients::Clients;
use crate::conn::NONE;
use crate::core::{Core, WaitsFor};
use crate::counters::Counter;
use crate::deliver::Fan;
use crate::note::Note;
use crate::pages::Reader;
use crate::park::Parked;
use crate::pump;
use crate::session::{Session, Will};
use crate::share::Share;

/// Connections that are opened, and sessions whose sends are let out, before a look at the clock.
const OPENS_LEAST: u32 = 8;

impl<S: Store> Core<S> {
    /// Appends a record behind everything that was gathered. Its position.
    pub(crate) fn record(&mut self, kind: RecordKind, body: &[u8]) -> u64 {
        self.clients.journal.flush(&mut self.store);
        self.store.append(kind, &[body]).0
    }

    /// Records a message that was published here, if something that follows from it must outlive
    /// a crash: what waits for sessions here, what other shards must take over, what was retained,
    /// the packet id of a QoS 2 publisher. The position that its acknowledgement waits for, 0 if
    /// it need not wait.
    pub(crate) fn commit(&mut self, fan: &mut Fan<'_>, inbound: Option<(SessionId, u16)>) -> u64 {
        let journal = &mut self.clients.journal;
        let plain = !fan.retained && !journal.has_entries() && fan.destinations.is_empty();
        match inbound {
            None if plain => return 0,
            Some((session, packet_id)) if plain => {
                journal.step(session, Step::InboundBegun { packet_id });
                journal.flush(&mut self.store);
                return self.store.appended().0;
            }
            _ => {}
        }
        let destinations = mem::take(&mut fan.destinations);
        let head = MessageHead {
            retained: fan.retained,
            inbound,
            origin: fan.custody,
            destinations: Cow::Borrowed(&destinations),
            entries: Vec::new(),
        };
        let kept = fan.kept.as_ref();
        let lsn = journal.append(&mut self.store, RecordKind::Message, &head, &fan.view, kept);
        for destination in &destinations {
            self.routes.custody.keep(destination, fan.message());
            if fan.view.header.qos == QoS::ExactlyOnce {
                self.routes.custody.record_commit(lsn, destination);
            }
        }
        self.look_at_backlog();
        lsn
    }

    /// Records a session as a whole, but for what waits for it.
    pub(crate) fn record_session(&mut self, index: u32) {
        let Some(record) = self.session_record(index) else { return };
        let mut body = Vec::new();
        record.encode(&mut body);
        self.record(RecordKind::Session, &body);
    }

    /// A session as a record.
    pub(crate) fn session_record(&self, index: u32) -> Option<SessionRecord> {
        let session = self.clients.sessions.at(index)?;
        let own = session.filters.iter().map(|id| {
            let subscription = self.routes.table.subscription(*id, SessionRef(index));
            let (options, id_number) = subscription.map_or((0, 0), |one| (one.options, one.id));
            let filter = self.routes.table.filter_str(*id).1.to_string();
            Filter { filter, options, id: id_number }
        });
        let shared = session.groups.iter().flat_map(|groups| groups.iter()).map(|membership| {
            let filter = membership.filter.to_string();
            Filter { filter, options: membership.options, id: membership.id }
        });
        // One that waits here is not recorded: were its id, it would be lost when it comes again.
        let parked = self.parked_id(session.conn);
        let inbound = session.inbound.iter().flat_map(|inbound| inbound.awaiting_release());
        let inbound = inbound.filter(|id| Some(*id) != parked);
        let under_way = session.outbound.iter().flat_map(|outbound| outbound.under_way());
        let exchanges = under_way.filter_map(|(id, delivery)| {
            let seq = delivery.map(|delivery| delivery.message.seq);
            // A message of QoS 1 is sent under any id after a crash, see `Earlier`.
            let once = delivery.is_some_and(|delivery| delivery.qos != QoS::ExactlyOnce);
            (!once).then_some(Exchange { packet_id: id.get(), seq })
        });
        Some(SessionRecord {
            id: session.log_id,
            tenant: session.tenant.0,
            client_id: session.client_id.to_string(),
            username: session.username.as_deref().map(Into::into),
            expiry_s: session.expiry_s,
            connected_ms: session.connected_ms,
            detached_ms: detached_ms(session),
            will: session.will.as_deref().map(will_record),
            filters: own.chain(shared).collect(),
            inbound: inbound.map(|id| id.get()).collect(),
            exchanges: exchanges.collect(),
        })
    }

    /// The packet id of a publish that waits in a connection.
    fn parked_id(&self, conn: u32) -> Option<PacketId> {
        let conn = self.clients.conns.at(conn)?;
        match conn.cold.as_ref()?.parked.as_ref()? {
            Parked::Lanes(parked) => parked.ack.id,
            Parked::Verdict { ack, .. } => ack.id,
            Parked::Subscribe(_) | Parked::Connect(_) => None,
        }
    }

    /// Records that a session was connected or disconnected, or that its will changed.
    pub(crate) fn record_connection(&mut self, index: u32) {
        let Some(session) = self.clients.sessions.at(index) else { return };
        if session.log_id == SessionId(0) {
            return;
        }
        let record = ConnectionRecord {
            session: session.log_id,
            username: session.username.as_deref().map(Into::into),
            expiry_s: session.expiry_s,
            connected_ms: session.connected_ms,
            detached_ms: detached_ms(session),
            will: session.will.as_deref().map(will_record),
        };
        let mut body = Vec::new();
        record.encode(&mut body);
        self.record(RecordKind::Connection, &body);
    }

    /// Records that a session ended.
    pub(crate) fn record_end(&mut self, session: SessionId) {
        if session == SessionId(0) {
            return;
        }
        let mut body = Vec::new();
        SessionEndRecord { session }.encode(&mut body);
        self.record(RecordKind::SessionEnd, &body);
    }

    /// A connected session is kept in the log from now on, if it must be: its state outlives the
    /// connection, or it has a will.
    pub(crate) fn keep_session(&mut self, index: u32, was_persistent: bool) {
        let Some(session) = self.clients.sessions.at_mut(index) else { return };
        let persistent = session.is_persistent();
        count_kept(&self.clients.counters, was_persistent, persistent);
        if !self.clients.journal.on {
            return;
        }
        if session.log_id != SessionId(0) {
            self.record_connection(index);
        } else if persistent || session.will.is_some() {
            session.log_id = self.clients.journal.session();
            self.record_session(index);
        }
    }

    /// Lets out what waited for the log and ends the turn's batch. True if something that became
    /// durable meanwhile is still to be let out.
    pub(crate) fn end_of_log_turn(&mut self, over: &dyn Fn() -> bool) -> bool {
        // Not every store has its writes made by the driver, which tells of their ends.
        self.settle_pages();
        let durable = self.durable();
        let mut share = Share::new(over, OPENS_LEAST);
        while let Some(waits) = self.opening.pop_front_if(|front| front.lsn <= durable) {
            let conn = self.clients.conns.at(waits.index);
            if conn.is_some_and(|conn| conn.generation == waits.generation) {
                self.opened(waits.index);
                if !share.go_on() {
                    break;
                }
            }
        }
        let owing = self.release_owed(over);
        let mut share = Share::new(over, OPENS_LEAST);
        while let Some(waits) = self.held.pop_front_if(|front| front.lsn <= durable) {
            self.release_held(waits.index, waits.generation);
            if !share.go_on() {
                break;
            }
        }
        self.tell_custody(durable);
        self.record_watermarks();
        self.clients.journal.flush(&mut self.store);
        self.number_held();
        self.store.end_turn();
        let durable = self.durable();
        let lists = [&self.opening, &self.owing, &self.held];
        owing
            || lists.into_iter().any(|list| list.front().is_some_and(|front| front.lsn <= durable))
            || self.routes.custody.has_news(durable)
            || !self.clients.journal.is_empty()
    }

    /// A write has ended: what stands in it may leave memory from now on.
    pub(crate) fn settle_pages(&mut self) {
        let Clients { pages, journal, .. } = &mut self.clients;
        pages.settle(&self.store, &mut journal.appended);
    }

    /// Goes on with the sessions whose messages were read from the log.
    pub(crate) fn hear_pages(&mut self) {
        for reader in self.clients.pages.take_news() {
            let Reader::Session(index, generation) = reader else { continue };
            let session = self.clients.sessions.at(index);
            if session.is_none_or(|session| session.generation != generation) {
                continue;
            }
            if self.clients.journal.holds(index) {
                self.release_held(index, generation);
            } else {
                self.clients.want_pump(index);
            }
        }
        let lost = self.clients.pages.take_lost();
        self.clients.counters.add(Counter::StoreLostRecords, lost);
    }

    /// Ends the turn for what waits: lets go of what is above the limit. True if there is more.
    pub(crate) fn end_pages(&mut self) -> bool {
        let Clients { pages, sessions, .. } = &mut self.clients;
        pages.unpin_unless(|index, generation| {
            let session = sessions.at(index);
            session.is_some_and(|session| session.generation == generation && session.pumping)
        });
        pages.end_turn()
    }

    /// True if the log holds everything that was recorded.
    pub(crate) fn is_all_durable(&self) -> bool {
        self.store.durable() == self.store.appended() && self.clients.journal.is_empty()
    }

    fn record_watermarks(&mut self) {
        if !self.clients.journal.on {
            return;
        }
        let marks: Vec<(u16, u64)> = self.routes.custody.moved().collect();
        if marks.is_empty() {
            return;
        }
        let record = WatermarkRecord { marks, sent: Vec::new() };
        let mut body = Vec::new();
        record.encode(&mut body);
        let lsn = self.record(RecordKind::Watermark, &body);
        for (origin, seq) in record.marks {
            self.routes.custody.marked(lsn, origin, seq);
        }
    }

    /// What was held in this turn waits for the end of this turn's records.
    fn number_held(&mut self) {
        let lsn = self.store.appended().0;
        let mut holding = mem::take(&mut self.clients.journal.holding);
        for (index, generation) in holding.drain(..) {
            for held in self.clients.journal.held.get_mut(&index).into_iter().flatten() {
                held.lsn = held.lsn.min(lsn);
            }
            self.held.push_back(WaitsFor { lsn, index, generation });
        }
        self.clients.journal.holding = holding;
    }

    /// Sends what a session's sends waited for, in order.
    pub(crate) fn release_held(&mut self, index: u32, generation: u32) {
        let durable = self.durable();
        let session = self.clients.sessions.at(index);
        if session.is_none_or(|session| session.generation != generation) {
            return;
        }
        while let Some(held) = self.clients.journal.held.get_mut(&index) {
            let Some(front) = held.front().copied() else {
                self.clients.journal.held.remove(&index);
                break;
            };
            if front.lsn > durable {
                return;
            }
            let custody = &mut self.routes.custody;
            if front.origin.is_some_and(|origin| !custody.is_committed(origin, (index, generation)))
            {
                return;
            }
            if pump::must_read(&mut self.clients, index, front.id) {
                return;
            }
            if let Some(held) = self.clients.journal.held.get_mut(&index) {
                held.pop_front();
            }
            pump::send_held(&mut self.clients, index, &front);
        }
        // What had to queue behind them may go.
        if pump::pump(&mut self.clients, index) {
            self.clients.want_pump(index);
        }
    }

    /// Tells the other shards what has become durable here.
    fn tell_custody(&mut self, durable: u64) {
        for (origin, seq) in self.routes.custody.durable_marks(durable) {
            if origin == self.mesh.me {
                self.routes.custody.taken_over(origin, seq);
            } else {
                self.mesh.tell(origin, Note::TakenOver(seq));
            }
        }
        for (shard, seq) in self.routes.custody.durable_commits(durable) {
            self.mesh.tell(shard, Note::Committed(seq));
        }
    }

    /// Another shard's messages of QoS 2 are durable there: what waited for it here may go.
    pub(crate) fn on_committed(&mut self, origin: u16, seq: u64) {
        for (index, generation) in self.routes.custody.committed(origin, seq) {
            self.release_held(index, generation);
        }
    }
}

/// Counts a session among those that outlive their connection, or no longer.
pub(crate) fn count_kept(counters: &crate::counters::Counters, was: bool, is: bool) {
    match (was, is) {
        (false, true) => counters.add(Counter::SessionsKept, 1),
        (true, false) => counters.sub(Counter::SessionsKept, 1),
        _ => {}
    }
}

/// When a session's connection ended, in milliseconds since the epoch; 0 while it is connected.
fn detached_ms(session: &Session) -> u64 {
    if session.conn != NONE {
        return 0;
    }
    session.detached_ms.max(1)
}

fn will_record(will: &Will) -> WillRecord {
    WillRecord {
        message: will.message.canonical(),
        expiry_s: will.expiry_s,
        delay_s: will.delay_s,
        due_ms: match will.state {
            WillState::Delayed { at_ms } => at_ms,
            WillState::Armed | WillState::Unset => 0,
        },
    }
}
