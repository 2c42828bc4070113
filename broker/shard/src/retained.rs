//! The retained messages whose topics live on this shard, and the questions of other shards for
//! them. A question behind a SUBSCRIBE is answered only when everything that was in the lanes to
//! this shard when it came has been taken in: a retained PUBLISH is then seen live or as
//! retained, never neither.

use std::collections::VecDeque;

use ringtide_codec::QoS;
use ringtide_topics::retained::Retained;

use crate::clients::Clients;
use crate::counters::Counter;
use crate::deliver::Fan;
use crate::message::{FLAG_INTERNAL, Message};
use crate::note::{RetainedPage, RetainedQuery};

/// Topics that one page looks at.
const PAGE_VISITS: usize = 256;
/// Topics that one expiry sweep looks at.
const SWEEP_VISITS: usize = 512;

/// A question that waits for the lanes.
pub(crate) struct Waiting {
    /// For each shard, the lane position that must have been taken in.
    pub(crate) positions: Vec<u64>,
    pub(crate) query: Box<RetainedQuery>,
}

pub(crate) struct RetainedStore {
    index: Retained<Message>,
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
    sweep: u32,
    /// The store has no space: nothing is kept that nobody waits for an acknowledgement of.
    pub(crate) is_closed: bool,
    pub(crate) waiting: VecDeque<Waiting>,
}

impl RetainedStore {
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> RetainedStore {
        RetainedStore {
            index: Retained::new(),
            bytes: 0,
            count_max,
            bytes_max,
            sweep: 0,
            is_closed: false,
            waiting: VecDeque::new(),
        }
    }

    /// Takes in new limits. What is held above them stays until it expires or is cleared.
    pub(crate) fn set_limits(&mut self, count_max: usize, bytes_max: usize) {
        self.count_max = count_max;
        self.bytes_max = bytes_max;
    }

    /// Sets or clears the retained message of a topic.
    pub(crate) fn set(&mut self, fan: &mut Fan<'_>, clients: &Clients) {
        let (tenant, topic) = (fan.view.header.tenant, fan.view.topic);
        //= [MQTT-3.3.1-6]
        //= [MQTT-3.3.1-7]
        //= 3.1.1 [MQTT-3.3.1-10]
        //= 3.1.1 [MQTT-3.3.1-11]
        if fan.view.payload.is_empty() {
            if let Some(old) = self.index.remove(tenant, topic) {
                self.bytes -= old.encoded_len();
                fan.retained = true;
            }
        } else {
            let header = fan.view.header;
            if self.is_closed && header.qos == QoS::AtMostOnce && header.flags & FLAG_INTERNAL == 0
            {
                clients.counters.add(Counter::DroppedRetainedFull, 1);
                return;
            }
            let replaces = self.index.lookup(tenant, topic).map_or(0, Message::encoded_len);
            let bytes = self.bytes - replaces + fan.view.encoded_len();
            let count = self.index.len() + usize::from(replaces == 0);
            if count > self.count_max || bytes > self.bytes_max {
                clients.counters.add(Counter::DroppedRetainedLimit, 1);
                return;
            }
            //= [MQTT-3.3.1-5]
            //= 3.1.1 [MQTT-3.3.1-5]
            //= 3.1.1 [MQTT-3.3.1-7]
            let message = fan.message().clone();
            // What the broker says of itself is not for the log.
            fan.retained = fan.view.header.flags & FLAG_INTERNAL == 0;
            self.bytes += message.encoded_len();
            if let Some(old) = self.index.insert(tenant, topic, message) {
                self.bytes -= old.encoded_len();
            }
        }
        clients.counters.set(Counter::Retained, self.index.len() as u64);
    }

    /// Answers a question: the messages of one page that have not expired.
    pub(crate) fn page(&self, query: &RetainedQuery, now_ms: u64) -> RetainedPage {
        let mut messages = Vec::new();
        let cursor = self.index.query(
            query.tenant,
            &query.filter,
            &query.cursor,
            PAGE_VISITS,
            |_, message| {
                let expires_ms = message.view().header.expires_ms;
                if expires_ms == 0 || expires_ms > now_ms {
                    messages.push(message.clone());
                }
            },
        );
        RetainedPage { asker: query.asker, replay: query.replay, messages, cursor }
    }

    /// A slice of all messages, and where the next one begins.
    pub(crate) fn page_of_all(&mut self, from: u32) -> (Vec<Message>, Option<u32>) {
        let mut messages = Vec::new();
        let swept = self.index.sweep(from, PAGE_VISITS, |message| {
            if message.view().header.flags & FLAG_INTERNAL == 0 {
                messages.push(message.clone());
            }
            false
        });
        (messages, swept.next)
    }

    /// Puts a message back that an earlier run retained.
    pub(crate) fn restore(&mut self, message: Message) {
        let view = message.view();
        let (tenant, topic) = (view.header.tenant, view.topic);
        self.bytes += message.encoded_len();
        if let Some(old) = self.index.insert(tenant, topic, message.clone()) {
            self.bytes -= old.encoded_len();
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Removes expired messages, a slice of the store at a time.
    pub(crate) fn sweep(&mut self, clients: &Clients) {
        let now_ms = clients.now_ms;
        let mut freed = 0;
        let swept = self.index.sweep(self.sweep, SWEEP_VISITS, |message| {
            let expires_ms = message.view().header.expires_ms;
            let expired = expires_ms != 0 && expires_ms <= now_ms;
            if expired {
                freed += message.encoded_len();
            }
            expired
        });
        self.sweep = swept.next.unwrap_or(0);
        self.bytes -= freed;
        clients.counters.set(Counter::Retained, self.index.len() as u64);
    }
}
