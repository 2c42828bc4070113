//! The standard's tables, typed from the standard under `tests/tables`, against the codec: every
//! property in every packet, once and twice; every byte as a reason code in every packet, from both
//! sides.

use ringtide_codec::{
    DecodeErrorKind, PacketType, PropertyId, ReasonCode, Role, Version, decode, fixed_header,
};
use std::collections::BTreeMap;

/// Where a property block can be: its name in the tables, the packet around it with `P` where the
/// block goes, and who receives that packet.
const PLACES: [(&str, &str, Role); 14] = [
    ("CONNECT", "10 00044D515454 05 02 0000 P 000163", Role::Server),
    ("WILL", "10 00044D515454 05 06 0000 00 000163 P 000174 0000", Role::Server),
    ("CONNACK", "20 00 00 P", Role::Client),
    ("PUBLISH", "30 000174 P", Role::Client),
    ("PUBACK", "40 0001 00 P", Role::Server),
    ("PUBREC", "50 0001 00 P", Role::Server),
    ("PUBREL", "62 0001 00 P", Role::Server),
    ("PUBCOMP", "70 0001 00 P", Role::Server),
    ("SUBSCRIBE", "82 0001 P 000161 00", Role::Server),
    ("SUBACK", "90 0001 P 00", Role::Client),
    ("UNSUBSCRIBE", "A2 0001 P 000161", Role::Server),
    ("UNSUBACK", "B0 0001 P 00", Role::Client),
    ("DISCONNECT", "E0 04 P", Role::Server),
    ("AUTH", "F0 18 P", Role::Server),
];

const PACKETS: [(&str, PacketType); 15] = [
    ("CONNECT", PacketType::Connect),
    ("CONNACK", PacketType::ConnAck),
    ("PUBLISH", PacketType::Publish),
    ("PUBACK", PacketType::PubAck),
    ("PUBREC", PacketType::PubRec),
    ("PUBREL", PacketType::PubRel),
    ("PUBCOMP", PacketType::PubComp),
    ("SUBSCRIBE", PacketType::Subscribe),
    ("SUBACK", PacketType::SubAck),
    ("UNSUBSCRIBE", PacketType::Unsubscribe),
    ("UNSUBACK", PacketType::UnsubAck),
    ("PINGREQ", PacketType::PingReq),
    ("PINGRESP", PacketType::PingResp),
    ("DISCONNECT", PacketType::Disconnect),
    ("AUTH", PacketType::Auth),
];

fn unhex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0, "{text}");
    let pair = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(pair).collect()
}

fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().collect()).collect()
}

/// A packet with that property block.
fn packet(template: &str, block: &[u8]) -> Vec<u8> {
    let mut tokens = template.split_whitespace();
    let mut bytes = unhex(tokens.next().expect("first byte"));
    let mut body = Vec::new();
    for token in tokens {
        if token == "P" {
            body.push(block.len() as u8);
            body.extend_from_slice(block);
        } else {
            body.extend(unhex(token));
        }
    }
    bytes.push(body.len() as u8);
    bytes.extend(body);
    bytes
}

/// The error of decoding a packet with that block, if any.
fn refusal(template: &str, role: Role, block: &[u8]) -> Option<DecodeErrorKind> {
    let bytes = packet(template, block);
    let header = fixed_header(&bytes, u32::MAX).expect("header").expect("whole");
    decode(role, Version::V5, &header, &bytes[2..]).err().map(|error| error.kind)
}

/// The block with what the property needs beside it to be legal.
fn in_company(id: u8, place: &str, value: &[u8]) -> Vec<u8> {
    let method: &[u8] = &[0x15, 0, 1, b'm'];
    let needs_method = place == "AUTH" && id != 0x15 || id == 0x16;
    [if needs_method { method } else { &[] }, &[id], value].concat()
}

/// A server's property in a packet that both sides send.
fn only_from_servers(id: u8, place: &str) -> bool {
    id == 0x1C && place == "DISCONNECT"
}

