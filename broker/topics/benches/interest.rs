//! Bytes per key and nanoseconds per look-up of the interest table, by the number of keys.
//! Run with `cargo bench -p ringtide-topics --bench interest`; a number of keys (in millions) as
//! argument measures that size instead.
#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::hint::black_box;

use ringtide_topics::interest::{InterestTable, SEGMENTS_DEFAULT, ShardSet};
use ringtide_topics::{InterestKey, Levels, Shape, TenantId, interest_key, topic_hash};

const TENANT: TenantId = TenantId(0);
const LOOKS: u64 = 2_000_000;

fn main() {
    let asked = std::env::args().skip(1).find_map(|argument| argument.parse::<u64>().ok());
    for millions in asked.map_or(vec![1, 10], |millions| vec![millions]) {
        exact(millions * 1_000_000);
    }
    for shapes in [1, 4, 16] {
        wildcards(15_000, shapes);
    }
}

/// Nanoseconds that this thread has had a core: other work on the machine does not count.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux kernel");
    let first = text.split(' ').next().and_then(|number| number.parse().ok());
    first.expect("nanoseconds on a core come first")
}

/// Well spread, as a topic's hash is, and cheap to make.
fn spread(number: u64) -> u64 {
    let word = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word ^ (word >> 31)
}

fn exact(keys: u64) {
    let table = InterestTable::new(SEGMENTS_DEFAULT);
    let start = cpu_ns();
    for number in 0..keys {
        let hash = spread(number);
        let key = InterestKey { shape: Shape::EXACT, hash, fallback: hash };
        table.insert(key, (number % 32) as u16).expect("no other writer");
    }
    let insert_ns = (cpu_ns() - start) as f64 / keys as f64;
    let (hit_ns, hits) = look(&table, |n| spread(n.wrapping_mul(7919) % keys));
    let (miss_ns, misses) = look(&table, |n| spread(n + (1 << 40)));
    assert_eq!((hits, misses), (LOOKS, 0));
    println!(
        "exact, {keys} keys: {:.1} B a key, insert {insert_ns:.0} ns, \
         hit {hit_ns:.0} ns, miss {miss_ns:.0} ns",
        table.memory_bytes() as f64 / keys as f64,
    );
}

/// Nanoseconds per look-up by hash alone, and how many found a shard.
fn look(table: &InterestTable, hash: impl Fn(u64) -> u64) -> (f64, u64) {
    let mut levels = Levels::new();
    let mut hits = 0;
    let start = cpu_ns();
    for number in 0..LOOKS {
        let mut set = ShardSet::new();
        table.shards_for(TENANT, "a", &mut levels, hash(number), &mut set);
        hits += u64::from(!set.is_empty());
    }
    ((cpu_ns() - start) as f64 / LOOKS as f64, hits)
}

/// `keys` filters `w/N/+/x/#` with so many other shapes beside them.
fn wildcards(keys: u64, shapes: usize) {
    let table = InterestTable::new(SEGMENTS_DEFAULT);
    for number in 0..keys {
        let key = interest_key(TENANT, &format!("w/{number}/+/x/#"));
        table.insert(key, 1).expect("no other writer");
    }
    for other in 1..shapes {
        let filter = format!("v{}/+", "/+".repeat(other));
        table.insert(interest_key(TENANT, &filter), 2).expect("no other writer");
    }
    let topics: Vec<_> = (0..keys).map(|number| format!("w/{number}/b/x/y")).collect();
    let mut levels = Levels::new();
    let start = cpu_ns();
    for topic in topics.iter().cycle().take(LOOKS as usize) {
        let mut set = ShardSet::new();
        let hash = topic_hash(TENANT, topic);
        table.shards_for(TENANT, topic, &mut levels, hash, &mut set);
        assert!(set.contains(1));
        black_box(set);
    }
    let ns = (cpu_ns() - start) as f64 / LOOKS as f64;
    println!("wildcards, {keys} keys, {shapes} shapes: {ns:.0} ns a topic, with its hashes");
}
