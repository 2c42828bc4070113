//! The seam between the program and its core: configuration to listeners, mesh, drivers, shards.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ringtide_driver::Waker;
use ringtide_net::Findings;
use ringtide_net::host::{self, ExecutorOptions, ShardContext, ShardError};
use ringtide_net::memlock;
use ringtide_net::peers::Peers;
use ringtide_net::uring::{self, UringConfig, UringDriver};
use ringtide_ring::{Ports, Shared, mesh};
use ringtide_shard::clock::SystemClock;
use ringtide_shard::counters::{Counter, Counters};
use ringtide_shard::partition::PartitionMap;
use ringtide_shard::{Note, Parts, Shard};
use ringtide_topics::interest::InterestTable;
use tracing::{info, warn};

use crate::config::{Config, Descriptors, Host};
use crate::control::Control;
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
    /// What the driver can do here.
    pub findings: Findings,
    /// Shutdown and changed settings.
    pub control: Arc<Control>,
    /// Who judges passwords.
    pub passwords: Arc<Passwords>,
}

/// Tries the features that the driver uses.
///
/// # Errors
/// When the kernel lacks what the driver cannot do without.
pub fn probe() -> Result<Findings, Failure> {
    ringtide_net::probe::probe().map_err(|error| Failure::host(error.to_string()))
}

/// Bytes of one shard's rings with their receive buffers, and of those the bytes that it locks.
pub fn ring_bytes() -> (u64, u64) {
    // Without peers no eventfd is made: only the sizes are asked for.
    let Ok(peers) = Peers::new(0) else { return (0, 0) };
    let config = UringConfig::new(0, peers, Vec::new());
    let locked = memlock::driver_bytes(&config);
    let buffers = u64::from(config.receive_buffers) * u64::from(config.receive_buffer_bytes);
    (locked + buffers, locked)
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

/// Runs the shards until the control's stage has left `Running` and they are done. `ready` is
/// called once, when what is kept has been recovered and all shards run, with what shows that they
/// do.
///
/// # Errors
/// When a shard cannot be started, or fails.
pub fn run(plan: Plan, ready: impl FnOnce(Arc<Shared>)) -> Result<(), Failure> {
    let shards = plan.cpus.len() as u16;
    let peers = Peers::new(shards)
        .map_err(|error| Failure::host(format!("cannot make the shards' wakers: {error}")))?;
    for shard in 0..shards {
        if let Some(waker) = peers.waker(shard) {
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
        peers,
        passwords: plan.passwords,
        descriptors: descriptors(plan.config.descriptors, plan.connections_max, shards),
        findings: Arc::new(plan.findings),
        seed: seed(),
        clock: SystemClock::new(),
    };
    let mut listeners: Vec<_> = (0..shards).map(|_| Vec::new()).collect();
    for opened in plan.listeners {
        for (own, socket) in listeners.iter_mut().zip(opened.sockets) {
            own.push(OwnedFd::from(socket));
        }
    }
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
    drop(dir);
    ended
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

/// What one shard keeps its sockets in.
fn descriptors(chosen: Descriptors, connections_max: u64, shards: u16) -> uring::Descriptors {
    match chosen {
        Descriptors::Plain => uring::Descriptors::Plain,
        Descriptors::Direct => {
            let slots = connections_max / u64::from(shards.max(1));
            uring::Descriptors::Direct { slots_max: u32::try_from(slots).unwrap_or(u32::MAX) }
        }
    }
}

fn interest_segments(connections_max: u64) -> usize {
    let wanted = (connections_max / INTEREST_KEYS_PER_SEGMENT).next_power_of_two();
    usize::try_from(wanted).map_or(INTEREST_SEGMENTS_MAX, |n| n.clamp(64, INTEREST_SEGMENTS_MAX))
}

/// What all shards are given.
#[derive(Clone)]
struct Common {
    interest: Arc<InterestTable>,
    partitions: Arc<PartitionMap>,
    counters: Arc<[Arc<Counters>]>,
    steering: Arc<ProgramSteering>,
    peers: Arc<Peers>,
    passwords: Arc<Passwords>,
    descriptors: uring::Descriptors,
    findings: Arc<Findings>,
    seed: u64,
    clock: SystemClock,
}

/// Builds one shard on its own thread.
fn build(
    common: Common,
    ports: Ports<Note>,
    listeners: Vec<OwnedFd>,
    recovered: Option<Recovered>,
    context: ShardContext,
) -> Result<Shard<UringDriver, ProgramStore, SystemClock>, ShardError> {
    let shard = context.shard;
    let count = listeners.len() as u16;
    let waker = common.peers.waker(shard).map(|waker| waker as Arc<dyn Waker>);
    let passwords = common.passwords.for_shard(waker);
    let mut config = UringConfig::new(shard, common.peers, listeners);
    config.descriptors = common.descriptors;
    common.findings.apply(&mut config);
    let driver = UringDriver::new(config, context.watch)
        .map_err(|error| format!("shard {shard}: cannot set up io_uring: {error}"))?;
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
