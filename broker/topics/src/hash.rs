//! Hashes of topics and of their levels.
//!
//! Owns the hash function and its seed. It must not be used where a hash has to mean the same in
//! another process, unless that process was given the same seed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::TenantId;

// 0xFF is in no UTF-8 text, so no word of a topic can equal a key and blind its multiplication.
const KEY_A: u64 = 0xFF51_AFD7_ED55_8CCD;
const KEY_B: u64 = 0xA076_1D64_78BD_642F;
const KEY_C: u64 = 0x8EBC_6AF0_9C88_C6E3;
const TENANT: u64 = 0x9E37_79B9_7F4A_7C15;

static SEED: AtomicU64 = AtomicU64::new(0x2D35_8DCC_AA6C_78A5);

/// Sets the process's seed. To be called once, before the first table is filled and the first
/// topic hashed: what was hashed before is not found again.
///
/// A secret seed keeps a client from choosing topics that collide. Without a call a fixed seed is
/// used, so that a simulation repeats.
pub fn seed_hashes(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
}

/// The hash of a whole topic name (or of a filter without wildcards), all 64 bits well mixed.
#[inline]
#[must_use]
pub fn topic_hash(tenant: TenantId, topic: &str) -> u64 {
    hash_bytes(tenant_state(tenant), topic.as_bytes())
}

/// The hash of one level, without its separators and without the tenant.
#[inline]
pub(crate) fn level_hash(level: &[u8]) -> u64 {
    Cut::new(level).level_hash(0, level.len())
}

/// A text whose levels are hashed one after another.
pub(crate) struct Cut<'a> {
    text: &'a [u8],
    seed: u64,
    /// Where the last word begins; 0 if there is only a part of one.
    last: usize,
    /// The last word, the first of its bytes in the lowest bits, zeros where there are no bytes.
    tail: u64,
}

impl<'a> Cut<'a> {
    #[inline]
    pub(crate) fn new(text: &'a [u8]) -> Self {
        let tail = match text.last_chunk() {
            Some(last) => u64::from_le_bytes(*last),
            None => text.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        let seed = SEED.load(Ordering::Relaxed) ^ KEY_A;
        Self { text, seed, last: text.len().saturating_sub(8), tail }
    }

    /// Eight bytes from `begin` on, with zeros behind the end of the text.
    #[inline]
    pub(crate) fn word(&self, begin: usize) -> u64 {
        match self.text.get(begin..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None if begin < self.last + 8 => self.tail >> (8 * (begin - self.last)),
            None => 0,
        }
    }

    /// The hash of the level from `begin` to `end`. Most have up to 8 bytes, but not always
    /// equally many, so that takes no branch.
    #[inline]
    pub(crate) fn level_hash(&self, begin: usize, end: usize) -> u64 {
        let length = end - begin;
        let seed = self.seed ^ length as u64;
        if length <= 8 {
            let mask = if length < 8 { !(u64::MAX << (8 * length)) } else { u64::MAX };
            return multiply((self.word(begin) & mask) ^ seed, KEY_C.wrapping_sub(seed));
        }
        let level = self.text.get(begin..end).unwrap_or_default();
        match (level.first_chunk(), level.last_chunk()) {
            (Some(first), Some(last)) if length <= 16 => {
                let last = u64::from_le_bytes(*last);
                multiply(u64::from_le_bytes(*first) ^ seed, last ^ KEY_C.wrapping_sub(seed))
            }
            _ => hash_bytes(seed, level),
        }
    }
}

/// The state that everything of one tenant is hashed from.
#[inline]
pub(crate) fn tenant_state(tenant: TenantId) -> u64 {
    SEED.load(Ordering::Relaxed) ^ u64::from(tenant.0).wrapping_mul(TENANT)
}

/// Mixes one more word into a state; the order of the words matters.
#[inline]
pub(crate) fn fold(state: u64, word: u64) -> u64 {
    multiply(state ^ word, KEY_B)
}

/// Both halves of the 128-bit product, folded.
#[inline]
fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[inline]
fn hash_bytes(mut state: u64, bytes: &[u8]) -> u64 {
    let (first, second) = match bytes {
        [] => (0, 0),
        [a] => (u64::from(*a), 0),
        [a, b] => (u64::from(*a) | u64::from(*b) << 8, 0),
        [a, b, c] => (u64::from(*a) | u64::from(*b) << 8 | u64::from(*c) << 16, 0),
        _ => words(&mut state, bytes),
    };
    let product = u128::from(first ^ KEY_A) * u128::from(second ^ state);
    multiply((product as u64) ^ KEY_B ^ bytes.len() as u64, ((product >> 64) as u64) ^ KEY_A)
}

/// Takes all but the last 16 bytes into the state and returns those (overlapping where there are
/// fewer than 16).
#[inline]
fn words(state: &mut u64, bytes: &[u8]) -> (u64, u64) {
    if bytes.len() > 16 {
        long(state, bytes);
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        if let Some(tail) = bytes.last_chunk::<16>() {
            return (word(tail.first_chunk::<8>()), u64::from_le_bytes(*last));
        }
        return (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
    }
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            (u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32, 0)
        }
        _ => (0, 0),
    }
}

/// Every 16 bytes before the last 1 to 16.
fn long(state: &mut u64, bytes: &[u8]) {
    let (chunks, rest) = bytes.as_chunks::<16>();
    let whole = if rest.is_empty() { chunks.len() - 1 } else { chunks.len() };
    for chunk in &chunks[..whole] {
        let first = word(chunk.first_chunk::<8>());
        let second = word(chunk.last_chunk::<8>());
        *state = multiply(first ^ KEY_C, second ^ *state);
    }
}

#[inline]
fn word(bytes: Option<&[u8; 8]>) -> u64 {
    bytes.map_or(0, |b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn lengths_contents_and_tenants_differ() {
        let mut seen = HashSet::new();
        let text = "sensor/0123456789/room/temperature/celsius/now/and/then/and/again/until/end";
        for end in 0..=text.len() {
            for tenant in 0..4 {
                assert!(seen.insert(topic_hash(TenantId(tenant), &text[..end])));
            }
        }
        for at in 0..text.len() {
            let mut other = text.as_bytes().to_vec();
            other[at] ^= 1;
            let other = String::from_utf8(other).unwrap();
            assert!(seen.insert(topic_hash(TenantId(0), &other)), "byte {at} does not count");
        }
    }

    #[test]
    fn levels_hash_alike_wherever_they_stand() {
        let text = "0123456789abcdefghij";
        let mut seen = HashSet::new();
        for begin in 0..=text.len() {
            for end in begin..=text.len() {
                let level = &text.as_bytes()[begin..end];
                let hash = level_hash(level);
                assert_eq!(Cut::new(text.as_bytes()).level_hash(begin, end), hash);
                assert_eq!(Cut::new(&text.as_bytes()[..end]).level_hash(begin, end), hash);
                assert_eq!(seen.insert(hash), begin == 0 || begin < end, "{begin} {end}");
            }
        }
    }

    #[test]
    fn every_bit_moves() {
        // Sequential names are the usual ones: each output bit must be set about half of the time.
        let mut ones = [0u32; 64];
        const NAMES: u32 = 4096;
        for n in 0..NAMES {
            let hash = topic_hash(TenantId(0), &format!("d/{n}/s"));
            for (bit, count) in ones.iter_mut().enumerate() {
                *count += (hash >> bit & 1) as u32;
            }
        }
        for count in ones {
            assert!((NAMES * 45 / 100..NAMES * 55 / 100).contains(&count), "{ones:?}");
        }
    }
}
