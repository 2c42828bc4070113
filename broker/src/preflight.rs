//! Checks before the start: does the host give what the configuration needs?
//!
//! Each failure is one line that says what to do. Limits of the process are raised as far as the
//! host allows; no setting of the host is changed.

use std::fs;

use ringtide_shard::access::Acl;
use ringtide_tuning::{Demand, IoUring, RING_SLOTS_MAX, Root, Verdict, cores, limits};

use crate::config::{Access, Config, ConfigError, Descriptors, Driver, Host, KeyPath, Problem};
use crate::drivers;
use crate::exit::Failure;

/// Descriptors of one shard's own: rings, eventfds, timers of its host.
const DESCRIPTORS_PER_SHARD: u64 = 16;

/// Locked memory, in bytes, that a glommio executor insists on.
const MEMLOCK_GLOMMIO: u64 = 512 * 1024;

/// What the host gives to this configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footing {
    /// The processor of each shard.
    pub cpus: Vec<usize>,
    /// Connections that there are descriptors for.
    pub connections_max: u64,
    /// Descriptors in all.
    pub nofile: u64,
    /// What should be told, but keeps nothing from working.
    pub warnings: Vec<String>,
}

/// Checks the host and raises the process's limits.
///
/// # Errors
/// The first thing that is missing without which the broker cannot run.
pub fn check(config: &Config) -> Result<Footing, Failure> {
    let cpus = place_shards(config, &cores::usable())?;
    let nofile = limits::raise_nofile();
    let memlock = limits::raise_memlock();
    let own = descriptors_of_its_own(config, cpus.len());
    let mut checks = ringtide_tuning::at_start(&Root::host(), &demand(config, None)?);
    checks.push(limits::check_nofile(nofile, descriptors_wanted(config, own)));
    if config.host == Host::Glommio {
        checks.push(limits::check_memlock(memlock, MEMLOCK_GLOMMIO));
    }
    if let Some(failed) = checks.iter().find(|check| check.failed()) {
        return Err(Failure::host(failed.to_string()));
    }
    let short = checks.iter().filter(|check| check.verdict == Verdict::Short);
    let warnings = short.map(ToString::to_string).collect();
    let connections_max = connections_max(config, nofile, own, cpus.len());
    Ok(Footing { cpus, connections_max, nofile, warnings })
}

/// What a configuration asks of a host. Without a target: what its listeners are bounded by, none
/// if one of them is not.
///
/// # Errors
/// When the configuration names processors that are not there.
pub fn demand(config: &Config, target: Option<u64>) -> Result<Demand, Failure> {
    let shards = place_shards(config, &cores::usable())?.len();
    let (ring_bytes, locked) = drivers::ring_bytes();
    let io_uring = match config.driver {
        Driver::Auto => IoUring::Wanted,
        Driver::Uring => IoUring::Needed,
        Driver::Epoll => IoUring::Unused,
    };
    let locked = if io_uring == IoUring::Unused { 0 } else { locked };
    let glommio = if config.host == Host::Glommio && config.driver != Driver::Epoll {
        MEMLOCK_GLOMMIO
    } else {
        0
    };
    let listeners = &config.listeners;
    let bounded = listeners.iter().all(|listener| listener.max_connections > 0);
    let configured = listeners.iter().map(|listener| u64::from(listener.max_connections)).sum();
    Ok(Demand {
        connections: target.unwrap_or(if bounded { configured } else { 0 }),
        shards: shards as u64,
        descriptors_own: descriptors_of_its_own(config, shards),
        direct: config.descriptors == Descriptors::Direct,
        backlog: listeners.iter().map(|l| u64::from(l.backlog)).max().unwrap_or(0),
        ring_bytes,
        memlock_bytes: (shards as u64 * locked).max(glommio),
        ports: listeners.iter().filter_map(|l| l.bind.port()).filter(|port| *port != 0).collect(),
        io_uring,
    })
}

/// Reads the file of rules that the configuration names, if it names one.
///
/// # Errors
/// Names the key, the file and the line.
pub fn read_rules(access: &Access) -> Result<Option<Acl>, ConfigError> {
    let Some(path) = access.acl_file() else { return Ok(None) };
    let key = KeyPath::default().key("access").key("acl_file");
    let problem = |what: &str, error: String| {
        let text = format!("named by `{key}`, {what}: {error}");
        ConfigError(vec![Problem { place: path.display().to_string(), text }])
    };
    let text =
        fs::read_to_string(path).map_err(|error| problem("cannot be read", error.to_string()))?;
    let rules = Acl::parse(&text);
    rules.map(Some).map_err(|error| problem("is not understood", error.to_string()))
}

