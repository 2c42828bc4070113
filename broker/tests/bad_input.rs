//! Hostile peers and hard times: each gets what it deserves, and nobody else notices. What the
//! codec must refuse packet by packet is in the hard cases; here is what takes time or numbers.

mod common;

use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::broker::{ANY_PORT, program, scratch, target, without_settings};
use common::packet::header_only;
use common::{Broker, Client, Connect, Cx, Event, Fleet, PATIENCE, Packet, Publish, Settings};
use common::{Subscribe, V5, V311, code, eventually, packet};

static FLEET: Fleet = Fleet::new(Settings::new);

/// For one test each, which looks at the broker's memory: nobody else may use it meanwhile.
static DEAF: Fleet = Fleet::new(Settings::new);
static CHURN: Fleet = Fleet::new(Settings::new);

/// A short time for CONNECT.
static HASTY: Fleet = Fleet::new(|shards| {
    let listener = "[[listeners]]\nbind = \"@LISTEN@\"\nhandshake_timeout_s = 2\n";
    Settings::new(shards).config(listener)
});

/// A pair that exchanges messages, to show that others are untouched.
struct Bystanders {
    topic: String,
    publisher: Client,
    subscriber: Client,
    sent: u32,
}

impl Bystanders {
    fn new(cx: &Cx<'_>) -> Bystanders {
        let topic = cx.topic("bystanders");
        let subscriber = cx.watcher(&topic, 1);
        Bystanders { topic, publisher: cx.publisher(), subscriber, sent: 0 }
    }

    #[track_caller]
    fn exchange(&mut self) {
        self.sent += 1;
        let text = self.sent.to_string();
        self.publisher.publish(Publish::new(&self.topic, &text).qos(1));
        self.subscriber.expect_message(&text);
    }
}

/// A small generator of hostile bytes, the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let len = self.below(max) + 1;
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Good packets with a few bytes flipped, doubled or cut.
    fn mutate(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 => bytes.insert(at, self.next() as u8),
                _ => bytes.truncate(at + 1),
            }
        }
        bytes
    }
}

#[test]
fn ten_thousand_connections_of_garbage() {
    FLEET.run("garbage", |cx| {
        let mut bystanders = Bystanders::new(cx);
        let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
        let good = garbage_seed(cx);
        for n in 0..10_000 {
            // What goes on with a stream that is never answered to the end: the peer leaves.
            let stream = TcpStream::connect(&cx.broker.address).expect("accepted");
            let mut client = Client::on(stream, V5);
            let bytes = match n % 3 {
                0 => noise.bytes(64),
                1 => noise.mutate(&good[0]),
                _ => [good[0].clone(), noise.mutate(&good[1 + n % (good.len() - 1)])].concat(),
            };
            client.send(&bytes);
            if n % 16 == 0 {
                let _ = client.stream().shutdown(Shutdown::Write);
                read_to_end(&client);
                bystanders.exchange();
            }
        }
        assert!(cx.broker.is_running());
        bystanders.exchange();
    });
}

/// Packets to be mutated: the first is a CONNECT.
fn garbage_seed(cx: &Cx<'_>) -> Vec<Vec<u8>> {
    let topic = cx.topic("garbage");
    let will = common::Will::new(&topic, "will");
    vec![
        cx.v5("garbage").will(will).username("u").password("p").encode(),
        Publish::new(&topic, "x").qos(1).id(1).expiry(9).encode(V5),
        Publish::new(&topic, "x").qos(2).id(2).alias(1).encode(V5),
        Subscribe::new(3, &topic, 1).and("$share/g/+/x", 2).encode(V5),
        packet::Unsubscribe { id: 4, filters: vec![topic.into_bytes()] }.encode(V5),
        packet::ack(packet::PUBREL, 2, 0),
        packet::auth(0x19, &common::Props::none().str(common::prop::AUTH_METHOD, "m")),
        packet::disconnect(V5, 4, &common::Props::none().user("k", "v")),
    ]
}

