//! Who runs a shard: a glommio executor on a pinned thread, or the thread alone.
//!
//! Owns the threads and their start. A shard is a [`Turn`] that is built on its own thread by a closure, so
//! neither the shard nor its driver need be `Send`.

#[cfg(feature = "glommio")]
mod executor;

use std::error::Error;
use std::io;
use std::thread::{Builder, JoinHandle};

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
    pub(crate) threads: Vec<JoinHandle<Result<(), ShardError>>>,
}

impl Shards {
    /// Waits until every shard has ended.
    ///
    /// # Errors
    /// The error of the first shard that could not be built, or that panicked.
    pub fn join(self) -> Result<(), ShardError> {
        let mut first = Ok(());
        for thread in self.threads {
            let result = thread.join().unwrap_or_else(|_| Err("a shard panicked".into()));
            first = first.and(result);
        }
        first
    }
}

/// The cpu of a shard: the list is used round and round, so there may be more shards than cpus.
pub(crate) fn cpu_of(shard: usize, cpus: &[usize]) -> Option<usize> {
    (!cpus.is_empty()).then(|| cpus[shard % cpus.len()])
}

/// Runs one shard per builder, each on a thread of its own, pinned to `cpus` in turn (not pinned
/// if the list is empty).
///
/// # Errors
/// A thread could not be started.
pub fn run_on_threads<F, T>(cpus: &[usize], builders: Vec<F>) -> io::Result<Shards>
where
    F: FnOnce(ShardContext) -> Result<T, ShardError> + Send + 'static,
    T: Turn,
{
    let shards = builders.len() as u16;
    let mut threads = Vec::with_capacity(builders.len());
    for (number, build) in builders.into_iter().enumerate() {
        let cpu = cpu_of(number, cpus);
        let shard = number as u16;
        let thread = Builder::new().name(format!("shard-{shard}")).spawn(move || {
            if let Some(cpu) = cpu {
                sys::pin_thread(cpu)?;
            }
            let watch = HostWatch::default();
            let mut turns = build(ShardContext { shard, shards, cpu, watch })?;
            while turns.turn() == TurnEnd::Again {}
            Ok(())
        })?;
        threads.push(thread);
    }
    Ok(Shards { threads })
}
