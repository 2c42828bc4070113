//! QoS 1 and QoS 2 messages from the server to one client: what waits, what is under way, which
//! packet ids are in use, how much of the client's Receive Maximum is left, what is sent again on
//! resume. Knows no socket and no packet layout; a QoS 0 message never comes here.
//!
//! ```text
//!   offer ──► queue ──► next ──► window ──► on_puback, on_pubrec, on_pubcomp ──► gone
//!     │         ▲                  ▲  │
//!     │         │ quota used up,   │  │ on_disconnect, on_resume, resend_next:
//!     └─────────┘ offline, or      │  │ the same ids in the same order, PUBLISH with DUP
//!     │           others wait      └──┘
//!     └── the queue is empty and the quota allows: straight into the window
//! ```

mod chunks;
mod queue;
mod window;

use core::num::NonZeroU64;

use ringtide_codec::{PacketId, QoS, ReasonCode};
use smallvec::SmallVec;

use crate::Violation;
use crate::expiry::has_expired;
use queue::Queue;
use window::{Finished, Position, Slot, Stage, Window};

/// Subscription identifiers that a message carries; two fit without an allocation.
pub type SubscriptionIds = SmallVec<[u32; 2]>;

/// Which message is dropped when a queue is at its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropPolicy {
    /// The one that has waited longest; the new one is queued.
    Oldest,
    /// The new one.
    Newest,
}

/// The limits of one client's queue. What is in flight does not count. What waits above them since
/// they were lowered or it was restored stays, and a new message meets a full queue until enough
/// of it has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most messages that may wait; 0 lets none wait.
    pub count_max: u32,
    /// Most bytes that may wait, as counted by [`Delivery::bytes`]. A message for which several
    /// smaller ones must go may exceed it until they are collected, see [`Outbound::evict_next`].
    pub bytes_max: u64,
    /// What is dropped at a limit.
    pub policy: DropPolicy,
}

impl QueueLimits {
    /// The limit that a queue of this size is above.
    fn reached_by(&self, count: usize, bytes: u64) -> Option<DropReason> {
        if count as u64 > u64::from(self.count_max) {
            return Some(DropReason::QueueCount);
        }
        (bytes > self.bytes_max).then_some(DropReason::QueueBytes)
    }
}

/// Why a message was dropped instead of being sent or queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The queue held its most messages.
    QueueCount,
    /// The queue held its most bytes, or the message alone is larger than that.
    QueueBytes,
    /// Its expiry passed before its delivery began.
    Expired,
}

/// One message for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery<M> {
    /// A handle to the message, cheap to clone.
    pub message: M,
    /// The QoS of this delivery: the lower of the publisher's and the granted one; 1 or 2.
    //= [MQTT-3.8.4-8]
    pub qos: QoS,
    /// The RETAIN flag as this client gets it.
    pub retain: bool,
    /// The identifiers of the subscriptions that matched.
    pub subscription_ids: SubscriptionIds,
    /// When the message expires, in milliseconds of the caller's clock; never, if absent.
    pub expires_at_ms: Option<NonZeroU64>,
    /// What the message counts against [`QueueLimits::bytes_max`].
    pub bytes: u32,
    /// The client's membership of the shared group for which it was chosen, as the caller names
    /// it; 0 for its own subscriptions. When the session ends, only what came to a group goes
    /// to another of its members.
    pub membership: u16,
}

impl<M> Delivery<M> {
    /// Whether the message's expiry has passed.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|at_ms| has_expired(at_ms, now_ms))
    }
}

/// What became of an offered message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer<M> {
    /// Send it now under this id; [`Outbound::delivery`] has it.
    Send(PacketId),
    /// It waits.
    Queued,
    /// A message was dropped: the offered one, or with [`DropPolicy::Oldest`] (or when it had
    /// expired) one that waited, in which case the offered one waits now.
    Dropped {
        /// The message that is gone.
        dropped: Delivery<M>,
        /// Why.
        reason: DropReason,
    },
}

