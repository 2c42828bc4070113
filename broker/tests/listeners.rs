//! Listeners of all kinds beside each other: Unix sockets, IPv6, and who may connect to which.

mod common;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process;

use common::fleet::shard_counts;
use common::{Broker, Client, Connect, Event, PATIENCE, Publish, Settings, V5, V31, V311};
use common::{code, eventually, prop, websocket};
use socket2::{Domain, Socket, Type};

const PLAIN: &str = "[[listeners]]\nname = \"plain\"\nbind = \"@LISTEN@\"\n";

/// The path of a socket that is removed when the test is over, short enough for one.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new(name: &str) -> SocketPath {
        let name = format!("ringtide-{}-{name}.sock", process::id());
        SocketPath(std::env::temp_dir().join(name))
    }

    fn listener(&self, keys: &str) -> String {
        let path = self.0.display();
        format!("[[listeners]]\nname = \"local\"\nbind = \"unix:{path}\"\n{keys}\n")
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A client of a Unix socket.
fn local(path: &Path, connect: &Connect) -> Client {
    let stream = UnixStream::connect(path).expect("accepted");
    let mut client = Client::on(TcpStream::from(OwnedFd::from(stream)), connect.version);
    client.send(&connect.encode());
    client.expect_connack(0);
    client
}

/// A connection from one of this host's own addresses.
fn from(source: &str, to: &str) -> Client {
    let source: SocketAddr = format!("{source}:0").parse().expect("an address");
    let to: SocketAddr = to.parse().expect("an address");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&source.into()).expect("an address of this host");
    socket.connect(&to.into()).expect("accepted");
    Client::on(socket.into(), V5)
}

/// Whether a client from this address is let in.
fn is_let_in(source: &str, to: &str) -> bool {
    let mut client = from(source, to);
    client.send(&Connect::new(V5, &format!("from-{source}")).encode());
    match client.event(PATIENCE) {
        Event::Packet(_) => true,
        Event::Closed => false,
        Event::Nothing => panic!("no answer"),
    }
}

#[test]
fn a_unix_socket_is_a_listener_like_others() {
    for shards in shard_counts() {
        let path = SocketPath::new(&format!("like{shards}"));
        let text = format!(
            "[log]\nlevel = \"debug\"\n{PLAIN}{}",
            path.listener("unix_mode = \"0600\"\nmax_connections = 100")
        );
        let mut broker = Broker::start(&Settings::new(shards).config(&text));
        assert_eq!(broker.address_of("local"), format!("unix:{}", path.0.display()));
        let mode = fs::symlink_metadata(&path.0).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let plain = broker.address_of("plain");
        let mut watcher = Client::connect(&plain, &Connect::new(V5, "watcher"));
        watcher.subscribe("up/#", 2);
        // Several, so that some have their home on another shard than the one that accepts.
        let mut clients: Vec<Client> = (0..12)
            .map(|n| local(&path.0, &Connect::new([V311, V5][n % 2], &format!("local{n}"))))
            .collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.subscribe(&format!("down/{n}"), 1);
            client.publish(Publish::new("up/x", n.to_string()).qos(n as u8 % 3));
            watcher.expect_message(&n.to_string());
            watcher.publish(Publish::new(&format!("down/{n}"), "back").qos(1));
            client.expect_message("back");
        }
        broker.expect_log(&["connected", "local3", "peer=unix"]);
        broker.signal("TERM");
        assert!(broker.wait().success());
        assert!(!path.0.exists(), "the socket goes with the broker");
    }
}

#[test]
fn a_socket_that_a_killed_broker_has_left_is_taken_over_and_one_in_use_is_not() {
    let path = SocketPath::new("left");
    let text = PLAIN.to_owned() + &path.listener("");
    let mut killed = Broker::start(&Settings::new(2).config(&text));
    killed.address_of("local");
    killed.signal("KILL");
    killed.wait();
    assert!(path.0.exists());
    let broker = Broker::start(&Settings::new(2).config(&text));
    broker.address_of("local");
    local(&path.0, &Connect::new(V5, "again")).ping();

    let dir = common::broker::scratch();
    let config = dir.join("second.toml");
    fs::write(&config, path.listener("")).expect("a configuration");
    let mut second = process::Command::new(common::broker::program());
    common::broker::without_settings(&mut second);
    let data = dir.join("data");
    let arguments = ["run", "--shards", "1", "--config"];
    second.args(arguments).arg(&config).arg("--data-dir").arg(&data);
    let output = second.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("listener local: cannot listen on unix:"), "{said}");
    assert!(said.contains("another process has it"), "{said}");
    local(&path.0, &Connect::new(V5, "still")).ping();
}

