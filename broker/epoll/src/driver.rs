//! The driver: its set-up, and the shard's commands. What the kernel tells is in `events`.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::BytesMut;
use ringtide_driver::{
    BufferId, Completion, Driver, ListenerId, LogOp, Outgoing, ReadOp, Socket, Token, Wait,
};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::accept::Acceptor;
use crate::buffers::Buffers;
use crate::events::{Exact, WAKER, room_for_events};
use crate::files::Files;
use crate::peers::{Arrival, EventWaker, Peers};
use crate::sends::{Pending, Spares, transmit};
use crate::sockets::{CLOSING, EXACT, ONCE, RECEIVE, RECEIVING, Sockets};

/// The number under which completions stand that concern no socket.
const NO_SOCKET: u32 = u32::MAX;
/// The lower 56 bits, which belong to a token or a tag.
const TOKEN_MASK: u64 = (1 << 56) - 1;

/// How to set a driver up.
#[derive(Debug)]
pub struct EpollConfig {
    /// This driver's shard.
    pub shard: u16,
    /// All drivers of the process.
    pub peers: Arc<Peers>,
    /// Listening sockets; the first is `ListenerId(0)`.
    pub listeners: Vec<OwnedFd>,
    /// Blocks that sockets are received into, at least 1.
    pub receive_blocks: u16,
    /// Bytes of each. A socket is received from in chunks of at most 8 KiB, or of a block.
    pub receive_block_bytes: u32,
}

impl EpollConfig {
    /// The usual values for one shard.
    pub fn new(shard: u16, peers: Arc<Peers>, listeners: Vec<OwnedFd>) -> EpollConfig {
        EpollConfig { shard, peers, listeners, receive_blocks: 64, receive_block_bytes: 64 * 1024 }
    }
}

/// What a driver has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls of epoll_wait.
    pub waits: u64,
    /// Sends begun.
    pub sends: u64,
    /// Sends that did not go out at once.
    pub stalls: u64,
    /// Receives that found no memory free.
    pub starved: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Sockets closed.
    pub closed: u64,
    /// Accepts that failed for want of descriptors or memory.
    pub accepts_failed: u64,
}

/// One shard's I/O over epoll. Lives on the thread that made it.
pub struct EpollDriver {
    pub(crate) epoll: OwnedFd,
    pub(crate) events: Vec<Event>,
    pub(crate) sockets: Sockets,
    pub(crate) buffers: Buffers,
    /// Completions that wait to be taken, oldest first, with their sockets' numbers.
    pub(crate) ready: VecDeque<(u32, Completion)>,
    /// Sockets that are to be read, the one that waits longest first.
    pub(crate) queue: VecDeque<u32>,
    pub(crate) exacts: HashMap<u32, Exact>,
    pub(crate) spares: Spares,
    pub(crate) acceptor: Acceptor,
    pub(crate) files: Files,
    pub(crate) peers: Arc<Peers>,
    pub(crate) waker: Arc<EventWaker>,
    pub(crate) shard: u16,
    pub(crate) stats: Stats,
    /// Sockets between `close` and `Closed`.
    closing: usize,
    /// Shards to be woken with the next submission.
    wakes: Vec<u16>,
}

impl EpollDriver {
    /// Sets a driver up.
    ///
    /// # Errors
    /// The process is out of descriptors or memory, `/proc` is not mounted, or `peers` has no such
    /// shard (`EINVAL`).
    pub fn new(config: EpollConfig) -> io::Result<EpollDriver> {
        let EpollConfig { shard, peers, listeners, receive_blocks, receive_block_bytes } = config;
        let waker = peers.waker(shard).ok_or(Errno::INVAL)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &*waker, EventData::new_u64(WAKER), flags)?;
        let files = Files::new(shard, Arc::clone(&waker))?;
        let acceptor = Acceptor::new(listeners)?;
        peers.open(shard);
        Ok(EpollDriver {
            epoll,
            events: room_for_events(),
            sockets: Sockets::default(),
            buffers: Buffers::new(receive_blocks, receive_block_bytes),
            ready: VecDeque::new(),
            queue: VecDeque::new(),
            exacts: HashMap::new(),
            spares: Spares::default(),
            acceptor,
            files,
            peers,
            waker,
            shard,
            stats: Stats::default(),
            closing: 0,
            wakes: Vec::new(),
        })
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Notes a completion that concerns no socket.
    pub(crate) fn tell(&mut self, completion: Completion) {
        self.ready.push_back((NO_SOCKET, completion));
    }

    fn want(&mut self, listener: ListenerId, wanted: bool) {
        if let Err(errno) = self.acceptor.want(&self.epoll, listener, wanted) {
            self.accept_failed(listener, errno);
        }
    }

    /// Keeps what a socket has not taken until it has room.
    #[cold]
    fn stall(&mut self, token: Token, number: u32, data: Outgoing, sent: usize) {
        let Some(entry) = self.sockets.open(number) else { return };
        self.stats.stalls += 1;
        entry.token = token.0;
        entry.pending = Some(Box::new(Pending { data, sent }));
        let mut completion = Completion::SendStalled { token };
        if let Err(errno) = self.watch_room(number, true) {
            if let Some(entry) = self.sockets.open(number) {
                entry.pending = None;
            }
            completion = Completion::SendFailed { token, errno: errno.raw_os_error() };
        }
        self.ready.push_back((number, completion));
    }

