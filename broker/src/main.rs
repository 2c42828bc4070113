//! The Ringtide broker.
fn main() {}
