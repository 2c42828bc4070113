//! The packets that move an exchange on, and those that ask for nothing else: PUBACK, PUBREC,
//! PUBREL, PUBCOMP, PINGREQ, DISCONNECT; and the release of what was owed.

use ringtide_codec::{
    Ack, AckKind, Disconnect, FixedHeader, PingReq, PingResp, ReasonCode, SubAck, UnsubAck, Version,
};
use ringtide_session::{Acked, OwedAck, PubrecReply};
use ringtide_storage::Store;
use ringtide_storage::record::{SessionId, Step};

use crate::conn::{Cause, Held};
use crate::core::{Core, Flow};
use crate::persist::count_kept;
use crate::publish::acked;
use crate::pump;
use crate::share::Share;

/// Acknowledgements that a client may be owed while the log is behind: above it no more is read
/// from the client until half of them have left.
pub(crate) const OWED_MAX: usize = 4096;
/// Sessions whose acknowledgements are let out before the clock is looked at.
const RELEASES_LEAST: u32 = 64;

impl<S: Store> Core<S> {
    /// Handles an acknowledgement. Acknowledgements and answers never wait for the send quota.
    //= [MQTT-3.3.4-10]
    pub(crate) fn on_ack(
        &mut self,
        index: u32,
        kind: AckKind,
        header: &FixedHeader,
        body: &[u8],
    ) -> Flow {
        let Some(conn) = self.clients.conns.at(index) else { return Flow::Stop };
        let session = conn.session;
        let ack = match Ack::decode(kind, conn.version, header.flags, body) {
            Ok(ack) => ack,
            Err(error) => return self.malformed(index, error),
        };
        match kind {
            AckKind::PubAck => self.on_puback(index, session, &ack),
            AckKind::PubRec => self.on_pubrec(index, session, &ack),
            AckKind::PubRel => self.on_pubrel(index, session, &ack),
            AckKind::PubComp => self.on_pubcomp(index, session, &ack),
        }
    }

    fn on_puback(&mut self, index: u32, session: u32, ack: &Ack<'_>) -> Flow {
        let outbound = self.clients.sessions.at_mut(session).and_then(|s| s.outbound.as_mut());
        match outbound.map(|outbound| outbound.on_puback(ack.packet_id, ack.reason)) {
            Some(Err(violation)) => return self.protocol_error(index, violation.reason()),
            Some(Ok(Acked::Delivered(Some(delivery)) | Acked::Refused(Some(delivery)))) => {
                self.clients.journal.done(self.kept(session), delivery.message.seq);
            }
            Some(Ok(Acked::Delivered(None) | Acked::Refused(None) | Acked::Unknown)) | None => {}
        }
        self.moved_on(session);
        Flow::Continue
    }

    fn on_pubrec(&mut self, index: u32, session: u32, ack: &Ack<'_>) -> Flow {
        let outbound = self.clients.sessions.at_mut(session).and_then(|s| s.outbound.as_mut());
        let reply = match outbound.map(|outbound| outbound.on_pubrec(ack.packet_id, ack.reason)) {
            None if ack.reason.is_error() => PubrecReply::Ended,
            None => PubrecReply::UnknownId,
            Some(Ok(reply)) => reply,
            Some(Err(violation)) => return self.protocol_error(index, violation.reason()),
        };
        match reply {
            //= [MQTT-4.3.3-4]
            //= [MQTT-4.6.0-4]
            //= 3.1.1 [MQTT-4.6.0-4]
            PubrecReply::SendPubrel => {
                let packet_id = ack.packet_id.get();
                let needs = self.record_step(session, Step::Received { packet_id });
                self.owe(index, AckKind::PubRel, ack.packet_id, ReasonCode::Success, needs);
            }
            //= [MQTT-4.4.0-2]
            PubrecReply::Ended => {
                let packet_id = ack.packet_id.get();
                self.clients.journal.step(self.kept(session), Step::Completed { packet_id });
                self.moved_on(session);
            }
            PubrecReply::UnknownId => {
                let code = ReasonCode::PacketIdentifierNotFound;
                self.owe(index, AckKind::PubRel, ack.packet_id, code, 0);
            }
        }
        Flow::Continue
    }

    fn on_pubrel(&mut self, index: u32, session: u32, ack: &Ack<'_>) -> Flow {
        let inbound = self.clients.sessions.at_mut(session).and_then(|s| s.inbound.as_mut());
        //= [MQTT-4.3.3-11]
        let code = match inbound {
            Some(inbound) => inbound.on_pubrel(ack.packet_id),
            None => ReasonCode::PacketIdentifierNotFound,
        };
        let needs = match code {
            ReasonCode::Success => {
                self.record_step(session, Step::InboundDone { packet_id: ack.packet_id.get() })
            }
            _ => 0,
        };
        self.owe(index, AckKind::PubComp, ack.packet_id, code, needs);
        Flow::Continue
    }

