//! The io_uring driver, its probe, and the hosts that pin and run a shard.
//!
//! Owns every system call on a client's socket. Knows nothing of MQTT, sessions or the store:
//! the only thing it shares with a shard is the [`Driver`](ringtide_driver::Driver) interface.
//! All `unsafe` of the network side is in [`uring`] and in the few calls of `sys`.

pub mod host;
pub mod listen;
pub mod memlock;
pub mod peers;
pub mod uring;

mod sys;

pub use listen::{ListenAddr, ListenError, ListenOptions, listen};
pub use peers::{EventWaker, Peers};
pub use uring::probe::{self, Findings, ProbeError};
pub use uring::{Descriptors, HostWatch, Stats, UringConfig, UringDriver};
