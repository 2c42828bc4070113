//! Who runs a shard: a glommio executor on a pinned thread, or the thread alone.
//!
//! Owns the threads and their start. A shard is a [`Turn`] that is built on its own thread by a
//! closure, so neither the shard nor its driver need be `Send`. Shards start one after another:
//! each is built before the next begins, so the first that fails is the one that is reported.

#[cfg(feature = "glommio")]
mod executor;

use std::error::Error;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Builder;

use ringtide_driver::{Turn, TurnEnd};

use crate::sys;
use crate::uring::HostWatch;
#[cfg(feature = "glommio")]
pub use executor::{ExecutorOptions, run_on_glommio};

/// What a shard's builder is told.
#[derive(Debug)]
pub struct ShardContext {
    /// The shard's number, from 0.
    pub shard: u16,
    /// How many shards there are.
    pub shards: u16,
    /// The cpu that the thread is pinned to, if it is.
    pub cpu: Option<usize>,
    /// What the shard's driver must watch for the host: give it to `UringDriver::new`.
    pub watch: HostWatch,
}

/// Why a shard could not be built or ended early.
pub type ShardError = Box<dyn Error + Send + Sync>;

/// Shards under way. Dropping it leaves them running.
#[derive(Debug)]
pub struct Shards {
    ends: Receiver<Event>,
    running: usize,
}

/// What a shard's thread tells its starter.
#[derive(Debug)]
enum Event {
    Built,
    Ended(Result<(), ShardError>),
}

/// A thread's line to its starter. One that is dropped by a panic says so.
struct Line {
    events: Sender<Event>,
    ended: bool,
}

impl Line {
    /// The shard is built and begins its turns. The starter may have gone by now: that is its
    /// own affair.
    fn built(&self) {
        let _ = self.events.send(Event::Built);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.events.send(Event::Ended(Err("a shard panicked".into())));
        }
    }
}

impl Shards {
    /// Waits until every shard has ended, or one has failed; the others may then be running yet.
    ///
    /// # Errors
    /// The error of a shard that ended with one, or panicked.
    pub fn join(self) -> Result<(), ShardError> {
        let mut left = self.running;
        while left > 0 {
            match self.ends.recv()? {
                Event::Built => {}
                Event::Ended(result) => {
                    result?;
                    left -= 1;
                }
            }
        }
        Ok(())
    }

    /// Starts one thread per builder, each when the one before has built its shard.
    fn start<F, R>(cpus: &[usize], builders: Vec<F>, run: R) -> Result<Shards, ShardError>
    where
        F: Send + 'static,
        R: Fn(F, u16, Option<usize>, &Line) -> Result<(), ShardError> + Clone + Send + 'static,
    {
        let (sender, ends) = mpsc::channel();
        let mut running = builders.len();
        for (number, build) in builders.into_iter().enumerate() {
            let shard = number as u16;
            let cpu = (!cpus.is_empty()).then(|| cpus[number % cpus.len()]);
            let mut line = Line { events: sender.clone(), ended: false };
            let run = run.clone();
            Builder::new().name(format!("shard-{shard}")).spawn(move || {
                let result = run(build, shard, cpu, &line);
                line.ended = true;
                let _ = line.events.send(Event::Ended(result));
            })?;
            // A shard before this one may have ended already; then this event is of that one, and
            // the next is awaited.
            loop {
                match ends.recv()? {
                    Event::Built => break,
                    Event::Ended(result) => {
                        result?;
                        running -= 1;
                    }
                }
            }
        }
        Ok(Shards { ends, running })
    }
}

/// Runs one shard per builder, each on a thread of its own, pinned to `cpus` in turn (not pinned
/// if the list is empty; there may be more shards than cpus).
///
/// # Errors
/// A thread could not be started, or a shard could not be built; the shards before it keep
/// running.
pub fn run_on_threads<F, T>(cpus: &[usize], builders: Vec<F>) -> io::Result<Shards>
where
    F: FnOnce(ShardContext) -> Result<T, ShardError> + Send + 'static,
    T: Turn,
{
    let shards = builders.len() as u16;
    Shards::start(cpus, builders, move |build: F, shard, cpu, line| {
        if let Some(cpu) = cpu {
            pin(cpu)?;
        }
        let watch = HostWatch::default();
        let mut turns = build(ShardContext { shard, shards, cpu, watch })?;
        line.built();
        while turns.turn() == TurnEnd::Again {}
        ended(&turns)
    })
    .map_err(io::Error::other)
}

/// The result of turns that are done. One that failed must not pass for one that was asked to end:
/// the other shards would go on without it.
fn ended(turns: &impl Turn) -> Result<(), ShardError> {
    turns.failure().map_or(Ok(()), |text| Err(text.into()))
}

fn pin(cpu: usize) -> Result<(), ShardError> {
    let text = |error: io::Error| format!("a shard cannot be pinned to cpu {cpu}: {error}");
    Ok(sys::pin_thread(cpu).map_err(text)?)
}
