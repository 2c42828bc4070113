//! The configuration: one struct per section, and the layers that fill it.
//!
//! Layers, each over the one before: the defaults in this folder, one TOML file, the environment
//! (`RINGTIDE_LIMITS_MAX_PACKET_BYTES`), the arguments. Every effective value knows where it came
//! from. A key that does not exist is refused with its line and the nearest name that does.
//!
//! This folder reads no host setting and opens nothing but the configuration file.

mod access;
mod environment;
mod file;
mod layers;
mod limits;
mod listener;
mod load;
mod log;
mod machine;
mod names;
mod path;
mod print;
mod shared;
mod store;
mod tls;
mod validate;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use access::Access;
pub use layers::{Layers, Origin};
pub use limits::{Limits, QueuePolicy};
pub use listener::{
    LIVE_LISTENER_KEYS, Listener, ListenerDurability, MAX_VERSIONS, Transport, Version,
};
pub use load::{ConfigError, Loaded, Problem, Sources, load};
pub use log::{Format, Level, Log};
pub use machine::{Descriptors, Driver, Durability, Host};
pub use path::{KeyPath, Step, flatten};
pub use print::effective;
pub use shared::{Group, Shared, Strategy};
pub use store::Store;
pub use tls::{Certificate, ClientCertificates, Tls, TlsVersion};

/// The most shards that one process runs: a shard's number fits a byte, with values to spare.
pub const SHARDS_MAX: u16 = 250;

/// Everything that can be set. The field names are the keys of `ringtide.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many shards to run, each on a thread of its own; 0 = one per usable core.
    pub shards: u16,
    /// Processors to pin the shards to, in order, used again from the start when there are more
    /// shards; empty = the usable ones.
    pub cpus: Vec<usize>,
    /// What hosts a shard's thread.
    pub host: Host,
    /// What does the shards' network I/O.
    pub driver: Driver,
    /// How sockets are held by the driver.
    pub descriptors: Descriptors,
    /// Where the broker keeps its data. Nothing is written there with `durability = "memory"`.
    pub data_dir: PathBuf,
    /// What an acknowledgement to a client promises.
    pub durability: Durability,
    /// Seconds between two rounds of `$SYS/broker/#` topics; 0 = none are published.
    pub sys_interval_s: u32,
    /// Seconds that a graceful shutdown may take before what is left is cut off.
    pub shutdown_timeout_s: u32,
    /// Who may connect, publish and subscribe.
    pub access: Access,
    /// Limits of packets, clients, queues and stores.
    pub limits: Limits,
    /// What is logged and how.
    pub log: Log,
    /// How shared subscriptions pick a member.
    pub shared: Shared,
    /// How sessions and messages are kept on the disk.
    pub store: Store,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            shards: 0,
            cpus: Vec::new(),
            host: Host::default(),
            driver: Driver::default(),
            descriptors: Descriptors::default(),
            data_dir: PathBuf::from("/var/lib/ringtide"),
            durability: Durability::default(),
            sys_interval_s: 10,
            shutdown_timeout_s: 10,
            access: Access::default(),
            limits: Limits::default(),
            log: Log::default(),
            shared: Shared::default(),
            store: Store::default(),
            listeners: vec![Listener::default()],
        }
    }
}

impl Config {
    /// The configuration as TOML values, every key present.
    pub fn to_table(&self) -> toml::Table {
        // Every field is a number within i64, a string, a boolean, or a list or table of them.
        toml::Table::try_from(self).unwrap_or_default()
    }

    /// A table that holds every key there is, with one element in each list of tables: what names
    /// and types are checked against.
    pub fn schema() -> toml::Table {
        let shared = Shared { groups: vec![Group::default()], ..Shared::default() };
        let tls = Tls { certificates: vec![Certificate::default()], ..Tls::default() };
        let listeners = vec![Listener { tls: Some(tls), ..Listener::default() }];
        Config { shared, listeners, ..Config::default() }.to_table()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_every_section() {
        let schema = Config::schema();
        for key in ["shards", "cpus", "durability", "access", "limits", "log", "shared", "store"] {
            assert!(schema.contains_key(key), "{key}");
        }
        assert_eq!(schema["listeners"].as_array().map(Vec::len), Some(1));
        assert_eq!(schema["shared"]["groups"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn the_sample_file_names_every_key_with_its_default() {
        let text = include_str!("../../ringtide.toml");
        assert_eq!(toml::from_str::<Config>(text).unwrap(), Config::default());
        let given: toml::Table = toml::from_str(text).unwrap();
        let given: Vec<String> = flatten(&given).iter().map(|(p, _)| p.to_string()).collect();
        for (path, _) in flatten(&Config::schema()) {
            let name = path.to_string();
            let by_comment = ["shared.groups", "listeners[0].tls"];
            let by_comment = by_comment.iter().any(|section| name.starts_with(section));
            assert!(given.contains(&name) || by_comment, "ringtide.toml lacks {name}");
        }
        assert!(text.contains("# [[shared.groups]]"));
        let sample = text.split_once("# [listeners.tls]").unwrap().1;
        let tls: String = sample.lines().filter_map(|line| line.strip_prefix("# ")).collect();
        for (path, _) in flatten(&Config::schema()) {
            let Some(Step::Key(name)) = path.0.last() else { continue };
            let there = tls.contains(&format!("{name} = "));
            assert!(there || !path.to_string().contains(".tls."), "ringtide.toml lacks {path}");
        }
    }

    #[test]
    fn defaults_survive_a_round_trip() {
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
    }
}
