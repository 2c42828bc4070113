//! A model of a shard: it keeps its state in plain lists, tells its log what changes, and writes
//! checkpoints in slices while it goes on.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ringtide_storage::record::{
    CheckpointEndRecord, ConnectionRecord, Destination, Entry, Exchange, ExchangeRecord, Filter,
    MessageHead, QueueRecord, SessionEndRecord, SessionId, SessionRecord, Step, SubscriptionRecord,
    WatermarkRecord, WillRecord,
};
use ringtide_storage::state::Parts;
use ringtide_storage::{Lsn, RecordKind, State};

use super::message::{message, topic_of};

/// This shard's number.
pub(crate) const ME: u16 = 1;
/// Shards, this one among them.
pub(crate) const SHARDS: u16 = 3;

/// What waits: entry and message.
pub(crate) type Slot = (u8, bool, u16, Vec<u32>, Vec<u8>);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Client {
    pub(crate) record: SessionRecord,
    pub(crate) waiting: BTreeMap<u64, Slot>,
}

/// A message of an origin whose fan-out is not over.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    message: Vec<u8>,
    lsn: u64,
    pub(crate) had: BTreeSet<(SessionId, u16)>,
    /// The group of a place in the shard's own custody.
    own: Option<u64>,
}

impl Job {
    /// Those of a record's entries that the job counts: in the record that gave it its place those
    /// without membership, and none for a group.
    fn counts(own: Option<u64>, entries: &[Entry<'_>]) -> BTreeSet<(SessionId, u16)> {
        let all = entries.iter().map(|entry| (entry.session, entry.membership));
        all.filter(|(_, membership)| own.is_none_or(|group| group == 0 && *membership == 0))
            .collect()
    }
}

/// All that must be found again.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Truth {
    pub(crate) clients: BTreeMap<u64, Client>,
    pub(crate) retained: BTreeMap<String, Vec<u8>>,
    pub(crate) pending: BTreeMap<(u16, u64), (u64, Vec<u8>)>,
    pub(crate) jobs: BTreeMap<(u16, u64), Job>,
    pub(crate) watermarks: BTreeMap<u16, u64>,
    pub(crate) sent: BTreeMap<u16, u64>,
    /// What other shards have taken over: their logs say so.
    pub(crate) taken: BTreeMap<u16, u64>,
}

/// A record of the log.
pub(crate) type Logged = (RecordKind, Vec<u8>);

#[derive(Clone, Copy, Debug)]
enum Stage {
    Sessions(u64),
    Queue(u64, u64),
    Retained,
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Shard {
    pub(crate) truth: Truth,
    pub(crate) log: Vec<Logged>,
    /// The truth after so many records.
    pub(crate) history: Vec<(usize, Truth)>,
    /// Checkpoints that came to their end: first record, records at the end.
    pub(crate) checkpoints: Vec<(usize, usize)>,
    checkpoint: Option<(usize, Stage)>,
    /// Messages that the checkpoint has written, with their positions.
    written: BTreeMap<Vec<u8>, u64>,
    retained_left: VecDeque<String>,
    next_session: u64,
    next_seq: u64,
    next_number: u64,
    arrived: BTreeMap<u16, u64>,
}

/// An operation in numbers, which proptest can shrink.
pub(crate) type Op = (u8, u16, u16, u16);

impl Shard {
    fn put(&mut self, kind: RecordKind, encode: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let mut body = Vec::new();
        encode(&mut body);
        self.log.push((kind, body));
        self.log.len() as u64
    }

    fn put_message(&mut self, kind: RecordKind, head: &MessageHead<'_>, message: &[u8]) -> u64 {
        self.put(kind, |out| {
            head.encode(out);
            out.extend_from_slice(message);
        })
    }

    /// Does one thing.
    pub(crate) fn step(&mut self, (op, a, b, c): Op) {
        match op {
            0..=7 => self.new_session(a),
            8..=29 => self.publish(a, b, c),
            30..=44 => self.arrive(a, b, c),
            45..=54 => self.go_on(a, b, c),
            55..=79 => self.deliver(a, b, c),
            80..=84 => self.inbound(a, b),
            85..=92 => self.subscribe(a, b, c),
            93..=97 => self.connection(a, b),
            98..=100 => self.end(a),
            101..=105 => self.peer_takes_over(a),
            _ => self.checkpoint(a),
        }
        self.history.push((self.log.len(), self.truth.clone()));
    }

