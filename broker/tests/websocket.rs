//! MQTT over WebSocket, from outside: through a tunnel that cuts and joins frames at will, and
//! frame by frame. Upgrades and breaches are tried out one by one in the filter's own tests; here
//! stands what they come to in a running broker.

mod common;

use std::io::{ErrorKind, Write};

use common::websocket::{self, BINARY, CLOSE, CONTINUE, FIN, PING, PONG, TEXT, WebSocket, frame};
use common::{Broker, Client, Connect, Cx, Fleet, Publish, Settings, V5, V31, V311, Will};
use common::{code, eventually, packet};

/// Two listeners, and the second one's name in the log.
const LISTENERS: &str = "\
[[listeners]]
name = \"plain\"
bind = \"@LISTEN@\"
[[listeners]]
name = \"web\"
bind = \"@LISTEN@\"
transport = \"ws\"
handshake_timeout_s = 3600
";

static FLEET: Fleet = Fleet::new(|shards| Settings::new(shards).config(LISTENERS));

/// The address of the WebSocket listener.
fn web(broker: &Broker) -> String {
    let mut found = None;
    eventually("the second listener is announced", || {
        let log = broker.log_text();
        let at = log.split("listening on ").find(|rest| rest.contains("(web)"));
        found = at.and_then(|rest| rest.split(' ').next().map(str::to_owned));
        found.is_some()
    });
    found.expect("found above")
}

/// A client behind a tunnel.
fn tunnelled(cx: &Cx<'_>, connect: &Connect) -> Client {
    Client::connect(&websocket::tunnel(&web(cx.broker)), connect)
}

/// A WebSocket with a session of 5.0.
fn session(cx: &Cx<'_>, name: &str) -> WebSocket {
    let mut socket = WebSocket::open(&web(cx.broker));
    socket.send_message(&cx.v5(name).encode());
    let connack = socket.expect_frame();
    assert_eq!((connack.opcode, connack.payload[0]), (BINARY, 0x20), "{connack:?}");
    socket
}

/// What the broker's log says of refused connections must come to hold this.
#[track_caller]
fn expect_logged(cx: &Cx<'_>, text: &str) {
    eventually(text, || cx.broker.log_text().contains(text));
}

const PONG_OF_MQTT: [u8; 2] = [0xD0, 0];

#[test]
fn every_version_and_qos_between_both_transports() {
    FLEET.run("both", |cx| {
        for version in [V31, V311, V5] {
            let topic = cx.topic(&format!("both{version}"));
            let mut web = tunnelled(cx, &cx.version(version, &format!("web{version}")));
            let mut plain = cx.connect(cx.version(version, &format!("plain{version}")));
            web.subscribe(&format!("{topic}/to-web"), 2);
            plain.subscribe(&format!("{topic}/to-plain"), 2);
            for qos in 0..3 {
                for n in 0..20 {
                    let text = format!("{qos} {n}");
                    web.publish(Publish::new(&format!("{topic}/to-plain"), &text).qos(qos));
                    plain.publish(Publish::new(&format!("{topic}/to-web"), &text).qos(qos));
                    web.expect_message(&text);
                    plain.expect_message(&text);
                }
            }
            web.disconnect();
            plain.disconnect();
        }
    });
}

#[test]
fn clients_of_every_home_are_handed_over_with_all_that_they_sent() {
    FLEET.run("homes", |cx| {
        // Whichever shard accepts, the homes of so many clients are all of them.
        let topic = cx.topic("homes");
        let mut watcher = cx.watcher(&format!("{topic}/#"), 0);
        let address = web(cx.broker);
        for n in 0..40 {
            // Request, CONNECT and PUBLISH at once: what the accepting shard has not handled goes
            // with the connection, down to the half of a frame.
            let publish = Publish::new(&format!("{topic}/{n}"), n.to_string()).encode(V5);
            let mqtt = [cx.v5(&format!("home{n}")).encode(), publish].concat();
            let mut bytes =
                websocket::request("/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n").into_bytes();
            bytes.extend(frame(FIN | PING, b"first"));
            bytes.extend(frame(FIN | BINARY, &mqtt));
            let cut = bytes.len() - n % 20;
            let mut socket = WebSocket::raw(&address);
            socket.send(&bytes[..cut]);
            let (head, _) = socket.answer();
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            assert_eq!(socket.expect_frame().payload, b"first");
            socket.send(&bytes[cut..]);
            assert_eq!(socket.expect_frame().payload[0], 0x20);
            watcher.expect_message(&n.to_string());
            socket.send_message(&packet::PINGREQ);
            assert_eq!(socket.expect_bytes(2), PONG_OF_MQTT);
        }
    });
}

