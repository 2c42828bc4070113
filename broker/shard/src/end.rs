//! The ends: of a connection, of a session, of a will's delay. What a session leaves behind is
//! given up here: subscriptions, memberships, messages of shared groups.

use ringtide_codec::{QoS, ReasonCode};
use ringtide_filter::{Class, Fault};
use ringtide_session::{EndKind, Unfinished, WillAction, keepalive};
use ringtide_storage::Store;
use ringtide_storage::record::{ANEW, MessageHead, SessionId};
use ringtide_topics::SessionRef;

use crate::conn::{Cause, NONE, Phase};
use crate::core::{Core, Due};
use crate::counters::Counter;
use crate::message::{Header, Message, View};
use crate::note::{Change, Chosen};
use crate::persist::count_kept;
use crate::session::{Session, Will};

/// Why a connection is closed whose PROXY header has not come in time.
const NO_PROXY_HEADER: &str = "no PROXY header came within the listener's proxy_header_timeout_s: \
                               does the proxy send it?";

impl Cause {
    fn end_kind(self) -> EndKind {
        match self {
            Cause::Lost | Cause::Choked => EndKind::NetworkLost,
            Cause::Disconnected(code) => EndKind::of_disconnect(code),
            Cause::Told(code) => match code {
                ReasonCode::KeepAliveTimeout => EndKind::KeepAlive,
                ReasonCode::SessionTakenOver => EndKind::TakenOver { same_session: true },
                ReasonCode::ServerShuttingDown => EndKind::ServerShutdown,
                ReasonCode::QuotaExceeded | ReasonCode::NotAuthorized => EndKind::ServerClosed,
                _ => EndKind::ProtocolError,
            },
        }
    }
}

impl<S: Store> Core<S> {
    /// A session's connection has ended.
    pub(crate) fn connection_ended(&mut self, index: u32, cause: Cause) {
        self.detach(index, cause.end_kind());
    }

    /// Takes a session from its connection: its will and its expiry begin to run.
    pub(crate) fn detach(&mut self, index: u32, kind: EndKind) {
        let now_ms = self.clients.now_ms;
        let Some(session) = self.clients.sessions.at_mut(index) else { return };
        session.conn = NONE;
        self.clients.online -= 1;
        if let Some(inbound) = session.inbound.as_mut() {
            inbound.on_disconnect();
        }
        if let Some(outbound) = session.outbound.as_mut() {
            outbound.on_disconnect();
        }
        // What was owed to this connection is not owed to the next.
        session.owed = None;
        self.clients.journal.held.remove(&index);
        session.trim();
        let expiry_s = session.expiry_s;
        let action = session.will.as_mut().map_or(WillAction::Nothing, |will| {
            will.state.on_end(kind, will.delay_s, expiry_s, now_ms)
        });
        self.act_on_will(index, action);
        //= [MQTT-3.1.2-23]
        //= 3.1.1 [MQTT-3.1.2-4]
        //= 3.1.1 [MQTT-3.1.2-6]
        //= [MQTT-4.1.0-1]
        //= 3.1.1 [MQTT-4.1.0-1]
        //= 3.1.1 [MQTT-4.1.0-2]
        if expiry_s == 0 {
            self.end_session(index);
            return;
        }
        if let Some(session) = self.clients.sessions.at_mut(index) {
            //= [MQTT-4.1.0-2]
            session.detached_ms = now_ms;
        }
        self.record_connection(index);
        self.arm_session(index);
        self.tell_memberships(index, Change::Online(false));
    }

    /// Sets the timer of a session without a connection to what comes first.
    pub(crate) fn arm_session(&mut self, index: u32) {
        let Some(session) = self.clients.sessions.at_mut(index) else { return };
        if let Some(timer) = session.timer.take() {
            self.timers.cancel(timer);
        }
        let will_ms = session.will.as_ref().and_then(|will| match will.state {
            ringtide_session::WillState::Delayed { at_ms } => Some(at_ms),
            _ => None,
        });
        let due_ms = [will_ms, session.expires_ms()].into_iter().flatten().min();
        if let Some(due_ms) = due_ms {
            session.timer = Some(self.timers.set(due_ms, Due::Session(index)));
        }
    }

    /// A session's timer has fired.
    pub(crate) fn session_due(&mut self, index: u32) {
        let now_ms = self.clients.now_ms;
        let Some(session) = self.clients.sessions.at_mut(index) else { return };
        session.timer = None;
        if session.conn != NONE {
            return;
        }
        let action =
            session.will.as_mut().map_or(WillAction::Nothing, |will| will.state.on_timer(now_ms));
        let expired = session.expires_ms().is_some_and(|expires_ms| expires_ms <= now_ms);
        let published = action == WillAction::Publish;
        self.act_on_will(index, action);
        if published && !expired {
            self.record_connection(index);
        }
        if expired {
            self.clients.counters.add(Counter::SessionsExpired, 1);
            self.end_session(index);
        } else {
            self.arm_session(index);
        }
    }

