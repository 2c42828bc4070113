//! The threads that hash passwords. None of them is a shard: a check takes milliseconds.
//!
//! ```text
//!   shards --(bounded channel)--> dispatcher --(one at a time)--> worker 0, 1, ...
//!     ^                               ^                               |
//!     |                               +------- "I am free" -----------+
//!     +---- answer by the shard's own channel, and its waker ---------+
//! ```
//!
//! The dispatcher does nothing slow: it keeps those who wait in a [`FairQueue`], so that the
//! channel before it is short-lived. Who has waited for half of the time that the handshake had
//! left is told that the broker is busy: the rest would hardly do, and in a storm every check would
//! be for somebody who has gone.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Instant;

use ringtide_driver::Waker;
use ringtide_shard::access::Ticket;
use ringtide_shard::password::Answer;
use tracing::debug;

use super::Passwords;
use super::queue::{FairQueue, Origin};

/// Most checks that wait, and most that are on their way to those.
pub(super) const WAITING_MAX: usize = 4096;
/// Most threads that hash.
const WORKERS_MAX: usize = 8;
/// How much the threads leave to others: shards that have work go first.
const NICENESS: i32 = 10;

/// One check.
pub(super) struct Job {
    pub(super) ticket: Ticket,
    pub(super) username: Box<str>,
    pub(super) password: Box<[u8]>,
    pub(super) origin: Origin,
    /// Not begun after this.
    pub(super) until: Instant,
    pub(super) door: Arc<Door>,
}

/// The way back to one shard.
pub(super) struct Door {
    pub(super) answers: Sender<(Ticket, Answer)>,
    pub(super) waker: Option<Arc<dyn Waker>>,
}

/// What comes to the dispatcher.
pub(super) enum Message {
    Ask(Job),
    /// A worker has nothing to do.
    Free(usize),
}

impl Job {
    fn answer(self, answer: Answer) {
        // A shard that has ended asks for nothing any more.
        if self.door.answers.send((self.ticket, answer)).is_ok()
            && let Some(waker) = &self.door.waker
        {
            waker.wake();
        }
    }
}

/// Starts the threads. They end when `passwords` is gone.
///
/// # Errors
/// The system gives no thread.
pub(super) fn start(
    passwords: &Arc<Passwords>,
    messages: Receiver<Message>,
) -> std::io::Result<()> {
    let count = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    let mut workers = Vec::new();
    for number in 0..count {
        let (jobs, own) = mpsc::channel();
        let passwords = Arc::downgrade(passwords);
        let work = move || work(number, &passwords, &own);
        thread::Builder::new().name(format!("passwords-{number}")).spawn(work)?;
        workers.push(jobs);
    }
    let dispatch = move || dispatch(&messages, &workers);
    thread::Builder::new().name("passwords".to_owned()).spawn(dispatch)?;
    Ok(())
}

/// Gives each free worker the next check.
fn dispatch(messages: &Receiver<Message>, workers: &[Sender<Job>]) {
    let mut queue = FairQueue::new(WAITING_MAX);
    let mut free: Vec<usize> = (0..workers.len()).collect();
    while let Ok(message) = messages.recv() {
        match message {
            Message::Free(worker) => free.push(worker),
            Message::Ask(job) => {
                if let Some(out) = queue.push(job.origin, job) {
                    out.answer(Answer::Busy);
                }
            }
        }
        while let Some(worker) = free.pop() {
            let Some(job) = next(&mut queue) else {
                free.push(worker);
                break;
            };
            let _ = workers[worker].send(job);
        }
    }
}

/// The next check that is still worth its time.
fn next(queue: &mut FairQueue<Job>) -> Option<Job> {
    loop {
        let job = queue.pop()?;
        if Instant::now() <= job.until {
            return Some(job);
        }
        job.answer(Answer::Busy);
    }
}

/// A worker. Nobody but `passwords` itself keeps the dispatcher waiting for messages: with it all
/// threads end.
fn work(number: usize, passwords: &Weak<Passwords>, jobs: &Receiver<Job>) {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        debug!("passwords are checked at the shards' own priority: {error}");
    }
    while let Ok(job) = jobs.recv() {
        let Some(passwords) = passwords.upgrade() else { return };
        let answer = passwords.verify(&job.username, &job.password);
        job.answer(answer);
        if passwords.messages.send(Message::Free(number)).is_err() {
            return;
        }
    }
}
