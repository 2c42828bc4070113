//! Kills at every system call of the store in turn: as it is about to write, sync, rename, remove
//! or make something for the N-th time. What one such call has done and the next has not is thus
//! tried for each of them. Two restarts follow each kill, then the audit.
//!
//! N counts the calls of each thread. Under load only the store's own threads make such calls; at a
//! start the program's first thread makes most, and hides the first few of the others, which are
//! the same calls as under load. The batches of the log are no system calls where they go through
//! io_uring: to be killed at one of them the broker runs with epoll, which makes them with
//! `pwritev2`. Kills at random moments strike those of io_uring (`stage.rs`), and the store's own
//! tests drop and tear them on a simulated disk.

use std::fmt;
use std::time::Duration;

use super::stage::{Stage, variable};
use super::tracer::Call;
use crate::common::PATIENCE;

/// Segments of two pieces of zeros, and a checkpoint several times a second.
const PIECES: &str = "segment_bytes = 1572864\ncheckpoint_bytes = 131072\n";
/// The smallest segments, many of which come and go; nothing that waits stays in memory.
const TINY: &str = "\
segment_bytes = 65536
checkpoint_bytes = 65536
waiting_memory_bytes_max = 0
";
/// The longest time under load until the call.
const LOAD: Duration = Duration::from_secs(3);
/// The time from a start's end until no call of it is expected any more.
const AFTER_START: Duration = Duration::from_millis(300);
/// Shards, one after the other; another number than last time deals the store out anew.
const SHARDS: [u32; 3] = [2, 2, 3];
/// What no start takes but one that is killed.
const OTHER_SHARDS: u32 = 1;
/// The calls with which the store, and whoever keeps its directory, changes files.
const CALLS: [&str; 9] =
    ["pwrite64", LOG_WRITE, "fdatasync", "fsync", "rename", "unlink", "unlinkat", "mkdir", "write"];
/// What a batch of the log is written with by the epoll driver.
const LOG_WRITE: &str = "pwritev2";

/// What the broker is doing when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// It starts on a directory that it has to make.
    FirstStart,
    /// It starts on a directory with content.
    Start,
    /// The same with another number of shards: the store is dealt out anew.
    Redeal,
    Load,
    /// It was told to end, under load.
    Shutdown,
}

/// One kill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strike {
    moment: Moment,
    call: Call,
    /// The call is certain to come.
    must: bool,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.moment, self.call)
    }
}

impl Strike {
    pub(crate) fn is_first_start(self) -> bool {
        self.moment == Moment::FirstStart
    }

    pub(crate) fn must_strike(self) -> bool {
        self.must
    }
}

/// The kills: each list is done until a call does not come.
pub(crate) fn walks() -> Vec<Vec<Strike>> {
    use Moment::{FirstStart, Load, Redeal, Shutdown, Start};
    let moments = [FirstStart, Start, Redeal, Load, Shutdown];
    let Some(most) = variable::<u32>("RINGTIDE_CRASH_CALLS") else { return short() };
    let only = std::env::var("RINGTIDE_CRASH_AT").unwrap_or_default();
    let is_meant = |name: &&str| only.is_empty() || only.split(',').any(|one| one.trim() == *name);
    let walk = |moment, name| {
        let strike = move |number| Strike { moment, call: Call { name, number }, must: false };
        (1..=most).map(strike).collect()
    };
    let calls = CALLS.into_iter().filter(is_meant);
    calls.flat_map(|name| moments.map(|moment| walk(moment, name))).collect()
}

/// A few of each moment.
fn short() -> Vec<Vec<Strike>> {
    let all = [
        (Moment::FirstStart, true, "rename", [1].as_slice()),
        (Moment::FirstStart, true, "fdatasync", &[1]),
        (Moment::Start, true, "fsync", &[1]),
        // Only of a start that soon needs a second segment.
        (Moment::Start, false, "fsync", &[2]),
        (Moment::Redeal, true, "rename", &[1]),
        (Moment::Redeal, true, "unlinkat", &[2]),
        (Moment::Load, false, "pwrite64", &[1, 2]),
        (Moment::Load, false, LOG_WRITE, &[20]),
        (Moment::Load, false, "fdatasync", &[2, 3]),
        (Moment::Load, false, "rename", &[2]),
        (Moment::Load, false, "fsync", &[1]),
        (Moment::Load, false, "unlink", &[1]),
        (Moment::Shutdown, false, "fdatasync", &[1]),
        (Moment::Shutdown, false, LOG_WRITE, &[2]),
    ];
    let walk = |(moment, must, name, numbers): (_, _, _, &[u32])| {
        let strike = |&number| Strike { moment, call: Call { name, number }, must };
        numbers.iter().map(strike).collect()
    };
    all.into_iter().map(walk).collect()
}

/// Starts the broker and sets up the clients.
pub(crate) fn begin(stage: &mut Stage) {
    stage.process.configure("", PIECES);
    stage.process.start(SHARDS[0]);
    stage.set_up();
}

/// One kill of a broker that runs, on what all before it left; true if the call came.
pub(crate) fn round(stage: &mut Stage, strike: Strike) -> bool {
    let driver = if strike.call.name == LOG_WRITE { "driver = \"epoll\"" } else { "" };
    let store = if strike.call.number.is_multiple_of(2) { TINY } else { PIECES };
    stage.process.configure(driver, store);
    let struck = match strike.moment {
        Moment::FirstStart | Moment::Start | Moment::Redeal => {
            // Some of the starts have much to send again.
            stage.set_floods(strike.call.number.is_multiple_of(3));
            stage.load(|process| {
                std::thread::sleep(Duration::from_millis(150));
                process.kill();
            });
            stage.set_floods(false);
            stage.kills += 1;
            let shards = if strike.moment == Moment::Redeal { OTHER_SHARDS } else { shards(stage) };
            start_until(stage, shards, strike.call)
        }
        Moment::Load => {
            // This start takes the new configuration.
            stage.process.kill();
            let shards = shards(stage);
            stage.process.start(shards);
            stage.process.kill_at(strike.call);
            stage.load(|process| process.is_struck(LOAD))
        }
        Moment::Shutdown => stage.load(|process| {
            std::thread::sleep(Duration::from_millis(150));
            process.kill_at(strike.call);
            process.terminate();
            process.is_struck(PATIENCE)
        }),
    };
    stage.kills += u32::from(struck);
    start_twice(stage);
    stage.settle();
    struck
}

/// One kill of a broker that makes its directory; true if the call came.
pub(crate) fn kill_first_start(stage: &mut Stage, strike: Strike) -> bool {
    stage.process.configure("", PIECES);
    let struck = start_until(stage, SHARDS[0], strike.call);
    stage.kills += u32::from(struck);
    start_twice(stage);
    stage.set_up();
    stage.load(|process| {
        std::thread::sleep(Duration::from_millis(150));
        process.kill();
    });
    start_twice(stage);
    stage.settle();
    struck
}

/// A start with a kill at a call of it. One that needs no such call runs until it is killed.
fn start_until(stage: &mut Stage, shards: u32, call: Call) -> bool {
    stage.process.spawn_until(shards, call);
    stage.process.is_struck_at_start(AFTER_START)
}

/// Two starts, the first of which is killed as soon as it accepts connections.
fn start_twice(stage: &mut Stage) {
    let first = shards(stage);
    stage.process.start(first);
    stage.process.kill();
    stage.kills += 1;
    let second = shards(stage);
    stage.process.start(second);
}

fn shards(stage: &Stage) -> u32 {
    SHARDS[stage.kills as usize % SHARDS.len()]
}
