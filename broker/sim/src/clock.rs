//! Virtual time: it passes only when the simulator says so.

use std::cell::Cell;
use std::rc::Rc;

use ringtide_shard::clock::Clock;

/// Unix time at which every run begins, in milliseconds.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// The one clock of a run, shared by all.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Rc<Now>);

#[derive(Debug, Default)]
struct Now {
    us: Cell<u64>,
    /// How far the clock moves at each look within a turn: a slow turn, seen from inside.
    per_look_us: Cell<u64>,
}

impl SimClock {
    /// Microseconds since the run began.
    pub fn us(&self) -> u64 {
        self.0.us.get()
    }

    /// Lets time pass.
    pub fn advance(&self, us: u64) {
        self.0.us.set(self.0.us.get() + us);
    }

    /// Lets each look at the clock take this long.
    pub fn slow_down(&self, per_look_us: u64) {
        self.0.per_look_us.set(per_look_us);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        EPOCH_MS + self.us() / 1000
    }

    fn now_us(&self) -> u64 {
        self.advance(self.0.per_look_us.get());
        self.us()
    }
}
