#![no_main]
#[allow(dead_code, unused_imports, reason = "its tests are not run here")]
#[path = "../../tls/tests/connection.rs"]
mod connection;

use std::cell::LazyCell;

use ringtide_tls::Acceptor;

thread_local! {
    static ACCEPTOR: LazyCell<Acceptor> = LazyCell::new(connection::any_acceptor);
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let cut = usize::from(cut) + 1;
    ACCEPTOR.with(|acceptor| connection::check_bytes(acceptor, &mut bytes.to_vec(), cut));
});