    /// Does with a session's will what its machine says.
    pub(crate) fn act_on_will(&mut self, index: u32, action: WillAction) {
        let Some(session) = self.clients.sessions.at_mut(index) else { return };
        match action {
            WillAction::Publish => {
                let (publisher, kept) = ((index, session.generation), session.log_id);
                if let Some(will) = session.will.take() {
                    self.publish_will(&will, publisher, kept);
                }
            }
            WillAction::Discard => session.will = None,
            WillAction::At(_) | WillAction::Nothing => {}
        }
    }

    //= [MQTT-3.1.2-14]
    //= [MQTT-3.1.2-15]
    //= 3.1.1 [MQTT-3.1.2-16]
    //= 3.1.1 [MQTT-3.1.2-17]
    fn publish_will(&mut self, will: &Will, publisher: (u32, u32), kept: SessionId) {
        let now_ms = self.clients.now_ms;
        let view = will.message.view();
        let mut header = view.header;
        header.ingress_ms = now_ms;
        // The interval starts at the publication.
        header.expires_ms = will.expiry_s.map_or(0, |seconds| now_ms + u64::from(seconds) * 1000);
        self.clients.counters.add(Counter::WillsPublished, 1);
        let message = Message::new(&View { header, ..view });
        // That the session has no will any more may be on the disk before the publication is.
        let custody = self.own_custody(kept, &message, ANEW, None);
        self.publish_internal(message, Some(publisher), custody);
    }

    /// Ends a session: its will if one still waits, its subscriptions, its queue.
    pub(crate) fn end_session(&mut self, index: u32) {
        let Some(session) = self.clients.sessions.at_mut(index) else { return };
        let action =
            session.will.as_mut().map_or(WillAction::Nothing, |will| will.state.on_session_end());
        self.act_on_will(index, action);
        // Retained messages are no part of a session: they stay.
        //= 3.1.1 [MQTT-3.1.2-7]
        self.tell_memberships(index, Change::Leave);
        let Some(mut session) = self.clients.remove_session(index) else { return };
        self.routes.changes += 1;
        self.clients.journal.held.remove(&index);
        self.clients.journal.earlier.forget(index);
        count_kept(&self.clients.counters, session.is_persistent(), false);
        if let Some(timer) = session.timer.take() {
            self.timers.cancel(timer);
        }
        let shared = session.groups.as_ref().map_or(0, |groups| groups.len()) as u64;
        let all = session.filters.len() as u64 + shared;
        self.clients.counters.sub(Counter::Subscriptions, all);
        self.clients.counters.sub(Counter::SharedSubscriptions, shared);
        for filter in session.filters.drain(..) {
            let removed = self.routes.table.unsubscribe_id(filter, SessionRef(index));
            self.withdraw(removed.and_then(|removed| removed.interest));
        }
        let log_id = session.log_id;
        self.redeliver(index, session);
        // Behind the messages that go on to others.
        self.record_end(log_id);
    }

    /// Gives what a group's member had not taken to the other members. What it was to get by its
    /// own subscriptions goes to nobody.
    //= [MQTT-4.8.2-5]
    fn redeliver(&mut self, index: u32, mut session: Session) {
        let (kept, log_id) = (session.kept(), session.log_id);
        let Some(groups) = session.groups.take() else { return };
        let Some(outbound) = session.outbound.take() else { return };
        for unfinished in outbound.drain() {
            let delivery = match unfinished {
                Unfinished::Queued(delivery) => delivery,
                Unfinished::Published { delivery, .. } if delivery.qos == QoS::AtLeastOnce => {
                    delivery
                }
                Unfinished::Published { .. } | Unfinished::Released { .. } => continue,
            };
            let membership = groups.iter().find(|own| own.tag() == delivery.membership);
            if let Some(membership) = membership {
                let chosen = Chosen {
                    group: membership.group,
                    session: index,
                    generation: session.generation,
                    options: 0,
                    id: 0,
                };
                // It never left memory, see `Kept::stay`.
                let Some(message) = delivery.message.message.message().map(|one| one.clone())
                else {
                    continue;
                };
                // Also when the session was to end with its connection: the log lets go of it now.
                let kept = if delivery.message.seq == 0 { kept } else { log_id };
                let once = message.view().header.qos == QoS::ExactlyOnce;
                let origin = delivery.message.origin.filter(|_| once);
                let waits_for = origin.map(|(shard, seq)| (shard, seq.get()));
                let message = self.at_own_position(message);
                let custody = self.own_custody(kept, &message, membership.group, waits_for);
                self.routes.groups.choose_again(chosen, message, custody, waits_for);
            }
        }
    }

