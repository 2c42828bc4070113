//! Hard cases 26 to 30: retained messages.

mod common;

use std::time::Duration;

use common::packet::option::{
    NO_LOCAL, RETAIN_AS_PUBLISHED, SEND_NO_RETAINED, SEND_RETAINED_IF_NEW,
};
use common::{Client, Cx, Fleet, Publish, Settings, Subscribe, V311, Will};

static FLEET: Fleet = Fleet::new(Settings::new);

/// Stores a retained message.
fn retain(cx: &Cx<'_>, topic: &str, text: &str) {
    let code = cx.publisher().publish(Publish::new(topic, text).qos(1).retain());
    assert!(code < 0x80, "PUBACK {code:#04x}");
}

/// Nothing is due: a marker comes next.
fn expect_only_marker(cx: &Cx<'_>, client: &mut Client, topic: &str) {
    client.ping();
    client.expect_silence();
    cx.publisher().publish(Publish::new(topic, "marker").qos(1));
    client.expect_message("marker");
}

#[test]
fn case_26_retain_handling_0_sends_on_every_subscribe() {
    FLEET.run("case_26", |cx| {
        let topic = cx.topic("t");
        retain(cx, &topic, "kept");
        for version in [V311, common::V5] {
            let mut sub = cx.connect(cx.version(version, "sub"));
            for _ in 0..3 {
                sub.subscribe(&topic, 1);
                assert!(sub.expect_message("kept").retain);
            }
            expect_only_marker(cx, &mut sub, &topic);
        }
    });
}

#[test]
fn case_26_retain_handling_1_sends_for_a_new_subscription_only() {
    FLEET.run("case_26b", |cx| {
        let topic = cx.topic("t");
        retain(cx, &topic, "kept");
        let connect = || cx.v5("sub").resume().expiry(600);
        let mut sub = cx.connect(connect());
        sub.subscribe(&topic, 1 | SEND_RETAINED_IF_NEW);
        sub.expect_message("kept");
        sub.subscribe(&topic, 1 | SEND_RETAINED_IF_NEW);
        expect_only_marker(cx, &mut sub, &topic);
        // After a resume the subscription exists already.
        sub.disconnect();
        let mut sub = cx.connect(connect());
        sub.subscribe(&topic, 1 | SEND_RETAINED_IF_NEW);
        expect_only_marker(cx, &mut sub, &topic);
        // After an unsubscribe it is new again.
        sub.unsubscribe(&[&topic]);
        sub.subscribe(&topic, 1 | SEND_RETAINED_IF_NEW);
        sub.expect_message("kept");
        // Handling 0 sends for an old one too.
        sub.subscribe(&topic, 1);
        sub.expect_message("kept");
    });
}

#[test]
fn case_26_retain_handling_2_sends_none() {
    FLEET.run("case_26c", |cx| {
        let topic = cx.topic("t");
        retain(cx, &topic, "kept");
        let mut sub = cx.connect(cx.v5("sub"));
        sub.subscribe(&topic, 1 | SEND_NO_RETAINED);
        expect_only_marker(cx, &mut sub, &topic);
    });
}

#[test]
fn case_26_changed_options_take_effect() {
    FLEET.run("case_26d", |cx| {
        let topic = cx.topic("t");
        let mut sub = cx.connect(cx.v5("sub"));
        let mut publisher = cx.publisher();
        assert_eq!(sub.subscribe_id(&topic, 0, 1), 0);
        publisher.publish(Publish::new(&topic, "a").qos(2).retain());
        let a = sub.message();
        assert_eq!((a.qos, a.retain, a.props.subscription_ids()), (0, false, vec![1]));
        let options = 2 | RETAIN_AS_PUBLISHED | SEND_NO_RETAINED;
        assert_eq!(sub.subscribe_id(&topic, options, 2), 2);
        publisher.publish(Publish::new(&topic, "b").qos(2).retain());
        let b = sub.message();
        assert_eq!((b.text().as_str(), b.qos, b.retain), ("b", 2, true));
        assert_eq!(b.props.subscription_ids(), [2]);
        // Without an id the old one goes; No Local is new.
        assert_eq!(sub.subscribe(&topic, 1 | NO_LOCAL | SEND_NO_RETAINED), 1);
        sub.publish(Publish::new(&topic, "own").qos(1));
        publisher.publish(Publish::new(&topic, "c").qos(2).retain());
        let c = sub.message();
        assert_eq!((c.text().as_str(), c.qos, c.retain), ("c", 1, false));
        assert!(c.props.subscription_ids().is_empty());
        sub.ping();
        sub.expect_silence();
    });
}

