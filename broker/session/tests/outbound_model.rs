//! `Outbound` against a model that is plainly right and plainly slow: vectors searched from end to
//! end. Every answer must be the same, and the client's own count must stay within its limit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::HashSet;
use std::num::NonZeroU64;

use proptest::prelude::*;
use ringtide_codec::{PacketId, QoS, ReasonCode};
use ringtide_session::{
    Acked, Completed, Delivery, DropPolicy, DropReason, Next, Offer, Outbound, PubrecReply,
    QueueLimits, Resend, SubscriptionIds, Unfinished, Violation,
};

const WRONG: Violation = Violation::WrongAcknowledgement;

#[derive(Clone, Debug, PartialEq)]
enum State {
    Published(Delivery<u32>),
    /// Published without its message.
    Bare(QoS),
    Released,
}

#[derive(Clone, Debug)]
struct Flight {
    id: u16,
    state: State,
    on_wire: bool,
}

struct Model {
    flights: Vec<Flight>,
    queue: Vec<Delivery<u32>>,
    next_id: u16,
    receive_maximum: usize,
    limits: QueueLimits,
    /// Bytes that may wait above the limit, since they waited when it was set.
    allowance: u64,
}

impl Model {
    fn find(&self, id: PacketId) -> Option<usize> {
        self.flights.iter().position(|flight| flight.id == id.get())
    }

    /// What the client may count: each PUBLISH of this connection, each message it released.
    fn charged(&self) -> usize {
        let counts = |flight: &&Flight| flight.on_wire || flight.state == State::Released;
        self.flights.iter().filter(counts).count()
    }

    fn may_begin(&self) -> bool {
        self.charged() < self.receive_maximum && self.flights.iter().all(|flight| flight.on_wire)
    }

    fn begin(&mut self, state: State) -> PacketId {
        while self.flights.iter().any(|flight| flight.id == self.next_id) {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        }
        let id = self.next_id;
        self.next_id = id.checked_add(1).unwrap_or(1);
        self.flights.push(Flight { id, state, on_wire: true });
        PacketId::new(id).unwrap()
    }

    fn waiting_bytes(&self) -> u64 {
        self.queue.iter().map(|delivery| u64::from(delivery.bytes)).sum()
    }

    fn above(&self) -> u64 {
        self.waiting_bytes().saturating_sub(self.limits.bytes_max)
    }

    /// Why a message of so many bytes cannot be added.
    fn full(&self, bytes: u64) -> Option<DropReason> {
        if self.queue.len() >= self.limits.count_max as usize {
            Some(DropReason::QueueCount)
        } else {
            self.is_over(bytes).then_some(DropReason::QueueBytes)
        }
    }

    fn is_over(&self, bytes: u64) -> bool {
        self.waiting_bytes() + bytes > self.limits.bytes_max + self.allowance
    }

    fn offer(&mut self, delivery: Delivery<u32>, now_ms: u64, connected: bool) -> Offer<u32> {
        if delivery.is_expired(now_ms) {
            return Offer::Dropped { dropped: delivery, reason: DropReason::Expired };
        }
        if connected && self.queue.is_empty() && self.may_begin() {
            return Offer::Send(self.begin(State::Published(delivery)));
        }
        while self.is_over(0) {
            self.queue.remove(0);
        }
        self.allowance = self.allowance.min(self.above());
        let bytes = u64::from(delivery.bytes);
        let alone = if self.limits.count_max == 0 {
            Some(DropReason::QueueCount)
        } else {
            (bytes > self.limits.bytes_max).then_some(DropReason::QueueBytes)
        };
        if let Some(reason) = alone {
            return Offer::Dropped { dropped: delivery, reason };
        }
        let Some(reason) = self.full(bytes) else {
            self.queue.push(delivery);
            return Offer::Queued;
        };
        if self.queue.first().is_some_and(|first| first.is_expired(now_ms)) {
            let first = self.queue.remove(0);
            if !self.is_over(bytes) {
                self.queue.push(delivery);
                return Offer::Dropped { dropped: first, reason: DropReason::Expired };
            }
            self.queue.insert(0, first);
        }
        match self.limits.policy {
            DropPolicy::Newest => Offer::Dropped { dropped: delivery, reason },
            DropPolicy::Oldest => {
                let dropped = self.queue.remove(0);
                self.queue.push(delivery);
                Offer::Dropped { dropped, reason }
            }
        }
    }

