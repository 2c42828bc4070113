//! The clients of a run and what they say: CONNECT to SUBACK, publishing with stamps, checking and
//! acknowledging what comes. Does no I/O: bytes come in, bytes to send are left in the clients.

use std::collections::VecDeque;

use ringtide_driver::{Outgoing, Socket};

use super::meter::Meter;
use super::plan::{Pace, Plan};
use crate::sequence::{Stamp, Stream};
use crate::wire::{self, Connect, Frame, Scanner, packet};

/// Messages that a client may have due and unsent; more are skipped.
const BACKLOG_MAX: usize = 1000;
/// Unacknowledged messages of a client, unless the broker allows fewer.
const INFLIGHT_MAX: u32 = 1000;
/// Messages in one write.
const WRITE_MAX: u64 = 64;
/// Filters in one SUBSCRIBE are one: each has its QoS.
const FIRST_SUBSCRIBE_ID: u16 = 1;

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No socket.
    Away,
    /// Its CONNACK is still to come.
    Connecting,
    /// So many SUBACKs are still to come.
    Subscribing(u16),
    Up,
    /// It publishes no more, and says DISCONNECT when all is acknowledged.
    Leaving,
    /// It has said so, or is of no use any more; its socket is being closed.
    Closing,
}

/// What one subscriber knows of one publisher.
#[derive(Debug, Default)]
struct Heard {
    stream: Stream,
    /// Messages before this one were sent before the subscription was confirmed.
    floor: u32,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) phase: Phase,
    pub(crate) socket: Option<Socket>,
    scanner: Scanner,
    /// Bytes to send with the next flush.
    pub(crate) out: Vec<u8>,
    pub(crate) stalled: bool,
    pub(crate) dirty: bool,
    /// Seconds since the run began at which something was last sent.
    pub(crate) sent_at_s: u32,
    /// The PUBLISH up to its payload.
    head: Box<[u8]>,
    sent: u32,
    acked: u32,
    /// The smallest bound on unacknowledged messages.
    inflight_max: u32,
    /// Deliveries of its messages, where it has a window.
    received: u64,
    /// When each unacknowledged message was to be sent.
    unacked_ns: VecDeque<u64>,
    /// When each message that is due was to be sent.
    backlog_ns: VecDeque<u64>,
    heard: Vec<Heard>,
}

/// Where the messages of a group are to be expected by a client.
#[derive(Clone, Copy, Debug)]
struct Slot {
    from: usize,
    /// The first place in [`Client::heard`].
    at: usize,
    paired: bool,
    sampler: usize,
}

/// All clients.
pub(crate) struct Crowd<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) clients: Vec<Client>,
    pub(crate) meter: Meter,
    /// By group.
    slots: Vec<Vec<Slot>>,
    /// Groups that publish now.
    pub(crate) publishing: Vec<bool>,
    /// Clients with something to send.
    pub(crate) dirty: Vec<u32>,
    /// Clients that are up.
    pub(crate) up: u64,
    /// Clients between CONNECT and their last SUBACK.
    pub(crate) coming: u64,
}

