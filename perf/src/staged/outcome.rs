//! What a run came to: figures by sampler, bars and whether they held, the source's figures beside
//! ours. It is what the JSON holds, and what table and HTML are made from.

use std::fmt::Write as _;

use serde::Serialize;

use super::engine::Ending;
use super::file::{Bars, Source, What};
use super::meter::{Counts, Meter, Reading, Sampler, ms};
use super::plan::Plan;
use crate::procfs::Host;
use crate::sequence::Faults;

/// With fewer connections the broker's first use of its own code and buffers would be most of what
/// they seem to cost: their bytes are then shown, not judged.
const CONNECTIONS_FOR_BYTES: u64 = 10_000;

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: String,
    pub(crate) title: String,
    /// UTC.
    pub(crate) time: String,
    pub(crate) commit: String,
    pub(crate) command: String,
    pub(crate) host: Host,
    /// The broker, by its version line or its address.
    pub(crate) broker: String,
    pub(crate) scale: f64,
    pub(crate) seconds: f64,
    /// Clients that the run was to have.
    pub(crate) clients: u32,
    pub(crate) stages: Vec<String>,
    /// Why it ended early.
    pub(crate) cut_short: Option<String>,
    pub(crate) counts: Counts,
    pub(crate) faults: Faults,
    pub(crate) samplers: Vec<SamplerOutcome>,
    pub(crate) peak: Peak,
    pub(crate) bars: Vec<Bar>,
    pub(crate) beside: Vec<Beside>,
    pub(crate) source: Source,
    pub(crate) readings: Vec<Reading>,
    pub(crate) notes: Vec<String>,
}

/// One sampler's figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SamplerOutcome {
    pub(crate) name: String,
    pub(crate) deliveries: bool,
    pub(crate) count: u64,
    pub(crate) success_percent: f64,
    pub(crate) mean_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) stall_s: f64,
    pub(crate) faults: Faults,
}

/// The highest of each reading.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Peak {
    pub(crate) connections: u64,
    pub(crate) connects_per_s: f64,
    pub(crate) delivered_per_s: f64,
    /// Of one processor.
    pub(crate) broker_cpu_percent: Option<f64>,
    /// The mean over the stages.
    pub(crate) broker_cpu_mean_percent: Option<f64>,
    pub(crate) generator_cpu_percent: f64,
    pub(crate) broker_bytes: Option<u64>,
    /// The growth of the broker's memory by connection, from the first tenth of them on.
    pub(crate) bytes_per_connection: Option<f64>,
    /// The growth of the kernel's slab memory by connection, both ends of each together.
    pub(crate) kernel_bytes_per_connection: f64,
}

/// What had to hold.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) limit: f64,
    pub(crate) found: Option<f64>,
    pub(crate) held: bool,
}

/// A figure of the source, and ours.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Beside {
    pub(crate) what: String,
    pub(crate) source: f64,
    pub(crate) ours: Option<f64>,
}

/// Memory before the run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Before {
    pub(crate) broker_bytes: Option<u64>,
    /// Slab memory.
    pub(crate) kernel_bytes: u64,
}

/// What is known before and beside the measurement.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) scenario: String,
    pub(crate) time: String,
    pub(crate) commit: String,
    pub(crate) host: Host,
    pub(crate) broker: String,
    pub(crate) scale: f64,
    pub(crate) source: Source,
    pub(crate) before: Before,
    pub(crate) notes: Vec<String>,
}

impl Outcome {
    /// Judges what was measured.
    pub(crate) fn new(about: About, plan: &Plan, meter: &Meter, ending: Ending) -> Outcome {
        let samplers: Vec<SamplerOutcome> = meter.samplers.iter().map(sampler).collect();
        let peak = peak(&meter.readings, &about.before);
        let cut_short = match ending {
            Ending::Done => None,
            Ending::BrokerGone(stage) => {
                Some(format!("the broker was gone in stage {}", plan.stages[stage].name))
            }
        };
        let mut outcome = Outcome {
            scenario: about.scenario,
            title: plan.title.clone(),
            time: about.time,
            commit: about.commit,
            command: std::env::args().collect::<Vec<_>>().join(" "),
            host: about.host,
            broker: about.broker,
            scale: about.scale,
            seconds: meter.readings.last().map_or(0.0, |reading| reading.at_s),
            clients: plan.clients,
            stages: plan.stages.iter().map(|stage| stage.name.clone()).collect(),
            cut_short,
            counts: meter.counts,
            faults: meter.faults(),
            samplers,
            peak,
            bars: Vec::new(),
            beside: Vec::new(),
            source: about.source,
            readings: meter.readings.clone(),
            notes: about.notes,
        };
        outcome.bars = outcome.judge(&plan.bars, meter);
        outcome.beside = outcome.beside();
        if outcome.peak.generator_cpu_percent > 90.0 {
            outcome.notes.push(
                "the generator was busy to over 90 % in some seconds: latencies are partly its own"
                    .to_owned(),
            );
        }
        outcome
    }

