//! What lies between the generator's MQTT bytes and its sockets: TLS, WebSocket, or both. The
//! [`Io`] here wraps another one and keeps its rules: nothing above it knows of transports.

pub(crate) mod identity;
mod line;
pub(crate) mod link;
pub(crate) mod tls;
mod websocket;

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;

use ringtide_driver::{BufferId, Completion, Outgoing, Socket, Token, Wait};

use crate::io::Io;
use line::Line;
use link::Link;
use tls::ServerSide;

const SPARE_MAX: usize = 64;

/// Which side the connections are.
enum End {
    Client(Link),
    Server(ServerSide),
}

/// One connection.
struct Connection {
    line: Line,
    socket: Socket,
    /// For the peer, to go with the next turn.
    wire: Vec<u8>,
    /// The socket is full.
    stalled: bool,
    /// In the list of those with something for the peer.
    dirty: bool,
    /// The turn in which something was last sent.
    sent_in: u64,
}

/// See the file's head.
pub(crate) struct Carried<I> {
    inner: I,
    end: End,
    /// By token.
    connections: Vec<Option<Connection>>,
    queued: VecDeque<Completion>,
    dirty: Vec<Token>,
    /// What the last `Received` has brought.
    plain: Vec<u8>,
    raw: Vec<u8>,
    scratch: Vec<u8>,
    spare: Vec<Vec<u8>>,
    turn: u64,
    /// Why a connection was given up: ends the run.
    fault: Option<String>,
}

impl<I: Io> Carried<I> {
    /// Clients' connections.
    pub(crate) fn client(inner: I, link: Link) -> Carried<I> {
        Carried::new(inner, End::Client(link))
    }

    /// Connections that are accepted.
    pub(crate) fn server(inner: I, side: ServerSide) -> Carried<I> {
        Carried::new(inner, End::Server(side))
    }

    fn new(inner: I, end: End) -> Carried<I> {
        Carried {
            inner,
            end,
            connections: Vec::new(),
            queued: VecDeque::new(),
            dirty: Vec::new(),
            plain: Vec::new(),
            raw: Vec::new(),
            scratch: Vec::new(),
            spare: Vec::new(),
            turn: 1,
            fault: None,
        }
    }

    /// Notes why a connection is of no use; its owner is told that it has failed.
    fn give_up(&mut self, token: Token, why: String) {
        // Whoever connects to a server may do as they like.
        if matches!(self.end, End::Client(_)) {
            self.fault.get_or_insert(why);
        }
        self.queued.push_back(Completion::SendFailed { token, errno: EPROTO });
    }

    /// Sends bytes if that may be now; else they wait.
    fn transmit(&mut self, token: Token, bytes: Vec<u8>) {
        let Some(Some(connection)) = self.connections.get_mut(token.0 as usize) else { return };
        if connection.wire.is_empty() && !connection.stalled && connection.sent_in != self.turn {
            connection.sent_in = self.turn;
            let data = Outgoing { head: bytes, shared: Vec::new() };
            self.inner.send(token, connection.socket, data);
        } else {
            connection.wire.extend_from_slice(&bytes);
            if !connection.dirty {
                connection.dirty = true;
                self.dirty.push(token);
            }
        }
    }

    /// Sends what has waited.
    fn flush(&mut self) {
        for token in std::mem::take(&mut self.dirty) {
            let Some(Some(connection)) = self.connections.get_mut(token.0 as usize) else {
                continue;
            };
            connection.dirty = false;
            if connection.stalled || connection.sent_in == self.turn {
                continue;
            }
            connection.sent_in = self.turn;
            let head = std::mem::take(&mut connection.wire);
            self.inner.send(token, connection.socket, Outgoing { head, shared: Vec::new() });
        }
    }

