//! The subscription table against a plain list and the reference matcher.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use ringtide_topics::{
    FilterId, InterestKey, MatchScratch, SessionRef, Subscription, Table, TenantId, interest_key,
    matches, topic_hash,
};

type Key = (TenantId, String);
/// Session, merged options and sorted subscription ids.
type Seen = (SessionRef, u8, Vec<u32>);

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Subscribe(u32, String, Subscription),
    Unsubscribe(u32, String, u32),
    Publish(u32, String, Option<u32>),
    /// Like a publish, page by page, with the steps in between.
    Paged(u32, String, usize, Vec<Step>),
}

fn level(wild: bool) -> impl Strategy<Value = &'static str> {
    let plus = if wild { 3 } else { 0 };
    prop_oneof![3 => Just("a"), 2 => Just("b"), 1 => Just(""), 1 => Just("$S"), plus => Just("+")]
}

fn filter() -> impl Strategy<Value = String> {
    let plain = (prop::collection::vec(level(true), 0..4), any::<bool>());
    let deep = (30usize..36, prop::collection::vec((0usize..36, level(true)), 0..3), any::<bool>());
    prop_oneof![
        20 => plain.prop_map(|(levels, multi)| join(levels, multi)),
        1 => deep.prop_map(|(depth, changes, multi)| {
            let mut levels = vec!["a"; depth];
            for (at, level) in changes {
                if let Some(place) = levels.get_mut(at) {
                    *place = level;
                }
            }
            join(levels, multi)
        }),
    ]
}

fn join(mut levels: Vec<&str>, multi: bool) -> String {
    if multi || levels.is_empty() {
        levels.push("#");
    }
    let text = levels.join("/");
    if text.is_empty() { "/".to_owned() } else { text }
}

fn topic() -> impl Strategy<Value = String> {
    let plain = prop::collection::vec(level(false), 1..5).prop_map(|levels| join(levels, false));
    let deep = (30usize..38).prop_map(|depth| vec!["a"; depth].join("/"));
    prop_oneof![20 => plain, 1 => deep]
}

fn subscription() -> impl Strategy<Value = Subscription> {
    (0u32..40, 0u8..3, any::<bool>(), any::<bool>(), 0u32..4).prop_map(
        |(session, qos, nl, rap, id)| {
            let no_local = if nl { Subscription::NO_LOCAL } else { 0 };
            let rap = if rap { Subscription::RETAIN_AS_PUBLISHED } else { 0 };
            Subscription { session: SessionRef(session), options: qos | no_local | rap, id }
        },
    )
}

fn change() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u32..2, filter(), subscription()).prop_map(|(t, f, s)| Step::Subscribe(t, f, s)),
        2 => (0u32..2, filter(), 0u32..40).prop_map(|(t, f, s)| Step::Unsubscribe(t, f, s)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::vec(change(), 0..6);
    prop_oneof![
        8 => change(),
        2 => (0u32..2, topic(), prop::option::of(0u32..40))
            .prop_map(|(t, name, publisher)| Step::Publish(t, name, publisher)),
        1 => (0u32..2, topic(), 1usize..5, changes)
            .prop_map(|(t, name, budget, steps)| Step::Paged(t, name, budget, steps)),
    ]
}

#[derive(Default)]
struct Model {
    filters: BTreeMap<Key, BTreeMap<SessionRef, Subscription>>,
    ids: BTreeMap<Key, FilterId>,
    keys: BTreeSet<InterestKey>,
}

impl Model {
    fn expected(&self, tenant: TenantId, topic: &str, publisher: Option<SessionRef>) -> Vec<Seen> {
        let mut merged: BTreeMap<SessionRef, (u8, Vec<u32>)> = BTreeMap::new();
        let matching = self.filters.iter().filter(|((t, f), _)| *t == tenant && matches(f, topic));
        for subscription in matching.flat_map(|(_, sessions)| sessions.values()) {
            let no_local = subscription.options & Subscription::NO_LOCAL != 0;
            if no_local && publisher == Some(subscription.session) {
                continue;
            }
            let (options, ids) = merged.entry(subscription.session).or_default();
            let qos = (*options & 3).max(subscription.options & 3);
            *options =
                qos | ((*options | subscription.options) & Subscription::RETAIN_AS_PUBLISHED);
            ids.extend((subscription.id != 0).then_some(subscription.id));
            ids.sort_unstable();
        }
        merged.into_iter().map(|(session, (options, ids))| (session, options, ids)).collect()
    }

