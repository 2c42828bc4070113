//! What a client does of its own accord: the workload.

use ringtide_codec::{
    Disconnect, PacketId, Property, PublishOut, QoS, ReasonCode, RetainHandling, SubscribeOut,
    SubscriptionOptions, UnsubscribeOut, Version,
};

use super::{Asked, Client, OutPhase, Outgoing, Request, Surroundings};
use crate::model::{Draft, Message, Subscription};

/// What the run is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// Clients do as they like.
    Work,
    /// They finish what is under way, and come back for what waits for them.
    Drain,
    /// Sessions are ended and the broker goes down.
    End,
}

const TOPICS: &[&str] = &[
    "a", "a/b", "a/b/c", "a/c", "b", "b/c", "d/e/f", "/", "t/0", "t/1", "t/2", "t/3", "g/1", "g/2",
    "g/1/x", "secret/x", "$x/y",
];
const FILTERS: &[&str] = &[
    "a", "a/b", "a/+", "a/#", "+/b", "#", "+", "b/+/#", "t/0", "t/1", "t/+", "+/+", "d/e/f", "/",
    "t/#", "secret/x", "secret/#", "$x/y", "$x/#", "+/1",
];
const SHARED: &[&str] =
    &["$share/one/g/1", "$share/one/g/#", "$share/two/g/+", "$share/two/t/+", "$share/three/a/#"];
/// Payload sizes around the limits that the shard treats apart: 1024, 4096, 8192 bytes.
const LENGTHS: &[usize] = &[8, 8, 20, 20, 100, 100, 900, 1200, 4200, 9000, 20_000];
/// Exchanges of its own that a client has under way at most.
const OUTGOING_MAX: usize = 20;

impl Client {
    /// Does one thing.
    pub(crate) fn do_something(&mut self, around: &mut Surroundings<'_>) {
        if self.wire.is_none() {
            let may = self.may_connect(&around.net.borrow());
            if may && around.now_us >= self.not_before_us && around.random.chance(300) {
                let clean = around.random.chance(120) && !self.profile.observer;
                self.connect(around, clean);
            }
            return;
        }
        let quiet = self.wire.as_ref().is_some_and(|wire| wire.silent || wire.finished);
        if self.profile.observer || quiet {
            return;
        }
        if !self.is_open() {
            // Giving up before CONNACK.
            if around.random.chance(8) {
                let reset = around.random.chance(500);
                self.let_go(around, reset, false);
            }
            return;
        }
        match around.random.below(1000) {
            0..600 => self.publish(around),
            600..720 => self.subscribe(around),
            720..770 => self.unsubscribe(around),
            770..840 => self.ping(around),
            840..880 => self.stop_reading(around),
            880..900 => self.say_goodbye(around),
            900..920 => self.vanish(around),
            920..935 => self.take_over(around),
            935..945 => self.fall_silent(around),
            _ => {}
        }
    }

    fn publish(&mut self, around: &mut Surroundings<'_>) {
        let Some(wire) = &self.wire else { return };
        let room = self.held.outgoing.len() < OUTGOING_MAX.min(wire.server_receive_maximum.into());
        let qos = if room { around.random.below(3) as u8 } else { 0 };
        let topic = (*around.random.pick(TOPICS)).to_string();
        let retain = around.random.chance(150);
        let expires = self.is_v5() && !retain && around.random.chance(60);
        let expiry_s = expires.then(|| around.random.range(1, 20) as u32);
        let empty = retain && around.random.chance(250);
        let len = if empty { 0 } else { *around.random.pick(LENGTHS) };
        let publisher = self.profile.no;
        let draft = Draft { publisher, topic, qos, retain, len, will: false, expiry_s };
        let id = if qos > 0 { self.free_id() } else { None };
        let alias = self.choose_alias(around, &draft.topic);
        let message = around.model.publish(draft);
        let mut bytes = Vec::new();
        let version = self.profile.version;
        let own = around.model.message(message);
        write_publish(own, version, id.unwrap_or(0), false, alias, &mut bytes);
        let (words, len) = (own.topic.clone(), own.payload.len());
        around.model.trace.event(
            [20, publisher as u64, u64::from(message.0), u64::from(id.unwrap_or(0))],
            format_args!(
                "client {publisher}: publishes {} on {words}, QoS {qos}, id {id:?}, {len} bytes, \
                 retain {retain}",
                message.0
            ),
        );
        match (id, &mut self.wire) {
            (Some(id), _) => {
                let phase = OutPhase::Published;
                self.held.outgoing.push(Outgoing { id, message, qos, phase });
            }
            (None, Some(wire)) => wire.unconfirmed.push_back(message),
            (None, None) => {}
        }
        self.send(around, &bytes);
    }