    fn on_pubcomp(&mut self, index: u32, session: u32, ack: &Ack<'_>) -> Flow {
        let outbound = self.clients.sessions.at_mut(session).and_then(|s| s.outbound.as_mut());
        if let Some(outbound) = outbound
            && let Err(violation) = outbound.on_pubcomp(ack.packet_id, ack.reason)
        {
            return self.protocol_error(index, violation.reason());
        }
        let packet_id = ack.packet_id.get();
        self.clients.journal.step(self.kept(session), Step::Completed { packet_id });
        self.moved_on(session);
        Flow::Continue
    }

    /// An exchange has ended: the next queued message may go.
    fn moved_on(&mut self, session: u32) {
        let outbound = self.clients.sessions.at(session).and_then(|own| own.outbound.as_ref());
        let waits = outbound.is_some_and(|outbound| outbound.is_waiting());
        if waits && pump::pump(&mut self.clients, session) {
            self.clients.want_pump(session);
        }
        self.want_replay(session);
    }

    /// A session's name in the log, 0 if its state is not kept there.
    fn kept(&self, session: u32) -> SessionId {
        self.clients.sessions.at(session).map_or(SessionId(0), |session| session.kept())
    }

    /// Records a step of an exchange. The position that the answer waits for.
    fn record_step(&mut self, session: u32, step: Step) -> u64 {
        let kept = self.kept(session);
        if kept == SessionId(0) {
            return 0;
        }
        self.clients.journal.step(kept, step);
        self.clients.journal.flush(&mut self.store);
        self.store.appended().0
    }

    /// Handles PINGREQ.
    //= [MQTT-3.12.4-1]
    //= 3.1.1 [MQTT-3.12.4-1]
    pub(crate) fn on_ping(&mut self, index: u32, header: &FixedHeader, body: &[u8]) -> Flow {
        let Some(conn) = self.clients.conns.at(index) else { return Flow::Stop };
        if let Err(error) = PingReq::decode(conn.version, header.flags, body) {
            return self.malformed(index, error);
        }
        self.clients.write(index, |version, out| PingResp.encode(version, out));
        Flow::Continue
    }

    /// Handles DISCONNECT.
    pub(crate) fn on_disconnect(&mut self, index: u32, header: &FixedHeader, body: &[u8]) -> Flow {
        let Some(conn) = self.clients.conns.at(index) else { return Flow::Stop };
        let (version, session) = (conn.version, conn.session);
        //= [MQTT-3.14.1-1]
        //= 3.1.1 [MQTT-3.14.1-1]
        let packet = match Disconnect::decode(version, header.flags, body) {
            Ok(packet) => packet,
            Err(error) => return self.malformed(index, error),
        };
        let expiry_max_s = self.limits.server.session_expiry_max_s;
        if let (Some(expiry_s), Version::V5) = (packet.session_expiry_s, version)
            && let Some(session) = self.clients.sessions.at_mut(session)
        {
            if session.connect_expiry_s == 0 && expiry_s > 0 {
                return self.protocol_error(index, ReasonCode::ProtocolError);
            }
            let was = session.is_persistent();
            // One that this broker has bounded to 0 ends with its connection, whatever a reload
            // allows: what it was sent is not kept.
            session.expiry_s = if was { expiry_s.min(expiry_max_s) } else { 0 };
            count_kept(&self.clients.counters, was, session.is_persistent());
        }
        self.close(index, Cause::Disconnected(packet.reason));
        Flow::Stop
    }

    /// Sends the acknowledgements whose records have become durable. True if some are left because
    /// the turn's time is used up.
    pub(crate) fn release_owed(&mut self, over: &dyn Fn() -> bool) -> bool {
        let durable = self.durable();
        let mut share = Share::new(over, RELEASES_LEAST);
        while let Some(waits) = self.owing.pop_front_if(|front| front.lsn <= durable) {
            self.release_one(waits.index, waits.generation, durable);
            if !share.go_on() {
                return true;
            }
        }
        false
    }

    fn release_one(&mut self, session_index: u32, generation: u32, durable: u64) {
        loop {
            let Some(session) = self.clients.sessions.at_mut(session_index) else { return };
            if session.generation != generation {
                return;
            }
            let Some(owed) = session.owed.as_mut() else { return };
            let Some(ack) = owed.pop_ready(durable) else { return };
            let (conn, left) = (session.conn, owed.len());
            match ack {
                OwedAck::Ack { kind, id, reason } => {
                    acked(session.inbound.as_deref_mut(), kind, id, reason);
                    self.clients.write_ack(conn, kind, id, reason);
                }
                OwedAck::SubAck { id, codes } => self.clients.write(conn, |version, out| {
                    SubAck::new(id, &codes).encode(version, out);
                }),
                OwedAck::UnsubAck { id, codes } => self.clients.write(conn, |version, out| {
                    UnsubAck::new(id, &codes).encode(version, out);
                }),
            }
            if left == OWED_MAX / 2
                && let Some(record) = self.clients.conns.at_mut(conn)
            {
                record.let_go(Held::OwedMuch);
                self.resume(conn);
            }
        }
    }
}
