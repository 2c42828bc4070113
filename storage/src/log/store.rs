//! The log as a [`Store`]: places batches in segments, keeps account of what is durable and of
//! what a checkpoint has made void. Does no I/O of its own: writes go through the shard's driver,
//! everything else through the [`Desk`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::files::{Files, SegmentFile};
use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, Identity, SEGMENT_HEADER_BYTES, finish_batch, segment_name,
};
use super::gather::Gather;
use super::prepare::{Answer, Desk, Job, Order, Prepared, Room, failure};
use super::read::{Readers, record_at};
use super::{LogConfig, Sync};
use crate::{ENOENT, LogWrite, Lsn, Mark, Place, RecordKind, Store, StoreFailure, Usage};

/// Segments that are ready, or being made, beside the one that is written.
const SEGMENTS_AHEAD: usize = 1;

/// A checkpoint is wanted early when this part of the space, in hundredths, would be taken if all
/// that was appended since the last one lived: then it is known how much does.
const NEAR_PERCENT: u64 = 80;

/// A shard's log. See [the module](crate::log).
///
/// Dropping it waits for its thread, which may be filling a segment.
#[derive(Debug)]
pub struct Log {
    config: LogConfig,
    identity: Identity,
    desk: Desk,
    files: Arc<dyn Files>,
    readers: Readers,
    gather: Gather,
    appended: u64,
    durable: u64,
    /// Up to here everything is on the medium.
    synced: u64,
    /// The highest `durable` of a batch that is on the medium.
    noted: u64,
    flight: Option<Flight>,
    /// The batch that became durable last.
    landed: Landed,
    current: Option<Current>,
    ready: VecDeque<Prepared>,
    /// Sizes of the segments that are being made.
    asked: VecDeque<u64>,
    next_number: u64,
    /// Segments that may hold what counts, oldest first.
    used: Vec<Used>,
    /// Their bytes.
    used_bytes: u64,
    /// What there is for further segments, once that is known.
    room: Option<Room>,
    checkpoint: Checkpoint,
    /// A sync is under way at the desk.
    syncing: bool,
    /// The last position when a second had passed, and for how many seconds it has been so.
    quiet_at: u64,
    quiet_s: u32,
    failed: Option<StoreFailure>,
    short: Option<StoreFailure>,
}

/// The write under way.
#[derive(Debug)]
struct Flight {
    last: u64,
    durable: u64,
    start: u64,
    landed: Landed,
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, Default)]
struct Landed {
    /// Its ordinal, 0 = none.
    batch: u64,
    segment: u64,
    offset: u64,
}

/// The segment that is written.
#[derive(Debug)]
struct Current {
    number: u64,
    bytes: u64,
    offset: u64,
    file: Box<dyn SegmentFile>,
    /// The last position that was written, 0 = none.
    last: u64,
    /// The `durable` of the last batch that was written.
    durable: u64,
}

/// A segment that was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// The last position in it that is not void, 0 = none.
    pub(super) last: u64,
    /// Its file may become another segment: nothing was set aside of it.
    pub(super) reuse: bool,
}

/// Accounts of checkpoints. Bytes are those of [`Gather::bytes`].
#[derive(Debug)]
struct Checkpoint {
    under_way: Option<UnderWay>,
    /// Bytes of the last complete one.
    bytes: u64,
    /// Bytes when the last one was complete.
    complete_at: u64,
    /// Bytes that were appended before this opening and after the last one.
    before: u64,
    /// A new one would get rid of damage.
    wanted: bool,
    /// The start that segments will be freed by, and the last position of the batch that says so.
    pending: Option<(u64, u64)>,
    /// The start by which segments were freed.
    start: u64,
    /// The highest start that a durable batch names.
    named: u64,
}

/// A checkpoint under way, as it was at its begin.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    position: u64,
    bytes: u64,
    /// The most that it may take.
    need: u64,
    /// There was no space for anything else.
    full: bool,
}

