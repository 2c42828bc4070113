//! Opens a log: recovery, then everything that appending needs. Also the reading of a log that
//! nobody has open.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::OpenError;
use super::faults::FaultDisk;
use super::files::{Directory, Files};
use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, EnvelopeError, Identity, record_kind, segment_name,
    take_record,
};
use super::prepare::{Desk, Job, Preparer, Space};
use super::recover::{Plan, Survey, Walk, plan, survey, sync_served, walk};
use super::store::{Found, Log, Used};
use super::{Damage, LogConfig, Opened, PlacedReplay, Progress, Replay, Watch};
use crate::{Lsn, Place};

impl Log {
    /// Opens the log of a shard, which is made if there is none, and replays what counts in it.
    ///
    /// Runs on the calling thread and blocks until everything is read and the first segment is
    /// ready, or cannot be made ([`Store::is_full`](crate::Store::is_full)). Nothing is ever
    /// written into a segment that was found: the log goes on in new ones.
    ///
    /// # Errors
    /// See [`OpenError`]. Damage is no error: [`Opened::damaged`].
    pub fn open(config: LogConfig, replay: &mut Replay<'_>) -> Result<(Log, Opened), OpenError> {
        Log::open_watched(config, &mut |lsn, kind, body, _| replay(lsn, kind, body), &mut |_| ())
    }

    /// As [`Log::open`], tells where each record can be read again, and tells `watch` how far it
    /// has come, after each batch of records.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_watched(
        mut config: LogConfig,
        replay: &mut PlacedReplay<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(Log, Opened), OpenError> {
        config.round();
        let made = Directory::make(&config.dir);
        let directory = made.map_err(OpenError::io(&config.dir.to_string_lossy()))?;
        let salt = RandomState::new().build_hasher().finish();
        let (preparer, opening) = Opening::run(Arc::new(directory), &config, salt, replay, watch)?;
        let desk = Desk::on_thread(preparer).map_err(OpenError::io("start a thread"))?;
        let (mut log, opened) = opening.into_log(config, desk);
        log.await_segment();
        Ok((log, opened))
    }

    /// Opens a log on a disk in memory. What else is done by a thread is done by [`Log::work`].
    /// `salt` stands for what is otherwise chosen at random.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_on(
        disk: &FaultDisk,
        mut config: LogConfig,
        salt: u64,
        replay: &mut Replay<'_>,
    ) -> Result<(Log, Opened), OpenError> {
        config.round();
        let files = Arc::new(disk.clone());
        let replay = &mut |lsn, kind, body: &[u8], _: Option<Place>| replay(lsn, kind, body);
        let (preparer, opening) = Opening::run(files, &config, salt, replay, &mut |_| ())?;
        Ok(opening.into_log(config, Desk::inline(preparer)))
    }
}

/// Reads the log `log` in `dir` without changing anything; nobody may have it open. Tells `watch`
/// how far it has come, after each batch of records.
///
/// # Errors
/// See [`OpenError`]. Damage is no error: [`Opened::damaged`].
pub fn inspect(
    dir: &Path,
    log: u16,
    replay: &mut Replay<'_>,
    watch: &mut Watch<'_>,
) -> Result<Opened, OpenError> {
    let files = Directory::existing(dir);
    let replay = &mut |lsn, kind, body: &[u8], _: Option<Place>| replay(lsn, kind, body);
    let recovery = recover(&files, log, false, replay, watch)?;
    Ok(recovery.opened())
}

/// As [`inspect`], of a log on a disk in memory.
///
/// # Errors
/// See [`OpenError`].
pub fn inspect_on(
    disk: &FaultDisk,
    log: u16,
    replay: &mut Replay<'_>,
) -> Result<Opened, OpenError> {
    let replay = &mut |lsn, kind, body: &[u8], _: Option<Place>| replay(lsn, kind, body);
    Ok(recover(disk, log, false, replay, &mut |_| ())?.opened())
}

/// What recovery found.
struct Recovery {
    survey: Survey,
    plan: Plan,
    walk: Walk,
    records: u64,
    bytes: u64,
}

impl Recovery {
    fn opened(&self) -> Opened {
        let last = self.walk.next - 1;
        let unreadable = self.walk.contents.iter().map(|content| content.unreadable).sum();
        let is_damaged =
            self.walk.contents.iter().any(|content| content.damaged) || !self.walk.lost.is_empty();
        let lost = self.walk.lost.iter();
        Opened {
            records: self.records,
            bytes: self.bytes,
            start: Lsn(self.plan.start),
            last: Lsn(last),
            segments: self.walk.contents.iter().filter(|content| content.batches > 0).count(),
            file_bytes: self.survey.file_bytes(),
            cut_batches: self.walk.cut_batches,
            damaged: is_damaged.then(|| Damage {
                lost: lost.map(|&(first, last)| (Lsn(first), Lsn(last))).collect(),
                unreadable_blocks: unreadable,
                segments: self.damaged_segments().map(segment_name).collect(),
            }),
        }
    }

    fn damaged_segments(&self) -> impl Iterator<Item = u64> {
        let contents = self.survey.segments.iter().zip(&self.walk.contents);
        contents.filter(|(_, content)| content.damaged).map(|(segment, _)| segment.number)
    }
}

