//! Log files: epoll cannot wait for them, so a thread writes and syncs, and another reads what is
//! not in memory. They are started when they are first needed.
//!
//! An operation names its file by a descriptor's number, which only unsafe code can use as it is:
//! the file is opened anew for each operation through `/proc/self/fd`, if the descriptor has the
//! access. It is the same file, since its descriptor stays open until the completion has come.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use ringtide_driver::{Completion, LogOp, ReadOp, Waker};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwrite, pwritev2};
use rustix::process::getpid;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use crate::peers::EventWaker;

/// Where the process's descriptors are.
const FOLDER: &str = "/proc/self/fd";
/// Bytes of one operation: below the most that the kernel does at once.
const CHUNK_BYTES_MAX: usize = 1 << 30;
/// Tries of an operation that was interrupted before it counts as failed.
const TRIES_MAX: u32 = 100;
/// How long a driver that ends waits for its files: a disk that needs longer has failed.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// The completions of the threads, on their way to the driver.
type Done = Arc<Mutex<Vec<Completion>>>;

struct Read {
    file: File,
    op: ReadOp,
    /// Bytes that are read.
    done: usize,
}

/// The file operations of one driver.
pub(crate) struct Files {
    shard: u16,
    waker: Arc<EventWaker>,
    done: Done,
    writing: bool,
    writer: Option<Worker<LogOp>>,
    reader: Option<Worker<Read>>,
}

impl Files {
    /// # Errors
    /// `/proc` is not mounted.
    pub(crate) fn new(shard: u16, waker: Arc<EventWaker>) -> io::Result<Files> {
        let there = File::open(FOLDER);
        there.map_err(|error| {
            let text = format!("{FOLDER}: {error}; the epoll driver needs /proc to be mounted");
            io::Error::new(error.kind(), text)
        })?;
        let done = Done::default();
        Ok(Files { shard, waker, done, writing: false, writer: None, reader: None })
    }

    /// Begins a write; its completion if that cannot be.
    pub(crate) fn write(&mut self, op: LogOp) -> Option<Completion> {
        if self.writing {
            return Some(written(op, Err(Errno::BUSY)));
        }
        if self.writer.is_none() {
            let name = format!("log-write-{}", self.shard);
            match self.worker(name, |op: LogOp| {
                let result = reopen(op.file, Access::Write).and_then(|file| write_all(&file, &op));
                written(op, result)
            }) {
                Ok(worker) => self.writer = Some(worker),
                Err(errno) => return Some(written(op, Err(errno))),
            }
        }
        self.writing = true;
        let refused = self.writer.as_ref()?.begin(op)?;
        self.writing = false;
        Some(written(refused, Err(Errno::PIPE)))
    }

    /// Begins a read; its completion if all of it is in memory, or it cannot be.
    pub(crate) fn read(&mut self, mut op: ReadOp) -> Option<Completion> {
        let file = match reopen(op.file, Access::Read) {
            Ok(file) => file,
            Err(errno) => return Some(read(op, Err(errno))),
        };
        let mut done = 0;
        match read_all(&file, &mut op, &mut done, ReadWriteFlags::NOWAIT) {
            // Not in memory, or the file system cannot say.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            result => return Some(read(op, result.map(|()| done))),
        }
        if self.reader.is_none() {
            let name = format!("log-read-{}", self.shard);
            match self.worker(name, |Read { file, mut op, mut done }| {
                let result = read_all(&file, &mut op, &mut done, ReadWriteFlags::empty());
                read(op, result.map(|()| done))
            }) {
                Ok(worker) => self.reader = Some(worker),
                Err(errno) => return Some(read(op, Err(errno))),
            }
        }
        let refused = self.reader.as_ref()?.begin(Read { file, op, done })?;
        Some(read(refused.op, Err(Errno::PIPE)))
    }

    /// What has ended since the last call.
    pub(crate) fn ended(&mut self) -> Vec<Completion> {
        let ended = std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        if ended.iter().any(|completion| matches!(completion, Completion::LogWritten { .. })) {
            self.writing = false;
        }
        ended
    }

    fn worker<J: Send + 'static>(
        &self,
        name: String,
        mut carry_out: impl FnMut(J) -> Completion + Send + 'static,
    ) -> Result<Worker<J>, Errno> {
        let (jobs, begun) = mpsc::channel::<J>();
        let (alive, ended) = mpsc::channel::<()>();
        let (waker, done) = (Arc::clone(&self.waker), Arc::clone(&self.done));
        let run = move || {
            leave_the_shard_s_processor();
            for job in begun {
                let completion = carry_out(job);
                done.lock().unwrap_or_else(PoisonError::into_inner).push(completion);
                waker.wake();
            }
            drop(alive);
        };
        let started = Builder::new().name(name).spawn(run);
        started.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        Ok(Worker { jobs: Some(jobs), ended })
    }
}

