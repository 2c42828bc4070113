//! What is encoded decodes to the same packet, for random packets of every type and version.

use proptest::option::of;
use proptest::prelude::*;
use ringtide_codec::*;

/// Decodes what `encode` wrote for `version`, checks its foretold length, and shows it to `check`.
fn reread(
    role: Role,
    version: Version,
    len: usize,
    encode: impl FnOnce(&mut Vec<u8>),
    check: impl FnOnce(Packet<'_>),
) {
    let mut bytes = b"before".to_vec();
    encode(&mut bytes);
    let bytes = bytes.strip_prefix(b"before").expect("encoders append");
    assert_eq!(bytes.len(), len);
    let header = fixed_header(bytes, u32::MAX).expect("own header").expect("own packet");
    assert_eq!(header.total_len(), bytes.len());
    let body = &bytes[usize::from(header.header_len)..];
    check(decode(role, version, &header, body).expect("own encoding"));
}

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(vec![Version::V3_1, Version::V3_1_1, Version::V5])
}

fn qos() -> impl Strategy<Value = QoS> {
    prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).expect("not 0"))
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9/$ é€\u{10FFFF}\u{FEFF}]{0,24}"
}

fn topic() -> impl Strategy<Value = String> {
    "[a-z0-9/$é]{1,40}"
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..60)
}

fn user() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((text(), text()), 0..4)
}

fn user_bytes(pairs: &[(String, String)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in pairs {
        push_user_property(&mut bytes, name, value);
    }
    bytes
}

fn user_view(bytes: &[u8]) -> UserProperties<'_> {
    UserProperties::parse(bytes).expect("own bytes")
}

fn reason_in(packet: PacketType, from_client: bool) -> impl Strategy<Value = ReasonCode> {
    let valid = |code: &&ReasonCode| code.valid_in(packet, from_client);
    prop::sample::select(ReasonCode::ALL.iter().filter(valid).copied().collect::<Vec<_>>())
}

fn options() -> impl Strategy<Value = SubscriptionOptions> {
    let handling = prop::sample::select(vec![
        RetainHandling::Send,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ]);
    (qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        |(qos, no_local, retain_as_published, retain_handling)| SubscriptionOptions {
            qos,
            no_local,
            retain_as_published,
            retain_handling,
        },
    )
}

/// A will's parts: QoS, retain, topic, payload, delay, expiry, user properties.
type WillParts = (QoS, bool, String, Vec<u8>, u32, Option<u32>, Vec<(String, String)>);

fn will() -> impl Strategy<Value = WillParts> {
    (qos(), any::<bool>(), topic(), data(), any::<u32>(), of(any::<u32>()), user())
}

prop_compose! {
    fn connect_numbers()(
        session_expiry_s in of(any::<u32>()),
        receive_maximum in of(1..=u16::MAX),
        maximum_packet_bytes in of(1..=u32::MAX),
        topic_alias_maximum in of(any::<u16>()),
        request_response_information in any::<bool>(),
        request_problem_information in any::<bool>(),
    ) -> ConnectProperties<'static> {
        ConnectProperties {
            session_expiry_s,
            receive_maximum,
            maximum_packet_bytes,
            topic_alias_maximum,
            request_response_information,
            request_problem_information,
            ..Default::default()
        }
    }
}

