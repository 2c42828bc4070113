//! The hot loop: publishers with windows, subscribers that check and acknowledge. One thread, no
//! allocation per message, one flush per client and turn.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ringtide_driver::{BufferId, Completion, Outgoing, Token, Wait};

use crate::client::{Client, Established};
use crate::failure::Failure;
use crate::io::{Io, close_all};
use crate::pacing::Pacer;
use crate::scenario::{Plan, Scenario};
use crate::sequence::{Faults, Stamp, Stream};
use crate::template::Templates;
use crate::wire::{self, Frame, Version, packet};

/// Messages that become due in one turn, and that go out in one write, at a fixed rate.
const DUE_MAX: u64 = 4096;
const DUE_BATCH_MAX: u64 = 64;
/// Outstanding messages of one publisher at a fixed rate; packet ids limit it.
const PACED_WINDOW: u64 = 60_000;
/// Sleeping for less than this is not worth it.
const SLEEP_MIN_NS: u64 = 60_000;
/// Latencies beyond this are recorded as this.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

#[derive(Clone, Copy, Debug)]
enum Role {
    Publisher(u32),
    Subscriber(u32),
}

#[derive(Debug)]
struct Publisher {
    templates: Templates,
    sent: u64,
    /// Messages that the broker has taken over: PUBACK or PUBCOMP.
    acked: u64,
    /// Deliveries seen at the subscribers.
    received: u64,
    /// When each message was sent, or was to be, whose acknowledgement is still to come.
    unacked_ns: VecDeque<u64>,
    /// Messages that a fixed rate wants out.
    due: u64,
    /// Its window may have opened.
    touched: bool,
}

#[derive(Debug)]
struct Subscriber {
    first_publisher: u32,
    streams: Vec<Stream>,
}

/// Numbers of the run that never change.
#[derive(Clone, Copy, Debug)]
struct Limits {
    version: Version,
    qos: u8,
    window: u64,
    batch: u64,
    fan: u64,
    publishers: u64,
}

/// What the subscribers' side of the hot loop writes to.
#[derive(Debug)]
struct Receipts {
    publishers: Vec<Publisher>,
    touched: Vec<u32>,
    faults: Faults,
    received: u64,
    latency: Histogram<u64>,
    /// From PUBLISH to PUBACK or PUBCOMP.
    ack_latency: Histogram<u64>,
    /// Latencies of messages sent before this are not recorded.
    record_from_ns: u64,
    /// Record every message, not only the first of each read.
    record_all: bool,
}

/// All publishers and subscribers of a run.
pub(crate) struct Streams<'a, I> {
    io: &'a mut I,
    clients: Vec<Client>,
    roles: Vec<Role>,
    subscribers: Vec<Subscriber>,
    receipts: Receipts,
    limits: Limits,
    pacer: Option<Pacer>,
    dirty: Vec<u32>,
    flushing: Vec<u32>,
    base: Instant,
    sending: bool,
    /// Messages that may still be sent.
    quota: u64,
    spin: bool,
}

/// What a run leaves.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) faults: Faults,
    /// Of deliveries, nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// From PUBLISH to PUBACK or PUBCOMP, nanoseconds.
    pub(crate) ack_latency: Histogram<u64>,
    /// How many messages each publisher has sent.
    pub(crate) sent: Vec<u64>,
}

fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are constant and valid")
}

