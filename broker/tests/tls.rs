//! Listeners with TLS: versions, names, clients' certificates, tickets, reloads, and peers that do
//! something else than they should.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "../tls/tests/common/authority.rs"]
mod authority;
#[path = "secured/client.rs"]
mod client;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::thread;

use authority::Authority;
use client::{Files, NAME, Secured, TLS_1_2, TLS_1_3, address_of, der, proxy};
use common::broker::{ANY_PORT, program, scratch, without_settings};
use common::fleet::shard_counts;
use common::{
    Broker, Client, Connect, PATIENCE, Publish, Settings, V5, V311, eventually, websocket,
};
use rustls::ClientConfig;

fn connect(address: &str, config: &ClientConfig) -> Secured {
    Secured::connect(address, config, NAME).unwrap()
}

/// Connects, sends CONNECT and waits for the answer: whether a client is let in.
fn attempt(address: &str, config: &ClientConfig) -> std::io::Result<()> {
    let mut tls = Secured::connect(address, config, NAME)?;
    tls.write(&Connect::new(V311, "attempt").encode())?;
    let answer = tls.read()?;
    assert_eq!(answer.first(), Some(&0x20), "CONNACK");
    Ok(())
}

/// Waits for a line of the broker's log.
fn expect_log(broker: &Broker, text: &str) {
    eventually(&format!("a line of the log with {text:?}"), || broker.log_text().contains(text));
}

/// The value of a `$SYS` topic, watched until it is as wanted.
fn expect_sys(broker: &Broker, topic: &str, wanted: impl Fn(u64) -> bool) {
    let mut watcher =
        Client::connect(&address_of(broker, "plain"), &Connect::new(V311, "sys-watcher"));
    assert!(watcher.subscribe(&format!("$SYS/broker/{topic}"), 0) < 3);
    eventually(&format!("$SYS/broker/{topic}"), || {
        watcher.raw_message().text().parse().is_ok_and(&wanted)
    });
    watcher.disconnect();
}

const SYS: &str = "sys_interval_s = 1\n";

/// A broker that publishes its counters every second.
fn counting(files: &Files, shards: u32, keys: &str, tls: &str) -> Broker {
    let plain = "[[listeners]]\nname = \"plain\"\nbind = \"@LISTEN@\"\n";
    let listeners = files.listener("secured", "tls", keys, tls) + plain;
    Broker::start(&Settings::new(shards).config(&(SYS.to_owned() + &listeners)))
}

#[test]
fn messages_go_between_tls_and_tcp_in_both_versions_on_any_shard() {
    let files = Files::new();
    for shards in shard_counts() {
        let broker = files.broker(shards, "", "");
        let (secured, plain) = (address_of(&broker, "secured"), address_of(&broker, "plain"));
        let mut watcher = Client::connect(&plain, &Connect::new(V5, "watcher"));
        assert_eq!(watcher.subscribe("up/#", 2), 2);
        for (versions, name) in [(TLS_1_2, "TLSv1_2"), (TLS_1_3, "TLSv1_3")] {
            // Several, so that some have their home on another shard than the one that accepts.
            for number in 0..6 {
                let tls = connect(&secured, &files.client(versions, None));
                assert_eq!(tls.version(), name);
                let id = format!("{name}-{number}");
                let mut client = tls.into_client(&Connect::new(V5, &id));
                assert_eq!(client.subscribe(&format!("down/{id}"), 1), 1);
                for qos in 0..3 {
                    let text = format!("{id} {qos}");
                    assert_eq!(client.publish(Publish::new("up/x", &text).qos(qos)), 0);
                    watcher.expect_message(&text);
                }
                watcher.publish(Publish::new(&format!("down/{id}"), "back").qos(1));
                client.expect_message("back");
                client.disconnect();
            }
        }
    }
}

