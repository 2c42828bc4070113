//! Connections whose bytes go through a filter: PROXY headers, TLS, WebSocket. Nothing here runs
//! for plain TCP.
//!
//! What arrives is filtered at once, whatever the connection waits for: all that lies unread in a
//! connection is MQTT. What leaves is MQTT until its turn's flush, so every limit counts the same
//! bytes for all transports; what a filter itself has to say is kept apart and goes first.
//!
//! A TLS handshake costs as much as hundreds of packets. Its bytes are set aside when they come and
//! are worked on by a step of the turn (`shake_hands`) that has a budget of its own: packets of
//! those who are connected never wait behind a storm of handshakes. While a connection's handshake
//! goes on its bytes are received one buffer at a time, so one buffer waits at most.

use std::collections::{HashMap, VecDeque};
use std::mem;

use ringtide_codec::ReasonCode;
use ringtide_driver::{BufferId, Driver, Outgoing, Token};
use ringtide_filter::{Class, End, Fault, Filter, Scratch, proxy};
use ringtide_storage::Store;

use crate::clients::prepare;
use crate::conn::{Cause, Conn, Peer, Phase};
use crate::core::Core;
use crate::counters::Counter;
use crate::log_pace::LogPace;

/// Most bytes of a filter's own, pongs above all, that wait for a client which does not read and
/// whose CONNECT has not come. From then on it counts as output that is not read. A handshake's
/// answer may be longer, and goes out in one piece.
const WIRE_CONNECTING_MAX: usize = 16 << 10;

/// What all filters of a shard share.
#[derive(Debug, Default)]
pub(crate) struct Filtering {
    /// Results, to be used again.
    scratch: Scratch,
    /// How often faults of each class are logged.
    faults: [LogPace; Class::ALL.len()],
    /// Received bytes of TLS handshakes that have begun and wait for their share of a turn.
    begun: VecDeque<(Token, Vec<u8>)>,
    /// First bytes of TLS handshakes, which come behind those: what has cost something is finished
    /// first, or in a storm no handshake would be done before its deadline.
    handshakes: VecDeque<(Token, Vec<u8>)>,
    /// User names that proxies vouch for, of connections whose CONNECT has not come.
    names: HashMap<Token, Box<str>>,
}

impl Filtering {
    /// Handshakes that wait.
    fn waiting(&self) -> usize {
        self.begun.len() + self.handshakes.len()
    }

    fn next_handshake(&mut self) -> Option<(Token, Vec<u8>)> {
        self.begun.pop_front().or_else(|| self.handshakes.pop_front())
    }

    /// Keeps the user name of a connection until its CONNECT has come.
    pub(crate) fn name(&mut self, token: Token, name: Box<str>) {
        self.names.insert(token, name);
    }

    /// The user name that a connection's proxy vouches for.
    pub(crate) fn named(&self, token: Token) -> Option<&str> {
        self.names.get(&token).map(|name| &**name)
    }

    /// The same, to be kept no longer.
    pub(crate) fn take_name(&mut self, token: Token) -> Option<Box<str>> {
        self.names.remove(&token)
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
    /// The filter says goodbye with what is sent next.
    pub(crate) fn end_filter(&mut self, cause: Cause) {
        if let Some(filter) = &mut self.filter {
            filter.end(cause.end());
        }
    }

    /// Turns a turn's output into what goes on the wire. After a fault there is nothing that could
    /// be sent.
    pub(crate) fn filter_out(
        &mut self,
        data: &mut Outgoing,
        filtering: &mut Filtering,
    ) -> Result<(), Fault> {
        let Some(filter) = &mut self.filter else { return Ok(()) };
        filter.send(&mut data.head, &mut data.shared, &mut filtering.scratch)?;
        let Some(cold) = &mut self.cold else { return Ok(()) };
        if cold.wire.is_empty() {
            return Ok(());
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
        Ok(())
    }
}

/// What a client that does not speak MQTT seems to speak, on a listener of plain TCP.
pub(crate) fn foreign(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x16, 0x03, ..] => Some(
            "a TLS handshake came to a listener without TLS: let the client use another port, or \
             none of its TLS options",
        ),
        _ if proxy::is_header(bytes) => Some(
            "a PROXY header came to a listener without proxy_protocol: set it there if the sender \
             is a proxy of yours, and name that in trusted_proxies",
        ),
        [b'G', b'E', b'T', b' ', ..] => {
            Some("an HTTP request came to a listener of MQTT over TCP: WebSocket has another port")
        }
        _ => None,
    }
}

