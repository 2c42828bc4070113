//! What a start does with the logs of all shards, as the program does it: replay, settle what one
//! log says of the others, deal everything out anew if the number of shards has changed.

use std::cell::RefCell;
use std::rc::Rc;

use ringtide_shard::message::{View, digest_of, forget_position, origin_of, topic_of};
use ringtide_shard::partition::PartitionMap;
use ringtide_storage::RecordKind;
use ringtide_storage::record::{
    ConnectionRecord, ExchangeRecord, MessageHead, QueueRecord, SessionEndRecord, SessionRecord,
    SubscriptionRecord, VoidRecord, WatermarkRecord,
};
use ringtide_storage::state::State;
use ringtide_topics::TenantId;

use crate::offline;
use crate::sabotage::Sabotage;
use crate::store::{Disk, Record};
use crate::trace::Trace;

/// The states of all shards, settled.
///
/// Messages above `leave_above` bytes are left in the logs, if one is given.
pub(crate) fn replay(
    disks: &[Rc<RefCell<Disk>>],
    leave_above: Option<u64>,
    trace: &Trace,
) -> Vec<State> {
    let mut states = Vec::new();
    let mut last = Vec::new();
    for (shard, disk) in disks.iter().enumerate() {
        let mut state = State::new(shard as u16, topic_of);
        if let Some(bytes_max) = leave_above {
            state.leave_above(bytes_max, digest_of);
        }
        let disk = disk.borrow();
        for record in &disk.records {
            let numbers = [62, shard as u64, record.lsn.0, record.kind as u64];
            trace.event(numbers, format_args!("s{shard} log {}: {}", record.lsn.0, words(record)));
            if let Err(error) =
                state.apply_at(record.lsn, record.kind, &record.body, disk.place(record.lsn))
            {
                let (lsn, kind) = (record.lsn.0, record.kind);
                trace.fail(format_args!("shard {shard}: record {lsn}, {kind:?}: {error}"));
            }
        }
        for (lsn, _) in state.needed() {
            let record = disk.records.iter().find(|record| record.lsn.0 == lsn);
            state.bring(lsn, record.map_or(&[], |record| &record.body));
        }
        last.push(disk.appended);
        states.push(state);
    }
    for (to, messages) in State::settle(&mut states, &last, origin_of).into_iter().enumerate() {
        if !messages.is_empty() {
            let mut body = Vec::new();
            VoidRecord { messages }.encode(&mut body);
            disks[to].borrow_mut().write(RecordKind::Void, &[&body]);
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
        RecordKind::Queue => format!("{:?}", QueueRecord::decode(body)),
        RecordKind::Void => format!("{:?}", VoidRecord::decode(body)),
        RecordKind::CheckpointEnd => format!("{kind:?}"),
    }
}
