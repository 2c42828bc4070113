//! The opening handshake: what is granted, what is refused and with which answer.

use super::super::request::REQUEST_BYTES_MAX;
use super::*;
use crate::Class;

/// The answer's status and body to a request, and the fault.
fn refused(filter: &mut Filter, request: &str) -> (u16, String, Fault) {
    let seen = Seen::of(filter, [request.as_bytes()]);
    let fault = seen.fault.unwrap_or_else(|| panic!("granted: {request:?}"));
    assert_eq!(seen.plain, b"");
    let answer = String::from_utf8(seen.wire).expect("an answer in text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("headers and body");
    let length = format!("Content-Length: {}", body.len());
    assert!(head.lines().any(|line| line == length), "{head}");
    assert!(head.lines().any(|line| line.starts_with("Connection:") && line.ends_with("close")));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, answer.clone(), fault)
}

fn replaced(from: &str, to: &str) -> String {
    assert!(REQUEST.contains(from), "{from}");
    REQUEST.replace(from, to)
}

#[test]
fn the_example_of_the_standard_is_granted() {
    let seen = Seen::of(&mut filter(), [REQUEST.as_bytes()]);
    assert_eq!(String::from_utf8_lossy(&seen.wire), ANSWER);
    assert_eq!((seen.plain.as_slice(), seen.ended, seen.fault), (&b""[..], false, None));
}

#[test]
fn what_a_client_may_write_differently_is_granted() {
    let variants = [
        replaced("Upgrade: websocket", "upgrade:  WebSocket "),
        replaced("Connection: Upgrade", "Connection: keep-alive, upgrade"),
        replaced("Connection: Upgrade", "Connection: keep-alive\r\nConnection: Upgrade"),
        replaced("/mqtt ", "/mqtt?token=abc "),
        replaced("/mqtt ", "http://server.example.com/mqtt "),
        replaced("Origin: http://example.com\r\n", ""),
        replaced("chat, mqtt", "mqttv3.1,mqtt"),
        replaced("chat, mqtt", "chat\r\nSec-WebSocket-Protocol: mqtt"),
        REQUEST.replace("\r\n", "\n"),
    ];
    for request in variants {
        let seen = Seen::of(&mut filter(), [request.as_bytes()]);
        assert_eq!(String::from_utf8_lossy(&seen.wire), ANSWER, "{request}");
    }
    let old = replaced("chat, mqtt", "mqttv3.1");
    let seen = Seen::of(&mut filter(), [old.as_bytes()]);
    assert!(String::from_utf8_lossy(&seen.wire).contains("Sec-WebSocket-Protocol: mqttv3.1\r\n"));
}

