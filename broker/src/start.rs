//! The seam between the program and its core: configuration to listeners, mesh, drivers, shards.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ringtide_net::host::{self, ExecutorOptions, ShardContext, ShardError};
use ringtide_net::listen::SocketFile;
use ringtide_ring::{Ports, Shared, mesh};
use ringtide_shard::clock::SystemClock;
use ringtide_shard::counters::{Counter, Counters};
use ringtide_shard::partition::PartitionMap;
use ringtide_shard::{Note, Parts, Shard};
use ringtide_topics::interest::InterestTable;
use tracing::{info, warn};

use crate::config::{Config, Host};
use crate::control::Control;
use crate::drivers::{Chosen, Drivers, EpollDrivers, UringDrivers};
use crate::exit::Failure;
use crate::keys;
use crate::listen::Opened;
use crate::passwords::Passwords;
use crate::recovery::{self, DamageFound, Recovered, Recovery};
use crate::settings::ProgramSteering;
use crate::store::{self, ProgramStore};

/// Bytes of the lane from one shard to another.
const LANE_BYTES: usize = 256 << 10;
/// Most segments of the interest table, each of which grows alone.
const INTEREST_SEGMENTS_MAX: usize = 16_384;
/// Keys that a segment is meant to hold: its fixed cost is then small beside theirs.
const INTEREST_KEYS_PER_SEGMENT: u64 = 64;

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
    /// Who judges passwords.
    pub passwords: Arc<Passwords>,
}

/// Runs the shards until the control's stage has left `Running` and they are done. `ready` is
/// called once, when what is kept has been recovered and all shards run, with what shows that they
/// do.
///
/// # Errors
/// When a shard cannot be started, or fails.
pub fn run(plan: Plan, driver: Chosen, ready: impl FnOnce(Arc<Shared>)) -> Result<(), Failure> {
    let shards = plan.cpus.len() as u16;
    let (descriptors, connections_max) = (plan.config.descriptors, plan.connections_max);
    let wakers = |error| Failure::host(format!("cannot make the shards' wakers: {error}"));
    match driver {
        Chosen::Uring(findings) => {
            let drivers = UringDrivers::new(shards, findings, descriptors, connections_max);
            run_with(drivers.map_err(wakers)?, plan, ready)
        }
        Chosen::Epoll => run_with(EpollDrivers::new(shards).map_err(wakers)?, plan, ready),
    }
}

fn run_with<D: Drivers>(
    drivers: D,
    plan: Plan,
    ready: impl FnOnce(Arc<Shared>),
) -> Result<(), Failure> {
    let shards = plan.cpus.len() as u16;
    for shard in 0..shards {
        if let Some(waker) = drivers.waker(shard) {
            plan.control.add_waker(waker);
        }
    }
    let recovery = match store::is_for_tests() {
        true => {
            warn!("the tests' store is asked for: nothing is kept on the disk");
            None
        }
        false => recovery::recover(&plan.config, shards)?,
    };
    let partition_key = match &recovery {
        Some(recovery) => recovery.dir.partition_key(),
        None => fresh_key()?,
    };
    let damage = recovery.as_ref().map(|recovery| recovery.damage).unwrap_or_default();
    let (dir, recovered) = match recovery {
        Some(Recovery { dir, shards, .. }) => (Some(dir), shards.into_iter().map(Some).collect()),
        None => (None, (0..shards).map(|_| None).collect::<Vec<_>>()),
    };
    let control = Arc::clone(&plan.control);
    let steering = ProgramSteering::new(control, &plan.config, shards, plan.connections_max);
    let common = Common {
        interest: Arc::new(InterestTable::new(interest_segments(plan.connections_max))),
        partitions: Arc::new(PartitionMap::even(partition_key, shards)),
        counters: counters(shards, damage),
        steering: Arc::new(steering),
        drivers,
        passwords: plan.passwords,
        seed: seed(),
        clock: SystemClock::new(),
    };
    let (listeners, files) = deal_out(plan.listeners, shards);
    let ports = mesh(shards, LANE_BYTES);
    let turns = ports.first().map(|ports| Arc::clone(&ports.shared));
    let builders = ports
        .into_iter()
        .zip(listeners)
        .zip(recovered)
        .map(|((ports, listeners), recovered)| {
            let common = common.clone();
            move |context: ShardContext| build(common, ports, listeners, recovered, context)
        })
        .collect();
    let started = match plan.config.host {
        Host::Glommio => host::run_on_glommio(&plan.cpus, &ExecutorOptions::default(), builders),
        Host::Threads => host::run_on_threads(&plan.cpus, builders).map_err(Into::into),
    };
    let running =
        started.map_err(|error| Failure::host(format!("cannot start the shards: {error}")))?;
    ready(turns.unwrap_or_else(|| Arc::new(Shared::new(0))));
    let ended = running.join().map_err(|error| Failure::runtime(error.to_string()));
    drop((dir, files));
    ended
}