    fn pick(&self, a: u16) -> Option<u64> {
        let count = self.truth.clients.len();
        if count == 0 {
            return None;
        }
        self.truth.clients.keys().nth(usize::from(a) % count).copied()
    }

    fn new_session(&mut self, a: u16) {
        self.next_session += 1;
        let id = self.next_session;
        let record = SessionRecord {
            id: SessionId(id),
            tenant: 7,
            client_id: format!("client-{id}"),
            expiry_s: u32::from(a),
            connected_ms: id,
            ..SessionRecord::default()
        };
        self.put(RecordKind::Session, |out| record.encode(out));
        self.truth.clients.insert(id, Client { record, waiting: BTreeMap::new() });
    }

    /// Entries of a message for some sessions, those in `had` left out.
    fn entries(
        &mut self,
        picks: u16,
        qos: u8,
        had: &BTreeSet<(SessionId, u16)>,
        message: &[u8],
    ) -> Vec<Entry<'static>> {
        let mut entries = Vec::new();
        for (place, (id, client)) in self.truth.clients.iter_mut().enumerate() {
            let membership = (picks >> 13) * u16::from(place % 2 == 0);
            let session = SessionId(*id);
            if picks >> (place % 13) & 1 == 0 || had.contains(&(session, membership)) {
                continue;
            }
            self.next_seq += 1;
            let (seq, retain) = (self.next_seq, place % 3 == 0);
            let ids: Vec<u32> = (1..=place as u32 % 3).collect();
            let slot = (qos, retain, membership, ids.clone(), message.to_vec());
            client.waiting.insert(seq, slot);
            entries.push(Entry { session, seq, qos, retain, membership, ids: Cow::Owned(ids) });
        }
        entries
    }

    fn retain(&mut self, topic: &str, message: &[u8], empty: bool) {
        if empty {
            self.truth.retained.remove(topic);
        } else {
            self.truth.retained.insert(topic.to_owned(), message.to_vec());
        }
    }

    fn publish(&mut self, a: u16, b: u16, c: u16) {
        self.next_number += 1;
        let topic = format!("topic/{}", a % 5);
        let (retained, empty) = (c & 1 != 0, c & 6 == 6);
        let lsn = self.log.len() as u64 + 1;
        let bytes = message(&topic, self.next_number, (ME, lsn), empty);
        let inbound = self.pick(a).filter(|_| c & 8 != 0).map(|id| (SessionId(id), b.max(1)));
        if let Some((SessionId(id), packet_id)) = inbound {
            self.begin_inbound(id, packet_id);
        }
        let entries = self.entries(b, 1 + (c >> 4 & 1) as u8, &BTreeSet::new(), &bytes);
        let mut destinations = Vec::new();
        for shard in 0..SHARDS {
            if c >> (5 + shard) & 1 == 0 {
                continue;
            }
            let sent = self.truth.sent.entry(shard).or_default();
            *sent += 1;
            let destination = Destination { shard, seq: *sent, group: u64::from(c >> 12) };
            destinations.push(destination);
            let pending = (destination.group, bytes.clone());
            self.truth.pending.insert((shard, *sent), pending);
            if shard == ME {
                let own = Some(destination.group);
                let had = Job::counts(own, &entries);
                let job = Job { message: bytes.clone(), lsn, had, own };
                self.truth.jobs.insert((ME, *sent), job);
            }
        }
        if retained {
            self.retain(&topic, &bytes, empty);
        }
        let destinations = Cow::Owned(destinations);
        let head = MessageHead { retained, inbound, origin: None, destinations, entries };
        assert_eq!(self.put_message(RecordKind::Message, &head, &bytes), lsn);
    }

    fn begin_inbound(&mut self, id: u64, packet_id: u16) {
        if let Some(client) = self.truth.clients.get_mut(&id) {
            client.record.inbound.push(packet_id);
            client.record.inbound.sort_unstable();
            client.record.inbound.dedup();
        }
    }