/// Reads whatever comes until the broker has closed.
fn read_to_end(client: &Client) {
    use std::io::Read;
    let mut stream = client.stream();
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    let mut rest = Vec::new();
    if let Err(e) = stream.read_to_end(&mut rest) {
        let reset = e.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(reset, "the broker did not close: {e}");
    }
}

#[test]
fn slow_loris_before_connect_is_closed() {
    HASTY.run("loris", |cx| {
        let mut bystanders = Bystanders::new(cx);
        let connect = cx.v5("loris").username("u".repeat(5000)).encode();
        let mut silent: Vec<Client> = (0..20).map(|_| cx.raw(V5)).collect();
        let mut slow: Vec<Client> = (0..20).map(|_| cx.raw(V5)).collect();
        let start = Instant::now();
        let mut sent = 0;
        // A byte now and then does not buy more time.
        while slow.iter_mut().any(|c| c.try_send(&connect[sent..=sent])) {
            sent += 1;
            assert!(start.elapsed() < PATIENCE, "a slow CONNECT is still open");
            thread::sleep(Duration::from_millis(100));
            bystanders.exchange();
        }
        for client in &mut silent {
            assert_eq!(client.event(PATIENCE), Event::Closed);
        }
        bystanders.exchange();
    });
}

#[test]
fn silence_before_connect_is_closed_by_the_defaults_too() {
    FLEET.run("silence", |cx| {
        let mut client = cx.raw(V5);
        // The default is 10 s; it must not be for ever.
        assert_eq!(client.event(PATIENCE), Event::Closed);
    });
}

#[test]
fn a_large_message_in_small_pieces_arrives_whole() {
    FLEET.run("pieces", |cx| {
        let topic = cx.topic("t");
        let mut sub = cx.watcher(&topic, 1);
        let mut publisher = cx.publisher();
        let payload: Vec<u8> = (0..200_000u32).map(|n| (n * 7) as u8).collect();
        let bytes = Publish::new(&topic, &payload).qos(1).id(1).encode(V5);
        for piece in bytes.chunks(1777) {
            publisher.send(piece);
        }
        assert!(publisher.expect_puback(1) < 0x80);
        assert_eq!(sub.message().payload, payload);
    });
}

#[test]
fn a_packet_that_never_ends_harms_only_its_sender() {
    FLEET.run("endless", |cx| {
        let mut bystanders = Bystanders::new(cx);
        let mut stuck: Vec<Client> = (0..50)
            .map(|n| {
                let mut client = cx.connect(cx.v5(&format!("c{n}")));
                client.send(&header_only(0x30, 100_000));
                client.send(&[0; 5000]);
                client
            })
            .collect();
        for _ in 0..20 {
            bystanders.exchange();
        }
        // A takeover ends it like any other connection.
        let mut again = cx.connect(cx.v5("c0"));
        stuck[0].expect_disconnect(&[code::TAKEN_OVER]);
        again.ping();
    });
}

#[test]
fn a_subscriber_that_does_not_read_harms_nobody() {
    DEAF.run("deaf", |cx| {
        let topic = cx.topic("t");
        let mut deaf = cx.connect(cx.v5("deaf"));
        deaf.subscribe(&topic, 0);
        let mut bystanders = Bystanders::new(cx);
        let mut publisher = cx.publisher();
        let before = cx.broker.resident_kib();
        let batch: Vec<u8> =
            (0..64).flat_map(|_| Publish::new(&topic, [0; 16_384]).encode(V5)).collect();
        // 128 MiB for a client that takes none of it.
        for _ in 0..128 {
            publisher.send(&batch);
            bystanders.exchange();
        }
        publisher.ping();
        if let (Some(before), Some(after)) = (before, cx.broker.resident_kib()) {
            assert!(after < before + 64 * 1024, "from {before} KiB to {after} KiB");
        }
        bystanders.exchange();
    });
}

