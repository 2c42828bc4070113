//! The disk has no space, fails, or was damaged: what the broker refuses, what it says, and that
//! nothing acknowledged is lost. The space is that of `store.disk_bytes_max`, which needs no
//! privilege; a write fails by a limit on the size of files.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::broker::{scratch, target};
use common::{Broker, Client, Connect, PATIENCE, Publish, QUIET, Settings, V5, V311};
use common::{Event, code, eventually};

const FOR_EVER: u32 = u32::MAX;

/// Room for a few hundred KiB.
const SMALL: &str = "\
sys_interval_s = 1
[store]
segment_bytes = 65536
checkpoint_bytes = 65536
disk_bytes_max = 2097152
[limits]
queue_count_max = 100000
";

fn on_disk(shards: u32, data: &Path) -> Settings {
    let mut settings = Settings::new(shards).on_disk().data_dir(data);
    settings.env.clear();
    settings
}

fn is_foreign() -> bool {
    let foreign = target().is_some();
    if foreign {
        eprintln!("skipped: the broker's disk must be the test's own");
    }
    foreign
}

/// A session that outlives its connections, subscribed to `kept/#`.
fn lasting(address: &str) -> Client {
    Client::connect(address, &Connect::new(V5, "reader").resume().expiry(FOR_EVER))
}

