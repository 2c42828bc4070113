//! SUBSCRIBE and UNSUBSCRIBE. A SUBSCRIBE is worked off filter by filter and may wait on the way:
//! for a verdict, for a busy segment of the interest table, for every shard to know a new member
//! of a shared group. Its SUBACK is owed when the last filter is in place, so that a publish that
//! follows the SUBACK anywhere is routed.

use std::sync::Arc;

use ringtide_codec::{
    FixedHeader, PacketId, ReasonCode, RetainHandling, SubAck, Subscribe, SubscriptionOptions,
    UnsubAck, Unsubscribe, Version,
};
use ringtide_session::Owed;
use ringtide_storage::record::{SessionId, SubscriptionRecord};
use ringtide_storage::{RecordKind, Store};
use ringtide_topics::shared::Member;
use ringtide_topics::{Filter, InterestKey, SessionRef, Subscription, TenantId, interest_key};

use crate::access::{Action, Ticket, Verdict, Who};
use crate::acks::OWED_MAX;
use crate::core::{Core, Flow, WaitsFor};
use crate::counters::Counter;
use crate::intake::Intake;
use crate::note::{Change, GroupChange};
use crate::park::Parked;
use crate::replay::Item;
use crate::session::{Membership, Session};

/// Filters of a SUBSCRIBE that are put in place in one go: others have their turn between them.
const FILTERS_AT_ONCE: usize = 128;

/// What the current filter of a SUBSCRIBE waits for.
#[derive(Clone, Copy, Debug)]
enum Wait {
    /// Nothing but perhaps the disk: the filter has not been looked at.
    Start,
    /// The verdict of the authorize stage.
    Verdict(Ticket),
    /// The verdict has come.
    Judged(bool),
    /// A segment of the interest table is busy.
    Interest(InterestKey, u8),
    /// Shards that do not know yet of the member of this join, with what it is granted.
    Group(u64, u8),
}

/// A SUBSCRIBE under way.
#[derive(Debug)]
pub(crate) struct SubscribeJob {
    session: u32,
    packet_id: PacketId,
    id: u32,
    filters: Vec<(Arc<str>, SubscriptionOptions)>,
    codes: Vec<u8>,
    wait: Wait,
    replays: Vec<Item>,
    /// The log position that its SUBACK waits for.
    needs: u64,
}

impl SubscribeJob {
    /// Takes in the verdict of a ticket.
    pub(crate) fn judged(&mut self, ticket: Ticket, allowed: bool) {
        if matches!(self.wait, Wait::Verdict(own) if own == ticket) {
            self.wait = Wait::Judged(allowed);
        }
    }

    /// The rules have changed while it waited for their verdict.
    pub(crate) fn judge_again(&mut self) {
        if matches!(self.wait, Wait::Verdict(_)) {
            self.wait = Wait::Start;
        }
    }

    /// Every shard knows the member that joined last.
    pub(crate) fn joined(&mut self) {
        if let Wait::Group(_, granted) = self.wait {
            self.codes.push(granted);
            self.wait = Wait::Start;
        }
    }

    /// True while it waits for the shards to know the member of this join. The same session may
    /// have asked for another before, on a connection that is gone.
    pub(crate) fn waits_for(&self, join: u64) -> bool {
        matches!(self.wait, Wait::Group(own, _) if own == join)
    }
}

/// What is answered with a code per filter.
#[derive(Clone, Copy)]
enum Answer {
    Subscribe(PacketId),
    Unsubscribe(PacketId),
}

/// Whether a job can go on now.
enum Progress {
    Done,
    Waits,
}

impl<S: Store> Core<S> {
    /// Handles SUBSCRIBE.
    pub(crate) fn on_subscribe(&mut self, index: u32, header: &FixedHeader, body: &[u8]) -> Flow {
        let Some(conn) = self.clients.conns.at(index) else { return Flow::Stop };
        let packet = match Subscribe::decode(conn.version, header.flags, body) {
            Ok(packet) => packet,
            Err(error) => return self.malformed(index, error),
        };
        let filters = packet.filters().map(|one| (Arc::from(one.filter), one.options)).collect();
        let job = SubscribeJob {
            session: conn.session,
            packet_id: packet.packet_id,
            id: packet.subscription_id.unwrap_or(0),
            filters,
            codes: Vec::new(),
            wait: Wait::Start,
            replays: Vec::new(),
            needs: 0,
        };
        self.advance(index, Box::new(job))
    }