/// The listening sockets of each shard, and the paths of those that are Unix sockets.
fn deal_out(opened: Vec<Opened>, shards: u16) -> (Vec<Vec<OwnedFd>>, Vec<SocketFile>) {
    let mut listeners: Vec<_> = (0..shards).map(|_| Vec::new()).collect();
    let mut files = Vec::new();
    for Opened { sockets, file, .. } in opened {
        for (own, socket) in listeners.iter_mut().zip(sockets) {
            own.push(socket);
        }
        files.extend(file);
    }
    (listeners, files)
}

/// The key of the partitions where nothing is kept, and with it the seed of the topics' hashes.
fn fresh_key() -> Result<u64, Failure> {
    let key = keys::random().map_err(|error| Failure::host(format!("/dev/urandom: {error}")))?;
    keys::seed_topics(key);
    Ok(key)
}

/// The shards' counters. Damage is of the whole store: the first shard tells it.
fn counters(shards: u16, damage: DamageFound) -> Arc<[Arc<Counters>]> {
    let all: Arc<[Arc<Counters>]> = (0..shards).map(|_| Arc::new(Counters::new())).collect();
    if let Some(first) = all.first() {
        first.set(Counter::StoreLostRecords, damage.lost_records);
        first.set(Counter::StoreDamagedFiles, damage.files);
    }
    all
}

fn interest_segments(connections_max: u64) -> usize {
    let wanted = (connections_max / INTEREST_KEYS_PER_SEGMENT).next_power_of_two();
    usize::try_from(wanted).map_or(INTEREST_SEGMENTS_MAX, |n| n.clamp(64, INTEREST_SEGMENTS_MAX))
}

/// What all shards are given.
#[derive(Clone)]
struct Common<D> {
    interest: Arc<InterestTable>,
    partitions: Arc<PartitionMap>,
    counters: Arc<[Arc<Counters>]>,
    steering: Arc<ProgramSteering>,
    drivers: D,
    passwords: Arc<Passwords>,
    seed: u64,
    clock: SystemClock,
}

/// Builds one shard on its own thread.
fn build<D: Drivers>(
    common: Common<D>,
    ports: Ports<Note>,
    listeners: Vec<OwnedFd>,
    recovered: Option<Recovered>,
    context: ShardContext,
) -> Result<Shard<D::Driver, ProgramStore, SystemClock>, ShardError> {
    let shard = context.shard;
    let count = listeners.len() as u16;
    let passwords = common.passwords.for_shard(common.drivers.waker(shard));
    let driver = common.drivers.make(listeners, context)?;
    let (log, restored) = match recovered {
        Some(Recovered { log, parts }) => (Some(log), Some(parts)),
        None => (None, None),
    };
    let (began, sessions) = (Instant::now(), restored.as_ref().map(|parts| parts.sessions.len()));
    let made = Shard::new(Parts {
        driver,
        store: ProgramStore::new(shard, log),
        clock: common.clock,
        ports,
        interest: common.interest,
        partitions: common.partitions,
        counters: common.counters,
        steering: common.steering,
        auth_methods: store::test_methods(),
        passwords: Box::new(passwords),
        listeners: count,
        seed: common.seed ^ (u64::from(shard) << 48),
        version: crate::banner::VERSION,
        restored,
    });
    if let Some(sessions) = sessions {
        let restore_ms = began.elapsed().as_millis() as u64;
        info!(shard, sessions, restore_ms, "store: the shard has its sessions");
    }
    Ok(made)
}

/// Differs from start to start, so that assigned client ids do.
fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64 ^ (u64::from(std::process::id()) << 32)
}
