//! Clients with a will that are connected when the kill comes: a restart publishes their wills.

use std::sync::Mutex;

use super::Findings;
use super::dice::Dice;
use super::link::{Link, Opened};
use super::publisher::numbered;
use crate::common::{Connect, Event, PATIENCE, Props, V5, Will, packet};

/// The wills of all rounds.
#[derive(Debug, Default)]
pub(crate) struct Wills {
    last: u64,
    /// Wills whose client was connected: topic and number.
    pub(crate) due: Mutex<Vec<(String, u64)>>,
}

/// One client with a will, for one round.
pub(crate) struct Testator {
    connect: Connect,
    topic: String,
    number: u64,
    /// Leaves in an orderly way: then nobody can say whether the broker has heard of it.
    leaves: bool,
}

impl Wills {
    pub(crate) fn testator(&mut self, dice: &mut Dice) -> Testator {
        self.last += 1;
        let number = self.last;
        let qos = 1 + u8::from(dice.one_in(2));
        let topic = format!("crash/will/{qos}");
        let mut will = Will::new(&topic, &numbered(number, 5)).qos(qos);
        let mut connect = Connect::new(V5, &format!("testator-{number}"));
        if dice.one_in(2) {
            connect = connect.expiry(60);
            if dice.one_in(2) {
                will = will.delay(1);
            }
        }
        let leaves = dice.one_in(8);
        Testator { connect: connect.will(will), topic, number, leaves }
    }
}

impl Testator {
    /// Connects and stays until the kill.
    pub(crate) fn work(self, address: &str, wills: &Wills, findings: &Findings) {
        // Not tried again: a second CONNECT would take the first over and publish its will.
        let mut link = match Link::open(address, &self.connect) {
            Opened::Link(link, _) => link,
            Opened::Unreachable | Opened::Closed => return,
            Opened::Refused(answer) => {
                return findings.add(format!("testator: not accepted: {answer}"));
            }
        };
        if self.leaves {
            let _ = link.send(&packet::disconnect(V5, 0, &Props::none()));
            return;
        }
        let due = (self.topic, self.number);
        wills.due.lock().expect("no thread panicked with it").push(due);
        while link.next(PATIENCE) != Event::Closed {}
    }
}
