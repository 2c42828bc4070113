//! The interest table on one thread and on several: never a miss, and no false hit that its rules
//! do not explain.
#![cfg(not(loom))]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;
use ringtide_topics::interest::{Busy, InterestTable, SHAPES_DIRECT_MAX, ShardSet};
use ringtide_topics::{InterestKey, Levels, Shape, TenantId, interest_key, topic_hash};

const TENANT: TenantId = TenantId(1);

fn key(filter: &str) -> InterestKey {
    interest_key(TENANT, filter)
}

fn found(table: &InterestTable, topic: &str) -> Vec<u16> {
    let mut set = ShardSet::new();
    let hash = topic_hash(TENANT, topic);
    table.shards_for(TENANT, topic, &mut Levels::new(), hash, &mut set);
    set.iter().collect()
}

/// The standard's rule, level by level, written to be read.
fn meets(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(name)) if level == name => {}
            _ => return false,
        }
    }
}

#[test]
fn a_set_of_shards() {
    let mut set: ShardSet = [0, 63, 64, 254, 255].into_iter().collect();
    assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 254, 255]);
    assert_eq!(set.len(), 5);
    assert!(set.contains(64) && !set.contains(65));
    set.remove(64);
    set.insert(256);
    assert!(!set.contains(64) && !set.contains(256));
    assert_eq!(set.len(), 4);
    set.clear();
    assert!(set.is_empty() && set == ShardSet::default());
}

#[test]
fn keys_come_and_go() {
    let table = InterestTable::new(2);
    assert!(found(&table, "a/b").is_empty());
    table.insert(key("a/b"), 3).unwrap();
    table.insert(key("a/b"), 200).unwrap();
    table.insert(key("a/+"), 7).unwrap();
    table.insert(key("#"), 9).unwrap();
    assert_eq!(found(&table, "a/b"), [3, 7, 9, 200]);
    assert_eq!(found(&table, "a/c"), [7, 9]);
    assert_eq!(found(&table, "$SYS/b"), []);
    assert_eq!(table.len(), 4);
    table.remove(key("a/+"), 7).unwrap();
    table.remove(key("a/b"), 200).unwrap();
    assert_eq!(found(&table, "a/b"), [3, 9]);
    table.remove(key("a/b"), 3).unwrap();
    table.remove(key("#"), 9).unwrap();
    assert!(found(&table, "a/b").is_empty());
    assert!(table.is_empty());
}

#[test]
fn tenants_do_not_meet() {
    let table = InterestTable::new(1);
    for filter in ["a/b", "a/+", "#"] {
        table.insert(interest_key(TenantId(2), filter), 1).unwrap();
    }
    assert!(found(&table, "a/b").is_empty());
}

#[test]
#[should_panic(expected = "announced before")]
fn a_key_never_announced_is_not_removed_in_silence() {
    let table = InterestTable::new(1);
    table.insert(key("a"), 1).unwrap();
    table.remove(key("a"), 2).unwrap();
}

#[test]
#[should_panic(expected = "255 shards")]
fn a_shard_beyond_the_last_is_refused() {
    InterestTable::new(1).insert(key("a"), 255).unwrap();
}

#[test]
fn a_segment_grows_and_shrinks_back_to_nothing() {
    let table = InterestTable::new(1);
    let empty = table.memory_bytes();
    let keys: Vec<_> = (0..5000).map(|n| (key(&format!("d/{n}")), (n % 32) as u16)).collect();
    for &(key, shard) in &keys {
        table.insert(key, shard).unwrap();
    }
    assert_eq!(table.len(), keys.len());
    let bytes_each = (table.memory_bytes() - empty) as f64 / keys.len() as f64;
    assert!((10.6..13.0).contains(&bytes_each), "{bytes_each} bytes a key");
    for (n, &(_, shard)) in keys.iter().enumerate() {
        assert_eq!(found(&table, &format!("d/{n}")), [shard]);
    }
    for &(key, shard) in &keys {
        table.remove(key, shard).unwrap();
    }
    assert_eq!(table.memory_bytes(), empty);
}