impl<'a, I: Io> Streams<'a, I> {
    /// Takes over clients that are up.
    pub(crate) fn new(io: &'a mut I, up: Established, plan: Plan, scenario: &Scenario) -> Self {
        let publishers = plan.templates.len();
        let mut roles: Vec<_> = (0..publishers as u32).map(Role::Publisher).collect();
        roles.extend((0..plan.hears.len() as u32).map(Role::Subscriber));
        let subscriber = |&(first_publisher, count): &(u32, u32)| Subscriber {
            first_publisher,
            streams: vec![Stream::default(); count as usize],
        };
        let publisher = |templates| Publisher {
            templates,
            sent: 0,
            acked: 0,
            received: 0,
            unacked_ns: VecDeque::new(),
            due: 0,
            touched: false,
        };
        let window = if scenario.rate.is_some() { PACED_WINDOW } else { scenario.window };
        let receive_maximum =
            if scenario.qos > 0 { u64::from(up.receive_maximum) } else { u64::MAX };
        let window = window.min(receive_maximum);
        Self {
            io,
            clients: up.clients,
            roles,
            subscribers: plan.hears.iter().map(subscriber).collect(),
            receipts: Receipts {
                publishers: plan.templates.into_iter().map(publisher).collect(),
                touched: Vec::new(),
                faults: Faults::default(),
                received: 0,
                latency: latencies(),
                ack_latency: latencies(),
                record_from_ns: u64::MAX,
                record_all: scenario.rate.is_some(),
            },
            limits: Limits {
                version: scenario.version(),
                qos: scenario.qos,
                window,
                batch: scenario.batch.min(window),
                fan: plan.fan,
                publishers: publishers as u64,
            },
            pacer: None,
            dirty: Vec::new(),
            flushing: Vec::new(),
            base: Instant::now(),
            sending: false,
            quota: u64::MAX,
            spin: scenario.spin,
        }
    }

    /// Nanoseconds since the run began.
    fn now_ns(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    /// Starts sending, at a fixed rate if there is one.
    pub(crate) fn start(&mut self, rate: Option<u64>) {
        self.sending = true;
        self.pacer = rate.map(|rate| Pacer::new(self.now_ns(), rate));
        if self.pacer.is_none() {
            (0..self.limits.publishers).for_each(|index| self.mark(index as usize));
        }
    }

    /// Sends no more than this from now on.
    pub(crate) fn limit(&mut self, messages: u64) {
        self.quota = messages;
    }

    /// True if no message may be sent any more.
    pub(crate) fn exhausted(&self) -> bool {
        self.quota == 0
    }

    /// Stops sending; what is outstanding still comes in.
    pub(crate) fn stop(&mut self) {
        self.sending = false;
        self.pacer = None;
    }

    /// Records latencies of what is sent from now on.
    pub(crate) fn record(&mut self) {
        self.receipts.record_from_ns = self.now_ns();
    }

    /// The window in force, after the broker's receive maximum.
    pub(crate) fn window(&self) -> u64 {
        self.limits.window
    }

    /// Messages received since the start; where nobody receives, those acknowledged.
    pub(crate) fn received(&self) -> u64 {
        self.receipts.received
    }

    /// True if all that was sent has been delivered and acknowledged.
    pub(crate) fn settled(&self) -> bool {
        let limits = &self.limits;
        self.receipts.publishers.iter().all(|publisher| {
            publisher.received >= publisher.sent * limits.fan
                && (limits.qos == 0 || publisher.acked >= publisher.sent)
        })
    }

    /// Ends the run: closes the clients and says what went wrong.
    pub(crate) fn finish(self) -> Result<Finished, Failure> {
        let Receipts { publishers, mut faults, latency, ack_latency, .. } = self.receipts;
        let stamped = publishers.iter().all(|publisher| publisher.templates.stamped());
        for subscriber in &self.subscribers {
            for (slot, stream) in subscriber.streams.iter().enumerate() {
                let publisher = &publishers[subscriber.first_publisher as usize + slot];
                if stamped {
                    stream.finish(publisher.sent, &mut faults);
                }
            }
        }
        if !stamped {
            let missing = |p: &Publisher| (p.sent * self.limits.fan).saturating_sub(p.received);
            faults.lost = publishers.iter().map(missing).sum();
        }
        if self.limits.fan == 0 {
            faults.lost += publishers.iter().map(|p| p.sent - p.acked).sum::<u64>();
        }
        let sent = publishers.iter().map(|publisher| publisher.sent).collect();
        let sockets = self.clients.iter().map(|client| client.socket);
        close_all(self.io, sockets).map_err(|e| Failure::Io("cannot close the clients", e))?;
        Ok(Finished { faults, latency, ack_latency, sent })
    }

    /// One turn: take what came, make due what is due, flush, submit and wait.
    pub(crate) fn turn(&mut self, wait_max: Duration) -> Result<(), Failure> {
        while let Some(completion) = self.io.next() {
            match completion {
                Completion::Received { token, buffer } => self.receive(token, buffer)?,
                Completion::SendStalled { token } => self.clients[token.0 as usize].stalled = true,
                Completion::Sent { token } => {
                    self.clients[token.0 as usize].stalled = false;
                    self.mark(token.0 as usize);
                }
                Completion::Ended { token, .. } | Completion::SendFailed { token, .. } => {
                    let client = &mut self.clients[token.0 as usize];
                    self.receipts.faults.disconnected += u64::from(client.open);
                    client.open = false;
                }
                _ => {}
            }
        }
        self.pace();
        self.flush();
        let wait = self.wait(wait_max);
        self.io
            .submit_and_wait(wait)
            .map_err(|error| Failure::Io("cannot wait for the network", error))
    }

    fn wait(&self, wait_max: Duration) -> Wait {
        if self.spin || !self.dirty.is_empty() {
            return Wait::Poll;
        }
        let Some(pacer) = &self.pacer else { return Wait::AtMost(wait_max) };
        match pacer.until_next_ns(self.now_ns()) {
            near if near < SLEEP_MIN_NS => Wait::Poll,
            far => Wait::AtMost(wait_max.min(Duration::from_nanos(far - SLEEP_MIN_NS))),
        }
    }

    fn mark(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(index as u32);
        }
    }

