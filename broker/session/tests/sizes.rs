//! What each state costs in memory. A session has these only while it uses them, but a million
//! sessions may use one at once: growth is to be noticed, and meant.

use std::mem::size_of;
use std::sync::Arc;

use ringtide_session::{
    AliasIn, AliasOut, AuthExchange, Delivery, Inbound, Negotiated, Outbound, Owed, WillState,
};

/// As large as the handle that a shard uses.
type Handle = Arc<[u8; 64]>;

#[test]
fn states_are_as_small_as_they_were() {
    let sizes = [
        ("Outbound", size_of::<Outbound<Handle>>(), 192),
        ("Delivery", size_of::<Delivery<Handle>>(), 48),
        ("Inbound", size_of::<Inbound>(), 40),
        ("Owed", size_of::<Owed>(), 64),
        ("AliasIn", size_of::<AliasIn>(), 32),
        ("AliasOut", size_of::<AliasOut>(), 32),
        ("WillState", size_of::<WillState>(), 16),
        ("Negotiated", size_of::<Negotiated>(), 28),
        ("AuthExchange", size_of::<AuthExchange>(), 24),
    ];
    for (name, bytes, expected) in sizes {
        println!("{name}: {bytes} bytes");
        assert!(bytes <= expected, "{name} has grown from {expected} to {bytes} bytes");
    }
}
