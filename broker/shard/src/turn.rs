//! The loop of one shard, one turn at a time. Read it from top to bottom:
//!
//! reap completions -> take notes from other shards -> decode and route what was received ->
//! go on with what waits -> timers -> log -> flush -> submit and wait: one system call per turn.
//!
//! Notes are taken before packets are decoded: what another shard published before a client could
//! know of it (a group's new member, above all) is then seen before that client's packet.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use ringtide_driver::{
    BufferId, Completion, Driver, ListenerId, LogOp, Outgoing, Socket, Token, Turn, TurnEnd, Wait,
};
use ringtide_ring::Receiver;
use ringtide_storage::{LogWrite, Store};

use crate::clock::Clock;
use crate::conn::Phase;
use crate::core::{Command, Core, Due};
use crate::counters::{Counter, Counters};
use crate::note::{HandOver, Note};
use crate::share::Share;
use crate::steering::{Stage, Steering};
use crate::sys::Sys;

/// Longest sleep when nothing is due, in milliseconds: bounds how late a clock step is seen.
const SLEEP_MAX_MS: u64 = 1000;
/// Sleep while something waits for space on the disk, in milliseconds.
const SLEEP_DISK_MS: u64 = 10;
/// Sleep while something waits for another shard, in microseconds.
const SLEEP_WAITING_US: u64 = 100;
/// Milliseconds within which both halves of a hand-over, the note and the socket, must have come.
pub(crate) const HAND_OVER_MS: u64 = 5000;
/// Timers that are fired before the clock is looked at.
const TIMERS_LEAST: u32 = 16;
/// Ends of connections that are handled before that.
const ENDS_LEAST: u32 = 16;
/// Received buffers that are decoded before that.
const BUFFERS_LEAST: u32 = 16;

/// One core of the broker.
pub struct Shard<D: Driver, S: Store, C: Clock> {
    pub(crate) io: D,
    pub(crate) clock: C,
    pub(crate) from: Vec<Option<Receiver<Note>>>,
    /// Where the lanes stood when the round of notes that is under way was begun.
    pub(crate) round_until: Vec<u64>,
    /// The batches to be taken next, one per lane, oldest first; empty between turns.
    pub(crate) batches: BinaryHeap<Reverse<(u64, u16)>>,
    pub(crate) core: Core<S>,
    /// Buffers that were received and are not decoded yet.
    pub(crate) received: VecDeque<(Token, BufferId)>,
    /// Buffers that were received so far, and decoded so far.
    pub(crate) received_count: u64,
    pub(crate) decoded_count: u64,
    /// Connections that ended.
    pub(crate) ends: VecDeque<End>,
    /// Hand-overs whose socket has not arrived, and the reverse.
    pub(crate) expected: HashMap<u64, (u64, Box<HandOver>)>,
    pub(crate) arrived: HashMap<u64, (u64, Socket)>,
    pub(crate) sys: Option<Sys>,
    pub(crate) steering: Arc<dyn Steering>,
    pub(crate) epoch: u64,
    pub(crate) listeners: u16,
    /// The counters of all shards, until each has had a turn: then connections are accepted, for
    /// any of them may be handed over to any shard.
    pub(crate) waits_for: Option<Arc<[Arc<Counters>]>>,
    /// When a shutdown stops waiting for connections.
    pub(crate) drain_until_ms: Option<u64>,
    /// Why the shard ended without being asked to.
    pub(crate) failure: Option<String>,
}

/// The end of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    token: Token,
    /// The socket is of no use any more; else the peer has only finished sending.
    lost: bool,
    /// It comes behind so many received buffers.
    behind: u64,
}

impl<D: Driver, S: Store, C: Clock> Turn for Shard<D, S, C> {
    fn failure(&self) -> Option<String> {
        self.failure.clone()
    }