#[test]
fn a_large_message_goes_both_ways() {
    FLEET.run("large", |cx| {
        let topic = cx.topic("large");
        let payload: Vec<u8> = (0..1_000_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect();
        let mut plain = cx.watcher(&topic, 1);
        let mut readers: Vec<Client> = (0..3)
            .map(|n| {
                let mut reader = tunnelled(cx, &cx.v5(&format!("reader{n}")));
                reader.subscribe(&topic, n % 3);
                reader
            })
            .collect();
        let mut writer = tunnelled(cx, &cx.v5("writer"));
        for qos in [0, 1, 2] {
            writer.publish(Publish::new(&topic, &payload).qos(qos));
            for client in readers.iter_mut().chain([&mut plain]) {
                assert!(client.message().payload == payload, "the payload is another");
            }
        }
    });
}

#[test]
fn packets_need_not_align_with_frames() {
    FLEET.run("align", |cx| {
        let topic = cx.topic("align");
        let mut watcher = cx.watcher(&topic, 0);
        let mut socket = session(cx, "packets");
        let publishes: Vec<u8> = (0..200)
            .flat_map(|n| Publish::new(&topic, n.to_string()).encode(V5))
            .chain(packet::PINGREQ)
            .collect();
        socket.send_message(&publishes);
        assert_eq!(socket.expect_bytes(2), PONG_OF_MQTT, "many packets in one frame");
        assert_eq!(watcher.texts(200), (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
        let (first, rest) = publishes.split_at(1);
        socket.send(&frame(BINARY, first));
        for byte in rest {
            socket.send(&frame(CONTINUE, &[*byte]));
        }
        socket.send(&frame(FIN | CONTINUE, b""));
        assert_eq!(socket.expect_bytes(2), PONG_OF_MQTT, "one packet in many frames");
        assert_eq!(watcher.texts(200).len(), 200);
        for byte in &publishes {
            socket.send(&[frame(FIN | BINARY, &[*byte]), frame(FIN | PONG, b"")].concat());
        }
        assert_eq!(socket.expect_bytes(2), PONG_OF_MQTT, "one packet in many messages");
        assert_eq!(watcher.texts(200).len(), 200);
    });
}

#[test]
fn a_ping_is_answered_at_any_time() {
    FLEET.run("ping", |cx| {
        let mut socket = WebSocket::open(&web(cx.broker));
        socket.send(&frame(FIN | PING, b""));
        let pong = socket.expect_frame();
        assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, &b""[..]));
        socket.send_message(&cx.v5("ping").encode());
        socket.expect_frame();
        let longest = [7; 125];
        let split = packet::PINGREQ;
        socket.send(&frame(BINARY, &split[..1]));
        socket.send(&frame(FIN | PING, &longest));
        socket.send(&frame(FIN | CONTINUE, &split[1..]));
        let pong = socket.expect_frame();
        assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, &longest[..]));
        assert_eq!(socket.expect_bytes(2), PONG_OF_MQTT);
    });
}