#[test]
fn tls_lies_behind_a_proxy_s_header() {
    let files = Files::new();
    let keys = "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]";
    for shards in shard_counts() {
        let listeners = files.listener("secured", "tls", keys, "");
        let debug = "[log]\nlevel = \"debug\"\n".to_owned();
        let broker = Broker::start(&Settings::new(shards).config(&(debug + &listeners)));
        let address = address_of(&broker, "secured");
        for number in 0..6_u16 {
            let mut stream = TcpStream::connect(&address).unwrap();
            let line = format!("PROXY TCP4 203.0.113.7 198.51.100.1 {} 8883\r\n", 40_000 + number);
            stream.write_all(line.as_bytes()).unwrap();
            let tls = Secured::over(stream, &files.client(TLS_1_3, None), NAME).unwrap();
            let id = format!("behind-{number}");
            let mut client = tls.into_client(&Connect::new(V5, &id));
            client.ping();
            let peer = format!("peer=203.0.113.7:{}", 40_000 + number);
            broker.expect_log(&["connected", &id, &peer]);
            broker.expect_log(&["TLS handshake done", &peer]);
        }
    }
}

#[test]
fn websocket_in_tls_carries_everything() {
    let files = Files::new();
    let plain = "[[listeners]]\nname = \"plain\"\nbind = \"@LISTEN@\"\n";
    let listeners = files.listener("web", "wss", "", "") + plain;
    let payload: Vec<u8> = (0..1 << 20).map(|at| (at % 249) as u8).collect();
    for shards in shard_counts() {
        let broker = Broker::start(&Settings::new(shards).config(&listeners));
        let web = address_of(&broker, "web");
        let mut watcher =
            Client::connect(&address_of(&broker, "plain"), &Connect::new(V5, "watcher"));
        watcher.subscribe("up", 1);
        for versions in [TLS_1_2, TLS_1_3] {
            // Each byte of MQTT goes through frames of all sizes, and those through records.
            let tunnel = websocket::tunnel(&proxy(&web, &files.client(versions, None)));
            for number in 0..4 {
                let mut client =
                    Client::connect(&tunnel, &Connect::new(V5, &format!("web-{number}")));
                client.subscribe("echo", 1);
                client.publish(Publish::new("up", number.to_string()).qos(1));
                watcher.expect_message(&number.to_string());
                client.publish(Publish::new("echo", &payload).qos(1));
                assert!(client.message().payload == payload);
                client.disconnect();
            }
        }
        // What is no upgrade gets its answer encrypted, too.
        let mut tls = connect(&web, &files.client(TLS_1_3, None));
        tls.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(tls.read().unwrap().starts_with(b"HTTP/1.1 4"));
    }
}

#[test]
fn a_megabyte_goes_both_ways() {
    let files = Files::new();
    let broker = files.broker(2, "", "");
    let address = address_of(&broker, "secured");
    let payload: Vec<u8> = (0..1 << 20).map(|at| (at % 253) as u8).collect();
    for versions in [TLS_1_2, TLS_1_3] {
        let tls = connect(&address, &files.client(versions, None));
        let mut client = tls.into_client(&Connect::new(V5, "echo"));
        assert_eq!(client.subscribe("echo", 2), 2);
        for qos in 0..3 {
            client.publish(Publish::new("echo", &payload).qos(qos));
            assert!(client.message().payload == payload, "QoS {qos}");
        }
        client.disconnect();
    }
}

#[test]
fn the_name_picks_the_certificate() {
    let files = Files::new();
    let other = files.authority.server(&["other.example"]);
    files.write_pair("other", &other);
    let second = format!(
        "[[listeners.tls.certificates]]\ncertificate = \"{}\"\nkey = \"{}\"\n",
        files.path("other.crt"),
        files.path("other.key")
    );
    let listener = files.listener("secured", "tls", "", "") + &second;
    let broker = Broker::start(&Settings::new(1).config(&listener));
    let config = files.client(TLS_1_3, None);
    let tls = Secured::connect(&broker.address, &config, "other.example").unwrap();
    assert!(tls.shown() == der(&other.certificate));
    let tls = Secured::connect(&broker.address, &config, NAME).unwrap();
    assert!(tls.shown() != der(&other.certificate));
}