    fn turn(&mut self) -> TurnEnd {
        let me = self.core.mesh.me;
        let started_us = self.clock.now_us();
        self.core.clients.now_ms = self.clock.now_ms();
        self.core.routes.budget = self.core.limits.turn_sends_max;
        self.core.mesh.shared.begin_turn(me);
        self.core.look_at_store();
        if self.store_has_failed() || self.steer() == TurnEnd::Done {
            self.core.mesh.shared.end_turn(me);
            return TurnEnd::Done;
        }
        self.accept_when_all_run();
        self.reap();
        // Notes have half of the turn, packets the rest of it, and all the others as much again.
        let budget_us = self.core.limits.turn_budget_us;
        self.take_notes(started_us + budget_us / 2);
        self.decode(started_us + budget_us);
        let handshakes_wait = self.shake_hands();
        let until_us = started_us + 2 * budget_us;
        let clock = &self.clock;
        let mut again = self.core.go_on(&|| clock.now_us() >= until_us);
        again |= handshakes_wait;
        again |= self.handle_ends(until_us);
        again |= self.answer_retained(until_us);
        again |= self.core.started && self.fire_timers(until_us);
        again |= self.core.checkpoint();
        let clock = &self.clock;
        again |= self.core.end_of_log_turn(&|| clock.now_us() >= until_us);
        again |= self.core.has_news();
        again |= self.core.end_pages();
        self.flush();
        self.core.mesh.shared.end_turn(me);
        if self.core.started && self.core.routes.custody.resend.is_empty() {
            self.core.clients.counters.add(Counter::Turns, 1);
        }
        if again || !self.received.is_empty() {
            self.core.clients.counters.add(Counter::TurnsOverBudget, 1);
        }
        self.sleep(again)
    }
}

impl<D: Driver, S: Store, C: Clock> Shard<D, S, C> {
    /// Takes what the driver has to tell. Received bytes are only noted here, so that the news of
    /// stalled sends and closed sockets never waits behind them; so are the ends of connections,
    /// which come behind their bytes and may be many at once.
    fn reap(&mut self) {
        while let Some(completion) = self.io.next() {
            match completion {
                Completion::Received { token, buffer } => {
                    self.received.push_back((token, buffer));
                    self.received_count += 1;
                }
                Completion::Accepted { listener, socket, peer } => {
                    self.core.on_accepted(listener.0, socket, peer);
                }
                Completion::SendStalled { token } => self.core.on_stalled(token),
                Completion::Sent { token } => self.core.on_sent(token),
                Completion::SendFailed { token, .. } => {
                    // Nothing more is written to it.
                    self.core.on_stalled(token);
                    self.note_end(token, true);
                }
                Completion::Ended { token, .. } => self.note_end(token, false),
                Completion::Stopped { token } => self.core.on_stopped(token),
                Completion::Closed { token } => self.core.on_closed(token),
                Completion::AcceptFailed { .. } => {
                    self.core.clients.counters.add(Counter::AcceptErrors, 1);
                }
                Completion::Arrived { tag, socket } => self.on_arrived(tag, socket),
                Completion::HandOverFailed { tag, .. } => {
                    self.expected.remove(&tag);
                    self.core.clients.counters.add(Counter::ConnectsFailed, 1);
                }
                Completion::LogWritten { bytes, errno } => {
                    self.core.store.written(bytes, errno);
                    self.core.settle_pages();
                }
                Completion::LogRead { tag, bytes, errno } => {
                    let Core { clients, store, .. } = &mut self.core;
                    clients.pages.end_read(store, tag, bytes, errno);
                }
                Completion::ReceivedExact { .. } | Completion::Woken => {}
            }
        }
        while let Some(vector) = self.io.reclaim() {
            self.core.clients.recycle(vector);
        }
        self.core.hear_pages();
    }

    /// Starts publishing what an earlier run left once every shard has announced what it has taken
    /// in, and accepting once all of that is on its way.
    fn accept_when_all_run(&mut self) {
        let Some(all) = &self.waits_for else { return };
        if !self.core.started {
            // A message for a group of which a shard does not know yet would be nobody's.
            if self.core.insertions.is_empty() && self.core.joins_restored == 0 {
                // Whoever sees the counter sees the interest that was announced before.
                fence(Ordering::Release);
                self.core.clients.counters.set(Counter::ShardReady, 1);
            }
            if all.iter().any(|shard| shard.value(Counter::ShardReady) == 0) {
                return;
            }
            fence(Ordering::Acquire);
            self.core.started = true;
        }
        if all.iter().all(|shard| shard.value(Counter::Turns) > 0) {
            self.waits_for = None;
            for listener in 0..self.listeners {
                self.io.start_accept(ListenerId(listener));
            }
        }
    }