    /// Whether the run was whole and all bars held.
    pub(crate) fn held(&self) -> bool {
        self.cut_short.is_none() && self.bars.iter().all(|bar| bar.held)
    }

    fn judge(&self, bars: &Bars, meter: &Meter) -> Vec<Bar> {
        let bar = |what: &str, limit: f64, found: Option<f64>| Bar {
            what: what.to_owned(),
            limit,
            found,
            held: found.is_some_and(|found| found <= limit),
        };
        let faults = self.faults;
        let failed = self.counts.connects_failed + self.counts.closed_by_broker;
        let messages = faults.lost + faults.duplicates + faults.out_of_order + faults.misrouted;
        let messages = messages + faults.protocol;
        let mut judged = vec![
            bar("clients failed", bars.failed_clients_max as f64, Some(failed as f64)),
            bar("messages at fault", bars.faults_max as f64, Some(messages as f64)),
        ];
        let all = &meter.deliveries;
        let at = |quantile| (!all.is_empty()).then(|| ms(all.value_at_quantile(quantile)));
        let latencies = [("p95 of deliveries, ms", bars.p95_ms, 0.95)];
        let latencies = latencies.into_iter().chain([("p99 of deliveries, ms", bars.p99_ms, 0.99)]);
        for (what, limit, quantile) in latencies {
            judged.extend(limit.map(|limit| bar(what, limit, at(quantile))));
        }
        for (name, limit) in &bars.stall_s {
            let found = self.samplers.iter().find(|s| s.deliveries && s.name == *name);
            let what = format!("{name}: longest silence, s");
            judged.push(bar(&what, *limit, found.map(|sampler| sampler.stall_s)));
        }
        let enough = self.peak.connections >= CONNECTIONS_FOR_BYTES;
        if let (Some(limit), Some(found), true) =
            (bars.bytes_per_connection, self.peak.bytes_per_connection, enough)
        {
            judged.push(bar("broker's bytes per connection", limit, Some(found)));
        }
        judged
    }

    /// The source's figures with ours, those of whole machines at the run's scale.
    fn beside(&self) -> Vec<Beside> {
        let figure = |figure: &super::file::Figure| {
            let named = |name: &String| self.samplers.iter().find(|sampler| sampler.name == *name);
            let sampler = figure.sampler.as_ref().and_then(named);
            let latency = |of: fn(&SamplerOutcome) -> f64| sampler.map(of);
            let ours = match figure.what {
                What::Connections => Some(self.peak.connections as f64),
                What::ConnectRate => Some(self.peak.connects_per_s),
                What::MessageRate => Some(self.peak.delivered_per_s),
                What::CpuPercent => {
                    let cpus = self.host.cpus.max(1) as f64;
                    self.peak.broker_cpu_mean_percent.map(|percent| percent / cpus)
                }
                What::MemoryGb => self.peak.broker_bytes.map(|bytes| bytes as f64 / 1e9),
                What::BytesPerConnection => self.peak.bytes_per_connection,
                What::MeanMs => latency(|sampler| sampler.mean_ms),
                What::P95Ms => latency(|sampler| sampler.p95_ms),
                What::P99Ms => latency(|sampler| sampler.p99_ms),
                What::MaxMs => latency(|sampler| sampler.max_ms),
                What::SuccessPercent => latency(|sampler| sampler.success_percent),
            };
            let of = figure.sampler.as_ref().map_or(String::new(), |name| format!("{name} "));
            Beside { what: format!("{of}{}", figure.what.label()), source: figure.value, ours }
        };
        self.source.figures.iter().map(figure).collect()
    }

    /// The run as a table for a terminal.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("\n{}\n{} at scale {}\n\n", self.title, self.broker, self.scale);
        let _ = writeln!(
            text,
            "{:<26} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}",
            "sampler", "count", "success", "mean ms", "p50", "p95", "p99", "max"
        );
        for s in &self.samplers {
            let _ = writeln!(
                text,
                "{:<26} {:>10} {:>7.2} % {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>10.3}",
                s.name,
                s.count,
                s.success_percent,
                s.mean_ms,
                s.p50_ms,
                s.p95_ms,
                s.p99_ms,
                s.max_ms
            );
        }
        let _ = writeln!(
            text,
            "\n{:<44} {:>14} {:>14}   (source: {})",
            "figure", "ours", "source", self.source.name
        );
        for beside in &self.beside {
            let _ = writeln!(
                text,
                "{:<44} {:>14} {:>14}",
                beside.what,
                beside.ours.map_or("-".to_owned(), number),
                number(beside.source)
            );
        }
        let _ = writeln!(
            text,
            "{:<44} {:>14}",
            "kernel's bytes per connection, both ends",
            number(self.peak.kernel_bytes_per_connection.round())
        );
        let _ = writeln!(text, "\n{:<44} {:>14} {:>14}", "bar", "found", "limit");
        for bar in &self.bars {
            let _ = writeln!(
                text,
                "{:<44} {:>14} {:>14} {}",
                bar.what,
                bar.found.map_or("nothing".to_owned(), number),
                number(bar.limit),
                if bar.held { "held" } else { "NOT HELD" }
            );
        }
        for line in self.cut_short.iter().chain(&self.notes) {
            let _ = writeln!(text, "\n{line}");
        }
        text
    }
}

