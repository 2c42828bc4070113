//! One run of a message scenario: bring up, warm up, measure, drain, report.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::client::{self, Setup};
use crate::failure::Failure;
use crate::io::Io;
use crate::procfs::{self, Usage};
use crate::report::{Latency, Report, Unit};
use crate::scenario::{Plan, Scenario};
use crate::sequence::{Faults, Stamp};
use crate::streams::{Finished, Streams};

/// Clients that are set up at once; below the backlog of every broker.
pub(crate) const PARALLEL: usize = 64;
const SLEEP_MAX: Duration = Duration::from_millis(5);
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Without a single receipt for this long the run is over: the broker has dropped what was
/// outstanding.
const STALLED_AFTER: Duration = Duration::from_secs(3);
const DRAIN_STALLED_AFTER: Duration = Duration::from_secs(1);

/// The broker under test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) pid: Option<u32>,
}

impl Target {
    /// # Errors
    /// [`Failure::NotLoopback`].
    pub(crate) fn new(address: SocketAddr, pid: Option<u32>) -> Result<Self, Failure> {
        if address.ip().is_loopback() {
            Ok(Self { address, pid })
        } else {
            Err(Failure::NotLoopback(address))
        }
    }

    /// What the broker has used so far, if its process is known.
    pub(crate) fn usage(&self) -> Result<Option<Usage>, Failure> {
        let read = |pid| procfs::usage(pid).map_err(|e| Failure::Io("cannot read the broker", e));
        self.pid.map(read).transpose()
    }
}

/// What the generator itself has used so far.
pub(crate) fn own_usage() -> Result<Usage, Failure> {
    procfs::usage(std::process::id()).map_err(|e| Failure::Io("cannot read /proc", e))
}

/// A moment of the run.
struct Mark {
    at: Instant,
    received: u64,
    broker: Option<Usage>,
    own: Usage,
}

impl Mark {
    fn now<I: Io>(streams: &Streams<'_, I>, target: &Target) -> Result<Self, Failure> {
        let own = own_usage()?;
        let broker = target.usage()?;
        Ok(Self { at: Instant::now(), received: streams.received(), broker, own })
    }
}

/// Turns until the time is over; false if nothing came for too long.
fn turn_for<I: Io>(streams: &mut Streams<'_, I>, time: Duration) -> Result<bool, Failure> {
    let end = Instant::now() + time;
    let mut last = (streams.received(), Instant::now());
    loop {
        let now = Instant::now();
        if now >= end {
            return Ok(true);
        }
        if streams.received() != last.0 {
            last = (streams.received(), now);
        } else if now - last.1 > STALLED_AFTER {
            return Ok(false);
        }
        streams.turn(SLEEP_MAX.min(end - now))?;
    }
}

fn settle<I: Io>(streams: &mut Streams<'_, I>) -> Result<(), Failure> {
    let end = Instant::now() + SETTLE_MAX;
    let mut last = (streams.received(), Instant::now());
    while !streams.settled() && Instant::now() < end {
        if streams.received() != last.0 {
            last = (streams.received(), Instant::now());
        } else if last.1.elapsed() > DRAIN_STALLED_AFTER {
            break;
        }
        streams.turn(SLEEP_MAX)?;
    }
    Ok(())
}

fn bring_up<'a, I: Io>(
    io: &'a mut I,
    target: &Target,
    scenario: &Scenario,
    plan: Plan,
) -> Result<Streams<'a, I>, Failure> {
    let setup = Setup {
        address: target.address,
        version: scenario.version(),
        qos: scenario.qos,
        keep_alive_s: 0,
        parallel: PARALLEL,
        spread_sources: plan.specs.len() > 20_000,
    };
    if let Some(away) = &plan.away {
        client::leave_behind(io, setup, away)?;
    }
    let up = client::establish(io, setup, &plan.specs)?;
    Ok(Streams::new(io, up, plan, scenario))
}

/// What a run of so many messages came to.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    pub(crate) faults: Faults,
    /// How many messages each publisher has sent.
    pub(crate) sent: Vec<u64>,
    /// Messages that went through.
    pub(crate) done: u64,
    pub(crate) seconds: f64,
    /// Of the broker.
    pub(crate) cpu_ns: u64,
}

