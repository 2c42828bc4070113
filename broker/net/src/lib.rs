//! The io_uring driver, its probe, and the hosts that pin and run a shard.
