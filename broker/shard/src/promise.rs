//! What clients were told in CONNACK. New limits hold for new connections only: a client that
//! keeps to what it was promised must not be ended for it. Each connection holds the number of
//! its promise; a promise that nobody holds any more makes room for another.

use ringtide_codec::{QoS, Version};
use ringtide_session::ServerLimits;

/// The number of a connection that was promised nothing yet.
pub(crate) const NOTHING: u16 = u16::MAX;

/// The limits that a CONNACK names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    receive_maximum: u16,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) maximum_qos: QoS,
    pub(crate) retain_available: bool,
}

impl Promise {
    fn of(limits: &ServerLimits) -> Promise {
        Promise {
            receive_maximum: limits.receive_maximum,
            topic_alias_maximum: limits.topic_alias_maximum,
            packet_bytes_max: limits.maximum_packet_bytes,
            maximum_qos: limits.maximum_qos,
            retain_available: limits.retain_available,
        }
    }

    /// The messages of QoS 1 and 2 that the client may leave unacknowledged: before MQTT 5 it
    /// cannot be told, so it is held to the protocol's own limit only.
    pub(crate) fn receive_maximum(&self, version: Option<Version>) -> u16 {
        match version {
            Some(Version::V5) => self.receive_maximum,
            _ => u16::MAX,
        }
    }
}

/// The promises that are held, and the one that new connections get.
#[derive(Debug)]
pub(crate) struct Promises {
    /// Each with the number of connections that hold it.
    made: Vec<(Promise, u32)>,
    current: u16,
}

impl Promises {
    pub(crate) fn new(limits: &ServerLimits) -> Promises {
        Promises { made: vec![(Promise::of(limits), 0)], current: 0 }
    }

    /// New limits are in force.
    pub(crate) fn change(&mut self, limits: &ServerLimits) {
        self.current = self.make(Promise::of(limits));
    }

    /// The number of a promise, which may be another's that nobody holds any more.
    fn make(&mut self, new: Promise) -> u16 {
        let same = self.made.iter().position(|(promise, _)| *promise == new);
        let current = usize::from(self.current);
        let free = |(at, (_, holders)): (usize, &(Promise, u32))| *holders == 0 && at != current;
        let place = same.or_else(|| self.made.iter().enumerate().position(free));
        let place = place.unwrap_or(self.made.len());
        // 65 535 different promises held at once: then the last ones are told apart no more.
        let place = place.min(usize::from(NOTHING - 1));
        match self.made.get_mut(place) {
            Some(made) => made.0 = new,
            None => self.made.push((new, 0)),
        }
        place as u16
    }

    /// A connection is told the limits in force now, and the largest packet that its listener
    /// takes: the number that it keeps.
    pub(crate) fn give(&mut self, packet_bytes_max: u32) -> u16 {
        let current = *self.of(NOTHING);
        let number = match current.packet_bytes_max == packet_bytes_max {
            true => self.current,
            false => self.make(Promise { packet_bytes_max, ..current }),
        };
        if let Some((_, holders)) = self.made.get_mut(usize::from(number)) {
            *holders += 1;
        }
        number
    }

    /// A connection is gone.
    pub(crate) fn take_back(&mut self, number: u16) {
        if let Some((_, holders)) = self.made.get_mut(usize::from(number)) {
            *holders = holders.saturating_sub(1);
        }
    }

    /// A connection's promise; what is in force now for one that has none.
    #[inline]
    pub(crate) fn of(&self, number: u16) -> &Promise {
        let made = self.made.get(usize::from(number));
        &made.unwrap_or(&self.made[usize::from(self.current)]).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(receive_maximum: u16) -> ServerLimits {
        ServerLimits { receive_maximum, ..ServerLimits::default() }
    }

    #[test]
    fn a_promise_is_kept_while_somebody_holds_it() {
        let mut promises = Promises::new(&limits(100));
        let first = promises.give(u32::MAX);
        promises.change(&limits(5));
        let second = promises.give(u32::MAX);
        let maximum =
            |promises: &Promises, number| promises.of(number).receive_maximum(Some(Version::V5));
        assert_eq!(maximum(&promises, first), 100);
        assert_eq!(maximum(&promises, second), 5);
        assert_eq!(maximum(&promises, NOTHING), 5);
        assert_eq!(promises.of(first).receive_maximum(Some(Version::V3_1_1)), u16::MAX);
        promises.change(&limits(100));
        assert_eq!(promises.give(u32::MAX), first, "the same limits are the same promise");
    }

    #[test]
    fn a_listener_s_own_limit_is_a_promise_of_its_own() {
        let mut promises = Promises::new(&limits(100));
        let (small, large) = (promises.give(1000), promises.give(u32::MAX));
        assert_eq!(promises.of(small).packet_bytes_max, 1000);
        assert_eq!(promises.of(large).packet_bytes_max, u32::MAX);
        assert_eq!(promises.give(1000), small);
        assert_eq!(promises.of(NOTHING).packet_bytes_max, u32::MAX);
        promises.change(&limits(5));
        let new = promises.give(1000);
        assert_eq!(promises.of(new).receive_maximum(Some(Version::V5)), 5);
        assert_eq!(promises.of(small).receive_maximum(Some(Version::V5)), 100);
    }

    #[test]
    fn what_nobody_holds_makes_room() {
        let mut promises = Promises::new(&limits(1));
        for round in 0..1000 {
            let held = promises.give(u32::MAX);
            promises.change(&limits(round));
            promises.take_back(held);
        }
        assert!(promises.made.len() <= 2, "{} kept", promises.made.len());
    }
}