#[test]
fn ipv6_is_listened_on_alone_or_with_ipv4() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this host has no IPv6");
        return;
    }
    let text = "[log]\nlevel = \"debug\"\n[[listeners]]\nname = \"six\"\nbind = \"[::1]:0\"\n\
                # @LISTEN@\n[[listeners]]\nname = \"both\"\nbind = \"[::]:0\"\n\
                allow = [\"127.0.0.1\", \"::1\"]\n";
    let broker = Broker::start(&Settings::new(2).config(text));
    Client::connect(&broker.address_of("six"), &Connect::new(V5, "six")).ping();
    broker.expect_log(&["connected", "\"six\"", "peer=[::1]:"]);
    let both = broker.address_of("both");
    let port = both.rsplit(':').next().expect("a port");
    Client::connect(&format!("[::1]:{port}"), &Connect::new(V5, "both6")).ping();
    Client::connect(&format!("127.0.0.1:{port}"), &Connect::new(V5, "both4")).ping();
    broker.expect_log(&["connected", "both4", "peer=127.0.0.1:"]);
    assert!(!is_let_in("127.0.0.2", &format!("127.0.0.1:{port}")));
}

#[test]
fn networks_say_who_may_connect_and_a_reload_changes_them() {
    let listeners = |networks: &str| {
        format!(
            "sys_interval_s = 1\n{PLAIN}[[listeners]]\nname = \"gated\"\nbind = \"@LISTEN@\"\n\
             {networks}\n"
        )
    };
    let text = listeners("allow = [\"127.0.0.0/29\"]\ndeny = [\"127.0.0.2\"]");
    let broker = Broker::start(&Settings::new(2).config(&text));
    let (plain, gated) = (broker.address_of("plain"), broker.address_of("gated"));
    let mut stays = from("127.0.0.3", &gated);
    stays.send(&Connect::new(V5, "stays").encode());
    stays.expect_connack(0);
    assert!(!is_let_in("127.0.0.2", &gated) && !is_let_in("127.0.0.9", &gated));
    assert!(is_let_in("127.0.0.2", &plain) && is_let_in("127.0.0.9", &plain));
    // No byte of theirs is waited for.
    assert_eq!(from("127.0.0.2", &gated).event(PATIENCE), Event::Closed);
    broker.expect_log(&["listener=\"gated\"", "peer=127.0.0.", "do not let this address in"]);
    let mut watcher = Client::connect(&plain, &Connect::new(V5, "sys"));
    watcher.subscribe("$SYS/broker/connections/address_refused", 0);
    eventually("three are counted", || {
        watcher.raw_message().text().parse().is_ok_and(|n: u64| n >= 3)
    });

    let changed = listeners("allow = [\"127.0.0.2\", \"127.0.0.9\"]\ndeny = []");
    broker.reconfigure(&changed);
    broker.signal("HUP");
    broker.expect_log(&["listeners[1].allow"]);
    eventually("the new networks are in force", || is_let_in("127.0.0.2", &gated));
    assert!(is_let_in("127.0.0.9", &gated) && !is_let_in("127.0.0.3", &gated));
    stays.ping();
}

#[test]
fn each_listener_has_its_own_limits() {
    let text = format!(
        "sys_interval_s = 1\n[limits]\nmax_packet_bytes = 100000\n{PLAIN}\
         [[listeners]]\nname = \"small\"\nbind = \"@LISTEN@\"\nmax_packet_bytes = 2000\n\
         versions = [\"3.1.1\", \"5.0\"]\nmax_connections = 2\n\
         [[listeners]]\nname = \"old\"\nbind = \"@LISTEN@\"\nversions = [\"3.1\"]\n\
         [[listeners]]\nname = \"above\"\nbind = \"@LISTEN@\"\nmax_packet_bytes = 200000\n"
    );
    let broker = Broker::start(&Settings::new(2).config(&text));
    let maximum = |listener: &str| {
        let client = Client::connect(&broker.address_of(listener), &Connect::new(V5, listener));
        client.connack_props().number(prop::MAXIMUM_PACKET_SIZE)
    };
    assert_eq!(maximum("small"), Some(2000));
    assert_eq!((maximum("plain"), maximum("above")), (Some(100_000), Some(100_000)));
    let (plain, small) = (broker.address_of("plain"), broker.address_of("small"));
    let large = vec![b'x'; 3000];
    for number in 0..4 {
        let mut client = Client::connect(&small, &Connect::new(V5, &format!("small{number}")));
        client.publish(Publish::new("x", &large[..1900]).qos(1));
        client.send_publish(&Publish::new("x", &large));
        client.expect_disconnect(&[code::PACKET_TOO_LARGE]);
        let mut other = Client::connect(&plain, &Connect::new(V5, &format!("plain{number}")));
        other.publish(Publish::new("x", &large).qos(1));
        other.disconnect();
    }
    let refused = |listener: &str, version: u8, codes: &[u8]| {
        let mut client = Client::raw(&broker.address_of(listener), version);
        client.send(&Connect::new(version, "version").encode());
        client.expect_refused(codes);
    };
    refused("old", V5, &[code::UNSUPPORTED_VERSION]);
    refused("old", V311, &[1]);
    refused("small", V31, &[1]);
    Client::connect(&broker.address_of("old"), &Connect::new(V31, "old")).ping();
}

