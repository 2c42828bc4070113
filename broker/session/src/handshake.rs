//! What CONNECT asks for against what the server allows, and the CONNACK that says so. Holds no
//! state: who the client is, whether it may connect and whether it has a session is known
//! elsewhere.

use ringtide_codec::{ConnAck, ConnAckProperties, Connect, PacketType, QoS, ReasonCode, Version};

/// Where clients are sent instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReference {
    /// The other server, as the client is told: a list of hosts, see section 4.11.
    pub address: Box<str>,
    /// For good (0x9D), or for now (0x9C).
    pub moved: bool,
}

/// What the server allows. The default sets no limit that the protocol does not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// QoS 1 and 2 messages that a client may leave unacknowledged; 1 to 65 535.
    pub receive_maximum: u16,
    /// The largest packet that a client may send, in bytes; at least 1.
    pub maximum_packet_bytes: u32,
    /// The highest topic alias that a client may use; 0: none.
    pub topic_alias_maximum: u16,
    /// The highest QoS.
    pub maximum_qos: QoS,
    /// Whether there are retained messages.
    pub retain_available: bool,
    /// The longest session expiry of version 5, in seconds; `u32::MAX`: endless.
    pub session_expiry_max_s: u32,
    /// The session expiry of an older client without Clean Session, in seconds; `u32::MAX`:
    /// endless.
    pub session_expiry_v3_s: u32,
    /// The longest keep alive of version 5, in seconds; 0: no override.
    pub keep_alive_max_s: u16,
    /// The keep alive of a version 5 client that asks for none, in seconds; 0: none, or the
    /// longest if there is one.
    pub keep_alive_default_s: u16,
    /// The longest client id, in bytes of UTF-8. The standard asks for at least 23; the 23 that
    /// MQTT 3.1 allows at most are not enforced, since its clients do not keep to them.
    pub client_id_max_bytes: u16,
    /// QoS 1 and 2 messages under way to one client, whatever it allows; 1 to 65 535. It is all
    /// that limits a client before version 5.
    pub inflight_max: u16,
    /// Whether MQTT 3.1 clients are let in.
    pub allow_v3_1: bool,
    /// Whether MQTT 3.1.1 clients are let in.
    pub allow_v3_1_1: bool,
    /// Whether MQTT 5.0 clients are let in.
    pub allow_v5: bool,
    /// If set, every client is sent there instead of being let in.
    pub server_reference: Option<ServerReference>,
}

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits {
            receive_maximum: u16::MAX,
            maximum_packet_bytes: u32::MAX,
            topic_alias_maximum: u16::MAX,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            session_expiry_max_s: u32::MAX,
            session_expiry_v3_s: u32::MAX,
            keep_alive_max_s: 0,
            keep_alive_default_s: 0,
            client_id_max_bytes: u16::MAX,
            inflight_max: u16::MAX,
            allow_v3_1: true,
            allow_v3_1_1: true,
            allow_v5: true,
            server_reference: None,
        }
    }
}

/// What a connection has agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The protocol version.
    pub version: Version,
    /// Whether the client wants a new session.
    pub clean_start: bool,
    /// The keep alive in force, in seconds; 0: none.
    pub keep_alive_s: u16,
    /// Whether it differs from the client's and is announced.
    pub server_keep_alive: bool,
    /// The session expiry in force, in seconds; 0: ends with the connection; `u32::MAX`: never.
    pub session_expiry_s: u32,
    /// Whether it differs from the client's and is announced.
    pub expiry_announced: bool,
    /// The session expiry that the CONNECT itself asked for, 0 if it asked for none: what a
    /// DISCONNECT that raises it is judged by, see [`crate::expiry::after_disconnect`].
    pub connect_expiry_s: u32,
    /// QoS 1 and 2 messages that may be under way to the client: its Receive Maximum, or the
    /// server's own limit if that is lower. At least 1.
    pub receive_maximum: u16,
    /// The largest packet that the client accepts, in bytes; `u32::MAX`: any.
    pub maximum_packet_bytes: u32,
    /// The highest topic alias that the client accepts; 0: none.
    pub topic_alias_maximum: u16,
    /// Whether the client wants reason strings and user properties on every packet.
    pub request_problem_information: bool,
    /// Whether the client wants Response Information.
    pub request_response_information: bool,
    /// Whether the client gave no id and is assigned one.
    pub assign_client_id: bool,
}

impl Negotiated {
    /// Whether a packet of this type may carry a reason string or user properties.
    //= [MQTT-3.1.2-29]
    pub fn allows_problem_information(&self, packet: PacketType) -> bool {
        let always =
            matches!(packet, PacketType::Publish | PacketType::ConnAck | PacketType::Disconnect);
        self.version.is_v5() && (always || self.request_problem_information)
    }

