#![no_main]
#[path = "../../codec/tests/laws/mod.rs"]
mod laws;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| laws::stream(bytes));
