//! What a client makes of each packet that comes.

use ringtide_codec::{
    Ack, AckKind, ConnAck, Disconnect, Packet, Property, PropertyIter, Publish, ReasonCode, Role,
    decode, fixed_header, write_ack,
};

use super::{Asked, Client, Detached, InPhase, Incoming, OutPhase, Outgoing, Scene, Surroundings};
use crate::check::Delivery;
use crate::model::MessageNo;

impl Client {
    /// Handles every whole packet; says how many bytes they were.
    pub(super) fn take_packets(&mut self, around: &mut Surroundings<'_>, bytes: &[u8]) -> usize {
        let mut used = 0;
        while self.wire.is_some() {
            let header = match fixed_header(&bytes[used..], u32::MAX) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => {
                    self.fail(around, &format!("a malformed packet came: {error}"));
                    self.let_go(around, true, false);
                    return bytes.len();
                }
            };
            let total = header.total_len();
            let Some(frame) = bytes.get(used..used + total) else { break };
            used += total;
            if total > self.profile.packet_max as usize {
                self.fail(around, &format!("a packet of {total} bytes came"));
            }
            let body = &frame[usize::from(header.header_len)..];
            match decode(Role::Client, self.profile.version, &header, body) {
                Ok(packet) => self.take(around, &packet),
                Err(error) => {
                    self.fail(
                        around,
                        &format!("a malformed {:?} came: {error}", header.packet_type),
                    );
                    self.let_go(around, true, false);
                }
            }
        }
        used
    }

    fn take(&mut self, around: &mut Surroundings<'_>, packet: &Packet<'_>) {
        let kind = packet.packet_type();
        let numbers = [11, self.profile.no as u64, kind as u64, 0];
        let no = self.profile.no;
        around.model.trace.event(numbers, format_args!("client {no}: gets {kind:?}"));
        let open = self.is_open();
        match packet {
            Packet::ConnAck(packet) if !open => self.on_connack(around, packet),
            Packet::Publish(packet) if open => self.on_publish(around, packet),
            Packet::PubAck(ack) if open => self.on_puback(around, ack),
            Packet::PubRec(ack) if open => self.on_pubrec(around, ack),
            Packet::PubRel(ack) if open => self.on_pubrel(around, ack),
            Packet::PubComp(ack) if open => self.on_pubcomp(around, ack),
            Packet::SubAck(packet) if open => {
                self.on_answer(around, packet.packet_id.get(), packet.codes, true);
            }
            Packet::UnsubAck(packet) if open => {
                self.on_answer(around, packet.packet_id.get(), packet.codes, false);
            }
            Packet::PingResp if open => self.on_pingresp(around),
            Packet::Disconnect(packet) if open => self.on_disconnect(around, packet),
            _ => self.fail(around, &format!("a {kind:?} came out of place")),
        }
    }

    fn on_connack(&mut self, around: &mut Surroundings<'_>, packet: &ConnAck<'_>) {
        let no_space = [ReasonCode::QuotaExceeded, ReasonCode::ServerUnavailable];
        if around.model.full_disks && no_space.contains(&packet.reason) {
            return self.let_go(around, false, false);
        }
        let busy = [ReasonCode::ServerBusy, ReasonCode::ServerUnavailable];
        if around.model.busy_judges && busy.contains(&packet.reason) {
            return self.let_go(around, false, false);
        }
        if packet.reason != ReasonCode::Success {
            self.fail(around, &format!("it was turned away: {:?}", packet.reason));
            self.let_go(around, false, false);
            return;
        }
        let Some(wire) = &mut self.wire else { return };
        wire.open = true;
        wire.server_receive_maximum = packet.properties.receive_maximum.unwrap_or(u16::MAX);
        wire.server_alias_max = packet.properties.topic_alias_maximum.unwrap_or(0);
        let (clean, will) = (wire.clean, wire.will);
        self.check_present(around, packet.session_present, clean);
        self.unsure = false;
        if let Some(will) = will {
            around.wills.armed(will);
        }
        around.wills.connected(self.profile.no, around.now_us);
        if !packet.session_present && self.held.session.is_some() {
            self.end_session(around);
        }
        let session = match self.held.session {
            Some(session) => session,
            None => {
                let packet_max = self.profile.packet_max;
                let session = around.model.begin_session(self.profile.no, packet_max);
                self.held.session = Some(session);
                session
            }
        };
        self.held.connections += 1;
        let step = around.model.tick();
        around.model.session(session).connected = Some(step);
        self.send_again(around);
    }

    /// Session Present must say what is known for certain.
    fn check_present(&mut self, around: &mut Surroundings<'_>, present: bool, clean: bool) {
        let Some(_) = self.held.session else {
            if present {
                self.fail(around, "Session Present is set, but there can be no session");
            }
            return;
        };
        if clean && present {
            return self.fail(around, "Session Present is set after Clean Start");
        }
        let Some(Detached { since_us, links, expiry_s }) = self.held.detached.clone() else {
            return;
        };
        if expiry_s == u32::MAX {
            if !present {
                self.fail(around, "its session is gone, though it never expires");
            }
            return;
        }
        let expiry_us = u64::from(expiry_s) * 1_000_000;
        // The broker counts in milliseconds.
        if !present && around.now_us + 2_000 < since_us + expiry_us {
            self.fail(around, "its session is gone before its time");
        }
        let net = around.net.borrow();
        let asked_us = self.wire.as_ref().map_or(0, |wire| wire.since_us);
        let late = |at_us: Option<u64>| {
            at_us.is_some_and(|at_us| asked_us > at_us + expiry_us + 2_000_000)
        };
        let over = links
            .iter()
            .all(|link| late(net.server_forgot_us(*link).or_else(|| net.server_closed_us(*link))));
        if present && over {
            self.fail(around, "its session is there after its time");
        }
    }

    /// Sends again what was under way, in order and within the broker's new Receive Maximum.
    fn send_again(&mut self, around: &mut Surroundings<'_>) {
        let published = |own: &&mut Outgoing| own.phase == OutPhase::Published;
        self.held.outgoing.iter_mut().filter(published).for_each(|own| own.phase = OutPhase::Held);
        let mut bytes = Vec::new();
        let version = self.profile.version;
        let mut room = self.wire.as_ref().map_or(0, |wire| wire.server_receive_maximum);
        for own in &mut self.held.outgoing {
            match own.phase {
                OutPhase::Held if room > 0 => {
                    room -= 1;
                    own.phase = OutPhase::Published;
                    around.model.sent_again(own.message);
                    let message = around.model.message(own.message);
                    super::actions::write_publish(message, version, own.id, true, None, &mut bytes);
                }
                OutPhase::Held | OutPhase::Published => {}
                OutPhase::Released => {
                    if let Some(id) = ringtide_codec::PacketId::new(own.id) {
                        write_ack(AckKind::PubRel, version, id, ReasonCode::Success, &mut bytes);
                    }
                }
            }
        }
        if !bytes.is_empty() {
            self.send(around, &bytes);
        }
    }

    /// An exchange is over: one that the Receive Maximum held back may be sent again.
    fn send_held(&mut self, around: &mut Surroundings<'_>) {
        let version = self.profile.version;
        let most = self.wire.as_ref().map_or(0, |wire| wire.server_receive_maximum);
        let under_way = self.held.outgoing.iter().filter(|own| own.phase != OutPhase::Held).count();
        let may = self.is_usable() && under_way < usize::from(most);
        let held = self.held.outgoing.iter_mut().find(|own| own.phase == OutPhase::Held);
        if let Some(own) = held.filter(|_| may) {
            own.phase = OutPhase::Published;
            around.model.sent_again(own.message);
            let mut bytes = Vec::new();
            let message = around.model.message(own.message);
            super::actions::write_publish(message, version, own.id, true, None, &mut bytes);
            self.send(around, &bytes);
        }
    }

    fn on_publish(&mut self, around: &mut Surroundings<'_>, packet: &Publish<'_>) {
        let Some(session) = self.held.session else { return };
        let Some(topic) = self.topic_of(around, packet) else { return };
        if topic.starts_with("$SYS/") {
            return;
        }
        let v5 = self.is_v5();
        let mut ids = Vec::new();
        for property in PropertyIter::new(packet.properties.raw) {
            if let Property::SubscriptionIdentifier(id) = property {
                ids.push(id);
            }
        }
        let qos = packet.qos as u8;
        let fresh = match packet.packet_id {
            Some(id) => self.is_fresh(around, id.get(), packet),
            None => true,
        };
        let (no, id) = (self.profile.no, packet.packet_id.map_or(0, |id| id.get()));
        let message = crate::model::number(packet.payload).map_or(u32::MAX, |no| no.0);
        around.model.trace.event(
            [12, no as u64, u64::from(message), u64::from(id)],
            format_args!(
                "client {no}: message {message} on {topic}, QoS {qos}, id {id}, dup {}, retain {}",
                packet.dup, packet.retain
            ),
        );
        let crashes = around.net.borrow().crashes();
        let delivery = Delivery {
            topic: &topic,
            payload: packet.payload,
            qos,
            retain: packet.retain,
            ids: &ids,
            expiry_s: packet.properties.message_expiry_s,
            fresh,
            dup: packet.dup,
            stale: (crashes - self.wire.as_ref().map_or(crashes, |wire| wire.crashes)) as u32,
            v5,
        };
        let message = around.model.delivered(session, &delivery);
        if let Some(message) = message {
            around.wills.seen(message, self.profile.no, fresh);
            if packet.retain && self.profile.observer {
                self.collected.push((topic, message));
            }
        }
        if let Some(id) = packet.packet_id {
            self.begin_incoming(around, id.get(), qos, message);
        }
    }

    /// The topic, by alias or in full.
    fn topic_of(&mut self, around: &mut Surroundings<'_>, packet: &Publish<'_>) -> Option<String> {
        let max = self.profile.alias_max;
        let wire = self.wire.as_mut()?;
        let Some(alias) = packet.properties.topic_alias else {
            return Some(packet.topic.to_string());
        };
        let topic = if packet.topic.is_empty() {
            wire.aliases.get(&alias).cloned()
        } else {
            wire.aliases.insert(alias, packet.topic.to_string());
            Some(packet.topic.to_string())
        };
        if alias > max || topic.is_none() {
            self.fail(around, &format!("topic alias {alias} came"));
        }
        topic
    }

    /// Whether a delivery is no repetition of one that was not finished; judges packet id and DUP.
    fn is_fresh(&mut self, around: &Surroundings<'_>, id: u16, packet: &Publish<'_>) -> bool {
        let (serial, crashes) =
            self.wire.as_ref().map_or((0, 0), |wire| (wire.serial, wire.crashes));
        let message = crate::model::number(packet.payload);
        let qos = packet.qos as u8;
        if packet.dup && self.held.connections < 2 {
            self.fail(around, "DUP is set in a session's first connection");
        }
        let Some(old) = self.held.incoming.get(&id).copied() else { return true };
        if old.phase == InPhase::Done {
            // The broker may not have heard that a delivery is acknowledged or refused; that of a
            // completed QoS 2 exchange it must have heard.
            let same = old.message == message && old.qos == qos && old.serial != serial;
            return !(same && packet.dup && (qos == 1 || old.refused));
        }
        if old.qos == 1 && old.crashes < crashes {
            // Under which id a QoS 1 message was sent does not outlive the process.
            return !(old.message == message && packet.dup);
        }
        if old.serial == serial {
            self.fail(around, &format!("packet id {id} is used again while it is in flight"));
            return true;
        }
        if old.message != message || old.qos != qos {
            // A PUBREC that refused may have been lost, an accepting one binds the id.
            self.fail(around, &format!("packet id {id} has another message than {old:?}"));
            return true;
        }
        if !packet.dup {
            self.fail(around, &format!("packet id {id} comes again without DUP"));
        }
        false
    }

    fn begin_incoming(
        &mut self,
        around: &mut Surroundings<'_>,
        id: u16,
        qos: u8,
        message: Option<MessageNo>,
    ) {
        let maximum = u32::from(self.profile.receive_maximum);
        let Some(wire) = &mut self.wire else { return };
        wire.charged += 1;
        let (charged, serial, crashes) = (wire.charged, wire.serial, wire.crashes);
        let answered = self.held.incoming.get(&id).is_some_and(|one| {
            one.message == message && one.phase == InPhase::Received && one.answered
        });
        let phase = InPhase::Got;
        let one = Incoming { message, qos, phase, serial, crashes, answered, refused: false };
        self.held.incoming.insert(id, one);
        if charged > maximum {
            self.fail(around, &format!("{charged} deliveries are in flight, {maximum} may be"));
        }
        let kind = if qos == 1 { AckKind::PubAck } else { AckKind::PubRec };
        self.acks.push_back((kind, id));
    }

    fn on_puback(&mut self, around: &mut Surroundings<'_>, ack: &Ack<'_>) {
        let id = ack.packet_id.get();
        let own = self.held.outgoing.iter().position(|own| own.id == id && own.qos == 1);
        let Some(own) = own else {
            return self.fail(around, &format!("PUBACK {id} came for nothing"));
        };
        let own = self.held.outgoing.remove(own);
        self.settle(around, own.message, ack.reason);
        self.send_held(around);
    }

    fn settle(&mut self, around: &mut Surroundings<'_>, message: MessageNo, reason: ReasonCode) {
        if reason == ReasonCode::QuotaExceeded && around.model.full_disks {
            around.model.refused_for_space(message);
        } else if reason.is_error() {
            around.model.refused(message);
        } else {
            around.model.accepted(message);
        }
    }

    fn on_pubrec(&mut self, around: &mut Surroundings<'_>, ack: &Ack<'_>) {
        let id = ack.packet_id.get();
        let own = self
            .held
            .outgoing
            .iter()
            .position(|own| own.id == id && own.qos == 2 && own.phase == OutPhase::Published);
        let Some(own) = own else {
            return self.fail(around, &format!("PUBREC {id} came for nothing"));
        };
        let message = self.held.outgoing[own].message;
        self.settle(around, message, ack.reason);
        if ack.reason.is_error() {
            self.held.outgoing.remove(own);
            return self.send_held(around);
        }
        self.held.outgoing[own].phase = OutPhase::Released;
        if self.wire.as_ref().is_some_and(|wire| !wire.silent && !wire.finished) {
            self.send_ack(around, AckKind::PubRel, ack);
        }
    }

    fn send_ack(&mut self, around: &mut Surroundings<'_>, kind: AckKind, to: &Ack<'_>) {
        let mut bytes = Vec::new();
        write_ack(kind, self.profile.version, to.packet_id, ReasonCode::Success, &mut bytes);
        self.send(around, &bytes);
    }

    fn on_pubrel(&mut self, around: &mut Surroundings<'_>, ack: &Ack<'_>) {
        let id = ack.packet_id.get();
        match self.held.incoming.get(&id) {
            Some(one) if one.qos == 2 && one.phase == InPhase::Got && !one.answered => {
                self.fail(around, &format!("PUBREL {id} came before PUBREC"));
            }
            Some(one) if one.qos == 1 && one.phase != InPhase::Done => {
                self.fail(around, &format!("PUBREL {id} came for a QoS 1 delivery"));
            }
            _ => {}
        }
        self.acks.push_back((AckKind::PubComp, id));
    }

    fn on_pubcomp(&mut self, around: &mut Surroundings<'_>, ack: &Ack<'_>) {
        let id = ack.packet_id.get();
        let own = self
            .held
            .outgoing
            .iter()
            .position(|own| own.id == id && own.phase == OutPhase::Released);
        match own {
            Some(own) => {
                self.held.outgoing.remove(own);
                self.send_held(around);
            }
            None => self.fail(around, &format!("PUBCOMP {id} came for nothing")),
        }
    }

    fn on_answer(&mut self, around: &mut Surroundings<'_>, id: u16, codes: &[u8], suback: bool) {
        let (Some(session), Some(wire)) = (self.held.session, &mut self.wire) else { return };
        let at = wire.requests.iter().position(|request| {
            request.id == id && matches!(request.asked, Asked::Subscribe(_)) == suback
        });
        let Some(at) = at else {
            return self.fail(around, &format!("an answer to request {id} came for nothing"));
        };
        let request = wire.requests.remove(at);
        let v3 = !self.is_v5();
        let count = match &request.asked {
            Asked::Subscribe(all) => all.len(),
            Asked::Unsubscribe(all, _) if !v3 => all.len(),
            Asked::Unsubscribe(..) => 0,
        };
        if codes.len() != count {
            return self.fail(around, &format!("{} codes came for {count} filters", codes.len()));
        }
        match request.asked {
            Asked::Subscribe(all) => {
                for (index, code) in all.into_iter().zip(codes) {
                    around.model.granted(session, index, *code);
                }
            }
            Asked::Unsubscribe(all, asked) => {
                for (place, filter) in all.iter().enumerate() {
                    around.model.left(session, filter, asked, codes.get(place).copied());
                }
            }
        }
    }

    fn on_pingresp(&mut self, around: &mut Surroundings<'_>) {
        let Some(wire) = &mut self.wire else { return };
        let Some((_, mark, acked)) = wire.pings.pop_front() else {
            return self.fail(around, "PINGRESP came for nothing");
        };
        for ping in &mut wire.pings {
            ping.2 -= acked;
        }
        for message in wire.acked.drain(..acked) {
            if let Some(session) = self.held.session {
                around.model.settled(session, message);
            }
        }
        while wire.unconfirmed.front().is_some_and(|no| *no < mark) {
            if let Some(no) = wire.unconfirmed.pop_front() {
                around.model.accepted(no);
            }
        }
    }

    fn on_disconnect(&mut self, around: &mut Surroundings<'_>, packet: &Disconnect<'_>) {
        let silent = self.wire.as_ref().is_some_and(|wire| wire.silent);
        let excused = match packet.reason {
            ReasonCode::KeepAliveTimeout => silent,
            ReasonCode::ServerShuttingDown => around.scene == Scene::End,
            _ => false,
        };
        if !excused {
            self.fail(around, &format!("DISCONNECT with {:?} came", packet.reason));
        }
        self.let_go(around, false, false);
    }
}