    /// Works a SUBSCRIBE off as far as it goes; parks it where it must wait.
    pub(crate) fn advance(&mut self, index: u32, mut job: Box<SubscribeJob>) -> Flow {
        //= [MQTT-3.8.4-5]
        //= 3.1.1 [MQTT-3.8.4-4]
        let until = job.codes.len() + FILTERS_AT_ONCE;
        while job.codes.len() < job.filters.len() {
            let is_over = job.codes.len() >= until;
            if is_over || matches!(self.step(&mut job), Progress::Waits) {
                let Some(conn) = self.clients.conns.at_mut(index) else { return Flow::Stop };
                let key = (index, conn.generation);
                let wait = job.wait;
                conn.cold().parked = Some(Parked::Subscribe(job));
                match wait {
                    _ if is_over => self.parked.push_back(key),
                    Wait::Verdict(ticket) => {
                        self.tickets.insert(ticket, key);
                    }
                    Wait::Interest(..) => self.parked.push_back(key),
                    Wait::Start => self.hold_back(key),
                    Wait::Judged(_) | Wait::Group(..) => {}
                }
                return Flow::Stop;
            }
        }
        self.subscribed(index, *job);
        Flow::Continue
    }

    /// One step of the current filter.
    fn step(&mut self, job: &mut SubscribeJob) -> Progress {
        let Some((filter, options)) = job.filters.get(job.codes.len()).cloned() else {
            return Progress::Done;
        };
        match job.wait {
            Wait::Start => match self.judge_filter(job.session, &filter) {
                Ok(_) if self.intake_of_filter(job.session, &filter) == Intake::Waits => {
                    Progress::Waits
                }
                Ok(Verdict::Allow) => self.place(job, &filter, options),
                //= [MQTT-3.8.4-7]
                Ok(Verdict::Deny) => refuse(job, ReasonCode::NotAuthorized),
                Ok(Verdict::Park(ticket)) => {
                    job.wait = Wait::Verdict(ticket);
                    Progress::Waits
                }
                Err(code) => refuse(job, code),
            },
            Wait::Judged(allowed) => {
                job.wait = Wait::Start;
                match allowed {
                    true => self.place(job, &filter, options),
                    false => refuse(job, ReasonCode::NotAuthorized),
                }
            }
            Wait::Interest(key, granted) => {
                if self.insertions.contains(&key) {
                    return Progress::Waits;
                }
                job.wait = Wait::Start;
                job.codes.push(granted);
                Progress::Done
            }
            Wait::Verdict(_) | Wait::Group(..) => Progress::Waits,
        }
    }

    fn judge_filter(&mut self, index: u32, filter: &str) -> Result<Verdict, ReasonCode> {
        let parsed = Filter::parse(filter, self.limits.topic_levels_max)
            .map_err(|_| ReasonCode::TopicFilterInvalid)?;
        let Some(session) = self.clients.sessions.at(index) else {
            return Err(ReasonCode::UnspecifiedError);
        };
        let full = session.subscription_count() >= self.limits.subscriptions_max as usize;
        // What replaces a subscription takes no more room.
        if full && !self.is_subscribed(index, session, filter) {
            return Err(ReasonCode::QuotaExceeded);
        }
        if self.intake_of_filter(index, filter) == Intake::Refused {
            self.clients.counters.add(Counter::StoreRefused, 1);
            return Err(ReasonCode::QuotaExceeded);
        }
        let who = Who { client_id: &session.client_id, username: session.username.as_deref() };
        Ok(self.access.authorize(who, Action::Subscribe, parsed.filter()))
    }

    pub(crate) fn is_subscribed(&self, index: u32, session: &Session, filter: &str) -> bool {
        let table = &self.routes.table;
        let plain = table.filter_id(session.tenant, filter);
        plain.is_some_and(|id| table.subscription(id, SessionRef(index)).is_some())
            || session.groups.iter().flat_map(|all| all.iter()).any(|own| *own.filter == *filter)
    }

