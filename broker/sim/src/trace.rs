//! What happened, as a hash that two runs of one seed must share, with the last events in words;
//! and what went wrong.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Arguments;
use std::rc::Rc;

/// Failures after which no more are noted.
const FAILURES_MAX: usize = 20;

/// Shared by everything that takes part in a run.
#[derive(Clone, Debug)]
pub struct Trace(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    hash: Cell<u64>,
    events: Cell<u64>,
    now_us: Cell<u64>,
    /// Events kept in words; 0 = none.
    keep: usize,
    tail: RefCell<VecDeque<String>>,
    failures: RefCell<Vec<String>>,
}

impl Trace {
    /// Keeps the last `keep` events in words.
    pub fn new(keep: usize) -> Trace {
        Trace(Rc::new(Inner {
            hash: Cell::new(0xcbf2_9ce4_8422_2325),
            events: Cell::new(0),
            now_us: Cell::new(0),
            keep,
            tail: RefCell::default(),
            failures: RefCell::default(),
        }))
    }

    pub(crate) fn set_now(&self, now_us: u64) {
        self.0.now_us.set(now_us);
    }

    /// Notes an event. The numbers go into the hash; the words are made only if they are kept.
    pub(crate) fn event(&self, numbers: [u64; 4], words: Arguments<'_>) {
        let mut hash = self.0.hash.get();
        for number in numbers {
            hash = (hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        self.0.hash.set(hash ^ self.0.now_us.get());
        self.0.events.set(self.0.events.get() + 1);
        if self.0.keep > 0 {
            let mut tail = self.0.tail.borrow_mut();
            if tail.len() == self.0.keep {
                tail.pop_front();
            }
            let now_us = self.0.now_us.get();
            tail.push_back(format!("{:>6}.{:06} {words}", now_us / 1_000_000, now_us % 1_000_000));
        }
    }

    /// Notes that a rule is broken.
    pub(crate) fn fail(&self, words: Arguments<'_>) {
        self.event([0xfa11, 0, 0, 0], format_args!("FAILURE {words}"));
        let mut failures = self.0.failures.borrow_mut();
        if failures.len() < FAILURES_MAX {
            failures.push(words.to_string());
        }
    }

    /// True once a rule has been broken.
    pub(crate) fn has_failed(&self) -> bool {
        !self.0.failures.borrow().is_empty()
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.0.hash.get()
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.0.events.get()
    }

    /// The last events in words.
    pub fn tail(&self) -> Vec<String> {
        self.0.tail.borrow().iter().cloned().collect()
    }

    /// What went wrong.
    pub fn failures(&self) -> Vec<String> {
        self.0.failures.borrow().clone()
    }
}
