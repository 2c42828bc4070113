//! One shard's subscriptions: filters, their subscribers, and the keys they are announced by.
//!
//! Every filter is one entry, found by the hash of its interest key; so a wildcard filter costs
//! what an exact one does. Only wildcard filters whose shape found no place among the direct ones
//! are led to by the trie. Matching is in `matching.rs`.

use hashbrown::HashTable;

use crate::list::{Keyed, List, Removed};
use crate::shape_set::{SHAPES_MAX, ShapeSet};
use crate::shapes::{InterestKey, SHAPE_LEVELS_MAX, interest_key};
use crate::text::{Entry, Texts};
use crate::trie::Trie;
use crate::{SessionRef, TenantId};

/// The tag of an entry without wildcards. A wildcard entry's tag is its shape's place, below 64.
pub(crate) const EXACT: u8 = 255;
/// The tag of a wildcard entry that the trie leads to.
const TRIE: u8 = 254;

/// A filter's number in its shard's table, valid while the filter has subscribers.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(pub u32);

/// One session's subscription to one filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Whose it is.
    pub session: SessionRef,
    /// Granted QoS, [`Subscription::NO_LOCAL`] and [`Subscription::RETAIN_AS_PUBLISHED`].
    pub options: u8,
    /// The subscription identifier, 1 to 268 435 455; 0 for none.
    pub id: u32,
}

impl Subscription {
    /// The bits of `options` with the maximum QoS, 0 to 2.
    pub const QOS: u8 = 0b11;
    /// The bit of `options` for No Local.
    pub const NO_LOCAL: u8 = 0b100;
    /// The bit of `options` for Retain As Published.
    pub const RETAIN_AS_PUBLISHED: u8 = 0b1000;
    /// The bits that a hit carries.
    pub(crate) const MERGED: u8 = Self::QOS | Self::RETAIN_AS_PUBLISHED;
}

impl Keyed for Subscription {
    fn key(&self) -> u32 {
        self.session.0
    }
}

/// What [`Table::subscribe`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The session had this filter: its options and id were replaced.
    pub existed: bool,
    /// The filter.
    pub filter: FilterId,
    /// The key to announce in the interest table, when it is this shard's first filter with it.
    pub interest: Option<InterestKey>,
}

/// What [`Table::unsubscribe`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The filter; no longer valid when this was its last subscriber.
    pub filter: FilterId,
    /// The key to take out of the interest table, when this was the shard's last filter with it.
    pub interest: Option<InterestKey>,
}

/// The subscriptions of one shard's sessions.
#[derive(Debug)]
pub struct Table {
    pub(crate) texts: Texts<List<Subscription>>,
    pub(crate) shapes: ShapeSet,
    pub(crate) trie: Trie,
    /// How many filters have a key, for keys that several filters share.
    shared_keys: HashTable<(u64, u32)>,
    subscriptions: usize,
    list_bytes: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    /// An empty table; about 20 KB.
    #[must_use]
    pub fn new() -> Self {
        Self::with_shapes_max(SHAPES_MAX)
    }

    /// An empty table that looks up at most so many shapes directly (0 to 64) and leaves filters
    /// of other shapes to the trie. For tests and for comparing the two.
    #[must_use]
    pub fn with_shapes_max(shapes_max: usize) -> Self {
        Self {
            texts: Texts::default(),
            shapes: ShapeSet::new(shapes_max),
            trie: Trie::default(),
            shared_keys: HashTable::new(),
            subscriptions: 0,
            list_bytes: 0,
        }
    }

    /// Adds a session's subscription to a valid filter (without `$share/NAME/`), or replaces it.
    pub fn subscribe(
        &mut self,
        tenant: TenantId,
        filter: &str,
        subscription: Subscription,
    ) -> Subscribed {
        let key = interest_key(tenant, filter);
        let Some(id) = self.find(tenant, filter, &key) else {
            let id = self.insert(tenant, filter, &key, subscription);
            self.subscriptions += 1;
            let interest = self.is_first(&key).then_some(key);
            return Subscribed { existed: false, filter: FilterId(id), interest };
        };
        let mut existed = false;
        if let Some(entry) = self.texts.get_mut(id) {
            let before = entry.value.memory_bytes();
            //= [MQTT-3.8.4-3]
            //= 3.1.1 [MQTT-3.8.4-3]
            existed = entry.value.insert(subscription).is_some();
            self.list_bytes = self.list_bytes + entry.value.memory_bytes() - before;
        }
        self.subscriptions += usize::from(!existed);
        Subscribed { existed, filter: FilterId(id), interest: None }
    }

    /// Ends a session's subscription; `None` if it has no such filter, character by character.
    pub fn unsubscribe(
        &mut self,
        tenant: TenantId,
        filter: &str,
        session: SessionRef,
    ) -> Option<Unsubscribed> {
        //= [MQTT-3.10.4-1]
        let id = self.find(tenant, filter, &interest_key(tenant, filter))?;
        self.unsubscribe_id(FilterId(id), session)
    }

