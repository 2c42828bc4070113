//! The logs of a data directory at rest: replayed without changing anything, settled with each
//! other, and dealt out to another number of shards.

use std::cell::RefCell;
use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use ringtide_shard::message::{origin_of, topic_of};
use ringtide_shard::partition::PartitionMap;
use ringtide_storage::Lsn;
use ringtide_storage::log::{OpenError, Opened, PlacedReplay, Progress, Watch, inspect};
use ringtide_storage::state::State;
use ringtide_topics::TenantId;
use tracing::info;

use crate::datadir::DataDir;
use crate::exit::Failure;
use crate::offline;

/// Between two lines about a replay that takes long.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What the logs of all shards amount to.
pub(crate) struct Replayed {
    /// Shard by shard, settled with each other.
    pub(crate) states: Vec<State>,
    /// What was found, shard by shard; `None` where there is no log.
    pub(crate) opened: Vec<Option<Opened>>,
}

/// Replays every log, side by side.
///
/// # Errors
/// When a log cannot be used.
pub(crate) fn replay(dir: &DataDir) -> Result<Replayed, Failure> {
    let found = in_parallel(dir.manifest.shards, |shard| {
        let path = dir.log_dir(dir.manifest.generation, shard);
        let unusable = |error: &dyn Display| Failure::host(format!("{}: {error}", path.display()));
        if !path.try_exists().map_err(|error| unusable(&error))? {
            return Ok((State::new(shard, topic_of), None));
        }
        let read = watched(State::new(shard, topic_of), shard, |replay, watch| {
            let replay = &mut |lsn, kind, body: &[u8]| replay(lsn, kind, body, None);
            inspect(&path, shard, replay, watch)
        });
        read.map(|(opened, state)| (state, Some(opened))).map_err(|error| unusable(&error))
    });
    let found = found.into_iter().collect::<Result<Vec<_>, Failure>>()?;
    let (mut states, opened): (Vec<State>, Vec<Option<Opened>>) = found.into_iter().unzip();
    let last = |one: &Option<Opened>| one.as_ref().map_or(Lsn(0), |opened| opened.last);
    let last: Vec<Lsn> = opened.iter().map(last).collect();
    State::settle(&mut states, &last, origin_of);
    Ok(Replayed { states, opened })
}

/// Lets `open` replay a log into a state, and logs how far it has come.
///
/// # Errors
/// What `open` says.
pub(crate) fn watched<T>(
    state: State,
    shard: u16,
    open: impl FnOnce(&mut PlacedReplay<'_>, &mut Watch<'_>) -> Result<T, OpenError>,
) -> Result<(T, State), OpenError> {
    let state = RefCell::new(state);
    let mut told = Instant::now();
    let mut watch = |progress: Progress| {
        if told.elapsed() < TELL_EVERY {
            return;
        }
        told = Instant::now();
        let Progress { records, bytes, read_bytes, file_bytes } = progress;
        let sessions = state.borrow().sessions();
        info!(shard, records, bytes, read_bytes, file_bytes, sessions, "store: replaying the log");
    };
    let mut apply =
        |lsn, kind, body: &[u8], place| state.borrow_mut().apply_at(lsn, kind, body, place);
    let opened = open(&mut apply, &mut watch)?;
    Ok((opened, state.into_inner()))
}

/// Settled states as those of another number of shards. What was on its way between shards is
/// taken over first: nothing is in the new states.
pub(crate) fn deal_out(states: Vec<State>, partition_key: u64, shards: u16) -> Vec<State> {
    let before = PartitionMap::even(partition_key, states.len() as u16);
    let after = PartitionMap::even(partition_key, shards);
    let mut matcher = offline::Matcher::new(&states, &before);
    let home = |tenant: u32, name: &str| after.home(TenantId(tenant), name);
    State::redistribute(states, shards, home, &mut |due| matcher.take_over(due))
}

/// Calls `work` for every shard, each on a thread of its own.
pub(crate) fn in_parallel<T: Send>(shards: u16, work: impl Fn(u16) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..shards).map(|shard| scope.spawn(move || work(shard))).collect();
        // One that panicked must not be left out: the others would take each other's places.
        let join = |thread: thread::ScopedJoinHandle<'_, T>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}