    /// Decodes received buffers until the turn's budget is used up.
    fn decode(&mut self, until_us: u64) {
        let Shard { io, core, received, decoded_count, clock, .. } = self;
        let over = || clock.now_us() >= until_us;
        let mut share = Share::new(&over, BUFFERS_LEAST);
        while let Some((token, buffer)) = received.pop_front() {
            core.on_buffer(io, token, buffer);
            io.release(buffer);
            *decoded_count += 1;
            if core.routes.budget == 0 || !share.go_on() {
                break;
            }
        }
    }

    /// Goes on with TLS handshakes until their own budget is used up. True if some are left.
    fn shake_hands(&mut self) -> bool {
        let Shard { core, clock, .. } = self;
        let until_us = clock.now_us() + core.limits.handshake_budget_us;
        core.shake_hands(&|| clock.now_us() >= until_us)
    }

    fn note_end(&mut self, token: Token, lost: bool) {
        let behind = self.received_count;
        self.ends.push_back(End { token, lost, behind });
    }

    /// Handles the ends of connections whose bytes have been decoded. True if more could be.
    fn handle_ends(&mut self, until_us: u64) -> bool {
        let Shard { core, ends, decoded_count, clock, .. } = self;
        let over = || clock.now_us() >= until_us;
        let mut share = Share::new(&over, ENDS_LEAST);
        while let Some(end) = ends.pop_front_if(|end| end.behind <= *decoded_count) {
            if end.lost {
                core.on_lost(end.token);
            } else {
                core.on_ended(end.token);
            }
            if !share.go_on() {
                break;
            }
        }
        !ends.is_empty()
    }

    /// Answers the questions for retained messages whose lanes have been taken in: they are in
    /// order, so the first that waits is the last to be looked at. True if more could be answered,
    /// or one of them was this shard's own: its replay goes on with the next turn.
    fn answer_retained(&mut self, until_us: u64) -> bool {
        let Shard { clock, from, core, .. } = self;
        let over = || clock.now_us() >= until_us;
        let mut share = Share::new(&over, 1);
        while let Some(first) = core.routes.retained.waiting.front() {
            let passed = first.positions.iter().zip(from.iter()).all(|(position, lane)| {
                lane.as_ref().is_none_or(|lane| lane.position() >= *position)
            });
            if !passed {
                return false;
            }
            let Some(waiting) = core.routes.retained.waiting.pop_front() else { break };
            core.answer_query(&waiting.query);
            if !share.go_on() {
                return true;
            }
        }
        false
    }

    /// Fires timers that are due. True if some are left.
    fn fire_timers(&mut self, until_us: u64) -> bool {
        let Shard { clock, core, sys, .. } = self;
        let over = || clock.now_us() >= until_us;
        let mut share = Share::new(&over, TIMERS_LEAST);
        let now_ms = core.clients.now_ms;
        let mut second = false;
        let mut left = false;
        while let Some((due, _)) = core.timers.expire(now_ms) {
            match due {
                Due::Conn(index) => core.conn_due(index),
                Due::Session(index) => core.session_due(index),
                Due::Rested(index) => core.rested(index),
                Due::Second => {
                    second = true;
                    core.every_second();
                }
                Due::Sys => {
                    if let Some(sys) = sys {
                        core.publish_sys(sys);
                    }
                }
            }
            if !share.go_on() {
                left = core.timers.next_ms(now_ms) == Some(0);
                break;
            }
        }
        if second {
            self.give_up_hand_overs();
        }
        left
    }

