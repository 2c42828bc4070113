//! QoS 1 and QoS 2 messages from one client to the server: which QoS 2 ids are open, so that a
//! repeat is not delivered twice, and how many messages are unacknowledged, so that the server's
//! Receive Maximum is kept. Holds no message: each is routed once, at its PUBLISH. Owes nothing:
//! acknowledgements wait in [`crate::Owed`], and this learns from its caller when they left.

use std::collections::VecDeque;

use ringtide_codec::{PacketId, QoS, ReasonCode};

use crate::Violation;

/// An empty state keeps room for this many ids, so that a busy client allocates nothing.
const KEPT_CAPACITY: usize = 256;

/// So many ids may be open however low the Receive Maximum is: clients may carry them over from a
/// connection on which it was higher.
const OPEN_MAX_LEAST: usize = 1024;

/// Where a QoS 2 exchange stands.
///
/// ```text
///              PUBLISH again: PUBREC again, not routed
///               ┌────┐
///  PUBLISH      │    ▼                PUBREL                 PUBCOMP left
///  ──────────► AwaitingRelease ─────────────────► Released ───────────────► id is free
///  routed       │    ▲                            │    │ ▲
///               │    └────── PUBLISH: routed ─────┘    └─┘ PUBREL again
///               └─► refused with 0x80 or above: id is free
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// PUBREL has not come: a repeat of the PUBLISH is a duplicate.
    AwaitingRelease,
    /// PUBREL has come, PUBCOMP is owed: a PUBLISH is a new message, a PUBREL is answered with
    /// Success.
    Released,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    id: PacketId,
    phase: Phase,
    /// Whether its PUBLISH came on this connection and so counts against the Receive Maximum.
    counted: bool,
}

/// What to do with a PUBLISH that is within the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accept {
    /// A new message: route it, and acknowledge it as its QoS demands.
    Route,
    /// A QoS 2 message that was routed before: owe PUBREC again and route nothing. That PUBREC
    /// must wait for the message's record like the first one; the log's end as it is now is late
    /// enough.
    Duplicate,
}

/// See the module's documentation. Boxed by its owner on first use and freed when
/// [`Inbound::is_idle`].
#[derive(Clone, Debug)]
pub struct Inbound {
    /// QoS 2 exchanges, sorted by id. Clients take ids in turn, so both ends are where changes
    /// happen.
    open: VecDeque<Open>,
    /// Messages of this connection without PUBACK, PUBCOMP or a PUBREC of 0x80 and above.
    unacknowledged: u32,
    receive_maximum: u16,
}

impl Inbound {
    /// An empty state. `receive_maximum` is what the server announced, 65 535 if it announced
    /// nothing; 0 is taken for 1.
    pub fn new(receive_maximum: u16) -> Inbound {
        Inbound {
            open: VecDeque::new(),
            unacknowledged: 0,
            receive_maximum: receive_maximum.max(1),
        }
    }

    /// The state of a client that is offline, with the open ids that were persisted, see
    /// [`Inbound::awaiting_release`].
    pub fn restore(receive_maximum: u16, ids: impl IntoIterator<Item = PacketId>) -> Inbound {
        let mut inbound = Inbound::new(receive_maximum);
        for id in ids {
            if let Err(place) = inbound.find(id) {
                inbound.insert(place, id, false);
            }
        }
        inbound
    }

    /// A PUBLISH has come. One of QoS 0 is always routed and leaves no trace.
    ///
    /// # Errors
    /// [`Violation::ReceiveMaximumExceeded`] if the client sent more than the server announced, or
    /// if it has gathered twice as many open ids (and more than 1024) over several connections;
    /// nothing has changed then.
    //= [MQTT-3.3.4-7]
    //= [MQTT-4.3.2-5]
    //= [MQTT-4.3.3-10]
    //= [MQTT-4.3.3-12]
    //= 3.1.1 [MQTT-4.3.2-2]
    //= 3.1.1 [MQTT-4.3.3-2]
    pub fn on_publish(&mut self, qos: QoS, id: PacketId) -> Result<Accept, Violation> {
        match qos {
            QoS::AtMostOnce => Ok(Accept::Route),
            QoS::AtLeastOnce => {
                self.check_receive_maximum()?;
                self.unacknowledged += 1;
                Ok(Accept::Route)
            }
            QoS::ExactlyOnce => match self.find(id) {
                Ok(place) => self.repeat(place),
                Err(place) => self.begin(place, id),
            },
        }
    }

    fn check_receive_maximum(&self) -> Result<(), Violation> {
        if self.unacknowledged >= u32::from(self.receive_maximum) {
            return Err(Violation::ReceiveMaximumExceeded);
        }
        Ok(())
    }

