//! A deterministic simulator that runs the production shard from one seed.
