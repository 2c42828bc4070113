//! Matching without a running shard: who of the sessions in a state a message is for. Only what
//! was on its way between shards when the broker ended needs it, and only when the number of
//! shards changes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use ringtide_shard::message::View;
use ringtide_shard::partition::PartitionMap;
use ringtide_storage::record::{ANEW, Entry, SessionId, SessionRecord};
use ringtide_storage::state::{Due, Followed, State};
use ringtide_topics::{Filter, MatchScratch, SessionRef, Subscription, Table, TenantId};

const OPTION_QOS: u8 = 0b11;
const OPTION_NO_LOCAL: u8 = 0b100;
const OPTION_RAP: u8 = 0b1000;

/// The subscriptions of one old shard, but for those of shared groups.
struct Shard {
    table: Table,
    /// Session ids and the keyed hashes of their client ids, by the number in the table.
    sessions: Vec<(SessionId, u64)>,
}

/// A shared group, and the one of its members that is taken.
struct Group {
    key: u64,
    /// The old shard where the member is.
    shard: u16,
    session: SessionId,
    options: u8,
    id: u32,
    /// It can wait for a message: its session outlives its connection, and it takes QoS 1.
    keeps: bool,
}

/// The shared groups of all old shards.
struct Groups {
    /// Group filters, with the number in `all` in place of a session's.
    table: Table,
    all: Vec<Group>,
    by_key: HashMap<u64, usize>,
}

/// See the module's documentation.
pub(crate) struct Matcher<'a> {
    partitions: &'a PartitionMap,
    shards: Vec<Shard>,
    groups: Groups,
    scratch: MatchScratch,
}

impl<'a> Matcher<'a> {
    /// Of the old shards' states, in order.
    pub(crate) fn new(states: &[State], partitions: &'a PartitionMap) -> Matcher<'a> {
        let mut groups = Groups { table: Table::new(), all: Vec::new(), by_key: HashMap::new() };
        let shards = (0..).zip(states);
        let shards = shards.map(|(number, state)| shard_of(number, state, partitions, &mut groups));
        let shards = shards.collect();
        Matcher { partitions, shards, groups, scratch: MatchScratch::default() }
    }

    /// What follows from a message that was on its way to a shard.
    pub(crate) fn take_over(&mut self, due: &Due<'_>) -> Followed {
        let Some(shard) = self.shards.get(usize::from(due.shard)) else {
            return Followed::default();
        };
        let Ok(view) = View::read(due.message) else { return Followed::default() };
        let header = view.header;
        let (tenant, hash) = (header.tenant, header.topic_hash);
        let (groups, scratch) = (&self.groups, &mut self.scratch);
        let entry = |session: SessionId, options: u8, membership: u16, ids: Vec<u32>| Entry {
            session,
            seq: 0,
            qos: (header.qos as u8).min(options & OPTION_QOS),
            retain: header.retain && options & OPTION_RAP != 0,
            membership,
            ids: Cow::Owned(ids),
        };
        let mut entries = Vec::new();
        let mut chosen = Vec::new();
        let is_for_all = due.group == 0 || due.group == ANEW;
        if is_for_all {
            shard.table.matches(tenant, view.topic, hash, None, scratch, |hit| {
                let sessions = &shard.sessions;
                let Some(&(session, client)) = sessions.get(hit.session.0 as usize) else { return };
                if hit.options & OPTION_NO_LOCAL == 0 || client != header.publisher {
                    entries.push(entry(session, hit.options, 0, hit.ids.to_vec()));
                }
            });
        } else {
            chosen.extend(groups.by_key.get(&due.group).copied());
        }
        if due.group == ANEW {
            groups.table.matches(tenant, view.topic, hash, None, scratch, |hit| {
                chosen.push(hit.session.0 as usize);
            });
        }
        let chosen = chosen.into_iter().filter_map(|number| groups.all.get(number));
        for group in chosen.filter(|group| group.shard == due.shard) {
            let ids = if group.id == 0 { Vec::new() } else { vec![group.id] };
            entries.push(entry(group.session, group.options, group.tag(), ids));
        }
        entries.retain(|entry| entry.qos > 0);
        let home = self.partitions.shard(header.partition) == due.shard;
        Followed { entries, retained: header.retain && is_for_all && home }
    }
}

impl Group {
    /// As a session names its membership.
    fn tag(&self) -> u16 {
        ((self.key >> 48) as u16).max(1)
    }
}

impl Groups {
    /// Adds a member: the first that can wait for a message is taken, or else the first.
    fn add(&mut self, tenant: TenantId, topics: &str, member: Group) {
        match self.by_key.entry(member.key) {
            Slot::Vacant(slot) => {
                let number = *slot.insert(self.all.len());
                let session = SessionRef(number as u32);
                let subscription = Subscription { session, options: OPTION_QOS, id: 0 };
                self.table.subscribe(tenant, topics, subscription);
                self.all.push(member);
            }
            Slot::Occupied(slot) => {
                let taken = &mut self.all[*slot.get()];
                if member.keeps && !taken.keeps {
                    *taken = member;
                }
            }
        }
    }
}

/// The subscriptions of a shard; its members of shared groups go to `groups`.
fn shard_of(number: u16, state: &State, partitions: &PartitionMap, groups: &mut Groups) -> Shard {
    let mut shard = Shard { table: Table::new(), sessions: Vec::new() };
    state.each_session(&mut |record: &SessionRecord| {
        let session = SessionRef(shard.sessions.len() as u32);
        let tenant = TenantId(record.tenant);
        shard.sessions.push((record.id, partitions.hash(tenant, &record.client_id)));
        for kept in &record.filters {
            let Ok(parsed) = Filter::parse(&kept.filter, u16::MAX) else { continue };
            let (options, id) = (kept.options, kept.id);
            if parsed.share().is_none() {
                shard.table.subscribe(tenant, &kept.filter, Subscription { session, options, id });
                continue;
            }
            let member = Group {
                key: partitions.hash(tenant, &kept.filter),
                shard: number,
                session: record.id,
                options,
                id,
                keeps: record.expiry_s > 0 && options & OPTION_QOS > 0,
            };
            groups.add(tenant, parsed.filter(), member);
        }
    });
    shard
}

#[cfg(test)]
mod tests {
    use ringtide_codec::QoS;
    use ringtide_shard::message::{Header, Message, topic_of};
    use ringtide_storage::record::{Destination, Filter as KeptFilter, MessageHead};
    use ringtide_storage::{Lsn, RecordKind};
    use ringtide_topics::topic_hash;

