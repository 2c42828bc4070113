//! Prints bytes per filter and nanoseconds per match, at the sizes that the figures name.
//!
//! Times are of processor, so that a busy machine does not count; "longest" is of the wall, and
//! does. Memory is the growth of the resident set, with the broker's own allocator. An argument
//! names the one section to run; without one each runs in a process of its own.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use ringtide_topics::retained::{Cursor, Retained};
use ringtide_topics::{
    MatchScratch, SessionRef, Subscription, Table, TenantId, matches, topic_hash,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const T: TenantId = TenantId(0);
const MILLION: u32 = 1_000_000;
const ROUND: u32 = 15_000;
const ROUNDS: u32 = 200;

const SECTIONS: [(&str, fn()); 7] = [
    ("small", small),
    ("exact", million_exact),
    ("wildcard", million_wildcard),
    ("leading-wildcard", million_leading_wildcard),
    ("trie", million_trie),
    ("fan-out", fan_out),
    ("retained", retained),
];

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    for (name, section) in SECTIONS {
        if wanted.as_deref() == Some(name) {
            println!("== {name}");
            section();
        } else if wanted.is_none() {
            // What one section freed would hide what the next takes.
            let program = std::env::current_exe().expect("its own path");
            let ended = std::process::Command::new(program).arg(name).status();
            assert!(ended.is_ok_and(|status| status.success()), "{name}");
        }
    }
}

/// Processor time of this thread; up to one tick late.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

fn processor_time_since(begin: Duration) -> Duration {
    processor_time().saturating_sub(begin)
}

fn subscription(session: u32) -> Subscription {
    Subscription { session: SessionRef(session), options: 0, id: 0 }
}

/// Numbers 0 to `count` in a scattered order.
fn scattered(n: u32, count: u32) -> u32 {
    (u64::from(n) * 2_147_483_629 % u64::from(count)) as u32
}

fn resident_bytes() -> usize {
    // The allocator gives memory back a little later, and only when it is called.
    std::thread::sleep(Duration::from_millis(1500));
    drop(black_box((0..100).map(|n| vec![0u8; n * 997]).collect::<Vec<_>>()));
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// Publishes to the topics in turn; prints what one costs, its hash included: in the best of many
/// short rounds, which another process rarely cuts into, and in the median one.
fn publish(what: &str, table: &Table, topics: &Topics, hits_expected: u64) {
    let mut scratch = MatchScratch::new();
    let mut topics = topics.iter().cycle();
    let mut round = || {
        let (mut hits, begin) = (0u64, Instant::now());
        for topic in topics.by_ref().take(ROUND as usize) {
            let hash = topic_hash(T, topic);
            table.matches(T, topic, hash, Some(SessionRef(u32::MAX)), &mut scratch, |hit| {
                hits += 1;
                black_box(hit);
            });
        }
        let took = nanos(begin.elapsed(), ROUND);
        assert_eq!(hits, hits_expected * u64::from(ROUND), "{what}");
        took
    };
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_by(f64::total_cmp);
    let (best, median) = (rounds[0], rounds[rounds.len() / 2]);
    println!("{what:48} {best:7.1} ns/match, median {median:7.1}");
}

/// Topics one behind the other, so that reading them costs next to nothing.
struct Topics {
    text: String,
    length: usize,
}

impl Topics {
    fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        let ends = (0..self.text.len() / self.length).map(|n| (n + 1) * self.length);
        ends.map(|end| self.text[end - self.length..end].trim_end_matches(' '))
    }
}

fn nanos(took: Duration, count: u32) -> f64 {
    took.as_nanos() as f64 / f64::from(count)
}

fn names(count: u32, name: impl Fn(u32) -> String) -> Topics {
    let length = name(count).len() + 1;
    let mut text = String::new();
    for n in 0..count {
        let name = name(scattered(n, count));
        text.push_str(&format!("{name:length$}"));
    }
    Topics { text, length }
}

fn filled(mut table: Table, count: u32, filter: impl Fn(u32) -> String) -> Table {
    for n in 0..count {
        table.subscribe(T, &filter(n), subscription(n % 50));
    }
    table
}

fn small() {
    let table = filled(Table::new(), 1000, |n| format!("bench/pair/{n}"));
    publish("1000 exact, hit", &table, &names(1000, |n| format!("bench/pair/{n}")), 1);
    let table = filled(Table::new(), 15_000, |n| format!("site/{n}/room/temp"));
    publish("15000 exact, hit", &table, &names(15_000, |n| format!("site/{n}/room/temp")), 1);
    publish("15000 exact, miss", &table, &names(15_000, |n| format!("site/{n}/room/hum")), 0);
    for (how, shapes) in [("shapes", 64), ("trie", 0)] {
        let table = filled(Table::with_shapes_max(shapes), 15_000, |n| format!("w/{n}/+/x/#"));
        let topics = names(15_000, |n| format!("w/{n}/k/x/y"));
        publish(&format!("15000 w/%g/+/x/#, {how}"), &table, &topics, 1);
        let table = filled(Table::with_shapes_max(shapes), 15_000, |n| format!("+/{n}/#"));
        let topics = names(15_000, |n| format!("w/{n}/k/x/y"));
        publish(&format!("15000 +/%g/#, {how}"), &table, &topics, 1);
        // Twenty shapes, of which twelve fit the topic and one matches.
        let table = filled(Table::with_shapes_max(shapes), 15_000, mixed);
        let topics = names(750, |n| format!("m/{}/c/d", n * 20));
        publish(&format!("15000 of 20 shapes, {how}"), &table, &topics, 1);
    }
    many_shapes();
    let mut table = filled(Table::new(), 15_000, |n| format!("site/{n}/room/temp"));
    table.subscribe(T, "#", subscription(60));
    table.subscribe(T, "site/+/room/temp", subscription(61));
    let topics = names(15_000, |n| format!("site/{n}/room/temp"));
    publish("15000 exact and # and site/+/room/temp", &table, &topics, 3);
}

