//! The publishing side's memory: exchanges under way, carried on over any number of connections.

use std::collections::VecDeque;

use super::Findings;
use super::link::Link;
use crate::common::{Packet, Publish, packet};

/// A publish that is not acknowledged to its end.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) publish: Publish,
    /// PUBREC has come.
    released: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Outbox {
    who: String,
    items: VecDeque<Item>,
    next_id: u16,
}

impl Outbox {
    pub(crate) fn new(who: &str) -> Outbox {
        Outbox { who: who.to_owned(), items: VecDeque::new(), next_id: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    /// Publishes with QoS 1 or 2; false if the connection is lost. It is under way either way.
    #[must_use]
    pub(crate) fn publish(&mut self, link: &mut Link, publish: Publish) -> bool {
        let bytes = self.begin(publish, link.version());
        link.send(&bytes)
    }

    /// Begins a publish with QoS 1 or 2: the bytes to send.
    pub(crate) fn begin(&mut self, mut publish: Publish, version: u8) -> Vec<u8> {
        loop {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if self.items.iter().all(|item| item.publish.packet_id() != self.next_id) {
                break;
            }
        }
        publish.id = Some(self.next_id);
        let bytes = publish.encode(version);
        self.items.push_back(Item { publish, released: false });
        bytes
    }

    /// Sends again, in order, what is under way: after a reconnect.
    #[must_use]
    pub(crate) fn send_again(&mut self, link: &mut Link) -> bool {
        let mut bytes = Vec::new();
        for item in &self.items {
            let id = item.publish.packet_id();
            if item.released {
                bytes.extend(packet::ack(packet::PUBREL, id, 0));
            } else {
                bytes.extend(item.publish.clone().dup().encode(link.version()));
            }
        }
        bytes.is_empty() || link.send(&bytes)
    }

    /// Takes an acknowledgement: the publish that it completes, if it does. The flag is false if
    /// the connection is lost.
    pub(crate) fn answer(
        &mut self,
        link: &mut Link,
        packet: &Packet,
        findings: &Findings,
    ) -> (Option<Publish>, bool) {
        match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) if ack.code >= 0x80 => {
                findings.add(format!("{}: refused with {:#04x}", self.who, ack.code));
                (self.take(ack.id), true)
            }
            Packet::PubAck(ack) | Packet::PubComp(ack) => (self.take(ack.id), true),
            Packet::PubRec(ack) => {
                for item in self.items.iter_mut().filter(|i| i.publish.packet_id() == ack.id) {
                    item.released = true;
                }
                (None, link.send(&packet::ack(packet::PUBREL, ack.id, 0)))
            }
            _ => (None, true),
        }
    }

    fn take(&mut self, id: u16) -> Option<Publish> {
        let at = self.items.iter().position(|item| item.publish.packet_id() == id)?;
        self.items.remove(at).map(|item| item.publish)
    }
}
