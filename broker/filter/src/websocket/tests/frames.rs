//! Frames: any stream of them in any pieces against a model; each breach with its code; what is
//! sent, read back.

use std::io::Cursor;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::*;
use crate::{Class, End, Layered};

const FIN: u8 = 0x80;
const CONTINUE: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A client's frame, written without the code under test.
fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, own)| byte ^ own));
    bytes
}

/// A server's frame.
fn answer(opcode: u8, payload: &[u8]) -> Vec<u8> {
    [&[FIN | opcode, payload.len() as u8], payload].concat()
}

fn close_answer(code: u16) -> Vec<u8> {
    answer(CLOSE, &code.to_be_bytes())
}

/// One step of a client that keeps to the rules.
#[derive(Clone, Debug)]
enum Step {
    /// A message in fragments; between any two a ping may come.
    Message(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let control = || vec(any::<u8>(), 0..126);
    let payload = prop_oneof![vec(any::<u8>(), 0..20), vec(any::<u8>(), 100..300)];
    let large = vec(any::<u8>(), 65_530..65_540);
    prop_oneof![
        8 => vec((payload, proptest::option::of(control())), 1..4).prop_map(Step::Message),
        1 => large.prop_map(|payload| Step::Message(vec![(payload, None)])),
        2 => control().prop_map(Step::Ping),
        1 => control().prop_map(Step::Pong),
    ]
}

/// What the steps are on the wire, and what must come of them: MQTT bytes and answers.
fn written(steps: &[Step], masks: &[[u8; 4]]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let mut masks = masks.iter().cycle().copied();
    let mut mask = || masks.next().unwrap_or_default();
    let (mut bytes, mut plain, mut wire) = (Vec::new(), Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Ping(payload) => {
                bytes.extend(frame(FIN | PING, mask(), payload));
                wire.extend(answer(PONG, payload));
            }
            Step::Pong(payload) => bytes.extend(frame(FIN | PONG, mask(), payload)),
            Step::Message(parts) => {
                for (at, (payload, ping)) in parts.iter().enumerate() {
                    let opcode = if at == 0 { BINARY } else { CONTINUE };
                    let last = if at + 1 == parts.len() { FIN } else { 0 };
                    bytes.extend(frame(opcode | last, mask(), payload));
                    plain.extend(payload);
                    if let Some(ping) = ping {
                        bytes.extend(frame(FIN | PING, mask(), ping));
                        wire.extend(answer(PONG, ping));
                    }
                }
            }
        }
    }
    (bytes, plain, wire)
}

proptest! {
    #[test]
    fn any_stream_in_any_pieces_gives_its_payload(
        steps in vec(step(), 0..8),
        masks in vec(any::<[u8; 4]>(), 1..5),
        lengths in vec(prop_oneof![1..20_usize, 1..5000_usize], 1..6),
    ) {
        let (bytes, plain, wire) = written(&steps, &masks);
        let mut filter = open();
        let seen = Seen::of(&mut filter, cut(&bytes, &lengths));
        prop_assert!(seen.plain == plain, "{} and {} bytes", seen.plain.len(), plain.len());
        prop_assert_eq!(seen.wire, wire);
        prop_assert_eq!((seen.ended, seen.fault), (false, None));
    }

    #[test]
    fn a_mask_is_taken_away_wherever_its_bytes_are_cut(
        payload in vec(any::<u8>(), 0..100),
        mask in any::<[u8; 4]>(),
        length in 1..20_usize,
    ) {
        let mut turned = mask;
        let mut got = payload.clone();
        for piece in got.chunks_mut(length) {
            super::super::frames::unmask(piece, &mut turned);
        }
        let wanted: Vec<u8> =
            payload.iter().zip(mask.iter().cycle()).map(|(byte, own)| byte ^ own).collect();
        prop_assert_eq!(got, wanted);
    }
}