/// What an opening hands to [`Log::new`].
#[derive(Debug)]
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) next_number: u64,
    pub(super) last: u64,
    pub(super) start: u64,
    pub(super) used: Vec<Used>,
    pub(super) checkpoint_bytes: u64,
    pub(super) bytes_since: u64,
    pub(super) is_damaged: bool,
    pub(super) files: Arc<dyn Files>,
}

impl Log {
    pub(super) fn new(config: LogConfig, desk: Desk, found: Found) -> Log {
        let mut log = Log {
            config,
            identity: found.identity,
            desk,
            files: found.files,
            readers: Readers::default(),
            gather: Gather::new(found.last, found.start),
            appended: found.last,
            durable: found.last,
            synced: found.last,
            noted: 0,
            flight: None,
            landed: Landed::default(),
            current: None,
            ready: VecDeque::new(),
            asked: VecDeque::new(),
            next_number: found.next_number,
            used_bytes: found.used.iter().map(|used| used.bytes).sum(),
            used: found.used,
            room: None,
            checkpoint: Checkpoint {
                under_way: None,
                bytes: found.checkpoint_bytes,
                complete_at: 0,
                before: found.bytes_since,
                wanted: found.is_damaged,
                pending: Some((found.start, found.last)),
                start: 1,
                named: found.start,
            },
            syncing: false,
            quiet_at: 0,
            quiet_s: 0,
            failed: None,
            short: None,
        };
        log.ask_ahead();
        log
    }

    /// Why no further segment can be made, if so: no space is left, or the capacity is reached.
    /// The log tries again by itself.
    pub fn shortage(&self) -> Option<&StoreFailure> {
        self.short.as_ref()
    }

    /// Bytes of the files of all segments in use, without those kept ready and those free.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// For a log opened by [`Log::open_on`]: does one thing that is otherwise done by a thread;
    /// false if there was nothing to do.
    pub fn work(&mut self) -> bool {
        self.desk.work()
    }

    /// Does the write that [`Store::take_write`] would give, on the calling thread, which blocks.
    /// For programs that have no driver. False if there was nothing to write, or no segment to
    /// write to.
    pub fn write_now(&mut self) -> bool {
        let Some(write) = self.take_write() else { return false };
        let Some(current) = &self.current else { return false };
        let mut result = current.file.write(&write.bytes, write.offset);
        if write.sync {
            result = result.and_then(|()| current.file.sync());
        }
        let errno = result.map_or_else(|error| failure("", &error).errno, |()| 0);
        self.written(write.bytes, errno);
        true
    }

    /// Reads the record at a place on the calling thread, which blocks: its body. For a start, and
    /// programs that have no driver.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written.
    pub fn read_now(&self, place: Place) -> io::Result<Vec<u8>> {
        let file = self.files.open(&segment_name(u64::from(place.segment)))?;
        let mut bytes = vec![0; place.bytes as usize];
        file.read(&mut bytes, u64::from(place.offset))?;
        let record = record_at(&bytes, u64::from(place.offset), place);
        let (_, body) = record.ok_or(io::ErrorKind::InvalidData)?;
        Ok(body.to_vec())
    }

    /// Waits until the segment that was asked for is ready or could not be made.
    pub(super) fn await_segment(&mut self) {
        self.desk.wait();
        self.take_answers();
    }

    /// Takes what the desk has done.
    fn take_answers(&mut self) {
        while let Some(answer) = self.desk.answer() {
            match answer {
                Answer::Ready(prepared) => {
                    self.asked.pop_front();
                    self.short = None;
                    self.ready.push_back(prepared);
                }
                Answer::Short(failure) => self.short = Some(self.located(failure)),
                Answer::Room(room) => self.room = Some(room),
                Answer::Synced { last, durable } => {
                    self.syncing = false;
                    self.synced = self.synced.max(last);
                    self.noted = self.noted.max(durable);
                    self.free_void();
                }
                Answer::Failed(failure) => {
                    let failure = self.located(failure);
                    self.fail(failure);
                }
            }
        }
    }

