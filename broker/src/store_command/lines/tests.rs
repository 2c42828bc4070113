use serde_json::{Value, json};

use super::*;

/// Takes everything.
struct Anything;

impl Target for Anything {
    fn session(&mut self, _session: &Session<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn message(&mut self, _message: &Message<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

fn content(topic: &str) -> Value {
    json!({
        "tenant": 3, "topic": topic, "qos": 2, "retain": true, "publisher": "00000000000000ff",
        "published_ms": 5, "properties": "AQE=", "payload": "eA=="
    })
}

fn waits_for(session: u32, place: u32) -> Value {
    json!({"session": session, "place": place, "qos": 2, "ids": [1]})
}

/// Two sessions and three messages, in which everything occurs.
fn good() -> Vec<Value> {
    let will = json!({"delay_s": 1, "expiry_s": 2, "content": content("will")});
    let subscriptions = json!([
        {"filter": "$share/g/a/#", "qos": 1},
        {"filter": "a/+", "qos": 2, "no_local": true, "retain_as_published": true, "id": 9},
    ]);
    let uncompleted = json!([{"packet_id": 7, "place": 2}, {"packet_id": 3}]);
    vec![
        json!({"export": {
            "format": "ringtide-store", "version": 1, "release": "0.1.0", "written_ms": 1,
            "shards": 2, "partition_key": "0123456789abcdef"
        }}),
        json!({"session": {
            "number": 1, "tenant": 3, "client_id": "a", "username": "u", "expiry_s": 5,
            "connected_ms": 1, "detached_ms": 2, "will": will, "subscriptions": subscriptions,
            "unreleased": [1, 65535], "uncompleted": uncompleted, "waiting": 2
        }}),
        json!({"session": {
            "number": 2, "tenant": 3, "client_id": "b", "expiry_s": 0, "connected_ms": 1,
            "waiting": 1
        }}),
        json!({"message": {
            "content": content("a/b"), "waits_for": [waits_for(1, 1), waits_for(2, 1)]
        }}),
        json!({"message": {"content": content("a/c"), "waits_for": [waits_for(1, 2)]}}),
        json!({"message": {"content": content("a/d"), "retained": true}}),
    ]
}

fn end() -> Value {
    json!({
        "sessions": 2, "subscriptions": 2, "wills": 1, "messages": 3, "retained": 1, "waiting": 3
    })
}

/// Reads lines with a closing one whose checksum is right. What is wrong with them, or nothing.
fn judged(lines: &[Value], mut end: Value) -> String {
    let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    end["crc32c"] = crc32c::crc32c(text.as_bytes()).into();
    text += &format!("{}\n", json!({"end": end}));
    match read(text.as_bytes(), Path::new("file"), &mut Anything) {
        Ok(_) => String::new(),
        Err(failure) => failure.text,
    }
}

/// Changes the value at a place such as `/1/session/number`.
fn with(place: &str, value: Value) -> Vec<Value> {
    let mut all = Value::Array(good());
    let (parent, key) = place.rsplit_once('/').unwrap();
    let parent = all.pointer_mut(parent).unwrap_or_else(|| panic!("{place}"));
    match parent {
        Value::Object(fields) => {
            fields.insert(key.to_owned(), value);
        }
        other => other[key.parse::<usize>().unwrap()] = value,
    }
    all.as_array().unwrap().clone()
}

#[test]
fn what_an_export_writes_is_read() {
    assert_eq!(judged(&good(), end()), "");
    let text: String = good().iter().map(|line| format!("{line}\n")).collect();
    let wrong = read(text.as_bytes(), Path::new("file"), &mut Anything).unwrap_err();
    assert!(wrong.text.starts_with("file:7: the closing line is missing"), "{wrong}");
}

#[test]
fn the_first_line_is_known() {
    for (place, value, complaint) in [
        ("/0/export/format", json!("other"), "file:1: not what"),
        ("/0/export/version", json!(2), "file:1: version 2 was written by a newer release"),
        ("/0/export/version", json!(0), "file:1: not what"),
        ("/0/export/shards", json!(0), "file:1: shards: not 1 to 250"),
        ("/0/export/shards", json!(251), "file:1: shards: not 1 to 250"),
        ("/0/export/partition_key", json!("12"), "expected 16 hexadecimal digits"),
        ("/0/export/more", json!(1), "unknown field `more`"),
        ("/2", good()[0].clone(), "file:3: a second first line"),
    ] {
        let told = judged(&with(place, value), end());
        assert!(told.contains(complaint), "{place}: {told}");
    }
}

#[test]
fn sessions_are_judged() {
    let long = "x".repeat(65_536);
    for (place, value, complaint) in [
        ("number", json!(2), "session number 2, expected 1"),
        ("tenant", json!(4), "file:2: will: of another tenant"),
        ("client_id", json!("b"), "file:3: not in the order of tenant and client id"),
        ("client_id", json!("c"), "file:3: not in the order of tenant and client id"),
        ("client_id", json!(""), "client_id: empty"),
        ("client_id", json!("\0"), "client_id: longer than 65535 bytes, or with U+0000"),
        ("username", json!(long), "username: longer"),
        ("will/content/topic", json!("a/#"), "will: topic `a/#`"),
        ("will/content/qos", json!(3), "will: QoS 3"),
        ("subscriptions/0/filter", json!("b/+"), "subscriptions: not in ascending order"),
        ("subscriptions/0/filter", json!("a#"), "filter `a#`"),
        ("subscriptions/0/qos", json!(3), "filter `$share/g/a/#`: QoS 3"),
        ("subscriptions/1/id", json!(268_435_456), "subscription identifier 268435456"),
        ("unreleased", json!([2, 1]), "unreleased: not in ascending order"),
        ("unreleased", json!([0]), "unreleased: packet id 0"),
        ("uncompleted/1/packet_id", json!(0), "uncompleted: packet id 0"),
        ("uncompleted/1/packet_id", json!(7), "uncompleted: a packet id twice"),
        ("uncompleted/1/place", json!(2), "uncompleted: a place twice"),
        ("uncompleted/1/place", json!(3), "uncompleted: place 3 of 2 that wait"),
        ("waiting", json!(3), "file:7: session 1: messages that wait for it are missing"),
        ("waiting", json!(-1), "column"),
        ("colour", json!(1), "unknown field `colour`"),
    ] {
        let told = judged(&with(&format!("/1/session/{place}"), value), end());
        assert!(told.contains(complaint), "{place}: {told}");
    }
}

#[test]
fn messages_are_judged() {
    let none = json!({"content": content("a/b")});
    let again =
        json!({"content": content("a/d"), "retained": true, "waits_for": [waits_for(1, 2)]});
    for (place, value, complaint) in [
        ("/3/message", none, "file:4: a message that nothing is kept for"),
        ("/4/message", again, "file:6: topic `a/d` has two retained messages"),
        ("/5/message/content/payload", json!(""), "retained, with an empty payload"),
        ("/5/message/content/retain", json!(false), "without RETAIN"),
        ("/3/message/content/payload", json!("eA="), "base64: "),
        ("/3/message/content/publisher", json!("+000000000000001"), "16 hexadecimal digits"),
        ("/3/message/content/flags", json!(8), "flags 8: not known"),
        ("/3/message/content/tenant", json!(4), "session 1 is of another tenant"),
        ("/3/message/content/topic", json!("a\0b"), "topic: longer than 65535 bytes, or with"),
        // A property of no kind, one cut short, and a topic alias.
        ("/3/message/content/properties", json!("AP8="), "properties: PropertyUnknown"),
        ("/3/message/content/properties", json!("AQ=="), "properties: "),
        ("/3/message/content/properties", json!("IwAB"), "does not travel with a message"),
        ("/3/message/waits_for/0/session", json!(3), "there is no session 3"),
        ("/3/message/waits_for/0/session", json!(0), "there is no session 0"),
        ("/3/message/waits_for/0/place", json!(0), "session 1: place 0 of 2 that wait"),
        ("/3/message/waits_for/0/place", json!(3), "session 1: place 3 of 2 that wait"),
        ("/3/message/waits_for/0/place", json!(2), "file:5: session 1: place 2 twice"),
        ("/3/message/waits_for/0/qos", json!(0), "waits_for: QoS 0, not 1 or 2"),
        ("/3/message/waits_for/0/ids", json!([0]), "waits_for: subscription identifier 0"),
        ("/4/message/waits_for/0/qos", json!(1), "place 2 was sent, but not as QoS 2"),
        ("/4", good()[2].clone(), "file:5: a session behind a message"),
    ] {
        let told = judged(&with(place, value), end());
        assert!(told.contains(complaint), "{place}: {told}");
    }
}

#[test]
fn the_counts_must_be_right() {
    for name in ["sessions", "subscriptions", "wills", "messages", "retained", "waiting"] {
        let mut end = end();
        end[name] = 77.into();
        let told = judged(&good(), end);
        assert!(told.contains("file:7: the counts are not those"), "{name}: {told}");
    }
}
