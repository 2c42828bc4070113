//! A disk in memory for tests: it loses, by seed, any part of what was not synced when the power
//! is cut, stops at the N-th operation, fails, flips bits and writes to wrong places.
//!
//! It holds one directory. What the process sees (the page cache) and what is on the medium are
//! kept apart: per file in blocks of 512 bytes, and for the names as a journal of which a cut keeps
//! any beginning. [`Log::open_on`](super::Log::open_on) puts a log on it; whoever plays the
//! shard's driver gives each [`LogWrite`] to [`FaultDisk::write`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::files::{DiskSpace, Files, SegmentFile};
use crate::LogWrite;

/// What the medium keeps or loses as a whole.
const SECTOR_BYTES: usize = 512;
/// Linux: no such file or directory.
const ENOENT: i32 = 2;
/// Linux: input/output error.
const EIO: i32 = 5;
/// Linux: cannot send after transport endpoint shutdown. What a dead process gets told; no error of
/// a real disk, so that no handling of one is tried.
const ESHUTDOWN: i32 = 108;
/// Linux: file exists.
const EEXIST: i32 = 17;
/// Linux: no space left on device.
const ENOSPC: i32 = 28;

/// What happens at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies: a write is done in part, anything else perhaps. All later operations
    /// fail.
    Kill,
    /// The operation fails with this Linux error number. A sync that fails leaves what it should
    /// have written in the page cache, which counts it as clean.
    Fail(i32),
    /// A write goes to another place in the same file.
    Misdirect,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct FaultDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    names: BTreeMap<String, usize>,
    medium_names: BTreeMap<String, usize>,
    /// Changes of names since they were synced.
    journal: Vec<Change>,
    files: Vec<Content>,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    dead: bool,
    /// Counts the lives of the process: handles of earlier ones are dead.
    life: u64,
    capacity_bytes: u64,
    random: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Set(String, usize),
    Rename(String, String),
    Remove(String),
}

/// A file: as the process sees it, and as it is on the medium.
#[derive(Debug, Default)]
struct Content {
    seen: Vec<u8>,
    medium: Vec<u8>,
    /// Sectors that were written since the last sync.
    dirty: BTreeSet<usize>,
    /// Sectors that cannot be read.
    bad: BTreeSet<usize>,
}

impl FaultDisk {
    /// An empty disk without limit; what is left to chance follows from `seed`.
    pub fn new(seed: u64) -> FaultDisk {
        FaultDisk(Arc::new(Mutex::new(State {
            names: BTreeMap::new(),
            medium_names: BTreeMap::new(),
            journal: Vec::new(),
            files: Vec::new(),
            operations: 0,
            faults: BTreeMap::new(),
            dead: false,
            life: 0,
            capacity_bytes: u64::MAX,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        })))
    }

    /// Does a write, and the sync of its bytes, as the shard's driver would: 0 or a Linux error
    /// number.
    pub fn write(&self, write: &LogWrite) -> i32 {
        let mut state = self.state();
        let index = write.file as usize;
        let mut result = state.write(index, &write.bytes, write.offset);
        if write.sync && result.is_ok() {
            let end = write.offset as usize + write.bytes.len();
            result = state.sync(index, write.offset as usize..end);
        }
        result.map_or_else(|error| error.raw_os_error().unwrap_or(EIO), |()| 0)
    }

    /// Does a read of a segment from `offset` on, as the shard's driver would: 0, with as many of
    /// the bytes as there are, or a Linux error number.
    pub fn read(&self, file: i32, offset: u64, bytes: &mut Vec<u8>) -> i32 {
        let state = self.state();
        let Some(content) = state.files.get(file as usize) else { return EIO };
        let have = content.seen.len().saturating_sub(offset as usize).min(bytes.len());
        let (first, end) = (offset as usize, offset as usize + have);
        let sectors = first / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        if content.bad.range(sectors).next().is_some() {
            return EIO;
        }
        bytes.truncate(have);
        bytes.copy_from_slice(&content.seen[first..end]);
        0
    }

    /// Does only the write, not the sync: what a power cut between the two meets.
    pub fn write_unsynced(&self, write: &LogWrite) -> i32 {
        let mut state = self.state();
        let result = state.write(write.file as usize, &write.bytes, write.offset);
        result.map_or_else(|error| error.raw_os_error().unwrap_or(EIO), |()| 0)
    }

    /// Operations so far; each has a number, from 1.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets `fault` happen at the operation with number `at`.
    pub fn plan(&self, at: u64, fault: Fault) {
        self.state().faults.insert(at, fault);
    }

    /// True if the process was killed.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// The most bytes that all files may take.
    pub fn limit(&self, bytes: u64) {
        self.state().capacity_bytes = bytes;
    }

    /// The process ends and another starts: the page cache stays. Planned faults are forgotten.
    pub fn restart(&self) {
        let mut state = self.state();
        state.dead = false;
        state.life += 1;
        state.faults.clear();
    }