/// Lets so many messages through, however long that takes up to `time_max`; the warm-up and
/// measured time of the scenario do not count.
///
/// # Errors
/// As [`run`].
pub(crate) fn pass<I: Io>(
    io: &mut I,
    target: &Target,
    scenario: &Scenario,
    messages: u64,
    time_max: Duration,
) -> Result<Passed, Failure> {
    let plan = scenario.plan()?;
    let mut streams = bring_up(io, target, scenario, plan)?;
    streams.limit(messages);
    let before = Mark::now(&streams, target)?;
    streams.start(None);
    let end = before.at + time_max;
    while !streams.exhausted() && Instant::now() < end {
        if !turn_for(&mut streams, Duration::from_millis(100))? {
            break;
        }
    }
    streams.stop();
    settle(&mut streams)?;
    let after = Mark::now(&streams, target)?;
    let Finished { faults, sent, .. } = streams.finish()?;
    let spent = after.broker.zip(before.broker).map(|(after, before)| after.since(&before));
    Ok(Passed {
        faults,
        sent,
        done: after.received,
        seconds: (after.at - before.at).as_secs_f64(),
        cpu_ns: spent.map_or(0, |spent| spent.cpu_ns),
    })
}

/// Runs a scenario.
///
/// # Errors
/// If the clients cannot be brought up or the network fails; what the broker does wrong with
/// messages is in the report.
pub(crate) fn run<I: Io>(
    io: &mut I,
    target: &Target,
    scenario: &Scenario,
) -> Result<Report, Failure> {
    let plan = scenario.plan()?;
    let fan = plan.fan;
    let mut streams = bring_up(io, target, scenario, plan)?;
    streams.start(scenario.rate);
    let warm = turn_for(&mut streams, Duration::from_millis(scenario.warm_up_ms))?;
    streams.record();
    let before = Mark::now(&streams, target)?;
    let flowing = warm && turn_for(&mut streams, Duration::from_millis(scenario.measure_ms))?;
    let after = Mark::now(&streams, target)?;
    streams.stop();
    settle(&mut streams)?;
    let window = streams.window();
    let memory = target.pid.and_then(|pid| procfs::memory(pid).ok());
    let Finished { faults, latency, ack_latency, .. } = streams.finish()?;
    let seconds = (after.at - before.at).as_secs_f64();
    let done = after.received - before.received;
    let spent = after.broker.zip(before.broker).map(|(after, before)| after.since(&before));
    let own = after.own.since(&before.own);
    Ok(Report {
        title: scenario.title(),
        unit: if fan == 0 { Unit::Acknowledgement } else { Unit::Message },
        seconds,
        done,
        per_second: done as f64 / seconds,
        cpu_us_per_unit: spent.as_ref().map(|s| per_unit_us(s.cpu_ns, done)),
        broker: spent,
        generator_busy: own.cpu_ns as f64 / 1e9 / seconds,
        generator_user_share: own.user_share,
        memory,
        idle: None,
        latency: Latency::of(&latency, scenario.rate.is_some()),
        ack_latency: Latency::of(&ack_latency, scenario.rate.is_some()),
        faults,
        order_proved: scenario.payload_bytes >= Stamp::LEN,
        notes: notes(scenario, window, flowing, done as f64 / seconds / fan.max(1) as f64),
    })
}

/// What a reader should know of a run: `rate` is the messages a second that came through.
fn notes(scenario: &Scenario, window: u64, flowing: bool, rate: f64) -> Vec<String> {
    let mut notes = Vec::new();
    if !flowing {
        notes.push("STALLED: nothing arrived for 3 s".to_owned());
    }
    match scenario.rate {
        None if window < scenario.window => {
            notes.push(format!("window {window} by the broker's receive maximum"));
        }
        Some(wanted) if rate < wanted as f64 * 0.98 => {
            notes.push(format!("BEHIND: {rate:.0} of {wanted} messages a second came through"));
        }
        _ => {}
    }
    notes
}

/// Microseconds of CPU per unit of work.
pub(crate) fn per_unit_us(cpu_ns: u64, done: u64) -> f64 {
    cpu_ns as f64 / 1000.0 / done.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_goes_to_loopback_only() {
        assert!(Target::new(SocketAddr::from(([127, 0, 0, 9], 1883)), None).is_ok());
        let far = Target::new(SocketAddr::from(([10, 0, 0, 1], 1883)), None);
        assert!(matches!(far, Err(Failure::NotLoopback(_))));
    }

    #[test]
    fn notes_say_what_bent_the_run() {
        let scenario = Scenario { window: 16, ..Scenario::default() };
        assert!(notes(&scenario, 16, true, 0.0).is_empty());
        assert!(notes(&scenario, 10, true, 0.0)[0].starts_with("window 10"));
        assert!(notes(&scenario, 16, false, 0.0)[0].starts_with("STALLED"));
        let paced = Scenario { rate: Some(1000), ..scenario };
        assert!(notes(&paced, 60_000, true, 999.0).is_empty());
        assert!(notes(&paced, 60_000, true, 900.0)[0].starts_with("BEHIND: 900 of 1000"));
    }
}
