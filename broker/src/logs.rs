//! Logs: text or JSON on standard error, with a level that can be changed while running.
//!
//! No line is written per message or per drop: those have counters.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Format, Level, Log};

/// Changes the level of the running program's logs.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<LevelFilter, Registry>);

impl LogLevel {
    /// Lines less important than `level` are no longer written.
    pub fn set(&self, level: Level) {
        // Fails only when the subscriber is gone, at the very end of the program.
        let _ = self.0.reload(filter(level));
    }
}

/// Starts logging. Only the first call of a process has an effect.
pub fn init(log: Log) -> LogLevel {
    let (level, handle) = reload::Layer::new(filter(log.level));
    let registry = tracing_subscriber::registry().with(level);
    // A second subscriber (tests that start the broker twice) is refused; the first one stays.
    let _ = match log.format {
        Format::Text => {
            let ansi = io::stderr().is_terminal();
            let lines = fmt::layer().with_writer(io::stderr).with_ansi(ansi).with_target(false);
            registry.with(lines).try_init()
        }
        Format::Json => {
            let lines = fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            registry.with(lines.with_current_span(false).with_span_list(false)).try_init()
        }
    };
    LogLevel(handle)
}

fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_as_their_names_say() {
        assert!(filter(Level::Error) < filter(Level::Warn));
        assert!(filter(Level::Info) < filter(Level::Debug));
        assert_eq!(filter(Level::default()), LevelFilter::INFO);
    }
}
