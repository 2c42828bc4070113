//! What the encoders write, byte by byte, and what they do at their limits.

use ringtide_codec::*;
use std::borrow::Cow;

fn id(id: u16) -> PacketId {
    PacketId::new(id).expect("not 0")
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn publish_out(version: Version, payload_len: usize) -> PublishOut<'static> {
    PublishOut {
        version,
        dup: true,
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "a/b",
        packet_id: Some(id(0x1234)),
        message_expiry_s: Some(60),
        topic_alias: Some(5),
        subscription_ids: &[1, 300],
        forward: &[0x01, 0x01],
        payload_len,
    }
}

#[test]
fn a_publish_in_each_version() {
    let v3 = [0x3B, 9, 0, 3, b'a', b'/', b'b', 0x12, 0x34, b'h', b'i'];
    for version in [Version::V3_1, Version::V3_1_1] {
        assert_eq!(written(|out| publish_out(version, 2).write(b"hi", out)), v3);
    }
    let v5 = [
        &[0x3B, 0x19, 0, 3, b'a', b'/', b'b', 0x12, 0x34, 15][..],
        &[0x23, 0, 5],
        &[0x02, 0, 0, 0, 60],
        &[0x0B, 1, 0x0B, 0xAC, 0x02],
        &[0x01, 0x01],
        b"hi",
    ]
    .concat();
    assert_eq!(written(|out| publish_out(Version::V5, 2).write(b"hi", out)), v5);
    let head = written(|out| publish_out(Version::V5, 2).write_head(out));
    assert_eq!(head, v5[..v5.len() - 2]);
}

#[test]
fn a_qos_0_publish_has_neither_dup_nor_packet_id() {
    let out = PublishOut { qos: QoS::AtMostOnce, retain: false, ..publish_out(Version::V3_1_1, 0) };
    assert_eq!(written(|bytes| out.write_head(bytes)), [0x30, 5, 0, 3, b'a', b'/', b'b']);
}

#[test]
fn a_publish_whose_payload_is_not_as_long_as_said_is_not_written() {
    assert_eq!(written(|out| publish_out(Version::V5, 2).write(b"abc", out)), []);
}

#[test]
fn the_length_of_every_publish_size_is_foretold() {
    for payload_len in [0, 100, 110, 111, 120, 16_300, 16_380, 2_097_120, 2_097_152] {
        let out = publish_out(Version::V5, payload_len);
        let head = written(|bytes| out.write_head(bytes));
        assert_eq!(head.len() + payload_len, out.packet_len(), "{payload_len}");
        let header = fixed_header(&head, u32::MAX).expect("header").expect("whole");
        assert_eq!(header.total_len(), out.packet_len(), "{payload_len}");
    }
}

#[test]
fn a_packet_too_long_for_mqtt_is_not_written() {
    let most = VARINT_MAX as usize - publish_out(Version::V3_1_1, 0).packet_len() + 2;
    let fits = publish_out(Version::V3_1_1, most);
    assert_eq!(fits.packet_len(), PACKET_BYTES_MAX);
    assert_eq!(written(|out| fits.write_head(out)).len() + most, PACKET_BYTES_MAX);
    let too_long = publish_out(Version::V3_1_1, most + 1);
    assert_eq!(written(|out| too_long.write_head(out)), []);

    let codes = vec![0; VARINT_MAX as usize - 1];
    let suback = SubAck::new(id(1), &codes);
    assert!(suback.packet_len(Version::V3_1_1) > PACKET_BYTES_MAX);
    assert_eq!(written(|out| suback.encode(Version::V3_1_1, out)), []);
}

