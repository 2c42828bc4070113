//! Appending the data types of MQTT 5.0 section 1.5 to a byte vector.

use crate::{PacketType, VARINT_MAX, varint};
use alloc::vec::Vec;

const FIELD_BYTES_MAX: usize = u16::MAX as usize;

pub(crate) fn put_two(value: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_four(value: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// The part of a string that a field can hold, cut at a character.
//= [MQTT-4.7.3-3]
//= 3.1.1 [MQTT-4.7.3-3]
pub(crate) fn fitting_text(text: &str) -> &str {
    text.get(..text.floor_char_boundary(FIELD_BYTES_MAX)).unwrap_or(text)
}

/// The part of binary data that a field can hold.
pub(crate) fn fitting_binary(bytes: &[u8]) -> &[u8] {
    bytes.get(..FIELD_BYTES_MAX).unwrap_or(bytes)
}

pub(crate) fn text_len(text: &str) -> usize {
    2 + fitting_text(text).len()
}

pub(crate) fn binary_len(bytes: &[u8]) -> usize {
    2 + fitting_binary(bytes).len()
}

pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_binary(fitting_text(text).as_bytes(), out);
}

pub(crate) fn put_binary(bytes: &[u8], out: &mut Vec<u8>) {
    let bytes = fitting_binary(bytes);
    // At most 65 535 after the cut.
    put_two(bytes.len() as u16, out);
    out.extend_from_slice(bytes);
}

/// The length of a packet with `remaining_len` bytes after the fixed header.
#[inline]
pub(crate) const fn packet_len(remaining_len: usize) -> usize {
    1 + varint::len(remaining_len) + remaining_len
}

/// Writes the fixed header and reserves room for the rest. `false`: the packet cannot be expressed
/// in MQTT, nothing was written and nothing must follow.
pub(crate) fn begin(kind: PacketType, flags: u8, remaining_len: usize, out: &mut Vec<u8>) -> bool {
    if remaining_len > VARINT_MAX as usize {
        return false;
    }
    out.reserve(packet_len(remaining_len));
    out.push((kind as u8) << 4 | flags);
    varint::write(remaining_len, out);
    true
}
