//! A client of rustls' buffered kind on the other side of a [`Connection`], both in memory.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used)]

pub mod authority;

use std::io::{Read, Write};
use std::sync::Arc;

use ringtide_tls::{Acceptor, Connection, Fault, Identity, Material, Received};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};

use authority::{Authority, Pair};

pub const NAME: &str = "broker.example";
/// 2026-01-01.
pub const NOW_S: i64 = 1_767_225_600;
pub const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
pub const TLS_1_2: &[&SupportedProtocolVersion] = &[&version::TLS12];
pub const TLS_1_3: &[&SupportedProtocolVersion] = &[&version::TLS13];

pub fn identity(pair: &Pair) -> Identity {
    Identity {
        certificate: pair.certificate.clone().into_bytes(),
        key: pair.key.clone().into_bytes(),
        ocsp_response: Vec::new(),
    }
}

pub fn material(authority: &Authority) -> Material {
    let identities = vec![identity(&authority.server(&[NAME]))];
    Material { identities, tickets: true, ..Material::default() }
}

pub fn acceptor(material: &Material) -> Acceptor {
    let (acceptor, warnings) = Acceptor::new(material, NOW_S).unwrap();
    assert_eq!(warnings, []);
    acceptor
}

/// What a client is made from.
pub struct ClientSide {
    pub config: ClientConfig,
}

impl ClientSide {
    pub fn new(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&Pair>,
    ) -> ClientSide {
        let mut roots = RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap();
        roots.add(der).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain =
                    vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.resumption = Resumption::in_memory_sessions(4);
        ClientSide { config }
    }

    pub fn connect(&self, name: &str) -> ClientConnection {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        ClientConnection::new(Arc::new(self.config.clone()), name).unwrap()
    }
}

/// Both ends of a connection. What the client sends is cut into pieces of `cut` bytes.
pub struct Link {
    pub client: ClientConnection,
    pub server: Connection,
    pub cut: usize,
    /// Plaintext that the server has received.
    pub plain: Vec<u8>,
    pub ended: bool,
    pub handshakes_done: usize,
}

impl Link {
    pub fn new(acceptor: &Acceptor, client: ClientConnection) -> Link {
        Link {
            client,
            server: Connection::new(acceptor).unwrap(),
            cut: usize::MAX,
            plain: Vec::new(),
            ended: false,
            handshakes_done: 0,
        }
    }

    /// Carries bytes both ways until none are left. What the client finds wrong is the second
    /// result.
    pub fn run(&mut self) -> (Result<(), Fault>, Result<(), rustls::Error>) {
        loop {
            let mut sent = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut sent).unwrap();
            }
            if sent.is_empty() {
                return (Ok(()), Ok(()));
            }
            let mut out = Vec::new();
            let taken = self.take(&mut sent, &mut out);
            let read = self.give(&out);
            if taken.is_err() || read.is_err() {
                return (taken, read);
            }
        }
    }

    fn take(&mut self, sent: &mut [u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        for piece in sent.chunks_mut(self.cut) {
            let Received { handshake_done, ended } =
                self.server.receive(piece, &mut self.plain, out)?;
            self.handshakes_done += usize::from(handshake_done);
            self.ended |= ended;
        }
        Ok(())
    }

    /// Gives bytes of the server to the client.
    pub fn give(&mut self, mut bytes: &[u8]) -> Result<(), rustls::Error> {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            self.client.process_new_packets()?;
        }
        Ok(())
    }

    /// The handshake, without a fault on either side.
    pub fn handshake(mut self) -> Link {
        assert_eq!(self.run(), (Ok(()), Ok(())));
        assert!(!self.client.is_handshaking() && !self.server.is_handshaking());
        assert_eq!(self.handshakes_done, 1);
        self
    }

    /// Sends from the client; what the server has received of it.
    pub fn up(&mut self, data: &[u8]) -> Vec<u8> {
        let mut rest = data;
        while !rest.is_empty() {
            let written = self.client.writer().write(rest).unwrap();
            rest = &rest[written..];
            assert_eq!(self.run(), (Ok(()), Ok(())));
        }
        std::mem::take(&mut self.plain)
    }

    /// Sends from the server; what the client has received of it.
    pub fn down(&mut self, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.server.send(data, &mut out).unwrap();
        let mut received = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        let mut rest = &out[..];
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            self.client.process_new_packets().unwrap();
            while let Ok(length @ 1..) = self.client.reader().read(&mut buffer) {
                received.extend_from_slice(&buffer[..length]);
            }
        }
        received
    }
}

/// A connection of a client that is as it should be.
pub fn linked(material: &Material, side: &ClientSide) -> Link {
    Link::new(&acceptor(material), side.connect(NAME)).handshake()
}
