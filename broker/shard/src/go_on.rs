//! What a turn goes on with besides new packets: verdicts, parked packets, fan-outs with a
//! cursor, retained replays, the broker's own messages, queues, the log's progress.

use ringtide_storage::Store;
use ringtide_topics::SessionRef;

use crate::access::Ticket;
use crate::core::{Core, Flow};
use crate::counters::Counter;
use crate::deliver::Fan;
use crate::message::{Header, Message, View};
use crate::note::{Joined, Note};
use crate::own::Internal;
use crate::park::{LanesParked, Parked, Progress};
use crate::pump;
use crate::route::{self, Routes};
use crate::share::Share;

/// Messages, packets or memberships that a step handles before it looks at the clock.
const PIECES_LEAST: u32 = 16;
/// Queues that are moved on before that.
const PUMPS_LEAST: u32 = 2;
/// The part of a turn's sends that each step may bring about, whatever the others have used.
const SENDS_PART: u32 = 8;

impl<S: Store> Core<S> {
    /// Goes on with everything that waits, each step within its share of the turn. True if more
    /// could be done at once.
    pub(crate) fn go_on(&mut self, over: &dyn Fn() -> bool) -> bool {
        let sends = self.limits.turn_sends_max / SENDS_PART;
        let mut more = self.take_verdicts(over);
        more |= self.take_passwords(over);
        // What a connection left behind goes before what its client sends on the next.
        self.routes.at_least(sends);
        if self.started {
            self.resend();
        }
        // A destination takes what it is given in order: what has a later place than a message of
        // an earlier run, and came before it, would make that one count as taken.
        let is_resent = self.started && self.routes.custody.resend.is_empty();
        if is_resent {
            more |= self.publish_own(over);
        }
        self.retry_interest();
        more |= self.retry_parked(over);
        self.routes.at_least(sends);
        more |= route::go_on(&mut self.routes, &mut self.clients, over);
        if is_resent {
            more |= self.give_again(over);
        }
        self.routes.at_least(sends);
        more |= self.pump_all(over);
        self.routes.at_least(sends);
        more |= self.step_replays(over);
        more |= self.flush_groups(over);
        more |= self.walk(over);
        more
    }

    /// True if there is work that came up since [`Core::go_on`]: the next turn must not wait.
    pub(crate) fn has_news(&self) -> bool {
        self.internal.could_go_on()
            || !self.clients.pumping.is_empty()
            || !self.replays.ready.is_empty()
            || self.routes.groups.has_changed()
            || self.walks.sweep_left > 0
    }

