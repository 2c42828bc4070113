//! What lies between a socket's bytes and MQTT's: PROXY headers, TLS, WebSocket. No I/O, no clock,
//! no MQTT, no shard.
//!
//! A connection holds a [`Filter`], boxed, or none when its bytes are MQTT's own. Whatever arrives
//! goes through [`Filter::receive`], whatever leaves through [`Filter::send`], and
//! [`Filter::end`] says goodbye. A filter is moved as it is when its connection goes to another
//! shard: all that it has not passed on is inside it.
//!
//! Layers lie over each other: the one nearest to the socket (TLS) is first when bytes arrive and
//! last when they leave. A PROXY header comes before all of them: a filter that waits for one
//! ([`Filter::behind_proxy`]) passes nothing on, and gives way to the layers' own when it has come.
//!
//! An idle filter owns no buffer. What a call needs for its results is the shard's [`Scratch`];
//! only what a buffer's end has cut, a frame's header or a part of a TLS record, stays here.
#![forbid(unsafe_code)]

mod fault;
mod networks;
pub mod proxy;
mod secured;
pub mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use ringtide_tls::{Acceptor, Peer};

pub use fault::{Class, Fault};
pub use networks::Networks;
use secured::Secured;
use websocket::WebSocket;

/// What the connections of one listener go through. The default is nothing.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// TLS, with what its handshakes are made with.
    pub tls: Option<Acceptor>,
    /// WebSocket, with what its upgrades are checked against.
    pub websocket: Option<Arc<websocket::Settings>>,
}

/// The layers of one connection.
#[derive(Debug)]
pub struct Filter(Layered);

#[derive(Debug)]
enum Layered {
    WebSocket(WebSocket),
    /// In a box of its own, so that a WebSocket without TLS does not pay for it.
    Secured(Box<Secured>),
    /// A PROXY header has not come whole.
    Proxied(proxy::Receiver),
}

/// Where [`Filter::receive`] puts its results: one for all connections of a shard.
#[derive(Debug, Default)]
pub struct Scratch {
    /// MQTT bytes that arrived.
    pub plain: Vec<u8>,
    /// Bytes for the peer, as they go on the wire: answers of a handshake, pongs, closes. They go
    /// before anything that is sent later.
    pub wire: Vec<u8>,
    /// What TLS has taken in for the layer above it.
    inner_plain: Vec<u8>,
    /// What the layer above TLS has to send.
    inner_wire: Vec<u8>,
}

impl Scratch {
    /// Empties it for the next call. What grew out of size is given back.
    pub fn clear(&mut self) {
        const KEPT_BYTES_MAX: usize = 64 << 10;
        let inner = [&mut self.inner_plain, &mut self.inner_wire];
        for buffer in [&mut self.plain, &mut self.wire].into_iter().chain(inner) {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES_MAX);
        }
    }
}

/// What [`Filter::receive`] has found beside bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The peer has ended its side: nothing more comes, and nothing more need be sent.
    pub ended: bool,
    /// A TLS handshake has come to its end with these bytes: [`Filter::peer`] says how.
    pub handshake_done: bool,
    /// The client's own address, told by a proxy that is trusted; port 0 if it did not tell that.
    pub client: Option<SocketAddr>,
    /// A PROXY header has come whole: how many of the bytes are its own, and what it tells. The
    /// others were not looked at, and this filter has done its work.
    pub proxied: Option<(usize, Box<proxy::Told>)>,
}

/// Why the broker ends a connection, as far as a layer can tell the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The connection has served its purpose.
    Normal,
    /// The broker is going down, or the client is to go elsewhere.
    GoingAway,
    /// The peer broke the protocol inside.
    ProtocolError,
    /// The peer may not do what it did.
    Policy,
    /// The peer sent more than it may in one piece.
    TooLarge,
}

impl Filter {
    /// The filter of a new connection from this address; `None` if its bytes are MQTT's own.
    ///
    /// # Errors
    /// When TLS cannot begin: the connection must be closed.
    pub fn new(layers: &Layers, peer: Option<SocketAddr>) -> Result<Option<Box<Filter>>, Fault> {
        let websocket =
            layers.websocket.as_ref().map(|settings| WebSocket::new(Arc::clone(settings), peer));
        let layered = match (&layers.tls, websocket) {
            (None, None) => return Ok(None),
            (None, Some(websocket)) => Layered::WebSocket(websocket),
            (Some(acceptor), websocket) => {
                Layered::Secured(Box::new(Secured::new(acceptor, websocket)?))
            }
        };
        Ok(Some(Box::new(Filter(layered))))
    }