#[test]
fn every_breach_has_its_code_in_any_pieces() {
    let m = [1, 2, 3, 4];
    let long = [0; 126];
    let unmasked = vec![FIN | BINARY, 1, 0xC0];
    let wide = |second: u8, rest: &[u8]| [&[FIN | BINARY, second][..], rest, &m].concat();
    let cases = [
        (frame(FIN | 0x40 | BINARY, m, b""), 1002, "reserved bit"),
        (frame(FIN | 0x20 | BINARY, m, b""), 1002, "reserved bit"),
        (frame(FIN | 0x10 | PING, m, b""), 1002, "reserved bit"),
        (frame(FIN | 3, m, b""), 1002, "opcode"),
        (frame(FIN | 7, m, b"x"), 1002, "opcode"),
        (frame(FIN | 11, m, b""), 1002, "opcode"),
        (frame(FIN | 15, m, b"x"), 1002, "opcode"),
        (unmasked, 1002, "not masked"),
        (frame(PING, m, b"x"), 1002, "control frame is fragmented"),
        (frame(CLOSE, m, b""), 1002, "control frame is fragmented"),
        (frame(FIN | PING, m, &long), 1002, "more than 125"),
        (frame(FIN | CLOSE, m, &long), 1002, "more than 125"),
        (frame(FIN | CONTINUE, m, b"x"), 1002, "has not begun"),
        (frame(CONTINUE, m, b"x"), 1002, "has not begun"),
        ([frame(BINARY, m, b"\xC0"), frame(FIN | BINARY, m, b"")].concat(), 1002, "inside"),
        ([frame(BINARY, m, b"\xC0"), frame(FIN | TEXT, m, b"")].concat(), 1002, "inside"),
        (frame(FIN | TEXT, m, b"x"), 1003, "text message"),
        (frame(TEXT, m, b"x"), 1003, "text message"),
        (wide(0xFE, &[0, 125]), 1002, "shortest form"),
        (wide(0xFF, &[0, 0, 0, 0, 0, 0, 255, 255]), 1002, "shortest form"),
        (wide(0xFF, &[0x80, 0, 0, 0, 0, 1, 0, 0]), 1002, "shortest form"),
        (wide(0xFF, &[0, 0, 0, 0, 0, 1, 0x86, 0xA1]), 1009, "larger than packets"),
        (wide(0xFF, &[0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]), 1009, "larger than"),
        (frame(FIN | CLOSE, m, b"\x03"), 1002, "half a code"),
        (frame(FIN | CLOSE, m, b"\x03\xE8\xFF"), 1007, "UTF-8"),
    ];
    for (bytes, code, text) in cases {
        // What comes before a breach is passed on, however the bytes are cut.
        let all = [frame(FIN | BINARY, m, b"\xC0\x00"), bytes].concat();
        for length in 1..=all.len() {
            let seen = Seen::of(&mut open(), cut(&all, &[length]));
            let fault = seen.fault.unwrap_or_else(|| panic!("no fault for {text}"));
            assert_eq!(fault.class, Class::Frames);
            assert!(fault.text.contains(text), "{fault}");
            let close = [&u16::to_be_bytes(code)[..], fault.text.as_bytes()].concat();
            assert_eq!(seen.wire, answer(CLOSE, &close), "{text}");
            assert!(seen.wire.len() < 2 + 126, "{text}");
            assert!(seen.plain.starts_with(b"\xC0\x00"), "{text}");
        }
    }
}

#[test]
fn fragments_count_together_towards_the_limit() {
    let m = [9, 8, 7, 6];
    let half = vec![0; MESSAGE_BYTES_MAX as usize / 2];
    let message = [frame(BINARY, m, &half), frame(FIN | CONTINUE, m, &half)].concat();
    let mut filter = open();
    let seen = Seen::of(&mut filter, [message.as_slice(), &message]);
    assert_eq!((seen.plain.len(), seen.fault), (4 * half.len(), None));
    let more = [frame(BINARY, m, &half), frame(CONTINUE, m, &half), frame(CONTINUE, m, &[0])];
    let seen = Seen::of(&mut filter, more.iter().map(Vec::as_slice));
    assert!(seen.wire.starts_with(&[FIN | CLOSE]) && seen.wire[2..4] == 1009_u16.to_be_bytes());
}

