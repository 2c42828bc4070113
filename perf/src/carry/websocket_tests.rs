use super::*;

/// An upgraded connection, with the request that it began with.
fn upgraded(zero_mask: bool) -> WebSocket {
    let (mut websocket, request) = WebSocket::new("/mqtt", zero_mask);
    let request = String::from_utf8(request).unwrap();
    assert!(request.starts_with("GET /mqtt HTTP/1.1\r\n"), "{request}");
    let (_, key) = request.split_once("Sec-WebSocket-Key: ").unwrap();
    let accept = derive_accept_key(key.split_once("\r\n").unwrap().0.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         sec-websocket-accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    for byte in answer.as_bytes() {
        assert!(!websocket.is_open());
        assert_eq!(websocket.receive(&[*byte], &mut plain, &mut out), Ok(false));
    }
    assert!(websocket.is_open() && plain.is_empty() && out.is_empty());
    websocket
}

/// Takes the frames apart that a client has made: opcode, mask and payload.
fn taken_apart(mut bytes: &[u8]) -> Vec<(OpCode, [u8; 4], Vec<u8>)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let mut cursor = Cursor::new(bytes);
        let (header, length) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
        let start = cursor.position() as usize;
        let mask = header.mask.unwrap();
        let payload = bytes[start..start + length as usize].iter().zip(mask.iter().cycle());
        frames.push((header.opcode, mask, payload.map(|(byte, own)| byte ^ own).collect()));
        bytes = &bytes[start + length as usize..];
    }
    frames
}

#[test]
fn what_is_sent_is_one_masked_message_with_its_parts_in_place() {
    let mut websocket = upgraded(false);
    let mut out = Vec::new();
    let shared = [(2, Bytes::from_static(b"cde")), (3, Bytes::from_static(b"gh"))];
    websocket.wrap(b"abfij", &shared, &mut out);
    websocket.wrap(b"second", &[], &mut out);
    let frames = taken_apart(&out);
    assert_eq!((frames[0].0, &frames[0].2[..]), (BINARY, &b"abcdefghij"[..]));
    assert_eq!(frames[1].2, b"second");
    assert_ne!(frames[0].1, frames[1].1, "each frame has a mask of its own");
    let mut zero = Vec::new();
    upgraded(true).wrap(b"abc", &[], &mut zero);
    assert_eq!(zero, b"\x82\x83\0\0\0\0abc");
}

#[test]
fn what_is_too_large_for_one_message_goes_in_several() {
    let large: Vec<u8> = (0..2_500_000_u32).map(|i| i as u8).collect();
    let mut out = Vec::new();
    upgraded(false).wrap(b"head", &[(4, Bytes::from(large.clone()))], &mut out);
    let frames = taken_apart(&out);
    assert_eq!(frames.len(), 3);
    assert!(frames.iter().all(|frame| frame.0 == BINARY && frame.2.len() <= MESSAGE_BYTES_MAX));
    let whole: Vec<u8> = frames.into_iter().flat_map(|frame| frame.2).collect();
    assert_eq!(whole, [&b"head"[..], &large].concat());
}

#[test]
fn frames_are_taken_in_at_any_cut_and_pings_are_answered() {
    let mut sent = b"\x82\x03abc\x89\x02hi\x02\x01d\x80\x7e\x01\x00".to_vec();
    sent.extend([7; 256]);
    for piece in 1..sent.len() {
        let mut websocket = upgraded(false);
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        for bytes in sent.chunks(piece) {
            assert_eq!(websocket.receive(bytes, &mut plain, &mut out), Ok(false));
        }
        assert_eq!(plain, [&b"abcd"[..], &[7; 256]].concat());
        let answers = taken_apart(&out);
        assert_eq!((answers.len(), &answers[0].2[..]), (1, &b"hi"[..]));
        assert_eq!(answers[0].0, OpCode::Control(Control::Pong));
    }
}

#[test]
fn a_close_ends_it_and_wrong_frames_are_told() {
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let close = b"\x88\x02\x03\xe8\x82\x01x";
    assert_eq!(upgraded(false).receive(close, &mut plain, &mut out), Ok(true));
    assert!(plain.is_empty() && taken_apart(&out)[0].2 == [3, 0xe8]);
    for wrong in [&b"\x81\x01a"[..], b"\x82\x81\0\0\0\0a", b"\xc2\x01a", b"\x89\x7e\x01\x00"] {
        let received = upgraded(false).receive(wrong, &mut plain, &mut out);
        assert!(received.is_err(), "{wrong:?}");
    }
}

#[test]
fn an_upgrade_that_is_not_granted_is_told() {
    let refused = [
        ("HTTP/1.1 404 Not Found\r\n\r\n", "answered with 404 Not Found"),
        ("HTTP/1.1 101 Fine\r\nSec-WebSocket-Accept: no\r\n\r\n", "lacks the key's answer"),
        ("\x20\x02\0\0", "the upgrade's answer"),
    ];
    for (answer, why) in refused {
        let (mut websocket, _) = WebSocket::new("/", false);
        let received = websocket.receive(answer.as_bytes(), &mut Vec::new(), &mut Vec::new());
        assert!(received.is_err_and(|told| told.contains(why)), "{answer}");
    }
}