    /// Whether the client is told that its session is carried on, given that state is stored.
    //= [MQTT-3.2.2-2]
    //= [MQTT-3.2.2-3]
    //= 3.1.1 [MQTT-3.2.2-1]
    //= 3.1.1 [MQTT-3.2.2-2]
    //= 3.1.1 [MQTT-3.2.2-3]
    pub fn session_present(&self, state_exists: bool) -> bool {
        state_exists && !self.clean_start
    }
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code for CONNACK.
    pub reason: ReasonCode,
    /// The same in words, for the reason string and the log.
    pub text: &'static str,
}

impl Refusal {
    /// The client named a method of enhanced authentication that the server does not have.
    //= [MQTT-4.12.0-1]
    pub const AUTHENTICATION_METHOD: Refusal =
        refusal(ReasonCode::BadAuthenticationMethod, "authentication method not supported");
}

const fn refusal(reason: ReasonCode, text: &'static str) -> Refusal {
    Refusal { reason, text }
}

/// Settles what a well-formed CONNECT asks for.
///
/// # Errors
/// A [`Refusal`] if the server sends clients elsewhere, does not speak the version, does not take
/// the client id, or does not support the will's QoS or retain flag.
pub fn negotiate(connect: &Connect<'_>, limits: &ServerLimits) -> Result<Negotiated, Refusal> {
    check_server(connect.version, limits)?;
    check_client_id(connect, limits)?;
    check_will(connect, limits)?;
    let properties = &connect.properties;
    let keep_alive_s = keep_alive_s(connect, limits);
    let connect_expiry_s = properties.session_expiry_s.unwrap_or(0);
    let session_expiry_s = session_expiry_s(connect, limits);
    let v5 = connect.version.is_v5();
    //= [MQTT-4.9.0-1]
    let receive_maximum = properties.receive_maximum.unwrap_or(u16::MAX).min(limits.inflight_max);
    Ok(Negotiated {
        version: connect.version,
        clean_start: connect.clean_start,
        keep_alive_s,
        server_keep_alive: v5 && keep_alive_s != connect.keep_alive_s,
        session_expiry_s,
        expiry_announced: v5 && session_expiry_s != connect_expiry_s,
        connect_expiry_s,
        receive_maximum: receive_maximum.max(1),
        maximum_packet_bytes: properties.maximum_packet_bytes.unwrap_or(u32::MAX),
        //= [MQTT-3.1.2-27]
        topic_alias_maximum: properties.topic_alias_maximum.unwrap_or(0),
        request_problem_information: v5 && properties.request_problem_information,
        request_response_information: v5 && properties.request_response_information,
        assign_client_id: connect.client_id.is_empty(),
    })
}

fn check_server(version: Version, limits: &ServerLimits) -> Result<(), Refusal> {
    let allowed = match version {
        Version::V3_1 => limits.allow_v3_1,
        Version::V3_1_1 => limits.allow_v3_1_1,
        Version::V5 => limits.allow_v5,
    };
    //= [MQTT-3.1.2-2]
    //= 3.1.1 [MQTT-3.1.2-2]
    if !allowed {
        let text = "this version of the protocol is not offered here";
        return Err(refusal(ReasonCode::UnsupportedProtocolVersion, text));
    }
    match &limits.server_reference {
        None => Ok(()),
        Some(ServerReference { moved: true, .. }) => {
            Err(refusal(ReasonCode::ServerMoved, "the server has moved"))
        }
        Some(ServerReference { moved: false, .. }) => {
            Err(refusal(ReasonCode::UseAnotherServer, "use another server for now"))
        }
    }
}

//= [MQTT-3.1.3-5]
//= [MQTT-3.1.3-6]
//= [MQTT-3.1.3-8]
//= 3.1.1 [MQTT-3.1.3-5]
//= 3.1.1 [MQTT-3.1.3-6]
//= 3.1.1 [MQTT-3.1.3-7]
//= 3.1.1 [MQTT-3.1.3-8]
//= 3.1.1 [MQTT-3.1.3-9]
fn check_client_id(connect: &Connect<'_>, limits: &ServerLimits) -> Result<(), Refusal> {
    let text = match (connect.client_id, connect.version) {
        ("", Version::V3_1) => "MQTT 3.1 needs a client id",
        ("", Version::V3_1_1) if !connect.clean_start => {
            "without Clean Session a client id is needed"
        }
        (id, _) if id.len() > usize::from(limits.client_id_max_bytes) => {
            "the client id is too long"
        }
        _ => return Ok(()),
    };
    Err(refusal(ReasonCode::ClientIdentifierNotValid, text))
}

fn check_will(connect: &Connect<'_>, limits: &ServerLimits) -> Result<(), Refusal> {
    let Some(will) = &connect.will else {
        return Ok(());
    };
    //= [MQTT-3.2.2-12]
    if will.qos > limits.maximum_qos {
        return Err(refusal(ReasonCode::QoSNotSupported, "the will's QoS is not supported"));
    }
    //= [MQTT-3.2.2-13]
    if will.retain && !limits.retain_available {
        let text = "retained messages are not supported, and the will is one";
        return Err(refusal(ReasonCode::RetainNotSupported, text));
    }
    Ok(())
}

