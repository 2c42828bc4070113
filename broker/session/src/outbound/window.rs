//! The exchanges under way with one client, in the order in which they began, and their packet
//! ids. Owns the ids: which is taken next, which are in use. Knows nothing of quotas, of what is
//! queued, or of which acknowledgement fits which exchange.

use std::collections::VecDeque;

use ringtide_codec::{PacketId, QoS};
use slab::Slab;

use super::Delivery;

/// How many packet ids there are; zero is none.
const LAP: u64 = 65_535;

/// Finished exchanges that may lie between unfinished ones before they are squeezed out.
const HOLES_MIN: usize = 16;

/// An empty window keeps room for this many exchanges, so that a busy client allocates nothing.
const KEPT_CAPACITY: usize = 256;

/// Where an exchange stands.
///
/// ```text
///              QoS 2: PUBREC below 0x80
///  Published ─────────────────────────────► Released
///      │                                        │
///      │ QoS 1: PUBACK                          │ PUBCOMP
///      │ QoS 2: PUBREC 0x80 and above           │
///      │ dropped as too large                   ▼
///      └─────────────────────────────────────► Done ──► its packet id is free
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The PUBLISH is unacknowledged; its message is kept, to be sent again on resume, unless the
    /// exchange ends with the connection.
    Published,
    /// PUBREC has come and PUBREL is owed or unanswered; the message is no longer needed.
    Released,
    /// Over; only its place in the window is left.
    Done,
}

/// No message is kept.
const NONE: u32 = u32::MAX;

/// One exchange and its packet id.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// How often the ids had started anew when this one was taken.
    lap: u32,
    /// The message's place, or [`NONE`].
    message: u32,
    id: PacketId,
    qos: QoS,
    /// Whether this connection has carried the PUBLISH (or the PUBREL, once released).
    pub(super) on_wire: bool,
    pub(super) stage: Stage,
}

impl Slot {
    /// A PUBLISH that no connection has carried.
    fn new(position: Position, qos: QoS, message: u32) -> Slot {
        let Position { lap, id } = position;
        Slot { lap, message, id, qos, on_wire: false, stage: Stage::Published }
    }

    pub(super) fn id(&self) -> PacketId {
        self.id
    }

    pub(super) fn qos(&self) -> QoS {
        self.qos
    }

    pub(super) fn position(&self) -> Position {
        Position { lap: self.lap, id: self.id }
    }

    fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Whether it ends with the connection: its PUBLISH could not be sent again.
    fn is_bare(&self) -> bool {
        self.stage == Stage::Published && self.message == NONE
    }
}

/// An exchange that is over.
pub(super) struct Finished<M> {
    /// Where it stood.
    pub(super) stage: Stage,
    /// Whether this connection had carried it.
    pub(super) on_wire: bool,
    /// Its message, if that was kept.
    pub(super) delivery: Option<Delivery<M>>,
}

/// Where in the endless sequence of packet ids an exchange stands; ordered by age, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    lap: u32,
    id: PacketId,
}

impl Position {
    pub(super) const FIRST: Position = Position { lap: 0, id: PacketId::MIN };

    fn successor(self) -> Position {
        match PacketId::new(self.id.get().wrapping_add(1)) {
            Some(id) => Position { lap: self.lap, id },
            // Zero is no packet id: a lap is over.
            None => Position { lap: self.lap.saturating_add(1), id: PacketId::MIN },
        }
    }

    /// How many positions lie from `earlier` to here; nothing if `earlier` is later.
    fn distance_from(self, earlier: Position) -> Option<u64> {
        self.ordinal().checked_sub(earlier.ordinal())
    }

    fn ordinal(self) -> u64 {
        u64::from(self.lap) * LAP + u64::from(self.id.get() - 1)
    }
}

