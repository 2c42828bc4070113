//! The interface between a shard and its I/O: plain commands in, plain completions out.
//!
//! A shard owns one [`Driver`]. It queues commands (receive, send, close, ...), then calls
//! [`Driver::submit_and_wait`] once per turn, then takes completions one by one with
//! [`Driver::next`]. Implementations: io_uring, epoll, and the simulator. This crate holds no
//! MQTT, no shard state and no `unsafe`.
//!
//! # Rules that every implementation keeps
//!
//! * A [`Token`] names one connection for as long as it has operations under way. Completions
//!   carry it back unchanged; the driver never interprets it.
//! * At most one send per token is in flight. After a `send` the socket counts as writable again
//!   as soon as the next `submit_and_wait` has returned and its completions have been taken,
//!   unless one of them is [`Completion::SendStalled`]; then not before [`Completion::Sent`] or
//!   [`Completion::SendFailed`].
//! * Bytes of one socket are received in order; a `Received` buffer stays readable through
//!   [`Driver::bytes`] until it is given to [`Driver::release`].
//! * After [`Driver::close`] the only completion for that token is [`Completion::Closed`], and it
//!   comes exactly once, when nothing of that socket is in flight any more. A send that was queued
//!   before `close` is still attempted.
//! * A log write is never cancelled: a driver that is dropped waits for the one under
//!   way. Nothing is read into the bytes of a log read once they have been given back or the driver
//!   is gone.
#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

/// A connected socket as one driver knows it: a plain descriptor or a direct slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket(pub u32);

/// A listening socket, numbered in the order in which it was given to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u16);

/// Chosen by the shard for each connection, returned in its completions. The upper 8 bits must be
/// zero: drivers keep their operation kind there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// Names a received buffer until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId {
    /// Index of the buffer in the driver's pool.
    pub index: u32,
    /// Bytes that were received into it.
    pub len: u32,
}

/// Bytes to send on one socket, in order: `head` with the `shared` parts spliced in.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Owned bytes. The vector comes back through [`Driver::reclaim`] once it is sent.
    pub head: Vec<u8>,
    /// Large payloads sent without a copy: each goes out right after the first `position` bytes of
    /// `head`. Positions never decrease.
    pub shared: Vec<(u32, Bytes)>,
}

impl Outgoing {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.head.len() + self.shared.iter().map(|(_, part)| part.len()).sum::<usize>()
    }

    /// True if there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.shared.is_empty()
    }
}

/// A write to a log file and, if asked for, the sync of what it writes.
#[derive(Debug)]
pub struct LogOp {
    /// The file's descriptor; stays open until [`Completion::LogWritten`] has come.
    pub file: i32,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What. The driver's until it comes back with the completion.
    pub bytes: Vec<u8>,
    /// Whether these bytes must be on the disk, as after fdatasync, before the completion comes.
    pub sync: bool,
}

/// A read of a log file.
#[derive(Debug)]
pub struct ReadOp {
    /// Comes back with the completion; the driver never interprets it.
    pub tag: u64,
    /// The file's descriptor; stays open until [`Completion::LogRead`] has come.
    pub file: i32,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// As many bytes as are to be read; their values do not matter.
    pub bytes: Vec<u8>,
}

/// How long [`Driver::submit_and_wait`] may sleep when no completion is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Do not sleep: submit, reap and return.
    Poll,
    /// Sleep until a completion comes or this much time has passed.
    AtMost(Duration),
}

/// What happened. Numbers named `errno` are positive Linux error numbers.
#[derive(Debug)]
pub enum Completion {
    /// A connection was accepted. `peer` is `None` for a Unix socket.
    Accepted {
        /// The listener that accepted it.
        listener: ListenerId,
        /// The new socket, owned by the shard from now on.
        socket: Socket,
        /// The client's address.
        peer: Option<SocketAddr>,
    },
    /// Accepting failed, for example with `EMFILE`. The driver goes on accepting after a pause of
    /// its own.
    AcceptFailed {
        /// The listener that failed.
        listener: ListenerId,
        /// Why.
        errno: i32,
    },
    /// Bytes arrived; read them with [`Driver::bytes`], then [`Driver::release`] the buffer.
    Received {
        /// The connection.
        token: Token,
        /// Where the bytes are.
        buffer: BufferId,
    },
    /// A [`Driver::receive_exact`] has ended: the buffer holds all that was asked for, or less if
    /// the peer closed or the receive was stopped before.
    ReceivedExact {
        /// The connection.
        token: Token,
        /// The buffer that was given, with the bytes appended.
        buffer: BytesMut,
    },
    /// The peer has finished sending (`errno` 0) or the socket failed. No more `Received` comes.
    Ended {
        /// The connection.
        token: Token,
        /// 0 at an orderly end of the stream, else the error.
        errno: i32,
    },
    /// A [`Driver::stop_receive`] is settled: no `Received` comes for this token until
    /// [`Driver::start_receive`] is called again.
    Stopped {
        /// The connection.
        token: Token,
    },
    /// The socket's buffer is full: the send goes on by itself, `Sent` or `SendFailed` follows.
    SendStalled {
        /// The connection.
        token: Token,
    },
    /// A stalled send has been completed.
    Sent {
        /// The connection.
        token: Token,
    },
    /// A send failed; the connection is of no use any more.
    SendFailed {
        /// The connection.
        token: Token,
        /// Why.
        errno: i32,
    },
    /// The socket is closed and its token free for reuse.
    Closed {
        /// The connection.
        token: Token,
    },
    /// A socket that another shard handed over with [`Driver::hand_over`] has arrived here.
    Arrived {
        /// The tag that the sender gave.
        tag: u64,
        /// The socket, valid on this driver.
        socket: Socket,
    },
    /// A hand-over could not be made; the socket is closed.
    HandOverFailed {
        /// The tag that was given.
        tag: u64,
        /// Why.
        errno: i32,
    },
    /// Another thread rang [`Driver::wake`] or a [`Waker`].
    Woken,
    /// A [`Driver::write_log`] has ended.
    LogWritten {
        /// The bytes that were given, to be used again.
        bytes: Vec<u8>,
        /// 0 if all of them are written and, where that was asked for, synced. After an error any
        /// part of them may be in the file.
        errno: i32,
    },
    /// A [`Driver::read_log`] has ended.
    LogRead {
        /// The tag that was given.
        tag: u64,
        /// What was read: all that was asked for, or less where the file ends; empty after an
        /// error.
        bytes: Vec<u8>,
        /// 0, or why it could not be read.
        errno: i32,
    },
}

