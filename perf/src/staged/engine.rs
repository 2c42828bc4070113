//! Runs the stages: connects clients at the ramp's pace, makes messages due, lets clients leave and
//! come again, pings, and takes a reading every second. One thread, one write per client and turn.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use ringtide_driver::{Completion, Outgoing, Token, Wait};

use super::crowd::{Crowd, Phase};
use super::dial::Dial;
use super::meter::{Meter, Reading};
use super::plan::{Pace, Plan, StagePlan};
use super::screen::Screen;
use crate::failure::Failure;
use crate::io::Io;
use crate::pacing::Pacer;
use crate::procfs::{self, Usage};
use crate::run::{Target, own_usage};
use crate::wire;

/// Clients between CONNECT and their last SUBACK.
const COMING_MAX: u64 = 256;
/// Connections begun in one turn.
const BEGIN_MAX: u64 = 64;
/// Messages of one group that become due in one turn.
const DUE_MAX: u64 = 4096;
const SLEEP_MAX: Duration = Duration::from_millis(5);
const READING_NS: u64 = 1_000_000_000;
/// Over less time a rate is chance.
const READING_MIN_NS: u64 = 250_000_000;
/// Nothing has come for so long: what is outstanding is lost.
const SETTLE_QUIET: Duration = Duration::from_secs(2);
const SETTLE_MAX: Duration = Duration::from_secs(15);
/// A ramp that gets no further for so long is given up.
const RAMP_STUCK: Duration = Duration::from_secs(20);
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All stages were run.
    Done,
    /// The broker was gone in this stage.
    BrokerGone(usize),
}

/// A run under way.
pub(crate) struct Engine<'a, I> {
    io: &'a mut I,
    crowd: Crowd<'a>,
    target: Target,
    dial: Dial,
    base: Instant,
    /// By group; there while the group publishes at a pace.
    pacers: Vec<Option<Pacer>>,
    /// Clients to be connected, in order.
    queue: VecDeque<u32>,
    /// Connections begun in this stage, and its begin.
    ramp: Option<Pacer>,
    /// When clients are to leave.
    lives: BinaryHeap<Reverse<(u64, u32)>>,
    random: u64,
    /// The next client to look at for its keep alive, and since when.
    ping_at: u32,
    ping_ns: u64,
    flushing: Vec<u32>,
    last: Last,
    gone: bool,
}

/// What the reading before has seen.
struct Last {
    at_ns: u64,
    connected: u64,
    sent: u64,
    delivered: u64,
    broker: Option<Usage>,
    own: Usage,
}

