//! The rows of the project's table of figures that TCP can show: the load of each, and the bar that
//! Ringtide is held to. Pure.

use serde::Serialize;

use crate::report::Report;
use crate::scenario::{Scenario, Work};

/// What a row's runs do.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// Messages.
    Messages(Scenario),
    /// So many connections, held.
    Connect(usize),
    /// Connections made and closed.
    ConnectClose,
    /// So many idle clients.
    Idle(usize),
}

/// Which figure of a run a row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Metric {
    /// Broker CPU per message or connection, microseconds.
    Cpu,
    /// User memory per idle client, bytes.
    UserBytes,
    /// The same after all have left and come back.
    UserBytesAfterChurn,
    /// Latency, microseconds.
    P50,
    /// Latency, microseconds.
    P95,
    /// Latency, microseconds.
    P99,
    /// Messages or connections a second.
    PerSecond,
    /// Messages or connections that a second of one core is good for.
    PerCoreSecond,
    /// Broker CPU per message beyond that of the same load on one shard, microseconds.
    ExtraCpu,
}

impl Metric {
    /// The figure of one run. For [`Metric::ExtraCpu`] this is the CPU before the subtraction.
    pub(crate) fn of(self, report: &Report) -> Option<f64> {
        match self {
            Self::Cpu | Self::ExtraCpu => report.cpu_us_per_unit,
            Self::UserBytes => report.idle.as_ref().map(|idle| idle.user_per_client),
            Self::UserBytesAfterChurn => {
                report.idle.as_ref().map(|idle| idle.user_per_client_after_churn)
            }
            Self::P50 => report.latency.as_ref().map(|latency| latency.p50_us),
            Self::P95 => report.latency.as_ref().map(|latency| latency.p95_us),
            Self::PerSecond => Some(report.per_second),
            Self::PerCoreSecond => report.cpu_us_per_unit.map(|cpu_us| 1e6 / cpu_us),
            Self::P99 => report.latency.as_ref().map(|latency| latency.p99_us),
        }
    }

    /// Its name in the table.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Cpu => "cpu us",
            Self::UserBytes => "user B",
            Self::UserBytesAfterChurn => "user B, churned",
            Self::P50 => "p50 us",
            Self::P95 => "p95 us",
            Self::P99 => "p99 us",
            Self::PerSecond => "a second",
            Self::PerCoreSecond => "a core-second",
            Self::ExtraCpu => "extra cpu us",
        }
    }
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// Its name for `--rows`.
    pub(crate) id: String,
    pub(crate) load: Load,
    /// What it shows, each with its bar.
    pub(crate) metrics: Vec<(Metric, Option<f64>)>,
    /// Shards of the broker.
    pub(crate) shards: u16,
    /// For [`Metric::ExtraCpu`]: the row to subtract.
    pub(crate) over: Option<String>,
}

impl Row {
    fn new(id: &str, load: Load, metric: Metric, bar: f64) -> Self {
        let metrics = vec![(metric, Some(bar))];
        Self { id: id.to_owned(), load, metrics, shards: 1, over: None }
    }

    /// True if only a broker with shards can run it.
    pub(crate) fn needs_shards(&self) -> bool {
        self.shards > 1 || self.id.starts_with("shards-")
    }
}

fn pairs(count: usize, window: u64, batch: u64, payload_bytes: usize, qos: u8) -> Scenario {
    Scenario { count, window, batch, payload_bytes, qos, ..Scenario::default() }
}

fn fan_out(window: u64, payload_bytes: usize) -> Scenario {
    Scenario { work: Work::FanOut, ..pairs(1000, window, 1, payload_bytes, 0) }
}

fn wildcard(pattern: &str) -> Scenario {
    Scenario { work: Work::Wildcard, pattern: pattern.to_owned(), ..pairs(50, 16, 8, 16, 0) }
}