/// An older client cannot be told another keep alive, so its own binds.
//= [MQTT-3.2.2-21]
//= [MQTT-3.2.2-22]
fn keep_alive_s(connect: &Connect<'_>, limits: &ServerLimits) -> u16 {
    if !connect.version.is_v5() {
        return connect.keep_alive_s;
    }
    let asked_s = match connect.keep_alive_s {
        0 => limits.keep_alive_default_s,
        asked_s => asked_s,
    };
    match (asked_s, limits.keep_alive_max_s) {
        (asked_s, 0) => asked_s,
        (0, max_s) => max_s,
        (asked_s, max_s) => asked_s.min(max_s),
    }
}

//= [MQTT-3.1.2-23]
//= 3.1.1 [MQTT-3.1.2-4]
//= 3.1.1 [MQTT-3.1.2-6]
fn session_expiry_s(connect: &Connect<'_>, limits: &ServerLimits) -> u32 {
    match (connect.version.is_v5(), connect.clean_start) {
        (true, _) => {
            let asked_s = connect.properties.session_expiry_s.unwrap_or(0);
            asked_s.min(limits.session_expiry_max_s)
        }
        (false, true) => 0,
        (false, false) => limits.session_expiry_v3_s,
    }
}

/// The CONNACK that lets a client in. `assigned` is the client id that the server made up, if the
/// client gave none. The caller adds Response Information if it has some and
/// [`Negotiated::request_response_information`] is set, and what enhanced authentication adds (see
/// [`crate::AuthReply::ConnAck`]); before version 5 nothing but the two bytes is sent.
//= [MQTT-3.1.2-28]
//= [MQTT-3.1.3-7]
//= [MQTT-3.1.4-5]
//= [MQTT-3.2.2-9]
//= [MQTT-3.2.2-16]
//= 3.1.1 [MQTT-3.1.4-4]
pub fn connack<'a>(
    negotiated: &Negotiated,
    limits: &ServerLimits,
    session_present: bool,
    assigned: Option<&'a str>,
) -> ConnAck<'a> {
    let session_present = negotiated.session_present(session_present);
    let mut connack = ConnAck::new(session_present, ReasonCode::Success);
    if !negotiated.version.is_v5() {
        return connack;
    }
    let receive_maximum = limits.receive_maximum.max(1);
    connack.properties = ConnAckProperties {
        session_expiry_s: negotiated.expiry_announced.then_some(negotiated.session_expiry_s),
        receive_maximum: (receive_maximum != u16::MAX).then_some(receive_maximum),
        maximum_qos: (limits.maximum_qos != QoS::ExactlyOnce).then_some(limits.maximum_qos),
        retain_available: (!limits.retain_available).then_some(false),
        maximum_packet_bytes: (limits.maximum_packet_bytes != u32::MAX)
            .then_some(limits.maximum_packet_bytes.max(1)),
        assigned_client_id: assigned.filter(|_| negotiated.assign_client_id),
        topic_alias_maximum: (limits.topic_alias_maximum != 0)
            .then_some(limits.topic_alias_maximum),
        server_keep_alive_s: negotiated.server_keep_alive.then_some(negotiated.keep_alive_s),
        ..ConnAckProperties::default()
    };
    connack
}

/// The CONNACK that turns a client away; the connection closes after it.
//= [MQTT-3.2.2-6]
//= 3.1.1 [MQTT-3.2.2-4]
pub fn refusal_connack<'a>(refusal: &Refusal, limits: &'a ServerLimits) -> ConnAck<'a> {
    let mut connack = ConnAck::new(false, refusal.reason);
    connack.properties.reason_string = Some(refusal.text);
    if matches!(refusal.reason, ReasonCode::UseAnotherServer | ReasonCode::ServerMoved) {
        let reference = limits.server_reference.as_ref();
        connack.properties.server_reference = reference.map(|reference| &*reference.address);
    }
    connack
}

/// Leaves the user properties and then the reason string out of a CONNACK that would be larger
/// than the client accepts. False if it is too large even so and must not be sent.
//= [MQTT-3.1.2-24]
//= [MQTT-3.2.2-19]
//= [MQTT-3.2.2-20]
pub fn fit_connack(connack: &mut ConnAck<'_>, version: Version, maximum_packet_bytes: u32) -> bool {
    let fits = |connack: &ConnAck<'_>| {
        u64::try_from(connack.packet_len(version)).is_ok_and(|n| n <= maximum_packet_bytes.into())
    };
    if !fits(connack) {
        connack.properties.user_properties = Default::default();
    }
    if !fits(connack) {
        connack.properties.reason_string = None;
    }
    fits(connack)
}

#[cfg(test)]
mod tests;
