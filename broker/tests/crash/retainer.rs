//! A publisher of retained messages, and the look at what is retained.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Findings;
use super::dice::Dice;
use super::link::{Link, Opened};
use super::outbox::Outbox;
use super::publisher::{Task, number_of, numbered, resume};
use crate::common::{Connect, Event, PATIENCE, Packet, Publish, QUIET, Subscribe, V5};

/// Topics with a retained message.
const TOPICS: u64 = 12;
/// Publishes under way at once in a flood, each of another topic: one that comes again may not
/// replace a later one.
const FLOOD_WINDOW: usize = 6;

/// A client that sets and clears retained messages, one after the other.
pub(crate) struct Retainer {
    dice: Dice,
    outbox: Outbox,
    /// Several publishes are under way at once.
    pub(crate) floods: bool,
    known: bool,
    number: u64,
    /// By topic: the number that was acknowledged last, 0 = cleared.
    acknowledged: BTreeMap<String, u64>,
}

/// What a retained PUBLISH leaves behind.
fn outcome(publish: &Publish) -> u64 {
    if publish.payload.is_empty() { 0 } else { number_of(&publish.text()) }
}

impl Retainer {
    pub(crate) fn new(dice: Dice) -> Retainer {
        Retainer {
            dice,
            outbox: Outbox::new("retainer"),
            floods: false,
            known: false,
            number: 0,
            acknowledged: BTreeMap::new(),
        }
    }

    pub(crate) fn work(&mut self, address: &str, task: Task, findings: &Findings) {
        let connect = Connect::new(V5, "retainer");
        let Some(mut link) = resume(address, connect, &mut self.known, task, findings) else {
            return;
        };
        let mut open = self.outbox.send_again(&mut link);
        let window = if self.floods { FLOOD_WINDOW } else { 1 };
        let end = Instant::now() + PATIENCE;
        while open {
            if task == Task::Settle && self.outbox.len() == 0 {
                return;
            }
            while task == Task::Load && open && self.outbox.len() < window {
                open = self.publish(&mut link);
            }
            match link.next(Duration::from_millis(200)) {
                Event::Packet(packet) => {
                    let (done, still) = self.outbox.answer(&mut link, &packet, findings);
                    open = still;
                    if let Some(done) = done {
                        self.acknowledged.insert(done.topic.clone(), outcome(&done));
                    }
                }
                Event::Closed => return,
                Event::Nothing if task == Task::Settle && Instant::now() > end => {
                    findings.add("retainer: a publish is not answered".to_owned());
                    return;
                }
                Event::Nothing => {}
            }
        }
    }

    fn publish(&mut self, link: &mut Link) -> bool {
        let is_under_way =
            |topic: &str| self.outbox.items().any(|item| item.publish.topic == topic);
        let topic = loop {
            let topic = format!("crash/retained/{}", self.dice.below(TOPICS));
            if !is_under_way(&topic) {
                break topic;
            }
        };
        let qos = 1 + u8::from(self.dice.one_in(2));
        self.number += 1;
        let payload = if self.dice.one_in(4) { String::new() } else { numbered(self.number, 10) };
        self.outbox.publish(link, Publish::new(&topic, payload).qos(qos).retain())
    }

    /// Looks at what is retained: each topic has what was acknowledged last, or what was under way
    /// when the broker was killed.
    pub(crate) fn audit(&self, address: &str, findings: &Findings) {
        let connect = Connect::new(V5, "retained-auditor");
        let opened = Link::open_at_last(address, &connect, false, findings);
        let Opened::Link(mut link, _) = opened else {
            return findings.add("retained-auditor: not accepted".to_owned());
        };
        let subscribe = Subscribe::new(1, "crash/retained/#", 0);
        if !link.send(&subscribe.encode(V5)) {
            return findings.add("retained-auditor: the connection was closed".to_owned());
        }
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        let due = self.acknowledged.iter().filter(|(topic, number)| {
            **number != 0 && self.outbox.items().all(|item| item.publish.topic != **topic)
        });
        let due: Vec<&String> = due.map(|(topic, _)| topic).collect();
        let end = Instant::now() + PATIENCE;
        loop {
            let all = due.iter().all(|topic| found.contains_key(*topic));
            match link.next(QUIET) {
                Event::Packet(Packet::Publish(message)) => {
                    found.insert(message.topic.clone(), outcome(&message));
                }
                Event::Packet(_) => {}
                Event::Nothing if !all && Instant::now() < end => {}
                Event::Nothing | Event::Closed => break,
            }
        }
        for topic in (0..TOPICS).map(|number| format!("crash/retained/{number}")) {
            let number = found.get(&topic).copied().unwrap_or(0);
            let acknowledged = self.acknowledged.get(&topic).copied().unwrap_or(0);
            let mut under_way = self.outbox.items().filter(|item| item.publish.topic == topic);
            let fits =
                number == acknowledged || under_way.any(|item| outcome(&item.publish) == number);
            if !fits {
                findings.add(format!("{topic} holds {number}, acknowledged was {acknowledged}"));
            }
        }
    }
}
