//! Retained values by topic, and the topics that match a filter.
//!
//! A topic is found by its hash. For filters with wildcards each topic is listed, together with
//! the topics of equally many levels, under each of its levels and under each of its prefixes; a
//! filter walks the shortest of the lists that must hold all its matches. So topics that share no
//! literal level with the filter in its place, or the literal prefix, cost nothing.
//!
//! What a value is, and when it may be shown or has expired, is for others to say.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use smallvec::SmallVec;

use crate::TenantId;
use crate::filter::matches;
use crate::hash::{fold, level_hash, tenant_state, topic_hash};
use crate::postings::Postings;
use crate::shapes::Levels;
use crate::text::{Entry, Texts};

/// Levels that a topic is listed under. What lies deeper is compared, not looked up.
const LISTED_LEVELS_MAX: usize = 32;

/// The least budget of a page or sweep that makes progress.
const BUDGET_MIN: usize = 1;

/// Where a query goes on. The default is its begin. Only for the filter and store it came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Topics with fewer levels are done.
    levels: u32,
    /// The list being walked for those levels; `None` to choose one.
    list: Option<u64>,
    /// Topics of that list with lower numbers are done.
    from: u32,
}

/// What [`Retained::sweep`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Where to go on; `None` when all were seen.
    pub next: Option<u32>,
    /// How many values were removed.
    pub removed: usize,
}

/// One value per topic.
#[derive(Debug)]
pub struct Retained<V> {
    texts: Texts<V>,
    postings: Postings,
    /// How many topics have how many levels.
    depths: BTreeMap<u32, u32>,
    levels: Levels,
}

impl<V> Default for Retained<V> {
    fn default() -> Self {
        Self {
            texts: Texts::default(),
            postings: Postings::default(),
            depths: BTreeMap::new(),
            levels: Levels::new(),
        }
    }
}

impl<V> Retained<V> {
    /// An empty store; about 17 KB.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a valid topic's value and returns the one before.
    pub fn insert(&mut self, tenant: TenantId, topic: &str, value: V) -> Option<V> {
        let hash = topic_hash(tenant, topic);
        let known = self.texts.find(hash, |entry| entry.is(tenant, topic));
        if let Some(entry) = known.and_then(|id| self.texts.get_mut(id)) {
            return Some(std::mem::replace(&mut entry.value, value));
        }
        let id = self.texts.insert(hash, Entry::new(tenant, topic, 0, value));
        self.levels.fill(topic);
        let postings = &mut self.postings;
        each_key(tenant, &self.levels, |key| postings.add(key, id));
        *self.depths.entry(self.levels.len() as u32).or_insert(0) += 1;
        None
    }

    /// Removes a topic's value and returns it.
    pub fn remove(&mut self, tenant: TenantId, topic: &str) -> Option<V> {
        let id = self.find(tenant, topic)?;
        self.remove_id(id)
    }

    /// A topic's value.
    #[must_use]
    pub fn lookup(&self, tenant: TenantId, topic: &str) -> Option<&V> {
        Some(&self.texts.get(self.find(tenant, topic)?)?.value)
    }