    /// Closes what is left of hand-overs whose other half has not come in time.
    fn give_up_hand_overs(&mut self) {
        let now_ms = self.core.clients.now_ms;
        let before = self.expected.len();
        self.expected.retain(|_, (deadline_ms, _)| *deadline_ms > now_ms);
        let lost = (before - self.expected.len()) as u64;
        self.core.clients.counters.add(Counter::ConnectsFailed, lost);
        self.arrived.retain(|_, (deadline_ms, socket)| {
            if *deadline_ms <= now_ms {
                self.core.reject(*socket);
            }
            *deadline_ms > now_ms
        });
    }

    fn on_arrived(&mut self, tag: u64, socket: Socket) {
        match self.expected.remove(&tag) {
            Some((_, hand_over)) => self.core.adopt(socket, *hand_over),
            None => {
                self.arrived.insert(tag, (self.core.clients.now_ms + HAND_OVER_MS, socket));
            }
        }
    }

    /// Gives the driver what the turn has brought about: sends first, then closes, then receives.
    fn flush(&mut self) {
        // Many sends are submitted in the middle of it: an acknowledgement may be with its client
        // before the last one is, and what it acknowledges must be in the lanes by then.
        self.flush_lanes();
        let mut dirty = mem::take(&mut self.core.clients.dirty);
        for index in dirty.drain(..) {
            self.flush_one(index);
        }
        // A filter that could not send has ended its connection.
        dirty.append(&mut self.core.clients.dirty);
        self.core.clients.dirty = dirty;
        for index in mem::take(&mut self.core.clients.closing) {
            if let Some(conn) = self.core.clients.conns.at(index) {
                self.io.close(conn.token(index), conn.socket);
            }
        }
        let mut commands = mem::take(&mut self.core.commands);
        for command in commands.drain(..) {
            self.carry_out(command);
        }
        self.core.commands = commands;
        let Shard { io, core, .. } = self;
        if let Some(LogWrite { file, offset, bytes, sync }) = core.store.take_write() {
            io.write_log(LogOp { file, offset, bytes, sync });
        }
        core.clients.pages.begin_reads(&mut core.store, |read| io.read_log(read));
        // Connections that were handed over.
        self.flush_lanes();
    }

    fn flush_lanes(&mut self) {
        let Shard { io, core, clock, .. } = self;
        if core.mesh.shards > 1 && core.mesh.has_unpublished() {
            core.mesh.flush(clock.now_us(), |to| io.wake(to));
        }
    }

    fn flush_one(&mut self, index: u32) {
        let clients = &mut self.core.clients;
        let Some(conn) = clients.conns.at_mut(index) else { return };
        conn.dirty = false;
        if conn.stalled {
            // Nothing is queued behind a send that is not finished.
            return;
        }
        let head = mem::take(&mut conn.out);
        let shared = conn.cold.as_mut().map_or_else(Vec::new, |cold| mem::take(&mut cold.shared));
        let mut data = Outgoing { head, shared };
        if conn.filter.is_some()
            && let Err(fault) = conn.filter_out(&mut data, &mut clients.filtering)
        {
            return self.core.on_fault(index, &fault);
        }
        if data.is_empty() {
            clients.recycle(data.head);
            return;
        }
        let (token, socket) = (conn.token(index), conn.socket);
        clients.counters.add(Counter::BytesSent, data.len() as u64);
        self.io.send(token, socket, data);
    }

    fn carry_out(&mut self, command: Command) {
        let conns = &self.core.clients.conns;
        match command {
            Command::Receive(index) => {
                if let Some(conn) = conns.at(index).filter(|conn| conn.phase != Phase::Closing) {
                    self.io.start_receive(conn.token(index), conn.socket);
                }
            }
            Command::ReceiveOnce(index) => {
                if let Some(conn) = conns.at(index).filter(|conn| conn.phase != Phase::Closing) {
                    self.io.receive_once(conn.token(index), conn.socket);
                }
            }
            Command::Stop(index) => {
                if let Some(conn) = conns.at(index).filter(|conn| conn.phase != Phase::Closing) {
                    self.io.stop_receive(conn.token(index), conn.socket);
                }
            }
            Command::HandOver(to, socket, mut hand_over) => {
                hand_over.socket = self.io.hand_over(socket, to, hand_over.tag);
                self.core.mesh.tell(to, Note::HandOver(hand_over));
            }
        }
    }