    /// The power is cut: any part of what was not synced is lost. Then as [`FaultDisk::restart`].
    pub fn cut(&self) {
        self.state().cut();
        self.restart();
    }

    /// The files' names with their bytes as the process sees them.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let state = self.state();
        let names = state.names.iter();
        names.map(|(name, &index)| (name.clone(), state.files[index].seen.clone())).collect()
    }

    /// Flips bit `bit` of a file, on the medium and in the cache; false if it has no such bit.
    pub fn flip(&self, name: &str, bit: u64) -> bool {
        let mut state = self.state();
        let Some(&index) = state.names.get(name) else { return false };
        let at = (bit / 8) as usize;
        let file = &mut state.files[index];
        let mut any = false;
        for bytes in [&mut file.seen, &mut file.medium] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (bit % 8);
                any = true;
            }
        }
        any
    }

    /// Makes the 512 bytes at `offset` of a file unreadable.
    pub fn spoil(&self, name: &str, offset: u64) {
        let mut state = self.state();
        if let Some(&index) = state.names.get(name) {
            state.files[index].bad.insert(offset as usize / SECTOR_BYTES);
        }
    }

    /// Replaces or makes a file, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let content = Content { seen: bytes.into(), medium: bytes.into(), ..Content::default() };
        state.files.push(content);
        let index = state.files.len() - 1;
        state.names.insert(name.to_owned(), index);
        state.medium_names.insert(name.to_owned(), index);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere says so itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn error<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

impl State {
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }

    /// Counts an operation; `Some` if a fault happens at it. A dead process gets nothing done.
    fn operation(&mut self) -> io::Result<Option<Fault>> {
        if self.dead {
            return error(ESHUTDOWN);
        }
        self.operations += 1;
        let fault = self.faults.remove(&self.operations);
        match fault {
            Some(Fault::Kill) => self.dead = true,
            Some(Fault::Fail(errno)) => return error(errno),
            Some(Fault::Misdirect) | None => {}
        }
        Ok(fault)
    }

    /// Counts an operation that a kill lets happen or not.
    fn simple_operation(&mut self) -> io::Result<()> {
        match self.operation()? {
            Some(Fault::Kill) if self.next_random().is_multiple_of(2) => error(ESHUTDOWN),
            _ => Ok(()),
        }
    }

    /// Bytes of all files.
    fn used_bytes(&self) -> u64 {
        self.names.values().map(|&index| self.files[index].seen.len() as u64).sum()
    }

    /// A kill is told as an error, whatever had been done.
    fn told(&self) -> io::Result<()> {
        if self.dead { error(ESHUTDOWN) } else { Ok(()) }
    }

    fn write(&mut self, index: usize, bytes: &[u8], offset: u64) -> io::Result<()> {
        let fault = self.operation()?;
        let mut offset = offset as usize;
        let end = offset + bytes.len();
        let grown = end.saturating_sub(self.files[index].seen.len()) as u64;
        if grown > 0 && self.used_bytes() + grown > self.capacity_bytes {
            return error(ENOSPC);
        }
        if fault == Some(Fault::Misdirect) {
            let sectors = (self.files[index].seen.len() / SECTOR_BYTES).max(1) as u64;
            let room = self.files[index].seen.len().saturating_sub(bytes.len());
            offset = ((self.next_random() % sectors) as usize * SECTOR_BYTES).min(room);
        }
        let killed = fault == Some(Fault::Kill);
        let keep = self.next_random();
        for (number, piece) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let lost = killed && (keep >> (number % 32)).is_multiple_of(2);
            if !lost {
                self.files[index].put(piece, offset + number * SECTOR_BYTES);
            }
        }
        self.told()
    }

    fn sync(&mut self, index: usize, bytes: Range<usize>) -> io::Result<()> {
        match self.simple_operation() {
            Err(failed) if !self.dead => {
                self.files[index].take_dirty(bytes);
                return Err(failed);
            }
            result => result?,
        }
        self.files[index].sync(bytes);
        self.told()
    }

    fn cut(&mut self) {
        let mut names = std::mem::take(&mut self.medium_names);
        let kept = self.next_random() as usize % (self.journal.len() + 1);
        for change in self.journal.drain(..).take(kept) {
            change.apply(&mut names);
        }
        for index in 0..self.files.len() {
            let (length, keep) = (self.next_random(), self.next_random());
            let dirty = std::mem::take(&mut self.files[index].dirty);
            let file = &mut self.files[index];
            if length % 2 == 0 && file.seen.len() > file.medium.len() {
                file.medium.resize(file.seen.len(), 0);
            }
            // All, none or any: a plain coin for each sector would hardly ever keep all of them.
            for (number, sector) in dirty.into_iter().enumerate() {
                let kept = match keep % 4 {
                    0 => true,
                    1 => false,
                    _ => (keep >> (number % 40 + 8)).is_multiple_of(2),
                };
                if kept {
                    file.keep(sector);
                }
            }
            file.seen = file.medium.clone();
        }
        let used: BTreeSet<usize> = names.values().copied().collect();
        for (index, file) in self.files.iter_mut().enumerate() {
            if !used.contains(&index) {
                *file = Content::default();
            }
        }
        self.names = names.clone();
        self.medium_names = names;
    }

    fn index(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().map_or_else(|| error(ENOENT), Ok)
    }

    fn change(&mut self, change: Change) {
        change.clone().apply(&mut self.names);
        self.journal.push(change);
    }
}