/// What to do with the queue; see [`Outbound::next`].
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a, M> {
    /// Send this message under this id, with DUP 0.
    Send {
        /// Its new packet id.
        id: PacketId,
        /// The message, which stays here until it is acknowledged.
        delivery: &'a Delivery<M>,
    },
    /// This message's expiry passed while it waited; it is gone. Call again.
    Expired(Delivery<M>),
    /// Nothing may go out now: the queue is empty, the quota is used up, or what was under way on
    /// the last connection has not all been sent again.
    Idle,
}

/// What to send again on a resumed session; see [`Outbound::resend_next`].
#[derive(Debug, PartialEq, Eq)]
pub enum Resend<'a, M> {
    /// The PUBLISH, under the id that it had.
    Publish {
        /// Its packet id.
        id: PacketId,
        /// The message.
        delivery: &'a Delivery<M>,
        /// The DUP flag: true, unless the connection broke before the PUBLISH ever left.
        dup: bool,
    },
    /// The PUBREL that answers an earlier connection's PUBREC.
    Pubrel {
        /// Its packet id.
        id: PacketId,
    },
}

/// What a PUBACK did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acked<M> {
    /// The client has the message; it is here if it was kept.
    Delivered(Option<Delivery<M>>),
    /// The client refused it with a code of 0x80 or above; it is not sent again, to nobody.
    Refused(Option<Delivery<M>>),
    /// No exchange has this id, as when the client answers twice. Nothing changed.
    Unknown,
}

/// How to answer a PUBREC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PubrecReply {
    /// Send PUBREL with Success, once the change is durable.
    SendPubrel,
    /// Send nothing: the code was 0x80 or above and the exchange, if there was one, is over.
    Ended,
    /// No exchange has this id: send PUBREL with 0x92 (a plain one before version 5).
    UnknownId,
}

/// What a PUBCOMP did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Completed {
    /// The exchange is over and its id free.
    Done,
    /// No exchange has this id. Nothing changed.
    Unknown,
}

/// A message or exchange as [`Outbound::drain`] gives it up and [`Outbound::restore`] takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfinished<M> {
    /// PUBLISH sent, neither PUBACK nor PUBREC received. One of QoS 1 may be given to another
    /// member of a shared group; one of QoS 2 may not.
    //= [MQTT-4.8.2-4]
    //= [MQTT-4.8.2-5]
    Published {
        /// The packet id that it holds.
        id: PacketId,
        /// The message.
        delivery: Delivery<M>,
    },
    /// PUBREC received, PUBCOMP not: the client has the message, and it may go to nobody else.
    Released {
        /// The packet id that it holds.
        id: PacketId,
    },
    /// Never sent.
    Queued(Delivery<M>),
}

/// See the module's documentation. Boxed by its owner on first use and freed when
/// [`Outbound::is_idle`].
#[derive(Clone, Debug)]
pub struct Outbound<M> {
    window: Window<M>,
    queue: Queue<M>,
    /// Exchanges that the client may count against its Receive Maximum: each PUBLISH that this
    /// connection carried and each PUBREL, until the exchange is over.
    charged: u32,
    /// Every PUBLISH that is to be sent again.
    resend_publishes: u32,
    /// Every PUBREL that is to be sent again.
    resend_pubrels: u32,
    /// No PUBLISH before this one is to be sent again.
    publish_cursor: Position,
    /// No PUBREL before this one is to be sent again.
    pubrel_cursor: Position,
    /// The client's Receive Maximum; 0 while it is offline.
    receive_maximum: u16,
}

impl<M: Clone> Outbound<M> {
    /// An empty state. `receive_maximum` is what the client announced or a lower limit of the
    /// server's own; 0 is taken for 1.
    //= [MQTT-4.9.0-1]
    pub fn new(receive_maximum: u16, limits: QueueLimits) -> Outbound<M> {
        Outbound {
            window: Window::new(),
            queue: Queue::new(limits),
            charged: 0,
            resend_publishes: 0,
            resend_pubrels: 0,
            publish_cursor: Position::FIRST,
            pubrel_cursor: Position::FIRST,
            receive_maximum: receive_maximum.max(1),
        }
    }