#[test]
fn breaches_end_the_connection_with_their_code_and_its_will_is_published() {
    FLEET.run("breach", |cx| {
        let topic = cx.topic("breach");
        let mut watcher = cx.watcher(&topic, 0);
        let mut bystander = tunnelled(cx, &cx.v5("bystander"));
        let too_large = [&[FIN | BINARY, 0xFF][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
        let cases = [
            ("text", frame(FIN | TEXT, b"hello"), 1003),
            ("reserved", frame(FIN | 0x40 | BINARY, b""), 1002),
            ("unmasked", vec![FIN | BINARY, 2, 0xC0, 0], 1002),
            ("inside", [frame(BINARY, b""), frame(FIN | BINARY, b"")].concat(), 1002),
            ("size", [&too_large[..2], &[0, 0, 0, 1, 0, 0, 0, 0], &[0; 4]].concat(), 1009),
            ("length", too_large, 1002),
        ];
        for (name, bytes, code) in cases {
            let mut socket = WebSocket::open(&web(cx.broker));
            let will = Will::new(&topic, name);
            socket.send_message(&cx.v5(name).will(will).encode());
            assert_eq!(socket.expect_frame().payload[0], 0x20);
            socket.send(&bytes);
            socket.expect_close(code);
            watcher.expect_message(name);
            bystander.ping();
        }
        expect_logged(cx, "connection closed: a WebSocket");
    });
}

#[test]
fn a_close_is_answered_and_ends_the_connection() {
    FLEET.run("close", |cx| {
        let topic = cx.topic("close");
        let mut watcher = cx.watcher(&topic, 0);
        let mut socket = WebSocket::open(&web(cx.broker));
        socket.send_message(&cx.v5("close").will(Will::new(&topic, "will")).encode());
        socket.expect_frame();
        // What came before the Close still counts.
        let publish = Publish::new(&topic, "last").encode(V5);
        let close = frame(FIN | CLOSE, &[&3001_u16.to_be_bytes()[..], b"bye"].concat());
        socket.send(&[frame(FIN | BINARY, &publish), close].concat());
        socket.expect_close(3001);
        assert_eq!(watcher.texts(2), ["last", "will"], "a Close is no DISCONNECT");
        // Close before CONNECT, and together with it.
        let mut early = WebSocket::open(&web(cx.broker));
        early.send(&frame(FIN | CLOSE, &1000_u16.to_be_bytes()));
        early.expect_close(1000);
        let mut both = WebSocket::open(&web(cx.broker));
        let connect = frame(FIN | BINARY, &cx.v5("both").encode());
        both.send(&[connect, frame(FIN | CLOSE, &1000_u16.to_be_bytes())].concat());
        both.expect_close(1000);
    });
}

#[test]
fn the_broker_says_goodbye() {
    FLEET.run("goodbye", |cx| {
        let mut socket = session(cx, "goodbye");
        socket.send_message(&packet::disconnect(V5, 0, &common::Props::none()));
        socket.expect_close(1000);
        let mut wrong = session(cx, "wrong");
        wrong.send_message(&[0xF0 | 1, 0]);
        let told = wrong.expect_frame();
        assert_eq!((told.opcode, told.payload[0]), (BINARY, 0xE0), "DISCONNECT comes first");
        wrong.expect_close(1002);
        let mut old = session(cx, "same");
        let _new = session(cx, "same");
        assert_eq!(old.expect_frame().payload[2], code::TAKEN_OVER);
        old.expect_close(1008);
    });
    let broker = Broker::start(&Settings::new(2).config(LISTENERS));
    let cx = Cx::new("ends", &broker);
    let mut socket = session(&cx, "ends");
    broker.signal("TERM");
    assert_eq!(socket.expect_frame().payload[2], code::SHUTTING_DOWN);
    socket.expect_close(1001);
}

#[test]
fn what_is_no_upgrade_gets_an_answer_or_a_line_in_the_log() {
    FLEET.run("upgrade", |cx| {
        let address = web(cx.broker);
        let ask = |request: &str| {
            let mut socket = WebSocket::raw(&address);
            socket.send(request.as_bytes());
            let answer = socket.answer();
            assert_eq!(socket.frame(), None, "the connection is closed");
            answer
        };
        let (head, body) = ask("GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
        assert!(body.contains("ws://HOST:PORT/mqtt"), "{body}");
        let (head, _) = ask(&websocket::request("/other", "Sec-WebSocket-Protocol: mqtt\r\n"));
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        let (head, body) = ask(&websocket::request("/mqtt", ""));
        assert!(head.starts_with("HTTP/1.1 400 ") && body.contains("`mqtt`"), "{head}{body}");
        expect_logged(cx, "an HTTP request for");
        let mut client = Client::raw(&address, V5);
        client.send(&cx.v5("lost").encode());
        client.expect_closed();
        expect_logged(cx, "an MQTT CONNECT without WebSocket came to a WebSocket listener");
        expect_logged(cx, "listener=\"web\"");
    });
}

#[test]
fn an_upgrade_that_does_not_come_is_not_waited_for() {
    let config = LISTENERS.replace("3600", "1");
    let broker = Broker::start(&Settings::new(1).config(&config));
    let address = web(&broker);
    let request = websocket::request("/mqtt", "");
    let mut silent = WebSocket::raw(&address);
    let mut half = WebSocket::raw(&address);
    half.send(&request.as_bytes()[..request.len() - 1]);
    let mut idle = WebSocket::open(&address);
    for n in 0..20 {
        idle.send(&frame(FIN | PING, &[n]));
    }
    assert_eq!(silent.frame(), None);
    assert_eq!(half.frame(), None);
    // Pings are no CONNECT.
    idle.expect_close(1000);
    assert!(broker.is_running());
}

#[test]
fn who_reads_no_pongs_harms_nobody() {
    FLEET.run("deaf", |cx| {
        let mut bystander = tunnelled(cx, &cx.v5("bystander"));
        let pings = frame(FIN | PING, &[0; 125]).repeat(1000);
        let deaf = WebSocket::open(&web(cx.broker));
        // Before CONNECT little is kept for it.
        let closed = (0..2000).any(|_| deaf.stream().write_all(&pings).is_err());
        assert!(closed, "262 MB of pings whose answers nobody reads");
        bystander.ping();
        let deaf = session(cx, "deaf");
        deaf.stream().set_nonblocking(true).expect("no waiting");
        // Its packets wait, and the broker stops to read: the socket takes no more.
        let mut sent = 0;
        let mut fill = || {
            let before = sent;
            loop {
                match deaf.stream().write(&pings[sent % pings.len()..]) {
                    Ok(taken) => sent += taken,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return sent - before,
                    Err(error) => panic!("the broker closed the connection: {error}"),
                }
            }
        };
        let (mut all, mut quiet) = (0, 0);
        eventually("the broker stops to read", || {
            let taken = fill();
            all += taken;
            quiet = if taken == 0 { quiet + 1 } else { 0 };
            bystander.ping();
            all > 8 << 20 && quiet >= 10
        });
        // What it was to be told waits in the broker, within its limit.
        assert!(all < 100 << 20, "{all} bytes");
    });
}

#[test]
fn the_client_behind_a_trusted_proxy_is_known_by_its_address() {
    let settings = |networks: &str| {
        let config = format!("{LISTENERS}trusted_proxies = [{networks}]\n");
        Settings::new(2).config(&config).env("RINGTIDE_LOG_LEVEL", "debug")
    };
    let more = "X-Forwarded-For: 198.51.100.1, 203.0.113.7\r\nSec-WebSocket-Protocol: mqtt\r\n";
    for (networks, wanted) in [("\"127.0.0.0/8\"", "203.0.113.7:0"), ("", "127.0.0.1:")] {
        let broker = Broker::start(&settings(networks));
        let cx = Cx::new("proxy", &broker);
        // On either shard, handed over or not.
        for n in 0..8 {
            let mut socket = WebSocket::raw(&web(&broker));
            socket.send(websocket::request("/mqtt", more).as_bytes());
            assert!(socket.answer().0.starts_with("HTTP/1.1 101 "));
            socket.send_message(&cx.v5(&format!("client{n}")).encode());
            assert_eq!(socket.expect_frame().payload[0], 0x20);
        }
        let mut log = String::new();
        eventually("a line for each client", || {
            log = broker.log_text();
            log.lines().filter(|line| line.contains(" connected ")).count() == 8
        });
        let connected: Vec<_> = log.lines().filter(|line| line.contains(" connected ")).collect();
        let peer = format!("peer={wanted}");
        assert!(connected.iter().all(|line| line.contains(&peer)), "{connected:#?}");
    }
}

#[test]
fn origins_that_are_not_on_the_list_are_turned_away() {
    let config = format!("{LISTENERS}websocket_origins = [\"https://example.org\"]\n");
    let config = config.replace("[[listeners]]\nname = \"plain\"\nbind = \"@LISTEN@\"\n", "");
    let broker = Broker::start(&Settings::new(1).config(&config));
    let address = web(&broker);
    for (origin, wanted) in [
        ("Origin: https://example.org\r\n", "HTTP/1.1 101 "),
        ("", "HTTP/1.1 101 "),
        ("Origin: https://example.com\r\n", "HTTP/1.1 403 "),
    ] {
        let mut socket = WebSocket::raw(&address);
        let more = format!("{origin}Sec-WebSocket-Protocol: mqtt\r\n");
        socket.send(websocket::request("/mqtt", &more).as_bytes());
        let (head, _) = socket.answer();
        assert!(head.starts_with(wanted), "{origin}{head}");
    }
}
