//! From an accepted socket to an open session: CONNECT, authentication, the hand-over to the
//! client's home, takeover, resume, CONNACK.
//!
//! The accepting shard reads and judges the CONNECT; then the identity is final and the connection
//! goes to its home with every byte that has not been handled. The home decodes the CONNECT again,
//! so that both ways in are one.

use std::mem;
use std::net::SocketAddr;

use ringtide_codec::{
    ConnAck, Connect, DecodeError, FixedHeader, PacketType, ReasonCode, Version, fixed_header,
};
use ringtide_driver::Socket;
use ringtide_filter::{Class, Fault};
use ringtide_session::{
    AliasOut, EndKind, Negotiated, Refusal, WillAction, WillState, connack, fit_connack, negotiate,
    refusal_connack,
};
use ringtide_storage::Store;
use ringtide_storage::record::SessionId;
use ringtide_topics::{TenantId, topic_hash, valid_name};

use crate::access::{Action, Verdict, Who};
use crate::auth::{Exchange, Outcome};
use crate::conn::{Cause, Conn, NONE, Phase};
use crate::core::{Command, Core, Due, WaitsFor};
use crate::counters::Counter;
use crate::filtered::foreign;
use crate::intake::Intake;
use crate::message::{Header, Message, View};
use crate::note::HandOver;
use crate::password::Answer;
use crate::promise::NOTHING;
use crate::publish::is_reserved;
use crate::route;
use crate::session::{Session, Will};

/// The identity that a connection has been given.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) client_id: Box<str>,
    pub(crate) tenant: TenantId,
    auth: Option<Box<Exchange>>,
    auth_data: Option<Box<[u8]>>,
    /// The user name that the client's proxy vouches for.
    vouched: Option<Box<str>>,
}

impl<S: Store> Core<S> {
    /// A socket has been accepted.
    pub(crate) fn on_accepted(&mut self, listener: u16, socket: Socket, peer: Option<SocketAddr>) {
        let counters = &self.clients.counters;
        counters.add(Counter::ConnectionsAccepted, 1);
        let own = self.limits.listener(listener);
        let full = self.clients.conns.len() >= self.limits.connections_max as usize
            || self.clients.of_listener(listener) >= own.connections_max;
        let too_fast = !full && !self.clients.takes_connection(listener, own.connects);
        let index = self.add_conn(listener, socket, peer);
        if full || self.draining {
            self.clients.counters.add(Counter::ConnectionsRefused, 1);
            self.close(index, Cause::Lost);
            return;
        }
        if too_fast {
            let text = "more connections came than the listener's max_connects_per_s allows";
            return self.on_fault(index, &Fault::new(Class::ConnectRate, text));
        }
        if let Err(fault) = self.judge_accepted(index, listener) {
            return self.on_fault(index, &fault);
        }
        self.commands.push(Command::ReceiveOnce(index));
    }

    fn add_conn(&mut self, listener: u16, socket: Socket, peer: Option<SocketAddr>) -> u32 {
        let (generation, now_ms) = (self.clients.generation(), self.clients.now_ms);
        let conn = Conn::new(socket, generation, listener, peer, now_ms);
        let index = self.clients.conns.insert(conn);
        self.clients.count_listener(listener, 1);
        let timeout_ms = self.limits.listener(listener).connect_timeout_ms;
        let timer = self.timers.set(now_ms + timeout_ms, Due::Conn(index));
        if let Some(conn) = self.clients.conns.at_mut(index) {
            conn.timer = Some(timer);
        }
        self.clients.counters.add(Counter::ConnectionsOpen, 1);
        index
    }

