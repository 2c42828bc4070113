//! The driver over io_uring.
//!
//! Owns one ring and all that is in flight on it: accepts, receives, sends, closes, wakes. Knows
//! nothing of MQTT. Commands are in this file, completions in `reap`; the parts each own one
//! piece of state: `ring` the queues, `buffers` the receive pool, `sends` the bytes on their way
//! out, `exact` the receives into callers' buffers, `accept` the listeners, `log` the write to the
//! log, `table` which sockets have something in flight.

mod accept;
mod buffers;
mod exact;
mod handovers;
mod kind;
mod log;
pub mod probe;
mod reap;
pub(crate) mod ring;
mod sends;
mod table;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use io_uring::squeue::{self, Flags};
use io_uring::{IoUring, opcode, types};
use ringtide_driver::{
    BufferId, Completion, Driver, ListenerId, LogOp, Outgoing, ReadOp, Socket, Token, Wait,
};

use crate::peers::{EventWaker, Peers};
use crate::{memlock, sys};
use accept::Acceptor;
use buffers::{Buffers, GROUP};
use exact::Exacts;
use handovers::HandOvers;
use kind::Kind;
use log::LogIo;
use ring::Ring;
use sends::Sends;
use table::{
    CLOSE_PENDING, CLOSING, EXACT, ONCE, RECEIVE, RECEIVING, SENDING, STARVED, STOPPING, Table,
};

/// Rounds of cancelling at the end; one is enough unless operations keep restarting.
const CANCEL_ROUNDS_MAX: u32 = 100;

/// How a driver names its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptors {
    /// Descriptors of the process: RLIMIT_NOFILE counts them, every tool sees them.
    Plain,
    /// Slots in the ring's own table, which no other limit counts.
    Direct {
        /// Slots in the table: the most sockets that this driver can hold.
        slots_max: u32,
    },
}

/// How to set a driver up.
#[derive(Debug)]
pub struct UringConfig {
    /// This driver's shard.
    pub shard: u16,
    /// All drivers of the process.
    pub peers: Arc<Peers>,
    /// Listening sockets; the first is `ListenerId(0)`.
    pub listeners: Vec<OwnedFd>,
    /// Entries of the submission queue, rounded up to a power of two.
    pub submission_entries: u32,
    /// Entries of the completion queue; `None` means four times the submission queue.
    pub completion_entries: Option<u32>,
    /// Pooled receive buffers: a power of two, 1..=32768.
    pub receive_buffers: u16,
    /// Bytes of each.
    pub receive_buffer_bytes: u32,
    /// Plain or direct descriptors.
    pub descriptors: Descriptors,
    /// Let every send post a completion: for kernels on which skipping them did not probe as
    /// working.
    pub counted_sends: bool,
    /// Above this many receives in flight a close uses shutdown(2) instead of a cancel, whose
    /// cost grows with them. Plain descriptors only.
    pub cancel_scan_max: u32,
    /// The most entries that one enter is told of; for tests of short submits.
    pub submit_max: Option<u32>,
}

impl UringConfig {
    /// The usual values for one shard.
    pub fn new(shard: u16, peers: Arc<Peers>, listeners: Vec<OwnedFd>) -> UringConfig {
        UringConfig {
            shard,
            peers,
            listeners,
            submission_entries: 1024,
            completion_entries: None,
            receive_buffers: 1024,
            receive_buffer_bytes: 4096,
            descriptors: Descriptors::Plain,
            counted_sends: false,
            cancel_scan_max: 4096,
            submit_max: None,
        }
    }
}

/// Descriptors of a host (an executor's own rings) that a driver watches while it sleeps.
#[derive(Clone, Debug, Default)]
pub struct HostWatch {
    pub(crate) fds: Vec<RawFd>,
    pub(crate) ready: Rc<Cell<bool>>,
}

/// What a driver has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls of io_uring_enter.
    pub enters: u64,
    /// Enters that took fewer entries than were queued.
    pub short_submits: u64,
    /// Times that the completion queue had overflowed or had to be emptied to go on.
    pub overflows: u64,
    /// Sends begun.
    pub sends: u64,
    /// Sends that did not go out at once.
    pub stalls: u64,
    /// Receives that found no free buffer.
    pub starved: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Sockets closed.
    pub closed: u64,
    /// Accepts that failed for want of descriptors or memory.
    pub accepts_failed: u64,
}

fn set_up(config: &UringConfig) -> io::Result<(IoUring, Buffers)> {
    let completions =
        config.completion_entries.unwrap_or(config.submission_entries.saturating_mul(4));
    let uring = ring::build(config.submission_entries, completions)?;
    let buffers = Buffers::new(&uring, config.receive_buffers, config.receive_buffer_bytes)?;
    Ok((uring, buffers))
}