fn recover(
    files: &dyn Files,
    log: u16,
    settle: bool,
    replay: &mut PlacedReplay<'_>,
    watch: &mut Watch<'_>,
) -> Result<Recovery, OpenError> {
    let survey = survey(files, log)?;
    let plan = plan(files, &survey, settle)?;
    let mut progress = Progress { file_bytes: survey.file_bytes(), ..Progress::default() };
    let (mut segment, mut before) = (0, 0);
    let mut visit = |batch: &BatchHeader, body: &[u8], from: u64| {
        let served = replay_batch(batch, body, from, replay)?;
        progress.records += served.0;
        progress.bytes += served.1;
        if batch.segment != segment {
            (segment, before) = (batch.segment, survey.file_bytes_before(batch.segment));
        }
        progress.read_bytes = before + batch.offset + batch.padded_bytes();
        watch(progress);
        Ok(())
    };
    let walk = walk(files, &survey, plan, &mut visit)?;
    let Progress { records, bytes, .. } = progress;
    Ok(Recovery { survey, plan, walk, records, bytes })
}

/// Replays the records of a batch from position `from` on; returns their number and bytes.
fn replay_batch(
    batch: &BatchHeader,
    mut rest: &[u8],
    from: u64,
    replay: &mut PlacedReplay<'_>,
) -> Result<(u64, u64), OpenError> {
    let (mut records, mut bytes) = (0, 0);
    let all_bytes = rest.len();
    let begin = batch.offset + BATCH_HEADER_BYTES as u64;
    let inconsistent = || OpenError::Inconsistent { segment: batch.segment, offset: batch.offset };
    for position in batch.first..=batch.last() {
        let lsn = Lsn(position);
        let before = all_bytes - rest.len();
        let record = take_record(&mut rest).map_err(|error| match error {
            EnvelopeError::Newer(number) => OpenError::UnknownRecord { lsn, number },
            EnvelopeError::Invalid => inconsistent(),
        })?;
        let number = record.kind;
        let kind = record_kind(number).ok_or(OpenError::UnknownRecord { lsn, number })?;
        if position >= from {
            let len = all_bytes - rest.len() - before;
            let place = place_of(batch.segment, begin + before as u64, len as u64);
            replay(lsn, kind, record.body, place).map_err(|error| OpenError::Record {
                lsn,
                kind,
                error,
            })?;
            records += 1;
            bytes += record.body.len() as u64;
        }
    }
    if rest.is_empty() { Ok((records, bytes)) } else { Err(inconsistent()) }
}

/// A record's place, unless its numbers are too large for one.
fn place_of(segment: u64, offset: u64, bytes: u64) -> Option<Place> {
    Some(Place {
        segment: u32::try_from(segment).ok()?,
        offset: u32::try_from(offset).ok()?,
        bytes: u32::try_from(bytes).ok()?,
    })
}

/// A log that was recovered and is about to be written.
pub(super) struct Opening {
    found: Found,
    opened: Opened,
    /// Files that hold no batch.
    empty: Vec<Job>,
}

impl Opening {
    /// Recovers the log in `files` and makes it ready; all but the desk.
    pub(super) fn run(
        files: Arc<dyn Files>,
        config: &LogConfig,
        salt: u64,
        replay: &mut PlacedReplay<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(Preparer, Opening), OpenError> {
        let recovery = recover(&*files, config.log, true, replay, watch)?;
        sync_served(&*files, &recovery.survey, &recovery.walk)
            .map_err(OpenError::io("sync the log"))?;
        set_aside(&*files, &recovery).map_err(OpenError::io("set a damaged segment aside"))?;
        let Recovery { survey, plan, walk, .. } = &recovery;
        let identity = Identity {
            log: config.log,
            epoch: survey.epoch_max() + 1,
            epoch_first: walk.next,
            salt,
        };
        let space = Space {
            segment_bytes: config.segment_bytes,
            capacity_bytes: config.capacity_bytes,
            spares_max: config.spares_max(),
        };
        let preparer = Preparer::new(Arc::clone(&files), identity, space, survey.file_bytes());
        let mut used = Vec::new();
        let mut empty = Vec::new();
        let mut counted = 0;
        for (segment, content) in survey.segments.iter().zip(&walk.contents) {
            let (number, bytes) = (segment.number, segment.bytes);
            let reuse = !content.damaged && !segment.set_aside;
            if content.batches == 0 && !content.damaged {
                empty.push(Job::Free { number, bytes, reuse });
                continue;
            }
            if content.last >= plan.start {
                counted += bytes;
            }
            // What was cut off lies above the last position that counts.
            let last = if content.last < walk.next { content.last } else { walk.next - 1 };
            used.push(Used { number, bytes, last, reuse });
        }
        let opened = recovery.opened();
        let found = Found {
            identity,
            next_number: survey.number_max + 1,
            last: walk.next - 1,
            start: plan.start,
            used,
            checkpoint_bytes: walk.checkpoint_bytes,
            bytes_since: u64::saturating_sub(counted, walk.checkpoint_bytes),
            is_damaged: opened.damaged.is_some(),
            files,
        };
        Ok((preparer, Opening { found, opened, empty }))
    }

    /// The log, once its desk stands.
    pub(super) fn into_log(self, config: LogConfig, mut desk: Desk) -> (Log, Opened) {
        for job in self.empty {
            desk.ask(job);
        }
        (Log::new(config, desk, self.found), self.opened)
    }
}

/// Gives damaged segments a second name, `<name>.corrupt-<unix time in s>`, under which they stay
/// when the log has no need of them any more. Their files are never used again.
fn set_aside(files: &dyn Files, recovery: &Recovery) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let mut any = false;
    for number in recovery.damaged_segments() {
        let known = recovery.survey.segments.iter().find(|segment| segment.number == number);
        if known.is_some_and(|segment| !segment.set_aside) {
            let name = segment_name(number);
            files.link(&name, &format!("{name}.corrupt-{now}"))?;
            any = true;
        }
    }
    if any { files.sync_names() } else { Ok(()) }
}