    fn begin(&mut self, place: usize, id: PacketId) -> Result<Accept, Violation> {
        self.check_receive_maximum()?;
        // Ids left open by earlier connections do not count against the Receive Maximum, but a
        // client must not gather them without end.
        let open_max = (2 * usize::from(self.receive_maximum)).max(OPEN_MAX_LEAST);
        if self.open.len() >= open_max {
            return Err(Violation::ReceiveMaximumExceeded);
        }
        self.unacknowledged += 1;
        self.insert(place, id, true);
        Ok(Accept::Route)
    }

    fn repeat(&mut self, place: usize) -> Result<Accept, Violation> {
        let room = self.check_receive_maximum();
        let Some(open) = self.open.get_mut(place) else {
            return Ok(Accept::Duplicate);
        };
        if !open.counted {
            room?;
            open.counted = true;
            self.unacknowledged += 1;
        }
        Ok(match core::mem::replace(&mut open.phase, Phase::AwaitingRelease) {
            Phase::AwaitingRelease => Accept::Duplicate,
            Phase::Released => Accept::Route,
        })
    }

    /// The PUBLISH is answered with a code of 0x80 or above: its id is free and its place in the
    /// Receive Maximum too.
    //= [MQTT-4.3.3-9]
    pub fn on_refused(&mut self, qos: QoS, id: PacketId) {
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.on_acked(qos, id),
            QoS::ExactlyOnce => {
                if let Ok(place) = self.find(id) {
                    self.close(place);
                }
            }
        }
    }

    /// The PUBACK or PUBREC has left, with a code below 0x80. A PUBREC changes nothing here: the
    /// exchange is open until PUBCOMP.
    //= [MQTT-4.3.2-4]
    //= [MQTT-4.3.3-8]
    pub fn on_acked(&mut self, qos: QoS, _id: PacketId) {
        if qos == QoS::AtLeastOnce {
            self.unacknowledged = self.unacknowledged.saturating_sub(1);
        }
    }

    /// A PUBREL has come: the code for the PUBCOMP that is owed now, Success or
    /// `PacketIdentifierNotFound` (which has no place in a PUBCOMP before version 5).
    //= [MQTT-4.3.3-11]
    //= 3.1.1 [MQTT-4.3.3-2]
    pub fn on_pubrel(&mut self, id: PacketId) -> ReasonCode {
        match self.find(id).ok().and_then(|place| self.open.get_mut(place)) {
            Some(open) => {
                open.phase = Phase::Released;
                ReasonCode::Success
            }
            None => ReasonCode::PacketIdentifierNotFound,
        }
    }

    /// The PUBCOMP has left: the id is free, unless the client has already used it again.
    //= [MQTT-4.3.3-12]
    pub fn on_pubcomp_sent(&mut self, id: PacketId) {
        if let Ok(place) = self.find(id)
            && self.open.get(place).is_some_and(|open| open.phase == Phase::Released)
        {
            self.close(place);
        }
    }

    /// The connection is gone: what QoS 1 messages it left unacknowledged is forgotten, the QoS 2
    /// ids stay. Those released stay too, so that a PUBREL sent again on resume meets Success.
    //= [MQTT-3.1.2-23]
    pub fn on_disconnect(&mut self) {
        self.unacknowledged = 0;
        for open in &mut self.open {
            open.counted = false;
        }
    }

    /// A new connection carries the session on, with the Receive Maximum that the server announced
    /// on it; 0 is taken for 1.
    //= [MQTT-3.1.2-5]
    //= 3.1.1 [MQTT-3.1.2-4]
    pub fn on_resume(&mut self, receive_maximum: u16) {
        self.on_disconnect();
        self.receive_maximum = receive_maximum.max(1);
    }

    /// Whether no exchange is open, so that this state can be freed.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.unacknowledged == 0
    }

    /// Messages of this connection that are not yet fully acknowledged.
    pub fn unacknowledged(&self) -> u32 {
        self.unacknowledged
    }

    /// The QoS 2 ids whose PUBREL has not come, ascending: what has to outlive a restart.
    pub fn awaiting_release(&self) -> impl Iterator<Item = PacketId> {
        let waiting = self.open.iter().filter(|open| open.phase == Phase::AwaitingRelease);
        waiting.map(|open| open.id)
    }

    /// Where the id is, or where it belongs.
    fn find(&self, id: PacketId) -> Result<usize, usize> {
        match self.open.back() {
            Some(last) if last.id >= id => self.open.binary_search_by(|open| open.id.cmp(&id)),
            // The next id in turn.
            _ => Err(self.open.len()),
        }
    }

    fn insert(&mut self, place: usize, id: PacketId, counted: bool) {
        self.open.insert(place, Open { id, phase: Phase::AwaitingRelease, counted });
    }

    fn close(&mut self, place: usize) {
        if self.open.remove(place).is_some_and(|open| open.counted) {
            self.unacknowledged -= 1;
        }
        if self.open.is_empty() && self.open.capacity() > KEPT_CAPACITY {
            self.open = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Accept::{Duplicate, Route};
    use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

    fn id(value: u16) -> PacketId {
        PacketId::new(value).unwrap()
    }

    const EXCEEDED: Result<Accept, Violation> = Err(Violation::ReceiveMaximumExceeded);

    #[test]
    fn qos_1_counts_until_its_puback_left() {
        let mut inbound = Inbound::new(2);
        assert_eq!(inbound.on_publish(AtLeastOnce, id(1)), Ok(Route));
        assert_eq!(inbound.on_publish(AtLeastOnce, id(2)), Ok(Route));
        assert_eq!(inbound.on_publish(AtLeastOnce, id(3)), EXCEEDED);
        inbound.on_acked(AtLeastOnce, id(1));
        assert_eq!(inbound.on_publish(AtLeastOnce, id(1)), Ok(Route), "the same id is new");
        inbound.on_refused(AtLeastOnce, id(2));
        inbound.on_acked(AtLeastOnce, id(1));
        assert!(inbound.is_idle());
    }

    #[test]
    fn qos_0_leaves_no_trace() {
        let mut inbound = Inbound::new(1);
        assert_eq!(inbound.on_publish(AtLeastOnce, id(1)), Ok(Route));
        assert_eq!(inbound.on_publish(AtMostOnce, id(1)), Ok(Route));
        assert_eq!(inbound.unacknowledged(), 1);
    }

    #[test]
    fn qos_2_counts_until_its_pubcomp_left() {
        let mut inbound = Inbound::new(1);
        assert_eq!(inbound.on_publish(ExactlyOnce, id(9)), Ok(Route));
        inbound.on_acked(ExactlyOnce, id(9));
        assert_eq!(inbound.on_publish(ExactlyOnce, id(10)), EXCEEDED);
        assert_eq!(inbound.on_pubrel(id(9)), ReasonCode::Success);
        assert_eq!(inbound.on_publish(ExactlyOnce, id(10)), EXCEEDED);
        inbound.on_pubcomp_sent(id(9));
        assert_eq!(inbound.on_publish(ExactlyOnce, id(10)), Ok(Route));
    }

    #[test]
    fn a_refused_qos_2_message_frees_its_id() {
        let mut inbound = Inbound::new(1);
        assert_eq!(inbound.on_publish(ExactlyOnce, id(4)), Ok(Route));
        inbound.on_refused(ExactlyOnce, id(4));
        assert!(inbound.is_idle());
        assert_eq!(inbound.on_publish(ExactlyOnce, id(4)), Ok(Route), "a new message");
    }

    #[test]
    fn ids_may_come_in_any_order() {
        let mut inbound = Inbound::new(100);
        for value in [5, 3, 65_535, 1, 4, 2] {
            assert_eq!(inbound.on_publish(ExactlyOnce, id(value)), Ok(Route));
        }
        assert_eq!(inbound.on_publish(ExactlyOnce, id(3)), Ok(Duplicate));
        let open: Vec<u16> = inbound.awaiting_release().map(PacketId::get).collect();
        assert_eq!(open, [1, 2, 3, 4, 5, 65_535]);
    }

    #[test]
    fn ids_gathered_over_many_connections_have_a_limit() {
        for (receive_maximum, limit) in [(10, 1024), (1000, 2000)] {
            let mut inbound = Inbound::new(receive_maximum);
            let mut ids = (1..=u16::MAX).map(id);
            let exceeded = (0..1000).any(|_| {
                inbound.on_resume(receive_maximum);
                let mut batch = ids.by_ref().take(receive_maximum.into());
                batch.any(|id| inbound.on_publish(ExactlyOnce, id).is_err())
            });
            assert!(exceeded);
            assert_eq!(inbound.awaiting_release().count(), limit);
        }
    }

    #[test]
    fn an_id_used_again_before_its_pubcomp_left_stays_open() {
        let mut inbound = Inbound::new(10);
        assert_eq!(inbound.on_publish(ExactlyOnce, id(1)), Ok(Route));
        assert_eq!(inbound.on_pubrel(id(1)), ReasonCode::Success);
        assert_eq!(inbound.on_publish(ExactlyOnce, id(1)), Ok(Route));
        inbound.on_pubcomp_sent(id(1));
        assert_eq!(inbound.on_publish(ExactlyOnce, id(1)), Ok(Duplicate));
    }

    #[test]
    fn restored_ids_are_duplicates_and_do_not_count_until_repeated() {
        let mut inbound = Inbound::restore(1, [id(7), id(2), id(7)]);
        assert_eq!(inbound.unacknowledged(), 0);
        assert_eq!(inbound.on_publish(ExactlyOnce, id(2)), Ok(Duplicate));
        assert_eq!(inbound.unacknowledged(), 1);
        assert_eq!(inbound.on_publish(ExactlyOnce, id(7)), EXCEEDED);
        assert_eq!(inbound.on_pubrel(id(7)), ReasonCode::Success, "no PUBLISH, no quota");
    }
}