    fn ask_for(&mut self, bytes: u64) {
        let order = Order {
            number: self.next_number,
            bytes,
            start: self.checkpoint.start,
            durable: self.synced,
        };
        self.next_number += 1;
        self.asked.push_back(bytes);
        self.desk.ask(Job::Prepare(order));
    }

    fn ask_ahead(&mut self) {
        while self.ready.len() + self.asked.len() < SEGMENTS_AHEAD {
            self.ask_for(self.config.segment_bytes);
        }
    }

    /// Makes the current segment one with room for `needed` bytes; false if none is ready.
    fn make_room(&mut self, needed: u64) -> bool {
        let fits = |bytes: u64, offset: u64| bytes - offset >= needed;
        if self.current.as_ref().is_some_and(|current| fits(current.bytes, current.offset)) {
            return true;
        }
        let header = SEGMENT_HEADER_BYTES as u64;
        while let Some(prepared) = self.ready.pop_front() {
            let Prepared { number, bytes, file } = prepared;
            if !fits(bytes, header) {
                // Segments are used in the order of their numbers, so this one cannot wait.
                self.desk.ask(Job::Close(file));
                self.desk.ask(Job::Free { number, bytes, reuse: true });
                continue;
            }
            let current = Current { number, bytes, offset: header, file, last: 0, durable: 0 };
            if let Some(full) = self.current.replace(current) {
                self.retire(full);
            }
            self.used.push(Used { number, bytes, last: 0, reuse: true });
            self.used_bytes += bytes;
            self.ask_ahead();
            return true;
        }
        if !self.asked.iter().any(|&bytes| fits(bytes, header)) {
            self.ask_for(self.config.segment_bytes.max(needed + header));
        }
        false
    }

    /// A segment is full: its file is synced if its batches were not, and closed.
    fn retire(&mut self, full: Current) {
        let Current { file, last, durable, .. } = full;
        self.desk.ask(match self.config.sync {
            Sync::EachBatch => Job::Close(file),
            Sync::Os => Job::Sync { file, last, durable },
        });
    }

    /// A failure that says which log it is of.
    fn located(&self, failure: StoreFailure) -> StoreFailure {
        let StoreFailure { what, errno } = failure;
        StoreFailure { what: format!("{what} in {}", self.config.dir.display()), errno }
    }

    fn fail(&mut self, failure: StoreFailure) {
        self.failed.get_or_insert(failure);
        self.gather.clear();
    }

    /// A batch is durable that names a start: what it makes void is freed, but not before a later
    /// batch on the medium says that this one is there. Then whatever is missing below counts as
    /// freed or damaged, never as a tail that a crash cut off.
    fn free_void(&mut self) {
        let Some((start, last)) = self.checkpoint.pending else { return };
        if self.noted < last.max(1) {
            return;
        }
        self.checkpoint.pending = None;
        self.checkpoint.start = self.checkpoint.start.max(start);
        let current = self.current.as_ref().map(|current| current.number);
        let Log { desk, used_bytes, readers, .. } = self;
        self.used.retain(|used| {
            let stays = used.last >= start || Some(used.number) == current;
            if !stays {
                let Used { number, bytes, reuse, .. } = *used;
                *used_bytes -= bytes;
                readers.forget(number);
                desk.ask(Job::Free { number, bytes, reuse });
            }
            stays
        });
    }

    /// Bytes that further segments may take, those that are ready included.
    fn space_bytes(&self) -> u64 {
        let allowed = self.config.capacity_bytes.saturating_sub(self.used_bytes);
        let Some(Room { disk, spare_bytes }) = self.room else { return allowed };
        let ready: u64 = self.ready.iter().map(|ready| ready.bytes).sum();
        allowed.min(disk.free.saturating_add(spare_bytes).saturating_add(ready))
    }

