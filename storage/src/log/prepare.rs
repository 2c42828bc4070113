//! What a log does off its shard's thread: segments made ahead of need, used again or deleted;
//! syncs of closed segments where not every batch is synced.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::files::{DiskSpace, Files, SegmentFile};
use super::format::{BLOCK_BYTES, Identity, SegmentHeader, segment_header, segment_name};
use crate::StoreFailure;

/// The longest pause between two pieces of zeros: a device that is slower is busy with the log.
const PAUSE_MAX: Duration = Duration::from_millis(5);
/// Zeros are written in pieces of this size.
const ZERO_BYTES: usize = 1 << 20;
/// How soon a preparation that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// How often the file system is asked what it has left while there is nothing to do.
const LOOK: Duration = Duration::from_secs(1);
/// Linux: no space left on device.
const ENOSPC: i32 = 28;
/// Linux: disk quota exceeded.
const EDQUOT: i32 = 122;
/// Linux: interrupted system call.
const EINTR: i32 = 4;
/// Linux: out of memory.
const ENOMEM: i32 = 12;
/// Linux: too many open files in the system.
const ENFILE: i32 = 23;
/// Linux: too many open files in the process.
const EMFILE: i32 = 24;
/// Linux: input/output error; stands for errors that have no number.
const EIO: i32 = 5;

/// A segment to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// For its header.
    pub(super) start: u64,
    /// For its header.
    pub(super) durable: u64,
}

/// What the shard's side asks for. Done in order, but that a preparation that fails is tried again
/// later.
#[derive(Debug)]
pub(super) enum Job {
    Prepare(Order),
    /// A segment that nothing needs; `reuse` if its file may become another segment.
    Free {
        number: u64,
        bytes: u64,
        reuse: bool,
    },
    /// Sync a file, whose last written position is `last` and whose last batch says `durable`.
    Sync {
        file: Box<dyn SegmentFile>,
        last: u64,
        durable: u64,
    },
    /// Delete the free segments: they will not be needed soon.
    Trim,
    /// Close a file.
    Close(Box<dyn SegmentFile>),
}

/// What comes back.
#[derive(Debug)]
pub(super) enum Answer {
    /// Segments become ready in the order in which they were asked for.
    Ready(Prepared),
    /// A preparation failed and will be tried again.
    Short(StoreFailure),
    Synced {
        last: u64,
        durable: u64,
    },
    /// The disk is broken: nothing may be relied on any more.
    Failed(StoreFailure),
    /// What there is for further segments.
    Room(Room),
}

/// What there is for further segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) disk: DiskSpace,
    /// Bytes of the free segments, which take space but nobody needs.
    pub(super) spare_bytes: u64,
}

/// A segment that is ready to be written.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) file: Box<dyn SegmentFile>,
}

/// Limits of a log's directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    pub(super) segment_bytes: u64,
    /// The most bytes that segments may take.
    pub(super) capacity_bytes: u64,
    /// The most free segments that are kept to be used again.
    pub(super) spares_max: usize,
}

/// Does the jobs.
#[derive(Debug)]
pub(super) struct Preparer {
    files: Arc<dyn Files>,
    identity: Identity,
    space: Space,
    used_bytes: u64,
    /// Numbers of free segments of the usual size.
    spares: Vec<u64>,
    orders: VecDeque<Order>,
    zeros: Vec<u8>,
    /// What was told of the room last.
    told: Option<Room>,
}

impl Preparer {
    /// `used_bytes`: what the directory's segments take, free ones included.
    pub(super) fn new(
        files: Arc<dyn Files>,
        identity: Identity,
        space: Space,
        used_bytes: u64,
    ) -> Preparer {
        Preparer {
            files,
            identity,
            space,
            used_bytes,
            spares: Vec::new(),
            orders: VecDeque::new(),
            zeros: Vec::new(),
            told: None,
        }
    }

    /// Does a job, and what earlier failed; answers through `answer`.
    pub(super) fn take(&mut self, job: Job, answer: &mut dyn FnMut(Answer)) {
        match job {
            Job::Prepare(order) => self.orders.push_back(order),
            Job::Free { number, bytes, reuse } => self.free(number, bytes, reuse),
            Job::Sync { file, last, durable } => answer(match file.sync() {
                Ok(()) => Answer::Synced { last, durable },
                Err(error) => Answer::Failed(failure("sync of a log segment", &error)),
            }),
            Job::Trim => {
                while let Some(spare) = self.spares.pop() {
                    self.free(spare, self.space.segment_bytes, false);
                }
            }
            Job::Close(file) => drop(file),
        }
        self.prepare(answer);
    }

