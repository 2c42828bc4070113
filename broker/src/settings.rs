//! The configuration as the shards see it: limits of the whole broker dealt out over its shards.

use std::sync::Arc;

use ringtide_filter::{Layers, Networks, websocket};
use ringtide_session::{DropPolicy, ServerLimits};
use ringtide_shard::access::{Access, Acl, LateAccess};
use ringtide_shard::{
    Gate, ListenerLimits, Pace, Proxied, Rate, Settings, Stage, Steering, Transport,
};
use ringtide_tls::Acceptor;
use ringtide_topics::TenantId;
use ringtide_topics::shared::Strategy;

use crate::config::{self, Config, Listener, ListenerDurability, QueuePolicy};
use crate::control::{self, Control, Live};

/// Names the number of turns by which tests want verdicts delayed.
const LATE_ACCESS: &str = "RINGTIDE_TEST_LATE_ACCESS_TURNS";

/// How much larger than a packet a WebSocket message may be: clients may put several into one.
const WEBSOCKET_SPARE_BYTES: u32 = 64 << 10;

/// Reads [`Control`] for the shards.
pub(crate) struct ProgramSteering {
    control: Arc<Control>,
    shards: u16,
    connections_max: u64,
    store_backlog_bytes_max: u64,
    waiting_memory_bytes_max: u64,
}

impl ProgramSteering {
    pub(crate) fn new(
        control: Arc<Control>,
        config: &Config,
        shards: u16,
        connections_max: u64,
    ) -> ProgramSteering {
        ProgramSteering {
            control,
            shards,
            connections_max,
            store_backlog_bytes_max: config.store.backlog_bytes_max,
            waiting_memory_bytes_max: config.store.waiting_memory_bytes_max,
        }
    }

    /// A shard's part of a limit of the whole broker, rounded up.
    fn part(&self, whole: u64) -> u64 {
        whole.div_ceil(u64::from(self.shards.max(1)))
    }

    fn part_u32(&self, whole: u64) -> u32 {
        u32::try_from(self.part(whole)).unwrap_or(u32::MAX)
    }

    fn listener_limits(&self, listener: &Listener) -> ListenerLimits {
        ListenerLimits {
            connect_timeout_ms: u64::from(listener.handshake_timeout_s) * 1000,
            connections_max: match listener.max_connections {
                0 => u32::MAX,
                max => self.part_u32(u64::from(max)),
            },
            versions: listener.versions.iter().fold(0, |bits, version| bits | 1 << version.level()),
            tenant: TenantId(listener.tenant),
            durable_acks: listener.durability != ListenerDurability::Memory,
            packet_bytes_max: own_packet_bytes(listener),
            connects: Rate::share(u64::from(listener.max_connects_per_s), self.shards),
            pace: Pace {
                bytes: Rate::share(u64::from(listener.max_client_bytes_per_s), 1),
                messages: Rate::share(u64::from(listener.max_client_messages_per_s), 1),
            },
        }
    }

    fn transport(listener: &Listener, tls: Option<Acceptor>, limits: &config::Limits) -> Transport {
        let websocket = listener.transport.is_websocket().then(|| {
            Arc::new(websocket::Settings {
                path: listener.websocket_path.clone(),
                origins: listener.websocket_origins.clone(),
                trusted_proxies: Networks::from(listener.trusted_proxies.clone()),
                message_bytes_max: limits
                    .max_packet_bytes
                    .min(own_packet_bytes(listener))
                    .saturating_add(WEBSOCKET_SPARE_BYTES),
            })
        });
        Transport {
            name: listener.name.clone(),
            gate: gate(listener),
            layers: Layers { tls, websocket },
        }
    }

    fn transports(&self, live: &Live) -> Vec<Transport> {
        let tls = self.control.tls();
        let transport = |(index, listener)| {
            let tls = tls.get(index).cloned().flatten();
            Self::transport(listener, tls, &live.limits)
        };
        live.listeners.iter().enumerate().map(transport).collect()
    }