    /// The filter of a connection that must begin with a PROXY header. Once that has come
    /// ([`Received::proxied`]) the connection gets the one that [`Filter::new`] makes.
    pub fn behind_proxy() -> Box<Filter> {
        Box::new(Filter(Layered::Proxied(proxy::Receiver::default())))
    }

    /// Takes what arrived, in any pieces. `bytes` are worked on in place and are of no use
    /// afterwards. The results are appended to `scratch`: they hold even if a fault follows them.
    ///
    /// # Errors
    /// The peer broke a layer's rules. What is in `scratch.wire` is sent, then the connection is
    /// closed; nothing more may be received.
    pub fn receive(&mut self, bytes: &mut [u8], scratch: &mut Scratch) -> Result<Received, Fault> {
        match &mut self.0 {
            Layered::WebSocket(websocket) => {
                websocket.receive(bytes, &mut scratch.plain, &mut scratch.wire)
            }
            Layered::Secured(secured) => secured.receive(bytes, scratch),
            Layered::Proxied(header) => {
                let proxied = header.receive(bytes)?;
                Ok(Received { proxied, ..Received::default() })
            }
        }
    }

    /// Turns MQTT bytes into what goes on the wire, in place: `head` with the `shared` parts
    /// spliced in, each right after the first so many bytes of `head`. Both may be empty. Whether
    /// shared parts stay uncopied is the layers' affair.
    ///
    /// # Errors
    /// Nothing more can be sent, and nothing is left to be: the connection must be closed.
    pub fn send(
        &mut self,
        head: &mut Vec<u8>,
        shared: &mut Vec<(u32, Bytes)>,
        scratch: &mut Scratch,
    ) -> Result<(), Fault> {
        match &mut self.0 {
            Layered::WebSocket(websocket) => {
                websocket.send(head, shared);
                Ok(())
            }
            Layered::Secured(secured) => secured.send(head, shared, scratch),
            Layered::Proxied(_) => {
                // Nobody is there yet who could be answered.
                head.clear();
                shared.clear();
                Ok(())
            }
        }
    }

    /// The next [`Filter::send`] is the last: the layers' goodbye goes with it.
    pub fn end(&mut self, why: End) {
        match &mut self.0 {
            Layered::WebSocket(websocket) => websocket.end(why),
            Layered::Secured(secured) => secured.end(why),
            Layered::Proxied(_) => {}
        }
    }

    /// The peer has ended its side.
    pub fn has_ended(&self) -> bool {
        match &self.0 {
            Layered::WebSocket(websocket) => websocket.has_ended(),
            Layered::Secured(secured) => secured.has_ended(),
            Layered::Proxied(_) => false,
        }
    }

    /// A PROXY header has not come whole.
    pub fn awaits_proxy_header(&self) -> bool {
        matches!(&self.0, Layered::Proxied(_))
    }

    /// A TLS handshake is under way: what arrives costs far more than it will later.
    pub fn is_handshaking(&self) -> bool {
        matches!(&self.0, Layered::Secured(secured) if secured.is_handshaking())
    }

    /// A TLS handshake is under way and the first of it has been taken in.
    pub fn has_begun_handshake(&self) -> bool {
        matches!(&self.0, Layered::Secured(one) if one.is_handshaking() && one.has_begun())
    }

    /// What a TLS handshake has agreed on.
    pub fn peer(&self) -> Option<Peer> {
        match &self.0 {
            Layered::WebSocket(_) | Layered::Proxied(_) => None,
            Layered::Secured(secured) => Some(secured.peer()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the 8 bytes of its handle in the connection: what an idle WebSocket client costs more
    /// than one over TCP.
    #[test]
    fn size_of_an_idle_filter() {
        assert!(size_of::<Filter>() + size_of::<Option<Box<Filter>>>() <= 64);
    }

    #[test]
    fn no_layer_no_filter() {
        assert!(Filter::new(&Layers::default(), None).is_ok_and(|filter| filter.is_none()));
    }
}