    /// A topic alias to use: the number, and whether the topic must be spelled out.
    fn choose_alias(&mut self, around: &mut Surroundings<'_>, topic: &str) -> Option<(u16, bool)> {
        let wire = self.wire.as_mut()?;
        if wire.server_alias_max == 0 || !around.random.chance(300) {
            return None;
        }
        let alias = around.random.range(1, u64::from(wire.server_alias_max.min(4))) as u16;
        let known = wire.own_aliases.get(&alias).is_some_and(|own| own == topic);
        wire.own_aliases.insert(alias, topic.to_string());
        Some((alias, !known))
    }

    fn subscribe(&mut self, around: &mut Surroundings<'_>) {
        let count = around.random.range(1, 3);
        let mut filters = Vec::new();
        for _ in 0..count {
            let shared = around.random.chance(250);
            let filter = *around.random.pick(if shared { SHARED } else { FILTERS });
            if !filters.contains(&filter) {
                filters.push(filter);
            }
        }
        self.subscribe_to(around, &filters);
    }

    /// Subscribes to these filters with options as they come.
    pub(crate) fn subscribe_to(&mut self, around: &mut Surroundings<'_>, filters: &[&str]) {
        let (Some(session), Some(id)) = (self.held.session, self.free_id()) else { return };
        let v5 = self.is_v5();
        let subscription_id =
            (v5 && around.random.chance(300)).then(|| around.random.range(1, 300) as u32);
        let mut list = Vec::new();
        let mut asked = Vec::new();
        for filter in filters {
            let shared = filter.starts_with("$share/");
            let options = self.options(around, shared);
            list.push((*filter, options));
            let plain = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
            let subscription = Subscription {
                filter: (*filter).to_string(),
                plain: plain.map_or(*filter, |(_, plain)| plain).to_string(),
                shared,
                qos: options.qos as u8,
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                retain_handling: options.retain_handling as u8,
                is_new: true,
                id: subscription_id,
                asked: 0,
                granted: None,
                refused: false,
                leaving: None,
                left: None,
            };
            asked.push(around.model.subscribe(session, subscription));
        }
        let Some(packet_id) = PacketId::new(id) else { return };
        let packet = SubscribeOut { packet_id, subscription_id, filters: &list };
        let mut bytes = Vec::new();
        packet.encode(self.profile.version, &mut bytes);
        let no = self.profile.no;
        around.model.trace.event(
            [21, no as u64, u64::from(id), list.len() as u64],
            format_args!("client {no}: subscribes to {list:?}"),
        );
        self.ask(around, id, Asked::Subscribe(asked), &bytes);
    }

    fn options(&self, around: &mut Surroundings<'_>, shared: bool) -> SubscriptionOptions {
        if self.profile.observer {
            return SubscriptionOptions::with_qos(QoS::ExactlyOnce);
        }
        let qos = QoS::from_bits(around.random.below(3) as u8).unwrap_or(QoS::AtMostOnce);
        let mut options = SubscriptionOptions::with_qos(qos);
        if self.is_v5() {
            options.no_local = !shared && around.random.chance(200);
            options.retain_as_published = around.random.chance(300);
            options.retain_handling = *around.random.pick(&[
                RetainHandling::Send,
                RetainHandling::SendIfNew,
                RetainHandling::DoNotSend,
            ]);
        }
        options
    }

    fn ask(&mut self, around: &mut Surroundings<'_>, id: u16, asked: Asked, bytes: &[u8]) {
        if let Some(wire) = &mut self.wire {
            wire.requests.push(Request { id, since_us: around.now_us, asked });
        }
        self.send(around, bytes);
    }

    fn unsubscribe(&mut self, around: &mut Surroundings<'_>) {
        let (Some(session), Some(id)) = (self.held.session, self.free_id()) else { return };
        let own: Vec<String> = around
            .model
            .session(session)
            .subscriptions
            .iter()
            .filter(|own| own.left.is_none() && !own.refused)
            .map(|own| own.filter.clone())
            .collect();
        let filter = if own.is_empty() || around.random.chance(50) {
            (*around.random.pick(FILTERS)).to_string()
        } else {
            around.random.pick(&own).clone()
        };
        let asked = around.model.leaving(session, &filter);
        let Some(packet_id) = PacketId::new(id) else { return };
        let mut bytes = Vec::new();
        UnsubscribeOut { packet_id, filters: &[&filter] }.encode(self.profile.version, &mut bytes);
        let no = self.profile.no;
        around.model.trace.event(
            [22, no as u64, u64::from(id), 0],
            format_args!("client {no}: unsubscribes from {filter}"),
        );
        self.ask(around, id, Asked::Unsubscribe(vec![filter], asked), &bytes);
    }

