//! Variable byte integers (MQTT 5.0 section 1.5.5): seven bits a byte, at most four bytes.

use crate::DecodeErrorKind;
use alloc::vec::Vec;

/// The largest value a variable byte integer holds.
pub const VARINT_MAX: u32 = 268_435_455;

/// Reads one from the front: value and bytes used; `None` while its end has not been received.
#[inline]
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(u32, u8)>, DecodeErrorKind> {
    let mut value = 0_u32;
    let mut shift = 0_u32;
    let mut used = 0_u8;
    for &byte in bytes.iter().take(4) {
        used += 1;
        value |= u32::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            //= [MQTT-1.5.5-1]
            // A last byte of zero adds nothing: a shorter encoding exists.
            if byte == 0 && used > 1 {
                return Err(DecodeErrorKind::VarintOverlong);
            }
            return Ok(Some((value, used)));
        }
        shift += 7;
    }
    if used == 4 { Err(DecodeErrorKind::VarintOverlong) } else { Ok(None) }
}

/// Bytes that [`write`] takes for the value: 1 to 4.
#[inline]
pub(crate) const fn len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// The encoding of a value, in the fewest bytes: four bytes of which the first `len` count.
/// Values above [`VARINT_MAX`] are encoded as that.
#[inline]
//= [MQTT-1.5.5-1]
pub(crate) fn bytes(value: usize) -> ([u8; 4], usize) {
    let value = value.min(VARINT_MAX as usize);
    if value < 0x80 {
        return ([value as u8, 0, 0, 0], 1);
    }
    let len = len(value);
    let mut out = [0; 4];
    let mut rest = value;
    for (at, byte) in out.iter_mut().enumerate().take(len) {
        let more = if at + 1 < len { 0x80 } else { 0 };
        *byte = (rest & 0x7F) as u8 | more;
        rest >>= 7;
    }
    (out, len)
}

/// Appends a value in the fewest bytes.
#[inline]
pub(crate) fn write(value: usize, out: &mut Vec<u8>) {
    let (encoded, len) = bytes(value);
    out.extend_from_slice(encoded.get(..len).unwrap_or(&encoded));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_boundary_round_trips_in_the_fewest_bytes() {
        let cases =
            [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (2_097_151, 3), (2_097_152, 4)];
        for (value, bytes) in cases.into_iter().chain([(VARINT_MAX, 4)]) {
            let mut out = Vec::new();
            write(value as usize, &mut out);
            assert_eq!(out.len(), bytes, "{value}");
            assert_eq!(len(value as usize), bytes, "{value}");
            assert_eq!(read(&out), Ok(Some((value, bytes as u8))), "{value}");
        }
    }

    #[test]
    fn overlong_forms_are_refused_and_partial_ones_wait() {
        for bytes in [&[0x80, 0][..], &[0xFF, 0x80, 0], &[0xFF; 4], &[0x80, 0x80, 0x80, 0x80, 1]] {
            assert_eq!(read(bytes), Err(DecodeErrorKind::VarintOverlong), "{bytes:?}");
        }
        for bytes in [&[][..], &[0x80], &[0xFF, 0xFF, 0xFF]] {
            assert_eq!(read(bytes), Ok(None), "{bytes:?}");
        }
    }
}
