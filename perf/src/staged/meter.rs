//! What a run counts while it goes on: samplers, faults, and one reading of everything a second.
//! Pure.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::sequence::Faults;

/// Latencies beyond this are recorded as this.
const LATENCY_MAX_NS: u64 = 600_000_000_000;

fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are constant and valid")
}

/// All that is counted.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) samplers: Vec<Sampler>,
    pub(crate) counts: Counts,
    /// Of all deliveries.
    pub(crate) deliveries: Histogram<u64>,
    /// Of those since the last reading.
    recent: Histogram<u64>,
    pub(crate) readings: Vec<Reading>,
    /// The latencies of each reading, for whoever has to add them to others'.
    pub(crate) kept: Option<Vec<Values>>,
}

/// A histogram's values and how often each was recorded.
pub(crate) type Values = Vec<(u64, u64)>;

/// The values of a histogram.
pub(crate) fn values(histogram: &Histogram<u64>) -> Values {
    let recorded = histogram.iter_recorded();
    recorded.map(|at| (at.value_iterated_to(), at.count_at_value())).collect()
}

/// Adds values to a histogram.
pub(crate) fn add(histogram: &mut Histogram<u64>, values: &Values) {
    for (value, count) in values {
        histogram.saturating_record_n((*value).min(LATENCY_MAX_NS), *count);
    }
}

/// Counters of the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Counts {
    /// Connections that came to their last SUBACK.
    pub(crate) connected: u64,
    /// Those that did not.
    pub(crate) connects_failed: u64,
    /// Connections that the broker closed.
    pub(crate) closed_by_broker: u64,
    /// Connections that ended by themselves, to come again.
    pub(crate) left: u64,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) delivered: u64,
    /// Messages that were due and not sent: their client was not there, or too far behind.
    pub(crate) skipped: u64,
    pub(crate) pings: u64,
}

impl Counts {
    /// Adds those of another process.
    pub(crate) fn add(&mut self, other: &Counts) {
        self.connected += other.connected;
        self.connects_failed += other.connects_failed;
        self.closed_by_broker += other.closed_by_broker;
        self.left += other.left;
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.skipped += other.skipped;
        self.pings += other.pings;
    }
}

/// What is reported under one name.
#[derive(Debug)]
pub(crate) struct Sampler {
    pub(crate) name: String,
    pub(crate) delivers: bool,
    pub(crate) latency: Histogram<u64>,
    pub(crate) faults: Faults,
    /// Messages to be acknowledged, with QoS 0 written; not counted for deliveries.
    pub(crate) asked: u64,
    pub(crate) done: u64,
    /// The longest time without a delivery while publishers published.
    pub(crate) stall_ns: u64,
    /// Since when a delivery is to be expected.
    waits_since_ns: Option<u64>,
}

impl Sampler {
    /// A message was delivered or acknowledged.
    pub(crate) fn record(&mut self, latency_ns: u64, now_ns: u64) {
        self.latency.saturating_record(latency_ns.min(LATENCY_MAX_NS));
        self.done += 1;
        self.look(now_ns);
        if self.waits_since_ns.is_some() {
            self.waits_since_ns = Some(now_ns);
        }
    }

    /// Deliveries are to be expected from now on, or no more.
    pub(crate) fn expect(&mut self, expected: bool, now_ns: u64) {
        self.look(now_ns);
        self.waits_since_ns = match (expected, self.waits_since_ns) {
            (false, _) => None,
            (true, None) => Some(now_ns),
            (true, since) => since,
        };
    }

    /// Takes note of how long nothing has come.
    pub(crate) fn look(&mut self, now_ns: u64) {
        if let Some(since) = self.waits_since_ns {
            self.stall_ns = self.stall_ns.max(now_ns.saturating_sub(since));
        }
    }

    /// The part of what was asked for that was done, in percent.
    pub(crate) fn success_percent(&self) -> f64 {
        let asked = if self.delivers { self.done + self.faults.lost } else { self.asked };
        if asked == 0 { 100.0 } else { self.done as f64 * 100.0 / asked as f64 }
    }
}

