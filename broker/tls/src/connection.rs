//! One connection: what arrives, at any cut, to plaintext; plaintext to what is to be sent.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{Error, HandshakeKind, ProtocolVersion};

use crate::acceptor::Acceptor;
use crate::certificate::{common_name, has_expired};
use crate::fault::Fault;
use crate::resolver::take_asked_for;

/// Bytes of a record's header.
const RECORD_HEADER_BYTES: usize = 5;
/// The first byte of a connection that speaks TLS: a handshake record.
const HANDSHAKE_RECORD: u8 = 22;
/// Bytes that a handshake may make us hold: all that an unknown peer can. A chain of a client's
/// certificates is a few thousand.
const HANDSHAKE_BYTES_MAX: usize = 32 << 10;
/// Plaintext bytes of a full record.
const RECORD_BYTES_MAX: usize = 16 << 10;
/// What a record adds to its plaintext: header, nonce, type, tag; TLS 1.2 has the most.
const RECORD_OVERHEAD_BYTES: usize = 5 + 8 + 16;

/// What has come of received bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The handshake has come to its end with these bytes.
    pub handshake_done: bool,
    /// The peer has said that it sends nothing more (`close_notify`).
    pub ended: bool,
}

/// What the handshake has agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// `TLS 1.2` or `TLS 1.3`.
    pub version: &'static str,
    /// The cipher suite's name.
    pub cipher: String,
    /// The protocol that was chosen (ALPN), if the client named any.
    pub protocol: Option<String>,
    /// The name that the client asked for (SNI).
    pub server_name: Option<Box<str>>,
    /// The common name of the client's certificate.
    pub common_name: Option<String>,
    /// The client came back with a ticket.
    pub resumed: bool,
}

/// A server's side of one TLS connection. It can be moved to another thread at any time.
pub struct Connection {
    tls: Box<UnbufferedServerConnection>,
    /// What was received of a record, or of a handshake message, that is not complete.
    held: Vec<u8>,
    server_name: Option<Box<str>>,
    /// A record has come.
    begun: bool,
    handshaking: bool,
    /// The peer has said that nothing more comes.
    ended: bool,
    /// A fault has been told: rustls must not see another byte.
    broken: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection")
            .field("held", &self.held.len())
            .field("handshaking", &self.handshaking)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection that has just been accepted.
    ///
    /// # Errors
    /// When rustls does not take the acceptor's settings.
    pub fn new(acceptor: &Acceptor) -> Result<Connection, Fault> {
        Ok(Connection {
            tls: Box::new(UnbufferedServerConnection::new(acceptor.config())?),
            held: Vec::new(),
            server_name: None,
            begun: false,
            handshaking: true,
            ended: false,
            broken: false,
        })
    }

    /// True until the handshake is done: what is received costs far more than later.
    pub fn is_handshaking(&self) -> bool {
        self.handshaking
    }

    /// True once a record has come: what comes next of the handshake costs less than the first.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// True while plaintext can be sent: behind the handshake, and before any fault.
    pub fn is_open(&self) -> bool {
        !self.handshaking && !self.broken
    }

