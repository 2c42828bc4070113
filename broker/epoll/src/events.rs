//! The wait, and what the kernel tells after it: which sockets are read, resumed or accepted.

use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::BytesMut;
use ringtide_driver::{Completion, ListenerId, Socket, Token, Wait};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::accept::Accepted;
use crate::driver::EpollDriver;
use crate::peers::Arrival;
use crate::sends::transmit;
use crate::sockets::{ARMED, EXACT, Entry, HANGUP, ONCE, QUEUED, READABLE, RECEIVE, RECEIVING};

/// Marks a listener's events; the rest is its number.
pub(crate) const LISTENER: u64 = 1 << 32;
/// Marks the waker's events.
pub(crate) const WAKER: u64 = 1 << 33;

/// Events taken at once; more stay with the kernel for the next turn. So few that what a turn
/// receives is in the cache when it is sent: with 512 a message took a fifth to a third more CPU.
const EVENTS_MAX: usize = 32;
/// The longest wait: epoll counts milliseconds in 31 bits.
const WAIT_MAX: Duration = Duration::from_secs(1_000_000);
/// Connections that one listener gives in a turn.
const ACCEPTS_MAX: usize = 64;
/// Bytes received from one socket in a turn: enough for a burst of messages, few enough that one
/// that floods does not keep the others waiting.
const CHUNK_BYTES_MAX: usize = 8192;
/// Bytes received from a socket that is asked for one chunk.
const ONCE_BYTES_MAX: usize = 4096;
/// Bytes received into a caller's buffer at once: the buffer grows as they come.
const EXACT_BYTES_MAX: usize = 64 * 1024;

/// Room for the events of one wait.
pub(crate) fn room_for_events() -> Vec<Event> {
    Vec::with_capacity(EVENTS_MAX)
}

/// A frame that is received into its caller's buffer.
#[derive(Debug)]
pub(crate) struct Exact {
    pub(crate) buffer: BytesMut,
    pub(crate) until: usize,
}

/// What one receive gave.
enum Chunk {
    /// Bytes, and whether there may be more of them now.
    Bytes { len: usize, more: bool },
    /// Nothing: the socket is read dry.
    Dry,
    /// The end (0) or an error.
    Ended(i32),
}