    /// Makes the segments that are asked for, and tells what room there is.
    pub(super) fn prepare(&mut self, answer: &mut dyn FnMut(Answer)) {
        self.make_ordered(answer);
        // A file system that cannot say is asked again; until then what is known stands.
        let Ok(disk) = self.files.disk() else { return };
        let spare_bytes = self.spares.len() as u64 * self.space.segment_bytes;
        let room = Room { disk, spare_bytes };
        if self.told != Some(room) {
            self.told = Some(room);
            answer(Answer::Room(room));
        }
    }

    fn make_ordered(&mut self, answer: &mut dyn FnMut(Answer)) {
        while let Some(&order) = self.orders.front() {
            match self.make(order) {
                Ok(file) => {
                    self.orders.pop_front();
                    let Order { number, bytes, .. } = order;
                    answer(Answer::Ready(Prepared { number, bytes, file }));
                }
                Err(error) => {
                    let what = format!("preparation of {}", segment_name(order.number));
                    let failure = failure(&what, &error);
                    return answer(match lacks_something(failure.errno) {
                        true => Answer::Short(failure),
                        false => Answer::Failed(failure),
                    });
                }
            }
        }
    }

    /// True if a preparation waits to be tried again.
    pub(super) fn is_behind(&self) -> bool {
        !self.orders.is_empty()
    }

    fn make(&mut self, order: Order) -> io::Result<Box<dyn SegmentFile>> {
        let header = segment_header(&SegmentHeader {
            identity: self.identity,
            number: order.number,
            bytes: order.bytes,
            start: order.start,
            durable: order.durable,
        });
        if order.bytes == self.space.segment_bytes
            && let Some(spare) = self.spares.last().copied()
        {
            return self.make_of_spare(spare, order.number, &header);
        }
        // A segment for a large record is longer than the free ones, which make room for it.
        loop {
            let made = self.make_of_space(order, &header);
            match (&made, self.spares.pop()) {
                (Err(error), Some(spare)) if lacks_space(error) => {
                    self.free(spare, self.space.segment_bytes, false);
                }
                (_, spare) => {
                    self.spares.extend(spare);
                    return made;
                }
            }
        }
    }

    fn make_of_space(&mut self, order: Order, header: &[u8]) -> io::Result<Box<dyn SegmentFile>> {
        if self.used_bytes.saturating_add(order.bytes) > self.space.capacity_bytes {
            return Err(io::Error::from_raw_os_error(EDQUOT));
        }
        let name = segment_name(order.number);
        let made = self.make_new(&name, order.bytes, header);
        match made {
            Ok(_) => self.used_bytes += order.bytes,
            // Whatever was made of it takes space that others may need more.
            Err(_) => drop(self.files.remove(&name)),
        }
        made
    }

    /// The header goes first and the name second: under its old name the file is free whatever its
    /// header says, and under the new one nothing in it has the right number.
    fn make_of_spare(
        &mut self,
        spare: u64,
        number: u64,
        header: &[u8],
    ) -> io::Result<Box<dyn SegmentFile>> {
        let file = self.files.open_for_writing(&segment_name(spare))?;
        file.write(header, 0)?;
        file.sync()?;
        if spare != number {
            self.files.rename(&segment_name(spare), &segment_name(number))?;
        }
        // Should the next step fail, the file is found under this name.
        self.spares.pop();
        self.spares.push(number);
        self.files.sync_names()?;
        self.spares.pop();
        Ok(file)
    }

    fn make_new(
        &mut self,
        name: &str,
        bytes: u64,
        header: &[u8],
    ) -> io::Result<Box<dyn SegmentFile>> {
        let file = match self.files.create(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by a try that failed.
                self.files.remove(name)?;
                self.files.create(name)?
            }
            result => result?,
        };
        let block = BLOCK_BYTES as usize;
        self.zeros.resize(ZERO_BYTES + block, 0);
        // Nobody reads them, and the log writes whole blocks over them.
        let aligned = self.zeros.as_ptr().align_offset(block).min(block);
        let zeros = &self.zeros[aligned..aligned + ZERO_BYTES];
        let mut offset = header.len() as u64;
        while offset < bytes {
            let piece = (bytes - offset).min(ZERO_BYTES as u64) as usize;
            let begun = Instant::now();
            file.write_uncached(&zeros[..piece], offset)?;
            offset += piece as u64;
            if offset < bytes {
                // The syncs of the log wait for the device with these. One piece at a time, and
                // as long a pause, keeps them short.
                file.sync()?;
                std::thread::sleep(begun.elapsed().min(PAUSE_MAX));
            }
        }
        file.write(header, 0)?;
        file.sync()?;
        self.files.sync_names()?;
        Ok(file)
    }

    fn free(&mut self, number: u64, bytes: u64, reuse: bool) {
        let usual = bytes == self.space.segment_bytes;
        if reuse && usual && self.spares.len() < self.space.spares_max {
            self.spares.push(number);
        } else if self.files.remove(&segment_name(number)).is_ok() {
            // A name that stays is found and freed at the next start; nothing in it counts.
            self.used_bytes = self.used_bytes.saturating_sub(bytes);
        }
    }
}

