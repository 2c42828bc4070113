//! A store that keeps nothing: every record counts as durable when it is appended. For
//! `durability = memory`, where sessions live as long as the process.

use crate::{Lsn, RecordKind, Store};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct MemoryStore {
    appended: Lsn,
}

impl Store for MemoryStore {
    fn append(&mut self, _kind: RecordKind, _parts: &[&[u8]]) -> Lsn {
        self.appended.0 += 1;
        self.appended
    }

    fn end_turn(&mut self) {}

    fn durable(&self) -> Lsn {
        self.appended
    }

    fn appended(&self) -> Lsn {
        self.appended
    }

    fn is_immediate(&self) -> bool {
        true
    }
}