#[test]
fn a_string_too_long_for_its_field_is_cut_at_a_character() {
    // 65 534 bytes and a two-byte letter: the letter does not fit.
    let long = "a".repeat(65_534) + "é" + "rest";
    let out = PublishOut { topic: &long, ..publish_out(Version::V3_1_1, 0) };
    let bytes = written(|bytes| out.write_head(bytes));
    assert_eq!(bytes.len(), out.packet_len());
    let header = fixed_header(&bytes, u32::MAX).expect("header").expect("whole");
    let body = &bytes[usize::from(header.header_len)..];
    let publish = Publish::decode(Version::V3_1_1, header.flags, body).expect("own encoding");
    assert_eq!(publish.topic.len(), 65_534);

    let data = vec![7; 70_000];
    let auth = Auth {
        method: Some(&long),
        data: Some(&data),
        ..Auth::new(ReasonCode::ContinueAuthentication)
    };
    let bytes = written(|out| auth.encode(Version::V5, out));
    assert_eq!(bytes.len(), auth.packet_len(Version::V5));
    let header = fixed_header(&bytes, u32::MAX).expect("header").expect("whole");
    let body = &bytes[usize::from(header.header_len)..];
    let decoded = Auth::decode(Version::V5, 0, body).expect("own encoding");
    assert_eq!(decoded.method.map(str::len), Some(65_534));
    assert_eq!(decoded.data.map(<[u8]>::len), Some(65_535));
}

#[test]
fn acknowledgements_take_their_shortest_form() {
    let success = ReasonCode::Success;
    let ack = |kind, version, reason| written(|out| write_ack(kind, version, id(7), reason, out));
    assert_eq!(ack(AckKind::PubAck, Version::V5, success), [0x40, 2, 0, 7]);
    assert_eq!(ack(AckKind::PubRec, Version::V3_1_1, success), [0x50, 2, 0, 7]);
    assert_eq!(ack(AckKind::PubRel, Version::V5, success), [0x62, 2, 0, 7]);
    let missing = ReasonCode::PacketIdentifierNotFound;
    assert_eq!(ack(AckKind::PubComp, Version::V5, missing), [0x70, 3, 0, 7, 0x92]);
    // 3.1.1 knows no such answer: a plain PUBCOMP.
    assert_eq!(ack(AckKind::PubComp, Version::V3_1_1, missing), [0x70, 2, 0, 7]);
    assert_eq!(written(|out| PingResp.encode(Version::V5, out)), [0xD0, 0]);
    assert_eq!(written(|out| PingReq.encode(Version::V3_1, out)), [0xC0, 0]);
    let goodbye = Disconnect::new(success);
    assert_eq!(written(|out| goodbye.encode(Version::V5, out)), [0xE0, 0]);
    let shutdown = Disconnect::new(ReasonCode::ServerShuttingDown);
    assert_eq!(written(|out| shutdown.encode(Version::V5, out)), [0xE0, 1, 0x8B]);
}

#[test]
fn a_connack_to_a_3_x_client_has_a_return_code_or_is_not_sent() {
    let refuse = |reason| written(|out| ConnAck::new(true, reason).encode(Version::V3_1_1, out));
    assert_eq!(refuse(ReasonCode::Success), [0x20, 2, 1, 0]);
    assert_eq!(refuse(ReasonCode::UnsupportedProtocolVersion), [0x20, 2, 0, 1]);
    assert_eq!(refuse(ReasonCode::ClientIdentifierNotValid), [0x20, 2, 0, 2]);
    assert_eq!(refuse(ReasonCode::ServerBusy), [0x20, 2, 0, 3]);
    assert_eq!(refuse(ReasonCode::BadUserNameOrPassword), [0x20, 2, 0, 4]);
    assert_eq!(refuse(ReasonCode::Banned), [0x20, 2, 0, 5]);
    assert_eq!(refuse(ReasonCode::MalformedPacket), []);
    assert_eq!(ConnAck::new(false, ReasonCode::MalformedPacket).packet_len(Version::V3_1), 0);
    let v5 = ConnAck::new(true, ReasonCode::NotAuthorized);
    assert_eq!(written(|out| v5.encode(Version::V5, out)), [0x20, 3, 0, 0x87, 0]);
}