    fn arrive(&mut self, a: u16, b: u16, c: u16) {
        let origin = if a & 1 == 0 { 0 } else { 2 };
        let seq = self.arrived.entry(origin).or_default();
        *seq += 1;
        let seq = *seq;
        self.next_number += 1;
        let topic = format!("topic/{}", a % 5);
        let bytes = message(&topic, self.next_number, (origin, seq), false);
        let entries = self.entries(b, 2, &BTreeSet::new(), &bytes);
        let had = entries.iter().map(|entry| (entry.session, entry.membership)).collect();
        let retained = c & 2 != 0;
        if retained {
            self.retain(&topic, &bytes, false);
        }
        let origin_place = Some((origin, seq));
        let head =
            MessageHead { retained, origin: origin_place, entries, ..MessageHead::default() };
        let lsn = self.put_message(RecordKind::Message, &head, &bytes);
        self.truth.jobs.insert((origin, seq), Job { message: bytes, lsn, had, own: None });
        if c & 1 == 0 {
            self.finish(origin, seq);
        }
    }

    /// A fan-out goes on, with its message's record or a new one.
    fn go_on(&mut self, a: u16, b: u16, c: u16) {
        let count = self.truth.jobs.len().max(1);
        let job = self.truth.jobs.iter().nth(usize::from(a) % count);
        let Some((&(origin, seq), Job { message, lsn, had, own })) = job else { return };
        let (message, lsn, had) = (message.clone(), *lsn, had.clone());
        let own = own.filter(|_| c & 1 == 0);
        let entries = self.entries(b, 2, &had, &message);
        if let Some(job) = self.truth.jobs.get_mut(&(origin, seq)) {
            job.had.extend(Job::counts(own, &entries));
        }
        if c & 1 == 0 {
            let record = QueueRecord { message: lsn, entries };
            self.put(RecordKind::Queue, |out| record.encode(out));
        } else {
            let origin = Some((origin, seq));
            let head = MessageHead { origin, entries, ..MessageHead::default() };
            self.put_message(RecordKind::Message, &head, &message);
        }
        if c & 2 == 0 {
            self.finish(origin, seq);
        }
    }

    /// A fan-out is over; the watermark moves if none before it is under way.
    fn finish(&mut self, origin: u16, seq: u64) {
        let mark = {
            let jobs = self.truth.jobs.range((origin, 0)..=(origin, u64::MAX));
            let first = jobs.map(|(key, _)| key.1).find(|own| *own != seq);
            let last = self.arrived.get(&origin).copied().unwrap_or(seq);
            let last = if origin == ME { seq } else { last };
            first.map_or(last, |first| (first - 1).min(last))
        };
        if mark < seq {
            // It stays until those before it are over, as what was had must be known till then.
            return;
        }
        self.truth.jobs.retain(|(own, place), _| *own != origin || *place > mark);
        let own = self.truth.watermarks.entry(origin).or_default();
        *own = mark.max(*own);
        let record = WatermarkRecord { marks: vec![(origin, mark)], sent: Vec::new() };
        self.put(RecordKind::Watermark, |out| record.encode(out));
        if origin == ME {
            self.truth.pending.retain(|(shard, place), _| *shard != ME || *place > mark);
        }
    }

    fn deliver(&mut self, a: u16, b: u16, c: u16) {
        let b = b.max(1);
        let Some(id) = self.pick(a) else { return };
        let session = SessionId(id);
        let Some(client) = self.truth.clients.get_mut(&id) else { return };
        let exchanges = &mut client.record.exchanges;
        let step = if c & 1 == 0 && !exchanges.is_empty() {
            let at = usize::from(b) % exchanges.len();
            let packet_id = exchanges[at].packet_id;
            if c & 2 == 0 {
                if let Some(seq) = exchanges[at].seq.take() {
                    client.waiting.remove(&seq);
                }
                Step::Received { packet_id }
            } else {
                if let Some(seq) = exchanges.remove(at).seq {
                    client.waiting.remove(&seq);
                }
                Step::Completed { packet_id }
            }
        } else {
            let count = client.waiting.len().max(1);
            let Some((&seq, slot)) = client.waiting.iter().nth(usize::from(b) % count) else {
                return;
            };
            let under_way = exchanges.iter().any(|one| one.seq == Some(seq));
            let taken = exchanges.iter().any(|one| one.packet_id == b);
            if slot.0 == 2 && !under_way && !taken && c & 4 == 0 {
                exchanges.push(Exchange { packet_id: b, seq: Some(seq) });
                Step::Sent { seq, packet_id: b }
            } else {
                exchanges.retain(|one| one.seq != Some(seq));
                client.waiting.remove(&seq);
                Step::Done { seq }
            }
        };
        self.put(RecordKind::Exchange, |out| ExchangeRecord { session, step }.encode(out));
    }

