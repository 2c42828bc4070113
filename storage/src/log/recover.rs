//! Finds out what a log's directory holds: reads only, writes nothing.
//!
//! 1. *Survey*: the segment headers; which epochs there were.
//! 2. *Plan*: the newest intact batch says up to where everything had been on the medium
//!    (`durable`) and below which records are void (`start`).
//! 3. *Walk*: all batches in order. A gap in the positions at or below `durable` is interior
//!    damage: reported, and what follows is served. A gap above it is the tail of a write that a
//!    crash cut off: nothing from there on is served.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::error::OpenError;
use super::files::Files;
use super::format::{
    BatchHeader, Identity, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentStart, segment_name,
    segment_number, set_aside_number,
};
use super::scan::{Scan, Window, segment_start};

/// A segment file that was found.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// Length of the file.
    pub(super) bytes: u64,
    /// The header, if it is intact and of this segment.
    header: Option<SegmentHeader>,
    /// It was set aside by an earlier start.
    pub(super) set_aside: bool,
}

/// What the walk found in a segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Content {
    /// Intact batches, void ones included.
    pub(super) batches: u64,
    /// Batches that were served.
    served: u64,
    /// Offset of the first intact batch.
    first_offset: u64,
    /// The last position that is not void, 0 = none.
    pub(super) last: u64,
    /// Blocks that the medium did not give.
    pub(super) unreadable: u64,
    /// It held, or may have held, what was lost; or its header is damaged.
    pub(super) damaged: bool,
}

/// What a log's directory holds.
#[derive(Debug)]
pub(super) struct Survey {
    log: u16,
    pub(super) segments: Vec<Segment>,
    /// By number.
    epochs: BTreeMap<u64, Epoch>,
    /// The largest segment number in use.
    pub(super) number_max: u64,
    /// From the headers: see [`SegmentHeader::start`] and [`SegmentHeader::durable`].
    start: u64,
    durable: u64,
}

/// What is known of an opening of the log.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    identity: Identity,
    /// Later epochs begin here: what this one has from there on is void.
    void_from: u64,
}

/// From where and up to where the log counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Records below this are void.
    pub(super) start: u64,
    /// What is missing up to here is damage; what is missing above is a tail.
    pub(super) durable: u64,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The position after the last that counts.
    pub(super) next: u64,
    /// Positions that are lost, first and last.
    pub(super) lost: Vec<(u64, u64)>,
    /// Intact batches above a gap that nobody relied on.
    pub(super) cut_batches: u64,
    /// By segment, in the order of [`Survey::segments`].
    pub(super) contents: Vec<Content>,
    /// The highest `start` of a served batch.
    start: u64,
    /// Bytes from `start` to the batch that first names it: those of the last checkpoint.
    pub(super) checkpoint_bytes: u64,
}

impl Survey {
    /// The highest epoch in use.
    pub(super) fn epoch_max(&self) -> u64 {
        self.epochs.keys().next_back().copied().unwrap_or(0)
    }

    /// Bytes of all segment files.
    pub(super) fn file_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes of the segment files that come before this one.
    pub(super) fn file_bytes_before(&self, number: u64) -> u64 {
        let before = self.segments.iter().take_while(|segment| segment.number < number);
        before.map(|segment| segment.bytes).sum()
    }

    fn note_epoch(&mut self, identity: Identity) {
        self.epochs.insert(identity.epoch, Epoch { identity, void_from: u64::MAX });
    }

    /// Finds where each epoch ends.
    fn bound_epochs(&mut self) {
        let mut first = u64::MAX;
        for epoch in self.epochs.values_mut().rev() {
            epoch.void_from = first;
            first = first.min(epoch.identity.epoch_first);
        }
    }

    /// Whether a later epoch has made the batch void.
    fn is_void(&self, batch: &BatchHeader) -> bool {
        // No batch that counts reaches over the begin of a later epoch.
        let epoch = self.epochs.get(&batch.identity.epoch);
        epoch.is_some_and(|epoch| batch.last() >= epoch.void_from)
    }

    fn is_ours(&self, segment: &Segment, batch: &BatchHeader) -> bool {
        match &segment.header {
            Some(header) => batch.identity == header.identity,
            None => {
                let known = self.epochs.get(&batch.identity.epoch);
                known.is_some_and(|epoch| epoch.identity == batch.identity)
            }
        }
    }
}