    fn take_verdicts(&mut self, over: &dyn Fn() -> bool) -> bool {
        let mut share = Share::new(over, PIECES_LEAST);
        while let Some((ticket, allowed)) = self.access.answer() {
            if let Some((index, generation)) = self.tickets.remove(&ticket) {
                self.judged(index, generation, ticket, allowed);
            }
            if !share.go_on() {
                return true;
            }
        }
        self.access.end_turn();
        false
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
            Parked::Connect(waits) => return self.open(index, waits.0, waits.1),
        };
        if flow == Flow::Continue {
            self.resume(index);
        }
    }

    /// Takes a connection's parked packet, if it is still that connection.
    pub(crate) fn unpark(&mut self, index: u32, generation: u32) -> Option<Parked> {
        let conn = self.clients.conns.at_mut(index)?;
        if conn.generation != generation {
            return None;
        }
        conn.cold.as_mut()?.parked.take()
    }

    pub(crate) fn send_parked(&mut self, index: u32, parked: LanesParked) -> Flow {
        let Some(conn) = self.clients.conns.at(index) else { return Flow::Stop };
        let session = conn.session;
        let LanesParked { message, ack, progress } = parked;
        let mut fan = Fan::new(message.view());
        fan.message = Some(message.clone());
        self.send_out(index, session, ack, &mut fan, progress)
    }

    fn retry_parked(&mut self, over: &dyn Fn() -> bool) -> bool {
        let mut share = Share::new(over, PIECES_LEAST);
        for left in (0..self.parked.len()).rev() {
            let Some((index, generation)) = self.parked.pop_front() else { break };
            let flow = match self.unpark(index, generation) {
                None => continue,
                Some(Parked::Lanes(parked)) => self.send_parked(index, *parked),
                Some(Parked::Subscribe(job)) => self.advance(index, job),
                Some(Parked::Connect(waits)) => {
                    self.open(index, waits.0, waits.1);
                    continue;
                }
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
            if !share.go_on() {
                return left > 0;
            }
        }
        false
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
                // The local sessions, for which No Local matters, have it.
                let own = Internal { message, publisher: None, progress, custody: None };
                self.internal.push(own);
                return;
            }
            Some(Parked::Lanes(parked)) => parked.ack,
            Some(Parked::Verdict { ack, .. }) => ack,
            Some(Parked::Subscribe(_) | Parked::Connect(_)) | None => return,
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

    /// Routes the broker's own messages, in order, while the lanes have room. True if only the
    /// turn's budget ended it.
    fn publish_own(&mut self, over: &dyn Fn() -> bool) -> bool {
        let mut share = Share::new(over, PIECES_LEAST);
        while self.routes.budget > 0
            && let Some(mut internal) = self.internal.pop()
        {
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
            fan.is_own = true;
            let publisher = self.speaks_for(&internal);
            let Core { routes, clients, mesh, .. } = self;
            let sent =
                route::publish(routes, clients, mesh, &mut fan, publisher, &mut internal.progress);
            if !sent {
                if fan.retained {
                    self.commit(&mut fan, None);
                }
                self.internal.put_back(internal);
                return false;
            }
            if self.clients.journal.on {
                self.commit(&mut fan, None);
            }
            if let Some((origin, seq)) = internal.custody {
                self.routes.custody.finish(origin, seq);
            }
            if !share.go_on() {
                break;
            }
        }
        self.internal.could_go_on()
    }

    /// The session in whose name a message is published, if it is still that session.
    fn speaks_for(&self, internal: &Internal) -> Option<SessionRef> {
        let (index, generation) = internal.publisher?;
        let session = self.clients.sessions.at(index)?;
        (session.generation == generation).then_some(SessionRef(index))
    }

    /// Gives messages of members that have gone to other members, each once in a turn: while a
    /// group's news is on its way, the next member may have gone too.
    fn give_again(&mut self, over: &dyn Fn() -> bool) -> bool {
        let me = self.mesh.me;
        let mut share = Share::new(over, PIECES_LEAST);
        for left in (0..self.routes.groups.again_len()).rev() {
            let Routes { groups, custody, .. } = &mut self.routes;
            let Some(given) = groups.take_again(&self.clients, custody) else { return false };
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
                    return false;
                }
            }
            self.commit(&mut fan, None);
            // If it needs yet another member, it stays in custody.
            if let Some((origin, seq)) = given.custody.filter(|_| !fan.again) {
                self.routes.custody.finish(origin, seq);
            }
            if !share.go_on() {
                return left > 0;
            }
        }
        false
    }

    fn pump_all(&mut self, over: &dyn Fn() -> bool) -> bool {
        let mut share = Share::new(over, PUMPS_LEAST);
        for _ in 0..self.clients.pumping.len() {
            let Some(index) = self.clients.pumping.pop_front() else { break };
            if let Some(session) = self.clients.sessions.at_mut(index) {
                session.pumping = false;
            }
            if pump::pump(&mut self.clients, index) {
                self.clients.want_pump(index);
            }
            self.want_replay(index);
            self.routes.budget = self.routes.budget.saturating_sub(1);
            if self.routes.budget == 0 || !share.go_on() {
                break;
            }
        }
        !self.clients.pumping.is_empty()
    }

    fn flush_groups(&mut self, over: &dyn Fn() -> bool) -> bool {
        let mut joined = Vec::new();
        let mut share = Share::new(over, PIECES_LEAST);
        if self.routes.groups.flush(&mut self.mesh, &mut joined, &mut share) {
            self.routes.changes += 1;
        }
        for one in joined {
            if one.who.shard == self.mesh.me {
                self.on_joined(one);
            } else {
                self.mesh.tell(one.who.shard, Note::GroupJoined(one));
            }
        }
        self.routes.groups.has_changed()
    }

    /// Every shard knows of a member that joined: its SUBSCRIBE goes on, or the start.
    pub(crate) fn on_joined(&mut self, Joined { who, join }: Joined) {
        if join == 0 {
            self.joins_restored -= 1;
            return;
        }
        let session = self.clients.sessions.at(who.session);
        let Some(session) = session.filter(|session| session.generation == who.generation) else {
            return;
        };
        let index = session.conn;
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        let Some(cold) = conn.cold.as_mut() else { return };
        let Some(Parked::Subscribe(mut job)) = cold
            .parked
            .take_if(|parked| matches!(parked, Parked::Subscribe(job) if job.waits_for(join)))
        else {
            return;
        };
        job.joined();
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
        self.begin_sweep();
        self.tell_of_store();
        let offline = self.clients.offline() as u64;
        self.clients.counters.set(Counter::SessionsOffline, offline);
        for change in self.routes.groups.backlogs(&self.clients) {
            let partitions = std::sync::Arc::clone(&self.routes.partitions);
            self.routes.groups.tell(&partitions, &mut self.mesh, change);
        }
    }

    /// True if something waits for another shard, a verdict or a segment of the log: the sleep must
    /// be short.
    pub(crate) fn waits_for_others(&self) -> bool {
        self.mesh.is_waiting()
            || !self.parked.is_empty()
            || !self.internal.is_empty()
            || self.routes.groups.has_again()
            || !self.removals.is_empty()
            || !self.insertions.is_empty()
            || !self.tickets.is_empty()
            || !self.replays.settling.is_empty()
            || (self.store.is_waiting() && !self.store.is_full())
    }

    /// A number that follows from the shard's seed.
    pub(crate) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
