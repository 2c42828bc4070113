//! A client's PUBLISH: decoding, topic alias, limits, authorization, routing, acknowledgement.
//! Hot: read it from top to bottom.

use std::mem;

use bytes::BytesMut;
use ringtide_codec::{AckKind, FixedHeader, PacketId, Publish, QoS, ReasonCode, Role, Version};
use ringtide_session::{Accept, AliasIn, Inbound, Owed};
use ringtide_storage::Store;
use ringtide_storage::record::SessionId;
use ringtide_topics::{SessionRef, topic_hash, valid_name};

use crate::access::{Action, Verdict, Who};
use crate::acks::OWED_MAX;
use crate::conn::{Held, NONE};
use crate::core::{Core, Flow, WaitsFor};
use crate::counters::Counter;
use crate::deliver::Fan;
use crate::message::{HEADER_BYTES, Header, Message, View};
use crate::park::{AckWanted, LanesParked, Parked, Progress};
use crate::promise::NOTHING;
use crate::route;

/// A frame that clients of its version can be sent as it is.
type Original<'a> = Option<(&'a [u8], Version)>;

impl<S: Store> Core<S> {
    /// Handles a PUBLISH whose frame lies in a received buffer.
    pub(crate) fn on_publish(&mut self, index: u32, header: &FixedHeader, frame: &[u8]) -> Flow {
        let Some(conn) = self.clients.conns.at(index) else { return Flow::Stop };
        let (version, session) = (conn.version, conn.session);
        let body = &frame[usize::from(header.header_len)..];
        if let Some(flow) = self.publish_again(index, (session, version), header, frame) {
            return flow;
        }
        let publish = match Publish::decode_as(Role::Server, version, header.flags, body) {
            Ok(publish) => publish,
            Err(error) => return self.malformed(index, error),
        };
        let properties = &publish.properties;
        if publish.topic.is_empty() || properties.topic_alias.is_some() {
            return self.publish_with_alias(index, &publish);
        }
        if !properties.forward_is_raw {
            return self.publish_with_properties(index, &publish, publish.topic);
        }
        // A QoS 0 frame without flags reads the same for every client of its version.
        let original = (header.flags == 0).then_some((frame, version));
        self.publish(index, &publish, publish.topic, properties.raw, original)
    }

    /// Handles a PUBLISH whose frame was gathered in a buffer of its own, behind room for the
    /// message's header: the payload stays where it is.
    pub(crate) fn on_large_publish(
        &mut self,
        index: u32,
        header: &FixedHeader,
        raw: BytesMut,
    ) -> Flow {
        let Some(conn) = self.clients.conns.at(index) else { return Flow::Stop };
        let version = conn.version;
        let body_at = HEADER_BYTES + usize::from(header.header_len);
        let publish = match Publish::decode_as(Role::Server, version, header.flags, &raw[body_at..])
        {
            Ok(publish) => publish,
            Err(error) => return self.malformed(index, error),
        };
        let properties = &publish.properties;
        if publish.topic.is_empty() || properties.topic_alias.is_some() {
            return self.publish_with_alias(index, &publish);
        }
        if !properties.forward_is_raw {
            return self.publish_with_properties(index, &publish, publish.topic);
        }
        let message_header = self.header_of(index, &publish, publish.topic);
        let ack = AckWanted { qos: publish.qos, id: publish.packet_id };
        // Behind the two bytes of the topic's length.
        let topic_at = body_at + 2;
        let lens = (publish.topic.len(), properties.raw.len(), publish.payload.len());
        match Message::in_place(raw, &message_header, topic_at, lens.0, lens.1, lens.2) {
            Ok(message) => {
                self.large.watch(message.raw());
                let view = message.view();
                self.checked(index, ack, view, None, Some(message.clone()))
            }
            Err(_) => self.protocol_error(index, ReasonCode::MalformedPacket),
        }
    }

    /// Resolves a topic alias, then goes on as for a topic that was spelled out.
    //= [MQTT-3.3.2-12]
    fn publish_with_alias(&mut self, index: u32, publish: &Publish<'_>) -> Flow {
        let maximum = self.promised(index).topic_alias_maximum;
        let Some(conn) = self.clients.conns.at_mut(index) else { return Flow::Stop };
        let Some(alias) = publish.properties.topic_alias else {
            return self.protocol_error(index, ReasonCode::ProtocolError);
        };
        //= [MQTT-3.2.2-17]
        //= [MQTT-3.2.2-18]
        let aliases = conn.cold().alias_in.get_or_insert_with(|| AliasIn::new(maximum));
        let mut topic = mem::take(&mut self.topic_scratch);
        topic.clear();
        let resolved = aliases.resolve(alias, publish.topic).map(|known| topic.push_str(known));
        let flow = match resolved {
            Ok(()) => self.publish_with_properties(index, publish, &topic),
            Err(error) => self.protocol_error(index, error.reason()),
        };
        self.topic_scratch = topic;
        flow
    }

