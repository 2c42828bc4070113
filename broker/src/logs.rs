//! Logs: text or JSON on standard error, with a level that can be changed while running.
//!
//! No line is written per message or per drop: those have counters.
//!
//! Whoever logs never waits for whoever reads standard error: lines go through a bounded buffer to
//! a thread that writes them. Lines that find no room are dropped and counted, and one line says
//! how many when there is room again. Whoever ends the process calls [`finish`] first.

use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Format, Level, Log};

/// Lines that may wait to be written.
const LINES_MAX: usize = 4096;
/// Bytes that may wait to be written.
const BYTES_MAX: usize = 1 << 20;

/// What has become of the lines. There is one standard error, and so one of these.
static LINES: Lines = Lines {
    waiting: AtomicUsize::new(0),
    waiting_bytes: AtomicUsize::new(0),
    dropped: AtomicUsize::new(0),
};

/// Counts lines on their way from those who log to the thread that writes.
struct Lines {
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    dropped: AtomicUsize,
}

impl Lines {
    /// Takes a line of so many bytes in; false if there is no room for it.
    fn enter(&self, bytes: usize) -> bool {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let bytes_before = self.waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits = before < LINES_MAX && bytes_before + bytes <= BYTES_MAX;
        if !fits {
            self.leave(bytes);
            self.dropped.fetch_add(1, Ordering::AcqRel);
        }
        fits
    }

    fn leave(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether there is room for more than a few lines.
    fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Acquire) <= LINES_MAX / 2
            && self.waiting_bytes.load(Ordering::Acquire) <= BYTES_MAX / 2
    }
}

/// Where those who log put their lines.
#[derive(Clone)]
struct Inlet(NonBlocking);

impl Write for Inlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match LINES.enter(line.len()) {
            true => self.0.write(line),
            false => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Standard error, as the thread that writes has it.
struct Outlet;

impl Write for Outlet {
    /// Takes one whole line. One that cannot be written is gone: nobody could be told of it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(line);
        LINES.leave(line.len());
        if LINES.has_room() {
            let lines = LINES.dropped.swap(0, Ordering::AcqRel);
            if lines > 0 {
                warn!(lines, "lines of the log were dropped: whoever reads it has not kept up");
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until all that was logged is written, but at most so long: the reader may have stalled.
pub fn finish(limit: Duration) {
    let began = Instant::now();
    while LINES.waiting.load(Ordering::Acquire) > 0 && began.elapsed() < limit {
        thread::sleep(Duration::from_millis(1));
    }
}

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

/// Starts logging, once in a process.
///
/// # Panics
/// If there is no thread for it.
pub fn init(log: Log) -> LogLevel {
    let (level, handle) = reload::Layer::new(filter(log.level));
    let registry = tracing_subscriber::registry().with(level);
    let inlet = start_writing();
    let writer = move || inlet.clone();
    // A second subscriber would be refused; the first one stays.
    let _ = match log.format {
        Format::Text => {
            let ansi = io::stderr().is_terminal();
            let lines = fmt::layer().with_writer(writer).with_ansi(ansi).with_target(false);
            registry.with(lines).try_init()
        }
        Format::Json => {
            let lines = fmt::layer().json().flatten_event(true).with_writer(writer);
            registry.with(lines.with_current_span(false).with_span_list(false)).try_init()
        }
    };
    LogLevel(handle)
}

/// Starts the thread that writes to standard error.
fn start_writing() -> Inlet {
    // It never drops a line: not more than these are let in.
    let (lines, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .thread_name("log")
        .finish(Outlet);
    // Its end would wait for a stalled reader and complain on standard output: see `finish`.
    mem::forget(guard);
    Inlet(lines)
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
    fn lines_and_bytes_that_wait_are_bounded() {
        let zero = || AtomicUsize::new(0);
        let lines = Lines { waiting: zero(), waiting_bytes: zero(), dropped: zero() };
        assert!((0..LINES_MAX).all(|_| lines.enter(1)));
        assert!(!lines.enter(1) && !lines.has_room());
        (0..LINES_MAX).for_each(|_| lines.leave(1));
        assert!(lines.has_room() && lines.enter(BYTES_MAX));
        assert!(!lines.enter(1) && !lines.has_room());
        assert_eq!(lines.dropped.load(Ordering::Relaxed), 2);
        lines.leave(BYTES_MAX);
        assert!(lines.has_room() && lines.enter(1));
    }

    #[test]
    fn levels_are_ordered_as_their_names_say() {
        assert!(filter(Level::Error) < filter(Level::Warn));
        assert!(filter(Level::Info) < filter(Level::Debug));
        assert_eq!(filter(Level::default()), LevelFilter::INFO);
    }
}
