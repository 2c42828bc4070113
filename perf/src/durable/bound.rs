//! The disk while one session never returns: messages pass through others, and what they leave must
//! be freed.

use std::time::Duration;

use crate::durable::Bench;
use crate::durable::device::Sampler;
use crate::durable::drain::FILL;
use crate::durable::figures::{Bar, Figure, Outcome};
use crate::durable::publish::scenario;
use crate::failure::Failure;
use crate::io::Io;
use crate::run::{self, Target};
use crate::scenario::{Scenario, Work};

/// What a shard's log may take beside twice what lives.
const SLACK_BYTES: u64 = 1 << 30;
const HOLD_MAX: Duration = Duration::from_secs(300);
const PASS_MAX: Duration = Duration::from_secs(900);
/// Of the topics of [`Work::Offline`].
const TOPIC_BYTES: u64 = "away/000000".len() as u64;

/// One run with a fresh broker.
///
/// # Errors
/// If the broker cannot be started, or refuses a client.
pub(crate) fn bound<I: Io>(
    make: &impl Fn() -> Result<I, Failure>,
    bench: &Bench<'_>,
) -> Result<Outcome, Failure> {
    let options = bench.options;
    let running = bench.broker.start(options.shards)?;
    let target = Target::new(running.address, Some(running.pid()))?;
    let hold = scenario(&FILL);
    let held = run::pass(&mut make()?, &target, &hold, options.held, HOLD_MAX)?;
    let live = held.done * (hold.payload_bytes as u64 + TOPIC_BYTES);
    let sampler = Sampler::start(running.directory.clone());
    let pairs = Scenario { work: Work::Pairs, persistent: true, ..hold };
    let passed = run::pass(&mut make()?, &target, &pairs, options.passed, PASS_MAX);
    let largest = sampler.end();
    let passed = passed?;
    let bar = 2 * live + SLACK_BYTES * u64::from(options.shards);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let mut outcome = Outcome::default();
    let figures = &mut outcome.figures;
    figures.push(Figure::new("most disk MB", mb(largest), Some(Bar::AtMost(mb(bar)))));
    figures.push(Figure::new("held MB", mb(live), None));
    figures.push(Figure::new("msg/s", passed.done as f64 / passed.seconds, None));
    let cpu_us = run::per_unit_us(passed.cpu_ns, passed.done);
    figures.push(Figure::new("cpu us/msg", cpu_us, None));
    let (held, passed_on) = (held.done, passed.done);
    outcome.notes.push(format!("{held} messages held, {passed_on} passed and consumed"));
    outcome.faulty = !passed.faults.none() || passed_on < options.passed;
    if outcome.faulty {
        outcome.notes.push(passed.faults.text());
    }
    Ok(outcome)
}