/// One shard's I/O over io_uring. Lives on the thread that made it.
pub struct UringDriver {
    // The ring is dropped before the memory that the kernel may use through it.
    ring: Ring,
    table: Table,
    buffers: Buffers,
    sends: Sends,
    exacts: Exacts,
    acceptor: Acceptor,
    log: LogIo,
    /// Completions that came together with another one, oldest first.
    ready: VecDeque<Completion>,
    /// Tokens whose receive waits for a free buffer, oldest first.
    starved: VecDeque<u64>,
    /// Closes that end by shutdown(2) once the turn's sends are out.
    shutdowns: Vec<u64>,
    handovers: HandOvers,
    /// Tokens between `close` and `Closed`.
    closing: usize,
    /// Shards to be woken with the next submission.
    wakes: Vec<u16>,
    peers: Arc<Peers>,
    shard: u16,
    waker: Arc<EventWaker>,
    /// Where the kernel puts the eventfd's count.
    event_count: Box<u64>,
    watch: HostWatch,
    /// `FIXED_FILE` for direct descriptors.
    file_flags: Flags,
    direct: bool,
    cancel_scan_max: usize,
}

impl UringDriver {
    /// Sets a driver up on the calling thread, which must be the one that uses it.
    ///
    /// # Errors
    /// The kernel refuses the ring or the buffers; [`probe`] explains why, and an error for want
    /// of memory says how much may be locked and how much is needed.
    pub fn new(config: UringConfig, watch: HostWatch) -> io::Result<UringDriver> {
        let (uring, buffers) = set_up(&config).map_err(|error| memlock::explain(error, &config))?;
        let direct = match config.descriptors {
            Descriptors::Plain => false,
            Descriptors::Direct { slots_max } => {
                uring.submitter().register_files_sparse(slots_max)?;
                true
            }
        };
        let waker = config.peers.waker(config.shard);
        let waker = waker.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let mut driver = UringDriver {
            ring: Ring::new(uring, config.submit_max),
            table: Table::new(),
            buffers,
            sends: Sends::new(config.counted_sends),
            exacts: Exacts::default(),
            acceptor: Acceptor::new(config.listeners, direct),
            log: LogIo::default(),
            ready: VecDeque::new(),
            starved: VecDeque::new(),
            shutdowns: Vec::new(),
            handovers: HandOvers::default(),
            closing: 0,
            wakes: Vec::new(),
            peers: config.peers,
            shard: config.shard,
            waker,
            event_count: Box::new(0),
            watch,
            file_flags: if direct { Flags::FIXED_FILE } else { Flags::empty() },
            direct,
            cancel_scan_max: config.cancel_scan_max as usize,
        };
        driver.bound_workers();
        driver.read_event();
        for index in 0..driver.watch.fds.len() {
            driver.watch_host(index);
        }
        driver.peers.publish(driver.shard, driver.ring.uring().as_raw_fd());
        Ok(driver)
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.ring.stats
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: every entry of this driver points either to nothing, or to memory that the
        // driver owns until the entry's completion has been read: `sends` (until settled or
        // advanced), `exacts`, the acceptor's slots, `log`, `event_count`. `Drop` sees to it
        // that nothing is in flight when they go.
        unsafe { self.ring.push(entry) };
    }

    /// Arms the read of the eventfd through which threads wake this driver.
    fn read_event(&mut self) {
        let fd = types::Fd(self.waker.fd());
        let count = (&raw mut *self.event_count).cast();
        let entry = opcode::Read::new(fd, count, 8).build();
        self.push(&entry.user_data(Kind::EventRead.with(0)));
    }

