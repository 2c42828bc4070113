//! One session: what a [`SessionRecord`] says of it, changed by the records behind it, and what
//! waits for it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::record::{
    ConnectionRecord, Entry, Exchange, Filter, SessionId, SessionRecord, Step, WillRecord,
};

/// A message that waits, without its session and seq.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) lsn: u64,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) membership: u16,
    pub(super) ids: Box<[u32]>,
}

impl Slot {
    pub(super) fn entry(&self, session: SessionId, seq: u64) -> Entry<'_> {
        let Slot { qos, retain, membership, .. } = *self;
        Entry { session, seq, qos, retain, membership, ids: Cow::Borrowed(&self.ids) }
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    tenant: u32,
    client_id: Box<str>,
    username: Option<Box<str>>,
    expiry_s: u32,
    connected_ms: u64,
    detached_ms: u64,
    will: Option<Box<WillRecord>>,
    /// Options and subscription identifier of each filter, in the order of their bytes. Most
    /// sessions have few, for which a tree's node would be ten times as large.
    filters: Vec<(Box<str>, (u8, u32))>,
    inbound: BTreeSet<u16>,
    /// By packet id: place in the order in which they began, and the entry that is sent.
    exchanges: BTreeMap<u16, (u64, Option<u64>)>,
    next_exchange: u64,
    pub(super) waiting: BTreeMap<u64, Slot>,
}

impl Session {
    /// Takes over all that a record says; what waits stays.
    pub(super) fn reset(&mut self, record: SessionRecord) {
        let filter = |one: Filter| (one.filter.into_boxed_str(), (one.options, one.id));
        let placed = |(place, one): (u64, Exchange)| (one.packet_id, (place, one.seq));
        *self = Session {
            tenant: record.tenant,
            client_id: record.client_id.into_boxed_str(),
            username: record.username.map(String::into_boxed_str),
            expiry_s: record.expiry_s,
            connected_ms: record.connected_ms,
            detached_ms: record.detached_ms,
            will: record.will.map(Box::new),
            filters: in_order(record.filters.into_iter().map(filter).collect()),
            inbound: record.inbound.into_iter().collect(),
            next_exchange: record.exchanges.len() as u64,
            exchanges: (0..).zip(record.exchanges).map(placed).collect(),
            waiting: std::mem::take(&mut self.waiting),
        };
    }

    pub(super) fn connection(&mut self, record: ConnectionRecord) {
        self.username = record.username.map(String::into_boxed_str);
        self.expiry_s = record.expiry_s;
        self.connected_ms = record.connected_ms;
        self.detached_ms = record.detached_ms;
        self.will = record.will.map(Box::new);
    }

    pub(super) fn subscribe(&mut self, filter: &str, options: Option<(u8, u32)>) {
        let place = self.filters.binary_search_by(|(own, _)| (**own).cmp(filter));
        match (place, options) {
            (Ok(place), Some(options)) => self.filters[place].1 = options,
            (Ok(place), None) => {
                self.filters.remove(place);
            }
            (Err(place), Some(options)) => self.filters.insert(place, (filter.into(), options)),
            (Err(_), None) => {}
        }
    }

    pub(super) fn begin_inbound(&mut self, packet_id: u16) {
        self.inbound.insert(packet_id);
    }

    /// Adds an entry; the position of the message that had its place, if one had.
    pub(super) fn add_entry(&mut self, lsn: u64, entry: &Entry<'_>) -> Option<u64> {
        let slot = Slot {
            lsn,
            qos: entry.qos,
            retain: entry.retain,
            membership: entry.membership,
            ids: Box::from(&*entry.ids),
        };
        self.waiting.insert(entry.seq, slot).map(|old| old.lsn)
    }

    /// An exchange moves on; the position of the message that need not wait any more, if one.
    pub(super) fn step(&mut self, step: Step) -> Option<u64> {
        match step {
            Step::Sent { seq, packet_id } => {
                self.exchange(packet_id).1 = Some(seq);
                None
            }
            Step::Received { packet_id } => {
                let seq = self.exchange(packet_id).1.take();
                self.remove_entry(seq?)
            }
            Step::Completed { packet_id } => {
                let (_, seq) = self.exchanges.remove(&packet_id)?;
                self.remove_entry(seq?)
            }
            Step::Done { seq } => self.done(seq),
            Step::InboundDone { packet_id } => {
                self.inbound.remove(&packet_id);
                None
            }
            Step::InboundBegun { packet_id } => {
                self.inbound.insert(packet_id);
                None
            }
        }
    }