/// See the module's documentation.
///
/// Slots are sorted by position, so that an id is found from its distance to either end (ids are
/// handed out in turn and mostly acknowledged in turn), and by bisection where finished exchanges
/// have been squeezed out. One exchange that is never finished therefore costs its own slot, and
/// not one for each message that overtook it. Messages lie apart: one that need not be kept costs
/// its exchange's 16 bytes and nothing else.
#[derive(Clone, Debug)]
pub(super) struct Window<M> {
    slots: VecDeque<Slot>,
    messages: Slab<Delivery<M>>,
    live: usize,
    next: Position,
}

impl<M> Window<M> {
    pub(super) const fn new() -> Window<M> {
        Window { slots: VecDeque::new(), messages: Slab::new(), live: 0, next: Position::FIRST }
    }

    /// Exchanges that are not over.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Whether every packet id is in use.
    pub(super) fn is_full(&self) -> bool {
        self.live as u64 >= LAP
    }

    /// Begins an exchange under an id that no other one holds, and returns that id. Not to be
    /// called when the window is full.
    #[inline]
    pub(super) fn push(&mut self, delivery: Delivery<M>) -> PacketId {
        let qos = delivery.qos;
        let message = self.keep(delivery);
        self.begin(qos, message)
    }

    /// The same without its message: it ends with the connection.
    #[inline]
    pub(super) fn push_bare(&mut self, qos: QoS) -> PacketId {
        self.begin(qos, NONE)
    }

    #[inline]
    fn begin(&mut self, qos: QoS, message: u32) -> PacketId {
        assert!(!self.is_full(), "every packet id is in use");
        let position = self.take_position();
        self.append(Slot { on_wire: true, ..Slot::new(position, qos, message) });
        position.id
    }

    #[inline]
    fn keep(&mut self, delivery: Delivery<M>) -> u32 {
        // No more messages than packet ids, which have 16 bits.
        self.messages.insert(delivery) as u32
    }

    /// The exchange that [`Window::push`] has just begun.
    pub(super) fn newest(&self) -> Option<(PacketId, &Delivery<M>)> {
        let slot = self.slots.back()?;
        Some((slot.id, self.message(slot)?))
    }

    /// The message that an exchange still needs and has.
    pub(super) fn message(&self, slot: &Slot) -> Option<&Delivery<M>> {
        self.messages.get(slot.message as usize)
    }

    /// Puts back an exchange that another window held, behind those that are there: a published
    /// one with its message, or a released one. False when its id is in use.
    pub(super) fn restore(&mut self, id: PacketId, delivery: Option<Delivery<M>>) -> bool {
        if self.index_of(id).is_some() {
            return false;
        }
        let lap = self.next.lap + u32::from(id < self.next.id);
        let position = Position { lap, id };
        let slot = match delivery {
            Some(delivery) => {
                let qos = delivery.qos;
                Slot::new(position, qos, self.keep(delivery))
            }
            None => {
                let slot = Slot::new(position, QoS::ExactlyOnce, NONE);
                Slot { stage: Stage::Released, ..slot }
            }
        };
        self.append(slot);
        self.next = position.successor();
        true
    }

    #[inline]
    fn append(&mut self, slot: Slot) {
        self.slots.push_back(slot);
        self.live += 1;
    }

    //= [MQTT-2.2.1-4]
    //= [MQTT-4.3.2-1]
    //= [MQTT-4.3.3-1]
    //= 3.1.1 [MQTT-2.3.1-4]
    #[inline]
    fn take_position(&mut self) -> Position {
        while self.is_taken() {
            self.advance();
        }
        let position = self.next;
        self.advance();
        position
    }

    #[inline]
    fn advance(&mut self) {
        self.next = self.next.successor();
        if self.next.id == PacketId::MIN {
            self.tighten();
        }
    }

    /// Whether the next id belongs to an exchange that is a lap or more old.
    fn is_taken(&self) -> bool {
        let oldest = self.slots.front().map(Slot::position);
        let age = oldest.and_then(|oldest| self.next.distance_from(oldest));
        age.is_some_and(|age| age >= LAP) && self.index_of(self.next.id).is_some()
    }

