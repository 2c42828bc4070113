//! The rows that compare transports and drivers: the sides of each, its figures, their bars. Pure.

use serde::Serialize;

use crate::bench::rows::{Load, Metric};
use crate::carry::link::Transport;
use crate::report::Report;
use crate::scenario::Scenario;

/// One side of a row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) transport: Transport,
    /// The broker's driver, if not the one that it chooses.
    pub(crate) driver: Option<&'static str>,
    /// The null broker in place of the broker.
    pub(crate) relay: bool,
    /// Connections come back with tickets.
    pub(crate) resume: bool,
}

/// How a figure follows from the runs of one round. Sides are told by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Value {
    Of(&'static str),
    /// The first over the second.
    Ratio(&'static str, &'static str),
    /// The first less the second.
    Difference(&'static str, &'static str),
    /// Of microseconds of CPU: how many of what the first does and the second does not a second
    /// of one core is good for.
    PerCoreSecondOver(&'static str, &'static str),
}

/// What a figure is held to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
    /// It is only shown.
    Open,
}

impl Bar {
    pub(crate) fn held(self, value: f64) -> bool {
        match self {
            Self::AtMost(bar) => value <= bar,
            Self::AtLeast(bar) => value >= bar,
            Self::Open => true,
        }
    }
}

/// One figure of a row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) metric: Metric,
    pub(crate) value: Value,
    pub(crate) bar: Bar,
}

impl Figure {
    /// Its value in a round, whose report of each side `of` gives.
    pub(crate) fn of<'a>(&self, of: impl Fn(&str) -> Option<&'a Report>) -> Option<f64> {
        let figure = |side| self.metric.of(of(side)?);
        match self.value {
            Value::Of(side) => figure(side),
            Value::Ratio(one, other) => Some(figure(one)? / figure(other)?),
            Value::Difference(one, other) => Some(figure(one)? - figure(other)?),
            Value::PerCoreSecondOver(one, other) => {
                let more_us = figure(one)? - figure(other)?;
                (more_us > 0.0).then_some(1e6 / more_us)
            }
        }
    }
}

/// One row: its sides run in turn, with the same load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) load: Load,
    pub(crate) sides: Vec<Side>,
    pub(crate) figures: Vec<Figure>,
}

const TCP: Side =
    Side { name: "tcp", transport: Transport::Tcp, driver: None, relay: false, resume: false };
const WS: Side = Side { name: "ws", transport: Transport::Ws, ..TCP };
const TLS: Side = Side { name: "tls", transport: Transport::Tls, ..TCP };
const RESUMED: Side = Side { name: "resumed", resume: true, ..TLS };
const RELAY: Side = Side { name: "relay", relay: true, ..TLS };
const URING: Side = Side { name: "uring", driver: Some("uring"), ..TCP };
const EPOLL: Side = Side { name: "epoll", driver: Some("epoll"), ..TCP };

fn figure(name: &'static str, metric: Metric, value: Value, bar: Bar) -> Figure {
    Figure { name, metric, value, bar }
}

/// Pairs with one message in flight, unless it says otherwise.
fn pairs(count: usize, qos: u8) -> Scenario {
    Scenario { count, qos, ..Scenario::default() }
}

fn windows(count: usize, qos: u8) -> Scenario {
    Scenario { window: 16, batch: 8, ..pairs(count, qos) }
}

/// What the rows are cut to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) measure_ms: u64,
    /// No run has more connections.
    pub(crate) connections_max: usize,
}

/// All rows.
pub(crate) fn rows(size: Size) -> Vec<Row> {
    let mut rows = vec![websocket_paced(), websocket_cpu(), idle(), handshakes(), large()];
    let compared = [
        ("q0-n1000-w1-256", pairs(1000, 0)),
        ("q0-n1000-w16-256", windows(1000, 0)),
        ("q1-n1000-w16-256", windows(1000, 1)),
    ];
    rows.extend(compared.map(|(name, scenario)| drivers(name, scenario)));
    for row in &mut rows {
        match &mut row.load {
            Load::Messages(scenario) => {
                scenario.measure_ms = size.measure_ms;
                scenario.count = scenario.count.min((size.connections_max / 2).max(1));
            }
            Load::Connect(count) | Load::Idle(count) => *count = (*count).min(size.connections_max),
            Load::ConnectClose => {}
        }
    }
    rows
}