/// A thread and the way to it. Dropping it waits for what the thread has been given.
struct Worker<J> {
    jobs: Option<Sender<J>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl<J> Worker<J> {
    /// Gives the thread something to do; comes back if it has died.
    fn begin(&self, job: J) -> Option<J> {
        match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|refused| refused.0),
            None => Some(job),
        }
    }
}

impl<J> Drop for Worker<J> {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.ended.recv_timeout(LAST_WAIT);
    }
}

/// A thread begins where its maker is pinned: it may run wherever the process may.
fn leave_the_shard_s_processor() {
    // The process's first thread is pinned nowhere. Where this fails, the thread shares the
    // shard's processor and works all the same.
    let _ = sched_getaffinity(Some(getpid())).and_then(|cpus| sched_setaffinity(None, &cpus));
}

#[derive(Clone, Copy, PartialEq)]
enum Access {
    Read,
    Write,
}

/// Opens a descriptor's file once more.
fn reopen(descriptor: i32, access: Access) -> Result<File, Errno> {
    let (needed, flags) = match access {
        Access::Read => (Mode::RUSR, OFlags::RDONLY),
        Access::Write => (Mode::WUSR, OFlags::WRONLY),
    };
    let path = format!("{FOLDER}/{descriptor}");
    let gone = |errno| if errno == Errno::NOENT { Errno::BADF } else { errno };
    // The link's mode is what the descriptor was opened for.
    let link = statat(CWD, &*path, AtFlags::SYMLINK_NOFOLLOW).map_err(gone)?;
    if !Mode::from_raw_mode(link.st_mode).contains(needed) {
        return Err(Errno::BADF);
    }
    let file = openat(CWD, &*path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(gone)?;
    Ok(File::from(file))
}

/// Writes all bytes and, if asked for, syncs them.
fn write_all(file: &File, op: &LogOp) -> Result<(), Errno> {
    let (mut done, mut tries) = (0, 0);
    let mut flags = if op.sync { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
    let mut sync_after = false;
    while done < op.bytes.len() {
        let rest = &op.bytes[done..];
        let rest = &rest[..rest.len().min(CHUNK_BYTES_MAX)];
        let offset = op.offset + done as u64;
        let result = if sync_after {
            pwrite(file, rest, offset)
        } else {
            pwritev2(file, &[IoSlice::new(rest)], offset, flags)
        };
        match result {
            // A file that takes nothing has no room.
            Ok(0) => return Err(Errno::NOSPC),
            Ok(more) => done += more,
            Err(Errno::NOSYS | Errno::OPNOTSUPP) if !sync_after => {
                sync_after = true;
                flags = ReadWriteFlags::empty();
            }
            Err(Errno::INTR | Errno::AGAIN) if tries < TRIES_MAX => tries += 1,
            // One that failed for want of the device is not tried again: the kernel tells such an
            // error of a sync once.
            Err(errno) => return Err(errno),
        }
    }
    if op.sync && sync_after { rustix::fs::fdatasync(file) } else { Ok(()) }
}

/// Reads until all is there or the file ends, counting on `done`.
fn read_all(
    file: &File,
    op: &mut ReadOp,
    done: &mut usize,
    flags: ReadWriteFlags,
) -> Result<(), Errno> {
    let mut tries = 0;
    while *done < op.bytes.len() {
        let offset = op.offset + *done as u64;
        let rest = &mut op.bytes[*done..];
        let len = rest.len().min(CHUNK_BYTES_MAX);
        match preadv2(file, &mut [IoSliceMut::new(&mut rest[..len])], offset, flags) {
            Ok(0) => return Ok(()),
            Ok(more) => *done += more,
            Err(Errno::INTR) if tries < TRIES_MAX => tries += 1,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn written(op: LogOp, result: Result<(), Errno>) -> Completion {
    let errno = result.err().map_or(0, Errno::raw_os_error);
    Completion::LogWritten { bytes: op.bytes, errno }
}

fn read(op: ReadOp, result: Result<usize, Errno>) -> Completion {
    let ReadOp { tag, mut bytes, .. } = op;
    let (len, errno) = match result {
        Ok(len) => (len, 0),
        Err(errno) => (0, errno.raw_os_error()),
    };
    bytes.truncate(len);
    Completion::LogRead { tag, bytes, errno }
}
