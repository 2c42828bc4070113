//! Completions: what each result of the kernel means for the shard.
//!
//! Owns the order of state changes at the end of an operation. Every path ends here, so the rule
//! "after close only Closed" is kept here.

use std::os::fd::RawFd;

use io_uring::squeue::Flags;
use io_uring::{cqueue, opcode, types};
use ringtide_driver::{Completion, ListenerId, Socket, Token};

use super::UringDriver;
use super::accept::Failure;
use super::handovers::HandOver;
use super::kind::{Kind, TOKEN_MASK};
use super::sends::{Outcome, Rest, Send};
use super::table::{
    CLOSE_PENDING, CLOSING, EXACT, ONCE, RECEIVE, RECEIVING, SENDING, STARVED, STOPPING,
};
use crate::sys;

impl UringDriver {
    /// Frees the buffers of sends that are over. Does nothing while completions are unread.
    #[inline]
    pub(super) fn settle(&mut self) {
        if self.ring.is_drained() {
            self.sends.settle(&self.ring);
        }
    }

    pub(super) fn is_closing(&mut self, token: u64) -> bool {
        self.table.find(token).is_some_and(|entry| entry.has(CLOSING))
    }

    /// What one completion means.
    #[inline]
    pub(super) fn complete(&mut self, data: u64, result: i32, flags: u32) -> Option<Completion> {
        let (kind, rest) = Kind::split(data)?;
        match kind {
            Kind::Receive if self.closing == 0 && result > 0 && cqueue::more(flags) => {
                let buffer = self.buffers.take(flags, result as u32)?;
                Some(Completion::Received { token: Token(rest), buffer })
            }
            Kind::Receive => self.received(rest, RECEIVE, result, flags),
            Kind::ReceiveOnce => self.received(rest, ONCE, result, flags),
            Kind::ReceiveExact => self.received_exact(rest, result),
            Kind::Send => self.send_ended(rest, result),
            Kind::SendRest => self.rest_ended(rest, result),
            Kind::CancelReceive => self.cancel_failed(rest, RECEIVING),
            Kind::CancelSend => self.cancel_failed(rest, SENDING),
            Kind::Close => self.close_ended(rest),
            Kind::Accept => self.accepted(ListenerId(rest as u16), None, result, flags),
            Kind::AcceptOne => {
                let listener = ListenerId((rest >> 16) as u16);
                self.accepted(listener, Some(rest as u16), result, flags)
            }
            Kind::Wake => Some(Completion::Woken),
            Kind::EventRead => {
                self.read_event();
                self.waker.noticed();
                Some(Completion::Woken)
            }
            Kind::Host => self.host_ready(rest as usize, flags),
            Kind::HandOver => self.handed_over(rest, result),
            Kind::Arrived => Some(Completion::Arrived { tag: rest, socket: Socket(result as u32) }),
            Kind::WakeFailed => {
                self.peers.ring_bell(rest as u16);
                None
            }
            Kind::LogWrite => self.log_written(result),
            Kind::LogRead => self.log_read(rest as usize, result),
            Kind::Ignored => None,
        }
    }

    /// The end of a pooled receive, or a buffer for a socket that is being closed.
    #[cold]
    fn received(&mut self, token: u64, flag: u8, result: i32, flags: u32) -> Option<Completion> {
        let more = cqueue::more(flags);
        let buffer = self.buffers.take(flags, result.max(0) as u32);
        let (closing, stopping, socket) = match self.table.find(token) {
            Some(entry) => {
                if !more {
                    entry.clear(flag);
                }
                (entry.has(CLOSING), entry.has(STOPPING), entry.socket)
            }
            None => (true, false, 0),
        };
        if let Some(buffer) = buffer.filter(|_| closing || result <= 0) {
            self.buffers.release(buffer.index);
        }
        if closing {
            return self.finish_close(token);
        }
        let token_id = Token(token);
        if result > 0 {
            if !more && flag == RECEIVE && !stopping {
                // The kernel ends a multishot when the completion queue is full.
                self.rearm(token, socket, flag);
            } else if !more {
                self.receive_over(token);
            }
            return buffer.map(|buffer| Completion::Received { token: token_id, buffer });
        }
        match -result {
            libc::ENOBUFS if !stopping => {
                self.starve(token, socket, flag);
                None
            }
            libc::EINTR | libc::EAGAIN if !stopping => {
                self.rearm(token, socket, flag);
                None
            }
            libc::ENOBUFS | libc::EINTR | libc::EAGAIN | libc::ECANCELED if stopping => {
                self.receive_over(token);
                None
            }
            errno => {
                self.receive_over(token);
                Some(Completion::Ended { token: token_id, errno })
            }
        }
    }

