//! A blocking MQTT client for tests: bytes and packets in and out, every wait bounded.
//! Fails the test with what came instead of what was expected.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::packet::{self, Connect, Packet, Publish, Subscribe, Unsubscribe};
use super::wire::{Props, Reader};
use super::{PATIENCE, QUIET, V5};

/// What came from the server within a bounded time.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Packet(Packet),
    Closed,
    Nothing,
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    pub version: u8,
    received: Vec<u8>,
    /// Packets that came while another one was awaited.
    pending: VecDeque<Packet>,
    closed: bool,
    next_id: u16,
    pub connack: Option<(bool, u8, Props)>,
}

impl Client {
    /// A TCP connection on which nothing was sent.
    pub fn raw(address: &str, version: u8) -> Client {
        let stream = TcpStream::connect(address).expect("the broker accepts connections");
        Client::on(stream, version)
    }

    /// Takes over a stream.
    pub fn on(stream: TcpStream, version: u8) -> Client {
        // A Unix socket has no such option, and no need of it.
        let _ = stream.set_nodelay(true);
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        Client {
            stream,
            version,
            received: Vec::new(),
            pending: VecDeque::new(),
            closed: false,
            next_id: 0,
            connack: None,
        }
    }

    /// Connects and expects to be accepted.
    pub fn connect(address: &str, connect: &Connect) -> Client {
        let mut client = Client::raw(address, connect.version);
        client.send(&connect.encode());
        client.expect_connack(0);
        client
    }

    /// Sends bytes. A connection that the server has closed is no error here: the test asks for
    /// what came back.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends bytes and says whether the system took them.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// A packet id that this client has not used yet.
    pub fn fresh_id(&mut self) -> u16 {
        self.next_id = self.next_id.checked_add(1).expect("fewer than 65536 ids in a test");
        self.next_id
    }

    /// The next packet that was not yet looked at, a close, or nothing within `wait`.
    pub fn event(&mut self, wait: Duration) -> Event {
        match self.pending.pop_front() {
            Some(packet) => Event::Packet(packet),
            None => self.read_socket(Instant::now() + wait),
        }
    }

    fn read_socket(&mut self, end: Instant) -> Event {
        loop {
            if let Some(packet) = self.decode() {
                return Event::Packet(packet);
            }
            if self.closed {
                return Event::Closed;
            }
            let left = end.saturating_duration_since(Instant::now());
            let left = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).expect("a read timeout");
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => self.closed = true,
                Ok(n) => self.received.extend(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= end {
                        return Event::Nothing;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.closed = true,
            }
        }
    }

    fn decode(&mut self) -> Option<Packet> {
        let mut reader = Reader::new(self.received.get(1..)?);
        let len = match reader.varint() {
            Ok(len) => len as usize,
            Err(_) if self.received.len() < 5 => return None,
            Err(e) => panic!("a bad remaining length from the server: {e}"),
        };
        let body = reader.take(len).ok()?;
        let packet = Packet::decode(self.version, self.received[0], body)
            .unwrap_or_else(|e| panic!("the server sent a wrong packet: {e}"));
        let used = self.received.len() - reader.rest().len();
        self.received.drain(..used);
        Some(packet)
    }

    /// The next packet, which must come.
    #[track_caller]
    pub fn packet(&mut self) -> Packet {
        match self.event(PATIENCE) {
            Event::Packet(packet) => packet,
            other => panic!("expected a packet, got {other:?}"),
        }
    }

