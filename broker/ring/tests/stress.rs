//! Lanes and wake-ups between real threads: what loom cannot explore in length.
#![cfg(not(loom))]

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, Thread};

use ringtide_ring::{Ports, Receiver, Sender, Shared, lane, mesh};

const RECORDS: u64 = if cfg!(miri) { 60 } else { 100_000 };

/// A length that depends on the item, so that records wrap at every offset.
fn length(item: u64) -> usize {
    (item.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57) as usize
}

fn push(tx: &mut Sender<Box<u64>>, item: u64) -> bool {
    let bytes = [item as u8; 128];
    tx.try_push(Box::new(item), &[&bytes[..length(item)]]).is_ok()
}

fn drain(rx: &mut Receiver<Box<u64>>, expected: &mut u64) {
    while let Some(record) = rx.pop() {
        assert_eq!(*record.item, *expected);
        assert_eq!(record.bytes.len(), length(*expected));
        assert!(record.bytes.iter().all(|&byte| byte == *expected as u8));
        *expected += 1;
    }
    rx.commit();
}

#[test]
fn every_record_arrives_once_in_order_and_whole() {
    for capacity in [512, 4096, 65_536] {
        let (mut tx, mut rx) = lane(capacity);
        let sender = thread::spawn(move || {
            for item in 0..RECORDS {
                while !push(&mut tx, item) {
                    tx.publish(0);
                    thread::yield_now();
                }
                if item % 7 == 0 {
                    tx.publish(0);
                }
            }
            tx.publish(0);
        });
        let mut expected = 0;
        while expected < RECORDS {
            drain(&mut rx, &mut expected);
            thread::yield_now();
        }
        sender.join().expect("the sender does not panic");
        assert!(rx.is_empty() && rx.is_closed());
    }
}

/// Sleeps unless something came in; parking stands for the wait in the ring, a token for its wake.
fn sleep(port: &Ports<Box<u64>>) {
    port.shared.going_to_sleep(port.me);
    if port.from.iter().flatten().all(Receiver::is_empty) {
        thread::park();
    }
    port.shared.awake(port.me);
}

/// One shard of a ring of shards: passes on what comes from the shard before, and sleeps between.
/// With a wake-up lost, all would sleep for ever.
fn pass_on(mut port: Ports<Box<u64>>, rounds: u64, threads: &[Thread]) {
    let shards = port.to.len();
    let me = usize::from(port.me);
    let (before, after) = ((me + shards - 1) % shards, (me + 1) % shards);
    let mut seen = 0;
    while seen < rounds {
        port.shared.begin_turn(port.me);
        let from = port.from[before].as_mut().expect("a lane from every other shard");
        let to = port.to[after].as_mut().expect("a lane to every other shard");
        while let Some(record) = from.pop() {
            seen += 1;
            assert!(to.try_push(record.item, &[record.bytes]).is_ok());
        }
        from.commit();
        if to.publish(0) && port.shared.must_wake(after as u16) {
            threads[after].unpark();
        }
        port.shared.end_turn(port.me);
        if seen < rounds {
            sleep(&port);
        }
    }
}

#[test]
fn a_token_goes_round_sleeping_shards() {
    let rounds = if cfg!(miri) { 10 } else { 20_000 };
    let mut ports = mesh::<Box<u64>>(3, 256);
    let shared: Arc<Shared> = Arc::clone(&ports[0].shared);
    let first = ports[0].to[1].as_mut().expect("a lane to every other shard");
    assert!(first.try_push(Box::new(7), &[b"token"]).is_ok());
    first.publish(0);
    let (starts, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| channel::<Vec<Thread>>()).unzip();
    let handles: Vec<_> = ports
        .into_iter()
        .zip(receivers)
        .map(|(port, told)| {
            thread::spawn(move || {
                let threads = told.recv().expect("the test tells all threads");
                pass_on(port, rounds, &threads);
            })
        })
        .collect();
    let threads: Vec<Thread> = handles.iter().map(|handle| handle.thread().clone()).collect();
    for start in starts {
        start.send(threads.clone()).expect("every shard waits for its start");
    }
    for handle in handles {
        handle.join().expect("no shard panics");
    }
    assert!(shared.grace().passed(&shared), "all shards have ended their turns");
}