#[test]
fn connections_above_a_listener_s_rate_are_refused() {
    let text = format!(
        "sys_interval_s = 1\n{PLAIN}[[listeners]]\nname = \"slow\"\nbind = \"@LISTEN@\"\n\
         max_connects_per_s = 1\n"
    );
    let broker = Broker::start(&Settings::new(1).config(&text));
    let (plain, slow) = (broker.address_of("plain"), broker.address_of("slow"));
    let attempt = |n: u32| {
        let mut client = Client::raw(&slow, V5);
        client.send(&Connect::new(V5, &format!("rate{n}")).encode());
        matches!(client.event(PATIENCE), Event::Packet(_))
    };
    // One a second: of many at once some are refused, however slow this machine is.
    eventually("one of many is refused", || !(0..100).all(attempt));
    Client::connect(&plain, &Connect::new(V5, "elsewhere")).ping();
    eventually("one is let in again", || attempt(1));
    broker.expect_log(&["listener=\"slow\"", "max_connects_per_s"]);
    let mut watcher = Client::connect(&plain, &Connect::new(V5, "sys"));
    watcher.subscribe("$SYS/broker/connections/rate_refused", 0);
    eventually("it is counted", || watcher.raw_message().text().parse().is_ok_and(|n: u64| n > 0));
}

#[test]
fn a_client_above_its_rates_is_slowed_down_and_loses_nothing() {
    let text = format!(
        "sys_interval_s = 1\n{PLAIN}[[listeners]]\nname = \"paced\"\nbind = \"@LISTEN@\"\n\
         max_client_messages_per_s = 200\n[[listeners]]\nname = \"thin\"\nbind = \"@LISTEN@\"\n\
         max_client_bytes_per_s = 50000\ntransport = \"ws\"\n"
    );
    let broker = Broker::start(&Settings::new(2).config(&text));
    let (plain, paced) = (broker.address_of("plain"), broker.address_of("paced"));
    let mut watcher = Client::connect(&plain, &Connect::new(V5, "watcher"));
    watcher.subscribe("paced", 1);
    watcher.subscribe("thin", 1);
    let mut writer = Client::connect(&paced, &Connect::new(V311, "writer").keep_alive(1));
    for n in 0..700 {
        writer.send_publish(&Publish::new("paced", n.to_string()).qos(0));
    }
    assert_eq!(watcher.texts(700), (0..700).map(|n| n.to_string()).collect::<Vec<_>>());
    writer.ping();
    let mut delays = Client::connect(&plain, &Connect::new(V5, "delays"));
    delays.subscribe("$SYS/broker/connections/rate_delays", 0);
    let mut counted = |least: u64| {
        let mut last = 0;
        eventually("delays are counted", || {
            last = delays.raw_message().text().parse().expect("a number");
            last >= least
        });
        last
    };
    // 500 are more than the first second's worth.
    let before = counted(1);
    let tunnel = websocket::tunnel(&broker.address_of("thin"));
    let mut thin = Client::connect(&tunnel, &Connect::new(V5, "thin"));
    // 100 KB more than the first second's worth.
    for n in 0..30 {
        let payload = [vec![b'x'; 5000], n.to_string().into_bytes()].concat();
        thin.publish(Publish::new("thin", &payload).qos(1));
        assert_eq!(watcher.message().payload, payload);
    }
    counted(before + 1);
}
