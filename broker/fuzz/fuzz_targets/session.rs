#![no_main]
#[allow(dead_code, unused_imports, reason = "its tests are not run here")]
#[path = "../../session/tests/outbound_model.rs"]
mod outbound_model;

mod drawn;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(case) = drawn::drawn(bytes, &outbound_model::case()) {
        outbound_model::check(case);
    }
});
