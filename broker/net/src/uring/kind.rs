//! What an entry's `user_data` says: the operation's kind in the upper 8 bits, the caller's token
//! (or an index of the driver's own) below. Owns the numbering, nothing else.

/// The lower 56 bits, which belong to the token.
pub(super) const TOKEN_MASK: u64 = (1 << 56) - 1;

/// The kind of operation that a completion belongs to.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Multishot receive; the rest is the token.
    Receive = 1,
    /// Single-shot receive into a pooled buffer; the rest is the token.
    ReceiveOnce = 2,
    /// Receive into the caller's own buffer; the rest is the token.
    ReceiveExact = 3,
    /// A send of this turn; the rest is its sequence number.
    Send = 4,
    /// The rest of a send that stalled; the rest is the token.
    SendRest = 5,
    /// Cancels a receive; the rest is the token.
    CancelReceive = 6,
    /// Closes a socket; the rest is the token.
    Close = 7,
    /// Multishot accept; the rest is the listener's number.
    Accept = 8,
    /// Single-shot accept with its own address; the rest is listener << 16 | slot.
    AcceptOne = 9,
    /// Another driver's MSG_RING.
    Wake = 10,
    /// The read of this driver's eventfd.
    EventRead = 11,
    /// A host's descriptor became readable; the rest is its index.
    Host = 12,
    /// The sending side of a hand-over; the rest is an index of `handovers`.
    HandOver = 13,
    /// The receiving side of a hand-over; the rest is the tag.
    Arrived = 14,
    /// Nothing is to be done, whatever the result.
    Ignored = 15,
    /// The wake of another driver failed; the rest is the shard's number.
    WakeFailed = 16,
    /// Cancels the rest of a stalled send; the rest is the token.
    CancelSend = 17,
    /// A write to the log.
    LogWrite = 18,
    /// A read of a log; the rest is its place among the reads.
    LogRead = 19,
}

impl Kind {
    const ALL: [Kind; 19] = [
        Kind::Receive,
        Kind::ReceiveOnce,
        Kind::ReceiveExact,
        Kind::Send,
        Kind::SendRest,
        Kind::CancelReceive,
        Kind::Close,
        Kind::Accept,
        Kind::AcceptOne,
        Kind::Wake,
        Kind::EventRead,
        Kind::Host,
        Kind::HandOver,
        Kind::Arrived,
        Kind::Ignored,
        Kind::WakeFailed,
        Kind::CancelSend,
        Kind::LogWrite,
        Kind::LogRead,
    ];

    /// The `user_data` of an operation.
    #[inline]
    pub(super) const fn with(self, rest: u64) -> u64 {
        ((self as u64) << 56) | (rest & TOKEN_MASK)
    }

    /// Takes `user_data` apart. `None` only for a value that this driver never made.
    #[inline]
    pub(super) fn split(user_data: u64) -> Option<(Kind, u64)> {
        let number = (user_data >> 56) as usize;
        let kind = *Kind::ALL.get(number.wrapping_sub(1))?;
        Some((kind, user_data & TOKEN_MASK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_round_trip() {
        for kind in Kind::ALL {
            assert_eq!(Kind::split(kind.with(0x00ab_cdef)), Some((kind, 0x00ab_cdef)));
        }
        assert_eq!(Kind::split(0), None);
        assert_eq!(Kind::split(200 << 56), None);
        assert_eq!(Kind::split(Kind::Send.with(u64::MAX)), Some((Kind::Send, TOKEN_MASK)));
    }
}
