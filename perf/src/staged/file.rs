//! A scenario file as it is written: groups of clients, stages, bars, and what the source had. What
//! cannot be read is told with its line; what the numbers amount to is judged in `check.rs`. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::carry::link::Transport;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) title: String,
    /// The MQTT level: 4 (3.1.1) or 5.
    pub(crate) mqtt: Spanned<u8>,
    pub(crate) transport: Transport,
    /// 0: no pings are needed.
    pub(crate) keep_alive_s: u16,
    /// Connections begun a second while a stage ramps up.
    pub(crate) connect_per_s: Spanned<f64>,
    /// Addresses to connect from; by default as many as the ports of the host ask for.
    pub(crate) source_addresses: Option<Spanned<u64>>,
    pub(crate) source: Source,
    #[serde(rename = "group")]
    pub(crate) groups: Vec<Group>,
    #[serde(rename = "stage")]
    pub(crate) stages: Vec<Stage>,
    pub(crate) bars: Bars,
}

/// The published test: what it ran on and what it found.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) machines: String,
    /// What a reader should know of it.
    pub(crate) note: Option<String>,
    #[serde(default, rename = "figure")]
    pub(crate) figures: Vec<Figure>,
}

/// One figure of the source.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Figure {
    pub(crate) what: What,
    /// Whose latency it is.
    pub(crate) sampler: Option<String>,
    pub(crate) value: f64,
}

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// Connections held at once.
    Connections,
    /// Connections made a second.
    ConnectRate,
    /// Messages delivered a second, at the most.
    MessageRate,
    /// Of all processors of one node, on average.
    CpuPercent,
    /// Of one node, in GB.
    MemoryGb,
    /// Of one node, over its connections, in bytes.
    BytesPerConnection,
    MeanMs,
    P95Ms,
    P99Ms,
    MaxMs,
    /// Messages acknowledged or delivered, of those sent.
    SuccessPercent,
}

impl What {
    /// Its name for people.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectRate => "connects a second",
            Self::MessageRate => "deliveries a second, peak",
            Self::CpuPercent => "CPU of a node, %",
            Self::MemoryGb => "memory of a node, GB",
            Self::BytesPerConnection => "bytes per connection",
            Self::MeanMs => "mean, ms",
            Self::P95Ms => "p95, ms",
            Self::P99Ms => "p99, ms",
            Self::MaxMs => "max, ms",
            Self::SuccessPercent => "success, %",
        }
    }
}

/// Clients that do the same. `%i` in texts stands for the client's number.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) name: Spanned<String>,
    pub(crate) clients: Spanned<u64>,
    /// The number of the first client; 1 by default.
    #[serde(default = "one")]
    pub(crate) first_number: u64,
    pub(crate) client_id: Spanned<String>,
    pub(crate) user_name: Option<String>,
    pub(crate) password: Option<String>,
    #[serde(default)]
    pub(crate) subscribe: Vec<Subscribe>,
    pub(crate) publish: Option<Publish>,
    /// Each client leaves after a time between these, and comes back at once.
    pub(crate) life_s: Option<Spanned<[f64; 2]>>,
}

fn one() -> u64 {
    1
}

/// One filter of each client of a group.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subscribe {
    pub(crate) filter: Spanned<String>,
    pub(crate) qos: Spanned<u8>,
    /// The groups whose messages match: of the client with the same place in its group if the
    /// filter holds `%i`, else of all clients.
    pub(crate) from: Vec<Spanned<String>>,
    /// What its deliveries are reported as.
    pub(crate) sampler: String,
}

/// What each client of a group publishes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publish {
    pub(crate) topic: Spanned<String>,
    pub(crate) qos: Spanned<u8>,
    pub(crate) payload_bytes: Spanned<usize>,
    /// Seconds between two messages of a client.
    pub(crate) every_s: Option<Spanned<f64>>,
    /// In place of that: as fast as this many undelivered messages of a client allow.
    pub(crate) window: Option<Spanned<u32>>,
    /// What its acknowledgements, with QoS 0 its writes, are reported as.
    pub(crate) sampler: String,
}

/// A part of the run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    pub(crate) name: String,
    /// How long it takes at the least; it goes on until its connections are made.
    pub(crate) seconds: Spanned<f64>,
    /// The share of each group's clients that is connected at its end; groups left out stay as
    /// they are.
    #[serde(default)]
    pub(crate) connect: BTreeMap<Spanned<String>, Spanned<f64>>,
    /// The groups whose connected clients publish.
    #[serde(default)]
    pub(crate) publish: Vec<Spanned<String>>,
}

/// What must hold for the run to have succeeded.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bars {
    /// Clients that could not connect or subscribe, or were closed.
    #[serde(default)]
    pub(crate) failed_clients_max: u64,
    /// Messages lost, doubled, out of order or misrouted.
    #[serde(default)]
    pub(crate) faults_max: u64,
    /// Of all deliveries.
    pub(crate) p95_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    /// The longest time without a delivery of a sampler while its publishers publish, in seconds.
    #[serde(default)]
    pub(crate) stall_s: BTreeMap<String, f64>,
    /// The growth of the broker's memory per connection, where its process is known.
    pub(crate) bytes_per_connection: Option<f64>,
}

/// What is wrong with a scenario, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) line: Option<usize>,
    pub(crate) text: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{line}: {}", self.text),
            None => write!(f, " {}", self.text),
        }
    }
}

/// Finds the lines of a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines<'a>(pub(crate) &'a str);

impl Lines<'_> {
    /// Something is wrong at this place.
    pub(crate) fn wrong(self, span: &Range<usize>, text: String) -> Wrong {
        let before = self.0.get(..span.start).unwrap_or(self.0);
        Wrong { line: Some(before.matches('\n').count() + 1), text }
    }

    /// The same for a value.
    pub(crate) fn at<T>(self, value: &Spanned<T>, text: String) -> Wrong {
        self.wrong(&value.span(), text)
    }
}

/// Reads a file's text.
///
/// # Errors
/// The first thing that is no such file, with its line.
pub(crate) fn parse(text: &str) -> Result<File, Wrong> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let message = error.message().to_owned();
        match error.span() {
            Some(span) => Lines(text).wrong(&span, message),
            None => Wrong { line: None, text: message },
        }
    })
}
