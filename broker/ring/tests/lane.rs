//! Lanes on one thread: layout, limits, visibility, ownership, and a model.
#![cfg(not(loom))]

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use ringtide_ring::{LANE_BYTES_MIN, Receiver, Sender, lane};

#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(16))]
struct Wide(u128);

#[test]
fn a_record_is_seen_after_publish_only() {
    let (mut tx, mut rx) = lane::<u32>(4096);
    assert!(!tx.publish(0));
    tx.try_push(7, &[b"he", b"", b"llo"]).unwrap();
    assert!(rx.pop().is_none());
    assert!(rx.is_empty());
    assert!(tx.publish(0));
    assert!(!rx.is_empty());
    let record = rx.pop().unwrap();
    assert_eq!((record.item, record.bytes), (7, &b"hello"[..]));
    assert!(rx.pop().is_none());
}

#[test]
fn space_comes_back_with_commit_only() {
    let (mut tx, mut rx) = lane::<u64>(LANE_BYTES_MIN);
    let mut pushed = 0;
    while tx.try_push(pushed, &[]).is_ok() {
        pushed += 1;
    }
    assert_eq!(pushed, 15, "records of 16 bytes and a stamp of 8, 256 bytes in all");
    tx.publish(0);
    while rx.pop().is_some() {}
    let full = tx.try_push(99, &[]).unwrap_err();
    assert_eq!((full.item, full.never), (99, false));
    assert!(!tx.fits(0));
    assert_eq!(tx.free_bytes(), 8);
    rx.commit();
    assert!(tx.fits(0));
    assert_eq!(tx.free_bytes(), 256);
    tx.try_push(99, &[]).unwrap();
}

#[test]
fn a_record_above_half_never_fits_and_one_of_half_always_does() {
    let (mut tx, mut rx) = lane::<u32>(256);
    let half = 128 - Sender::<u32>::record_bytes(0);
    let full = tx.try_push(1, &[&vec![0; half + 1]]).unwrap_err();
    assert!(full.never);
    assert_eq!(full.to_string(), "record larger than half of the lane");
    assert!(!tx.fits(half + 1));
    assert!(!tx.fits(usize::MAX));
    // From every starting offset: an empty lane takes a record of half its size.
    for round in 0..64_u32 {
        assert!(tx.fits(half));
        tx.try_push(round, &[&vec![round as u8; half]]).unwrap();
        tx.publish(0);
        let record = rx.pop().unwrap();
        assert_eq!(record.item, round);
        assert_eq!(record.bytes, vec![round as u8; half]);
        rx.commit();
        tx.try_push(0, &[]).unwrap();
        tx.publish(0);
        assert!(rx.pop().is_some());
        rx.commit();
    }
}

#[test]
fn bytes_are_eight_aligned_and_wide_items_sixteen() {
    let (mut tx, mut rx) = lane::<Wide>(4096);
    for round in 0..1000_u128 {
        tx.try_push(Wide(round), &[&[round as u8; 13]]).unwrap();
        tx.publish(0);
        let record = rx.pop().unwrap();
        assert_eq!(record.item, Wide(round));
        assert_eq!(record.bytes, [round as u8; 13]);
        assert_eq!(record.bytes.as_ptr().addr() % 8, 0);
        rx.commit();
    }
}

#[test]
fn items_without_size_and_without_bytes() {
    let (mut tx, mut rx) = lane::<()>(256);
    for _ in 0..100 {
        tx.try_push((), &[]).unwrap();
        tx.publish(0);
        assert!(rx.pop().unwrap().bytes.is_empty());
        rx.commit();
    }
    assert_eq!(rx.position(), 1600);
}

#[test]
fn a_batch_is_told_by_its_stamp() {
    let (mut tx, mut rx) = lane::<u8>(256);
    assert_eq!(rx.next_stamp(), None);
    tx.try_push(1, &[b"first"]).unwrap();
    tx.try_push(2, &[]).unwrap();
    tx.publish(70);
    tx.try_push(3, &[]).unwrap();
    assert_eq!(rx.next_stamp(), Some(70));
    tx.publish(71);
    assert!(rx.pop_of(71).is_none(), "the older batch is not through");
    assert_eq!(rx.pop_of(70).map(|r| (r.item, r.bytes)), Some((1, &b"first"[..])));
    assert_eq!(rx.next_stamp(), Some(70));
    assert_eq!(rx.pop_of(70).unwrap().item, 2);
    assert!(rx.pop_of(70).is_none());
    assert_eq!(rx.next_stamp(), Some(71));
    assert_eq!(rx.pop().unwrap().item, 3);
    assert_eq!(rx.next_stamp(), None);
    assert_eq!(rx.position(), tx.pushed());
}

#[test]
fn positions_meet_at_the_tail() {
    let (mut tx, mut rx) = lane::<u8>(256);
    for round in 0..500_usize {
        tx.try_push(1, &[&vec![0; round % 90]]).unwrap();
        assert!(rx.published() < tx.pushed());
        tx.publish(0);
        assert_eq!(rx.published(), tx.pushed());
        rx.pop().unwrap();
        assert_eq!(rx.position(), tx.pushed());
        rx.commit();
    }
}

