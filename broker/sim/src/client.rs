//! A simulated client that keeps to the protocol: its connection, its session state, what it has
//! under way. What it sends and sees goes to the model; an answer that the protocol does not
//! allow is a failure of the run.
//!
//! `client/packets.rs` handles what comes, `client/actions.rs` does things of its own accord.

mod actions;
mod packets;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ringtide_codec::{
    AckKind, Connect, ConnectProperties, PacketId, QoS, UserProperties, Version, Will, write_ack,
};

use crate::model::{Draft, MessageNo, Model, SessionNo, Step};
use crate::net::{End, LinkId, Net};
use crate::passwords::password_of;
use crate::random::Random;
use crate::wills::Wills;

pub(crate) use actions::Scene;

/// Bytes that a client reads in one go.
const READ_MAX: usize = 64 << 10;
/// A request that is not answered for this long while the client reads is stuck.
const PATIENCE_US: u64 = 30_000_000;

/// What a client is like. It stays so for the run.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) no: usize,
    pub(crate) name: String,
    pub(crate) version: Version,
    /// Session expiry that it asks for, in seconds.
    pub(crate) expiry_s: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) packet_max: u32,
    pub(crate) alias_max: u16,
    pub(crate) keep_alive_s: u16,
    /// Bytes that it reads in one go.
    pub(crate) read_max: usize,
    /// Acknowledgements that it holds back, at most.
    pub(crate) lazy_acks: usize,
    /// It never leaves of its own accord, reads at once and subscribes to what the run needs.
    pub(crate) observer: bool,
}

/// What takes part in everything that a client does.
pub(crate) struct Surroundings<'a> {
    pub(crate) net: &'a Rc<RefCell<Net>>,
    pub(crate) model: &'a mut Model,
    pub(crate) wills: &'a mut Wills,
    pub(crate) random: &'a mut Random,
    pub(crate) now_us: u64,
    pub(crate) shards: u16,
    /// Seconds for which sessions of version 3 are kept.
    pub(crate) expiry_v3_s: u32,
    pub(crate) scene: Scene,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutPhase {
    /// To be sent again when the Receive Maximum allows it.
    Held,
    Published,
    Released,
}

/// A QoS 1 or 2 publish that is not finished.
#[derive(Clone, Copy, Debug)]
struct Outgoing {
    id: u16,
    message: MessageNo,
    qos: u8,
    phase: OutPhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InPhase {
    /// Received, not answered.
    Got,
    /// PUBREC sent.
    Received,
    /// PUBACK or PUBCOMP sent, or refused.
    Done,
}

/// A QoS 1 or 2 delivery, by its packet id.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    message: Option<MessageNo>,
    qos: u8,
    phase: InPhase,
    /// The connection on which it last came.
    serial: u32,
    /// Crashes of the broker before that.
    crashes: usize,
    /// PUBREC was sent, perhaps on an earlier connection.
    answered: bool,
    /// It was sent with an error.
    refused: bool,
}

#[derive(Clone, Debug)]
enum Asked {
    Subscribe(Vec<usize>),
    Unsubscribe(Vec<String>, Step),
}

#[derive(Clone, Debug)]
struct Request {
    id: u16,
    since_us: u64,
    asked: Asked,
}

/// What a client keeps for its session, and the broker too.
#[derive(Debug, Default)]
struct Held {
    session: Option<SessionNo>,
    outgoing: Vec<Outgoing>,
    incoming: BTreeMap<u16, Incoming>,
    /// When the session's last connection began to end, and which it was.
    detached: Option<Detached>,
    /// Connections that this session has had.
    connections: u32,
}

/// What is known of a session without a connection.
#[derive(Clone, Debug)]
struct Detached {
    /// It had a connection until then at least.
    since_us: u64,
    /// While one of these is open at the broker, it may still have one.
    links: Vec<LinkId>,
    expiry_s: u32,
}

