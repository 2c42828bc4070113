//! What the black-box tests share: a broker fixture, a small blocking MQTT client, and a codec of
//! its own, so that a mistake in the broker's codec cannot hide behind the same mistake here.
//! Must not use any crate of the broker.
//!
//! Environment:
//! - `RINGTIDE_TEST_TARGET=host:port`: run against a broker that is already there; tests that
//!   need their own configuration say so and pass without a check.
//! - `RINGTIDE_TEST_PROGRAM=path`: another build of the program, such as a release build.
//! - `RINGTIDE_TEST_SHARDS=1,2,3,8`: the shard counts of the matrix; 1 and 3 by default.
//! - `RINGTIDE_TEST_STORE_SEED=n`: the broker completes its store tickets out of step, after 0-5
//!   turns chosen by this seed. The fixture always sets it for the broker, to 1 by default.
//! - `RINGTIDE_TEST_TRANSPORT=ws`: brokers that a test gives no listener of its own listen for
//!   WebSocket, and the tests' clients reach them through a tunnel.
//! - `RINGTIDE_TEST_DRIVER=epoll`: the driver of the brokers under test.
//! - `RINGTIDE_TEST_AUTH_METHOD=1` (set by the fixture where a test needs it): the broker offers
//!   the enhanced authentication method `TEST-ECHO`.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test file uses its own part of this module"
)]

pub mod broker;
pub mod client;
pub mod fleet;
pub mod packet;
pub mod websocket;
pub mod wire;

use std::time::{Duration, Instant};

pub use broker::{Broker, Settings};
pub use client::{Client, Event};
pub use fleet::{Cx, Fleet};
pub use packet::{Ack, Connect, Packet, Publish, Subscribe, Unsubscribe, Will};
pub use wire::{Props, code, prop};

/// How long a test waits for something that must happen. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a test watches for something that must not happen.
pub const QUIET: Duration = Duration::from_millis(300);

/// Protocol level of MQTT 3.1.
pub const V31: u8 = 3;
/// Protocol level of MQTT 3.1.1.
pub const V311: u8 = 4;
/// Protocol level of MQTT 5.0.
pub const V5: u8 = 5;

/// Waits until `met` holds, at most `PATIENCE`.
pub fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !met() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
