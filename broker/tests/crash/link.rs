//! A connection that may be lost at any moment: a kill is no failure here.

use std::net::TcpStream;
use std::time::Duration;

use crate::common::{Client, Connect, Event, PATIENCE, Packet};

/// See the module's documentation.
pub(crate) struct Link {
    client: Client,
}

/// How a connection was opened, or why not.
pub(crate) enum Opened {
    /// The link, and whether the session was present.
    Link(Link, bool),
    /// The broker is gone.
    Lost,
    /// It answered otherwise, or not at all.
    Refused(String),
}

impl Link {
    pub(crate) fn open(address: &str, connect: &Connect) -> Opened {
        let Ok(stream) = TcpStream::connect(address) else { return Opened::Lost };
        if stream.set_nodelay(true).is_err() {
            return Opened::Lost;
        }
        let mut link = Link { client: Client::on(stream, connect.version) };
        if !link.send(&connect.encode()) {
            return Opened::Lost;
        }
        match link.client.event(PATIENCE) {
            Event::Packet(Packet::ConnAck { session_present, code: 0, .. }) => {
                Opened::Link(link, session_present)
            }
            Event::Packet(other) => Opened::Refused(format!("{other:?}")),
            Event::Closed => Opened::Lost,
            Event::Nothing => Opened::Refused(format!("no CONNACK within {PATIENCE:?}")),
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
