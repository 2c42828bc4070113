//! What a turn goes on with besides new packets: verdicts, parked packets, fan-outs with a
//! cursor, retained replays, the broker's own messages, queues, the log's progress.

use std::mem;

use ringtide_storage::Store;

use crate::access::Ticket;
use crate::core::{Core, Flow, Internal};
use crate::counters::Counter;
use crate::deliver::Fan;
use crate::message::{Header, Message, View};
use crate::note::{Note, RemoteSession, RetainedPage, RetainedQuery};
use crate::park::{LanesParked, Parked, Progress};
use crate::pump;
use crate::replay::{self, Step};
use crate::route::{self, Routes};
use crate::steering::Settings;

impl<S: Store> Core<S> {
    /// Goes on with everything that waits. True if more could be done at once.
    pub(crate) fn go_on(&mut self) -> bool {
        self.take_verdicts();
        self.resend();
        // What a connection left behind goes before what its client sends on the next.
        self.publish_own();
        self.retry_interest();
        self.retry_parked();
        let mut more = route::go_on(&mut self.routes, &mut self.clients);
        self.give_again();
        more |= self.pump_all();
        more |= self.step_replays();
        self.flush_groups();
        more
    }

    fn take_verdicts(&mut self) {
        while let Some((ticket, allowed)) = self.access.answer() {
            if let Some((index, generation)) = self.tickets.remove(&ticket) {
                self.judged(index, generation, ticket, allowed);
            }
        }
        self.access.end_turn();
    }

    fn judged(&mut self, index: u32, generation: u32, ticket: Ticket, allowed: bool) {
        let Some(parked) = self.unpark(index, generation) else { return };
        let flow = match parked {
            Parked::Verdict { ack, .. } if !allowed => self.unauthorized(index, ack),
            Parked::Verdict { message, ack, .. } => {
                let parked = LanesParked { message, ack, progress: Progress::default() };
                self.send_parked(index, parked)
            }
            Parked::Subscribe(mut job) => {
                job.judged(ticket, allowed);
                self.advance(index, job)
            }
            Parked::Lanes(parked) => self.send_parked(index, *parked),
        };
        if flow == Flow::Continue {
            self.resume(index);
        }
    }

    /// Takes a connection's parked packet, if it is still that connection.
    fn unpark(&mut self, index: u32, generation: u32) -> Option<Parked> {
        let conn = self.clients.conns.at_mut(index)?;
        if conn.generation != generation {
            return None;
        }
        conn.cold.as_mut()?.parked.take()
    }

    fn send_parked(&mut self, index: u32, parked: LanesParked) -> Flow {
        let Some(conn) = self.clients.conns.at(index) else { return Flow::Stop };
        let session = conn.session;
        let LanesParked { message, ack, progress } = parked;
        let mut fan = Fan::new(message.view());
        fan.message = Some(message.clone());
        self.send_out(index, session, ack, &mut fan, progress)
    }

    fn retry_parked(&mut self) {
        for _ in 0..self.parked.len() {
            let Some((index, generation)) = self.parked.pop_front() else { return };
            let flow = match self.unpark(index, generation) {
                None => continue,
                Some(Parked::Lanes(parked)) => self.send_parked(index, *parked),
                Some(Parked::Subscribe(job)) => self.advance(index, job),
                Some(other @ Parked::Verdict { .. }) => {
                    if let Some(conn) = self.clients.conns.at_mut(index) {
                        conn.cold().parked = Some(other);
                    }
                    continue;
                }
            };
            if flow == Flow::Continue {
                self.resume(index);
            } else {
                self.pause_receive(index);
            }
        }
    }