#[test]
fn every_property_is_legal_exactly_where_the_table_says() {
    let table = rows(include_str!("tables/property_places.txt"));
    assert_eq!(table.len(), PropertyId::ALL.len());
    for row in &table {
        let (id, value) = (unhex(row[0])[0], unhex(row[1]));
        assert!(PropertyId::from_u8(id).is_some());
        for (place, template, role) in PLACES {
            let block = in_company(id, place, &value);
            let legal = row[2..].contains(&place);
            let got = refusal(template, role, &block);
            if only_from_servers(id, place) {
                assert_eq!(got, Some(DecodeErrorKind::PropertyDirection));
                assert_eq!(refusal(template, Role::Client, &block), None);
            } else {
                let expected = (!legal).then_some(DecodeErrorKind::PropertyMisplaced);
                assert_eq!(got, expected, "{id:02x} in {place}");
            }
        }
    }
}

#[test]
fn every_property_but_two_is_refused_twice() {
    for row in rows(include_str!("tables/property_places.txt")) {
        let (id, value) = (unhex(row[0])[0], unhex(row[1]));
        for (place, template, role) in PLACES {
            if !row[2..].contains(&place) {
                continue;
            }
            let mut block = in_company(id, place, &value);
            block.push(id);
            block.extend_from_slice(&value);
            let repeats = id == 0x26 || id == 0x0B && place == "PUBLISH";
            let expected = if repeats { None } else { Some(DecodeErrorKind::PropertyRepeated) };
            assert_eq!(refusal(template, role, &block), expected, "{id:02x} twice in {place}");
        }
    }
}

#[test]
fn every_other_property_identifier_is_unknown() {
    for id in (0..0x80).filter(|&id| PropertyId::from_u8(id).is_none()) {
        for (place, template, role) in PLACES {
            let got = refusal(template, role, &[id, 0]);
            assert_eq!(got, Some(DecodeErrorKind::PropertyUnknown), "{id:02x} in {place}");
        }
    }
}

#[test]
fn every_property_cut_at_every_byte_is_refused() {
    for row in rows(include_str!("tables/property_places.txt")) {
        let (id, value) = (unhex(row[0])[0], unhex(row[1]));
        for (place, template, role) in PLACES {
            if !row[2..].contains(&place) {
                continue;
            }
            for len in 0..value.len() {
                let block = in_company(id, place, &value[..len]);
                let got = refusal(template, role, &block);
                assert_eq!(got, Some(DecodeErrorKind::Truncated), "{id:02x} in {place} at {len}");
            }
        }
    }
}

#[test]
fn every_byte_is_a_reason_code_exactly_where_the_table_says() {
    let table: BTreeMap<u8, Vec<&str>> = rows(include_str!("tables/reason_codes.txt"))
        .into_iter()
        .map(|row| (unhex(row[0])[0], row[1..].to_vec()))
        .collect();
    for byte in 0..=u8::MAX {
        let code = ReasonCode::from_u8(byte);
        assert_eq!(code.is_some(), table.contains_key(&byte), "{byte:02x}");
        let (Some(code), Some(places)) = (code, table.get(&byte)) else {
            continue;
        };
        assert_eq!((code as u8, code.is_error()), (byte, byte >= 0x80));
        for (name, packet) in PACKETS {
            let said = |sides: [&str; 2]| {
                sides.iter().any(|side| places.contains(&format!("{name}={side}").as_str()))
            };
            assert_eq!(code.valid_in(packet, true), said(["c", "b"]), "{byte:02x} {name}");
            assert_eq!(code.valid_in(packet, false), said(["s", "b"]), "{byte:02x} {name}");
        }
    }
}

#[test]
fn return_codes_of_3_x_stand_for_reasons_and_back() {
    for code in 0..=5 {
        let reason = ReasonCode::from_v3_connack_code(code).expect("defined");
        assert_eq!(reason.v3_connack_code(), Some(code));
        assert!(reason.valid_in(PacketType::ConnAck, false));
    }
    assert_eq!(ReasonCode::from_v3_connack_code(6), None);
    for reason in ReasonCode::ALL {
        let code = reason.v3_connack_code();
        assert!(
            code.is_none_or(|code| code <= 5 && (code == 0) == (*reason == ReasonCode::Success))
        );
    }
}
