//! Packets: what a client sends, built with as much freedom as a hostile client needs, and what a
//! server sends, read as strictly as the standard allows. Must not do I/O.

use super::wire::{Props, Reader, frame, prop, string, varint};
use super::{V5, V31, V311};

/// An application message, sent or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub id: Option<u16>,
    pub props: Props,
}

impl Publish {
    pub fn new(topic: &str, payload: impl AsRef<[u8]>) -> Publish {
        Publish {
            topic: topic.to_owned(),
            payload: payload.as_ref().to_vec(),
            qos: 0,
            retain: false,
            dup: false,
            id: None,
            props: Props::none(),
        }
    }

    pub fn qos(mut self, qos: u8) -> Publish {
        self.qos = qos;
        self
    }

    /// QoS above 0 with a packet id of the test's choice.
    pub fn id(mut self, id: u16) -> Publish {
        self.id = Some(id);
        self
    }

    pub fn retain(mut self) -> Publish {
        self.retain = true;
        self
    }

    pub fn dup(mut self) -> Publish {
        self.dup = true;
        self
    }

    pub fn props(mut self, props: Props) -> Publish {
        self.props = props;
        self
    }

    pub fn expiry(mut self, seconds: u32) -> Publish {
        self.props = self.props.u32(prop::MESSAGE_EXPIRY, seconds);
        self
    }

    pub fn alias(mut self, alias: u16) -> Publish {
        self.props = self.props.u16(prop::TOPIC_ALIAS, alias);
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub fn packet_id(&self) -> u16 {
        self.id.expect("a message of QoS 1 or 2")
    }

    pub fn encode(&self, version: u8) -> Vec<u8> {
        let mut body = string(self.topic.as_bytes());
        if let Some(id) = self.id {
            body.extend(id.to_be_bytes());
        }
        if version == V5 {
            body.extend(self.props.encode());
        }
        body.extend(&self.payload);
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        frame(0x30 | flags, &body)
    }
}

/// A will in a CONNECT.
#[derive(Clone, Debug)]
pub struct Will {
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub props: Props,
}

impl Will {
    pub fn new(topic: &str, payload: &str) -> Will {
        Will {
            topic: topic.as_bytes().to_vec(),
            payload: payload.as_bytes().to_vec(),
            qos: 0,
            retain: false,
            props: Props::none(),
        }
    }

    pub fn qos(mut self, qos: u8) -> Will {
        self.qos = qos;
        self
    }

    pub fn retain(mut self) -> Will {
        self.retain = true;
        self
    }

    pub fn delay(mut self, seconds: u32) -> Will {
        self.props = self.props.u32(prop::WILL_DELAY, seconds);
        self
    }

    pub fn props(mut self, props: Props) -> Will {
        self.props = props;
        self
    }
}

/// A CONNECT. Strings are bytes, so that a test can send what is no string.
#[derive(Clone, Debug)]
pub struct Connect {
    pub version: u8,
    pub client_id: Vec<u8>,
    pub clean: bool,
    pub keep_alive: u16,
    pub will: Option<Will>,
    pub username: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
    pub props: Props,
}

impl Connect {
    pub fn new(version: u8, client_id: &str) -> Connect {
        Connect {
            version,
            client_id: client_id.as_bytes().to_vec(),
            clean: true,
            keep_alive: 0,
            will: None,
            username: None,
            password: None,
            props: Props::none(),
        }
    }

    /// Clean Start 0, or CleanSession 0 below 5.0.
    pub fn resume(mut self) -> Connect {
        self.clean = false;
        self
    }

    pub fn clean(mut self) -> Connect {
        self.clean = true;
        self
    }

    pub fn keep_alive(mut self, seconds: u16) -> Connect {
        self.keep_alive = seconds;
        self
    }

    pub fn will(mut self, will: Will) -> Connect {
        self.will = Some(will);
        self
    }

    pub fn username(mut self, name: impl AsRef<[u8]>) -> Connect {
        self.username = Some(name.as_ref().to_vec());
        self
    }

    pub fn password(mut self, password: impl AsRef<[u8]>) -> Connect {
        self.password = Some(password.as_ref().to_vec());
        self
    }

