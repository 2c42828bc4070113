//! What a comparison leaves behind: a table for people and JSON for the record.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::rows::{Bar, Figure, Row};
use crate::bench::record::{Spread, short, write};
use crate::failure::Failure;
use crate::procfs::Host;
use crate::report::Report;

/// One run of one side.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) side: &'static str,
    pub(crate) round: u32,
    pub(crate) report: Report,
}

/// A row with all its runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) row: Row,
    pub(crate) runs: Vec<Run>,
    /// Why runs are missing.
    pub(crate) errors: Vec<String>,
    pub(crate) results: Vec<Outcome>,
}

/// What a figure came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    figure: &'static str,
    /// Over the rounds.
    #[serde(flatten)]
    spread: Option<Spread>,
    held: Option<bool>,
}

impl Measured {
    /// Works the figures out.
    pub(crate) fn conclude(&mut self, rounds: u32) {
        let outcome = |figure: &Figure| {
            let in_round = |round| {
                figure.of(|side| {
                    let mut runs = self.runs.iter();
                    runs.find(|run| run.round == round && run.side == side).map(|run| &run.report)
                })
            };
            let spread = Spread::of((0..rounds).filter_map(in_round).collect());
            let held = spread.map(|spread| figure.bar.held(spread.median));
            Outcome { figure: figure.name, spread, held }
        };
        self.results = self.row.figures.iter().map(outcome).collect();
    }

    fn lines(&self, table: &mut String) {
        let busy = self.runs.iter().map(|run| run.report.generator_busy).fold(0.0, f64::max);
        let faulty = self.runs.iter().any(|run| !run.report.faults.none());
        // Latency is then that of the queue, and CPU that of another rate.
        let bent = |note: &String| note.starts_with("BEHIND") || note.starts_with("STALLED");
        let behind = self.runs.iter().any(|run| run.report.notes.iter().any(bent));
        for (figure, outcome) in self.row.figures.iter().zip(&self.results) {
            let bar = match figure.bar {
                Bar::AtMost(bar) => format!("<= {}", short(bar)),
                Bar::AtLeast(bar) => format!(">= {}", short(bar)),
                Bar::Open => "-".to_owned(),
            };
            let value = outcome.spread.map_or("-".to_owned(), |s| short(s.median));
            let remark = match outcome.held {
                None => "not measured",
                Some(false) => "NOT HELD",
                Some(true) => "",
            };
            let _ = writeln!(
                table,
                "{:<26} {:<20} {:>9} {:>9} {:>19} {:>9.0} % {remark}{}{}",
                self.row.id,
                figure.name,
                bar,
                value,
                outcome.spread.map_or(String::new(), Spread::range),
                busy * 100.0,
                if faulty { " FAULTS" } else { "" },
                if behind { " BEHIND" } else { "" },
            );
        }
        for error in &self.errors {
            let _ = writeln!(table, "{:<26} {error}", self.row.id);
        }
    }
}

/// A whole comparison.
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
    /// The broker's own words.
    pub(crate) version: String,
    pub(crate) remark: Option<String>,
    pub(crate) rows: Vec<Measured>,
}

impl Record {
    /// One line per figure, under a head.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{:<26} {:<20} {:>9} {:>9} {:>19} {:>11}\n",
            "row", "figure", "bar", "median", "(min .. max)", "generator"
        );
        self.rows.iter().for_each(|row| row.lines(&mut table));
        table
    }

    /// Writes it as JSON under `directory` and says where.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(&self, directory: &Path) -> Result<PathBuf, Failure> {
        let time = self.time.replace([':', '-'], "");
        write(self, &directory.join(format!("{time}-{}-transports.json", self.commit)))
    }
}