    fn change(&mut self, table: &mut Table, step: &Step) {
        match step {
            Step::Subscribe(tenant, filter, subscription) => {
                let key = (TenantId(*tenant), filter.clone());
                let sessions = self.filters.entry(key.clone()).or_default();
                let existed = sessions.insert(subscription.session, *subscription).is_some();
                let done = table.subscribe(key.0, filter, *subscription);
                assert_eq!(done.existed, existed);
                assert_eq!(*self.ids.entry(key.clone()).or_insert(done.filter), done.filter);
                assert_eq!(table.filter_str(done.filter), (key.0, filter.as_str()));
                let interest = interest_key(key.0, filter);
                assert_eq!(done.interest, self.keys.insert(interest).then_some(interest));
            }
            Step::Unsubscribe(tenant, filter, session) => {
                let key = (TenantId(*tenant), filter.clone());
                self.unsubscribe(table, &key, SessionRef(*session));
            }
            _ => {}
        }
    }

    fn unsubscribe(&mut self, table: &mut Table, key: &Key, session: SessionRef) {
        let id = self.ids.get(key).copied();
        let known = self.filters.get_mut(key).and_then(|sessions| sessions.remove(&session));
        assert_eq!(id.and_then(|id| table.subscription(id, session)), known);
        // Both ways in, by turns.
        let done = match id {
            Some(id) if session.0.is_multiple_of(2) => table.unsubscribe_id(id, session),
            _ => table.unsubscribe(key.0, &key.1, session),
        };
        assert_eq!(done.map(|done| done.filter), known.and(id));
        let mut gone = None;
        if self.filters.get(key).is_some_and(BTreeMap::is_empty) {
            self.filters.remove(key);
            self.ids.remove(key);
            let interest = interest_key(key.0, &key.1);
            let shared = self.filters.keys().any(|(t, f)| interest_key(*t, f) == interest);
            if !shared {
                self.keys.remove(&interest);
                gone = Some(interest);
            }
        }
        assert_eq!(done.and_then(|done| done.interest), gone);
    }
}

fn published(
    table: &Table,
    tenant: TenantId,
    topic: &str,
    publisher: Option<SessionRef>,
    scratch: &mut MatchScratch,
) -> Vec<Seen> {
    let mut seen = Vec::new();
    let hash = topic_hash(tenant, topic);
    table.matches(tenant, topic, hash, publisher, scratch, |hit| {
        let mut ids = hit.ids.to_vec();
        ids.sort_unstable();
        seen.push((hit.session, hit.options, ids));
    });
    seen
}

fn sessions(seen: &[Seen]) -> BTreeSet<SessionRef> {
    seen.iter().map(|(session, ..)| *session).collect()
}

/// Walks page by page with a change before each page after the first.
fn paged(
    model: &mut Model,
    table: &mut Table,
    scratch: &mut MatchScratch,
    (tenant, topic): (TenantId, &str),
    budget: usize,
    changes: &[Step],
) {
    let hash = topic_hash(tenant, topic);
    let mut always = sessions(&model.expected(tenant, topic, None));
    let mut ever = always.clone();
    let (mut hits, mut after, mut changes) = (Vec::new(), None, changes.iter());
    loop {
        let before = hits.len();
        after = table.matches_from(tenant, topic, hash, None, after, budget, scratch, |hit| {
            hits.push(hit.session);
        });
        assert!(hits.len() - before <= budget);
        if after.is_none() {
            break;
        }
        assert_eq!((after, hits.len() - before), (hits.last().copied(), budget));
        if let Some(change) = changes.next() {
            model.change(table, change);
            let now = sessions(&model.expected(tenant, topic, None));
            always.retain(|session| now.contains(session));
            ever.extend(now);
        }
    }
    assert!(hits.is_sorted_by(|one, next| one < next), "{hits:?}");
    let hits: BTreeSet<SessionRef> = hits.into_iter().collect();
    assert!(always.is_subset(&hits) && hits.is_subset(&ever), "{always:?} {hits:?} {ever:?}");
}

pub(crate) fn run(shapes_max: usize, steps: &[Step]) {
    let mut table = Table::with_shapes_max(shapes_max);
    let empty = table.memory_bytes();
    let (mut model, mut scratch) = (Model::default(), MatchScratch::new());
    for step in steps {
        match step {
            Step::Publish(tenant, topic, publisher) => {
                let (tenant, publisher) = (TenantId(*tenant), publisher.map(SessionRef));
                let seen = published(&table, tenant, topic, publisher, &mut scratch);
                assert_eq!(seen, model.expected(tenant, topic, publisher), "{topic}");
            }
            Step::Paged(tenant, topic, budget, changes) => {
                let at = (TenantId(*tenant), topic.as_str());
                paged(&mut model, &mut table, &mut scratch, at, *budget, changes);
            }
            change => model.change(&mut table, change),
        }
        let all = model.filters.values().map(BTreeMap::len).sum::<usize>();
        assert_eq!((table.len(), table.filters()), (all, model.filters.len()));
    }
    let left: Vec<(Key, SessionRef)> = model
        .filters
        .iter()
        .flat_map(|(key, sessions)| sessions.keys().map(|session| (key.clone(), *session)))
        .collect();
    for (key, session) in left {
        model.unsubscribe(&mut table, &key, session);
    }
    assert!(table.is_empty() && model.keys.is_empty());
    assert!(table.memory_bytes() < empty + 64 * 1024, "{}", table.memory_bytes());
}

