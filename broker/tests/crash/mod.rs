//! The parts of the crash test: a broker that is killed and started again on the same data, the
//! clients that go on through it, and what must hold of what they saw.
//!
//! Every client remembers what it was promised. A kill ends all connections; after a restart the
//! clients resume their sessions and go on as the standard says.

pub(crate) mod busy;
pub(crate) mod calls;
pub(crate) mod dice;
pub(crate) mod ledger;
pub(crate) mod link;
pub(crate) mod outbox;
pub(crate) mod process;
pub(crate) mod publisher;
pub(crate) mod retainer;
pub(crate) mod stage;
pub(crate) mod subscriber;
pub(crate) mod toggler;
pub(crate) mod tracer;
pub(crate) mod wills;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// What was found to be wrong.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    texts: Mutex<Vec<String>>,
    /// Connections that a running broker closed before CONNACK, or did not accept yet.
    retries: AtomicU32,
}

impl Findings {
    pub(crate) fn add(&self, text: String) {
        eprintln!("finding: {text}");
        self.texts.lock().expect("no thread panicked with it").push(text);
    }

    pub(crate) fn note_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn retries(&self) -> u32 {
        self.retries.load(Ordering::Relaxed)
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.texts.lock().expect("no thread panicked with it").clone()
    }
}
