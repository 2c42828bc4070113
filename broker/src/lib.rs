//! The Ringtide broker around its core: arguments, configuration, logs, signals and start-up.
//!
//! What happens to a packet is the business of the crates below this one; here a configuration
//! becomes listeners, drivers and shards, and a signal becomes a shutdown. Nothing here is on the
//! path of a message.
#![forbid(unsafe_code)]

pub mod args;
pub mod banner;
pub mod config;
pub mod control;
mod datadir;
pub mod drivers;
pub mod exit;
mod keys;
pub mod listen;
pub mod logs;
mod notify;
mod offline;
pub mod passwords;
pub mod preflight;
pub mod program;
mod recovery;
pub mod reload;
mod replay;
mod settings;
pub mod signals;
pub mod start;
mod store;
mod store_command;
pub mod tls;
mod tune_command;
mod watchdog;
