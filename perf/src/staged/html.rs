//! The report as one HTML file that needs nothing else: tables and charts. Pure.

use std::fmt::Write as _;

use super::chart::{Series, chart, escape};
use super::meter::Reading;
use super::outcome::{Outcome, number};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;\
padding:0 1em;color:#222;background:#fff}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}\
table{border-collapse:collapse;width:100%}th,td{padding:.25em .6em;border-bottom:1px solid #ddd;\
text-align:right}th:first-child,td:first-child{text-align:left}.no{color:#b00020;font-weight:600}\
.yes{color:#2c8a4b;font-weight:600}figure{margin:1.5em 0}figcaption{font-weight:600}svg{width:100%;\
height:auto}svg text{font:11px system-ui,sans-serif;fill:#555}svg path{fill:none;stroke-width:1.6}\
.grid{stroke:#e4e4e4}.stage{stroke:#bbb;\
stroke-dasharray:3 3}.legend{margin:.2em 0}.about{color:#555}\
code{font-size:.9em;overflow-wrap:anywhere}";

/// The page of a run.
pub(crate) fn page(outcome: &Outcome) -> String {
    let verdict = match (&outcome.cut_short, outcome.held()) {
        (Some(why), _) => format!("<p class=\"no\">Cut short: {}</p>", escape(why)),
        (None, true) => "<p class=\"yes\">All bars held.</p>".to_owned(),
        (None, false) => "<p class=\"no\">Not all bars held.</p>".to_owned(),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{about}\n{verdict}\n\
         <h2>Bars</h2>\n{bars}\n<h2>Beside the source</h2>\n{beside}\n\
         <h2>Samplers</h2>\n{samplers}\n\
         <h2>Over time</h2>\n{charts}\n<h2>Counts</h2>\n{counts}\n{notes}\n</body></html>\n",
        title = escape(&outcome.title),
        about = about(outcome),
        bars = bars(outcome),
        beside = beside(outcome),
        samplers = samplers(outcome),
        charts = charts(outcome),
        counts = counts(outcome),
        notes = notes(outcome),
    )
}

fn about(outcome: &Outcome) -> String {
    let host = &outcome.host;
    format!(
        "<p class=\"about\">{} at scale {} ({} clients, {:.0} s), {}, commit {}.<br>{}, {} \
         processors, Linux {}.<br><code>{}</code></p>",
        escape(&outcome.broker),
        outcome.scale,
        outcome.clients,
        outcome.seconds,
        escape(&outcome.time),
        escape(&outcome.commit),
        escape(&host.cpu),
        host.cpus,
        escape(&host.kernel),
        escape(&outcome.command)
    )
}

/// A table; cells are HTML already.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = String::from("<table><tr>");
    for cell in head {
        let _ = write!(text, "<th>{cell}</th>");
    }
    text.push_str("</tr>\n");
    for row in rows {
        let _ = writeln!(text, "<tr><td>{}</td></tr>", row.join("</td><td>"));
    }
    text.push_str("</table>");
    text
}

fn known(value: Option<f64>) -> String {
    value.map_or("&ndash;".to_owned(), number)
}

fn bars(outcome: &Outcome) -> String {
    let row = |bar: &super::outcome::Bar| {
        let (class, word) = if bar.held { ("yes", "held") } else { ("no", "not held") };
        let verdict = format!("<span class=\"{class}\">{word}</span>");
        vec![escape(&bar.what), known(bar.found), number(bar.limit), verdict]
    };
    table(&["bar", "found", "limit", ""], outcome.bars.iter().map(row))
}

fn beside(outcome: &Outcome) -> String {
    let row = |beside: &super::outcome::Beside| {
        vec![escape(&beside.what), known(beside.ours), number(beside.source)]
    };
    let source = &outcome.source;
    let note = source.note.as_deref().unwrap_or_default();
    format!(
        "<p class=\"about\">{}, on {}. {}</p>\n{}",
        escape(&source.name),
        escape(&source.machines),
        escape(note),
        table(&["figure", "ours", "source"], outcome.beside.iter().map(row))
    )
}

fn samplers(outcome: &Outcome) -> String {
    let row = |s: &super::outcome::SamplerOutcome| {
        let times = [s.mean_ms, s.p50_ms, s.p95_ms, s.p99_ms, s.max_ms];
        let mut row = vec![escape(&s.name), s.count.to_string()];
        row.push(format!("{:.2} %", s.success_percent));
        row.extend(times.iter().map(|time| format!("{time:.3}")));
        row
    };
    let head = ["sampler", "count", "success", "mean ms", "p50", "p95", "p99", "max"];
    table(&head, outcome.samplers.iter().map(row))
}

fn charts(outcome: &Outcome) -> String {
    let readings = &outcome.readings;
    let line = |name: &'static str, of: fn(&Reading) -> Option<f64>| Series {
        name,
        points: readings.iter().map(|reading| (reading.at_s, of(reading))).collect(),
    };
    let mut stages = Vec::new();
    let mut stage = None;
    let mut before = 0.0;
    for reading in readings {
        if stage != Some(reading.stage) {
            stages.push(before);
            stage = Some(reading.stage);
        }
        before = reading.at_s;
    }
    let mib = f64::from(1 << 20);
    let rate =
        [line("sent", |r| Some(r.sent_per_s)), line("delivered", |r| Some(r.delivered_per_s))];
    let latency = [
        line("p50", |r| r.p50_ms),
        line("p95", |r| r.p95_ms),
        line("p99", |r| r.p99_ms),
        line("max", |r| r.max_ms),
    ];
    let cpu = [
        line("broker", |r| r.broker_cpu_percent),
        line("generator", |r| Some(r.generator_cpu_percent)),
    ];
    let mut memory = [line("broker, resident", |r| r.broker_bytes.map(|bytes| bytes as f64))];
    for point in memory.iter_mut().flat_map(|line| &mut line.points) {
        point.1 = point.1.map(|bytes| bytes / mib);
    }
    let connections = [line("connections", |r| Some(r.connections as f64))];
    let connects = [line("connects", |r| Some(r.connects_per_s))];
    [
        chart("Messages a second", &rate, &stages),
        chart("Latency of deliveries, ms", &latency, &stages),
        chart("CPU, % of one processor", &cpu, &stages),
        chart("Memory, MiB", &memory, &stages),
        chart("Connections", &connections, &stages),
        chart("Connects a second", &connects, &stages),
    ]
    .concat()
}

fn counts(outcome: &Outcome) -> String {
    let counts = &outcome.counts;
    let faults = &outcome.faults;
    let rows = [
        ("connected", counts.connected),
        ("connects failed", counts.connects_failed),
        ("closed by the broker", counts.closed_by_broker),
        ("left to come again", counts.left),
        ("messages sent", counts.sent),
        ("acknowledged", counts.acknowledged),
        ("delivered", counts.delivered),
        ("due, not sent", counts.skipped),
        ("pings", counts.pings),
        ("lost", faults.lost),
        ("twice", faults.duplicates),
        ("out of order", faults.out_of_order),
        ("misrouted", faults.misrouted),
        ("protocol errors", faults.protocol),
    ];
    let rows = rows.iter().map(|(name, count)| vec![(*name).to_owned(), count.to_string()]);
    table(&["count", ""], rows)
}

fn notes(outcome: &Outcome) -> String {
    outcome.notes.iter().map(|note| format!("<p class=\"about\">{}</p>\n", escape(note))).collect()
}
