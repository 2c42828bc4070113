//! Which driver does the shards' network I/O, and the making of one for each shard.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ringtide_driver::{Driver, Waker};
use ringtide_epoll::{EpollConfig, EpollDriver};
use ringtide_net::host::{ShardContext, ShardError};
use ringtide_net::uring::{Descriptors, UringConfig, UringDriver};
use ringtide_net::{Findings, ProbeError, memlock};
use tracing::warn;

use crate::config::{self, Config, Host};
use crate::exit::Failure;

/// The driver of all shards.
#[derive(Debug)]
pub enum Chosen {
    /// io_uring, with what it can do here.
    Uring(Findings),
    /// epoll.
    Epoll,
}

/// Tries the features that the io_uring driver uses.
///
/// # Errors
/// When the kernel lacks what the driver cannot do without, or forbids it.
pub fn probe() -> Result<Findings, ProbeError> {
    ringtide_net::probe::probe()
}

/// Chooses the driver as configured, and makes the configuration fit it: what it asks for and
/// cannot have is told.
///
/// # Errors
/// io_uring is asked for by name and cannot be used.
pub fn choose(config: &mut Config) -> Result<Chosen, Failure> {
    let chosen = match config.driver {
        config::Driver::Epoll => Chosen::Epoll,
        config::Driver::Uring => {
            Chosen::Uring(probe().map_err(|error| Failure::host(error.to_string()))?)
        }
        config::Driver::Auto => probe().map_or_else(
            |error| {
                warn!("{}", instead(&error));
                Chosen::Epoll
            },
            Chosen::Uring,
        ),
    };
    let direct = config.descriptors == config::Descriptors::Direct;
    match &chosen {
        Chosen::Epoll => {
            config.host = Host::Threads;
            if direct {
                warn!("`descriptors = \"direct\"` has no meaning with epoll: plain ones are used");
                config.descriptors = config::Descriptors::Plain;
            }
        }
        Chosen::Uring(findings) if direct && !findings.direct_descriptors => {
            warn!("direct descriptors do not work on this kernel: plain ones are used");
            config.descriptors = config::Descriptors::Plain;
        }
        Chosen::Uring(_) => {}
    }
    Ok(chosen)
}

/// Why epoll is used although it was not asked for, and what that costs.
fn instead(error: &ProbeError) -> String {
    format!(
        "{error}. Until then epoll does the network I/O on plain threads, which can take more CPU \
         for each message; `driver = \"epoll\"` says that this is meant"
    )
}

impl Chosen {
    /// What is used and what was found, as one line.
    pub fn describe(&self) -> String {
        match self {
            Chosen::Uring(findings) => describe(findings),
            Chosen::Epoll => "epoll, on plain threads".to_owned(),
        }
    }
}

/// What was found, as one line.
pub fn describe(findings: &Findings) -> String {
    let names = |works: bool| {
        let found = findings.features.iter().filter(move |feature| feature.works == works);
        found.map(|feature| feature.name).collect::<Vec<_>>().join(", ")
    };
    let missing = match names(false) {
        none if none.is_empty() => none,
        some => format!("; without {some}"),
    };
    format!("io_uring on Linux {}: {}{missing}", findings.release, names(true))
}

/// Bytes of one shard's rings with their receive buffers, and of those the bytes that it locks.
pub fn ring_bytes() -> (u64, u64) {
    // Without peers no eventfd is made: only the sizes are asked for.
    let Ok(peers) = ringtide_net::Peers::new(0) else { return (0, 0) };
    let config = UringConfig::new(0, peers, Vec::new());
    let locked = memlock::driver_bytes(&config);
    let buffers = u64::from(config.receive_buffers) * u64::from(config.receive_buffer_bytes);
    (locked + buffers, locked)
}

