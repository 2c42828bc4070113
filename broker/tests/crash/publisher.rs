//! Publishers: numbered messages of QoS 1 and 2, some under way at any time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Findings;
use super::dice::Dice;
use super::link::{Link, Opened};
use super::outbox::Outbox;
use crate::common::{Connect, Event, PATIENCE, Publish, V5};

/// Publishes under way at once.
const WINDOW: usize = 8;
/// The same in a flood: with four publishers several times what a lane between two shards holds.
const FLOOD_WINDOW: usize = 600;
/// A topic, a head and so many bytes go through a lane as they are; more go by reference.
const LANE_BYTES: u64 = 1150;
/// The largest messages of a flood.
const LARGE_BYTES: u64 = 60_000;
/// Seconds that sessions of the test outlive their connections.
pub(crate) const EXPIRY_S: u32 = 100_000;

/// A client that publishes under one id for ever.
pub(crate) struct Publisher {
    id: String,
    number: u32,
    dice: Dice,
    outbox: Outbox,
    /// Many publishes are under way at once, and larger ones.
    pub(crate) floods: bool,
    /// A CONNACK has come: from then on the session must be there.
    known: bool,
    /// The last number sent to each topic; all from 1 were.
    pub(crate) sent: BTreeMap<String, u64>,
}

/// What a client is to do with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Go on until the connection is lost.
    Load,
    /// Begin nothing new; end when nothing is under way.
    Settle,
}

/// The text of a numbered message: the number, then padding.
pub(crate) fn numbered(number: u64, padding: usize) -> String {
    format!("{number} {}", "x".repeat(padding))
}

/// The number of a message.
pub(crate) fn number_of(text: &str) -> u64 {
    let number = text.split(' ').next().and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("a message without a number: {text}"))
}

/// Connects under an id whose session must be there once it has been.
pub(crate) fn resume(
    address: &str,
    connect: Connect,
    known: &mut bool,
    task: Task,
    findings: &Findings,
) -> Option<Link> {
    let id = String::from_utf8_lossy(&connect.client_id).into_owned();
    let connect = connect.resume().expiry(EXPIRY_S);
    match Link::open_at_last(address, &connect, task == Task::Load, findings) {
        Opened::Link(link, present) => {
            if *known && !present {
                findings.add(format!("{id}: its session is lost"));
            }
            *known = true;
            Some(link)
        }
        Opened::Unreachable | Opened::Closed if task == Task::Load => None,
        Opened::Unreachable | Opened::Closed => {
            findings.add(format!("{id}: not accepted"));
            None
        }
        Opened::Refused(answer) => {
            findings.add(format!("{id}: not accepted: {answer}"));
            None
        }
    }
}

impl Publisher {
    pub(crate) fn new(number: u32, dice: Dice) -> Publisher {
        let id = format!("publisher-{number}");
        let outbox = Outbox::new(&id);
        Publisher { id, number, dice, outbox, floods: false, known: false, sent: BTreeMap::new() }
    }

    /// Publishes on one connection.
    pub(crate) fn work(&mut self, address: &str, task: Task, findings: &Findings) {
        let connect = Connect::new(V5, &self.id);
        let Some(mut link) = resume(address, connect, &mut self.known, task, findings) else {
            return;
        };
        let mut open = self.outbox.send_again(&mut link);
        let mut end = Instant::now() + PATIENCE;
        let window = if self.floods { FLOOD_WINDOW } else { WINDOW };
        while open {
            let mut bytes = Vec::new();
            while task == Task::Load && self.outbox.len() < window {
                bytes.extend(self.publish(link.version()));
            }
            open &= bytes.is_empty() || link.send(&bytes);
            if task == Task::Settle && self.outbox.len() == 0 {
                return;
            }
            match link.next(Duration::from_millis(200)) {
                Event::Packet(packet) => {
                    open = self.outbox.answer(&mut link, &packet, findings).1;
                    end = Instant::now() + PATIENCE;
                }
                Event::Closed => return,
                Event::Nothing if Instant::now() > end => {
                    let stuck = self.outbox.len();
                    findings.add(format!("{}: {stuck} publishes are not answered", self.id));
                    return;
                }
                Event::Nothing => {}
            }
        }
    }

    /// True if every publish was acknowledged.
    pub(crate) fn is_settled(&self) -> bool {
        self.outbox.len() == 0
    }

    /// Begins one publish: the bytes to send.
    fn publish(&mut self, version: u8) -> Vec<u8> {
        let qos = 1 + u8::from(self.dice.one_in(2));
        let topic = format!("crash/load/{}/{qos}", self.number);
        let number = self.sent.entry(topic.clone()).or_default();
        *number += 1;
        let padding = match self.dice.below(50) {
            0 if self.floods => self.dice.below(LARGE_BYTES) as usize,
            0 => 20_000,
            1..=5 => 2_000,
            6..=40 if self.floods => self.dice.below(LANE_BYTES) as usize,
            _ => 20,
        };
        self.outbox.begin(Publish::new(&topic, numbered(*number, padding)).qos(qos), version)
    }
}
