//! `ringtide-perf compare`: two results files beside each other, and which differences are more
//! than the runs of one file differ among themselves.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use argh::FromArgs;
use serde_json::Value;

use crate::bench::broker::say;
use crate::bench::record::short;
use crate::failure::Failure;

/// From so many values on the middle half of them is the noise, else all of them.
const MANY: usize = 8;

/// Compare two results files of `bench` or of `run`.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "compare")]
pub(crate) struct Compare {
    /// the results before
    #[argh(positional)]
    before: PathBuf,
    /// the results after
    #[argh(positional)]
    after: PathBuf,
}

/// One figure of a file, with each value that it had.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    values: Vec<f64>,
    more_is_better: bool,
}

/// The figures of a file by name, and what they depend on.
#[derive(Debug)]
struct Results {
    figures: BTreeMap<String, Figure>,
    /// Host, scenario, scale: with another one a comparison says little.
    circumstances: BTreeMap<&'static str, String>,
}

/// The middle of some values, and where they are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

/// What a difference amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    /// The two spreads meet.
    Noise,
    Better,
    Worse,
    /// One value on a side: its noise is not known.
    Unknown,
}

/// Prints the comparison.
///
/// # Errors
/// If a file cannot be read or holds no such results.
pub(crate) fn compare(options: &Compare) -> Result<(), Failure> {
    let (before, after) = (load(&options.before)?, load(&options.after)?);
    say(&table(&before, &after))
}

fn load(path: &Path) -> Result<Results, Failure> {
    let wrong = |text: String| Failure::Option(format!("{}: {text}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let figures = if let Some(readings) = value["readings"].as_array() {
        of_run(&value, readings)
    } else if let Some(rows) = value["rows"].as_array().filter(|_| value["ours"].is_object()) {
        of_bench(rows)
    } else {
        return Err(wrong("these are no results of `bench` or `run`".to_owned()));
    };
    let circumstances = [
        ("kernel", value["host"]["kernel"].to_string()),
        ("processor", value["host"]["cpu"].to_string()),
        ("processors", value["host"]["cpus"].to_string()),
        ("congestion control", value["congestion_control"].to_string()),
        ("scenario", value["scenario"].to_string()),
        ("scale", value["scale"].to_string()),
    ];
    Ok(Results { figures, circumstances: circumstances.into_iter().collect() })
}

/// Each row's figures, one value a round.
fn of_bench(rows: &[Value]) -> BTreeMap<String, Figure> {
    let kinds: [(&str, &[&str]); 4] = [
        ("cpu us", &["cpu_us_per_unit"]),
        ("p99 us", &["latency", "p99_us"]),
        ("p99 us of acknowledgements", &["ack_latency", "p99_us"]),
        ("user B", &["idle", "user_per_client"]),
    ];
    let mut figures = BTreeMap::new();
    for row in rows {
        let runs = row["ours"].as_array().map_or(&[][..], Vec::as_slice);
        for (name, path) in kinds {
            // At the highest rate a latency is only the length of the queue.
            let counts = |run: &&Value| path.len() == 1 || run[path[0]]["at_fixed_rate"] != false;
            let value = |run: &Value| path.iter().fold(run, |at, key| &at[*key]).as_f64();
            let values: Vec<f64> = runs.iter().filter(counts).filter_map(value).collect();
            if !values.is_empty() {
                let id = row["row"]["id"].as_str().unwrap_or_default();
                let figure = Figure { values, more_is_better: false };
                figures.insert(format!("{id} {name}"), figure);
            }
        }
    }
    figures
}

/// The readings of a run's last stage, one value a second, and what each sampler found in all.
fn of_run(value: &Value, readings: &[Value]) -> BTreeMap<String, Figure> {
    let mut figures = BTreeMap::new();
    let last = readings.iter().filter_map(|reading| reading["stage"].as_u64()).max();
    let held: Vec<&Value> = readings.iter().filter(|r| r["stage"].as_u64() == last).collect();
    let kinds = [
        ("delivered a second", "delivered_per_s", true),
        ("p50 ms, by second", "p50_ms", false),
        ("p99 ms, by second", "p99_ms", false),
        ("broker CPU %", "broker_cpu_percent", false),
    ];
    for (name, key, more_is_better) in kinds {
        let values: Vec<f64> = held.iter().filter_map(|reading| reading[key].as_f64()).collect();
        if !values.is_empty() {
            figures.insert(name.to_owned(), Figure { values, more_is_better });
        }
    }
    let mut one = |name: String, value: &Value| {
        if let Some(value) = value.as_f64() {
            figures.insert(name, Figure { values: vec![value], more_is_better: false });
        }
    };
    one("bytes per connection".to_owned(), &value["peak"]["bytes_per_connection"]);
    for sampler in value["samplers"].as_array().map_or(&[][..], Vec::as_slice) {
        let name = sampler["name"].as_str().unwrap_or_default();
        one(format!("{name} mean ms"), &sampler["mean_ms"]);
        one(format!("{name} p99 ms"), &sampler["p99_ms"]);
    }
    figures
}

impl Figure {
    fn spread(&self) -> Spread {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        let (low, high) =
            if values.len() >= MANY { (at(0.25), at(0.75)) } else { (at(0.0), at(1.0)) };
        let middle = values.len() / 2;
        let even = values.len().is_multiple_of(2);
        let median =
            if even { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] };
        Spread { median, low, high }
    }

    fn judge(&self, after: &Figure) -> Judgement {
        if self.values.len() < 2 || after.values.len() < 2 {
            return Judgement::Unknown;
        }
        let (before, now) = (self.spread(), after.spread());
        if before.low <= now.high && now.low <= before.high {
            Judgement::Noise
        } else if (now.median > before.median) == self.more_is_better {
            Judgement::Better
        } else {
            Judgement::Worse
        }
    }
}