    /// The same without what waits in memory to be written there.
    fn room_bytes(&self) -> u64 {
        let left = self.current.as_ref().map_or(0, |current| current.bytes - current.offset);
        let waiting = self.gather.waiting_bytes().saturating_sub(left);
        self.space_bytes().saturating_sub(waiting)
    }

    /// True if a checkpoint as large as the last one finds room: one that does not would take the
    /// last of it and win nothing. What came since does not count: in a full store it is what
    /// ended.
    fn has_room_for_checkpoint(&self) -> bool {
        self.spare_room().is_some()
    }

    /// Bytes beside what a checkpoint as large as the last one takes, if that finds room.
    fn spare_room(&self) -> Option<u64> {
        let left = self.current.as_ref().map_or(0, |current| current.bytes - current.offset);
        let left = left.saturating_sub(self.gather.waiting_bytes());
        self.room_bytes().saturating_add(left).checked_sub(self.live_bytes_max(0))
    }

    /// Bytes of files that a checkpoint takes at most: all that the last one wrote and all that was
    /// appended since, with the segments' headers.
    fn live_bytes_max(&self, since: u64) -> u64 {
        let (bytes, segment) = (self.checkpoint.bytes + since, self.config.segment_bytes);
        let used = u128::from(segment - SEGMENT_HEADER_BYTES as u64);
        (u128::from(bytes) * u128::from(segment)).div_ceil(used) as u64
    }

    /// Bytes that were appended since the last checkpoint. A log that has failed forgets them.
    fn bytes_since(&self) -> u64 {
        let Checkpoint { before, complete_at, .. } = &self.checkpoint;
        (before + self.gather.bytes()).saturating_sub(*complete_at)
    }

    /// True if so much was appended that a checkpoint may win space.
    fn checkpoint_pays(&self, since: u64) -> bool {
        since >= self.config.segment_bytes.max(self.checkpoint.bytes / 4)
    }

    /// True if a checkpoint that had to write all again that the last one wrote, and the `since`
    /// bytes that came after it, might not find room any more.
    fn is_scarce(&self, since: u64) -> bool {
        self.room_bytes() < self.live_bytes_max(since) + 2 * self.config.segment_bytes
    }

    /// Hundredths of the space that so many bytes take, which a checkpoint may have to write
    /// again, and two segments.
    fn fill_percent(&self, live: u64) -> u64 {
        let all = self.used_bytes.saturating_add(self.space_bytes()).max(1);
        let needed = 2 * u128::from(live) + 2 * u128::from(self.config.segment_bytes);
        u64::try_from(needed * 100 / u128::from(all)).unwrap_or(u64::MAX)
    }

    /// True if there is no space for anything but a checkpoint, and one would win none or finds no
    /// room itself.
    fn is_used_up(&self) -> bool {
        let since = self.bytes_since();
        let wins = self.checkpoint_pays(since) && self.has_room_for_checkpoint();
        !self.is_settling() && !wins && self.is_scarce(since)
    }

    /// True if a checkpoint is complete whose void segments are not freed yet.
    fn is_settling(&self) -> bool {
        self.gather.start > self.checkpoint.start
    }

    /// Where not every batch is synced: syncs what segments cannot be freed without.
    fn sync_for_freeing(&mut self) {
        let wanted = self.config.sync == Sync::Os
            && self.checkpoint.pending.is_some()
            && !self.syncing
            && self.synced < self.durable;
        let Some(current) = self.current.as_ref().filter(|_| wanted) else { return };
        // Out of descriptors: tried again after the next write.
        if let Ok(file) = current.file.again() {
            let (last, durable) = (current.last, current.durable);
            self.syncing = true;
            self.desk.ask(Job::Sync { file, last, durable });
        }
    }
}

