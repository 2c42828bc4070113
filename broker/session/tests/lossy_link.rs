//! Both directions of the protocol against each other over a link that breaks: `Outbound` sends,
//! `Inbound` and `Owed` receive, and the log is durable late. Whatever is lost on the way, QoS 1
//! arrives, QoS 2 arrives once, and each keeps its order.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::VecDeque;

use proptest::prelude::*;
use ringtide_codec::{AckKind, PacketId, QoS, ReasonCode};
use ringtide_session::{
    Accept, Delivery, DropPolicy, Inbound, Next, Offer, Outbound, Owed, OwedAck, PubrecReply,
    QueueLimits, Resend, SubscriptionIds,
};

const LIMITS: QueueLimits =
    QueueLimits { count_max: 10_000, bytes_max: u64::MAX, policy: DropPolicy::Newest };

#[derive(Clone, Debug)]
enum Packet {
    Publish { id: PacketId, qos: QoS, message: u32 },
    Ack { kind: AckKind, id: PacketId },
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Offer(QoS),
    Send,
    ToServer,
    ToClient,
    Durable,
    Break { receive_maximum: u16 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => prop_oneof![Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)].prop_map(Op::Offer),
        4 => Just(Op::Send),
        6 => Just(Op::ToServer),
        6 => Just(Op::ToClient),
        3 => Just(Op::Durable),
        1 => (1..4_u16).prop_map(|receive_maximum| Op::Break { receive_maximum }),
    ]
}

struct Link {
    sender: Outbound<u32>,
    to_server: VecDeque<Packet>,
    to_client: VecDeque<Packet>,
    inbound: Inbound,
    owed: Owed,
    appended: u64,
    durable: u64,
    routed: Vec<(QoS, u32)>,
    offered: Vec<(QoS, u32)>,
}

impl Link {
    fn new(receive_maximum: u16) -> Link {
        Link {
            sender: Outbound::new(receive_maximum, LIMITS),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            inbound: Inbound::new(receive_maximum),
            owed: Owed::new(),
            appended: 0,
            durable: 0,
            routed: Vec::new(),
            offered: Vec::new(),
        }
    }

    /// Whether anything happened.
    fn run(&mut self, op: Op) -> bool {
        match op {
            Op::Offer(qos) => self.offer(qos),
            Op::Send => self.send(),
            Op::ToServer => self.server_receives(),
            Op::ToClient => self.client_receives(),
            Op::Durable => self.release_owed(),
            Op::Break { receive_maximum } => self.break_and_resume(receive_maximum),
        }
    }

    fn offer(&mut self, qos: QoS) -> bool {
        let message = self.offered.len() as u32;
        self.offered.push((qos, message));
        let delivery = Delivery {
            message,
            qos,
            retain: false,
            subscription_ids: SubscriptionIds::new(),
            expires_at_ms: None,
            bytes: 1,
            membership: 0,
        };
        if let Offer::Send(id) = self.sender.offer(delivery, 0, true) {
            self.to_server.push_back(Packet::Publish { id, qos, message });
        }
        true
    }

    fn send(&mut self) -> bool {
        if let Some(resend) = self.sender.resend_next() {
            self.to_server.push_back(match resend {
                Resend::Publish { id, delivery, .. } => {
                    Packet::Publish { id, qos: delivery.qos, message: delivery.message }
                }
                Resend::Pubrel { id } => Packet::Ack { kind: AckKind::PubRel, id },
            });
            return true;
        }
        let Next::Send { id, delivery } = self.sender.next(0) else {
            return false;
        };
        let (qos, message) = (delivery.qos, delivery.message);
        self.to_server.push_back(Packet::Publish { id, qos, message });
        true
    }

    fn server_receives(&mut self) -> bool {
        let Some(packet) = self.to_server.pop_front() else {
            return false;
        };
        match packet {
            Packet::Publish { id, qos, message } => {
                let accept = self.inbound.on_publish(qos, id).expect("a correct client");
                if accept == Accept::Route {
                    self.routed.push((qos, message));
                    self.appended += 1;
                }
                let kind = if qos == QoS::AtLeastOnce { AckKind::PubAck } else { AckKind::PubRec };
                self.owed.push(kind, id, ReasonCode::Success, self.appended);
            }
            Packet::Ack { kind, id } => {
                assert_eq!(kind, AckKind::PubRel);
                let reason = self.inbound.on_pubrel(id);
                self.appended += 1;
                self.owed.push(AckKind::PubComp, id, reason, self.appended);
            }
        }
        true
    }

    fn release_owed(&mut self) -> bool {
        self.durable = self.appended;
        let before = self.to_client.len();
        while let Some(owed) = self.owed.pop_ready(self.durable) {
            let OwedAck::Ack { kind, id, .. } = owed else {
                panic!("nothing else is owed: {owed:?}");
            };
            match kind {
                AckKind::PubAck => self.inbound.on_acked(QoS::AtLeastOnce, id),
                AckKind::PubRec => self.inbound.on_acked(QoS::ExactlyOnce, id),
                AckKind::PubComp => self.inbound.on_pubcomp_sent(id),
                AckKind::PubRel => panic!("a receiver sends no PUBREL"),
            }
            self.to_client.push_back(Packet::Ack { kind, id });
        }
        self.to_client.len() > before
    }

    fn client_receives(&mut self) -> bool {
        let Some(Packet::Ack { kind, id }) = self.to_client.pop_front() else {
            return false;
        };
        match kind {
            AckKind::PubAck => drop(self.sender.on_puback(id, ReasonCode::Success).unwrap()),
            AckKind::PubComp => drop(self.sender.on_pubcomp(id, ReasonCode::Success).unwrap()),
            _ => {
                let reply = self.sender.on_pubrec(id, ReasonCode::Success).unwrap();
                assert_eq!(reply, PubrecReply::SendPubrel);
                self.to_server.push_back(Packet::Ack { kind: AckKind::PubRel, id });
            }
        }
        true
    }

    fn break_and_resume(&mut self, receive_maximum: u16) -> bool {
        self.to_server.clear();
        self.to_client.clear();
        self.owed.clear();
        self.sender.on_disconnect();
        self.inbound.on_disconnect();
        self.inbound.on_resume(receive_maximum);
        self.sender.on_resume(receive_maximum, LIMITS);
        true
    }

    fn settle(&mut self) {
        let ops = [Op::Send, Op::ToServer, Op::Durable, Op::ToClient];
        while ops.iter().fold(false, |happened, op| self.run(*op) | happened) {}
    }

    /// Messages of one QoS in the order of their first arrival.
    fn first_arrivals(&self, qos: QoS) -> Vec<u32> {
        let mut seen = Vec::new();
        for (_, message) in self.routed.iter().filter(|(at, _)| *at == qos) {
            if !seen.contains(message) {
                seen.push(*message);
            }
        }
        seen
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn everything_arrives_in_order_and_qos_2_once(
        receive_maximum in 1..4_u16,
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut link = Link::new(receive_maximum);
        for op in ops {
            link.run(op);
        }
        link.settle();
        prop_assert!(link.sender.is_idle());
        prop_assert!(link.inbound.is_idle());
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let offered = link.offered.iter().filter(|(at, _)| *at == qos);
            let offered: Vec<u32> = offered.map(|(_, message)| *message).collect();
            prop_assert_eq!(link.first_arrivals(qos), offered);
        }
        let twice = link.routed.iter().filter(|(qos, _)| *qos == QoS::ExactlyOnce).count();
        prop_assert_eq!(twice, link.first_arrivals(QoS::ExactlyOnce).len());
    }
}
