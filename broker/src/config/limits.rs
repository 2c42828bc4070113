//! `[limits]`: bounds of packets, clients, queues and stores.
//!
//! Everything that a client can make grow has a bound here. A running broker takes new values with
//! SIGHUP; they hold for connections made after that.

use serde::{Deserialize, Serialize};

/// Which message goes when a session's queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueuePolicy {
    /// The oldest waiting message makes room for the new one.
    #[default]
    DropOldest,
    /// The new message is dropped.
    DropNewest,
}

/// Bounds of packets, clients, queues and stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest packet a client may send, in bytes, told to MQTT 5 clients. 32 to 268 435 460.
    pub max_packet_bytes: u32,
    /// Largest CONNECT, in bytes: all that an unknown peer can make the broker hold.
    pub max_connect_bytes: u32,
    /// QoS 1 and 2 messages that a client may have unacknowledged towards the broker, 1 to 65535.
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages that the broker has unacknowledged towards a client, at most, 1 to
    /// 65535. The client's own Receive Maximum counts too.
    pub inflight_count_max: u16,
    /// Topic aliases that a client may set, per connection; 0 = none.
    pub topic_alias_max: u16,
    /// Topic aliases that the broker sets towards a client that allows them; 0 = none.
    pub topic_alias_out_max: u16,
    /// Keep alive in seconds for clients that ask for none; 0 = none.
    pub keep_alive_default_s: u16,
    /// Longest keep alive in seconds; clients that ask for more (or none) get this; 0 = no bound.
    pub keep_alive_max_s: u16,
    /// Keep alive in seconds that replaces what any MQTT 5 client asks for; 0 = none does.
    pub keep_alive_override_s: u16,
    /// Longest time in seconds that a session outlives its connection; 4294967295 = for ever.
    pub session_expiry_max_s: u32,
    /// Time in seconds that the session of a 3.1 or 3.1.1 client with clean session 0 outlives its
    /// connection; 4294967295 = for ever.
    pub session_expiry_v3_s: u32,
    /// Sessions at a time, connected or not.
    pub session_count_max: u32,
    /// Subscriptions per client.
    pub subscription_count_max: u32,
    /// Levels of a topic name or filter, 1 to 65535.
    pub topic_levels_max: u16,
    /// Bytes of a client id, 23 to 65535.
    pub client_id_bytes_max: u16,
    /// Messages that wait for one client.
    pub queue_count_max: u32,
    /// Bytes of the messages that wait for one client.
    pub queue_bytes_max: u64,
    /// Which message goes when the queue is full.
    pub queue_policy: QueuePolicy,
    /// Bytes encoded for one connection and not yet taken by its socket. Above it QoS 0 messages
    /// are dropped and others wait in the queue.
    pub write_buffer_bytes_max: u32,
    /// Retained messages of the whole broker.
    pub retained_count_max: u32,
    /// Bytes of the retained messages of the whole broker.
    pub retained_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_packet_bytes: 2 * 1024 * 1024,
            max_connect_bytes: 64 * 1024,
            receive_maximum: 1024,
            inflight_count_max: 1024,
            topic_alias_max: 64,
            topic_alias_out_max: 16,
            keep_alive_default_s: 0,
            keep_alive_max_s: 0,
            keep_alive_override_s: 0,
            session_expiry_max_s: 7 * 24 * 3600,
            session_expiry_v3_s: 7 * 24 * 3600,
            session_count_max: 10_000_000,
            subscription_count_max: 1000,
            topic_levels_max: 128,
            client_id_bytes_max: 256,
            queue_count_max: 1000,
            queue_bytes_max: 16 * 1024 * 1024,
            queue_policy: QueuePolicy::default(),
            write_buffer_bytes_max: 4 * 1024 * 1024,
            retained_count_max: 1_000_000,
            retained_bytes_max: 1024 * 1024 * 1024,
        }
    }
}