/// Reads all segment headers of log `log`.
pub(super) fn survey(files: &dyn Files, log: u16) -> Result<Survey, OpenError> {
    let mut survey = Survey {
        log,
        segments: Vec::new(),
        epochs: BTreeMap::new(),
        number_max: 0,
        start: 0,
        durable: 0,
    };
    let mut aside = BTreeSet::new();
    for (name, bytes) in files.list().map_err(OpenError::io("list the log's directory"))? {
        if let Some(number) = set_aside_number(&name) {
            survey.number_max = survey.number_max.max(number);
            aside.insert(number);
        }
        let Some(number) = segment_number(&name) else { continue };
        survey.segments.push(Segment { number, bytes, header: None, set_aside: false });
    }
    survey.segments.sort_by_key(|segment| segment.number);
    let mut segments = std::mem::take(&mut survey.segments);
    for segment in &mut segments {
        segment.set_aside = aside.contains(&segment.number);
        survey.number_max = survey.number_max.max(segment.number);
        survey.note_header(files, segment)?;
    }
    survey.segments = segments;
    survey.bound_epochs();
    Ok(survey)
}

impl Survey {
    fn note_header(&mut self, files: &dyn Files, segment: &mut Segment) -> Result<(), OpenError> {
        let name = segment_name(segment.number);
        let file = files.open(&name).map_err(OpenError::io(&name))?;
        match segment_start(&*file, segment.bytes).map_err(OpenError::io(&name))? {
            SegmentStart::Newer(version) => Err(OpenError::Newer { file: name, version }),
            SegmentStart::Valid(header) if header.identity.log != self.log => {
                Err(OpenError::Foreign { file: name, log: header.identity.log })
            }
            SegmentStart::Valid(header) => {
                self.number_max = self.number_max.max(header.number);
                self.start = self.start.max(header.start);
                self.durable = self.durable.max(header.durable);
                self.note_epoch(header.identity);
                // A file on its way to its next use is free; it holds nothing of its own name.
                segment.header = (header.number == segment.number).then_some(header);
                Ok(())
            }
            SegmentStart::Invalid => {
                // The first batch's place is fixed, so no message can stand there: its word counts.
                let mut window = Window::default();
                let mut scan = Scan::new(&mut window, &*file, segment.number, segment.bytes);
                let log = self.log;
                let first = |batch: &BatchHeader| batch.identity.log == log;
                if let Some(batch) = scan.here(&first).map_err(OpenError::io(&name))? {
                    self.note_epoch(batch.identity);
                }
                Ok(())
            }
        }
    }
}

/// Finds from where and up to where the log counts.
///
/// With `settle` the segment of the newest batch is synced and read from the medium: its last batch
/// may have been written and not synced when the process died, or be in the page cache only, after
/// a sync that failed; it must not be served and vanish with the next power cut.
pub(super) fn plan(files: &dyn Files, survey: &Survey, settle: bool) -> Result<Plan, OpenError> {
    let mut plan = Plan { start: survey.start.max(1), durable: survey.durable };
    let Some(newest) = newest_batch(files, survey, settle)? else { return Ok(plan) };
    plan.durable = plan.durable.max(newest.durable);
    if plan.durable + 1 >= newest.first {
        // Nothing before the newest batch can be a tail, so its word about the start holds.
        plan.start = plan.start.max(newest.start);
    } else {
        // Without a sync after each batch the newest one may stand above a gap, and would then not
        // count: the start is what the batches below the first such gap say.
        let walk = walk(files, survey, plan, &mut |_, _, _| Ok(()))?;
        plan.start = plan.start.max(walk.start);
    }
    Ok(plan)
}

/// The last intact batch of the newest segment that has one.
fn newest_batch(
    files: &dyn Files,
    survey: &Survey,
    settle: bool,
) -> Result<Option<BatchHeader>, OpenError> {
    let mut window = Window::default();
    for segment in survey.segments.iter().rev() {
        let name = segment_name(segment.number);
        let error = || OpenError::io(&name);
        let file = if settle { files.open_for_writing(&name) } else { files.open(&name) };
        let file = file.map_err(error())?;
        if settle {
            file.sync().and_then(|()| file.forget_cache()).map_err(error())?;
        }
        let mut scan = Scan::new(&mut window, &*file, segment.number, segment.bytes);
        let mut newest = None;
        while let Some((batch, _)) =
            scan.next(&|batch| survey.is_ours(segment, batch)).map_err(error())?
        {
            if !survey.is_void(&batch) {
                newest = Some(batch);
            }
        }
        if newest.is_some() {
            return Ok(newest);
        }
    }
    Ok(None)
}

/// Takes a batch that counts: its header, its records, and the first position in it that counts.
pub(super) type Visit<'a> = dyn FnMut(&BatchHeader, &[u8], u64) -> Result<(), OpenError> + 'a;

