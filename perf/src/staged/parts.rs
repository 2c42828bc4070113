//! A scenario in several processes: each runs the same stages with its part of the clients, so that
//! a run has more of them than one process may have descriptors. They begin together, say their
//! readings as lines of JSON, and at their end all that they measured, which is added up here.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use serde::{Deserialize, Serialize};

use super::engine::Ending;
use super::meter::{self, Counts, Meter, Reading, Values};
use super::plan::{Part, Plan};
use super::screen::Screen;
use crate::failure::Failure;
use crate::run::Target;
use crate::sequence::Faults;

/// What one process says to the one that started it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Line {
    /// It has its clients worked out and waits to begin.
    Ready,
    Reading(Reading),
    End(Box<End>),
}

/// All that one process measured.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct End {
    /// The stage in which the broker was gone.
    gone: Option<usize>,
    counts: Counts,
    samplers: Vec<SamplerEnd>,
    deliveries: Values,
    readings: Vec<(Reading, Values)>,
}

/// What one sampler found.
#[derive(Debug, Deserialize, Serialize)]
struct SamplerEnd {
    latency: Values,
    faults: Faults,
    asked: u64,
    done: u64,
    stall_ns: u64,
}

/// Says a line. One that nobody reads any more is no failure: the end of the input ends the run.
pub(crate) fn tell(line: &Line) {
    if let Ok(text) = serde_json::to_string(line) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

/// Waits until all processes may begin.
///
/// # Errors
/// If the process that is to say so has ended.
pub(crate) fn wait_for_go() -> Result<(), Failure> {
    tell(&Line::Ready);
    let mut word = String::new();
    match std::io::stdin().lock().read_line(&mut word) {
        Ok(length) if length > 0 => Ok(()),
        _ => Err(Failure::Option("--part is for the processes of --processes".to_owned())),
    }
}

/// Says what this process measured.
pub(crate) fn tell_end(meter: &Meter, ending: Ending) {
    let sampler = |sampler: &meter::Sampler| SamplerEnd {
        latency: meter::values(&sampler.latency),
        faults: sampler.faults,
        asked: sampler.asked,
        done: sampler.done,
        stall_ns: sampler.stall_ns,
    };
    let kept = meter.kept.iter().flatten().cloned();
    tell(&Line::End(Box::new(End {
        gone: match ending {
            Ending::Done => None,
            Ending::BrokerGone(stage) => Some(stage),
        },
        counts: meter.counts,
        samplers: meter.samplers.iter().map(sampler).collect(),
        deliveries: meter::values(&meter.deliveries),
        readings: meter.readings.iter().copied().zip(kept).collect(),
    })));
}

/// A process of the run; ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a plan in `processes` processes; `arguments` are those of this one's own run.
///
/// # Errors
/// If one cannot be started, or ends without saying what it measured.
pub(crate) fn conduct(
    plan: &Plan,
    target: &Target,
    processes: u16,
    arguments: &[String],
    screen: &mut Screen,
) -> Result<(Meter, Ending), Failure> {
    let (said, lines) = mpsc::channel();
    let mut started = Vec::new();
    for number in 0..processes {
        let part = Part { number, of: processes };
        let mut child = start(part, target, arguments)?;
        let out = child.0.stdout.take();
        let said = said.clone();
        // Ends with the process's output.
        thread::spawn(move || {
            for line in out.into_iter().flat_map(|out| BufReader::new(out).lines()) {
                let line = line.ok().and_then(|line| serde_json::from_str::<Line>(&line).ok());
                if line.is_some_and(|line| said.send((number, line)).is_err()) {
                    break;
                }
            }
        });
        started.push(child);
    }
    drop(said);
    let ends = listen(&lines, plan, &mut started, screen)?;
    Ok(merge(plan, &ends))
}

fn start(part: Part, target: &Target, arguments: &[String]) -> Result<Process, Failure> {
    let failed = |error| Failure::Io("cannot start a process of the run", error);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["run"]).args(arguments);
    command.args(["--part", &format!("{}/{}", part.number, part.of)]);
    command.args(["--target", &target.address.to_string()]);
    // One is enough to read the broker's memory, which takes the longer the more it is.
    if let Some(pid) = target.pid.filter(|_| part.number == 0) {
        command.args(["--pid", &pid.to_string()]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().map(Process).map_err(failed)
}

/// Lets all begin when all are ready, shows what they say, and waits for their ends.
fn listen(
    lines: &Receiver<(u16, Line)>,
    plan: &Plan,
    started: &mut [Process],
    screen: &mut Screen,
) -> Result<Vec<End>, Failure> {
    let mut ready = 0;
    let mut latest: Vec<Reading> = vec![Reading::default(); started.len()];
    let mut shown = Shown::default();
    let mut ends = Vec::new();
    while let Ok((number, line)) = lines.recv() {
        match line {
            Line::Ready => {
                ready += 1;
                if ready == started.len() {
                    for process in started.iter_mut() {
                        if let Some(input) = &mut process.0.stdin {
                            let told = input.write_all(b"go\n");
                            told.map_err(|error| Failure::Io("cannot begin a run", error))?;
                        }
                    }
                }
            }
            Line::Reading(reading) => {
                latest[usize::from(number)] = reading;
                // The first process sets the pace at which anything is shown.
                if number == 0 {
                    shown.show(plan, &sum(&latest), screen);
                }
            }
            Line::End(end) => ends.push(*end),
        }
    }
    if ends.len() == started.len() {
        Ok(ends)
    } else {
        let (ended, all) = (ends.len(), started.len());
        let text = format!("only {ended} of {all} processes came to their end");
        Err(Failure::Io("the run is broken off", std::io::Error::other(text)))
    }
}

/// How far the run was when something was last shown.
#[derive(Debug, Default)]
struct Shown {
    stage: usize,
    /// Seconds since the run's begin at which the stage began.
    began_s: f64,
    last: Reading,
}

impl Shown {
    fn show(&mut self, plan: &Plan, now: &Reading, screen: &mut Screen) {
        if now.stage != self.stage {
            if let Some(ended) = plan.stages.get(self.stage) {
                let time_s = self.last.at_s - self.began_s;
                let (name, none) = (&ended.name, Faults::default());
                screen.end_stage(name, self.stage, time_s, &self.last, 0, none);
            }
            (self.stage, self.began_s) = (now.stage, self.last.at_s);
        }
        self.last = *now;
        if let Some(stage) = plan.stages.get(now.stage) {
            let made = (now.connections, u64::from(plan.clients));
            let time_s = now.at_s - self.began_s;
            screen.show(&stage.name, now.stage, time_s, stage.seconds, made, now);
        }
    }
}

/// Readings of one moment as one. The broker is the same for all.
fn sum(readings: &[Reading]) -> Reading {
    let mut sum = Reading::default();
    for reading in readings {
        sum.at_s = sum.at_s.max(reading.at_s);
        sum.stage = sum.stage.max(reading.stage);
        sum.connections += reading.connections;
        sum.connects_per_s += reading.connects_per_s;
        sum.sent_per_s += reading.sent_per_s;
        sum.delivered_per_s += reading.delivered_per_s;
        sum.generator_cpu_percent += reading.generator_cpu_percent;
        sum.broker_cpu_percent = sum.broker_cpu_percent.or(reading.broker_cpu_percent);
        sum.broker_bytes = sum.broker_bytes.max(reading.broker_bytes);
        sum.kernel_bytes = sum.kernel_bytes.max(reading.kernel_bytes);
    }
    sum
}

/// What all processes measured, as if one had.
fn merge(plan: &Plan, ends: &[End]) -> (Meter, Ending) {
    let mut meter = Meter::new(plan);
    let mut gone: Option<usize> = None;
    for end in ends {
        gone = gone.or(end.gone);
        meter.counts.add(&end.counts);
        meter::add(&mut meter.deliveries, &end.deliveries);
        for (sampler, own) in meter.samplers.iter_mut().zip(&end.samplers) {
            meter::add(&mut sampler.latency, &own.latency);
            sampler.faults.add(&own.faults);
            sampler.asked += own.asked;
            sampler.done += own.done;
            sampler.stall_ns = sampler.stall_ns.max(own.stall_ns);
        }
    }
    // Each process reads once a second from the common begin on: readings are added by their place.
    let most = ends.iter().map(|end| end.readings.len()).max().unwrap_or(0);
    for place in 0..most {
        let mut moment = Vec::new();
        for end in ends {
            if let Some((reading, values)) = end.readings.get(place) {
                moment.push(*reading);
                meter.add_recent(values);
            } else if let Some((last, _)) = end.readings.last() {
                // It has ended: its clients are still there, and quiet.
                let (at_s, connections) = (last.at_s, last.connections);
                moment.push(Reading { at_s, connections, stage: last.stage, ..Reading::default() });
            }
        }
        let sum = sum(&moment);
        meter.read(sum, 0);
    }
    (meter, gone.map_or(Ending::Done, Ending::BrokerGone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at_s: f64, connections: u64, delivered_per_s: f64) -> Reading {
        Reading { at_s, connections, delivered_per_s, ..Reading::default() }
    }

    fn end(readings: Vec<(Reading, Values)>, lost: u64) -> End {
        let samplers = (0..4).map(|_| SamplerEnd {
            latency: vec![(1000, 2)],
            faults: Faults { lost, ..Faults::default() },
            asked: 3,
            done: 2,
            stall_ns: 5,
        });
        End {
            gone: None,
            counts: Counts { connected: 10, delivered: 2, ..Counts::default() },
            samplers: samplers.collect(),
            deliveries: vec![(1000, 2)],
            readings,
        }
    }

    #[test]
    fn what_the_parts_measured_is_added_up() {
        let file = super::super::file::parse(include_str!("../../scenarios/e-1.toml")).unwrap();
        let size = super::super::plan::Size { scale: 0.001, duration_s: None };
        let plan = Plan::new(&file, size);
        let first = vec![
            (reading(1.0, 5, 10.0), vec![(1_000_000, 3)]),
            (reading(2.0, 10, 20.0), vec![(2_000_000, 1)]),
        ];
        let second = vec![(reading(1.1, 6, 1.0), vec![(9_000_000, 100)])];
        let (meter, ending) = merge(&plan, &[end(first, 0), end(second, 1)]);
        assert_eq!(ending, Ending::Done);
        assert_eq!((meter.counts.connected, meter.deliveries.len()), (20, 4));
        assert_eq!((meter.samplers[0].latency.len(), meter.samplers[0].faults.lost), (4, 1));
        assert_eq!((meter.samplers[0].done, meter.samplers[0].stall_ns), (4, 5));
        let shown: Vec<_> =
            meter.readings.iter().map(|r| (r.connections, r.delivered_per_s)).collect();
        assert_eq!(shown, [(11, 11.0), (16, 20.0)]);
        assert!((meter.readings[0].p99_ms.unwrap() - 9.0).abs() < 0.1);
        assert!((meter.readings[1].p99_ms.unwrap() - 2.0).abs() < 0.1);
        let (_, ending) = merge(&plan, &[End { gone: Some(2), ..end(Vec::new(), 0) }]);
        assert_eq!(ending, Ending::BrokerGone(2));
    }
}