    fn pace(&mut self) {
        let now_ns = self.now_ns();
        let Some(pacer) = &mut self.pacer else { return };
        for number in pacer.take_due(now_ns, DUE_MAX) {
            let index = (number % self.limits.publishers) as usize;
            self.receipts.publishers[index].due += 1;
            self.mark(index);
        }
    }

    fn receive(&mut self, token: Token, buffer: BufferId) -> Result<(), Failure> {
        let index = token.0 as usize;
        let now_ns = self.now_ns();
        let client = &mut self.clients[index];
        let bytes = self.io.bytes(buffer);
        let (out, receipts) = (&mut client.out, &mut self.receipts);
        let limits = &self.limits;
        let result = match self.roles[index] {
            Role::Subscriber(number) => {
                let subscriber = &mut self.subscribers[number as usize];
                let mut record = true;
                client.scanner.scan(bytes, |frame| {
                    delivery(limits, &frame, subscriber, receipts, out, &mut record, now_ns);
                })
            }
            Role::Publisher(number) => client.scanner.scan(bytes, |frame| {
                acknowledgement(limits, &frame, number, receipts, out, now_ns);
            }),
        };
        let owes = !out.is_empty();
        self.io.release(buffer);
        result?;
        if owes {
            self.mark(index);
        }
        while let Some(number) = self.receipts.touched.pop() {
            self.receipts.publishers[number as usize].touched = false;
            self.mark(number as usize);
        }
        Ok(())
    }

    fn flush(&mut self) {
        std::mem::swap(&mut self.dirty, &mut self.flushing);
        while let Some(index) = self.flushing.pop() {
            let client = &mut self.clients[index as usize];
            client.dirty = false;
            if client.stalled || !client.open {
                continue;
            }
            let mut data =
                Outgoing { head: self.io.reclaim().unwrap_or_default(), shared: Vec::new() };
            data.head.append(&mut client.out);
            let more = match self.roles[index as usize] {
                Role::Publisher(number) => self.fill(number, &mut data),
                Role::Subscriber(_) => false,
            };
            if !data.is_empty() {
                let socket = self.clients[index as usize].socket;
                self.io.send(Token(u64::from(index)), socket, data);
            }
            if more {
                self.mark(index as usize);
            }
        }
    }

    /// Appends the messages that a publisher may send now; true if there are more than fit into
    /// this write.
    fn fill(&mut self, number: u32, data: &mut Outgoing) -> bool {
        if !self.sending {
            return false;
        }
        let now_ns = self.now_ns();
        let publishers = self.limits.publishers;
        let publisher = &mut self.receipts.publishers[number as usize];
        let count = room(&self.limits, publisher, self.pacer.is_some()).min(self.quota);
        self.quota -= count;
        for _ in 0..count {
            let time_ns = self.pacer.as_ref().map_or(now_ns, |pacer| {
                pacer.intended_ns(publisher.sent * publishers + u64::from(number))
            });
            let stamp = Stamp { publisher: number, sequence: publisher.sent as u32, time_ns };
            publisher.templates.append(data, stamp, packet_id(publisher.sent));
            publisher.sent += 1;
            if self.limits.qos > 0 {
                publisher.unacked_ns.push_back(time_ns);
            }
        }
        if self.pacer.is_some() {
            publisher.due -= count;
        }
        self.quota > 0 && room(&self.limits, publisher, self.pacer.is_some()) > 0
    }
}

