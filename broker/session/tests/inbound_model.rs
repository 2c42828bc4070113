//! `Inbound` against a model of one map, with few ids so that they meet often.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use ringtide_codec::{PacketId, QoS, ReasonCode};
use ringtide_session::{Accept, Inbound, Violation};

#[derive(Clone, Copy, Default)]
struct Open {
    released: bool,
    counted: bool,
}

#[derive(Default)]
struct Model {
    open: BTreeMap<PacketId, Open>,
    qos_1: u32,
    receive_maximum: u16,
}

impl Model {
    fn unacknowledged(&self) -> u32 {
        self.qos_1 + self.open.values().filter(|open| open.counted).count() as u32
    }

    fn on_publish(&mut self, qos: QoS, id: PacketId) -> Result<Accept, Violation> {
        let full = self.unacknowledged() >= self.receive_maximum.into();
        match (qos, self.open.get_mut(&id)) {
            (QoS::AtMostOnce, _) => Ok(Accept::Route),
            (QoS::AtLeastOnce, _) if !full => {
                self.qos_1 += 1;
                Ok(Accept::Route)
            }
            (QoS::ExactlyOnce, Some(open)) if open.counted || !full => {
                let routed = open.released;
                *open = Open { released: false, counted: true };
                Ok(if routed { Accept::Route } else { Accept::Duplicate })
            }
            (QoS::ExactlyOnce, None) if !full => {
                self.open.insert(id, Open { released: false, counted: true });
                Ok(Accept::Route)
            }
            _ => Err(Violation::ReceiveMaximumExceeded),
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Publish(QoS, u16),
    PubackLeft,
    PubrecLeft(u16),
    Refused(QoS, u16),
    Pubrel(u16),
    PubcompLeft(u16),
    Disconnect,
    Resume(u16),
}

fn op() -> impl Strategy<Value = Op> {
    let id = || prop_oneof![1..6_u16, 65_533..=u16::MAX];
    let qos = || prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)];
    prop_oneof![
        8 => (qos(), id()).prop_map(|(qos, id)| Op::Publish(qos, id)),
        3 => Just(Op::PubackLeft),
        1 => id().prop_map(Op::PubrecLeft),
        1 => (qos(), id()).prop_map(|(qos, id)| Op::Refused(qos, id)),
        4 => id().prop_map(Op::Pubrel),
        4 => id().prop_map(Op::PubcompLeft),
        1 => Just(Op::Disconnect),
        1 => (1..5_u16).prop_map(Op::Resume),
    ]
}

fn run(real: &mut Inbound, model: &mut Model, op: &Op) {
    let id = |value: u16| PacketId::new(value).unwrap();
    match *op {
        Op::Publish(qos, value) => {
            assert_eq!(real.on_publish(qos, id(value)), model.on_publish(qos, id(value)));
        }
        // Only what came can be acknowledged.
        Op::PubackLeft if model.qos_1 > 0 => {
            real.on_acked(QoS::AtLeastOnce, PacketId::MIN);
            model.qos_1 -= 1;
        }
        Op::Refused(QoS::AtLeastOnce, value) if model.qos_1 > 0 => {
            real.on_refused(QoS::AtLeastOnce, id(value));
            model.qos_1 -= 1;
        }
        Op::Refused(QoS::ExactlyOnce, value) => {
            real.on_refused(QoS::ExactlyOnce, id(value));
            model.open.remove(&id(value));
        }
        Op::PubrecLeft(value) => real.on_acked(QoS::ExactlyOnce, id(value)),
        Op::Pubrel(value) => {
            let known = model.open.get_mut(&id(value)).map(|open| open.released = true).is_some();
            assert_eq!(real.on_pubrel(id(value)) == ReasonCode::Success, known);
        }
        Op::PubcompLeft(value) => {
            real.on_pubcomp_sent(id(value));
            model.open.retain(|at, open| *at != id(value) || !open.released);
        }
        Op::Disconnect => {
            real.on_disconnect();
            model.qos_1 = 0;
            model.open.values_mut().for_each(|open| open.counted = false);
        }
        Op::Resume(receive_maximum) => {
            run(real, model, &Op::Disconnect);
            real.on_resume(receive_maximum);
            model.receive_maximum = receive_maximum;
        }
        Op::PubackLeft | Op::Refused(..) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_the_models(
        receive_maximum in 1..5_u16,
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut real = Inbound::new(receive_maximum);
        let mut model = Model { receive_maximum, ..Model::default() };
        for op in &ops {
            run(&mut real, &mut model, op);
            prop_assert_eq!(real.unacknowledged(), model.unacknowledged());
            prop_assert_eq!(real.is_idle(), model.open.is_empty() && model.qos_1 == 0);
            let open: Vec<PacketId> = real.awaiting_release().collect();
            let waiting = model.open.iter().filter(|(_, open)| !open.released);
            prop_assert_eq!(open, waiting.map(|(id, _)| *id).collect::<Vec<_>>());
        }
    }
}
