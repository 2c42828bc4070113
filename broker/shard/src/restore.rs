//! From the log's state back to a running shard: sessions with their subscriptions and what waits
//! for them, retained messages, what other shards have not taken over yet.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use ringtide_codec::{PacketId, QoS};
use ringtide_session::{Delivery, Inbound, Outbound, Unfinished, WillState};
use ringtide_storage::Store;
use ringtide_storage::record::{ANEW, Filter as KeptFilter, SessionId, SessionRecord, WillRecord};
use ringtide_storage::state::{
    Body, Kept as KeptMessage, Parts, Pending as KeptPending, SessionPart, UnderWay, Waiting,
};
use ringtide_topics::{Filter, SessionRef, Subscription, TenantId};

use crate::conn::NONE;
use crate::core::Core;
use crate::counters::Counter;
use crate::custody::{Given, Pending};
use crate::earlier::Earlier;
use crate::kept::Kept;
use crate::message::Message;
use crate::note::{Change, Note};
use crate::persist::count_kept;
use crate::route;
use crate::session::{Membership, Session, Stored, Will};

/// Milliseconds that a message waits after a start for the members of its shared group to be known.
const GROUP_PATIENCE_MS: u64 = 5000;

/// Sessions whose records a start writes together.
const SESSIONS_PER_BATCH: usize = 4096;

/// Messages that wait for more than one session, by position; and when they expire.
type Shared = HashMap<u64, (Kept, u64)>;

impl<S: Store> Core<S> {
    /// Takes in what an earlier run has left. Comes before the first turn.
    pub(crate) fn restore(&mut self, parts: Parts) {
        let Parts { sessions, retained, pending, under_way, watermarks, sent, .. } = parts;
        self.clients.journal.start_behind(parts.last_seq, parts.last_session.0);
        self.clients.journal.earlier = Earlier::new(parts.last_seq);
        self.clients.reserve_sessions(sessions.len());
        // Of a million sessions few have had a message that is under way.
        let had = under_way.iter().flat_map(|one| one.had.iter().map(|(session, _)| *session));
        let had: HashSet<SessionId> = had.collect();
        let mut numbers = HashMap::new();
        let mut shared = HashMap::new();
        for (restored, part) in sessions.into_iter().enumerate() {
            if restored % SESSIONS_PER_BATCH == SESSIONS_PER_BATCH - 1 {
                self.end_unit();
            }
            let id = part.record.id;
            if let Some(index) = self.restore_session(part, &mut shared)
                && had.contains(&id)
            {
                numbers.insert(id, index);
            }
        }
        for one in retained {
            match Message::from_encoded(one.message.bytes().clone()) {
                Ok(message) => self.routes.retained.restore(message),
                Err(_) => self.clients.counters.add(Counter::RestoreErrors, 1),
            }
        }
        let count = self.routes.retained.len() as u64;
        self.clients.counters.set(Counter::Retained, count);
        let of = |list: &[(u16, u64)], shard: u16| {
            list.iter().find(|(own, _)| *own == shard).map_or(0, |(_, seq)| *seq)
        };
        for shard in 0..self.mesh.shards {
            let (sent, taken) = (of(&sent, shard), of(&watermarks, shard));
            self.routes.custody.restore(shard, sent, taken);
        }
        self.restore_pending(pending, under_way, &numbers);
        self.end_restored();
        let errors = self.clients.counters.value(Counter::RestoreErrors);
        if errors > 0 {
            let shard = self.mesh.me;
            tracing::error!(shard, errors, "records of the last run could not be taken in");
        }
    }