impl<'a> Crowd<'a> {
    pub(crate) fn new(plan: &'a Plan) -> Crowd<'a> {
        let client = |_| Client {
            phase: Phase::Away,
            socket: None,
            scanner: Scanner::default(),
            out: Vec::new(),
            stalled: false,
            dirty: false,
            sent_at_s: 0,
            head: Box::default(),
            sent: 0,
            acked: 0,
            inflight_max: INFLIGHT_MAX,
            received: 0,
            unacked_ns: VecDeque::new(),
            backlog_ns: VecDeque::new(),
            heard: Vec::new(),
        };
        Crowd {
            plan,
            clients: (0..plan.clients).map(client).collect(),
            meter: Meter::new(plan),
            slots: (0..plan.groups.len()).map(|group| slots(plan, group)).collect(),
            publishing: vec![false; plan.groups.len()],
            dirty: Vec::new(),
            up: 0,
            coming: 0,
        }
    }

    pub(crate) fn mark(&mut self, index: u32) {
        let client = &mut self.clients[index as usize];
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Takes a socket over and leaves a CONNECT to be sent.
    pub(crate) fn begin(&mut self, index: u32, socket: Socket) {
        let group = &self.plan.groups[self.plan.group_of(index)];
        let (user_name, password) = group.credentials(index);
        let bytes = wire::connect(&Connect {
            version: self.plan.version,
            client_id: &group.client_id(index),
            user_name: user_name.as_deref(),
            password,
            keep_alive_s: self.plan.keep_alive_s,
            persistent: false,
            receive_maximum: None,
        });
        let client = &mut self.clients[index as usize];
        client.phase = Phase::Connecting;
        client.socket = Some(socket);
        client.scanner = Scanner::default();
        client.out = bytes;
        client.stalled = false;
        self.coming += 1;
        self.mark(index);
    }

    /// A message of this client is due.
    pub(crate) fn due(&mut self, index: u32, intended_ns: u64) {
        let client = &mut self.clients[index as usize];
        if client.phase == Phase::Up && client.backlog_ns.len() < BACKLOG_MAX {
            client.backlog_ns.push_back(intended_ns);
            self.mark(index);
        } else {
            self.meter.counts.skipped += 1;
        }
    }

    /// Whether a client that leaves has nothing outstanding: then it says so, and may be closed
    /// once the broker has closed.
    pub(crate) fn may_go(&mut self, index: u32) {
        let client = &mut self.clients[index as usize];
        if client.phase == Phase::Leaving && client.unacked_ns.is_empty() {
            client.phase = Phase::Closing;
            client.out.extend_from_slice(&wire::DISCONNECT);
            self.mark(index);
        }
    }

    /// Begins a client's leave.
    pub(crate) fn leave(&mut self, index: u32) {
        let client = &mut self.clients[index as usize];
        if client.phase == Phase::Up {
            client.phase = Phase::Leaving;
            self.meter.counts.skipped += client.backlog_ns.len() as u64;
            client.backlog_ns.clear();
            self.up -= 1;
            self.meter.counts.left += 1;
            self.may_go(index);
        }
    }

    /// A connection has ended.
    pub(crate) fn ended(&mut self, index: u32) {
        let client = &mut self.clients[index as usize];
        match client.phase {
            Phase::Connecting | Phase::Subscribing(_) => {
                self.meter.counts.connects_failed += 1;
                self.coming -= 1;
            }
            Phase::Up => {
                self.meter.counts.closed_by_broker += 1;
                self.up -= 1;
            }
            Phase::Leaving => self.meter.counts.closed_by_broker += 1,
            Phase::Away | Phase::Closing => {}
        }
        client.phase = Phase::Closing;
        self.meter.counts.skipped += client.backlog_ns.len() as u64;
        client.backlog_ns.clear();
        // What was not acknowledged when the connection ended never will be.
        client.acked = client.sent;
        client.unacked_ns.clear();
    }

    /// Its socket is closed.
    pub(crate) fn closed(&mut self, index: u32) {
        let client = &mut self.clients[index as usize];
        client.phase = Phase::Away;
        client.socket = None;
        client.out.clear();
    }

    /// Bytes for a client. False if they are no MQTT, or it was refused: the connection is over.
    pub(crate) fn on_bytes(&mut self, index: u32, bytes: &[u8], now_ns: u64) -> bool {
        let mut scanner = std::mem::take(&mut self.clients[index as usize].scanner);
        let mut good = true;
        let scanned = scanner.scan(bytes, |frame| good &= self.on_frame(index, &frame, now_ns));
        self.clients[index as usize].scanner = scanner;
        if scanned.is_err() {
            let group = self.plan.group_of(index);
            if let Some(slot) = self.slots[group].first() {
                self.meter.samplers[slot.sampler].faults.protocol += 1;
            }
        }
        if !self.clients[index as usize].out.is_empty() {
            self.mark(index);
        }
        good && scanned.is_ok()
    }

    fn on_frame(&mut self, index: u32, frame: &Frame<'_>, now_ns: u64) -> bool {
        match frame.packet_type() {
            packet::CONNACK => self.on_connack(index, frame, now_ns),
            packet::SUBACK => self.on_suback(index, frame, now_ns),
            packet::PUBLISH => self.on_publish(index, frame, now_ns),
            packet::PUBACK | packet::PUBREC | packet::PUBCOMP => {
                self.on_acknowledged(index, frame, now_ns)
            }
            packet::PUBREL => {
                let out = &mut self.clients[index as usize].out;
                wire::put_ack(out, packet::PUBCOMP, wire::ack_id(frame.body));
                true
            }
            packet::PINGRESP => true,
            _ => false,
        }
    }

    fn on_connack(&mut self, index: u32, frame: &Frame<'_>, now_ns: u64) -> bool {
        let Some(answer) = wire::connack(self.plan.version, frame.body) else { return false };
        if answer.code != 0 || self.clients[index as usize].phase != Phase::Connecting {
            return false;
        }
        let group = &self.plan.groups[self.plan.group_of(index)];
        let client = &mut self.clients[index as usize];
        client.inflight_max = INFLIGHT_MAX.min(u32::from(answer.receive_maximum));
        if group.subscribe.is_empty() {
            self.come_up(index, now_ns);
            return true;
        }
        client.phase = Phase::Subscribing(group.subscribe.len() as u16);
        for (id, subscribe) in (FIRST_SUBSCRIBE_ID..).zip(&group.subscribe) {
            let filters = [group.filter(subscribe, index)];
            client.out.extend(wire::subscribe(self.plan.version, id, &filters, subscribe.qos));
        }
        true
    }

    fn on_suback(&mut self, index: u32, frame: &Frame<'_>, now_ns: u64) -> bool {
        let client = &mut self.clients[index as usize];
        let Phase::Subscribing(left) = client.phase else { return false };
        if frame.body.last().is_none_or(|code| *code >= 0x80) {
            return false;
        }
        client.phase = Phase::Subscribing(left - 1);
        if left == 1 {
            self.listen(index);
            self.come_up(index, now_ns);
        }
        true
    }

    fn come_up(&mut self, index: u32, now_ns: u64) {
        let group = self.plan.group_of(index);
        self.clients[index as usize].phase = Phase::Up;
        self.coming -= 1;
        self.up += 1;
        self.meter.counts.connected += 1;
        for slot in &self.slots[group] {
            let expected = self.publishing[slot.from];
            if expected {
                self.meter.samplers[slot.sampler].expect(true, now_ns);
            }
        }
        self.mark(index);
    }

    /// From now on each message that is sent must come.
    fn listen(&mut self, index: u32) {
        let group = self.plan.group_of(index);
        let place = index - self.plan.groups[group].first;
        let mut heard = std::mem::take(&mut self.clients[index as usize].heard);
        heard.clear();
        for slot in &self.slots[group] {
            let from = &self.plan.groups[slot.from];
            let range = match slot.paired {
                true => from.first + place..from.first + place + 1,
                false => from.first..from.first + from.count,
            };
            heard.extend(range.map(|publisher| {
                let floor = self.clients[publisher as usize].sent;
                Heard { stream: Stream::from(floor), floor }
            }));
        }
        self.clients[index as usize].heard = heard;
    }

    /// Where a client expects the messages of a publisher.
    fn expected(&self, index: u32, publisher: u32) -> Option<(usize, usize)> {
        if publisher >= self.plan.clients {
            return None;
        }
        let group = self.plan.group_of(index);
        let from = self.plan.group_of(publisher);
        let place = publisher - self.plan.groups[from].first;
        let own = index - self.plan.groups[group].first;
        let slot = self.slots[group].iter().find(|slot| slot.from == from)?;
        match slot.paired {
            true => (place == own).then_some((slot.at, slot.sampler)),
            false => Some((slot.at + place as usize, slot.sampler)),
        }
    }

    fn on_publish(&mut self, index: u32, frame: &Frame<'_>, now_ns: u64) -> bool {
        let Some(head) = wire::parse_publish(self.plan.version, frame) else { return false };
        let out = &mut self.clients[index as usize].out;
        match frame.qos() {
            0 => {}
            1 => wire::put_ack(out, packet::PUBACK, head.packet_id),
            _ => wire::put_ack(out, packet::PUBREC, head.packet_id),
        }
        let payload = frame.body.get(head.payload_at..).unwrap_or(&[]);
        let found = Stamp::from_payload(payload)
            .and_then(|stamp| Some((stamp, self.expected(index, stamp.publisher)?)));
        let Some((stamp, (at, sampler))) = found else {
            let group = self.plan.group_of(index);
            if let Some(slot) = self.slots[group].first() {
                self.meter.samplers[slot.sampler].faults.misrouted += 1;
            }
            return true;
        };
        let Some(heard) = self.clients[index as usize].heard.get_mut(at) else { return true };
        if stamp.sequence < heard.floor {
            return true;
        }
        heard.stream.observe(stamp.sequence, &mut self.meter.samplers[sampler].faults);
        self.meter.delivered(sampler, now_ns.saturating_sub(stamp.time_ns), now_ns);
        let from = self.plan.group_of(stamp.publisher);
        if let Some(publish) = &self.plan.groups[from].publish
            && let Pace::Window(_) = publish.pace
        {
            self.clients[stamp.publisher as usize].received += 1;
            self.mark(stamp.publisher);
        }
        true
    }

    fn on_acknowledged(&mut self, index: u32, frame: &Frame<'_>, now_ns: u64) -> bool {
        let refused = frame.body.get(2).is_some_and(|reason| *reason >= 0x80);
        let group = self.plan.group_of(index);
        let Some(publish) = &self.plan.groups[group].publish else { return false };
        let client = &mut self.clients[index as usize];
        let id = wire::ack_id(frame.body);
        if frame.packet_type() == packet::PUBREC && !refused {
            wire::put_ack(&mut client.out, packet::PUBREL, id);
            return true;
        }
        let sampler = &mut self.meter.samplers[publish.sampler];
        if refused || id != packet_id(client.acked) {
            sampler.faults.protocol += 1;
        }
        if let Some(intended_ns) = client.unacked_ns.pop_front() {
            client.acked = client.acked.wrapping_add(1);
            sampler.record(now_ns.saturating_sub(intended_ns), now_ns);
            self.meter.counts.acknowledged += 1;
        }
        self.mark(index);
        self.may_go(index);
        true
    }

    /// Appends what a client has to send, messages included; true if there is more than fits.
    pub(crate) fn fill(&mut self, index: u32, data: &mut Outgoing, now_ns: u64) -> bool {
        let client = &mut self.clients[index as usize];
        data.head.append(&mut client.out);
        let group = self.plan.group_of(index);
        let Some(publish) = &self.plan.groups[group].publish else { return false };
        if client.phase != Phase::Up {
            return false;
        }
        if client.head.is_empty() {
            let topic = self.plan.groups[group].topic(publish, index);
            let (version, bytes) = (self.plan.version, publish.payload_bytes);
            client.head = wire::publish_head(version, publish.qos, &topic, bytes).into();
        }
        let sampler = &mut self.meter.samplers[publish.sampler];
        for _ in 0..WRITE_MAX {
            let full = publish.qos > 0 && client.unacked_ns.len() as u32 >= client.inflight_max;
            let intended_ns = match publish.pace {
                Pace::Every(_) if !full => client.backlog_ns.pop_front(),
                Pace::Window(window) if !full && self.publishing[group] => {
                    let made = u64::from(client.sent) * publish.fan;
                    (made < client.received + window * publish.fan).then_some(now_ns)
                }
                _ => None,
            };
            let Some(intended_ns) = intended_ns else { return false };
            let stamp = Stamp { publisher: index, sequence: client.sent, time_ns: intended_ns };
            append(data, &client.head, publish, stamp, self.plan.version);
            client.sent = client.sent.wrapping_add(1);
            self.meter.counts.sent += 1;
            sampler.asked += 1;
            if publish.qos > 0 {
                client.unacked_ns.push_back(intended_ns);
            } else {
                sampler.record(now_ns.saturating_sub(intended_ns), now_ns);
            }
        }
        true
    }

    /// Whether everything that was sent has come and been acknowledged.
    pub(crate) fn settled(&self) -> bool {
        self.missing(|_, missing| missing == 0).is_none()
            && self.clients.iter().all(|client| client.unacked_ns.is_empty())
    }

    /// The first subscription for which `fine` says no to the number of messages that it misses.
    fn missing(&self, mut fine: impl FnMut(usize, u32) -> bool) -> Option<u32> {
        for (group, plan) in self.plan.groups.iter().enumerate() {
            for index in plan.first..plan.first + plan.count {
                let client = &self.clients[index as usize];
                if client.phase != Phase::Up {
                    continue;
                }
                for slot in &self.slots[group] {
                    let from = &self.plan.groups[slot.from];
                    let (first, count) = match slot.paired {
                        true => (from.first + index - plan.first, 1),
                        false => (from.first, from.count),
                    };
                    for offset in 0..count {
                        let sent = self.clients[(first + offset) as usize].sent;
                        let heard = client.heard.get(slot.at + offset as usize);
                        let next = heard.map_or(sent, |heard| heard.stream.next());
                        if !fine(slot.sampler, sent.saturating_sub(next)) {
                            return Some(index);
                        }
                    }
                }
            }
        }
        None
    }

    /// Counts what has not come as lost.
    pub(crate) fn finish(&mut self) {
        let mut lost = vec![0; self.meter.samplers.len()];
        self.missing(|sampler, missing| {
            lost[sampler] += u64::from(missing);
            true
        });
        for (sampler, lost) in self.meter.samplers.iter_mut().zip(lost) {
            sampler.faults.lost += lost;
        }
    }
}

fn slots(plan: &Plan, group: usize) -> Vec<Slot> {
    let mut at = 0;
    let mut slots = Vec::new();
    for subscribe in &plan.groups[group].subscribe {
        for from in &subscribe.from {
            let (paired, sampler) = (subscribe.paired, subscribe.sampler);
            slots.push(Slot { from: *from, at, paired, sampler });
            at += if paired { 1 } else { plan.groups[*from].count as usize };
        }
    }
    slots
}

/// The packet id of a client's message: 1 to 65535, round and round.
fn packet_id(number: u32) -> u16 {
    (number % 65_535) as u16 + 1
}

/// Appends one PUBLISH.
fn append(
    data: &mut Outgoing,
    head: &[u8],
    publish: &super::plan::PublishPlan,
    stamp: Stamp,
    version: wire::Version,
) {
    let at = data.head.len();
    data.head.extend_from_slice(head);
    if publish.qos > 0 {
        let properties = usize::from(version == wire::Version::V5);
        let end = at + head.len() - properties;
        data.head[end - 2..end].copy_from_slice(&packet_id(stamp.sequence).to_be_bytes());
    }
    data.head.extend_from_slice(&stamp.to_bytes());
    if publish.tail_shared {
        data.shared.push((data.head.len() as u32, publish.tail.clone()));
    } else {
        data.head.extend_from_slice(&publish.tail);
    }
}
