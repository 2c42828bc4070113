//! The retained store against a plain map and the reference matcher.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use ringtide_topics::retained::{Cursor, Retained};
use ringtide_topics::{TenantId, matches};

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, String, u32),
    Remove(u32, String),
    /// Removes the values below, so many numbers at a time.
    Sweep(u32, usize),
    /// A query in pages, with a step before each page but the first.
    Query(u32, String, usize, Vec<Step>),
}

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("a"), 2 => Just("b"), 1 => Just("c"), 1 => Just(""), 1 => Just("$S")]
}

fn topic() -> impl Strategy<Value = String> {
    let plain = prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"));
    let deep = (30usize..40, level()).prop_map(|(n, last)| format!("{}{last}", "a/".repeat(n)));
    prop_oneof![20 => plain, 1 => deep].prop_map(|t| if t.is_empty() { "/".to_owned() } else { t })
}

fn filter() -> impl Strategy<Value = String> {
    (topic(), prop::collection::vec(0usize..5, 0..3), any::<bool>()).prop_map(
        |(topic, plus, multi)| {
            let mut levels: Vec<&str> = topic.split('/').collect();
            for at in plus {
                if let Some(level) = levels.get_mut(at) {
                    *level = "+";
                }
            }
            match levels.last_mut() {
                Some(last) if multi => *last = "#",
                _ => {}
            }
            levels.join("/")
        },
    )
}

fn change() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0u32..2, topic(), 0u32..100).prop_map(|(t, name, v)| Step::Insert(t, name, v)),
        3 => (0u32..2, topic()).prop_map(|(t, name)| Step::Remove(t, name)),
        1 => (0u32..30, 1usize..9).prop_map(|(below, budget)| Step::Sweep(below, budget)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::vec(change(), 0..6);
    prop_oneof![
        4 => change(),
        1 => (0u32..2, filter(), 1usize..6, changes)
            .prop_map(|(t, filter, budget, steps)| Step::Query(t, filter, budget, steps)),
    ]
}

type Model = BTreeMap<(TenantId, String), u32>;

fn apply(model: &mut Model, store: &mut Retained<u32>, step: &Step) {
    match step {
        Step::Insert(tenant, topic, value) => {
            let before = model.insert((TenantId(*tenant), topic.clone()), *value);
            assert_eq!(store.insert(TenantId(*tenant), topic, *value), before);
        }
        Step::Remove(tenant, topic) => {
            let before = model.remove(&(TenantId(*tenant), topic.clone()));
            assert_eq!(store.remove(TenantId(*tenant), topic), before);
        }
        Step::Sweep(below, budget) => {
            let (mut next, mut removed, before) = (Some(0), 0, model.len());
            while let Some(from) = next {
                let swept = store.sweep(from, *budget, |value| value < below);
                next = swept.next;
                removed += swept.removed;
            }
            model.retain(|_, value| *value >= *below);
            assert_eq!(removed, before - model.len());
        }
        Step::Query(..) => {}
    }
}

fn matching(model: &Model, tenant: TenantId, filter: &str) -> BTreeSet<String> {
    let matching = model.keys().filter(|(t, topic)| *t == tenant && matches(filter, topic));
    matching.map(|(_, topic)| topic.clone()).collect()
}

fn query(
    model: &mut Model,
    store: &mut Retained<u32>,
    (tenant, filter): (TenantId, &str),
    budget: usize,
    changes: &[Step],
) {
    let mut always = matching(model, tenant, filter);
    let mut ever = always.clone();
    let (mut hits, mut changes) = (Vec::new(), changes.iter());
    let mut cursor = Cursor::default();
    loop {
        let before = hits.len();
        let next = store.query(tenant, filter, &cursor, budget, |topic, value| {
            assert_eq!(model.get(&(tenant, topic.to_owned())), Some(value));
            hits.push(topic.to_owned());
        });
        assert!(hits.len() - before <= budget);
        match next {
            Some(next) => cursor = next,
            None => break,
        }
        if let Some(change) = changes.next() {
            apply(model, store, change);
            let now = matching(model, tenant, filter);
            always.retain(|topic| now.contains(topic));
            ever.extend(now);
        }
    }
    for topic in &always {
        assert_eq!(hits.iter().filter(|hit| *hit == topic).count(), 1, "{filter} {topic}");
    }
    assert!(hits.iter().all(|hit| ever.contains(hit)), "{filter} {hits:?} {ever:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn behaves_like_a_map(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model::new();
        let mut store = Retained::new();
        for step in &steps {
            match step {
                Step::Query(tenant, filter, budget, changes) => {
                    let at = (TenantId(*tenant), filter.as_str());
                    query(&mut model, &mut store, at, *budget, changes);
                }
                change => apply(&mut model, &mut store, change),
            }
            assert_eq!(store.len(), model.len());
        }
        for ((tenant, topic), value) in &model {
            assert_eq!(store.lookup(*tenant, topic), Some(value));
        }
        store.sweep(0, usize::MAX, |_| true);
        assert!(store.is_empty());
        assert!(store.memory_bytes() < Retained::<u32>::new().memory_bytes() + 64 * 1024);
    }
}
