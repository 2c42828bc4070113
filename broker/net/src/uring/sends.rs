//! Sends: the queue of a turn, and those that stalled.
//!
//! A send normally costs one entry and no completion. Its buffers stay here until the kernel has
//! taken the entry and every completion has been read; if none of them named the send, all of it
//! went out. One that did stall moves to `stalled` and goes on as an asynchronous send.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use io_uring::squeue::Flags;
use io_uring::{opcode, squeue, types};
use ringtide_driver::Outgoing;
use rustc_hash::FxBuildHasher;

use super::kind::Kind;
use super::ring::Ring;

/// Vectors kept for reuse: at most this many, none larger than `SPARE_BYTES_MAX`.
const SPARES_MAX: usize = 2048;
const SPARE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of capacity kept for reuse in all.
const SPARE_TOTAL_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Parts of one SENDMSG (the kernel's UIO_MAXIOV).
const PARTS_MAX: usize = 1024;
/// Bytes of one operation: the kernel's results are positive i32.
const CHUNK_BYTES_MAX: usize = 1 << 30;

const FLAGS_NOW: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
const FLAGS_LATER: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// The shared parts of one send, with the arrays that SENDMSG reads.
pub(super) struct Message {
    parts: Vec<(u32, Bytes)>,
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl Message {
    fn new() -> Message {
        // SAFETY: an all-zero msghdr is a valid empty one.
        let header = unsafe { std::mem::zeroed() };
        Message { parts: Vec::new(), vectors: Vec::new(), header }
    }

    /// Lists what is left after the first `sent` bytes: at most `PARTS_MAX` parts and
    /// `CHUNK_BYTES_MAX` bytes.
    fn list(&mut self, head: &[u8], mut sent: usize) {
        self.vectors.clear();
        let mut room = CHUNK_BYTES_MAX;
        let vectors = &mut self.vectors;
        let mut add = |bytes: &[u8]| {
            let skipped = sent.min(bytes.len());
            sent -= skipped;
            let rest = &bytes[skipped..];
            let rest = &rest[..rest.len().min(room)];
            if !rest.is_empty() && vectors.len() < PARTS_MAX {
                room -= rest.len();
                let iov_base = rest.as_ptr().cast_mut().cast();
                vectors.push(libc::iovec { iov_base, iov_len: rest.len() });
            }
        };
        let mut from = 0;
        for (position, part) in &self.parts {
            let to = (*position as usize).clamp(from, head.len());
            add(&head[from..to]);
            add(part);
            from = to;
        }
        add(&head[from..]);
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len();
    }
}

/// One send and its buffers.
pub(super) struct Send {
    head: Vec<u8>,
    pub(super) token: u64,
    message: Option<Box<Message>>,
    pub(super) socket: u32,
    /// Position of its entry in the ring.
    position: u32,
}

impl Send {
    pub(super) fn len(&self) -> usize {
        let shared = self.message.as_ref();
        let shared = shared.map_or(0, |m| m.parts.iter().map(|(_, part)| part.len()).sum());
        self.head.len() + shared
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if one operation can carry all of it.
    pub(super) fn is_one_operation(&self) -> bool {
        match &self.message {
            None => self.head.len() <= CHUNK_BYTES_MAX,
            Some(message) => 2 * message.parts.len() < PARTS_MAX && self.len() <= CHUNK_BYTES_MAX,
        }
    }

    fn entry(&mut self, sent: usize, flags: i32) -> squeue::Entry {
        let fd = types::Fd(self.socket as i32);
        match &mut self.message {
            None => {
                let rest = &self.head[sent..];
                let len = rest.len().min(CHUNK_BYTES_MAX) as u32;
                opcode::Send::new(fd, rest.as_ptr(), len).flags(flags).build()
            }
            Some(message) => {
                message.list(&self.head, sent);
                opcode::SendMsg::new(fd, &raw const message.header).flags(flags as u32).build()
            }
        }
    }
}

/// A send whose rest is in the kernel.
pub(super) struct Stalled {
    send: Send,
    sent: usize,
    total: usize,
}

/// What a completion says of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything went out.
    All,
    /// Some of it, or nothing, but the socket works.
    Part(usize),
    /// The socket is of no use any more.
    Failed(i32),
}

impl Outcome {
    pub(super) fn of(result: i32, total: usize) -> Outcome {
        match result {
            n if n >= 0 && n as usize >= total => Outcome::All,
            n if n >= 0 => Outcome::Part(n as usize),
            e if e == -libc::EAGAIN || e == -libc::EINTR => Outcome::Part(0),
            e => Outcome::Failed(-e),
        }
    }
}

/// All sends of a driver.
pub(super) struct Sends {
    /// Sends whose buffers the kernel may still read, oldest first. One that was taken out leaves
    /// an empty place.
    queue: VecDeque<Option<Send>>,
    /// The sequence number of the queue's first place.
    first: u64,
    stalled: HashMap<u64, Stalled, FxBuildHasher>,
    spares: Vec<Vec<u8>>,
    spare_bytes: usize,
    #[expect(clippy::vec_box, reason = "the kernel reads a message in place while sends move")]
    messages: Vec<Box<Message>>,
    /// Every send posts a completion, because skipping them did not probe as working.
    counted: bool,
}

impl Sends {
    pub(super) fn new(counted: bool) -> Sends {
        Sends {
            queue: VecDeque::new(),
            first: 0,
            stalled: HashMap::default(),
            spares: Vec::new(),
            spare_bytes: 0,
            messages: Vec::new(),
            counted,
        }
    }

    /// Takes the bytes over.
    pub(super) fn adopt(&mut self, token: u64, socket: u32, position: u32, data: Outgoing) -> Send {
        let message = (!data.shared.is_empty()).then(|| {
            let mut message = self.messages.pop().unwrap_or_else(|| Box::new(Message::new()));
            message.parts = data.shared;
            message
        });
        Send { head: data.head, token, message, socket, position }
    }

    /// Queues a send; the entry says how to make it.
    #[inline]
    pub(super) fn queue(&mut self, mut send: Send) -> squeue::Entry {
        let sequence = self.first + self.queue.len() as u64;
        let entry = send.entry(0, FLAGS_NOW).user_data(Kind::Send.with(sequence));
        self.queue.push_back(Some(send));
        if self.counted { entry } else { entry.flags(Flags::SKIP_SUCCESS) }
    }

    /// Takes out the send that a completion names.
    pub(super) fn take(&mut self, sequence: u64) -> Option<Send> {
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.queue.get_mut(index)?.take()
    }

    /// Frees the sends that are over: call only when every completion has been read.
    #[inline]
    pub(super) fn settle(&mut self, ring: &Ring) {
        while let Some(place) = self.queue.front_mut() {
            match place {
                Some(send) if self.counted || !ring.has_taken(send.position) => return,
                _ => {}
            }
            let send = place.take();
            self.queue.pop_front();
            self.first += 1;
            if let Some(send) = send {
                self.recycle(send);
            }
        }
    }

    /// Lets the rest of a send go on by itself.
    pub(super) fn stall(&mut self, mut send: Send, sent: usize) -> squeue::Entry {
        let total = send.len();
        let token = send.token;
        let entry = send.entry(sent, FLAGS_LATER).user_data(Kind::SendRest.with(token));
        self.stalled.insert(token, Stalled { send, sent, total });
        entry
    }

    /// A part of a stalled send is over: what follows, and the entry for what is still left.
    pub(super) fn advance(&mut self, token: u64, result: i32) -> Option<Rest> {
        let stalled = self.stalled.get_mut(&token)?;
        let outcome = match Outcome::of(result, stalled.total - stalled.sent) {
            // An operation that waits for room and still sends nothing has lost its socket.
            Outcome::Part(0) if result == 0 => Outcome::Failed(libc::EPIPE),
            other => other,
        };
        match outcome {
            Outcome::Part(sent) => {
                stalled.sent += sent;
                let entry = stalled.send.entry(stalled.sent, FLAGS_LATER);
                Some(Rest::More(entry.user_data(Kind::SendRest.with(token))))
            }
            Outcome::All => self.forget(token).then_some(Rest::Sent),
            Outcome::Failed(errno) => self.forget(token).then_some(Rest::Failed(errno)),
        }
    }

    /// Drops a stalled send that the kernel no longer holds.
    pub(super) fn forget(&mut self, token: u64) -> bool {
        let Some(stalled) = self.stalled.remove(&token) else { return false };
        self.recycle(stalled.send);
        true
    }

    /// Keeps a finished send's memory for later ones.
    #[inline]
    pub(super) fn recycle(&mut self, send: Send) {
        self.keep(send.head);
        if let Some(mut message) = send.message {
            message.parts = Vec::new();
            message.vectors.clear();
            if self.messages.len() < SPARES_MAX {
                self.messages.push(message);
            }
        }
    }

    #[inline]
    pub(super) fn keep(&mut self, mut head: Vec<u8>) {
        let bytes = head.capacity();
        let total = self.spare_bytes + bytes;
        if bytes == 0
            || bytes > SPARE_BYTES_MAX
            || self.spares.len() == SPARES_MAX
            || total > SPARE_TOTAL_BYTES_MAX
        {
            return;
        }
        head.clear();
        self.spare_bytes = total;
        self.spares.push(head);
    }

    /// An empty vector with room, if one is spare.
    #[inline]
    pub(super) fn spare(&mut self) -> Option<Vec<u8>> {
        let spare = self.spares.pop()?;
        self.spare_bytes -= spare.capacity();
        Some(spare)
    }
}

/// What follows the end of one operation of a stalled send.
pub(super) enum Rest {
    /// Push this entry.
    More(squeue::Entry),
    /// It is all out.
    Sent,
    /// The socket is of no use any more.
    Failed(i32),
}