/// A connection.
#[derive(Debug)]
struct Wire {
    link: LinkId,
    serial: u32,
    open: bool,
    clean: bool,
    expiry_s: u32,
    since_us: u64,
    buffer: Vec<u8>,
    will: Option<MessageNo>,
    requests: Vec<Request>,
    /// Deliveries of this connection that are not answered: what counts against Receive Maximum.
    charged: u32,
    aliases: BTreeMap<u16, String>,
    own_aliases: BTreeMap<u16, String>,
    server_receive_maximum: u16,
    server_alias_max: u16,
    /// QoS 0 messages that no later answer has confirmed.
    unconfirmed: VecDeque<MessageNo>,
    /// For each PINGREQ without answer: when, and the last message before it.
    pings: VecDeque<(u64, MessageNo, usize)>,
    /// Messages whose PUBACK was sent on it, and that no PINGRESP has confirmed.
    acked: VecDeque<MessageNo>,
    last_sent_us: u64,
    /// Crashes of the broker before it began.
    crashes: usize,
    /// It sends nothing any more and waits to be closed.
    silent: bool,
    /// It has finished sending.
    finished: bool,
    stopped_until_us: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) profile: Profile,
    wire: Option<Wire>,
    /// Connections that were taken over: nothing is done with them but to see them closed.
    old: Vec<(LinkId, u64)>,
    held: Held,
    next_id: u16,
    next_serial: u32,
    acks: VecDeque<(AckKind, u16)>,
    /// A CONNECT may have made a session that the model does not know.
    unsure: bool,
    /// The retained messages that have come, if it collects them.
    pub(crate) collected: Vec<(String, MessageNo)>,
    not_before_us: u64,
    /// The last connection that was given up before CONNACK: until the broker has closed it, its
    /// CONNECT may still be taken for a newer one.
    abandoned: Option<LinkId>,
    /// The last one whose network broke: the broker gives its session up with the keep alive only.
    broken: Option<LinkId>,
}

impl Client {
    pub(crate) fn new(profile: Profile) -> Client {
        Client {
            profile,
            wire: None,
            old: Vec::new(),
            held: Held::default(),
            next_id: 0,
            next_serial: 0,
            acks: VecDeque::new(),
            unsure: false,
            collected: Vec::new(),
            not_before_us: 0,
            abandoned: None,
            broken: None,
        }
    }

    /// True if it may connect: no older CONNECT of its own is on its way.
    pub(crate) fn may_connect(&self, net: &Net) -> bool {
        self.wire.is_none()
            && self.abandoned.is_none_or(|link| net.server_closed_us(link).is_some())
    }

    fn is_v5(&self) -> bool {
        self.profile.version == Version::V5
    }

    fn fail(&self, around: &Surroundings<'_>, words: &str) {
        around.model.trace.fail(format_args!("client {}: {words}", self.profile.no));
    }

