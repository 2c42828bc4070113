//! Time comes in through this trait, so that a simulator can run the shard.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A shard's clock.
pub trait Clock {
    /// Milliseconds since the Unix epoch. Never goes backwards while the process runs.
    fn now_ms(&self) -> u64;
    /// Microseconds of a monotonic clock that all shards share: budgets within a turn, and the
    /// order of what different shards publish.
    fn now_us(&self) -> u64;
}

/// The host's time: read from the wall clock once, monotonic from then on, so that a clock step
/// neither ends sessions early nor keeps them. Copies of one clock tell the same time.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    started: Instant,
    epoch_ms: u64,
}

impl SystemClock {
    /// Reads the wall clock once.
    pub fn new() -> SystemClock {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        SystemClock { started: Instant::now(), epoch_ms: since.as_millis() as u64 }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        self.epoch_ms + self.started.elapsed().as_millis() as u64
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}