    /// The exchange of a packet id, begun now if there is none.
    fn exchange(&mut self, packet_id: u16) -> &mut (u64, Option<u64>) {
        let next = &mut self.next_exchange;
        self.exchanges.entry(packet_id).or_insert_with(|| {
            *next += 1;
            (*next - 1, None)
        })
    }

    fn done(&mut self, seq: u64) -> Option<u64> {
        let slot = self.waiting.remove(&seq);
        // Only an entry of QoS 2 has an exchange here.
        if slot.as_ref().is_none_or(|slot| slot.qos == 2) {
            self.exchanges.retain(|_, (_, own)| *own != Some(seq));
        }
        slot.map(|slot| slot.lsn)
    }

    fn remove_entry(&mut self, seq: u64) -> Option<u64> {
        self.waiting.remove(&seq).map(|slot| slot.lsn)
    }

    /// The positions of all that waits.
    pub(super) fn messages(&self) -> impl Iterator<Item = u64> + '_ {
        self.waiting.values().map(|slot| slot.lsn)
    }

    /// Drops the entries of lost messages, with their exchanges, and lists them: seq and position.
    pub(super) fn discard(&mut self, lost: &HashSet<u64>, gone: &mut Vec<u64>) {
        for (seq, slot) in self.waiting.extract_if(.., |_, slot| lost.contains(&slot.lsn)) {
            self.exchanges.retain(|_, (_, own)| *own != Some(seq));
            gone.push(slot.lsn);
        }
    }

    pub(super) fn tenant(&self) -> u32 {
        self.tenant
    }

    pub(super) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The session as a record.
    pub(super) fn record(&self, id: SessionId) -> SessionRecord {
        let waiting = BTreeMap::new();
        let copy = Session {
            client_id: self.client_id.clone(),
            username: self.username.clone(),
            will: self.will.clone(),
            filters: self.filters.clone(),
            inbound: self.inbound.clone(),
            exchanges: self.exchanges.clone(),
            waiting,
            ..*self
        };
        copy.into_record(id).0
    }

    /// The session as a record, and what waits for it.
    pub(super) fn into_record(self, id: SessionId) -> (SessionRecord, BTreeMap<u64, Slot>) {
        let filters = self.filters.into_iter().map(|(filter, (options, id))| Filter {
            filter: filter.into_string(),
            options,
            id,
        });
        let mut exchanges: Vec<_> = self.exchanges.into_iter().collect();
        exchanges.sort_unstable_by_key(|(_, (place, _))| *place);
        let exchange = |(packet_id, (_, seq))| Exchange { packet_id, seq };
        let record = SessionRecord {
            id,
            tenant: self.tenant,
            client_id: self.client_id.into_string(),
            username: self.username.map(str::into_string),
            expiry_s: self.expiry_s,
            connected_ms: self.connected_ms,
            detached_ms: self.detached_ms,
            will: self.will.map(|will| *will),
            filters: filters.collect(),
            inbound: self.inbound.into_iter().collect(),
            exchanges: exchanges.into_iter().map(exchange).collect(),
        };
        (record, self.waiting)
    }
}

/// Sorts filters; of several entries for one filter the last counts.
fn in_order(mut filters: Vec<(Box<str>, (u8, u32))>) -> Vec<(Box<str>, (u8, u32))> {
    filters.reverse();
    filters.sort_by(|a, b| a.0.cmp(&b.0));
    filters.dedup_by(|next, first| next.0 == first.0);
    filters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_kept_in_order_and_once() {
        let filter = |filter: &str, options| Filter { filter: filter.to_owned(), options, id: 0 };
        let mut session = Session::default();
        session.reset(SessionRecord {
            filters: vec![filter("b", 1), filter("c", 1), filter("a", 1), filter("b", 2)],
            ..SessionRecord::default()
        });
        session.subscribe("aa", Some((0, 7)));
        session.subscribe("c", Some((2, 0)));
        session.subscribe("a", None);
        session.subscribe("missing", None);
        let record = session.record(SessionId(3));
        let filters = record.filters.iter().map(|one| (&*one.filter, one.options, one.id));
        assert_eq!(filters.collect::<Vec<_>>(), [("aa", 0, 7), ("b", 2, 0), ("c", 2, 0)]);
        let (taken, waiting) = session.into_record(SessionId(3));
        assert_eq!(taken, record);
        assert!(waiting.is_empty());
    }
}
