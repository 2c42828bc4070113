//! What a shard is told: limits with their units and defaults. The program fills it in from the
//! configuration file; tests and the simulator fill it in directly.

use std::borrow::Cow;

use ringtide_filter::Layers;
use ringtide_session::{DropPolicy, ServerLimits};
use ringtide_topics::TenantId;
use ringtide_topics::shared::Strategy;

use crate::gate::Gate;
use crate::pace::Pace;
use crate::rate::Rate;

/// Limits and policies of a shard. All byte limits count encoded bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Limits that are negotiated with a client in CONNECT and CONNACK.
    pub server: ServerLimits,
    /// The largest CONNECT: all that an unknown peer can make a shard hold.
    pub connect_bytes_max: u32,
    /// Settings of each listener, in the driver's order.
    pub listeners: Vec<ListenerLimits>,
    /// Who may connect to each listener, what its connections go through and its name for logs, in
    /// the same order; a listener that is missing here is open, has plain TCP and no name.
    pub transports: Vec<Transport>,
    /// Connections at once on one shard, all listeners together.
    pub connections_max: u32,
    /// Sessions at once on one shard, connected or not.
    pub sessions_max: u32,
    /// Whether a client without a user name is let in.
    pub allow_anonymous: bool,
    /// Keep alive that replaces what any MQTT 5 client asks for, in seconds; 0 = none does.
    pub keep_alive_override_s: u16,
    /// Topic aliases that the broker sets towards a client that allows them; 0 = none.
    pub topic_alias_out_max: u16,
    /// Milliseconds that clients have, on shutdown, to take what was sent to them.
    pub drain_ms: u64,
    /// Levels of a topic name or filter.
    pub topic_levels_max: u16,
    /// Subscriptions of one client.
    pub subscriptions_max: u32,
    /// Messages of QoS 1 and 2 that wait for one client.
    pub queue_count_max: u32,
    /// Bytes of the messages that wait for one client.
    pub queue_bytes_max: u64,
    /// Which message gives way when a queue is full.
    pub queue_policy: DropPolicy,
    /// Bytes that wait to be written to one client; above it QoS 0 is dropped and the rest queues.
    pub write_buffer_max_bytes: usize,
    /// Milliseconds, on top of 1.5 times its keep alive, for which a client whose packets wait
    /// may go without reading what it was sent.
    pub choked_max_ms: u64,
    /// Retained messages on one shard.
    pub retained_count_max: usize,
    /// Bytes of retained messages on one shard.
    pub retained_bytes_max: usize,
    /// Sends that fan-outs may bring about in one turn before the loop turns to other work; 32
    /// deliveries into outputs that are written anyway count as one.
    pub turn_sends_max: u32,
    /// Microseconds of decoding and routing in one turn before the loop turns to other work.
    pub turn_budget_us: u64,
    /// Microseconds of TLS handshakes in one turn: the rest wait for the next turns, so that a
    /// storm of them does not hold up those who are connected. One is always done.
    pub handshake_budget_us: u64,
    /// Bytes that may wait in memory to be written to the disk: above it what must be kept waits.
    pub store_backlog_bytes_max: u64,
    /// Bytes of the messages that wait for clients on one shard and stay in memory: what is above
    /// it only the log has.
    pub waiting_memory_bytes_max: u64,
    /// Strategy of shared groups that name none of their own.
    pub shared_strategy: Strategy,
    /// Strategies by group name.
    pub shared_strategies: Vec<(String, Strategy)>,
    /// Milliseconds between two publications of the `$SYS` topics; 0 = none.
    pub sys_interval_ms: u64,
}

/// What holds for the clients of one listener.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// Milliseconds from accept until the CONNECT must have come whole.
    pub connect_timeout_ms: u64,
    /// Connections at once on one shard.
    pub connections_max: u32,
    /// Versions that are let in, a bit per protocol level: 3, 4, 5.
    pub versions: u8,
    /// Tenant that the clients belong to.
    pub tenant: TenantId,
    /// Acknowledgements wait for what the store must hold before them.
    pub durable_acks: bool,
    /// The largest packet that a client may send, if that is less than the broker's own limit.
    pub packet_bytes_max: u32,
    /// Connections a second on one shard.
    pub connects: Rate,
    /// What each client may send.
    pub pace: Pace,
}

/// How a listener's connections carry MQTT.
#[derive(Clone, Debug, Default)]
pub struct Transport {
    /// The listener's name in logs.
    pub name: String,
    /// Who may connect.
    pub gate: Gate,
    /// What the bytes go through.
    pub layers: Layers,
}

impl Default for ListenerLimits {
    fn default() -> ListenerLimits {
        ListenerLimits {
            connect_timeout_ms: 10_000,
            connections_max: u32::MAX,
            versions: 1 << 3 | 1 << 4 | 1 << 5,
            tenant: TenantId(0),
            durable_acks: true,
            packet_bytes_max: u32::MAX,
            connects: Rate::default(),
            pace: Pace::default(),
        }
    }
}

impl Limits {
    /// The settings of one listener; the defaults for one that does not exist.
    pub fn listener(&self, listener: u16) -> ListenerLimits {
        self.listeners.get(usize::from(listener)).copied().unwrap_or_default()
    }

    /// The limits that are negotiated with clients of a listener.
    pub(crate) fn server_of(&self, listener: u16) -> Cow<'_, ServerLimits> {
        let max = self.listener(listener).packet_bytes_max;
        match max < self.server.maximum_packet_bytes {
            true => Cow::Owned(ServerLimits { maximum_packet_bytes: max, ..self.server.clone() }),
            false => Cow::Borrowed(&self.server),
        }
    }

    /// What the connections of a listener go through; `None` is plain TCP.
    pub(crate) fn layers(&self, listener: u16) -> Option<&Layers> {
        self.transports.get(usize::from(listener)).map(|transport| &transport.layers)
    }

    /// Who may connect to a listener; `None` is everybody.
    pub(crate) fn gate(&self, listener: u16) -> Option<&Gate> {
        self.transports.get(usize::from(listener)).map(|transport| &transport.gate)
    }

    /// A listener's name in logs; empty if it has none.
    pub(crate) fn listener_name(&self, listener: u16) -> &str {
        self.transports.get(usize::from(listener)).map_or("", |transport| &transport.name)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            server: ServerLimits { inflight_max: 1024, ..ServerLimits::default() },
            connect_bytes_max: 64 << 10,
            listeners: vec![ListenerLimits::default()],
            transports: Vec::new(),
            connections_max: 1_000_000,
            sessions_max: 10_000_000,
            allow_anonymous: true,
            keep_alive_override_s: 0,
            topic_alias_out_max: 16,
            drain_ms: 5000,
            topic_levels_max: 128,
            subscriptions_max: 100_000,
            queue_count_max: 100_000,
            queue_bytes_max: 64 << 20,
            queue_policy: DropPolicy::Oldest,
            write_buffer_max_bytes: 1 << 20,
            choked_max_ms: 60_000,
            retained_count_max: 10_000_000,
            retained_bytes_max: 4 << 30,
            turn_sends_max: 1300,
            turn_budget_us: 250,
            handshake_budget_us: 500,
            store_backlog_bytes_max: 16 << 20,
            waiting_memory_bytes_max: 32 << 20,
            shared_strategy: Strategy::RoundRobin,
            shared_strategies: Vec::new(),
            sys_interval_ms: 10_000,
        }
    }
}