    pub fn prop(mut self, add: impl FnOnce(Props) -> Props) -> Connect {
        self.props = add(self.props);
        self
    }

    pub fn expiry(self, seconds: u32) -> Connect {
        self.prop(|p| p.u32(prop::SESSION_EXPIRY, seconds))
    }

    pub fn receive_maximum(self, n: u16) -> Connect {
        self.prop(|p| p.u16(prop::RECEIVE_MAXIMUM, n))
    }

    pub fn maximum_packet(self, bytes: u32) -> Connect {
        self.prop(|p| p.u32(prop::MAXIMUM_PACKET_SIZE, bytes))
    }

    /// The connect flags that belong to the fields.
    pub fn flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |w| 4 | w.qos << 3 | u8::from(w.retain) << 5);
        u8::from(self.username.is_some()) << 7
            | u8::from(self.password.is_some()) << 6
            | u8::from(self.clean) << 1
            | will
    }

    pub fn encode(&self) -> Vec<u8> {
        self.encode_with(self.flags(), &[])
    }

    /// With connect flags and a tail of the test's choice.
    pub fn encode_with(&self, flags: u8, tail: &[u8]) -> Vec<u8> {
        let name: &[u8] = if self.version == V31 { b"MQIsdp" } else { b"MQTT" };
        let mut body = string(name);
        body.extend([self.version, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        if self.version == V5 {
            body.extend(self.props.encode());
        }
        body.extend(string(&self.client_id));
        if let Some(will) = &self.will {
            if self.version == V5 {
                body.extend(will.props.encode());
            }
            body.extend(string(&will.topic));
            body.extend(string(&will.payload));
        }
        for field in [&self.username, &self.password].into_iter().flatten() {
            body.extend(string(field));
        }
        body.extend(tail);
        frame(0x10, &body)
    }
}

/// A SUBSCRIBE: each filter with its option byte.
#[derive(Clone, Debug)]
pub struct Subscribe {
    pub id: u16,
    pub filters: Vec<(Vec<u8>, u8)>,
    pub props: Props,
}

/// Bits of a subscription's option byte beside the QoS.
pub mod option {
    pub const NO_LOCAL: u8 = 0x04;
    pub const RETAIN_AS_PUBLISHED: u8 = 0x08;
    pub const SEND_RETAINED_IF_NEW: u8 = 0x10;
    pub const SEND_NO_RETAINED: u8 = 0x20;
}

impl Subscribe {
    pub fn new(id: u16, filter: impl AsRef<[u8]>, options: u8) -> Subscribe {
        Subscribe { id, filters: vec![(filter.as_ref().to_vec(), options)], props: Props::none() }
    }

    pub fn and(mut self, filter: impl AsRef<[u8]>, options: u8) -> Subscribe {
        self.filters.push((filter.as_ref().to_vec(), options));
        self
    }

    pub fn subscription_id(mut self, id: u32) -> Subscribe {
        self.props = self.props.var(prop::SUBSCRIPTION_ID, id);
        self
    }

    pub fn encode(&self, version: u8) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        if version == V5 {
            body.extend(self.props.encode());
        }
        for (filter, options) in &self.filters {
            body.extend(string(filter));
            body.push(*options);
        }
        frame(0x82, &body)
    }
}

/// An UNSUBSCRIBE.
#[derive(Clone, Debug)]
pub struct Unsubscribe {
    pub id: u16,
    pub filters: Vec<Vec<u8>>,
}

impl Unsubscribe {
    pub fn encode(&self, version: u8) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        if version == V5 {
            body.extend(Props::none().encode());
        }
        for filter in &self.filters {
            body.extend(string(filter));
        }
        frame(0xA2, &body)
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP by its first byte, in the shortest form.
pub fn ack(first: u8, id: u16, code: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if code != 0 {
        body.push(code);
    }
    frame(first, &body)
}

pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBREL: u8 = 0x62;
pub const PUBCOMP: u8 = 0x70;

/// DISCONNECT with a code; properties only where there are some. Code 0 alone is the empty form.
pub fn disconnect(version: u8, code: u8, props: &Props) -> Vec<u8> {
    if version != V5 || (code == 0 && props.0.is_empty()) {
        return frame(0xE0, &[]);
    }
    let mut body = vec![code];
    if !props.0.is_empty() {
        body.extend(props.encode());
    }
    frame(0xE0, &body)
}

/// AUTH with a code and properties.
pub fn auth(code: u8, props: &Props) -> Vec<u8> {
    let mut body = vec![code];
    body.extend(props.encode());
    frame(0xF0, &body)
}

/// PINGREQ.
pub const PINGREQ: [u8; 2] = [0xC0, 0x00];

/// What every acknowledgement of a PUBLISH holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    pub id: u16,
    pub code: u8,
    pub props: Props,
}

