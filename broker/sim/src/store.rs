//! The simulated disk: a log per shard that keeps its records, becomes durable some turns late,
//! and after a crash holds everything durable and, by seed, any number of the batches that were
//! on their way, in order. Some disks are slow, short of space or full for a while, by seed.
//!
//! The disk outlives the shard: the world keeps it, a [`SimStore`] is what the shard sees of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use ringtide_storage::{Lsn, Mark, Place, RecordKind, Store};

use crate::random::Random;
use crate::sabotage::Sabotage;
use crate::segments::Segments;

/// The most turns that a batch stays undurable.
const DELAY_TURNS_MAX: u64 = 5;

/// The most turns that it stays so while the disk is slow.
const SLOW_TURNS_MAX: u64 = 200;

/// What a disk is like for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spell {
    Good,
    Slow,
    /// The space that is left is needed for a checkpoint.
    Tight,
    Full,
    /// Full, and nothing becomes durable.
    Stuck,
}

#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) lsn: Lsn,
    pub(crate) kind: RecordKind,
    pub(crate) body: Vec<u8>,
}

/// The log of one shard.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) records: VecDeque<Record>,
    pub(crate) appended: Lsn,
    durable: Lsn,
    turn: u64,
    /// Batches under way: the turn at which each is durable, its last position, and the bytes of
    /// all records up to there.
    pending: VecDeque<(u64, Lsn, u64)>,
    appended_bytes: u64,
    durable_bytes: u64,
    spell: Spell,
    /// Turns until the next one, and which; none: the disk is always good.
    spells: Option<(u64, Random)>,
    /// The first record of the checkpoint under way.
    checkpoint: Option<Lsn>,
    /// Checkpoints written: first and last record.
    checkpoints: VecDeque<(Lsn, Lsn)>,
    /// Records after which a checkpoint is asked for, and where the last one began.
    checkpoint_every: u64,
    checkpointed: Lsn,
    keeps: bool,
    /// The records as bytes.
    segments: Segments,
    random: Random,
    sabotage: Sabotage,
}

impl Disk {
    /// An empty disk; one that does not keep is as fast as memory's, and forgets.
    pub(crate) fn new(seed: u64, shard: u16, keeps: bool, sabotage: Sabotage) -> Disk {
        let mut random = Random::stream(seed, &format!("disk {shard}"));
        let checkpoint_every = *random.pick(&[10, 40, 200, 1000]);
        Disk {
            records: VecDeque::new(),
            appended: Lsn(0),
            durable: Lsn(0),
            turn: 0,
            pending: VecDeque::new(),
            appended_bytes: 0,
            durable_bytes: 0,
            spell: Spell::Good,
            spells: None,
            checkpoint: None,
            checkpoints: VecDeque::new(),
            checkpoint_every,
            checkpointed: Lsn(0),
            keeps,
            segments: Segments::default(),
            random,
            sabotage,
        }
    }

    fn push(&mut self, record: Record) {
        self.segments.append(record.lsn.0, record.kind, &record.body);
        self.records.push_back(record);
    }

    /// Where a record stands.
    pub(crate) fn place(&self, lsn: Lsn) -> Option<Place> {
        self.segments.place(lsn.0)
    }

    /// From now on the disk is bad now and then.
    pub(crate) fn unsettle(&mut self, seed: u64, shard: u16) {
        self.spells = Some((20, Random::stream(seed, &format!("spells {shard}"))));
    }

    /// From now on the disk is good.
    pub(crate) fn calm(&mut self) {
        (self.spell, self.spells) = (Spell::Good, None);
    }

