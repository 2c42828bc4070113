//! What a log must hold, beside a log on a disk that fails: random turns, checkpoints and crashes,
//! and the judgement of what is there after each.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use ringtide_storage::log::faults::{Fault, FaultDisk};
use ringtide_storage::log::{OpenError, Opened, Sync, inspect_on};
use ringtide_storage::{Log, LogConfig, LogWrite, RecordKind, Store};

pub(crate) const SEGMENT_BYTES: u64 = 16 << 10;

/// Linux: input/output error.
pub(crate) const EIO: i32 = 5;
/// Linux: no space left on device.
pub(crate) const ENOSPC: i32 = 28;

/// Repeatable chance.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 7) % limit
    }

    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

pub(crate) fn config(sync: Sync) -> LogConfig {
    let mut config = LogConfig::new(PathBuf::new(), 7);
    config.segment_bytes = SEGMENT_BYTES;
    config.reserve_bytes = 6 * SEGMENT_BYTES;
    config.sync = sync;
    config
}

/// What was appended in the history that counts, and what of it must outlive a crash.
#[derive(Default)]
pub(crate) struct Model {
    records: Vec<(RecordKind, Vec<u8>)>,
    pub(crate) durable: u64,
    /// Last positions of all batches.
    ends: BTreeSet<u64>,
    /// Begins and last positions of complete checkpoints.
    pub(crate) checkpoints: Vec<(u64, u64)>,
    /// What bodies are made from; never the same twice, in no history.
    written: u64,
    salt: u64,
}

/// A log that is open.
pub(crate) struct Life {
    pub(crate) log: Log,
    flight: Option<LogWrite>,
    checkpoint: Option<u64>,
}

impl Life {
    pub(crate) fn new(log: Log) -> Life {
        Life { log, flight: None, checkpoint: None }
    }
}

impl Model {
    /// Opens the log and judges what it gives. `None` if the process was killed meanwhile.
    pub(crate) fn open(&mut self, disk: &FaultDisk, config: &LogConfig) -> Option<(Life, Opened)> {
        let mut seen = Vec::new();
        self.salt += 1;
        let opened = Log::open_on(disk, config.clone(), self.salt, &mut |lsn, kind, body| {
            seen.push((lsn.0, kind, body.to_vec()));
            Ok(())
        });
        match opened {
            Ok((log, opened)) => {
                self.judge(&opened, &seen);
                Some((Life::new(log), opened))
            }
            Err(error) => {
                assert!(disk.is_dead(), "{error}");
                None
            }
        }
    }

    /// What is there is what was appended, up to the end of a batch, and everything durable.
    fn judge(&mut self, opened: &Opened, seen: &[(u64, RecordKind, Vec<u8>)]) {
        let (start, last) = (opened.start.0, opened.last.0);
        assert_eq!(opened.damaged, None);
        assert!(last >= self.durable, "{last} of {} durable", self.durable);
        assert!(last <= self.records.len() as u64);
        assert!(last == 0 || self.ends.contains(&last), "{last} is within a batch");
        let complete = |&(begin, end): &(u64, u64)| begin == start && end <= last;
        assert!(start == 1 || self.checkpoints.iter().any(complete), "start {start}");
        assert_eq!(seen.len() as u64, last + 1 - start);
        for (record, lsn) in seen.iter().zip(start..) {
            let (kind, body) = &self.records[lsn as usize - 1];
            assert!(*record == (lsn, *kind, body.clone()), "record {lsn}");
        }
        self.records.truncate(last as usize);
        self.ends = self.ends.range(..=last).copied().collect();
        self.checkpoints.retain(|&(_, end)| end <= last);
        self.durable = last;
    }

    /// Does one random thing.
    pub(crate) fn step(&mut self, life: &mut Life, disk: &FaultDisk, random: &mut Random) {
        match random.below(16) {
            0..=4 => self.append(life, random),
            5..=7 => life.log.end_turn(),
            8 | 9 => self.take_write(life),
            10..=12 => self.complete(life, disk, random),
            13 | 14 => {
                life.log.work();
            }
            _ => self.checkpoint(life, random),
        }
    }

