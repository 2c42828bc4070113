//! From received bytes to packets: frames are cut out of the buffers they came in and handled in
//! place; only a frame that a buffer's end cuts is copied together, a large PUBLISH into the
//! buffer that becomes its message.

use std::mem;

use ringtide_codec::{AckKind, FixedHeader, PacketType, ReasonCode, fixed_header};
use ringtide_driver::Token;
use ringtide_storage::Store;

use crate::conn::{Cause, Frame, Held, Phase};
use crate::core::{Core, Flow};
use crate::counters::Counter;
use crate::message::HEADER_BYTES;
use crate::promise::NOTHING;

/// A PUBLISH above this many bytes is gathered in a buffer of its own.
const FRAME_OWN_BYTES: usize = 8192;
/// Most bytes of a fixed header.
const FIXED_HEADER_MAX: usize = 5;

impl<S: Store> Core<S> {
    /// MQTT bytes have come for a connection.
    pub(crate) fn on_received(&mut self, index: u32, bytes: &[u8]) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        match conn.phase {
            Phase::Closing => {}
            Phase::Connecting => self.on_connecting(index, bytes),
            Phase::Checking | Phase::Opening => conn.partial.extend_from_slice(bytes),
            Phase::Open if conn.waits() => {
                conn.partial.extend_from_slice(bytes);
                self.pause_receive(index);
            }
            Phase::Open => self.on_bytes(index, bytes),
        }
    }

    /// Bytes of an open connection.
    fn on_bytes(&mut self, index: u32, bytes: &[u8]) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        if conn.cold.as_ref().is_some_and(|cold| cold.frame.is_some()) {
            self.gather(index, bytes);
        } else if conn.partial.is_empty() {
            self.consume(index, bytes);
        } else {
            self.complete(index, bytes);
        }
        self.choke(index);
    }

    /// Handles every whole packet in `bytes`; the rest is kept.
    pub(crate) fn consume(&mut self, index: u32, bytes: &[u8]) {
        let conn = self.clients.conns.at(index);
        let (promised, metered) =
            conn.map_or((NOTHING, false), |conn| (conn.promised, conn.metered));
        if metered {
            return self.consume_metered(index, bytes);
        }
        self.consume_all(index, self.promises.of(promised).packet_bytes_max, bytes);
    }

    /// The same whatever rates its client is held to.
    pub(crate) fn consume_all(&mut self, index: u32, max: u32, mut bytes: &[u8]) {
        let mut packets = 0;
        while !bytes.is_empty() {
            //= [MQTT-3.2.2-15]
            let header = match fixed_header(bytes, max) {
                Ok(Some(header)) => header,
                Ok(None) => {
                    self.keep(index, bytes);
                    break;
                }
                Err(error) => {
                    self.malformed(index, error);
                    break;
                }
            };
            let total = header.total_len();
            let Some(frame) = bytes.get(..total) else {
                self.keep_cut(index, &header, bytes);
                break;
            };
            bytes = &bytes[total..];
            packets += 1;
            if self.dispatch(index, &header, frame) == Flow::Stop {
                self.keep(index, bytes);
                break;
            }
        }
        self.heard(index, packets);
    }

    /// Whole packets have come: the keep alive starts anew.
    fn heard(&mut self, index: u32, packets: u64) {
        let now_ms = self.clients.now_ms;
        if packets > 0 {
            self.clients.counters.add(Counter::PacketsReceived, packets);
            if let Some(conn) = self.clients.conns.at_mut(index) {
                conn.heard_ms = now_ms;
            }
        }
    }

    /// Keeps bytes that cannot be handled yet.
    pub(crate) fn keep(&mut self, index: u32, bytes: &[u8]) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        if bytes.is_empty() || conn.phase == Phase::Closing {
            return;
        }
        if conn.partial.capacity() == 0 {
            conn.partial = self.clients.pool.pop().unwrap_or_default();
        }
        conn.partial.extend_from_slice(bytes);
    }

    /// Keeps the beginning of a packet.
    fn keep_cut(&mut self, index: u32, header: &FixedHeader, bytes: &[u8]) {
        let total = header.total_len();
        if !is_gathered(header) {
            return self.keep(index, bytes);
        }
        let until = HEADER_BYTES + total;
        let mut gathered = self.large.take(until);
        gathered.resize(HEADER_BYTES, 0);
        gathered.extend_from_slice(bytes);
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        conn.cold().frame = Some(Frame { bytes: gathered, until });
        if conn.metered {
            self.charge_bytes(index, bytes.len());
        }
    }

    /// Adds to a large frame.
    fn gather(&mut self, index: u32, bytes: &[u8]) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        let Some(frame) = conn.cold.as_mut().and_then(|cold| cold.frame.as_mut()) else { return };
        let (own, rest) = bytes.split_at(bytes.len().min(frame.until - frame.bytes.len()));
        frame.bytes.extend_from_slice(own);
        let whole = frame.bytes.len() == frame.until;
        let metered = conn.metered;
        if metered {
            self.charge_bytes(index, own.len());
            if !whole && self.must_rest(index) {
                return;
            }
        }
        if !whole {
            return;
        }
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        let Some(frame) = conn.cold.as_mut().and_then(|cold| cold.frame.take()) else { return };
        let raw = frame.bytes;
        let Ok(Some(header)) = fixed_header(&raw[HEADER_BYTES..], u32::MAX) else {
            self.protocol_error(index, ReasonCode::MalformedPacket);
            return;
        };
        if metered {
            self.charge_packet(index, &header);
        }
        let flow = self.on_large_publish(index, &header, raw);
        self.heard(index, 1);
        if flow == Flow::Stop {
            self.keep(index, rest);
        } else {
            self.consume(index, rest);
        }
    }

    /// Completes the packet that a buffer's end had cut, then goes on in place.
    fn complete(&mut self, index: u32, mut bytes: &[u8]) {
        let max = self.promised(index).packet_bytes_max;
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        let mut held = mem::take(&mut conn.partial);
        loop {
            let missing = match fixed_header(&held, max) {
                // It gets a buffer of its own, with the bytes that are still to come.
                Ok(Some(header)) if is_gathered(&header) => 0,
                Ok(Some(header)) => header.total_len().saturating_sub(held.len()),
                // One byte at a time until the length is known.
                Ok(None) if held.len() < FIXED_HEADER_MAX => 1,
                Ok(None) | Err(_) => 0,
            };
            if missing == 0 {
                break;
            }
            if bytes.is_empty() {
                // Kept as it is: a packet in many pieces is copied once, not once a piece.
                if let Some(conn) = self.clients.conns.at_mut(index) {
                    conn.partial = held;
                }
                return;
            }
            let (own, rest) = bytes.split_at(missing.min(bytes.len()));
            held.extend_from_slice(own);
            bytes = rest;
        }
        self.consume(index, &held);
        held.clear();
        self.clients.recycle(held);
        if bytes.is_empty() {
            return;
        }
        let Some(conn) = self.clients.conns.at(index) else { return };
        let whole = conn.partial.is_empty()
            && !conn.waits()
            && conn.cold.as_ref().is_none_or(|cold| cold.frame.is_none());
        match conn.phase {
            Phase::Open if whole => self.consume(index, bytes),
            Phase::Open if conn.waits() => self.keep(index, bytes),
            Phase::Open => self.on_bytes(index, bytes),
            Phase::Connecting | Phase::Checking | Phase::Opening | Phase::Closing => {}
        }
    }

    /// Handles one packet.
    fn dispatch(&mut self, index: u32, header: &FixedHeader, frame: &[u8]) -> Flow {
        let body = &frame[usize::from(header.header_len)..];
        match header.packet_type {
            PacketType::Publish => self.on_publish(index, header, frame),
            PacketType::PubAck => self.on_ack(index, AckKind::PubAck, header, body),
            PacketType::PubRec => self.on_ack(index, AckKind::PubRec, header, body),
            PacketType::PubRel => self.on_ack(index, AckKind::PubRel, header, body),
            PacketType::PubComp => self.on_ack(index, AckKind::PubComp, header, body),
            PacketType::Subscribe => self.on_subscribe(index, header, body),
            PacketType::Unsubscribe => self.on_unsubscribe(index, header, body),
            PacketType::PingReq => self.on_ping(index, header, body),
            PacketType::Disconnect => self.on_disconnect(index, header, body),
            PacketType::Auth => self.on_auth(index, header, body),
            //= [MQTT-3.1.0-2]
            //= 3.1.1 [MQTT-3.1.0-2]
            PacketType::Connect
            | PacketType::ConnAck
            | PacketType::SubAck
            | PacketType::UnsubAck
            | PacketType::PingResp => self.protocol_error(index, ReasonCode::ProtocolError),
        }
    }

    /// Handles what was kept while the connection waited.
    pub(crate) fn resume(&mut self, index: u32) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        if conn.phase != Phase::Open || conn.waits() {
            return;
        }
        let held = mem::take(&mut conn.partial);
        // What came while the connection was choked may go on with a large frame.
        if conn.cold.as_ref().is_some_and(|cold| cold.frame.is_some()) {
            self.gather(index, &held);
        } else {
            self.consume(index, &held);
        }
        self.choke(index);
        let Some(conn) = self.clients.conns.at(index) else { return };
        if conn.phase == Phase::Open && !conn.waits() {
            if conn.ended {
                self.close(index, Cause::Lost);
            } else {
                self.want_receive(index);
            }
        }
    }

    /// Stops reading from a client that does not read what it is sent: acknowledgements may not
    /// pile up without end.
    pub(crate) fn choke(&mut self, index: u32) {
        let max = 2 * self.clients.write_buffer_max;
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        if conn.stalled && conn.phase == Phase::Open && conn.out_len() > max {
            if !conn.hold(Held::Choked) {
                conn.choked_s = (self.clients.now_ms / 1000) as u32;
            }
            let idle = conn.timer.is_none();
            self.pause_receive(index);
            if idle {
                // A keep alive of 0 asks for no timer, but this must end some time.
                self.arm_keep_alive(index, false);
            }
        }
    }

    /// The socket's buffer is full.
    pub(crate) fn on_stalled(&mut self, token: Token) {
        if let Some((_, conn)) = self.clients.by_token(token) {
            conn.stalled = true;
        }
    }

    /// A stalled send is complete: what has gathered since may go.
    pub(crate) fn on_sent(&mut self, token: Token) {
        let Some((index, conn)) = self.clients.by_token(token) else { return };
        conn.stalled = false;
        let choked = conn.let_go(Held::Choked);
        let session = conn.session;
        if conn.out_len() > 0 && !conn.dirty {
            conn.dirty = true;
            self.clients.dirty.push(index);
        }
        self.clients.want_pump(session);
        if choked {
            self.resume(index);
        }
    }

    /// A send has failed.
    pub(crate) fn on_lost(&mut self, token: Token) {
        if let Some((index, _)) = self.clients.by_token(token) {
            self.close(index, Cause::Lost);
        }
    }

    /// The peer has finished sending, or the socket has failed.
    pub(crate) fn on_ended(&mut self, token: Token) {
        let Some((index, conn)) = self.clients.by_token(token) else { return };
        conn.receiving = false;
        conn.pausing = false;
        // What came before the end is still handled, in its turn.
        let waits = match conn.phase {
            Phase::Open => conn.waits(),
            phase => matches!(phase, Phase::Checking | Phase::Opening),
        };
        if waits {
            conn.ended = true;
        } else {
            self.close(index, Cause::Lost);
        }
    }

    /// A receive has been stopped.
    pub(crate) fn on_stopped(&mut self, token: Token) {
        let Some((index, conn)) = self.clients.by_token(token) else { return };
        conn.receiving = false;
        conn.pausing = false;
        if !conn.waits() {
            self.want_receive(index);
        }
    }

    /// A socket is closed: its slot is free.
    pub(crate) fn on_closed(&mut self, token: Token) {
        let Some((index, conn)) = self.clients.by_token(token) else { return };
        if conn.phase != Phase::Closing {
            return;
        }
        if let Some(conn) = self.clients.conns.remove(index) {
            self.clients.counters.sub(Counter::ConnectionsOpen, 1);
            self.clients.count_listener(conn.listener, -1);
            self.promises.take_back(conn.promised);
            for mut vector in [conn.out, conn.partial] {
                vector.clear();
                if vector.capacity() > 0 {
                    self.clients.recycle(vector);
                }
            }
        }
    }
}

/// True for packets that are gathered in a buffer of their own.
fn is_gathered(header: &FixedHeader) -> bool {
    header.packet_type == PacketType::Publish && header.total_len() > FRAME_OWN_BYTES
}
