//! TLS by rustls, without I/O and without a buffer of its own: the client's side, and a bare
//! server's for the null broker. Written apart from the broker's, so that the two check each other.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConnectionData, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue, UnbufferedClientConnection,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic,
};
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup,
    RootCertStore, ServerConfig, SignatureScheme,
};

use crate::failure::Failure;

/// Plaintext bytes of a full record, and what a record adds to them at most.
const RECORD_BYTES: usize = 16 << 10;
const RECORD_OVERHEAD_BYTES: usize = 5 + 8 + 16;
/// The name that brokers' certificates are verified for.
pub(crate) const SERVER_NAME: &str = "localhost";
/// Tickets that are kept; the oldest go first.
const TICKETS_MAX: usize = 1 << 16;

/// What all connections of a client's side share.
#[derive(Clone, Debug)]
pub(crate) struct ClientSide {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    full: AtomicU64,
    resumed: AtomicU64,
}

fn unusable(error: impl fmt::Display) -> Failure {
    Failure::Option(format!("TLS: {error}"))
}

/// AES-128-GCM first, as the broker has it: all sides of a comparison use the same.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|s| s.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

impl ClientSide {
    /// Verifies servers by these authorities, in PEM; without them not at all.
    ///
    /// # Errors
    /// If there is no certificate in `ca`.
    pub(crate) fn new(ca: Option<&[u8]>, resume: bool) -> Result<ClientSide, Failure> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let mut config = match ca {
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    roots.add(certificate.map_err(unusable)?).map_err(unusable)?;
                }
                if roots.is_empty() {
                    return Err(unusable("the file of --ca holds no certificate in PEM"));
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            None => {
                let any = Arc::new(AnyCertificate(provider));
                builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth()
            }
        };
        config.resumption = if resume {
            Resumption::store(Arc::new(Tickets::default()))
        } else {
            Resumption::disabled()
        };
        let name = ServerName::try_from(SERVER_NAME).map_err(unusable)?;
        Ok(ClientSide { config: Arc::new(config), name, counts: Arc::default() })
    }

    /// A connection that is to begin.
    ///
    /// # Errors
    /// What rustls does not like of the configuration.
    pub(crate) fn connection(&self) -> Result<Tls, Error> {
        let config = Arc::clone(&self.config);
        let client = UnbufferedClientConnection::new(config, self.name.clone())?;
        Ok(Tls { side: Side::Client(Box::new(client), Arc::clone(&self.counts)), open: false })
    }

    /// Handshakes that were made: full ones, and those that a ticket has shortened.
    pub(crate) fn handshakes(&self) -> (u64, u64) {
        let Counts { full, resumed } = &*self.counts;
        (full.load(Ordering::Relaxed), resumed.load(Ordering::Relaxed))
    }
}

/// What all connections of the null broker share.
#[derive(Clone, Debug)]
pub(crate) struct ServerSide(Arc<ServerConfig>);

impl ServerSide {
    /// # Errors
    /// If certificate and key, in PEM, cannot be used.
    pub(crate) fn new(certificate: &[u8], key: &[u8]) -> Result<ServerSide, Failure> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(unusable)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain.map_err(unusable)?, key)
            .map_err(unusable)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ignore_client_order = true;
        Ok(ServerSide(Arc::new(config)))
    }

    /// A connection that has been accepted.
    ///
    /// # Errors
    /// What rustls does not like of the configuration.
    pub(crate) fn connection(&self) -> Result<Tls, Error> {
        let server = UnbufferedServerConnection::new(Arc::clone(&self.0))?;
        Ok(Tls { side: Side::Server(Box::new(server)), open: false })
    }
}

enum Side {
    Client(Box<UnbufferedClientConnection>, Arc<Counts>),
    Server(Box<UnbufferedServerConnection>),
}

/// One connection.
pub(crate) struct Tls {
    side: Side,
    open: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tls").field("open", &self.open).finish_non_exhaustive()
    }
}

/// The half of rustls that a connection is: both have the same states.
trait Records {
    type Data;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        bytes: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(bytes)
    }
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        bytes: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(bytes)
    }
}