#[test]
fn case_27_retain_flag_by_cause_and_retain_as_published() {
    FLEET.run("case_27", |cx| {
        let topic = cx.topic("t");
        retain(cx, &topic, "kept");
        let mut plain = cx.connect(cx.v5("plain"));
        let mut as_published = cx.connect(cx.v5("rap"));
        let mut old = cx.connect(cx.v311("old"));
        plain.subscribe(&topic, 1);
        as_published.subscribe(&topic, 1 | RETAIN_AS_PUBLISHED);
        old.subscribe(&topic, 1);
        for client in [&mut plain, &mut as_published, &mut old] {
            assert!(client.expect_message("kept").retain, "due to SUBSCRIBE");
        }
        let mut publisher = cx.publisher();
        publisher.publish(Publish::new(&topic, "live retained").qos(1).retain());
        publisher.publish(Publish::new(&topic, "live").qos(1));
        for (client, flag) in [(&mut plain, false), (&mut as_published, true), (&mut old, false)] {
            assert_eq!(client.expect_message("live retained").retain, flag);
            assert!(!client.expect_message("live").retain);
        }
    });
}

#[test]
fn case_27_retain_as_published_is_kept_for_messages_queued_offline() {
    FLEET.run("case_27b", |cx| {
        let topic = cx.topic("t");
        let connect = |name: &str| cx.v5(name).resume().expiry(600);
        for (name, options) in [("plain", 1), ("rap", 1 | RETAIN_AS_PUBLISHED)] {
            let mut sub = cx.connect(connect(name));
            sub.subscribe(&topic, options | SEND_NO_RETAINED);
            sub.disconnect();
        }
        let mut publisher = cx.publisher();
        publisher.publish(Publish::new(&topic, "queued").qos(1).retain());
        publisher.publish(Publish::new(&topic, "not retained").qos(1));
        for (name, flag) in [("plain", false), ("rap", true)] {
            let mut sub = cx.connect(connect(name));
            assert_eq!(sub.expect_message("queued").retain, flag, "{name}");
            assert!(!sub.expect_message("not retained").retain);
        }
    });
}

#[test]
fn case_28_retained_messages_carry_the_subscription_id() {
    FLEET.run("case_28", |cx| {
        retain(cx, &cx.topic("a/b"), "kept");
        let mut sub = cx.connect(cx.v5("sub"));
        sub.subscribe_id(&cx.topic("a/b"), 1, 268_435_455);
        assert_eq!(sub.expect_message("kept").props.subscription_ids(), [268_435_455]);
        sub.subscribe_id(&cx.topic("a/+"), 1, 1);
        assert_eq!(sub.expect_message("kept").props.subscription_ids(), [1]);
        sub.subscribe(&cx.topic("#"), 1);
        assert!(sub.expect_message("kept").props.subscription_ids().is_empty());
        sub.ping();
        sub.expect_silence();
    });
}

#[test]
fn case_29_resume_or_takeover_alone_sends_no_retained_messages() {
    FLEET.run("case_29", |cx| {
        let topic = cx.topic("t");
        retain(cx, &topic, "kept");
        let connect = || cx.v5("sub").resume().expiry(600);
        let mut sub = cx.connect(connect());
        sub.subscribe(&topic, 1);
        sub.expect_message("kept");
        sub.ping();
        sub.lose_network();
        let mut resumed = cx.connect(connect());
        assert!(resumed.session_present());
        expect_only_marker(cx, &mut resumed, &topic);
        resumed.ping();
        let mut taken = cx.connect(connect());
        assert!(taken.session_present());
        expect_only_marker(cx, &mut taken, &topic);
    });
}

