//! Connections whose bytes go through a filter: WebSocket. Nothing here runs for plain TCP.
//!
//! What arrives is filtered at once, whatever the connection waits for: all that lies unread in a
//! connection is MQTT. What leaves is MQTT until its turn's flush, so every limit counts the same
//! bytes for all transports; what a filter itself has to say is kept apart and goes first.

use std::mem;

use ringtide_codec::ReasonCode;
use ringtide_driver::{BufferId, Driver, Outgoing, Token};
use ringtide_filter::{Class, End, Fault, Filter, Layers, Received, Scratch};
use ringtide_storage::Store;

use crate::clients::prepare;
use crate::conn::{Cause, Conn, Peer, Phase};
use crate::core::Core;
use crate::counters::Counter;

/// Most bytes of a filter's own, pongs above all, that wait for a client whose CONNECT has not
/// come. From then on it counts as output that is not read.
const WIRE_CONNECTING_MAX: usize = 16 << 10;
/// Milliseconds between two log lines about faults of one class.
const FAULT_LOG_MS: u64 = 1000;

/// What all filters of a shard share.
#[derive(Debug, Default)]
pub(crate) struct Filtering {
    /// Results, to be used again.
    scratch: Scratch,
    /// By class of fault: before when none is logged again, and how many have not been since.
    faults: [(u64, u64); Class::ALL.len()],
}

impl Filtering {
    /// How many faults of its class a line that is due now also stands for; `None` if none is due.
    fn due(&mut self, class: Class, now_ms: u64) -> Option<u64> {
        let (next_ms, silent) = &mut self.faults[class as usize];
        if now_ms < *next_ms {
            *silent += 1;
            return None;
        }
        *next_ms = now_ms + FAULT_LOG_MS;
        Some(mem::take(silent))
    }
}

impl Cause {
    /// What a filter tells the peer.
    fn end(self) -> End {
        match self {
            Cause::Lost | Cause::Choked | Cause::Disconnected(_) => End::Normal,
            Cause::Told(code) => match code {
                ReasonCode::ServerShuttingDown
                | ReasonCode::UseAnotherServer
                | ReasonCode::ServerMoved => End::GoingAway,
                ReasonCode::MalformedPacket | ReasonCode::ProtocolError => End::ProtocolError,
                ReasonCode::PacketTooLarge => End::TooLarge,
                _ => End::Policy,
            },
        }
    }
}

impl Conn {
    /// Puts a connection behind its listener's filter, if that has one.
    pub(crate) fn filter_by(&mut self, layers: &Layers) {
        self.filter = Filter::new(layers, self.peer.address());
    }

    /// The filter says goodbye with what is sent next.
    pub(crate) fn end_filter(&mut self, cause: Cause) {
        if let Some(filter) = &mut self.filter {
            filter.end(cause.end());
        }
    }

    /// Turns a turn's output into what goes on the wire.
    pub(crate) fn filter_out(&mut self, data: &mut Outgoing) {
        let Some(filter) = &mut self.filter else { return };
        filter.send(&mut data.head, &mut data.shared);
        let Some(cold) = &mut self.cold else { return };
        if cold.wire.is_empty() {
            return;
        }
        let mut first = mem::take(&mut cold.wire);
        for (position, _) in &mut data.shared {
            *position += first.len() as u32;
        }
        first.append(&mut data.head);
        mem::swap(&mut first, &mut data.head);
        if self.phase == Phase::Open {
            self.trim();
        }
    }
}

impl<S: Store> Core<S> {
    /// Bytes have come for a connection.
    pub(crate) fn on_buffer<D: Driver>(&mut self, io: &mut D, token: Token, buffer: BufferId) {
        self.clients.counters.add(Counter::BytesReceived, u64::from(buffer.len));
        let Some((index, conn)) = self.clients.by_token(token) else { return };
        if conn.filter.is_none() {
            return self.on_received(index, io.bytes(buffer));
        }
        let mut scratch = mem::take(&mut self.clients.filtering.scratch);
        self.on_filtered(index, token, io.bytes_mut(buffer), &mut scratch);
        scratch.clear();
        self.clients.filtering.scratch = scratch;
    }

    #[inline(never)]
    fn on_filtered(&mut self, index: u32, token: Token, bytes: &mut [u8], scratch: &mut Scratch) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        if conn.phase == Phase::Closing {
            return;
        }
        let Some(filter) = conn.filter.as_mut() else { return };
        let result = filter.receive(bytes, scratch);
        if let Ok(Received { client: Some(client), .. }) = result {
            conn.peer = Peer::new(Some(client));
        }
        if !scratch.wire.is_empty() {
            prepare(conn, index, &mut self.clients.dirty, &mut self.clients.pool);
            conn.cold().wire.extend_from_slice(&scratch.wire);
        }
        // While it connects, bytes are asked for one buffer at a time: also if these were no MQTT.
        if conn.phase == Phase::Connecting || !scratch.plain.is_empty() {
            self.on_received(index, &scratch.plain);
        } else {
            self.choke(index);
        }
        // The packets may have ended the connection, or taken it to another shard.
        let Some((index, conn)) = self.clients.by_token(token) else { return };
        match result {
            Err(fault) => self.on_fault(index, &fault),
            Ok(received) if received.ended => self.on_ended(token),
            Ok(_) => {
                let wire = conn.cold.as_ref().map_or(0, |cold| cold.wire.len());
                if conn.phase == Phase::Connecting && wire > WIRE_CONNECTING_MAX {
                    self.close(index, Cause::Lost);
                }
            }
        }
    }

    /// A filter has given a connection up.
    fn on_fault(&mut self, index: u32, fault: &Fault) {
        let counter = match fault.class {
            Class::WrongProtocol => Counter::WrongProtocol,
            Class::Upgrade => Counter::UpgradesRefused,
            Class::Frames => Counter::WebSocketErrors,
        };
        self.clients.counters.add(counter, 1);
        let now_ms = self.clients.now_ms;
        if let Some(silent) = self.clients.filtering.due(fault.class, now_ms)
            && let Some(conn) = self.clients.conns.at(index)
        {
            let listener = self.limits.listener_name(conn.listener);
            let peer = conn.peer.address().map(tracing::field::display);
            let not_logged = (silent > 0).then_some(silent);
            tracing::warn!(listener, peer, not_logged, "connection closed: {fault}");
        }
        self.close(index, Cause::Lost);
    }
}
