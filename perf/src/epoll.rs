//! The [`Io`] over epoll and non-blocking sockets. Owns the sockets. Sends at once, reads lazily:
//! one receive per ready socket, into one buffer that stays in the cache.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use ringtide_driver::{BufferId, Completion, ListenerId, Outgoing, Socket, Token, Wait};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::io::{Io, prepare};

/// Small enough that a turn's sends begin while the broker still works on the last ones.
const EVENTS_MAX: usize = 256;
const BUFFER_BYTES: usize = 256 * 1024;
const SPARE_MAX: usize = 64;
/// Slices in one vectored send.
const SLICES_MAX: usize = 16;
/// Marks the events of listeners.
const LISTENER: u64 = 1 << 32;

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    token: Token,
    flags: epoll::EventFlags,
    /// What a full socket did not take, and how much of it is sent.
    pending: Option<(Outgoing, usize)>,
}

/// See the file's head.
pub(crate) struct EpollIo {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    cursor: usize,
    queued: VecDeque<Completion>,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    listeners: Vec<TcpListener>,
    buffer: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

impl EpollIo {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS_MAX),
            cursor: 0,
            queued: VecDeque::new(),
            connections: Vec::new(),
            listeners: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            spare: Vec::new(),
        })
    }

    /// Accepts connections from now on.
    pub(crate) fn listen(&mut self, listener: TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(LISTENER | self.listeners.len() as u64);
        epoll::add(&self.epoll, &listener, data, epoll::EventFlags::IN)?;
        self.listeners.push(listener);
        Ok(())
    }

    fn insert(&mut self, stream: TcpStream) -> io::Result<Socket> {
        stream.set_nonblocking(true)?;
        prepare(&stream)?;
        let fd = stream.as_raw_fd() as usize;
        if self.connections.len() <= fd {
            self.connections.resize_with(fd + 1, || None);
        }
        let flags = epoll::EventFlags::empty();
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(fd as u64), flags)?;
        self.connections[fd] = Some(Connection { stream, token: Token(0), flags, pending: None });
        Ok(Socket(fd as u32))
    }

    fn connection(&mut self, socket: Socket) -> Option<&mut Connection> {
        self.connections.get_mut(socket.0 as usize)?.as_mut()
    }

    /// Changes what epoll reports of a socket.
    fn watch(&mut self, socket: Socket, flags: epoll::EventFlags, on: bool) {
        let epoll = &self.epoll;
        let Some(Some(connection)) = self.connections.get_mut(socket.0 as usize) else { return };
        let mut wanted = connection.flags;
        wanted.set(flags, on);
        let data = epoll::EventData::new_u64(u64::from(socket.0));
        if wanted != connection.flags
            && epoll::modify(epoll, &connection.stream, data, wanted).is_ok()
        {
            connection.flags = wanted;
        }
    }

    fn accept(&mut self, index: usize) -> Option<Completion> {
        let listener = ListenerId(index as u16);
        match self.listeners.get(index)?.accept() {
            Ok((stream, peer)) => match self.insert(stream) {
                Ok(socket) => Some(Completion::Accepted { listener, socket, peer: Some(peer) }),
                Err(error) => Some(failed(listener, &error)),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(failed(listener, &error)),
        }
    }

    fn receive(&mut self, fd: usize) -> Option<Completion> {
        let connection = self.connections.get_mut(fd)?.as_mut()?;
        let token = connection.token;
        let received =
            rustix::net::recv(&connection.stream, &mut self.buffer[..], RecvFlags::DONTWAIT);
        let errno = match received {
            Ok((len, _)) if len > 0 => {
                let buffer = BufferId { index: 0, len: len as u32 };
                return Some(Completion::Received { token, buffer });
            }
            Ok(_) => 0,
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(error) => error.raw_os_error(),
        };
        self.watch(Socket(fd as u32), epoll::EventFlags::IN, false);
        Some(Completion::Ended { token, errno })
    }

    /// Goes on with a send that had stalled.
    fn resume(&mut self, fd: usize) {
        let Some(Some(connection)) = self.connections.get_mut(fd) else { return };
        let token = connection.token;
        let Some((data, mut sent)) = connection.pending.take() else { return };
        let result = transmit(&connection.stream, &data, &mut sent);
        match result {
            Ok(true) => self.queued.push_back(Completion::Sent { token }),
            Ok(false) => {
                connection.pending = Some((data, sent));
                return;
            }
            Err(errno) => self.queued.push_back(send_failed(token, errno)),
        }
        self.watch(Socket(fd as u32), epoll::EventFlags::OUT, false);
    }

    fn keep(&mut self, mut head: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            head.clear();
            self.spare.push(head);
        }
    }

    fn event(&mut self) -> Option<Completion> {
        loop {
            let event = self.events.get(self.cursor)?;
            let (flags, data) = (event.flags, event.data.u64());
            if data & LISTENER != 0 {
                let accepted = self.accept((data & !LISTENER) as usize);
                if accepted.is_some() {
                    return accepted;
                }
                self.cursor += 1;
                continue;
            }
            self.cursor += 1;
            if flags.contains(epoll::EventFlags::OUT) {
                self.resume(data as usize);
            }
            let readable = epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            if flags.intersects(readable)
                && let Some(completion) = self.receive(data as usize)
            {
                return Some(completion);
            }
        }
    }
}

