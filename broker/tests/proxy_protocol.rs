//! Listeners behind a proxy: PROXY headers of both versions before every transport, what they tell,
//! and those that are broken, missing, or sent by somebody who is no proxy.

mod common;

use std::io::Write;
use std::net::TcpStream;

use common::websocket::{BINARY, FIN, frame, request};
use common::{Broker, Client, Connect, Cx, Event, Fleet, PATIENCE, Publish, Settings};
use common::{V5, V311, code, eventually};

/// Every kind of listener; the clients' addresses are in the log.
const LISTENERS: &str = "\
sys_interval_s = 1
[log]
level = \"debug\"
[[listeners]]
name = \"plain\"
bind = \"@LISTEN@\"
[[listeners]]
name = \"proxied\"
bind = \"@LISTEN@\"
proxy_protocol = true
trusted_proxies = [\"127.0.0.0/8\"]
deny = [\"203.0.113.66\", \"127.0.0.0/8\"]
[[listeners]]
name = \"web\"
bind = \"@LISTEN@\"
transport = \"ws\"
proxy_protocol = true
trusted_proxies = [\"127.0.0.0/8\", \"198.51.100.0/24\"]
deny = [\"203.0.113.67\"]
[[listeners]]
name = \"hasty\"
bind = \"@LISTEN@\"
proxy_protocol = true
proxy_header_timeout_s = 1
handshake_timeout_s = 3600
trusted_proxies = [\"127.0.0.1\"]
[[listeners]]
name = \"others\"
bind = \"@LISTEN@\"
proxy_protocol = true
trusted_proxies = [\"192.0.2.0/24\"]
";

/// What the log says of an address that the listener refuses.
const NOT_LET_IN: &str = "do not let this address in";

static FLEET: Fleet = Fleet::new(|shards| Settings::new(shards).config(LISTENERS));

/// A header of version 2 for a client of IPv4.
fn v2(client: [u8; 4], port: u16, tlvs: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    bytes.extend((12 + tlvs.len() as u16).to_be_bytes());
    bytes.extend(client);
    bytes.extend([198, 51, 100, 1]);
    bytes.extend(port.to_be_bytes());
    bytes.extend(1883_u16.to_be_bytes());
    bytes.extend(tlvs);
    bytes
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

/// TLS between the client and the proxy, which has verified the client's certificate.
fn certificate(name: &str) -> Vec<u8> {
    tlv(0x20, &[&[0x07, 0, 0, 0, 0], tlv(0x22, name.as_bytes()).as_slice()].concat())
}

fn v1(client: &str, port: u16) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.1 {port} 1883\r\n").into_bytes()
}

/// A connection on which these bytes are sent.
fn sending(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("accepted");
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    // A connection that the broker has closed is no error here.
    let _ = stream.write_all(bytes);
    stream
}

/// A client behind a header.
fn through(address: &str, header: &[u8], connect: &Connect) -> Client {
    let mut client = Client::on(sending(address, header), connect.version);
    client.send(&connect.encode());
    client.expect_connack(0);
    client
}

/// The broker closes a connection on which these bytes are sent, without an answer.
#[track_caller]
fn expect_shut_out(address: &str, bytes: &[u8]) {
    let mut client = Client::on(sending(address, bytes), V311);
    assert_eq!(client.event(PATIENCE), Event::Closed);
}

/// Repeats an offence until a line of the log tells of it: at most one of its kind is logged in a
/// second.
fn until_logged(cx: &Cx<'_>, texts: &[&str], offend: impl Fn()) {
    eventually(&format!("a line of the log with {texts:?}"), || {
        offend();
        let log = cx.broker.log_text();
        log.lines().any(|line| texts.iter().all(|text| line.contains(text)))
    });
}

/// A counter below `$SYS/broker` must come to be at least this.
fn expect_counted(cx: &Cx<'_>, topic: &str, least: u64) {
    let mut watcher = cx.watcher(&format!("$SYS/broker/{topic}"), 0);
    eventually(topic, || watcher.raw_message().text().parse().is_ok_and(|n: u64| n >= least));
}

#[test]
fn a_client_behind_a_proxy_is_who_the_header_says() {
    FLEET.run("proxied", |cx| {
        let address = cx.broker.address_of("proxied");
        let topic = cx.topic("proxied");
        let mut watcher = cx.watcher(&topic, 1);
        // Several, so that some are handed over to another shard.
        for number in 0..8_u16 {
            let (version, port) = ([V311, V5][usize::from(number % 2)], 40_000 + number);
            let header = match number % 4 {
                0 | 1 => v1("203.0.113.7", port),
                _ => v2([203, 0, 113, 7], port, &[]),
            };
            let id = format!("c{number}");
            let mut client = through(&address, &header, &cx.version(version, &id));
            client.publish(Publish::new(&topic, &id).qos(1));
            watcher.expect_message(&id);
            let peer = format!("peer=203.0.113.7:{port}");
            cx.broker.expect_log(&["connected", &cx.id(&id), &peer]);
            client.disconnect();
        }
    });
}

#[test]
fn a_header_and_what_follows_it_may_come_in_any_pieces() {
    FLEET.run("pieces", |cx| {
        let address = cx.broker.address_of("proxied");
        for (number, header) in [v1("203.0.113.8", 1), v2([203, 0, 113, 8], 1, &tlv(4, b"pad"))]
            .iter()
            .flat_map(|header| (1..header.len() + 12).step_by(7).map(move |cut| (cut, header)))
        {
            let connect = cx.v5(&format!("piece{number}"));
            let bytes = [header.as_slice(), &connect.encode()].concat();
            let (first, second) = bytes.split_at(number);
            let mut client = Client::on(sending(&address, first), V5);
            std::thread::yield_now();
            client.send(second);
            client.expect_connack(0);
            client.ping();
        }
    });
}

#[test]
fn what_a_proxy_tells_is_in_the_log() {
    FLEET.run("told", |cx| {
        let address = cx.broker.address_of("proxied");
        let id = cx.id("unique");
        let tlvs = [
            tlv(0x01, b"mqtt"),
            tlv(0x02, b"broker.example"),
            tlv(0x05, id.as_bytes()),
            certificate("meter-7"),
        ];
        let mut client =
            through(&address, &v2([203, 0, 113, 9], 9, &tlvs.concat()), &cx.v5("told"));
        client.ping();
        cx.broker.expect_log(&[
            "PROXY header",
            "peer=203.0.113.9:9",
            "proxy=127.0.0.1:",
            &id,
            "broker.example",
            "meter-7",
        ]);
    });
}

#[test]
fn a_proxy_that_looks_whether_somebody_is_here_is_not_held_against_the_networks() {
    FLEET.run("health", |cx| {
        let address = cx.broker.address_of("proxied");
        for header in [&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..], b"PROXY UNKNOWN\r\n", b""] {
            // It comes, may say that it speaks for itself, and goes.
            drop(sending(&address, header));
        }
        let mut client = through(&address, &v1("203.0.113.7", 1), &cx.v5("after"));
        client.ping();
        let refused = |line: &str| line.contains("peer=127.0.0.1") && line.contains(NOT_LET_IN);
        assert!(!cx.broker.log_text().lines().any(refused));
        // As a client it would come from 127.0.0.1, which is denied.
        let connect = cx.v5("itself").encode();
        expect_shut_out(&address, &[b"PROXY UNKNOWN\r\n", connect.as_slice()].concat());
    });
}

#[test]
fn networks_judge_the_client_and_not_the_proxy() {
    FLEET.run("networks", |cx| {
        let address = cx.broker.address_of("proxied");
        let connect = cx.v5("denied").encode();
        until_logged(cx, &["connection closed", "peer=203.0.113.66:1", NOT_LET_IN], || {
            for header in [v1("203.0.113.66", 1), v2([203, 0, 113, 66], 1, &[])] {
                expect_shut_out(&address, &[header.as_slice(), &connect].concat());
            }
        });
        expect_counted(cx, "connections/address_refused", 2);
    });
}

#[test]
fn a_websocket_may_lie_behind_the_header() {
    FLEET.run("web", |cx| {
        let address = cx.broker.address_of("web");
        let open = |header: &[u8], more: &str, name: &str| {
            let upgrade = request("/mqtt", &format!("Sec-WebSocket-Protocol: mqtt\r\n{more}"));
            let connect = frame(FIN | BINARY, &cx.v5(name).encode());
            sending(&address, &[header, upgrade.as_bytes(), &connect].concat())
        };
        let direct = open(&v1("203.0.113.7", 7), "", "direct");
        cx.broker.expect_log(&["connected", &cx.id("direct"), "peer=203.0.113.7:7"]);
        drop(direct);
        // One proxy behind another: the inner one is trusted, so its header of HTTP counts.
        let forwarded = "X-Forwarded-For: 203.0.113.8\r\n";
        let chained = open(&v1("198.51.100.9", 9), forwarded, "chained");
        cx.broker.expect_log(&["connected", &cx.id("chained"), "peer=203.0.113.8:0"]);
        drop(chained);
        until_logged(cx, &["connection closed", "peer=203.0.113.67:0", NOT_LET_IN], || {
            let forwarded = "X-Forwarded-For: 203.0.113.67\r\n";
            drop(open(&v1("198.51.100.9", 9), forwarded, "denied"));
        });
    });
}

#[test]
fn what_is_broken_or_missing_is_told_and_disturbs_nobody() {
    FLEET.run("broken", |cx| {
        let (address, topic) = (cx.broker.address_of("proxied"), cx.topic("broken"));
        let mut bystander = through(&address, &v1("203.0.113.7", 2), &cx.v5("by"));
        let mut watcher = cx.watcher(&topic, 1);
        let connect = cx.v5("nobody").encode();
        let mut summed = v2([203, 0, 113, 7], 3, &tlv(3, &[0; 4]));
        summed.extend(&connect);
        let cases = [
            connect,
            b"PROXY TCP4 nowhere\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n".to_vec(),
            vec![b'P'; 200],
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0".to_vec(),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xFF\xFF".to_vec(),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x01\0".to_vec(),
            summed,
        ];
        for bytes in &cases {
            expect_shut_out(&address, bytes);
            bystander.publish(Publish::new(&topic, "untouched").qos(1));
            watcher.expect_message("untouched");
        }
        until_logged(cx, &["listener=\"proxied\"", "is no PROXY header"], || {
            expect_shut_out(&address, &cases[0]);
        });
        expect_counted(cx, "connections/proxy_errors", cases.len() as u64);
    });
}

#[test]
fn a_header_that_does_not_come_in_time_closes_the_connection() {
    FLEET.run("hasty", |cx| {
        let address = cx.broker.address_of("hasty");
        for start in [&b""[..], b"PROXY TCP4 203.0", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0F\xFF123"] {
            expect_shut_out(&address, start);
        }
        until_logged(cx, &["listener=\"hasty\"", "no PROXY header came within"], || {
            expect_shut_out(&address, b"P");
        });
        // Its time is the header's alone: CONNECT has the listener's.
        let mut slow = Client::on(sending(&address, &v1("203.0.113.7", 5)), V5);
        expect_shut_out(&address, b"");
        slow.send(&cx.v5("slow").encode());
        slow.expect_connack(0);
    });
}

#[test]
fn nobody_but_a_trusted_proxy_is_believed() {
    FLEET.run("spoofed", |cx| {
        let connect = cx.v5("spoofed").encode();
        let spoofed = |header: &[u8]| [header, &connect].concat();
        let (others, plain) = (cx.broker.address_of("others"), cx.broker.address_of("plain"));
        for header in [v1("203.0.113.7", 1), v2([203, 0, 113, 7], 1, &[])] {
            expect_shut_out(&others, &spoofed(&header));
            expect_shut_out(&plain, &spoofed(&header));
        }
        expect_shut_out(&others, &connect);
        cx.broker.expect_log(&["listener=\"others\"", "peer=127.0.0.1:", "trusted_proxies"]);
        cx.broker.expect_log(&[
            "listener=\"plain\"",
            "a PROXY header came to a listener without proxy_protocol",
        ]);
        expect_counted(cx, "connections/proxy_untrusted", 3);
        assert!(!cx.broker.log_text().contains(&format!("client=\"{}\"", cx.id("spoofed"))));
    });
}

const NAMES: &str = "\
[access]
allow_anonymous = false
acl_file = \"@DIR@/acl\"
[[listeners]]
name = \"proxied\"
bind = \"@LISTEN@\"
proxy_protocol = true
trusted_proxies = [\"127.0.0.1\"]
user_name_from_proxy = true
";

static NAMED: Fleet = Fleet::new(|shards| {
    let rules = "default deny\nallow user alice publish to/alice/#\n";
    Settings::new(shards).config(NAMES).file("acl", rules)
});

#[test]
fn the_name_in_a_verified_certificate_is_the_user_name() {
    NAMED.run("names", |cx| {
        let address = cx.broker.address_of("proxied");
        // Several, so that some are handed over to another shard.
        for number in 0..6 {
            let header = v2([203, 0, 113, 7], 1, &certificate("alice"));
            let connect = cx.v5(&format!("alice{number}")).username("mallory");
            let mut alice = through(&address, &header, &connect);
            assert_eq!(alice.publish(Publish::new("to/alice/x", "x").qos(1)) & 0x80, 0);
            let elsewhere = alice.publish(Publish::new("to/bob/x", "x").qos(1));
            assert_eq!(elsewhere, code::NOT_AUTHORIZED);
            alice.disconnect();
            let header = v2([203, 0, 113, 7], 1, &certificate("mallory"));
            let connect = cx.v5(&format!("mallory{number}")).username("alice");
            let mut mallory = through(&address, &header, &connect);
            let refused = mallory.publish(Publish::new("to/alice/x", "x").qos(1));
            assert_eq!(refused, code::NOT_AUTHORIZED, "CONNECT's word does not count");
        }
        for tlvs in [Vec::new(), tlv(0x20, &[&[7, 0, 0, 0, 1][..], &tlv(0x22, b"alice")].concat())]
        {
            let header = v2([203, 0, 113, 7], 1, &tlvs);
            let mut nobody = Client::on(sending(&address, &header), V5);
            nobody.send(&cx.v5("nobody").username("alice").encode());
            nobody.expect_refused(&[code::NOT_AUTHORIZED]);
        }
    });
}

#[test]
fn a_proxy_may_come_over_a_unix_socket() {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    let path = std::env::temp_dir().join(format!("ringtide-proxy-{}.sock", std::process::id()));
    let text = format!(
        "[log]\nlevel = \"debug\"\n[[listeners]]\nname = \"local\"\nbind = \"unix:{}\"\n\
         proxy_protocol = true\nallow = [\"203.0.113.0/24\"]\n# @LISTEN@\n",
        path.display()
    );
    let broker = Broker::start(&Settings::new(2).config(&text));
    broker.address_of("local");
    let socket = |header: &[u8]| {
        let mut stream = UnixStream::connect(&path).expect("accepted");
        stream.write_all(header).expect("written");
        Client::on(TcpStream::from(OwnedFd::from(stream)), V5)
    };
    let mut client = socket(&v1("203.0.113.7", 7));
    client.send(&Connect::new(V5, "behind").encode());
    client.expect_connack(0);
    broker.expect_log(&["connected", "behind", "peer=203.0.113.7:7"]);
    broker.expect_log(&["PROXY header", "proxy=unix"]);
    assert_eq!(socket(&v1("198.51.100.7", 7)).event(PATIENCE), Event::Closed);
    client.ping();
}
