//! `ringtide-sim`: runs seeds, and replays the first that fails with the end of its trace.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use ringtide_sim::{Plan, STEPS, run};

/// runs the broker's shards in a deterministic simulation
#[derive(argh::FromArgs)]
struct Arguments {
    /// the seed, or the first of several
    #[argh(option)]
    seed: u64,
    /// steps of work in each run (3000)
    #[argh(option, default = "STEPS")]
    ticks: u64,
    /// how many seeds, one after another (1)
    #[argh(option, default = "1")]
    seeds: u64,
    /// events of a failing run that are printed (100)
    #[argh(option, default = "100")]
    tail: usize,
    /// lets the whole broker crash now and then, and start again
    #[argh(switch)]
    crashes: bool,
    /// go on after a seed that fails
    #[argh(switch)]
    all: bool,
}

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    let mut failed = 0;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let plan = Plan { steps: arguments.ticks, crashes: arguments.crashes, ..Plan::new(seed) };
        let outcome = run(plan);
        if outcome.failures.is_empty() {
            if arguments.seeds == 1 {
                println!("seed {seed}: right, {} events, {:016x}", outcome.events, outcome.hash);
            }
            continue;
        }
        failed += 1;
        println!("seed {seed}: wrong, {} events, {:016x}", outcome.events, outcome.hash);
        for failure in &outcome.failures {
            println!("    {failure}");
        }
        if !arguments.all {
            let replay = run(Plan { keep: arguments.tail, ..plan });
            replay.tail.iter().for_each(|line| println!("{line}"));
            break;
        }
    }
    if arguments.seeds > 1 {
        println!("{failed} of {} seeds failed", arguments.seeds);
    }
    ExitCode::from(u8::from(failed > 0))
}
