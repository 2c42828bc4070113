//! Counters: one preallocated array per shard, written by the shard alone and read by anyone as
//! relaxed atomics. No lock, no allocation, no string on the hot path.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident => $path:literal,)*) => {
        /// What is counted. The name in `$SYS/broker/` is [`Counter::path`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter { $($(#[$doc])* $name,)* }

        impl Counter {
            /// Every counter, in the order of the array.
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)*];

            /// The topic below `$SYS/broker/` under which it is published.
            pub fn path(self) -> &'static str {
                match self { $(Counter::$name => $path,)* }
            }
        }
    };
}

counters! {
    /// Connections open now, past CONNECT or not.
    ConnectionsOpen => "connections/open",
    /// Connections accepted since start.
    ConnectionsAccepted => "connections/accepted",
    /// Connections refused: listener or shard full, or out of descriptors.
    ConnectionsRefused => "connections/refused",
    /// Times that accepting failed for want of descriptors or memory.
    AcceptErrors => "connections/accept_errors",
    /// Connections closed before a CONNECT had been accepted.
    ConnectsFailed => "connections/connect_failed",
    /// Connections handed over to another shard.
    HandOvers => "connections/handed_over",
    /// Connections closed because no packet came within 1.5 times the keep alive.
    KeepAliveTimeouts => "connections/keepalive_timeouts",
    /// Connections closed because the client did not read what it was sent for too long.
    ChokedTimeouts => "connections/choked_timeouts",
    /// Connections closed for a malformed packet or a protocol error.
    ProtocolErrors => "connections/protocol_errors",
    /// Connections closed because their first bytes were another protocol's than the listener's.
    WrongProtocol => "connections/wrong_protocol",
    /// Connections refused for the client's address, by the listener's `allow` and `deny`.
    AddressesRefused => "connections/address_refused",
    /// Connections closed for a broken PROXY header, or one that did not come in time.
    ProxyErrors => "connections/proxy_errors",
    /// Connections refused to a listener for proxies because they came from nobody it trusts.
    ProxyUntrusted => "connections/proxy_untrusted",
    /// Connections refused because more came in a second than the listener takes.
    ConnectRateRefused => "connections/rate_refused",
    /// Times that a client was not read from for a while because it had sent more bytes or messages
    /// than it may in a second.
    RateDelays => "connections/rate_delays",
    /// HTTP requests that did not become a WebSocket.
    UpgradesRefused => "websocket/upgrades_refused",
    /// Connections closed for breaking WebSocket's rules.
    WebSocketErrors => "websocket/protocol_errors",
    /// TLS handshakes that were completed.
    TlsHandshakes => "tls/handshakes",
    /// TLS handshakes among them by which a client came back with a ticket.
    TlsResumed => "tls/handshakes_resumed",
    /// TLS handshakes that wait now until others are done.
    TlsWaiting => "tls/handshakes_waiting",
    /// TLS handshakes refused because client and listener share no version, suite or protocol.
    TlsNothingInCommon => "tls/refused/nothing_in_common",
    /// TLS handshakes refused for the client's certificate, or for want of one.
    TlsClientCertificate => "tls/refused/client_certificate",
    /// TLS connections ended by an alert of the client.
    TlsAlerts => "tls/alerts_received",
    /// TLS connections ended because what came was no proper TLS.
    TlsErrors => "tls/protocol_errors",
    /// CONNECTs refused for a wrong or missing password, or an unknown user.
    PasswordsRefused => "passwords/refused",
    /// CONNECTs refused because too many passwords waited to be checked.
    PasswordsBusy => "passwords/refused_busy",
    /// CONNECTs whose password had to be hashed: it was wrong, or not known from an earlier one.
    PasswordsHashed => "passwords/hashed",
    /// CONNECTs whose password waits now to be checked.
    PasswordsWaiting => "passwords/waiting",
    /// Sessions taken over by a new connection.
    Takeovers => "sessions/taken_over",
    /// Sessions that exist now, connected or not.
    Sessions => "sessions/count",
    /// Sessions that exist now without a connection.
    SessionsOffline => "sessions/offline",
    /// Sessions that exist now and outlive their connection.
    SessionsKept => "sessions/persistent",
    /// Records of an earlier run that could not be taken in.
    RestoreErrors => "store/restore_errors",
    /// Records that were lost because the store was found damaged at the last start.
    StoreLostRecords => "store/damage/lost_records",
    /// Damaged files that the last start set aside.
    StoreDamagedFiles => "store/damage/files",
    /// Bytes of the stores' files in use.
    StoreBytes => "store/bytes_used",
    /// Bytes that the shards' last checkpoints took: what had to be kept then.
    StoreLiveBytes => "store/bytes_live",
    /// The most bytes that the stores' files may take; 0 = as much as the disk has.
    StoreLimitBytes => "store/bytes_limit",
    /// Bytes of the store's file system that are taken, by whomever.
    StoreDiskUsedBytes => "store/disk/bytes_used",
    /// Bytes of the store's file system.
    StoreDiskBytes => "store/disk/bytes",
    /// Bytes of messages that wait for clients, are in the store, and are in memory, too.
    StoreWaitingBytes => "store/waiting/bytes_in_memory",
    /// Messages that wait for clients in the store alone.
    StoreWaitingAway => "store/waiting/on_disk",
    /// Records that are not durable yet.
    StoreLagRecords => "store/lag_records",
    /// Bytes in memory that wait to be written to the disk.
    StoreLagBytes => "store/lag_bytes",
    /// Shards whose store has little space left.
    StoreWarning => "store/shards_warning",
    /// Shards on which what must be kept waits for the disk.
    StoreWaits => "store/shards_waiting",
    /// Shards that refuse what must be kept, for want of space.
    StoreFull => "store/shards_full",
    /// Times that a packet waited for the disk or for space on it.
    StoreHeldBack => "store/held_back",
    /// CONNECT, SUBSCRIBE filters and PUBLISH refused for want of space on the disk.
    StoreRefused => "store/refused",
    /// Sessions ended by expiry.
    SessionsExpired => "sessions/expired",
    /// Subscriptions that exist now, shared ones included.
    Subscriptions => "subscriptions/count",
    /// Shared subscriptions that exist now.
    SharedSubscriptions => "subscriptions/shared/count",
    /// Retained messages held now.
    Retained => "retained messages/count",
    /// Bytes received from clients.
    BytesReceived => "bytes/received",
    /// Bytes sent to clients.
    BytesSent => "bytes/sent",
    /// Packets received from clients.
    PacketsReceived => "messages/received",
    /// PUBLISH received, QoS 0.
    PublishReceivedQos0 => "publish/qos0/received",
    /// PUBLISH received, QoS 1.
    PublishReceivedQos1 => "publish/qos1/received",
    /// PUBLISH received, QoS 2.
    PublishReceivedQos2 => "publish/qos2/received",
    /// PUBLISH sent, QoS 0.
    PublishSentQos0 => "publish/qos0/sent",
    /// PUBLISH sent, QoS 1, re-sendings included.
    PublishSentQos1 => "publish/qos1/sent",
    /// PUBLISH sent, QoS 2, re-sendings included.
    PublishSentQos2 => "publish/qos2/sent",
    /// PUBLISH that no subscription matched on any shard.
    NoSubscribers => "publish/no_subscribers",
    /// PUBLISH records sent to other shards.
    RecordsOut => "shards/records_sent",
    /// Records taken from other shards.
    RecordsIn => "shards/records_received",
    /// 1 once the shard has taken in what an earlier run left and announced its subscriptions.
    ShardReady => "shards/ready",
    /// Times that a publisher waited because a lane to another shard was full.
    Parked => "shards/parked",
    /// Dropped: QoS 0 to a subscriber whose write buffer is full.
    DroppedSlow => "dropped/slow_consumer",
    /// Dropped: the session's queue is full.
    DroppedQueueFull => "dropped/queue_full",
    /// Dropped: message expiry passed before delivery.
    DroppedExpired => "dropped/expired",
    /// Dropped: larger than the client's Maximum Packet Size.
    DroppedTooLarge => "dropped/too_large",
    /// Dropped: QoS 0 for a session without a connection.
    DroppedOffline => "dropped/qos0_offline",
    /// Dropped: it waited for a client, and could not be read from the store again.
    DroppedUnreadable => "dropped/unreadable",
    /// Dropped: the publisher may not publish to that topic.
    DroppedUnauthorized => "dropped/unauthorized",
    /// Dropped: no member of a shared group could take it.
    DroppedNoMember => "dropped/no_group_member",
    /// Dropped: a limit on retained messages was reached; the message was routed live all the same.
    DroppedRetainedLimit => "dropped/retained_limit",
    /// Dropped: no space on the disk to keep a retained message of QoS 0; it was routed live all
    /// the same.
    DroppedRetainedFull => "dropped/retained_store_full",
    /// Wills published.
    WillsPublished => "wills/published",
    /// Turns of the shard's loop.
    Turns => "loop/turns",
    /// Turns that ended with work left because a budget was used up.
    TurnsOverBudget => "loop/turns_over_budget",
}

/// A shard's counters.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Counters {
    /// All at zero.
    pub fn new() -> Counters {
        Counters([const { AtomicU64::new(0) }; Counter::ALL.len()])
    }

    /// Adds to a counter. Only the owning shard writes, so no read-modify-write is needed.
    pub fn add(&self, counter: Counter, by: u64) {
        let cell = &self.0[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// Takes from a gauge.
    pub fn sub(&self, counter: Counter, by: u64) {
        self.add(counter, 0_u64.wrapping_sub(by));
    }

    /// Sets a gauge.
    pub fn set(&self, counter: Counter, to: u64) {
        self.0[counter as usize].store(to, Ordering::Relaxed);
    }

    /// The value now.
    pub fn value(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}

impl Default for Counters {
    fn default() -> Counters {
        Counters::new()
    }
}