/// Counts who still holds the token: each item is dropped exactly once.
fn token() -> (Arc<()>, impl Fn() -> usize) {
    let token = Arc::new(());
    let weak = Arc::downgrade(&token);
    (token, move || weak.strong_count())
}

#[test]
fn unread_items_drop_with_the_lane() {
    for receiver_first in [false, true] {
        let (item, held) = token();
        let (mut tx, mut rx) = lane::<Arc<()>>(256);
        for _ in 0..3 {
            tx.try_push(Arc::clone(&item), &[b"xyz"]).unwrap();
        }
        tx.publish(0);
        drop(rx.pop().unwrap().item);
        tx.try_push(item, &[]).unwrap();
        assert_eq!(held(), 3, "two published and unread, one unpublished");
        if receiver_first {
            drop(rx);
            assert!(tx.is_closed());
            assert_eq!(held(), 3);
            drop(tx);
        } else {
            drop(tx);
            assert!(rx.is_closed());
            assert!(rx.pop().is_some(), "what was published is still readable");
            assert!(rx.pop().is_some());
            assert!(rx.pop().is_none(), "what was not stays unseen");
            drop(rx);
        }
        assert_eq!(held(), 0);
    }
}

#[test]
fn items_drop_once_after_wrapping() {
    let (item, held) = token();
    let (mut tx, mut rx) = lane::<Arc<()>>(256);
    for round in 0..200_usize {
        while tx.try_push(Arc::clone(&item), &[&vec![1; round % 100]]).is_ok() {}
        tx.publish(0);
        for _ in 0..round % 3 {
            rx.pop();
        }
        rx.commit();
    }
    drop((tx, rx, item));
    assert_eq!(held(), 0);
}

#[test]
#[should_panic(expected = "power of two")]
fn an_odd_capacity_is_refused() {
    lane::<u8>(1000);
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Publish,
    Pop,
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..140).prop_map(Step::Push),
        2 => Just(Step::Publish),
        4 => Just(Step::Pop),
        2 => Just(Step::Commit),
    ]
}

/// A lane beside the queue that it should behave like.
struct Model {
    tx: Sender<Box<u64>>,
    rx: Receiver<Box<u64>>,
    hidden: VecDeque<(u64, Vec<u8>)>,
    /// Each with the stamp of its batch.
    visible: VecDeque<(u64, (u64, Vec<u8>))>,
    next: u64,
    stamp: u64,
}

impl Model {
    fn run(&mut self, step: &Step) {
        match *step {
            Step::Push(len) => self.push(len),
            Step::Publish => {
                self.stamp += 1;
                assert_eq!(self.tx.publish(self.stamp), !self.hidden.is_empty());
                self.visible.extend(self.hidden.drain(..).map(|record| (self.stamp, record)));
            }
            Step::Pop => {
                let stamp = self.rx.next_stamp();
                assert_eq!(stamp, self.visible.front().map(|&(stamp, _)| stamp));
                assert!(self.rx.pop_of(stamp.unwrap_or(0) + 1).is_none());
                let got = self.rx.pop_of(stamp.unwrap_or(0)).map(|r| (*r.item, r.bytes.to_vec()));
                assert_eq!(got, self.visible.pop_front().map(|(_, record)| record));
                assert_eq!(self.rx.is_empty(), self.visible.is_empty());
            }
            Step::Commit => {
                self.rx.commit();
                if self.visible.is_empty() && self.hidden.is_empty() {
                    assert_eq!(self.tx.pushed(), self.rx.position());
                }
            }
        }
    }

    fn push(&mut self, len: usize) {
        let bytes: Vec<u8> = (0..len).map(|i| (self.next as usize + i) as u8).collect();
        let fits = self.tx.fits(len);
        let (left, right) = bytes.split_at(len / 3);
        match self.tx.try_push(Box::new(self.next), &[left, right]) {
            Ok(()) => {
                assert!(fits);
                self.hidden.push_back((self.next, bytes));
            }
            Err(full) => {
                assert!(!fits);
                assert_eq!(*full.item, self.next);
                let empty = self.tx.pushed() == self.rx.position();
                assert_eq!(full.never, Sender::<Box<u64>>::record_bytes(len) > 128);
                // An empty and committed lane takes every record that may ever fit.
                assert!(full.never || !empty || self.tx.free_bytes() < 256);
            }
        }
        self.next += 1;
    }
}

/// miri takes seconds for what is nothing otherwise.
const STEPS_MAX: usize = if cfg!(miri) { 40 } else { 200 };

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 512 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_lane_is_a_queue(steps in prop::collection::vec(step(), 1..STEPS_MAX)) {
        let (tx, rx) = lane(256);
        let mut model =
            Model { tx, rx, hidden: VecDeque::new(), visible: VecDeque::new(), next: 0, stamp: 0 };
        for step in &steps {
            model.run(step);
        }
    }
}
