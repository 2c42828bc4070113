use ringtide_codec::ReasonCode::{PacketIdentifierNotFound, Success, UnspecifiedError};

use super::*;

pub(super) fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

pub(super) fn delivery(message: u32) -> Delivery<u32> {
    Delivery {
        message,
        qos: QoS::AtLeastOnce,
        retain: false,
        subscription_ids: SubscriptionIds::new(),
        expires_at_ms: None,
        bytes: 10,
        membership: 0,
    }
}

fn twice(message: u32) -> Delivery<u32> {
    Delivery { qos: QoS::ExactlyOnce, ..delivery(message) }
}

const LIMITS: QueueLimits =
    QueueLimits { count_max: 100, bytes_max: 10_000, policy: DropPolicy::Newest };

fn outbound(receive_maximum: u16) -> Outbound<u32> {
    Outbound::new(receive_maximum, LIMITS)
}

fn sent(offer: Offer<u32>) -> u16 {
    match offer {
        Offer::Send(id) => id.get(),
        other => panic!("not sent: {other:?}"),
    }
}

/// The id and message of the next queued one.
fn next(outbound: &mut Outbound<u32>) -> Option<(u16, u32)> {
    match outbound.next(0) {
        Next::Send { id, delivery } => Some((id.get(), delivery.message)),
        Next::Idle => None,
        Next::Expired(delivery) => panic!("expired: {delivery:?}"),
    }
}

/// All that is sent again now: ids, negative for PUBREL.
fn resent(outbound: &mut Outbound<u32>) -> Vec<i32> {
    let mut ids = Vec::new();
    while let Some(resend) = outbound.resend_next() {
        ids.push(match resend {
            Resend::Publish { id, dup, .. } => {
                assert!(dup);
                i32::from(id.get())
            }
            Resend::Pubrel { id } => -i32::from(id.get()),
        });
    }
    ids
}

#[test]
fn a_message_goes_straight_out_and_its_puback_ends_it() {
    let mut outbound = outbound(10);
    let packet_id = sent(outbound.offer(delivery(5), 0, true));
    assert_eq!(outbound.delivery(id(packet_id)).unwrap().message, 5);
    assert_eq!(outbound.on_puback(id(packet_id), Success), Ok(Acked::Delivered(Some(delivery(5)))));
    assert!(outbound.is_idle());
    assert_eq!(outbound.on_puback(id(packet_id), Success), Ok(Acked::Unknown));
}

#[test]
fn a_refused_message_is_told_apart() {
    let mut outbound = outbound(10);
    sent(outbound.offer(delivery(5), 0, true));
    let acked = outbound.on_puback(id(1), UnspecifiedError);
    assert_eq!(acked, Ok(Acked::Refused(Some(delivery(5)))));
}

#[test]
fn qos_2_lets_go_of_the_message_at_pubrec_and_of_the_id_at_pubcomp() {
    let mut outbound = outbound(1);
    sent(outbound.offer(twice(5), 0, true));
    assert_eq!(outbound.offer(twice(6), 0, true), Offer::Queued);
    assert_eq!(outbound.on_pubrec(id(1), Success), Ok(PubrecReply::SendPubrel));
    assert!(outbound.delivery(id(1)).is_none());
    assert_eq!(next(&mut outbound), None, "PUBREC frees no quota");
    assert_eq!(outbound.on_pubrec(id(1), Success), Ok(PubrecReply::SendPubrel), "again");
    assert_eq!(outbound.on_pubcomp(id(1), Success), Ok(Completed::Done));
    assert_eq!(next(&mut outbound), Some((2, 6)));
}

#[test]
fn unknown_ids_change_nothing() {
    let mut outbound = outbound(1);
    assert_eq!(outbound.on_puback(id(9), Success), Ok(Acked::Unknown));
    assert_eq!(outbound.on_pubrec(id(9), Success), Ok(PubrecReply::UnknownId));
    assert_eq!(outbound.on_pubrec(id(9), UnspecifiedError), Ok(PubrecReply::Ended));
    assert_eq!(outbound.on_pubcomp(id(9), PacketIdentifierNotFound), Ok(Completed::Unknown));
    assert_eq!(outbound.give_up(id(9)), None);
    assert!(outbound.is_idle());
    assert_eq!(sent(outbound.offer(delivery(1), 0, true)), 1);
}