prop_compose! {
    fn connack_numbers()(
        (session_expiry_s, receive_maximum) in (of(any::<u32>()), of(1..=u16::MAX)),
        maximum_qos in of(prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce])),
        retain_available in of(any::<bool>()),
        maximum_packet_bytes in of(1..=u32::MAX),
        topic_alias_maximum in of(any::<u16>()),
        wildcard_available in of(any::<bool>()),
        subscription_ids_available in of(any::<bool>()),
        shared_available in of(any::<bool>()),
        server_keep_alive_s in of(any::<u16>()),
    ) -> ConnAckProperties<'static> {
        ConnAckProperties {
            session_expiry_s,
            receive_maximum,
            maximum_qos,
            retain_available,
            maximum_packet_bytes,
            topic_alias_maximum,
            wildcard_available,
            subscription_ids_available,
            shared_available,
            server_keep_alive_s,
            ..Default::default()
        }
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn connect(
        version in version(), bridge in any::<bool>(), clean_start in any::<bool>(),
        keep_alive_s in any::<u16>(), client_id in text(), will in of(will()),
        username in of(text()), password in of(data()),
        numbers in connect_numbers(), method in of((text(), of(data()))), user in user(),
    ) {
        let is_v5 = version.is_v5();
        let user = user_bytes(&user);
        let will_user = will.as_ref().map(|will| user_bytes(&will.6)).unwrap_or_default();
        let properties = ConnectProperties {
            authentication_method: method.as_ref().map(|(name, _)| name.as_str()),
            authentication_data: method.as_ref().and_then(|(_, data)| data.as_deref()),
            user_properties: user_view(&user),
            ..numbers
        };
        let connect = Connect {
            version,
            bridge: bridge && !is_v5,
            clean_start,
            keep_alive_s,
            client_id: &client_id,
            will: will.as_ref().map(|(qos, retain, topic, payload, delay_s, expiry, _)| Will {
                qos: *qos,
                retain: *retain,
                topic,
                payload,
                delay_s: if is_v5 { *delay_s } else { 0 },
                message_expiry_s: expiry.filter(|_| is_v5),
                properties: if is_v5 { will_user.as_slice().into() } else { Default::default() },
            }),
            username: username.as_deref(),
            password: password.as_deref().filter(|_| is_v5 || username.is_some()),
            properties: if is_v5 { properties } else { ConnectProperties::default() },
        };
        reread(Role::Server, version, connect.packet_len(), |out| connect.encode(out), |packet| {
            assert_eq!(packet, Packet::Connect(connect.clone()));
        });
    }

    #[test]
    fn connack(
        version in version(), present in any::<bool>(), code in 0..6_u8,
        reason in reason_in(PacketType::ConnAck, false), numbers in connack_numbers(),
        (id, why, information, server) in (of(text()), of(text()), of(text()), of(text())),
        method in of((text(), of(data()))), user in user(),
    ) {
        let user = user_bytes(&user);
        let is_v5 = version.is_v5();
        let v3_reason = ReasonCode::from_v3_connack_code(code).expect("defined");
        let reason = if is_v5 { reason } else { v3_reason };
        let properties = ConnAckProperties {
            assigned_client_id: id.as_deref(),
            reason_string: why.as_deref(),
            response_information: information.as_deref(),
            server_reference: server.as_deref(),
            authentication_method: method.as_ref().map(|(name, _)| name.as_str()),
            authentication_data: method.as_ref().and_then(|(_, data)| data.as_deref()),
            user_properties: user_view(&user),
            ..numbers
        };
        let sent = ConnAck { session_present: present, reason, properties };
        let can_say = reason == ReasonCode::Success && version != Version::V3_1;
        let received = ConnAck {
            session_present: present && can_say,
            reason,
            properties: if is_v5 { properties } else { ConnAckProperties::default() },
        };
        let len = sent.packet_len(version);
        reread(Role::Client, version, len, |out| sent.encode(version, out), |packet| {
            assert_eq!(packet, Packet::ConnAck(received));
        });
    }

    #[test]
    fn publish(
        version in version(), dup in any::<bool>(), qos in qos(), retain in any::<bool>(),
        topic in topic(), id in packet_id(), expiry in of(any::<u32>()), alias in of(1..=u16::MAX),
        ids in prop::collection::vec(1..=VARINT_MAX, 0..4), user in user(), payload in data(),
    ) {
        let forward = user_bytes(&user);
        let sent = PublishOut {
            version, dup, qos, retain, topic: &topic, packet_id: Some(id), message_expiry_s: expiry,
            topic_alias: alias, subscription_ids: &ids, forward: &forward,
            payload_len: payload.len(),
        };
        let len = sent.packet_len();
        reread(Role::Client, version, len, |out| sent.write(&payload, out), |packet| {
            let Packet::Publish(got) = packet else { panic!("{packet:?}") };
            let acknowledged = qos != QoS::AtMostOnce;
            assert_eq!((got.dup, got.qos, got.retain), (dup && acknowledged, qos, retain));
            assert_eq!((got.topic, got.payload), (topic.as_str(), payload.as_slice()));
            assert_eq!(got.packet_id, Some(id).filter(|_| acknowledged));
            let mut travelled = Vec::new();
            got.properties.forward_into(&mut travelled);
            if !version.is_v5() {
                return assert_eq!((got.properties, travelled), Default::default());
            }
            assert_eq!(travelled, forward);
            assert_eq!(got.properties.topic_alias, alias);
            assert_eq!(got.properties.message_expiry_s, expiry);
            let got_ids: Vec<u32> = got.properties.iter().filter_map(|property| match property {
                Property::SubscriptionIdentifier(id) => Some(id),
                _ => None,
            }).collect();
            assert_eq!(got_ids, ids);
        });
    }

    #[test]
    fn acks(
        version in version(), id in packet_id(), why in of(text()), user in user(),
        first in reason_in(PacketType::PubAck, true), second in reason_in(PacketType::PubRel, true),
    ) {
        let user = user_bytes(&user);
        let is_v5 = version.is_v5();
        for kind in [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp] {
            let released = matches!(kind, AckKind::PubRel | AckKind::PubComp);
            let reason = if released { second } else { first };
            let sent = Ack {
                packet_id: id,
                reason,
                reason_string: why.as_deref(),
                user_properties: user_view(&user),
            };
            let received = if is_v5 { sent } else { Ack::new(id, ReasonCode::Success) };
            let len = sent.packet_len(kind, version);
            reread(Role::Server, version, len, |out| sent.encode(kind, version, out), |packet| {
                assert_eq!(packet, ack_packet(kind, received));
            });
            let bare = Ack::new(id, if is_v5 { reason } else { ReasonCode::Success });
            let len = bare.packet_len(kind, version);
            let write = |out: &mut Vec<u8>| write_ack(kind, version, id, reason, out);
            reread(Role::Server, version, len, write, |packet| {
                assert_eq!(packet, ack_packet(kind, bare));
            });
        }
    }

    #[test]
    fn subscribe(
        version in version(), id in packet_id(), subscription_id in of(1..=VARINT_MAX),
        filters in prop::collection::vec((topic(), options()), 1..5),
    ) {
        let is_v5 = version.is_v5();
        let pairs = filters.iter().map(|(name, options)| (name.as_str(), *options));
        let filters: Vec<_> = pairs.collect();
        let sent = SubscribeOut { packet_id: id, subscription_id, filters: &filters };
        let len = sent.packet_len(version);
        reread(Role::Server, version, len, |out| sent.encode(version, out), |packet| {
            let Packet::Subscribe(got) = packet else { panic!("{packet:?}") };
            assert_eq!((got.packet_id, got.len()), (id, filters.len()));
            assert_eq!(got.subscription_id, subscription_id.filter(|_| is_v5));
            let got: Vec<_> = got.filters().map(|item| (item.filter, item.options)).collect();
            let said = |options: SubscriptionOptions| {
                if is_v5 { options } else { SubscriptionOptions::with_qos(options.qos) }
            };
            let expected = filters.iter().map(|&(name, options)| (name, said(options)));
            assert_eq!(got, expected.collect::<Vec<_>>());
        });
    }

    #[test]
    fn unsubscribe(
        version in version(), id in packet_id(), filters in prop::collection::vec(text(), 1..5),
    ) {
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let sent = UnsubscribeOut { packet_id: id, filters: &filters };
        let len = sent.packet_len(version);
        reread(Role::Server, version, len, |out| sent.encode(version, out), |packet| {
            let Packet::Unsubscribe(got) = packet else { panic!("{packet:?}") };
            assert_eq!((got.packet_id, got.len()), (id, filters.len()));
            assert_eq!(got.filters().collect::<Vec<_>>(), filters);
        });
    }

    #[test]
    fn suback_and_unsuback(
        version in version(), id in packet_id(), why in of(text()), user in user(),
        granted in prop::collection::vec(reason_in(PacketType::SubAck, false), 1..6),
        ended in prop::collection::vec(reason_in(PacketType::UnsubAck, false), 1..6),
    ) {
        let (user, is_v5) = (user_bytes(&user), version.is_v5());
        let codes: Vec<u8> = granted.iter().map(|&code| code as u8).collect();
        let sent = SubAck {
            packet_id: id,
            codes: &codes,
            reason_string: why.as_deref(),
            user_properties: user_view(&user),
        };
        let flat: Vec<u8> = codes.iter().map(|&code| code.min(0x80)).collect();
        let received = if is_v5 { sent } else { SubAck::new(id, &flat) };
        let len = sent.packet_len(version);
        reread(Role::Client, version, len, |out| sent.encode(version, out), |packet| {
            assert_eq!(packet, Packet::SubAck(received));
        });
        let codes: Vec<u8> = ended.iter().map(|&code| code as u8).collect();
        let sent = UnsubAck {
            packet_id: id,
            codes: &codes,
            reason_string: why.as_deref(),
            user_properties: user_view(&user),
        };
        let received = if is_v5 { sent } else { UnsubAck::new(id, &[]) };
        let len = sent.packet_len(version);
        reread(Role::Client, version, len, |out| sent.encode(version, out), |packet| {
            assert_eq!(packet, Packet::UnsubAck(received));
        });
    }

    #[test]
    fn disconnect(
        version in version(), expiry in of(any::<u32>()), why in of(text()), other in of(text()),
        user in user(), client in reason_in(PacketType::Disconnect, true),
        server in reason_in(PacketType::Disconnect, false),
    ) {
        let (user, is_v5) = (user_bytes(&user), version.is_v5());
        let base = Disconnect {
            reason_string: why.as_deref(),
            user_properties: user_view(&user),
            ..Disconnect::new(client)
        };
        let sent = Disconnect { session_expiry_s: expiry, ..base };
        let received = if is_v5 { sent } else { Disconnect::new(ReasonCode::Success) };
        let len = sent.packet_len(version);
        reread(Role::Server, version, len, |out| sent.encode(version, out), |packet| {
            assert_eq!(packet, Packet::Disconnect(received));
        });
        let sent = Disconnect { reason: server, server_reference: other.as_deref(), ..base };
        let len = sent.packet_len(Version::V5);
        reread(Role::Client, Version::V5, len, |out| sent.encode(Version::V5, out), |packet| {
            assert_eq!(packet, Packet::Disconnect(sent));
        });
    }

    #[test]
    fn auth(
        reason in reason_in(PacketType::Auth, true), method in text(), data in of(data()),
        why in of(text()), user in user(),
    ) {
        let user = user_bytes(&user);
        let sent = Auth {
            reason,
            method: Some(&method),
            data: data.as_deref(),
            reason_string: why.as_deref(),
            user_properties: user_view(&user),
        };
        let len = sent.packet_len(Version::V5);
        reread(Role::Server, Version::V5, len, |out| sent.encode(Version::V5, out), |packet| {
            assert_eq!(packet, Packet::Auth(sent));
        });
    }
}

fn ack_packet(kind: AckKind, ack: Ack<'_>) -> Packet<'_> {
    match kind {
        AckKind::PubAck => Packet::PubAck(ack),
        AckKind::PubRec => Packet::PubRec(ack),
        AckKind::PubRel => Packet::PubRel(ack),
        AckKind::PubComp => Packet::PubComp(ack),
    }
}

#[test]
fn every_options_byte_is_refused_or_comes_back() {
    let accepted = (0..=u8::MAX).filter(|&bits| {
        let options = SubscriptionOptions::from_bits(bits);
        assert!(options.is_none_or(|options| options.to_bits() == bits), "{bits:02x}");
        options.is_some()
    });
    assert_eq!(accepted.count(), 3 * 2 * 2 * 3);
}