    fn limits(&self, live: &Live) -> ringtide_shard::Limits {
        let limits = &live.limits;
        ringtide_shard::Limits {
            server: server_limits(limits),
            connect_bytes_max: limits.max_connect_bytes,
            listeners: live.listeners.iter().map(|own| self.listener_limits(own)).collect(),
            transports: self.transports(live),
            connections_max: self.part_u32(self.connections_max),
            sessions_max: self.part_u32(u64::from(limits.session_count_max)),
            allow_anonymous: live.access.allow_anonymous,
            keep_alive_override_s: limits.keep_alive_override_s,
            topic_alias_out_max: limits.topic_alias_out_max,
            drain_ms: u64::from(live.shutdown_timeout_s) * 1000,
            topic_levels_max: limits.topic_levels_max,
            subscriptions_max: limits.subscription_count_max,
            queue_count_max: limits.queue_count_max,
            queue_bytes_max: limits.queue_bytes_max,
            queue_policy: match limits.queue_policy {
                QueuePolicy::DropOldest => DropPolicy::Oldest,
                QueuePolicy::DropNewest => DropPolicy::Newest,
            },
            write_buffer_max_bytes: limits.write_buffer_bytes_max as usize,
            retained_count_max: self.part(u64::from(limits.retained_count_max)) as usize,
            retained_bytes_max: self.part(limits.retained_bytes_max) as usize,
            store_backlog_bytes_max: self.store_backlog_bytes_max,
            waiting_memory_bytes_max: self.waiting_memory_bytes_max,
            shared_strategy: strategy(live.shared.strategy),
            shared_strategies: live
                .shared
                .groups
                .iter()
                .map(|group| (group.name.clone(), strategy(group.strategy)))
                .collect(),
            sys_interval_ms: u64::from(live.sys_interval_s) * 1000,
            ..ringtide_shard::Limits::default()
        }
    }
}

/// The largest packet that a listener takes, whatever the broker's own limit is.
fn own_packet_bytes(listener: &Listener) -> u32 {
    match listener.max_packet_bytes {
        0 => u32::MAX,
        max => max,
    }
}

/// Who may connect to a listener.
fn gate(listener: &Listener) -> Gate {
    Gate {
        allow: Networks::from(listener.allow.clone()),
        deny: Networks::from(listener.deny.clone()),
        proxies: Networks::from(listener.trusted_proxies.clone()),
        proxied: listener.proxy_protocol.then(|| Proxied {
            header_timeout_ms: u64::from(listener.proxy_header_timeout_s) * 1000,
            names_user: listener.user_name_from_proxy,
        }),
    }
}

fn server_limits(limits: &config::Limits) -> ServerLimits {
    ServerLimits {
        receive_maximum: limits.receive_maximum,
        maximum_packet_bytes: limits.max_packet_bytes,
        topic_alias_maximum: limits.topic_alias_max,
        session_expiry_max_s: limits.session_expiry_max_s,
        session_expiry_v3_s: limits.session_expiry_v3_s,
        keep_alive_max_s: limits.keep_alive_max_s,
        keep_alive_default_s: limits.keep_alive_default_s,
        client_id_max_bytes: limits.client_id_bytes_max,
        inflight_max: limits.inflight_count_max,
        ..ServerLimits::default()
    }
}

fn strategy(strategy: config::Strategy) -> Strategy {
    match strategy {
        config::Strategy::Random => Strategy::Random,
        config::Strategy::RoundRobin => Strategy::RoundRobin,
        config::Strategy::Sticky => Strategy::Sticky,
        config::Strategy::Local => Strategy::Local,
        config::Strategy::HashClientid => Strategy::HashClientId,
        config::Strategy::HashTopic => Strategy::HashTopic,
        config::Strategy::LeastBacklog => Strategy::LeastBacklog,
    }
}

/// The rules in force.
fn access(control: &Control) -> Access {
    let Some(rules) = control.rules() else { return Access::Open };
    let acl = Acl::clone(&rules);
    match std::env::var(LATE_ACCESS).ok().and_then(|turns| turns.parse().ok()) {
        Some(turns) => Access::Late(LateAccess::new(acl, turns)),
        None => Access::Rules(acl),
    }
}

impl Steering for ProgramSteering {
    fn stage(&self) -> Stage {
        match self.control.stage() {
            control::Stage::Running => Stage::Running,
            control::Stage::Draining => Stage::Draining,
            control::Stage::Ending => Stage::Stopped,
        }
    }

    fn epoch(&self) -> u64 {
        self.control.epoch()
    }

    fn settings(&self) -> Settings {
        let live = self.control.live();
        Settings { limits: self.limits(&live), access: access(&self.control) }
    }
}
