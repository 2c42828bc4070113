//! What a bench leaves behind: a table for people and JSON for the record.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::bench::broker::Broker;
use crate::bench::peers::Kind;
use crate::bench::rows::{Metric, Row};
use crate::carry::link::Transport;
use crate::failure::Failure;
use crate::procfs::Host;
use crate::report::Report;

/// One side of the comparison.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Side {
    /// Its name, without the folders of this host.
    pub(crate) program: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) transport: Transport,
    pub(crate) version: String,
}

impl Side {
    pub(crate) fn of(broker: &Broker) -> Side {
        let version = broker.kind.version(&broker.program);
        let program = PathBuf::from(public(&broker.program.to_string_lossy()));
        Side { program, kind: broker.kind, transport: broker.transport, version }
    }
}

/// A row with all its runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) row: Row,
    pub(crate) ours: Vec<Report>,
    pub(crate) other: Vec<Report>,
    /// The null broker: what kernel and generator make possible here.
    pub(crate) relay: Vec<Report>,
    /// Why runs are missing.
    pub(crate) errors: Vec<String>,
}

/// Who ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    Ours,
    Other,
    Relay,
}

impl Party {
    /// Its name on the terminal.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Other => "other",
            Self::Relay => "relay",
        }
    }
}

impl Measured {
    fn runs(&self, party: Party) -> &[Report] {
        match party {
            Party::Ours => &self.ours,
            Party::Other => &self.other,
            Party::Relay => &self.relay,
        }
    }

    /// Adds a run, or why there is none.
    pub(crate) fn add(&mut self, party: Party, result: Result<Report, Failure>) {
        let runs = match party {
            Party::Ours => &mut self.ours,
            Party::Other => &mut self.other,
            Party::Relay => &mut self.relay,
        };
        match result {
            Ok(report) => runs.push(report),
            Err(failure) => self.errors.push(format!("{}: {failure}", party.name())),
        }
    }
}

/// A whole bench.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    /// UTC, as `2026-11-21T08:15:00Z`.
    pub(crate) time: String,
    /// The commit of the working tree, with `+` if it has changes.
    pub(crate) commit: String,
    pub(crate) command: String,
    pub(crate) host: Host,
    /// The kernel's TCP congestion control; it costs the broker CPU.
    pub(crate) congestion_control: String,
    pub(crate) ours: Side,
    pub(crate) other: Option<Side>,
    pub(crate) rows: Vec<Measured>,
}

/// Median, smallest and largest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Some(Self { median, min, max })
    }

    /// The smallest and the largest as text.
    pub(crate) fn range(self) -> String {
        format!("({} .. {})", short(self.min), short(self.max))
    }

    fn less(self, base: f64) -> Self {
        Self { median: self.median - base, min: self.min - base, max: self.max - base }
    }
}

impl Record {
    /// One line per figure, under a head.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{:<22} {:<15} {:>9} {:>9} {:>9} {:>17} {:>9} {:>7}\n",
            "row", "figure", "bar", "relay", "ours", "(min .. max)", "other", "ratio"
        );
        for measured in &self.rows {
            for (metric, bar) in &measured.row.metrics {
                self.line(&mut table, measured, *metric, *bar);
            }
            for error in &measured.errors {
                let _ = writeln!(table, "{:<22} {error}", measured.row.id);
            }
        }
        table
    }

    /// A figure of one party: over one shard, where the row is about more.
    fn figure(&self, measured: &Measured, metric: Metric, party: Party) -> Option<Spread> {
        let figure = spread(measured.runs(party), metric)?;
        if metric != Metric::ExtraCpu {
            return Some(figure);
        }
        let over = measured.row.over.as_ref()?;
        let base = self.rows.iter().find(|other| other.row.id == *over)?;
        Some(figure.less(spread(base.runs(party), metric)?.median))
    }

    fn line(&self, table: &mut String, measured: &Measured, metric: Metric, bar: Option<f64>) {
        let [ours, other, relay] = [Party::Ours, Party::Other, Party::Relay]
            .map(|party| self.figure(measured, metric, party));
        let range = ours.map_or_else(String::new, Spread::range);
        let median = |spread: Option<Spread>| spread.map_or("-".to_owned(), |s| short(s.median));
        let ratio = ours
            .zip(other)
            .map_or("-".to_owned(), |(ours, other)| format!("{:.2}", other.median / ours.median));
        let faulty = |party| measured.runs(party).iter().any(|report| !report.faults.none());
        let above = |limit: Option<f64>| ours.zip(limit).is_some_and(|(o, limit)| o.median > limit);
        let remarks = [
            (ours.is_none(), "not measured"),
            (faulty(Party::Ours), "FAULTS"),
            (above(bar), "above the bar"),
            (above(other.map(|other| other.median)), "worse than the other"),
            (faulty(Party::Other), "the other has FAULTS"),
        ];
        let remarks = remarks.iter().filter(|remark| remark.0).map(|remark| remark.1);
        let _ = writeln!(
            table,
            "{:<22} {:<15} {:>9} {:>9} {:>9} {:>17} {:>9} {:>7} {}",
            measured.row.id,
            metric.label(),
            bar.map_or("-".to_owned(), short),
            median(relay),
            median(ours),
            range,
            median(other),
            ratio,
            remarks.collect::<Vec<_>>().join(", "),
        );
    }

    /// Writes it as JSON under `directory` and says where.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(&self, directory: &Path) -> Result<PathBuf, Failure> {
        let against = self.other.as_ref().map_or(String::new(), |side| {
            let name = side.program.file_name().unwrap_or_default();
            format!("-against-{}", name.to_string_lossy())
        });
        let time = self.time.replace([':', '-'], "");
        write(self, &directory.join(format!("{time}-{}{against}.json", self.commit)))
    }
}

/// Writes a record as JSON, and says where.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write(record: &impl Serialize, path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error| Failure::Io("cannot write the results", error);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let text = serde_json::to_string_pretty(record).map_err(|e| failed(e.into()))?;
    std::fs::write(path, text + "\n").map_err(failed)?;
    Ok(path.to_owned())
}

/// An argument without the folders of this host: of an absolute path only its end stays, unless it
/// lies where systems have their programs.
fn public(argument: &str) -> String {
    let keeps = ["/usr/", "/bin/", "/sbin/", "/opt/"];
    if !argument.starts_with('/') || keeps.iter().any(|folder| argument.starts_with(folder)) {
        return argument.to_owned();
    }
    argument.rsplit('/').next().unwrap_or(argument).to_owned()
}

/// The command of this run.
pub(crate) fn command() -> String {
    std::env::args().map(|argument| public(&argument)).collect::<Vec<_>>().join(" ")
}

/// The TCP congestion control of this host.
pub(crate) fn congestion_control() -> String {
    let control = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    control.unwrap_or_default().trim().to_owned()
}

fn spread(reports: &[Report], metric: Metric) -> Option<Spread> {
    Spread::of(reports.iter().filter_map(|report| metric.of(report)).collect())
}

/// Three digits that count.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The commit of the working tree.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    if changed.is_some_and(|changes| !changes.is_empty()) { commit + "+" } else { commit }
}

/// Now, in UTC.
pub(crate) fn time() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    utc(since.as_secs())
}

/// A time since 1970 as text (days to date after Howard Hinnant).
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