    /// Leaves out the properties that are not forwarded.
    fn publish_with_properties(&mut self, index: u32, publish: &Publish<'_>, topic: &str) -> Flow {
        let mut forward = mem::take(&mut self.forward_scratch);
        forward.clear();
        publish.properties.forward_into(&mut forward);
        let flow = self.publish(index, publish, topic, &forward, None);
        self.forward_scratch = forward;
        flow
    }

    fn publish(
        &mut self,
        index: u32,
        publish: &Publish<'_>,
        topic: &str,
        properties: &[u8],
        original: Original<'_>,
    ) -> Flow {
        let header = self.header_of(index, publish, topic);
        let view = View { header, topic, properties, payload: publish.payload };
        let ack = AckWanted { qos: publish.qos, id: publish.packet_id };
        self.checked(index, ack, view, original, None)
    }

    fn header_of(&mut self, index: u32, publish: &Publish<'_>, topic: &str) -> Header {
        if publish.qos != QoS::AtMostOnce {
            // The position in the header is to be that of its own record.
            self.clients.journal.flush(&mut self.store);
        }
        let session = self.clients.conns.at(index).map_or(NONE, |conn| conn.session);
        let session = self.clients.sessions.at(session);
        let tenant = session.map_or_else(Default::default, |session| session.tenant);
        let now_ms = self.clients.now_ms;
        let expires_ms = publish
            .properties
            .message_expiry_s
            .map_or(0, |seconds| (now_ms + u64::from(seconds) * 1000).max(1));
        Header {
            flags: 0,
            qos: publish.qos,
            retain: publish.retain,
            hops: 0,
            tenant,
            origin_node: 0,
            origin_log: self.mesh.me,
            partition: route::place(&self.routes, tenant, topic, publish.retain),
            lsn: self.store.appended().0 + 1,
            publisher: session.map_or(0, |session| session.hash),
            ingress_ms: now_ms,
            expires_ms,
            topic_hash: topic_hash(tenant, topic),
        }
    }

    /// The inbound chain: limits, authorize, then on to routing.
    fn checked(
        &mut self,
        index: u32,
        ack: AckWanted,
        view: View<'_>,
        original: Original<'_>,
        message: Option<Message>,
    ) -> Flow {
        let Some(conn) = self.clients.conns.at(index) else { return Flow::Stop };
        let session = conn.session;
        //= [MQTT-3.3.2-2]
        //= 3.1.1 [MQTT-3.3.2-2]
        if valid_name(view.topic, self.limits.topic_levels_max).is_err() {
            return self.refuse(index, ack, ReasonCode::TopicNameInvalid);
        }
        let promise = self.promises.of(conn.promised);
        //= [MQTT-3.2.2-11]
        if ack.qos > promise.maximum_qos {
            return self.protocol_error(index, ReasonCode::QoSNotSupported);
        }
        //= [MQTT-3.2.2-14]
        if view.header.retain && !promise.retain_available {
            return self.protocol_error(index, ReasonCode::RetainNotSupported);
        }
        if ack.qos != QoS::AtMostOnce {
            match self.admit(session, ack) {
                Ok(true) => {}
                //= [MQTT-4.3.3-10]
                Ok(false) => {
                    // Its first coming may not be durable yet.
                    let needs = self.store.appended().0;
                    self.acknowledge(index, ack, ReasonCode::Success, needs);
                    return Flow::Continue;
                }
                //= [MQTT-3.3.4-7]
                Err(code) => return self.protocol_error(index, code),
            }
        }
        self.count(ack.qos);
        if is_reserved(view.topic) {
            return self.unauthorized(index, ack);
        }
        if !self.access.is_open() {
            match self.judge(session, view.topic) {
                Verdict::Allow => {}
                Verdict::Deny => return self.unauthorized(index, ack),
                Verdict::Park(ticket) => {
                    let message = message.unwrap_or_else(|| Message::new(&view));
                    self.wait_for_verdict(index, ticket, Parked::Verdict { message, ack });
                    return Flow::Stop;
                }
            }
        }
        let mut fan = Fan::new(view);
        fan.original = original;
        fan.message = message;
        self.send_out(index, session, ack, &mut fan, Progress::default())
    }