    /// A completion is taken: whether it may still be told. After a close only `Closed` may.
    #[cold]
    fn may_be_told(&mut self, number: u32, completion: &Completion) -> bool {
        let closing = self.sockets.at(number).is_some_and(|entry| entry.has(CLOSING));
        match completion {
            _ if !closing => true,
            Completion::Closed { .. } => {
                self.sockets.remove(number);
                self.closing -= 1;
                self.stats.closed += 1;
                true
            }
            Completion::Received { buffer, .. } => {
                self.buffers.release(buffer.index);
                false
            }
            _ => false,
        }
    }
}

impl Driver for EpollDriver {
    fn start_accept(&mut self, listener: ListenerId) {
        self.want(listener, true);
    }

    fn stop_accept(&mut self, listener: ListenerId) {
        self.want(listener, false);
    }

    fn start_receive(&mut self, token: Token, socket: Socket) {
        self.begin_receive(token, socket.0, RECEIVE);
    }

    fn receive_once(&mut self, token: Token, socket: Socket) {
        self.begin_receive(token, socket.0, ONCE);
    }

    fn stop_receive(&mut self, token: Token, socket: Socket) {
        let number = socket.0;
        let Some(entry) = self.sockets.open(number) else { return };
        entry.token = token.0;
        if entry.has(EXACT) {
            self.end_exact(number);
        } else {
            entry.clear(RECEIVING);
        }
        self.ready.push_back((number, Completion::Stopped { token }));
    }

    fn receive_exact(&mut self, token: Token, socket: Socket, buffer: BytesMut, until: usize) {
        let number = socket.0;
        if buffer.len() >= until {
            self.ready.push_back((number, Completion::ReceivedExact { token, buffer }));
        } else if self.begin_receive(token, number, EXACT) {
            self.exacts.insert(number, Exact { buffer, until });
        }
    }

    #[inline]
    fn bytes(&self, buffer: BufferId) -> &[u8] {
        self.buffers.bytes(buffer)
    }

    #[inline]
    fn bytes_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        self.buffers.bytes_mut(buffer)
    }

    #[inline]
    fn release(&mut self, buffer: BufferId) {
        self.buffers.release(buffer.index);
    }

    #[inline]
    fn send(&mut self, token: Token, socket: Socket, data: Outgoing) {
        let number = socket.0;
        let fd = self.sockets.open(number).and_then(|entry| entry.fd.as_ref());
        let Some(fd) = fd.filter(|_| !data.is_empty()) else {
            return self.spares.keep(data.head);
        };
        self.stats.sends += 1;
        let mut sent = 0;
        match transmit(fd, &data, &mut sent) {
            Ok(true) => self.spares.keep(data.head),
            Ok(false) => self.stall(token, number, data, sent),
            Err(errno) => {
                self.spares.keep(data.head);
                let errno = errno.raw_os_error();
                self.ready.push_back((number, Completion::SendFailed { token, errno }));
            }
        }
    }

    #[inline]
    fn reclaim(&mut self) -> Option<Vec<u8>> {
        self.spares.take()
    }

    fn close(&mut self, token: Token, socket: Socket) {
        let Some(entry) = self.sockets.open(socket.0) else { return };
        // epoll forgets a socket that is closed.
        entry.fd = None;
        entry.set(CLOSING);
        self.exacts.remove(&socket.0);
        if let Some(pending) = entry.pending.take() {
            self.spares.keep(pending.data.head);
        }
        self.closing += 1;
        self.ready.push_back((socket.0, Completion::Closed { token }));
    }

    fn hand_over(&mut self, socket: Socket, to: u16, tag: u64) -> Option<Socket> {
        let fd = self.sockets.open(socket.0).and_then(|entry| entry.fd.take());
        let handed_over = fd.is_some_and(|fd| {
            // The descriptor lives on, so epoll would not forget it by itself. It would tell of it
            // under a number that may be another socket's by then, which does no harm.
            let _ = epoll::delete(&self.epoll, &fd);
            self.sockets.remove(socket.0);
            tag <= TOKEN_MASK && self.peers.hand_over(to, Arrival { tag, socket: fd })
        });
        if !handed_over {
            let errno = Errno::INVAL.raw_os_error();
            self.tell(Completion::HandOverFailed { tag, errno });
        }
        None
    }

    fn wake(&mut self, to: u16) {
        if !self.wakes.contains(&to) {
            self.wakes.push(to);
        }
    }

    fn write_log(&mut self, write: LogOp) {
        if let Some(completion) = self.files.write(write) {
            self.tell(completion);
        }
    }

    fn read_log(&mut self, read: ReadOp) {
        if let Some(completion) = self.files.read(read) {
            self.tell(completion);
        }
    }

    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        while let Some(shard) = self.wakes.pop() {
            self.peers.wake(shard);
        }
        let pause = loop {
            match self.acceptor.next_over() {
                Ok(listener) => self.want(listener, self.acceptor.is_wanted(listener)),
                Err(pause) => break pause,
            }
        };
        let has_work = !self.queue.is_empty() && self.buffers.has_room();
        let wait = match (wait, pause) {
            _ if has_work || !self.ready.is_empty() => Wait::Poll,
            (Wait::AtMost(time), Some(pause)) => Wait::AtMost(time.min(pause)),
            (wait, _) => wait,
        };
        self.wait(wait)?;
        self.read_sockets();
        Ok(())
    }

    #[inline]
    fn next(&mut self) -> Option<Completion> {
        loop {
            let (number, completion) = self.ready.pop_front()?;
            if self.closing == 0 || self.may_be_told(number, &completion) {
                return Some(completion);
            }
        }
    }
}

impl Drop for EpollDriver {
    fn drop(&mut self) {
        self.peers.close(self.shard);
    }
}
