//! The simulator's share of every test run: the broker holds, a seed replays, and the auditor
//! notices harm that is done on purpose.

use ringtide_sim::sabotage::Sabotage;
use ringtide_sim::{Plan, run};

/// Seeds that each test run tries; `ringtide-sim --seed 1 --seeds 10000` tries more.
const SEEDS: u64 = 60;
/// Seeds with crashes that each test run tries.
const CRASH_SEEDS: u64 = 60;
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
fn nothing_is_lost_or_doubled_by_crashes() {
    for seed in 1..=CRASH_SEEDS {
        let outcome = run(Plan { crashes: true, ..Plan::new(seed) });
        assert!(
            outcome.failures.is_empty(),
            "seed {seed}: {:#?}; replay: cargo run -p ringtide-sim -- --crashes --seed {seed}",
            outcome.failures
        );
    }
}

#[test]
fn a_seed_with_crashes_replays_exactly() {
    for seed in [2, 19, 38] {
        let plan = Plan { crashes: true, ..Plan::new(seed) };
        let (first, second) = (run(plan), run(plan));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
    }
}

#[test]
fn harm_done_to_the_store_is_noticed() {
    for sabotage in Sabotage::OF_STORE {
        let noticed = (1..=SABOTAGE_SEEDS).any(|seed| {
            let outcome = run(Plan { sabotage, crashes: true, ..Plan::new(seed) });
            !outcome.failures.is_empty()
        });
        assert!(noticed, "{sabotage:?} went unnoticed in {SABOTAGE_SEEDS} seeds");
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