    /// Takes a message of QoS 1 or 2: it goes out now if the client is connected, its quota allows
    /// it and nothing waits before it; otherwise it waits, or a message is dropped by the policy.
    /// After [`Offer::Dropped`] collect [`Outbound::evict_next`] until it has no more.
    ///
    /// # Panics
    /// If the message is of QoS 0, which has no exchange; that is the caller's mistake.
    //= [MQTT-4.5.0-1]
    //= [MQTT-3.3.4-9]
    //= [MQTT-4.3.2-2]
    //= [MQTT-4.3.3-2]
    //= [MQTT-3.3.1-3]
    //= 3.1.1 [MQTT-3.1.2-5]
    //= 3.1.1 [MQTT-4.5.0-1]
    pub fn offer(&mut self, delivery: Delivery<M>, now_ms: u64, connected: bool) -> Offer<M> {
        assert!(delivery.qos != QoS::AtMostOnce, "a QoS 0 message has no exchange");
        //= [MQTT-3.3.2-5]
        if delivery.is_expired(now_ms) {
            return Offer::Dropped { dropped: delivery, reason: DropReason::Expired };
        }
        //= [MQTT-4.6.0-5]
        //= [MQTT-4.6.0-6]
        //= 3.1.1 [MQTT-4.6.0-6]
        if connected && self.queue.is_empty() && self.may_begin() {
            self.charged += 1;
            return Offer::Send(self.window.push(delivery));
        }
        match self.queue.push(delivery, now_ms) {
            None => Offer::Queued,
            Some((dropped, reason)) => Offer::Dropped { dropped, reason },
        }
    }

    /// Begins an exchange of QoS 1 or 2 without its message, which the caller writes at once: for a
    /// session that ends with its connection, where no message is ever sent again. `None` if it
    /// must wait, and so has to be offered.
    //= [MQTT-4.5.0-1]
    //= [MQTT-3.3.4-9]
    //= 3.1.1 [MQTT-4.5.0-1]
    #[inline]
    pub fn begin_bare(&mut self, qos: QoS) -> Option<PacketId> {
        if qos == QoS::AtMostOnce || !self.is_ready() {
            return None;
        }
        self.charged += 1;
        Some(self.window.push_bare(qos))
    }

