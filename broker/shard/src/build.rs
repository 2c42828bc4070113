//! Putting a shard together.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use ringtide_driver::Driver;
use ringtide_ring::Ports;
use ringtide_session::QueueLimits;
use ringtide_storage::Store;
use ringtide_storage::state::Parts as Restored;
use ringtide_topics::interest::InterestTable;
use ringtide_topics::{Levels, MatchScratch, Table};

use crate::auth::Methods;
use crate::clients::Clients;
use crate::clock::Clock;
use crate::config::Limits;
use crate::core::{Core, Due};
use crate::counters::Counters;
use crate::custody::Custody;
use crate::deliver::Queues;
use crate::groups::Groups;
use crate::intake::Disk;
use crate::large::LargeBuffers;
use crate::mesh_out::MeshOut;
use crate::note::Note;
use crate::own::OwnMessages;
use crate::partition::PartitionMap;
use crate::password::{Desk, Passwords};
use crate::promise::Promises;
use crate::replaying::Replays;
use crate::retained::RetainedStore;
use crate::route::Routes;
use crate::steering::Steering;
use crate::sys::Sys;
use crate::timer::Wheel;
use crate::turn::Shard;
use crate::walk::Walks;

/// What a shard is made of.
pub struct Parts<D, S, C> {
    /// Its I/O; the listeners were given to it before.
    pub driver: D,
    /// Its store.
    pub store: S,
    /// Its clock.
    pub clock: C,
    /// Its ends of the mesh.
    pub ports: Ports<Note>,
    /// The table that all shards share.
    pub interest: Arc<InterestTable>,
    /// Where sessions, retained topics and groups live.
    pub partitions: Arc<PartitionMap>,
    /// The counters of all shards, by shard.
    pub counters: Arc<[Arc<Counters>]>,
    /// What the program tells it while it runs.
    pub steering: Arc<dyn Steering>,
    /// Methods of enhanced authentication.
    pub auth_methods: Methods,
    /// Who judges the passwords of clients.
    pub passwords: Box<dyn Passwords>,
    /// Listeners that the driver has.
    pub listeners: u16,
    /// From which assigned client ids follow; must differ between shards and starts.
    pub seed: u64,
    /// The product's version, for `$SYS`.
    pub version: &'static str,
    /// What an earlier run has left in the store.
    pub restored: Option<Restored>,
}

pub(crate) fn queues(limits: &Limits, me: u16) -> Queues {
    Queues {
        me,
        limits: QueueLimits {
            count_max: limits.queue_count_max,
            bytes_max: limits.queue_bytes_max,
            policy: limits.queue_policy,
        },
    }
}

fn routes(
    limits: &Limits,
    (me, shards): (u16, u16),
    interest: Arc<InterestTable>,
    partitions: Arc<PartitionMap>,
) -> Routes {
    let strategies = limits.shared_strategies.clone();
    let groups = Groups::new(me, shards, limits.shared_strategy, strategies);
    Routes {
        table: Table::new(),
        interest,
        partitions,
        groups,
        retained: RetainedStore::new(limits.retained_count_max, limits.retained_bytes_max),
        queues: queues(limits, me),
        custody: Custody::new(me, shards),
        fans: VecDeque::new(),
        levels: Levels::default(),
        scratch: MatchScratch::default(),
        frames: Vec::new(),
        budget: 0,
        changes: 0,
    }
}

fn first_timers(now_ms: u64) -> Wheel<Due> {
    let mut timers = Wheel::new(now_ms);
    timers.set(now_ms + 1000, Due::Second);
    timers
}

impl<D: Driver, S: Store, C: Clock> Shard<D, S, C> {
    /// Puts a shard together. It accepts as soon as every shard has had a turn.
    pub fn new(parts: Parts<D, S, C>) -> Shard<D, S, C> {
        let Parts { driver, store, clock, ports, interest, partitions, counters, .. } = parts;
        let (epoch, settings) = (parts.steering.epoch(), parts.steering.settings());
        let (limits, now_ms) = (Arc::new(settings.limits), clock.now_ms());
        let (me, shards) = (ports.me, ports.to.len() as u16);
        let (own, all) = (Arc::clone(&counters[usize::from(me)]), Arc::clone(&counters));
        let mut timers = first_timers(now_ms);
        let timer = (me == 0 && limits.sys_interval_ms > 0).then(|| timers.set(now_ms, Due::Sys));
        let sys = Sys { all, version: parts.version, started_ms: now_ms, timer };
        let routes = routes(&limits, (me, shards), interest, partitions);
        let mut core = Core {
            clients: Clients::new(now_ms, Arc::clone(&own), &limits, store.keeps()),
            promises: Promises::new(&limits.server),
            limits,
            routes,
            mesh: MeshOut::new(me, ports.to, ports.shared, own, Arc::clone(&counters)),
            store,
            access: settings.access,
            auth_methods: parts.auth_methods,
            passwords: Desk::new(parts.passwords),
            timers,
            commands: Vec::new(),
            internal: OwnMessages::default(),
            parked: VecDeque::new(),
            tickets: HashMap::new(),
            replays: Replays::default(),
            owing: VecDeque::new(),
            held: VecDeque::new(),
            opening: VecDeque::new(),
            removals: Vec::new(),
            insertions: Vec::new(),
            checkpoint: None,
            large: LargeBuffers::default(),
            last: crate::again::LastPublish::nothing(),
            topic_scratch: String::new(),
            forward_scratch: Vec::new(),
            next_tag: 0,
            next_join: 0,
            joins_restored: 0,
            started: false,
            disk: Disk::default(),
            draining: false,
            walks: Walks::default(),
            random: parts.seed,
        };
        if let Some(restored) = parts.restored {
            core.restore(restored);
        }
        Shard {
            io: driver,
            clock,
            from: ports.from,
            round_until: vec![0; usize::from(shards)],
            batches: BinaryHeap::with_capacity(2 * usize::from(shards)),
            core,
            received: VecDeque::new(),
            received_count: 0,
            decoded_count: 0,
            ends: VecDeque::new(),
            expected: HashMap::new(),
            arrived: HashMap::new(),
            sys: (me == 0).then_some(sys),
            steering: parts.steering,
            epoch,
            listeners: parts.listeners,
            waits_for: Some(counters),
            drain_until_ms: None,
            failure: None,
        }
    }

    /// The driver, for its statistics.
    pub fn driver(&self) -> &D {
        &self.io
    }
}

#[cfg(test)]
mod tests {
    use crate::conn::{Cold, Conn};
    use crate::session::Session;

    /// An idle client is one connection and one session: what they grow by, every client pays.
    #[test]
    fn sizes_of_an_idle_client() {
        assert_eq!(size_of::<Option<Conn>>(), 128);
        assert_eq!(size_of::<Option<Session>>(), 176);
        // Freed when none of its parts is in use.
        assert_eq!(size_of::<Cold>(), 224);
    }
}
