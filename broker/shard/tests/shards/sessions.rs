//! Sessions: wills, retained replays, authentication with a hand-over.

use ringtide_codec::{Auth, Connect, ConnectProperties, QoS, ReasonCode, Version};
use ringtide_session::{AuthMethod, AuthStep};
use ringtide_shard::{Limits, Methods};

use crate::harness::{World, quiet};
use crate::packets::*;

#[test]
fn no_local_holds_for_wills() {
    let mut world = World::new(1, quiet());
    let packet = connect_lasting("own", Some(will("w", QoS::AtLeastOnce)));
    world.accept(0, 1, &packet);
    world.send(0, 1, &subscribe(1, "w", no_local(QoS::AtLeastOnce)));
    world.accept(0, 2, &connect("other"));
    world.send(0, 2, &subscribe(1, "w", no_local(QoS::AtLeastOnce)));
    world.turns(5);
    world.sent(0, 2);
    world.end(0, 1);
    world.turns(5);
    assert_eq!(payloads(&read(&world.sent(0, 2))), ["gone"]);
    world.accept(0, 3, &connect_lasting("own", None));
    world.turns(5);
    assert_eq!(read(&world.sent(0, 3)), [Got::ConnAck(ReasonCode::Success)]);
}

/// A replay that a client's few acknowledgements hold up, and what comes live meanwhile.
#[test]
fn what_came_live_before_a_subscription_is_still_its_retained_message() {
    let mut world = World::new(1, quiet());
    world.accept(0, 9, &connect("publisher"));
    for number in 0..200 {
        world.send(0, 9, &retain(&format!("kept/{number}"), b"old"));
    }
    let properties = ConnectProperties { receive_maximum: Some(1), ..Default::default() };
    world.accept(0, 1, &bytes_of(&Connect { properties, ..connect_as("reader") }));
    world.turns(20);
    let newest = frame_of(
        ringtide_codec::PublishOut { retain: true, ..publish_as("kept/199", QoS::AtLeastOnce, 1) },
        b"new",
    );
    world.send(0, 9, &retain("kept/0", b"old"));
    // QoS 1 needs QoS 1 retained messages.
    for number in 0..200 {
        let packet = publish_as("", QoS::AtLeastOnce, number + 1);
        let topic = format!("kept/{number}");
        let packet = ringtide_codec::PublishOut { retain: true, topic: &topic, ..packet };
        world.send(0, 9, &frame_of(packet, b"old"));
    }
    world.turns(20);
    world.send(0, 1, &subscribe(1, "kept/#", options(QoS::AtLeastOnce)));
    world.turns(10);
    world.send(0, 9, &newest);
    world.turns(5);
    world.send(0, 1, &subscribe(2, "kept/199", options(QoS::AtLeastOnce)));
    let mut all = Vec::new();
    for _ in 0..1000 {
        world.turns(2);
        for one in read(&world.sent(0, 1)) {
            if let Got::Publish { topic, payload, id, .. } = one {
                world.send(0, 1, &puback(id));
                all.push((topic, payload));
            }
        }
    }
    let of_last: Vec<&str> = all
        .iter()
        .filter(|(topic, _)| topic == "kept/199")
        .map(|(_, payload)| payload.as_str())
        .collect();
    assert_eq!(of_last, ["new", "new"], "live, and as the second filter's retained message");
    assert_eq!(all.len(), 201);
}

/// A live copy that was dropped does not stand for the retained message.
#[test]
fn what_was_dropped_live_is_no_reason_to_leave_a_retained_message_out() {
    let mut world = World::new(1, Limits { write_buffer_max_bytes: 1000, ..quiet() });
    world.accept(0, 9, &connect("publisher"));
    world.send(0, 9, &retain("kept", b"old"));
    world.accept(0, 1, &connect("reader"));
    world.send(0, 1, &subscribe(1, "noise", options(QoS::AtMostOnce)));
    world.turns(5);
    world.sent(0, 1);
    world.stall(0, 1);
    world.send(0, 1, &ping());
    world.turns(2);
    for _ in 0..15 {
        world.send(0, 9, &publish("noise", QoS::AtMostOnce, 0, &[7; 100]));
    }
    world.turns(5);
    world.send(0, 1, &subscribe(2, "kept", options(QoS::AtMostOnce)));
    world.turns(5);
    world.send(0, 9, &retain("kept", &[7; 100]));
    world.turns(5);
    world.unstall(0, 1);
    world.turns(5);
    let got = read(&world.sent(0, 1));
    assert_eq!(payloads(&got).last(), Some(&"old"), "the retained message comes");
}

struct Echo;

impl AuthMethod for Echo {
    fn name(&self) -> &str {
        "ECHO"
    }

    fn start(&mut self, _data: Option<&[u8]>) -> AuthStep {
        AuthStep::Continue(b"challenge".to_vec())
    }

    fn answer(&mut self, _data: Option<&[u8]>) -> AuthStep {
        AuthStep::Succeed(Vec::new())
    }
}

#[test]
fn a_challenge_is_sent_although_the_connection_is_handed_over() {
    let methods = Methods(vec![("ECHO", || Box::new(Echo))]);
    let mut world = World::with_methods(2, quiet(), methods);
    let name = world.name_at(1, "c");
    let properties =
        ConnectProperties { authentication_method: Some("ECHO"), ..Default::default() };
    // The client answers before it is asked: CONNECT and AUTH in one segment.
    let mut bytes = bytes_of(&Connect { properties, ..connect_as(&name) });
    let answer = Auth {
        method: Some("ECHO"),
        data: Some(b"answer"),
        ..Auth::new(ReasonCode::ContinueAuthentication)
    };
    answer.encode(Version::V5, &mut bytes);
    world.accept(0, 1, &bytes);
    world.turns(10);
    assert_eq!(read(&world.sent(0, 1)), []);
    let got = read(&world.sent(1, 1));
    assert_eq!(got, [Got::Auth(b"challenge".to_vec()), Got::ConnAck(ReasonCode::Success)]);
}