    /// Arms the poll of one of the host's descriptors.
    fn watch_host(&mut self, index: usize) {
        if let Some(&fd) = self.watch.fds.get(index) {
            let entry = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32).multi(true);
            self.push(&entry.build().user_data(Kind::Host.with(index as u64)));
        }
    }

    fn push_receive(&mut self, token: u64, socket: u32, once: bool) {
        let fd = types::Fd(socket as i32);
        let entry = if once {
            opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(GROUP)
                .build()
                .flags(Flags::BUFFER_SELECT)
                .user_data(Kind::ReceiveOnce.with(token))
        } else {
            opcode::RecvMulti::new(fd, GROUP).build().user_data(Kind::Receive.with(token))
        };
        self.push(&entry.flags(self.file_flags));
    }

    fn begin_receive(&mut self, token: u64, socket: u32, flag: u8) {
        let entry = self.table.open(token, socket);
        if entry.has(RECEIVING | STOPPING | CLOSING) {
            return;
        }
        entry.set(flag);
        self.push_receive(token, socket, flag == ONCE);
    }

    /// Asks the kernel to end what is in flight for a token: `target` is its `user_data`.
    fn push_cancel(&mut self, target: u64, answer: Kind, token: u64) {
        let entry = opcode::AsyncCancel::new(target).build().flags(Flags::SKIP_SUCCESS);
        self.push(&entry.user_data(answer.with(token)));
    }

    /// Cancels the receive that an entry's flags name.
    fn cancel_receive(&mut self, token: u64, entry: table::Entry) {
        let kind = if entry.has(STARVED) {
            return;
        } else if entry.has(RECEIVE) {
            Kind::Receive
        } else if entry.has(ONCE) {
            Kind::ReceiveOnce
        } else if entry.has(EXACT) {
            Kind::ReceiveExact
        } else {
            return;
        };
        self.push_cancel(kind.with(token), Kind::CancelReceive, token);
    }

    fn push_close(&mut self, token: u64, socket: u32) {
        let entry = if self.direct {
            opcode::Close::new(types::Fixed(socket)).build()
        } else {
            opcode::Close::new(types::Fd(socket as i32)).build()
        };
        self.push(&entry.user_data(Kind::Close.with(token)));
    }

    /// The first half of a close by shutdown(2) is done when the sends before it are out.
    fn shut_down(&mut self) {
        while let Some(token) = self.shutdowns.pop() {
            if let Some(socket) = self.table.find(token).map(|entry| entry.socket) {
                sys::shutdown(socket as RawFd);
                self.push_close(token, socket);
            }
        }
    }

    /// Puts starved receives back into the kernel, as many as there are buffers: more would only
    /// come back. True if some are left although buffers are free.
    fn rearm_starved(&mut self) -> bool {
        let mut room = self.buffers.free();
        while room > 0 {
            let Some(token) = self.starved.pop_front() else { return false };
            let Some(entry) = self.table.find(token) else { continue };
            if !entry.has(STARVED) {
                continue;
            }
            entry.clear(STARVED);
            let (socket, once) = (entry.socket, entry.has(ONCE));
            self.push_receive(token, socket, once);
            room -= 1;
        }
        self.buffers.free() > 0 && !self.starved.is_empty()
    }

    fn push_wakes(&mut self) {
        while let Some(shard) = self.wakes.pop() {
            let Some(ring) = self.peers.ring(shard) else {
                self.peers.ring_bell(shard);
                continue;
            };
            let wake = Kind::Wake.with(0);
            let entry = opcode::MsgRingData::new(types::Fd(ring), 0, wake, None).build();
            let answer = Kind::WakeFailed.with(u64::from(shard));
            self.push(&entry.flags(Flags::SKIP_SUCCESS).user_data(answer));
        }
    }

    fn arm_accepts(&mut self, listener: ListenerId) {
        let ring = &mut self.ring;
        self.acceptor.arm(listener, |entry| {
            // SAFETY: the acceptor owns the slots that its entries point to, and does not touch
            // them before the accept has completed.
            unsafe { ring.push(&entry) };
        });
    }

    /// Cancels all that is in flight and waits for it, so that the kernel writes to none of the
    /// driver's memory when that is freed. Sockets that were closing are closed.
    fn end_everything(&mut self) {
        self.shut_down();
        let answer = Kind::Ignored.with(0);
        let wait = Wait::AtMost(Duration::from_millis(20));
        for _ in 0..CANCEL_ROUNDS_MAX {
            let cancel =
                opcode::AsyncCancel2::new(types::CancelBuilder::any()).build().user_data(answer);
            self.push(&cancel);
            if self.ring.submit_and_wait(wait).is_err() {
                break;
            }
            let mut ended = 0;
            while let Some(entry) = self.ring.next() {
                ended += u32::from(entry.user_data() != answer);
            }
            if ended == 0 {
                break;
            }
        }
    }

    fn resume_accepts(&mut self) -> Option<Duration> {
        let mut resumed = Vec::new();
        let rest = self.acceptor.resume(|listener| resumed.push(listener));
        for listener in resumed {
            self.arm_accepts(listener);
        }
        rest
    }
}

impl Driver for UringDriver {
    fn start_accept(&mut self, listener: ListenerId) {
        self.acceptor.want(listener, true);
        self.arm_accepts(listener);
    }

    fn stop_accept(&mut self, listener: ListenerId) {
        if !self.acceptor.want(listener, false) {
            return;
        }
        for target in self.acceptor.in_flight(listener) {
            self.push_cancel(target, Kind::Ignored, 0);
        }
    }