#[test]
fn case_30_an_empty_retained_message_deletes_and_is_forwarded() {
    FLEET.run("case_30", |cx| {
        let topic = cx.topic("a/b");
        retain(cx, &topic, "kept");
        let mut live = cx.connect(cx.v5("live"));
        let filters = Subscribe::new(900, cx.topic("a/b"), 1)
            .and(cx.topic("a/+"), 1 | RETAIN_AS_PUBLISHED)
            .and(cx.topic("#"), 1);
        live.subscribe_with(&filters);
        for _ in 0..3 {
            assert!(live.expect_message("kept").retain);
        }
        retain(cx, &topic, "");
        // One copy, or one for each filter: all empty.
        assert_eq!(live.message().text(), "");
        let mut late = cx.connect(cx.v5("late"));
        late.subscribe(&cx.topic("#"), 1);
        expect_only_marker(cx, &mut late, &topic);
        // Deleting what is not there does no harm and stores nothing.
        retain(cx, &topic, "");
        late.subscribe(&topic, 1);
        late.expect_message("");
        late.ping();
        late.expect_silence();
    });
}

#[test]
fn case_30_an_empty_retained_will_deletes_too() {
    FLEET.run("case_30b", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 1);
        let kept = Will::new(&topic, "kept by the will").qos(1).retain();
        cx.connect(cx.v5("a").will(kept)).lose_network();
        assert!(!watcher.expect_message("kept by the will").retain);
        let mut late = cx.connect(cx.v5("late"));
        late.subscribe(&topic, 1);
        assert!(late.expect_message("kept by the will").retain);
        late.disconnect();

        let empty = Will::new(&topic, "").qos(1).retain();
        cx.connect(cx.v5("a").will(empty)).lose_network();
        watcher.expect_message("");
        let mut late = cx.connect(cx.v5("late"));
        late.subscribe(&topic, 1);
        expect_only_marker(cx, &mut late, &topic);
    });
}

#[test]
fn case_30_deleting_retained_while_a_retained_will_waits() {
    FLEET.run("case_30c", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 1);
        let will = Will::new(&topic, "will").qos(1).retain().delay(1);
        let client = cx.connect(cx.v5("a").expiry(600).will(will));
        // Three publishers: their order is not what this is about, and busy shards lose it.
        retain(cx, &topic, "kept");
        watcher.expect_message("kept");
        client.lose_network();
        retain(cx, &topic, "");
        assert_eq!(watcher.texts(2), ["", "will"]);
        let mut late = cx.connect(cx.v5("late"));
        late.subscribe(&topic, 1);
        assert!(late.expect_message("will").retain);
    });
}

#[test]
fn an_unretained_message_leaves_the_retained_one_alone() {
    FLEET.run("retain_0", |cx| {
        let topic = cx.topic("t");
        retain(cx, &topic, "kept");
        cx.publisher().publish(Publish::new(&topic, "live").qos(1));
        cx.publisher().publish(Publish::new(&topic, "").qos(1));
        let mut late = cx.connect(cx.v5("late"));
        late.subscribe(&topic, 1);
        late.expect_message("kept");
        retain(cx, &topic, "replaced");
        assert!(!late.expect_message("replaced").retain);
        late.subscribe(&topic, 1);
        assert!(late.expect_message("replaced").retain);
    });
}

#[test]
fn a_retained_message_is_sent_at_the_lower_of_both_qos() {
    FLEET.run("retain_q", |cx| {
        for stored in 0..=2 {
            let topic = cx.topic(&format!("t{stored}"));
            // PUBACK of another message: the QoS 0 one before it has been taken.
            let mut publisher = cx.publisher();
            publisher.publish(Publish::new(&topic, "kept").qos(stored).retain());
            publisher.publish(Publish::new(&topic, "live").qos(1));
            for granted in 0..=2 {
                let mut sub = cx.connect(cx.v5("sub"));
                sub.subscribe(&topic, granted);
                let message = sub.expect_message("kept");
                assert_eq!(message.qos, stored.min(granted));
                sub.disconnect();
            }
        }
    });
}

#[test]
fn retained_messages_survive_their_publishers_session() {
    FLEET.run("retain_s", |cx| {
        let topic = cx.topic("t");
        let mut publisher = cx.connect(cx.v311("pub"));
        publisher.publish(Publish::new(&topic, "kept").qos(1).retain());
        publisher.disconnect();
        cx.connect(cx.v311("pub")).disconnect();
        std::thread::sleep(Duration::from_millis(100));
        let mut sub = cx.connect(cx.v5("sub"));
        sub.subscribe(&topic, 1);
        sub.expect_message("kept");
    });
}
