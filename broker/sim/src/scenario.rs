//! What a seed stands for: how many shards and clients, which weather, which limits. Everything
//! that a run chooses once, it chooses here.

use ringtide_codec::Version;
use ringtide_session::{DropPolicy, ServerLimits};
use ringtide_shard::access::{Access, Acl, LateAccess};
use ringtide_shard::{Limits, ListenerLimits};
use ringtide_topics::shared::Strategy;

use crate::client::Profile;
use crate::net::Weather;
use crate::passwords::Judging;
use crate::random::Random;
use crate::sabotage::Sabotage;

/// What the rules of a run refuse, if it has rules.
pub(crate) const DENIED: &str = "secret/";
const RULES: &str = "deny all publish secret/#\ndeny all subscribe secret/#\ndefault allow\n";

/// How publishes and subscriptions are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    Open,
    AtOnce,
    /// After this many turns.
    Late(u64),
}

impl Rules {
    pub(crate) fn access(self) -> Access {
        let acl = Acl::parse(RULES).unwrap_or_default();
        match self {
            Rules::Open => Access::Open,
            Rules::AtOnce => Access::Rules(acl),
            Rules::Late(turns) => Access::Late(LateAccess::new(acl, turns)),
        }
    }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) shards: u16,
    pub(crate) lane_bytes: usize,
    pub(crate) receive_buffers: usize,
    pub(crate) weather: Weather,
    pub(crate) rules: Rules,
    pub(crate) limits: Limits,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) hostile: usize,
    /// Clients give passwords, and some who do not know them try to be one of them.
    pub(crate) judging: Option<Judging>,
    /// The settings change during the work.
    pub(crate) reloads: bool,
    /// Shards turn only when something wakes them.
    pub(crate) sleeps: bool,
    /// Harm that is done on purpose.
    pub(crate) sabotage: Sabotage,
    /// Disks are slow, short of space or full now and then.
    pub(crate) spells: bool,
    /// Most microseconds that one look at the clock within a turn takes.
    pub(crate) slow_looks_us: u64,
}

impl Scenario {
    pub(crate) fn new(seed: u64, crashes: bool, sabotage: Sabotage) -> Scenario {
        let mut random = Random::stream(seed, "scenario");
        let shards = *random.pick(&[1, 2, 3, 8]);
        let smallest = ringtide_ring::LANE_BYTES_MIN;
        let lane_bytes = *random.pick(&[smallest, smallest, smallest * 2, 4096, 1 << 16]);
        let weather = weather(&mut random);
        let rules = *random.pick(&[
            Rules::Open,
            Rules::Open,
            Rules::AtOnce,
            Rules::Late(1),
            Rules::Late(4),
        ]);
        let clients = random.range(2, 9) as usize;
        let mut limits = limits(&mut random, lane_bytes);
        let mut disk = Random::stream(seed, "full disk");
        let spells = disk.chance(400);
        if spells {
            limits.store_backlog_bytes_max = *disk.pick(&[1_000, 20_000, 16 << 20]);
        }
        let mut paging = Random::stream(seed, "paging");
        limits.waiting_memory_bytes_max = *paging.pick(&[0, 0, 300, 3_000, 32 << 20]);
        let mut judges = Random::stream(seed, "judges");
        let judging = judges.chance(500).then(|| Judging {
            delay_max_us: *judges.pick(&[0, 300, 20_000, 2_000_000]),
            busy: *judges.pick(&[0, 0, 100]),
        });
        let mut profiles: Vec<Profile> = (0..=clients).map(|no| profile(&mut random, no)).collect();
        if crashes {
            // What the observer must see waits for it.
            profiles[0].expiry_s = u32::MAX;
        }
        Scenario {
            shards,
            // A record must fit into the smallest lane whatever it carries.
            lane_bytes,
            receive_buffers: *random.pick(&[1, 2, 8, 64]),
            weather,
            rules,
            limits,
            profiles,
            hostile: *random.pick(&[0, 0, 1, 2]) + usize::from(judging.is_some()),
            judging,
            sleeps: random.chance(700),
            sabotage,
            spells,
            slow_looks_us: *random.pick(&[0, 0, 10, 300]),
            reloads: random.chance(400),
        }
    }