impl Tls {
    /// Whether plaintext can be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Takes bytes in: how many are done with, and whether the peer has ended. The others must be
    /// given again with those that follow them; a client begins with none.
    ///
    /// # Errors
    /// What is wrong with the peer or its bytes.
    pub(crate) fn receive(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(usize, bool), Error> {
        let taken = match &mut self.side {
            Side::Client(client, _) => take(&mut **client, bytes, plain, out),
            Side::Server(server) => take(&mut **server, bytes, plain, out),
        }?;
        if !self.open && !self.is_handshaking() {
            self.open = true;
            self.count();
        }
        Ok(taken)
    }

    fn is_handshaking(&self) -> bool {
        match &self.side {
            Side::Client(client, _) => client.is_handshaking(),
            Side::Server(server) => server.is_handshaking(),
        }
    }

    fn count(&self) {
        if let Side::Client(client, counts) = &self.side {
            let resumed = client.handshake_kind() == Some(HandshakeKind::Resumed);
            let count = if resumed { &counts.resumed } else { &counts.full };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the handshake has agreed on.
    pub(crate) fn agreed(&self) -> String {
        let Side::Client(client, _) = &self.side else { return String::new() };
        let version = client.protocol_version().map(|v| format!("{v:?} ")).unwrap_or_default();
        let suite = client.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
        version + &suite.unwrap_or_default()
    }

    /// Appends plaintext as records; `held` are the bytes that [`Tls::receive`] has left over.
    ///
    /// # Errors
    /// If the connection is not open, or not any more.
    pub(crate) fn seal(
        &mut self,
        plain: &[u8],
        held: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        match &mut self.side {
            Side::Client(client, _) => seal(&mut **client, plain, held, out),
            Side::Server(server) => seal(&mut **server, plain, held, out),
        }
    }
}

/// Processes all that is complete in `bytes`.
fn take<R: Records>(
    records: &mut R,
    bytes: &mut [u8],
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(usize, bool), Error> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { mut discard, state } = records.process(&mut bytes[used..]);
        let mut end = None;
        match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
            }
            ConnectionState::EncodeTlsData(data) => encode(data, out)?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed | ConnectionState::Closed => end = Some(true),
            ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake => {
                end = Some(false);
            }
            other => return Err(Error::General(format!("unexpected state {other:?}"))),
        }
        used += discard;
        if let Some(ended) = end {
            return Ok((used, ended));
        }
    }
}

fn seal<R: Records>(
    records: &mut R,
    plain: &[u8],
    held: &mut [u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    // What rustls has to say itself, such as new keys, goes first.
    loop {
        let UnbufferedStatus { state, .. } = records.process(held);
        match state? {
            ConnectionState::WriteTraffic(traffic) => return write(traffic, plain, out),
            ConnectionState::EncodeTlsData(data) => encode(data, out)?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            other => return Err(Error::General(format!("unexpected state {other:?}"))),
        }
    }
}

/// One record after another, so that the room for each is still in the cache when it is filled.
fn write<Data>(
    mut traffic: WriteTraffic<'_, Data>,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    for part in plain.chunks(RECORD_BYTES) {
        let from = out.len();
        out.resize(from + part.len() + RECORD_OVERHEAD_BYTES, 0);
        let written = traffic.encrypt(part, &mut out[from..]);
        let written = written.map_err(|error| Error::General(error.to_string()))?;
        out.truncate(from + written);
    }
    Ok(())
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, out: &mut Vec<u8>) -> Result<(), Error> {
    let from = out.len();
    let room = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Ok(()),
    };
    out.resize(from + room, 0);
    let written = data.encode(&mut out[from..]);
    let written = written.map_err(|error| Error::General(error.to_string()))?;
    out.truncate(from + written);
    Ok(())
}

/// Tickets of one server: each is used once, the oldest first. rustls' own store keeps eight, and
/// more connections than that are made at once.
#[derive(Default)]
struct Tickets(Mutex<VecDeque<Tls13ClientSessionValue>>);

impl fmt::Debug for Tickets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Tickets")
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tickets.len() == TICKETS_MAX {
            tickets.pop_front();
        }
        tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// For `--insecure`: any certificate is as good as another, and signatures are not looked at.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