    fn restore_pending(
        &mut self,
        pending: Vec<KeptPending>,
        under_way: Vec<UnderWay>,
        numbers: &HashMap<SessionId, u32>,
    ) {
        let me = self.mesh.me;
        let own = under_way.iter().filter(|one| one.origin == me);
        let passed_on = own.filter(|one| one.is_passed_on());
        let passed_on: HashSet<u64> = passed_on.map(|one| one.seq).collect();
        let mut settled = Vec::new();
        for KeptPending { shard, seq, group, message } in pending {
            let Ok(message) = Message::from_encoded(message.bytes().clone()) else {
                self.clients.counters.add(Counter::RestoreErrors, 1);
                continue;
            };
            self.routes.custody.restore_pending(shard, Pending { seq, group, message });
            if shard != me {
                continue;
            }
            // The watermark may not pass it before it has gone on.
            self.routes.custody.begin(me, seq);
            if group != 0 && passed_on.contains(&seq) {
                // One member has it, or a shard that has one.
                self.routes.custody.finish(me, seq);
                self.routes.custody.resend.pop_back();
                settled.push(seq);
            }
        }
        for one in under_way {
            let had = one.had.iter().filter_map(|(session, _)| numbers.get(session).copied());
            let given = Given { sessions: had.collect(), retained: one.retained };
            self.routes.custody.given.insert((one.origin, one.seq), given);
        }
        for seq in settled {
            self.routes.custody.given.remove(&(me, seq));
        }
    }

    fn restore_session(&mut self, part: SessionPart, shared: &mut Shared) -> Option<u32> {
        let SessionPart { record, waiting } = part;
        let tenant = TenantId(record.tenant);
        let hash = self.routes.partitions.hash(tenant, &record.client_id);
        if self.clients.find(hash, tenant, &record.client_id).is_some() {
            self.clients.counters.add(Counter::RestoreErrors, 1);
            return None;
        }
        let now_ms = self.clients.now_ms;
        let generation = self.clients.generation();
        let mut session = Session::new(&record.client_id, tenant, hash, generation);
        session.log_id = record.id;
        session.username = record.username.as_deref().map(Into::into);
        session.expiry_s = record.expiry_s;
        session.connected_ms = record.connected_ms;
        // Also if the clock of the run before was ahead of this one's.
        let ends_now = record.detached_ms == 0 || record.detached_ms > now_ms;
        let ended_ms = if ends_now { now_ms } else { record.detached_ms };
        session.detached_ms = ended_ms;
        session.will =
            record.will.as_ref().and_then(|will| restored_will(will, &record, ended_ms, now_ms));
        if !record.inbound.is_empty() {
            let ids = record.inbound.iter().filter_map(|id| PacketId::new(*id));
            session.inbound = Some(Box::new(Inbound::restore(u16::MAX, ids)));
        }
        session.outbound = self.restored_queue(&record, waiting, shared);
        count_kept(&self.clients.counters, false, session.is_persistent());
        let waits = session.outbound.is_some();
        let index = self.clients.add_session(session);
        if waits {
            // Of a session that never expires the log of an older version does not know.
            let until_ms = if ended_ms > 1 { ended_ms } else { u64::MAX };
            self.clients.journal.earlier.was_connected(index, until_ms);
        }
        for filter in &record.filters {
            self.restore_filter(index, tenant, filter);
        }
        if ends_now {
            // Its expiry runs from this start on, also after the next one.
            self.record_connection(index);
        }
        self.arm_session(index);
        Some(index)
    }

    fn restored_queue(
        &mut self,
        record: &SessionRecord,
        waiting: Vec<Waiting>,
        shared: &mut Shared,
    ) -> Option<Box<Outbound<Stored>>> {
        if waiting.is_empty() && record.exchanges.is_empty() {
            return None;
        }
        let seqs: Vec<u64> = waiting.iter().map(|one| one.seq).collect();
        let mut deliveries: Vec<Option<Delivery<Stored>>> =
            waiting.into_iter().map(|one| self.restored_delivery(one, shared)).collect();
        let mut unfinished = Vec::new();
        for exchange in &record.exchanges {
            let Some(id) = PacketId::new(exchange.packet_id) else { continue };
            let Some(seq) = exchange.seq else {
                unfinished.push(Unfinished::Released { id });
                continue;
            };
            let place = seqs.binary_search(&seq).ok();
            let delivery = place.and_then(|place| deliveries.get_mut(place)?.take());
            if let Some(delivery) = delivery {
                unfinished.push(Unfinished::Published { id, delivery });
            }
        }
        unfinished.extend(deliveries.into_iter().flatten().map(Unfinished::Queued));
        Some(Box::new(Outbound::restore(self.routes.queues.limits, unfinished)))
    }