    fn rearm(&mut self, token: u64, socket: u32, flag: u8) {
        self.table.open(token, socket).set(flag);
        self.push_receive(token, socket, flag == ONCE);
    }

    fn starve(&mut self, token: u64, socket: u32, flag: u8) {
        self.ring.stats.starved += 1;
        self.table.open(token, socket).set(flag | STARVED);
        self.starved.push_back(token);
    }

    /// No receive is in flight any more: answers a stop, and forgets an idle token.
    fn receive_over(&mut self, token: u64) {
        let Some(entry) = self.table.find(token) else { return };
        if entry.has(STOPPING) {
            entry.clear(STOPPING);
            self.ready.push_back(Completion::Stopped { token: Token(token) });
        }
        if entry.is_idle() {
            self.table.remove(token);
        }
    }

    fn received_exact(&mut self, token: u64, result: i32) -> Option<Completion> {
        let entry = *self.table.find(token)?;
        let received = result.max(0) as usize;
        let goes_on = !entry.has(STOPPING | CLOSING);
        let rest = self.exacts.advance(token, received);
        let retry = matches!(-result, libc::EINTR | libc::EAGAIN);
        if let Some(operation) = rest.filter(|_| goes_on && (received > 0 || retry)) {
            self.push(&operation.flags(self.file_flags));
            return None;
        }
        let buffer = self.exacts.finish(token);
        if let Some(entry) = self.table.find(token) {
            entry.clear(EXACT);
        }
        if entry.has(CLOSING) {
            return self.finish_close(token);
        }
        let token_id = Token(token);
        if received == 0 && result != -libc::ECANCELED {
            self.ready.push_back(Completion::Ended { token: token_id, errno: -result });
        }
        self.receive_over(token);
        buffer.map(|buffer| Completion::ReceivedExact { token: token_id, buffer })
    }

    /// A send posted a completion: unless sends are counted, it has not gone out whole.
    fn send_ended(&mut self, sequence: u64, result: i32) -> Option<Completion> {
        let send = self.sends.take(sequence)?;
        let token = send.token;
        let outcome = Outcome::of(result, send.len());
        let closing = self.closing > 0 && self.is_closing(token);
        match outcome {
            Outcome::Part(sent) if !closing => {
                self.stall(send, sent);
                Some(Completion::SendStalled { token: Token(token) })
            }
            Outcome::Failed(errno) if !closing => {
                self.sends.recycle(send);
                Some(Completion::SendFailed { token: Token(token), errno })
            }
            _ => {
                self.sends.recycle(send);
                None
            }
        }
    }

    /// Lets the rest of a send wait in the kernel for room.
    pub(super) fn stall(&mut self, send: Send, sent: usize) {
        self.ring.stats.stalls += 1;
        self.table.open(send.token, send.socket).set(SENDING);
        let entry = self.sends.stall(send, sent);
        self.push(&entry.flags(self.file_flags));
    }