    /// Waits for a packet for which `take` gives a value; others are kept for later.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, take: impl Fn(&Packet) -> Option<T>) -> T {
        if let Some(at) = self.pending.iter().position(|p| take(p).is_some()) {
            let packet = self.pending.remove(at).expect("found above");
            return take(&packet).expect("found above");
        }
        let end = Instant::now() + PATIENCE;
        loop {
            match self.read_socket(end) {
                Event::Packet(packet) => match take(&packet) {
                    Some(value) => return value,
                    None => self.pending.push_back(packet),
                },
                other => panic!("expected {what}, got {other:?}; kept {:?}", self.pending),
            }
        }
    }

    /// Expects CONNACK with this code and keeps it. Says whether a session was present.
    #[track_caller]
    pub fn expect_connack(&mut self, wanted: u8) -> bool {
        match self.packet() {
            Packet::ConnAck { session_present, code, props } => {
                assert_eq!(code, wanted, "CONNACK {code:#04x} {props:?}");
                self.connack = Some((session_present, code, props));
                session_present
            }
            other => panic!("expected CONNACK, got {other:?}"),
        }
    }

    pub fn session_present(&self) -> bool {
        self.connack.as_ref().expect("connected").0
    }

    pub fn connack_props(&self) -> &Props {
        &self.connack.as_ref().expect("connected").2
    }

    /// Subscribes to one filter and returns its code.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        let id = self.fresh_id();
        self.subscribe_with(&Subscribe::new(id, filter, options))[0]
    }

    /// Subscribes to one filter with a subscription id.
    #[track_caller]
    pub fn subscribe_id(&mut self, filter: &str, options: u8, subscription: u32) -> u8 {
        let id = self.fresh_id();
        self.subscribe_with(&Subscribe::new(id, filter, options).subscription_id(subscription))[0]
    }

    #[track_caller]
    pub fn subscribe_with(&mut self, subscribe: &Subscribe) -> Vec<u8> {
        self.send(&subscribe.encode(self.version));
        let codes = self.wait_for("SUBACK", |p| match p {
            Packet::SubAck { id, codes, .. } if *id == subscribe.id => Some(codes.clone()),
            _ => None,
        });
        assert_eq!(codes.len(), subscribe.filters.len(), "one code a filter");
        codes
    }

    /// Unsubscribes and returns the codes (none below 5.0).
    #[track_caller]
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let filters = filters.iter().map(|f| f.as_bytes().to_vec()).collect();
        let unsubscribe = Unsubscribe { id: self.fresh_id(), filters };
        self.send(&unsubscribe.encode(self.version));
        self.wait_for("UNSUBACK", |p| match p {
            Packet::UnsubAck { id, codes, .. } if *id == unsubscribe.id => Some(codes.clone()),
            _ => None,
        })
    }

    /// Publishes with the whole exchange of its QoS; returns the code of PUBACK or PUBREC.
    #[track_caller]
    pub fn publish(&mut self, mut publish: Publish) -> u8 {
        if publish.qos > 0 && publish.id.is_none() {
            publish.id = Some(self.fresh_id());
        }
        self.send(&publish.encode(self.version));
        match publish.qos {
            0 => 0,
            1 => self.expect_puback(publish.packet_id()),
            _ => {
                let id = publish.packet_id();
                let code = self.expect_pubrec(id);
                if code < 0x80 {
                    self.send(&packet::ack(packet::PUBREL, id, 0));
                    assert_eq!(self.expect_pubcomp(id), 0);
                }
                code
            }
        }
    }

    /// Sends a PUBLISH and nothing more.
    pub fn send_publish(&mut self, publish: &Publish) {
        self.send(&publish.encode(self.version));
    }

    #[track_caller]
    pub fn expect_puback(&mut self, id: u16) -> u8 {
        self.wait_for("PUBACK", |p| match p {
            Packet::PubAck(a) if a.id == id => Some(a.code),
            _ => None,
        })
    }

    #[track_caller]
    pub fn expect_pubrec(&mut self, id: u16) -> u8 {
        self.wait_for("PUBREC", |p| match p {
            Packet::PubRec(a) if a.id == id => Some(a.code),
            _ => None,
        })
    }

    #[track_caller]
    pub fn expect_pubrel(&mut self, id: u16) -> u8 {
        self.wait_for("PUBREL", |p| match p {
            Packet::PubRel(a) if a.id == id => Some(a.code),
            _ => None,
        })
    }

    #[track_caller]
    pub fn expect_pubcomp(&mut self, id: u16) -> u8 {
        self.wait_for("PUBCOMP", |p| match p {
            Packet::PubComp(a) if a.id == id => Some(a.code),
            _ => None,
        })
    }

    /// Sends PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub fn ack(&mut self, first: u8, id: u16, code: u8) {
        self.send(&packet::ack(first, id, code));
    }

    /// The next message, unacknowledged.
    #[track_caller]
    pub fn raw_message(&mut self) -> Publish {
        self.wait_for("PUBLISH", |p| match p {
            Packet::Publish(m) => Some(m.clone()),
            _ => None,
        })
    }

    /// The next message, its exchange carried through.
    #[track_caller]
    pub fn message(&mut self) -> Publish {
        let message = self.raw_message();
        self.finish(&message);
        message
    }

    /// Carries a received message's exchange through.
    #[track_caller]
    pub fn finish(&mut self, message: &Publish) {
        match (message.qos, message.id) {
            (1, Some(id)) => self.ack(packet::PUBACK, id, 0),
            (2, Some(id)) => {
                self.ack(packet::PUBREC, id, 0);
                self.expect_pubrel(id);
                self.ack(packet::PUBCOMP, id, 0);
            }
            _ => {}
        }
    }

    /// The next `n` messages, their exchanges carried through.
    #[track_caller]
    pub fn messages(&mut self, n: usize) -> Vec<Publish> {
        (0..n).map(|_| self.message()).collect()
    }

    /// The payloads of the next `n` messages.
    #[track_caller]
    pub fn texts(&mut self, n: usize) -> Vec<String> {
        self.messages(n).iter().map(Publish::text).collect()
    }

    /// Expects the next message to hold this text and returns it.
    #[track_caller]
    pub fn expect_message(&mut self, text: &str) -> Publish {
        let message = self.message();
        assert_eq!(message.text(), text, "{message:?}");
        message
    }

    /// PINGREQ to PINGRESP: what the client sent before has been read by the broker.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send(&packet::PINGREQ);
        self.wait_for("PINGRESP", |p| (*p == Packet::PingResp).then_some(()));
    }

    /// Expects nothing at all for a short while.
    #[track_caller]
    pub fn expect_silence(&mut self) {
        self.expect_silence_for(QUIET);
    }

    #[track_caller]
    pub fn expect_silence_for(&mut self, wait: Duration) {
        let event = self.event(wait);
        assert_eq!(event, Event::Nothing, "expected silence");
    }

    /// Expects the close; packets that were on their way, and DISCONNECT, may come before it.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        loop {
            match self.event(PATIENCE) {
                Event::Closed => return,
                Event::Packet(Packet::ConnAck { .. }) => panic!("CONNACK instead of a close"),
                Event::Packet(_) => {}
                Event::Nothing => panic!("the server did not close the connection"),
            }
        }
    }

    /// Expects DISCONNECT with one of these codes (5.0) and a close, or a bare close (3.x).
    #[track_caller]
    pub fn expect_disconnect(&mut self, codes: &[u8]) {
        if self.version == V5 {
            let got = self.wait_for("DISCONNECT", |p| match p {
                Packet::Disconnect { code, .. } => Some(*code),
                _ => None,
            });
            assert!(codes.contains(&got), "DISCONNECT {got:#04x}, expected one of {codes:x?}");
        }
        if self.version != V5 {
            return self.expect_closed();
        }
        let after = self.read_socket(Instant::now() + PATIENCE);
        assert_eq!(after, Event::Closed, "nothing may follow DISCONNECT");
    }

    /// Expects a refused CONNECT: CONNACK with one of these codes, then a close. Below 5.0 a bare
    /// close is as good.
    #[track_caller]
    pub fn expect_refused(&mut self, codes: &[u8]) {
        match self.event(PATIENCE) {
            Event::Packet(Packet::ConnAck { session_present, code, .. }) => {
                assert!(!session_present, "session present on a refusal");
                assert!(codes.contains(&code), "CONNACK {code:#04x}, expected one of {codes:x?}");
                self.expect_closed();
            }
            Event::Closed if self.version != V5 => {}
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    /// Sends DISCONNECT with a code and waits until the server has closed.
    #[track_caller]
    pub fn disconnect_with(&mut self, code: u8, props: &Props) {
        self.send(&packet::disconnect(self.version, code, props));
        self.expect_closed();
    }

    /// A normal disconnection, seen through.
    #[track_caller]
    pub fn disconnect(mut self) {
        self.disconnect_with(0, &Props::none());
    }

    /// Ends the connection without DISCONNECT, as a lost network would.
    pub fn drop_connection(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Closes the sending half and waits for the server's close: what was sent has been read and
    /// the server knows of the loss.
    pub fn lose_network(mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let end = Instant::now() + PATIENCE;
        while self.read_socket(end) != Event::Closed {
            assert!(Instant::now() < end, "the server did not close a half-closed connection");
        }
    }
}
