#![no_main]
#[path = "../../filter/tests/laws/mod.rs"]
mod laws;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| laws::proxy(bytes));