    fn append(&mut self, life: &mut Life, random: &mut Random) {
        for _ in 0..=random.below(4) {
            let length = match random.below(60) {
                0 => 40_000,
                1..=4 => 9_000 + random.below(3_000),
                5..=15 => random.below(3_000),
                _ => random.below(200),
            };
            self.append_one(life, length);
        }
    }

    pub(crate) fn append_one(&mut self, life: &mut Life, length: u64) {
        self.written += 1;
        let mut body: Vec<u8> = self.written.to_le_bytes().to_vec();
        body.extend((0..length).map(|at| ((at * self.written) >> 3) as u8));
        let kind =
            if self.written.is_multiple_of(3) { RecordKind::Queue } else { RecordKind::Message };
        let (head, tail) = body.split_at(5);
        let lsn = life.log.append(kind, &[head, &[], tail]);
        self.records.push((kind, body));
        assert_eq!(lsn.0, self.records.len() as u64);
    }

    pub(crate) fn take_write(&mut self, life: &mut Life) {
        if life.flight.is_none() {
            life.flight = life.log.take_write();
            if let Some(write) = &life.flight {
                assert!(
                    write.offset.is_multiple_of(4096) && write.bytes.len().is_multiple_of(4096)
                );
                self.ends.insert(last_of(&write.bytes));
            }
        }
    }

    pub(crate) fn complete(&mut self, life: &mut Life, disk: &FaultDisk, random: &mut Random) {
        let Some(write) = life.flight.take() else { return };
        if random.once_in(8) {
            // Written, but a cut may come before the sync.
            if disk.write_unsynced(&write) == 0 {
                life.flight = Some(write);
                return;
            }
        }
        life.flight = Some(write);
        self.finish(life, disk);
    }

    /// Does the write under way.
    pub(crate) fn finish(&mut self, life: &mut Life, disk: &FaultDisk) {
        let Some(write) = life.flight.take() else { return };
        let errno = disk.write(&write);
        life.log.written(write.bytes, errno);
        self.durable = life.log.durable().0;
    }

    fn checkpoint(&mut self, life: &mut Life, random: &mut Random) {
        if let Some(begin) = life.checkpoint {
            if random.once_in(3) {
                life.log.end_checkpoint();
                self.checkpoints.push((begin, self.records.len() as u64));
                life.checkpoint = None;
            }
        } else if life.log.wants_checkpoint() || random.once_in(6) {
            life.log.begin_checkpoint();
            life.checkpoint = Some(self.records.len() as u64 + 1);
        }
    }

    /// Ends the turn and writes until everything is durable.
    pub(crate) fn settle(&mut self, life: &mut Life, disk: &FaultDisk) {
        life.log.end_turn();
        while life.log.durable() < life.log.appended() {
            if disk.is_dead() {
                return;
            }
            life.log.work();
            self.take_write(life);
            self.finish(life, disk);
            life.log.end_turn();
            assert_eq!(life.log.failed().filter(|_| !disk.is_dead()), None);
        }
        while !disk.is_dead() && life.log.work() {}
    }

    /// A whole checkpoint of `records` records, and enough after it for segments to be freed.
    pub(crate) fn whole_checkpoint(&mut self, life: &mut Life, disk: &FaultDisk, records: u64) {
        life.log.begin_checkpoint();
        let begin = self.records.len() as u64 + 1;
        for _ in 0..records {
            self.append_one(life, 500);
        }
        life.log.end_checkpoint();
        self.checkpoints.push((begin, self.records.len() as u64));
        for _ in 0..3 {
            self.append_one(life, 10);
            self.settle(life, disk);
        }
        life.log.end_turn();
        while !disk.is_dead() && life.log.work() {}
    }

