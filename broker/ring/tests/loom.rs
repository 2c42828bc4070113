//! Every interleaving and every allowed reordering of small cases, by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p ringtide-ring --test loom --release`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use ringtide_ring::{Receiver, Sender, Shared, lane};

/// The smallest lane takes two records of this many inline bytes.
const HALF: usize = 100;

fn push(tx: &mut Sender<u64>, item: u64) -> bool {
    tx.try_push(item, &[&[item as u8; HALF]]).is_ok()
}

/// Takes one record and checks that its bytes are those written with its item.
fn pop(rx: &mut Receiver<u64>) -> Option<u64> {
    let record = rx.pop()?;
    assert_eq!(record.bytes, [record.item as u8; HALF]);
    Some(record.item)
}

#[test]
fn records_arrive_whole_and_in_order() {
    loom::model(|| {
        let (mut tx, mut rx) = lane(256);
        let sender = thread::spawn(move || {
            assert!(push(&mut tx, 1));
            tx.publish(0);
            assert!(push(&mut tx, 2));
            tx.publish(0);
        });
        let mut next = 1;
        for _ in 0..3 {
            if let Some(item) = pop(&mut rx) {
                assert_eq!(item, next);
                next += 1;
            }
            rx.commit();
        }
        sender.join().unwrap();
        while let Some(item) = pop(&mut rx) {
            assert_eq!(item, next);
            next += 1;
        }
        assert_eq!(next, 3);
        assert_eq!(rx.position(), rx.published());
    });
}

#[test]
fn space_is_written_again_only_after_commit() {
    loom::model(|| {
        let (mut tx, mut rx) = lane(256);
        assert!(push(&mut tx, 1) && push(&mut tx, 2));
        tx.publish(0);
        let sender = thread::spawn(move || {
            let third = push(&mut tx, 3);
            tx.publish(0);
            (tx, third)
        });
        assert_eq!(pop(&mut rx), Some(1));
        rx.commit();
        assert_eq!(pop(&mut rx), Some(2));
        let early = pop(&mut rx);
        let (mut tx, third) = sender.join().unwrap();
        assert!(third || early.is_none());
        if third && early.is_none() {
            assert_eq!(pop(&mut rx), Some(3));
        }
        rx.commit();
        assert!(push(&mut tx, 4));
        tx.publish(0);
        assert_eq!(pop(&mut rx), Some(4));
    });
}

#[test]
fn items_drop_once_whoever_goes_last() {
    loom::model(|| {
        let token = std::sync::Arc::new(());
        let (mut tx, mut rx) = lane(256);
        for _ in 0..2 {
            assert!(tx.try_push(std::sync::Arc::clone(&token), &[]).is_ok());
        }
        tx.publish(0);
        assert!(tx.try_push(std::sync::Arc::clone(&token), &[]).is_ok());
        let receiver = thread::spawn(move || {
            assert!(rx.pop().is_some());
            drop(rx);
        });
        drop(tx);
        receiver.join().unwrap();
        assert_eq!(std::sync::Arc::strong_count(&token), 1);
    });
}

/// A sleeper that finds nothing sleeps; whoever published must then have been told to wake it.
#[test]
fn no_wake_up_is_lost() {
    loom::model(|| {
        let shared = Arc::new(Shared::new(2));
        let (mut tx, mut rx) = lane(256);
        let sender = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                assert!(push(&mut tx, 7));
                tx.publish(0);
                shared.must_wake(1)
            })
        };
        shared.going_to_sleep(1);
        let asleep = rx.is_empty();
        if !asleep {
            shared.awake(1);
        }
        let woken = sender.join().unwrap();
        assert!(!asleep || woken, "asleep with a record and nobody wakes it");
        assert_eq!(pop(&mut rx), Some(7));
    });
}

#[test]
fn two_senders_wake_a_sleeper_once() {
    loom::model(|| {
        let shared = Arc::new(Shared::new(3));
        let mut receivers = Vec::new();
        let mut senders = Vec::new();
        for _ in 0..2 {
            let (mut tx, rx) = lane::<u64>(256);
            let shared = Arc::clone(&shared);
            receivers.push(rx);
            senders.push(thread::spawn(move || {
                assert!(push(&mut tx, 7));
                tx.publish(0);
                shared.must_wake(2)
            }));
        }
        shared.going_to_sleep(2);
        let asleep = receivers.iter().all(Receiver::is_empty);
        let wakes = senders.into_iter().map(|s| s.join().unwrap());
        let wakes = wakes.filter(|&woke| woke).count();
        assert!(wakes <= 1, "woken {wakes} times for one sleep");
        assert!(!asleep || wakes == 1);
    });
}

/// The subscriber writes its slot, then waits for a grace period. A publisher's turn that missed
/// the slot must have ended, and what it published must be seen.
#[test]
fn after_a_grace_period_every_turn_has_seen_what_was_written_before() {
    loom::model(|| {
        let shared = Arc::new(Shared::new(2));
        let slot = Arc::new(AtomicBool::new(false));
        let missed = Arc::new(AtomicUsize::new(0));
        let publisher = {
            let (shared, slot, missed) =
                (Arc::clone(&shared), Arc::clone(&slot), Arc::clone(&missed));
            thread::spawn(move || {
                for _ in 0..2 {
                    shared.begin_turn(1);
                    if !slot.load(Ordering::Relaxed) {
                        missed.fetch_add(1, Ordering::Relaxed);
                    }
                    shared.end_turn(1);
                }
            })
        };
        slot.store(true, Ordering::Relaxed);
        let mut grace = shared.grace();
        if grace.passed(&shared) {
            let seen = missed.load(Ordering::Relaxed);
            publisher.join().unwrap();
            assert_eq!(missed.load(Ordering::Relaxed), seen, "a later turn missed the slot");
        } else {
            publisher.join().unwrap();
            assert!(grace.passed(&shared));
        }
    });
}