    /// Puts a filter in place.
    fn place(
        &mut self,
        job: &mut SubscribeJob,
        filter: &Arc<str>,
        options: SubscriptionOptions,
    ) -> Progress {
        let Ok(parsed) = Filter::parse(filter, self.limits.topic_levels_max) else {
            return refuse(job, ReasonCode::TopicFilterInvalid);
        };
        //= [MQTT-3.2.2-10]
        let granted = options.qos.min(self.limits.server.maximum_qos);
        let bits = granted as u8
            | (u8::from(options.no_local) << 2)
            | (u8::from(options.retain_as_published) << 3);
        let Some(session) = self.clients.sessions.at(job.session) else {
            return refuse(job, ReasonCode::UnspecifiedError);
        };
        let (tenant, kept) = (session.tenant, session.kept());
        job.needs = self.record_filter(kept, filter, Some((bits, job.id))).max(job.needs);
        if parsed.share().is_some() {
            self.join(job, filter, bits, tenant);
            return Progress::Waits;
        }
        let subscription =
            Subscription { session: SessionRef(job.session), options: bits, id: job.id };
        //= [MQTT-3.8.4-3]
        let subscribed = self.routes.table.subscribe(tenant, filter, subscription);
        self.routes.changes += 1;
        if !subscribed.existed {
            if let Some(session) = self.clients.sessions.at_mut(job.session) {
                session.filters.push(subscribed.filter);
            }
            self.clients.counters.add(Counter::Subscriptions, 1);
        }
        let replay = match options.retain_handling {
            //= [MQTT-3.3.1-9]
            //= [MQTT-3.8.4-4]
            RetainHandling::Send => true,
            //= [MQTT-3.3.1-10]
            RetainHandling::SendIfNew => !subscribed.existed,
            //= [MQTT-3.3.1-11]
            RetainHandling::DoNotSend => false,
        };
        //= 3.1.1 [MQTT-3.3.1-6]
        if replay {
            let item = self.replay_item(tenant, filter, &parsed, bits, job.id);
            job.replays.push(item);
        }
        if let Some(key) = subscribed.interest {
            self.announce(key);
        }
        if !self.insertions.is_empty() {
            // Also when another client's SUBSCRIBE brought the key about: none is answered before
            // the other shards can see it.
            job.wait = Wait::Interest(interest_key(tenant, filter), granted as u8);
            return Progress::Waits;
        }
        job.codes.push(granted as u8);
        Progress::Done
    }

    /// Makes the shard's interest visible to the others, now or when its segment is free.
    pub(crate) fn announce(&mut self, key: InterestKey) {
        if let Some(at) = self.removals.iter().position(|removal| *removal == key) {
            // The slot is still there: it was to be removed and has not been.
            self.removals.swap_remove(at);
        } else if self.mesh.shards > 1 && self.routes.interest.insert(key, self.mesh.me).is_err() {
            self.insertions.push(key);
        }
    }

    fn replay_item(
        &self,
        tenant: TenantId,
        filter: &Arc<str>,
        parsed: &Filter<'_>,
        options: u8,
        id: u32,
    ) -> Item {
        let shards = if parsed.is_exact() {
            vec![self.routes.partitions.home(tenant, filter)]
        } else {
            (0..self.mesh.shards).collect()
        };
        Item::new(tenant, Arc::clone(filter), options, id, shards)
    }

    /// Joins a shared group.
    fn join(&mut self, job: &mut SubscribeJob, filter: &Arc<str>, bits: u8, tenant: TenantId) {
        self.next_join += 1;
        job.wait = Wait::Group(self.next_join, bits & 3);
        let Some(session) = self.clients.sessions.at_mut(job.session) else { return };
        let groups = session.groups.get_or_insert_default();
        let membership = Membership {
            group: self.routes.partitions.hash(tenant, filter),
            filter: Arc::clone(filter),
            options: bits,
            id: job.id,
        };
        match groups.iter_mut().find(|own| own.filter == *filter) {
            Some(own) => *own = membership.clone(),
            None => {
                groups.push(membership.clone());
                self.clients.counters.add(Counter::Subscriptions, 1);
                self.clients.counters.add(Counter::SharedSubscriptions, 1);
            }
        }
        let join = Change::Join(self.next_join);
        self.tell_group(job.session, tenant, &membership, join);
    }

