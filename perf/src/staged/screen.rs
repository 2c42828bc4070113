//! What is said while a run goes on: a bar that is drawn over on a terminal, else a line now and
//! then; and one line at the end of each stage. One of several processes says its readings to the
//! one that started it instead.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::meter::Reading;
use super::parts::{self, Line};
use crate::sequence::Faults;

/// Between two lines where there is no terminal.
const QUIET: Duration = Duration::from_secs(10);
const BAR: usize = 20;

/// Standard output.
#[derive(Debug)]
pub(crate) struct Screen {
    /// Readings go to the process that started this one.
    part: bool,
    terminal: bool,
    stages: usize,
    said: Instant,
}

impl Screen {
    /// For a run of so many stages.
    pub(crate) fn new(stages: usize) -> Screen {
        let terminal = std::io::stdout().is_terminal();
        Screen { part: false, terminal, stages, said: Instant::now() }
    }

    /// For one of several processes.
    pub(crate) fn of_part(stages: usize) -> Screen {
        Screen { part: true, terminal: false, stages, said: Instant::now() }
    }

    /// How far a stage is: its time, and how many of its connections were made.
    pub(crate) fn show(
        &mut self,
        name: &str,
        number: usize,
        time_s: f64,
        seconds: f64,
        made: (u64, u64),
        reading: &Reading,
    ) {
        if self.part {
            return parts::tell(&Line::Reading(*reading));
        }
        if !self.terminal && self.said.elapsed() < QUIET {
            return;
        }
        self.said = Instant::now();
        // The slower of its two parts says how far it is.
        let share = |part: f64, whole: f64| if whole > 0.0 { (part / whole).min(1.0) } else { 1.0 };
        let done = share(time_s, seconds).min(share(made.0 as f64, made.1 as f64));
        let line = format!("{} {}", bar(done), line(name, number, self.stages, time_s, reading));
        let written = match self.terminal {
            true => write!(std::io::stdout(), "\r\x1b[K{line}"),
            false => writeln!(std::io::stdout(), "{line}"),
        };
        // A closed output does not end a run: its results are written to files.
        let _ = written.and_then(|()| std::io::stdout().flush());
    }

    /// A stage has ended.
    pub(crate) fn end_stage(
        &mut self,
        name: &str,
        number: usize,
        time_s: f64,
        reading: &Reading,
        failed: u64,
        faults: Faults,
    ) {
        if self.part {
            return;
        }
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let mut text = line(name, number, self.stages, time_s, reading);
        if failed > 0 {
            text.push_str(&format!(", {failed} connects failed"));
        }
        if !faults.none() {
            text.push_str(&format!(", FAULTS: {}", faults.text()));
        }
        self.said = Instant::now();
        let _ = writeln!(std::io::stdout(), "{clear}{text}");
    }
}

fn bar(done: f64) -> String {
    let full = (done * BAR as f64) as usize;
    format!("[{}{}] {:>3.0} %", "#".repeat(full), ".".repeat(BAR - full), done * 100.0)
}

/// A reading in words.
fn line(name: &str, number: usize, stages: usize, time_s: f64, reading: &Reading) -> String {
    let mut text = format!(
        "stage {}/{stages} {name}: {time_s:.0} s, {} connections (+{:.0}/s), {:.0} msg/s sent, \
         {:.0} delivered",
        number + 1,
        reading.connections,
        reading.connects_per_s,
        reading.sent_per_s,
        reading.delivered_per_s
    );
    if let Some((p50, p99)) = reading.p50_ms.zip(reading.p99_ms) {
        text.push_str(&format!(", p50 {p50:.2} p99 {p99:.2} ms"));
    }
    if let Some(cpu) = reading.broker_cpu_percent {
        text.push_str(&format!(", broker {cpu:.0} % CPU"));
    }
    if let Some(bytes) = reading.broker_bytes {
        text.push_str(&format!(" {:.0} MiB", bytes as f64 / f64::from(1 << 20)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known() {
        let reading = Reading { connections: 5, sent_per_s: 10.4, ..Reading::default() };
        let text = line("ramp", 0, 3, 2.2, &reading);
        assert_eq!(text, "stage 1/3 ramp: 2 s, 5 connections (+0/s), 10 msg/s sent, 0 delivered");
        let reading = Reading {
            p50_ms: Some(0.5),
            p99_ms: Some(2.0),
            broker_cpu_percent: Some(50.0),
            broker_bytes: Some(3 << 20),
            ..reading
        };
        let text = line("ramp", 0, 3, 2.2, &reading);
        assert!(text.ends_with(", p50 0.50 p99 2.00 ms, broker 50 % CPU 3 MiB"), "{text}");
    }

    #[test]
    fn the_bar_is_full_at_the_end() {
        assert_eq!(bar(0.0), "[....................]   0 %");
        assert_eq!(bar(1.0), "[####################] 100 %");
    }
}