impl Store for Log {
    fn append(&mut self, kind: RecordKind, parts: &[&[u8]]) -> Lsn {
        self.appended += 1;
        if self.failed.is_none() {
            self.gather.append(self.appended, kind, parts);
        }
        Lsn(self.appended)
    }

    fn end_turn(&mut self) {
        self.gather.end_turn();
        self.take_answers();
    }

    fn durable(&self) -> Lsn {
        Lsn(self.durable)
    }

    fn appended(&self) -> Lsn {
        Lsn(self.appended)
    }

    fn is_immediate(&self) -> bool {
        false
    }

    fn keeps(&self) -> bool {
        true
    }

    fn take_write(&mut self) -> Option<LogWrite> {
        if self.flight.is_some() || self.failed.is_some() {
            return None;
        }
        self.take_answers();
        let needed = self.gather.next()?.padded_bytes();
        if !self.make_room(needed) {
            return None;
        }
        let current = self.current.as_mut()?;
        let mut batch = self.gather.take()?;
        let header = BatchHeader {
            identity: self.identity,
            segment: current.number,
            offset: current.offset,
            number: batch.number,
            first: batch.first,
            records: batch.records,
            body_bytes: (batch.buffer.len() - BATCH_HEADER_BYTES) as u32,
            durable: self.synced,
            start: batch.start,
        };
        finish_batch(&mut batch.buffer, &header);
        batch.buffer.resize(needed as usize, 0);
        let last = header.last();
        if let Some(used) = self.used.last_mut() {
            used.last = last;
        }
        let offset = current.offset;
        current.offset += needed;
        current.last = last;
        current.durable = header.durable;
        let landed = Landed { batch: batch.number, segment: current.number, offset };
        self.flight = Some(Flight { last, durable: header.durable, start: header.start, landed });
        Some(LogWrite {
            file: current.file.descriptor(),
            offset,
            bytes: batch.buffer,
            sync: self.config.sync == Sync::EachBatch,
        })
    }

    fn written(&mut self, bytes: Vec<u8>, errno: i32) {
        self.gather.reuse(bytes);
        let Some(flight) = self.flight.take() else { return };
        if errno != 0 {
            let segment = self.current.as_ref().map_or(0, |current| current.number);
            let what = format!("write and sync of {}", segment_name(segment));
            let failure = self.located(StoreFailure { what, errno });
            return self.fail(failure);
        }
        if self.failed.is_some() {
            return;
        }
        self.durable = flight.last;
        self.landed = flight.landed;
        if flight.start > self.checkpoint.named {
            self.checkpoint.named = flight.start;
            self.checkpoint.pending = Some((flight.start, flight.last));
        }
        match self.config.sync {
            Sync::EachBatch => {
                self.synced = flight.last;
                self.noted = flight.durable;
                self.free_void();
            }
            Sync::Os => self.sync_for_freeing(),
        }
    }

    fn mark(&self) -> Option<Mark> {
        self.gather.mark()
    }

    fn place(&self, mark: Mark) -> Option<Place> {
        let Landed { batch, segment, offset } = self.landed;
        let offset = offset + u64::from(mark.offset);
        let place = Place {
            segment: u32::try_from(segment).ok()?,
            offset: u32::try_from(offset).ok()?,
            bytes: mark.bytes,
        };
        (mark.batch == batch).then_some(place)
    }

    fn begin_read(&mut self, segment: u32) -> Result<i32, i32> {
        let number = u64::from(segment);
        if !self.used.iter().any(|used| used.number == number) {
            return Err(ENOENT);
        }
        let opened = self.readers.begin(&*self.files, number);
        opened.map_err(|error| failure("", &error).errno)
    }

    fn end_read(&mut self, segment: u32) {
        self.readers.end(u64::from(segment));
    }

    fn is_waiting(&self) -> bool {
        self.flight.is_none() && self.failed.is_none() && self.gather.is_ready()
    }