    /// As [`Table::unsubscribe`], for a filter whose id the session has kept.
    pub fn unsubscribe_id(&mut self, id: FilterId, session: SessionRef) -> Option<Unsubscribed> {
        let list = &mut self.texts.get_mut(id.0)?.value;
        let before = list.memory_bytes();
        let removed = list.remove(session.0);
        self.list_bytes = self.list_bytes + list.memory_bytes() - before;
        let interest = match removed {
            Removed::Absent => return None,
            Removed::Item(_) => None,
            Removed::Last(_) => self.remove(id.0),
        };
        self.subscriptions -= 1;
        Some(Unsubscribed { filter: id, interest })
    }

    /// A filter's tenant and text; empty text for an id that is not in use.
    #[must_use]
    pub fn filter_str(&self, id: FilterId) -> (TenantId, &str) {
        self.texts.get(id.0).map_or_else(Default::default, |entry| (entry.tenant(), entry.text()))
    }

    /// The id of a filter that somebody is subscribed to.
    #[must_use]
    pub fn filter_id(&self, tenant: TenantId, filter: &str) -> Option<FilterId> {
        self.find(tenant, filter, &interest_key(tenant, filter)).map(FilterId)
    }

    /// A session's subscription to a filter.
    #[must_use]
    pub fn subscription(&self, id: FilterId, session: SessionRef) -> Option<Subscription> {
        self.texts.get(id.0)?.value.get(session.0).copied()
    }

    /// The number of subscriptions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.subscriptions
    }

    /// Whether nobody is subscribed to anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.subscriptions == 0
    }

    /// The number of different filters.
    #[must_use]
    pub fn filters(&self) -> usize {
        self.texts.len()
    }

    /// Bytes that the table occupies, without the allocator's own. Chunks of long subscriber
    /// lists count as full.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let shared = self.shared_keys.allocation_size();
        size_of::<Self>()
            + self.texts.memory_bytes()
            + self.trie.memory_bytes()
            + self.list_bytes
            + shared
    }

    #[inline]
    pub(crate) fn has_wildcards(&self) -> bool {
        !self.shapes.is_empty() || self.trie.len() > 0
    }

    /// Where the filter is, listed by its hash or led to by the trie: a shape may have got its
    /// place after filters of that shape had gone to the trie.
    fn find(&self, tenant: TenantId, filter: &str, key: &InterestKey) -> Option<u32> {
        let listed = self.texts.find(key.hash, |entry| entry.is(tenant, filter));
        if listed.is_some() || key.shape.is_exact() || self.trie.len() == 0 {
            return listed;
        }
        let is = |id| self.texts.get(id).is_some_and(|entry| entry.is(tenant, filter));
        self.trie.find(tenant, filter, is)
    }

    fn insert(
        &mut self,
        tenant: TenantId,
        filter: &str,
        key: &InterestKey,
        subscription: Subscription,
    ) -> u32 {
        let list = List::new(subscription);
        if key.shape.is_exact() {
            return self.texts.insert(key.hash, Entry::new(tenant, filter, EXACT, list));
        }
        let direct = if is_deep(filter) { None } else { self.shapes.add(key.shape) };
        if let Some(place) = direct {
            return self.texts.insert(key.hash, Entry::new(tenant, filter, place, list));
        }
        let id = self.texts.insert_unlisted(Entry::new(tenant, filter, TRIE, list));
        self.trie.insert(tenant, filter, id);
        id
    }

    /// Removes a filter; returns its key if no other filter of this shard has it.
    fn remove(&mut self, id: u32) -> Option<InterestKey> {
        let entry = self.texts.get(id)?;
        let (tenant, tag) = (entry.tenant(), entry.tag());
        let key = interest_key(tenant, entry.text());
        let listed = (tag != TRIE).then_some(key.hash);
        let entry = self.texts.remove(listed, id)?;
        match tag {
            TRIE => self.trie.remove(tenant, entry.text(), id),
            EXACT => {}
            place => self.shapes.release(place),
        }
        self.is_last(&key).then_some(key)
    }

    /// Counts a new filter under its key.
    fn is_first(&mut self, key: &InterestKey) -> bool {
        if !may_share(key) {
            return true;
        }
        let hash = key.hash;
        let mut slot =
            self.shared_keys.entry(hash, |slot| slot.0 == hash, |slot| slot.0).or_insert((hash, 0));
        slot.get_mut().1 += 1;
        slot.get().1 == 1
    }

    fn is_last(&mut self, key: &InterestKey) -> bool {
        if !may_share(key) {
            return true;
        }
        let hash = key.hash;
        let Ok(mut slot) = self.shared_keys.find_entry(hash, |slot| slot.0 == hash) else {
            return true;
        };
        slot.get_mut().1 -= 1;
        let last = slot.get().1 == 0;
        if last {
            slot.remove();
        }
        last
    }
}

/// Whether a wildcard filter has more levels than its shape tells apart.
fn is_deep(filter: &str) -> bool {
    let levels = filter.bytes().filter(|byte| *byte == b'/').count() + 1;
    levels - usize::from(filter.ends_with('#')) > SHAPE_LEVELS_MAX
}

/// Whether other filters may have this key: those cut off at the deepest level of a shape.
fn may_share(key: &InterestKey) -> bool {
    key.shape.is_multi() && key.shape.levels() == SHAPE_LEVELS_MAX
}