    fn inbound(&mut self, a: u16, b: u16) {
        let b = b.max(1);
        let Some(id) = self.pick(a) else { return };
        let session = SessionId(id);
        let first = self.truth.clients.get(&id).and_then(|c| c.record.inbound.first().copied());
        let step = match first {
            Some(packet_id) if b & 1 == 0 => {
                if let Some(client) = self.truth.clients.get_mut(&id) {
                    client.record.inbound.remove(0);
                }
                Step::InboundDone { packet_id }
            }
            _ => {
                self.begin_inbound(id, b);
                Step::InboundBegun { packet_id: b }
            }
        };
        self.put(RecordKind::Exchange, |out| ExchangeRecord { session, step }.encode(out));
    }

    fn subscribe(&mut self, a: u16, b: u16, c: u16) {
        let Some(id) = self.pick(a) else { return };
        let Some(client) = self.truth.clients.get_mut(&id) else { return };
        let filter = format!("topic/{}", b % 4);
        // No Local and Retain As Published, and a QoS of 0 to 2.
        let options = c as u8 & 0b1100;
        let options = (c & 3 != 0).then(|| (options | ((c as u8 & 3) - 1), u32::from(c)));
        client.record.filters.retain(|one| one.filter != filter);
        if let Some((options, id)) = options {
            client.record.filters.push(Filter { filter: filter.clone(), options, id });
            client.record.filters.sort_by(|one, two| one.filter.cmp(&two.filter));
        }
        let record = SubscriptionRecord { session: SessionId(id), filter: &filter, options };
        self.put(RecordKind::Subscription, |out| record.encode(out));
    }

    fn connection(&mut self, a: u16, b: u16) {
        let Some(id) = self.pick(a) else { return };
        let Some(client) = self.truth.clients.get_mut(&id) else { return };
        let will = (b & 1 != 0).then(|| WillRecord {
            message: message("will", u64::from(b), (ME, 0), false),
            expiry_s: (b & 4 != 0).then_some(u32::from(b)),
            delay_s: u32::from(b),
            due_ms: u64::from(b >> 3),
        });
        let record = ConnectionRecord {
            session: SessionId(id),
            username: (b & 2 != 0).then(|| format!("user-{b}")),
            expiry_s: u32::from(b),
            connected_ms: u64::from(b),
            detached_ms: u64::from(a),
            will,
        };
        client.record.username.clone_from(&record.username);
        client.record.will.clone_from(&record.will);
        client.record.expiry_s = record.expiry_s;
        client.record.connected_ms = record.connected_ms;
        client.record.detached_ms = record.detached_ms;
        self.put(RecordKind::Connection, |out| record.encode(out));
    }

    fn end(&mut self, a: u16) {
        let Some(id) = self.pick(a) else { return };
        self.truth.clients.remove(&id);
        let record = SessionEndRecord { session: SessionId(id) };
        self.put(RecordKind::SessionEnd, |out| record.encode(out));
    }

    fn peer_takes_over(&mut self, a: u16) {
        let shard = if a & 1 == 0 { 0 } else { 2 };
        let first = self.truth.pending.range((shard, 0)..).next().map(|(key, _)| *key);
        let Some((own, seq)) = first.filter(|(own, _)| *own == shard) else { return };
        self.truth.pending.remove(&(own, seq));
        self.truth.taken.insert(shard, seq);
    }

    /// Begins a checkpoint or goes on with it.
    fn checkpoint(&mut self, a: u16) {
        if self.checkpoint.is_none() {
            self.begin_checkpoint();
        }
        for _ in 0..1 + a % 4 {
            let Some((begin, stage)) = self.checkpoint else { return };
            self.checkpoint = self.slice(stage).map(|stage| (begin, stage));
            if self.checkpoint.is_none() {
                self.put(RecordKind::CheckpointEnd, |out| CheckpointEndRecord.encode(out));
                self.checkpoints.push((begin, self.log.len()));
            }
        }
    }

