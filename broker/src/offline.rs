//! Matching without a running shard: who of the sessions in a state a message is for. Only what
//! was on its way between shards when the broker ended needs it, and only when the number of
//! shards changes.

use std::borrow::Cow;
use std::collections::HashMap;

use ringtide_shard::message::View;
use ringtide_shard::partition::PartitionMap;
use ringtide_storage::record::{Entry, SessionId};
use ringtide_storage::state::{Due, Followed, State};
use ringtide_topics::{Filter, MatchScratch, SessionRef, Subscription, Table, TenantId};

const OPTION_QOS: u8 = 0b11;
const OPTION_NO_LOCAL: u8 = 0b100;
const OPTION_RAP: u8 = 0b1000;

/// The subscriptions of one old shard.
struct Shard {
    table: Table,
    /// Session ids and the keyed hashes of their client ids, by the number in the table.
    sessions: Vec<(SessionId, u64)>,
    /// Members of shared groups: session, options, identifier.
    groups: HashMap<u64, (SessionId, u8, u32)>,
}

/// See the module's documentation.
pub(crate) struct Matcher<'a> {
    partitions: &'a PartitionMap,
    shards: Vec<Shard>,
    scratch: MatchScratch,
}

impl<'a> Matcher<'a> {
    /// Of the old shards' states, in order.
    pub(crate) fn new(states: &[State], partitions: &'a PartitionMap) -> Matcher<'a> {
        let shards = states.iter().map(|state| shard_of(state, partitions)).collect();
        Matcher { partitions, shards, scratch: MatchScratch::default() }
    }

    /// What follows from a message that was on its way to a shard.
    pub(crate) fn take_over(&mut self, due: &Due<'_>) -> Followed {
        let Some(shard) = self.shards.get_mut(usize::from(due.shard)) else {
            return Followed::default();
        };
        let Ok(view) = View::read(due.message) else { return Followed::default() };
        let header = view.header;
        let entry = |session: SessionId, options: u8, membership: u16, ids: Vec<u32>| Entry {
            session,
            seq: 0,
            qos: (header.qos as u8).min(options & OPTION_QOS),
            retain: header.retain && options & OPTION_RAP != 0,
            membership,
            ids: Cow::Owned(ids),
        };
        let mut entries = Vec::new();
        if due.group != 0 {
            if let Some(&(session, options, id)) = shard.groups.get(&due.group) {
                let tag = ((due.group >> 48) as u16).max(1);
                let ids = if id == 0 { Vec::new() } else { vec![id] };
                entries.push(entry(session, options, tag, ids));
            }
        } else {
            let sessions = &shard.sessions;
            let scratch = &mut self.scratch;
            let (tenant, hash) = (header.tenant, header.topic_hash);
            shard.table.matches(tenant, view.topic, hash, None, scratch, |hit| {
                let Some(&(session, client)) = sessions.get(hit.session.0 as usize) else { return };
                if hit.options & OPTION_NO_LOCAL == 0 || client != header.publisher {
                    entries.push(entry(session, hit.options, 0, hit.ids.to_vec()));
                }
            });
        }
        entries.retain(|entry| entry.qos > 0);
        let home = self.partitions.shard(header.partition) == due.shard;
        Followed { entries, retained: header.retain && due.group == 0 && home }
    }
}

fn shard_of(state: &State, partitions: &PartitionMap) -> Shard {
    let mut shard = Shard { table: Table::new(), sessions: Vec::new(), groups: HashMap::new() };
    state.each_session(&mut |record| {
        let number = SessionRef(shard.sessions.len() as u32);
        let tenant = TenantId(record.tenant);
        shard.sessions.push((record.id, partitions.hash(tenant, &record.client_id)));
        for kept in &record.filters {
            let Ok(parsed) = Filter::parse(&kept.filter, u16::MAX) else { continue };
            if parsed.share().is_some() {
                let group = partitions.hash(tenant, &kept.filter);
                shard.groups.insert(group, (record.id, kept.options, kept.id));
            } else {
                let (options, id) = (kept.options, kept.id);
                let subscription = Subscription { session: number, options, id };
                shard.table.subscribe(tenant, &kept.filter, subscription);
            }
        }
    });
    shard
}