    /// A connection ends while one of its packets waits. A publish that was routed in part is
    /// routed to its end: sent again it would come twice to some, or be taken for a repetition.
    /// One that was not is forgotten, so that it can be sent again.
    pub(crate) fn give_up_parked(&mut self, index: u32) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        let session = conn.session;
        let ack = match conn.cold.as_mut().and_then(|cold| cold.parked.take()) {
            Some(Parked::Lanes(parked)) if parked.progress.local_done => {
                let LanesParked { message, progress, .. } = *parked;
                self.internal.push_back(Internal { message, progress, custody: None });
                return;
            }
            Some(Parked::Lanes(parked)) => parked.ack,
            Some(Parked::Verdict { ack, .. }) => ack,
            Some(Parked::Subscribe(_)) | None => return,
        };
        let session = self.clients.sessions.at_mut(session);
        let inbound = session.and_then(|session| session.inbound.as_mut());
        if let (Some(inbound), Some(id)) = (inbound, ack.id) {
            inbound.on_refused(ack.qos, id);
        }
    }

    /// Parks a publish until a verdict comes.
    pub(crate) fn wait_for_verdict(&mut self, index: u32, ticket: Ticket, parked: Parked) {
        if let Some(conn) = self.clients.conns.at_mut(index) {
            let generation = conn.generation;
            conn.cold().parked = Some(parked);
            self.tickets.insert(ticket, (index, generation));
        }
    }

    /// Routes the broker's own messages, in order, while the lanes have room.
    fn publish_own(&mut self) {
        while let Some(mut internal) = self.internal.pop_front() {
            if internal.custody.is_some() && !internal.progress.local_done {
                // It counts from here: what the log loses with it the others must forget.
                let view = internal.message.view();
                let lsn = self.store.appended().0 + 1;
                let header = Header { lsn, origin_log: self.mesh.me, ..view.header };
                internal.message = Message::new(&View { header, ..view });
            }
            let mut fan = Fan::new(internal.message.view());
            fan.message = Some(internal.message.clone());
            fan.custody = internal.custody;
            let Core { routes, clients, mesh, .. } = self;
            let sent =
                route::publish(routes, clients, mesh, &mut fan, None, &mut internal.progress);
            if !sent {
                self.internal.push_front(internal);
                return;
            }
            if self.clients.journal.on {
                self.commit(&mut fan, None);
            }
            if let Some((origin, seq)) = internal.custody {
                self.routes.custody.finish(origin, seq);
            }
        }
    }

    /// Gives messages of members that have gone to other members, each once in a turn: while a
    /// group's news is on its way, the next member may have gone too.
    fn give_again(&mut self) {
        let me = self.mesh.me;
        for _ in 0..self.routes.groups.again_len() {
            let Routes { groups, custody, .. } = &mut self.routes;
            let Some(given) = groups.take_again(&self.clients, custody) else { return };
            let message = given.message.clone();
            let mut fan = Fan::new(message.view());
            fan.message = Some(message.clone());
            fan.custody = given.custody;
            let Core { routes, clients, mesh, .. } = self;
            if given.shard == me {
                route::to_member(routes, clients, &mut fan, given.chosen);
            } else {
                let (shard, chosen) = (given.shard, given.chosen);
                if !route::to_remote_member(routes, clients, mesh, &mut fan, shard, chosen) {
                    self.routes.groups.put_again(given);
                    return;
                }
            }
            self.commit(&mut fan, None);
            // If it needs yet another member, it stays in custody.
            if let Some((origin, seq)) = given.custody.filter(|_| !fan.again) {
                self.routes.custody.finish(origin, seq);
            }
        }
    }

    fn pump_all(&mut self) -> bool {
        let mut pumping = mem::take(&mut self.clients.pumping);
        pumping.sort_unstable();
        pumping.dedup();
        pumping.retain(|&session| pump::pump(&mut self.clients, session));
        pumping.append(&mut self.clients.pumping);
        self.clients.pumping = pumping;
        !self.clients.pumping.is_empty()
    }

    /// Moves the replays on. True if one of them could go on at once.
    fn step_replays(&mut self) -> bool {
        let mut more = false;
        for _ in 0..self.replaying.len() {
            let Some((session, generation)) = self.replaying.pop_front() else { return more };
            let Some(record) = self.clients.sessions.at_mut(session) else { continue };
            if record.generation != generation || record.conn == crate::conn::NONE {
                // An offline session goes on when it is resumed.
                continue;
            }
            if self.step_replay(session, generation) {
                more |= self.replay_could_go_on(session);
                self.replaying.push_back((session, generation));
            }
        }
        more
    }

    /// True if a replay has messages at hand and only the turn's budget or output held them up.
    fn replay_could_go_on(&self, session: u32) -> bool {
        let Some(session) = self.clients.sessions.at(session) else { return false };
        let stalled = self.clients.conns.at(session.conn).is_none_or(|conn| conn.stalled);
        let has_page = session.replay.as_ref().is_some_and(|replay| replay.has_page());
        has_page && !stalled && replay::has_room(session, self.routes.queues.limits)
    }

    /// Moves one replay on; false when it is done.
    fn step_replay(&mut self, session: u32, generation: u32) -> bool {
        let asker = RemoteSession { shard: self.mesh.me, session, generation };
        let Core { routes, clients, mesh, .. } = self;
        match replay::step(routes, clients, &mesh.shared, asker) {
            Step::Wait => true,
            Step::Done => {
                if let Some(session) = clients.sessions.at_mut(session) {
                    session.replay = None;
                }
                false
            }
            Step::Ask(shard, query) => {
                if shard == mesh.me {
                    let waiting = crate::retained::Waiting { positions: Vec::new(), query };
                    routes.retained.waiting.push_back(waiting);
                } else {
                    mesh.tell(shard, Note::RetainedQuery(query));
                }
                true
            }
        }
    }

    /// Answers a question for retained messages.
    pub(crate) fn answer_query(&mut self, query: &RetainedQuery) {
        let page = self.routes.retained.page(query, self.clients.now_ms);
        if query.asker.shard == self.mesh.me {
            self.on_page(page);
        } else {
            self.mesh.tell(query.asker.shard, Note::RetainedPage(Box::new(page)));
        }
    }

    /// A page of retained messages has come.
    pub(crate) fn on_page(&mut self, page: RetainedPage) {
        let asker = page.asker;
        let session = self.clients.sessions.at_mut(asker.session);
        let session = session.filter(|session| session.generation == asker.generation);
        if let Some(replay) = session.and_then(|session| session.replay.as_mut()) {
            replay.answer(page, &self.mesh.shared);
            if self.step_replay(asker.session, asker.generation) {
                return;
            }
            self.replaying.retain(|own| *own != (asker.session, asker.generation));
        }
    }

    fn flush_groups(&mut self) {
        let mut joined = Vec::new();
        if self.routes.groups.flush(&mut self.mesh, &mut joined) {
            self.routes.changes += 1;
        }
        for who in joined {
            if who.shard == self.mesh.me {
                self.on_joined(who);
            } else {
                self.mesh.tell(who.shard, Note::GroupJoined(who));
            }
        }
    }

    /// Every shard knows of a member that joined: its SUBSCRIBE goes on.
    pub(crate) fn on_joined(&mut self, who: RemoteSession) {
        let session = self.clients.sessions.at(who.session);
        let Some(session) = session.filter(|session| session.generation == who.generation) else {
            return;
        };
        let index = session.conn;
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        let Some(cold) = conn.cold.as_mut() else { return };
        let Some(Parked::Subscribe(mut job)) = cold
            .parked
            .take_if(|parked| matches!(parked, Parked::Subscribe(job) if job.waits_for_group()))
        else {
            return;
        };
        let granted = job.granted(self.limits.server.maximum_qos);
        job.joined(granted);
        if self.advance(index, job) == Flow::Continue {
            self.resume(index);
        }
    }

    /// Once a second.
    pub(crate) fn every_second(&mut self) {
        let now_ms = self.clients.now_ms;
        self.timers.set(now_ms + 1000, crate::core::Due::Second);
        self.large.clear();
        self.routes.retained.sweep(&self.clients);
        let offline = self.clients.offline() as u64;
        self.clients.counters.set(Counter::SessionsOffline, offline);
        for change in self.routes.groups.backlogs(&self.clients) {
            let partitions = std::sync::Arc::clone(&self.routes.partitions);
            self.routes.groups.tell(&partitions, &mut self.mesh, change);
        }
    }

    /// True if something waits for another shard, a verdict or the log: the sleep must be short.
    pub(crate) fn waits_for_others(&self) -> bool {
        self.mesh.is_waiting()
            || !self.parked.is_empty()
            || !self.internal.is_empty()
            || self.routes.groups.has_again()
            || !self.removals.is_empty()
            || !self.insertions.is_empty()
            || !self.tickets.is_empty()
            || self.replaying.iter().any(|&(session, _)| self.replay_waits(session))
            || self.store.is_waiting()
    }

    /// True if a replay waits for a grace period, not for its client.
    fn replay_waits(&self, session: u32) -> bool {
        self.clients
            .sessions
            .at(session)
            .and_then(|session| session.replay.as_ref())
            .is_some_and(|replay| replay.waits_for_grace())
    }

    /// Takes in new settings.
    pub(crate) fn reload(&mut self, settings: Settings) {
        self.clients.write_buffer_max = settings.limits.write_buffer_max_bytes;
        self.routes.queues = crate::build::queues(&settings.limits, self.mesh.me);
        self.limits = std::sync::Arc::new(settings.limits);
        self.access = settings.access;
        self.revoke();
    }

    /// Removes the subscriptions that the rules no longer allow: a right that was revoked must not
    /// live on in a session.
    fn revoke(&mut self) {
        if self.access.is_open() {
            return;
        }
        for index in 0..self.clients.sessions.end() {
            for filter in self.revoked_of(index) {
                self.unsubscribe(index, &filter);
            }
        }
    }

    fn revoked_of(&self, index: u32) -> Vec<String> {
        use crate::access::{Action, Verdict, Who};
        let Some(session) = self.clients.sessions.at(index) else { return Vec::new() };
        let who = Who { client_id: &session.client_id, username: session.username.as_deref() };
        let own = session.filters.iter().map(|id| self.routes.table.filter_str(*id).1.to_string());
        let shared = session.groups.iter().flat_map(|groups| groups.iter());
        own.chain(shared.map(|membership| membership.filter.to_string()))
            .filter(|filter| {
                let parsed = ringtide_topics::Filter::parse(filter, u16::MAX);
                let plain = parsed.map_or(filter.as_str(), |parsed| parsed.filter());
                self.access.authorize_now(who, Action::Subscribe, plain) == Verdict::Deny
            })
            .collect()
    }

    /// A number that follows from the shard's seed.
    pub(crate) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