    fn begin_checkpoint(&mut self) {
        // Fan-outs that began before a checkpoint end before it.
        while let Some(&(origin, seq)) = self.truth.jobs.keys().next() {
            self.finish(origin, seq);
        }
        self.checkpoint = Some((self.log.len(), Stage::Sessions(0)));
        self.written.clear();
        let marks = self.truth.watermarks.iter().map(|(s, p)| (*s, *p)).collect();
        let sent = self.truth.sent.iter().map(|(s, p)| (*s, *p)).collect();
        self.put(RecordKind::Watermark, |out| WatermarkRecord { marks, sent }.encode(out));
        for ((shard, seq), (group, message)) in self.truth.pending.clone() {
            let destinations = Cow::Owned(vec![Destination { shard, seq, group }]);
            let head = MessageHead { destinations, ..MessageHead::default() };
            self.put_message(RecordKind::Checkpoint, &head, &message);
        }
    }

    fn slice(&mut self, stage: Stage) -> Option<Stage> {
        match stage {
            Stage::Sessions(behind) => {
                let next = self.truth.clients.range(behind + 1..).next();
                let Some((&id, client)) = next else {
                    self.retained_left = self.truth.retained.keys().cloned().collect();
                    return Some(Stage::Retained);
                };
                let record = client.record.clone();
                self.put(RecordKind::Session, |out| record.encode(out));
                Some(Stage::Queue(id, 0))
            }
            Stage::Queue(id, behind) => {
                let client = self.truth.clients.get(&id);
                let next = client.and_then(|client| client.waiting.range(behind + 1..).next());
                let Some((&seq, slot)) = next else { return Some(Stage::Sessions(id)) };
                let (qos, retain, membership, ids, message) = slot.clone();
                let ids = Cow::Owned(ids);
                let session = SessionId(id);
                let entries = vec![Entry { session, seq, qos, retain, membership, ids }];
                if let Some(&message) = self.written.get(&message) {
                    let record = QueueRecord { message, entries };
                    self.put(RecordKind::Queue, |out| record.encode(out));
                } else {
                    let head = MessageHead { entries, ..MessageHead::default() };
                    let lsn = self.put_message(RecordKind::Checkpoint, &head, &message);
                    self.written.insert(message, lsn);
                }
                Some(Stage::Queue(id, seq))
            }
            Stage::Retained => {
                let topic = self.retained_left.pop_front()?;
                if let Some(message) = self.truth.retained.get(&topic).cloned() {
                    let head = MessageHead { retained: true, ..MessageHead::default() };
                    self.put_message(RecordKind::Checkpoint, &head, &message);
                }
                Some(Stage::Retained)
            }
        }
    }
}

/// The truth that some records of a log give.
pub(crate) fn replayed(log: &[Logged], from: usize, to: usize) -> State {
    let mut state = State::new(ME, topic_of);
    for (place, (kind, body)) in log.iter().enumerate().take(to).skip(from) {
        state.apply(Lsn(place as u64 + 1), *kind, body).expect("the model writes good records");
    }
    state
}

/// What a shard would restore from a state, as far as a model knows it.
pub(crate) fn found(mut state: State, taken: &BTreeMap<u16, u64>) -> Truth {
    for (shard, seq) in taken {
        state.taken_over(*shard, *seq);
    }
    let Parts { sessions, retained, pending, under_way, watermarks, sent, .. } = state.into_parts();
    let client = |one: ringtide_storage::state::SessionPart| {
        let slot = |w: ringtide_storage::state::Waiting| {
            (w.seq, (w.qos, w.retain, w.membership, w.ids, w.message.bytes().to_vec()))
        };
        let waiting = one.waiting.into_iter().map(slot).collect();
        (one.record.id.0, Client { record: one.record, waiting })
    };
    let job = |one: ringtide_storage::state::UnderWay| {
        let job =
            Job { message: Vec::new(), lsn: 0, had: one.had.into_iter().collect(), own: None };
        ((one.origin, one.seq), job)
    };
    Truth {
        clients: sessions.into_iter().map(client).collect(),
        retained: retained.into_iter().map(|r| (r.topic, r.message.bytes().to_vec())).collect(),
        pending: pending
            .into_iter()
            .map(|p| ((p.shard, p.seq), (p.group, p.message.bytes().to_vec())))
            .collect(),
        jobs: under_way.into_iter().map(job).collect(),
        watermarks: watermarks.into_iter().collect(),
        sent: sent.into_iter().collect(),
        taken: taken.clone(),
    }
}

/// The truth without what a log need not say.
pub(crate) fn comparable(truth: &Truth) -> Truth {
    let mut truth = truth.clone();
    for job in truth.jobs.values_mut() {
        job.message.clear();
        job.lsn = 0;
        job.own = None;
    }
    truth
}
