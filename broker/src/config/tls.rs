//! `[listeners.tls]`: certificates, and which clients are let in by theirs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// They are not asked for one.
    #[default]
    None,
    /// They may; one that is shown must be good.
    Optional,
    /// They must.
    Required,
}

/// TLS of one listener. Every file is in PEM unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Versions that are offered.
    pub versions: Vec<TlsVersion>,
    /// Names of the cipher suites that are offered, the preferred one first; empty = all.
    pub ciphers: Vec<String>,
    /// Whether clients get tickets with which they come back without a full handshake. Their keys
    /// change by themselves, and with every reload that changes something.
    pub session_tickets: bool,
    /// Whether clients show a certificate.
    pub client_certificates: ClientCertificates,
    /// File of those who may have signed clients' certificates; empty = none.
    pub client_ca: PathBuf,
    /// Files of revoked clients' certificates, in PEM or DER. If there are any, the issuer of every
    /// client's certificate must have a list.
    pub crl: Vec<PathBuf>,
    /// The server's certificates, chosen by the name that a client asks for (SNI); the first is
    /// for all other clients.
    pub certificates: Vec<Certificate>,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls {
            versions: vec![TlsVersion::V1_2, TlsVersion::V1_3],
            ciphers: Vec::new(),
            session_tickets: true,
            client_certificates: ClientCertificates::None,
            client_ca: PathBuf::new(),
            crl: Vec::new(),
            certificates: Vec::new(),
        }
    }
}

/// A certificate of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Certificate {
    /// File of the certificate with its issuers behind it.
    pub certificate: PathBuf,
    /// File of its private key, without a passphrase.
    pub key: PathBuf,
    /// File of an OCSP response, in DER, that is sent along; empty = none.
    pub ocsp_staple: PathBuf,
}