    /// What a damaged log gives was written, at just these positions, and what is missing is told:
    /// as lost, or as the tail of which only what was written last may be missing.
    pub(crate) fn judge_damaged(&self, disk: &FaultDisk) -> Opened {
        let opened = self.judge_wrecked(disk);
        let before_last = self.ends.range(..self.durable).next_back().copied().unwrap_or(0);
        // A file that was cut short says so itself, but not what it had held.
        let short = opened.damaged.as_ref().is_some_and(|damage| damage.lost.is_empty());
        assert!(opened.last.0 >= before_last || short, "{} of {before_last}", opened.last.0);
        opened
    }

    /// As [`Model::judge_damaged`], where any number of batches at the end may be damaged too.
    pub(crate) fn judge_wrecked(&self, disk: &FaultDisk) -> Opened {
        let mut seen = BTreeSet::new();
        let opened = inspect_on(disk, 7, &mut |lsn, kind, body| {
            let (true_kind, true_body) = &self.records[lsn.0 as usize - 1];
            assert!((kind, body) == (*true_kind, &true_body[..]), "record {}", lsn.0);
            assert!(seen.insert(lsn.0));
            Ok(())
        })
        .unwrap();
        let damage = opened.damaged.clone().unwrap_or_default();
        for lsn in opened.start.0..=opened.last.0 {
            let lost = damage.lost.iter().any(|(first, last)| (first.0..=last.0).contains(&lsn));
            assert!(lost != seen.contains(&lsn), "record {lsn}");
        }
        opened
    }

    /// After a power cut where not every batch was synced nothing need be there but a checkpoint
    /// whose forerunner was freed.
    pub(crate) fn forget_durable(&mut self) {
        self.durable = 0;
    }
}

/// The last position of a batch, by the documented format.
fn last_of(batch: &[u8]) -> u64 {
    let first = u64::from_le_bytes(batch[72..80].try_into().unwrap());
    let records = u32::from_le_bytes(batch[12..16].try_into().unwrap());
    first + u64::from(records) - 1
}

/// One history: lives that end in kills, cuts and restarts, some of them within recovery.
/// Returns the number of crashes.
pub(crate) fn history(seed: u64, sync: Sync, lives: u64) -> u64 {
    let disk = FaultDisk::new(seed);
    let mut random = Random::new(seed);
    let mut model = Model::default();
    let config = config(sync);
    let mut crashes = 0;
    for _ in 0..lives {
        if random.once_in(3) {
            disk.plan(disk.operations() + 1 + random.below(40), Fault::Kill);
        }
        if let Some((mut life, _)) = model.open(&disk, &config) {
            if random.below(4) > 0 {
                disk.plan(disk.operations() + 1 + random.below(150), Fault::Kill);
            }
            if sync == Sync::EachBatch && random.once_in(3) {
                let errno = if random.once_in(2) { EIO } else { ENOSPC };
                disk.plan(disk.operations() + 1 + random.below(100), Fault::Fail(errno));
            }
            if random.once_in(4) {
                disk.limit((3 + random.below(20)) * SEGMENT_BYTES);
            }
            for _ in 0..random.below(800) {
                model.step(&mut life, &disk, &mut random);
                if disk.is_dead() {
                    break;
                }
            }
        }
        crashes += 1;
        disk.limit(if random.once_in(8) { SEGMENT_BYTES } else { u64::MAX });
        if random.once_in(2) {
            disk.restart();
        } else {
            disk.cut();
            if sync == Sync::Os {
                model.forget_durable();
            }
        }
        if random.once_in(4) {
            check_inspection(&disk);
        }
    }
    model.open(&disk, &config).expect("nothing kills it");
    crashes
}

/// Reading a log changes nothing and sees the same each time.
fn check_inspection(disk: &FaultDisk) {
    let before = disk.files();
    let read = || -> Result<(Opened, u64), OpenError> {
        let mut sum = 0_u64;
        let opened = inspect_on(disk, 7, &mut |lsn, _, body| {
            sum = sum.wrapping_mul(31).wrapping_add(lsn.0 + body.len() as u64);
            Ok(())
        })?;
        Ok((opened, sum))
    };
    assert_eq!(read().unwrap(), read().unwrap());
    assert!(before == disk.files());
}
