use ringtide_codec::{ConnectProperties, Will};

use super::*;

fn connect(version: Version) -> Connect<'static> {
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_s: 60,
        client_id: "client",
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn will(qos: QoS, retain: bool) -> Option<Will<'static>> {
    Some(Will {
        qos,
        retain,
        topic: "will",
        payload: b"gone",
        delay_s: 0,
        message_expiry_s: None,
        properties: Default::default(),
    })
}

fn agreed(connect: &Connect<'_>, limits: &ServerLimits) -> Negotiated {
    negotiate(connect, limits).unwrap()
}

fn refused(connect: &Connect<'_>, limits: &ServerLimits) -> ReasonCode {
    negotiate(connect, limits).unwrap_err().reason
}

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

#[test]
fn without_limits_the_client_gets_what_the_standard_gives_and_connack_says_nothing() {
    let limits = ServerLimits { topic_alias_maximum: 0, ..ServerLimits::default() };
    for version in VERSIONS {
        let negotiated = agreed(&connect(version), &limits);
        assert_eq!(negotiated.keep_alive_s, 60);
        assert_eq!(negotiated.receive_maximum, u16::MAX);
        assert_eq!(negotiated.maximum_packet_bytes, u32::MAX);
        assert_eq!(negotiated.topic_alias_maximum, 0);
        assert_eq!(negotiated.session_expiry_s, 0);
        let connack = connack(&negotiated, &limits, false, None);
        assert_eq!(connack, ConnAck::new(false, ReasonCode::Success));
    }
}

#[test]
fn the_servers_limits_are_announced_to_version_5_only() {
    let limits = ServerLimits {
        receive_maximum: 7,
        maximum_packet_bytes: 1000,
        topic_alias_maximum: 5,
        maximum_qos: QoS::AtLeastOnce,
        retain_available: false,
        ..ServerLimits::default()
    };
    let announced = connack(&agreed(&connect(Version::V5), &limits), &limits, false, None);
    assert_eq!(announced.properties.receive_maximum, Some(7));
    assert_eq!(announced.properties.maximum_packet_bytes, Some(1000));
    assert_eq!(announced.properties.topic_alias_maximum, Some(5));
    assert_eq!(announced.properties.maximum_qos, Some(QoS::AtLeastOnce));
    assert_eq!(announced.properties.retain_available, Some(false));
    let silent = connack(&agreed(&connect(Version::V3_1_1), &limits), &limits, false, None);
    assert_eq!(silent.properties, ConnAckProperties::default());
}

#[test]
fn the_clients_limits_are_taken_over_up_to_the_servers_own() {
    let mut asking = connect(Version::V5);
    asking.properties.receive_maximum = Some(100);
    asking.properties.maximum_packet_bytes = Some(2000);
    asking.properties.topic_alias_maximum = Some(9);
    let negotiated = agreed(&asking, &ServerLimits::default());
    assert_eq!(negotiated.receive_maximum, 100);
    assert_eq!(negotiated.maximum_packet_bytes, 2000);
    assert_eq!(negotiated.topic_alias_maximum, 9);
    let limits = ServerLimits { inflight_max: 20, ..ServerLimits::default() };
    assert_eq!(agreed(&asking, &limits).receive_maximum, 20);
    assert_eq!(agreed(&connect(Version::V3_1_1), &limits).receive_maximum, 20);
}

#[test]
fn session_expiry_is_cut_and_announced_in_version_5() {
    let limits = ServerLimits { session_expiry_max_s: 100, ..ServerLimits::default() };
    let mut asking = connect(Version::V5);
    for (asked_s, in_force_s, announced) in [
        (None, 0, false),
        (Some(50), 50, false),
        (Some(101), 100, true),
        (Some(u32::MAX), 100, true),
    ] {
        asking.properties.session_expiry_s = asked_s;
        let negotiated = agreed(&asking, &limits);
        assert_eq!(negotiated.session_expiry_s, in_force_s);
        assert_eq!(negotiated.connect_expiry_s, asked_s.unwrap_or(0));
        let told = connack(&negotiated, &limits, false, None).properties.session_expiry_s;
        assert_eq!(told, announced.then_some(in_force_s));
    }
}