#[test]
fn each_thing_that_is_wrong_has_its_answer() {
    let cases = [
        (replaced("GET", "POST"), 405, "only GET"),
        (replaced("Upgrade: websocket\r\n", ""), 426, "ws://HOST:PORT/mqtt"),
        (replaced("Upgrade: websocket", "Upgrade: h2c"), 426, "ws://HOST:PORT/mqtt"),
        (replaced("HTTP/1.1", "HTTP/1.0"), 505, "HTTP/1.1"),
        (replaced("/mqtt ", "/ "), 404, "MQTT is at /mqtt"),
        (replaced("/mqtt ", "/mqtt/ "), 404, "MQTT is at /mqtt"),
        (replaced("/mqtt ", "/public/x://y/mqtt "), 404, "MQTT is at /mqtt"),
        (replaced("/mqtt ", "/?next=https://h/mqtt "), 404, "MQTT is at /mqtt"),
        (replaced("/mqtt ", "http://server.example.com "), 404, "MQTT is at /mqtt"),
        (replaced("Connection: Upgrade", "Connection: keep-alive"), 400, "Connection header"),
        (replaced("Host: server.example.com\r\n", ""), 400, "Host"),
        (replaced("Host: ", "Host: other.example.com\r\nHost: "), 400, "Host"),
        (replaced("Version: 13", "Version: 8"), 426, "version 13"),
        (replaced("Sec-WebSocket-Version: 13\r\n", ""), 426, "version 13"),
        (replaced("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), 400, "Sec-WebSocket-Key"),
        (replaced("dGhlIHNhbXBsZSBub25jZQ==", "not base64 at all!"), 400, "Sec-WebSocket-Key"),
        (replaced("Sec-WebSocket-Key", "Sec-WebSocket-Kee"), 400, "Sec-WebSocket-Key"),
        (replaced("chat, mqtt", "chat"), 400, "sub-protocol `mqtt`"),
        (replaced("chat, mqtt", "MQTT"), 400, "sub-protocol `mqtt`"),
        (replaced("Sec-WebSocket-Protocol: chat, mqtt\r\n", ""), 400, "sub-protocol `mqtt`"),
        (replaced("Host: ", "Host\u{1}: "), 400, "not HTTP/1.1"),
        (replaced("GET /mqtt HTTP/1.1", "GET /mqtt"), 400, "not HTTP/1.1"),
    ];
    for (request, wanted, text) in cases {
        let (status, answer, fault) = refused(&mut filter(), &request);
        assert_eq!(status, wanted, "{request}{answer}");
        assert!(answer.contains(text) && fault.text.contains(text), "{request}{answer}{fault}");
        assert_eq!(fault.class, Class::Upgrade);
        let offers = answer.contains("Sec-WebSocket-Version: 13");
        assert_eq!(offers, status == 426, "{answer}");
    }
}

#[test]
fn origins_on_the_list_are_let_in_and_no_others() {
    let origins = ["https://example.org", "HTTP://Example.com"].map(str::to_owned).to_vec();
    let filter = || {
        let settings = Settings { origins: origins.clone(), ..settings() };
        filter_with(settings, "192.0.2.1:1")
    };
    let granted = Seen::of(&mut filter(), [REQUEST.as_bytes()]);
    assert_eq!(granted.fault, None);
    for other in ["https://example.com", "http://example.com.evil.org", "null", ""] {
        let request = replaced("http://example.com", other);
        let (status, answer, _) = refused(&mut filter(), &request);
        assert_eq!(status, 403, "{other}");
        assert!(answer.contains("Origin"));
    }
    let twice = replaced("Origin: ", "Origin: https://evil.org\r\nOrigin: ");
    assert_eq!(refused(&mut filter(), &twice).0, 403);
    let none = replaced("Origin: http://example.com\r\n", "");
    assert_eq!(Seen::of(&mut filter(), [none.as_bytes()]).fault, None);
}

#[test]
fn other_protocols_are_named_at_once_and_not_answered() {
    for (bytes, text) in [
        (&b"\x10\x0c\x00\x04MQTT"[..], "an MQTT CONNECT without WebSocket"),
        (&b"\x16\x03\x01\x02\x00"[..], "a TLS handshake"),
        (&b"\x00"[..], "no HTTP request"),
    ] {
        let seen = Seen::of(&mut filter(), [bytes]);
        let fault = seen.fault.expect("a fault");
        assert_eq!(fault.class, Class::WrongProtocol);
        assert!(fault.text.contains(text), "{fault}");
        assert_eq!((seen.plain, seen.wire), (Vec::new(), Vec::new()));
    }
}

#[test]
fn a_request_may_come_in_any_pieces() {
    let mut whole = open();
    let frames = [&[0x82, 0x81, 0, 0, 0, 0, 0xC0][..], &[0x89, 0x80, 1, 2, 3, 4]].concat();
    let after = Seen::of(&mut whole, [frames.as_slice()]);
    let all = [REQUEST.as_bytes(), &frames].concat();
    for length in 1..=all.len() {
        let seen = Seen::of(&mut filter(), cut(&all, &[length]));
        assert_eq!(seen.plain, [0xC0], "pieces of {length}");
        assert_eq!(seen.wire, [ANSWER.as_bytes(), &after.wire].concat(), "pieces of {length}");
        assert_eq!(seen.fault, None);
    }
}

#[test]
fn a_request_is_bounded_before_it_is_whole() {
    let endless = format!("GET /mqtt HTTP/1.1\r\nCookie: {}", "x".repeat(2 * REQUEST_BYTES_MAX));
    for length in [1, 100, 4096, endless.len()] {
        let seen = Seen::of(&mut filter(), cut(endless.as_bytes(), &[length]));
        assert!(String::from_utf8_lossy(&seen.wire).starts_with("HTTP/1.1 431 "));
        assert!(seen.fault.expect("a fault").text.contains("larger than 8192 bytes"));
    }
    let mut many = replaced("\r\n\r\n", "\r\n");
    many.push_str(&"A: b\r\n".repeat(100));
    many.push_str("\r\n");
    assert_eq!(refused(&mut filter(), &many).0, 431);
    let fits = replaced("Origin:", &format!("X: {}\r\nOrigin:", "y".repeat(7000)));
    assert_eq!(Seen::of(&mut filter(), [fits.as_bytes()]).fault, None);
}