    /// The number of topics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether no topic has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that store and index occupy, without what the values own.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.texts.memory_bytes() + self.postings.memory_bytes()
    }

    /// Calls `hit` for the topics that match a valid filter (without `$share/NAME/`), in an order
    /// that does not change. Visits at most `budget` topics (at least one), matching or not, and
    /// returns the cursor to go on with, or `None` at the end.
    ///
    /// The store may change between calls: a topic that is there throughout is hit exactly once.
    pub fn query(
        &self,
        tenant: TenantId,
        filter: &str,
        cursor: &Cursor,
        budget: usize,
        mut hit: impl FnMut(&str, &V),
    ) -> Option<Cursor> {
        let plan = Plan::of(tenant, filter);
        if !plan.multi && plan.prefix == plan.levels.len() {
            self.hit_one(tenant, filter, &mut hit);
            return None;
        }
        let mut budget = budget.max(BUDGET_MIN);
        let mut at = *cursor;
        while let Some(levels) = self.next_depth(&plan, at.levels) {
            if budget == 0 {
                return Some(at);
            }
            if levels as usize == plan.prefix {
                // `a/b/#` matches `a/b`: the only one of so many levels.
                budget -= 1;
                self.hit_one(tenant, filter.strip_suffix("/#").unwrap_or(filter), &mut hit);
            } else {
                let (list, from) = if at.levels == levels { (at.list, at.from) } else { (None, 0) };
                // Choosing a list counts as a visit: depths without a match are not free.
                budget -= usize::from(list.is_none());
                let list = list.unwrap_or_else(|| self.shortest(&plan, levels));
                let stopped = self.walk(tenant, filter, list, from, &mut budget, &mut hit);
                if let Some(from) = stopped {
                    return Some(Cursor { levels, list: Some(list), from });
                }
            }
            at = Cursor { levels: levels + 1, list: None, from: 0 };
        }
        None
    }

    /// Looks at the values from number `from` on, `budget` numbers (at least one) at a time, and
    /// removes those that have expired. Begin with 0.
    pub fn sweep(
        &mut self,
        from: u32,
        budget: usize,
        mut expired: impl FnMut(&V) -> bool,
    ) -> Swept {
        let end = self.texts.end();
        let steps = u32::try_from(budget.max(BUDGET_MIN)).unwrap_or(u32::MAX);
        let until = from.saturating_add(steps).min(end);
        let mut removed = 0;
        for id in from..until {
            if self.texts.get(id).is_some_and(|entry| expired(&entry.value)) {
                removed += usize::from(self.remove_id(id).is_some());
            }
        }
        Swept { next: (until < end).then_some(until), removed }
    }

    fn find(&self, tenant: TenantId, topic: &str) -> Option<u32> {
        self.texts.find(topic_hash(tenant, topic), |entry| entry.is(tenant, topic))
    }

    fn remove_id(&mut self, id: u32) -> Option<V> {
        let entry = self.texts.get(id)?;
        let tenant = entry.tenant();
        self.levels.fill(entry.text());
        let hash = topic_hash(tenant, self.levels.topic());
        let entry = self.texts.remove(Some(hash), id)?;
        let postings = &mut self.postings;
        each_key(tenant, &self.levels, |key| postings.remove(key, id));
        let depth = self.levels.len() as u32;
        if let Some(count) = self.depths.get_mut(&depth) {
            *count -= 1;
            if *count == 0 {
                self.depths.remove(&depth);
            }
        }
        Some(entry.value)
    }

    fn hit_one(&self, tenant: TenantId, topic: &str, hit: &mut impl FnMut(&str, &V)) {
        let id = self.find(tenant, topic);
        if let Some(entry) = id.and_then(|id| self.texts.get(id)) {
            hit(topic, &entry.value);
        }
    }

    /// The next number of levels, from `from` on, that a matching topic can have.
    fn next_depth(&self, plan: &Plan, from: u32) -> Option<u32> {
        let least = plan.levels.len() as u32;
        if plan.multi {
            return self.depths.range(from.max(least)..).next().map(|(levels, _)| *levels);
        }
        (from <= least && self.depths.contains_key(&least)).then_some(least)
    }

    /// The list with the fewest topics among those that hold every match of so many levels.
    fn shortest(&self, plan: &Plan, levels: u32) -> u64 {
        let base = base(plan.tenant, plan.dollar, levels as usize);
        let listed = plan.levels.iter().take(LISTED_LEVELS_MAX).enumerate();
        let of_levels = listed.filter_map(|(at, level)| Some(level_key(base, at, (*level)?)));
        let prefix = plan.prefix.min(LISTED_LEVELS_MAX);
        let of_prefix = (prefix > 1).then(|| {
            plan.levels.iter().take(prefix).flatten().fold(base, |key, level| fold(key, *level))
        });
        let lists = of_levels.chain(of_prefix);
        lists.min_by_key(|key| self.postings.len(*key)).unwrap_or_else(|| all_key(base))
    }

    /// Walks a list; returns where to go on if the budget ends first.
    fn walk(
        &self,
        tenant: TenantId,
        filter: &str,
        list: u64,
        from: u32,
        budget: &mut usize,
        hit: &mut impl FnMut(&str, &V),
    ) -> Option<u32> {
        let walked = self.postings.visit(list, from, |id| {
            if *budget == 0 {
                return ControlFlow::Break(id);
            }
            *budget -= 1;
            if let Some(entry) = self.texts.get(id).filter(|entry| entry.tenant() == tenant) {
                let topic = entry.text();
                if matches(filter, topic) {
                    hit(topic, &entry.value);
                }
            }
            ControlFlow::Continue(())
        });
        walked.break_value()
    }
}

/// A filter, cut up for a query.
struct Plan {
    tenant: TenantId,
    /// The hashes of the levels before a `#`; `None` for a `+`.
    levels: SmallVec<[Option<u64>; 16]>,
    /// How many literal levels it begins with.
    prefix: usize,
    multi: bool,
    /// Whether it begins with a literal `$`.
    dollar: bool,
}

impl Plan {
    fn of(tenant: TenantId, filter: &str) -> Self {
        let multi = filter == "#" || filter.ends_with("/#");
        let cut = filter.split('/').take_while(|level| *level != "#");
        let levels: SmallVec<[_; 16]> =
            cut.map(|level| (level != "+").then(|| level_hash(level.as_bytes()))).collect();
        let prefix = levels.iter().take_while(|level| level.is_some()).count();
        Self { tenant, levels, prefix, multi, dollar: filter.starts_with('$') }
    }
}