    fn restored_delivery(
        &mut self,
        waiting: Waiting,
        shared: &mut Shared,
    ) -> Option<Delivery<Stored>> {
        let Waiting { seq, qos, retain, membership, ids, message: kept } = waiting;
        let qos = QoS::from_bits(qos).filter(|qos| *qos != QoS::AtMostOnce);
        let message = self.restored_message(kept, shared);
        let (Some((message, expires_ms)), Some(qos)) = (message, qos) else {
            self.clients.counters.add(Counter::RestoreErrors, 1);
            return None;
        };
        if membership != 0 {
            message.stay();
        }
        Some(Delivery {
            qos,
            retain,
            subscription_ids: ids.into_iter().collect(),
            expires_at_ms: NonZeroU64::new(expires_ms),
            bytes: message.bytes(),
            membership,
            // What its origin lost was thrown away before: it may go on.
            message: Stored { message, seq, origin: None },
        })
    }

    /// A message that waits, as one handle for all for whom it waits, and when it expires.
    fn restored_message(&mut self, kept: KeptMessage, shared: &mut Shared) -> Option<(Kept, u64)> {
        if let Some((message, expires_ms)) = shared.get(&kept.lsn) {
            return Some((message.clone(), *expires_ms));
        }
        let pages = &mut self.clients.pages;
        let (message, expires_ms) = match kept.body {
            Body::Here(bytes) => {
                let message = Message::from_encoded(bytes).ok()?;
                let expires_ms = message.view().header.expires_ms;
                (pages.keep(message), expires_ms)
            }
            Body::Away(digest) => (pages.keep_away(&digest), digest.expires_ms),
        };
        if let Some(place) = kept.place {
            pages.place(&message, place);
        }
        if kept.is_shared {
            shared.insert(kept.lsn, (message.clone(), expires_ms));
        }
        Some((message, expires_ms))
    }

    fn restore_filter(&mut self, index: u32, tenant: TenantId, kept: &KeptFilter) {
        let KeptFilter { filter, options, id } = kept;
        let Ok(parsed) = Filter::parse(filter, u16::MAX) else {
            self.clients.counters.add(Counter::RestoreErrors, 1);
            return;
        };
        self.clients.counters.add(Counter::Subscriptions, 1);
        if parsed.share().is_some() {
            self.clients.counters.add(Counter::SharedSubscriptions, 1);
            let membership = Membership {
                group: self.routes.partitions.hash(tenant, filter),
                filter: Arc::from(filter.as_str()),
                options: *options,
                id: *id,
            };
            if let Some(session) = self.clients.sessions.at_mut(index) {
                session.groups.get_or_insert_default().push(membership.clone());
            }
            self.joins_restored += 1;
            self.tell_group(index, tenant, &membership, Change::Join(0));
            return;
        }
        let subscription = Subscription { session: SessionRef(index), options: *options, id: *id };
        let subscribed = self.routes.table.subscribe(tenant, filter, subscription);
        if let Some(session) = self.clients.sessions.at_mut(index) {
            session.filters.push(subscribed.filter);
        }
        if let Some(key) = subscribed.interest {
            self.announce(key);
        }
    }

    /// Ends the sessions that an earlier run kept for their wills alone: their connections are
    /// gone. Wills that are due are published before their clients can come back.
    fn end_restored(&mut self) {
        for index in 0..self.clients.sessions.end() {
            let now_ms = self.clients.now_ms;
            let session = self.clients.sessions.at_mut(index);
            let Some(session) = session.filter(|session| session.conn == NONE) else { continue };
            let state = session.will.as_ref().map(|will| will.state);
            if session.expiry_s == 0 {
                self.end_session(index);
                self.end_unit();
            } else if matches!(state, Some(WillState::Delayed { at_ms }) if at_ms <= now_ms) {
                if let Some(timer) = session.timer.take() {
                    self.timers.cancel(timer);
                }
                self.session_due(index);
                self.end_unit();
            }
        }
    }