    /// Moves exchanges that are several laps old up to the latest lap that keeps their order, so
    /// that a look-up has few laps to try however long a client leaves an exchange open. Runs once
    /// a lap.
    fn tighten(&mut self) {
        let oldest = self.slots.front().map(Slot::position);
        let age = oldest.and_then(|oldest| self.next.distance_from(oldest));
        if age.is_none_or(|age| age <= LAP) {
            return;
        }
        self.slots.retain(|slot| !slot.is_done());
        let mut later = self.next;
        for slot in self.slots.iter_mut().rev() {
            slot.lap = later.lap - u32::from(slot.id >= later.id);
            later = slot.position();
        }
    }

    /// Where the unfinished exchange with this id stands. Constant time unless finished exchanges
    /// were squeezed out from among unfinished ones; then logarithmic.
    #[inline]
    pub(super) fn index_of(&self, id: PacketId) -> Option<usize> {
        let oldest = self.slots.front()?.id;
        // As far from the oldest as its id is, unless ids were skipped or slots squeezed out.
        let index = usize::from(id.get().wrapping_sub(oldest.get()));
        let index = index - usize::from(id < oldest);
        match self.slots.get(index) {
            // No two unfinished exchanges have one id.
            Some(slot) if slot.id == id && !slot.is_done() => Some(index),
            _ => self.search(id),
        }
    }

    /// The same by position: its place counted from the end, or else by bisection.
    #[cold]
    fn search(&self, id: PacketId) -> Option<usize> {
        let oldest = self.slots.front()?.position();
        let newest = self.slots.back()?.position();
        let mut lap = self.next.lap.checked_sub(u32::from(id >= self.next.id))?;
        loop {
            let position = Position { lap, id };
            position.distance_from(oldest)?;
            if let Some(index) = self.index_at(position, newest) {
                // A finished one here means that no older one had the id when it was taken.
                return self.slots.get(index).is_some_and(|slot| !slot.is_done()).then_some(index);
            }
            lap = lap.checked_sub(1)?;
        }
    }

    fn index_at(&self, position: Position, newest: Position) -> Option<usize> {
        let from_end = usize::try_from(newest.distance_from(position)?).ok()?;
        let guess = self.slots.len().checked_sub(from_end + 1);
        let is_there =
            |index: &usize| self.slots.get(*index).is_some_and(|slot| slot.position() == position);
        guess
            .filter(is_there)
            .or_else(|| self.slots.binary_search_by(|slot| slot.position().cmp(&position)).ok())
    }

    pub(super) fn slot(&self, index: usize) -> Option<&Slot> {
        self.slots.get(index)
    }

