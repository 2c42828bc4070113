//! Keeps the service manager's watchdog (`WatchdogSec=` of a unit) from ending the broker, as long
//! as every shard goes on with its turns. A shard that hangs lets the pings stop: a ping that came
//! from a thread of its own would say only that this thread lives.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ringtide_ring::Shared;
use tracing::{error, warn};

use crate::control::{Control, Stage};
use crate::notify;

/// The microseconds without a ping after which the service manager ends the broker.
const INTERVAL: &str = "WATCHDOG_USEC";
/// The process that is to ping, if it is named.
const PROCESS: &str = "WATCHDOG_PID";
/// Looks at the shards within the time that the service manager gives.
const LOOKS: u32 = 4;

/// Starts the thread that pings, if the service manager waits for pings of this process.
pub(crate) fn start(turns: Arc<Shared>, control: Arc<Control>) {
    let variable = |name| std::env::var(name).ok();
    let Some(limit) = limit(variable(INTERVAL), variable(PROCESS), std::process::id()) else {
        return;
    };
    let watch = move || watch(&turns, &control, limit);
    if let Err(error) = thread::Builder::new().name("watchdog".to_owned()).spawn(watch) {
        warn!("no thread for the service manager's watchdog ({error}): it will end the broker");
    }
}

/// The time without a ping after which the broker would be ended.
fn limit(interval: Option<String>, process: Option<String>, own: u32) -> Option<Duration> {
    if process.is_some_and(|process| process.parse() != Ok(own)) {
        return None;
    }
    let micros = interval?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros))
}

/// Pings until the broker ends.
fn watch(turns: &Shared, control: &Control, limit: Duration) {
    let mut pulse = Pulse::new(turns);
    let mut pinged = Instant::now();
    let mut complained = false;
    while control.stage() == Stage::Running {
        // A shard with nothing to do sleeps up to a second, which may be longer than the limit.
        control.wake_all();
        thread::sleep(limit / LOOKS);
        let still = pulse.still(turns);
        if still.is_empty() {
            notify::alive();
            pulse = Pulse::new(turns);
            pinged = Instant::now();
            complained = false;
        } else if !complained && pinged.elapsed() > limit / 2 {
            complained = true;
            error!(
                "shards {still:?} have not turned for {:.1} s: the service manager is told nothing \
                 and ends the broker after {:.1} s",
                pinged.elapsed().as_secs_f64(),
                limit.as_secs_f64()
            );
        }
    }
}

/// How far each shard was with its turns at one moment.
struct Pulse(Vec<u64>);

impl Pulse {
    fn new(turns: &Shared) -> Pulse {
        Pulse((0..turns.shards()).map(|shard| turns.turn(shard)).collect())
    }

    /// The shards that have done nothing since.
    fn still(&self, turns: &Shared) -> Vec<u16> {
        (0..turns.shards())
            .zip(&self.0)
            .filter(|(s, was)| turns.turn(*s) == **was)
            .map(|(s, _)| s)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_hangs_is_named_inside_and_outside_of_a_turn() {
        let turns = Shared::new(3);
        turns.begin_turn(2);
        let pulse = Pulse::new(&turns);
        assert_eq!(pulse.still(&turns), [0, 1, 2]);
        turns.begin_turn(0);
        turns.end_turn(1);
        assert_eq!(pulse.still(&turns), [1, 2]);
        turns.begin_turn(1);
        turns.end_turn(2);
        assert!(pulse.still(&turns).is_empty());
        assert_eq!(Pulse::new(&turns).still(&turns), [0, 1, 2]);
    }

    #[test]
    fn only_the_process_that_is_meant_pings() {
        let text = |text: &str| Some(text.to_owned());
        let second = Some(Duration::from_secs(1));
        assert_eq!(limit(text("1000000"), None, 7), second);
        assert_eq!(limit(text("1000000"), text("7"), 7), second);
        assert_eq!(limit(text("1000000"), text("8"), 7), None);
        assert_eq!(limit(None, text("7"), 7), None);
        assert_eq!(limit(text("0"), None, 7), None);
        assert_eq!(limit(text("soon"), None, 7), None);
    }
}