fn table(before: &Results, after: &Results) -> String {
    let mut text = String::new();
    for (name, value) in &before.circumstances {
        let other = &after.circumstances[name];
        if value != other {
            let _ = writeln!(text, "note: {name} differs: {value} and {other}");
        }
    }
    let head = ["figure", "before", "(spread)", "after", "(spread)", "change"];
    let _ = writeln!(
        text,
        "{:<44} {:>9} {:>19} {:>9} {:>19} {:>9}",
        head[0], head[1], head[2], head[3], head[4], head[5]
    );
    for (name, figure) in &before.figures {
        let Some(other) = after.figures.get(name) else {
            let _ = writeln!(text, "{name:<44} only before");
            continue;
        };
        let (was, is) = (figure.spread(), other.spread());
        let change = if was.median == 0.0 { 0.0 } else { (is.median / was.median - 1.0) * 100.0 };
        let range = |spread: Spread| format!("({} .. {})", short(spread.low), short(spread.high));
        let judgement = match figure.judge(other) {
            Judgement::Noise => "within noise",
            Judgement::Better => "better",
            Judgement::Worse => "WORSE",
            Judgement::Unknown => "noise not known",
        };
        let _ = writeln!(
            text,
            "{name:<44} {:>9} {:>19} {:>9} {:>19} {change:>+7.1} % {judgement}",
            short(was.median),
            range(was),
            short(is.median),
            range(is)
        );
    }
    for name in after.figures.keys().filter(|name| !before.figures.contains_key(*name)) {
        let _ = writeln!(text, "{name:<44} only after");
    }
    text.push_str(
        "Two files are two hours: a machine that others use wanders by 10 % and more between them. \
         Before\nbelieving a difference measure both in one run (bench --against).\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(values: &[f64], more_is_better: bool) -> Figure {
        Figure { values: values.to_vec(), more_is_better }
    }

    #[test]
    fn what_lies_within_the_runs_of_one_side_is_noise() {
        let before = figure(&[10.0, 11.0, 12.0], false);
        assert_eq!(before.judge(&figure(&[11.5, 13.0, 14.0], false)), Judgement::Noise);
        assert_eq!(before.judge(&figure(&[12.5, 13.0, 14.0], false)), Judgement::Worse);
        assert_eq!(before.judge(&figure(&[9.0, 8.0], false)), Judgement::Better);
        assert_eq!(before.judge(&figure(&[9.0], false)), Judgement::Unknown);
        let rate = figure(&[100.0, 101.0], true);
        assert_eq!(rate.judge(&figure(&[120.0, 130.0], true)), Judgement::Better);
    }

    #[test]
    fn of_many_values_the_middle_half_counts() {
        let values: Vec<f64> = (0..100).map(f64::from).chain([1e9]).collect();
        let spread = figure(&values, false).spread();
        assert_eq!(spread, Spread { median: 50.0, low: 25.0, high: 75.0 });
        assert_eq!(figure(&[1.0, 2.0, 9.0, 3.0], false).spread().median, 2.5);
    }

    #[test]
    fn recorded_benches_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        let before = load(&folder.join("20261121T102211Z-a609bbb.json")).unwrap();
        let after = folder.join("20261121T191043Z-6852812-against-eebfbbe.json");
        let text = table(&before, &load(&after).unwrap());
        assert!(text.contains("q1-n1000-w16-256 cpu us"), "{text}");
        assert!(text.contains("only before"), "{text}");
        let durable = load(&folder.join("20261121T192638Z-0908c64-durable.json"));
        assert!(matches!(durable, Err(Failure::Option(text)) if text.contains("no results of")));
    }
}