#[test]
fn a_close_is_answered_with_its_code_if_that_may_be_sent() {
    let m = [5, 5, 5, 5];
    for code in [1000_u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        let bytes = [&code.to_be_bytes()[..], "gr\u{fc}\u{df}e".as_bytes()].concat();
        let mut filter = open();
        let after = frame(FIN | BINARY, m, b"\xC0\x00");
        let seen = Seen::of(&mut filter, [&*frame(FIN | CLOSE, m, &bytes), &*after]);
        assert_eq!(seen.wire, close_answer(code), "{code}");
        assert_eq!((seen.plain, seen.ended, seen.fault), (Vec::new(), true, None), "{code}");
        assert!(filter.has_ended());
    }
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        let seen = Seen::of(&mut open(), [&*frame(FIN | CLOSE, m, &code.to_be_bytes())]);
        assert_eq!(seen.wire[2..4], 1002_u16.to_be_bytes(), "{code}");
    }
    let seen = Seen::of(&mut open(), [&*frame(FIN | CLOSE, m, b"")]);
    assert_eq!((seen.wire, seen.ended), (answer(CLOSE, b""), true));
}

/// Head and shared parts as the driver would send them.
fn spliced(head: &[u8], shared: &[(u32, Bytes)]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut from = 0;
    for (position, part) in shared {
        all.extend_from_slice(&head[from..*position as usize]);
        all.extend_from_slice(part);
        from = *position as usize;
    }
    all.extend_from_slice(&head[from..]);
    all
}

#[test]
fn what_is_sent_is_one_frame_and_shared_parts_are_not_copied() {
    for (before, part, after) in
        [(1, 0, 0), (125, 0, 0), (126, 0, 0), (3, 65_530, 2), (3, 65_530, 3), (2, 100_000, 50)]
    {
        let mut filter = open();
        let mut head = [vec![1; before], vec![3; after]].concat();
        let body = Bytes::from(vec![2; part]);
        let mut shared = match part {
            0 => Vec::new(),
            _ => vec![(before as u32, body.clone())],
        };
        let wanted = spliced(&head, &shared);
        send(&mut filter, &mut head, &mut shared);
        assert!(shared.iter().all(|(_, part)| part.as_ptr() == body.as_ptr()));
        let sent = spliced(&head, &shared);
        let mut cursor = Cursor::new(&sent);
        let (header, length) =
            FrameHeader::parse(&mut cursor).expect("a frame").expect("a whole header");
        assert!(header.is_final && header.mask.is_none());
        assert_eq!(header.opcode, OpCode::Data(Data::Binary));
        assert_eq!(length, wanted.len() as u64);
        assert!(sent[cursor.position() as usize..] == wanted, "{before} {part} {after}");
    }
}

#[test]
fn the_goodbye_goes_with_the_last_that_is_sent() {
    for (why, code) in [
        (End::Normal, 1000_u16),
        (End::GoingAway, 1001),
        (End::ProtocolError, 1002),
        (End::Policy, 1008),
        (End::TooLarge, 1009),
    ] {
        let mut filter = open();
        let mut head = b"\xE0\x00".to_vec();
        filter.end(why);
        send(&mut filter, &mut head, &mut Vec::new());
        assert_eq!(head, [answer(BINARY, b"\xE0\x00"), close_answer(code)].concat());
        let mut more = b"\xD0\x00".to_vec();
        send(&mut filter, &mut more, &mut Vec::new());
        assert_eq!(more, b"", "nothing follows a Close");
    }
    let mut filter = open();
    filter.end(End::Normal);
    let mut head = Vec::new();
    send(&mut filter, &mut head, &mut Vec::new());
    assert_eq!(head, close_answer(1000), "without anything before it");
}

#[test]
fn after_a_close_and_before_the_upgrade_nothing_is_sent() {
    let mut closed = open();
    Seen::of(&mut closed, [&*frame(FIN | CLOSE, [0; 4], b"")]);
    for mut filter in [closed, filter()] {
        let mut head = b"\xD0\x00".to_vec();
        let mut shared = vec![(2, Bytes::from_static(b"payload"))];
        filter.end(End::Normal);
        send(&mut filter, &mut head, &mut shared);
        assert_eq!((head, shared), (Vec::new(), Vec::new()));
    }
}

#[test]
fn an_idle_filter_holds_no_buffer() {
    let mut filter = open();
    let bytes = [frame(FIN | PING, [1; 4], &[7; 125]), frame(FIN | BINARY, [2; 4], b"\xC0\x00")];
    Seen::of(&mut filter, cut(&bytes.concat(), &[1]));
    let Layered::WebSocket(websocket) = filter.0 else { panic!("{filter:?}") };
    assert_eq!(websocket.held.capacity(), 0);
}