impl<S: Store> Core<S> {
    /// Puts a new connection behind its listener's filter, if that has one.
    pub(crate) fn filter_by_listener(&mut self, index: u32, listener: u16) -> Result<(), Fault> {
        if let (Some(layers), Some(conn)) =
            (self.limits.layers(listener), self.clients.conns.at_mut(index))
        {
            conn.filter = Filter::new(layers, conn.peer.address())?;
        }
        Ok(())
    }

    /// Bytes have come for a connection.
    pub(crate) fn on_buffer<D: Driver>(&mut self, io: &mut D, token: Token, buffer: BufferId) {
        self.clients.counters.add(Counter::BytesReceived, u64::from(buffer.len));
        let Some((index, conn)) = self.clients.by_token(token) else { return };
        if conn.filter.is_none() {
            return self.on_received(index, io.bytes(buffer));
        }
        self.on_filtered_wire(index, token, io.bytes_mut(buffer));
    }

    /// Bytes of a connection that began with a PROXY header: what its filter lies over now.
    pub(crate) fn on_wire(&mut self, index: u32, token: Token, bytes: &mut [u8]) {
        match self.clients.conns.at(index).map(|conn| conn.filter.is_some()) {
            Some(true) => self.on_filtered_wire(index, token, bytes),
            Some(false) => self.on_received(index, bytes),
            None => {}
        }
    }

    /// Bytes for a connection's filter have come.
    fn on_filtered_wire(&mut self, index: u32, token: Token, bytes: &mut [u8]) {
        let filter = self.clients.conns.at(index).and_then(|conn| conn.filter.as_ref());
        if let Some(filter) = filter.filter(|filter| filter.is_handshaking()) {
            let begun = filter.has_begun_handshake();
            let Filtering { begun: second, handshakes: first, .. } = &mut self.clients.filtering;
            let queue = if begun { second } else { first };
            queue.push_back((token, bytes.to_vec()));
            return;
        }
        let mut scratch = mem::take(&mut self.clients.filtering.scratch);
        self.on_filtered(index, token, bytes, &mut scratch);
        scratch.clear();
        self.clients.filtering.scratch = scratch;
    }

    /// Goes on with TLS handshakes until `over`, with one at least. True if some are left.
    pub(crate) fn shake_hands(&mut self, over: &dyn Fn() -> bool) -> bool {
        if self.clients.filtering.waiting() == 0 {
            return false;
        }
        let mut scratch = mem::take(&mut self.clients.filtering.scratch);
        while let Some((token, mut bytes)) = self.clients.filtering.next_handshake() {
            if let Some(index) = self.begins_in_time(token) {
                self.on_filtered(index, token, &mut bytes, &mut scratch);
                scratch.clear();
            }
            if over() {
                break;
            }
        }
        self.clients.filtering.scratch = scratch;
        let waiting = self.clients.filtering.waiting();
        self.clients.counters.set(Counter::TlsWaiting, waiting as u64);
        waiting > 0
    }

    /// The connection of a handshake's bytes, if it is still there. One that has waited for half of
    /// its time before it could begin is closed: the other half would be spent in vain, too.
    fn begins_in_time(&mut self, token: Token) -> Option<u32> {
        let now_ms = self.clients.now_ms;
        let (index, conn) = self.clients.by_token(token)?;
        let begun = conn.filter.as_ref().is_some_and(|filter| filter.has_begun_handshake());
        let accepted_ms = conn.heard_ms;
        let timeout_ms = self.limits.listener(conn.listener).connect_timeout_ms;
        if !begun && now_ms > accepted_ms + timeout_ms / 2 {
            self.close(index, Cause::Lost);
            return None;
        }
        Some(index)
    }

