//! A client that subscribes and unsubscribes, and the look at what it is subscribed to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::Findings;
use super::dice::Dice;
use super::link::{Link, Opened};
use super::publisher::{Task, resume};
use crate::common::{
    Connect, Event, PATIENCE, Packet, Publish, QUIET, Subscribe, Unsubscribe, V5, packet,
};

/// Filters that come and go.
const FILTERS: u64 = 10;
/// A filter that stays.
const ALWAYS: &str = "crash/toggle/always";

/// See the module's documentation.
pub(crate) struct Toggler {
    dice: Dice,
    known: bool,
    next_id: u16,
    /// What the last acknowledgement said; subscribed or not.
    acknowledged: BTreeMap<String, bool>,
    /// What was asked for and not answered before the connection was lost.
    asked: BTreeMap<String, bool>,
    probes: u64,
}

impl Toggler {
    pub(crate) fn new(dice: Dice) -> Toggler {
        Toggler {
            dice,
            known: false,
            next_id: 0,
            acknowledged: BTreeMap::new(),
            asked: BTreeMap::new(),
            probes: 0,
        }
    }

    /// Takes its lasting subscription, while no kill comes.
    pub(crate) fn set_up(&mut self, address: &str, findings: &Findings) {
        let mut link = self.connect(address, Task::Settle, findings).expect("the broker runs");
        assert!(self.ask(&mut link, ALWAYS, true), "SUBACK");
    }

    fn connect(&mut self, address: &str, task: Task, findings: &Findings) -> Option<Link> {
        resume(address, Connect::new(V5, "toggler"), &mut self.known, task, findings)
    }

    /// Subscribes and unsubscribes until the kill.
    pub(crate) fn work(&mut self, address: &str, findings: &Findings) {
        let Some(mut link) = self.connect(address, Task::Load, findings) else { return };
        loop {
            let filter = format!("crash/toggle/{}", self.dice.below(FILTERS));
            let on = !self.acknowledged.get(&filter).copied().unwrap_or(false);
            if !self.ask(&mut link, &filter, on) {
                return;
            }
        }
    }

    /// Asks for one change and waits for its acknowledgement; false if the connection was lost.
    fn ask(&mut self, link: &mut Link, filter: &str, on: bool) -> bool {
        self.next_id = self.next_id % 60_000 + 1;
        let id = self.next_id;
        self.asked.insert(filter.to_owned(), on);
        let bytes = if on {
            Subscribe::new(id, filter, 1).encode(V5)
        } else {
            Unsubscribe { id, filters: vec![filter.as_bytes().to_vec()] }.encode(V5)
        };
        let mut open = link.send(&bytes);
        while open {
            match link.next(PATIENCE) {
                Event::Packet(Packet::SubAck { id: own, .. }) if own == id => break,
                Event::Packet(Packet::UnsubAck { id: own, .. }) if own == id => break,
                Event::Packet(Packet::Publish(message)) => {
                    open = link.send(&packet::ack(packet::PUBACK, message.packet_id(), 0));
                }
                Event::Packet(_) => {}
                Event::Closed | Event::Nothing => return false,
            }
        }
        if open {
            self.acknowledged.insert(filter.to_owned(), on);
            self.asked.remove(filter);
        }
        open
    }

    /// Looks at what the session is subscribed to, by what it is sent: what was acknowledged last,
    /// or what was asked for when the broker was killed.
    pub(crate) fn audit(&mut self, address: &str, findings: &Findings) {
        self.probes += 1;
        let text = format!("{} probe", self.probes);
        let Some(got) = self.probe(address, &text, findings) else {
            return findings.add("toggler: the probes did not come".to_owned());
        };
        for filter in (0..FILTERS).map(|number| format!("crash/toggle/{number}")) {
            let on = got.contains(&filter);
            let acknowledged = self.acknowledged.get(&filter).copied().unwrap_or(false);
            let asked = self.asked.get(&filter) == Some(&on);
            if on != acknowledged && !asked {
                findings.add(format!("{filter}: subscribed {on}, acknowledged {acknowledged}"));
            }
            self.acknowledged.insert(filter, on);
        }
        self.asked.clear();
    }

    /// Publishes to every topic while the client is away; the topics that it is then sent.
    fn probe(
        &mut self,
        address: &str,
        text: &str,
        findings: &Findings,
    ) -> Option<BTreeSet<String>> {
        let prober = Connect::new(V5, "prober");
        let opened = Link::open_at_last(address, &prober, false, findings);
        let Opened::Link(mut prober, _) = opened else {
            return None;
        };
        let topics = (0..FILTERS).map(|number| format!("crash/toggle/{number}"));
        for (id, topic) in (1..).zip(topics.chain([ALWAYS.to_owned()])) {
            let publish = Publish::new(&topic, text).qos(1).id(id);
            if !prober.send(&publish.encode(V5)) {
                return None;
            }
            match prober.next(PATIENCE) {
                Event::Packet(Packet::PubAck(_)) => {}
                _ => return None,
            }
        }
        let mut link = self.connect(address, Task::Settle, findings)?;
        let mut got = BTreeSet::new();
        let end = Instant::now() + PATIENCE;
        loop {
            match link.next(QUIET) {
                Event::Packet(Packet::Publish(message)) => {
                    if message.text() == text {
                        got.insert(message.topic.clone());
                    }
                    let ack = packet::ack(packet::PUBACK, message.packet_id(), 0);
                    if !link.send(&ack) {
                        return None;
                    }
                }
                Event::Packet(_) => {}
                Event::Nothing if got.contains(ALWAYS) => return Some(got),
                Event::Nothing if Instant::now() < end => {}
                Event::Nothing | Event::Closed => return None,
            }
        }
    }
}
