//! What a listener's TLS is made from, and what can be wrong with it.

use std::fmt;

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for one.
    #[default]
    None,
    /// They may; one that is shown must be good.
    Optional,
    /// They must.
    Required,
}

/// Versions of TLS that are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// TLS 1.2.
    pub v1_2: bool,
    /// TLS 1.3.
    pub v1_3: bool,
}

impl Default for Versions {
    fn default() -> Versions {
        Versions { v1_2: true, v1_3: true }
    }
}

/// A certificate of the server with its key, as the bytes of their files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The certificate in PEM, its issuers behind it.
    pub certificate: Vec<u8>,
    /// The private key in PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: Vec<u8>,
    /// An OCSP response in DER that goes out with the certificate; empty = none.
    pub ocsp_response: Vec<u8>,
}

/// All that a listener's TLS is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Material {
    /// Chosen by the name that a client asks for (SNI); the first is for all other clients.
    pub identities: Vec<Identity>,
    /// Whether clients show a certificate.
    pub client_certificates: ClientCertificates,
    /// Who may have signed clients' certificates, in PEM.
    pub client_ca: Vec<u8>,
    /// Lists of revoked clients' certificates, each in PEM or DER. Where one is given, the issuer
    /// of every client's certificate must have one.
    pub crls: Vec<Vec<u8>>,
    /// Versions that are offered.
    pub versions: Versions,
    /// Cipher suites that are offered, by name (see [`crate::cipher_names`]), the preferred one
    /// first; empty = all, AES with 128 bits first.
    pub ciphers: Vec<String>,
    /// Whether clients get tickets with which they come back without a full handshake.
    pub tickets: bool,
    /// Protocols (ALPN) that are offered. A client that names protocols must name one of these; one
    /// that names none is let in. Empty = no such choice.
    pub protocols: Vec<Vec<u8>>,
}

/// Which part of a [`Material`] is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The certificate of an identity.
    Certificate(usize),
    /// The key of an identity.
    Key(usize),
    /// The list of identities.
    Identities,
    /// `client_ca`.
    ClientCa,
    /// One of the lists of revoked certificates.
    Crl(usize),
    /// `versions`.
    Versions,
    /// `ciphers`.
    Ciphers,
    /// None in particular.
    Whole,
}

/// What is wrong with a [`Material`], or only should be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub part: Part,
    /// What, and what to do; reads on from the part's name.
    pub text: String,
}

impl Problem {
    pub(crate) fn new(part: Part, text: impl Into<String>) -> Problem {
        Problem { part, text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            Part::Certificate(index) => write!(out, "certificate {index}: {}", self.text),
            Part::Key(index) => write!(out, "key {index}: {}", self.text),
            Part::Crl(index) => write!(out, "revocation list {index}: {}", self.text),
            Part::ClientCa => write!(out, "client CA: {}", self.text),
            Part::Identities => write!(out, "certificates: {}", self.text),
            Part::Versions => write!(out, "versions: {}", self.text),
            Part::Ciphers => write!(out, "ciphers: {}", self.text),
            Part::Whole => out.write_str(&self.text),
        }
    }
}

impl std::error::Error for Problem {}