    fn rest_ended(&mut self, token: u64, result: i32) -> Option<Completion> {
        let closing = self.is_closing(token);
        let rest = if closing {
            self.sends.forget(token);
            Rest::Sent
        } else {
            self.sends.advance(token, result)?
        };
        if let Rest::More(entry) = rest {
            self.push(&entry.flags(self.file_flags));
            return None;
        }
        if let Some(entry) = self.table.find(token) {
            entry.clear(SENDING);
            if entry.is_idle() {
                self.table.remove(token);
            }
        }
        let token_id = Token(token);
        match rest {
            _ if closing => self.finish_close(token),
            Rest::Failed(errno) => Some(Completion::SendFailed { token: token_id, errno }),
            _ => Some(Completion::Sent { token: token_id }),
        }
    }

    /// A cancel found nothing. Usually its target had just ended; if not, it is tried again.
    fn cancel_failed(&mut self, token: u64, flags: u8) -> Option<Completion> {
        let entry = *self.table.find(token)?;
        if entry.has(STOPPING | CLOSING) && entry.has(flags) {
            if flags == SENDING {
                self.push_cancel(Kind::SendRest.with(token), Kind::CancelSend, token);
            } else {
                self.cancel_receive(token, entry);
            }
        }
        None
    }

    fn close_ended(&mut self, token: u64) -> Option<Completion> {
        self.table.find(token)?.clear(CLOSE_PENDING);
        self.finish_close(token)
    }

    /// `Closed`, if nothing of the socket is in flight any more.
    fn finish_close(&mut self, token: u64) -> Option<Completion> {
        if self.table.find(token)?.has(RECEIVING | SENDING | CLOSE_PENDING) {
            return None;
        }
        self.table.remove(token);
        self.closing -= 1;
        self.ring.stats.closed += 1;
        Some(Completion::Closed { token: Token(token) })
    }

    fn accepted(
        &mut self,
        listener: ListenerId,
        slot: Option<u16>,
        result: i32,
        flags: u32,
    ) -> Option<Completion> {
        let completion = if result >= 0 {
            self.ring.stats.accepted += 1;
            let peer = match slot {
                Some(slot) => self.acceptor.address(listener, slot),
                None => sys::peer_address(result as RawFd),
            };
            Some(Completion::Accepted { listener, socket: Socket(result as u32), peer })
        } else {
            let errno = -result;
            let failure = self.acceptor.failed(listener, errno);
            let told = failure == Failure::Paused;
            self.ring.stats.accepts_failed += u64::from(told);
            told.then_some(Completion::AcceptFailed { listener, errno })
        };
        if !cqueue::more(flags) {
            self.acceptor.ended(listener, slot);
            self.arm_accepts(listener);
        }
        completion
    }

    fn host_ready(&mut self, index: usize, flags: u32) -> Option<Completion> {
        self.watch.ready.set(true);
        if !cqueue::more(flags) {
            self.watch_host(index);
        }
        None
    }

    /// Sends a direct descriptor to another driver's ring.
    pub(super) fn send_descriptor(&mut self, slot: u32, to: u16, tag: u64) {
        let ring = self.peers.ring(to).filter(|_| tag <= TOKEN_MASK);
        let Some(ring) = ring else {
            self.close_slot(slot);
            self.ready.push_back(Completion::HandOverFailed { tag, errno: libc::EINVAL });
            return;
        };
        let index = self.handovers.add(HandOver { slot, tag });
        let there = types::DestinationSlot::auto_target();
        let arrival = Kind::Arrived.with(tag);
        let fd = types::Fd(ring);
        let entry = opcode::MsgRingSendFd::new(fd, types::Fixed(slot), there, arrival).build();
        self.push(&entry.user_data(Kind::HandOver.with(index)));
    }

    /// The other driver has the socket, or never will: this one's reference goes either way.
    fn handed_over(&mut self, index: u64, result: i32) -> Option<Completion> {
        let HandOver { slot, tag } = self.handovers.remove(index)?;
        self.close_slot(slot);
        (result < 0).then_some(Completion::HandOverFailed { tag, errno: -result })
    }

    fn close_slot(&mut self, slot: u32) {
        let entry = opcode::Close::new(types::Fixed(slot)).build().flags(Flags::SKIP_SUCCESS);
        self.push(&entry.user_data(Kind::Ignored.with(0)));
    }
}
