//! Listeners. A listener that fails (descriptors or memory used up) rests for a while and then goes
//! on by itself.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ringtide_driver::ListenerId;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{SocketFlags, acceptfrom_with};

use crate::events::LISTENER;

/// How long a listener rests after a failure: long enough that a process out of descriptors does
/// not spin, short enough that clients' own retries find it again.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Listener {
    fd: OwnedFd,
    /// The shard wants connections.
    wanted: bool,
    /// epoll watches it.
    watched: bool,
    /// A failure's pause lasts until then.
    paused_until: Option<Instant>,
}

/// All listeners of a driver.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listeners: Vec<Listener>,
    paused: usize,
}

/// What an accept gave.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A connection. No address: a Unix socket.
    Connection(OwnedFd, Option<SocketAddr>),
    /// Nobody waits any more.
    Nobody,
    /// The listener rests now.
    Failed(i32),
}

impl Acceptor {
    /// Makes the listeners non-blocking: another shard may be faster to a connection.
    pub(crate) fn new(fds: Vec<OwnedFd>) -> rustix::io::Result<Acceptor> {
        for fd in &fds {
            ioctl_fionbio(fd, true)?;
        }
        let listener = |fd| Listener { fd, wanted: false, watched: false, paused_until: None };
        Ok(Acceptor { listeners: fds.into_iter().map(listener).collect(), paused: 0 })
    }

    /// Watches a listener, or no longer. The error if epoll cannot; then the listener rests.
    pub(crate) fn want(
        &mut self,
        epoll: &OwnedFd,
        id: ListenerId,
        wanted: bool,
    ) -> Result<(), i32> {
        let Some(listener) = self.listeners.get_mut(usize::from(id.0)) else { return Ok(()) };
        listener.wanted = wanted;
        let watch = wanted && listener.paused_until.is_none();
        if watch == std::mem::replace(&mut listener.watched, watch) {
            return Ok(());
        }
        let changed = if watch {
            // Exclusive: of several shards that watch one socket, one wakes for a connection.
            let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
            epoll::add(epoll, &listener.fd, EventData::new_u64(LISTENER | u64::from(id.0)), flags)
        } else {
            epoll::delete(epoll, &listener.fd)
        };
        changed.map_err(|errno| {
            self.rest(epoll, id);
            errno.raw_os_error()
        })
    }

    /// The next connection of a listener.
    pub(crate) fn accept(&mut self, epoll: &OwnedFd, id: ListenerId) -> Accepted {
        let Some(listener) = self.listeners.get_mut(usize::from(id.0)) else {
            return Accepted::Nobody;
        };
        if !listener.watched {
            return Accepted::Nobody;
        }
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match acceptfrom_with(&listener.fd, flags) {
                Ok((fd, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    return Accepted::Connection(fd, peer);
                }
                Err(Errno::AGAIN) => return Accepted::Nobody,
                // The client gave up, or a signal came.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(errno) => {
                    self.rest(epoll, id);
                    return Accepted::Failed(errno.raw_os_error());
                }
            }
        }
    }

    /// Begins a listener's pause.
    pub(crate) fn rest(&mut self, epoll: &OwnedFd, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(usize::from(id.0)) else { return };
        if listener.paused_until.replace(Instant::now() + PAUSE).is_none() {
            self.paused += 1;
        }
        if std::mem::replace(&mut listener.watched, false) {
            // One that epoll could not take in is not there to be taken out.
            let _ = epoll::delete(epoll, &listener.fd);
        }
    }

    /// The listener whose pause is over, one at a time; else how long the next pause lasts yet.
    pub(crate) fn next_over(&mut self) -> Result<ListenerId, Option<Duration>> {
        if self.paused == 0 {
            return Err(None);
        }
        let now = Instant::now();
        let mut next: Option<Duration> = None;
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            let Some(until) = listener.paused_until else { continue };
            let rest = until.saturating_duration_since(now);
            if rest.is_zero() {
                listener.paused_until = None;
                self.paused -= 1;
                return Ok(ListenerId(number as u16));
            }
            next = Some(next.map_or(rest, |next| next.min(rest)));
        }
        Err(next)
    }

    /// True if the shard wants connections of a listener.
    pub(crate) fn is_wanted(&self, id: ListenerId) -> bool {
        self.listeners.get(usize::from(id.0)).is_some_and(|listener| listener.wanted)
    }
}
