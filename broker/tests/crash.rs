//! The broker is killed at random moments and started again on the same data: nothing that it
//! acknowledged may be lost, and nothing of QoS 2 may come twice.
//!
//! Environment, beside that of `common`:
//! - `RINGTIDE_CRASH_ROUNDS=n`: kills under load; 6 by default.
//! - `RINGTIDE_CRASH_ROUND_MS=n`: the longest time until a kill; 400 by default.
//! - `RINGTIDE_CRASH_SHARDS=2,3`: each start takes one of these shard counts; 2 by default.
//! - `RINGTIDE_CRASH_WITHOUT=wills,groups,retained,toggles`: leaves these out.
//! - `RINGTIDE_CRASH_SEED=n`: what the clients do; printed with every run.

mod common;
#[path = "crash/mod.rs"]
mod parts;

use parts::process::Process;
use parts::stage::{Plan, Stage};

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    if common::broker::target().is_some() {
        eprintln!("skipped: a foreign broker cannot be killed");
        return;
    }
    let Some(process) = Process::prepare() else {
        eprintln!("skipped: this program does not take durability = \"sync\"");
        return;
    };
    let plan = Plan::from_environment();
    eprintln!("{plan:?} in {}", process.dir().display());
    let mut stage = Stage::new(plan.clone(), process);
    stage.run();
    let findings = stage.findings.all();
    eprintln!("{}; {}", stage.summary(), stage.process.status());
    assert!(
        findings.is_empty(),
        "RINGTIDE_CRASH_SEED={}, data kept in {}:\n{}\n--- the last broker's log\n{}",
        plan.seed,
        stage.process.dir().display(),
        findings.join("\n"),
        stage.process.log_text()
    );
    stage.process.remove();
}