    /// A TLS handshake is done.
    fn on_handshake_done(&self, index: u32) {
        let Some(conn) = self.clients.conns.at(index) else { return };
        let Some(tls) = conn.filter.as_ref().and_then(|filter| filter.peer()) else { return };
        self.clients.counters.add(Counter::TlsHandshakes, 1);
        self.clients.counters.add(Counter::TlsResumed, u64::from(tls.resumed));
        tracing::debug!(
            listener = self.limits.listener_name(conn.listener),
            peer = %conn.peer,
            version = tls.version,
            cipher = tls.cipher,
            server_name = tls.server_name.as_deref().unwrap_or(""),
            protocol = tls.protocol.as_deref().unwrap_or(""),
            certificate = tls.common_name.as_deref().unwrap_or(""),
            resumed = tls.resumed,
            "TLS handshake done"
        );
    }

    #[inline(never)]
    fn on_filtered(&mut self, index: u32, token: Token, bytes: &mut [u8], scratch: &mut Scratch) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        if conn.phase == Phase::Closing {
            return;
        }
        let Some(filter) = conn.filter.as_mut() else { return };
        let mut result = filter.receive(bytes, scratch);
        if let Ok(received) = &mut result {
            if let Some((used, told)) = received.proxied.take() {
                conn.filter = None;
                let rest = bytes.get_mut(used..).unwrap_or_default();
                return self.on_proxied(index, token, *told, rest);
            }
            if let Some(client) = received.client {
                conn.peer = Peer::new(Some(client));
            }
        }
        if !scratch.wire.is_empty() {
            prepare(conn, index, &mut self.clients.dirty, &mut self.clients.pool);
            conn.cold().wire.extend_from_slice(&scratch.wire);
        }
        let connecting = conn.phase == Phase::Connecting;
        if result.as_ref().is_ok_and(|received| received.handshake_done) {
            self.on_handshake_done(index);
        }
        // While it connects, bytes are asked for one buffer at a time: also if these were no MQTT.
        if connecting || !scratch.plain.is_empty() {
            self.on_received(index, &scratch.plain);
        } else {
            self.choke(index);
        }
        // The packets may have ended the connection, or taken it to another shard.
        let Some((index, conn)) = self.clients.by_token(token) else { return };
        match result {
            Err(fault) => self.on_fault(index, &fault),
            Ok(received) if received.ended => {
                self.pause_receive(index);
                self.on_ended(token);
            }
            Ok(_) => {
                let wire = conn.cold.as_ref().map_or(0, |cold| cold.wire.len());
                let unread = conn.phase == Phase::Connecting && conn.stalled;
                if unread && wire > WIRE_CONNECTING_MAX {
                    self.close(index, Cause::Lost);
                }
            }
        }
    }

    /// A filter has given a connection up, or it began with another protocol's bytes.
    pub(crate) fn on_fault(&mut self, index: u32, fault: &Fault) {
        let counter = match fault.class {
            Class::WrongProtocol => Counter::WrongProtocol,
            Class::Upgrade => Counter::UpgradesRefused,
            Class::Frames => Counter::WebSocketErrors,
            Class::TlsNothingInCommon => Counter::TlsNothingInCommon,
            Class::TlsClientCertificate => Counter::TlsClientCertificate,
            Class::TlsAlert => Counter::TlsAlerts,
            Class::TlsProtocol => Counter::TlsErrors,
            Class::ProxyHeader => Counter::ProxyErrors,
            Class::ProxyUntrusted => Counter::ProxyUntrusted,
            Class::Address => Counter::AddressesRefused,
            Class::ConnectRate => Counter::ConnectRateRefused,
        };
        self.clients.counters.add(counter, 1);
        let now_ms = self.clients.now_ms;
        if let Some(silent) = self.clients.filtering.faults[fault.class as usize].due(now_ms)
            && let Some(conn) = self.clients.conns.at(index)
        {
            let listener = self.limits.listener_name(conn.listener);
            let peer = tracing::field::display(&conn.peer);
            let not_logged = (silent > 0).then_some(silent);
            tracing::warn!(listener, peer, not_logged, "connection closed: {fault}");
        }
        self.close(index, Cause::Lost);
    }
}
