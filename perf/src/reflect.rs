//! A null broker: one thread that speaks just enough MQTT to route the generator's messages. It has
//! no sessions, queues, checks or limits. It shows what the generator can do, and what a bare relay
//! costs on this machine: the limit that a broker is compared with.

use std::collections::HashMap;
use std::time::Duration;

use ringtide_driver::{Completion, Outgoing, Socket, Token, Wait};

use crate::failure::Failure;
use crate::io::Io;
use crate::wire::{self, Frame, Scanner, Version, packet};

/// A filter's shape: for each level whether it is `+`, and whether it ends in `#`.
type Shape = (Vec<bool>, bool);

/// Who subscribes to what.
#[derive(Debug, Default)]
struct Routes {
    filters: HashMap<Vec<u8>, Vec<u32>>,
    /// Shapes of the wildcard filters in use.
    shapes: Vec<Shape>,
    key: Vec<u8>,
}

impl Routes {
    fn add(&mut self, filter: &[u8], peer: u32) {
        let literal = filter.strip_suffix(b"/#").unwrap_or(filter);
        let ends_open = literal.len() < filter.len();
        let levels: Vec<bool> = literal.split(|b| *b == b'/').map(|level| level == b"+").collect();
        let shape = (levels, ends_open);
        if (ends_open || shape.0.contains(&true)) && !self.shapes.contains(&shape) {
            self.shapes.push(shape);
        }
        self.filters.entry(filter.to_vec()).or_default().push(peer);
    }

    /// Calls `on` for each subscriber of a topic.
    #[inline]
    fn matches(&mut self, topic: &[u8], mut on: impl FnMut(u32)) {
        if let Some(peers) = self.filters.get(topic) {
            peers.iter().for_each(|peer| on(*peer));
        }
        for (plus, ends_open) in &self.shapes {
            if shape_key(topic, plus, *ends_open, &mut self.key)
                && let Some(peers) = self.filters.get(&self.key[..])
            {
                peers.iter().for_each(|peer| on(*peer));
            }
        }
    }
}

/// The filter of one shape that would match this topic; false if none can.
fn shape_key(topic: &[u8], plus: &[bool], ends_open: bool, key: &mut Vec<u8>) -> bool {
    key.clear();
    let mut levels = topic.split(|b| *b == b'/');
    for is_plus in plus {
        let Some(level) = levels.next() else { return false };
        if !key.is_empty() {
            key.push(b'/');
        }
        key.extend_from_slice(if *is_plus { b"+" } else { level });
    }
    if ends_open {
        key.extend_from_slice(b"/#");
        return true;
    }
    levels.next().is_none()
}

#[derive(Debug)]
struct Peer {
    socket: Socket,
    version: Version,
    scanner: Scanner,
    out: Vec<u8>,
    dirty: bool,
    stalled: bool,
    next_id: u16,
}

impl Peer {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            version: Version::V3_1_1,
            scanner: Scanner::default(),
            out: Vec::new(),
            dirty: false,
            stalled: false,
            next_id: 0,
        }
    }
}

/// All peers, by token.
#[derive(Debug, Default)]
struct Relay {
    peers: Vec<Option<Peer>>,
    free: Vec<u32>,
    routes: Routes,
    dirty: Vec<u32>,
    flushing: Vec<u32>,
    answers: Vec<u8>,
}