    /// A message of QoS 1 as one of this shard's log: its origin may never have recorded it, and
    /// what an origin has not recorded is taken back after a crash.
    fn at_own_position(&self, message: Message) -> Message {
        let view = message.view();
        if view.header.qos != QoS::AtLeastOnce {
            return message;
        }
        let lsn = self.store.appended().0 + 1;
        let header = Header { lsn, origin_log: self.mesh.me, ..view.header };
        Message::new(&View { header, ..view })
    }

    /// Records that this shard itself must find another taker for what a session of its log had,
    /// or for what came from another shard at `origin`, which may yet lose it.
    fn own_custody(
        &mut self,
        kept: SessionId,
        message: &Message,
        group: u64,
        origin: Option<(u16, u64)>,
    ) -> Option<(u16, u64)> {
        if kept == SessionId(0) {
            return None;
        }
        let me = self.mesh.me;
        let own = self.routes.custody.give(me, group);
        self.routes.custody.begin(me, own.seq);
        self.routes.custody.keep(&own, message);
        let destinations = std::borrow::Cow::Borrowed(std::slice::from_ref(&own));
        let head = MessageHead { origin, destinations, ..MessageHead::default() };
        self.clients.journal.message(&head, &message.view(), None);
        Some((me, own.seq))
    }

    fn tell_memberships(&mut self, index: u32, change: Change) {
        let Some(session) = self.clients.sessions.at(index) else { return };
        let tenant = session.tenant;
        let Some(groups) = session.groups.clone() else { return };
        for membership in groups.iter() {
            self.tell_group(index, tenant, membership, change);
        }
    }

    /// A session has a connection again: its memberships are told.
    pub(crate) fn tell_online(&mut self, index: u32) {
        self.tell_memberships(index, Change::Online(true));
    }

    /// A connection's timer has fired: its CONNECT did not come in time, or its client has been
    /// silent for too long.
    pub(crate) fn conn_due(&mut self, index: u32) {
        let now_ms = self.clients.now_ms;
        let limits = std::sync::Arc::clone(&self.limits);
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        conn.timer = None;
        match conn.phase {
            Phase::Closing => {}
            Phase::Connecting | Phase::Checking | Phase::Opening => {
                let connect_timeout_ms = limits.listener(conn.listener).connect_timeout_ms;
                if conn.filter.as_ref().is_some_and(|filter| filter.awaits_proxy_header()) {
                    self.on_fault(index, &Fault::new(Class::ProxyHeader, NO_PROXY_HEADER));
                } else if now_ms >= conn.heard_ms + connect_timeout_ms {
                    self.close(index, Cause::Lost);
                }
            }
            //= [MQTT-3.1.2-22]
            //= 3.1.1 [MQTT-3.1.2-24]
            Phase::Open => {
                // A client whose packets wait here is not silent.
                let waits = conn.is_parked() || conn.pausing || !conn.receiving;
                let choked_ms = conn.choked_until_ms(limits.choked_max_ms);
                if choked_ms.is_some_and(|until_ms| now_ms >= until_ms) {
                    self.clients.counters.add(Counter::ChokedTimeouts, 1);
                    self.close(index, Cause::Choked);
                    return;
                }
                if keepalive::due(conn.heard_ms, conn.keep_alive_s, now_ms) && !waits {
                    self.clients.counters.add(Counter::KeepAliveTimeouts, 1);
                    self.close(index, Cause::Told(ReasonCode::KeepAliveTimeout));
                    return;
                }
                self.arm_keep_alive(index, waits);
            }
        }
    }

    /// Sets a connection's timer to the end of its keep alive.
    pub(crate) fn arm_keep_alive(&mut self, index: u32, from_now: bool) {
        let now_ms = self.clients.now_ms;
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        if from_now {
            conn.heard_ms = now_ms;
        }
        conn.trim();
        if let Some(timer) = conn.timer.take() {
            self.timers.cancel(timer);
        }
        let silent_ms = keepalive::deadline(conn.heard_ms, conn.keep_alive_s);
        let choked_ms = conn.choked_until_ms(self.limits.choked_max_ms);
        if let Some(due_ms) = [silent_ms, choked_ms].into_iter().flatten().min() {
            conn.timer = Some(self.timers.set(due_ms, Due::Conn(index)));
        }
        let session = conn.session;
        if let Some(session) = self.clients.sessions.at_mut(session) {
            session.trim();
        }
    }
}