fn failed(listener: ListenerId, error: &io::Error) -> Completion {
    Completion::AcceptFailed { listener, errno: error.raw_os_error().unwrap_or(0) }
}

fn send_failed(token: Token, errno: Errno) -> Completion {
    Completion::SendFailed { token, errno: errno.raw_os_error() }
}

/// Sends from byte `sent` on. True if all is sent, false if the socket is full.
fn transmit(stream: &TcpStream, data: &Outgoing, sent: &mut usize) -> Result<bool, Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let total = data.len();
    while *sent < total {
        let result = if data.shared.is_empty() {
            rustix::net::send(stream, &data.head[*sent..], flags)
        } else {
            let slices = slices(data, *sent);
            rustix::net::sendmsg(stream, &slices, &mut SendAncillaryBuffer::default(), flags)
        };
        match result {
            Ok(count) => *sent += count,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The first parts of what is left to send.
fn slices(data: &Outgoing, mut skip: usize) -> Vec<IoSlice<'_>> {
    let mut parts = Vec::with_capacity(SLICES_MAX);
    let mut from = 0;
    let ends = data.shared.iter().map(|(position, part)| (*position as usize, &part[..]));
    for (position, part) in ends.chain([(data.head.len(), &[][..])]) {
        for piece in [&data.head[from..position], part] {
            if skip >= piece.len() {
                skip -= piece.len();
            } else if parts.len() < SLICES_MAX {
                parts.push(IoSlice::new(&piece[skip..]));
                skip = 0;
            }
        }
        from = position;
    }
    parts
}

impl Io for EpollIo {
    fn adopt(&mut self, stream: TcpStream) -> io::Result<Socket> {
        self.insert(stream)
    }

    fn start_receive(&mut self, token: Token, socket: Socket) {
        if let Some(connection) = self.connection(socket) {
            connection.token = token;
        }
        self.watch(socket, epoll::EventFlags::IN, true);
    }

    fn bytes(&self, buffer: BufferId) -> &[u8] {
        self.buffer.get(..buffer.len as usize).unwrap_or(&[])
    }

    fn release(&mut self, _buffer: BufferId) {}

    fn send(&mut self, token: Token, socket: Socket, data: Outgoing) {
        let Some(connection) = self.connection(socket) else { return };
        let mut sent = 0;
        match transmit(&connection.stream, &data, &mut sent) {
            Ok(true) => self.keep(data.head),
            Ok(false) => {
                connection.pending = Some((data, sent));
                self.queued.push_back(Completion::SendStalled { token });
                self.watch(socket, epoll::EventFlags::OUT, true);
            }
            Err(errno) => self.queued.push_back(send_failed(token, errno)),
        }
    }

    fn reclaim(&mut self) -> Option<Vec<u8>> {
        self.spare.pop()
    }

    fn close(&mut self, token: Token, socket: Socket) {
        if let Some(slot) = self.connections.get_mut(socket.0 as usize) {
            *slot = None;
        }
        self.queued.push_back(Completion::Closed { token });
    }

    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        let nanos = match wait {
            Wait::AtMost(time) if self.queued.is_empty() => time.as_nanos().min(1 << 40) as i64,
            _ => 0,
        };
        let timeout = Timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 };
        self.events.clear();
        self.cursor = 0;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn next(&mut self) -> Option<Completion> {
        self.queued.pop_front().or_else(|| self.event())
    }
}

#[cfg(test)]
#[path = "epoll_tests.rs"]
mod tests;
