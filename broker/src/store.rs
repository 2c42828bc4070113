//! The shard's store as the configuration names it, and the seams that tests need.
//!
//! Two environment variables exist for the tests alone and are no part of the product:
//! `RINGTIDE_TEST_STORE_SEED` delays the durability of each record by 0 to 5 turns, so that
//! everything that waits for it is seen waiting; `RINGTIDE_TEST_AUTH_METHOD` offers a method of
//! enhanced authentication that asks for a fixed answer.

use ringtide_codec::ReasonCode;
use ringtide_session::{AuthMethod, AuthStep};
use ringtide_shard::Methods;
use ringtide_storage::{
    DelayedStore, Log, LogWrite, Lsn, Mark, MemoryStore, Place, RecordKind, Store, StoreFailure,
    Usage,
};

const STORE_SEED: &str = "RINGTIDE_TEST_STORE_SEED";
const AUTH_METHOD: &str = "RINGTIDE_TEST_AUTH_METHOD";

/// A shard's store.
pub(crate) enum ProgramStore {
    Memory(MemoryStore),
    Delayed(DelayedStore),
    Log(Box<Log>),
}

/// Calls a method of the store that there is.
macro_rules! of {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            ProgramStore::Memory($store) => $call,
            ProgramStore::Delayed($store) => $call,
            ProgramStore::Log($store) => $call,
        }
    };
}

impl ProgramStore {
    /// The log, if there is one.
    pub(crate) fn new(shard: u16, log: Option<Log>) -> ProgramStore {
        match (test_seed(), log) {
            (Some(seed), _) => ProgramStore::Delayed(DelayedStore::new(seed + u64::from(shard))),
            (None, Some(log)) => ProgramStore::Log(Box::new(log)),
            (None, None) => ProgramStore::Memory(MemoryStore::default()),
        }
    }
}

// A method that is forgotten here would be the trait's default, which says that there is no store.
#[deny(clippy::missing_trait_methods)]
impl Store for ProgramStore {
    fn append(&mut self, kind: RecordKind, parts: &[&[u8]]) -> Lsn {
        of!(self, store => store.append(kind, parts))
    }

    fn end_turn(&mut self) {
        of!(self, store => store.end_turn())
    }

    fn durable(&self) -> Lsn {
        of!(self, store => store.durable())
    }

    fn appended(&self) -> Lsn {
        of!(self, store => store.appended())
    }

    fn is_immediate(&self) -> bool {
        of!(self, store => store.is_immediate())
    }

    fn keeps(&self) -> bool {
        of!(self, store => store.keeps())
    }

    fn take_write(&mut self) -> Option<LogWrite> {
        of!(self, store => store.take_write())
    }

    fn written(&mut self, bytes: Vec<u8>, errno: i32) {
        of!(self, store => store.written(bytes, errno))
    }

    fn mark(&self) -> Option<Mark> {
        of!(self, store => store.mark())
    }

    fn place(&self, mark: Mark) -> Option<Place> {
        of!(self, store => store.place(mark))
    }

    fn begin_read(&mut self, segment: u32) -> Result<i32, i32> {
        of!(self, store => store.begin_read(segment))
    }

    fn end_read(&mut self, segment: u32) {
        of!(self, store => store.end_read(segment))
    }

    fn is_waiting(&self) -> bool {
        of!(self, store => store.is_waiting())
    }

    fn is_full(&self) -> bool {
        of!(self, store => store.is_full())
    }

    fn waiting_bytes(&self) -> u64 {
        of!(self, store => store.waiting_bytes())
    }

    fn is_tight(&self) -> bool {
        of!(self, store => store.is_tight())
    }

    fn may_win_space(&self) -> bool {
        of!(self, store => store.may_win_space())
    }

    fn is_last_chance(&self) -> bool {
        of!(self, store => store.is_last_chance())
    }

    fn wants_record(&self) -> bool {
        of!(self, store => store.wants_record())
    }

    fn usage(&self) -> Usage {
        of!(self, store => store.usage())
    }

    fn failed(&self) -> Option<&StoreFailure> {
        of!(self, store => store.failed())
    }

    fn wants_checkpoint(&self) -> bool {
        of!(self, store => store.wants_checkpoint())
    }

    fn second_passed(&mut self) {
        of!(self, store => store.second_passed())
    }

    fn begin_checkpoint(&mut self) {
        of!(self, store => store.begin_checkpoint())
    }

    fn end_checkpoint(&mut self) {
        of!(self, store => store.end_checkpoint())
    }
}

/// True if the tests ask for a store that keeps nothing on the disk.
pub(crate) fn is_for_tests() -> bool {
    test_seed().is_some()
}

fn test_seed() -> Option<u64> {
    std::env::var(STORE_SEED).ok().and_then(|seed| seed.parse::<u64>().ok())
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