/// The drivers of all shards: each is made on its shard's thread.
pub trait Drivers: Clone + Send + 'static {
    /// One shard's.
    type Driver: Driver + 'static;

    /// A waker of one shard's driver.
    fn waker(&self, shard: u16) -> Option<Arc<dyn Waker>>;

    /// Makes the driver of the shard whose thread this is.
    ///
    /// # Errors
    /// The host does not give what the driver needs.
    fn make(
        &self,
        listeners: Vec<OwnedFd>,
        context: ShardContext,
    ) -> Result<Self::Driver, ShardError>;
}

/// Drivers over io_uring.
#[derive(Clone, Debug)]
pub struct UringDrivers {
    peers: Arc<ringtide_net::Peers>,
    descriptors: Descriptors,
    findings: Arc<Findings>,
}

impl UringDrivers {
    /// For `shards` shards that hold up to `connections_max` connections together.
    ///
    /// # Errors
    /// The shards' wakers cannot be made.
    pub fn new(
        shards: u16,
        findings: Findings,
        descriptors: config::Descriptors,
        connections_max: u64,
    ) -> io::Result<UringDrivers> {
        let descriptors = match descriptors {
            config::Descriptors::Plain => Descriptors::Plain,
            config::Descriptors::Direct => {
                let slots = connections_max / u64::from(shards.max(1));
                Descriptors::Direct { slots_max: u32::try_from(slots).unwrap_or(u32::MAX) }
            }
        };
        let peers = ringtide_net::Peers::new(shards)?;
        Ok(UringDrivers { peers, descriptors, findings: Arc::new(findings) })
    }
}

impl Drivers for UringDrivers {
    type Driver = UringDriver;

    fn waker(&self, shard: u16) -> Option<Arc<dyn Waker>> {
        Some(self.peers.waker(shard)?)
    }

    fn make(
        &self,
        listeners: Vec<OwnedFd>,
        context: ShardContext,
    ) -> Result<UringDriver, ShardError> {
        let shard = context.shard;
        let mut config = UringConfig::new(shard, Arc::clone(&self.peers), listeners);
        config.descriptors = self.descriptors;
        self.findings.apply(&mut config);
        let driver = UringDriver::new(config, context.watch)
            .map_err(|error| format!("shard {shard}: cannot set up io_uring: {error}"))?;
        Ok(driver)
    }
}

/// Drivers over epoll.
#[derive(Clone, Debug)]
pub struct EpollDrivers {
    peers: Arc<ringtide_epoll::Peers>,
}

impl EpollDrivers {
    /// For `shards` shards.
    ///
    /// # Errors
    /// The shards' wakers cannot be made.
    pub fn new(shards: u16) -> io::Result<EpollDrivers> {
        Ok(EpollDrivers { peers: ringtide_epoll::Peers::new(shards)? })
    }
}

impl Drivers for EpollDrivers {
    type Driver = EpollDriver;

    fn waker(&self, shard: u16) -> Option<Arc<dyn Waker>> {
        Some(self.peers.waker(shard)?)
    }

    fn make(
        &self,
        listeners: Vec<OwnedFd>,
        context: ShardContext,
    ) -> Result<EpollDriver, ShardError> {
        let shard = context.shard;
        let config = EpollConfig::new(shard, Arc::clone(&self.peers), listeners);
        let driver = EpollDriver::new(config)
            .map_err(|error| format!("shard {shard}: cannot set up epoll: {error}"))?;
        Ok(driver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoll_runs_on_threads_with_plain_descriptors() {
        let mut config = Config {
            driver: config::Driver::Epoll,
            descriptors: config::Descriptors::Direct,
            ..Config::default()
        };
        assert!(matches!(choose(&mut config), Ok(Chosen::Epoll)));
        assert_eq!((config.host, config.descriptors), (Host::Threads, config::Descriptors::Plain));
    }

    #[test]
    fn the_warning_says_why_and_what_it_costs() {
        for error in [ProbeError::Forbidden, ProbeError::Disabled { level: 2 }] {
            let line = instead(&error);
            assert_eq!(line.lines().count(), 1);
            assert!(line.starts_with(&error.to_string()), "{line}");
            assert!(line.contains("epoll") && line.contains("more CPU"), "{line}");
        }
    }
}