    fn count(&mut self, qos: QoS) {
        let counter = match qos {
            QoS::AtMostOnce => Counter::PublishReceivedQos0,
            QoS::AtLeastOnce => Counter::PublishReceivedQos1,
            QoS::ExactlyOnce => Counter::PublishReceivedQos2,
        };
        self.clients.counters.add(counter, 1);
    }

    pub(crate) fn judge(&mut self, session: u32, topic: &str) -> Verdict {
        let Some(session) = self.clients.sessions.at(session) else { return Verdict::Deny };
        let who = Who { client_id: &session.client_id, username: session.username.as_deref() };
        self.access.authorize(who, Action::Publish, topic)
    }

    /// Opens the inbound exchange. False for a QoS 2 message that was routed before.
    pub(crate) fn admit(&mut self, session: u32, ack: AckWanted) -> Result<bool, ReasonCode> {
        let immediate = self.store.is_immediate();
        let Some(session) = self.clients.sessions.at_mut(session) else { return Ok(true) };
        let Some(id) = ack.id else { return Ok(true) };
        // With acknowledgements that leave at once no QoS 1 publish is ever outstanding.
        if ack.qos == QoS::AtLeastOnce && immediate && session.inbound.is_none() {
            return Ok(true);
        }
        let conn = session.conn;
        let inbound = session.inbound.get_or_insert_with(|| {
            let conn = self.clients.conns.at(conn);
            let promise = self.promises.of(conn.map_or(NOTHING, |conn| conn.promised));
            let version = conn.map(|conn| conn.version);
            Box::new(Inbound::new(promise.receive_maximum(version)))
        });
        match inbound.on_publish(ack.qos, id) {
            Ok(accept) => Ok(accept == Accept::Route),
            Err(violation) => Err(violation.reason()),
        }
    }

    /// Routes a message, or parks it until the lanes have room.
    pub(crate) fn send_out(
        &mut self,
        index: u32,
        session: u32,
        ack: AckWanted,
        fan: &mut Fan<'_>,
        mut progress: Progress,
    ) -> Flow {
        if self.disk.is_pressed
            && !progress.local_done
            && let Some(flow) = self.withhold(index, session, ack, fan, &mut progress)
        {
            return flow;
        }
        let publisher = Some(SessionRef(session));
        // Order: what this client's last connection left behind goes first.
        let sender = fan.view.header.publisher;
        let behind = self.internal.holds_of(sender);
        let Core { routes, clients, mesh, .. } = self;
        if !behind && route::publish(routes, clients, mesh, fan, publisher, &mut progress) {
            self.remember(index, session, fan, &progress);
            let code = match progress.reached {
                true => ReasonCode::Success,
                false => {
                    self.clients.counters.add(Counter::NoSubscribers, 1);
                    ReasonCode::NoMatchingSubscribers
                }
            };
            let needs = match self.clients.journal.on {
                true => self.commit(fan, self.inbound_of(session, ack)),
                false => 0,
            };
            if ack.qos != QoS::AtMostOnce {
                self.acknowledge(index, ack, code, needs);
            }
            return Flow::Continue;
        }
        self.clients.counters.add(Counter::Parked, 1);
        if fan.retained {
            // Nothing else of it is recorded: of QoS 1 and 2 all of it waits.
            self.commit(fan, None);
        }
        let message = fan.message().clone();
        let parked = Parked::Lanes(Box::new(LanesParked { message, ack, progress }));
        if let Some(conn) = self.clients.conns.at_mut(index) {
            let generation = conn.generation;
            conn.cold().parked = Some(parked);
            self.parked.push_back((index, generation));
        }
        Flow::Stop
    }

    /// Remembers where a publish of QoS 0 or 1 went, if that was one local session alone.
    fn remember(&mut self, index: u32, session: u32, fan: &Fan<'_>, progress: &Progress) {
        let Some(reader) = fan.only else { return };
        let header = &fan.view.header;
        let plain = header.qos != QoS::ExactlyOnce
            && !header.retain
            && header.expires_ms == 0
            && fan.view.properties.is_empty();
        let alone = fan.hits == 1
            && progress.members.is_empty()
            && progress.done.is_empty()
            && self.routes.groups.is_empty();
        let Some(conn) = self.clients.conns.at(index) else { return };
        if plain && alone {
            self.last.remember(&self.routes, session, conn.version, &fan.view, reader);
        }
    }

    /// The exchange that a publish of QoS 2 opened, if the log must remember it.
    pub(crate) fn inbound_of(&self, session: u32, ack: AckWanted) -> Option<(SessionId, u16)> {
        let id = ack.id.filter(|_| ack.qos == QoS::ExactlyOnce)?;
        let kept = self.clients.sessions.at(session)?.kept();
        (kept != SessionId(0)).then_some((kept, id.get()))
    }