/// Goes over all batches in order and gives those that count to `visit`.
pub(super) fn walk(
    files: &dyn Files,
    survey: &Survey,
    plan: Plan,
    visit: &mut Visit<'_>,
) -> Result<Walk, OpenError> {
    let mut step = Step {
        plan,
        cut: false,
        bytes: 0,
        before: None,
        walk: Walk { next: plan.start.max(1), ..Walk::default() },
    };
    let mut window = Window::default();
    for (index, segment) in survey.segments.iter().enumerate() {
        let name = segment_name(segment.number);
        let error = || OpenError::io(&name);
        let file = files.open(&name).map_err(error())?;
        let mut scan = Scan::new(&mut window, &*file, segment.number, segment.bytes);
        step.walk.contents.push(Content::default());
        while let Some((batch, records)) =
            scan.next(&|batch| survey.is_ours(segment, batch)).map_err(error())?
        {
            step.note(index, &batch);
            if !survey.is_void(&batch) {
                step.batch(index, &batch, records, visit)?;
            }
        }
        let content = &mut step.walk.contents[index];
        content.unreadable = scan.unreadable();
        let header_lost = segment.header.is_none() && content.served > 0;
        let void = content.last > 0 && content.last < plan.start;
        let cut_short = segment.header.is_some_and(|header| segment.bytes < header.bytes);
        content.damaged |= header_lost || ((content.unreadable > 0 || cut_short) && !void);
    }
    Ok(step.finish())
}

/// The state of a walk.
struct Step {
    plan: Plan,
    /// A gap above `plan.durable` was met.
    cut: bool,
    /// Bytes of served batches.
    bytes: u64,
    /// The segment of the last batch that was served or is void because it is old.
    before: Option<usize>,
    walk: Walk,
}

impl Step {
    fn note(&mut self, index: usize, batch: &BatchHeader) {
        let content = &mut self.walk.contents[index];
        content.batches += 1;
        if content.batches == 1 {
            content.first_offset = batch.offset;
        }
    }

    fn batch(
        &mut self,
        index: usize,
        batch: &BatchHeader,
        records: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), OpenError> {
        let content = &mut self.walk.contents[index];
        content.last = content.last.max(batch.last());
        if self.cut {
            self.walk.cut_batches += 1;
            return Ok(());
        }
        if batch.last() < self.walk.next {
            self.before = Some(index);
            return Ok(());
        }
        if batch.first > self.walk.next && !self.gap(index, batch) {
            self.walk.cut_batches += 1;
            return Ok(());
        }
        self.walk.contents[index].served += 1;
        self.before = Some(index);
        self.bytes += batch.padded_bytes();
        if batch.start > self.walk.start {
            self.walk.start = batch.start;
            self.walk.checkpoint_bytes = self.bytes;
        }
        visit(batch, records, self.walk.next.max(batch.first))?;
        self.walk.next = batch.last() + 1;
        Ok(())
    }

    /// Notes that something is missing before `batch`; false if nothing from there on counts.
    fn gap(&mut self, index: usize, batch: &BatchHeader) -> bool {
        let last = (batch.first - 1).min(self.plan.durable);
        if self.walk.next <= last {
            self.lose(last, index);
            let at_start = batch.offset == self.walk.contents[index].first_offset;
            let clean = at_start && batch.offset == SEGMENT_HEADER_BYTES as u64;
            self.walk.contents[index].damaged |= !clean;
        }
        self.cut = self.walk.next < batch.first;
        !self.cut
    }

    /// Positions up to `last` are lost, before segment `end`.
    fn lose(&mut self, last: u64, end: usize) {
        self.walk.lost.push((self.walk.next, last));
        self.walk.next = last + 1;
        for content in &mut self.walk.contents[self.before.unwrap_or(0)..end] {
            content.damaged = true;
        }
    }

    fn finish(mut self) -> Walk {
        if self.walk.next <= self.plan.durable {
            self.lose(self.plan.durable, self.walk.contents.len());
        }
        self.walk
    }
}

/// Syncs the segments of what was served: where not every batch is synced, much of it may be in the
/// page cache only, and counts as durable from now on.
pub(super) fn sync_served(files: &dyn Files, survey: &Survey, walk: &Walk) -> io::Result<()> {
    for (segment, content) in survey.segments.iter().zip(&walk.contents) {
        if content.served > 0 {
            files.open_for_writing(&segment_name(segment.number))?.sync()?;
        }
    }
    Ok(())
}