/// Everything at one moment, rates since the one before.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Reading {
    /// Seconds since the run began.
    pub(crate) at_s: f64,
    pub(crate) stage: usize,
    pub(crate) connections: u64,
    pub(crate) connects_per_s: f64,
    pub(crate) sent_per_s: f64,
    pub(crate) delivered_per_s: f64,
    /// Of deliveries since the reading before; none without any.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p95_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
    /// Of one processor, in percent: 200 is two of them. None without the broker's process.
    pub(crate) broker_cpu_percent: Option<f64>,
    pub(crate) generator_cpu_percent: f64,
    /// Resident.
    pub(crate) broker_bytes: Option<u64>,
    /// Slab memory of the kernel.
    pub(crate) kernel_bytes: u64,
}

impl Meter {
    pub(crate) fn new(plan: &Plan) -> Meter {
        let sampler = |plan: &super::plan::SamplerPlan| Sampler {
            name: plan.name.clone(),
            delivers: plan.delivers,
            latency: latencies(),
            faults: Faults::default(),
            asked: 0,
            done: 0,
            stall_ns: 0,
            waits_since_ns: None,
        };
        Meter {
            samplers: plan.samplers.iter().map(sampler).collect(),
            counts: Counts::default(),
            deliveries: latencies(),
            recent: latencies(),
            readings: Vec::new(),
            kept: None,
        }
    }

    /// A message has come to a subscriber.
    pub(crate) fn delivered(&mut self, sampler: usize, latency_ns: u64, now_ns: u64) {
        self.counts.delivered += 1;
        self.deliveries.saturating_record(latency_ns.min(LATENCY_MAX_NS));
        self.recent.saturating_record(latency_ns.min(LATENCY_MAX_NS));
        self.samplers[sampler].record(latency_ns, now_ns);
    }

    /// Adds a reading; its latencies are those since the one before.
    pub(crate) fn read(&mut self, mut reading: Reading, now_ns: u64) {
        if let Some(kept) = &mut self.kept {
            kept.push(values(&self.recent));
        }
        if !self.recent.is_empty() {
            let at = |quantile| Some(ms(self.recent.value_at_quantile(quantile)));
            (reading.p50_ms, reading.p95_ms, reading.p99_ms) = (at(0.5), at(0.95), at(0.99));
            reading.max_ms = Some(ms(self.recent.max()));
            self.recent.reset();
        }
        for sampler in &mut self.samplers {
            sampler.look(now_ns);
        }
        self.readings.push(reading);
    }

    /// Adds the latencies of deliveries to those of the next reading.
    pub(crate) fn add_recent(&mut self, values: &Values) {
        add(&mut self.recent, values);
    }

    /// What went wrong with messages, over all samplers.
    pub(crate) fn faults(&self) -> Faults {
        let mut sum = Faults::default();
        self.samplers.iter().for_each(|sampler| sum.add(&sampler.faults));
        sum.disconnected = self.counts.closed_by_broker;
        sum
    }
}

/// Nanoseconds as milliseconds.
pub(crate) fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler() -> Sampler {
        Sampler {
            name: "ListenToAllTopics".to_owned(),
            delivers: true,
            latency: latencies(),
            faults: Faults::default(),
            asked: 0,
            done: 0,
            stall_ns: 0,
            waits_since_ns: None,
        }
    }

    #[test]
    fn a_stall_counts_only_while_something_is_expected() {
        let mut sampler = sampler();
        sampler.look(50);
        sampler.expect(true, 100);
        sampler.record(1, 110);
        sampler.record(1, 150);
        assert_eq!(sampler.stall_ns, 40);
        sampler.look(250);
        assert_eq!(sampler.stall_ns, 100);
        sampler.expect(false, 260);
        sampler.look(10_000);
        sampler.record(1, 20_000);
        assert_eq!((sampler.stall_ns, sampler.done), (110, 3));
    }

    #[test]
    fn success_is_what_came_of_what_was_to_come() {
        let mut sampler = sampler();
        assert_eq!(sampler.success_percent(), 100.0);
        sampler.done = 3;
        sampler.faults.lost = 1;
        assert_eq!(sampler.success_percent(), 75.0);
        sampler.delivers = false;
        sampler.asked = 6;
        assert_eq!(sampler.success_percent(), 50.0);
    }
}
