//! Kills and power cuts: what was durable is there, whatever was under way.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod model;

use model::{Model, Random, config, history};
use ringtide_storage::log::Sync;
use ringtide_storage::log::faults::{Fault, FaultDisk};

/// Histories to run: `RINGTIDE_LOG_SEEDS`, or few enough for every run of the tests.
fn seeds() -> u64 {
    std::env::var("RINGTIDE_LOG_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

#[test]
fn nothing_durable_is_lost_in_any_history() {
    let crashes: u64 = (1..=seeds()).map(|seed| history(seed, Sync::EachBatch, 20)).sum();
    assert_eq!(crashes, seeds() * 20);
}

#[test]
fn without_a_sync_per_batch_what_is_there_is_a_prefix() {
    let crashes: u64 = (1..=seeds()).map(|seed| history(seed, Sync::Os, 20)).sum();
    assert_eq!(crashes, seeds() * 20);
}

/// A life with turns, checkpoints and segments used again, up to `steps` or its death.
fn script(disk: &FaultDisk, seed: u64, steps: u64) -> Model {
    let mut model = Model::default();
    let mut random = Random::new(seed);
    let Some((mut life, _)) = model.open(disk, &config(Sync::EachBatch)) else { return model };
    for step in 0..steps {
        model.step(&mut life, disk, &mut random);
        if step % 120 == 119 && !disk.is_dead() {
            model.settle(&mut life, disk);
            model.whole_checkpoint(&mut life, disk, 4);
        }
        if disk.is_dead() {
            break;
        }
    }
    model
}

/// Further kills after each; recovery and a checkpoint after it take fewer operations at first, but
/// each life that is cut short leaves a segment more to recover.
const KILLS_AGAIN: u64 = 60;

/// After a kill at each operation of a life in turn: further kills at each operation of recovery
/// and of the first writes after it.
fn kill_everywhere(seed: u64, crash: fn(&FaultDisk)) -> (u64, u64) {
    let disk = FaultDisk::new(seed);
    script(&disk, seed, 500);
    let operations = disk.operations();
    let mut kills = 0;
    for at in 1..=operations {
        let disk = FaultDisk::new(seed);
        disk.plan(at, Fault::Kill);
        let mut model = script(&disk, seed, 500);
        assert!(disk.is_dead());
        kills += 1;
        for again in 1..=KILLS_AGAIN + 1 {
            crash(&disk);
            if again <= KILLS_AGAIN {
                disk.plan(disk.operations() + again, Fault::Kill);
            }
            if let Some((mut life, _)) = model.open(&disk, &config(Sync::EachBatch)) {
                model.whole_checkpoint(&mut life, &disk, 2);
            }
            if !disk.is_dead() {
                break;
            }
            kills += 1;
        }
        assert!(!disk.is_dead());
    }
    (operations, kills)
}

/// As many lives as there are histories to sixty.
fn kill_everywhere_in_all(first: u64, crash: fn(&FaultDisk)) {
    let lives = (seeds() / 60).max(1);
    let (mut operations, mut kills) = (0, 0);
    for seed in first..first + lives {
        let counts = kill_everywhere(seed, crash);
        operations += counts.0;
        kills += counts.1;
    }
    println!("{lives} lives, {operations} operations, {kills} kills");
    assert!(operations > 100 * lives && kills > operations);
}

#[test]
fn a_kill_at_any_operation_loses_nothing() {
    kill_everywhere_in_all(5, FaultDisk::restart);
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing() {
    kill_everywhere_in_all(6, FaultDisk::cut);
}