    /// True if it has a connection that was accepted.
    pub(crate) fn is_open(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.open)
    }

    /// True if the broker may hold a session for it.
    pub(crate) fn has_session(&self) -> bool {
        self.held.session.is_some() || self.unsure
    }

    /// What it still waits for, in words; empty when nothing.
    pub(crate) fn waits_for(&self, net: &Net) -> String {
        let mut words = Vec::new();
        if self.abandoned.is_some_and(|link| net.server_closed_us(link).is_none()) {
            words.push("the end of a connection that it gave up".to_string());
        }
        if self.broken.is_some_and(|link| net.server_closed_us(link).is_none()) {
            words.push("the end of a connection whose network broke".to_string());
        }
        if let Some(wire) = &self.wire {
            if !wire.open {
                words.push("CONNACK".to_string());
            }
            words.extend(wire.requests.iter().map(|request| format!("{request:?}")));
            if !wire.pings.is_empty() {
                words.push("PINGRESP".into());
            }
            words.extend(self.held.outgoing.iter().map(|own| format!("an answer to {own:?}")));
            let open = self.held.incoming.iter().filter(|(_, one)| one.phase == InPhase::Received);
            words.extend(open.map(|(id, _)| format!("PUBREL {id}")));
            if wire.silent || wire.finished {
                words.push("the end of its connection".into());
            }
        }
        if !self.acks.is_empty() {
            words.push("its own acknowledgements".into());
        }
        if self.is_open() {
            let old = self.old.iter();
            words.extend(old.map(|(link, _)| format!("the end of old link {}", link.0)));
        }
        words.join(", ")
    }

    /// True if it has something to do now.
    pub(crate) fn has_work(&self, net: &Net, now_us: u64, scene: Scene) -> bool {
        let answers = scene != Scene::Work && !self.acks.is_empty() && self.is_usable();
        let readable = self
            .wire
            .as_ref()
            .is_some_and(|wire| now_us >= wire.stopped_until_us && net.is_readable(wire.link));
        let old = self.old.iter().any(|(link, _)| net.is_readable(*link));
        readable || old || answers || self.due_us().is_some_and(|due_us| due_us <= now_us)
    }

    /// When it must do something at the latest.
    pub(crate) fn due_us(&self) -> Option<u64> {
        let wire = self.wire.as_ref()?;
        let keep_alive_us = u64::from(self.profile.keep_alive_s) * 1_000_000;
        let ping = (keep_alive_us > 0 && wire.open && !wire.silent && !wire.finished)
            .then_some(wire.last_sent_us + keep_alive_us / 2);
        let stopped = (wire.stopped_until_us > 0).then_some(wire.stopped_until_us);
        ping.into_iter().chain(stopped).min()
    }

    /// One go: reads, answers, pings when it is time.
    pub(crate) fn act(&mut self, around: &mut Surroundings<'_>) {
        self.see_old_links(around);
        self.read(around);
        self.send_acks(around);
        self.keep_alive(around);
        self.check_patience(around);
    }

    fn see_old_links(&mut self, around: &mut Surroundings<'_>) {
        let mut net = around.net.borrow_mut();
        let mut ignored = Vec::new();
        self.old.retain(|(link, _)| {
            let ended = net.read(*link, usize::MAX, &mut ignored).is_some();
            if ended {
                net.leave(*link, false);
            }
            !ended
        });
    }

    fn read(&mut self, around: &mut Surroundings<'_>) {
        let Some(wire) = &mut self.wire else { return };
        if around.now_us < wire.stopped_until_us {
            return;
        }
        wire.stopped_until_us = 0;
        let max = if around.scene == Scene::Work { self.profile.read_max } else { READ_MAX };
        let mut buffer = std::mem::take(&mut wire.buffer);
        let serial = wire.serial;
        let end = around.net.borrow_mut().read(wire.link, max, &mut buffer);
        let used = self.take_packets(around, &buffer);
        buffer.drain(..used);
        if let Some(wire) = self.wire.as_mut().filter(|wire| wire.serial == serial) {
            wire.buffer = buffer;
            if let Some(end) = end {
                self.closed_by_broker(around, end);
            }
        }
    }

    /// The broker has ended the connection.
    fn closed_by_broker(&mut self, around: &mut Surroundings<'_>, end: End) {
        let Some(wire) = &self.wire else { return };
        let crashed = around.net.borrow().has_crashed(wire.link);
        let calm = wire.open && !wire.silent && !wire.finished && around.scene != Scene::End;
        let excused = crashed || !calm;
        if !excused {
            self.fail(around, &format!("the broker closed its connection ({end:?})"));
        }
        self.let_go(around, false, false);
    }

    /// The connection is over, whoever ended it.
    fn let_go(&mut self, around: &mut Surroundings<'_>, reset: bool, said_goodbye: bool) {
        let Some(wire) = self.wire.take() else { return };
        around.net.borrow_mut().leave(wire.link, reset);
        self.forget_wire(around, &wire, said_goodbye);
    }

    /// What the end of a connection means for the session.
    fn forget_wire(&mut self, around: &mut Surroundings<'_>, wire: &Wire, said_goodbye: bool) {
        self.acks.clear();
        around.model.tick();
        if !wire.open {
            self.abandoned = Some(wire.link);
        }
        if let Some(will) = wire.will {
            around.wills.ended(will, wire.open, said_goodbye, wire.link, around.now_us);
        }
        let Some(session) = self.held.session else {
            self.unsure |= !wire.open;
            return;
        };
        around.model.session(session).connected = None;
        // Whether a CONNECT without CONNACK has carried the session on is not known.
        let closed_us = around.net.borrow().server_closed_us(wire.link);
        let before = self.held.detached.take().filter(|_| !wire.open);
        let since_us = before.as_ref().map(|before| before.since_us);
        let since_us = since_us.or(closed_us).unwrap_or(around.now_us);
        let mut links = before.map_or_else(Vec::new, |before| before.links);
        links.push(wire.link);
        self.held.detached = Some(Detached { since_us, links, expiry_s: wire.expiry_s });
        // If its time was over, the CONNECT without CONNACK may have made a new one.
        let over_us = since_us.saturating_add(u64::from(wire.expiry_s) * 1_000_000);
        let perhaps_new = !wire.open && wire.expiry_s < u32::MAX && around.now_us >= over_us;
        if wire.expiry_s == 0 || perhaps_new {
            self.end_session(around);
            self.unsure |= perhaps_new;
        }
    }

    /// The session is given up: nothing of it is carried on.
    fn end_session(&mut self, around: &mut Surroundings<'_>) {
        if let Some(session) = self.held.session.take() {
            around.model.end_session(session);
        }
        self.held = Held::default();
    }

    /// Connects, with Clean Start or without.
    pub(crate) fn connect(&mut self, around: &mut Surroundings<'_>, clean: bool) {
        let clean = clean || self.unsure || (!self.is_v5() && self.profile.expiry_s == 0);
        if clean && self.held.session.is_some() {
            self.end_session(around);
        }
        let shard = around.random.below(u64::from(around.shards)) as u16;
        let link = around.net.borrow_mut().connect(shard);
        let expiry_s = match (self.is_v5(), clean) {
            (true, _) => self.profile.expiry_s,
            (false, true) => 0,
            (false, false) => around.expiry_v3_s,
        };
        self.next_serial += 1;
        let will = self.make_will(around, expiry_s);
        around.wills.connecting(self.profile.no, clean, around.now_us);
        let wire = Wire {
            link,
            serial: self.next_serial,
            open: false,
            clean,
            expiry_s,
            since_us: around.now_us,
            buffer: Vec::new(),
            will: will.as_ref().map(|will| will.message),
            requests: Vec::new(),
            charged: 0,
            aliases: BTreeMap::new(),
            own_aliases: BTreeMap::new(),
            server_receive_maximum: u16::MAX,
            server_alias_max: 0,
            unconfirmed: VecDeque::new(),
            pings: VecDeque::new(),
            acked: VecDeque::new(),
            last_sent_us: around.now_us,
            crashes: around.net.borrow().crashes(),
            silent: false,
            finished: false,
            stopped_until_us: 0,
        };
        self.wire = Some(wire);
        let bytes = self.connect_packet(around, clean, expiry_s, will.as_ref());
        self.send(around, &bytes);
    }

    fn connect_packet(
        &self,
        around: &Surroundings<'_>,
        clean: bool,
        expiry_s: u32,
        will: Option<&OwnWill>,
    ) -> Vec<u8> {
        let own = &self.profile;
        let properties = ConnectProperties {
            session_expiry_s: (expiry_s > 0).then_some(expiry_s),
            receive_maximum: (own.receive_maximum < u16::MAX).then_some(own.receive_maximum),
            maximum_packet_bytes: (own.packet_max < u32::MAX).then_some(own.packet_max),
            topic_alias_maximum: (own.alias_max > 0).then_some(own.alias_max),
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
            user_properties: UserProperties::EMPTY,
        };
        let will = will.map(|will| {
            let message = around.model.message(will.message);
            Will {
                qos: QoS::from_bits(message.qos).unwrap_or(QoS::AtMostOnce),
                retain: message.retain,
                topic: &message.topic,
                payload: &message.payload,
                delay_s: will.delay_s,
                message_expiry_s: None,
                properties: (&[][..]).into(),
            }
        });
        let password = password_of(&own.name);
        let packet = Connect {
            version: own.version,
            bridge: false,
            clean_start: clean,
            keep_alive_s: own.keep_alive_s,
            client_id: &own.name,
            will,
            username: Some(&own.name),
            password: Some(&password),
            properties,
        };
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        bytes
    }

    fn make_will(&mut self, around: &mut Surroundings<'_>, expiry_s: u32) -> Option<OwnWill> {
        if around.scene != Scene::Work || self.profile.observer || !around.random.chance(400) {
            return None;
        }
        let delays: &[u32] = if self.is_v5() { &[0, 0, 1, 5, 100] } else { &[0] };
        let delay_s = *around.random.pick(delays);
        let draft = Draft {
            publisher: self.profile.no,
            topic: format!("will/{}", self.profile.no),
            qos: around.random.below(3) as u8,
            retain: around.random.chance(200),
            len: 8 + around.random.below(40) as usize,
            will: true,
            expiry_s: None,
        };
        let message = around.model.publish(draft);
        let qos = around.model.message(message).qos;
        around.wills.given(message, (self.profile.no, qos), delay_s.min(expiry_s));
        Some(OwnWill { message, delay_s })
    }

    fn send(&mut self, around: &mut Surroundings<'_>, bytes: &[u8]) {
        if let Some(wire) = &mut self.wire {
            wire.last_sent_us = around.now_us;
            around.net.borrow_mut().write(wire.link, bytes);
            let numbers = [10, self.profile.no as u64, bytes.len() as u64, u64::from(wire.link.0)];
            let head = bytes.first().copied().unwrap_or(0);
            around.model.trace.event(
                numbers,
                format_args!(
                    "client {} link {}: sends {head:#04x}, {} bytes",
                    self.profile.no,
                    wire.link.0,
                    bytes.len()
                ),
            );
        }
    }

    /// A packet id that no exchange of its own uses.
    fn free_id(&mut self) -> Option<u16> {
        for _ in 0..u16::MAX {
            self.next_id = self.next_id.wrapping_add(1).max(1);
            let id = self.next_id;
            let asked = self.wire.iter().any(|wire| wire.requests.iter().any(|one| one.id == id));
            if !asked && !self.held.outgoing.iter().any(|one| one.id == id) {
                return Some(id);
            }
        }
        None
    }

    /// True if it may send on its connection.
    fn is_usable(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.open && !wire.silent && !wire.finished)
    }

    /// Sends acknowledgements that were held back: some of them, or all when the work is over.
    fn send_acks(&mut self, around: &mut Surroundings<'_>) {
        let usable =
            self.wire.as_ref().is_some_and(|wire| wire.open && !wire.silent && !wire.finished);
        if !usable {
            return;
        }
        let held = match around.scene {
            Scene::Work => around.random.below(self.profile.lazy_acks as u64 + 1) as usize,
            _ => 0,
        };
        let mut bytes = Vec::new();
        while self.acks.len() > held {
            let Some((kind, id)) = self.acks.pop_front() else { break };
            self.answer(around, kind, id, &mut bytes);
        }
        if !bytes.is_empty() {
            self.send(around, &bytes);
        }
    }

    fn answer(&mut self, around: &mut Surroundings<'_>, kind: AckKind, id: u16, out: &mut Vec<u8>) {
        use ringtide_codec::ReasonCode::{Success, UnspecifiedError};
        let Some(packet_id) = PacketId::new(id) else { return };
        let refuses = kind == AckKind::PubRec && self.is_v5() && around.random.chance(30);
        let code = if refuses { UnspecifiedError } else { Success };
        if let Some(one) = self.held.incoming.get_mut(&id) {
            let done = refuses || kind != AckKind::PubRec;
            one.answered = true;
            one.refused = refuses;
            one.phase = if done { InPhase::Done } else { InPhase::Received };
            if let Some(wire) = self.wire.as_mut().filter(|wire| done && wire.serial == one.serial)
            {
                wire.charged = wire.charged.saturating_sub(1);
                wire.acked.extend(one.message.filter(|_| kind == AckKind::PubAck));
            }
        }
        write_ack(kind, self.profile.version, packet_id, code, out);
    }

    fn keep_alive(&mut self, around: &mut Surroundings<'_>) {
        let half_us = u64::from(self.profile.keep_alive_s) * 500_000;
        let due = self.wire.as_ref().is_some_and(|wire| {
            wire.open
                && !wire.silent
                && !wire.finished
                && half_us > 0
                && around.now_us >= wire.last_sent_us + half_us
        });
        if due {
            self.ping(around);
        }
    }

    pub(crate) fn ping(&mut self, around: &mut Surroundings<'_>) {
        let mark = MessageNo(around.model.messages.len() as u32);
        if let Some(wire) = &mut self.wire {
            wire.pings.push_back((around.now_us, mark, wire.acked.len()));
        }
        self.send(around, &[0xc0, 0]);
    }

    /// Every request is answered in time, unless the client itself does not read.
    fn check_patience(&mut self, around: &mut Surroundings<'_>) {
        let Some(wire) = &self.wire else { return };
        let net = around.net.borrow();
        if net.has_crashed(wire.link) || net.server_closed_us(wire.link).is_some() {
            // It will see the end of this connection; how long the broker was gone is no matter.
            return;
        }
        drop(net);
        let long_ago = |since_us: u64| around.now_us > since_us + PATIENCE_US;
        let quiet_s = u64::from(self.profile.keep_alive_s) * 1_500_000;
        let stuck = if !wire.open {
            long_ago(wire.since_us).then_some("CONNACK")
        } else if wire.silent {
            long_ago(wire.last_sent_us + quiet_s).then_some("the end of its keep alive")
        } else if wire.requests.iter().any(|request| long_ago(request.since_us)) {
            Some("SUBACK or UNSUBACK")
        } else {
            wire.pings.front().is_some_and(|(at_us, ..)| long_ago(*at_us)).then_some("PINGRESP")
        };
        if let Some(what) = stuck {
            self.fail(around, &format!("it waits in vain for {what}"));
            self.let_go(around, true, false);
        }
    }
}

/// A will on its way into a CONNECT.
struct OwnWill {
    message: MessageNo,
    delay_s: u32,
}