    use super::*;

    const KEY: u64 = 1;
    const OLD: u16 = 3;

    /// The state of an old shard with these sessions, by number and filter; and with a message of
    /// this place and group in its own custody, to `t`.
    fn state(shard: u16, sessions: &[(u64, &str, u8)], own: Option<u64>) -> State {
        let mut state = State::new(shard, topic_of);
        let mut lsn = 0;
        let mut put = |kind, body: &[u8]| {
            lsn += 1;
            state.apply(Lsn(lsn), kind, body).unwrap();
        };
        for (number, filter, options) in sessions {
            let filter = KeptFilter { filter: (*filter).to_owned(), options: *options, id: 7 };
            let record = SessionRecord {
                id: SessionId(*number),
                client_id: format!("client-{number}"),
                expiry_s: u32::MAX,
                filters: vec![filter],
                ..SessionRecord::default()
            };
            let mut body = Vec::new();
            record.encode(&mut body);
            put(RecordKind::Session, &body);
        }
        if let Some(group) = own {
            let destinations = Cow::Owned(vec![Destination { shard, seq: 1, group }]);
            let head = MessageHead { destinations, ..MessageHead::default() };
            let mut body = Vec::new();
            head.encode(&mut body);
            body.extend_from_slice(&message("t").raw());
            put(RecordKind::Message, &body);
        }
        state
    }

    fn message(topic: &str) -> Message {
        let tenant = TenantId(0);
        let header = Header {
            flags: 0,
            qos: QoS::AtLeastOnce,
            retain: false,
            hops: 0,
            tenant,
            origin_node: 0,
            origin_log: 0,
            partition: 0,
            lsn: 1,
            publisher: 1,
            ingress_ms: 0,
            expires_ms: 0,
            topic_hash: topic_hash(tenant, topic),
        };
        Message::new(&View { header, topic, properties: &[], payload: b"text" })
    }

    fn key_of(filter: &str) -> u64 {
        PartitionMap::even(KEY, OLD).hash(TenantId(0), filter)
    }

    /// Who has the message after another number of shards: client, QoS, membership.
    fn takers(states: Vec<State>) -> Vec<(String, u8, u16)> {
        let (before, after) = (PartitionMap::even(KEY, OLD), PartitionMap::even(KEY, 2));
        let mut matcher = Matcher::new(&states, &before);
        let home = |tenant: u32, name: &str| after.home(TenantId(tenant), name);
        let states = State::redistribute(states, 2, home, &mut |due| matcher.take_over(due));
        let parts = states.into_iter().map(State::into_parts);
        let sessions = parts.flat_map(|parts| {
            assert!(parts.pending.is_empty() && parts.under_way.is_empty());
            parts.sessions
        });
        let mut takers: Vec<_> = sessions
            .flat_map(|one| {
                let client = one.record.client_id;
                let slots = one.waiting.into_iter();
                slots.map(move |slot| (client.clone(), slot.qos, slot.membership))
            })
            .collect();
        takers.sort();
        takers
    }

    #[test]
    fn a_member_on_any_shard_takes_what_a_group_is_owed() {
        let group = key_of("$share/g/t");
        let tag = ((group >> 48) as u16).max(1);
        let states = vec![
            state(0, &[(1, "t", 1)], Some(group)),
            state(1, &[(2, "$share/g/t", 0), (3, "$share/other/t", 1)], None),
            state(2, &[(4, "$share/g/t", 1), (5, "$share/g/t", 1)], None),
        ];
        assert_eq!(takers(states), [("client-4".to_owned(), 1, tag)], "QoS 0 would not wait");
    }

    #[test]
    fn a_will_goes_to_subscribers_and_to_one_member_of_each_group() {
        let tag = |filter| ((key_of(filter) >> 48) as u16).max(1);
        let states = vec![
            state(0, &[(1, "t", 1), (2, "$share/a/t", 1)], Some(ANEW)),
            state(1, &[(3, "$share/a/t", 1), (4, "$share/b/+", 1)], None),
            state(2, &[(5, "$share/c/no", 1), (6, "#", 0), (7, "#", 1)], None),
        ];
        let wanted = [
            ("client-1".to_owned(), 1, 0),
            ("client-2".to_owned(), 1, tag("$share/a/t")),
            ("client-4".to_owned(), 1, tag("$share/b/+")),
            ("client-7".to_owned(), 1, 0),
        ];
        assert_eq!(takers(states), wanted);
    }
}