/// Publishes until there is no space; the payloads that were acknowledged. A checkpoint may yet
/// find a little room, so it must be refused for longer than a full store goes without one: that is
/// by how long one takes, on the disk of this machine.
fn fill(publisher: &mut Client) -> BTreeSet<String> {
    let mut kept = BTreeSet::new();
    let (mut took, mut refused_since) = (Duration::ZERO, None);
    let mut number = 0;
    loop {
        number += 1;
        let payload = format!("{number:08}{}", "x".repeat(8000));
        let asked = Instant::now();
        match publisher.publish(Publish::new("kept/fill", &payload).qos(1)) {
            code::SUCCESS => {
                took += asked.elapsed();
                assert!(kept.insert(payload));
                assert!(kept.len() < 1000, "they all found room");
                refused_since = None;
            }
            code::QUOTA_EXCEEDED => {
                // Of the 2 MiB of the store one acknowledgement writes 8 KiB, synced.
                let enough = (took / kept.len().max(1) as u32 * 200).max(Duration::from_secs(4));
                if refused_since.get_or_insert(asked).elapsed() > enough {
                    return kept;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            other => panic!("PUBACK {other:#04x}"),
        }
    }
}

/// The value of a topic of the broker's own, when it is this one.
fn expect_sys(watcher: &mut Client, topic: &str, wanted: impl Fn(&str) -> bool) {
    let end = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < end {
        let message = watcher.raw_message();
        if message.topic == format!("$SYS/broker/{topic}") {
            if wanted(&message.text()) {
                return;
            }
            last = Some(message.text());
        }
    }
    panic!("{topic} is {last:?}");
}

/// Takes messages, each acknowledged by itself, until one says that it is the last; the others'
/// payloads, each once.
fn take_until(reader: &mut Client, last: &str) -> BTreeSet<String> {
    let mut got = BTreeSet::new();
    loop {
        let message = reader.message();
        if message.text() == last {
            return got;
        }
        assert!(got.insert(message.text()) || message.dup, "twice: {:.20}", message.text());
    }
}

fn expect_log(broker: &Broker, text: &str) {
    eventually(&format!("`{text}` in the log"), || broker.log_text().contains(text));
}

#[test]
fn a_full_store_refuses_what_it_cannot_keep_and_recovers_by_itself() {
    if is_foreign() {
        return;
    }
    let data = scratch().join("data");
    // One shard: with more, those that keep less may have room left.
    full_and_back(&Broker::start(&on_disk(1, &data).config(SMALL)));
}

fn full_and_back(broker: &Broker) {
    let address = &broker.address;
    let mut reader = lasting(address);
    assert_eq!(reader.subscribe("kept/#", 1), 1);
    reader.disconnect();
    let mut watcher = Client::connect(address, &Connect::new(V5, "watcher"));
    assert_eq!(watcher.subscribe("$SYS/broker/store/#", 0), 0);
    assert_eq!(watcher.subscribe("live/#", 1), 1);
    // The machine's own disk may have little space left.
    expect_sys(&mut watcher, "store/state", |state| matches!(state, "ok" | "warning"));
    let mut publisher = Client::connect(address, &Connect::new(V5, "publisher"));
    let kept = fill(&mut publisher);
    assert!(kept.len() > 20, "{} messages were kept", kept.len());
    expect_log(broker, "the store has no room");
    expect_log(broker, "% of its space in use");
    expect_sys(&mut watcher, "store/state", |state| state == "full");
    expect_sys(&mut watcher, "store/bytes_live", |bytes| bytes.parse::<u64>().unwrap() > 100_000);
    // What must be kept is refused, or waits if it cannot be told so.
    let mut refused = Client::raw(address, V5);
    refused.send(&Connect::new(V5, "reader-2").expiry(FOR_EVER).encode());
    refused.expect_refused(&[code::QUOTA_EXCEEDED]);
    let mut refused = Client::raw(address, V311);
    refused.send(&Connect::new(V311, "reader-3").resume().encode());
    refused.expect_refused(&[3]);
    let code = publisher.publish(Publish::new("kept/more", "lost").qos(2));
    assert_eq!(code, code::QUOTA_EXCEEDED);
    let mut old = Client::connect(address, &Connect::new(V311, "old").clean());
    old.send_publish(&Publish::new("kept/old", "waited").qos(1).id(77));
    assert_eq!(old.event(QUIET), Event::Nothing, "no false acknowledgement");
    // The rest goes on.
    assert_eq!(publisher.publish(Publish::new("live/1", "alive").qos(1)), code::SUCCESS);
    publisher.publish(Publish::new("live/2", "not kept").retain());
    let live = |watcher: &mut Client| {
        watcher.wait_for("a live message", |packet| match packet {
            common::Packet::Publish(m) if m.topic.starts_with("live/") => Some(m.text()),
            _ => None,
        })
    };
    assert_eq!([live(&mut watcher), live(&mut watcher)], ["alive", "not kept"]);
    // Who takes what waits makes room.
    let mut reader = lasting(address);
    assert!(reader.session_present());
    let got = take_until(&mut reader, "waited");
    assert_eq!(old.expect_puback(77), 0);
    assert!(got == kept, "{} of {} came", got.len(), kept.len());
    expect_log(broker, "the store has room again");
    assert_eq!(publisher.publish(Publish::new("kept/after", "after").qos(1)), code::SUCCESS);
    assert_eq!(reader.message().text(), "after");
    expect_sys(&mut watcher, "store/state", |state| matches!(state, "ok" | "warning"));
    let mut new = Client::raw(address, V5);
    new.send(&Connect::new(V5, "reader-2").expiry(FOR_EVER).encode());
    new.expect_connack(code::SUCCESS);
}

#[test]
fn a_full_store_keeps_what_it_acknowledged_over_a_kill() {
    if is_foreign() {
        return;
    }
    let data = scratch().join("data");
    let settings = on_disk(1, &data).config(SMALL);
    let mut broker = Broker::start(&settings);
    let mut reader = lasting(&broker.address);
    assert_eq!(reader.subscribe("kept/#", 1), 1);
    reader.disconnect();
    let mut publisher = Client::connect(&broker.address, &Connect::new(V5, "publisher"));
    let kept = fill(&mut publisher);
    broker.signal("KILL");
    broker.wait();
    // More room at the next start.
    let broker = Broker::start(&on_disk(1, &data).config("sys_interval_s = 0\n"));
    let mut publisher = Client::connect(&broker.address, &Connect::new(V5, "publisher"));
    assert_eq!(publisher.publish(Publish::new("kept/end", "end").qos(1)), code::SUCCESS);
    let got = take_until(&mut lasting(&broker.address), "end");
    assert!(kept.is_subset(&got), "{} of {} came", got.len(), kept.len());
}

#[test]
fn a_write_that_fails_ends_the_broker_and_loses_nothing_acknowledged() {
    if is_foreign() {
        return;
    }
    let data = scratch().join("data");
    let settings = on_disk(1, &data).config("[store]\nsegment_bytes = 1048576\n");
    let failing = Settings { survives_file_size_limit: true, ..settings.clone() };
    let mut broker = Broker::start(&failing);
    let mut reader = lasting(&broker.address);
    assert_eq!(reader.subscribe("kept/#", 1), 1);
    reader.disconnect();
    let mut publisher = Client::connect(&broker.address, &Connect::new(V5, "publisher"));
    // Else their preparation would fail first. The next is asked for when this one is full.
    eventually("two segments are prepared", || {
        segments(&data).iter().filter(|segment| is_prepared(segment)).count() == 2
    });
    broker.limit_file_size(256 << 10);
    let mut kept = BTreeSet::new();
    for number in 0..1000 {
        let payload = format!("{number:08}{}", "x".repeat(8000));
        let id = publisher.fresh_id();
        publisher.send_publish(&Publish::new("kept/x", &payload).qos(1).id(id));
        match publisher.event(PATIENCE) {
            Event::Packet(common::Packet::PubAck(ack)) => {
                assert_eq!((ack.id, ack.code), (id, code::SUCCESS));
                kept.insert(payload);
            }
            Event::Closed => break,
            other => panic!("{other:?}"),
        }
    }
    assert!((10..100).contains(&kept.len()), "{} were acknowledged", kept.len());
    assert_eq!(broker.wait().code(), Some(1));
    let log = broker.log_text();
    let line = log.lines().find(|line| line.contains("the store has failed")).unwrap_or(&log);
    let file = data.join("logs-1/0").display().to_string();
    for part in ["write and sync of log-", &file, "File too large", "restart"] {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
    let broker = Broker::start(&settings);
    let mut publisher = Client::connect(&broker.address, &Connect::new(V5, "publisher"));
    assert_eq!(publisher.publish(Publish::new("kept/end", "end").qos(1)), code::SUCCESS);
    let got = take_until(&mut lasting(&broker.address), "end");
    assert!(kept.is_subset(&got), "{} of {} came", got.len(), kept.len());
}

#[test]
fn a_data_directory_that_is_taken_away_is_no_want_of_space() {
    if is_foreign() {
        return;
    }
    let data = scratch().join("data");
    let settings = on_disk(1, &data).config("[store]\nsegment_bytes = 65536\n");
    let mut broker = Broker::start(&settings);
    let mut reader = lasting(&broker.address);
    assert_eq!(reader.subscribe("kept/#", 1), 1);
    reader.disconnect();
    let mut publisher = Client::connect(&broker.address, &Connect::new(V5, "publisher"));
    // A segment that is being made keeps the directory from being empty.
    eventually("the data directory is gone", || fs::remove_dir_all(&data).is_ok());
    let payload = "x".repeat(8000);
    let ended = (0..1000).any(|_| {
        let id = publisher.fresh_id();
        publisher.send_publish(&Publish::new("kept/x", &payload).qos(1).id(id));
        match publisher.event(PATIENCE) {
            Event::Packet(common::Packet::PubAck(ack)) => {
                assert_eq!((ack.id, ack.code), (id, code::SUCCESS));
                false
            }
            Event::Closed => true,
            other => panic!("{other:?}"),
        }
    });
    assert!(ended, "the broker goes on without its data directory");
    assert_eq!(broker.wait().code(), Some(1));
    let log = broker.log_text();
    let line = log.lines().find(|line| line.contains("the store has failed")).unwrap_or(&log);
    let directory = data.join("logs-1/0").display().to_string();
    for part in ["preparation of log-", &directory, "No such file or directory"] {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
    assert!(!log.contains("has no room"), "{log}");
}

/// The files of shard 0's log, in order.
fn segments(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("logs-1/0")).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    segments.sort();
    segments
}

/// A segment's header is written when all else of it is.
fn is_prepared(segment: &Path) -> bool {
    fs::read(segment).is_ok_and(|bytes| bytes.iter().take(16).any(|byte| *byte != 0))
}

/// The first segment that holds something.
fn first_segment(data: &Path) -> PathBuf {
    let holds = |path: &PathBuf| fs::read(path).unwrap().get(4096..4100) == Some(b"RTLB");
    segments(data).into_iter().find(holds).unwrap()
}

#[test]
fn damage_that_a_start_found_is_told_until_a_start_finds_none() {
    if is_foreign() {
        return;
    }
    let data = scratch().join("data");
    let settings = on_disk(1, &data).config("sys_interval_s = 1\n[store]\nsegment_bytes = 65536\n");
    let told = |broker: &Broker, wanted: fn(u64) -> bool| {
        let mut watcher = Client::connect(&broker.address, &Connect::new(V5, "watcher"));
        for topic in ["store/damage/files", "store/damage/lost_records"] {
            watcher.subscribe(&format!("$SYS/broker/{topic}"), 0);
            expect_sys(&mut watcher, topic, |text| wanted(text.parse().unwrap()));
        }
    };
    let keep = |broker: &Broker| {
        let mut client = Client::connect(&broker.address, &Connect::new(V5, "publisher"));
        for number in 0..10 {
            let message = Publish::new(&format!("kept/{number}"), "x").qos(1).retain();
            client.publish(message);
        }
    };
    let mut broker = Broker::start(&settings);
    keep(&broker);
    told(&broker, |count| count == 0);
    broker.signal("KILL");
    broker.wait();
    let segment = first_segment(&data);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[4096 + 150] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let mut broker = Broker::start(&settings);
    told(&broker, |count| count > 0);
    // The checkpoint that makes the damaged file void, and a record behind it.
    keep(&broker);
    eventually("the damaged segment is freed", || !segment.exists());
    broker.signal("TERM");
    assert_eq!(broker.wait().code(), Some(0));
    told(&Broker::start(&settings), |count| count == 0);
}
