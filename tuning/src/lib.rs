//! What the host offers, what is wanted of it, and how it gets there and back.
//!
//! A look at the host ([`Survey`]) says of each thing what was found, what is wanted and why.
//! Wishes come from a [`Profile`], needs from a [`Demand`]. [`apply()`] makes the host so, after it
//! has saved what was there; [`revert()`] puts that back. Everything is read and written below a
//! [`Root`], which is `/` or a folder that stands for another host.
//!
//! Nothing here logs or decides whether the broker starts, and nothing is changed unasked; only
//! [`limits`] raises this process's own soft limits.
#![forbid(unsafe_code)]

mod apply;
mod catalogue;
mod cgroup;
mod check;
mod conntrack;
pub mod cores;
mod cpus;
mod demand;
mod files;
mod item;
pub mod kernel;
pub mod limits;
mod machine;
mod memory;
mod nic;
mod originals;
pub mod profile;
mod revert;
mod root;
mod survey;
mod unit;

pub use apply::{Done, Mode, Step, apply};
pub use check::{Check, Verdict};
pub use demand::{Demand, IoUring, RING_SLOTS_MAX, at_start};
pub use originals::{FOLDER as ORIGINALS_FOLDER, TuneError};
pub use profile::Profile;
pub use revert::revert;
pub use root::Root;
pub use survey::Survey;
