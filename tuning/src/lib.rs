//! What the host offers: cores, limits and kernel settings, each checked against what is wanted.
//!
//! Every check says what was found, what is wanted, why, and what to do about it. This crate reads
//! the host and raises the process's own limits; it changes no setting of the machine, logs
//! nothing and decides nothing: the caller refuses to start on a [`Verdict::Fail`].
#![forbid(unsafe_code)]

mod check;
pub mod cores;
pub mod kernel;
pub mod limits;

pub use check::{Check, Verdict};
