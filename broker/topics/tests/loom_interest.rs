//! Writers of the interest table against its readers, every interleaving and reordering, by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p ringtide-topics --test loom_interest --release`.
//!
//! arc-swap is replaced by a locked reference there; it has a proof of its own.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use ringtide_topics::interest::{InterestTable, ShardSet};
use ringtide_topics::{InterestKey, Levels, Shape, TenantId, interest_key, topic_hash};

const TENANT: TenantId = TenantId(0);

/// A key whose place in an array is the first, so that keys stand in each other's way.
fn crowded(number: u64) -> InterestKey {
    let hash = number << 34;
    InterestKey { shape: Shape::EXACT, hash, fallback: hash }
}

fn finds(table: &InterestTable, key: InterestKey, shard: u16) -> bool {
    let mut set = ShardSet::new();
    table.shards_for(TENANT, "a", &mut Levels::new(), key.hash, &mut set);
    set.contains(shard)
}

/// A table of one segment with crowded keys 1 to `count`, of shard 0.
fn table_of(count: u64) -> Arc<InterestTable> {
    let table = InterestTable::new(1);
    for number in 1..=count {
        table.insert(crowded(number), 0).unwrap();
    }
    Arc::new(table)
}

/// Reads while another thread inserts, grows and removes: the last key stays and is never missed.
fn reader_against(count: u64, write: fn(&InterestTable)) {
    loom::model(move || {
        let table = table_of(count);
        let writer = {
            let table = Arc::clone(&table);
            thread::spawn(move || write(&table))
        };
        assert!(finds(&table, crowded(count), 0));
        writer.join().unwrap();
        assert!(finds(&table, crowded(count), 0));
    });
}

#[test]
fn a_key_behind_a_removed_one_is_found() {
    reader_against(3, |table| table.remove(crowded(1), 0).unwrap());
}

#[test]
fn a_key_behind_a_tombstone_written_again_is_found() {
    reader_against(2, |table| {
        table.remove(crowded(1), 0).unwrap();
        table.insert(crowded(9), 1).unwrap();
        assert!(finds(table, crowded(9), 1));
    });
}

#[test]
fn a_key_before_cleared_slots_is_found() {
    reader_against(1, |table| {
        table.insert(crowded(8), 1).unwrap();
        table.remove(crowded(8), 1).unwrap();
        table.insert(crowded(9), 1).unwrap();
        assert!(finds(table, crowded(9), 1));
    });
}

#[test]
fn a_key_is_found_while_its_segment_grows() {
    reader_against(3, |table| {
        table.insert(crowded(9), 1).unwrap();
        table.remove(crowded(9), 1).unwrap();
    });
}

/// Two shards write one segment: each finds its own key as soon as its insert has succeeded.
#[test]
fn two_writers_do_not_lose_each_others_keys() {
    loom::model(|| {
        let table = table_of(2);
        let write = |table: Arc<InterestTable>, number: u64, shard: u16| {
            move || {
                while table.insert(crowded(number), shard).is_err() {
                    thread::yield_now();
                }
                assert!(finds(&table, crowded(number), shard));
            }
        };
        let other = thread::spawn(write(Arc::clone(&table), 7, 1));
        write(Arc::clone(&table), 8, 2)();
        other.join().unwrap();
        assert!(finds(&table, crowded(7), 1) && finds(&table, crowded(8), 2));
        assert_eq!(table.len(), 4);
    });
}

fn shard_found(table: &InterestTable, topic: &str, shard: u16) -> bool {
    let mut set = ShardSet::new();
    let hash = topic_hash(TENANT, topic);
    table.shards_for(TENANT, topic, &mut Levels::new(), hash, &mut set);
    set.contains(shard)
}

/// One shape has a place under loom: `+` holds it and lets it go, another takes it, `a/+` gets it
/// or falls back, and what was announced is found at once. Who finds a lock held gives up here.
#[test]
fn shapes_are_found_while_they_come_and_go() {
    let mut model = loom::model::Builder::new();
    // Unbounded, this takes hours; known races of this kind need two switches.
    model.preemption_bound = Some(2);
    model.check(|| {
        let table = Arc::new(InterestTable::new(1));
        let key = |filter| interest_key(TENANT, filter);
        table.insert(key("+"), 0).unwrap();
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                let moved = table.remove(key("+"), 0).is_ok() && table.insert(key("#"), 0).is_ok();
                assert!(!moved || shard_found(&table, "x", 0));
                moved
            })
        };
        let held = table.insert(key("a/+"), 1).is_ok();
        assert!(!held || shard_found(&table, "a/b", 1));
        let moved = other.join().unwrap();
        assert!(!held || shard_found(&table, "a/b", 1));
        assert!(!moved || shard_found(&table, "x", 0));
    });
}