impl Relay {
    fn insert(&mut self, socket: Socket) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() as u32 - 1
        });
        self.peers[index as usize] = Some(Peer::new(socket));
        Token(u64::from(index))
    }

    fn append(&mut self, index: u32, write: impl FnOnce(&mut Peer)) {
        let Some(Some(peer)) = self.peers.get_mut(index as usize) else { return };
        write(peer);
        if !peer.dirty {
            peer.dirty = true;
            self.dirty.push(index);
        }
    }

    fn on_bytes(&mut self, index: u32, bytes: &[u8]) -> bool {
        let Some(Some(peer)) = self.peers.get_mut(index as usize) else { return false };
        let mut scanner = std::mem::take(&mut peer.scanner);
        let mut version = peer.version;
        let sound = scanner.scan(bytes, |frame| self.on_frame(index, &mut version, &frame)).is_ok();
        if !self.answers.is_empty() {
            let mut answers = std::mem::take(&mut self.answers);
            self.append(index, |peer| peer.out.append(&mut answers));
            self.answers = answers;
        }
        if let Some(Some(peer)) = self.peers.get_mut(index as usize) {
            peer.scanner = scanner;
            peer.version = version;
        }
        sound
    }

    fn on_frame(&mut self, index: u32, version: &mut Version, frame: &Frame<'_>) {
        let id = wire::ack_id(frame.body);
        match frame.packet_type() {
            packet::PUBLISH => self.publish(*version, frame),
            packet::PUBREC => wire::put_ack(&mut self.answers, packet::PUBREL, id),
            packet::PUBREL => wire::put_ack(&mut self.answers, packet::PUBCOMP, id),
            packet::CONNECT => {
                let level = frame.body.get(6).copied().unwrap_or(0);
                *version = Version::from_level(level).unwrap_or(Version::V3_1_1);
                let answer: &[u8] = match version {
                    Version::V3_1_1 => &[0x20, 2, 0, 0],
                    Version::V5 => &[0x20, 3, 0, 0, 0],
                };
                self.answers.extend_from_slice(answer);
            }
            packet::SUBSCRIBE => self.subscribe(index, *version, frame),
            packet::PINGREQ => self.answers.extend_from_slice(&[0xd0, 0]),
            _ => {}
        }
    }

    fn subscribe(&mut self, index: u32, version: Version, frame: &Frame<'_>) {
        let properties = usize::from(version == Version::V5);
        let mut rest = frame.body.get(2 + properties..).unwrap_or(&[]);
        let mut codes = Vec::new();
        while let Some((len, after)) = rest.split_first_chunk::<2>() {
            let len = usize::from(u16::from_be_bytes(*len));
            let (Some(filter), Some(options)) = (after.get(..len), after.get(len)) else { break };
            self.routes.add(filter, index);
            codes.push(options & 3);
            rest = &after[len + 1..];
        }
        self.answers.push(0x90);
        wire::put_varint(&mut self.answers, 2 + properties + codes.len());
        self.answers.extend_from_slice(&wire::ack_id(frame.body).to_be_bytes());
        self.answers.resize(self.answers.len() + properties, 0);
        self.answers.append(&mut codes);
    }

    fn publish(&mut self, version: Version, frame: &Frame<'_>) {
        let (Some(head), Some(topic)) =
            (wire::parse_publish(version, frame), wire::publish_topic(frame))
        else {
            return;
        };
        match frame.qos() {
            0 => {}
            1 => wire::put_ack(&mut self.answers, packet::PUBACK, head.packet_id),
            _ => wire::put_ack(&mut self.answers, packet::PUBREC, head.packet_id),
        }
        let mut routes = std::mem::take(&mut self.routes);
        routes.matches(topic, |to| self.append(to, |peer| forward(peer, frame, topic.len())));
        self.routes = routes;
    }

    fn flush<I: Io>(&mut self, io: &mut I) {
        std::mem::swap(&mut self.dirty, &mut self.flushing);
        for index in self.flushing.drain(..) {
            let Some(Some(peer)) = self.peers.get_mut(index as usize) else { continue };
            peer.dirty = false;
            if peer.stalled || peer.out.is_empty() {
                continue;
            }
            let empty = io.reclaim().unwrap_or_default();
            let head = std::mem::replace(&mut peer.out, empty);
            let data = Outgoing { head, shared: Vec::new() };
            io.send(Token(u64::from(index)), peer.socket, data);
        }
    }

    fn on_completion<I: Io>(&mut self, io: &mut I, completion: Completion) {
        match completion {
            Completion::Accepted { socket, .. } => {
                let token = self.insert(socket);
                io.start_receive(token, socket);
            }
            Completion::Received { token, buffer } => {
                let sound = self.on_bytes(token.0 as u32, io.bytes(buffer));
                io.release(buffer);
                if !sound {
                    self.close(io, token);
                }
            }
            Completion::Ended { token, .. } | Completion::SendFailed { token, .. } => {
                self.close(io, token);
            }
            Completion::SendStalled { token } => self.append(token.0 as u32, |p| p.stalled = true),
            Completion::Sent { token } => self.append(token.0 as u32, |p| p.stalled = false),
            Completion::Closed { token } => self.free.push(token.0 as u32),
            _ => {}
        }
    }

    fn close<I: Io>(&mut self, io: &mut I, token: Token) {
        if let Some(slot) = self.peers.get_mut(token.0 as usize)
            && let Some(peer) = slot.take()
        {
            io.close(token, peer.socket);
            for peers in self.routes.filters.values_mut() {
                peers.retain(|peer| u64::from(*peer) != token.0);
            }
        }
    }
}