/// A listener that asks for certificates, `serial` 7 being revoked.
fn asking(files: &Files) -> Broker {
    files.write("revoked.pem", &files.authority.revoke(&[7], 4000));
    let tls = format!(
        "client_certificates = \"required\"\nclient_ca = \"{}\"\ncrl = [\"{}\"]\n",
        files.path("ca.crt"),
        files.path("revoked.pem")
    );
    counting(files, 2, "", &tls)
}

#[test]
fn clients_are_let_in_by_their_certificates() {
    let files = Files::new();
    let broker = asking(&files);
    let address = address_of(&broker, "secured");
    for versions in [TLS_1_2, TLS_1_3] {
        let own = files.authority.client("meter-8", 8);
        let config = files.client(versions, Some(&own));
        let mut client = connect(&address, &config).into_client(&Connect::new(V311, "meter-8"));
        client.ping();
        client.disconnect();
    }
    let expired = files.authority.client_until("old", 9, 2001);
    let revoked = files.authority.client("meter-7", 7);
    let stranger = Authority::new("another").client("stranger", 1);
    let cases = [
        (None, "the client shows no certificate"),
        (Some(&expired), "the client's certificate has expired"),
        (Some(&revoked), "the client's certificate has been revoked"),
        (Some(&stranger), "the client's certificate was not signed by the listener's client_ca"),
    ];
    for (own, text) in cases {
        let before = broker.log_text().len();
        let config = files.client(TLS_1_3, own);
        // There is one line a second and class: what is not told is counted.
        eventually(text, || {
            assert!(attempt(&address, &config).is_err(), "{text}");
            broker.log_text()[before..].contains(text)
        });
    }
    expect_sys(&broker, "tls/refused/client_certificate", |refused| refused >= 4);
    expect_sys(&broker, "tls/handshakes", |done| done >= 2);
}

#[test]
fn a_listener_may_have_more_authorities_than_a_record_holds() {
    let files = Files::new();
    let mut all = files.authority.certificate.clone();
    for number in 0..800 {
        all.push_str(&Authority::new(&format!("authority number {number}")).certificate);
    }
    files.write("all.crt", &all);
    let ca = files.path("all.crt");
    let tls = format!("client_certificates = \"optional\"\nclient_ca = \"{ca}\"\n");
    let broker = files.broker(1, "", &tls);
    let address = address_of(&broker, "secured");
    let own = files.authority.client("meter-8", 8);
    for versions in [TLS_1_2, TLS_1_3] {
        for own in [None, Some(&own)] {
            attempt(&address, &files.client(versions, own)).unwrap();
        }
    }
}

#[test]
fn a_ticket_is_good_on_every_shard() {
    let files = Files::new();
    let broker = counting(&files, 3, "", "");
    let address = address_of(&broker, "secured");
    for versions in [TLS_1_2, TLS_1_3] {
        let config = files.client(versions, None);
        let mut resumed = 0;
        for number in 0..12 {
            let tls = connect(&address, &config);
            resumed += u64::from(tls.is_resumed());
            let mut client = tls.into_client(&Connect::new(V311, &format!("ticket-{number}")));
            // The tickets come before the answer.
            client.ping();
            client.disconnect();
        }
        assert_eq!(resumed, 11);
    }
    expect_sys(&broker, "tls/handshakes_resumed", |resumed| resumed == 22);
}

#[test]
fn a_changed_certificate_is_used_and_nobody_is_dropped() {
    let files = Files::new();
    let broker = files.broker(2, "", "");
    let address = address_of(&broker, "secured");
    let config = files.client(TLS_1_3, None);
    let tls = connect(&address, &config);
    let first = tls.shown();
    let mut stays = tls.into_client(&Connect::new(V311, "stays"));

    let new = files.authority.server(&[NAME]);
    files.write_pair("server", &new);
    // By itself: the files are looked at every few seconds.
    expect_log(&broker, "TLS files have changed: new connections use them");
    let tls = connect(&address, &config);
    assert!(tls.shown() == der(&new.certificate) && tls.shown() != first);
    assert!(!tls.is_resumed(), "a ticket of before is not taken");

    let newer = files.authority.server(&[NAME]);
    files.write_pair("server", &newer);
    broker.signal("HUP");
    eventually("the newer certificate", || {
        connect(&address, &config).shown() == der(&newer.certificate)
    });
    stays.ping();
    stays.disconnect();
}

