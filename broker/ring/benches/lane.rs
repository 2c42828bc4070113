//! Nanoseconds per record through one lane: on one thread, and streaming from one core to another.
//! Run with `cargo bench -p ringtide-ring`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::hint::{black_box, spin_loop};
use std::thread;
use std::time::{Duration, Instant};

use ringtide_ring::{Receiver, Sender, lane};

/// An item of the size of a message header and a reference.
type Item = [u64; 9];

const LANE_BYTES: usize = 256 * 1024;

fn main() {
    for (batch, inline) in [(1, 16), (32, 16), (256, 16), (32, 256), (32, 1024)] {
        let records = 8_000_000 / (1 + inline as u64 / 128);
        let alone = one_thread(records, batch, inline);
        let streamed = two_threads(records, batch, inline);
        println!(
            "batch {batch:>3}, item {} B, inline {inline:>4} B: one thread {alone:>6.1} ns, \
             core to core {streamed:>6.1} ns a record",
            size_of::<Item>(),
        );
    }
}

fn nanoseconds_each(elapsed: Duration, records: u64) -> f64 {
    elapsed.as_nanos() as f64 / records as f64
}

fn push(tx: &mut Sender<Item>, next: u64, bytes: &[u8]) -> bool {
    tx.try_push([next; 9], &[bytes]).is_ok()
}

fn drain(rx: &mut Receiver<Item>, next: &mut u64) -> u64 {
    let mut count = 0;
    while let Some(record) = rx.pop() {
        assert_eq!(record.item[0], *next);
        black_box(record.bytes);
        *next += 1;
        count += 1;
    }
    rx.commit();
    count
}

fn one_thread(records: u64, batch: u64, inline: usize) -> f64 {
    let (mut tx, mut rx) = lane(LANE_BYTES);
    let bytes = vec![1; inline];
    let (mut sent, mut received) = (0, 0);
    let start = Instant::now();
    while received < records {
        for _ in 0..batch {
            sent += u64::from(push(&mut tx, sent, &bytes));
        }
        tx.publish(0);
        drain(&mut rx, &mut received);
    }
    nanoseconds_each(start.elapsed(), received)
}

fn two_threads(records: u64, batch: u64, inline: usize) -> f64 {
    let (mut tx, mut rx) = lane(LANE_BYTES);
    let bytes = vec![1; inline];
    let start = Instant::now();
    let sender = thread::spawn(move || {
        let mut sent = 0;
        while sent < records {
            for _ in 0..batch {
                sent += u64::from(sent < records && push(&mut tx, sent, &bytes));
            }
            if !tx.publish(0) {
                spin_loop();
            }
        }
    });
    let mut received = 0;
    while received < records {
        if drain(&mut rx, &mut received) == 0 {
            spin_loop();
        }
    }
    let elapsed = start.elapsed();
    sender.join().expect("the sender does not panic");
    nanoseconds_each(elapsed, records)
}
