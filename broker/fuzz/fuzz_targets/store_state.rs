#![no_main]
#[allow(dead_code, unused_imports, reason = "its tests are not run here")]
#[path = "../../../storage/tests/state.rs"]
mod state;

mod drawn;

use proptest::prelude::*;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let cuts = proptest::collection::vec(any::<prop::sample::Index>(), 1..4);
    if let Some((cuts, ops)) = drawn::drawn(bytes, &(cuts, state::ops(60))) {
        let shard = state::run(&ops);
        state::check_cuts(&shard);
        state::check_ends(&shard, &cuts);
    }
});