#[test]
fn a_reload_that_fails_keeps_what_there_is_and_says_why() {
    let files = Files::new();
    let broker = files.broker(1, "", "");
    let address = address_of(&broker, "secured");
    let config = files.client(TLS_1_3, None);
    let before = connect(&address, &config).shown();
    files.write("server.key", &files.authority.server(&[NAME]).key);
    broker.signal("HUP");
    expect_log(&broker, "configuration read again but not used");
    expect_log(&broker, "does not belong to the certificate beside it");
    expect_log(&broker, "server.key: named by `listeners[0].tls.certificates[0].key`");
    assert!(connect(&address, &config).shown() == before);
    // Once the files fit again they are used, without a signal.
    let new = files.authority.server(&[NAME]);
    files.write_pair("server", &new);
    eventually("the new certificate", || {
        connect(&address, &config).shown() == der(&new.certificate)
    });
}

#[test]
fn a_client_that_is_revoked_meanwhile_does_not_come_back_with_a_ticket() {
    let files = Files::new();
    let broker = asking(&files);
    let address = address_of(&broker, "secured");
    let own = files.authority.client("meter-8", 8);
    let config = files.client(TLS_1_3, Some(&own));
    let mut client = connect(&address, &config).into_client(&Connect::new(V311, "meter-8"));
    client.ping();
    client.disconnect();
    files.write("revoked.pem", &files.authority.revoke(&[7, 8], 4000));
    broker.signal("HUP");
    eventually("the client to be refused", || attempt(&address, &config).is_err());
    expect_log(&broker, "has been revoked");
    assert!(attempt(&address, &config).is_err());
}

#[test]
fn who_speaks_something_else_is_told_apart_and_disturbs_nobody() {
    let files = Files::new();
    let broker = counting(&files, 2, "handshake_timeout_s = 2", "");
    let (secured, plain) = (address_of(&broker, "secured"), address_of(&broker, "plain"));
    let config = files.client(TLS_1_3, None);
    let mut stays = connect(&secured, &config).into_client(&Connect::new(V311, "stays"));
    let cases: [(&str, &[u8], &str); 4] = [
        (&secured, b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", "it speaks MQTT without TLS"),
        (&secured, b"GET / HTTP/1.1\r\n\r\n", "it speaks HTTP without TLS"),
        (&secured, b"\x00\x01garbage", "it does not speak TLS"),
        (&plain, b"\x16\x03\x01\x02\x00\x01\x00\x01", "a TLS handshake came to a listener"),
    ];
    for (address, bytes, text) in cases {
        let before = broker.log_text().len();
        eventually(text, || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(bytes).unwrap();
            assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap_or(0), 0, "closed, no answer");
            broker.log_text()[before..].contains(text)
        });
    }
    // A record that is none: an alert, then the end.
    let mut stream = TcpStream::connect(&secured).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"\x16\x03\x01\x00\x04\x09\x00\x00\x00").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
    // A handshake that does not go on ends by the listener's deadline.
    for begin in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01"] {
        let mut stream = TcpStream::connect(&secured).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(begin).unwrap();
        assert!(stream.read_to_end(&mut Vec::new()).is_ok_and(|read| read == 0));
    }
    expect_sys(&broker, "connections/wrong_protocol", |count| count >= 4);
    expect_sys(&broker, "tls/protocol_errors", |count| count >= 1);
    stays.ping();
    stays.disconnect();
}

