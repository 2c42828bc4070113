//! Proof of what arrived: each message carries its publisher and a sequence number, each subscriber
//! checks them. Pure. Payloads shorter than [`Stamp::LEN`] carry no stamp and are only counted.

use serde::{Deserialize, Serialize};

/// The first 16 bytes of a payload, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The publisher's number in its run.
    pub(crate) publisher: u32,
    /// The message's number at its publisher, from 0.
    pub(crate) sequence: u32,
    /// When it was sent, or was to be sent at a fixed rate, in nanoseconds since the run began.
    pub(crate) time_ns: u64,
}

impl Stamp {
    /// Bytes that a stamp takes.
    pub(crate) const LEN: usize = 16;

    #[inline]
    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.publisher.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes
    }

    #[inline]
    pub(crate) fn from_payload(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = payload.first_chunk()?;
        let [a, b, c, d, e, f, g, h, time @ ..] = *bytes;
        Some(Self {
            publisher: u32::from_le_bytes([a, b, c, d]),
            sequence: u32::from_le_bytes([e, f, g, h]),
            time_ns: u64::from_le_bytes(time),
        })
    }
}

/// What went wrong, over all subscribers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Faults {
    /// Messages that never came.
    pub(crate) lost: u64,
    /// Messages that came more than once.
    pub(crate) duplicates: u64,
    /// Messages that came after a later one.
    pub(crate) out_of_order: u64,
    /// Messages of a publisher that this subscriber did not ask for.
    pub(crate) misrouted: u64,
    /// Frames that no server may send here, and acknowledgements out of order.
    pub(crate) protocol: u64,
    /// Connections that the broker closed.
    pub(crate) disconnected: u64,
}

impl Faults {
    /// True if all that was sent came, once and in order.
    pub(crate) fn none(&self) -> bool {
        *self == Self::default()
    }

    /// Adds those of another.
    pub(crate) fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.misrouted += other.misrouted;
        self.protocol += other.protocol;
        self.disconnected += other.disconnected;
    }

    /// All of them in words.
    pub(crate) fn text(&self) -> String {
        let Self { lost, duplicates, out_of_order, misrouted, protocol, disconnected } = self;
        format!(
            "{lost} lost, {duplicates} twice, {out_of_order} out of order, \
             {misrouted} misrouted, {protocol} protocol, {disconnected} disconnected"
        )
    }
}

/// Gaps that one stream remembers; those beyond count as lost for good.
const GAPS_MAX: usize = 1024;

/// One publisher's messages as one subscriber sees them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    next: u32,
    /// Ranges (first, one past last) that were jumped over and have not come yet.
    gaps: Vec<(u32, u32)>,
}

impl Stream {
    /// A stream whose first message has this number.
    pub(crate) fn from(first: u32) -> Self {
        Self { next: first, gaps: Vec::new() }
    }

    /// The number after the highest seen.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Takes note of a message.
    #[inline]
    pub(crate) fn observe(&mut self, sequence: u32, faults: &mut Faults) {
        if sequence == self.next {
            self.next += 1;
        } else {
            self.unexpected(sequence, faults);
        }
    }

    #[cold]
    fn unexpected(&mut self, sequence: u32, faults: &mut Faults) {
        if sequence > self.next {
            faults.lost += u64::from(sequence - self.next);
            if self.gaps.len() < GAPS_MAX {
                self.gaps.push((self.next, sequence));
            }
            self.next = sequence.saturating_add(1);
            return;
        }
        let held = self.gaps.iter().position(|gap| (gap.0..gap.1).contains(&sequence));
        let Some(at) = held else {
            faults.duplicates += 1;
            return;
        };
        faults.out_of_order += 1;
        faults.lost -= 1;
        let (first, end) = self.gaps.swap_remove(at);
        let parts = [(first, sequence), (sequence + 1, end)];
        self.gaps.extend(parts.into_iter().filter(|part| part.0 < part.1));
    }

    /// Ends the stream: what was sent and has not come is lost.
    pub(crate) fn finish(&self, sent: u64, faults: &mut Faults) {
        faults.lost += sent.saturating_sub(u64::from(self.next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(sequences: &[u32], sent: u64) -> Faults {
        let mut faults = Faults::default();
        let mut stream = Stream::default();
        for sequence in sequences {
            stream.observe(*sequence, &mut faults);
        }
        stream.finish(sent, &mut faults);
        faults
    }

    #[test]
    fn a_clean_stream_has_no_faults() {
        assert!(faults_of(&[0, 1, 2, 3], 4).none());
    }

    #[test]
    fn gaps_and_missing_tails_are_lost() {
        assert_eq!(faults_of(&[0, 1, 5], 9), Faults { lost: 3 + 3, ..Faults::default() });
    }

    #[test]
    fn late_messages_are_out_of_order_and_not_lost() {
        let faults = faults_of(&[0, 3, 1, 2, 4], 5);
        assert_eq!(faults, Faults { out_of_order: 2, ..Faults::default() });
        let middle = faults_of(&[4, 2], 5);
        assert_eq!(middle, Faults { out_of_order: 1, lost: 3, ..Faults::default() });
    }

    #[test]
    fn repeated_messages_are_duplicates() {
        assert_eq!(faults_of(&[0, 1, 1, 0, 2], 3), Faults { duplicates: 2, ..Faults::default() });
        let late_twice = faults_of(&[0, 2, 1, 1], 3);
        assert_eq!(late_twice, Faults { out_of_order: 1, duplicates: 1, ..Faults::default() });
    }

    #[test]
    fn stamps_round_trip() {
        let stamp = Stamp { publisher: 7, sequence: u32::MAX, time_ns: u64::MAX - 3 };
        assert_eq!(Stamp::from_payload(&stamp.to_bytes()), Some(stamp));
        assert_eq!(Stamp::from_payload(&[0; 15]), None);
    }
}
