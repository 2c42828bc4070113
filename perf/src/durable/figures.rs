//! What the durable rows leave behind: figures with their bars, a table over all brokers, and JSON
//! for the record.

use std::fmt::Write as _;

use serde::Serialize;

use crate::bench::record::{Side, Spread, short};
use crate::durable::device::SyncTime;
use crate::procfs::Host;
use crate::report::Report;

/// What a figure is held to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bar) => format!(">= {}", short(bar)),
            Self::AtMost(bar) => format!("<= {}", short(bar)),
        }
    }
}

/// One figure of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// With its unit.
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) bar: Option<Bar>,
}

impl Figure {
    pub(crate) fn new(name: &'static str, value: f64, bar: Option<Bar>) -> Figure {
        Figure { name, value, bar }
    }
}

/// What a run of a row came to.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Outcome {
    pub(crate) figures: Vec<Figure>,
    /// The generator's report, where there is one.
    pub(crate) report: Option<Report>,
    /// What a reader should know of this run.
    pub(crate) notes: Vec<String>,
    /// Messages were lost, doubled, out of order, or refused.
    pub(crate) faulty: bool,
}

impl Outcome {
    /// The run in one line.
    pub(crate) fn line(&self) -> String {
        let figure = |figure: &Figure| format!("{} {}", figure.name, short(figure.value));
        let mut parts: Vec<String> = self.figures.iter().map(figure).collect();
        if self.faulty {
            parts.push("FAULTS".to_owned());
        }
        parts.extend(self.notes.iter().cloned());
        parts.join("; ")
    }
}

/// One run of one row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) row: &'static str,
    /// The broker, by its place in [`Record::brokers`].
    pub(crate) broker: usize,
    /// Or why there is none.
    pub(crate) outcome: Result<Outcome, String>,
}

/// A broker that was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Party {
    pub(crate) side: Side,
    /// Its name in the table.
    pub(crate) name: String,
    /// What it promises of an acknowledged message.
    pub(crate) promise: &'static str,
}

/// A whole run of the command.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    /// UTC, as `2026-11-21T08:15:00Z`.
    pub(crate) time: String,
    /// The commit of the working tree, with `+` if it has changes.
    pub(crate) commit: String,
    pub(crate) command: String,
    pub(crate) host: Host,
    pub(crate) congestion_control: String,
    /// The file system type of the data.
    pub(crate) file_system: String,
    /// The bare device before the first row.
    pub(crate) sync_time: SyncTime,
    /// Ringtide's.
    pub(crate) durability: String,
    /// What the reader should know of this record.
    pub(crate) remark: Option<String>,
    /// The first is the one under test.
    pub(crate) brokers: Vec<Party>,
    pub(crate) runs: Vec<Run>,
}

impl Record {
    /// One line per figure with a column per broker, then what each broker promises.
    pub(crate) fn table(&self) -> String {
        let mut table = format!("{:<15} {:<25} {:>10}", "row", "figure", "bar");
        for party in &self.brokers {
            let _ = write!(table, " {:>14}", party.name);
        }
        table.push('\n');
        for (row, name) in self.lines() {
            self.line(&mut table, row, name);
        }
        let runs = self.runs.iter();
        for (run, error) in runs.filter_map(|run| Some((run, run.outcome.as_ref().err()?))) {
            let name = &self.brokers[run.broker].name;
            let _ = writeln!(table, "{:<15} {name}: not measured: {error}", run.row);
        }
        for Party { name, promise, .. } in &self.brokers {
            let _ = writeln!(table, "{name}: PUBACK promises: {promise}");
        }
        let SyncTime { p50_us, p99_us, .. } = self.sync_time;
        let (sync, system) = (format!("{p50_us:.0} us, p99 {p99_us:.0} us"), &self.file_system);
        let _ = writeln!(table, "the device: 4096 bytes and fdatasync p50 {sync} ({system})");
        if let Some(remark) = &self.remark {
            let _ = writeln!(table, "note: {remark}");
        }
        table
    }

    /// Rows and names of the figures, in the order in which they came.
    fn lines(&self) -> Vec<(&'static str, &'static str)> {
        let mut lines = Vec::new();
        for run in &self.runs {
            let Ok(outcome) = &run.outcome else { continue };
            for figure in &outcome.figures {
                if !lines.contains(&(run.row, figure.name)) {
                    lines.push((run.row, figure.name));
                }
            }
        }
        lines
    }

