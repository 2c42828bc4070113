//! WebSocket in TLS, and TLS alone, through a whole filter, in pieces of any size.
#![allow(clippy::unwrap_used)]

#[path = "../../tls/tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use common::authority::Authority;
use common::{ClientSide, NAME, TLS_1_2, TLS_1_3, acceptor, material};
use ringtide_filter::{Class, End, Filter, Layers, Networks, Scratch, websocket};
use rustls::ClientConnection;

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: broker.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A client and a filter, in memory.
struct Pair {
    client: ClientConnection,
    filter: Box<Filter>,
    cut: usize,
    /// What the filter has passed on.
    plain: Vec<u8>,
    /// What the client has received.
    seen: Vec<u8>,
    handshakes: usize,
    ended: bool,
}

impl Pair {
    fn new(authority: &Authority, side: &ClientSide, over_websocket: bool, cut: usize) -> Pair {
        let settings = websocket::Settings {
            path: "/mqtt".to_owned(),
            origins: Vec::new(),
            trusted_proxies: Networks::default(),
            message_bytes_max: 1 << 21,
        };
        let layers = Layers {
            tls: Some(acceptor(&material(authority))),
            websocket: over_websocket.then(|| Arc::new(settings)),
        };
        let filter = Filter::new(&layers, None).unwrap().unwrap();
        let client = side.connect(NAME);
        let mut pair = Pair {
            client,
            filter,
            cut,
            plain: Vec::new(),
            seen: Vec::new(),
            handshakes: 0,
            ended: false,
        };
        assert!(pair.filter.is_handshaking());
        pair.up(b"");
        assert!(!pair.filter.is_handshaking() && pair.handshakes == 1);
        pair
    }

    /// From the client, and the filter's own answers back.
    fn up(&mut self, data: &[u8]) {
        self.client.writer().write_all(data).unwrap();
        let mut scratch = Scratch::default();
        while self.client.wants_write() {
            let mut sent = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut sent).unwrap();
            }
            let mut wire = Vec::new();
            for piece in sent.chunks_mut(self.cut) {
                let received = self.filter.receive(piece, &mut scratch).unwrap();
                self.handshakes += usize::from(received.handshake_done);
                self.ended |= received.ended;
                self.plain.append(&mut scratch.plain);
                wire.append(&mut scratch.wire);
            }
            self.down(&wire);
        }
    }

    /// What is on the wire, to the client.
    fn down(&mut self, mut wire: &[u8]) {
        let mut buffer = vec![0; 1 << 15];
        while !wire.is_empty() {
            self.client.read_tls(&mut wire).unwrap();
            self.client.process_new_packets().unwrap();
            while let Ok(read @ 1..) = self.client.reader().read(&mut buffer) {
                self.seen.extend_from_slice(&buffer[..read]);
            }
        }
    }

    /// Sends by the filter: what the client receives.
    fn send(&mut self, head: &[u8], shared: &[(u32, Bytes)]) -> Vec<u8> {
        let (mut head, mut shared) = (head.to_vec(), shared.to_vec());
        self.filter.send(&mut head, &mut shared, &mut Scratch::default()).unwrap();
        assert!(shared.is_empty(), "nothing leaves in the clear");
        self.down(&head);
        std::mem::take(&mut self.seen)
    }
}

/// A masked binary frame of fewer than 65536 bytes.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | 126];
    frame.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&[1, 2, 3, 4]);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ [1, 2, 3, 4][at % 4]));
    frame
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 241) as u8).collect()
}

#[test]
fn a_websocket_in_tls_carries_bytes_at_any_cut() {
    let authority = Authority::new("test");
    for versions in [TLS_1_2, TLS_1_3] {
        let side = ClientSide::new(&authority, versions, None);
        for cut in [1, 7, 100, usize::MAX] {
            let mut pair = Pair::new(&authority, &side, true, cut);
            pair.up(REQUEST);
            let answer = String::from_utf8(std::mem::take(&mut pair.seen)).unwrap();
            assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\n"));
            let data = pattern(20_000);
            pair.up(&frame(&data));
            assert!(std::mem::take(&mut pair.plain) == data);
            let shared = Bytes::from(pattern(40_000));
            let sent = pair.send(b"headtail", &[(4, shared.clone())]);
            let wanted = [&[0x82, 126][..], &40_008_u16.to_be_bytes(), b"head", &shared, b"tail"];
            assert!(sent == wanted.concat());
            pair.filter.end(End::Normal);
            assert_eq!(pair.send(b"", &[]), [0x88, 2, 0x03, 0xe8], "a Close");
            assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
        }
    }
}

#[test]
fn tls_alone_carries_shared_parts_in_their_places() {
    let authority = Authority::new("test");
    let side = ClientSide::new(&authority, TLS_1_3, None);
    let mut pair = Pair::new(&authority, &side, false, 50);
    let data = pattern(70_000);
    for piece in data.chunks(10_000) {
        pair.up(piece);
    }
    assert!(pair.plain == data);
    let (one, two) = (Bytes::from(pattern(5000)), Bytes::from_static(b"two"));
    let sent = pair.send(b"abcdef", &[(0, one.clone()), (4, two.clone()), (4, one.clone())]);
    assert!(sent == [&one[..], b"abcd", &two, &one, b"ef"].concat());
    pair.client.send_close_notify();
    pair.up(b"");
    assert!(pair.ended && pair.filter.has_ended());
}

#[test]
fn a_fault_of_either_layer_has_its_class_and_is_told_to_the_client() {
    let authority = Authority::new("test");
    let side = ClientSide::new(&authority, TLS_1_3, None);
    // The layer above: what it says goes out encrypted, as everything does.
    let mut pair = Pair::new(&authority, &side, true, usize::MAX);
    pair.client.writer().write_all(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut sent = Vec::new();
    pair.client.write_tls(&mut sent).unwrap();
    let mut scratch = Scratch::default();
    let fault = pair.filter.receive(&mut sent, &mut scratch).unwrap_err();
    assert_eq!(fault.class, Class::Upgrade);
    pair.down(&scratch.wire);
    assert!(pair.seen.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&pair.seen));
    // TLS itself.
    let mut pair = Pair::new(&authority, &side, true, usize::MAX);
    let mut scratch = Scratch::default();
    let mut garbage = [23, 3, 3, 0, 20].into_iter().chain([9; 20]).collect::<Vec<u8>>();
    let fault = pair.filter.receive(&mut garbage, &mut scratch).unwrap_err();
    assert_eq!(fault.class, Class::TlsProtocol);
    assert!(!scratch.wire.is_empty(), "an alert");
    pair.filter.end(End::Normal);
    let (mut head, mut shared) = (b"late".to_vec(), vec![(0, Bytes::from_static(b"part"))]);
    pair.filter.send(&mut head, &mut shared, &mut scratch).unwrap();
    assert!(head.is_empty() && shared.is_empty(), "nothing follows it");
    // No TLS at all.
    let layers = Layers { tls: Some(acceptor(&material(&authority))), websocket: None };
    let mut filter = Filter::new(&layers, None).unwrap().unwrap();
    let mut connect = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00".to_vec();
    let fault = filter.receive(&mut connect, &mut Scratch::default()).unwrap_err();
    assert_eq!(fault.class, Class::WrongProtocol);
}
