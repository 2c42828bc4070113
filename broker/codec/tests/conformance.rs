//! The vectors under `tests/vectors`: each gives what it says; each, cut at every byte, asks for
//! more as a stream and is refused or rightly shorter as a packet; and together they show every
//! kind of error.

mod laws;
mod vectors;

use ringtide_codec::{
    DecodeError, DecodeErrorKind, FixedHeader, Packet, Role, Version, decode, fixed_header,
};
use std::collections::BTreeSet;
use vectors::{Expected, Vector};

/// Decodes one packet from the front; `None`: incomplete.
fn decode_one(
    role: Role,
    version: Version,
    bytes: &[u8],
) -> Result<Option<Packet<'_>>, DecodeError> {
    let Some(header) = fixed_header(bytes, 1 << 20)? else {
        return Ok(None);
    };
    let Some(body) = bytes.get(usize::from(header.header_len)..header.total_len()) else {
        return Ok(None);
    };
    decode(role, version, &header, body).map(Some)
}

/// What is wrong with a vector, if anything.
fn check(vector: &Vector) -> Result<(), String> {
    let Vector { name, role, version, bytes, expected } = vector;
    let decoded = decode_one(*role, *version, bytes);
    match (expected, &decoded) {
        (Expected::Ok { fragments, canonical }, Ok(Some(packet))) => {
            let text = format!("{packet:?}");
            if let Some(missing) = fragments.iter().find(|part| !text.contains(part.as_str())) {
                return Err(format!("{name}: no {missing} in {text}"));
            }
            let mut encoded = Vec::new();
            packet.encode(*version, &mut encoded);
            if (encoded == *bytes) != *canonical {
                return Err(format!("{name}: written as {encoded:02x?}"));
            }
            laws::packet_law(*role, *version, bytes).map(|_| ()).map_err(|error| error.to_string())
        }
        (Expected::Error { kind, reason }, Err(error))
            if format!("{:?}", error.kind) == *kind && error.reason as u8 == *reason =>
        {
            Ok(())
        }
        (Expected::Incomplete, Ok(None)) => Ok(()),
        _ => Err(format!("{name}: expected {expected:?}, got {decoded:?}")),
    }
}

#[test]
fn every_vector_gives_what_it_says() {
    let all = vectors::all();
    assert!(all.len() > 250, "{}", all.len());
    let wrong: Vec<String> = all.iter().filter_map(|vector| check(vector).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_vector_cut_at_every_byte_asks_for_more() {
    for vector in vectors::all() {
        for len in 0..vector.bytes.len() {
            let cut = &vector.bytes[..len];
            match decode_one(vector.role, vector.version, cut) {
                Ok(None) => {}
                // A bad header is refused as soon as it can be seen.
                Err(error) => {
                    let whole = decode_one(vector.role, vector.version, &vector.bytes);
                    assert_eq!(whole, Err(error), "{} cut at {len}", vector.name);
                }
                Ok(Some(packet)) => panic!("{} cut at {len}: {packet:?}", vector.name),
            }
        }
    }
}

/// Whether a packet may leave something out from its end.
fn may_end_early(packet: &Packet<'_>) -> bool {
    match packet {
        Packet::Connect(connect) => connect.version == Version::V3_1,
        Packet::ConnAck(_) | Packet::PingReq | Packet::PingResp => false,
        _ => true,
    }
}

fn has_bytes_left_over(vector: &Vector) -> bool {
    matches!(&vector.expected, Expected::Error { kind, .. } if kind == "TrailingBytes")
}

#[test]
fn every_body_cut_at_every_byte_is_refused_or_a_shorter_packet() {
    let mut refused = 0;
    for vector in vectors::all() {
        let Ok(Some(header)) = fixed_header(&vector.bytes, 1 << 20) else {
            continue;
        };
        let Some(body) = vector.bytes.get(usize::from(header.header_len)..) else {
            continue;
        };
        for len in 0..body.len() {
            let header = FixedHeader { remaining_len: len as u32, ..header };
            let cut = &body[..len];
            match decode(vector.role, vector.version, &header, cut) {
                Err(_) => refused += 1,
                Ok(packet) => {
                    let mut encoded = Vec::new();
                    packet.encode(vector.version, &mut encoded);
                    let law = laws::packet_law(vector.role, vector.version, &encoded);
                    assert_eq!(law.as_ref(), Ok(&packet), "{} cut at {len}", vector.name);
                    let fair = may_end_early(&packet) || has_bytes_left_over(&vector);
                    assert!(fair, "{} cut at {len}: {packet:?}", vector.name);
                }
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn the_vectors_show_every_kind_of_error() {
    let shown: BTreeSet<String> = vectors::all()
        .into_iter()
        .filter_map(|vector| match vector.expected {
            Expected::Error { kind, .. } => Some(kind),
            _ => None,
        })
        .collect();
    for kind in DecodeErrorKind::ALL {
        assert!(shown.contains(&format!("{kind:?}")), "no vector for {kind:?}");
    }
}

#[test]
fn a_body_of_the_wrong_length_is_no_panic() {
    for vector in vectors::all() {
        let Ok(Some(header)) = fixed_header(&vector.bytes, 1 << 20) else {
            continue;
        };
        for body in [&[][..], &[0xFF], &vector.bytes] {
            let packet = decode(vector.role, vector.version, &header, body);
            assert!(packet.is_err() || packet.is_ok_and(|p| p.packet_type() == header.packet_type));
        }
    }
}