/// Wakes a driver from any thread.
pub trait Waker: Send + Sync {
    /// Makes a sleeping `submit_and_wait` return with [`Completion::Woken`].
    fn wake(&self);
}

/// One shard's I/O. See the crate's documentation for the rules.
pub trait Driver {
    /// Starts (or restarts) accepting connections on a listener.
    fn start_accept(&mut self, listener: ListenerId);

    /// Stops accepting on a listener.
    fn stop_accept(&mut self, listener: ListenerId);

    /// Starts receiving on a socket until it ends, is stopped or is closed.
    fn start_receive(&mut self, token: Token, socket: Socket);

    /// Receives one chunk only, then nothing until asked again: for sockets that may be handed
    /// over to another shard. A `Received` (or `Ended`) leaves nothing in flight.
    fn receive_once(&mut self, token: Token, socket: Socket);

    /// Stops receiving of any kind; `Received` may still come until [`Completion::Stopped`], and
    /// so may a `ReceivedExact` with what there is, or an `Ended`. Exactly one `Stopped` follows,
    /// also if nothing was being received. No receive may be started before it has come.
    fn stop_receive(&mut self, token: Token, socket: Socket);

    /// Receives until `buffer.len() == until`, appending to `buffer`, whose capacity is at least
    /// `until`. Nothing else may be receiving on this token. For frames that are larger than a
    /// pooled buffer.
    fn receive_exact(&mut self, token: Token, socket: Socket, buffer: BytesMut, until: usize);

    /// The bytes of a received buffer. An unknown id gives an empty slice.
    fn bytes(&self, buffer: BufferId) -> &[u8];

    /// The same, to be worked on in place: nobody else reads them.
    fn bytes_mut(&mut self, buffer: BufferId) -> &mut [u8];

    /// Gives a received buffer back to the pool.
    fn release(&mut self, buffer: BufferId);

    /// Sends bytes. The caller keeps to one send per token at a time.
    fn send(&mut self, token: Token, socket: Socket, data: Outgoing);

    /// A vector whose bytes have been sent, cleared, to be filled again.
    fn reclaim(&mut self) -> Option<Vec<u8>>;

    /// Closes a socket after what was queued before has been tried. The rest of a stalled send is
    /// given up: to have it sent, close after [`Completion::Sent`].
    fn close(&mut self, token: Token, socket: Socket);

    /// Gives a socket that has nothing in flight to the driver of shard `to`. `Some` means that
    /// the returned socket is valid there at once; `None` means that it arrives there as
    /// [`Completion::Arrived`] with `tag`, whose upper 8 bits must be zero as in a [`Token`].
    fn hand_over(&mut self, socket: Socket, to: u16, tag: u64) -> Option<Socket>;

    /// Wakes the driver of shard `to`. Takes effect with the next submission.
    fn wake(&mut self, to: u16);

    /// Writes to a log file without blocking the shard; [`Completion::LogWritten`] comes exactly
    /// once. A short write is continued by the driver. At most one may be under way: the caller
    /// waits for its completion; a further one fails with `EBUSY`.
    fn write_log(&mut self, write: LogOp);

    /// Reads from a log file without blocking the shard; [`Completion::LogRead`] comes exactly
    /// once. Several may be under way, and end in any order.
    fn read_log(&mut self, read: ReadOp);

    /// Submits what is queued and waits as told: one system call.
    ///
    /// # Errors
    /// Only errors after which the driver cannot go on.
    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()>;

    /// The next completion that is ready, without a system call.
    fn next(&mut self) -> Option<Completion>;
}

/// What a shard wants after one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    /// Call [`Turn::turn`] again.
    Again,
    /// The shard has ended; do not call it again.
    Done,
}

/// A shard's loop body, called again and again by whatever hosts it: a plain thread or an
/// executor. One call is one turn: it ends with the driver's `submit_and_wait`, so a call may
/// sleep there; between two calls the host may do work of its own.
pub trait Turn {
    /// Runs one turn.
    fn turn(&mut self) -> TurnEnd;

    /// Why the last turn was [`TurnEnd::Done`] although nobody had asked for an end: what happened,
    /// where, and what to do. `None` if the end was asked for. The host reports it, and the whole
    /// process must end for it.
    fn failure(&self) -> Option<String> {
        None
    }
}