    pub(super) fn slot_mut(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index)
    }

    pub(super) fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut()
    }

    /// The first exchange at or after a position that fits; its index.
    pub(super) fn find_from(
        &self,
        from: Position,
        mut fits: impl FnMut(&Slot) -> bool,
    ) -> Option<usize> {
        let start = self.slots.partition_point(|slot| slot.position() < from);
        let found = self.slots.range(start..).position(&mut fits);
        found.map(|offset| start + offset)
    }

    /// The client has the message: it is no longer needed.
    pub(super) fn release(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.stage = Stage::Released;
        let message = core::mem::replace(&mut slot.message, NONE);
        self.messages.try_remove(message as usize);
    }

    /// Ends the exchange at `index`: its id is free from here on.
    //= [MQTT-2.2.1-4]
    #[inline]
    pub(super) fn finish(&mut self, index: usize) -> Option<Finished<M>> {
        let slot = self.slots.get_mut(index)?;
        let (stage, on_wire, message) = (slot.stage, slot.on_wire, slot.message);
        slot.stage = Stage::Done;
        if index == 0 {
            self.slots.pop_front();
        }
        self.live -= 1;
        let delivery =
            if message == NONE { None } else { self.messages.try_remove(message as usize) };
        if self.slots.len() > self.live || self.slots.is_empty() {
            self.squeeze();
        }
        Some(Finished { stage, on_wire, delivery })
    }

    /// Ends the exchanges that end with the connection.
    pub(super) fn end_bare(&mut self) {
        self.slots.retain(|slot| !slot.is_bare() && !slot.is_done());
        self.live = self.slots.len();
        self.squeeze();
    }

    /// Takes finished exchanges out where that is cheap, and gives a large empty room back.
    fn squeeze(&mut self) {
        while self.slots.front().is_some_and(Slot::is_done) {
            self.slots.pop_front();
        }
        while self.slots.back().is_some_and(Slot::is_done) {
            self.slots.pop_back();
        }
        // Each hole is squeezed out once, and there are at least as many as slots to move.
        if self.slots.len() - self.live > self.live.max(HOLES_MIN) {
            self.slots.retain(|slot| !slot.is_done());
        }
        if self.slots.is_empty() && self.slots.capacity() > KEPT_CAPACITY {
            self.slots = VecDeque::new();
        }
        if self.messages.is_empty() && self.messages.capacity() > KEPT_CAPACITY {
            self.messages = Slab::new();
        }
    }

    /// Unfinished exchanges, oldest first.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| !slot.is_done())
    }

    /// Unfinished exchanges, oldest first, each with its message as long as that is needed. Those
    /// that end with the connection are left out.
    pub(super) fn exchanges(&self) -> impl Iterator<Item = (PacketId, Option<&Delivery<M>>)> {
        let lasting = self.slots.iter().filter(|slot| !slot.is_done() && !slot.is_bare());
        lasting.map(|slot| (slot.id, self.message(slot)))
    }

    /// The same, given up.
    pub(super) fn into_exchanges(self) -> impl Iterator<Item = (PacketId, Option<Delivery<M>>)> {
        let Window { slots, mut messages, .. } = self;
        let lasting = slots.into_iter().filter(|slot| !slot.is_done() && !slot.is_bare());
        lasting.map(move |slot| (slot.id, messages.try_remove(slot.message as usize)))
    }

    #[cfg(test)]
    fn room(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{delivery, id};
    use super::*;

    fn finish_id(window: &mut Window<u32>, packet_id: u16) {
        let index = window.index_of(id(packet_id)).unwrap();
        window.finish(index).unwrap();
    }

    #[test]
    fn ids_are_taken_in_turn_and_skip_those_in_use_after_a_lap() {
        let mut window = Window::new();
        assert_eq!(window.push(delivery(0)).get(), 1);
        assert_eq!(window.push(delivery(1)).get(), 2);
        for expected in 3..=65_535_u16 {
            assert_eq!(window.push(delivery(0)).get(), expected);
            finish_id(&mut window, expected);
        }
        assert_eq!(window.push(delivery(2)).get(), 3, "1 and 2 are in flight");
        assert_eq!(window.len(), 3);
    }

    #[test]
    fn a_full_window_takes_the_first_id_that_is_freed() {
        let mut window = Window::new();
        for _ in 0..65_535 {
            assert!(!window.is_full());
            window.push(delivery(0));
        }
        assert!(window.is_full());
        finish_id(&mut window, 777);
        assert_eq!(window.push(delivery(0)).get(), 777);
    }

    #[test]
    fn an_exchange_left_open_costs_one_slot_over_many_laps() {
        let mut window = Window::new();
        let stuck = window.push(delivery(7));
        let other = window.push(delivery(8));
        for _ in 0..150_000 {
            let a = window.push(delivery(1));
            let b = window.push(delivery(2));
            assert!(a != stuck && b != stuck && a != other && b != other);
            finish_id(&mut window, b.get());
            finish_id(&mut window, a.get());
            assert!(window.room() <= 64);
        }
        let slot = window.slot(window.index_of(stuck).unwrap()).unwrap();
        assert_eq!(window.message(slot).map(|delivery| delivery.message), Some(7));
        assert!(window.next.distance_from(slot.position()).unwrap() <= 2 * LAP);
        finish_id(&mut window, stuck.get());
        finish_id(&mut window, other.get());
        assert_eq!(window.len(), 0);
        assert_eq!(window.room(), 0);
    }

    #[test]
    fn the_first_id_left_open_alone_is_never_taken_again() {
        for open in [1, 2, 65_534, 65_535] {
            let mut window = Window::new();
            for n in 1..=open {
                assert_eq!(window.push(delivery(0)), id(n));
            }
            for n in 1..open {
                finish_id(&mut window, n);
            }
            for _ in 0..2 * LAP + 9 {
                let taken = window.push(delivery(0));
                assert_ne!(taken, id(open));
                finish_id(&mut window, taken.get());
            }
            assert!(window.index_of(id(open)).is_some());
        }
    }

    #[test]
    fn exchanges_of_an_earlier_lap_are_found_in_a_later_one() {
        let mut window = Window::new();
        let mut open: Vec<PacketId> = (0..100).map(|n| window.push(delivery(n))).collect();
        open.retain(|packet_id| {
            let stays = packet_id.get() % 30 == 0;
            if !stays {
                finish_id(&mut window, packet_id.get());
            }
            stays
        });
        assert_eq!(open, [id(30), id(60), id(90)]);
        for _ in 0..LAP + LAP / 2 {
            let taken = window.push(delivery(0));
            finish_id(&mut window, taken.get());
        }
        for packet_id in open.into_iter().rev() {
            finish_id(&mut window, packet_id.get());
        }
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn holes_in_the_middle_are_squeezed_out_and_the_rest_still_found() {
        let mut window = Window::new();
        for n in 0..1000_u32 {
            window.push(delivery(n));
        }
        for n in (1..=1000_u16).filter(|n| n % 10 != 0 && *n != 1) {
            finish_id(&mut window, n);
        }
        assert_eq!(window.len(), 101);
        assert!(window.room() <= 2 * 101 + HOLES_MIN);
        for n in (10..=1000_u16).step_by(10) {
            let index = window.index_of(id(n)).unwrap();
            assert_eq!(window.slot(index).unwrap().id(), id(n));
        }
        assert_eq!(window.index_of(id(15)), None);
    }

    #[test]
    fn an_exchange_costs_sixteen_bytes_beside_its_message() {
        assert_eq!(size_of::<Slot>(), 16);
    }

    #[test]
    fn a_bare_exchange_ends_with_the_connection() {
        let mut window = Window::new();
        let first = window.push(delivery(1));
        let bare = window.push_bare(QoS::AtLeastOnce);
        let twice = window.push_bare(QoS::ExactlyOnce);
        window.release(window.index_of(twice).unwrap());
        let gone = window.push_bare(QoS::AtLeastOnce);
        let finished = window.finish(window.index_of(gone).unwrap()).unwrap();
        assert!(finished.on_wire && finished.stage == Stage::Published);
        assert_eq!(finished.delivery, None);
        assert_eq!(window.len(), 3);
        window.end_bare();
        assert_eq!(window.len(), 2);
        assert_eq!(window.index_of(bare), None);
        let left: Vec<_> = window.into_exchanges().collect();
        assert_eq!(left, [(first, Some(delivery(1))), (twice, None)]);
    }

    #[test]
    fn a_busy_window_stops_growing() {
        let mut window = Window::new();
        let mut capacity = 0;
        for n in 0..200_000_u32 {
            window.push(delivery(n));
            if window.len() == 32 {
                // Pairs out of order, as QoS 1 and QoS 2 overtake each other.
                let oldest = window.slots.front().map(Slot::id).unwrap();
                let second = window.slots.get(1).map(Slot::id).unwrap();
                finish_id(&mut window, second.get());
                finish_id(&mut window, oldest.get());
            }
            if n == 1000 {
                capacity = window.slots.capacity();
            }
        }
        assert_eq!(window.slots.capacity(), capacity);
    }

    #[test]
    fn an_empty_window_gives_a_large_room_back() {
        let mut window = Window::new();
        for n in 0..2000_u32 {
            window.push(delivery(n));
        }
        for n in 1..=2000_u16 {
            finish_id(&mut window, n);
        }
        assert_eq!((window.slots.capacity(), window.messages.capacity()), (0, 0));
    }
}