/// A packet from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    ConnAck { session_present: bool, code: u8, props: Props },
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    SubAck { id: u16, codes: Vec<u8>, props: Props },
    UnsubAck { id: u16, codes: Vec<u8>, props: Props },
    PingResp,
    Disconnect { code: u8, props: Props },
    Auth { code: u8, props: Props },
}

const CONNACK_PROPS: [u8; 17] = [
    prop::SESSION_EXPIRY,
    prop::ASSIGNED_CLIENT_ID,
    prop::SERVER_KEEP_ALIVE,
    prop::AUTH_METHOD,
    prop::AUTH_DATA,
    prop::RESPONSE_INFO,
    prop::SERVER_REFERENCE,
    prop::REASON_STRING,
    prop::RECEIVE_MAXIMUM,
    prop::TOPIC_ALIAS_MAXIMUM,
    prop::MAXIMUM_QOS,
    prop::RETAIN_AVAILABLE,
    prop::USER_PROPERTY,
    prop::MAXIMUM_PACKET_SIZE,
    prop::WILDCARD_AVAILABLE,
    prop::SUBSCRIPTION_ID_AVAILABLE,
    prop::SHARED_AVAILABLE,
];
const PUBLISH_PROPS: [u8; 8] = [
    prop::PAYLOAD_FORMAT,
    prop::MESSAGE_EXPIRY,
    prop::CONTENT_TYPE,
    prop::RESPONSE_TOPIC,
    prop::CORRELATION_DATA,
    prop::SUBSCRIPTION_ID,
    prop::TOPIC_ALIAS,
    prop::USER_PROPERTY,
];
const ACK_PROPS: [u8; 2] = [prop::REASON_STRING, prop::USER_PROPERTY];
// No Session Expiry Interval: a server must not send it (3.14.2-2).
const DISCONNECT_PROPS: [u8; 3] =
    [prop::REASON_STRING, prop::USER_PROPERTY, prop::SERVER_REFERENCE];
const AUTH_PROPS: [u8; 4] =
    [prop::AUTH_METHOD, prop::AUTH_DATA, prop::REASON_STRING, prop::USER_PROPERTY];

impl Packet {
    /// Reads a whole packet from a server. `Err` says what a server must not have sent.
    pub fn decode(version: u8, first: u8, body: &[u8]) -> Result<Packet, String> {
        let mut r = Reader::new(body);
        let flags = first & 0x0F;
        let kind = first >> 4;
        let wanted = if kind == 6 { 2 } else { 0 };
        if kind != 3 && flags != wanted {
            return Err(format!("header flags {flags:#x}"));
        }
        let packet = match kind {
            2 => Packet::connack(version, &mut r)?,
            3 => Packet::Publish(Packet::publish(version, flags, &mut r)?),
            4 => Packet::PubAck(Packet::ack(version, &mut r, &PUBACK_CODES)?),
            5 => Packet::PubRec(Packet::ack(version, &mut r, &PUBACK_CODES)?),
            6 => Packet::PubRel(Packet::ack(version, &mut r, &[0, 0x92])?),
            7 => Packet::PubComp(Packet::ack(version, &mut r, &[0, 0x92])?),
            9 => Packet::suback(version, &mut r)?,
            11 => Packet::unsuback(version, &mut r)?,
            13 => Packet::PingResp,
            14 if version == V5 => Packet::disconnect(&mut r)?,
            15 if version == V5 => Packet::Auth { code: r.u8()?, props: r.props(&AUTH_PROPS)? },
            _ => return Err(format!("a packet of type {kind} from a server")),
        };
        if r.is_empty() { Ok(packet) } else { Err(format!("bytes left over after {packet:?}")) }
    }