    /// Bytes held of records that are not complete.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Takes what has arrived; it is overwritten. Plaintext is appended to `plain`, and what must
    /// be sent (handshake, alerts) to `out`, also when a fault is returned.
    ///
    /// # Errors
    /// Why the connection cannot go on; send `out` and close.
    pub fn receive(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Received, Fault> {
        if self.broken {
            return Err(Fault::unexpected("bytes behind a fault"));
        }
        if self.ended {
            // Nothing behind a close_notify counts.
            return Ok(Received { handshake_done: false, ended: true });
        }
        if !self.begun {
            match bytes.first() {
                None => return Ok(Received::default()),
                Some(&HANDSHAKE_RECORD) => self.begun = true,
                Some(_) => return Err(self.broken_by(Fault::not_tls(bytes))),
            }
        }
        let taken = if self.held.is_empty() {
            self.receive_in_place(bytes, plain, out)
        } else {
            self.receive_behind_held(bytes, plain, out)
        };
        let asked_for = if self.handshaking { take_asked_for() } else { None };
        let ended = taken.map_err(|fault| self.broken_by(fault))?;
        self.ended = ended;
        // Also later: a message of the handshake's kind may come in many records, each of them
        // padded, and rustls lets them lie until it is whole.
        if self.held.len() > HANDSHAKE_BYTES_MAX {
            return Err(self.broken_by(Fault::handshake_too_large(HANDSHAKE_BYTES_MAX)));
        }
        let handshake_done = self.handshaking && !self.tls.is_handshaking();
        if asked_for.is_some() {
            self.server_name = asked_for;
        }
        if handshake_done && self.is_resumed_in_vain() {
            return Err(self.broken_by(Fault::expired_since()));
        }
        self.handshaking &= !handshake_done;
        if self.held.is_empty() {
            self.held = Vec::new();
        }
        Ok(Received { handshake_done, ended })
    }

    /// A ticket holds the client's certificate as it was checked once, and each new ticket goes on
    /// with it: so its end is looked at here.
    fn is_resumed_in_vain(&self) -> bool {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let certificate = self.tls.peer_certificates().and_then(<[_]>::first);
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
            && certificate.is_some_and(|der| has_expired(der, since.as_secs() as i64))
    }

    fn broken_by(&mut self, fault: Fault) -> Fault {
        self.broken = true;
        fault
    }

    /// Opens records where they lie and keeps what is not complete.
    fn receive_in_place(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Fault> {
        let done = process(&mut self.tls, bytes, plain, out)?;
        self.held.extend_from_slice(&bytes[done.used..]);
        Ok(done.ended)
    }

    /// Completes what is held, then goes on in place.
    fn receive_behind_held(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Fault> {
        let mut at = 0;
        while at < bytes.len() && !self.held.is_empty() {
            let missing = missing_of_record(&self.held).unwrap_or(bytes.len());
            let until = bytes.len().min(at + missing);
            self.held.extend_from_slice(&bytes[at..until]);
            at = until;
            if missing_of_record(&self.held).is_some_and(|missing| missing > 0) {
                continue;
            }
            let done = process(&mut self.tls, &mut self.held, plain, out)?;
            self.held.drain(..done.used);
            if done.ended {
                return Ok(true);
            }
        }
        if at < bytes.len() {
            return self.receive_in_place(&mut bytes[at..], plain, out);
        }
        Ok(false)
    }

    /// Appends `plain` as records to `out`.
    ///
    /// # Errors
    /// When the handshake is not done, or the keys are used up (TLS 1.2, after 2^24 records and
    /// more).
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        if plain.is_empty() {
            return Ok(());
        }
        self.when_writable(out, |mut traffic, out| {
            let records = plain.len().div_ceil(RECORD_BYTES_MAX);
            let room = plain.len() + records * RECORD_OVERHEAD_BYTES;
            append(out, room, |to| traffic.encrypt(plain, to))
        })
    }

    /// Appends the notice that nothing more comes (`close_notify`), unless the handshake is not
    /// done: then there is nothing that could be cut off.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if self.is_open() {
            // An error means that nothing can be sent any more: then there is nothing to say.
            let _ = self.when_writable(out, |mut traffic, out| {
                append(out, RECORD_OVERHEAD_BYTES + 2, |to| traffic.queue_close_notify(to))
            });
        }
    }

