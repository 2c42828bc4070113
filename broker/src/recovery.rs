//! From the data directory to running shards: every shard's log is replayed, side by side; what
//! one log says of the others is settled; another number of shards than last time is dealt out
//! anew.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use ringtide_shard::message::{digest_of, forget_position, origin_of, topic_of};
use ringtide_storage::log::{LogConfig, Opened, Sync};
use ringtide_storage::record::VoidRecord;
use ringtide_storage::state::{Parts, State};
use ringtide_storage::{Log, RecordKind, Store};
use tracing::{error, info};

use crate::config::{Config, Durability};
use crate::datadir::DataDir;
use crate::exit::Failure;
use crate::replay::{self, Replayed, in_parallel};

/// One shard's log and what it says.
pub(crate) struct Recovered {
    /// The log, to be gone on with.
    pub(crate) log: Log,
    /// What it amounts to.
    pub(crate) parts: Parts,
}

/// What all shards go on with.
pub(crate) struct Recovery {
    /// Owned for as long as the broker runs.
    pub(crate) dir: DataDir,
    /// Shard by shard.
    pub(crate) shards: Vec<Recovered>,
    /// What was found damaged, in all logs.
    pub(crate) damage: DamageFound,
}

/// How much was found damaged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DamageFound {
    /// Records that had been durable and are lost.
    pub(crate) lost_records: u64,
    /// Files that were set aside.
    pub(crate) files: u64,
}

/// Opens the data directory and replays every log; `None` if nothing is kept.
///
/// # Errors
/// When the directory or a log cannot be used.
pub(crate) fn recover(config: &Config, shards: u16) -> Result<Option<Recovery>, Failure> {
    if config.durability == Durability::Memory {
        return Ok(None);
    }
    let started = Instant::now();
    let mut dir = DataDir::open(&config.data_dir, shards)?;
    dir.seed_topics();
    let mut damage = DamageFound::default();
    if dir.manifest.shards != shards {
        redistribute(config, &mut dir, shards, &mut damage)?;
    }
    let dealt = Instant::now();
    let found = in_parallel(shards, |shard| {
        let mut state = State::new(shard, topic_of);
        state.leave_above(config.store.waiting_memory_bytes_max, digest_of);
        let config = log_config(config, &dir, dir.manifest.generation, shard);
        replay::watched(state, shard, |replay, watch| Log::open_watched(config, replay, watch))
    });
    let replayed = Instant::now();
    let mut logs = Vec::new();
    let mut states = Vec::new();
    let mut last = Vec::new();
    let (mut records, mut bytes) = (0, 0);
    for (shard, one) in found.into_iter().enumerate() {
        let ((log, opened), mut state) = one.map_err(|error| unusable(&dir, shard, &error))?;
        for (lsn, place) in state.needed() {
            let body = log.read_now(place).map_err(|error| unusable(&dir, shard, &error))?;
            state.bring(lsn, &body);
        }
        tell(shard, &opened, &mut damage);
        records += opened.records;
        bytes += opened.bytes;
        last.push(opened.last);
        logs.push(log);
        states.push(state);
    }
    let void = State::settle(&mut states, &last, origin_of);
    for (shard, (log, messages)) in logs.iter_mut().zip(void).enumerate() {
        record_void(log, messages).map_err(|text| {
            let path = dir.log_dir(dir.manifest.generation, shard as u16);
            Failure::host(format!("{}: {text}", path.display()))
        })?;
    }
    let sessions: usize = states.iter().map(State::sessions).sum();
    let pending: usize = states.iter().map(State::pending).sum();
    let settled = Instant::now();
    let parts = State::into_aligned_parts(states);
    let retained: usize = parts.iter().map(|parts| parts.retained.len()).sum();
    let both = logs.into_iter().zip(parts);
    let shards = both.map(|(log, parts)| Recovered { log, parts }).collect();
    let millis = |from: Instant, to: Instant| (to - from).as_millis() as u64;
    let ready = Instant::now();
    info!(
        records,
        bytes,
        deal_ms = millis(started, dealt),
        replay_ms = millis(dealt, replayed),
        settle_ms = millis(replayed, settled),
        sort_ms = millis(settled, ready),
        "store: {sessions} sessions, {retained} retained messages, {pending} messages on their \
         way, read in {} ms",
        millis(started, ready)
    );
    Ok(Some(Recovery { dir, shards, damage }))
}