    fn stop_reading(&mut self, around: &mut Surroundings<'_>) {
        let time_us = around.random.below(3_000_000);
        if let Some(wire) = &mut self.wire {
            wire.stopped_until_us = around.now_us + time_us;
        }
    }

    /// DISCONNECT, with or without the will, and sometimes with the session's end.
    pub(crate) fn say_goodbye(&mut self, around: &mut Surroundings<'_>) {
        let mut packet = Disconnect::new(ReasonCode::Success);
        let with_will = self.is_v5() && around.random.chance(200);
        if with_will {
            packet.reason = ReasonCode::DisconnectWithWill;
        }
        let mut bytes = Vec::new();
        packet.encode(self.profile.version, &mut bytes);
        self.send(around, &bytes);
        self.rest(around);
        self.let_go(around, false, !with_will);
    }

    /// Before it comes back some time passes.
    fn rest(&mut self, around: &mut Surroundings<'_>) {
        let longest_us = *around.random.pick(&[1_000, 1_000_000, 8_000_000]);
        self.not_before_us = around.now_us + around.random.below(longest_us);
    }

    /// Goes without a word: closes, resets, finishes sending, or the network breaks.
    fn vanish(&mut self, around: &mut Surroundings<'_>) {
        self.rest(around);
        match around.random.below(4) {
            0 => self.let_go(around, false, false),
            1 => self.let_go(around, true, false),
            2 => {
                if let Some(wire) = &mut self.wire {
                    wire.finished = true;
                    around.net.borrow_mut().finish(wire.link);
                }
            }
            _ => {
                let Some(wire) = &self.wire else { return };
                // Nobody would ever notice without a keep alive.
                if self.profile.keep_alive_s > 0 {
                    around.net.borrow_mut().cut(wire.link);
                    self.broken = Some(wire.link);
                    self.let_go(around, false, false);
                }
            }
        }
    }

    /// Connects again while the old connection stands.
    fn take_over(&mut self, around: &mut Surroundings<'_>) {
        let Some(wire) = self.wire.take() else { return };
        self.old.push((wire.link, around.now_us));
        let clean = around.random.chance(250);
        self.forget_wire(around, &wire, false);
        self.connect(around, clean);
    }

    fn fall_silent(&mut self, around: &mut Surroundings<'_>) {
        let keep_alive_s = self.profile.keep_alive_s;
        if let Some(wire) = self.wire.as_mut().filter(|_| (1..=10).contains(&keep_alive_s)) {
            wire.silent = true;
            wire.last_sent_us = around.now_us;
        }
    }

    /// Ends its session for good, step by step; true when nothing is left.
    pub(crate) fn end_for_good(&mut self, around: &mut Surroundings<'_>) -> bool {
        if self.wire.is_some() {
            if self.is_open() {
                self.say_goodbye(around);
            }
            return false;
        }
        if self.has_session() {
            // A session that ends with its connection.
            self.profile.expiry_s = 0;
            self.connect(around, true);
            return false;
        }
        for (link, _) in self.old.drain(..) {
            around.net.borrow_mut().leave(link, false);
        }
        true
    }

    /// Lets it read again and answer everything.
    pub(crate) fn wake_up(&mut self) {
        self.not_before_us = 0;
        if let Some(wire) = &mut self.wire {
            wire.stopped_until_us = 0;
        }
    }
}

/// Encodes a PUBLISH from client to server.
pub(super) fn write_publish(
    message: &Message,
    version: Version,
    id: u16,
    dup: bool,
    alias: Option<(u16, bool)>,
    out: &mut Vec<u8>,
) {
    let mut forward = Vec::new();
    if version == Version::V5 && message.payload.len().is_multiple_of(3) {
        Property::ContentType("sim").write(&mut forward);
    }
    let spelled_out = alias.is_none_or(|(_, spelled_out)| spelled_out);
    let publish = PublishOut {
        version,
        dup,
        qos: QoS::from_bits(message.qos).unwrap_or(QoS::AtMostOnce),
        retain: message.retain,
        topic: if spelled_out { &message.topic } else { "" },
        packet_id: PacketId::new(id).filter(|_| message.qos > 0),
        message_expiry_s: message.expiry_s,
        topic_alias: alias.map(|(alias, _)| alias),
        subscription_ids: &[],
        forward: &forward,
        payload_len: message.payload.len(),
    };
    publish.write(&message.payload, out);
}
