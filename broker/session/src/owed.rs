//! The acknowledgements that a connection owes its client, in the order in which they fell due,
//! each with the log position that must be durable before it may leave. Owns that order and
//! nothing else; what the caller cannot send at once it must not pop.

use std::collections::VecDeque;

use ringtide_codec::{AckKind, PacketId, ReasonCode};

/// An empty queue keeps room for this many entries, so that a busy client allocates nothing.
const KEPT_CAPACITY: usize = 256;

/// An acknowledgement that may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwedAck {
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack {
        /// Which.
        kind: AckKind,
        /// The id of the exchange.
        id: PacketId,
        /// Its code.
        reason: ReasonCode,
    },
    /// SUBACK.
    SubAck {
        /// The id of the SUBSCRIBE.
        id: PacketId,
        /// One code per filter.
        codes: Box<[u8]>,
    },
    /// UNSUBACK.
    UnsubAck {
        /// The id of the UNSUBSCRIBE.
        id: PacketId,
        /// One code per filter.
        codes: Box<[u8]>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ack(AckKind),
    SubAck,
    UnsubAck,
}

/// Sixteen bytes; the codes of SUBACK and UNSUBACK, which are rare, lie apart.
#[derive(Clone, Copy, Debug)]
struct Entry {
    needs: u64,
    id: PacketId,
    kind: Kind,
    reason: ReasonCode,
}

/// See the module's documentation. It has no limit of its own: its owner stops reading from a
/// client whose [`Owed::len`] is too high, for each entry answers one packet of that client.
//= [MQTT-4.6.0-2]
//= [MQTT-4.6.0-3]
//= 3.1.1 [MQTT-4.6.0-2]
//= 3.1.1 [MQTT-4.6.0-3]
#[derive(Clone, Debug, Default)]
pub struct Owed {
    entries: VecDeque<Entry>,
    /// The codes of the entries that have some, in the same order.
    codes: VecDeque<Box<[u8]>>,
}

impl Owed {
    /// Nothing owed.
    pub const fn new() -> Owed {
        Owed { entries: VecDeque::new(), codes: VecDeque::new() }
    }

    /// Owes an acknowledgement that may leave when the log is durable up to and including `needs`;
    /// 0 needs nothing.
    //= [MQTT-2.2.1-5]
    //= 3.1.1 [MQTT-2.3.1-6]
    pub fn push(&mut self, kind: AckKind, id: PacketId, reason: ReasonCode, needs: u64) {
        self.entries.push_back(Entry { needs, id, kind: Kind::Ack(kind), reason });
    }

    /// Owes a SUBACK with these codes, one per filter in the order of the SUBSCRIBE.
    //= [MQTT-2.2.1-6]
    //= [MQTT-3.8.4-2]
    //= [MQTT-3.9.3-1]
    //= 3.1.1 [MQTT-2.3.1-7]
    pub fn push_suback(&mut self, id: PacketId, codes: Box<[u8]>, needs: u64) {
        self.push_codes(Kind::SubAck, id, codes, needs);
    }

    /// Owes an UNSUBACK with these codes, one per filter in the order of the UNSUBSCRIBE.
    //= [MQTT-2.2.1-6]
    //= [MQTT-3.11.3-1]
    //= 3.1.1 [MQTT-2.3.1-7]
    pub fn push_unsuback(&mut self, id: PacketId, codes: Box<[u8]>, needs: u64) {
        self.push_codes(Kind::UnsubAck, id, codes, needs);
    }

    fn push_codes(&mut self, kind: Kind, id: PacketId, codes: Box<[u8]>, needs: u64) {
        self.codes.push_back(codes);
        self.entries.push_back(Entry { needs, id, kind, reason: ReasonCode::Success });
    }

    /// The acknowledgement owed longest, if the log is durable far enough for it. A later one
    /// never overtakes it.
    pub fn pop_ready(&mut self, durable: u64) -> Option<OwedAck> {
        self.entries.front().filter(|entry| entry.needs <= durable)?;
        let Entry { id, kind, reason, .. } = self.entries.pop_front()?;
        let owed = match kind {
            Kind::Ack(kind) => OwedAck::Ack { kind, id, reason },
            Kind::SubAck => OwedAck::SubAck { id, codes: self.take_codes() },
            Kind::UnsubAck => OwedAck::UnsubAck { id, codes: self.take_codes() },
        };
        if self.entries.is_empty() && self.entries.capacity() > KEPT_CAPACITY {
            self.entries = VecDeque::new();
        }
        Some(owed)
    }

    fn take_codes(&mut self) -> Box<[u8]> {
        let codes = self.codes.pop_front().unwrap_or_default();
        if self.codes.is_empty() {
            self.codes = VecDeque::new();
        }
        codes
    }

    /// The log position that the acknowledgement owed longest needs.
    pub fn next_needs(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.needs)
    }

    /// How many are owed.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets everything, as when the connection is gone.
    pub fn clear(&mut self) {
        *self = Owed::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).unwrap()
    }

    fn ack(kind: AckKind, value: u16) -> Option<OwedAck> {
        Some(OwedAck::Ack { kind, id: id(value), reason: ReasonCode::Success })
    }

    #[test]
    fn a_later_one_waits_behind_one_that_is_not_durable() {
        let mut owed = Owed::new();
        owed.push(AckKind::PubAck, id(1), ReasonCode::Success, 10);
        owed.push(AckKind::PubAck, id(2), ReasonCode::Success, 0);
        owed.push(AckKind::PubRec, id(3), ReasonCode::Success, 11);
        assert_eq!(owed.pop_ready(9), None);
        assert_eq!(owed.next_needs(), Some(10));
        assert_eq!(owed.pop_ready(10), ack(AckKind::PubAck, 1));
        assert_eq!(owed.pop_ready(10), ack(AckKind::PubAck, 2));
        assert_eq!(owed.pop_ready(10), None);
        assert_eq!(owed.pop_ready(11), ack(AckKind::PubRec, 3));
        assert!(owed.is_empty());
    }

    #[test]
    fn codes_stay_with_their_packets() {
        let mut owed = Owed::new();
        owed.push_suback(id(1), Box::new([0, 1]), 0);
        owed.push(AckKind::PubComp, id(2), ReasonCode::PacketIdentifierNotFound, 0);
        owed.push_unsuback(id(3), Box::new([0x11]), 0);
        owed.push_suback(id(4), Box::new([2]), 0);
        assert_eq!(owed.pop_ready(0), Some(OwedAck::SubAck { id: id(1), codes: Box::new([0, 1]) }));
        let reason = ReasonCode::PacketIdentifierNotFound;
        assert_eq!(
            owed.pop_ready(0),
            Some(OwedAck::Ack { kind: AckKind::PubComp, id: id(2), reason })
        );
        assert_eq!(
            owed.pop_ready(0),
            Some(OwedAck::UnsubAck { id: id(3), codes: Box::new([0x11]) })
        );
        assert_eq!(owed.pop_ready(0), Some(OwedAck::SubAck { id: id(4), codes: Box::new([2]) }));
        assert_eq!(owed.pop_ready(0), None);
    }

    #[test]
    fn an_entry_takes_sixteen_bytes_and_clear_gives_all_room_back() {
        assert_eq!(size_of::<Entry>(), 16);
        let mut owed = Owed::new();
        for _ in 0..1000 {
            owed.push(AckKind::PubAck, id(1), ReasonCode::Success, 0);
        }
        assert_eq!(owed.len(), 1000);
        owed.clear();
        assert_eq!((owed.len(), owed.entries.capacity()), (0, 0));
    }
}