#[test]
fn churn_leaves_no_tombstones_behind() {
    let table = InterestTable::new(1);
    for n in 0..100 {
        table.insert(key(&format!("stay/{n}")), 1).unwrap();
    }
    let before = table.memory_bytes();
    for n in 0..20_000 {
        let key = key(&format!("go/{n}"));
        table.insert(key, 2).unwrap();
        table.remove(key, 2).unwrap();
    }
    assert!(table.memory_bytes() <= before * 5 / 4);
    assert!((0..100).all(|n| found(&table, &format!("stay/{n}")) == [1]));
}

/// Filters `l/+/l/..` of ten levels, each with another set of literal levels.
fn shape_filters(count: usize) -> Vec<String> {
    let filter = |n: usize| {
        let level = |bit: usize| if n >> bit & 1 == 1 { "x" } else { "+" };
        (0..10).map(level).collect::<Vec<_>>().join("/")
    };
    (0..count).map(filter).collect()
}

#[test]
fn shapes_beyond_the_places_fall_back_and_are_still_found() {
    let table = InterestTable::new(8);
    let topic = ["x"; 10].join("/");
    let filters = shape_filters(200);
    for (shard, filter) in filters.iter().enumerate() {
        table.insert(key(filter), shard as u16).unwrap();
    }
    assert_eq!(found(&table, &topic).len(), 200);
    // What fell back finds too much, what did not is exact.
    let other = ["y"; 10].join("/");
    let hits = found(&table, &other);
    let direct = |shard: &&u16| usize::from(**shard) < SHAPES_DIRECT_MAX;
    assert_eq!(hits.iter().filter(direct).count(), 1, "the one of all `+`");
    assert!(hits.len() > 1);
    for (shard, filter) in filters.iter().enumerate() {
        table.remove(key(filter), shard as u16).unwrap();
    }
    assert!(found(&table, &topic).is_empty() && table.is_empty());

    // The places are free again.
    table.insert(key("+/z"), 1).unwrap();
    assert_eq!(found(&table, "y/y"), [], "held as itself");
}

#[test]
fn a_shape_keeps_its_way_while_a_shard_has_a_key_of_it() {
    let table = InterestTable::new(8);
    let filters = shape_filters(SHAPES_DIRECT_MAX + 2);
    for filter in &filters[..SHAPES_DIRECT_MAX] {
        table.insert(key(filter), 1).unwrap();
    }
    let late = |n: usize| key(&filters[SHAPES_DIRECT_MAX].replace('x', &n.to_string()));
    // One slot stands for all keys with the same fallback, counted.
    for n in 0..10 {
        table.insert(late(n), 2).unwrap();
    }
    table.remove(key(&filters[0]), 1).unwrap();
    // A place is free now: another shard takes it, the first one's keys stay where they are.
    table.insert(late(0), 3).unwrap();
    let topic = filters[SHAPES_DIRECT_MAX].replace('x', "0").replace('+', "q");
    assert_eq!(found(&table, &topic), [2, 3]);
    assert_eq!(found(&table, &topic.replace('0', "5")), [2]);
    for n in 0..10 {
        table.remove(late(n), 2).unwrap();
    }
    assert_eq!(found(&table, &topic), [3]);
    assert_eq!(found(&table, &topic.replace('0', "5")), []);
    table.remove(late(0), 3).unwrap();
    assert_eq!(table.len(), SHAPES_DIRECT_MAX - 1);
}

