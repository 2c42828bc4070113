//! One core of the broker: the loop, connections, routing and delivery.
//!
//! A [`Shard`] owns its connections, sessions and subscriptions; it shares lanes, the interest
//! table and counters with the others, nothing else. It is generic over its I/O
//! ([`ringtide_driver::Driver`]), its store and its clock, so that the simulator runs the same
//! code. It never names io_uring, sled, tokio or glommio.
//!
//! Start reading at `turn.rs`, the loop; then `receive.rs`, `publish.rs`, `route.rs`,
//! `deliver.rs`: a message's way through.
#![forbid(unsafe_code)]

pub mod access;
mod acks;
mod again;
mod auth;
mod build;
mod checkpoint;
mod clients;
pub mod clock;
mod config;
mod conn;
mod connect;
mod core;
pub mod counters;
mod custody;
mod deliver;
mod earlier;
mod end;
mod filtered;
mod gate;
mod go_on;
mod groups;
mod inbox;
mod intake;
mod journal;
mod kept;
mod large;
pub mod ledger;
mod log_pace;
mod mesh_out;
pub mod message;
pub mod note;
mod own;
mod pace;
mod pages;
mod park;
pub mod partition;
pub mod password;
mod persist;
mod promise;
mod publish;
mod pump;
mod rate;
mod receive;
mod replay;
mod replaying;
mod restore;
mod retained;
mod route;
mod session;
mod share;
mod slab;
mod steering;
mod subscribe;
mod sys;
pub mod timer;
mod turn;
mod walk;

pub use auth::{MakeMethod, Methods};
pub use build::Parts;
pub use config::{Limits, ListenerLimits, Transport};
pub use gate::{Gate, Proxied};
pub use note::Note;
pub use pace::Pace;
pub use rate::Rate;
pub use steering::{Settings, Stage, Steering};
pub use turn::Shard;
