//! Messages for one persistent session whose client is away: how fast, how soon, and at what cost
//! they are acknowledged.

use crate::durable::Bench;
use crate::durable::device::sync_time;
use crate::durable::figures::{Bar, Figure, Outcome};
use crate::failure::Failure;
use crate::io::Io;
use crate::run::{self, Target};
use crate::scenario::{Scenario, Work};

/// What one publisher alone may wait for its PUBACK beyond the device's own time.
const OVER_SYNC_US: f64 = 200.0;

/// Which load, and what is shown of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) count: usize,
    pub(crate) window: u64,
    pub(crate) batch: u64,
    /// Messages a second; without it as fast as the window allows.
    pub(crate) rate: Option<u64>,
    /// Acknowledgements a second.
    pub(crate) rate_bar: Option<f64>,
    /// Of the 99th percentile, microseconds.
    pub(crate) p99_bar: Option<f64>,
    /// The median is held to the device's.
    pub(crate) beside_device: bool,
}

/// Messages of the durable rows: QoS 1, stored for [`crate::scenario::AWAY`].
pub(crate) fn scenario(load: &Load) -> Scenario {
    let Load { count, window, batch, rate, .. } = *load;
    Scenario { work: Work::Offline, count, window, batch, rate, qos: 1, ..Scenario::default() }
}

/// One run with a fresh broker.
///
/// # Errors
/// If the broker cannot be started, or refuses a client.
pub(crate) fn publish<I: Io>(
    make: &impl Fn() -> Result<I, Failure>,
    bench: &Bench<'_>,
    load: &Load,
) -> Result<Outcome, Failure> {
    let running = bench.broker.start(bench.options.shards)?;
    let target = Target::new(running.address, Some(running.pid()))?;
    let device = load.beside_device.then(|| sync_time(&running.directory)).transpose()?;
    let scenario = Scenario { measure_ms: bench.options.measure_ms, ..scenario(load) };
    let report = run::run(&mut make()?, &target, &scenario)?;
    let mut outcome = Outcome::default();
    let figures = &mut outcome.figures;
    figures.push(Figure::new("acked/s", report.per_second, load.rate_bar.map(Bar::AtLeast)));
    if let Some(cpu_us) = report.cpu_us_per_unit {
        figures.push(Figure::new("cpu us/msg", cpu_us, None));
    }
    let mut p50_bar = None;
    if let Some(before) = device {
        // It wanders: the mean of before and after.
        let after = sync_time(&running.directory)?;
        let device_us = f64::midpoint(before.p50_us, after.p50_us);
        p50_bar = Some(Bar::AtMost(device_us + OVER_SYNC_US));
        figures.push(Figure::new("bare sync p50 us", device_us, None));
        let notes = format!("bare sync p50 {:.0} us before", before.p50_us);
        outcome.notes.push(format!("{notes}, {:.0} us after", after.p50_us));
    }
    if let Some(latency) = &report.ack_latency {
        figures.push(Figure::new("PUBACK p50 us", latency.p50_us, p50_bar));
        figures.push(Figure::new("PUBACK p99 us", latency.p99_us, load.p99_bar.map(Bar::AtMost)));
    }
    outcome.faulty = !report.faults.none();
    outcome.notes.push(report.line());
    outcome.report = Some(report);
    Ok(outcome)
}
