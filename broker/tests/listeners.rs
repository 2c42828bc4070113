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
use common::{Broker, Client, Connect, Event, PATIENCE, Publish, Settings, V5, V311, eventually};
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
