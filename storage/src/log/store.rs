//! The log as a [`Store`]: places batches in segments, keeps account of what is durable and of
//! what a checkpoint has made void. Does no I/O of its own: writes go through the shard's driver,
//! everything else through the [`Desk`].

use std::collections::VecDeque;

use super::files::SegmentFile;
use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, Identity, SEGMENT_HEADER_BYTES, finish_batch, segment_name,
};
use super::gather::Gather;
use super::prepare::{Answer, Desk, Job, Order, Prepared, failure};
use super::{LogConfig, Sync};
use crate::{LogWrite, Lsn, RecordKind, Store, StoreFailure};

/// Segments that are ready, or being made, beside the one that is written.
const SEGMENTS_AHEAD: usize = 1;

/// A shard's log. See [the module](crate::log).
///
/// Dropping it waits for its thread, which may be filling a segment.
#[derive(Debug)]
pub struct Log {
    config: LogConfig,
    identity: Identity,
    desk: Desk,
    gather: Gather,
    appended: u64,
    durable: u64,
    /// Up to here everything is on the medium.
    synced: u64,
    /// The highest `durable` of a batch that is on the medium.
    noted: u64,
    batches: u64,
    flight: Option<Flight>,
    current: Option<Current>,
    ready: VecDeque<Prepared>,
    /// Sizes of the segments that are being made.
    asked: VecDeque<u64>,
    next_number: u64,
    /// Segments that may hold what counts, oldest first.
    used: Vec<Used>,
    checkpoint: Checkpoint,
    /// A sync is under way at the desk.
    syncing: bool,
    failed: Option<StoreFailure>,
    short: Option<StoreFailure>,
}

/// The write under way.
#[derive(Debug)]
struct Flight {
    last: u64,
    durable: u64,
    start: u64,
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
    /// The begin of the one under way: position and bytes.
    under_way: Option<(u64, u64)>,
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
}

impl Log {
    pub(super) fn new(config: LogConfig, desk: Desk, found: Found) -> Log {
        let mut log = Log {
            config,
            identity: found.identity,
            desk,
            gather: Gather::new(found.last, found.start),
            appended: found.last,
            durable: found.last,
            synced: found.last,
            noted: 0,
            batches: 0,
            flight: None,
            current: None,
            ready: VecDeque::new(),
            asked: VecDeque::new(),
            next_number: found.next_number,
            used: found.used,
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

    /// Bytes in memory that wait to be written, the write under way not counted.
    pub fn waiting_bytes(&self) -> u64 {
        self.gather.waiting_bytes()
    }

    /// Bytes of the files of all segments in use, without those kept ready and those free.
    pub fn used_bytes(&self) -> u64 {
        self.used.iter().map(|used| used.bytes).sum()
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
                Answer::Short(failure) => self.short = Some(failure),
                Answer::Synced { last, durable } => {
                    self.syncing = false;
                    self.synced = self.synced.max(last);
                    self.noted = self.noted.max(durable);
                    self.free_void();
                }
                Answer::SyncFailed(failure) => self.fail(failure),
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
        let desk = &mut self.desk;
        self.used.retain(|used| {
            let stays = used.last >= start || Some(used.number) == current;
            if !stays {
                let Used { number, bytes, reuse, .. } = *used;
                desk.ask(Job::Free { number, bytes, reuse });
            }
            stays
        });
    }

    /// True if a checkpoint that had to write all again that the last one wrote, and the `since`
    /// bytes that came after it, might not find room any more.
    fn is_scarce(&self, since: u64) -> bool {
        if self.config.capacity_bytes == u64::MAX {
            return false;
        }
        let live = self.checkpoint.bytes + since;
        let room = self.config.capacity_bytes.saturating_sub(self.used_bytes());
        room < live + 2 * self.config.segment_bytes
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
        self.batches += 1;
        let header = BatchHeader {
            identity: self.identity,
            segment: current.number,
            offset: current.offset,
            number: self.batches,
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
        self.flight = Some(Flight { last, durable: header.durable, start: header.start });
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
            let what = format!("write of {}", segment_name(segment));
            return self.fail(StoreFailure { what, errno });
        }
        if self.failed.is_some() {
            return;
        }
        self.durable = flight.last;
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

    fn is_waiting(&self) -> bool {
        self.flight.is_none() && self.failed.is_none() && self.gather.is_ready()
    }

    fn is_full(&self) -> bool {
        self.short.is_some()
    }

    fn failed(&self) -> Option<&StoreFailure> {
        self.failed.as_ref()
    }

    fn wants_checkpoint(&self) -> bool {
        let checkpoint = &self.checkpoint;
        if checkpoint.under_way.is_some() || self.failed.is_some() {
            return false;
        }
        let since = checkpoint.before + self.gather.bytes() - checkpoint.complete_at;
        let enough = self.config.reserve_bytes.max(checkpoint.bytes);
        // Where space runs out a checkpoint may win some back, but not one right after another.
        let pays = since >= self.config.segment_bytes.max(checkpoint.bytes / 4);
        checkpoint.wanted
            || since >= enough
            || (pays && (self.short.is_some() || self.is_scarce(since)))
    }

    fn begin_checkpoint(&mut self) {
        self.checkpoint.under_way = Some((self.appended + 1, self.gather.bytes()));
    }

    fn end_checkpoint(&mut self) {
        let Some((start, begun_at)) = self.checkpoint.under_way.take() else { return };
        self.gather.start = start;
        let now = self.gather.bytes();
        self.checkpoint.bytes = now.saturating_sub(begun_at);
        self.checkpoint.complete_at = now;
        self.checkpoint.before = 0;
        self.checkpoint.wanted = false;
    }
}