/// Records, to the disk, that messages are void which the log still has. Later it could not be
/// told: by then their origin has used their positions, and their places in the order, for others.
fn record_void(log: &mut Log, messages: Vec<(u16, u64)>) -> Result<(), String> {
    if messages.is_empty() {
        return Ok(());
    }
    let mut body = Vec::new();
    VoidRecord { messages }.encode(&mut body);
    log.append(RecordKind::Void, &[&body]);
    log.end_turn();
    drain(log, 0)
}

fn tell(shard: usize, opened: &Opened, found: &mut DamageFound) {
    if let Some(damage) = &opened.damaged {
        let lost = damage.lost.iter().map(|(first, last)| last.0 - first.0 + 1);
        found.lost_records += lost.sum::<u64>();
        found.files += damage.segments.len() as u64;
        error!(
            shard,
            "the log is damaged: records {:?} are lost; the damaged segments {:?} were set aside \
             as *.corrupt-<time>, what is intact is served",
            damage.lost,
            damage.segments
        );
    }
    if opened.cut_batches > 0 {
        info!(shard, "{} batches that a crash cut off were left out", opened.cut_batches);
    }
}

fn unusable(dir: &DataDir, shard: usize, error: &dyn std::fmt::Display) -> Failure {
    let path = dir.log_dir(dir.manifest.generation, shard as u16);
    Failure::host(format!("{}: {error}", path.display()))
}

/// How a shard's log is kept.
pub(crate) fn log_config(config: &Config, dir: &DataDir, generation: u64, shard: u16) -> LogConfig {
    let mut log = LogConfig::new(dir.log_dir(generation, shard), shard);
    log.segment_bytes = config.store.segment_bytes;
    log.reserve_bytes = config.store.checkpoint_bytes;
    log.sync = match config.durability {
        Durability::Sync => Sync::EachBatch,
        Durability::Os | Durability::Memory => Sync::Os,
    };
    if config.store.disk_bytes_max > 0 {
        log.capacity_bytes = config.store.disk_bytes_max;
    }
    log
}

/// Deals everything out to another number of shards: new logs beside the old ones, which count
/// until the new ones are whole.
fn redistribute(
    config: &Config,
    dir: &mut DataDir,
    shards: u16,
    damage: &mut DamageFound,
) -> Result<(), Failure> {
    let old = dir.manifest.shards;
    info!("store: {old} shards last time, {shards} now: everything is dealt out anew");
    let failed = |error: io::Error| {
        Failure::host(format!("data directory {}: {error}", config.data_dir.display()))
    };
    let Replayed { states, opened } = replay::replay(dir)?;
    for (shard, opened) in opened.iter().enumerate() {
        if let Some(opened) = opened {
            tell(shard, opened, damage);
        }
    }
    let states = replay::deal_out(states, dir.partition_key(), shards);
    let generation = dir.next_generation().map_err(failed)?;
    for (shard, state) in states.iter().enumerate() {
        let path = dir.log_dir(generation, shard as u16);
        fs::create_dir_all(&path).map_err(failed)?;
        write_log(log_config(config, dir, generation, shard as u16), state)
            .map_err(|text| Failure::host(format!("{}: {text}", path.display())))?;
    }
    dir.switch_to(generation, shards).map_err(failed)
}

/// Writes a state into an empty log, to the disk.
fn write_log(mut config: LogConfig, state: &State) -> Result<(), String> {
    config.sync = Sync::EachBatch;
    let (mut log, _) =
        Log::open(config, &mut |_, _, _| Ok(())).map_err(|error| error.to_string())?;
    let mut wrong = None;
    state.write_checkpoint(&mut |kind, parts| {
        match (kind, parts) {
            (RecordKind::Checkpoint, [head, message]) => {
                let mut message = message.to_vec();
                forget_position(&mut message);
                log.append(kind, &[head, &message]);
            }
            _ => {
                log.append(kind, parts);
            }
        }
        log.end_turn();
        wrong = wrong.take().or_else(|| drain(&mut log, MANY_BYTES).err());
    });
    match wrong {
        Some(text) => Err(text),
        None => drain(&mut log, 0),
    }
}

/// Bytes that may wait while a checkpoint is written offline.
pub(crate) const MANY_BYTES: u64 = 4 << 20;

/// Writes on this thread until at most so many bytes wait.
pub(crate) fn drain(log: &mut Log, bytes: u64) -> Result<(), String> {
    while log.waiting_bytes() > bytes || (bytes == 0 && log.durable() < log.appended()) {
        if let Some(failure) = log.failed().or_else(|| log.shortage()) {
            return Err(failure.to_string());
        }
        log.end_turn();
        if !log.write_now() {
            // The next segment is being made.
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}
