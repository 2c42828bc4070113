//! CONNECT (MQTT 5.0 section 3.1), in which a client names its version.

use crate::header::expect_flags;
use crate::property::{Place, PropertySource, read_block};
use crate::user_properties::visit;
use crate::writer::{begin, binary_len, packet_len, put_binary, put_text, put_two, text_len};
use crate::{
    DecodeError, DecodeErrorKind, PacketType, Property, QoS, Reader, UserProperties, Version, Will,
};
use alloc::vec::Vec;

const RESERVED: u8 = 0b0000_0001;
const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_QOS: u8 = 0b0001_1000;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USERNAME: u8 = 0b1000_0000;
/// Bridges set this bit of the protocol level in 3.1 and 3.1.1 (a convention, not the standard's).
const BRIDGE: u8 = 0x80;

/// A client's request to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that the client speaks.
    pub version: Version,
    /// The client says that it is a bridge, by the high bit of a 3.1 or 3.1.1 protocol level.
    pub bridge: bool,
    /// Begin a new session (Clean Session in 3.1 and 3.1.1).
    pub clean_start: bool,
    /// Keep alive in seconds; 0: none.
    pub keep_alive_s: u16,
    /// The client's identifier, possibly empty.
    pub client_id: &'a str,
    /// What to publish when the connection ends without a goodbye.
    pub will: Option<Will<'a>>,
    /// The user's name.
    pub username: Option<&'a str>,
    /// The password, any bytes.
    pub password: Option<&'a [u8]>,
    /// The properties; the defaults below version 5.
    pub properties: ConnectProperties<'a>,
}

/// The properties of CONNECT. The default is what a CONNECT without properties means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// Seconds that the session outlives its connection; absent: 0; `u32::MAX`: for ever.
    pub session_expiry_s: Option<u32>,
    /// QoS 1 and 2 messages that the client takes unacknowledged; absent: 65 535; never 0.
    pub receive_maximum: Option<u16>,
    /// The largest packet in bytes that the client takes; absent: no limit; never 0.
    pub maximum_packet_bytes: Option<u32>,
    /// The highest topic alias that the client takes; absent: 0.
    pub topic_alias_maximum: Option<u16>,
    /// The client wants Response Information in CONNACK.
    pub request_response_information: bool,
    /// The client takes reason strings and user properties on every packet that may hold them.
    pub request_problem_information: bool,
    /// The method of enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// What that method sends; only with a method.
    pub authentication_data: Option<&'a [u8]>,
    /// The application's own properties.
    pub user_properties: UserProperties<'a>,
}

impl Default for ConnectProperties<'_> {
    fn default() -> Self {
        Self {
            session_expiry_s: None,
            receive_maximum: None,
            maximum_packet_bytes: None,
            topic_alias_maximum: None,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
            user_properties: UserProperties::EMPTY,
        }
    }
}

impl<'a> ConnectProperties<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut seen = Self::default();
        let raw = read_block(reader, Place::Packet(PacketType::Connect), |property| {
            match property {
                Property::SessionExpiryInterval(seconds) => seen.session_expiry_s = Some(seconds),
                Property::ReceiveMaximum(count) => seen.receive_maximum = Some(count),
                Property::MaximumPacketSize(bytes) => seen.maximum_packet_bytes = Some(bytes),
                Property::TopicAliasMaximum(alias) => seen.topic_alias_maximum = Some(alias),
                Property::RequestResponseInformation(wanted) => {
                    seen.request_response_information = wanted;
                }
                Property::RequestProblemInformation(wanted) => {
                    seen.request_problem_information = wanted;
                }
                Property::AuthenticationMethod(name) => seen.authentication_method = Some(name),
                Property::AuthenticationData(data) => seen.authentication_data = Some(data),
                _ => {}
            }
            Ok(())
        })?;
        if seen.authentication_data.is_some() && seen.authentication_method.is_none() {
            return Err(DecodeErrorKind::AuthenticationDataAlone.into());
        }
        seen.user_properties = UserProperties::of_checked(raw);
        Ok(seen)
    }
}