#[test]
fn while_offline_everything_waits_and_nothing_goes_out() {
    let mut outbound = outbound(10);
    outbound.on_disconnect();
    assert_eq!(outbound.offer(delivery(1), 0, false), Offer::Queued);
    assert_eq!(outbound.offer(delivery(2), 0, true), Offer::Queued, "not resumed yet");
    assert_eq!(next(&mut outbound), None);
    assert_eq!(resent(&mut outbound), []);
    outbound.on_resume(1, LIMITS);
    assert_eq!(next(&mut outbound), Some((1, 1)));
    assert_eq!(next(&mut outbound), None);
    assert_eq!((outbound.queued_len(), outbound.queued_bytes()), (1, 10));
}

#[test]
fn a_pubrel_does_not_wait_for_a_publish_without_quota() {
    let mut outbound = outbound(4);
    for message in 1..=4 {
        sent(outbound.offer(twice(message), 0, true));
    }
    outbound.on_pubrec(id(3), Success).unwrap();
    outbound.on_disconnect();
    outbound.on_resume(2, LIMITS);
    // The exchange of 3 is one that the client may count, so one PUBLISH is left.
    assert_eq!(resent(&mut outbound), [1, -3]);
    outbound.on_pubcomp(id(3), Success).unwrap();
    assert_eq!(resent(&mut outbound), [2]);
    outbound.on_pubrec(id(1), Success).unwrap();
    assert_eq!(resent(&mut outbound), []);
    outbound.on_pubcomp(id(1), Success).unwrap();
    assert_eq!(resent(&mut outbound), [4]);
}

#[test]
fn acknowledgements_may_overtake_what_is_to_be_sent_again() {
    let mut outbound = outbound(4);
    sent(outbound.offer(delivery(1), 0, true));
    for message in 2..=4 {
        sent(outbound.offer(twice(message), 0, true));
    }
    outbound.on_pubrec(id(4), Success).unwrap();
    outbound.on_disconnect();
    outbound.on_resume(4, LIMITS);
    assert_eq!(outbound.on_puback(id(1), Success), Ok(Acked::Delivered(Some(delivery(1)))));
    assert_eq!(outbound.on_pubrec(id(2), Success), Ok(PubrecReply::SendPubrel));
    assert_eq!(outbound.on_pubrec(id(4), Success), Ok(PubrecReply::SendPubrel));
    assert_eq!(resent(&mut outbound), [3]);
    for packet_id in [2, 4] {
        assert_eq!(outbound.on_pubcomp(id(packet_id), Success), Ok(Completed::Done));
    }
    assert_eq!(outbound.on_pubrec(id(3), UnspecifiedError), Ok(PubrecReply::Ended));
    assert!(outbound.is_idle());
    for message in 5..=8 {
        sent(outbound.offer(delivery(message), 0, true));
    }
    assert_eq!(outbound.offer(delivery(9), 0, true), Offer::Queued, "the quota is whole again");
}

#[test]
fn a_connection_that_breaks_while_sending_again_starts_over() {
    let mut outbound = outbound(3);
    for message in 1..=3 {
        sent(outbound.offer(delivery(message), 0, true));
    }
    for _ in 0..3 {
        outbound.on_disconnect();
        outbound.on_resume(1, LIMITS);
        assert_eq!(resent(&mut outbound), [1]);
    }
    outbound.on_resume(9, LIMITS);
    assert_eq!(resent(&mut outbound), [1, 2, 3]);
    assert_eq!(resent(&mut outbound), [], "at no other time");
}

