//! A connection: socket, bytes on their way in and out. Knows no subscription and no session
//! state; a slot is used again under a new generation.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use bytes::{Bytes, BytesMut};
use ringtide_codec::{ReasonCode, Version};
use ringtide_driver::{Socket, Token};
use ringtide_filter::Filter;
use ringtide_session::{AliasIn, AliasOut, keepalive};

use crate::park::Parked;
use crate::promise::NOTHING;
use crate::timer::TimerId;

/// No session, no connection.
pub(crate) const NONE: u32 = u32::MAX;

/// Where a connection stands.
///
/// ```text
///      Checking
///        |  ^
///        v  |
/// --> Connecting -> Opening -> Open -> Closing
///        |  |                             ^
///        |  +-> (handed over: slot freed) |
///        +--------------------------------+
/// ```
///
/// Every phase but the last may end in Closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The CONNECT has not come whole, or an authentication exchange goes on.
    Connecting,
    /// The CONNECT has come, and its password is being judged elsewhere.
    Checking,
    /// At its client's home; the CONNACK waits until the session's record is durable.
    Opening,
    /// CONNACK sent.
    Open,
    /// Told to close; nothing is read or written any more.
    Closing,
}

/// Why received packets wait in their connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Held {
    /// Until the client reads what it was sent.
    Choked = 1,
    /// Until the log has caught up with what the client is owed.
    OwedMuch = 2,
    /// Until the client is within its rates again.
    Resting = 4,
}

/// Parts that few connections need.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    /// Client to server topic aliases.
    pub(crate) alias_in: Option<AliasIn>,
    /// Server to client topic aliases.
    pub(crate) alias_out: Option<AliasOut>,
    /// A publish or subscribe that waits for room or for a verdict.
    pub(crate) parked: Option<Parked>,
    /// Large payloads spliced into the output, by position.
    pub(crate) shared: Vec<(u32, Bytes)>,
    /// A frame that is larger than a received buffer, with room for a message header before it.
    pub(crate) frame: Option<Frame>,
    /// Enhanced authentication.
    pub(crate) auth: Option<Box<crate::auth::Exchange>>,
    /// The CONNECT packet, kept while its authentication goes on.
    pub(crate) connect: Vec<u8>,
    /// What the filter itself has to send, as it goes on the wire: before all that is in `out`.
    pub(crate) wire: Vec<u8>,
}

/// A large frame that is being gathered.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Room for a message header, then the frame from its first byte.
    pub(crate) bytes: BytesMut,
    /// Length of `bytes` when the frame is whole.
    pub(crate) until: usize,
}

/// A peer's address in 16 bytes: most clients come over IPv4.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// A Unix socket has none.
    None,
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl Peer {
    /// An IPv4 address in its mapped form, as a listener on `[::]` sees it, is taken for what it
    /// is.
    pub(crate) fn new(address: Option<SocketAddr>) -> Peer {
        match address.map(|own| SocketAddr::new(own.ip().to_canonical(), own.port())) {
            None => Peer::None,
            Some(SocketAddr::V4(address)) => Peer::V4(address),
            Some(SocketAddr::V6(address)) => Peer::V6(Box::new(address)),
        }
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Peer::None => None,
            Peer::V4(address) => Some(SocketAddr::V4(*address)),
            Peer::V6(address) => Some(SocketAddr::V6(**address)),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::None => out.write_str("unix"),
            Peer::V4(address) => address.fmt(out),
            Peer::V6(address) => address.fmt(out),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) socket: Socket,
    pub(crate) generation: u32,
    /// The session's number, or NONE.
    pub(crate) session: u32,
    pub(crate) listener: u16,
    pub(crate) phase: Phase,
    pub(crate) version: Version,
    /// A send is under way that the socket's buffer could not take.
    pub(crate) stalled: bool,
    /// In the shard's list of connections with output.
    pub(crate) dirty: bool,
    /// A multishot receive is under way.
    pub(crate) receiving: bool,
    /// A stop of the receive has been asked for.
    pub(crate) pausing: bool,
    /// Why its packets wait: a bit for each [`Held`].
    held: u8,
    /// Its client is held to rates.
    pub(crate) metered: bool,
    /// The peer has finished sending: close once what it sent is handled.
    pub(crate) ended: bool,
    /// Reason strings and user properties are welcome (Request Problem Information).
    pub(crate) problem_information: bool,
    /// What its client was told in CONNACK, by number.
    pub(crate) promised: u16,
    /// Keep alive in force, in seconds, 0 = none.
    pub(crate) keep_alive_s: u16,
    /// The client's Maximum Packet Size.
    pub(crate) packet_max: u32,
    /// When it was choked last, in seconds since the epoch.
    pub(crate) choked_s: u32,
    /// When the last packet came.
    pub(crate) heard_ms: u64,
    pub(crate) timer: Option<TimerId>,
    pub(crate) peer: Peer,
    /// Received bytes that are not handled yet: a frame cut by a buffer's end, a CONNECT whose
    /// password is being judged, or all that came while the connection was parked.
    pub(crate) partial: Vec<u8>,
    /// Bytes to send in this turn.
    pub(crate) out: Vec<u8>,
    pub(crate) cold: Option<Box<Cold>>,
    /// What its bytes go through; none for plain TCP.
    pub(crate) filter: Option<Box<Filter>>,
}

