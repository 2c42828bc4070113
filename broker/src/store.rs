//! The shard's store as the configuration names it, and the seams that tests need.
//!
//! Two environment variables exist for the tests alone and are no part of the product:
//! `RINGTIDE_TEST_STORE_SEED` delays the durability of each record by 0 to 5 turns, so that
//! everything that waits for it is seen waiting; `RINGTIDE_TEST_AUTH_METHOD` offers a method of
//! enhanced authentication that asks for a fixed answer.

use ringtide_codec::ReasonCode;
use ringtide_session::{AuthMethod, AuthStep};
use ringtide_shard::Methods;
use ringtide_storage::{DelayedStore, Lsn, MemoryStore, RecordKind, Store};

const STORE_SEED: &str = "RINGTIDE_TEST_STORE_SEED";
const AUTH_METHOD: &str = "RINGTIDE_TEST_AUTH_METHOD";

/// A shard's store.
pub(crate) enum ProgramStore {
    Memory(MemoryStore),
    Delayed(DelayedStore),
}

impl ProgramStore {
    pub(crate) fn from_environment(shard: u16) -> ProgramStore {
        match std::env::var(STORE_SEED).ok().and_then(|seed| seed.parse::<u64>().ok()) {
            Some(seed) => ProgramStore::Delayed(DelayedStore::new(seed + u64::from(shard))),
            None => ProgramStore::Memory(MemoryStore::default()),
        }
    }
}

impl Store for ProgramStore {
    fn append(&mut self, kind: RecordKind, parts: &[&[u8]]) -> Lsn {
        match self {
            ProgramStore::Memory(store) => store.append(kind, parts),
            ProgramStore::Delayed(store) => store.append(kind, parts),
        }
    }

    fn end_turn(&mut self) {
        match self {
            ProgramStore::Memory(store) => store.end_turn(),
            ProgramStore::Delayed(store) => store.end_turn(),
        }
    }

    fn durable(&self) -> Lsn {
        match self {
            ProgramStore::Memory(store) => store.durable(),
            ProgramStore::Delayed(store) => store.durable(),
        }
    }

    fn appended(&self) -> Lsn {
        match self {
            ProgramStore::Memory(store) => store.appended(),
            ProgramStore::Delayed(store) => store.appended(),
        }
    }

    fn is_immediate(&self) -> bool {
        matches!(self, ProgramStore::Memory(_))
    }

    fn keeps(&self) -> bool {
        matches!(self, ProgramStore::Delayed(_))
    }

    fn is_waiting(&self) -> bool {
        self.durable() < self.appended()
    }
}

/// Asks `challenge`, expects `response`.
struct TestEcho;

impl AuthMethod for TestEcho {
    fn name(&self) -> &str {
        "TEST-ECHO"
    }

    fn start(&mut self, _data: Option<&[u8]>) -> AuthStep {
        AuthStep::Continue(b"challenge".to_vec())
    }

    fn answer(&mut self, data: Option<&[u8]>) -> AuthStep {
        match data {
            Some(b"response") => AuthStep::Succeed(Vec::new()),
            _ => AuthStep::Fail(ReasonCode::NotAuthorized),
        }
    }
}

/// The methods of enhanced authentication: none yet but the tests' own.
pub(crate) fn test_methods() -> Methods {
    match std::env::var_os(AUTH_METHOD) {
        Some(_) => Methods(vec![("TEST-ECHO", || Box::new(TestEcho))]),
        None => Methods::default(),
    }
}
