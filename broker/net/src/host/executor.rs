//! Shards hosted by glommio executors.
//!
//! The shard's loop is the executor's root future, but it parks in the shard's own ring, never in
//! glommio's. No shard depends on what the executor does. If it carries guests, such as slow
//! tasks of an embedder, the shard's ring polls the descriptors of glommio's rings, and only when
//! one of them has something does the loop step aside and let the executor work.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use ringtide_driver::{Turn, TurnEnd};

use super::{ShardContext, ShardError, Shards, ended};
use crate::uring::HostWatch;
use crate::uring::probe::ProbeError;
use crate::{memlock, sys};

/// What glommio itself demands of RLIMIT_MEMLOCK before it starts an executor.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// Rings of one executor; the same buffers are registered with each.
const RINGS: u64 = 3;

/// How to set an executor up. The defaults keep eight of them inside the usual 8 MiB of locked
/// memory.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// Entries of each of the executor's three rings.
    pub ring_depth: usize,
    /// Bytes of registered buffers: 64 KiB is the least that glommio takes.
    pub io_memory_bytes: usize,
    /// How often the executor looks at its rings and timers: its tasks' I/O is late by up to this
    /// much. Each look costs about 35 us, also when the shard is idle: 3.6 % of a core at 1 ms,
    /// 0.1 % at 100 ms.
    pub preempt: Duration,
    /// Whether the executor runs tasks beside the shard. Without any the shard's loop never steps
    /// aside. With them a shard can stall for seconds on a host that is short of processors:
    /// glommio then parks the thread in a ring of its own if its preempt timer fired while the
    /// thread was off the processor (seen with glommio 0.9.0), although the loop is runnable.
    pub guests: bool,
}

impl Default for ExecutorOptions {
    fn default() -> ExecutorOptions {
        ExecutorOptions {
            ring_depth: 16,
            io_memory_bytes: 64 * 1024,
            preempt: Duration::from_millis(100),
            guests: false,
        }
    }
}

/// Runs one shard per builder, each as the root future of a glommio executor that is pinned to
/// `cpus` in turn (unbound if the list is empty). The executors start one after another: each is
/// built before the next begins.
///
/// # Errors
/// A thread or an executor could not be started, or a shard could not be built; the shards
/// before it keep running.
pub fn run_on_glommio<F, T>(
    cpus: &[usize],
    options: &ExecutorOptions,
    builders: Vec<F>,
) -> Result<Shards, ShardError>
where
    F: FnOnce(ShardContext) -> Result<T, ShardError> + Send + 'static,
    T: Turn + 'static,
{
    check_memlock(options, builders.len() as u64)?;
    let shards = builders.len() as u16;
    let options = options.clone();
    Shards::start(cpus, builders, move |build: F, shard, cpu, line| {
        let (executor, fds) = executor(cpu, &options)?;
        // Without guests glommio's rings are not even watched: nothing is awaited there.
        let fds = if options.guests { fds } else { Vec::new() };
        let watch = HostWatch { fds, ..HostWatch::default() };
        let context = ShardContext { shard, shards, cpu, watch: watch.clone() };
        executor.run(async {
            let mut turns = build(context)?;
            line.built();
            turn_by_turn(&mut turns, &watch).await;
            ended(&turns)
        })
    })
}

/// The loop. Between two turns it lets glommio work, if glommio has something to do.
async fn turn_by_turn(turns: &mut impl Turn, watch: &HostWatch) {
    while turns.turn() == TurnEnd::Again {
        if watch.ready.replace(false) {
            StepAside { stepped: false }.await;
        }
    }
}

/// Lets the executor run its other tasks, and look at its rings if its preempt timer is due.
///
/// The loop stays runnable meanwhile, so glommio never parks the thread in a ring of its own,
/// where a shard's work could not wake it. What becomes ready in glommio's other rings waits for
/// the preempt timer, which glommio arms anew each time that it looks.
struct StepAside {
    stepped: bool,
}

impl Future for StepAside {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.stepped, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// An executor on this thread, and the descriptors of its rings.
fn executor(
    cpu: Option<usize>,
    options: &ExecutorOptions,
) -> Result<(LocalExecutor, Vec<RawFd>), ShardError> {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let before = ring_fds()?;
    let executor = LocalExecutorBuilder::new(placement)
        .ring_depth(options.ring_depth)
        .io_memory(options.io_memory_bytes)
        .preempt_timer(options.preempt)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make()
        .map_err(|error| format!("glommio cannot start an executor: {error}"))?;
    let fds = ring_fds()?.difference(&before).copied().collect();
    Ok((executor, fds))
}

/// Every io_uring of this process.
fn ring_fds() -> io::Result<BTreeSet<RawFd>> {
    let mut fds = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // A descriptor may be closed between the listing and the reading.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if target.as_os_str() == "anon_inode:[io_uring]" {
            fds.extend(entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
        }
    }
    Ok(fds)
}

/// Says in time if the executors' share of locked memory is not to be had.
fn check_memlock(options: &ExecutorOptions, shards: u64) -> Result<(), ShardError> {
    let limit = sys::memlock_limit()?;
    if limit < MEMLOCK_BYTES_MIN {
        // Glommio asks for this whoever it runs for.
        return Err(ProbeError::Memlock { limit, needed: MEMLOCK_BYTES_MIN }.into());
    }
    let depth = options.ring_depth as u64;
    let each = memlock::ring_bytes(depth, 2 * depth) + options.io_memory_bytes as u64;
    Ok(memlock::check(RINGS * each * shards)?)
}
