//! A password file, from outside: who gets in, what a reload changes, storms and floods, a restart,
//! and mosquitto's own file and clients.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::broker::{program, scratch, target, without_settings};
use common::*;
use ring::pbkdf2;
use socket2::{Domain, Socket, Type};

/// CONNACK: bad user name or password, in 5.0 and before.
const WRONG: [u8; 2] = [0x86, 4];

/// A line of a password file, as `mosquitto_passwd` writes it.
fn line(user: &str, password: &str, iterations: u32) -> String {
    let salt: Vec<u8> = user.bytes().cycle().take(12).collect();
    let mut hash = [0; 64];
    let iterations = NonZeroU32::new(iterations).unwrap();
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
    pbkdf2::derive(algorithm, iterations, &salt, password.as_bytes(), &mut hash);
    format!("{user}:$7${iterations}${}${}\n", BASE64.encode(salt), BASE64.encode(hash))
}

/// A password file of one test's own.
struct Users(PathBuf);

impl Users {
    fn new(text: &str) -> Users {
        let users = Users(scratch().join("users"));
        users.set(text);
        users
    }

    fn set(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }

    /// A configuration with it.
    fn config(&self, more: &str) -> String {
        let path = self.0.display();
        format!("[access]\nallow_anonymous = false\npassword_file = \"{path}\"\n{more}")
    }

    fn settings(&self, shards: u32) -> Settings {
        Settings::new(shards).config(&self.config(""))
    }
}

/// These tests configure their broker.
fn is_foreign() -> bool {
    if target().is_some() {
        eprintln!("skipped: a foreign broker cannot be given the configuration");
    }
    target().is_some()
}

fn named(version: u8, id: &str, user: &str, password: &str) -> Connect {
    Connect::new(version, id).username(user).password(password)
}

fn attempt(broker: &Broker, connect: &Connect) -> Client {
    let mut client = Client::raw(&broker.address, connect.version);
    client.send(&connect.encode());
    client
}

/// Sends SIGHUP and waits for what the log must say of it.
fn reload(broker: &Broker, said: &str) {
    let lines = |broker: &Broker| broker.log_text().matches(said).count();
    let before = lines(broker);
    broker.signal("HUP");
    eventually(said, || lines(broker) > before);
}

#[test]
fn only_the_right_password_gets_in_in_every_version() {
    if is_foreign() {
        return;
    }
    let users = Users::new(&format!(
        "# who may connect\n\n{}{}",
        line("alice", "secret", 1000),
        line("bob", "geheim", 100)
    ));
    for shards in [1, 3] {
        let broker = Broker::start(&users.settings(shards));
        for version in [V31, V311, V5] {
            for round in 0..3 {
                let id = format!("a{version}-{round}");
                Client::connect(&broker.address, &named(version, &id, "alice", "secret")).ping();
                for (user, password) in
                    [("alice", "geheim"), ("alice", ""), ("bob", "secret"), ("carol", "secret")]
                {
                    attempt(&broker, &named(version, &id, user, password)).expect_refused(&WRONG);
                }
                let nameless = Connect::new(version, &id).username("alice");
                attempt(&broker, &nameless).expect_refused(&WRONG);
                let anonymous = Connect::new(version, &id);
                attempt(&broker, &anonymous).expect_refused(&[0x87, 5]);
            }
        }
        broker.expect_log(&["client refused: the user name or the password is wrong"]);
        let log = broker.log_text();
        assert!(log.contains("access: passwords are checked, the users are those of"), "{log}");
        assert!(!log.contains("passwords are not checked"), "{log}");
        assert!(log.contains("user=\"alice\"") || log.contains("user=\"bob\""), "{log}");
        assert!(!log.contains("geheim") && !log.contains("secret"), "{log}");
    }
}