    fn next_spell(&mut self) {
        let Some((left, random)) = &mut self.spells else { return };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return;
        }
        (*left, self.spell) = match self.spell {
            Spell::Good => {
                let bad = [Spell::Slow, Spell::Tight, Spell::Full, Spell::Stuck];
                (random.range(5, 400), *random.pick(&bad))
            }
            _ => (random.range(20, 2000), Spell::Good),
        };
    }

    /// True if a crash now would find a checkpoint that is not whole.
    pub(crate) fn is_at_checkpoint(&self) -> bool {
        self.checkpoint.is_some() || self.checkpoints.back().is_some_and(|one| one.1 > self.durable)
    }

    /// True if a crash now could lose something.
    pub(crate) fn is_behind(&self) -> bool {
        self.appended > self.durable
    }

    /// The process is gone: what is left is what a disk may have. Says how many records were lost.
    pub(crate) fn crash(&mut self) -> u64 {
        let survive = match self.random.below(3) {
            0 => 0,
            1 => self.pending.len(),
            _ => self.random.below(self.pending.len() as u64 + 1) as usize,
        };
        let mut last = match survive {
            0 => self.durable,
            some => self.pending[some - 1].1,
        };
        self.durable_bytes = self.appended_bytes;
        if self.sabotage == Sabotage::DropLastDurable {
            last = Lsn(last.0.saturating_sub(3).max(self.checkpointed.0));
        }
        let lost = self.appended.0 - last.0.min(self.appended.0);
        self.records.retain(|record| record.lsn <= last);
        self.checkpoint = None;
        self.checkpoints.retain(|(_, end)| *end <= last);
        if let Some((begin, _)) = self.checkpoints.back().copied() {
            // Where the oldest segment that is left begins is chance, too.
            let before = self.records.iter().take_while(|record| record.lsn < begin).count();
            let void = if self.random.chance(300) {
                self.random.below(before as u64 + 1) as usize
            } else {
                before
            };
            self.records.drain(..void);
        }
        if self.sabotage == Sabotage::LoseRecord && !self.records.is_empty() {
            let one = self.random.below(self.records.len() as u64) as usize;
            self.records.remove(one);
        }
        self.pending.clear();
        self.segments.clear();
        for record in &self.records {
            self.segments.append(record.lsn.0, record.kind, &record.body);
        }
        (self.appended, self.durable) = (last, last);
        self.checkpointed = self.checkpointed.min(last);
        self.turn = 0;
        lost
    }

    /// Writes a record that is durable at once, as when a state is written offline.
    pub(crate) fn write(&mut self, kind: RecordKind, parts: &[&[u8]]) {
        self.appended.0 += 1;
        self.push(Record { lsn: self.appended, kind, body: parts.concat() });
        self.durable = self.appended;
    }

    fn end_turn(&mut self) {
        self.next_spell();
        // By now the shard has heard that the last checkpoint is durable.
        let complete = self.checkpoints.iter().rev().find(|(_, end)| *end <= self.durable);
        if let Some(&(begin, _)) = complete {
            self.segments.free(begin.0);
        }
        let last = self.pending.back().map_or(self.durable, |(_, lsn, _)| *lsn);
        if self.appended > last {
            let earliest = self.pending.back().map_or(0, |(turn, ..)| *turn);
            let slow = self.spell == Spell::Slow;
            let most = if slow { SLOW_TURNS_MAX } else { DELAY_TURNS_MAX };
            let due = self.turn + self.random.below(most + 1);
            self.pending.push_back((due.max(earliest), self.appended, self.appended_bytes));
        }
        while let Some(&(due, lsn, bytes)) = self.pending.front() {
            if due > self.turn || self.spell == Spell::Stuck {
                break;
            }
            (self.durable, self.durable_bytes) = (lsn, bytes);
            self.pending.pop_front();
        }
        self.turn += 1;
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct SimStore(pub(crate) Rc<RefCell<Disk>>);

impl Store for SimStore {
    fn append(&mut self, kind: RecordKind, parts: &[&[u8]]) -> Lsn {
        let mut disk = self.0.borrow_mut();
        disk.appended.0 += 1;
        let lsn = disk.appended;
        disk.appended_bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        if disk.keeps {
            disk.push(Record { lsn, kind, body: parts.concat() });
        }
        lsn
    }

    fn end_turn(&mut self) {
        self.0.borrow_mut().end_turn();
    }

    fn durable(&self) -> Lsn {
        let disk = self.0.borrow();
        if disk.sabotage == Sabotage::EarlyDurable { disk.appended } else { disk.durable }
    }

    fn appended(&self) -> Lsn {
        self.0.borrow().appended
    }

    fn is_immediate(&self) -> bool {
        false
    }

    fn keeps(&self) -> bool {
        true
    }

    fn mark(&self) -> Option<Mark> {
        let disk = self.0.borrow();
        disk.keeps.then_some(Mark { batch: disk.appended.0, offset: 0, bytes: 0 })
    }

    fn place(&self, mark: Mark) -> Option<Place> {
        self.0.borrow().place(Lsn(mark.batch))
    }

    fn begin_read(&mut self, segment: u32) -> Result<i32, i32> {
        self.0.borrow_mut().segments.begin_read(segment)
    }

    fn end_read(&mut self, segment: u32) {
        self.0.borrow_mut().segments.end_read(segment);
    }

    fn is_waiting(&self) -> bool {
        self.0.borrow().is_behind()
    }

    fn waiting_bytes(&self) -> u64 {
        let disk = self.0.borrow();
        disk.appended_bytes - disk.durable_bytes
    }

    fn is_full(&self) -> bool {
        matches!(self.0.borrow().spell, Spell::Full | Spell::Stuck)
    }

    fn is_tight(&self) -> bool {
        self.0.borrow().spell == Spell::Tight
    }

    fn may_win_space(&self) -> bool {
        let disk = self.0.borrow();
        disk.keeps && disk.checkpoint.is_none() && disk.appended > disk.checkpointed
    }

    fn wants_checkpoint(&self) -> bool {
        let disk = self.0.borrow();
        disk.keeps
            && disk.checkpoint.is_none()
            && disk.appended.0 - disk.checkpointed.0 > disk.checkpoint_every
    }

    fn begin_checkpoint(&mut self) {
        let mut disk = self.0.borrow_mut();
        let begin = Lsn(disk.appended.0 + 1);
        disk.checkpoint = Some(begin);
    }

    fn end_checkpoint(&mut self) {
        let mut disk = self.0.borrow_mut();
        let Some(begin) = disk.checkpoint.take() else { return };
        let end = disk.appended;
        disk.checkpointed = end;
        disk.checkpoints.push_back((begin, end));
    }
}