    /// Has what still waits sent in the next turn.
    fn wait_again(&mut self, token: Token) {
        if let Some(Some(connection)) = self.connections.get_mut(token.0 as usize)
            && !connection.wire.is_empty()
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(token);
        }
    }

    fn received(&mut self, token: Token, buffer: BufferId) -> Option<Completion> {
        let Some(Some(connection)) = self.connections.get_mut(token.0 as usize) else {
            self.inner.release(buffer);
            return None;
        };
        self.raw.clear();
        connection.line.give_held(&mut self.raw);
        self.raw.extend_from_slice(self.inner.bytes(buffer));
        self.inner.release(buffer);
        self.plain.clear();
        let mut out = self.spare.pop().unwrap_or_default();
        let line = &mut connection.line;
        let taken = line.receive(&mut self.raw, &mut self.plain, &mut self.scratch, &mut out);
        if !out.is_empty() {
            self.transmit(token, out);
        }
        match taken {
            Ok(true) => self.queued.push_back(Completion::Ended { token, errno: 0 }),
            Ok(false) => {}
            Err(why) => self.give_up(token, why),
        }
        let len = self.plain.len() as u32;
        let buffer = BufferId { index: 0, len };
        (len > 0).then_some(Completion::Received { token, buffer })
    }
}

/// A protocol error.
const EPROTO: i32 = 71;

impl<I: Io> Io for Carried<I> {
    fn adopt(&mut self, stream: TcpStream) -> io::Result<Socket> {
        self.inner.adopt(stream)
    }

    fn start_receive(&mut self, token: Token, socket: Socket) {
        self.inner.start_receive(token, socket);
        let index = token.0 as usize;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, || None);
        }
        let mut wire = Vec::new();
        let line = match &self.end {
            End::Client(link) => Line::client(link, &mut wire),
            End::Server(side) => Line::server(side),
        };
        match line {
            Err(why) => self.give_up(token, why),
            Ok(line) => {
                let wire_of = Vec::new();
                let (stalled, dirty, sent_in) = (false, false, 0);
                let connection =
                    Connection { line, socket, wire: wire_of, stalled, dirty, sent_in };
                self.connections[index] = Some(connection);
                if !wire.is_empty() {
                    self.transmit(token, wire);
                }
            }
        }
    }

    fn bytes(&self, buffer: BufferId) -> &[u8] {
        self.plain.get(..buffer.len as usize).unwrap_or(&[])
    }

    fn release(&mut self, _buffer: BufferId) {}

    fn send(&mut self, token: Token, _socket: Socket, data: Outgoing) {
        let Some(Some(connection)) = self.connections.get_mut(token.0 as usize) else { return };
        let mut out = self.inner.reclaim().or_else(|| self.spare.pop()).unwrap_or_default();
        let sent = connection.line.send(&data.head, &data.shared, &mut self.scratch, &mut out);
        if !out.is_empty() {
            self.transmit(token, out);
        }
        if let Err(why) = sent {
            self.give_up(token, why);
        }
        let mut head = data.head;
        if self.spare.len() < SPARE_MAX {
            head.clear();
            self.spare.push(head);
        }
    }

    fn reclaim(&mut self) -> Option<Vec<u8>> {
        self.spare.pop().or_else(|| self.inner.reclaim())
    }

    fn close(&mut self, token: Token, socket: Socket) {
        if let Some(slot) = self.connections.get_mut(token.0 as usize) {
            *slot = None;
        }
        self.inner.close(token, socket);
    }

    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        if let Some(fault) = self.fault.take() {
            return Err(io::Error::other(fault));
        }
        self.flush();
        let wait = if self.queued.is_empty() { wait } else { Wait::Poll };
        self.turn += 1;
        self.inner.submit_and_wait(wait)
    }

    fn next(&mut self) -> Option<Completion> {
        loop {
            if let Some(queued) = self.queued.pop_front() {
                return Some(queued);
            }
            let completion = self.inner.next()?;
            match completion {
                Completion::Received { token, buffer } => {
                    let received = self.received(token, buffer);
                    if received.is_some() {
                        return received;
                    }
                }
                Completion::SendStalled { token } => {
                    if let Some(Some(connection)) = self.connections.get_mut(token.0 as usize) {
                        connection.stalled = true;
                    }
                    return Some(completion);
                }
                Completion::Sent { token } => {
                    if let Some(Some(connection)) = self.connections.get_mut(token.0 as usize) {
                        connection.stalled = false;
                    }
                    self.wait_again(token);
                    return Some(completion);
                }
                other => return Some(other),
            }
        }
    }
}

#[cfg(test)]
mod tests;