#[test]
fn equal_hashes_are_held_twice() {
    // Two filters whose hashes are equal by accident, in one shard and in two.
    let table = InterestTable::new(1);
    let hash = topic_hash(TENANT, "a");
    let twin = InterestKey { shape: Shape::EXACT, hash, fallback: hash };
    table.insert(twin, 1).unwrap();
    table.insert(twin, 1).unwrap();
    table.remove(twin, 1).unwrap();
    assert_eq!(found(&table, "a"), [1]);
    // A hash whose fingerprint is zero looks neither empty nor like a tombstone.
    let zero = InterestKey { shape: Shape::EXACT, hash: 0, fallback: 0 };
    table.insert(zero, 0).unwrap();
    let mut set = ShardSet::new();
    table.shards_for(TENANT, "b", &mut Levels::new(), 0, &mut set);
    assert_eq!(set.iter().collect::<Vec<_>>(), [0]);
    table.remove(zero, 0).unwrap();
    assert_eq!(table.len(), 1);
}

fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "", "+"])
}

fn filter() -> impl Strategy<Value = String> {
    let levels = prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"));
    (levels, 0..4).prop_map(|(levels, end)| match end {
        0 if levels.is_empty() => "#".to_owned(),
        0 => levels + "/#",
        1 => format!("$x/{levels}"),
        _ => levels,
    })
}

fn topic() -> impl Strategy<Value = String> {
    filter().prop_map(|filter| filter.replace('+', "a").replace('#', "b"))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn shards_are_found_exactly(
        segments in 1_usize..4,
        steps in prop::collection::vec((filter(), 0_u16..6, any::<bool>()), 1..120),
        topics in prop::collection::vec(topic(), 8),
    ) {
        let table = InterestTable::new(segments);
        let mut naive: BTreeMap<(String, u16), ()> = BTreeMap::new();
        for (filter, shard, wanted) in steps {
            let held = naive.contains_key(&(filter.clone(), shard));
            if wanted && !held {
                table.insert(key(&filter), shard).unwrap();
                naive.insert((filter, shard), ());
            } else if !wanted && held {
                table.remove(key(&filter), shard).unwrap();
                naive.remove(&(filter, shard));
            }
            for topic in &topics {
                let hits = naive.keys().filter(|(filter, _)| meets(filter, topic));
                let expected: ShardSet = hits.map(|&(_, shard)| shard).collect();
                prop_assert_eq!(found(&table, topic), expected.iter().collect::<Vec<_>>());
            }
        }
        prop_assert_eq!(table.len(), naive.len());
    }
}

/// Tries until the segment is free, as a shard does turn by turn.
fn persist(mut attempt: impl FnMut() -> Result<(), Busy>) {
    while attempt().is_err() {
        thread::yield_now();
    }
}

#[test]
fn readers_miss_nothing_while_others_write() {
    let rounds = if cfg!(miri) { 2 } else { 60 };
    let table = InterestTable::new(2);
    let stay = ["stay/1", "stay/+", "stay/#", "+/1", "#"];
    for (shard, filter) in stay.iter().enumerate() {
        table.insert(key(filter), shard as u16).unwrap();
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (10..13_u16)
            .map(|shard| {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..rounds {
                        churn(table, shard, round);
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            // Once at least: on a busy machine the writers may be done before it begins.
            loop {
                assert_eq!(found(&table, "stay/1")[..5], [0, 1, 2, 3, 4]);
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for writer in writers {
            writer.join().expect("a writer finds what it wrote");
        }
        done.store(true, Ordering::Relaxed);
        reader.join().expect("the reader misses nothing");
    });
    assert_eq!(table.len(), stay.len());
}

/// Inserts keys until the segments grow, finds each at once, and removes them all.
fn churn(table: &InterestTable, shard: u16, round: u32) {
    let filters: Vec<_> =
        (0..40).map(|n| format!("{shard}/{round}/{n}{}", ["", "/+", "/#"][n % 3])).collect();
    for filter in &filters {
        persist(|| table.insert(key(filter), shard));
        let topic = filter.replace(['+', '#'], "t");
        assert!(found(table, &topic).contains(&shard), "{filter} was announced");
    }
    for filter in &filters {
        persist(|| table.remove(key(filter), shard));
    }
}