    fn begin_bare(&mut self, qos: QoS) -> Option<PacketId> {
        (self.queue.is_empty() && self.may_begin()).then(|| self.begin(State::Bare(qos)))
    }

    fn next(&mut self, now_ms: u64) -> Step {
        if !self.may_begin() || self.queue.is_empty() {
            return Step::Idle;
        }
        let delivery = self.queue.remove(0);
        if delivery.is_expired(now_ms) {
            return Step::Expired(delivery);
        }
        Step::Publish(self.begin(State::Published(delivery.clone())), delivery)
    }

    fn resend_next(&mut self) -> Step {
        if self.receive_maximum == 0 {
            return Step::Idle;
        }
        let quota_left = self.charged() < self.receive_maximum;
        let due = |flight: &&mut Flight| {
            !flight.on_wire && (quota_left || flight.state == State::Released)
        };
        let Some(flight) = self.flights.iter_mut().find(due) else {
            return Step::Idle;
        };
        flight.on_wire = true;
        let id = PacketId::new(flight.id).unwrap();
        match &flight.state {
            State::Published(delivery) => Step::Publish(id, delivery.clone()),
            State::Released => Step::Pubrel(id),
            State::Bare(_) => panic!("a bare exchange is sent again"),
        }
    }

    fn on_puback(&mut self, id: PacketId, failed: bool) -> Result<Acked<u32>, Violation> {
        let Some(place) = self.find(id) else {
            return Ok(Acked::Unknown);
        };
        match self.flights[place].state.clone() {
            State::Published(delivery) if delivery.qos == QoS::AtLeastOnce => {
                self.flights.remove(place);
                let kept = Some(delivery);
                Ok(if failed { Acked::Refused(kept) } else { Acked::Delivered(kept) })
            }
            State::Bare(QoS::AtLeastOnce) => {
                self.flights.remove(place);
                Ok(if failed { Acked::Refused(None) } else { Acked::Delivered(None) })
            }
            _ => Err(WRONG),
        }
    }

    fn on_pubrec(&mut self, id: PacketId, failed: bool) -> Result<PubrecReply, Violation> {
        let Some(place) = self.find(id) else {
            return Ok(if failed { PubrecReply::Ended } else { PubrecReply::UnknownId });
        };
        match &self.flights[place].state {
            State::Published(delivery) if delivery.qos == QoS::AtLeastOnce => Err(WRONG),
            State::Bare(QoS::AtLeastOnce) => Err(WRONG),
            _ if failed => {
                self.flights.remove(place);
                Ok(PubrecReply::Ended)
            }
            _ => {
                self.flights[place].state = State::Released;
                self.flights[place].on_wire = true;
                Ok(PubrecReply::SendPubrel)
            }
        }
    }

    fn on_pubcomp(&mut self, id: PacketId) -> Result<Completed, Violation> {
        let Some(place) = self.find(id) else {
            return Ok(Completed::Unknown);
        };
        if self.flights[place].state != State::Released {
            return Err(WRONG);
        }
        self.flights.remove(place);
        Ok(Completed::Done)
    }

    fn too_large(&mut self, id: PacketId) -> Option<Delivery<u32>> {
        let place = self.find(id)?;
        match self.flights[place].state.clone() {
            State::Published(delivery) => {
                self.flights.remove(place);
                Some(delivery)
            }
            State::Bare(_) => {
                self.flights.remove(place);
                None
            }
            State::Released => None,
        }
    }

    fn on_disconnect(&mut self) {
        self.receive_maximum = 0;
        self.flights.retain(|flight| !matches!(flight.state, State::Bare(_)));
        self.flights.iter_mut().for_each(|flight| flight.on_wire = false);
    }