#[test]
fn drain_and_restore_carry_everything_over_in_order() {
    let mut before = outbound(3);
    sent(before.offer(delivery(1), 0, true));
    sent(before.offer(twice(2), 0, true));
    sent(before.offer(twice(3), 0, true));
    assert_eq!(before.offer(delivery(4), 0, true), Offer::Queued);
    before.on_pubrec(id(2), Success).unwrap();
    let unfinished: Vec<Unfinished<u32>> = before.drain().collect();
    assert_eq!(
        unfinished,
        [
            Unfinished::Published { id: id(1), delivery: delivery(1) },
            Unfinished::Released { id: id(2) },
            Unfinished::Published { id: id(3), delivery: twice(3) },
            Unfinished::Queued(delivery(4)),
        ]
    );
    let mut after = Outbound::restore(LIMITS, unfinished.clone());
    assert_eq!(after.offer(delivery(5), 0, true), Offer::Queued);
    after.on_resume(10, LIMITS);
    assert_eq!(resent(&mut after), [1, -2, 3]);
    assert_eq!(next(&mut after), Some((4, 4)));
    assert_eq!(next(&mut after), Some((5, 5)));
    let doubled = unfinished.iter().cloned().chain(unfinished.iter().cloned());
    assert_eq!(Outbound::restore(LIMITS, doubled).inflight_len(), 3, "an id is restored once");
}

#[test]
fn ids_restored_in_an_order_that_wrapped_keep_it() {
    let published = |value| Unfinished::Published { id: id(value), delivery: delivery(0) };
    let wrapped = [65_534, 65_535, 1, 7, 3].map(published);
    let mut outbound = Outbound::restore(LIMITS, wrapped);
    outbound.on_resume(100, LIMITS);
    assert_eq!(resent(&mut outbound), [65_534, 65_535, 1, 7, 3]);
    assert_eq!(sent(outbound.offer(delivery(1), 0, true)), 4);
    for value in [65_534, 65_535, 1, 7, 3, 4] {
        assert!(matches!(outbound.on_puback(id(value), Success), Ok(Acked::Delivered(_))));
    }
    assert!(outbound.is_idle());
}

#[test]
fn expired_messages_that_wait_can_be_swept() {
    let mut outbound = outbound(1);
    outbound.on_disconnect();
    for message in 1..=3 {
        let expires_at_ms = NonZeroU64::new(u64::from(message) * 100);
        let waiting = Delivery { expires_at_ms, ..delivery(message) };
        assert_eq!(outbound.offer(waiting, 0, false), Offer::Queued);
    }
    let mut expired = Vec::new();
    outbound.sweep_expired(200, |delivery| expired.push(delivery.message));
    assert_eq!(expired, [1, 2]);
    assert_eq!((outbound.queued_len(), outbound.queued_bytes()), (1, 10));
}

#[test]
#[should_panic(expected = "QoS 0")]
fn a_qos_0_message_is_the_callers_mistake() {
    let _ = outbound(1).offer(Delivery { qos: QoS::AtMostOnce, ..delivery(1) }, 0, true);
}

#[test]
fn a_bare_exchange_counts_like_any_and_is_never_sent_again() {
    let mut outbound = outbound(3);
    let bare = outbound.begin_bare(QoS::AtLeastOnce).unwrap();
    let twice = outbound.begin_bare(QoS::ExactlyOnce).unwrap();
    assert_eq!((bare, twice), (id(1), id(2)));
    assert_eq!(outbound.begin_bare(QoS::AtMostOnce), None);
    assert_eq!(sent(outbound.offer(delivery(3), 0, true)), 3);
    assert_eq!(outbound.begin_bare(QoS::AtLeastOnce), None, "the quota is used up");
    assert_eq!(outbound.delivery(bare), None);
    assert_eq!(outbound.on_pubrec(bare, Success), Err(Violation::WrongAcknowledgement));
    assert_eq!(outbound.on_puback(twice, Success), Err(Violation::WrongAcknowledgement));
    assert_eq!(outbound.on_puback(bare, UnspecifiedError), Ok(Acked::Refused(None)));
    assert_eq!(outbound.on_pubrec(twice, Success), Ok(PubrecReply::SendPubrel));
    let late = outbound.begin_bare(QoS::AtLeastOnce).unwrap();
    assert_eq!(outbound.under_way().count(), 2);
    outbound.on_resume(3, LIMITS);
    assert_eq!(resent(&mut outbound), [-2, 3]);
    assert_eq!(outbound.on_puback(late, Success), Ok(Acked::Unknown));
    assert_eq!(outbound.inflight_len(), 2);
    assert_eq!(outbound.offer(delivery(5), 0, false), Offer::Queued);
    assert_eq!(outbound.begin_bare(QoS::AtLeastOnce), None, "others wait");
}