    /// Other limits for the same run: what clients were told in CONNACK must hold all the same.
    pub(crate) fn limits_at_reload(&self, random: &mut Random) -> Limits {
        let server = ServerLimits {
            receive_maximum: *random.pick(&[1, 3, 20, u16::MAX]),
            topic_alias_maximum: *random.pick(&[0, 2, 10]),
            inflight_max: *random.pick(&[1, 2, 16, 1024]),
            ..self.limits.server.clone()
        };
        Limits {
            server,
            shared_strategy: *random.pick(&Strategy::ALL),
            sys_interval_ms: *random.pick(&[0, 0, 3_000]),
            turn_sends_max: *random.pick(&[1, 3, 50, 1300]),
            ..self.limits.clone()
        }
    }

    /// Seconds for which sessions of clients before version 5 are kept.
    pub(crate) fn expiry_v3_s(&self) -> u32 {
        self.limits.server.session_expiry_v3_s
    }
}

fn weather(random: &mut Random) -> Weather {
    let rarely = |random: &mut Random, most: u64| {
        if random.chance(500) { 0 } else { random.below(most) as u32 }
    };
    Weather {
        delay_max_us: *random.pick(&[0, 50, 500, 20_000]),
        one_byte: rarely(random, 300),
        cut: rarely(random, 700),
        short_send: rarely(random, 300),
        lag: rarely(random, 400),
        accept_fails: rarely(random, 200),
        hand_over_fails: rarely(random, 60),
        direct: random.chance(400),
        window: *random.pick(&[600, 5_000, 60_000, 1 << 20]),
        unread_resets: rarely(random, 1000),
    }
}

fn limits(random: &mut Random, _lane_bytes: usize) -> Limits {
    let server = ServerLimits {
        receive_maximum: *random.pick(&[1, 3, 20, u16::MAX]),
        maximum_packet_bytes: 64 << 10,
        topic_alias_maximum: *random.pick(&[0, 2, 10]),
        session_expiry_v3_s: *random.pick(&[5, 100, u32::MAX]),
        inflight_max: *random.pick(&[1, 2, 16, 1024]),
        ..ServerLimits::default()
    };
    let small_queue = random.chance(100);
    Limits {
        server,
        connect_bytes_max: 4096,
        listeners: vec![ListenerLimits::default()],
        drain_ms: 2000,
        topic_levels_max: 16,
        topic_alias_out_max: *random.pick(&[0, 2, 16]),
        queue_count_max: if small_queue { 5 } else { 100_000 },
        queue_policy: *random.pick(&[DropPolicy::Oldest, DropPolicy::Newest]),
        write_buffer_max_bytes: *random.pick(&[2_000, 30_000, 1 << 20]),
        turn_sends_max: *random.pick(&[1, 3, 50, 1300]),
        turn_budget_us: *random.pick(&[20, 250]),
        shared_strategy: *random.pick(&Strategy::ALL),
        sys_interval_ms: *random.pick(&[0, 0, 0, 3_000]),
        ..Limits::default()
    }
}

fn profile(random: &mut Random, no: usize) -> Profile {
    let observer = no == 0;
    let version = *random.pick(&[Version::V3_1_1, Version::V5, Version::V5]);
    let v5 = observer || version == Version::V5;
    let profile = Profile {
        no,
        name: format!("client-{no}"),
        version: if v5 { Version::V5 } else { version },
        expiry_s: *random.pick(&[0, 3, 60, u32::MAX]),
        receive_maximum: *random.pick(&[1, 2, 10, u16::MAX]),
        packet_max: *random.pick(&[300, 5_000, u32::MAX, u32::MAX]),
        alias_max: *random.pick(&[0, 1, 5]),
        keep_alive_s: *random.pick(&[0, 3, 10, 60]),
        read_max: *random.pick(&[1, 50, 64 << 10, 64 << 10]),
        lazy_acks: *random.pick(&[0, 0, 5]),
        observer,
    };
    if observer {
        return Profile {
            expiry_s: 0,
            receive_maximum: u16::MAX,
            packet_max: u32::MAX,
            keep_alive_s: 0,
            read_max: 64 << 10,
            lazy_acks: 0,
            ..profile
        };
    }
    if v5 {
        return profile;
    }
    // What only version 5 can say.
    Profile { receive_maximum: u16::MAX, packet_max: u32::MAX, alias_max: 0, ..profile }
}
