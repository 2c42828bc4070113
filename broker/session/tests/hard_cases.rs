//! The cases that brokers get wrong, as far as the state machines alone decide them; one test each,
//! named by the case.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::num::NonZeroU64;

use ringtide_codec::ReasonCode::{
    self, PacketIdentifierNotFound, ProtocolError, Success, UnspecifiedError,
};
use ringtide_codec::{Connect, ConnectProperties, PacketId, PacketType, QoS, Version};
use ringtide_session::{
    Accept, Acked, AliasError, AliasIn, AliasOut, AliasUse, Completed, Delivery, DropPolicy,
    DropReason, EndKind, Inbound, Negotiated, Next, Offer, Outbound, PubrecReply, QueueLimits,
    Resend, ServerLimits, SubscriptionIds, Violation, WillAction, WillState, connack, expiry,
    keepalive, negotiate, refusal_connack,
};

const LIMITS: QueueLimits =
    QueueLimits { count_max: 100, bytes_max: 10_000, policy: DropPolicy::Oldest };

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn message(number: u32, qos: QoS) -> Delivery<u32> {
    Delivery {
        message: number,
        qos,
        retain: false,
        subscription_ids: SubscriptionIds::new(),
        expires_at_ms: None,
        bytes: 1,
        membership: 0,
    }
}

/// An outbound state with these messages under way, ids from 1.
fn under_way(receive_maximum: u16, qos: &[QoS]) -> Outbound<u32> {
    let mut outbound = Outbound::new(receive_maximum, LIMITS);
    for (number, qos) in (1..).zip(qos) {
        let offer = outbound.offer(message(number, *qos), 0, true);
        assert_eq!(offer, Offer::Send(id(number as u16)));
    }
    outbound
}

fn resume(outbound: &mut Outbound<u32>, receive_maximum: u16) {
    outbound.on_disconnect();
    outbound.on_resume(receive_maximum, LIMITS);
}

/// Everything that may go out now, as on the wire.
fn flush(outbound: &mut Outbound<u32>) -> Vec<String> {
    let mut wire = Vec::new();
    while let Some(resend) = outbound.resend_next() {
        wire.push(match resend {
            Resend::Publish { id, delivery, dup } => {
                format!("PUBLISH {} id {} dup {dup}", delivery.message, id.get())
            }
            Resend::Pubrel { id } => format!("PUBREL id {}", id.get()),
        });
    }
    while let Next::Send { id, delivery } = outbound.next(0) {
        wire.push(format!("PUBLISH {} id {} dup false", delivery.message, id.get()));
    }
    wire
}