fn chunk(fd: &OwnedFd, room: &mut [u8]) -> Chunk {
    let asked = room.len();
    loop {
        match recv(fd, &mut *room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Chunk::Ended(0),
            Ok((len, _)) => return Chunk::Bytes { len, more: len == asked },
            Err(Errno::AGAIN) => return Chunk::Dry,
            Err(Errno::INTR) => {}
            Err(errno) => return Chunk::Ended(errno.raw_os_error()),
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

/// What epoll tells of every socket.
fn always() -> EventFlags {
    EventFlags::IN | EventFlags::RDHUP | EventFlags::ET
}

impl EpollDriver {
    /// Lets the kernel tell when a socket has room, or no longer. It tells at once if there is.
    pub(crate) fn watch_room(&mut self, number: u32, on: bool) -> Result<(), Errno> {
        let Some(entry) = self.sockets.open(number) else { return Ok(()) };
        let Some(fd) = entry.fd.as_ref().filter(|_| entry.has(ARMED) != on) else { return Ok(()) };
        let mut flags = always();
        flags.set(EventFlags::OUT, on);
        epoll::modify(&self.epoll, fd, EventData::new_u64(number.into()), flags)?;
        if on {
            entry.set(ARMED)
        } else {
            entry.clear(ARMED)
        }
        Ok(())
    }

    /// Waits for events and takes them in.
    ///
    /// # Errors
    /// epoll itself has failed.
    pub(crate) fn wait(&mut self, wait: Wait) -> Result<(), Errno> {
        let mut time = match wait {
            Wait::Poll => Duration::ZERO,
            Wait::AtMost(time) => time.min(WAIT_MAX),
        };
        if time > Duration::ZERO && time < Duration::from_millis(1) {
            // epoll_wait would make a millisecond of it, and its successor that would not may be
            // unknown to the kernel, or to a filter of system calls.
            let mut all = [PollFd::new(&self.epoll, PollFlags::IN)];
            match poll(&mut all, Some(&timespec(time))) {
                Ok(_) | Err(Errno::INTR) => time = Duration::ZERO,
                Err(errno) => return Err(errno),
            }
        }
        let mut told = std::mem::take(&mut self.events);
        told.clear();
        self.stats.waits += 1;
        match epoll::wait(&self.epoll, spare_capacity(&mut told), Some(&timespec(time))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        for event in &told {
            let (data, flags) = (event.data.u64(), event.flags);
            if data < LISTENER {
                self.socket_ready(data as u32, flags);
            } else if data == WAKER {
                self.woken();
            } else {
                self.listener_ready(ListenerId(data as u16));
            }
        }
        self.events = told;
        Ok(())
    }

    #[inline]
    fn socket_ready(&mut self, number: u32, flags: EventFlags) {
        let Some(entry) = self.sockets.open(number) else { return };
        let end = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if flags.intersects(EventFlags::IN | end) {
            entry.set(READABLE);
            if flags.intersects(end) {
                entry.set(HANGUP);
            }
            if entry.has(RECEIVING) && !entry.has(QUEUED) {
                entry.set(QUEUED);
                self.queue.push_back(number);
            }
        }
        if entry.pending.is_some() {
            if flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
                self.resume(number);
            }
        } else if flags == EventFlags::OUT {
            // Some kinds of socket tell of room whenever their peer reads. One that cannot be
            // unwatched wakes the shard for nothing.
            let _ = self.watch_room(number, false);
        }
    }

    /// Goes on with a send that had stalled.
    #[cold]
    fn resume(&mut self, number: u32) {
        let Some(entry) = self.sockets.open(number) else { return };
        let token = Token(entry.token);
        let (Some(fd), Some(pending)) = (&entry.fd, &mut entry.pending) else { return };
        let completion = match transmit(fd, &pending.data, &mut pending.sent) {
            Ok(false) => return,
            Ok(true) => Completion::Sent { token },
            Err(errno) => Completion::SendFailed { token, errno: errno.raw_os_error() },
        };
        if let Some(pending) = entry.pending.take() {
            self.spares.keep(pending.data.head);
        }
        self.ready.push_back((number, completion));
    }

    fn woken(&mut self) {
        self.waker.noticed();
        for Arrival { tag, socket } in self.peers.arrivals(self.shard) {
            let completion = match self.adopt(socket) {
                Ok(number) => Completion::Arrived { tag, socket: Socket(number) },
                Err(errno) => Completion::HandOverFailed { tag, errno: errno.raw_os_error() },
            };
            self.tell(completion);
        }
        for completion in self.files.ended() {
            self.tell(completion);
        }
        self.tell(Completion::Woken);
    }

    /// Takes a socket in: owned, numbered, and registered once and for all but its room to send.
    fn adopt(&mut self, fd: OwnedFd) -> Result<u32, Errno> {
        let number = self.sockets.insert(fd);
        let fd =
            self.sockets.open(number).and_then(|entry| entry.fd.as_ref()).ok_or(Errno::BADF)?;
        let data = EventData::new_u64(number.into());
        if let Err(errno) = epoll::add(&self.epoll, fd, data, always()) {
            self.sockets.remove(number);
            return Err(errno);
        }
        Ok(number)
    }

    fn listener_ready(&mut self, listener: ListenerId) {
        for _ in 0..ACCEPTS_MAX {
            let errno = match self.acceptor.accept(&self.epoll, listener) {
                Accepted::Nobody => return,
                Accepted::Failed(errno) => errno,
                Accepted::Connection(fd, peer) => match self.adopt(fd) {
                    Ok(number) => {
                        self.stats.accepted += 1;
                        let socket = Socket(number);
                        self.tell(Completion::Accepted { listener, socket, peer });
                        continue;
                    }
                    Err(errno) => {
                        self.acceptor.rest(&self.epoll, listener);
                        errno.raw_os_error()
                    }
                },
            };
            self.accept_failed(listener, errno);
            return;
        }
    }

    pub(crate) fn accept_failed(&mut self, listener: ListenerId, errno: i32) {
        self.stats.accepts_failed += 1;
        self.tell(Completion::AcceptFailed { listener, errno });
    }

    /// Reads each socket that waits for it once, as long as there is room.
    pub(crate) fn read_sockets(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(number) = self.queue.pop_front() else { return };
            let Some(entry) = self.sockets.open(number) else { continue };
            entry.clear(QUEUED);
            if !entry.has(RECEIVING) || !entry.has(READABLE) {
                continue;
            }
            let again = if entry.has(EXACT) {
                self.receive_into_own(number)
            } else if self.buffers.has_room() {
                self.receive(number)
            } else {
                entry.set(QUEUED);
                self.queue.push_front(number);
                self.stats.starved += 1;
                return;
            };
            if again && let Some(entry) = self.sockets.open(number) {
                entry.set(QUEUED);
                self.queue.push_back(number);
            }
        }
    }

    /// Receives once into pooled memory; a second time where only the end is left. True if more is
    /// to be received in the next turn.
    #[inline]
    fn receive(&mut self, number: u32) -> bool {
        let EpollDriver { sockets, buffers, ready, .. } = self;
        let Some(entry) = sockets.open(number) else { return false };
        let token = Token(entry.token);
        let most = if entry.has(ONCE) { ONCE_BYTES_MAX } else { CHUNK_BYTES_MAX };
        loop {
            let (Some(fd), Some(room)) = (&entry.fd, buffers.room(most)) else { return true };
            let more = match chunk(fd, room) {
                Chunk::Bytes { len, more } => {
                    let buffer = buffers.take(len);
                    ready.push_back((number, Completion::Received { token, buffer }));
                    more
                }
                Chunk::Dry => {
                    entry.clear(READABLE);
                    return false;
                }
                Chunk::Ended(errno) => {
                    entry.clear(RECEIVE | ONCE);
                    ready.push_back((number, Completion::Ended { token, errno }));
                    return false;
                }
            };
            if !more && !entry.has(HANGUP) {
                // Whatever comes now brings a new edge.
                entry.clear(READABLE);
            }
            if entry.has(ONCE) {
                entry.clear(ONCE);
                return false;
            }
            if more || !entry.has(HANGUP) {
                return more;
            }
        }
    }

    /// Receives into a caller's buffer. True if more is to be received in the next turn.
    #[cold]
    fn receive_into_own(&mut self, number: u32) -> bool {
        let EpollDriver { sockets, exacts, .. } = self;
        let Some(entry) = sockets.open(number) else { return false };
        let (Some(fd), Some(exact)) = (&entry.fd, exacts.get_mut(&number)) else { return false };
        let have = exact.buffer.len();
        let wanted = (exact.until - have).min(EXACT_BYTES_MAX);
        exact.buffer.resize(have + wanted, 0);
        let chunk = chunk(fd, &mut exact.buffer[have..]);
        let (len, errno) = match chunk {
            Chunk::Bytes { len, more } => {
                if !more && !entry.has(HANGUP) {
                    entry.clear(READABLE);
                }
                (len, None)
            }
            Chunk::Dry => {
                entry.clear(READABLE);
                (0, None)
            }
            Chunk::Ended(errno) => (0, Some(errno)),
        };
        exact.buffer.truncate(have + len);
        if exact.buffer.len() < exact.until && errno.is_none() {
            return entry.has(READABLE);
        }
        let token = Token(entry.token);
        self.end_exact(number);
        if let Some(errno) = errno {
            self.ready.push_back((number, Completion::Ended { token, errno }));
        }
        false
    }

    /// Gives a caller's buffer back with what is in it.
    pub(crate) fn end_exact(&mut self, number: u32) {
        let Some(entry) = self.sockets.open(number) else { return };
        entry.clear(EXACT);
        let token = Token(entry.token);
        if let Some(Exact { buffer, .. }) = self.exacts.remove(&number) {
            self.ready.push_back((number, Completion::ReceivedExact { token, buffer }));
        }
    }

    /// Puts a socket whose receive has just been asked for into the queue, if it is known to have
    /// something.
    pub(crate) fn begin_receive(&mut self, token: Token, number: u32, flag: u8) -> bool {
        let Some(entry) = self.sockets.open(number).filter(|entry| !entry.has(RECEIVING)) else {
            return false;
        };
        begin(entry, token, flag);
        if entry.has(READABLE) && !entry.has(QUEUED) {
            entry.set(QUEUED);
            self.queue.push_back(number);
        }
        true
    }
}

fn begin(entry: &mut Entry, token: Token, flag: u8) {
    entry.token = token.0;
    entry.set(flag);
}