/// Whether an error passes when files are removed.
fn lacks_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENOSPC | EDQUOT))
}

/// Whether an error passes when there is more of something: space, descriptors, memory. All others
/// say that the disk is broken, or that somebody has taken the directory away.
fn lacks_something(errno: i32) -> bool {
    matches!(errno, ENOSPC | EDQUOT | EINTR | ENOMEM | ENFILE | EMFILE)
}

pub(super) fn failure(what: &str, error: &io::Error) -> StoreFailure {
    StoreFailure { what: what.to_owned(), errno: error.raw_os_error().unwrap_or(EIO) }
}

/// The way to a [`Preparer`].
#[derive(Debug)]
pub(super) enum Desk {
    /// On a thread of its own.
    Thread {
        jobs: Option<Sender<Job>>,
        answers: Receiver<Answer>,
        /// An answer that was waited for.
        first: Option<Answer>,
        thread: Option<JoinHandle<()>>,
    },
    /// On the caller's thread, one job at each call of [`Desk::work`].
    Inline { preparer: Box<Preparer>, jobs: VecDeque<Job>, answers: VecDeque<Answer> },
}

impl Desk {
    /// A thread that works with `preparer`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn on_thread(mut preparer: Preparer) -> io::Result<Desk> {
        let (jobs, received) = channel();
        let (send, answers) = channel();
        let builder = std::thread::Builder::new().name("ringtide-store".to_owned());
        let thread = builder.spawn(move || serve(&mut preparer, &received, &send))?;
        Ok(Desk::Thread { jobs: Some(jobs), answers, first: None, thread: Some(thread) })
    }

    /// Does jobs on the caller's thread.
    pub(super) fn inline(preparer: Preparer) -> Desk {
        let (jobs, answers) = (VecDeque::new(), VecDeque::new());
        Desk::Inline { preparer: Box::new(preparer), jobs, answers }
    }

    /// Waits until the first job that is answered has been, whatever the answer.
    pub(super) fn wait(&mut self) {
        if let Desk::Thread { answers, first, .. } = self {
            *first = answers.recv().ok();
        }
    }

    /// Does one job if jobs are done on the caller's thread; false if there was none.
    pub(super) fn work(&mut self) -> bool {
        let Desk::Inline { preparer, jobs, answers } = self else { return false };
        let mut answer = |answer| answers.push_back(answer);
        match jobs.pop_front() {
            Some(job) => preparer.take(job, &mut answer),
            None if preparer.is_behind() => preparer.prepare(&mut answer),
            None => return false,
        }
        true
    }

    /// Asks for a job.
    pub(super) fn ask(&mut self, job: Job) {
        match self {
            // The thread ends only when this end is dropped.
            Desk::Thread { jobs, .. } => {
                if let Some(jobs) = jobs {
                    let _ = jobs.send(job);
                }
            }
            Desk::Inline { jobs, .. } => jobs.push_back(job),
        }
    }

    /// The next answer, if there is one.
    pub(super) fn answer(&mut self) -> Option<Answer> {
        match self {
            Desk::Thread { answers, first, .. } => first.take().or_else(|| answers.try_recv().ok()),
            Desk::Inline { answers, .. } => answers.pop_front(),
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Desk::Thread { jobs, thread, .. } = self {
            drop(jobs.take());
            // Whoever opens the log next must not meet this thread at work.
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn serve(preparer: &mut Preparer, jobs: &Receiver<Job>, answers: &Sender<Answer>) {
    let mut answer = |answer| {
        // Nobody listens any more when the log is being dropped.
        let _ = answers.send(answer);
    };
    loop {
        let wait = if preparer.is_behind() { RETRY } else { LOOK };
        match jobs.recv_timeout(wait) {
            Ok(job) => preparer.take(job, &mut answer),
            Err(RecvTimeoutError::Timeout) => preparer.prepare(&mut answer),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