/// As many shapes as said, all of which fit the topic; one filter matches.
fn many_shapes() {
    for count in [4, 16, 32] {
        for (how, shapes_max) in [("shapes", 64), ("trie", 0)] {
            let filter = |n: u32| {
                // Bit l of the shape's number: level l is literal.
                let shape = n % count + 64 - count;
                let level = |l: u32| match shape >> l & 1 {
                    1 if l == 5 => format!("{n}"),
                    1 => "c".to_owned(),
                    _ => "+".to_owned(),
                };
                (0..6).map(level).collect::<Vec<_>>().join("/")
            };
            let table = filled(Table::with_shapes_max(shapes_max), 15_000, filter);
            // Of the shapes with a literal last level one filter matches, of the others each.
            let topics = names(15_000 / count, |n| filter(n * count + count - 1));
            let mut scratch = MatchScratch::new();
            let mut hits = 0;
            let topic = filter(count - 1);
            table.matches(T, &topic, topic_hash(T, &topic), None, &mut scratch, |_| hits += 1);
            publish(&format!("15000 of {count} shapes that fit, {how}"), &table, &topics, hits);
        }
    }
}

fn mixed(n: u32) -> String {
    let shapes = [
        "m/%/+/d",
        "+/%/z/#",
        "+/+/%/d",
        "%/+/+/+",
        "a/%/+/+",
        "+/%/+/z",
        "%/b/+/#",
        "%/+/c/#",
        "+/b/%/#",
        "b/+/%/#",
        "%/#",
        "+/+/%/#",
        "%/+",
        "+/%",
        "a/+/%",
        "+/%/c",
        "a/b/+/+/%",
        "+/+/+/+/%",
        "+/a/+/a/%",
        "%/+/a/a/a",
    ];
    shapes[n as usize % shapes.len()].replace('%', &n.to_string())
}

fn million_exact() {
    // 24 bytes each.
    let name = |n: u32| format!("device/{n:08}/telemet");
    let table = million("exact", Table::new(), name);
    publish("1 M exact, hit", &table, &names(MILLION, name), 1);
    publish("1 M exact, miss", &table, &names(MILLION, |n| format!("device/{n:08}/unknown")), 0);
    empty("exact", table, name);
}

fn million_wildcard() {
    let name = |n: u32| format!("w/{n:08}/+/x/#");
    let table = million("w/%g/+/x/#", Table::new(), name);
    publish("1 M w/%g/+/x/#", &table, &names(MILLION, |n| format!("w/{n:08}/k/x/y")), 1);
    empty("w/%g/+/x/#", table, name);
}

fn million_leading_wildcard() {
    let name = |n: u32| format!("+/{n:08}/#");
    let table = million("+/%g/#", Table::new(), name);
    publish("1 M +/%g/#", &table, &names(MILLION, |n| format!("w/{n:08}/k/x/y")), 1);
}

fn million_trie() {
    let name = |n: u32| format!("w/{n:08}/+/x/#");
    let table = million("w/%g/+/x/#, trie", Table::with_shapes_max(0), name);
    publish("1 M w/%g/+/x/#, trie", &table, &names(MILLION, |n| format!("w/{n:08}/k/x/y")), 1);
    empty("w/%g/+/x/#, trie", table, name);
}

/// Subscribes a million sessions to a filter each; prints memory and the longest single call.
fn million(what: &str, mut table: Table, name: impl Fn(u32) -> String) -> Table {
    let filters: Vec<String> = (0..MILLION).map(name).collect();
    let resident = resident_bytes();
    let (begin, mut longest) = (processor_time(), Duration::ZERO);
    for (n, filter) in filters.iter().enumerate() {
        let call = Instant::now();
        table.subscribe(T, filter, subscription(n as u32));
        longest = longest.max(call.elapsed());
    }
    let each = nanos(processor_time_since(begin), MILLION);
    let bytes = (resident_bytes() as f64 - resident as f64) / f64::from(MILLION);
    let own = table.memory_bytes() as f64 / f64::from(MILLION);
    println!("1 M {what}: {bytes:.1} bytes/filter resident, {own:.1} by its own account");
    println!("1 M {what}: {each:.0} ns/subscribe, longest {} us", longest.as_micros());
    table
}

