//! `$SYS/broker/...`: the counters of all shards as retained messages, by shard 0.

use std::sync::Arc;

use ringtide_codec::QoS;
use ringtide_storage::Store;
use ringtide_topics::{TenantId, topic_hash};

use crate::core::{Core, Due};
use crate::counters::{Counter, Counters};
use crate::message::{FLAG_INTERNAL, Header, Message, View};
use crate::timer::TimerId;

/// What the `$SYS` topics are made from.
pub(crate) struct Sys {
    pub(crate) all: Arc<[Arc<Counters>]>,
    pub(crate) version: &'static str,
    pub(crate) started_ms: u64,
    /// The next publication, unless there is none.
    pub(crate) timer: Option<TimerId>,
}

impl Sys {
    fn sum(&self, counter: Counter) -> u64 {
        self.all.iter().fold(0, |sum, shard| sum.wrapping_add(shard.value(counter)))
    }
}

impl<S: Store> Core<S> {
    /// Publishes the `$SYS` topics and sets the timer for the next time.
    pub(crate) fn publish_sys(&mut self, sys: &mut Sys) {
        let now_ms = self.clients.now_ms;
        sys.timer = None;
        self.arm_sys(sys);
        for counter in Counter::ALL {
            self.publish_value(counter.path(), &sys.sum(*counter).to_string());
        }
        let sessions = sys.sum(Counter::Sessions);
        let offline = sys.sum(Counter::SessionsOffline);
        let state = match (sys.sum(Counter::StoreFull), sys.sum(Counter::StoreWarning)) {
            (0, 0) => "ok",
            (0, _) => "warning",
            _ => "full",
        };
        self.publish_value("store/state", state);
        self.publish_value("version", &format!("ringtide version {}", sys.version));
        self.publish_value("uptime", &format!("{} seconds", (now_ms - sys.started_ms) / 1000));
        self.publish_value("shards", &self.mesh.shards.to_string());
        self.publish_value("clients/total", &sessions.to_string());
        self.publish_value("clients/connected", &sessions.saturating_sub(offline).to_string());
        self.publish_value("clients/disconnected", &offline.to_string());
    }

    /// Sets the timer for the next publication by the interval in force.
    pub(crate) fn arm_sys(&mut self, sys: &mut Sys) {
        if let Some(timer) = sys.timer.take() {
            self.timers.cancel(timer);
        }
        let interval_ms = self.limits.sys_interval_ms;
        if interval_ms > 0 {
            sys.timer = Some(self.timers.set(self.clients.now_ms + interval_ms, Due::Sys));
        }
    }

    fn publish_value(&mut self, path: &str, value: &str) {
        let topic = format!("$SYS/broker/{path}");
        let tenant = TenantId(0);
        let header = Header {
            flags: FLAG_INTERNAL,
            qos: QoS::AtMostOnce,
            retain: true,
            hops: 0,
            tenant,
            origin_node: 0,
            origin_log: self.mesh.me,
            partition: self.routes.partitions.partition(tenant, &topic),
            lsn: 0,
            publisher: 0,
            ingress_ms: self.clients.now_ms,
            expires_ms: 0,
            topic_hash: topic_hash(tenant, &topic),
        };
        let view = View { header, topic: &topic, properties: &[], payload: value.as_bytes() };
        self.publish_internal(Message::new(&view), None, None);
    }
}