#[test]
fn only_an_unsupported_protocol_is_answered_before_closing_in_3_x() {
    for &kind in DecodeErrorKind::ALL {
        let code = DecodeError::new(kind).v3_return_code();
        assert_eq!(code, (kind == DecodeErrorKind::UnsupportedProtocol).then_some(1), "{kind:?}");
    }
}

#[test]
fn auth_is_not_written_below_version_5() {
    let auth = Auth::new(ReasonCode::Success);
    assert_eq!(written(|out| auth.encode(Version::V3_1_1, out)), []);
    assert_eq!(auth.packet_len(Version::V3_1_1), 0);
    assert_eq!(written(|out| auth.encode(Version::V5, out)), [0xF0, 0]);
}

#[test]
fn user_properties_hold_nothing_else() {
    let mut bytes = Vec::new();
    push_user_property(&mut bytes, "k", "v");
    push_user_property(&mut bytes, "k", "w");
    let pairs = UserProperties::parse(&bytes).expect("own bytes");
    assert_eq!(pairs.iter().collect::<Vec<_>>(), [("k", "v"), ("k", "w")]);
    assert!(!pairs.is_empty() && UserProperties::EMPTY.is_empty());
    bytes.extend([0x01, 0x01]);
    let error = UserProperties::parse(&bytes).expect_err("a payload format");
    assert_eq!(error.kind, DecodeErrorKind::PropertyMisplaced);
}

#[test]
fn a_will_is_borrowed_unless_its_properties_are_interleaved() {
    let connect = |block: &[u8]| {
        let head = [0, 4, b'M', b'Q', b'T', b'T', 5, 6, 0, 0, 0, 0, 0, block.len() as u8];
        [&head, block, &[0, 1, b't', 0, 0]].concat()
    };
    let (delay, format, kind) = ([0x18, 0, 0, 0, 1], [0x01, 1], [0x03, 0, 1, b'x']);
    let travels = [&format[..], &kind].concat();
    for (block, borrowed) in [
        ([&delay[..], &format, &kind].concat(), true),
        ([&format[..], &kind, &delay].concat(), true),
        ([&format[..], &delay, &kind].concat(), false),
    ] {
        let bytes = connect(&block);
        let will = Connect::decode(0, &bytes).expect("valid").will.expect("a will");
        assert_eq!((will.delay_s, &*will.properties), (1, travels.as_slice()));
        assert_eq!(matches!(will.properties, Cow::Borrowed(_)), borrowed, "{block:02x?}");
    }
}

#[test]
fn the_version_of_a_broken_connect_can_still_be_told() {
    let broken = [0, 4, b'M', b'Q', b'T', b'T', 5, 0xFF];
    assert!(Connect::decode(0, &broken).is_err());
    assert_eq!(Connect::peek_version(&broken), Some(Version::V5));
    assert_eq!(Connect::peek_version(&broken[..6]), None);
    assert_eq!(Connect::peek_version(&[0, 4, b'M', b'Q', b'T', b'T', 9]), None);
}

#[test]
fn flags_of_every_packet_are_what_the_standard_fixes() {
    // The first byte of each packet type, from table 2-2; PUBLISH has flags of its own.
    let fixed =
        [0x10, 0x20, 0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xA2, 0xB0, 0xC0, 0xD0, 0xE0, 0xF0];
    for first in 0..=u8::MAX {
        let accepted = fixed_header(&[first, 0], u32::MAX).is_ok();
        // DUP of MQTT 3.1 is judged by the packet's decoder.
        let dup = [0x6A, 0x8A, 0xAA].contains(&first);
        let publish = first >> 4 == 3 && first & 6 != 6 && (first & 8 == 0 || first & 6 != 0);
        assert_eq!(accepted, fixed.contains(&first) || dup || publish, "{first:02x}");
    }
}
