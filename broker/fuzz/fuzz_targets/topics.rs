#![no_main]
#[allow(dead_code, unused_imports, reason = "its tests are not run here")]
#[path = "../../topics/tests/table.rs"]
mod table;

mod drawn;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((shapes_max, steps)) = drawn::drawn(bytes, &table::case()) {
        table::run(shapes_max, &steps);
    }
});