/// 15 000 connections, each publisher with a subscriber, 25 000 messages a second in all.
fn websocket_paced() -> Row {
    let at_most = Bar::AtMost;
    Row {
        id: "ws-25k".to_owned(),
        load: Load::Messages(Scenario { rate: Some(25_000), ..pairs(7500, 1) }),
        sides: vec![WS, TCP],
        figures: vec![
            figure("ws p95 us", Metric::P95, Value::Of("ws"), at_most(300.0)),
            figure("ws p99 us", Metric::P99, Value::Of("ws"), at_most(1000.0)),
            figure("tcp p95 us", Metric::P95, Value::Of("tcp"), Bar::Open),
            figure("tcp p99 us", Metric::P99, Value::Of("tcp"), Bar::Open),
            figure("cpu ws / tcp", Metric::Cpu, Value::Ratio("ws", "tcp"), at_most(1.10)),
        ],
    }
}

fn websocket_cpu() -> Row {
    Row {
        id: "ws-q1-n1000-w16-256".to_owned(),
        load: Load::Messages(windows(1000, 1)),
        sides: vec![WS, TCP],
        figures: vec![figure(
            "cpu ws / tcp",
            Metric::Cpu,
            Value::Ratio("ws", "tcp"),
            Bar::AtMost(1.10),
        )],
    }
}

fn idle() -> Row {
    let bytes = Metric::UserBytes;
    let churned = Metric::UserBytesAfterChurn;
    Row {
        id: "idle".to_owned(),
        load: Load::Idle(18_000),
        sides: vec![TCP, WS, TLS],
        figures: vec![
            figure("tcp B", bytes, Value::Of("tcp"), Bar::Open),
            figure("ws B - tcp B", bytes, Value::Difference("ws", "tcp"), Bar::AtMost(64.0)),
            figure("tls B", bytes, Value::Of("tls"), Bar::AtMost(6144.0)),
            figure("tls B, churned", churned, Value::Of("tls"), Bar::Open),
        ],
    }
}

/// Each connection is accepted, shakes hands, says CONNECT, is answered and closed.
fn handshakes() -> Row {
    let (cpu, per_core) = (Metric::Cpu, Metric::PerCoreSecond);
    let over = |side| Value::PerCoreSecondOver(side, "tcp");
    Row {
        id: "handshakes".to_owned(),
        load: Load::ConnectClose,
        sides: vec![TCP, TLS, RESUMED],
        figures: vec![
            figure("full/core-s", cpu, over("tls"), Bar::AtLeast(3500.0)),
            figure("resumed/core-s", cpu, over("resumed"), Bar::AtLeast(8000.0)),
            figure("full, all/core-s", per_core, Value::Of("tls"), Bar::Open),
            figure("resumed, all/core-s", per_core, Value::Of("resumed"), Bar::Open),
        ],
    }
}

fn large() -> Row {
    let pairs = Scenario { window: 2, payload_bytes: 1_000_000, ..pairs(4, 0) };
    let (rate, cpu) = (Metric::PerSecond, Metric::Cpu);
    Row {
        id: "tls-large-1mb".to_owned(),
        load: Load::Messages(pairs),
        sides: vec![TLS, RELAY],
        figures: vec![
            figure("rate tls / relay", rate, Value::Ratio("tls", "relay"), Bar::AtLeast(0.8)),
            figure("cpu relay / tls", cpu, Value::Ratio("relay", "tls"), Bar::AtLeast(0.8)),
        ],
    }
}

fn drivers(name: &str, scenario: Scenario) -> Row {
    Row {
        id: format!("driver-{name}"),
        load: Load::Messages(scenario),
        sides: vec![EPOLL, URING],
        figures: vec![figure(
            "cpu epoll / uring",
            Metric::Cpu,
            Value::Ratio("epoll", "uring"),
            Bar::AtMost(1.4),
        )],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn rows_have_names_of_their_own_sound_loads_and_sides_that_are_there() {
        let rows = rows(Size { measure_ms: 100, connections_max: 100 });
        assert_eq!(rows.iter().map(|row| &row.id).collect::<HashSet<_>>().len(), rows.len());
        for row in &rows {
            if let Load::Messages(scenario) = &row.load {
                assert!(scenario.plan().is_ok_and(|plan| plan.specs.len() <= 100), "{}", row.id);
                assert_eq!(scenario.measure_ms, 100);
            }
            let there = |name| row.sides.iter().any(|side| side.name == name);
            assert!(row.figures.iter().all(|figure| match figure.value {
                Value::Of(side) => there(side),
                Value::Ratio(one, other)
                | Value::Difference(one, other)
                | Value::PerCoreSecondOver(one, other) => there(one) && there(other),
            }));
        }
    }

    #[test]
    fn bars_hold_from_their_own_side() {
        assert!(Bar::AtMost(1.0).held(1.0) && !Bar::AtMost(1.0).held(1.1));
        assert!(Bar::AtLeast(1.0).held(1.0) && !Bar::AtLeast(1.0).held(0.9));
        assert!(Bar::Open.held(f64::MAX));
    }
}