#[test]
fn before_version_5_clean_session_decides_the_expiry() {
    let limits = ServerLimits { session_expiry_v3_s: 7200, ..ServerLimits::default() };
    for version in [Version::V3_1, Version::V3_1_1] {
        let mut asking = connect(version);
        assert_eq!(agreed(&asking, &limits).session_expiry_s, 0);
        asking.clean_start = false;
        assert_eq!(agreed(&asking, &limits).session_expiry_s, 7200);
        assert!(!agreed(&asking, &limits).expiry_announced);
    }
}

#[test]
fn a_version_that_is_not_offered_is_refused() {
    let none = ServerLimits {
        allow_v3_1: false,
        allow_v3_1_1: false,
        allow_v5: false,
        ..ServerLimits::default()
    };
    for version in VERSIONS {
        assert!(negotiate(&connect(version), &ServerLimits::default()).is_ok());
        let reason = refused(&connect(version), &none);
        assert_eq!(reason, ReasonCode::UnsupportedProtocolVersion);
    }
}

#[test]
fn a_client_id_may_be_as_long_as_the_limit() {
    let limits = ServerLimits { client_id_max_bytes: 6, ..ServerLimits::default() };
    let mut asking = connect(Version::V5);
    assert!(negotiate(&asking, &limits).is_ok());
    asking.client_id = "clienté";
    assert_eq!(refused(&asking, &limits), ReasonCode::ClientIdentifierNotValid);
}

#[test]
fn a_will_beyond_what_is_supported_is_refused() {
    let limits = ServerLimits {
        maximum_qos: QoS::AtLeastOnce,
        retain_available: false,
        ..ServerLimits::default()
    };
    let mut asking = connect(Version::V5);
    asking.will = will(QoS::ExactlyOnce, false);
    assert_eq!(refused(&asking, &limits), ReasonCode::QoSNotSupported);
    asking.will = will(QoS::AtLeastOnce, true);
    assert_eq!(refused(&asking, &limits), ReasonCode::RetainNotSupported);
    asking.will = will(QoS::AtLeastOnce, false);
    assert!(negotiate(&asking, &limits).is_ok());
    asking.will = will(QoS::ExactlyOnce, true);
    assert!(negotiate(&asking, &ServerLimits::default()).is_ok());
}

#[test]
fn clients_are_sent_elsewhere_with_the_other_servers_name() {
    for (moved, reason) in [(true, ReasonCode::ServerMoved), (false, ReasonCode::UseAnotherServer)]
    {
        let reference = ServerReference { address: "other:1883".into(), moved };
        let limits = ServerLimits { server_reference: Some(reference), ..ServerLimits::default() };
        let refusal = negotiate(&connect(Version::V5), &limits).unwrap_err();
        assert_eq!(refusal.reason, reason);
        let connack = refusal_connack(&refusal, &limits);
        assert_eq!(connack.properties.server_reference, Some("other:1883"));
    }
}

#[test]
fn a_refusal_for_another_reason_names_no_other_server() {
    let limits = ServerLimits::default();
    let connack = refusal_connack(&Refusal::AUTHENTICATION_METHOD, &limits);
    assert_eq!(connack.reason, ReasonCode::BadAuthenticationMethod);
    assert_eq!(connack.properties.server_reference, None);
    assert!(connack.properties.reason_string.is_some());
}

#[test]
fn a_connack_too_large_loses_what_may_be_left_out() {
    let limits = ServerLimits::default();
    let full = refusal_connack(&Refusal::AUTHENTICATION_METHOD, &limits);
    let len = u32::try_from(full.packet_len(Version::V5)).unwrap();
    let mut fits = full;
    assert!(fit_connack(&mut fits, Version::V5, len));
    assert_eq!(fits, full);
    assert!(fit_connack(&mut fits, Version::V5, len - 1));
    assert_eq!(fits.properties.reason_string, None);
    assert!(!fit_connack(&mut fits, Version::V5, 4));
}