/// The most shapes, and what happens; shared with the fuzz target, as [`run`] is.
pub(crate) fn case() -> impl Strategy<Value = (usize, Vec<Step>)> {
    let shapes_max = prop::sample::select(vec![0usize, 1, 3, 64]);
    (shapes_max, prop::collection::vec(step(), 1..120))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn behaves_like_a_list((shapes_max, steps) in case()) {
        run(shapes_max, &steps);
    }
}

#[test]
fn a_shape_that_gets_its_place_late_finds_the_filters_in_the_trie() {
    let mut table = Table::with_shapes_max(1);
    let mut scratch = MatchScratch::new();
    let tenant = TenantId(0);
    let by = |session| Subscription { session: SessionRef(session), options: 0, id: 0 };
    assert!(table.subscribe(tenant, "a/+", by(1)).interest.is_some());
    // No place left: these go to the trie.
    assert!(table.subscribe(tenant, "+/b", by(2)).interest.is_some());
    assert!(table.unsubscribe(tenant, "a/+", SessionRef(1)).is_some());
    // The place is free again: a filter of that shape takes it, the older one stays in the trie.
    assert!(!table.subscribe(tenant, "+/b", by(3)).existed);
    assert!(table.subscribe(tenant, "+/c", by(4)).interest.is_some());
    let seen = published(&table, tenant, "a/b", None, &mut scratch);
    assert_eq!(sessions(&seen), BTreeSet::from([SessionRef(2), SessionRef(3)]));
    assert!(table.subscribe(tenant, "+/b", by(2)).existed);
    assert!(table.unsubscribe(tenant, "+/b", SessionRef(3)).is_some());
    assert!(table.unsubscribe(tenant, "+/b", SessionRef(2)).is_some_and(|u| u.interest.is_some()));
    assert_eq!((table.len(), table.filters()), (1, 1));
}

#[test]
fn a_hundred_thousand_subscribers_come_in_pages_and_go() {
    let mut table = Table::new();
    let mut scratch = MatchScratch::new();
    let (tenant, topic) = (TenantId(7), "fan/out");
    let count = 100_000u32;
    for n in 0..count {
        // Every session once, in scattered order.
        let session = SessionRef((u64::from(n) * 48_271 % u64::from(count)) as u32);
        let filter = if n % 3 == 0 { "fan/+" } else { topic };
        table.subscribe(tenant, filter, Subscription { session, options: 1, id: n });
    }
    let hash = topic_hash(tenant, topic);
    let (mut after, mut next, mut pages) = (None, 0, 0);
    loop {
        after = table.matches_from(tenant, topic, hash, None, after, 1000, &mut scratch, |hit| {
            assert_eq!((hit.session, hit.ids.len().min(1)), (SessionRef(next), hit.ids.len()));
            next += 1;
        });
        pages += 1;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((next, pages), (count, 100));
    for n in 0..count {
        let done = table.unsubscribe(tenant, topic, SessionRef(n));
        let done = done.or_else(|| table.unsubscribe(tenant, "fan/+", SessionRef(n)));
        assert!(done.is_some());
    }
    assert!(table.is_empty());
}

#[test]
fn the_last_session_number_is_reached() {
    let mut table = Table::new();
    let mut scratch = MatchScratch::new();
    let (tenant, topic) = (TenantId(0), "a");
    for session in [0, u32::MAX - 1, u32::MAX] {
        let session = SessionRef(session);
        table.subscribe(tenant, topic, Subscription { session, options: 0, id: 0 });
        table.subscribe(tenant, "#", Subscription { session, options: 0, id: 0 });
    }
    let hash = topic_hash(tenant, topic);
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        after = table.matches_from(tenant, topic, hash, None, after, 1, &mut scratch, |hit| {
            seen.push(hit.session.0);
        });
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, [0, u32::MAX - 1, u32::MAX]);
    let end = Some(SessionRef(u32::MAX));
    let more = table.matches_from(tenant, topic, hash, None, end, 1, &mut scratch, |_| {
        seen.clear();
    });
    assert_eq!((more, seen.len()), (None, 3));
}
