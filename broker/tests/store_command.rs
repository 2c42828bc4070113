//! `ringtide store`: a store is looked into without being changed, and carried to another directory
//! and another number of shards with everything in it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use common::broker::{program, scratch};
use common::packet::{PUBCOMP, PUBREC, PUBREL};
use common::{
    Broker, Client, Connect, Event, Packet, Publish, Settings, V5, V311, Will, eventually,
};
use serde_json::Value;

/// Seconds that no test lasts.
const LONG: u32 = 3600;
/// Messages that wait for each of the sessions that are away.
const MESSAGES: usize = 60;
/// Messages for a shared group.
const JOBS: usize = 10;
/// Topics with a retained message.
const RETAINED: usize = 20;

/// Runs `ringtide store`.
fn store(arguments: &[&str], data_dir: &Path) -> Output {
    let mut command = Command::new(program());
    command.env_clear().env("RINGTIDE_CONFIG", "/dev/null").arg("store").args(arguments);
    command.env("RINGTIDE_STORE_SEGMENT_BYTES", (1 << 20).to_string());
    command.arg("--data-dir").arg(data_dir).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `ringtide store` with an expected exit code; its output and its complaints.
#[track_caller]
fn ended(code: i32, arguments: &[&str], data_dir: &Path) -> (String, String) {
    let output = store(arguments, data_dir);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stdout}{stderr}");
    (stdout, stderr)
}

/// An export without what may differ between equal stores.
fn exported(data_dir: &Path) -> Vec<Value> {
    let (text, _) = ended(0, &["export"], data_dir);
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in ["written_ms", "shards"] {
        lines.first_mut().unwrap()["export"].as_object_mut().unwrap().remove(name).unwrap();
    }
    lines.last_mut().unwrap()["end"].as_object_mut().unwrap().remove("crc32c").unwrap();
    lines
}

/// All files under a directory with their bytes and times.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            found.push((path.clone(), fs::read(&path).unwrap(), changed));
        }
    }
    found.sort();
    found
}

fn start(data_dir: &Path, shards: u32) -> Broker {
    Broker::start(&Settings::new(shards).on_disk().data_dir(data_dir))
}

/// How the first broker ends.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    Kill,
    Terminate,
}

fn stop(mut broker: Broker, how: Stop) {
    if how == Stop::Terminate {
        broker.signal("TERM");
        assert!(broker.wait().success(), "{}", broker.log_text());
    }
    drop(broker);
}

fn durable(id: &str) -> Connect {
    Connect::new(V5, id).resume().expiry(LONG)
}

/// Clients at every stage that a store can keep.
fn fill(address: &str) {
    let away = |id: &str, connect: Connect, qos: u8| {
        let mut client = Client::connect(address, &connect);
        assert_eq!(client.subscribe("load/#", qos), qos, "{id}");
        assert_eq!(client.subscribe("will/#", qos), qos, "{id}");
        client.drop_connection();
    };
    away("one", durable("one"), 1);
    away("two", durable("two"), 2);
    away("old", Connect::new(V311, "old").resume(), 2);
    let mut ended = Client::connect(address, &durable("ended"));
    assert_eq!(ended.subscribe("load/#", 2), 2);
    ended.disconnect_with(0, &common::Props::none().u32(common::prop::SESSION_EXPIRY, 0));

    for worker in ["worker-0", "worker-1"] {
        let mut client = Client::connect(address, &durable(worker));
        assert_eq!(client.subscribe("$share/workers/jobs/#", 2), 2);
        client.drop_connection();
    }

    // One that has a message and has not said so, and one that was sent PUBREL.
    let mut sent = Client::connect(address, &durable("sent"));
    assert_eq!(sent.subscribe_id("exchange/sent", 2, 7), 2);
    let mut received = Client::connect(address, &durable("received"));
    assert_eq!(received.subscribe("exchange/received", 2), 2);

    let mut publisher = Client::connect(address, &Connect::new(V5, "publisher"));
    for number in 0..MESSAGES {
        let qos = 1 + (number % 2) as u8;
        let topic = format!("load/{}", number % 3);
        let publish = Publish::new(&topic, format!("{number}")).qos(qos);
        assert_eq!(publisher.publish(publish), 0);
    }
    for number in 0..JOBS {
        let publish = Publish::new("jobs/new", format!("{number}")).qos(2);
        assert_eq!(publisher.publish(publish), 0);
    }
    for number in 0..RETAINED {
        let publish = Publish::new(&format!("kept/{number}"), format!("{number}")).qos(1);
        // Nobody has subscribed to it, which not every shard can tell.
        assert!(publisher.publish(publish.retain().expiry(LONG)) < 0x80);
    }
    assert_eq!(publisher.publish(Publish::new("exchange/sent", "s").qos(2)), 0);
    assert_eq!(publisher.publish(Publish::new("exchange/received", "r").qos(2)), 0);
    assert_eq!(sent.raw_message().text(), "s");
    let message = received.raw_message();
    received.ack(PUBREC, message.packet_id(), 0);
    received.expect_pubrel(message.packet_id());
    sent.drop_connection();
    received.drop_connection();

    // One that has published and not released.
    let mut unreleased = Client::connect(address, &durable("unreleased"));
    unreleased.send_publish(&Publish::new("load/last", "last").qos(2).id(9));
    assert_eq!(unreleased.expect_pubrec(9), 0);
    unreleased.drop_connection();

    for (id, delay_s) in [("soon", 2), ("later", LONG)] {
        let will = Will::new(&format!("will/{id}"), id).qos(2).delay(delay_s);
        let testator = Client::connect(address, &durable(id).will(will));
        testator.lose_network();
    }
}