#[test]
fn packets_that_follow_connect_at_once_are_handled_after_it_or_never() {
    if is_foreign() {
        return;
    }
    let users = Users::new(&line("alice", "secret", 20_000));
    let broker = Broker::start(&users.settings(3));
    let mut watcher = Client::connect(&broker.address, &named(V5, "watcher", "alice", "secret"));
    assert_eq!(watcher.subscribe("early/#", 1), 1);
    for (id, password) in [("a", "secret"), ("b", "wrong"), ("c", "secret")] {
        let will = Will::new("early/will", id);
        let mut bytes = named(V5, id, "alice", password).will(will).encode();
        bytes.extend(Publish::new("early/t", id).qos(1).id(1).encode(V5));
        let mut client = Client::raw(&broker.address, V5);
        client.send(&bytes);
        if password == "secret" {
            client.expect_connack(0);
            assert_eq!(client.expect_puback(1), 0);
            client.disconnect();
            watcher.expect_message(id);
        } else {
            client.expect_refused(&WRONG);
        }
    }
    watcher.ping();
    watcher.expect_silence();
}

#[test]
fn a_connection_is_taken_over_only_by_who_knows_the_password() {
    if is_foreign() {
        return;
    }
    let users = Users::new(&line("alice", "secret", 1000));
    let broker = Broker::start(&users.settings(3));
    let mut first = Client::connect(&broker.address, &named(V5, "a", "alice", "secret"));
    for version in [V311, V5] {
        attempt(&broker, &named(version, "a", "alice", "wrong")).expect_refused(&WRONG);
    }
    first.ping();
    first.expect_silence();
    let mut second = Client::connect(&broker.address, &named(V5, "a", "alice", "secret"));
    first.expect_disconnect(&[0x8E]);
    second.ping();
}

#[test]
fn a_reload_takes_the_file_over_or_keeps_the_old_one() {
    if is_foreign() {
        return;
    }
    let (alice, bob) = (line("alice", "one", 1000), line("bob", "two", 1000));
    let users = Users::new(&format!("{alice}{bob}"));
    let broker = Broker::start(&users.settings(3));
    let enters = |user: &str, password: &str| {
        let id = format!("{user}-{password}");
        Client::connect(&broker.address, &named(V5, &id, user, password))
    };
    let refused = |user: &str, password: &str| {
        attempt(&broker, &named(V5, "refused", user, password)).expect_refused(&WRONG);
    };
    let mut stays = Client::connect(&broker.address, &named(V5, "stays", "alice", "one"));
    enters("bob", "two").ping();
    users.set(&format!("{}{bob}{}", line("alice", "new", 1000), line("carol", "three", 10)));
    enters("alice", "one").ping();
    reload(&broker, "applied: password file: 3 users now");
    refused("alice", "one");
    enters("alice", "new").ping();
    enters("bob", "two").ping();
    enters("carol", "three").ping();
    stays.ping();
    users.set(&format!("{bob}alice:plain\n"));
    reload(&broker, "configuration read again but not used, nothing has changed");
    broker.expect_log(&["line 2: the password of \"alice\" is not hashed"]);
    let log = broker.log_text();
    assert!(!log.contains("plain"), "{log}");
    enters("alice", "new").ping();
    enters("carol", "three").ping();
    fs::remove_file(&users.0).unwrap();
    reload(&broker, "cannot be read");
    enters("alice", "new").ping();
    users.set("# nobody\n");
    reload(&broker, "applied: password file: 0 users now");
    refused("alice", "new");
    refused("bob", "two");
    stays.ping();
}

#[test]
fn a_file_that_cannot_be_used_keeps_the_broker_from_starting() {
    let users = Users::new(&format!("{}bob:plain\n", line("alice", "one", 10)));
    let config = users.0.with_file_name("ringtide.toml");
    fs::write(&config, users.config("")).unwrap();
    let started = |command: &str| {
        let mut start = Command::new(program());
        without_settings(&mut start);
        start.args([command, "--config"]).arg(&config);
        let output = start.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    };
    let wanted = format!(
        "{}: named by `access.password_file`, is not understood: line 2: the password of \"bob\" \
         is not hashed",
        users.0.display()
    );
    for command in ["check-config", "run"] {
        let (code, said) = started(command);
        assert_eq!(code, Some(2), "{command}: {said}");
        assert!(said.contains(&wanted) && !said.contains("plain"), "{command}: {said}");
    }
    fs::remove_file(&users.0).unwrap();
    let (code, said) = started("run");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cannot be read: No such file"), "{said}");
    users.set(&line("alice", "one", 10));
    assert_eq!(started("check-config").0, Some(0));
}