#[test]
fn many_topics_filters_and_properties_in_one_packet() {
    FLEET.run("many", |cx| {
        let mut bystanders = Bystanders::new(cx);
        let mut client = cx.connect(cx.v5("a"));
        let mut subscribe = Subscribe::new(1, cx.topic("0"), 0);
        for n in 1..2000 {
            subscribe = subscribe.and(cx.topic(&n.to_string()), 0);
        }
        client.send(&subscribe.encode(V5));
        let answer = client.event(PATIENCE);
        match &answer {
            Event::Packet(Packet::SubAck { codes, .. }) => assert_eq!(codes.len(), 2000),
            Event::Packet(Packet::Disconnect { code, .. }) => assert!(*code >= 0x80),
            other => panic!("2000 filters got {other:?}"),
        }
        let mut props = common::Props::none();
        for n in 0..2000 {
            props = props.user(&n.to_string(), "v");
        }
        let mut client = cx.connect(cx.v5("b"));
        client.send_publish(&Publish::new(&cx.topic("p"), "x").qos(1).id(1).props(props));
        match client.event(PATIENCE) {
            Event::Packet(Packet::PubAck(_) | Packet::Disconnect { .. }) => {}
            other => panic!("2000 user properties got {other:?}"),
        }
        let deep = "/".repeat(60_000);
        let mut client = cx.connect(cx.v5("c"));
        client.send(&Subscribe::new(1, &deep, 0).encode(V5));
        match client.event(PATIENCE) {
            Event::Packet(Packet::SubAck { .. } | Packet::Disconnect { .. }) => {}
            other => panic!("60 000 levels got {other:?}"),
        }
        bystanders.exchange();
    });
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    CHURN.run("churn", |cx| {
        let mut bystanders = Bystanders::new(cx);
        let churn = |count: usize| {
            for n in 0..count {
                let connect = cx.v5(&format!("c{}", n % 50)).will(common::Will::new("w", "w"));
                let mut client = cx.connect(connect);
                client.subscribe(&cx.topic(&format!("t/{n}/+")), 1);
                client.drop_connection();
            }
        };
        churn(300);
        let before = cx.broker.resident_kib();
        churn(1500);
        bystanders.exchange();
        if let (Some(before), Some(after)) = (before, cx.broker.resident_kib()) {
            assert!(after < before + 16 * 1024, "from {before} KiB to {after} KiB");
        }
    });
}

/// Says whether the broker is someone else's, in which case the test has nothing to do.
fn foreign(name: &str) -> bool {
    let foreign = target().is_some();
    if foreign {
        eprintln!("{name}: skipped: needs a broker of its own");
    }
    foreign
}

#[test]
fn out_of_descriptors_refuses_new_connections_and_keeps_old_ones() {
    if foreign("descriptors") {
        return;
    }
    for shards in common::fleet::shard_counts() {
        // Enough to start, few enough to run out of. A ring's own slots would be no descriptors.
        let settings = Settings::new(shards).nofile(300).env("RINGTIDE_DESCRIPTORS", "plain");
        let broker = Broker::start(&settings);
        let cx = Cx::new("nofile", &broker);
        let mut bystanders = Bystanders::new(&cx);
        let mut held: Vec<Client> = Vec::new();
        for n in 0..600 {
            let Ok(stream) = TcpStream::connect(&broker.address) else { break };
            let mut client = Client::on(stream, V5);
            client.send(&cx.v5(&format!("c{n}")).encode());
            held.push(client);
        }
        bystanders.exchange();
        let mut accepted = Vec::new();
        for mut client in held {
            // Refused ones are closed, or wait in the kernel's queue.
            if let Event::Packet(Packet::ConnAck { code: 0, .. }) =
                client.event(Duration::from_millis(20))
            {
                accepted.push(client);
            }
        }
        eprintln!("{shards} shards: {} accepted of 600", accepted.len());
        assert!((50..300).contains(&accepted.len()), "{} accepted", accepted.len());
        assert!(broker.is_running());
        for client in &mut accepted {
            client.ping();
        }
        bystanders.exchange();
        drop(accepted);
        // With room again it accepts again.
        eventually("a new connection is served", || {
            let Ok(stream) = TcpStream::connect(&broker.address) else { return false };
            let mut client = Client::on(stream, V311);
            client.send(&cx.v311("new").encode());
            matches!(
                client.event(Duration::from_secs(5)),
                Event::Packet(Packet::ConnAck { code: 0, .. })
            )
        });
        bystanders.exchange();
    }
}