#[test]
fn a_storm_of_handshakes_leaves_the_others_alone() {
    let files = Files::new();
    let broker = counting(&files, 1, "", "");
    let address = address_of(&broker, "secured");
    let mut stays =
        connect(&address, &files.client(TLS_1_3, None)).into_client(&Connect::new(V311, "stays"));
    let storm: Vec<_> = (0..8)
        .map(|thread| {
            let (address, config) = (address.clone(), files.client(TLS_1_2, None));
            thread::spawn(move || {
                for number in 0..25 {
                    let mut config = config.clone();
                    config.resumption = rustls::client::Resumption::disabled();
                    let id = format!("storm-{thread}-{number}");
                    let client = connect(&address, &config).into_client(&Connect::new(V311, &id));
                    client.disconnect();
                }
            })
        })
        .collect();
    while storm.iter().any(|thread| !thread.is_finished()) {
        stays.ping();
    }
    for thread in storm {
        thread.join().unwrap();
    }
    expect_sys(&broker, "tls/handshakes", |done| done == 201);
    expect_sys(&broker, "tls/handshakes_waiting", |waiting| waiting == 0);
}

/// What the program says and does with a configuration: `run` would not come back from a good one.
fn checked(config: &str, command: &str) -> Output {
    let dir = scratch();
    let path = dir.join("ringtide.toml");
    std::fs::write(&path, config.replace("@LISTEN@", ANY_PORT)).unwrap();
    let mut program = Command::new(program());
    without_settings(&mut program);
    program.args([command, "--config"]).arg(path).arg("--data-dir").arg(dir.join("data"));
    program.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn files_that_cannot_be_used_are_named_at_the_start() {
    let files = Files::new();
    let good = files.listener("secured", "tls", "", "");
    let with = |tls: &str| files.listener("secured", "tls", "", tls);
    files.write_pair("other", &files.authority.server(&[NAME]));
    let cases = [
        (
            good.replace("server.key", "gone.key"),
            "gone.key: named by `listeners[0].tls.certificates[0].key` of listener secured, cannot \
             be read: No such file",
        ),
        (
            good.replace("server.key", "other.key"),
            "other.key: named by `listeners[0].tls.certificates[0].key` of listener secured, does \
             not belong to the certificate",
        ),
        (good.replace("server.crt", "server.key"), "has no certificate in it"),
        (good.replace("server.key", "server.crt"), "has no private key in it"),
        (
            with("ciphers = [\"RC4\"]"),
            "listener secured: `listeners[0].tls.ciphers` `RC4` does not exist; these do: TLS13_",
        ),
        (with("client_certificates = \"required\""), "`listeners[0].tls.client_ca` names no file"),
        (with("crl = [\"x\"]"), "has no effect while client_certificates is \"none\""),
        (with("versions = [\"1.1\"]"), "unknown variant `1.1`, expected `1.2` or `1.3`"),
        (good.replace("transport = \"tls\"", "transport = \"tcp\""), "set transport = \"tls\""),
        ("[[listeners]]\ntransport = \"tls\"\n".to_owned(), "`listeners[0].tls` is missing"),
    ];
    for (config, text) in &cases {
        for command in ["check-config", "run"] {
            let output = checked(config, command);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains(text), "{command}: {said}\nwanted: {text}");
            assert_eq!(output.status.code(), Some(2), "{said}");
        }
    }
    files.write_pair("server", &files.authority.expired_server(NAME));
    let output = checked(&good, "check-config");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("warning: ") && said.contains("has expired on"), "{said}");
}

#[test]
fn nothing_in_common_is_told_and_counted() {
    let files = Files::new();
    let broker = counting(&files, 1, "", "versions = [\"1.3\"]");
    let address = address_of(&broker, "secured");
    let refused = Secured::connect(&address, &files.client(TLS_1_2, None), NAME);
    assert!(refused.is_err_and(|error| error.to_string().contains("ProtocolVersion")));
    expect_log(&broker, "client and listener have no version of TLS in common");
    expect_sys(&broker, "tls/refused/nothing_in_common", |count| count == 1);
}
