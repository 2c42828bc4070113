//! The epoll driver, for hosts that have no io_uring or forbid it.
//!
//! Keeps the rules of the [`Driver`](ringtide_driver::Driver) interface as the io_uring driver
//! does, so a shard cannot tell them apart. Runs on plain threads. Knows nothing of MQTT.
//!
//! A turn is one `epoll_wait`, one receive per socket that has something, one send per socket that
//! is sent to. Sockets are registered edge-triggered and once: no registration changes for a
//! message, only when a peer does not read. Sends and closes are made when they are asked for,
//! while their bytes are in the cache; receives after the wait, into blocks where what arrives
//! lies packed. Log files, which epoll cannot wait for, are written and read by threads of their
//! own.
#![forbid(unsafe_code)]

mod accept;
mod buffers;
mod driver;
mod events;
mod files;
mod peers;
mod sends;
mod sockets;

pub use driver::{EpollConfig, EpollDriver, Stats};
pub use peers::{EventWaker, Peers};