    fn contents(&self) -> Vec<Unfinished<u32>> {
        let under_way = self.flights.iter().filter_map(|flight| {
            let id = PacketId::new(flight.id).unwrap();
            match flight.state.clone() {
                State::Published(delivery) => Some(Unfinished::Published { id, delivery }),
                State::Released => Some(Unfinished::Released { id }),
                State::Bare(_) => None,
            }
        });
        under_way.chain(self.queue.iter().cloned().map(Unfinished::Queued)).collect()
    }
}

/// What goes out, of either `next` or `resend_next`.
#[derive(Debug, PartialEq)]
enum Step {
    Publish(PacketId, Delivery<u32>),
    Pubrel(PacketId),
    Expired(Delivery<u32>),
    Idle,
}

fn next(outbound: &mut Outbound<u32>, now_ms: u64) -> Step {
    match outbound.next(now_ms) {
        Next::Send { id, delivery } => Step::Publish(id, delivery.clone()),
        Next::Expired(delivery) => Step::Expired(delivery),
        Next::Idle => Step::Idle,
    }
}

fn resend_next(outbound: &mut Outbound<u32>) -> Step {
    match outbound.resend_next() {
        Some(Resend::Publish { id, delivery, dup }) => {
            assert!(dup);
            Step::Publish(id, delivery.clone())
        }
        Some(Resend::Pubrel { id }) => Step::Pubrel(id),
        None => Step::Idle,
    }
}

/// An exchange to act on: mostly one under way, sometimes any id.
#[derive(Clone, Debug)]
pub(crate) enum Pick {
    UnderWay(prop::sample::Index),
    Any(u16),
}