impl Conn {
    pub(crate) fn new(
        socket: Socket,
        generation: u32,
        listener: u16,
        peer: Option<SocketAddr>,
        now_ms: u64,
    ) -> Conn {
        Conn {
            socket,
            generation,
            session: NONE,
            listener,
            phase: Phase::Connecting,
            version: Version::V3_1_1,
            stalled: false,
            dirty: false,
            receiving: false,
            pausing: false,
            held: 0,
            metered: false,
            ended: false,
            problem_information: true,
            promised: NOTHING,
            keep_alive_s: 0,
            packet_max: u32::MAX,
            choked_s: 0,
            heard_ms: now_ms,
            timer: None,
            peer: Peer::new(peer),
            partial: Vec::new(),
            out: Vec::new(),
            cold: None,
            filter: None,
        }
    }

    pub(crate) fn token(&self, index: u32) -> Token {
        Token((u64::from(self.generation & 0x00ff_ffff) << 32) | u64::from(index))
    }

    pub(crate) fn cold(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    /// True while a publish or subscribe of this connection waits: later packets wait behind it.
    pub(crate) fn is_parked(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.parked.is_some())
    }

    /// True while received packets must wait.
    pub(crate) fn waits(&self) -> bool {
        self.held != 0 || self.is_parked()
    }

    /// Lets received packets wait. True if they waited for that before.
    pub(crate) fn hold(&mut self, why: Held) -> bool {
        let before = self.is_held(why);
        self.held |= why as u8;
        before
    }

    /// Received packets need not wait for that any more. True if they did.
    pub(crate) fn let_go(&mut self, why: Held) -> bool {
        let before = self.is_held(why);
        self.held &= !(why as u8);
        before
    }

    fn is_held(&self, why: Held) -> bool {
        self.held & why as u8 != 0
    }

    /// When a client that does not read is given up: its keep alive is not held against it while
    /// its packets wait, but only so much longer.
    pub(crate) fn choked_until_ms(&self, choked_max_ms: u64) -> Option<u64> {
        let keep_alive_ms = keepalive::timeout_ms(self.keep_alive_s).unwrap_or(0);
        self.is_held(Held::Choked)
            .then(|| u64::from(self.choked_s) * 1000 + keep_alive_ms + choked_max_ms)
    }

    pub(crate) fn alias_out(&mut self) -> Option<&mut AliasOut> {
        self.cold.as_mut()?.alias_out.as_mut()
    }

    /// Bytes that wait to be written.
    pub(crate) fn out_len(&self) -> usize {
        let cold = self.cold.as_ref().map_or(0, |cold| {
            cold.wire.len() + cold.shared.iter().map(|(_, part)| part.len()).sum::<usize>()
        });
        self.out.len() + cold
    }

    /// Frees the cold parts when none of them is in use.
    pub(crate) fn trim(&mut self) {
        let idle = self.cold.as_ref().is_some_and(|cold| {
            cold.alias_in.is_none()
                && cold.alias_out.is_none()
                && cold.parked.is_none()
                && cold.shared.is_empty()
                && cold.frame.is_none()
                && cold.auth.is_none()
                && cold.wire.is_empty()
        });
        if idle {
            self.cold = None;
        }
    }
}

/// The connection's index in a token; the generation is checked by the caller.
pub(crate) fn index_of(token: Token) -> (u32, u32) {
    (token.0 as u32, (token.0 >> 32) as u32)
}

/// Why a connection is closed by the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The peer or the network ended it.
    Lost,
    /// The client sent DISCONNECT with this code.
    Disconnected(ReasonCode),
    /// The broker ends it with this code, which MQTT 5 clients are told.
    Told(ReasonCode),
    /// The client does not read what it was sent, so that it cannot be told anything.
    Choked,
}