    /// Bytes have come on a connection that is not open yet.
    pub(crate) fn on_connecting(&mut self, index: u32, bytes: &[u8]) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        let mut held = mem::take(&mut conn.partial);
        held.extend_from_slice(bytes);
        if conn.filter.is_none()
            && let Some(text) = foreign(&held)
        {
            return self.on_fault(index, &Fault::new(Class::WrongProtocol, text));
        }
        let authenticating = conn.cold.as_ref().is_some_and(|cold| cold.auth.is_some());
        let max = self.limits.connect_bytes_max;
        //= [MQTT-3.1.0-1]
        //= 3.1.1 [MQTT-3.1.0-1]
        let header = match fixed_header(&held, max) {
            Ok(Some(header)) if authenticating || header.packet_type == PacketType::Connect => {
                header
            }
            Ok(None) => return self.wait_for_more(index, held),
            Ok(Some(_)) | Err(_) => {
                self.clients.counters.add(Counter::ProtocolErrors, 1);
                return self.close(index, Cause::Lost);
            }
        };
        if held.len() < header.total_len() {
            return self.wait_for_more(index, held);
        }
        if authenticating {
            self.on_authenticating(index, &header, held);
        } else {
            self.on_connect(index, &header, held, None);
        }
    }

    fn wait_for_more(&mut self, index: u32, held: Vec<u8>) {
        if let Some(conn) = self.clients.conns.at_mut(index) {
            conn.partial = held;
            self.commands.push(Command::ReceiveOnce(index));
        }
    }

    /// A whole CONNECT has come, or the answer about the password in it.
    pub(crate) fn on_connect(
        &mut self,
        index: u32,
        header: &FixedHeader,
        held: Vec<u8>,
        answer: Option<Answer>,
    ) {
        if let Err(fault) = self.judge_client(index) {
            return self.on_fault(index, &fault);
        }
        let body = &held[usize::from(header.header_len)..header.total_len()];
        let connect = match Connect::decode(header.flags, body) {
            Ok(connect) => connect,
            Err(error) => return self.refuse_malformed(index, body, error),
        };
        self.speak_as(index, &connect);
        let checked = self
            .check_client(index, &connect)
            .and_then(|()| negotiate(&connect, &self.limits.server));
        let negotiated = match checked {
            Ok(negotiated) => negotiated,
            Err(refusal) => return self.turn_away(index, &refusal),
        };
        let Some(proven) = self.check_password(index, &connect, answer) else {
            if let Some(conn) = self.clients.conns.at_mut(index) {
                conn.partial = held;
            }
            return;
        };
        // What the rules say of a will is for those to know who may be here.
        if let Err(refusal) = proven.and_then(|()| self.check_will(index, &connect)) {
            return self.turn_away(index, &refusal);
        }
        let mut auth = None;
        let mut auth_data = None;
        if let Some(name) = connect.properties.authentication_method {
            let data = connect.properties.authentication_data;
            let Some((exchange, outcome)) = Exchange::begin(&self.auth_methods, name, data) else {
                return self.turn_away(index, &Refusal::AUTHENTICATION_METHOD);
            };
            match outcome {
                Outcome::Accepted(data) => (auth, auth_data) = (Some(Box::new(exchange)), data),
                other => return self.go_on_authenticating(index, exchange, other, held),
            }
        }
        let client_id = if negotiated.assign_client_id {
            self.assign_client_id(self.tenant_of(index))
        } else {
            connect.client_id.into()
        };
        let identity = self.identity(index, client_id, auth, auth_data);
        self.identified(index, identity, held);
    }

    /// From now on the connection is answered, or refused, as its client understands it: a
    /// connection that was handed over is new to its home.
    fn speak_as(&mut self, index: u32, connect: &Connect<'_>) {
        if let Some(conn) = self.clients.conns.at_mut(index) {
            conn.version = connect.version;
            conn.packet_max = connect.properties.maximum_packet_bytes.unwrap_or(u32::MAX);
        }
    }

    /// The exchange asks the client for more: the CONNECT is kept meanwhile.
    fn go_on_authenticating(
        &mut self,
        index: u32,
        exchange: Exchange,
        outcome: Outcome,
        held: Vec<u8>,
    ) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        match outcome {
            Outcome::Send(bytes) => {
                let cold = conn.cold();
                cold.auth = Some(Box::new(exchange));
                // What follows the CONNECT is the client's next packet.
                let connect_len = fixed_header(&held, u32::MAX)
                    .ok()
                    .flatten()
                    .map_or(held.len(), |header| header.total_len());
                let rest = held[connect_len..].to_vec();
                cold.connect = held;
                cold.connect.truncate(connect_len);
                self.clients.write(index, |_, out| out.extend_from_slice(&bytes));
                if rest.is_empty() {
                    self.commands.push(Command::ReceiveOnce(index));
                } else {
                    self.on_connecting(index, &rest);
                }
            }
            Outcome::Refused(code) => {
                self.turn_away(index, &Refusal { reason: code, text: "authentication failed" });
            }
            Outcome::Accepted(_) | Outcome::Ended(_) | Outcome::Nothing => {
                self.close(index, Cause::Lost);
            }
        }
    }

    /// A packet of an authentication exchange has come.
    fn on_authenticating(&mut self, index: u32, header: &FixedHeader, mut held: Vec<u8>) {
        let rest = held.split_off(header.total_len());
        let body = &held[usize::from(header.header_len)..];
        let Some(outcome) = self.on_auth_before_connack(index, header, body) else { return };
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        let cold = conn.cold();
        match outcome {
            Outcome::Accepted(auth_data) => {
                let mut bytes = mem::take(&mut cold.connect);
                let auth = cold.auth.take();
                bytes.extend_from_slice(&rest);
                let client_id = match given_client_id(&bytes) {
                    Some(client_id) => client_id,
                    None => self.assign_client_id(self.tenant_of(index)),
                };
                let identity = self.identity(index, client_id, auth, auth_data);
                self.identified(index, identity, bytes);
            }
            Outcome::Send(bytes) => {
                self.clients.write(index, |_, out| out.extend_from_slice(&bytes));
                if rest.is_empty() {
                    self.commands.push(Command::ReceiveOnce(index));
                } else {
                    self.on_connecting(index, &rest);
                }
            }
            Outcome::Refused(code) => {
                self.turn_away(index, &Refusal { reason: code, text: "authentication failed" });
            }
            Outcome::Ended(_) | Outcome::Nothing => self.close(index, Cause::Lost),
        }
    }

    //= [MQTT-3.1.3-6]
    //= 3.1.1 [MQTT-3.1.3-6]
    //= [MQTT-3.2.2-16]
    fn assign_client_id(&mut self, tenant: TenantId) -> Box<str> {
        loop {
            let random = self.random();
            let client_id = format!("ringtide-{random:016x}{:04x}", self.mesh.me);
            let hash = self.routes.partitions.hash(tenant, &client_id);
            let home = self.routes.partitions.shard(self.routes.partitions.partition_of(hash));
            // One that lives here saves the hand-over.
            if home == self.mesh.me && self.clients.find(hash, tenant, &client_id).is_none() {
                return client_id.into();
            }
        }
    }

    /// What the listener and the access section ask of a client.
    fn check_client(&self, index: u32, connect: &Connect<'_>) -> Result<(), Refusal> {
        let listener = self.clients.conns.at(index).map_or(0, |conn| conn.listener);
        let versions = self.limits.listener(listener).versions;
        if versions & (1 << connect.version as u8) == 0 {
            let text = "this version of the protocol is not offered here";
            return Err(Refusal { reason: ReasonCode::UnsupportedProtocolVersion, text });
        }
        if self.name_of(index, connect).is_none() && !self.limits.allow_anonymous {
            let text = "a user name is needed here";
            return Err(Refusal { reason: ReasonCode::NotAuthorized, text });
        }
        Ok(())
    }

    fn identity(
        &mut self,
        index: u32,
        client_id: Box<str>,
        auth: Option<Box<Exchange>>,
        auth_data: Option<Box<[u8]>>,
    ) -> Identity {
        let token = self.clients.conns.at(index).map(|conn| conn.token(index));
        let vouched = token.and_then(|token| self.clients.filtering.take_name(token));
        Identity { client_id, tenant: self.tenant_of(index), auth, auth_data, vouched }
    }

    /// The user name of a client whose CONNECT has come.
    fn name_of<'a>(&'a self, index: u32, connect: &Connect<'a>) -> Option<&'a str> {
        let conn = self.clients.conns.at(index)?;
        self.user_name(index, connect, self.clients.filtering.named(conn.token(index)))
    }

    fn tenant_of(&self, index: u32) -> TenantId {
        let listener = self.clients.conns.at(index).map_or(0, |conn| conn.listener);
        self.limits.listener(listener).tenant
    }

    fn check_will(&self, index: u32, connect: &Connect<'_>) -> Result<(), Refusal> {
        let Some(will) = &connect.will else { return Ok(()) };
        if valid_name(will.topic, self.limits.topic_levels_max).is_err() {
            let text = "the will's topic is not a valid topic name";
            return Err(Refusal { reason: ReasonCode::TopicNameInvalid, text });
        }
        if is_reserved(will.topic) {
            let text = "the will's topic is the broker's own";
            return Err(Refusal { reason: ReasonCode::NotAuthorized, text });
        }
        let username = self.name_of(index, connect);
        let who = Who { client_id: connect.client_id, username };
        match self.access.authorize_now(who, Action::Publish, will.topic) {
            Verdict::Deny => {
                let text = "the client may not publish its will";
                Err(Refusal { reason: ReasonCode::NotAuthorized, text })
            }
            Verdict::Allow | Verdict::Park(_) => Ok(()),
        }
    }

    /// Answers a CONNECT that is not one, as far as the client's version allows.
    //= [MQTT-3.1.2-1]
    //= [MQTT-3.1.2-2]
    //= [MQTT-3.1.4-1]
    //= 3.1.1 [MQTT-3.1.2-2]
    //= 3.1.1 [MQTT-3.1.4-1]
    fn refuse_malformed(&mut self, index: u32, body: &[u8], error: DecodeError) {
        self.clients.counters.add(Counter::ProtocolErrors, 1);
        let version = Connect::peek_version(body);
        if let Some(conn) = self.clients.conns.at_mut(index) {
            conn.version = version.unwrap_or(Version::V3_1_1);
        }
        let answer = match version {
            Some(Version::V5) => Some(Version::V5),
            _ => error.v3_return_code().map(|_| Version::V3_1_1),
        };
        if let Some(version) = answer {
            let packet = ConnAck::new(false, error.reason);
            self.clients.write(index, |_, out| packet.encode(version, out));
        }
        self.close(index, Cause::Lost);
    }

    /// Sends a refusing CONNACK and closes.
    //= [MQTT-3.1.4-2]
    //= [MQTT-3.2.2-7]
    //= 3.1.1 [MQTT-3.1.4-5]
    //= 3.1.1 [MQTT-3.2.2-5]
    fn turn_away(&mut self, index: u32, refusal: &Refusal) {
        let Some(conn) = self.clients.conns.at(index) else { return };
        let (version, packet_max) = (conn.version, conn.packet_max);
        let reason = refusal.reason;
        tracing::debug!(peer = %conn.peer, ?reason, refusal.text, "refused");
        let limits = std::sync::Arc::clone(&self.limits);
        let mut packet = refusal_connack(refusal, &limits.server);
        if fit_connack(&mut packet, version, packet_max) {
            self.clients.write(index, |version, out| packet.encode(version, out));
        }
        self.close(index, Cause::Lost);
    }

    /// The identity is final: opens the session here, or hands the connection over to its home.
    fn identified(&mut self, index: u32, identity: Identity, bytes: Vec<u8>) {
        let home = self.routes.partitions.home(identity.tenant, &identity.client_id);
        if home == self.mesh.me {
            return self.open(index, identity, bytes);
        }
        if self.clients.conns.at(index).is_some_and(|conn| conn.stalled) {
            // A socket with a send under way stays here, and who has read nothing of the little
            // that was sent before its CONNECT will hardly read what comes after it.
            return self.close(index, Cause::Lost);
        }
        let Some(conn) = self.clients.conns.remove(index) else { return };
        if let Some(timer) = conn.timer {
            self.timers.cancel(timer);
        }
        self.clients.count_listener(conn.listener, -1);
        self.clients.counters.sub(Counter::ConnectionsOpen, 1);
        self.clients.counters.add(Counter::HandOvers, 1);
        self.next_tag += 1;
        let hand_over = Box::new(HandOver {
            socket: None,
            tag: (u64::from(self.mesh.me) << 40) | self.next_tag,
            listener: conn.listener,
            peer: conn.peer.address(),
            client_id: identity.client_id,
            tenant: identity.tenant,
            auth: identity.auth,
            auth_data: identity.auth_data,
            vouched: identity.vouched,
            unsent: conn.out,
            wire: conn.cold.map_or_else(Vec::new, |cold| cold.wire),
            filter: conn.filter,
            bytes,
        });
        self.commands.push(Command::HandOver(home, conn.socket, hand_over));
    }

    /// Closes a socket that no connection claims.
    pub(crate) fn reject(&mut self, socket: Socket) {
        let index = self.add_conn(0, socket, None);
        self.close(index, Cause::Lost);
    }

    /// Takes a connection that another shard has accepted.
    pub(crate) fn adopt(&mut self, socket: Socket, hand_over: HandOver) {
        let HandOver { listener, peer, client_id, tenant, auth, auth_data, .. } = hand_over;
        let (unsent, bytes, vouched) = (hand_over.unsent, hand_over.bytes, hand_over.vouched);
        let index = self.add_conn(listener, socket, peer);
        if !unsent.is_empty() {
            self.clients.write(index, |_, out| out.extend_from_slice(&unsent));
        }
        if hand_over.filter.is_some() {
            self.clients.adopt_filter(index, hand_over.filter, hand_over.wire);
        }
        if self.draining {
            self.clients.counters.add(Counter::ConnectionsRefused, 1);
            return self.close(index, Cause::Lost);
        }
        self.open(index, Identity { client_id, tenant, auth, auth_data, vouched }, bytes);
    }

    /// Opens a client's session at its home.
    pub(crate) fn open(&mut self, index: u32, identity: Identity, bytes: Vec<u8>) {
        let limits = std::sync::Arc::clone(&self.limits);
        let Ok(Some(header)) = fixed_header(&bytes, u32::MAX) else {
            return self.close(index, Cause::Lost);
        };
        let (packet, rest) = bytes.split_at(header.total_len().min(bytes.len()));
        let body = &packet[usize::from(header.header_len)..];
        let Ok(connect) = Connect::decode(header.flags, body) else {
            return self.close(index, Cause::Lost);
        };
        self.speak_as(index, &connect);
        let mut negotiated = match negotiate(&connect, &limits.server) {
            Ok(negotiated) => negotiated,
            Err(refusal) => return self.turn_away(index, &refusal),
        };
        if limits.keep_alive_override_s > 0 && negotiated.version == Version::V5 {
            negotiated.keep_alive_s = limits.keep_alive_override_s;
            negotiated.server_keep_alive = connect.keep_alive_s != negotiated.keep_alive_s;
        }
        if self.clients.sessions.len() >= limits.sessions_max as usize && !self.is_known(&identity)
        {
            let text = "the broker holds as many sessions as it may";
            return self.turn_away(index, &Refusal { reason: ReasonCode::QuotaExceeded, text });
        }
        match self.intake_of_client(&identity, &negotiated, connect.will.is_some()) {
            Intake::Open => {}
            Intake::Waits => return self.hold_connect_back(index, identity, bytes),
            Intake::Refused => {
                let text = "the broker's disk has no space for another session or will";
                self.clients.counters.add(Counter::StoreRefused, 1);
                return self.turn_away(index, &Refusal { reason: ReasonCode::QuotaExceeded, text });
            }
        }
        let before = self.store.appended().0;
        let had_ids = self.has_open_ids(&identity);
        let (session, present) = self.find_or_add(&identity, &negotiated);
        self.configure(index, session, &connect, &negotiated, &identity);
        let after = self.store.appended().0;
        let assigned = Some(&*identity.client_id);
        let server = limits.server_of(self.clients.conns.at(index).map_or(0, |c| c.listener));
        let mut packet = connack(&negotiated, &server, present, assigned);
        if let Some(exchange) = &identity.auth {
            packet.properties.authentication_method = Some(exchange.method());
            packet.properties.authentication_data = identity.auth_data.as_deref();
        }
        if !fit_connack(&mut packet, negotiated.version, negotiated.maximum_packet_bytes) {
            return self.close(index, Cause::Lost);
        }
        let mut encoded = Vec::new();
        packet.encode(negotiated.version, &mut encoded);
        // What was recorded of this client: its new session, the end of its old one.
        let needs = if after > before { after } else { 0 };
        // A session whose packet ids the log holds must not come back in any case, see `owe`.
        let needs = if had_ids && !present { needs } else { self.awaited(index, needs) };
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        conn.promised = self.promises.give(server.maximum_packet_bytes);
        conn.partial = rest.to_vec();
        conn.phase = Phase::Opening;
        let generation = conn.generation;
        let cold = conn.cold();
        cold.connect = encoded;
        cold.auth = identity.auth;
        if needs <= self.durable() {
            self.opened(index);
        } else {
            self.opening.push_back(WaitsFor { lsn: needs, index, generation });
        }
    }

    fn is_known(&self, identity: &Identity) -> bool {
        self.known(identity).is_some()
    }

    fn known(&self, identity: &Identity) -> Option<u32> {
        let hash = self.routes.partitions.hash(identity.tenant, &identity.client_id);
        self.clients.find(hash, identity.tenant, &identity.client_id)
    }

    /// True if the log holds packet ids of exchanges of the client that are not over.
    fn has_open_ids(&self, identity: &Identity) -> bool {
        let session = self.known(identity).and_then(|session| self.clients.sessions.at(session));
        let kept = session.filter(|session| session.kept() != SessionId(0));
        kept.is_some_and(|session| {
            session.inbound.as_ref().is_some_and(|inbound| !inbound.is_idle())
                || session.outbound.as_ref().is_some_and(|outbound| outbound.inflight_len() > 0)
        })
    }

    /// The session of a client that connects: taken over, carried on, or new. True if state is
    /// carried on.
    //= [MQTT-3.1.3-2]
    //= 3.1.1 [MQTT-3.1.3-2]
    fn find_or_add(&mut self, identity: &Identity, negotiated: &Negotiated) -> (u32, bool) {
        let hash = self.routes.partitions.hash(identity.tenant, &identity.client_id);
        let clean = negotiated.clean_start;
        if let Some(session) = self.clients.find(hash, identity.tenant, &identity.client_id) {
            self.take_over(session, clean);
        }
        if let Some(session) = self.clients.find(hash, identity.tenant, &identity.client_id) {
            //= [MQTT-3.1.2-4]
            //= [MQTT-3.1.4-4]
            //= 3.1.1 [MQTT-3.1.4-3]
            let now_ms = self.clients.now_ms;
            let record = self.clients.sessions.at(session);
            let expired =
                record.and_then(Session::expires_ms).is_some_and(|expires_ms| expires_ms <= now_ms);
            if !clean && !expired {
                //= [MQTT-3.1.2-5]
                return (session, true);
            }
            self.end_session(session);
        }
        //= [MQTT-3.1.2-6]
        let generation = self.clients.generation();
        let record = Session::new(&identity.client_id, identity.tenant, hash, generation);
        (self.clients.add_session(record), false)
    }

    /// Ends the connection that a session still has.
    //= [MQTT-3.1.4-3]
    //= 3.1.1 [MQTT-3.1.4-2]
    fn take_over(&mut self, session: u32, clean: bool) {
        let Some(record) = self.clients.sessions.at(session) else { return };
        let old = record.conn;
        if old == NONE {
            return;
        }
        self.clients.counters.add(Counter::Takeovers, 1);
        self.give_up_parked(old);
        if let Some(conn) = self.clients.conns.at_mut(old) {
            // The session is no longer this connection's: its end must not touch it.
            conn.session = NONE;
        }
        self.close(old, Cause::Told(ReasonCode::SessionTakenOver));
        self.detach(session, EndKind::TakenOver { same_session: !clean });
    }

    /// Puts what was agreed into the session and the connection.
    fn configure(
        &mut self,
        index: u32,
        session: u32,
        connect: &Connect<'_>,
        negotiated: &Negotiated,
        identity: &Identity,
    ) {
        let will = connect.will.as_ref().map(|will| self.will_of(will, session, identity));
        let now_ms = self.clients.now_ms;
        let username = self.user_name(index, connect, identity.vouched.as_deref());
        let Some(record) = self.clients.sessions.at_mut(session) else { return };
        let action =
            record.will.as_mut().map_or(WillAction::Nothing, |will| will.state.on_resumed());
        if let Some(timer) = record.timer.take() {
            self.timers.cancel(timer);
        }
        self.act_on_will(session, action);
        let Some(record) = self.clients.sessions.at_mut(session) else { return };
        self.clients.online += 1;
        let was_persistent = record.is_persistent();
        record.will = will.map(Box::new);
        record.conn = index;
        record.username = username.map(Into::into);
        record.expiry_s = negotiated.session_expiry_s;
        record.connect_expiry_s = negotiated.connect_expiry_s;
        record.connected_ms = now_ms;
        record.receive_maximum = negotiated.receive_maximum;
        if let Some(outbound) = record.outbound.as_mut() {
            outbound.on_resume(negotiated.receive_maximum, self.routes.queues.limits);
        }
        if let Some(inbound) = record.inbound.as_mut() {
            let promise = self.promises.of(NOTHING);
            inbound.on_resume(promise.receive_maximum(Some(negotiated.version)));
        }
        self.keep_session(session, was_persistent);
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        conn.session = session;
        conn.version = negotiated.version;
        //= [MQTT-3.1.2-21]
        conn.keep_alive_s = negotiated.keep_alive_s;
        conn.packet_max = negotiated.maximum_packet_bytes;
        conn.problem_information = negotiated.request_problem_information;
        //= [MQTT-3.1.2-26]
        let aliases = negotiated.topic_alias_maximum.min(self.limits.topic_alias_out_max);
        if aliases > 0 {
            conn.cold().alias_out = Some(AliasOut::new(aliases));
        }
    }

    fn will_of(&self, will: &ringtide_codec::Will<'_>, session: u32, identity: &Identity) -> Will {
        let tenant = identity.tenant;
        let publisher = self.clients.sessions.at(session).map_or(0, |session| session.hash);
        let header = Header {
            flags: 0,
            qos: will.qos,
            retain: will.retain,
            hops: 0,
            tenant,
            origin_node: 0,
            origin_log: self.mesh.me,
            partition: route::place(&self.routes, tenant, will.topic, will.retain),
            lsn: 0,
            publisher,
            ingress_ms: self.clients.now_ms,
            expires_ms: 0,
            topic_hash: topic_hash(tenant, will.topic),
        };
        let properties = &will.properties;
        let view = View { header, topic: will.topic, properties, payload: will.payload };
        let mut state = WillState::default();
        state.on_connect(true);
        let expiry_s = will.message_expiry_s;
        Will { message: Message::new(&view), expiry_s, delay_s: will.delay_s, state }
    }

    /// The session's record is durable: CONNACK goes out, and the client's packets come in.
    //= [MQTT-3.2.0-1]
    //= [MQTT-3.2.0-2]
    //= [MQTT-3.1.4-5]
    //= 3.1.1 [MQTT-3.2.0-1]
    pub(crate) fn opened(&mut self, index: u32) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        if conn.phase != Phase::Opening {
            return;
        }
        conn.phase = Phase::Open;
        let session = conn.session;
        let client = self.clients.sessions.at(session).map_or("", |session| &*session.client_id);
        tracing::debug!(client, peer = %conn.peer, version = ?conn.version, "connected");
        let cold = conn.cold();
        let connack = mem::take(&mut cold.connect);
        conn.trim();
        self.clients.write(index, |_, out| out.extend_from_slice(&connack));
        self.clients.recycle(Vec::new());
        self.arm_keep_alive(index, true);
        self.start_meter(index);
        self.tell_online(session);
        // What waits for it has a share of the next turn: many may come back in this one.
        self.clients.want_pump(session);
        self.want_replay(session);
        self.resume(index);
        self.want_receive(index);
    }
}

/// The client id that a CONNECT names, if it is not empty.
fn given_client_id(bytes: &[u8]) -> Option<Box<str>> {
    let header = fixed_header(bytes, u32::MAX).ok().flatten()?;
    let body = bytes.get(usize::from(header.header_len)..header.total_len())?;
    let connect = Connect::decode(header.flags, body).ok()?;
    (!connect.client_id.is_empty()).then(|| connect.client_id.into())
}