impl PropertySource for ConnectProperties<'_> {
    fn each(&self, each: &mut dyn FnMut(Property<'_>)) {
        let listed = [
            self.session_expiry_s.map(Property::SessionExpiryInterval),
            self.receive_maximum.map(Property::ReceiveMaximum),
            self.maximum_packet_bytes.map(Property::MaximumPacketSize),
            self.topic_alias_maximum.map(Property::TopicAliasMaximum),
            self.request_response_information.then_some(Property::RequestResponseInformation(true)),
            (!self.request_problem_information)
                .then_some(Property::RequestProblemInformation(false)),
            self.authentication_method.map(Property::AuthenticationMethod),
            self.authentication_data.map(Property::AuthenticationData),
        ];
        listed.into_iter().flatten().for_each(&mut *each);
        visit(&self.user_properties, each);
    }
}

/// The connect flags, checked against each other.
struct Flags {
    clean_start: bool,
    will: Option<(QoS, bool)>,
    username: bool,
    password: bool,
}

impl Flags {
    fn parse(version: Version, bits: u8) -> Result<Self, DecodeError> {
        //= [MQTT-3.1.2-3]
        //= 3.1.1 [MQTT-3.1.2-3]
        // MQTT 3.1 calls the bit unused and sets no rule.
        if bits & RESERVED != 0 && version != Version::V3_1 {
            return Err(DecodeErrorKind::ConnectFlagReserved.into());
        }
        //= [MQTT-3.1.2-12]
        //= 3.1.1 [MQTT-3.1.2-14]
        let qos = QoS::from_bits((bits & WILL_QOS) >> 3).ok_or(DecodeErrorKind::WillFlags)?;
        let will = if bits & WILL != 0 { Some((qos, bits & WILL_RETAIN != 0)) } else { None };
        //= [MQTT-3.1.2-11]
        //= [MQTT-3.1.2-13]
        //= 3.1.1 [MQTT-3.1.2-11]
        //= 3.1.1 [MQTT-3.1.2-13]
        //= 3.1.1 [MQTT-3.1.2-15]
        if will.is_none() && bits & (WILL_QOS | WILL_RETAIN) != 0 {
            return Err(DecodeErrorKind::WillFlags.into());
        }
        let (username, password) = (bits & USERNAME != 0, bits & PASSWORD != 0);
        //= 3.1.1 [MQTT-3.1.2-22]
        if password && !username && !version.is_v5() {
            return Err(DecodeErrorKind::PasswordWithoutUsername.into());
        }
        Ok(Self { clean_start: bits & CLEAN_START != 0, will, username, password })
    }
}

/// Reads protocol name and level: the version and whether the bridge bit was set.
fn read_version(reader: &mut Reader<'_>) -> Result<(Version, bool), DecodeError> {
    let name = reader.binary()?;
    let level = reader.byte()?;
    //= [MQTT-3.1.2-1]
    //= [MQTT-3.1.2-2]
    //= 3.1.1 [MQTT-3.1.2-1]
    let unsupported = DecodeErrorKind::UnsupportedProtocol;
    let bridge = level & BRIDGE != 0;
    let version = Version::announced(name, level & !BRIDGE).ok_or(unsupported)?;
    if bridge && version.is_v5() { Err(unsupported.into()) } else { Ok((version, bridge)) }
}

impl<'a> Connect<'a> {
    /// The version that a CONNECT's body announces, as far as it is one that is offered, whatever
    /// else is wrong with it: tells in which form a refusal is to be answered.
    pub fn peek_version(body: &[u8]) -> Option<Version> {
        read_version(&mut Reader::new(body)).ok().map(|(version, _)| version)
    }