/// All that clients must find, wherever the store has gone.
fn judge(address: &str) {
    for (id, connect) in [
        ("one", durable("one")),
        ("two", durable("two")),
        ("old", Connect::new(V311, "old").resume()),
    ] {
        let mut client = Client::connect(address, &connect);
        assert!(client.session_present(), "{id}");
        let mut got = client.messages(MESSAGES + 2);
        // The will goes to its subscribers when its delay is over.
        let at = got.iter().position(|message| message.topic == "will/soon").unwrap();
        assert_eq!(got.remove(at).text(), "soon", "{id}");
        let numbers = (0..MESSAGES).map(|number| number.to_string());
        let expected: Vec<String> = numbers.chain(["last".to_owned()]).collect();
        assert_eq!(got.iter().map(Publish::text).collect::<Vec<_>>(), expected, "{id}");
        let qos: Vec<u8> = got.iter().take(2).map(|message| message.qos).collect();
        assert_eq!(qos, if id == "one" { [1, 1] } else { [1, 2] }, "{id}");
        client.expect_silence();
    }
    let ended = Client::connect(address, &durable("ended"));
    assert!(!ended.session_present());

    let mut sent = Client::connect(address, &durable("sent"));
    let message = sent.raw_message();
    assert_eq!((message.text().as_str(), message.dup, message.id), ("s", true, Some(1)));
    assert_eq!(message.props.subscription_ids(), [7]);
    sent.finish(&message);
    let mut received = Client::connect(address, &durable("received"));
    assert!(matches!(received.packet(), Packet::PubRel(ack) if ack.id == 1));
    received.ack(PUBCOMP, 1, 0);
    received.expect_silence();

    let workers = ["worker-0", "worker-1"].map(|id| Client::connect(address, &durable(id)));
    assert_eq!(jobs_of(workers), (0..JOBS).map(|number| number.to_string()).collect());

    // Its second try is no second message: nobody above has got one.
    let mut unreleased = Client::connect(address, &durable("unreleased"));
    unreleased.send_publish(&Publish::new("load/last", "last").qos(2).id(9).dup());
    assert_eq!(unreleased.expect_pubrec(9), 0);
    unreleased.ack(PUBREL, 9, 0);
    assert_eq!(unreleased.expect_pubcomp(9), 0);
    let mut one = Client::connect(address, &durable("one"));
    one.expect_silence();

    let mut fresh = Client::connect(address, &Connect::new(V5, "fresh"));
    assert_eq!(fresh.subscribe("kept/+", 1), 1);
    let kept = fresh.messages(RETAINED);
    assert!(kept.iter().all(|message| message.retain && message.topic.ends_with(&message.text())));
    let expiry = |message: &Publish| message.props.number(common::prop::MESSAGE_EXPIRY);
    assert!(kept.iter().all(|message| expiry(message).is_some_and(|left| left <= LONG)));
}

