//! What shards do, stepped turn by turn: fairness, limits, groups, reloads.

mod checkpoints;
mod fairness;
mod groups;
mod harness;
mod limits;
mod packets;
mod reload;
mod sessions;