impl<'a, I: Io> Engine<'a, I> {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub(crate) fn new(
        io: &'a mut I,
        plan: &'a Plan,
        target: Target,
        dial: Dial,
    ) -> Result<Engine<'a, I>, Failure> {
        let last = Last {
            at_ns: 0,
            connected: 0,
            sent: 0,
            delivered: 0,
            broker: target.usage()?,
            own: own_usage()?,
        };
        Ok(Engine {
            io,
            crowd: Crowd::new(plan),
            target,
            dial,
            base: Instant::now(),
            pacers: vec![None; plan.groups.len()],
            queue: VecDeque::new(),
            ramp: None,
            lives: BinaryHeap::new(),
            random: 0x9e37_79b9_7f4a_7c15,
            ping_at: 0,
            ping_ns: 0,
            flushing: Vec::new(),
            last,
            gone: false,
        })
    }

    /// Keeps the latencies of each reading.
    pub(crate) fn keep_latencies(&mut self) {
        self.crowd.meter.kept = Some(Vec::new());
    }

    /// Runs all stages, waits for what is outstanding, and closes the clients.
    ///
    /// # Errors
    /// If nobody listens at all, or the network fails.
    pub(crate) fn run(mut self, screen: &mut Screen) -> Result<(Meter, Ending), Failure> {
        let mut ending = Ending::Done;
        for (number, stage) in self.crowd.plan.stages.iter().enumerate() {
            self.stage(number, stage, screen)?;
            if self.gone {
                ending = Ending::BrokerGone(number);
                break;
            }
        }
        self.publish(&[]);
        if ending == Ending::Done {
            self.settle()?;
            self.crowd.finish();
        }
        let stages = self.crowd.plan.stages.len();
        self.read(stages.saturating_sub(1));
        self.close()?;
        Ok((self.crowd.meter, ending))
    }

    fn now_ns(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    fn stage(
        &mut self,
        number: usize,
        stage: &StagePlan,
        screen: &mut Screen,
    ) -> Result<(), Failure> {
        let began_ns = self.now_ns();
        self.queue = self.wanted(stage);
        let wanted = self.queue.len() as u64;
        self.ramp = Some(Pacer::per(
            began_ns,
            (self.crowd.plan.connect_per_s * 1000.0) as u64,
            1_000_000_000_000,
        ));
        self.publish(&stage.publish);
        let end_ns = began_ns + (stage.seconds * 1e9) as u64;
        let mut progress = (0, Instant::now());
        loop {
            let now_ns = self.now_ns();
            let left = self.queue.len() as u64 + self.crowd.coming;
            if self.gone || (left == 0 && now_ns >= end_ns) {
                break;
            }
            let connected = self.crowd.meter.counts.connected;
            if connected != progress.0 || left == 0 {
                progress = (connected, Instant::now());
            } else if progress.1.elapsed() > RAMP_STUCK {
                self.crowd.meter.counts.connects_failed += left;
                self.queue.clear();
                break;
            }
            self.turn(end_ns)?;
            if let Some(reading) = self.due_reading(number) {
                let done = (wanted - left.min(wanted), wanted);
                let time = (now_ns - began_ns) as f64 / 1e9;
                screen.show(&stage.name, number, time, stage.seconds, done, &reading);
            }
        }
        let reading = self.read(number);
        let time = (self.now_ns() - began_ns) as f64 / 1e9;
        let meter = &self.crowd.meter;
        let (failed, faults) = (meter.counts.connects_failed, meter.faults());
        screen.end_stage(&stage.name, number, time, &reading, failed, faults);
        Ok(())
    }

    /// The clients that a stage connects, groups in even mixture.
    fn wanted(&self, stage: &StagePlan) -> VecDeque<u32> {
        let mut wanted = Vec::new();
        for (group, count) in &stage.connect {
            let plan = &self.crowd.plan.groups[*group];
            let away = |client: &u32| self.crowd.clients[*client as usize].phase == Phase::Away;
            let clients: Vec<u32> = (plan.first..plan.first + count).filter(away).collect();
            let all = clients.len() as f64;
            wanted.extend(clients.iter().enumerate().map(|(k, client)| (k as f64 / all, *client)));
        }
        wanted.sort_by(|a, b| a.0.total_cmp(&b.0));
        wanted.into_iter().map(|(_, client)| client).collect()
    }

    /// These groups publish from now on, and no others.
    fn publish(&mut self, groups: &[usize]) {
        let now_ns = self.now_ns();
        let plan = self.crowd.plan;
        for (group, planned) in plan.groups.iter().enumerate() {
            let publishes = groups.contains(&group);
            self.crowd.publishing[group] = publishes;
            match planned.publish.as_ref().map(|publish| publish.pace) {
                Some(Pace::Every(every_ns)) if publishes && planned.count > 0 => {
                    let count = u64::from(planned.count);
                    let fresh = || Pacer::per(now_ns, count, every_ns);
                    self.pacers[group].get_or_insert_with(fresh);
                }
                Some(Pace::Window(_)) if publishes => {
                    let clients = planned.first..planned.first + planned.count;
                    clients.for_each(|client| self.crowd.mark(client));
                }
                _ => self.pacers[group] = None,
            }
        }
        for group in &plan.groups {
            for subscribe in &group.subscribe {
                let expected = subscribe.from.iter().any(|from| self.crowd.publishing[*from]);
                let there = (group.first..group.first + group.count)
                    .any(|client| self.crowd.clients[client as usize].phase == Phase::Up);
                let sampler = &mut self.crowd.meter.samplers[subscribe.sampler];
                sampler.expect(expected && there, now_ns);
            }
        }
    }

    fn turn(&mut self, end_ns: u64) -> Result<(), Failure> {
        self.connect()?;
        self.make_due();
        self.end_lives();
        self.ping();
        self.flush();
        let wait = self.wait(end_ns);
        self.io.submit_and_wait(wait).map_err(|e| Failure::Io("cannot wait for the network", e))?;
        while let Some(completion) = self.io.next() {
            self.take(completion);
        }
        self.gone |= self.crowd.meter.counts.closed_by_broker > 0 && self.broker_is_gone();
        Ok(())
    }

    /// Whether the broker, which has closed connections, has ended.
    fn broker_is_gone(&mut self) -> bool {
        match self.target.pid {
            Some(pid) => !procfs::lives(pid),
            None => self.crowd.up == 0 && self.dial.open().is_err(),
        }
    }

    fn wait(&self, end_ns: u64) -> Wait {
        if !self.crowd.dirty.is_empty() {
            return Wait::Poll;
        }
        let now_ns = self.now_ns();
        let mut near = end_ns.saturating_sub(now_ns).max(100_000);
        let paced = self.pacers.iter().flatten();
        let ramp = self.ramp.iter().filter(|_| !self.queue.is_empty());
        for pacer in paced.chain(ramp) {
            near = near.min(pacer.until_next_ns(now_ns));
        }
        match near {
            0 => Wait::Poll,
            near => Wait::AtMost(SLEEP_MAX.min(Duration::from_nanos(near))),
        }
    }

    /// Begins the connections that the ramp's pace allows.
    fn connect(&mut self) -> Result<(), Failure> {
        let now_ns = self.now_ns();
        let room = COMING_MAX.saturating_sub(self.crowd.coming).min(BEGIN_MAX);
        let room = room.min(self.queue.len() as u64);
        let Some(ramp) = &mut self.ramp else { return Ok(()) };
        for _ in ramp.take_due(now_ns, room) {
            let Some(index) = self.queue.pop_front() else { break };
            let opened = self.dial.open().and_then(|stream| self.io.adopt(stream));
            match opened {
                Ok(socket) => {
                    self.io.start_receive(Token(u64::from(index)), socket);
                    self.crowd.begin(index, socket);
                }
                Err(error) => {
                    // One that ran into its time limit has held up everything: no more this turn.
                    self.refused(error)?;
                    break;
                }
            }
        }
        Ok(())
    }

    fn refused(&mut self, error: std::io::Error) -> Result<(), Failure> {
        self.crowd.meter.counts.connects_failed += 1;
        if error.kind() == ErrorKind::ConnectionRefused {
            if self.crowd.meter.counts.connected == 0 {
                return Err(Failure::Io("cannot connect", error));
            }
            self.gone = true;
        }
        Ok(())
    }

    fn make_due(&mut self) {
        let now_ns = self.now_ns();
        for (group, pacer) in self.pacers.iter_mut().enumerate() {
            let Some(pacer) = pacer else { continue };
            let plan = &self.crowd.plan.groups[group];
            let count = u64::from(plan.count);
            for number in pacer.take_due(now_ns, DUE_MAX) {
                let client = plan.first + (number % count) as u32;
                self.crowd.due(client, pacer.intended_ns(number));
            }
        }
    }

    fn end_lives(&mut self) {
        let now_ns = self.now_ns();
        while let Some(Reverse((end_ns, _))) = self.lives.peek()
            && *end_ns <= now_ns
        {
            let Some(Reverse((_, index))) = self.lives.pop() else { break };
            self.crowd.leave(index);
        }
    }

    /// Looks at as many clients as have their turn: each twice in a keep alive.
    fn ping(&mut self) {
        let plan = self.crowd.plan;
        let clients = u64::from(plan.clients);
        if plan.keep_alive_s == 0 {
            return;
        }
        let half_ns = u64::from(plan.keep_alive_s) * 500_000_000;
        let now_ns = self.now_ns();
        let looks = (now_ns - self.ping_ns).saturating_mul(clients) / half_ns;
        self.ping_ns += looks * half_ns / clients;
        let now_s = (now_ns / 1_000_000_000) as u32;
        for _ in 0..looks.min(clients) {
            let index = self.ping_at;
            self.ping_at = (index + 1) % plan.clients;
            let client = &mut self.crowd.clients[index as usize];
            let quiet_s = now_s.saturating_sub(client.sent_at_s);
            if client.phase == Phase::Up && quiet_s * 2 >= u32::from(plan.keep_alive_s) {
                client.out.extend_from_slice(&wire::PINGREQ);
                self.crowd.meter.counts.pings += 1;
                self.crowd.mark(index);
            }
        }
    }

    fn flush(&mut self) {
        let now_ns = self.now_ns();
        std::mem::swap(&mut self.crowd.dirty, &mut self.flushing);
        while let Some(index) = self.flushing.pop() {
            let client = &mut self.crowd.clients[index as usize];
            client.dirty = false;
            let Some(socket) = client.socket.filter(|_| !client.stalled) else { continue };
            let head = self.io.reclaim().unwrap_or_default();
            let mut data = Outgoing { head, shared: Vec::new() };
            let more = self.crowd.fill(index, &mut data, now_ns);
            if !data.is_empty() {
                let client = &mut self.crowd.clients[index as usize];
                client.sent_at_s = (now_ns / 1_000_000_000) as u32;
                self.io.send(Token(u64::from(index)), socket, data);
            }
            if more {
                self.crowd.mark(index);
            }
        }
    }

    fn take(&mut self, completion: Completion) {
        let now_ns = self.now_ns();
        match completion {
            Completion::Received { token, buffer } => {
                let index = token.0 as u32;
                let before = self.crowd.clients[index as usize].phase;
                let good = self.crowd.on_bytes(index, self.io.bytes(buffer), now_ns);
                self.io.release(buffer);
                let up = self.crowd.clients[index as usize].phase == Phase::Up;
                if !good {
                    self.end(index);
                } else if up && before != Phase::Up {
                    self.give_life(index, now_ns);
                }
            }
            Completion::SendStalled { token } => {
                self.crowd.clients[token.0 as usize].stalled = true;
            }
            Completion::Sent { token } => {
                self.crowd.clients[token.0 as usize].stalled = false;
                self.crowd.mark(token.0 as u32);
            }
            Completion::Ended { token, .. } | Completion::SendFailed { token, .. } => {
                self.end(token.0 as u32);
            }
            Completion::Closed { token } => {
                let index = token.0 as u32;
                self.crowd.closed(index);
                let group = &self.crowd.plan.groups[self.crowd.plan.group_of(index)];
                if group.life_s.is_some() && self.ramp.is_some() {
                    self.queue.push_back(index);
                }
            }
            _ => {}
        }
    }

    /// Closes a connection that is of no use any more.
    fn end(&mut self, index: u32) {
        self.crowd.ended(index);
        if let Some(socket) = self.crowd.clients[index as usize].socket.take() {
            self.io.close(Token(u64::from(index)), socket);
        }
    }

    /// Decides when a client that has come will leave.
    fn give_life(&mut self, index: u32, now_ns: u64) {
        let group = &self.crowd.plan.groups[self.crowd.plan.group_of(index)];
        if let Some((least, most)) = group.life_s {
            // xorshift64*: the same in every run.
            self.random ^= self.random >> 12;
            self.random ^= self.random << 25;
            self.random ^= self.random >> 27;
            let word = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
            let share = word as f64 / (1u64 << 53) as f64;
            let life_ns = ((least + (most - least) * share) * 1e9) as u64;
            self.lives.push(Reverse((now_ns + life_ns, index)));
        }
    }

    /// A reading, if a second has passed since the last one.
    fn due_reading(&mut self, stage: usize) -> Option<Reading> {
        (self.now_ns() - self.last.at_ns >= READING_NS).then(|| self.read(stage))
    }

    /// A reading of the time since the one before; of no time at all, that one again.
    fn read(&mut self, stage: usize) -> Reading {
        let now_ns = self.now_ns();
        if let Some(last) = self.crowd.meter.readings.last()
            && now_ns - self.last.at_ns < READING_MIN_NS
        {
            return Reading { connections: self.crowd.up, ..*last };
        }
        let seconds = ((now_ns - self.last.at_ns) as f64 / 1e9).max(1e-6);
        let broker = self.target.usage().ok().flatten();
        let own = own_usage().ok();
        let percent = |cpu_ns: u64| cpu_ns as f64 / 1e7 / seconds;
        let pair = broker.as_ref().zip(self.last.broker.as_ref());
        let counts = self.crowd.meter.counts;
        let reading = Reading {
            at_s: now_ns as f64 / 1e9,
            stage,
            connections: self.crowd.up,
            connects_per_s: (counts.connected - self.last.connected) as f64 / seconds,
            sent_per_s: (counts.sent - self.last.sent) as f64 / seconds,
            delivered_per_s: (counts.delivered - self.last.delivered) as f64 / seconds,
            broker_cpu_percent: pair.map(|(now, then)| percent(now.since(then).cpu_ns)),
            generator_cpu_percent: own
                .as_ref()
                .map_or(0.0, |own| percent(own.since(&self.last.own).cpu_ns)),
            broker_bytes: self.target.pid.and_then(|p| procfs::memory(p).ok()).map(|m| m.resident),
            kernel_bytes: procfs::kernel_memory(),
            ..Reading::default()
        };
        self.last = Last {
            at_ns: now_ns,
            connected: counts.connected,
            sent: counts.sent,
            delivered: counts.delivered,
            broker: broker.or(self.last.broker.take()),
            own: own.unwrap_or_else(|| self.last.own.clone()),
        };
        self.crowd.meter.read(reading, now_ns);
        self.crowd.meter.readings.last().copied().unwrap_or(reading)
    }

    /// Waits for what is outstanding.
    fn settle(&mut self) -> Result<(), Failure> {
        self.ramp = None;
        self.queue.clear();
        self.lives.clear();
        let end = Instant::now() + SETTLE_MAX;
        let mut last = (self.crowd.meter.counts, Instant::now());
        while Instant::now() < end && !self.gone {
            for _ in 0..20 {
                self.turn(u64::MAX)?;
            }
            if self.crowd.settled() {
                break;
            }
            if self.crowd.meter.counts != last.0 {
                last = (self.crowd.meter.counts, Instant::now());
            } else if last.1.elapsed() > SETTLE_QUIET {
                break;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Failure> {
        let mut open = 0;
        for index in 0..self.crowd.clients.len() {
            let client = &mut self.crowd.clients[index];
            if let Some(socket) = client.socket.take() {
                self.io.close(Token(index as u64), socket);
                open += 1;
            }
        }
        let end = Instant::now() + CLOSE_MAX;
        while open > 0 && Instant::now() < end {
            let wait = Wait::AtMost(Duration::from_millis(10));
            self.io.submit_and_wait(wait).map_err(|e| Failure::Io("cannot close", e))?;
            while let Some(completion) = self.io.next() {
                match completion {
                    Completion::Closed { .. } => open -= 1,
                    Completion::Received { buffer, .. } => self.io.release(buffer),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