/// Runs the program to its end and returns its success and what it said.
fn run(args: &[&str]) -> (bool, String) {
    let mut command = Command::new(program());
    without_settings(&mut command);
    let output = command.args(args).output().expect("the program starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// A clear refusal: not a success, no panic, one line that names the matter.
fn expect_refusal(args: &[&str], words: &[&str]) {
    let (success, said) = run(args);
    assert!(!success, "{args:?} succeeded: {said}");
    assert!(!said.contains("panicked"), "{said}");
    let line = said.lines().find(|line| words.iter().all(|w| line.contains(w)));
    assert!(line.is_some(), "{args:?}: no line names {words:?}: {said}");
    let lines = said.lines().filter(|line| !line.contains(" WARN ")).count();
    assert!(lines <= 12, "one clear line, not a wall: {said}");
}

#[test]
fn a_taken_port_is_one_clear_line_and_a_failure() {
    if foreign("port") {
        return;
    }
    for shards in ["1", "3"] {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = holder.local_addr().expect("its address").to_string();
        let data = scratch().display().to_string();
        let args = ["run", "--listen", &address, "--shards", shards, "--data-dir", &data];
        expect_refusal(&args, &[&address]);
    }
}

#[test]
fn a_port_of_another_broker_is_taken_too() {
    if foreign("port2") {
        return;
    }
    let broker = Broker::start(&Settings::new(1));
    let data = scratch().display().to_string();
    let args = ["run", "--listen", &broker.address, "--shards", "1", "--data-dir", &data];
    expect_refusal(&args, &[&broker.address]);
    Client::connect(&broker.address, &Connect::new(V5, "still-served")).ping();
}

#[test]
fn bad_configuration_is_one_clear_line_and_a_failure() {
    if foreign("config") {
        return;
    }
    let dir = scratch();
    let missing = dir.join("no-such.toml").display().to_string();
    expect_refusal(&["run", "--config", &missing], &["no-such.toml"]);
    let path = dir.join("bad.toml");
    let path_text = path.display().to_string();
    for (text, words) in [
        ("[limits]\nrecieve_maximum = 5\n", ["bad.toml:2", "receive_maximum"]),
        ("[limits]\nreceive_maximum = \"many\"\n", ["bad.toml:2", "many"]),
        ("\n\n[limits\n", ["bad.toml:3", ""]),
    ] {
        std::fs::write(&path, text).expect("a file");
        expect_refusal(&["run", "--config", &path_text], &words);
        expect_refusal(&["check-config", "--config", &path_text], &words);
    }
    expect_refusal(&["run", "--listen", "nonsense"], &["nonsense"]);
    expect_refusal(&["run", "--listen", ANY_PORT, "--shards", "many"], &["many"]);
}

#[test]
fn an_unreadable_access_file_never_means_allow() {
    if foreign("acl") {
        return;
    }
    let dir = scratch();
    let config = dir.join("ringtide.toml");
    for (name, rules) in [("missing.acl", None), ("wrong.acl", Some("allow everybody anything\n"))]
    {
        if let Some(rules) = rules {
            std::fs::write(dir.join(name), rules).expect("a file");
        }
        let text = format!("[access]\nacl_file = \"{}\"\n", dir.join(name).display());
        std::fs::write(&config, text).expect("a file");
        let config = config.display().to_string();
        let data = dir.join("data").display().to_string();
        let args = ["run", "--listen", ANY_PORT, "--config", &config, "--data-dir", &data];
        expect_refusal(&args, &[name]);
    }
}
