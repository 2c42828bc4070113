//! UTF-8 strings and topic names: the checks of MQTT 5.0 section 1.5.4.
//!
//! Topic names are checked on the hot path, so the characters they must not hold are searched for
//! eight bytes at a time. A byte order mark is an ordinary character here and stays.

use crate::DecodeErrorKind;

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// The one bit in which `+` and `#` differ, in every byte: without it both look like `#`.
const WILDCARD_BIT: u64 = LOW_BITS * (b'+' ^ b'#') as u64;
const _: () = assert!((b'+' ^ b'#').is_power_of_two() && b'#' < b'+');

/// Non-zero if the word holds a zero byte (exact as a yes-or-no).
#[inline]
const fn zero_byte(word: u64) -> u64 {
    word.wrapping_sub(LOW_BITS) & !word & HIGH_BITS
}

/// Non-zero if the word holds that byte.
#[inline]
const fn holds(word: u64, byte: u8) -> u64 {
    zero_byte(word ^ (LOW_BITS * byte as u64))
}

/// Whether `hit` is non-zero for any word of the bytes. Words may overlap: `hit` must not count.
#[inline]
fn any_word(bytes: &[u8], hit: impl Fn(u64) -> u64) -> bool {
    if let Some(last) = bytes.last_chunk::<8>() {
        let mut seen = hit(u64::from_le_bytes(*last));
        for word in bytes.as_chunks::<8>().0 {
            seen |= hit(u64::from_le_bytes(*word));
        }
        return seen != 0;
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let high = u64::from(u32::from_le_bytes(*last)) << 32;
        return hit(high | u64::from(u32::from_le_bytes(*first))) != 0;
    }
    let mut word = LOW_BITS * b'a' as u64;
    for &byte in bytes {
        word = word << 8 | u64::from(byte);
    }
    hit(word) != 0
}

/// A string: well-formed UTF-8 without U+0000.
#[inline]
pub(crate) fn text(bytes: &[u8]) -> Result<&str, DecodeErrorKind> {
    //= [MQTT-1.5.4-1]
    //= [MQTT-1.5.4-3]
    //= 3.1.1 [MQTT-1.5.3-1]
    //= 3.1.1 [MQTT-1.5.3-3]
    let text = core::str::from_utf8(bytes).map_err(|_| DecodeErrorKind::InvalidUtf8)?;
    //= [MQTT-1.5.4-2]
    //= [MQTT-4.7.3-2]
    //= 3.1.1 [MQTT-1.5.3-2]
    //= 3.1.1 [MQTT-4.7.3-2]
    if any_word(bytes, zero_byte) {
        return Err(DecodeErrorKind::NullCharacter);
    }
    Ok(text)
}

/// A topic name: a string without wildcards. May be empty; the caller knows whether that is legal.
#[inline]
pub(crate) fn topic_name(bytes: &[u8]) -> Result<&str, DecodeErrorKind> {
    //= [MQTT-3.3.2-1]
    //= 3.1.1 [MQTT-3.3.2-1]
    let text = core::str::from_utf8(bytes).map_err(|_| DecodeErrorKind::InvalidUtf8)?;
    //= [MQTT-3.3.2-2]
    //= [MQTT-4.7.0-1]
    //= 3.1.1 [MQTT-3.3.2-2]
    //= 3.1.1 [MQTT-4.7.1-1]
    if any_word(bytes, |word| zero_byte(word) | holds(word & !WILDCARD_BIT, b'#')) {
        let null = bytes.contains(&0);
        let kind =
            if null { DecodeErrorKind::NullCharacter } else { DecodeErrorKind::TopicWildcard };
        return Err(kind);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn forbidden_bytes_are_found_at_every_place_of_every_length() {
        for len in 0..40 {
            let clean = vec![b'x'; len];
            assert!(topic_name(&clean).is_ok(), "{len}");
            for at in 0..len {
                for (byte, kind) in [
                    (0, DecodeErrorKind::NullCharacter),
                    (b'+', DecodeErrorKind::TopicWildcard),
                    (b'#', DecodeErrorKind::TopicWildcard),
                ] {
                    let mut bytes = clean.clone();
                    bytes[at] = byte;
                    assert_eq!(topic_name(&bytes), Err(kind), "{byte} at {at} of {len}");
                    assert_eq!(text(&bytes).is_ok(), byte != 0, "{byte} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn no_other_byte_is_taken_for_a_forbidden_one() {
        for len in [1, 3, 5, 8, 11] {
            for byte in (1..0x80_u8).filter(|byte| !b"+#".contains(byte)) {
                for next in [0x01, 0x22, 0x24, 0x2A, 0x2C, 0x7F] {
                    let mut bytes = vec![byte; len];
                    bytes[len / 2] = next;
                    assert!(topic_name(&bytes).is_ok(), "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn utf8_is_checked_and_a_byte_order_mark_stays() {
        let surrogate = [0xED, 0xA0, 0x80];
        let overlong = [0xC0, 0xAF];
        let cut = "é".as_bytes().get(..1).unwrap();
        for bytes in [&surrogate[..], &overlong, cut, &[0xF5, 0x80, 0x80, 0x80]] {
            assert_eq!(text(bytes), Err(DecodeErrorKind::InvalidUtf8), "{bytes:?}");
            assert_eq!(topic_name(bytes), Err(DecodeErrorKind::InvalidUtf8), "{bytes:?}");
        }
        for good in ["\u{FEFF}a", "é/ü", "\u{10FFFF}", "\u{1}\u{7F}"] {
            assert_eq!(text(good.as_bytes()), Ok(good));
            assert_eq!(topic_name(good.as_bytes()), Ok(good));
        }
    }
}
