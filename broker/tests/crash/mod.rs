//! The parts of the crash test: a broker that is killed and started again on the same data, the
//! clients that go on through it, and what must hold of what they saw.
//!
//! Every client remembers what it was promised. A kill ends all connections; after a restart the
//! clients resume their sessions and go on as the standard says.

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
pub(crate) mod wills;

use std::sync::Mutex;

/// What was found to be wrong.
#[derive(Debug, Default)]
pub(crate) struct Findings(Mutex<Vec<String>>);

impl Findings {
    pub(crate) fn add(&self, text: String) {
        eprintln!("finding: {text}");
        self.0.lock().expect("no thread panicked with it").push(text);
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().expect("no thread panicked with it").clone()
    }
}
