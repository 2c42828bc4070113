//! Why a filter has given a connection up.

use std::borrow::Cow;
use std::fmt;

use ringtide_tls::FaultClass;

/// Kinds of faults, for counters and for how often a log tells of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The peer speaks another protocol than this listener: MQTT or TLS on a WebSocket port.
    WrongProtocol,
    /// A plain HTTP request on a WebSocket port, or an upgrade that cannot be granted.
    Upgrade,
    /// The peer broke the rules of WebSocket's frames.
    Frames,
    /// TLS: client and listener share no version, cipher suite or protocol.
    TlsNothingInCommon,
    /// TLS: the client has shown no certificate, or none that is accepted.
    TlsClientCertificate,
    /// TLS: the client has ended the connection with an alert.
    TlsAlert,
    /// TLS: what came is no proper TLS, or was tampered with.
    TlsProtocol,
    /// A PROXY header is broken, or did not come in time.
    ProxyHeader,
    /// A connection from an address that is no trusted proxy, where only proxies may connect.
    ProxyUntrusted,
    /// The client's address is not let in.
    Address,
    /// More connections a second than the listener takes.
    ConnectRate,
}

impl Class {
    /// Every class, in the order of its numbers.
    pub const ALL: [Class; 11] = [
        Class::WrongProtocol,
        Class::Upgrade,
        Class::Frames,
        Class::TlsNothingInCommon,
        Class::TlsClientCertificate,
        Class::TlsAlert,
        Class::TlsProtocol,
        Class::ProxyHeader,
        Class::ProxyUntrusted,
        Class::Address,
        Class::ConnectRate,
    ];
}

/// Why a filter has given a connection up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of fault.
    pub class: Class,
    /// What happened and what would be right, in one line.
    pub text: Cow<'static, str>,
}

impl Fault {
    /// A fault with its text.
    pub fn new(class: Class, text: impl Into<Cow<'static, str>>) -> Fault {
        Fault { class, text: text.into() }
    }
}

impl From<ringtide_tls::Fault> for Fault {
    fn from(fault: ringtide_tls::Fault) -> Fault {
        let class = match fault.class {
            FaultClass::NotTls => {
                let text = format!("{}, and this listener has nothing else", fault.text);
                return Fault::new(Class::WrongProtocol, text);
            }
            FaultClass::NothingInCommon => Class::TlsNothingInCommon,
            FaultClass::ClientCertificate => Class::TlsClientCertificate,
            FaultClass::Alert => Class::TlsAlert,
            FaultClass::Protocol => Class::TlsProtocol,
        };
        Fault::new(class, fault.text)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}