fn empty(what: &str, mut table: Table, name: impl Fn(u32) -> String) {
    let filters: Vec<String> = (0..MILLION).map(|n| name(scattered(n, MILLION))).collect();
    let (begin, mut longest) = (processor_time(), Duration::ZERO);
    for (n, filter) in filters.iter().enumerate() {
        let call = Instant::now();
        let session = SessionRef(scattered(n as u32, MILLION));
        black_box(table.unsubscribe(T, filter, session));
        longest = longest.max(call.elapsed());
    }
    assert!(table.is_empty());
    let each = nanos(processor_time_since(begin), MILLION);
    println!("1 M {what}: {each:.0} ns/unsubscribe, longest {} us", longest.as_micros());
}

fn fan_out() {
    for (subscribers, rounds) in [(1000u32, 10_000u32), (MILLION, 20)] {
        for overlap in [false, true] {
            let mut table = Table::new();
            let resident = resident_bytes();
            let begin = processor_time();
            for n in 0..subscribers {
                table.subscribe(T, "fan/out", subscription(scattered(n, subscribers)));
            }
            let took = nanos(processor_time_since(begin), subscribers);
            let bytes = (resident_bytes() as f64 - resident as f64) / f64::from(subscribers);
            if overlap {
                table.subscribe(T, "fan/+", subscription(subscribers / 2));
            }
            let (mut scratch, mut hits) = (MatchScratch::new(), 0u32);
            let hash = topic_hash(T, "fan/out");
            let begin = processor_time();
            for _ in 0..rounds {
                let mut after = None;
                loop {
                    let s = &mut scratch;
                    after = table.matches_from(T, "fan/out", hash, None, after, 1024, s, |hit| {
                        hits += 1;
                        black_box(hit);
                    });
                    if after.is_none() {
                        break;
                    }
                }
            }
            let each = nanos(processor_time_since(begin), hits);
            assert_eq!(hits, subscribers * rounds);
            println!("1 -> {subscribers}, pages of 1024, overlap {overlap}: {each:.2} ns/hit");
            // A thousand are too few for these clocks.
            if subscribers == MILLION && !overlap {
                println!("{took:.0} ns/subscribe, {bytes:.1} bytes/subscriber");
            }
        }
    }
}

fn retained() {
    let topic = |n: u32| match n % 4 {
        0 => format!("site/{}/device/{n}/state", n % 1000),
        1 => format!("{n}/temp"),
        2 => format!("home/{}/{n}", n % 5000),
        _ => format!("dev{n}/a/b/c"),
    };
    let resident = resident_bytes();
    let (mut store, mut longest) = (Retained::new(), Duration::ZERO);
    let begin = processor_time();
    for n in 0..MILLION {
        let call = Instant::now();
        store.insert(T, &topic(n), [u64::from(n); 2]);
        longest = longest.max(call.elapsed());
    }
    store.insert(T, "5/rare", [0; 2]);
    let each = nanos(processor_time_since(begin), MILLION);
    let bytes = (resident_bytes() as f64 - resident as f64) / f64::from(MILLION);
    println!("1 M retained: {bytes:.1} bytes/topic with 16 of value, {each:.0} ns/insert");
    println!("1 M retained: longest insert {} us", longest.as_micros());
    for filter in [
        "5/temp",
        "+/rare",
        "+/777/#",
        "site/7/#",
        "site/8/device/+/state",
        "+/+/device/8/+",
        "home/+/10",
        "home/77/+",
        "+/temp",
        "#",
        "$SYS/#",
        "x/+",
    ] {
        query(&store, filter);
    }
    let begin = processor_time();
    let (mut next, mut longest) = (Some(0), Duration::ZERO);
    while let Some(from) = next {
        let call = Instant::now();
        next = store.sweep(from, 1024, |value| value[0] % 2 == 0).next;
        longest = longest.max(call.elapsed());
    }
    let each = nanos(processor_time_since(begin), MILLION);
    println!("sweep, half expired: {each:.0} ns/topic, longest slice {} us", longest.as_micros());
}

fn query(store: &Retained<[u64; 2]>, filter: &str) {
    let mut best = (Duration::MAX, Duration::MAX, 0u32, 0u32);
    for _ in 0..7 {
        let (mut hits, mut pages, mut longest) = (0u32, 0u32, Duration::ZERO);
        let (mut cursor, begin) = (Some(Cursor::default()), Instant::now());
        while let Some(at) = cursor {
            let call = Instant::now();
            cursor = store.query(T, filter, &at, 256, |topic, value| {
                hits += 1;
                debug_assert!(matches(filter, topic));
                black_box(value);
            });
            longest = longest.max(call.elapsed());
            pages += 1;
        }
        best = best.min((begin.elapsed(), longest, hits, pages));
    }
    let (took, longest, hits, pages) = best;
    println!(
        "retained {filter:24} {hits:8} hits {pages:6} pages of 256 {:10.1} us, longest {:.1} us",
        took.as_nanos() as f64 / 1000.0,
        longest.as_nanos() as f64 / 1000.0
    );
}