#[test]
fn who_gives_no_name_is_let_in_where_that_is_allowed() {
    if is_foreign() {
        return;
    }
    let users = Users::new(&line("alice", "one", 10));
    let config = users.config("").replace("allow_anonymous = false", "allow_anonymous = true");
    let broker = Broker::start(&Settings::new(1).config(&config));
    Client::connect(&broker.address, &Connect::new(V5, "a")).ping();
    Client::connect(&broker.address, &Connect::new(V5, "b").password("any")).ping();
    attempt(&broker, &named(V5, "c", "alice", "two")).expect_refused(&WRONG);
    let log = broker.log_text();
    assert!(log.contains("are let in without a password"), "{log}");
}

#[test]
fn a_restart_finds_the_same_users() {
    if is_foreign() {
        return;
    }
    let (users, data) = (Users::new(&line("alice", "one", 1000)), scratch());
    let settings = users.settings(2).on_disk().data_dir(&data);
    let lasting = named(V5, "a", "alice", "one").expiry(1000).resume();
    for round in 0..3 {
        let mut broker = Broker::start(&settings);
        attempt(&broker, &named(V5, "a", "alice", "two").clean()).expect_refused(&WRONG);
        let client = Client::connect(&broker.address, &lasting);
        assert_eq!(client.session_present(), round > 0);
        client.drop_connection();
        if round < 2 {
            broker.signal("TERM");
            assert!(broker.wait().success());
        }
    }
}

/// Publishes with QoS 1 and reads what it has published, until it is told to stop; how often.
fn go_on(client: &mut Client, stop: &AtomicBool) -> usize {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(client.publish(Publish::new("own", rounds.to_string()).qos(1)), 0);
        client.expect_message(&rounds.to_string());
        rounds += 1;
    }
    rounds
}

/// The value of a counter below `$SYS/broker/`, once it is as wanted.
fn counted(client: &mut Client, topic: &str, wanted: u64) {
    assert_eq!(client.subscribe(&format!("$SYS/broker/{topic}"), 0), 0);
    eventually(&format!("{topic} is {wanted}"), || client.message().text() == wanted.to_string());
}

#[test]
fn a_storm_of_known_clients_is_let_in_without_a_hash_and_holds_nobody_up() {
    const THREADS: usize = 20;
    const EACH: usize = 100;
    if is_foreign() {
        return;
    }
    let all = || (0..THREADS * EACH).map(|n| (format!("user{n}"), format!("password{n}")));
    let text: String = all().map(|(user, password)| line(&user, &password, 200)).collect();
    let users = Users::new(&format!("{text}{}", line("bystander", "secret", 10)));
    let config = format!("sys_interval_s = 1\n{}", users.config(""));
    let broker = Broker::start(&Settings::new(2).config(&config));
    let mut bystander =
        Client::connect(&broker.address, &named(V5, "bystander", "bystander", "secret"));
    assert_eq!(bystander.subscribe("own", 1), 1);
    let stop = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let goes_on = scope.spawn(|| go_on(&mut bystander, &stop));
        // The second time all of them are known.
        for _ in 0..2 {
            thread::scope(|storm| {
                for first in 0..THREADS {
                    let broker = &broker;
                    storm.spawn(move || {
                        for n in (0..EACH).map(|n| first * EACH + n) {
                            let connect = named(
                                [V31, V311, V5][n % 3],
                                &format!("client{n}"),
                                &format!("user{n}"),
                                &format!("password{n}"),
                            );
                            Client::connect(&broker.address, &connect).drop_connection();
                        }
                    });
                }
            });
        }
        stop.store(true, Ordering::Relaxed);
        goes_on.join().unwrap()
    });
    assert!(rounds > 0, "the bystander went on");
    let hashed = (THREADS * EACH + 1) as u64;
    counted(&mut bystander, "passwords/hashed", hashed);
    counted(&mut bystander, "passwords/waiting", 0);
    counted(&mut bystander, "passwords/refused", 0);
    counted(&mut bystander, "passwords/refused_busy", 0);
}

/// A connection from an address of this host.
fn connect_from(address: Ipv4Addr, broker: &Broker) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    let to: SocketAddr = broker.address.parse().unwrap();
    socket.connect(&to.into()).unwrap();
    Client::on(TcpStream::from(socket), V5)
}

