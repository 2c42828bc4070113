//! The simulator's share of every test run: the broker holds, a seed replays, and the auditor
//! notices harm that is done on purpose.

use ringtide_sim::sabotage::Sabotage;
use ringtide_sim::{Plan, run};

/// Seeds that each test run tries; `ringtide-sim --seed 1 --seeds 10000` tries more.
const SEEDS: u64 = 60;
/// Seeds within which each kind of harm must be noticed.
const SABOTAGE_SEEDS: u64 = 40;

#[test]
fn the_broker_holds_on_every_seed() {
    for seed in 1..=SEEDS {
        let outcome = run(Plan::new(seed));
        assert!(outcome.events > 0, "seed {seed} did nothing");
        assert!(
            outcome.failures.is_empty(),
            "seed {seed}: {:#?}; replay: cargo run -p ringtide-sim -- --seed {seed}",
            outcome.failures
        );
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 17, 41] {
        let (first, second) = (run(Plan::new(seed)), run(Plan::new(seed)));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
        assert_ne!(first.hash, run(Plan::new(seed + 1)).hash, "another seed is another run");
    }
}

#[test]
fn harm_done_on_purpose_is_noticed() {
    for sabotage in Sabotage::ALL {
        let noticed = (1..=SABOTAGE_SEEDS).any(|seed| {
            let outcome = run(Plan { sabotage, ..Plan::new(seed) });
            !outcome.failures.is_empty()
        });
        assert!(noticed, "{sabotage:?} went unnoticed in {SABOTAGE_SEEDS} seeds");
    }
}
