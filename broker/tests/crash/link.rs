//! A connection that may be lost at any moment: a kill is no failure here.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Findings;
use crate::common::{Client, Connect, Event, PATIENCE, Packet};

/// See the module's documentation.
pub(crate) struct Link {
    client: Client,
}

/// How a connection was opened, or why not.
pub(crate) enum Opened {
    /// The link, and whether the session was present.
    Link(Link, bool),
    /// Nobody listens.
    Unreachable,
    /// The connection was closed before CONNACK.
    Closed,
    /// It answered otherwise, or not at all.
    Refused(String),
}

impl Link {
    pub(crate) fn open(address: &str, connect: &Connect) -> Opened {
        let Ok(stream) = TcpStream::connect(address) else { return Opened::Unreachable };
        let mut link = Link { client: Client::on(stream, connect.version) };
        if !link.send(&connect.encode()) {
            return Opened::Closed;
        }
        match link.client.event(PATIENCE) {
            Event::Packet(Packet::ConnAck { session_present, code: 0, .. }) => {
                Opened::Link(link, session_present)
            }
            Event::Packet(other) => Opened::Refused(format!("{other:?}")),
            Event::Closed => Opened::Closed,
            Event::Nothing => Opened::Refused(format!("no CONNACK within {PATIENCE:?}")),
        }
    }

    /// Opens a connection to a broker that runs or is about to: tries until it is accepted. With
    /// `may_end` the broker may be killed at any time, and nobody listening is the end.
    pub(crate) fn open_at_last(
        address: &str,
        connect: &Connect,
        may_end: bool,
        findings: &Findings,
    ) -> Opened {
        let end = Instant::now() + PATIENCE;
        loop {
            let opened = Link::open(address, connect);
            match opened {
                Opened::Unreachable if may_end => return opened,
                Opened::Unreachable | Opened::Closed if Instant::now() < end => {}
                _ => return opened,
            }
            if !may_end {
                findings.note_retry();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends bytes; false if the connection is lost.
    #[must_use]
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.client.try_send(bytes)
    }

    /// What comes next, within a time.
    pub(crate) fn next(&mut self, wait: Duration) -> Event {
        self.client.event(wait)
    }

    pub(crate) fn version(&self) -> u8 {
        self.client.version
    }
}