    /// What the handshake has agreed on.
    pub fn peer(&self) -> Peer {
        let protocol = self.tls.alpn_protocol();
        let certificate = self.tls.peer_certificates().and_then(<[_]>::first);
        Peer {
            version: match self.tls.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
                Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
                _ => "",
            },
            cipher: self
                .tls
                .negotiated_cipher_suite()
                .map(|suite| format!("{:?}", suite.suite()))
                .unwrap_or_default(),
            protocol: protocol.map(|name| String::from_utf8_lossy(name).into_owned()),
            server_name: self.server_name.clone(),
            common_name: certificate.and_then(|der| common_name(der)),
            resumed: self.tls.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// Brings the connection to where it takes plaintext, and gives it some.
    fn when_writable(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(WriteTraffic<'_, ServerData>, &mut Vec<u8>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if self.broken {
            return Err(Fault::unexpected("plaintext behind a fault"));
        }
        loop {
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut self.held);
            match state? {
                ConnectionState::WriteTraffic(traffic) => return write(traffic, out),
                ConnectionState::EncodeTlsData(data) => encode(data, out)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => {}
                other => return Err(Fault::unexpected(&format!("{other:?} on sending"))),
            }
            self.held.drain(..discard);
        }
    }
}

type ServerData = rustls::server::ServerConnectionData;

/// What [`process`] has done.
struct Processed {
    /// Bytes that are done with.
    used: usize,
    ended: bool,
}

/// Processes all that is complete in `bytes`.
fn process(
    tls: &mut UnbufferedServerConnection,
    bytes: &mut [u8],
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<Processed, Fault> {
    let mut used = 0;
    let mut ended = false;
    loop {
        let UnbufferedStatus { mut discard, state } = tls.process_tls_records(&mut bytes[used..]);
        let mut more = true;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out)?,
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => ended = true,
            Ok(
                ConnectionState::WriteTraffic(_)
                | ConnectionState::BlockedHandshake
                | ConnectionState::Closed,
            ) => more = false,
            Ok(other) => return Err(Fault::unexpected(&format!("{other:?}"))),
            Err(error) => {
                used += discard;
                write_alert(tls, &mut bytes[used..], out);
                return Err(error.into());
            }
        }
        used += discard;
        if !more {
            // What comes behind a close_notify does not count.
            let used = if ended { bytes.len() } else { used };
            return Ok(Processed { used, ended });
        }
    }
}

/// Appends the alert that an error has brought about. The bytes are those that are left: rustls
/// has noted positions in them.
fn write_alert(tls: &mut UnbufferedServerConnection, bytes: &mut [u8], out: &mut Vec<u8>) {
    // Not once more than there is something to send: rustls would look at the bytes again.
    while tls.wants_write() {
        let UnbufferedStatus { state, .. } = tls.process_tls_records(bytes);
        let Ok(ConnectionState::EncodeTlsData(data)) = state else { return };
        if encode(data, out).is_err() {
            return;
        }
    }
}

/// Bytes that the first record lacks to be complete; `None` if its length is not known yet or it
/// is complete and was not enough.
fn missing_of_record(held: &[u8]) -> Option<usize> {
    let Some(&[_, _, _, high, low]) = held.first_chunk::<RECORD_HEADER_BYTES>() else {
        return Some(RECORD_HEADER_BYTES - held.len());
    };
    let whole = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    match whole.saturating_sub(held.len()) {
        0 => None,
        missing => Some(missing),
    }
}

fn encode(mut data: EncodeTlsData<'_, ServerData>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let from = out.len();
    let room = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        Ok(_) | Err(EncodeError::AlreadyEncoded) => 0,
    };
    out.resize(from + room, 0);
    let written = data.encode(&mut out[from..]);
    out.truncate(from + written.as_ref().copied().unwrap_or(0));
    written.map(|_| ()).map_err(|error| Fault::unexpected(&error.to_string()))
}

/// Lets `write` write at the end of `out`, with as much room as it says it needs.
fn append(
    out: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), Fault> {
    let from = out.len();
    out.resize(from + room, 0);
    let mut written = write(&mut out[from..]);
    if let Err(EncryptError::InsufficientSize(size)) = &written {
        let room = size.required_size;
        out.resize(from + room, 0);
        written = write(&mut out[from..]);
    }
    out.truncate(from + written.as_ref().copied().unwrap_or(0));
    written.map(|_| ()).map_err(|error| Fault::from(Error::General(error.to_string())))
}
