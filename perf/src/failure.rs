//! Why a run could not be made.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::wire::Malformed;

/// Ends a run. What a run finds out about the broker is in its report instead.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An operating system call failed.
    Io(&'static str, io::Error),
    /// An option that makes no sense, or not with another.
    Option(String),
    /// Load goes to loopback addresses only.
    NotLoopback(SocketAddr),
    /// The broker refused a client with this CONNACK code.
    Refused(u8),
    /// The broker refused a subscription.
    SubscriptionRefused,
    /// The broker closed a connection while clients were set up.
    Closed,
    /// The broker sent what is no MQTT.
    Malformed,
    /// Nothing moved for too long.
    Stuck(&'static str),
    /// The broker under test did not start.
    Broker(String),
    /// A scenario file that is wrong, or that this host cannot run.
    Scenario(String),
    /// A transport that is not spoken.
    Transport(String),
}

impl Failure {
    /// The exit code that it ends the program with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Scenario(_) => 2,
            Self::Transport(_) => 5,
            _ => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(what, error) => write!(f, "{what}: {error}"),
            Self::Option(text) | Self::Scenario(text) | Self::Transport(text) => f.write_str(text),
            Self::NotLoopback(address) => {
                write!(f, "{address} is no loopback address; load is sent to loopback only")
            }
            Self::Refused(code) => write!(f, "the broker refused a client with code {code:#04x}"),
            Self::SubscriptionRefused => f.write_str("the broker refused a subscription"),
            Self::Closed => f.write_str("the broker closed a connection during set-up"),
            Self::Malformed => Malformed.fmt(f),
            Self::Stuck(what) => write!(f, "no progress for 10 s while {what}"),
            Self::Broker(text) => write!(f, "the broker under test: {text}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}