impl Pick {
    fn id(&self, model: &Model) -> PacketId {
        match self {
            Pick::UnderWay(index) if !model.flights.is_empty() => {
                PacketId::new(index.get(&model.flights).id).unwrap()
            }
            Pick::UnderWay(_) => PacketId::MIN,
            Pick::Any(value) => PacketId::new(*value).unwrap(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Offer { qos: QoS, bytes: u32, expiry_s: Option<u32> },
    Bare(QoS),
    Next,
    ResendNext,
    Puback(Pick, bool),
    Pubrec(Pick, bool),
    Pubcomp(Pick),
    TooLarge(Pick),
    Evict,
    Wait { ms: u64 },
    Sweep,
    Disconnect,
    Resume { receive_maximum: u16, limits: QueueLimits },
}

fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        9 => any::<prop::sample::Index>().prop_map(Pick::UnderWay),
        1 => prop_oneof![1..12_u16, 65_525..=u16::MAX].prop_map(Pick::Any),
    ]
}

fn limits() -> impl Strategy<Value = QueueLimits> {
    let policy = prop_oneof![Just(DropPolicy::Oldest), Just(DropPolicy::Newest)];
    (0..6_u32, 0..60_u64, policy).prop_map(|(count_max, bytes_max, policy)| QueueLimits {
        count_max,
        bytes_max,
        policy,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let qos = || prop_oneof![Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)];
    let failed = || prop::bool::weighted(0.1);
    prop_oneof![
        2 => qos().prop_map(Op::Bare),
        8 => (qos(), 1..30_u32, prop::option::weighted(0.3, 0..4_u32))
            .prop_map(|(qos, bytes, expiry_s)| Op::Offer { qos, bytes, expiry_s }),
        6 => Just(Op::Next),
        6 => Just(Op::ResendNext),
        4 => (pick(), failed()).prop_map(|(pick, failed)| Op::Puback(pick, failed)),
        4 => (pick(), failed()).prop_map(|(pick, failed)| Op::Pubrec(pick, failed)),
        4 => pick().prop_map(Op::Pubcomp),
        1 => pick().prop_map(Op::TooLarge),
        2 => Just(Op::Evict),
        2 => (0..1500_u64).prop_map(|ms| Op::Wait { ms }),
        1 => Just(Op::Sweep),
        1 => Just(Op::Disconnect),
        2 => (1..5_u16, limits())
            .prop_map(|(receive_maximum, limits)| Op::Resume { receive_maximum, limits }),
    ]
}

fn code(failed: bool) -> ReasonCode {
    if failed { ReasonCode::QuotaExceeded } else { ReasonCode::Success }
}

/// Both, side by side, and what the client itself can see.
struct Pair {
    real: Outbound<u32>,
    model: Model,
    now_ms: u64,
    offered: u32,
    /// Ids whose PUBLISH came on this connection and that the client has not finished.
    client_counts: HashSet<PacketId>,
}

impl Pair {
    /// A pair whose next packet id is `next_id`.
    fn new(limits: QueueLimits, receive_maximum: u16, next_id: u16) -> Pair {
        let id = PacketId::new(next_id.checked_sub(1).filter(|id| *id > 0).unwrap_or(u16::MAX));
        let released = Unfinished::Released { id: id.unwrap() };
        let mut real = Outbound::restore(limits, [released]);
        assert_eq!(real.on_pubcomp(id.unwrap(), ReasonCode::Success), Ok(Completed::Done));
        real.on_resume(receive_maximum, limits);
        let model = Model {
            flights: Vec::new(),
            queue: Vec::new(),
            next_id,
            receive_maximum: receive_maximum.into(),
            limits,
            allowance: 0,
        };
        Pair { real, model, now_ms: 0, offered: 0, client_counts: HashSet::new() }
    }

    fn run(&mut self, op: &Op) {
        self.act(op);
        self.model.allowance = self.model.allowance.min(self.model.above());
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Offer { qos, bytes, expiry_s } => self.offer(*qos, *bytes, *expiry_s),
            Op::Bare(qos) => {
                let begun = self.real.begin_bare(*qos);
                assert_eq!(begun, self.model.begin_bare(*qos));
                begun.into_iter().for_each(|id| self.client_begins(id));
            }
            Op::Next => {
                let seen = self.real.peek().cloned();
                let step = next(&mut self.real, self.now_ms);
                assert_eq!(step, self.model.next(self.now_ms));
                if let Step::Publish(_, given) | Step::Expired(given) = &step {
                    assert_eq!(seen.as_ref(), Some(given), "it was to be seen before");
                }
                self.client_sees(&step);
            }
            Op::ResendNext => {
                let seen = self.real.peek().cloned();
                let first = self.real.to_resend().next().cloned();
                let step = resend_next(&mut self.real);
                assert_eq!(step, self.model.resend_next());
                match &step {
                    Step::Publish(_, given) => {
                        assert_eq!((seen.as_ref(), first.as_ref()), (Some(given), Some(given)));
                    }
                    Step::Pubrel(_) => assert_eq!(seen, None, "a PUBREL has no message"),
                    Step::Expired(_) | Step::Idle => {}
                }
                self.client_sees(&step);
            }
            Op::Puback(..) | Op::Pubrec(..) | Op::Pubcomp(_) | Op::TooLarge(_) => self.finish(op),
            Op::Evict => {
                while self.real.evict_next().is_some() {
                    self.model.queue.remove(0);
                }
            }
            Op::Wait { ms } => self.now_ms += ms,
            Op::Sweep => self.sweep(),
            Op::Disconnect => {
                self.real.on_disconnect();
                self.model.on_disconnect();
                self.client_counts.clear();
            }
            Op::Resume { receive_maximum, limits } => {
                self.real.on_resume(*receive_maximum, *limits);
                self.model.on_disconnect();
                self.model.receive_maximum = usize::from(*receive_maximum);
                self.model.limits = *limits;
                self.model.allowance = self.model.above();
                self.client_counts.clear();
            }
        }
    }

    fn offer(&mut self, qos: QoS, bytes: u32, expiry_s: Option<u32>) {
        self.offered += 1;
        let expires_at_ms =
            expiry_s.map(|s| NonZeroU64::new(self.now_ms + u64::from(s) * 1000 + 1).unwrap());
        let delivery = Delivery {
            message: self.offered,
            qos,
            retain: false,
            subscription_ids: SubscriptionIds::new(),
            expires_at_ms,
            bytes,
            membership: 0,
        };
        let connected = self.model.receive_maximum > 0;
        let offer = self.real.offer(delivery.clone(), self.now_ms, connected);
        assert_eq!(offer, self.model.offer(delivery.clone(), self.now_ms, connected));
        if let Offer::Send(id) = offer {
            self.client_sees(&Step::Publish(id, delivery));
        }
    }

    fn finish(&mut self, op: &Op) {
        let (id, ended) = match op {
            Op::Puback(pick, failed) => {
                let id = pick.id(&self.model);
                let acked = self.real.on_puback(id, code(*failed));
                assert_eq!(acked, self.model.on_puback(id, *failed));
                (id, acked.is_ok())
            }
            Op::Pubrec(pick, failed) => {
                let id = pick.id(&self.model);
                let reply = self.real.on_pubrec(id, code(*failed));
                assert_eq!(reply, self.model.on_pubrec(id, *failed));
                (id, reply == Ok(PubrecReply::Ended))
            }
            Op::Pubcomp(pick) => {
                let id = pick.id(&self.model);
                let completed = self.real.on_pubcomp(id, ReasonCode::Success);
                assert_eq!(completed, self.model.on_pubcomp(id));
                (id, completed.is_ok())
            }
            Op::TooLarge(pick) => {
                let id = pick.id(&self.model);
                let before = self.model.flights.len();
                let dropped = self.real.give_up(id);
                assert_eq!(dropped, self.model.too_large(id));
                (id, self.model.flights.len() < before)
            }
            other => panic!("ends no exchange: {other:?}"),
        };
        if ended {
            self.client_counts.remove(&id);
        }
    }

    fn sweep(&mut self) {
        let mut expired = Vec::new();
        self.real.sweep_expired(self.now_ms, |delivery| expired.push(delivery));
        let now_ms = self.now_ms;
        let (gone, kept) = self.model.queue.drain(..).partition(|d| d.is_expired(now_ms));
        self.model.queue = kept;
        assert_eq!(expired, gone);
    }

    fn client_sees(&mut self, step: &Step) {
        if let Step::Publish(id, _) = step {
            self.client_begins(*id);
        }
        assert!(self.client_counts.len() <= self.model.receive_maximum);
    }

    fn client_begins(&mut self, id: PacketId) {
        assert!(self.client_counts.insert(id), "{id:?} is in use");
        assert!(self.client_counts.len() <= self.model.receive_maximum);
    }

    fn check(&self) {
        assert_eq!(self.real.inflight_len(), self.model.flights.len());
        assert_eq!(self.real.queued_len(), self.model.queue.len());
        assert_eq!(self.real.queued_bytes(), self.model.waiting_bytes());
        let again = self.model.flights.iter().any(|flight| !flight.on_wire);
        assert_eq!(self.real.is_waiting(), again || !self.model.queue.is_empty());
        let idle = self.model.flights.is_empty() && self.model.queue.is_empty();
        assert_eq!(self.real.is_idle(), idle);
        for flight in &self.model.flights {
            let delivery = self.real.delivery(PacketId::new(flight.id).unwrap());
            match &flight.state {
                State::Published(expected) => assert_eq!(delivery, Some(expected)),
                State::Bare(_) | State::Released => assert_eq!(delivery, None),
            }
        }
    }
}

/// The limits, the receive maximum, the next packet id and what happens.
pub(crate) type Case = (QueueLimits, u16, u16, Vec<Op>);

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let next_id = prop_oneof![Just(1_u16), Just(2), 65_528..=u16::MAX];
    (limits(), 1..5_u16, next_id, prop::collection::vec(op(), 1..120))
}

/// Every answer is the model's; shared with the fuzz target.
pub(crate) fn check((limits, receive_maximum, next_id, ops): Case) {
    let mut pair = Pair::new(limits, receive_maximum, next_id);
    for op in &ops {
        pair.run(op);
        pair.check();
    }
    let contents = pair.model.contents();
    let drained: Vec<_> = pair.real.clone().drain().collect();
    assert_eq!(drained, contents);
    let restored: Vec<_> = Outbound::restore(limits, drained).drain().collect();
    assert_eq!(restored, contents);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_the_models(case in case()) {
        check(case);
    }
}
