#![no_main]
#[allow(dead_code, unused_imports, reason = "its tests are not run here")]
#[path = "../../../storage/tests/log_damage.rs"]
mod log_damage;

mod drawn;

use std::cell::LazyCell;

use proptest::prelude::*;

thread_local! {
    static LOG: LazyCell<(ringtide_storage::log::faults::FaultDisk, log_damage::Model)> =
        LazyCell::new(|| log_damage::filled(8));
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let moves = proptest::collection::vec(any::<log_damage::Move>(), 1..8);
    if let Some(moves) = drawn::drawn(bytes, &moves) {
        LOG.with(|log| log_damage::check_wreck(&log.0, &log.1, &moves));
    }
});
