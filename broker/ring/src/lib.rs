//! Lock-free single-producer single-consumer lanes between shards, and their mesh.