impl Change {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Change::Set(name, index) => {
                names.insert(name, index);
            }
            Change::Rename(from, to) => {
                if let Some(index) = names.remove(&from) {
                    names.insert(to, index);
                }
            }
            Change::Remove(name) => {
                names.remove(&name);
            }
        }
    }
}

impl Content {
    fn put(&mut self, piece: &[u8], offset: usize) {
        let end = offset + piece.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(piece);
        self.dirty.extend(offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
    }

    /// The medium gets a sector as the process sees it.
    fn keep(&mut self, sector: usize) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.medium.len()).min(self.seen.len());
        if from < to {
            self.medium[from..to].copy_from_slice(&self.seen[from..to]);
        }
    }

    fn sync(&mut self, bytes: Range<usize>) {
        self.medium.resize(self.seen.len(), 0);
        for sector in self.take_dirty(bytes) {
            self.keep(sector);
        }
    }

    /// The dirty sectors that these bytes touch, which are so no more.
    fn take_dirty(&mut self, bytes: Range<usize>) -> Vec<usize> {
        let end = bytes.end.div_ceil(SECTOR_BYTES);
        self.dirty.extract_if(bytes.start / SECTOR_BYTES..end, |_| true).collect()
    }

    /// The cache forgets what is clean.
    fn forget(&mut self) {
        let mut fresh = self.medium.clone();
        fresh.resize(self.seen.len(), 0);
        for &sector in &self.dirty {
            let from = sector * SECTOR_BYTES;
            let to = (from + SECTOR_BYTES).min(fresh.len());
            fresh[from..to].copy_from_slice(&self.seen[from..to]);
        }
        self.seen = fresh;
    }
}

/// An open file of a [`FaultDisk`].
#[derive(Debug)]
struct Handle {
    disk: FaultDisk,
    index: usize,
    life: u64,
}

impl Handle {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.life == self.life { Ok(state) } else { error(ESHUTDOWN) }
    }
}

impl SegmentFile for Handle {
    fn descriptor(&self) -> i32 {
        self.index as i32
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.simple_operation()?;
        let file = &state.files[self.index];
        let offset = offset as usize;
        let end = offset + bytes.len();
        let spoilt = file.bad.range(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)).next();
        if end > file.seen.len() || spoilt.is_some() {
            return error(EIO);
        }
        bytes.copy_from_slice(&file.seen[offset..end]);
        state.told()
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.state()?.write(self.index, bytes, offset)
    }

    fn write_uncached(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.state()?.sync(self.index, 0..usize::MAX)
    }

    fn forget_cache(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.simple_operation()?;
        state.files[self.index].forget();
        state.told()
    }

    fn again(&self) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(Handle { disk: self.disk.clone(), index: self.index, life: self.life }))
    }
}

impl FaultDisk {
    fn handle(&self, index: usize, life: u64) -> Box<dyn SegmentFile> {
        Box::new(Handle { disk: self.clone(), index, life })
    }

    fn open_file(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let mut state = self.state();
        state.simple_operation()?;
        let index = state.index(name)?;
        state.told()?;
        let life = state.life;
        Ok(self.handle(index, life))
    }
}

impl Files for FaultDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.state();
        state.simple_operation()?;
        state.told()?;
        let names = state.names.iter();
        Ok(names.map(|(name, &i)| (name.clone(), state.files[i].seen.len() as u64)).collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        self.open_file(name)
    }

    fn open_for_writing(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        self.open_file(name)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let mut state = self.state();
        state.simple_operation()?;
        if state.names.contains_key(name) {
            return error(EEXIST);
        }
        state.files.push(Content::default());
        let index = state.files.len() - 1;
        state.change(Change::Set(name.to_owned(), index));
        state.told()?;
        let life = state.life;
        Ok(self.handle(index, life))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.simple_operation()?;
        state.index(from)?;
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        state.told()
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.simple_operation()?;
        let index = state.index(from)?;
        if state.names.contains_key(to) {
            return error(EEXIST);
        }
        state.change(Change::Set(to.to_owned(), index));
        state.told()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.simple_operation()?;
        state.index(name)?;
        state.change(Change::Remove(name.to_owned()));
        state.told()
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state();
        state.simple_operation()?;
        state.journal.clear();
        state.medium_names = state.names.clone();
        state.told()
    }

    fn disk(&self) -> io::Result<DiskSpace> {
        let state = self.state();
        let total = state.capacity_bytes;
        Ok(DiskSpace { total, free: total.saturating_sub(state.used_bytes()) })
    }
}
