//! A fixed rate without coordinated omission: message `k` is due at `start + k / rate`, whatever
//! happened to those before it, and latency counts from that moment. Pure.

/// Says how many messages are due, and when each was to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacer {
    start_ns: u64,
    /// So many messages in a period.
    count: u64,
    period_ns: u64,
    issued: u64,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Pacer {
    /// `rate` is in messages a second and at least 1.
    pub(crate) fn new(start_ns: u64, rate: u64) -> Self {
        Self::per(start_ns, rate, SECOND_NS)
    }

    /// `count` messages, at least 1, in each `period_ns`, evenly.
    pub(crate) fn per(start_ns: u64, count: u64, period_ns: u64) -> Self {
        Self { start_ns, count: count.max(1), period_ns: period_ns.max(1), issued: 0 }
    }

    /// The numbers of the messages that have become due since the last call, at most `limit` of
    /// them.
    pub(crate) fn take_due(&mut self, now_ns: u64, limit: u64) -> std::ops::Range<u64> {
        let Some(elapsed) = now_ns.checked_sub(self.start_ns) else { return 0..0 };
        let due =
            (u128::from(elapsed) * u128::from(self.count) / u128::from(self.period_ns)) as u64 + 1;
        let first = self.issued;
        self.issued = due.clamp(first, first + limit);
        first..self.issued
    }

    /// When message `number` is to be sent.
    pub(crate) fn intended_ns(&self, number: u64) -> u64 {
        self.start_ns
            + (u128::from(number) * u128::from(self.period_ns) / u128::from(self.count)) as u64
    }

    /// How long until the next message is due.
    pub(crate) fn until_next_ns(&self, now_ns: u64) -> u64 {
        self.intended_ns(self.issued).saturating_sub(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_due_at_their_time() {
        let mut pacer = Pacer::new(1000, 1_000_000);
        assert_eq!(pacer.take_due(999, 100), 0..0);
        assert_eq!(pacer.take_due(1000, 100), 0..1);
        assert_eq!(pacer.until_next_ns(1000), 1000);
        assert_eq!(pacer.take_due(1999, 100), 1..1);
        assert_eq!(pacer.take_due(4000, 100), 1..4);
        assert_eq!(pacer.intended_ns(3), 4000);
    }

    #[test]
    fn a_late_generator_catches_up_with_the_times_unchanged() {
        let mut pacer = Pacer::new(0, 1000);
        let due = pacer.take_due(5_000_000_000, 100);
        assert_eq!(due, 0..100);
        assert_eq!(pacer.take_due(5_000_000_000, 10_000), 100..5001);
        assert_eq!(pacer.intended_ns(100), 100_000_000);
        assert_eq!(pacer.until_next_ns(5_000_000_000), 1_000_000);
    }

    #[test]
    fn less_than_one_message_a_second_is_a_pace_too() {
        let mut pacer = Pacer::per(0, 3, 10_000_000_000);
        assert_eq!(pacer.take_due(3_400_000_000, 10), 0..2);
        assert_eq!(pacer.intended_ns(2), 6_666_666_666);
        assert_eq!(pacer.intended_ns(3), 10_000_000_000);
    }

    #[test]
    fn odd_rates_do_not_drift() {
        let pacer = Pacer::new(0, 30_000);
        assert_eq!(pacer.intended_ns(30_000 * 3600), 3600 * 1_000_000_000);
    }
}
