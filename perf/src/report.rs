//! What a run found out: one line for people, JSON for the record.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::procfs::{Memory, Spent};
use crate::sequence::Faults;

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p95_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) samples: u64,
    /// True if each message counts from when it was to be sent: no coordinated omission. At
    /// maximum rate one message per read is sampled, from when it was sent.
    pub(crate) at_fixed_rate: bool,
}

impl Latency {
    /// `None` if nothing was recorded. The histogram is in nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>, at_fixed_rate: bool) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        (!histogram.is_empty()).then(|| Self {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p95_us: at(0.95),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1000.0,
            samples: histogram.len(),
            at_fixed_rate,
        })
    }
}

/// What a unit of work is, for the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unit {
    /// Messages received by subscribers.
    Message,
    /// Messages acknowledged to their publishers, where no subscriber is there.
    Acknowledgement,
    /// Connections made, or made and closed.
    Connection,
    /// Connections held.
    IdleClient,
}

/// Memory per idle client, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct IdleMemory {
    pub(crate) before: Memory,
    pub(crate) held: Memory,
    pub(crate) closed: Memory,
    pub(crate) held_again: Memory,
    pub(crate) user_per_client: f64,
    /// The same after all have left and come back.
    pub(crate) user_per_client_after_churn: f64,
    /// Slab memory of the kernel, both ends of the connection together.
    pub(crate) kernel_slab_per_connection: f64,
    /// CPU time of the broker while all are idle, microseconds a second.
    pub(crate) idle_cpu_us_per_s: f64,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) title: String,
    pub(crate) unit: Unit,
    /// Seconds measured.
    pub(crate) seconds: f64,
    /// Units done in that time.
    pub(crate) done: u64,
    pub(crate) per_second: f64,
    /// CPU time of the broker per unit, user and system; `None` without `--pid`.
    pub(crate) cpu_us_per_unit: Option<f64>,
    pub(crate) broker: Option<Spent>,
    /// CPU time of the generator over the time measured: at 1 it was the bottleneck, or polled.
    pub(crate) generator_busy: f64,
    /// The part of that which is the generator's own code and not the kernel's.
    pub(crate) generator_user_share: f64,
    pub(crate) memory: Option<Memory>,
    pub(crate) idle: Option<IdleMemory>,
    pub(crate) latency: Option<Latency>,
    /// From PUBLISH to PUBACK or PUBCOMP.
    pub(crate) ack_latency: Option<Latency>,
    /// Over the whole run, warm-up included.
    pub(crate) faults: Faults,
    /// True if payloads were long enough to prove order and single delivery, not only the count.
    pub(crate) order_proved: bool,
    /// What a reader should know of this run.
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// The run in one line.
    pub(crate) fn line(&self) -> String {
        let mut line = format!("{}: ", self.title);
        let unit = match self.unit {
            Unit::Message => "msg",
            Unit::Acknowledgement => "ack",
            Unit::Connection => "conn",
            Unit::IdleClient => "client",
        };
        if let Some(idle) = &self.idle {
            add(
                &mut line,
                format_args!("{} clients, {:.0} B user each", self.done, idle.user_per_client),
            );
            add(&mut line, format_args!(" ({:.0} after churn)", idle.user_per_client_after_churn));
            add(&mut line, format_args!(", kernel slab {:.0} B", idle.kernel_slab_per_connection));
            add(&mut line, format_args!(", idle cpu {:.0} us/s", idle.idle_cpu_us_per_s));
        } else {
            add(&mut line, format_args!("{:.0} {unit}/s", self.per_second));
        }
        if let (Some(cpu), Some(broker)) = (self.cpu_us_per_unit, &self.broker) {
            let user = cpu * broker.user_share;
            let system = cpu - user;
            add(&mut line, format_args!(", cpu {cpu:.3} us/{unit} ({user:.3} + {system:.3})"));
            let switches = broker.voluntary_switches + broker.involuntary_switches;
            let each = switches as f64 / self.done.max(1) as f64;
            add(&mut line, format_args!(", {each:.3} switches/{unit}"));
        }
        if let Some(latency) = &self.latency {
            let Latency { p50_us, p95_us, p99_us, max_us, .. } = latency;
            add(&mut line, format_args!(", p50 {p50_us:.1} p95 {p95_us:.1}"));
            add(&mut line, format_args!(" p99 {p99_us:.1} max {max_us:.0} us"));
        }
        if let Some(latency) = &self.ack_latency {
            let Latency { p50_us, p99_us, max_us, .. } = latency;
            add(&mut line, format_args!(", acknowledged p50 {p50_us:.1} p99 {p99_us:.1}"));
            add(&mut line, format_args!(" max {max_us:.0} us"));
        }
        let (busy, user) = (self.generator_busy * 100.0, self.generator_user_share * 100.0);
        add(&mut line, format_args!(", generator {busy:.0} % ({user:.0} % of it its own)"));
        line.push_str(&self.verdict());
        for note in &self.notes {
            add(&mut line, format_args!("; {note}"));
        }
        line
    }

    fn verdict(&self) -> String {
        if !matches!(self.unit, Unit::Message | Unit::Acknowledgement) {
            return String::new();
        }
        if self.faults.none() {
            let verdict = match self.unit {
                Unit::Acknowledgement => "; all acknowledged",
                _ if self.order_proved => "; all in order",
                _ => "; none lost",
            };
            return verdict.to_owned();
        }
        format!("; FAULTS: {}", self.faults.text())
    }
}

fn add(line: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = line.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            title: "pairs".to_owned(),
            unit: Unit::Message,
            seconds: 2.0,
            done: 1000,
            per_second: 500.0,
            cpu_us_per_unit: Some(2.0),
            broker: Some(Spent { user_share: 0.25, ..Spent::default() }),
            generator_busy: 0.5,
            generator_user_share: 0.5,
            memory: None,
            idle: None,
            latency: None,
            ack_latency: None,
            faults: Faults::default(),
            order_proved: true,
            notes: vec!["window 20".to_owned()],
        }
    }

    #[test]
    fn the_line_holds_what_counts() {
        let line = report().line();
        assert!(line.starts_with("pairs: 500 msg/s, cpu 2.000 us/msg (0.500 + 1.500)"), "{line}");
        assert!(line.ends_with("; all in order; window 20"), "{line}");
        let faults = Faults { lost: 3, ..Faults::default() };
        let line = Report { faults, ..report() }.line();
        assert!(line.contains("FAULTS: 3 lost, 0 twice"), "{line}");
    }

    #[test]
    fn json_has_stable_names() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["unit"], "message");
        assert_eq!(json["cpu_us_per_unit"], 2.0);
        assert_eq!(json["faults"]["lost"], 0);
    }

    #[test]
    fn latency_is_in_microseconds() {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000, 3).unwrap();
        assert!(Latency::of(&histogram, true).is_none());
        histogram.saturating_record(20_000);
        let latency = Latency::of(&histogram, true).unwrap();
        assert!((latency.p50_us - 20.0).abs() < 0.1 && latency.samples == 1);
    }
}