    /// Tells a group's home what happened to a member.
    pub(crate) fn tell_group(
        &mut self,
        session: u32,
        tenant: TenantId,
        membership: &Membership,
        change: Change,
    ) {
        let Some(record) = self.clients.sessions.at(session) else { return };
        let member = Member {
            shard: self.mesh.me,
            session: SessionRef(session),
            generation: record.generation,
            options: membership.options,
            id: membership.id,
            online: record.conn != crate::conn::NONE,
            backlog: 0,
        };
        let filter = Arc::clone(&membership.filter);
        let note = GroupChange { tenant, filter, member, change };
        self.routes.groups.tell(&self.routes.partitions, &mut self.mesh, note);
    }

    /// All filters are in place: SUBACK, then the retained messages.
    //= [MQTT-3.8.4-1]
    //= [MQTT-3.8.4-2]
    //= [MQTT-3.8.4-6]
    //= 3.1.1 [MQTT-3.8.4-1]
    //= 3.1.1 [MQTT-3.8.4-2]
    //= 3.1.1 [MQTT-3.8.4-5]
    fn subscribed(&mut self, index: u32, job: SubscribeJob) {
        let v5 = self.clients.conns.at(index).is_some_and(|conn| conn.version == Version::V5);
        let mut codes = job.codes;
        if !v5 {
            //= 3.1.1 [MQTT-3.9.3-2]
            codes.iter_mut().filter(|code| **code > 2).for_each(|code| *code = 0x80);
        }
        let answer = Answer::Subscribe(job.packet_id);
        self.owe_codes(index, job.session, answer, codes.into(), job.needs);
        if job.replays.is_empty() {
            return;
        }
        let Some(session) = self.clients.sessions.at_mut(job.session) else { return };
        let replay = session.replay.get_or_insert_default();
        for mut item in job.replays {
            // Taken now that the other shards can see the subscription, not before.
            item.grace = (self.mesh.shards > 1).then(|| self.mesh.shared.grace());
            replay.push(item);
        }
        self.want_replay(job.session);
    }

    /// Records that a subscription was made, changed or removed. Its position, 0 for a session
    /// that is not kept.
    fn record_filter(
        &mut self,
        session: SessionId,
        filter: &str,
        options: Option<(u8, u32)>,
    ) -> u64 {
        if session == SessionId(0) {
            return 0;
        }
        let mut body = Vec::new();
        SubscriptionRecord { session, filter, options }.encode(&mut body);
        self.record(RecordKind::Subscription, &body)
    }

    /// Sends an answer that carries a code per filter when the log has reached `needs`.
    fn owe_codes(
        &mut self,
        index: u32,
        session: u32,
        answer: Answer,
        codes: Box<[u8]>,
        needs: u64,
    ) {
        let (durable, needs) = (self.durable(), self.awaited(index, needs));
        let Some(record) = self.clients.sessions.at_mut(session) else { return };
        if needs <= durable && record.owed.as_ref().is_none_or(|owed| owed.is_empty()) {
            self.clients.write(index, |version, out| match answer {
                Answer::Subscribe(id) => SubAck::new(id, &codes).encode(version, out),
                Answer::Unsubscribe(id) => UnsubAck::new(id, &codes).encode(version, out),
            });
            return;
        }
        let generation = record.generation;
        let owed = record.owed.get_or_insert_with(|| Box::new(Owed::new()));
        match answer {
            Answer::Subscribe(id) => owed.push_suback(id, codes, needs),
            Answer::Unsubscribe(id) => owed.push_unsuback(id, codes, needs),
        }
        let many = owed.len() > OWED_MAX;
        if let Some(conn) = self.clients.conns.at_mut(index).filter(|_| many) {
            conn.hold(crate::conn::Held::OwedMuch);
        }
        self.owing.push_back(WaitsFor { lsn: needs, index: session, generation });
    }

