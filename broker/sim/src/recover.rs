//! What a start does with the logs of all shards, as the program does it: replay, settle what one
//! log says of the others, deal everything out anew if the number of shards has changed.

use std::cell::RefCell;
use std::rc::Rc;

use ringtide_shard::message::{View, forget_position};
use ringtide_shard::partition::PartitionMap;
use ringtide_storage::record::{
    ConnectionRecord, ExchangeRecord, MessageHead, SessionEndRecord, SessionId, SessionRecord,
    Step, SubscriptionRecord, WatermarkRecord,
};
use ringtide_storage::state::{Parts, State};
use ringtide_storage::{Lsn, RecordKind};
use ringtide_topics::TenantId;

use crate::offline;
use crate::sabotage::Sabotage;
use crate::store::{Disk, Record};
use crate::trace::Trace;

/// The states of all shards, settled.
pub(crate) fn replay(disks: &[Rc<RefCell<Disk>>], trace: &Trace) -> Vec<State> {
    let mut states = Vec::new();
    let mut last = Vec::new();
    for (shard, disk) in disks.iter().enumerate() {
        let mut state = State::new(shard as u16, topic_of);
        let disk = disk.borrow();
        for record in &disk.records {
            let numbers = [62, shard as u64, record.lsn.0, record.kind as u64];
            trace.event(numbers, format_args!("s{shard} log {}: {}", record.lsn.0, words(record)));
            if let Err(error) = state.apply(record.lsn, record.kind, &record.body) {
                let (lsn, kind) = (record.lsn.0, record.kind);
                trace.fail(format_args!("shard {shard}: record {lsn}, {kind:?}: {error}"));
            }
        }
        last.push(disk.appended);
        states.push(state);
    }
    for (to, gone) in settle(&mut states, &last).into_iter().enumerate() {
        for (session, seq) in gone {
            let mut body = Vec::new();
            ExchangeRecord { session, step: Step::Done { seq } }.encode(&mut body);
            disks[to].borrow_mut().write(RecordKind::Exchange, &[&body]);
        }
    }
    states
}

/// The states of `old` shards written to new disks for another number of shards.
pub(crate) fn redistribute(
    states: Vec<State>,
    (seed, old, new): (u64, u16, u16),
    sabotage: Sabotage,
) -> Vec<Disk> {
    let (before, after) = (PartitionMap::even(seed, old), PartitionMap::even(seed, new));
    let mut matcher = offline::Matcher::new(&states, &before);
    let home = |tenant: u32, name: &str| after.home(TenantId(tenant), name);
    let states = State::redistribute(states, new, home, &mut |due| matcher.take_over(due));
    let write = |(shard, state): (usize, &State)| {
        let mut disk = Disk::new(seed, shard as u16, true, sabotage);
        state.write_checkpoint(&mut |kind, parts| match (kind, parts) {
            (RecordKind::Checkpoint, [head, message]) => {
                let mut message = message.to_vec();
                forget_position(&mut message);
                disk.write(kind, &[head, &message]);
            }
            _ => disk.write(kind, parts),
        });
        disk
    };
    states.iter().enumerate().map(write).collect()
}

/// The parts that shards go on with: the place that an origin gives next lies above all that the
/// destination knows.
pub(crate) fn align(states: Vec<State>) -> Vec<Parts> {
    let mut shards: Vec<Parts> = states.into_iter().map(State::into_parts).collect();
    for origin in 0..shards.len() {
        for to in 0..shards.len() {
            let Parts { watermarks, under_way, .. } = &shards[to];
            let marks = watermarks.iter().map(|(from, seq)| (*from, *seq));
            let all = marks.chain(under_way.iter().map(|one| (one.origin, one.seq)));
            let from_there = all.filter(|(from, _)| usize::from(*from) == origin);
            let Some(known) = from_there.map(|(_, seq)| seq).max() else { continue };
            let sent = &mut shards[origin].sent;
            match sent.iter_mut().find(|(shard, _)| usize::from(*shard) == to) {
                Some((_, last)) => *last = known.max(*last),
                None => sent.push((to as u16, known)),
            }
        }
    }
    shards
}

fn settle(states: &mut [State], last: &[Lsn]) -> Vec<Vec<(SessionId, u64)>> {
    let mut gone = vec![Vec::new(); states.len()];
    for origin in 0..states.len() {
        for to in (0..states.len()).filter(|to| *to != origin) {
            let sent = states[origin].sent(to as u16);
            let (shard, last) = (origin as u16, last[origin]);
            gone[to].extend(states[to].discard_uncommitted(shard, last, sent, origin_of));
            let mark = states[to].watermark(origin as u16);
            states[origin].taken_over(to as u16, mark);
        }
    }
    gone
}

/// A record in words.
fn words(record: &Record) -> String {
    let body = &record.body;
    let kind = record.kind;
    match kind {
        RecordKind::Message | RecordKind::Checkpoint => match MessageHead::decode(body) {
            Ok((head, message)) => {
                let view = View::read(message).ok();
                let no = view.and_then(|view| crate::model::number(view.payload));
                let header = view.map(|view| view.header);
                let origin = header.map(|header| (header.qos, header.origin_log, header.lsn));
                format!("{kind:?} {no:?}, origin {origin:?}, {head:?}")
            }
            Err(error) => error.to_string(),
        },
        RecordKind::Session => format!("{:?}", SessionRecord::decode(body)),
        RecordKind::Subscription => format!("{:?}", SubscriptionRecord::decode(body)),
        RecordKind::Exchange => format!("{:?}", ExchangeRecord::decode(body)),
        RecordKind::Connection => format!("{:?}", ConnectionRecord::decode(body)),
        RecordKind::SessionEnd => format!("{:?}", SessionEndRecord::decode(body)),
        RecordKind::Watermark => format!("{:?}", WatermarkRecord::decode(body)),
        RecordKind::Queue => format!("{kind:?}"),
    }
}

fn topic_of(message: &[u8]) -> Option<(u32, &str, bool)> {
    let view = View::read(message).ok()?;
    Some((view.header.tenant.0, view.topic, view.payload.is_empty()))
}

fn origin_of(message: &[u8]) -> Option<(u16, u64)> {
    let header = View::read(message).ok()?.header;
    Some((header.origin_log, header.lsn))
}