/// The processor of each shard: those configured, else those usable, used again from the start
/// when there are more shards.
fn place_shards(config: &Config, usable: &cores::Usable) -> Result<Vec<usize>, Failure> {
    if let Some(cpu) = config.cpus.iter().find(|cpu| !usable.cpus.contains(cpu)) {
        let known: Vec<String> = usable.cpus.iter().map(ToString::to_string).collect();
        return Err(Failure::host(format!(
            "`cpus` names processor {cpu}, which this process may not use; usable: {}",
            known.join(", ")
        )));
    }
    let pool = if config.cpus.is_empty() { &usable.cpus } else { &config.cpus };
    let shards = match (config.shards, config.cpus.len()) {
        (0, 0) => usable.shards().min(crate::config::SHARDS_MAX.into()),
        (0, named) => named,
        (shards, _) => shards.into(),
    };
    Ok(pool.iter().copied().cycle().take(shards).collect())
}

/// Descriptors that the broker needs besides those of its connections.
fn descriptors_of_its_own(config: &Config, shards: usize) -> u64 {
    let shards = shards as u64;
    limits::NOFILE_MIN + shards * (DESCRIPTORS_PER_SHARD + config.listeners.len() as u64)
}

/// Connections that there are descriptors for: those that the process has left, or the slots of
/// each shard's ring, which the kernel bounds by the same limit.
fn connections_max(config: &Config, nofile: u64, own: u64, shards: usize) -> u64 {
    match config.descriptors {
        Descriptors::Plain => nofile.saturating_sub(own),
        Descriptors::Direct => nofile.min(RING_SLOTS_MAX) * shards as u64,
    }
}

fn descriptors_wanted(config: &Config, own: u64) -> u64 {
    let connections: u64 = match config.descriptors {
        Descriptors::Plain => config.listeners.iter().map(|l| u64::from(l.max_connections)).sum(),
        Descriptors::Direct => 0,
    };
    own + connections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable(cpus: &[usize]) -> cores::Usable {
        cores::Usable { cpus: cpus.to_vec(), quota: None }
    }

    #[test]
    fn shards_are_placed_one_per_core_and_around_again() {
        let mut config = Config::default();
        assert_eq!(place_shards(&config, &usable(&[2, 3])), Ok(vec![2, 3]));
        config.shards = 5;
        assert_eq!(place_shards(&config, &usable(&[2, 3])), Ok(vec![2, 3, 2, 3, 2]));
        config.cpus = vec![3];
        assert_eq!(place_shards(&config, &usable(&[2, 3])), Ok(vec![3; 5]));
        config.shards = 0;
        assert_eq!(place_shards(&config, &usable(&[2, 3])), Ok(vec![3]));
    }

    #[test]
    fn a_processor_that_is_not_there_is_named() {
        let config = Config { cpus: vec![0, 9], ..Config::default() };
        let failure = place_shards(&config, &usable(&[0, 1])).unwrap_err();
        assert!(failure.text.contains("processor 9") && failure.text.contains("usable: 0, 1"));
        assert_eq!(failure.exit, crate::exit::Exit::Host);
    }

    #[test]
    fn connections_count_only_where_they_take_descriptors() {
        let mut config = Config::default();
        config.listeners[0].max_connections = 10_000;
        assert_eq!(descriptors_wanted(&config, 100), 10_100);
        config.descriptors = Descriptors::Direct;
        assert_eq!(descriptors_wanted(&config, 100), 100);
        assert_eq!(connections_max(&config, 20_000, 100, 2), 40_000);
        assert_eq!(connections_max(&config, u64::MAX, 100, 1), 1 << 20);
        config.descriptors = Descriptors::Plain;
        assert_eq!(connections_max(&config, 20_000, 100, 2), 19_900);
    }

    #[test]
    fn more_connections_than_descriptors_are_refused_in_one_line() {
        let mut config = Config::default();
        config.listeners[0].max_connections = u32::MAX;
        let failure = check(&config).unwrap_err();
        assert_eq!(failure.text.lines().count(), 1);
        assert!(failure.text.starts_with("nofile: found"), "{failure}");
        assert!(failure.text.contains("max_connections"), "{failure}");
    }

    #[test]
    fn a_file_of_rules_must_be_readable() {
        let mut config = Config::default();
        assert_eq!(read_rules(&config.access), Ok(None));
        config.access.acl_file = std::env::temp_dir();
        assert!(read_rules(&config.access).is_err(), "a folder is no file");
        let rules = std::env::temp_dir().join(format!("ringtide-acl-{}", std::process::id()));
        config.access.acl_file.clone_from(&rules);
        fs::write(&rules, "allow everybody anything\n").unwrap();
        let text = read_rules(&config.access).unwrap_err().to_string();
        assert!(text.contains("named by `access.acl_file`, is not understood"), "{text}");
        fs::write(&rules, "default deny\nallow all subscribe public/#\n").unwrap();
        assert!(read_rules(&config.access).is_ok());
        fs::remove_file(&rules).unwrap();
        config.access.acl_file = "/nonexistent/acl".into();
        let text = read_rules(&config.access).unwrap_err().to_string();
        assert!(text.starts_with("/nonexistent/acl: named by `access.acl_file`"), "{text}");
    }
}
