use super::*;

fn collect(scanner: &mut Scanner, bytes: &[u8]) -> Vec<(u8, usize, usize)> {
    let mut found = Vec::new();
    scanner.scan(bytes, |f| found.push((f.first, f.body.len(), f.body_len))).unwrap();
    found
}

fn stream() -> (Vec<u8>, Vec<(u8, usize, usize)>) {
    let mut bytes = vec![0xd0, 0];
    let mut expected = vec![(0xd0, 0, 0)];
    for len in [2, 127, 128, 300, 16_384, 40_000] {
        bytes.push(0x30);
        put_varint(&mut bytes, len);
        let header = if len < 128 {
            2
        } else if len < 16_384 {
            3
        } else {
            4
        };
        bytes.resize(bytes.len() + len, 7);
        expected.push((0x30, len.min(PREFIX_MAX_BYTES - header), len));
    }
    put_ack(&mut bytes, packet::PUBREL, 0x1234);
    expected.push((0x62, 2, 2));
    (bytes, expected)
}

#[test]
fn frames_are_found_however_the_stream_is_cut() {
    let (bytes, expected) = stream();
    for step in [1, 2, 3, 5, 127, 1000, 16_384] {
        let mut scanner = Scanner::default();
        let mut found = Vec::new();
        for chunk in bytes.chunks(step) {
            found.extend(collect(&mut scanner, chunk));
        }
        assert_eq!(found, expected, "step {step}");
        assert_eq!(scanner.seen, 0);
    }
}

#[test]
fn a_whole_stream_gives_large_frames_uncut() {
    let (bytes, expected) = stream();
    let found = collect(&mut Scanner::default(), &bytes);
    let lens: Vec<_> = found.iter().map(|f| (f.0, f.2)).collect();
    assert_eq!(lens, expected.iter().map(|f| (f.0, f.2)).collect::<Vec<_>>());
    assert!(found.iter().all(|f| f.1 == f.2));
}

#[test]
fn a_length_of_five_bytes_is_malformed() {
    let bytes = [0x30, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(Scanner::default().scan(&bytes, |_| ()), Err(Malformed));
    let mut scanner = Scanner::default();
    let ends = bytes.iter().map(|byte| scanner.scan(&[*byte], |_| ())).find(Result::is_err);
    assert_eq!(ends, Some(Err(Malformed)));
}

#[test]
fn varints_round_trip() {
    for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455] {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        assert_eq!(varint(&bytes), Ok(Some((value, bytes.len()))));
        assert_eq!(varint(&bytes[..bytes.len() - 1]), Ok(None));
    }
}

#[test]
fn a_publish_head_is_parsed_back() {
    for (version, qos) in [(Version::V3_1_1, 0), (Version::V3_1_1, 2), (Version::V5, 1)] {
        let mut bytes = publish_head(version, qos, "a/b", 5);
        let payload_at = bytes.len() - 2;
        bytes.extend_from_slice(b"hello");
        let mut seen = 0;
        let scanned = Scanner::default().scan(&bytes, |frame| {
            let head = parse_publish(version, &frame).unwrap();
            assert_eq!((head.packet_id, head.payload_at), (0, payload_at));
            assert_eq!(&frame.body[head.payload_at..], b"hello");
            assert_eq!(publish_topic(&frame), Some(&b"a/b"[..]));
            assert_eq!(frame.qos(), qos);
            seen += 1;
        });
        assert_eq!((scanned, seen), (Ok(()), 1));
    }
}

#[test]
fn a_cut_publish_gives_no_head() {
    let frame = Frame { first: 0x32, body: &[0, 3, b'a', b'/', b'b', 0], body_len: 6 };
    assert_eq!(parse_publish(Version::V3_1_1, &frame), None);
    assert_eq!(publish_topic(&Frame { first: 0x30, body: &[0, 3, b'a'], body_len: 3 }), None);
}

#[test]
fn connack_gives_code_and_receive_maximum() {
    let plain = ConnAck { code: 0, session_present: false, receive_maximum: u16::MAX };
    assert_eq!(connack(Version::V3_1_1, &[0, 0]), Some(plain));
    assert_eq!(connack(Version::V5, &[0, 0, 0]), Some(plain));
    let body = [0, 0, 9, 0x26, 0, 1, b'k', 0, 0, 0x21, 0, 20];
    assert_eq!(connack(Version::V5, &body), Some(ConnAck { receive_maximum: 20, ..plain }));
    let present = ConnAck { session_present: true, ..plain };
    assert_eq!(connack(Version::V3_1_1, &[1, 0]), Some(present));
    assert_eq!(connack(Version::V5, &[0]), None);
}

#[test]
fn cold_packets_have_the_standard_layout() {
    let asked = Connect {
        version: Version::V3_1_1,
        client_id: "id",
        user_name: Some("me"),
        password: None,
        keep_alive_s: 60,
        persistent: false,
        receive_maximum: None,
    };
    let bytes = connect(&asked);
    assert_eq!(bytes, b"\x10\x12\x00\x04MQTT\x04\x82\x00\x3c\x00\x02id\x00\x02me");
    let asked = Connect { user_name: None, persistent: true, ..asked };
    assert_eq!(connect(&asked)[8..12], [4, 0, 0, 0x3c]);
    let asked = Connect { version: Version::V5, receive_maximum: Some(258), ..asked };
    let properties = b"\x08\x11\xff\xff\xff\xff\x21\x01\x02";
    assert_eq!(connect(&asked)[8..21], [&b"\x05\x00\x00\x3c"[..], properties].concat());
    let bytes = subscribe(Version::V5, 7, &["a/#".to_owned()], 1);
    assert_eq!(bytes, b"\x82\x09\x00\x07\x00\x00\x03a/#\x01");
    assert_eq!(ack_id(&[0x12, 0x34, 0]), 0x1234);
    assert_eq!(ack_id(&[1]), 0);
}
