//! No bytes of a peer panic or are taken for something else when they are cut: the laws over
//! random bytes, over bytes shaped like frames, and over damaged requests and headers.

mod laws;

use proptest::collection::vec;
use proptest::prelude::*;

/// A frame with a random first byte, seldom one that must not be there.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => prop::sample::select(vec![0x82, 0x02, 0x00, 0x80, 0x89, 0x8A]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    (first, any::<[u8; 4]>(), vec(any::<u8>(), 0..130)).prop_map(|(first, mask, payload)| {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(0x80 | len as u8),
            len => bytes.extend([0xFE, 0, len as u8]),
        }
        bytes.extend(mask);
        bytes.extend(payload);
        bytes
    })
}

/// A request with a few bytes replaced.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let text = "GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                Origin: https://example.org\r\nSec-WebSocket-Protocol: chat, mqtt\r\n\r\n\
                \u{0}\u{0}";
    let edits = vec((0..text.len(), any::<u8>()), 0..3);
    edits.prop_map(move |edits| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        bytes
    })
}

/// A PROXY header of version 2 with a few bytes replaced.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let tlvs = b"\x01\0\x04mqtt\x05\0\x02id\x20\0\x0b\x07\0\0\0\0\x22\0\x03abc";
    let fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0";
    let length = 12 + tlvs.len() as u8;
    let whole = [&fixed[..], &[length], &[7; 12], &tlvs[..], b"\x10rest"].concat();
    let edits = vec((0..whole.len(), any::<u8>()), 0..3);
    edits.prop_map(move |edits| {
        let mut bytes = whole.clone();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        bytes
    })
}

/// Found by the fuzz target: an empty line that was one only if it came in one piece.
#[test]
fn a_line_of_returns_alone_is_not_empty() {
    laws::websocket(b"\0D\n\r\r\r\n!");
}

proptest! {
    #[test]
    fn random_bytes(choice in any::<u8>(), bytes in vec(any::<u8>(), 0..300)) {
        laws::websocket(&[&[choice], bytes.as_slice()].concat());
    }

    #[test]
    fn random_frames(choice in any::<u8>(), frames in vec(frame(), 0..12)) {
        laws::websocket(&[&[choice | 1], frames.concat().as_slice()].concat());
    }

    #[test]
    fn damaged_headers(choice in any::<u8>(), header in header()) {
        laws::proxy(&[&[choice], header.as_slice()].concat());
    }

    #[test]
    fn damaged_requests(choice in any::<u8>(), request in request()) {
        laws::websocket(&[&[choice & !1], request.as_slice()].concat());
    }
}
