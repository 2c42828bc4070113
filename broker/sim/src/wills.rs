//! Which wills had to be published, which must not have been, and how often they were: judged by
//! what a steady observer of all wills has seen.

use std::collections::BTreeMap;

use crate::model::MessageNo;
use crate::net::{LinkId, Net};
use crate::trace::Trace;

/// Timers fire within this time, in microseconds.
const SLACK_US: u64 = 2_000_000;

#[derive(Clone, Copy, Debug)]
struct Ended {
    at_us: u64,
    goodbye: bool,
    link: LinkId,
}

#[derive(Clone, Debug)]
struct Record {
    client: usize,
    qos: u8,
    delay_us: u64,
    armed: bool,
    ended: Option<Ended>,
    seen: u32,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Connecting { clean: bool },
    Connected,
}

/// What has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Once,
    Never,
    Perhaps,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Wills {
    records: BTreeMap<MessageNo, Record>,
    /// By client, in order: when, and what.
    events: BTreeMap<usize, Vec<(u64, Event)>>,
    observer: usize,
    /// When the broker was gone: from, until.
    outages: Vec<(u64, u64)>,
    trace: Trace,
}

impl Wills {
    /// Judges by what client `observer` sees.
    pub(crate) fn new(observer: usize, trace: Trace) -> Wills {
        Wills {
            records: BTreeMap::new(),
            events: BTreeMap::new(),
            observer,
            outages: Vec::new(),
            trace,
        }
    }

    /// A will is in a CONNECT that is being sent.
    pub(crate) fn given(&mut self, message: MessageNo, (client, qos): (usize, u8), delay_s: u32) {
        let delay_us = u64::from(delay_s) * 1_000_000;
        let record = Record { client, qos, delay_us, armed: false, ended: None, seen: 0 };
        self.records.insert(message, record);
    }

    /// The broker was gone for a while.
    pub(crate) fn crash(&mut self, from_us: u64, until_us: u64) {
        self.outages.push((from_us, until_us));
    }

    /// A client sends CONNECT.
    pub(crate) fn connecting(&mut self, client: usize, clean: bool, now_us: u64) {
        self.events.entry(client).or_default().push((now_us, Event::Connecting { clean }));
    }

    /// A client has its CONNACK.
    pub(crate) fn connected(&mut self, client: usize, now_us: u64) {
        self.events.entry(client).or_default().push((now_us, Event::Connected));
    }

    /// The CONNECT with this will was accepted.
    pub(crate) fn armed(&mut self, message: MessageNo) {
        if let Some(record) = self.records.get_mut(&message) {
            record.armed = true;
        }
    }

    /// The connection of a will is over; `goodbye`: a DISCONNECT that discards the will was sent.
    pub(crate) fn ended(
        &mut self,
        message: MessageNo,
        open: bool,
        goodbye: bool,
        link: LinkId,
        at_us: u64,
    ) {
        if let Some(record) = self.records.get_mut(&message) {
            record.armed &= open;
            record.ended.get_or_insert(Ended { at_us, goodbye, link });
        }
    }

    /// Somebody was given this message.
    pub(crate) fn seen(&mut self, message: MessageNo, by: usize, fresh: bool) {
        let observer = self.observer;
        if let Some(record) = self.records.get_mut(&message).filter(|_| by == observer && fresh) {
            record.seen += 1;
        }
    }

    /// Judges all; `lossy`: queues were full, so some may be missing.
    ///
    /// A crash ends connections, so their wills are due; and a will may come once more if the
    /// broker crashes before it has noted that it was published (QoS 2: never, its publication
    /// and the note are one batch). The observer misses wills of QoS 0 while the crash keeps it
    /// away.
    pub(crate) fn check(&self, net: &Net, now_us: u64, lossy: bool) {
        for (message, record) in &self.records {
            let due = self.due(record, net, now_us);
            let crashes = self.outages.len() as u32;
            let most = if record.qos < 2 { 1 + crashes } else { 1 };
            let missed = lossy || (record.qos == 0 && crashes > 0);
            let right = match due {
                Due::Once => record.seen <= most && (record.seen > 0 || missed),
                Due::Never => record.seen == 0,
                Due::Perhaps => record.seen <= most,
            };
            if !right {
                self.trace.fail(format_args!(
                    "will {} was published {} times: {due:?} was right ({record:?})",
                    message.0, record.seen
                ));
            }
        }
    }

    fn due(&self, record: &Record, net: &Net, now_us: u64) -> Due {
        let Some(ended) = record.ended else {
            // Its connection stands, or its CONNACK has not been seen.
            return if record.armed { Due::Never } else { Due::Perhaps };
        };
        if !record.armed {
            return Due::Perhaps;
        }
        let Some(closed_us) = net.server_closed_us(ended.link) else {
            return Due::Never;
        };
        let forgot_us = net.server_forgot_us(ended.link);
        let late_us = forgot_us.unwrap_or(closed_us);
        let none = Vec::new();
        let events = self.events.get(&record.client).unwrap_or(&none);
        let mut next = events
            .iter()
            .skip_while(|(at_us, event)| *at_us < ended.at_us || matches!(event, Event::Connected));
        let again = next.next().map(|(at_us, event)| (*at_us, *event));
        let answered = next
            .next()
            .and_then(|(at_us, event)| matches!(event, Event::Connected).then_some(*at_us));
        if ended.goodbye {
            // Unless something else ended the connection before DISCONNECT was read.
            let read = net.server_read_all(ended.link);
            let raced = again.is_some_and(|(at_us, _)| at_us <= closed_us);
            return if raced || forgot_us.is_some() || !read { Due::Perhaps } else { Due::Never };
        }
        if record.delay_us == 0 {
            return Due::Once;
        }
        let due_us = closed_us + record.delay_us;
        let late_us = late_us + record.delay_us;
        match (again, answered) {
            (None, _) if now_us > late_us + SLACK_US => Due::Once,
            (None, _) if now_us + SLACK_US < due_us => Due::Never,
            (Some((at_us, _)), _) if at_us > late_us + SLACK_US => Due::Once,
            (Some((_, Event::Connecting { clean: true })), Some(_)) => Due::Once,
            // The broker counts in milliseconds.
            (Some((_, Event::Connecting { clean: false })), Some(at_us))
                if at_us + 2_000 < due_us =>
            {
                Due::Never
            }
            _ => Due::Perhaps,
        }
    }
}