    /// Decodes what follows the fixed header.
    ///
    /// Errors: a protocol name or level that is not offered, contradicting flags, fields that are
    /// missing, left over or not well-formed, bad properties.
    //= [MQTT-3.1.4-1]
    pub fn decode(flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (version, bridge) = read_version(&mut reader)?;
        expect_flags(PacketType::Connect, version, flags)?;
        let flags = Flags::parse(version, reader.byte()?)?;
        let keep_alive_s = reader.two()?;
        let properties = if version.is_v5() {
            ConnectProperties::read(&mut reader)?
        } else {
            ConnectProperties::default()
        };
        //= [MQTT-3.1.3-1]
        //= [MQTT-3.1.3-3]
        //= [MQTT-3.1.3-4]
        //= [MQTT-3.1.3-5]
        //= 3.1.1 [MQTT-3.1.3-1]
        //= 3.1.1 [MQTT-3.1.3-3]
        //= 3.1.1 [MQTT-3.1.3-4]
        //= 3.1.1 [MQTT-3.1.3-5]
        let client_id = reader.text()?;
        //= [MQTT-3.1.2-9]
        //= 3.1.1 [MQTT-3.1.2-9]
        let will = match flags.will {
            Some((qos, retain)) => Some(Will::read(version, qos, retain, &mut reader)?),
            None => None,
        };
        //= [MQTT-3.1.2-17]
        //= [MQTT-3.1.3-12]
        //= 3.1.1 [MQTT-3.1.2-19]
        //= 3.1.1 [MQTT-3.1.3-11]
        let username =
            if present(flags.username, version, &reader) { Some(reader.text()?) } else { None };
        //= [MQTT-3.1.2-19]
        //= 3.1.1 [MQTT-3.1.2-21]
        let password =
            if present(flags.password, version, &reader) { Some(reader.binary()?) } else { None };
        //= [MQTT-3.1.2-16]
        //= [MQTT-3.1.2-18]
        //= 3.1.1 [MQTT-3.1.2-18]
        //= 3.1.1 [MQTT-3.1.2-20]
        reader.finish()?;
        let clean_start = flags.clean_start;
        Ok(Self {
            version,
            bridge,
            clean_start,
            keep_alive_s,
            client_id,
            will,
            username,
            password,
            properties,
        })
    }

    fn flag_bits(&self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| WILL | will.qos.bits() << 3 | bit(will.retain, WILL_RETAIN));
        bit(self.clean_start, CLEAN_START)
            | will
            | bit(self.username.is_some(), USERNAME)
            | bit(self.password.is_some(), PASSWORD)
    }

    fn remaining_len(&self) -> usize {
        let is_v5 = self.version.is_v5();
        let block = |source: &dyn PropertySource| if is_v5 { source.block_len() } else { 0 };
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| block(will) + text_len(will.topic) + binary_len(will.payload));
        text_len(self.version.protocol_name())
            + 4
            + block(&self.properties)
            + text_len(self.client_id)
            + will
            + self.username.map_or(0, text_len)
            + self.password.map_or(0, binary_len)
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self) -> usize {
        packet_len(self.remaining_len())
    }

    /// Appends the packet, in the version that it names.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if !begin(PacketType::Connect, 0, self.remaining_len(), out) {
            return;
        }
        put_text(self.version.protocol_name(), out);
        out.push(self.version.level() | if self.bridge { BRIDGE } else { 0 });
        out.push(self.flag_bits());
        put_two(self.keep_alive_s, out);
        if self.version.is_v5() {
            self.properties.write_block(out);
        }
        put_text(self.client_id, out);
        if let Some(will) = &self.will {
            if self.version.is_v5() {
                will.write_block(out);
            }
            put_text(will.topic, out);
            put_binary(will.payload, out);
        }
        if let Some(name) = self.username {
            put_text(name, out);
        }
        if let Some(password) = self.password {
            put_binary(password, out);
        }
    }
}

/// Whether a field that its flag announces is read. In MQTT 3.1 the packet's end outranks the flag:
/// old clients announce a user name and do not send it (3.1, section 3.1).
fn present(flag: bool, version: Version, reader: &Reader<'_>) -> bool {
    flag && !(version == Version::V3_1 && reader.is_empty())
}