    fn waiting_bytes(&self) -> u64 {
        self.gather.waiting_bytes()
    }

    fn is_full(&self) -> bool {
        self.short.is_some()
            || match &self.checkpoint.under_way {
                Some(under_way) => under_way.full,
                None => self.is_used_up(),
            }
    }

    fn is_tight(&self) -> bool {
        match &self.checkpoint.under_way {
            Some(own) => self.room_bytes() < own.need + self.config.segment_bytes,
            None => {
                let scarce = self.is_scarce(self.bytes_since());
                scarce && !self.is_used_up()
            }
        }
    }

    fn second_passed(&mut self) {
        if self.appended != self.quiet_at {
            self.quiet_at = self.appended;
            self.quiet_s = 0;
            return;
        }
        self.quiet_s = self.quiet_s.saturating_add(1);
        if self.quiet_s == self.config.quiet_s {
            self.desk.ask(Job::Trim);
        }
    }

    fn wants_record(&self) -> bool {
        let idle = self.flight.is_none() && !self.syncing && self.failed.is_none();
        idle && self.durable == self.appended && self.is_settling()
    }

    fn may_win_space(&self) -> bool {
        let since = self.bytes_since();
        self.checkpoint.under_way.is_none()
            && self.failed.is_none()
            && !self.is_settling()
            && since > 0
            && self.has_room_for_checkpoint()
    }

    fn is_last_chance(&self) -> bool {
        // One that wins nothing leaves as much room as there was: the next is due when half of
        // that is taken, not right after it.
        let taken = self.spare_room().is_some_and(|spare| self.bytes_since() >= spare);
        taken && self.may_win_space()
    }

    fn usage(&self) -> Usage {
        let limit = self.config.capacity_bytes;
        let disk = self.room.map(|room| room.disk);
        Usage {
            used_bytes: self.used_bytes,
            live_bytes: self.checkpoint.bytes,
            fill_percent: self.fill_percent(self.live_bytes_max(0)),
            limit_bytes: if limit == u64::MAX { 0 } else { limit },
            disk_used_bytes: disk.map_or(0, |disk| disk.total - disk.free),
            disk_bytes: disk.map_or(0, |disk| disk.total),
        }
    }

    fn failed(&self) -> Option<&StoreFailure> {
        self.failed.as_ref()
    }

    fn wants_checkpoint(&self) -> bool {
        let checkpoint = &self.checkpoint;
        if checkpoint.under_way.is_some() || self.failed.is_some() {
            return false;
        }
        let since = self.bytes_since();
        let quiet = self.quiet_s >= self.config.quiet_s;
        let is_lean = since < self.config.segment_bytes.max(checkpoint.bytes / 2);
        let enough = self.config.reserve_bytes.max(checkpoint.bytes);
        // Where space runs out a checkpoint may win some back, but not one right after another.
        let near = || {
            let is_near = self.fill_percent(self.live_bytes_max(since)) >= NEAR_PERCENT;
            self.short.is_some() || is_near || self.is_scarce(since)
        };
        let is_due = checkpoint.wanted || since >= enough || (quiet && !is_lean);
        (is_due || (self.checkpoint_pays(since) && near())) && self.has_room_for_checkpoint()
    }

    fn begin_checkpoint(&mut self) {
        self.checkpoint.under_way = Some(UnderWay {
            position: self.appended + 1,
            bytes: self.gather.bytes(),
            need: self.live_bytes_max(self.bytes_since()),
            full: self.is_used_up(),
        });
    }

    fn end_checkpoint(&mut self) {
        let Some(begun) = self.checkpoint.under_way.take() else { return };
        self.gather.start = begun.position;
        let now = self.gather.bytes();
        self.checkpoint.bytes = now.saturating_sub(begun.bytes);
        self.checkpoint.complete_at = now;
        self.checkpoint.before = 0;
        self.checkpoint.wanted = false;
    }
}