    fn outcomes(&self, broker: usize, row: &str) -> impl Iterator<Item = &Outcome> {
        let runs = self.runs.iter().filter(move |run| run.broker == broker && run.row == row);
        runs.filter_map(|run| run.outcome.as_ref().ok())
    }

    /// A figure of a broker: the median of its runs, and the bar of the last.
    fn figure(&self, broker: usize, row: &str, name: &str) -> Option<(f64, Option<Bar>)> {
        let outcomes = self.outcomes(broker, row);
        let figures: Vec<&Figure> =
            outcomes.flat_map(|outcome| &outcome.figures).filter(|f| f.name == name).collect();
        let spread = Spread::of(figures.iter().map(|figure| figure.value).collect())?;
        Some((spread.median, figures.last()?.bar))
    }

    fn line(&self, table: &mut String, row: &str, name: &str) {
        let ours = self.figure(0, row, name);
        let bar = ours.and_then(|(_, bar)| bar);
        let text = bar.map_or("-".to_owned(), Bar::text);
        let _ = write!(table, "{row:<15} {name:<25} {text:>10}");
        for broker in 0..self.brokers.len() {
            let value = self.figure(broker, row, name).map_or("-".to_owned(), |f| short(f.0));
            let _ = write!(table, " {value:>14}");
        }
        if ours.zip(bar).is_some_and(|((value, _), bar)| !bar.is_met(value)) {
            table.push_str(" misses the bar");
        }
        for (broker, party) in self.brokers.iter().enumerate() {
            if self.outcomes(broker, row).any(|outcome| outcome.faulty) {
                let _ = write!(table, " {} has FAULTS", party.name);
            }
        }
        table.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::peers::Kind;
    use crate::carry::link::Transport;
    use crate::procfs::host;

    fn record() -> Record {
        let party = |name: &str, kind| Party {
            side: Side {
                program: name.into(),
                kind,
                transport: Transport::Tcp,
                version: String::new(),
            },
            name: name.to_owned(),
            promise: "nothing",
        };
        Record {
            time: String::new(),
            commit: "abc".to_owned(),
            command: String::new(),
            host: host(),
            congestion_control: String::new(),
            file_system: "ext4".to_owned(),
            sync_time: SyncTime { p50_us: 120.0, p99_us: 300.0, samples: 10 },
            durability: "sync".to_owned(),
            remark: Some("a busy machine".to_owned()),
            brokers: vec![party("ours", Kind::Ringtide), party("theirs", Kind::Mosquitto)],
            runs: Vec::new(),
        }
    }

    fn run(broker: usize, value: f64, bar: Option<Bar>, faulty: bool) -> Run {
        let figures = vec![Figure::new("acked/s", value, bar)];
        let outcome = Outcome { figures, faulty, ..Outcome::default() };
        Run { row: "publish", broker, outcome: Ok(outcome) }
    }

    #[test]
    fn each_figure_is_a_line_with_every_broker() {
        let mut record = record();
        let bar = Some(Bar::AtLeast(100.0));
        record.runs = vec![
            run(0, 80.0, bar, false),
            run(1, 70.0, None, true),
            run(0, 92.0, bar, false),
            Run { row: "drain", broker: 1, outcome: Err("it ended".to_owned()) },
        ];
        let table = record.table();
        let lines: Vec<&str> = table.lines().collect();
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(words[..6], ["publish", "acked/s", ">=", "100", "86.0", "70.0"]);
        assert_eq!(words[6..].join(" "), "misses the bar theirs has FAULTS");
        assert_eq!(lines[2].split_whitespace().next(), Some("drain"));
        assert!(lines[2].ends_with("theirs: not measured: it ended"));
        assert!(table.contains("theirs: PUBACK promises: nothing\n"));
        assert!(table.contains("p50 120 us, p99 300 us (ext4)\n"));
        assert!(table.ends_with("note: a busy machine\n"));
    }

    #[test]
    fn a_bar_is_met_from_its_side() {
        assert!(Bar::AtLeast(2.0).is_met(2.0) && !Bar::AtLeast(2.0).is_met(1.9));
        assert!(Bar::AtMost(2.0).is_met(2.0) && !Bar::AtMost(2.0).is_met(2.1));
    }

    #[test]
    fn the_line_of_a_run_says_what_it_found() {
        let Ok(mut outcome) = run(0, 81.0, None, true).outcome else { panic!("there is one") };
        outcome.notes.push("receive maximum 20".to_owned());
        assert_eq!(outcome.line(), "acked/s 81.0; FAULTS; receive maximum 20");
    }
}
