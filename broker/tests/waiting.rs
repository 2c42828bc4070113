//! What waits for clients that are away is on the disk and not in memory: it comes back in order,
//! to each of them, across checkpoints and a crash.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::VecDeque;
use std::path::Path;

use common::broker::{scratch, target};
use common::{Broker, Client, Connect, PATIENCE, Publish, Settings, V5, code};

/// Segments and checkpoints so small that there are many; next to nothing waits in memory.
const PAGED: &str = "\
sys_interval_s = 1
[store]
segment_bytes = 1048576
checkpoint_bytes = 2097152
waiting_memory_bytes_max = 65536
[limits]
queue_count_max = 100000
queue_bytes_max = 1073741824
";
/// Messages that are published, and the bytes of each.
const MESSAGES: usize = 1200;
const BYTES: usize = 2000;
/// Publishes under way at once.
const WINDOW: usize = 100;

fn start(data: &Path) -> Broker {
    let mut settings = Settings::new(1).on_disk().data_dir(data).config(PAGED);
    settings.env.clear();
    Broker::start(&settings)
}

fn reader(address: &str, name: &str, at_once: u16) -> Client {
    let connect = Connect::new(V5, name).resume().expiry(u32::MAX).receive_maximum(at_once);
    Client::connect(address, &connect)
}

/// The text of a message; some are larger than a read takes in.
fn text(number: usize) -> String {
    let bytes = if number % 500 == 499 { 600_000 } else { BYTES };
    format!("{number:06}{}", "x".repeat(bytes))
}

fn fill(address: &str) {
    let mut publisher = Client::connect(address, &Connect::new(V5, "publisher"));
    let mut under_way = VecDeque::new();
    for number in 0..MESSAGES {
        let id = publisher.fresh_id();
        publisher.send_publish(&Publish::new("kept/x", text(number)).qos(2).id(id));
        under_way.push_back(id);
        if under_way.len() == WINDOW {
            finish(&mut publisher, under_way.pop_front().unwrap());
        }
    }
    for id in under_way {
        finish(&mut publisher, id);
    }
}

fn finish(publisher: &mut Client, id: u16) {
    assert_eq!(publisher.expect_pubrec(id), code::SUCCESS);
    publisher.ack(common::packet::PUBREL, id, 0);
    publisher.expect_pubcomp(id);
}

/// Waits until a number that the broker publishes is as wanted.
fn expect_number(address: &str, topic: &str, wanted: impl Fn(u64) -> bool) {
    let mut watcher = Client::connect(address, &Connect::new(V5, "watcher"));
    assert_eq!(watcher.subscribe("$SYS/broker/store/#", 0), 0);
    let end = std::time::Instant::now() + PATIENCE;
    let mut last = None;
    while std::time::Instant::now() < end {
        let message = watcher.raw_message();
        if message.topic == format!("$SYS/broker/store/{topic}") {
            let number = message.text().parse::<u64>().unwrap();
            if wanted(number) {
                return;
            }
            last = Some(number);
        }
    }
    panic!("{topic} is {last:?}");
}

/// Takes the messages with these numbers, in order.
fn take(reader: &mut Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let message = reader.message();
        assert!(message.text() == text(number), "{number} is {:.20}", message.text());
    }
}

#[test]
fn what_waits_leaves_memory_and_comes_back_in_order() {
    if target().is_some() {
        eprintln!("skipped: the broker's disk must be the test's own");
        return;
    }
    let data = scratch().join("data");
    let mut broker = start(&data);
    for (name, qos) in [("once", 2), ("least", 1), ("late", 1)] {
        let mut reader = reader(&broker.address, name, 50);
        assert_eq!(reader.subscribe("kept/#", qos), qos);
        reader.disconnect();
    }
    fill(&broker.address);
    let away = MESSAGES as u64 - 100;
    expect_number(&broker.address, "waiting/on_disk", |count| count >= away);
    expect_number(&broker.address, "waiting/bytes_in_memory", |bytes| bytes <= 1 << 20);
    // One takes a part and loses its connection with others under way.
    let mut once = reader(&broker.address, "once", 20);
    take(&mut once, 0..520);
    once.raw_message();
    once.lose_network();
    let mut once = reader(&broker.address, "once", 7);
    take(&mut once, 520..560);
    once.disconnect();
    let mut least = reader(&broker.address, "least", 1000);
    take(&mut least, 0..MESSAGES);
    least.disconnect();
    broker.signal("KILL");
    broker.wait();
    // A start leaves there what waits there.
    let broker = start(&data);
    expect_number(&broker.address, "waiting/on_disk", |count| count >= away);
    let mut once = reader(&broker.address, "once", 100);
    take(&mut once, 560..MESSAGES);
    let mut late = reader(&broker.address, "late", 65535);
    take(&mut late, 0..MESSAGES);
    let mut publisher = Client::connect(&broker.address, &Connect::new(V5, "publisher"));
    assert_eq!(publisher.publish(Publish::new("kept/x", "last").qos(1)), code::SUCCESS);
    once.expect_message("last");
    late.expect_message("last");
    expect_number(&broker.address, "waiting/on_disk", |count| count == 0);
}
