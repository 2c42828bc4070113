//! No bytes panic, and what is accepted round-trips: the laws over random bytes, over random bytes
//! shaped like packets, and over damaged vectors.

mod laws;
mod vectors;

use proptest::prelude::*;

/// A packet's first byte, a right remaining length and a random body, so that the decoders behind
/// the fixed header are reached.
fn framed() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(byte(), 0..120);
    (any::<u8>(), first_byte(), body).prop_map(|(choice, first, body)| {
        let mut bytes = vec![choice, first, body.len() as u8];
        bytes.extend(body);
        bytes
    })
}

fn first_byte() -> impl Strategy<Value = u8> {
    (1..16_u8, any::<u8>()).prop_map(|(kind, flags)| match kind {
        3 => kind << 4 | flags & 0x0F,
        6 | 8 | 10 => kind << 4 | 2,
        _ => kind << 4,
    })
}

/// Bytes with the small numbers, identifiers and letters that packets are made of.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![4 => 0..5_u8, 2 => 0..0x2B_u8, 2 => b'a'..b'd', 1 => any::<u8>()]
}

/// A vector with a few bytes replaced, inserted or cut away.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let all = vectors::all();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, byte()), 1..6);
    (any::<u8>(), 0..all.len(), edits).prop_map(move |(choice, which, edits)| {
        let mut bytes = vec![choice];
        bytes.extend(&all[which].bytes);
        for (at, edit, byte) in edits {
            let at = at.index(bytes.len());
            match edit {
                0 | 1 => bytes[at] = byte,
                2 => bytes.insert(at, byte),
                _ => bytes.truncate(at + 1),
            }
        }
        bytes
    })
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn any_bytes_are_refused_or_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        laws::stream(&bytes);
        laws::properties(&bytes);
    }

    #[test]
    fn framed_bytes_are_refused_or_round_trip(bytes in framed()) {
        laws::stream(&bytes);
    }

    #[test]
    fn property_bytes_are_walked_to_an_end(bytes in prop::collection::vec(byte(), 0..60)) {
        laws::properties(&bytes);
    }

    #[test]
    fn damaged_vectors_are_refused_or_round_trip(bytes in damaged()) {
        laws::stream(&bytes);
    }
}