fn connect(version: Version, client_id: &str) -> Connect<'_> {
    Connect {
        version,
        bridge: false,
        clean_start: false,
        keep_alive_s: 30,
        client_id,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn agreed(connect: &Connect<'_>) -> Negotiated {
    negotiate(connect, &ServerLimits::default()).unwrap()
}

fn armed() -> WillState {
    let mut will = WillState::default();
    will.on_connect(true);
    will
}

#[test]
fn case_1_and_2_a_takeover_that_ends_the_session_publishes_the_old_will_once() {
    // By Clean Start, and by an old session that ends with its connection.
    for (same_session, session_expiry_s) in [(false, 100), (true, 0)] {
        let mut will = armed();
        let kind = EndKind::TakenOver { same_session };
        assert_eq!(will.on_end(kind, 30, session_expiry_s, 0), WillAction::Publish);
        assert_eq!(will.on_session_end(), WillAction::Nothing);
    }
}

#[test]
fn case_2_a_takeover_that_carries_the_session_on_cancels_a_delayed_will_only() {
    let kind = EndKind::TakenOver { same_session: true };
    assert_eq!(armed().on_end(kind, 30, 100, 0), WillAction::Discard);
    assert_eq!(armed().on_end(kind, 0, 100, 0), WillAction::Publish);
}

#[test]
fn case_2_the_old_connection_never_publishes_the_new_connections_will() {
    let mut will = armed();
    assert_eq!(will.on_end(EndKind::NetworkLost, 30, 100, 0), WillAction::At(30_000));
    assert_eq!(will.on_resumed(), WillAction::Discard);
    will.on_connect(true);
    assert_eq!(will.on_timer(30_000), WillAction::Nothing, "the old connection's timer");
    assert_eq!(will.on_session_end(), WillAction::Nothing);
    assert_eq!(will, WillState::Armed);
}

#[test]
fn case_3_a_delay_longer_than_the_session_ends_with_the_session() {
    let mut will = armed();
    assert_eq!(will.on_end(EndKind::NetworkLost, 300, 10, 0), WillAction::At(10_000));
    assert_eq!(expiry::deadline(0, 10), Some(10_000));
    assert_eq!(will.on_session_end(), WillAction::Publish);
    assert_eq!(will.on_timer(10_000), WillAction::Nothing, "not twice");
    let mut sessionless = armed();
    assert_eq!(sessionless.on_end(EndKind::NetworkLost, 300, 0, 0), WillAction::Publish);
}

#[test]
fn case_4_every_disconnect_but_the_normal_one_publishes_the_will() {
    for reason in ReasonCode::ALL.iter().filter(|r| r.valid_in(PacketType::Disconnect, true)) {
        let expected = match reason {
            Success => WillAction::Discard,
            _ => WillAction::Publish,
        };
        let action = armed().on_end(EndKind::of_disconnect(*reason), 0, 0, 0);
        assert_eq!(action, expected, "{reason}");
    }
}

#[test]
fn case_5_a_malformed_disconnect_publishes_the_will() {
    assert_eq!(armed().on_end(EndKind::ProtocolError, 0, 0, 0), WillAction::Publish);
}

#[test]
fn case_6_a_disconnect_that_raises_expiry_from_zero_ends_session_and_publishes_the_will() {
    let negotiated = agreed(&connect(Version::V5, "client"));
    let raised = expiry::after_disconnect(
        negotiated.connect_expiry_s,
        negotiated.session_expiry_s,
        Some(100),
        u32::MAX,
    );
    assert_eq!(raised.map_err(|error| error.reason()), Err(ProtocolError));
    assert_eq!(expiry::deadline(5, negotiated.session_expiry_s), Some(5));
    assert_eq!(armed().on_end(EndKind::ProtocolError, 60, 0, 5), WillAction::Publish);
}

#[test]
fn case_6_an_expiry_that_the_server_cut_to_zero_was_not_zero() {
    let limits = ServerLimits { session_expiry_max_s: 0, ..ServerLimits::default() };
    let mut asking = connect(Version::V5, "client");
    asking.properties.session_expiry_s = Some(10);
    let negotiated = negotiate(&asking, &limits).unwrap();
    let after = expiry::after_disconnect(
        negotiated.connect_expiry_s,
        negotiated.session_expiry_s,
        Some(20),
        limits.session_expiry_max_s,
    );
    assert_eq!(after, Ok(0));
}

#[test]
fn case_7_expiry_counts_from_the_disconnection_and_not_from_a_restart() {
    let disconnected_at_ms = 1_000;
    assert_eq!(expiry::deadline(disconnected_at_ms, 60), Some(61_000));
    let mut will = WillState::restore(30, 60, disconnected_at_ms);
    assert_eq!(
        will.on_timer(500_000),
        WillAction::Publish,
        "it fell due while the server was down"
    );
}

#[test]
fn case_8_session_present_exactly_when_state_is_carried_on() {
    let limits = ServerLimits::default();
    for version in [Version::V3_1_1, Version::V5] {
        for (clean_start, stored, present) in
            [(false, true, true), (false, false, false), (true, true, false), (true, false, false)]
        {
            let asking = Connect { clean_start, ..connect(version, "client") };
            let answer = connack(&agreed(&asking), &limits, stored, None);
            assert_eq!(answer.session_present, present);
        }
    }
    let nameless = negotiate(&connect(Version::V3_1_1, ""), &limits).unwrap_err();
    assert!(!refusal_connack(&nameless, &limits).session_present);
}

#[test]
fn case_9_resume_sends_again_in_order_with_dup_before_newer_messages() {
    use QoS::{AtLeastOnce as Q1, ExactlyOnce as Q2};
    let mut outbound = under_way(10, &[Q1, Q2, Q2, Q1]);
    assert_eq!(outbound.on_pubrec(id(3), Success), Ok(PubrecReply::SendPubrel));
    outbound.on_disconnect();
    assert_eq!(outbound.offer(message(5, Q1), 0, false), Offer::Queued);
    outbound.on_resume(10, LIMITS);
    assert_eq!(
        flush(&mut outbound),
        [
            "PUBLISH 1 id 1 dup true",
            "PUBLISH 2 id 2 dup true",
            "PUBREL id 3",
            "PUBLISH 4 id 4 dup true",
            "PUBLISH 5 id 5 dup false",
        ]
    );
}

#[test]
fn case_10_a_new_message_never_takes_an_id_that_an_owed_pubrel_holds() {
    let mut outbound = under_way(10, &[QoS::ExactlyOnce]);
    assert_eq!(outbound.on_pubrec(id(1), Success), Ok(PubrecReply::SendPubrel));
    resume(&mut outbound, 10);
    assert_eq!(flush(&mut outbound), ["PUBREL id 1"]);
    // All other ids, and then the first ones again.
    for number in 2..=70_000_u32 {
        let Offer::Send(id) = outbound.offer(message(number, QoS::AtLeastOnce), 0, true) else {
            panic!("not sent");
        };
        assert_ne!(id.get(), 1);
        assert!(matches!(outbound.on_puback(id, Success), Ok(Acked::Delivered(_))));
    }
    assert_eq!(outbound.on_pubcomp(id(1), Success), Ok(Completed::Done));
}

#[test]
fn case_11_a_repeated_qos_2_publish_is_routed_once_also_after_reconnect() {
    let mut inbound = Inbound::new(10);
    assert_eq!(inbound.on_publish(QoS::ExactlyOnce, id(7)), Ok(Accept::Route));
    assert_eq!(inbound.on_publish(QoS::ExactlyOnce, id(7)), Ok(Accept::Duplicate));
    inbound.on_acked(QoS::ExactlyOnce, id(7));
    assert_eq!(inbound.on_publish(QoS::ExactlyOnce, id(7)), Ok(Accept::Duplicate));
    inbound.on_disconnect();
    inbound.on_resume(10);
    assert_eq!(inbound.on_publish(QoS::ExactlyOnce, id(7)), Ok(Accept::Duplicate));
    let mut restarted = Inbound::restore(10, inbound.awaiting_release());
    assert_eq!(restarted.on_publish(QoS::ExactlyOnce, id(7)), Ok(Accept::Duplicate));
    assert_eq!(inbound.on_pubrel(id(7)), Success);
    inbound.on_pubcomp_sent(id(7));
    assert_eq!(inbound.on_publish(QoS::ExactlyOnce, id(7)), Ok(Accept::Route), "a new message");
}

#[test]
fn case_12_a_flood_of_one_id_does_not_grow() {
    let mut inbound = Inbound::new(10);
    assert_eq!(inbound.on_publish(QoS::ExactlyOnce, id(1)), Ok(Accept::Route));
    for _ in 0..100_000 {
        assert_eq!(inbound.on_publish(QoS::ExactlyOnce, id(1)), Ok(Accept::Duplicate));
    }
    assert_eq!(inbound.awaiting_release().count(), 1);
    assert_eq!(inbound.unacknowledged(), 1);
}

#[test]
fn case_13_pubrel_for_an_unknown_id_and_one_sent_again() {
    let mut inbound = Inbound::new(10);
    assert_eq!(inbound.on_pubrel(id(1)), PacketIdentifierNotFound);
    assert_eq!(inbound.on_publish(QoS::ExactlyOnce, id(1)), Ok(Accept::Route));
    assert_eq!(inbound.on_pubrel(id(1)), Success);
    // The connection breaks before PUBCOMP leaves.
    inbound.on_disconnect();
    inbound.on_resume(10);
    assert_eq!(inbound.on_pubrel(id(1)), Success);
    inbound.on_pubcomp_sent(id(1));
    assert!(inbound.is_idle());
}

#[test]
fn case_14_a_failed_pubrec_ends_the_exchange() {
    let mut outbound = under_way(1, &[QoS::ExactlyOnce]);
    assert_eq!(outbound.offer(message(2, QoS::ExactlyOnce), 0, true), Offer::Queued);
    assert_eq!(outbound.on_pubrec(id(1), UnspecifiedError), Ok(PubrecReply::Ended));
    assert_eq!(flush(&mut outbound), ["PUBLISH 2 id 2 dup false"]);
    resume(&mut outbound, 10);
    assert_eq!(flush(&mut outbound), ["PUBLISH 2 id 2 dup true"]);
}

#[test]
fn case_15_a_wrong_acknowledgement_is_an_error_and_does_no_damage() {
    let wrong = Violation::WrongAcknowledgement;
    assert_eq!(wrong.reason(), ProtocolError);
    let mut outbound = under_way(3, &[QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce]);
    assert_eq!(outbound.on_pubrec(id(3), Success), Ok(PubrecReply::SendPubrel));
    assert_eq!(outbound.on_pubrec(id(1), Success), Err(wrong));
    assert_eq!(outbound.on_pubrec(id(1), UnspecifiedError), Err(wrong));
    assert_eq!(outbound.on_pubcomp(id(1), Success), Err(wrong));
    assert_eq!(outbound.on_puback(id(2), Success), Err(wrong));
    assert_eq!(outbound.on_pubcomp(id(2), Success), Err(wrong));
    assert_eq!(outbound.on_puback(id(3), Success), Err(wrong));
    resume(&mut outbound, 3);
    assert_eq!(
        flush(&mut outbound),
        ["PUBLISH 1 id 1 dup true", "PUBLISH 2 id 2 dup true", "PUBREL id 3"]
    );
    assert!(matches!(outbound.on_puback(id(1), Success), Ok(Acked::Delivered(_))));
    assert_eq!(outbound.on_pubrec(id(2), Success), Ok(PubrecReply::SendPubrel));
    assert_eq!(outbound.on_pubcomp(id(2), Success), Ok(Completed::Done));
    assert_eq!(outbound.on_pubcomp(id(3), Success), Ok(Completed::Done));
    assert!(outbound.is_idle());
}

#[test]
fn case_16_receive_maximum_1_lets_one_message_at_a_time_through() {
    let mut outbound = under_way(1, &[QoS::AtLeastOnce]);
    for number in 2..=4 {
        assert_eq!(outbound.offer(message(number, QoS::ExactlyOnce), 0, true), Offer::Queued);
    }
    assert_eq!(flush(&mut outbound), [""; 0]);
    assert!(matches!(outbound.on_puback(id(1), Success), Ok(Acked::Delivered(_))));
    assert_eq!(flush(&mut outbound), ["PUBLISH 2 id 2 dup false"]);
    assert_eq!(outbound.on_pubrec(id(2), Success), Ok(PubrecReply::SendPubrel));
    assert_eq!(flush(&mut outbound), [""; 0], "PUBREC alone frees nothing");
    assert_eq!(outbound.on_pubcomp(id(2), Success), Ok(Completed::Done));
    assert_eq!(flush(&mut outbound), ["PUBLISH 3 id 3 dup false"]);
    assert_eq!(outbound.on_pubrec(id(3), UnspecifiedError), Ok(PubrecReply::Ended));
    assert_eq!(flush(&mut outbound), ["PUBLISH 4 id 4 dup false"]);
}

#[test]
fn case_17_what_is_sent_again_uses_up_the_new_quota() {
    let mut outbound = under_way(4, &[QoS::AtLeastOnce; 4]);
    assert_eq!(outbound.offer(message(5, QoS::AtLeastOnce), 0, true), Offer::Queued);
    resume(&mut outbound, 2);
    assert_eq!(flush(&mut outbound), ["PUBLISH 1 id 1 dup true", "PUBLISH 2 id 2 dup true"]);
    assert!(matches!(outbound.on_puback(id(1), Success), Ok(Acked::Delivered(_))));
    assert_eq!(flush(&mut outbound), ["PUBLISH 3 id 3 dup true"]);
    assert!(matches!(outbound.on_puback(id(2), Success), Ok(Acked::Delivered(_))));
    assert!(matches!(outbound.on_puback(id(3), Success), Ok(Acked::Delivered(_))));
    assert_eq!(flush(&mut outbound), ["PUBLISH 4 id 4 dup true", "PUBLISH 5 id 5 dup false"]);
}

#[test]
fn case_18_the_servers_own_receive_maximum_binds_and_is_announced() {
    let limits = ServerLimits { receive_maximum: 3, ..ServerLimits::default() };
    let mut asking = connect(Version::V5, "client");
    asking.properties.receive_maximum = Some(20);
    let negotiated = negotiate(&asking, &limits).unwrap();
    assert_eq!(negotiated.receive_maximum, 20);
    let announced = connack(&negotiated, &limits, false, None).properties.receive_maximum;
    assert_eq!(announced, Some(3), "not an echo");
    let mut inbound = Inbound::new(3);
    for value in 1..=3 {
        assert_eq!(inbound.on_publish(QoS::ExactlyOnce, id(value)), Ok(Accept::Route));
    }
    let exceeded = inbound.on_publish(QoS::AtLeastOnce, id(4)).unwrap_err();
    assert_eq!(exceeded.reason(), ReasonCode::ReceiveMaximumExceeded);
    let silent = connack(&negotiated, &ServerLimits::default(), false, None);
    assert_eq!(silent.properties.receive_maximum, None, "65 535 goes without saying");
}

#[test]
fn case_19_a_message_too_large_counts_as_done_and_the_queue_goes_on() {
    let mut outbound = under_way(1, &[QoS::ExactlyOnce]);
    assert_eq!(outbound.offer(message(2, QoS::AtLeastOnce), 0, true), Offer::Queued);
    assert_eq!(outbound.give_up(id(1)).map(|delivery| delivery.message), Some(1));
    assert_eq!(flush(&mut outbound), ["PUBLISH 2 id 2 dup false"]);
    resume(&mut outbound, 1);
    assert_eq!(flush(&mut outbound), ["PUBLISH 2 id 2 dup true"], "the large one is gone");
    assert_eq!(outbound.give_up(id(2)).map(|delivery| delivery.message), Some(2));
    assert!(outbound.is_idle(), "also when it is the new connection that takes less");
}

#[test]
fn case_21_aliases_of_a_client() {
    let mut aliases = AliasIn::new(2);
    assert_eq!(aliases.resolve(0, "topic"), Err(AliasError::Zero));
    assert_eq!(aliases.resolve(3, "topic"), Err(AliasError::AboveMaximum));
    assert_eq!(aliases.resolve(2, "").unwrap_err().reason(), ProtocolError);
    assert_eq!(aliases.resolve(2, "topic"), Ok("topic"));
    assert_eq!(aliases.resolve(2, "another"), Ok("another"), "may be mapped anew");
    assert_eq!(aliases.resolve(2, ""), Ok("another"));
    let mut next_connection = AliasIn::new(2);
    assert_eq!(next_connection.resolve(2, ""), Err(AliasError::Unknown));
}

#[test]
fn case_22_an_alias_in_a_packet_that_was_dropped_does_not_count_as_set() {
    let mut aliases = AliasOut::new(1);
    let AliasUse::First(alias) = aliases.choose("topic") else { panic!("no alias") };
    aliases.abort(alias);
    assert_eq!(aliases.choose("topic"), AliasUse::First(alias), "topic and alias again");
    aliases.commit(alias);
    assert_eq!(aliases.choose("topic"), AliasUse::Known(alias));
    assert_eq!(aliases.choose("other"), AliasUse::None, "the client takes one alias only");
    assert_eq!(AliasOut::new(0).choose("topic"), AliasUse::None);
}

#[test]
fn case_23_messages_expire_while_they_wait_and_the_rest_carry_what_is_left() {
    let mut outbound = under_way(1, &[QoS::AtLeastOnce]);
    for (number, expiry_s) in [(2, 1), (3, 10)] {
        let expires_at_ms = expiry::message_expires_at(0, Some(expiry_s));
        let waiting = Delivery { expires_at_ms, ..message(number, QoS::AtLeastOnce) };
        assert_eq!(outbound.offer(waiting, 0, true), Offer::Queued);
    }
    assert!(matches!(outbound.on_puback(id(1), Success), Ok(Acked::Delivered(_))));
    assert!(matches!(outbound.next(1_500), Next::Expired(delivery) if delivery.message == 2));
    let Next::Send { delivery, .. } = outbound.next(1_500) else { panic!("not sent") };
    assert_eq!(expiry::remaining_s(delivery.expires_at_ms.unwrap(), 1_500), Some(9));
    let late = Delivery { expires_at_ms: NonZeroU64::new(1_500), ..message(4, QoS::AtLeastOnce) };
    let offer = outbound.offer(late.clone(), 1_500, true);
    assert_eq!(offer, Offer::Dropped { dropped: late, reason: DropReason::Expired });
}

#[test]
fn case_24_expiry_does_not_cut_an_exchange_that_has_begun() {
    let mut outbound = Outbound::new(2, LIMITS);
    for number in 1..=2 {
        let expires_at_ms = NonZeroU64::new(1_000);
        let expiring = Delivery { expires_at_ms, ..message(number, QoS::ExactlyOnce) };
        assert!(matches!(outbound.offer(expiring, 0, true), Offer::Send(_)));
    }
    assert_eq!(outbound.on_pubrec(id(2), Success), Ok(PubrecReply::SendPubrel));
    outbound.sweep_expired(9_000, |delivery| panic!("begun, and swept: {delivery:?}"));
    resume(&mut outbound, 2);
    assert_eq!(flush(&mut outbound), ["PUBLISH 1 id 1 dup true", "PUBREL id 2"]);
    let delivery = outbound.delivery(id(1)).unwrap();
    assert_eq!(expiry::remaining_s(delivery.expires_at_ms.unwrap(), 9_000), None);
}

#[test]
fn case_27_the_retain_flag_is_kept_for_messages_that_wait() {
    let mut outbound = Outbound::new(1, LIMITS);
    let retained = Delivery { retain: true, ..message(1, QoS::AtLeastOnce) };
    assert_eq!(outbound.offer(retained, 0, false), Offer::Queued);
    outbound.on_resume(1, LIMITS);
    let Next::Send { delivery, .. } = outbound.next(0) else { panic!("not sent") };
    assert!(delivery.retain);
}

#[test]
fn case_35_what_a_shared_group_may_give_to_another_member_can_be_told_apart() {
    let mut outbound = under_way(2, &[QoS::AtLeastOnce, QoS::ExactlyOnce]);
    assert_eq!(outbound.offer(message(3, QoS::ExactlyOnce), 0, true), Offer::Queued);
    let movable: Vec<u32> = outbound
        .drain()
        .filter_map(|unfinished| match unfinished {
            ringtide_session::Unfinished::Queued(delivery) => Some(delivery),
            ringtide_session::Unfinished::Published { delivery, .. } => {
                Some(delivery).filter(|delivery| delivery.qos == QoS::AtLeastOnce)
            }
            ringtide_session::Unfinished::Released { .. } => None,
        })
        .map(|delivery| delivery.message)
        .collect();
    assert_eq!(movable, [1, 3]);
}

#[test]
fn case_39_keep_alive_and_the_servers_own() {
    assert!(!keepalive::due(0, 10, 14_999));
    assert!(keepalive::due(0, 10, 15_000));
    assert!(!keepalive::due(0, 0, u64::MAX));
    assert_eq!(keepalive::deadline(0, u16::MAX), Some(98_302_500));
    let limits = ServerLimits { keep_alive_max_s: 20, ..ServerLimits::default() };
    for (asked_s, in_force_s, announced) in
        [(30, 20, Some(20)), (0, 20, Some(20)), (20, 20, None), (10, 10, None)]
    {
        let asking = Connect { keep_alive_s: asked_s, ..connect(Version::V5, "client") };
        let negotiated = negotiate(&asking, &limits).unwrap();
        assert_eq!(negotiated.keep_alive_s, in_force_s);
        let answer = connack(&negotiated, &limits, false, None);
        assert_eq!(answer.properties.server_keep_alive_s, announced);
    }
    let older = negotiate(&connect(Version::V3_1_1, "client"), &limits).unwrap();
    assert_eq!(older.keep_alive_s, 30, "it cannot be told otherwise");
}

#[test]
fn case_41_an_empty_client_id() {
    let limits = ServerLimits::default();
    for (version, clean_start, allowed) in [
        (Version::V5, true, true),
        (Version::V5, false, true),
        (Version::V3_1_1, true, true),
        (Version::V3_1_1, false, false),
        (Version::V3_1, true, false),
        (Version::V3_1, false, false),
    ] {
        let asking = Connect { clean_start, ..connect(version, "") };
        match negotiate(&asking, &limits) {
            Ok(negotiated) => {
                assert!(allowed && negotiated.assign_client_id);
                let told = connack(&negotiated, &limits, false, Some("made-up")).properties;
                let expected = version.is_v5().then_some("made-up");
                assert_eq!(told.assigned_client_id, expected);
            }
            Err(refusal) => {
                assert!(!allowed);
                assert_eq!(refusal.reason, ReasonCode::ClientIdentifierNotValid);
                assert_eq!(refusal.reason.v3_connack_code(), Some(2));
            }
        }
    }
    assert!(!agreed(&connect(Version::V5, "client")).assign_client_id);
}

#[test]
fn case_45_problem_information_only_where_it_is_wanted() {
    let mut asking = connect(Version::V5, "client");
    for (wanted, on_acks) in [(true, true), (false, false)] {
        asking.properties.request_problem_information = wanted;
        let negotiated = agreed(&asking);
        for packet in [PacketType::PubAck, PacketType::PubRec, PacketType::SubAck, PacketType::Auth]
        {
            assert_eq!(negotiated.allows_problem_information(packet), on_acks);
        }
        for packet in [PacketType::Publish, PacketType::ConnAck, PacketType::Disconnect] {
            assert!(negotiated.allows_problem_information(packet));
        }
    }
    let older = agreed(&connect(Version::V3_1_1, "client"));
    assert!(!older.allows_problem_information(PacketType::ConnAck));
}

#[test]
fn case_45_response_information_is_never_returned_unasked() {
    let mut asking = connect(Version::V5, "client");
    assert!(!agreed(&asking).request_response_information);
    asking.properties.request_response_information = true;
    let negotiated = agreed(&asking);
    assert!(negotiated.request_response_information);
    let answer = connack(&negotiated, &ServerLimits::default(), false, None);
    assert_eq!(answer.properties.response_information, None, "the caller adds its own");
}