    /// Submits and sleeps as long as nothing is due.
    fn sleep(&mut self, again: bool) -> TurnEnd {
        let now_ms = self.core.clients.now_ms;
        let wait = if again || !self.received.is_empty() {
            Wait::Poll
        } else if self.waits_for.is_some()
            || self.core.waits_for_others()
            || !self.core.routes.retained.waiting.is_empty()
        {
            Wait::AtMost(Duration::from_micros(SLEEP_WAITING_US))
        } else {
            let most_ms = if self.core.waits_for_disk() { SLEEP_DISK_MS } else { SLEEP_MAX_MS };
            let next_ms = self.core.timers.next_ms(now_ms).unwrap_or(most_ms);
            Wait::AtMost(Duration::from_millis(next_ms.min(most_ms)))
        };
        let (me, shared) = (self.core.mesh.me, Arc::clone(&self.core.mesh.shared));
        let mut wait = wait;
        if wait != Wait::Poll {
            shared.going_to_sleep(me);
            if self.from.iter().flatten().any(|lane| !lane.is_empty()) {
                shared.awake(me);
                wait = Wait::Poll;
            }
        }
        let result = self.io.submit_and_wait(wait);
        shared.awake(me);
        match result {
            Ok(()) => TurnEnd::Again,
            Err(error) => {
                self.failure = Some(format!("shard {me}: the driver has failed: {error}"));
                TurnEnd::Done
            }
        }
    }

    /// True if the store keeps nothing any more: what is on the disk is in doubt, so the shard
    /// ends, and nothing is acknowledged that might be lost.
    fn store_has_failed(&mut self) -> bool {
        let Some(failure) = self.core.store.failed() else { return false };
        let me = self.core.mesh.me;
        let text = format!("shard {me}: the store has failed: {failure}; mend the disk, restart");
        self.failure = Some(text);
        true
    }

    /// Looks at what the program wants: new settings, a shutdown.
    fn steer(&mut self) -> TurnEnd {
        let now_ms = self.core.clients.now_ms;
        let epoch = self.steering.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            let interval_ms = self.core.limits.sys_interval_ms;
            self.core.reload(self.steering.settings());
            if let Some(sys) = &mut self.sys
                && self.core.limits.sys_interval_ms != interval_ms
            {
                self.core.arm_sys(sys);
            }
        }
        match (self.steering.stage(), self.drain_until_ms) {
            (Stage::Running, _) => TurnEnd::Again,
            (Stage::Stopped, None) => TurnEnd::Done,
            (Stage::Stopped, Some(_)) => {
                self.cut_short_unless_idle();
                TurnEnd::Done
            }
            (Stage::Draining, None) => {
                self.drain_until_ms = Some(now_ms + self.core.limits.drain_ms);
                self.core.draining = true;
                for listener in 0..self.listeners {
                    self.io.stop_accept(ListenerId(listener));
                }
                self.core.walks.drain_at = Some(0);
                TurnEnd::Again
            }
            (Stage::Draining, Some(until_ms)) => {
                if self.is_idle() {
                    return TurnEnd::Done;
                }
                if now_ms >= until_ms {
                    self.cut_short_unless_idle();
                    return TurnEnd::Done;
                }
                TurnEnd::Again
            }
        }
    }

    /// Whether a shutdown has nothing left to wait for.
    fn is_idle(&self) -> bool {
        // The ends of the connections are records, too.
        self.core.clients.conns.len() == 0 && self.core.is_all_durable()
    }

    /// A shutdown that leaves something undone is not what was asked for.
    fn cut_short_unless_idle(&mut self) {
        if self.is_idle() {
            return;
        }
        let me = self.core.mesh.me;
        let open = self.core.clients.conns.len();
        let kept = match self.core.is_all_durable() {
            true => "",
            false => ", and what was not acknowledged yet is not on the disk",
        };
        self.failure = Some(format!(
            "shard {me}: the shutdown took longer than shutdown_timeout_s and was cut short: \
             {open} connections were not closed in an orderly way{kept}"
        ));
    }
}