/// A number with as many digits as count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if value.fract() == 0.0 && size < 1e15 => format!("{value:.0}"),
        size if size < 1.0 => format!("{value:.4}"),
        size if size < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

fn sampler(sampler: &Sampler) -> SamplerOutcome {
    let all = &sampler.latency;
    let at = |quantile| if all.is_empty() { 0.0 } else { ms(all.value_at_quantile(quantile)) };
    SamplerOutcome {
        name: sampler.name.clone(),
        deliveries: sampler.delivers,
        count: sampler.done,
        success_percent: sampler.success_percent(),
        mean_ms: if all.is_empty() { 0.0 } else { all.mean() / 1e6 },
        p50_ms: at(0.5),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        max_ms: if all.is_empty() { 0.0 } else { ms(all.max()) },
        stall_s: sampler.stall_ns as f64 / 1e9,
        faults: sampler.faults,
    }
}

/// The broker's memory by connection: its growth from the moment at which a tenth of them were
/// there, so that what it uses once is not in it; with few readings, from before the run.
fn bytes_per_connection(readings: &[Reading], before: Option<u64>, most: &Reading) -> Option<f64> {
    let tenth =
        readings.iter().find(|r| r.connections > 0 && r.connections * 10 >= most.connections);
    let of = |reading: &Reading| Some((reading.broker_bytes?, reading.connections));
    let from = tenth.and_then(of).filter(|(_, there)| there * 2 <= most.connections);
    let (bytes, there) = from.or_else(|| before.map(|bytes| (bytes, 0)))?;
    let grown = most.broker_bytes?.saturating_sub(bytes);
    Some(grown as f64 / most.connections.saturating_sub(there).max(1) as f64)
}

fn peak(readings: &[Reading], before: &Before) -> Peak {
    let most = |of: fn(&Reading) -> f64| readings.iter().map(of).fold(0.0, f64::max);
    let cpu: Vec<f64> = readings.iter().filter_map(|r| r.broker_cpu_percent).collect();
    let connections = readings.iter().map(|reading| reading.connections).max().unwrap_or(0);
    let broker_bytes = readings.iter().filter_map(|reading| reading.broker_bytes).max();
    let kernel_bytes = readings.iter().map(|reading| reading.kernel_bytes).max().unwrap_or(0);
    let per = |grown: u64| grown as f64 / connections.max(1) as f64;
    Peak {
        connections,
        connects_per_s: most(|reading| reading.connects_per_s),
        delivered_per_s: most(|reading| reading.delivered_per_s),
        broker_cpu_percent: cpu.iter().copied().reduce(f64::max),
        broker_cpu_mean_percent: (!cpu.is_empty())
            .then(|| cpu.iter().sum::<f64>() / cpu.len() as f64),
        generator_cpu_percent: most(|reading| reading.generator_cpu_percent),
        broker_bytes,
        bytes_per_connection: bytes_per_connection(
            readings,
            before.broker_bytes,
            &Reading { connections, broker_bytes, ..Reading::default() },
        ),
        kernel_bytes_per_connection: per(kernel_bytes.saturating_sub(before.kernel_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_uses_once_is_not_in_its_bytes_per_connection() {
        let reading = |connections, bytes| Reading {
            connections,
            broker_bytes: Some(bytes),
            ..Reading::default()
        };
        let all = [reading(0, 1000), reading(1000, 100_000), reading(9000, 180_000)];
        let most = reading(10_000, 190_000);
        assert_eq!(bytes_per_connection(&all, Some(500), &most), Some(10.0));
        assert_eq!(bytes_per_connection(&all[2..], Some(90_000), &most), Some(10.0));
        assert_eq!(bytes_per_connection(&[], None, &most), None);
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        let text = [0.0, 3.0, 0.12345, 12.345, 1234.5].map(number);
        assert_eq!(text, ["0", "3", "0.1235", "12.35", "1234"]);
    }
}