/// The packet id of a publisher's message: 1 to 65535, round and round.
fn packet_id(number: u64) -> u16 {
    (number % 65_535) as u16 + 1
}

/// How many messages may go into the next write.
fn room(limits: &Limits, publisher: &Publisher, paced: bool) -> u64 {
    let outstanding = (publisher.sent * limits.fan).saturating_sub(publisher.received);
    let free = (limits.window * limits.fan).saturating_sub(outstanding);
    let mut free = free.checked_div(limits.fan).unwrap_or(limits.window);
    if limits.qos > 0 {
        free = free.min(limits.window.saturating_sub(publisher.sent - publisher.acked));
    }
    if paced {
        free.min(publisher.due).min(DUE_BATCH_MAX)
    } else if free >= limits.batch {
        limits.batch
    } else {
        0
    }
}

/// A frame that a subscriber has received.
#[inline]
fn delivery(
    limits: &Limits,
    frame: &Frame<'_>,
    subscriber: &mut Subscriber,
    receipts: &mut Receipts,
    out: &mut Vec<u8>,
    record: &mut bool,
    now_ns: u64,
) {
    if frame.packet_type() != packet::PUBLISH {
        if frame.packet_type() == packet::PUBREL {
            wire::put_ack(out, packet::PUBCOMP, wire::ack_id(frame.body));
        } else {
            receipts.faults.protocol += 1;
        }
        return;
    }
    let Some(head) = wire::parse_publish(limits.version, frame) else {
        receipts.faults.protocol += 1;
        return;
    };
    match frame.qos() {
        0 => {}
        1 => wire::put_ack(out, packet::PUBACK, head.packet_id),
        _ => wire::put_ack(out, packet::PUBREC, head.packet_id),
    }
    receipts.received += 1;
    let payload = frame.body.get(head.payload_at..).unwrap_or(&[]);
    let stamp = Stamp::from_payload(payload);
    let number = stamp.map_or(subscriber.first_publisher, |stamp| stamp.publisher);
    let slot = number.wrapping_sub(subscriber.first_publisher) as usize;
    let Some(stream) = subscriber.streams.get_mut(slot) else {
        receipts.faults.misrouted += 1;
        return;
    };
    if let Some(stamp) = stamp {
        stream.observe(stamp.sequence, &mut receipts.faults);
        if *record && stamp.time_ns >= receipts.record_from_ns {
            let latency_ns = now_ns.saturating_sub(stamp.time_ns).min(LATENCY_MAX_NS);
            receipts.latency.saturating_record(latency_ns);
            *record = receipts.record_all;
        }
    }
    let publisher = &mut receipts.publishers[number as usize];
    publisher.received += 1;
    if !publisher.touched {
        publisher.touched = true;
        receipts.touched.push(number);
    }
}

/// A frame that a publisher has received.
#[inline]
fn acknowledgement(
    limits: &Limits,
    frame: &Frame<'_>,
    number: u32,
    receipts: &mut Receipts,
    out: &mut Vec<u8>,
    now_ns: u64,
) {
    let publisher = &mut receipts.publishers[number as usize];
    let id = wire::ack_id(frame.body);
    let refused = frame.body.get(2).is_some_and(|reason| *reason >= 0x80);
    match frame.packet_type() {
        packet::PUBACK | packet::PUBCOMP if !refused => {
            if id != packet_id(publisher.acked) {
                receipts.faults.protocol += 1;
            }
            publisher.acked += 1;
            if let Some(sent_ns) = publisher.unacked_ns.pop_front()
                && sent_ns >= receipts.record_from_ns
            {
                let latency_ns = now_ns.saturating_sub(sent_ns).min(LATENCY_MAX_NS);
                receipts.ack_latency.saturating_record(latency_ns);
            }
            if limits.fan == 0 {
                receipts.received += 1;
            }
            if !publisher.touched {
                publisher.touched = true;
                receipts.touched.push(number);
            }
        }
        packet::PUBREC if !refused => wire::put_ack(out, packet::PUBREL, id),
        _ => receipts.faults.protocol += 1,
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