    fn connack(version: u8, r: &mut Reader<'_>) -> Result<Packet, String> {
        let flags = r.u8()?;
        let code = r.u8()?;
        let props = if version == V5 { r.props(&CONNACK_PROPS)? } else { Props::none() };
        if flags > 1 || (version == V31 && flags != 0) {
            return Err(format!("connect acknowledge flags {flags:#x}"));
        }
        if flags == 1 && code != 0 {
            return Err(format!("session present with code {code:#04x}"));
        }
        if version != V5 && code > 5 {
            return Err(format!("return code {code} below 5.0"));
        }
        Ok(Packet::ConnAck { session_present: flags == 1, code, props })
    }

    fn publish(version: u8, flags: u8, r: &mut Reader<'_>) -> Result<Publish, String> {
        let qos = flags >> 1 & 3;
        let dup = flags & 8 != 0;
        if qos == 3 || (qos == 0 && dup) {
            return Err(format!("PUBLISH with flags {flags:#x}"));
        }
        let topic = r.string()?;
        if topic.contains(['+', '#']) {
            return Err(format!("a wildcard in the topic {topic}"));
        }
        let id = if qos > 0 { Some(r.u16()?) } else { None };
        if id == Some(0) {
            return Err("packet id 0".to_owned());
        }
        let props = if version == V5 { r.props(&PUBLISH_PROPS)? } else { Props::none() };
        if topic.is_empty() && !props.has(prop::TOPIC_ALIAS) {
            return Err("neither a topic nor an alias".to_owned());
        }
        let retain = flags & 1 != 0;
        Ok(Publish { topic, payload: r.rest().to_vec(), qos, retain, dup, id, props })
    }

    fn ack(version: u8, r: &mut Reader<'_>, codes: &[u8]) -> Result<Ack, String> {
        let id = r.u16()?;
        if version != V5 || r.is_empty() {
            return Ok(Ack { id, code: 0, props: Props::none() });
        }
        let code = r.u8()?;
        if !codes.contains(&code) {
            return Err(format!("code {code:#04x} in an acknowledgement"));
        }
        let props = if r.is_empty() { Props::none() } else { r.props(&ACK_PROPS)? };
        Ok(Ack { id, code, props })
    }

    fn suback(version: u8, r: &mut Reader<'_>) -> Result<Packet, String> {
        let id = r.u16()?;
        let props = if version == V5 { r.props(&ACK_PROPS)? } else { Props::none() };
        let codes = r.rest().to_vec();
        let v5 = [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
        let legal: &[u8] = if version == V5 { &v5 } else { &[0, 1, 2, 0x80] };
        match codes.iter().find(|c| !legal.contains(c)) {
            Some(c) => Err(format!("code {c:#04x} in SUBACK")),
            None => Ok(Packet::SubAck { id, codes, props }),
        }
    }

    fn unsuback(version: u8, r: &mut Reader<'_>) -> Result<Packet, String> {
        let id = r.u16()?;
        let props = if version == V5 { r.props(&ACK_PROPS)? } else { Props::none() };
        let codes = r.rest().to_vec();
        let legal = [0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
        match codes.iter().find(|c| !legal.contains(c)) {
            Some(c) => Err(format!("code {c:#04x} in UNSUBACK")),
            None => Ok(Packet::UnsubAck { id, codes, props }),
        }
    }

    fn disconnect(r: &mut Reader<'_>) -> Result<Packet, String> {
        let code = if r.is_empty() { 0 } else { r.u8()? };
        let props = if r.is_empty() { Props::none() } else { r.props(&DISCONNECT_PROPS)? };
        if code == 0x04 || (code > 0 && code < 0x80) {
            return Err(format!("DISCONNECT {code:#04x} from a server"));
        }
        Ok(Packet::Disconnect { code, props })
    }
}

const PUBACK_CODES: [u8; 9] = [0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];

/// The length of a whole PUBLISH as a server would send it.
pub fn publish_len(version: u8, publish: &Publish) -> usize {
    publish.encode(version).len()
}

/// The bytes of a remaining length that says more than follows.
pub fn header_only(first: u8, remaining: u32) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(varint(remaining));
    out
}

/// The versions of MQTT over which a test may run.
pub const ALL_VERSIONS: [u8; 3] = [V31, V311, V5];
