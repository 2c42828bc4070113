//! Why a connection cannot go on.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// Kinds of faults, for counters and for how often they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// The peer does not speak TLS.
    NotTls,
    /// Peer and listener share no version, cipher suite, signature scheme or protocol.
    NothingInCommon,
    /// The client has shown no certificate, or none that is accepted.
    ClientCertificate,
    /// The peer has ended it with an alert: it does not like our certificate, for example.
    Alert,
    /// What came is no proper TLS, or has been tampered with.
    Protocol,
}

/// Why a connection cannot go on. An alert for the peer is among the bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub class: FaultClass,
    /// What happened, for a log.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// The first bytes of a connection are no TLS.
    pub(crate) fn not_tls(bytes: &[u8]) -> Fault {
        let what = match bytes {
            [0x10, ..] => "it speaks MQTT without TLS",
            [b'G', b'E', ..] | [b'P', b'O', ..] | [b'H', b'E', ..] => "it speaks HTTP without TLS",
            _ => "it does not speak TLS",
        };
        Fault { class: FaultClass::NotTls, text: what.to_owned() }
    }

    /// A peer that makes us hold more than a handshake takes.
    pub(crate) fn handshake_too_large(bytes: usize) -> Fault {
        let text = format!("its handshake is larger than {bytes} bytes");
        Fault { class: FaultClass::Protocol, text }
    }

    /// The certificate of a client that came back with a ticket has expired since it was checked.
    pub(crate) fn expired_since() -> Fault {
        let text = "the client's certificate has expired since its last full handshake";
        Fault { class: FaultClass::ClientCertificate, text: text.to_owned() }
    }

    /// A state that rustls does not come to with the settings in use.
    pub(crate) fn unexpected(what: &str) -> Fault {
        Fault { class: FaultClass::Protocol, text: format!("TLS: unexpected {what}") }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        let (class, text) = match &error {
            Error::NoCertificatesPresented => {
                (FaultClass::ClientCertificate, "the client shows no certificate".to_owned())
            }
            Error::InvalidCertificate(why) => (FaultClass::ClientCertificate, refused(why)),
            Error::PeerIncompatible(why) => (FaultClass::NothingInCommon, incompatible(why)),
            Error::NoApplicationProtocol => {
                let text = "the client asks for another protocol (ALPN) than is offered here";
                (FaultClass::NothingInCommon, text.to_owned())
            }
            Error::AlertReceived(alert) => (FaultClass::Alert, ended_by_client(*alert)),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                (FaultClass::NotTls, "it does not speak TLS".to_owned())
            }
            other => (FaultClass::Protocol, format!("TLS: {other}")),
        };
        Fault { class, text }
    }
}

/// What a client means by an alert.
fn ended_by_client(alert: AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown => ": it does not trust the listener's certificate",
        AlertDescription::CertificateExpired => ": the listener's certificate has expired",
        _ => "",
    };
    format!("the client has ended it with the alert {alert:?}{meaning}")
}

/// Why a client's certificate is refused.
fn refused(why: &CertificateError) -> String {
    let reason = match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet"
        }
        CertificateError::Revoked => "has been revoked",
        CertificateError::UnknownIssuer => "was not signed by the listener's client_ca",
        CertificateError::UnknownRevocationStatus => {
            "has an issuer of which there is no list of revoked certificates (crl)"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not meant for clients (extendedKeyUsage)"
        }
        CertificateError::BadSignature => "has a wrong signature",
        other => return format!("the client's certificate is refused: {other}"),
    };
    format!("the client's certificate {reason}")
}

fn incompatible(why: &PeerIncompatible) -> String {
    let what = match why {
        PeerIncompatible::NoCipherSuitesInCommon => "cipher suite",
        PeerIncompatible::NoKxGroupsInCommon => "group for the key exchange",
        PeerIncompatible::NoSignatureSchemesInCommon => "signature scheme",
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => "version of TLS",
        other => return format!("client and listener do not fit: {other:?}"),
    };
    format!("client and listener have no {what} in common")
}