/// Calls `list` with the key of each list that a topic is in.
fn each_key(tenant: TenantId, topic: &Levels, mut list: impl FnMut(u64)) {
    let base = base(tenant, topic.begins_with_dollar(), topic.len());
    list(all_key(base));
    // A topic of one level is found by its hash, or with all of its depth.
    if topic.len() == 1 {
        return;
    }
    let mut prefix = base;
    for at in 0..topic.len().min(LISTED_LEVELS_MAX) {
        let level = topic.hash(at);
        list(level_key(base, at, level));
        prefix = fold(prefix, level);
        // The prefix of one level is that level, and the whole topic is found by its hash.
        if at > 0 && at + 1 < topic.len() {
            list(prefix);
        }
    }
}

/// Topics that begin with `$` have lists of their own, which a leading wildcard never asks for.
fn base(tenant: TenantId, dollar: bool, levels: usize) -> u64 {
    fold(tenant_state(tenant), (levels as u64) << 1 | u64::from(dollar))
}

fn all_key(base: u64) -> u64 {
    fold(base, 1)
}

fn level_key(base: u64, at: usize, level: u64) -> u64 {
    fold(fold(base, at as u64 + 2), level)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TenantId = TenantId(0);

    fn store(topics: &[&str]) -> Retained<usize> {
        let mut retained = Retained::new();
        for (n, topic) in topics.iter().enumerate() {
            assert_eq!(retained.insert(T, topic, n), None);
        }
        retained
    }

    /// All hits, and how many pages of `budget` it took.
    fn all(retained: &Retained<usize>, filter: &str, budget: usize) -> (Vec<String>, usize) {
        let (mut hits, mut pages, mut cursor) = (Vec::new(), 0, Some(Cursor::default()));
        while let Some(at) = cursor {
            cursor = retained.query(T, filter, &at, budget, |topic, _| hits.push(topic.to_owned()));
            pages += 1;
        }
        (hits, pages)
    }

    #[test]
    fn dollar_topics_stay_out_of_wildcards() {
        let store = store(&["a", "a/b", "$SYS/b", "$SYS", "/", "a/b/c"]);
        assert_eq!(all(&store, "#", 1).0, ["a", "a/b", "/", "a/b/c"]);
        assert_eq!(all(&store, "+/b", 9).0, ["a/b"]);
        assert_eq!(all(&store, "$SYS/#", 9).0, ["$SYS", "$SYS/b"]);
        assert_eq!(all(&store, "a/#", 2).0, ["a", "a/b", "a/b/c"]);
        assert_eq!(all(&store, "+", 9).0, ["a"]);
        assert_eq!(all(&store, "a/b", 1).0, ["a/b"]);
        assert_eq!(all(&store, "x/#", 9).0, [""; 0]);
    }

    #[test]
    fn what_does_not_match_is_not_visited() {
        let mut store = Retained::new();
        for n in 0..10_000 {
            store.insert(T, &format!("site/{n}/state"), n);
            store.insert(T, &format!("{n}/rare"), n);
            store.insert(T, &format!("{n}/common"), n);
        }
        store.insert(T, "17/rarest", 0);
        for (filter, hits) in [
            ("+/rarest", 1),
            ("+/17/#", 1),
            ("+/4711/state", 1),
            ("site/99/#", 1),
            ("17/+", 3),
            ("+/nothing/#", 0),
            ("none/+/state", 0),
        ] {
            let (found, pages) = all(&store, filter, 8);
            assert_eq!((found.len(), pages), (hits, 1), "{filter}");
        }
        assert_eq!(all(&store, "+/rare", 64).0.len(), 10_000);
    }

    #[test]
    fn values_are_replaced_removed_and_swept() {
        let mut store = store(&["a", "b", "c/d", "e"]);
        assert_eq!(store.insert(T, "b", 10), Some(1));
        assert_eq!((store.lookup(T, "b"), store.lookup(TenantId(1), "b")), (Some(&10), None));
        assert_eq!((store.remove(T, "a"), store.remove(T, "a")), (Some(0), None));
        let first = store.sweep(0, 3, |value| *value < 3);
        assert_eq!(first, Swept { next: Some(3), removed: 1 });
        assert_eq!(store.sweep(3, 3, |_| true), Swept { next: None, removed: 1 });
        assert_eq!((store.len(), store.lookup(T, "b")), (1, Some(&10)));
        assert!(store.remove(T, "b").is_some() && store.depths.is_empty() && store.is_empty());
        assert_eq!(store.postings.len(all_key(base(T, false, 1))), 0);
    }
}