    /// Ends what the log must hold together or not at all, as a turn's end does: a session's end
    /// and what its will becomes.
    fn end_unit(&mut self) {
        self.clients.journal.flush(&mut self.store);
        self.store.end_turn();
    }

    /// Sends again what other shards have not taken over, while there is room for it. Nothing is
    /// accepted before all of it is on its way.
    pub(crate) fn resend(&mut self) {
        while let Some((shard, pending)) = self.routes.custody.resend.pop_front() {
            let (seq, group) = (pending.seq, pending.group);
            let message = &pending.message;
            let sent = if shard == self.mesh.me {
                self.resume_own(&pending)
            } else if group == 0 {
                self.mesh.publish(shard, seq, &message.view(), &mut Some(message.clone()))
            } else {
                let both = Box::new((group, message.clone()));
                self.mesh.try_tell(shard, Note::MemberAgain(seq, both))
            };
            if !sent {
                self.routes.custody.resend.push_front((shard, pending));
                return;
            }
            if self.routes.custody.resend.is_empty() {
                self.tell_all_committed();
            }
        }
    }

    /// Goes on with a message in this shard's own custody. False if too much is under way.
    fn resume_own(&mut self, pending: &Pending) -> bool {
        if self.routes.fans.len() >= route::FANS_MAX {
            return false;
        }
        let custody = (self.mesh.me, pending.seq);
        self.routes.custody.begin(custody.0, custody.1);
        let given = self.routes.custody.given.remove(&custody).unwrap_or_default();
        let message = pending.message.clone();
        if pending.group == ANEW {
            self.publish_internal(message, None, Some(custody));
        } else if pending.group == 0 {
            let job = route::FanJob::resumed(message, custody, given.sessions);
            self.routes.fans.push_back(job);
        } else {
            let until_ms = self.clients.now_ms + GROUP_PATIENCE_MS;
            self.routes.groups.choose_anew(pending.group, message, custody, until_ms);
        }
        true
    }

    /// All that was sent again is durable here, or it would not be known.
    fn tell_all_committed(&mut self) {
        let me = self.mesh.me;
        for shard in (0..self.mesh.shards).filter(|shard| *shard != me) {
            let last = self.routes.custody.next(shard) - 1;
            if last > 0 {
                self.mesh.tell(shard, Note::Committed(last));
            }
        }
    }

    /// A message of an earlier run for a member of a shared group has come from another shard.
    pub(crate) fn on_member_again(&mut self, from: u16, seq: u64, group: u64, message: Message) {
        let custody = &mut self.routes.custody;
        if !custody.take(from, seq) || custody.given.remove(&(from, seq)).is_some() {
            return;
        }
        custody.begin(from, seq);
        let until_ms = self.clients.now_ms + GROUP_PATIENCE_MS;
        self.routes.groups.choose_anew(group, message, (from, seq), until_ms);
    }
}

/// A will that waited, or whose connection ended with the process.
fn restored_will(
    kept: &WillRecord,
    record: &SessionRecord,
    ended_ms: u64,
    now_ms: u64,
) -> Option<Box<Will>> {
    let message = Message::from_encoded(kept.message.clone().into()).ok()?;
    let state = match kept.due_ms {
        0 => WillState::restore(kept.delay_s, record.expiry_s, ended_ms),
        at_ms => {
            let latest_ms = now_ms.saturating_add(u64::from(kept.delay_s) * 1000);
            WillState::Delayed { at_ms: at_ms.min(latest_ms) }
        }
    };
    Some(Box::new(Will { message, expiry_s: kept.expiry_s, delay_s: kept.delay_s, state }))
}