    /// Whether a message that comes now may go out at once: nothing waits before it.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.queue.is_empty() && self.may_begin()
    }

    /// Whether a new message may go out: quota is left and nothing older is still to be sent
    /// again.
    //= [MQTT-4.9.0-2]
    fn may_begin(&self) -> bool {
        self.charged < u32::from(self.receive_maximum)
            && self.resend_publishes == 0
            && self.resend_pubrels == 0
            && !self.window.is_full()
    }

    /// One more message that had to go for the last offered one, and why. The queue holds no more
    /// than it may when there is none left; what is not collected is dropped at the next offer.
    pub fn evict_next(&mut self) -> Option<(Delivery<M>, DropReason)> {
        self.queue.pop_excess()
    }

    /// The next waiting message that may go out.
    //= [MQTT-3.3.4-9]
    pub fn next(&mut self, now_ms: u64) -> Next<'_, M> {
        if !self.may_begin() {
            return Next::Idle;
        }
        let Some(delivery) = self.queue.pop() else {
            return Next::Idle;
        };
        //= [MQTT-3.3.2-5]
        if delivery.is_expired(now_ms) {
            return Next::Expired(delivery);
        }
        self.charged += 1;
        self.window.push(delivery);
        match self.window.newest() {
            Some((id, delivery)) => Next::Send { id, delivery },
            None => Next::Idle,
        }
    }

    /// The message that an exchange still needs and has: a PUBLISH that is unacknowledged.
    pub fn delivery(&self, id: PacketId) -> Option<&Delivery<M>> {
        self.window.message(self.window.slot(self.window.index_of(id)?)?)
    }

    /// Ends an exchange whose PUBLISH cannot be sent, because it is larger than the client accepts
    /// or not to be had, as though the client had acknowledged it: its id and its share of the
    /// quota are free. The message, if it was kept.
    //= [MQTT-3.1.2-24]
    //= [MQTT-3.1.2-25]
    pub fn give_up(&mut self, id: PacketId) -> Option<Delivery<M>> {
        let index = self.window.index_of(id)?;
        match self.window.slot(index)?.stage {
            Stage::Published => self.finish(index),
            Stage::Released | Stage::Done => None,
        }
    }

    /// A PUBACK has come, with any code.
    ///
    /// # Errors
    /// [`Violation::WrongAcknowledgement`] if the id belongs to a QoS 2 exchange, which goes on
    /// untouched.
    //= [MQTT-4.3.2-3]
    //= [MQTT-4.4.0-2]
    //= [MQTT-4.8.2-6]
    pub fn on_puback(&mut self, id: PacketId, reason: ReasonCode) -> Result<Acked<M>, Violation> {
        let Some(index) = self.window.index_of(id) else {
            return Ok(Acked::Unknown);
        };
        let is_due = |slot: &Slot| slot.stage == Stage::Published && slot.qos() == QoS::AtLeastOnce;
        if !self.window.slot(index).is_some_and(is_due) {
            return Err(Violation::WrongAcknowledgement);
        }
        let delivery = self.finish(index);
        Ok(if reason.is_error() { Acked::Refused(delivery) } else { Acked::Delivered(delivery) })
    }

    /// A PUBREC has come. A code below 0x80 lets go of the message and asks for PUBREL; a code of
    /// 0x80 or above ends the exchange.
    ///
    /// # Errors
    /// [`Violation::WrongAcknowledgement`] if the id belongs to a QoS 1 exchange, which goes on
    /// untouched.
    //= [MQTT-4.3.3-3]
    //= [MQTT-4.3.3-4]
    //= [MQTT-4.4.0-2]
    //= [MQTT-4.8.2-6]
    pub fn on_pubrec(
        &mut self,
        id: PacketId,
        reason: ReasonCode,
    ) -> Result<PubrecReply, Violation> {
        let Some(index) = self.window.index_of(id) else {
            let ended = reason.is_error();
            return Ok(if ended { PubrecReply::Ended } else { PubrecReply::UnknownId });
        };
        if self.window.slot(index).is_some_and(|slot| slot.qos() != QoS::ExactlyOnce) {
            return Err(Violation::WrongAcknowledgement);
        }
        if reason.is_error() {
            self.finish(index);
            return Ok(PubrecReply::Ended);
        }
        self.release(index);
        Ok(PubrecReply::SendPubrel)
    }

    /// The client has the message: what is left of the exchange is PUBREL and PUBCOMP.
    //= [MQTT-4.3.3-5]
    //= [MQTT-4.3.3-6]
    //= [MQTT-4.3.3-7]
    fn release(&mut self, index: usize) {
        let Some(slot) = self.window.slot_mut(index) else {
            return;
        };
        let was_on_wire = core::mem::replace(&mut slot.on_wire, true);
        let before = slot.stage;
        self.window.release(index);
        match before {
            // Answered before it was sent again: from here on it counts against the quota.
            Stage::Published if !was_on_wire => {
                self.resend_publishes -= 1;
                self.charged += 1;
            }
            Stage::Released if !was_on_wire => self.resend_pubrels -= 1,
            Stage::Published | Stage::Released | Stage::Done => {}
        }
    }

    /// A PUBCOMP has come, with any code.
    ///
    /// # Errors
    /// [`Violation::WrongAcknowledgement`] if no PUBREC came before it; the exchange goes on
    /// untouched.
    //= [MQTT-4.3.3-5]
    pub fn on_pubcomp(
        &mut self,
        id: PacketId,
        _reason: ReasonCode,
    ) -> Result<Completed, Violation> {
        let Some(index) = self.window.index_of(id) else {
            return Ok(Completed::Unknown);
        };
        match self.window.slot(index).map(|slot| slot.stage) {
            Some(Stage::Released) => self.finish(index),
            _ => return Err(Violation::WrongAcknowledgement),
        };
        Ok(Completed::Done)
    }

    /// Ends the exchange at `index` and takes it out of every count.
    #[inline]
    fn finish(&mut self, index: usize) -> Option<Delivery<M>> {
        let Finished { stage, on_wire, delivery } = self.window.finish(index)?;
        match stage {
            Stage::Published if on_wire => self.charged -= 1,
            Stage::Published => self.resend_publishes -= 1,
            Stage::Released => {
                self.charged -= 1;
                self.resend_pubrels -= u32::from(!on_wire);
            }
            Stage::Done => {}
        }
        delivery
    }

    /// The connection is gone: everything under way has to be sent again, but for what was begun
    /// bare and ends here, and nothing goes out until [`Outbound::on_resume`].
    //= [MQTT-3.1.2-23]
    pub fn on_disconnect(&mut self) {
        self.receive_maximum = 0;
        self.resend_publishes = 0;
        self.resend_pubrels = 0;
        self.publish_cursor = Position::FIRST;
        self.pubrel_cursor = Position::FIRST;
        self.window.end_bare();
        for slot in self.window.slots_mut() {
            slot.on_wire = false;
            match slot.stage {
                Stage::Published => self.resend_publishes += 1,
                Stage::Released => self.resend_pubrels += 1,
                Stage::Done => {}
            }
        }
        // A client may count a message whose PUBREL is owed against its Receive Maximum, so it is
        // counted here from the start.
        self.charged = self.resend_pubrels;
    }

    /// A new connection carries the session on, with its own Receive Maximum (0 is taken for 1)
    /// and the limits in force now. First call [`Outbound::resend_next`] until it has no more,
    /// then [`Outbound::next`]; both again after every acknowledgement.
    //= [MQTT-3.1.2-5]
    //= [MQTT-4.9.0-1]
    //= [MQTT-4.9.0-2]
    //= 3.1.1 [MQTT-3.1.2-4]
    pub fn on_resume(&mut self, receive_maximum: u16, limits: QueueLimits) {
        self.on_disconnect();
        self.receive_maximum = receive_maximum.max(1);
        self.queue.set_limits(limits);
    }

    /// The next packet of the last connection's exchanges that is to be sent again: in the order
    /// in which they began, each PUBLISH under the new quota. A PUBREL needs no quota and does not
    /// wait for a PUBLISH that does.
    //= [MQTT-4.4.0-1]
    //= [MQTT-4.6.0-1]
    //= [MQTT-4.6.0-4]
    //= [MQTT-4.9.0-2]
    //= [MQTT-4.9.0-3]
    //= 3.1.1 [MQTT-2.3.1-3]
    //= 3.1.1 [MQTT-4.4.0-1]
    //= 3.1.1 [MQTT-4.6.0-1]
    //= 3.1.1 [MQTT-4.6.0-4]
    pub fn resend_next(&mut self) -> Option<Resend<'_, M>> {
        if self.receive_maximum == 0 {
            return None;
        }
        let publish = self.publish_to_resend();
        let pubrel = self.pubrel_to_resend();
        let index = match (publish, pubrel) {
            (Some(publish), Some(pubrel)) => publish.min(pubrel),
            (publish, pubrel) => publish.or(pubrel)?,
        };
        let slot = self.window.slot_mut(index)?;
        slot.on_wire = true;
        let (id, position, stage) = (slot.id(), slot.position(), slot.stage);
        if stage == Stage::Published {
            self.publish_cursor = position;
            self.resend_publishes -= 1;
            self.charged += 1;
            //= [MQTT-3.3.1-1]
            //= 3.1.1 [MQTT-3.3.1-1]
            let delivery = self.window.message(self.window.slot(index)?)?;
            Some(Resend::Publish { id, delivery, dup: true })
        } else {
            self.pubrel_cursor = position;
            self.resend_pubrels -= 1;
            Some(Resend::Pubrel { id })
        }
    }

    /// The message that the next call of [`Outbound::resend_next`], or else [`Outbound::next`],
    /// would give, if it would give one.
    pub fn peek(&self) -> Option<&Delivery<M>> {
        if self.receive_maximum == 0 {
            return None;
        }
        match (self.publish_to_resend(), self.pubrel_to_resend()) {
            (Some(publish), pubrel) if pubrel.is_none_or(|pubrel| publish < pubrel) => {
                self.window.message(self.window.slot(publish)?)
            }
            (None, None) if self.may_begin() => self.queue.front(),
            _ => None,
        }
    }

    /// The messages that are to be sent again, oldest first.
    pub fn to_resend(&self) -> impl Iterator<Item = &Delivery<M>> {
        let left = if self.resend_publishes == 0 { 0 } else { usize::MAX };
        let slots = self.window.unfinished().take(left);
        let again = slots.filter(|slot| !slot.on_wire && slot.stage == Stage::Published);
        again.filter_map(|slot| self.window.message(slot))
    }

    //= [MQTT-4.3.3-7]
    fn publish_to_resend(&self) -> Option<usize> {
        if self.resend_publishes == 0 || self.charged >= u32::from(self.receive_maximum) {
            return None;
        }
        self.window
            .find_from(self.publish_cursor, |slot| !slot.on_wire && slot.stage == Stage::Published)
    }

    //= [MQTT-4.3.3-13]
    fn pubrel_to_resend(&self) -> Option<usize> {
        if self.resend_pubrels == 0 {
            return None;
        }
        self.window
            .find_from(self.pubrel_cursor, |slot| !slot.on_wire && slot.stage == Stage::Released)
    }

    /// Hands every waiting message whose expiry has passed to `sink`. Takes time in the length of
    /// the queue: for a timer, not for each message.
    pub fn sweep_expired(&mut self, now_ms: u64, sink: impl FnMut(Delivery<M>)) {
        self.queue.sweep_expired(now_ms, sink);
    }

    /// Whether something waits to be sent, for the first time or again, quota or not.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        !self.queue.is_empty() || self.resend_publishes + self.resend_pubrels > 0
    }

    /// Exchanges that are not over; each holds a packet id.
    pub fn inflight_len(&self) -> usize {
        self.window.len()
    }

    /// Messages that wait.
    pub fn queued_len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes that wait, as counted by [`Delivery::bytes`].
    pub fn queued_bytes(&self) -> u64 {
        self.queue.bytes()
    }

    /// Whether nothing is under way and nothing waits, so that this state can be freed.
    pub fn is_idle(&self) -> bool {
        self.window.len() == 0 && self.queue.is_empty()
    }

    /// What is under way, in the order in which it began: the packet id, and the message as long
    /// as it is unacknowledged. What was begun bare is left out.
    pub fn under_way(&self) -> impl Iterator<Item = (PacketId, Option<&Delivery<M>>)> {
        self.window.exchanges()
    }

    /// What waits, oldest first, without the first ones for which `is_before` holds: it is asked
    /// of a few only, since it holds for no message behind one for which it does not.
    pub fn waiting_behind(
        &self,
        is_before: impl FnMut(&Delivery<M>) -> bool,
    ) -> impl Iterator<Item = &Delivery<M>> {
        self.queue.behind(is_before)
    }

    /// Everything that was not delivered, oldest first, what is under way before what waits. What
    /// was begun bare is left out.
    pub fn drain(self) -> impl Iterator<Item = Unfinished<M>> {
        let under_way = self.window.into_exchanges().map(|(id, delivery)| match delivery {
            Some(delivery) => Unfinished::Published { id, delivery },
            None => Unfinished::Released { id },
        });
        under_way.chain(self.queue.into_waiting().map(Unfinished::Queued))
    }

    /// The state that [`Outbound::drain`] gave up, as that of a client that is offline. An exchange
    /// whose id an earlier one holds is left out; what waits stays, also above the limits.
    pub fn restore(
        limits: QueueLimits,
        unfinished: impl IntoIterator<Item = Unfinished<M>>,
    ) -> Outbound<M> {
        let mut outbound = Outbound::new(1, limits);
        for item in unfinished {
            match item {
                Unfinished::Published { id, delivery } => {
                    outbound.window.restore(id, Some(delivery));
                }
                Unfinished::Released { id } => {
                    outbound.window.restore(id, None);
                }
                Unfinished::Queued(delivery) => outbound.queue.append(delivery),
            }
        }
        outbound.queue.set_limits(limits);
        outbound.on_disconnect();
        outbound
    }
}

#[cfg(test)]
mod tests;
