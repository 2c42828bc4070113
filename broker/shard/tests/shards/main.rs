//! What shards do, stepped turn by turn: fairness, limits, a full disk, groups, reloads,
//! the end.

mod again;
mod checkpoints;
mod fairness;
mod full_disk;
mod groups;
mod handshakes;
mod harness;
mod limits;
mod order;
mod pace;
mod packets;
mod passwords;
mod reload;
mod restart;
mod sessions;
mod shutdown;
#[path = "../../../tls/tests/common/mod.rs"]
mod tls;
mod under_way;