/// Writes a received PUBLISH to a subscriber, with a packet id of its own.
#[inline]
fn forward(peer: &mut Peer, frame: &Frame<'_>, topic_len: usize) {
    peer.out.push(frame.first);
    wire::put_varint(&mut peer.out, frame.body_len);
    let start = peer.out.len();
    peer.out.extend_from_slice(frame.body);
    if frame.qos() > 0 {
        peer.next_id = peer.next_id.checked_add(1).unwrap_or(1);
        let at = start + 2 + topic_len;
        if let Some(id) = peer.out.get_mut(at..at + 2) {
            id.copy_from_slice(&peer.next_id.to_be_bytes());
        }
    }
    // A frame beyond the scanner's prefix keeps its length; its content does not matter here.
    let missing = frame.body_len - frame.body.len();
    peer.out.resize(peer.out.len() + missing, b'x');
}

/// Serves until the process is killed or `time` has passed.
///
/// # Errors
/// If the network fails altogether.
pub(crate) fn serve<I: Io>(io: &mut I, time: Duration) -> Result<(), Failure> {
    let failed = |error| Failure::Io("the reflector cannot wait for the network", error);
    let mut relay = Relay::default();
    let end = std::time::Instant::now() + time;
    while std::time::Instant::now() < end {
        while let Some(completion) = io.next() {
            relay.on_completion(io, completion);
        }
        relay.flush(io);
        io.submit_and_wait(Wait::AtMost(Duration::from_millis(100))).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Connect;

    fn matched(filters: &[&str], topic: &str) -> Vec<u32> {
        let mut routes = Routes::default();
        for (index, filter) in filters.iter().enumerate() {
            routes.add(filter.as_bytes(), index as u32);
        }
        let mut found = Vec::new();
        routes.matches(topic.as_bytes(), |peer| found.push(peer));
        found.sort_unstable();
        found
    }

    #[test]
    fn topics_find_their_filters() {
        let filters = ["a/b", "w/1/+/x/#", "w/2/+/x/#", "+/7/#", "a/+"];
        assert_eq!(matched(&filters, "a/b"), [0, 4]);
        assert_eq!(matched(&filters, "w/1/d/x/y"), [1]);
        assert_eq!(matched(&filters, "w/2/d/x"), [2]);
        assert_eq!(matched(&filters, "d/7/y"), [3]);
        assert!(matched(&filters, "w/1/d/z/y").is_empty());
        assert!(matched(&filters, "a").is_empty());
    }

    #[test]
    fn a_message_is_relayed_with_its_own_packet_id() {
        let mut relay = Relay::default();
        let (from, to) = (relay.insert(Socket(1)), relay.insert(Socket(2)));
        let connect = wire::connect(&Connect {
            version: Version::V5,
            client_id: "c",
            user_name: None,
            password: None,
            keep_alive_s: 0,
            persistent: false,
            receive_maximum: None,
        });
        let subscribe = wire::subscribe(Version::V5, 9, &["t".to_owned()], 1);
        assert!(relay.on_bytes(to.0 as u32, &[connect.clone(), subscribe].concat()));
        let out = |relay: &mut Relay, token: Token| {
            std::mem::take(&mut relay.peers[token.0 as usize].as_mut().unwrap().out)
        };
        assert_eq!(out(&mut relay, to), [0x20, 3, 0, 0, 0, 0x90, 4, 0, 9, 0, 1]);
        let mut publish = wire::publish_head(Version::V5, 1, "t", 2);
        publish[6] = 77;
        publish.extend_from_slice(b"ab");
        assert!(relay.on_bytes(from.0 as u32, &[connect, publish.clone()].concat()));
        assert_eq!(out(&mut relay, from), [0x20, 3, 0, 0, 0, 0x40, 2, 0, 77]);
        publish[6] = 1;
        assert_eq!(out(&mut relay, to), publish);
    }
}
