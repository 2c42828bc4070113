//! Why a filter has given a connection up.

use std::borrow::Cow;
use std::fmt;

/// Kinds of faults, for counters and for how often a log tells of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The peer speaks another protocol than this listener: MQTT or TLS on a WebSocket port.
    WrongProtocol,
    /// A plain HTTP request on a WebSocket port, or an upgrade that cannot be granted.
    Upgrade,
    /// The peer broke the rules of WebSocket's frames.
    Frames,
}

impl Class {
    /// Every class, in the order of its numbers.
    pub const ALL: [Class; 3] = [Class::WrongProtocol, Class::Upgrade, Class::Frames];
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

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}