    /// Sends PUBACK or PUBREC as soon as the log has reached `needs`, in the order of arrival.
    //= [MQTT-3.3.4-1]
    //= 3.1.1 [MQTT-3.3.4-1]
    //= [MQTT-4.6.0-2]
    //= [MQTT-4.6.0-3]
    //= 3.1.1 [MQTT-4.6.0-2]
    //= 3.1.1 [MQTT-4.6.0-3]
    pub(crate) fn acknowledge(&mut self, index: u32, ack: AckWanted, code: ReasonCode, needs: u64) {
        let Some(id) = ack.id else { return };
        let kind = match ack.qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => AckKind::PubAck,
            QoS::ExactlyOnce => AckKind::PubRec,
        };
        self.owe(index, kind, id, code, needs);
    }

    /// Sends an acknowledgement when the log has reached `needs`. With PUBREL and PUBCOMP a packet
    /// id that the log holds comes to its end for the client, who may use it anew with any
    /// listener: after a crash the log must not hold it still.
    pub(crate) fn owe(
        &mut self,
        index: u32,
        kind: AckKind,
        id: PacketId,
        code: ReasonCode,
        needs: u64,
    ) {
        let Some(conn) = self.clients.conns.at(index) else { return };
        let session_index = conn.session;
        let durable = self.durable();
        let needs = match kind {
            AckKind::PubAck | AckKind::PubRec => self.awaited(index, needs),
            AckKind::PubRel | AckKind::PubComp => needs,
        };
        let Some(session) = self.clients.sessions.at_mut(session_index) else { return };
        if needs <= durable && session.owed.as_ref().is_none_or(|owed| owed.is_empty()) {
            acked(session.inbound.as_deref_mut(), kind, id, code);
            self.clients.write_ack(index, kind, id, code);
            return;
        }
        let generation = session.generation;
        let owed = session.owed.get_or_insert_with(|| Box::new(Owed::new()));
        owed.push(kind, id, code, needs);
        let many = owed.len() > OWED_MAX;
        if let Some(conn) = self.clients.conns.at_mut(index).filter(|_| many) {
            conn.hold(Held::OwedMuch);
        }
        self.owing.push_back(WaitsFor { lsn: needs, index: session_index, generation });
    }

    /// Refuses a publish with a code that MQTT 5 has and 3.x has not.
    //= [MQTT-3.3.2-2]
    fn refuse(&mut self, index: u32, ack: AckWanted, code: ReasonCode) -> Flow {
        let v5 = self.clients.conns.at(index).is_some_and(|conn| conn.version == Version::V5);
        if !v5 || ack.qos == QoS::AtMostOnce {
            return self.protocol_error(index, code);
        }
        self.acknowledge(index, ack, code, 0);
        Flow::Continue
    }

    /// Answers a publish that the rules do not allow: MQTT 5 is told, 3.x gets a plain
    /// acknowledgement because it has no code for it; nothing is forwarded.
    //= 3.1.1 [MQTT-3.3.5-2]
    pub(crate) fn unauthorized(&mut self, index: u32, ack: AckWanted) -> Flow {
        self.clients.counters.add(Counter::DroppedUnauthorized, 1);
        let Some(conn) = self.clients.conns.at(index) else { return Flow::Stop };
        let session = conn.session;
        let code = if conn.version == Version::V5 {
            ReasonCode::NotAuthorized
        } else {
            ReasonCode::Success
        };
        let session = self.clients.sessions.at_mut(session);
        if let (Some(session), Some(id), true) = (session, ack.id, code.is_error())
            && let Some(inbound) = session.inbound.as_mut()
        {
            //= [MQTT-4.3.3-9]
            inbound.on_refused(ack.qos, id);
        }
        self.acknowledge(index, ack, code, 0);
        Flow::Continue
    }
}

/// True for topics that the broker alone publishes to, whatever the rules say.
pub(crate) fn is_reserved(topic: &str) -> bool {
    topic.strip_prefix("$SYS").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Tells the inbound machine that an acknowledgement leaves.
pub(crate) fn acked(inbound: Option<&mut Inbound>, kind: AckKind, id: PacketId, code: ReasonCode) {
    let Some(inbound) = inbound else { return };
    match kind {
        // One that refuses was never counted, or is counted no more.
        AckKind::PubAck if !code.is_error() => inbound.on_acked(QoS::AtLeastOnce, id),
        AckKind::PubRec if !code.is_error() => inbound.on_acked(QoS::ExactlyOnce, id),
        AckKind::PubComp => inbound.on_pubcomp_sent(id),
        AckKind::PubAck | AckKind::PubRec | AckKind::PubRel => {}
    }
}