#[test]
fn a_flood_from_one_address_holds_up_nobody_else() {
    const FLOOD: usize = 200;
    if is_foreign() {
        return;
    }
    // To guess the password of `dear` takes so long that the flood is not over before the test is.
    let users = Users::new(&format!(
        "{}{}{}",
        line("dear", "secret", 1_000_000),
        line("alice", "one", 1000),
        line("bob", "two", 1000)
    ));
    let listener = "[[listeners]]\nbind = \"@LISTEN@\"\nhandshake_timeout_s = 3600\n";
    let broker = Broker::start(&Settings::new(2).config(&users.config(listener)));
    let mut flood: Vec<Client> =
        (0..FLOOD).map(|_| connect_from(Ipv4Addr::LOCALHOST, &broker)).collect();
    for (n, client) in flood.iter_mut().enumerate() {
        client.send(&named(V5, &format!("flood{n}"), "dear", "guess").encode());
    }
    for (n, (user, password)) in [("alice", "one"), ("bob", "two")].into_iter().enumerate() {
        let mut other = connect_from(Ipv4Addr::new(127, 0, 0, 2), &broker);
        other.send(&named(V5, &format!("other{n}"), user, password).encode());
        other.expect_connack(0);
        assert_eq!(other.publish(Publish::new("t", "x").qos(1)), 0x10);
    }
    let mut known = connect_from(Ipv4Addr::LOCALHOST, &broker);
    known.send(&named(V5, "known", "alice", "one").encode());
    known.expect_connack(0);
    let waits = |client: &mut Client| client.event(QUIET / 100) == Event::Nothing;
    assert!(flood.iter_mut().rev().any(waits), "the flood still waits");
}

fn is_installed(program: &str) -> bool {
    let mut probe = Command::new("sh");
    probe.args(["-c", &format!("command -v {program}")]).stdout(Stdio::null());
    if probe.status().unwrap().success() {
        return true;
    }
    let required = std::env::var("RINGTIDE_REQUIRE_CLIENTS").is_ok_and(|v| v == "1");
    assert!(!required || program == "mosquitto_passwd", "{program} is required, not installed");
    eprintln!("skipped: {program} is not installed");
    false
}

/// How `mosquitto_pub` ends.
fn mosquitto_pub(broker: &Broker, version: &str, user: &str, password: &str) -> bool {
    let (host, port) = broker.address.rsplit_once(':').unwrap();
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", host, "-p", port, "-V", version, "-u", user, "-P", password]);
    command.args(["-q", "1", "-t", "t", "-m", "x"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

fn mosquitto_passwd(file: &Path, arguments: &[&str], user: &str, password: &str) {
    let mut command = Command::new("mosquitto_passwd");
    command.args(arguments).arg("-b").arg(file).args([user, password]);
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[test]
fn mosquittos_clients_with_mosquittos_file() {
    if is_foreign() || !is_installed("mosquitto_pub") {
        return;
    }
    // Its `-H sha512` wrote this one.
    let by_sha512 = "bob:$6$K39AAvCpMpvwuGdq$3dpBCTCn5DkC+BxwQww8RoNUzLEIotLxQ8Wb9Ze10rpBbtGXfM6le\
                     mrGXACVTtbz9f5nPyyWA1EuDPp+KUMoLQ==\n";
    let users = Users::new(&format!("{}{by_sha512}", line("alice", "one", 101)));
    if is_installed("mosquitto_passwd") {
        mosquitto_passwd(&users.0, &[], "alice", "one");
        mosquitto_passwd(&users.0, &["-H", "sha512"], "carol", "one");
    }
    let broker = Broker::start(&users.settings(2));
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        assert!(mosquitto_pub(&broker, version, "alice", "one"), "{version}");
        assert!(mosquitto_pub(&broker, version, "bob", "pass word"), "{version}");
        assert!(!mosquitto_pub(&broker, version, "alice", "pass word"), "{version}");
        assert!(!mosquitto_pub(&broker, version, "nobody", "one"), "{version}");
        if is_installed("mosquitto_passwd") {
            assert!(mosquitto_pub(&broker, version, "carol", "one"), "{version}");
        }
    }
}
