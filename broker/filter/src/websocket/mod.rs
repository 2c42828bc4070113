//! WebSocket (RFC 6455), the server's side, version 13, without extensions.
//!
//! ```text
//! Request --upgrade granted--> Open --Close sent or received--> Closed
//!    +-----refused or no upgrade at all---------------------------^
//! ```
//!
//! MQTT is a stream of bytes in binary messages: frames and packets need not have anything to do
//! with each other, so a frame's payload is passed on as it comes and no frame is ever gathered.
//! What is sent in one turn is one frame, its header in front of it.
//!
//! Headers are parsed and written by tungstenite's `FrameHeader`, which works on slices and holds
//! nothing; its streams are not used, since they own a buffer per connection.

mod answer;
mod forwarded;
mod frames;
mod request;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::{End, Fault, Networks, Received};
use request::Outcome;

/// What upgrades and frames are checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The path that clients connect to, beginning with `/`.
    pub path: String,
    /// Values of `Origin` that are let in; empty = all. Clients that send none, which browsers
    /// always do, are let in.
    pub origins: Vec<String>,
    /// Who may say, by `X-Forwarded-For` or `Forwarded`, for whom it connects.
    pub trusted_proxies: Networks,
    /// The largest message in bytes, whether one frame or in fragments.
    pub message_bytes_max: u32,
}

/// One connection's WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocket {
    settings: Arc<Settings>,
    /// The request so far; later a frame's header, with a control frame's payload, that a buffer's
    /// end has cut. Empty between frames.
    held: Vec<u8>,
    /// Bytes of the data frame under way that have not come.
    left: u32,
    /// Bytes of the message under way, those announced included.
    message_bytes: u32,
    /// The frame's mask, the byte for the next payload byte first.
    mask: [u8; 4],
    stage: Stage,
    /// The peer is a proxy that is trusted.
    trusted: bool,
    /// A message has begun and its last frame has not.
    fragmented: bool,
    /// The Close that goes with the next send.
    ending: Option<End>,
}

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Request,
    Open,
    Closed,
}

/// The code that says why.
fn code_of(why: End) -> CloseCode {
    match why {
        End::Normal => CloseCode::Normal,
        End::GoingAway => CloseCode::Away,
        End::ProtocolError => CloseCode::Protocol,
        End::Policy => CloseCode::Policy,
        End::TooLarge => CloseCode::Size,
    }
}

impl WebSocket {
    pub(crate) fn new(settings: Arc<Settings>, peer: Option<SocketAddr>) -> WebSocket {
        let trusted = peer.is_some_and(|peer| settings.trusted_proxies.contain(peer.ip()));
        WebSocket {
            settings,
            held: Vec::new(),
            left: 0,
            message_bytes: 0,
            mask: [0; 4],
            stage: Stage::Request,
            trusted,
            fragmented: false,
            ending: None,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// See [`crate::Filter::receive`].
    pub(crate) fn receive(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Received, Fault> {
        let result = match self.stage {
            Stage::Request => self.request(bytes, plain, wire),
            Stage::Open => self.frames(bytes, plain, wire).map(|()| None),
            Stage::Closed => Ok(None),
        };
        match result {
            Ok(client) => {
                Ok(Received { ended: self.stage == Stage::Closed, client, ..Received::default() })
            }
            Err(fault) => {
                self.stage = Stage::Closed;
                self.held = Vec::new();
                Err(fault)
            }
        }
    }

    /// Bytes of the request; what follows it are frames. Gives the client's address if a proxy has
    /// told it.
    fn request(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Option<SocketAddr>, Fault> {
        match request::receive(&mut self.held, bytes, &self.settings, self.trusted, wire)? {
            Outcome::More => Ok(None),
            Outcome::Upgraded { used, client } => {
                self.held = Vec::new();
                self.stage = Stage::Open;
                self.frames(bytes.get_mut(used..).unwrap_or_default(), plain, wire)?;
                Ok(client)
            }
        }
    }

    /// See [`crate::Filter::send`]: one frame for all of it.
    pub(crate) fn send(&mut self, head: &mut Vec<u8>, shared: &mut Vec<(u32, Bytes)>) {
        if self.stage == Stage::Open {
            frames::wrap(head, shared);
        } else {
            // No frame may follow a Close, and none may come before the upgrade.
            head.clear();
            shared.clear();
        }
        if let Some(why) = self.ending.take() {
            if self.stage == Stage::Open {
                frames::close(Some(code_of(why)), "", head);
            }
            self.stage = Stage::Closed;
        }
    }

    /// See [`crate::Filter::end`].
    pub(crate) fn end(&mut self, why: End) {
        self.ending = Some(why);
    }
}

#[cfg(test)]
mod tests;
