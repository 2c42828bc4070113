//! The broker is killed at random moments and started again on the same data: nothing that it
//! acknowledged may be lost, and nothing of QoS 2 may come twice. A second test kills it at the
//! N-th system call of a kind that the store makes (`crash/calls.rs`).
//!
//! Environment, beside that of `common`:
//! - `RINGTIDE_CRASH_ROUNDS=n`: kills under load; 6 by default.
//! - `RINGTIDE_CRASH_ROUND_MS=n`: the longest time until a kill; 400 by default.
//! - `RINGTIDE_CRASH_FLOODS=n`: one round in n is a flood, 0 = none; 3 by default.
//! - `RINGTIDE_CRASH_SHARDS=2,3`: each start takes one of these shard counts; 2 by default.
//! - `RINGTIDE_CRASH_WITHOUT=wills,groups,retained,toggles`: leaves these out.
//! - `RINGTIDE_CRASH_CALLS=n`: walks the first n of every kind of system call in every moment, in
//!   place of a short list; takes minutes.
//! - `RINGTIDE_CRASH_AT=pwritev2,rename`: walks these calls alone.
//! - `RINGTIDE_CRASH_SEED=n`: what the clients do; printed with every run.
//!
//! What found most, again and again, with two shards, with several counts
//! (`RINGTIDE_CRASH_SHARDS=1,2,3`), and with `RINGTIDE_TEST_DRIVER=epoll`:
//! `RINGTIDE_CRASH_FLOODS=1 RINGTIDE_CRASH_ROUND_MS=1500 RINGTIDE_CRASH_ROUNDS=12`. A start says
//! how many messages it found on their way.

mod common;
#[path = "crash/mod.rs"]
mod parts;

use parts::calls;
use parts::process::Process;
use parts::stage::{Plan, Stage};
use parts::tracer::Tracer;

/// A broker that may be killed; `None`, and why, where there is none.
fn process() -> Option<Process> {
    if common::broker::target().is_some() {
        eprintln!("skipped: a foreign broker cannot be killed");
        return None;
    }
    let process = Process::prepare();
    if process.is_none() {
        eprintln!("skipped: this program does not take durability = \"sync\"");
    }
    process
}

/// Says what was done, and fails if anything was found.
fn judge(mut stage: Stage) {
    let findings = stage.findings.all();
    eprintln!("{}; {}", stage.summary(), stage.process.status());
    assert!(
        findings.is_empty(),
        "RINGTIDE_CRASH_SEED={}, data kept in {}:\n{}\n--- the last broker's log\n{}",
        stage.plan.seed,
        stage.process.dir().display(),
        findings.join("\n"),
        stage.process.log_text()
    );
    stage.process.remove();
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    let Some(process) = process() else { return };
    let plan = Plan::from_environment();
    eprintln!("{plan:?} in {}", process.dir().display());
    let mut stage = Stage::new(plan, process);
    stage.run();
    judge(stage);
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill_at_a_system_call() {
    let Some(process) = process() else { return };
    if let Err(why) = Tracer::probe() {
        eprintln!("skipped: {why}");
        return process.remove();
    }
    let plan = Plan::from_environment();
    eprintln!("{plan:?} in {}", process.dir().display());
    let mut stage = Stage::new(plan.clone(), process);
    calls::begin(&mut stage);
    for walk in calls::walks() {
        for strike in walk {
            let struck = if strike.is_first_start() {
                let process = Process::prepare().expect("as before");
                let mut stage = Stage::new(plan.clone(), process);
                let struck = calls::kill_first_start(&mut stage, strike);
                judge(stage);
                struck
            } else {
                calls::round(&mut stage, strike)
            };
            eprintln!("{strike}: {}", if struck { "killed" } else { "no such call" });
            if !stage.findings.all().is_empty() {
                return judge(stage);
            }
            assert!(struck || !strike.must_strike(), "{strike}: no such call");
            if !struck {
                break;
            }
        }
    }
    judge(stage);
}
