//! TLS, and what may lie over it: `wss` is WebSocket in TLS.

use std::mem;

use bytes::Bytes;
use ringtide_tls::{Acceptor, Connection, Peer};

use crate::websocket::WebSocket;
use crate::{End, Fault, Received, Scratch};

/// One connection's TLS with the layer over it.
#[derive(Debug)]
pub(crate) struct Secured {
    tls: Connection,
    websocket: Option<WebSocket>,
    /// The peer has said that it sends nothing more.
    ended: bool,
    /// Our own goodbye goes with the next send.
    ending: bool,
}

impl Secured {
    pub(crate) fn new(acceptor: &Acceptor, websocket: Option<WebSocket>) -> Result<Secured, Fault> {
        Ok(Secured { tls: Connection::new(acceptor)?, websocket, ended: false, ending: false })
    }

    /// See [`crate::Filter::receive`].
    pub(crate) fn receive(
        &mut self,
        bytes: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<Received, Fault> {
        let Scratch { plain, wire, inner_plain, inner_wire } = scratch;
        let Some(websocket) = &mut self.websocket else {
            let taken = self.tls.receive(bytes, plain, wire)?;
            self.ended |= taken.ended;
            let (ended, handshake_done) = (taken.ended, taken.handshake_done);
            return Ok(Received { ended, handshake_done, ..Received::default() });
        };
        inner_plain.clear();
        inner_wire.clear();
        let taken = self.tls.receive(bytes, inner_plain, wire);
        // What came whole before a fault counts.
        let inner = match inner_plain.is_empty() {
            true => Ok(Received::default()),
            false => websocket.receive(inner_plain, plain, inner_wire),
        };
        // A connection that is broken has ended, also for a shard that it is handed over to.
        self.ended |= taken.is_err();
        let taken = taken?;
        self.tls.send(inner_wire, wire)?;
        self.ended |= taken.ended;
        let inner = inner?;
        Ok(Received {
            ended: taken.ended || inner.ended,
            handshake_done: taken.handshake_done,
            ..inner
        })
    }

    /// See [`crate::Filter::send`]. Shared parts are copied: into their records.
    pub(crate) fn send(
        &mut self,
        head: &mut Vec<u8>,
        shared: &mut Vec<(u32, Bytes)>,
        scratch: &mut Scratch,
    ) -> Result<(), Fault> {
        if let Some(websocket) = &mut self.websocket {
            websocket.send(head, shared);
        }
        if !self.tls.is_open() {
            // Nothing may come before the handshake's end or behind an alert.
            head.clear();
            shared.clear();
            return Ok(());
        }
        let out = &mut scratch.inner_wire;
        out.clear();
        let sealed = seal(&mut self.tls, head, shared, out);
        if mem::take(&mut self.ending) {
            self.tls.close(out);
        }
        shared.clear();
        mem::swap(head, out);
        sealed
    }

    /// See [`crate::Filter::end`].
    pub(crate) fn end(&mut self, why: End) {
        self.ending = true;
        if let Some(websocket) = &mut self.websocket {
            websocket.end(why);
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended || self.websocket.as_ref().is_some_and(WebSocket::has_ended)
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.tls.has_begun()
    }

    pub(crate) fn peer(&self) -> Peer {
        self.tls.peer()
    }
}

/// Appends `head`, with the `shared` parts spliced in, as records.
fn seal(
    tls: &mut Connection,
    head: &[u8],
    shared: &[(u32, Bytes)],
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let mut done = 0;
    for (position, part) in shared {
        let until = (*position as usize).clamp(done, head.len());
        tls.send(&head[done..until], out)?;
        tls.send(part, out)?;
        done = until;
    }
    tls.send(&head[done..], out)?;
    Ok(())
}
