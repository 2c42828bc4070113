//! Durable subscribers: they take each message as the standard says, online or not.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Findings;
use super::dice::Dice;
use super::ledger::{Expected, Ledger};
use super::link::Link;
use super::publisher::{Task, number_of, resume};
use crate::common::{Connect, Event, PATIENCE, Packet, Publish, QUIET, Subscribe, V5, packet};

/// A client that receives under one id for ever.
pub(crate) struct Subscriber {
    id: String,
    filter: String,
    qos: u8,
    receive_maximum: u16,
    dice: Dice,
    known: bool,
    /// Packet ids of QoS 2 that PUBREL has not freed: what comes under them is not new.
    held: BTreeSet<u16>,
    /// Shared by the members of a group.
    pub(crate) ledger: Arc<Mutex<Ledger>>,
}

/// How a subscriber spends the time until the kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Online,
    Flapping,
    Offline,
}

impl Subscriber {
    pub(crate) fn new(
        id: &str,
        filter: &str,
        qos: u8,
        ledger: Arc<Mutex<Ledger>>,
        dice: Dice,
    ) -> Self {
        let mut dice = dice;
        let receive_maximum = [3, 20, 1000][dice.below(3) as usize];
        Subscriber {
            id: id.to_owned(),
            filter: filter.to_owned(),
            qos,
            receive_maximum,
            dice,
            known: false,
            held: BTreeSet::new(),
            ledger,
        }
    }

    fn connect(&mut self, address: &str, task: Task, findings: &Findings) -> Option<Link> {
        let connect = Connect::new(V5, &self.id).receive_maximum(self.receive_maximum);
        resume(address, connect, &mut self.known, task, findings)
    }

    /// Subscribes, while no kill comes.
    pub(crate) fn set_up(&mut self, address: &str, findings: &Findings) {
        let mut link = self.connect(address, Task::Settle, findings).expect("the broker runs");
        let subscribe = Subscribe::new(1, &self.filter, self.qos);
        assert!(link.send(&subscribe.encode(V5)));
        match link.next(PATIENCE) {
            Event::Packet(Packet::SubAck { codes, .. }) => assert_eq!(codes, [self.qos]),
            other => panic!("{}: expected SUBACK, got {other:?}", self.id),
        }
    }

    /// Receives until the kill.
    pub(crate) fn work(&mut self, address: &str, mood: Mood, findings: &Findings) {
        if mood == Mood::Offline {
            return;
        }
        loop {
            let Some(mut link) = self.connect(address, Task::Load, findings) else { return };
            loop {
                if mood == Mood::Flapping && self.dice.one_in(100) {
                    break;
                }
                match link.next(Duration::from_millis(50)) {
                    Event::Packet(packet) => {
                        if self.dice.one_in(40) {
                            std::thread::sleep(self.dice.pause(5_000));
                        }
                        if !self.take(&mut link, packet) {
                            return;
                        }
                    }
                    Event::Closed => return,
                    Event::Nothing => {}
                }
            }
        }
    }

    /// Receives until everything has come, and then for a while whether more does.
    pub(crate) fn drain(&mut self, address: &str, expected: &Expected, findings: &Findings) {
        let Some(mut link) = self.connect(address, Task::Settle, findings) else { return };
        let mut end = Instant::now() + PATIENCE;
        loop {
            let missing = self.ledger.lock().expect("no thread panicked with it").missing(expected);
            let wait = if missing.is_empty() { QUIET } else { Duration::from_millis(100) };
            match link.next(wait) {
                Event::Packet(packet) => {
                    end = Instant::now() + PATIENCE;
                    if !self.take(&mut link, packet) {
                        break;
                    }
                    // Not for every message of many: it is a search.
                    while let Event::Packet(packet) = link.next(Duration::from_millis(1)) {
                        if !self.take(&mut link, packet) {
                            break;
                        }
                    }
                }
                Event::Closed => break,
                Event::Nothing if missing.is_empty() => return,
                Event::Nothing if Instant::now() > end => {
                    findings.add(format!("{}: lost: {}", self.id, missing.join(", ")));
                    return;
                }
                Event::Nothing => {}
            }
        }
        findings.add(format!("{}: the connection was closed", self.id));
    }

    #[must_use]
    fn take(&mut self, link: &mut Link, packet: Packet) -> bool {
        match packet {
            Packet::Publish(message) => self.receive(link, &message),
            Packet::PubRel(ack) => {
                self.held.remove(&ack.id);
                link.send(&packet::ack(packet::PUBCOMP, ack.id, 0))
            }
            _ => true,
        }
    }

    fn receive(&mut self, link: &mut Link, message: &Publish) -> bool {
        let answer = match (message.qos, message.id) {
            (1, Some(id)) => packet::ack(packet::PUBACK, id, 0),
            (2, Some(id)) => {
                let answer = packet::ack(packet::PUBREC, id, 0);
                if !self.held.insert(id) {
                    return link.send(&answer);
                }
                answer
            }
            _ => Vec::new(),
        };
        let number = number_of(&message.text());
        let mut ledger = self.ledger.lock().expect("no thread panicked with it");
        ledger.note(&message.topic, number);
        drop(ledger);
        answer.is_empty() || link.send(&answer)
    }
}