    /// Handles UNSUBSCRIBE.
    pub(crate) fn on_unsubscribe(&mut self, index: u32, header: &FixedHeader, body: &[u8]) -> Flow {
        let Some(conn) = self.clients.conns.at(index) else { return Flow::Stop };
        let session = conn.session;
        let packet = match Unsubscribe::decode(conn.version, header.flags, body) {
            Ok(packet) => packet,
            Err(error) => return self.malformed(index, error),
        };
        //= [MQTT-3.10.4-6]
        //= 3.1.1 [MQTT-3.10.4-6]
        let before = self.store.appended().0;
        let codes: Box<[u8]> =
            packet.filters().map(|filter| self.unsubscribe(session, filter) as u8).collect();
        let after = self.store.appended().0;
        let needs = if after > before { after } else { 0 };
        //= [MQTT-3.10.4-4]
        //= [MQTT-3.10.4-5]
        //= 3.1.1 [MQTT-3.10.4-4]
        //= 3.1.1 [MQTT-3.10.4-5]
        let id = packet.packet_id;
        self.owe_codes(index, session, Answer::Unsubscribe(id), codes, needs);
        Flow::Continue
    }

    /// Removes one subscription. What its session has begun to send or holds in its queue stays.
    //= [MQTT-3.10.4-1]
    //= [MQTT-3.10.4-2]
    //= [MQTT-3.10.4-3]
    //= 3.1.1 [MQTT-3.10.4-2]
    //= 3.1.1 [MQTT-3.10.4-3]
    //= 3.1.1 [MQTT-3.10.4-1]
    pub(crate) fn unsubscribe(&mut self, index: u32, filter: &str) -> ReasonCode {
        let Ok(parsed) = Filter::parse(filter, self.limits.topic_levels_max) else {
            return ReasonCode::TopicFilterInvalid;
        };
        let Some(session) = self.clients.sessions.at_mut(index) else {
            return ReasonCode::UnspecifiedError;
        };
        let (tenant, kept) = (session.tenant, session.kept());
        if parsed.share().is_some() {
            let Some(membership) = leave(session, filter) else {
                return ReasonCode::NoSubscriptionExisted;
            };
            self.clients.counters.sub(Counter::Subscriptions, 1);
            self.clients.counters.sub(Counter::SharedSubscriptions, 1);
            self.tell_group(index, tenant, &membership, Change::Leave);
        } else {
            let table = &mut self.routes.table;
            let Some(removed) = table.unsubscribe(tenant, filter, SessionRef(index)) else {
                return ReasonCode::NoSubscriptionExisted;
            };
            self.routes.changes += 1;
            session.filters.retain(|own| *own != removed.filter);
            if let Some(replay) = session.replay.as_mut() {
                replay.forget(filter);
            }
            // The next filter's replay goes on at once.
            self.want_replay(index);
            self.clients.counters.sub(Counter::Subscriptions, 1);
            self.withdraw(removed.interest);
        }
        self.record_filter(kept, filter, None);
        ReasonCode::Success
    }

    /// Takes the shard's interest in a key out of the table, now or when its segment is free.
    pub(crate) fn withdraw(&mut self, key: Option<InterestKey>) {
        let Some(key) = key.filter(|_| self.mesh.shards > 1) else { return };
        if let Some(at) = self.insertions.iter().position(|insertion| *insertion == key) {
            self.insertions.swap_remove(at);
            return;
        }
        if self.routes.interest.remove(key, self.mesh.me).is_err() {
            self.removals.push(key);
        }
    }

    /// Tries again to put keys in and to take keys out whose segment was busy.
    pub(crate) fn retry_interest(&mut self) {
        let (interest, me) = (&self.routes.interest, self.mesh.me);
        self.insertions.retain(|key| interest.insert(*key, me).is_err());
        self.removals.retain(|key| interest.remove(*key, me).is_err());
    }
}

fn refuse(job: &mut SubscribeJob, code: ReasonCode) -> Progress {
    job.wait = Wait::Start;
    job.codes.push(code as u8);
    Progress::Done
}

fn leave(session: &mut Session, filter: &str) -> Option<Membership> {
    let groups = session.groups.as_mut()?;
    let at = groups.iter().position(|own| *own.filter == *filter)?;
    let membership = groups.swap_remove(at);
    if groups.is_empty() {
        session.groups = None;
    }
    Some(membership)
}
