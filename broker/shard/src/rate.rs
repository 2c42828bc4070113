//! Rates and the buckets that hold to them: tokens come in evenly and are taken as work is done. A
//! bucket holds what comes in within a second, so that much may be done at once after a rest.

/// Tokens a second. The default is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// In thousandths, so that a shard's share of a small rate is not rounded away; 0 = no bound.
    milli_per_s: u64,
}

/// Parts of a token: what a rate of a thousandth a second brings in a millisecond.
const PARTS: i64 = 1_000_000;

impl Rate {
    /// `per_s` tokens a second, dealt out over `shares`; 0 = no bound.
    pub fn share(per_s: u64, shares: u16) -> Rate {
        let milli = per_s.saturating_mul(1000).div_ceil(u64::from(shares.max(1)));
        // More than that is no bound, and what is reckoned with it stays within 64 bits.
        Rate { milli_per_s: if milli > 1 << 50 { 0 } else { milli } }
    }

    /// Whether there is a bound.
    pub(crate) fn is_bounded(self) -> bool {
        self.milli_per_s > 0
    }

    /// What a bucket holds: one token at least.
    fn full(self) -> i64 {
        self.within_ms(1000).max(PARTS)
    }

    fn within_ms(self, ms: u64) -> i64 {
        i64::try_from(self.milli_per_s.saturating_mul(ms)).unwrap_or(i64::MAX)
    }
}

/// Tokens that are there. What may not be divided may take more than there are: the debt is paid
/// before anything else is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    parts: i64,
    filled_ms: u64,
}

impl Bucket {
    /// Full, whatever the rate.
    pub(crate) fn full() -> Bucket {
        Bucket { parts: i64::MAX, filled_ms: 0 }
    }

    /// Lets in what has come since it was filled last. Without a bound nothing is owed.
    fn fill(&mut self, rate: Rate, now_ms: u64) {
        let came = rate.within_ms(now_ms.saturating_sub(self.filled_ms));
        if rate.is_bounded() {
            self.parts = self.parts.saturating_add(came).min(rate.full());
        } else {
            self.parts = i64::MAX;
        }
        self.filled_ms = now_ms;
    }

    /// Takes one token, if there is one.
    pub(crate) fn take_one(&mut self, rate: Rate, now_ms: u64) -> bool {
        self.fill(rate, now_ms);
        let there = self.parts >= PARTS;
        if there {
            self.charge(1);
        }
        there
    }

    /// Takes tokens that may not be there.
    pub(crate) fn charge(&mut self, tokens: u64) {
        let parts = i64::try_from(tokens).unwrap_or(i64::MAX).saturating_mul(PARTS);
        self.parts = self.parts.saturating_sub(parts);
    }

    /// Milliseconds until something may be taken again; 0 = now.
    pub(crate) fn dry_for_ms(&mut self, rate: Rate, now_ms: u64) -> u64 {
        self.fill(rate, now_ms);
        match u64::try_from(1_i64.saturating_sub(self.parts)) {
            Ok(missing @ 1..) => missing.div_ceil(rate.milli_per_s.max(1)),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_may_be_taken_at_once_and_then_as_it_comes() {
        let rate = Rate::share(10, 1);
        let mut bucket = Bucket::full();
        let taken = (0..100).filter(|_| bucket.take_one(rate, 5000)).count();
        assert_eq!(taken, 10);
        let later = (0..1000).filter(|ms| bucket.take_one(rate, 5000 + ms)).count();
        assert_eq!(later, 9, "one every 100 ms, the first after 100");
        assert_eq!((0..100).filter(|_| bucket.take_one(rate, 1 << 40)).count(), 10);
    }

    #[test]
    fn a_share_of_less_than_one_a_second_is_kept() {
        let rate = Rate::share(1, 4);
        let mut bucket = Bucket::full();
        assert!(bucket.take_one(rate, 0), "one is always there after a rest");
        assert!(!bucket.take_one(rate, 3999));
        assert!(bucket.take_one(rate, 4000));
    }

    #[test]
    fn a_debt_is_paid_before_more_is_taken() {
        let rate = Rate::share(1000, 1);
        let mut bucket = Bucket::full();
        assert_eq!(bucket.dry_for_ms(rate, 0), 0);
        bucket.charge(3000);
        assert_eq!(bucket.dry_for_ms(rate, 0), 2001);
        assert_eq!(bucket.dry_for_ms(rate, 2000), 1);
        assert_eq!(bucket.dry_for_ms(rate, 2001), 0);
        bucket.charge(u64::MAX);
        assert!(bucket.dry_for_ms(rate, 2001) > 1 << 30);
    }

    #[test]
    fn no_bound_is_never_reached() {
        let rate = Rate::default();
        let mut bucket = Bucket::full();
        bucket.charge(u64::MAX);
        assert_eq!(bucket.dry_for_ms(rate, 0), 0);
        assert!(bucket.take_one(rate, 0));
        assert!(!Rate::share(0, 3).is_bounded());
        assert!(!Rate::share(u64::MAX, 1).is_bounded());
    }
}