/// What the members of a group get together, each message once.
fn jobs_of(mut workers: [Client; 2]) -> BTreeSet<String> {
    let mut jobs = BTreeSet::new();
    eventually("all jobs come", || {
        for worker in &mut workers {
            while let Event::Packet(packet) = worker.event(Duration::from_millis(20)) {
                let Packet::Publish(message) = packet else { panic!("{packet:?}") };
                worker.finish(&message);
                assert!(jobs.insert(message.text()), "twice: {message:?}");
            }
        }
        jobs.len() == JOBS
    });
    workers.iter_mut().for_each(Client::expect_silence);
    jobs
}

fn carried(how: Stop, before: u32, after: u32) {
    let dir = scratch();
    let (one, two) = (dir.join("one"), dir.join("two"));
    let file = dir.join("exported");
    let broker = start(&one, before);
    fill(&broker.address);
    stop(broker, how);

    let untouched = files(&one);
    let (check, _) = ended(0, &["check"], &one);
    assert_eq!(check.lines().filter(|line| line.contains(": intact: ")).count(), before as usize);
    let (stats, _) = ended(0, &["stats", "--json"], &one);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let sessions = |name: &str| stats["sessions"][name].as_u64().unwrap();
    // A broker that is killed may not have kept yet that a connection was lost.
    assert_eq!((sessions("total"), sessions("connected") + sessions("away")), (10, 10), "{stats}");
    assert_eq!(stats["retained"]["messages"], RETAINED, "{stats}");
    assert_eq!(stats["exchanges"]["outgoing"], 2, "{stats}");
    assert_eq!(stats["exchanges"]["incoming"], 1, "{stats}");
    assert_eq!(stats["subscriptions"], 10, "{stats}");
    let largest = stats["largest_sessions"].as_array().unwrap();
    assert!(largest[0]["bytes"].as_u64() > Some(0) && (5..=6).contains(&largest.len()), "{stats}");
    let live = stats["disk"]["live_bytes"].as_u64().unwrap();
    assert!((1..stats["disk"]["total_bytes"].as_u64().unwrap()).contains(&live), "{stats}");
    let (people, _) = ended(0, &["stats"], &one);
    assert!(people.contains("retained messages   20 ("), "{people}");

    let name = file.to_str().unwrap();
    let (told, _) = ended(0, &["export", "--output", name], &one);
    assert!(told.contains("10 sessions"), "{told}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(files(&one), untouched, "nothing has changed there");
    let shards = after.to_string();
    ended(0, &["import", "--input", name, "--shards", &shards], &two);
    ended(0, &["check"], &two);
    assert_eq!(exported(&one), exported(&two));
    let broker = start(&two, after);
    judge(&broker.address);
    stop(broker, Stop::Terminate);
    // The one whose delay is not over is there still.
    let (stats, _) = ended(0, &["stats", "--json"], &two);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["wills"], 1, "{stats}");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_store_is_carried_to_fewer_shards_after_a_kill() {
    carried(Stop::Kill, 3, 2);
}

#[test]
fn a_store_is_carried_to_more_shards_after_an_orderly_end() {
    carried(Stop::Terminate, 1, 3);
}

/// A store with a few messages, and its export.
fn small(dir: &Path) -> (PathBuf, PathBuf) {
    with_payloads(dir, 1)
}

/// A store with messages of so many bytes, and its export.
fn with_payloads(dir: &Path, bytes: usize) -> (PathBuf, PathBuf) {
    let (data, file) = (dir.join("data"), dir.join("exported"));
    let broker = start(&data, 1);
    let mut client = Client::connect(&broker.address, &durable("small"));
    assert_eq!(client.subscribe("small/#", 2), 2);
    client.drop_connection();
    let mut publisher = Client::connect(&broker.address, &Connect::new(V5, "publisher"));
    for number in 0..20 {
        let payload = format!("number {number} {}", "x".repeat(bytes));
        let publish = Publish::new("small/topic", payload).qos(1);
        assert_eq!(publisher.publish(publish), 0);
    }
    stop(broker, Stop::Kill);
    ended(0, &["export", "--output", file.to_str().unwrap()], &data);
    (data, file)
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = scratch();
    let broker = start(&dir, 2);
    for command in ["check", "stats", "export"] {
        let (_, complaint) = ended(3, &[command], &dir);
        assert!(complaint.contains("another broker runs on it"), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
    stop(broker, Stop::Terminate);
    ended(0, &["check"], &dir);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn what_is_no_store_of_this_release_is_refused() {
    let dir = scratch();
    let missing = dir.join("missing");
    let (_, complaint) = ended(3, &["check"], &missing);
    assert!(complaint.contains("No such file") && !missing.exists(), "{complaint}");
    let (_, complaint) = ended(3, &["check"], &dir);
    assert!(complaint.contains("it has no store"), "{complaint}");
    fs::write(dir.join("store.toml"), "format = 99\n").unwrap();
    let (_, complaint) = ended(3, &["check"], &dir);
    assert!(complaint.contains("newer release"), "{complaint}");
    for arguments in [&["chekc"][..], &["check", "--fast"], &["import"]] {
        let (_, complaint) = ended(2, arguments, &dir);
        assert!(complaint.contains("try `ringtide store --help`"), "{complaint}");
    }
    let (_, complaint) = ended(3, &["import", "--input", "/nonexistent/file"], &missing);
    assert!(complaint.contains("/nonexistent/file"), "{complaint}");
    let (_, complaint) = ended(2, &["import", "--input", "/dev/null"], &missing);
    assert!(complaint.contains("not a file"), "{complaint}");
    let none = ["import", "--input", "/dev/null", "--shards", "0"];
    let (_, complaint) = ended(2, &none, &missing);
    assert!(complaint.contains("--shards"), "{complaint}");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn damage_is_found_told_and_not_touched() {
    let dir = scratch();
    let (data, _) = small(&dir);
    let shard = data.join("logs-1/0");
    let segment = fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.min().unwrap();
    // The second batch; those behind it say that it had been durable.
    let bytes = fs::read(&segment).unwrap();
    let batches: Vec<usize> = (1..bytes.len() / 4096)
        .map(|block| block * 4096)
        .filter(|at| bytes[*at..].starts_with(b"RTLB"))
        .collect();
    assert!(batches.len() > 3, "{} batches", batches.len());
    let at = batches[1] as u64 + 100;
    let file = fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_at(&[!bytes[at as usize]], at).unwrap();
    drop(file);

    let untouched = files(&data);
    let (told, _) = ended(1, &["check"], &data);
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(told.contains("shard 0: DAMAGED: "), "{told}");
    assert!(told.contains(" are lost") && told.contains(name), "{told}");
    let (stats, warning) = ended(1, &["stats", "--json"], &data);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["damaged"], true);
    assert!(warning.contains(" are lost"), "{warning}");
    let (lines, _) = ended(1, &["export"], &data);
    assert!(lines.lines().last().unwrap().starts_with("{\"end\":"), "{lines}");
    assert_eq!(files(&data), untouched);

    // A file that was cut short, and one of a newer release.
    fs::write(&segment, &bytes[..8192]).unwrap();
    let (told, _) = ended(1, &["check"], &data);
    assert!(told.contains(name), "{told}");
    let mut newer = bytes[..4096].to_vec();
    newer[8] = 2;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&newer[..12]), &newer[16..]);
    newer[12..16].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&segment, newer).unwrap();
    for command in ["check", "stats", "export"] {
        let (_, told) = ended(3, &[command], &data);
        assert!(told.contains("newer release") && told.contains(name), "{told}");
    }
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_log_of_one_shard_alone_is_never_missing() {
    let dir = scratch();
    let broker = start(&dir, 2);
    let mut client = Client::connect(&broker.address, &durable("one"));
    assert_eq!(client.subscribe("small/#", 1), 1);
    client.drop_connection();
    stop(broker, Stop::Kill);
    let (told, _) = ended(0, &["check"], &dir);
    let is_idle = |shard: &usize| told.contains(&format!("shard {shard}: intact: 0 records"));
    let idle = (0..2).find(is_idle).unwrap();
    fs::remove_dir_all(dir.join("logs-1").join(idle.to_string())).unwrap();
    let (told, _) = ended(1, &["check"], &dir);
    assert!(told.contains("the log is missing"), "{told}");
    let (_, told) = ended(1, &["export"], &dir);
    assert!(told.contains("the log is missing"), "{told}");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_file_that_is_not_whole_makes_no_store() {
    let dir = scratch();
    let (data, file) = small(&dir);
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let last = lines.len();
    let without = |index: usize| {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != index);
        kept.map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    let first = |line: &str| whole.replacen(lines[0], line, 1);
    let newer = first(&lines[0].replace("\"version\":1", "\"version\":2,\"more\":0"));
    for (text, at, complaint) in [
        (String::new(), 0, "it is empty"),
        (first("{\"a\":1}"), 1, "not what `ringtide store export` writes"),
        (newer, 1, "newer release"),
        (whole[..whole.len() - 20].to_owned(), last, "cut off"),
        (without(last - 1), last, "the closing line is missing"),
        (without(1), 2, "there is no session 1"),
        (without(5), last - 1, "the checksum is"),
        (format!("{whole}{{}}\n"), last + 1, "something follows"),
        (whole.replacen("small/topic", "small/t+pic", 1), 3, "topic `small/t+pic`"),
        (whole.replacen("\"client_id\"", "\"client\"", 1), 2, "unknown field `client`"),
        (whole.replacen("\"payload\":\"", "\"payload\":\"*", 1), 3, "base64"),
        (whole.replacen("\"place\":1,", "\"place\":2,", 1), 4, "place 2 twice"),
        (whole.replacen("\"qos\":2", "\"qos\":3", 1), 2, "QoS 3"),
    ] {
        let bad = dir.join("bad");
        fs::write(&bad, text).unwrap();
        let two = dir.join("two");
        let (_, told) = ended(2, &["import", "--input", bad.to_str().unwrap()], &two);
        assert!(told.contains(&format!("bad:{at}: ")) && told.contains(complaint), "{told}");
        assert!(!two.exists(), "{told}");
    }
    let good = ["import", "--input", file.to_str().unwrap()];
    let (_, told) = ended(2, &good, &data);
    assert!(told.contains("it has a store already"), "{told}");
    ended(0, &good, &dir.join("two"));
    let (_, told) = ended(2, &good, &dir.join("two"));
    assert!(told.contains("it has a store already"), "{told}");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn an_import_that_is_killed_leaves_no_store() {
    let dir = scratch();
    let (_, file) = small(&dir);
    let two = dir.join("two");
    let input = file.to_str().unwrap();
    // The system kills it for the size of the first file that it makes.
    let mut command = Command::new("prlimit");
    command.args(["--fsize=65536", "--core=0", "--", &program()]);
    command.args(["store", "import", "--input", input, "--data-dir"]).arg(&two);
    let output = command.env("RINGTIDE_CONFIG", "/dev/null").output().unwrap();
    assert_eq!(output.status.code(), None, "{}", text(&output.stderr));
    for command in ["check", "export"] {
        let (_, told) = ended(3, &[command], &two);
        assert!(told.contains("an import into it was cut short"), "{told}");
    }
    let mut run = Command::new(program());
    run.env_clear().env("RINGTIDE_CONFIG", "/dev/null").args(["run", "--listen", "127.0.0.1:0"]);
    let output = run.arg("--data-dir").arg(&two).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("run `ringtide store import` again"));
    ended(0, &["import", "--input", input], &two);
    ended(0, &["check"], &two);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn an_import_without_room_takes_back_what_it_wrote() {
    let dir = scratch();
    let (_, file) = with_payloads(&dir, 100_000);
    let two = dir.join("two");
    let arguments = ["store", "import", "--input", file.to_str().unwrap(), "--data-dir"];
    let mut command = Command::new(program());
    command.env_clear().env("RINGTIDE_CONFIG", "/dev/null").args(arguments).arg(&two);
    for (key, kib) in [("SEGMENT_BYTES", 64), ("CHECKPOINT_BYTES", 64), ("DISK_BYTES_MAX", 512)] {
        command.env(format!("RINGTIDE_STORE_{key}"), (kib << 10).to_string());
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let left: Vec<_> = fs::read_dir(&two).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["LOCK"], "{}", text(&output.stderr));
    ended(0, &["import", "--input", file.to_str().unwrap()], &two);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn an_export_that_cannot_be_written_replaces_nothing() {
    let dir = scratch();
    let (data, file) = small(&dir);
    let before = fs::read(&file).unwrap();
    // What the new file would be called is a folder that is not empty.
    fs::create_dir_all(dir.join("exported.new/in-the-way")).unwrap();
    let output = ["export", "--output", file.to_str().unwrap()];
    let (_, told) = ended(3, &output, &data);
    assert!(told.contains("nothing was exported"), "{told}");
    assert_eq!(fs::read(&file).unwrap(), before);
    fs::remove_dir_all(&dir).unwrap();
}
