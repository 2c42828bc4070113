//! A deterministic simulator: the production shard, run unchanged in one thread with clients,
//! network, clock and store that all follow from one seed.
//!
//! Start reading at `world.rs`, a run from its first step to its verdict; `driver.rs` and `net.rs`
//! are what the shards stand on, `client.rs` and `hostile.rs` who uses them, `model.rs`,
//! `check.rs`, `verdict.rs` and `wills.rs` the auditor. Nothing here knows how the broker does
//! what it does: the auditor judges by what clients send and see alone.
#![forbid(unsafe_code)]

mod check;
mod client;
pub mod clock;
mod crash;
pub mod driver;
mod hostile;
mod log;
mod model;
pub mod net;
// The program deals out to another number of shards with this very file.
#[path = "../../src/offline.rs"]
mod offline;
mod passwords;
pub mod random;
mod recover;
pub mod sabotage;
mod scenario;
mod segments;
mod store;
pub mod trace;
mod verdict;
mod wills;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use sabotage::Sabotage;
use trace::Trace;

/// Steps of work of a run, unless it is told otherwise.
pub const STEPS: u64 = 3000;

/// What a run is to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// Steps of work before the run comes to its end.
    pub steps: u64,
    /// Harm that is done to the broker on purpose.
    pub sabotage: Sabotage,
    /// Events that are kept in words.
    pub keep: usize,
    /// The whole broker crashes now and then, and starts again.
    pub crashes: bool,
}

impl Plan {
    /// The usual run of a seed.
    pub fn new(seed: u64) -> Plan {
        Plan { seed, steps: STEPS, sabotage: Sabotage::None, keep: 0, crashes: false }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The same for every run of the same plan.
    pub hash: u64,
    /// Events that the hash covers.
    pub events: u64,
    /// What went wrong; empty if all was right.
    pub failures: Vec<String>,
    /// The last events in words, if they were kept.
    pub tail: Vec<String>,
}

/// Runs a plan. A panic in the broker is a failure like any other.
pub fn run(plan: Plan) -> Outcome {
    let trace = Trace::new(plan.keep);
    let inner = trace.clone();
    let ran = catch_unwind(AssertUnwindSafe(move || {
        world::World::new(&plan, inner).run(plan.steps);
    }));
    if let Err(panic) = ran {
        let words = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("without words");
        trace.fail(format_args!("panic: {words}"));
    }
    Outcome {
        hash: trace.hash(),
        events: trace.events(),
        failures: trace.failures(),
        tail: trace.tail(),
    }
}