/// All rows, each run measured for so long.
pub(crate) fn rows(measure_ms: u64) -> Vec<Row> {
    let cpu =
        |id, scenario: Scenario, bar| Row::new(id, Load::Messages(scenario), Metric::Cpu, bar);
    let mut rows = vec![
        cpu("q0-n1000-w1-256", pairs(1000, 1, 1, 256, 0), 7.0),
        cpu("q0-n1000-w16-16", pairs(1000, 16, 8, 16, 0), 0.70),
        cpu("q0-n1000-w16-256", pairs(1000, 16, 8, 256, 0), 0.85),
        cpu("q0-n50-w64-16", pairs(50, 64, 32, 16, 0), 0.22),
        cpu("q1-n1000-w1-256", pairs(1000, 1, 1, 256, 1), 14.0),
        cpu("q1-n1000-w16-256", pairs(1000, 16, 8, 256, 1), 1.6),
        cpu("q2-n1000-w1-256", pairs(1000, 1, 1, 256, 2), 27.0),
        cpu("q2-n1000-w16-256", pairs(1000, 16, 8, 256, 2), 2.2),
        cpu("fan-out-1000-w8-256", fan_out(8, 256), 0.90),
        cpu("fan-out-1000-w1-16", fan_out(1, 16), 3.3),
        cpu("fan-out-1000-w1-1024", fan_out(1, 1024), 3.7),
        cpu("large-1mb", pairs(4, 2, 1, 1_000_000, 0), 410.0),
        cpu("wildcard-w-g", wildcard("w/%g/+/x/#"), 0.9),
        cpu("wildcard-plus-g", wildcard("+/%g/#"), 1.0),
        Row::new("connect-held", Load::Connect(10_000), Metric::Cpu, 20.0),
        Row::new("connect-close", Load::ConnectClose, Metric::Cpu, 24.0),
    ];
    let mut idle = Row::new("idle-18000", Load::Idle(18_000), Metric::UserBytes, 600.0);
    idle.metrics.push((Metric::UserBytesAfterChurn, Some(630.0)));
    rows.push(idle);
    let paced = Scenario { rate: Some(50_000), ..pairs(50, 1, 1, 256, 0) };
    let mut latency = Row::new("rate-50k", Load::Messages(paced), Metric::P50, 20.0);
    latency.metrics.extend([(Metric::P99, Some(60.0)), (Metric::Cpu, None)]);
    rows.push(latency);
    for shards in [1, 2, 4, 8] {
        rows.push(sharded("loaded", shards, None, 2.5));
        rows.push(sharded("asleep", shards, Some(5000), 12.0));
    }
    for row in &mut rows {
        if let Load::Messages(scenario) = &mut row.load {
            scenario.measure_ms = measure_ms;
        }
    }
    rows
}

/// Random pairs over some shards, at full load or with the shards asleep between messages.
fn sharded(name: &str, shards: u16, rate: Option<u64>, bar: f64) -> Row {
    let scenario = Scenario { rate, random_ids: Some(1), ..pairs(1000, 1, 1, 256, 0) };
    let id = |shards| format!("shards-{shards}-{name}");
    let (metrics, over) = if shards == 1 {
        (vec![(Metric::Cpu, None)], None)
    } else {
        (vec![(Metric::ExtraCpu, Some(bar)), (Metric::Cpu, None)], Some(id(1)))
    };
    Row { id: id(shards), load: Load::Messages(scenario), metrics, shards, over }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn rows_have_names_of_their_own_and_sound_loads() {
        let rows = rows(100);
        assert_eq!(rows.iter().map(|row| &row.id).collect::<HashSet<_>>().len(), rows.len());
        for row in &rows {
            if let Load::Messages(scenario) = &row.load {
                assert!(scenario.plan().is_ok(), "{}", row.id);
                assert_eq!(scenario.measure_ms, 100);
            }
            if let Some(over) = &row.over {
                assert!(rows.iter().any(|other| other.id == *over));
            }
        }
    }
}
