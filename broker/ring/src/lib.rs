//! Lock-free single-producer single-consumer lanes between shards, and their mesh.
//!
//! Owns: the memory that two threads share ([`lane`]), the set of lanes that joins every shard
//! with every other ([`mesh`]), and the words by which shards tell each other that they sleep or
//! are inside a turn ([`Shared`]).
//! Must not: know what is sent, wait, wake anybody itself, or allocate after construction.
//!
//! Nothing here blocks and nothing here retries: a full lane is the sender's to handle. The only
//! unsafe code is in `buffer.rs` and `lane.rs`; both run under loom and miri.

mod buffer;
mod lane;
mod mesh;
mod sync;

pub use lane::{Full, LANE_BYTES_MAX, LANE_BYTES_MIN, Receiver, Record, Sender, lane};
pub use mesh::{Grace, Ports, Shared, mesh};