    fn start_receive(&mut self, token: Token, socket: Socket) {
        self.begin_receive(token.0, socket.0, RECEIVE);
    }

    fn receive_once(&mut self, token: Token, socket: Socket) {
        self.begin_receive(token.0, socket.0, ONCE);
    }

    fn stop_receive(&mut self, token: Token, socket: Socket) {
        let entry = self.table.open(token.0, socket.0);
        if entry.has(STOPPING | CLOSING) {
            return;
        }
        if entry.has(RECEIVING) && !entry.has(STARVED) {
            entry.set(STOPPING);
            let entry = *entry;
            self.cancel_receive(token.0, entry);
            return;
        }
        entry.clear(RECEIVING | STARVED);
        if entry.is_idle() {
            self.table.remove(token.0);
        }
        self.ready.push_back(Completion::Stopped { token });
    }

    fn receive_exact(&mut self, token: Token, socket: Socket, buffer: BytesMut, until: usize) {
        let entry = self.table.open(token.0, socket.0);
        if entry.has(RECEIVING | CLOSING) {
            return;
        }
        match self.exacts.start(token.0, socket.0, buffer, until) {
            Ok(operation) => {
                entry.set(EXACT);
                self.push(&operation.flags(self.file_flags));
            }
            Err(buffer) => {
                if entry.is_idle() {
                    self.table.remove(token.0);
                }
                self.ready.push_back(Completion::ReceivedExact { token, buffer });
            }
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
        let token = token.0;
        let send = self.sends.adopt(token, socket.0, self.ring.position(), data);
        if send.is_empty() || (self.closing > 0 && self.is_closing(token)) {
            self.sends.recycle(send);
            return;
        }
        self.ring.stats.sends += 1;
        if !send.is_one_operation() {
            self.stall(send, 0);
            self.ready.push_back(Completion::SendStalled { token: Token(token) });
            return;
        }
        let entry = self.sends.queue(send).flags(self.file_flags);
        self.push(&entry);
    }

    #[inline]
    fn reclaim(&mut self) -> Option<Vec<u8>> {
        self.sends.spare()
    }

    fn close(&mut self, token: Token, socket: Socket) {
        let entry = self.table.open(token.0, socket.0);
        if entry.has(CLOSING) {
            return;
        }
        if entry.has(STARVED) {
            entry.clear(RECEIVING | STARVED);
        }
        entry.set(CLOSING | CLOSE_PENDING);
        entry.clear(STOPPING);
        let entry = *entry;
        self.closing += 1;
        if !entry.has(RECEIVING | SENDING) {
            self.push_close(token.0, socket.0);
        } else if self.direct || self.table.len() <= self.cancel_scan_max {
            self.cancel_receive(token.0, entry);
            if entry.has(SENDING) {
                let target = Kind::SendRest.with(token.0);
                self.push_cancel(target, Kind::CancelSend, token.0);
            }
            self.push_close(token.0, socket.0);
        } else {
            self.shutdowns.push(token.0);
        }
    }

    fn hand_over(&mut self, socket: Socket, to: u16, tag: u64) -> Option<Socket> {
        if !self.direct {
            return Some(socket);
        }
        self.send_descriptor(socket.0, to, tag);
        None
    }

    fn wake(&mut self, to: u16) {
        if !self.wakes.contains(&to) {
            self.wakes.push(to);
        }
    }

    fn write_log(&mut self, write: LogOp) {
        self.begin_log_write(write);
    }

    fn read_log(&mut self, read: ReadOp) {
        self.begin_log_read(read);
    }

    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        self.settle();
        self.buffers.publish();
        let starving = self.rearm_starved();
        let pause = self.resume_accepts();
        self.push_wakes();
        let wait = match (wait, pause) {
            _ if starving || !self.ready.is_empty() => Wait::Poll,
            (Wait::AtMost(time), Some(pause)) => Wait::AtMost(time.min(pause)),
            (wait, _) => wait,
        };
        // A close by shutdown(2) comes between two submissions: only then are the sends that
        // were queued before it out.
        let wait = if self.shutdowns.is_empty() { wait } else { Wait::Poll };
        self.ring.submit_and_wait(wait)?;
        self.shut_down();
        Ok(())
    }

    #[inline]
    fn next(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.ready.pop_front() {
                return Some(completion);
            }
            let Some(entry) = self.ring.next() else {
                self.settle();
                return None;
            };
            let completion = self.complete(entry.user_data(), entry.result(), entry.flags());
            if completion.is_some() {
                return completion;
            }
        }
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        self.peers.publish(self.shard, -1);
        self.end_log();
        self.end_everything();
    }
}
