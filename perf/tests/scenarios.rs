//! `ringtide-perf run` as a program: scaled-down scenarios of each kind against a real broker,
//! their reports, and every exit code.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use common::{PROGRAM, Scratch, broker, ended, root};

/// `ringtide-perf run` in the root of the sources.
fn command(scenario: &str, scratch: &Scratch, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["run", scenario, "--results"]).arg(&scratch.0).arg("--broker").arg(broker());
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs a scenario whose messages must all come; a slow machine may break latency bars.
#[track_caller]
fn run(scenario: &str, scratch: &Scratch, arguments: &[&str]) -> (Value, String, String) {
    let output = command(scenario, scratch, arguments).output().unwrap();
    let said = ended(0, &output);
    let (report, page) = scratch.report();
    for fault in ["lost", "duplicates", "out_of_order", "misrouted", "protocol", "disconnected"] {
        assert_eq!(report["faults"][fault], 0, "{fault}: {said}");
    }
    assert_eq!(report["counts"]["connects_failed"], 0, "{said}");
    assert!(report["cut_short"].is_null());
    (report, page, said)
}

fn sampler<'a>(report: &'a Value, name: &str, deliveries: bool) -> &'a Value {
    let samplers = report["samplers"].as_array().unwrap();
    let found = samplers.iter().find(|s| s["name"] == name && s["deliveries"] == deliveries);
    found.unwrap_or_else(|| panic!("no sampler {name} in {samplers:?}"))
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

#[test]
fn pairs_with_a_listener_to_all_topics_and_their_report() {
    let scratch = Scratch::new("e-4");
    let options = ["--scale", "0.0002", "--duration", "4", "--shards", "2"];
    let (report, page, said) = run("e-4", &scratch, &options);
    assert_eq!((&report["scenario"], &report["clients"]), (&"e-4".into(), &321.into()));
    assert_eq!(report["peak"]["connections"], 321);
    let devices = count(&sampler(&report, "Devicepub", false)["count"]);
    let mobiles = count(&sampler(&report, "Mobilepub", false)["count"]);
    assert!(devices > 0 && mobiles > 0, "{said}");
    assert_eq!(count(&sampler(&report, "Mobilesub", true)["count"]), devices);
    assert_eq!(count(&sampler(&report, "Devicesub", true)["count"]), mobiles);
    let listener = sampler(&report, "ListenToAllTopics", true);
    assert_eq!(count(&listener["count"]), devices + mobiles);
    assert!(listener["max_ms"].as_f64().unwrap() > 0.0);
    let bars = report["bars"].as_array().unwrap();
    assert!(bars.iter().all(|bar| bar["held"] == true) && bars.len() == 3, "{bars:?}");
    assert!(report["peak"]["broker_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(!report["readings"].as_array().unwrap().is_empty());
    for stage in ["1/4 mobile sub", "2/4 mobile sub and device pub", "3/4 device pub", "4/4 hold"] {
        assert!(said.contains(&format!("stage {stage}:")), "{stage}: {said}");
    }
    // The page stands alone and holds the same figures.
    for outside in ["<script", "http://", "https://", "<link", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.matches("<svg").count() >= 4, "{page}");
    assert!(page.contains("ListenToAllTopics") && page.contains("All bars held."));
    assert!(page.contains(&format!("<td>messages sent</td><td>{}</td>", devices + mobiles)));
    assert!(page.contains("EMQ 2.3.2 on Docker in AWS (source E), scenario 4"));
}

#[test]
fn a_mix_of_qos_is_acknowledged_and_comes_once() {
    let scratch = Scratch::new("e-6");
    let (report, ..) = run("e-6", &scratch, &["--scale", "0.0005", "--duration", "4"]);
    let acknowledged = count(&sampler(&report, "Devicepub QoS 1", false)["count"]);
    assert!(acknowledged > 0);
    assert_eq!(sampler(&report, "Devicepub QoS 1", false)["success_percent"], 100.0);
    assert_eq!(count(&sampler(&report, "Mobilesub QoS 1", true)["count"]), acknowledged);
}

#[test]
fn clients_with_a_short_life_leave_and_come_again() {
    let scratch = Scratch::new("e-7");
    let (report, ..) = run("e-7", &scratch, &["--scale", "0.0005", "--duration", "4"]);
    assert!(count(&report["counts"]["left"]) > 0, "{}", report["counts"]);
    assert!(count(&report["counts"]["connected"]) > count(&report["clients"]));
    assert!(count(&sampler(&report, "ListenToAllTopics", true)["count"]) > 0);
}

#[test]
fn the_highest_rate_and_large_messages_over_io_uring() {
    let scratch = Scratch::new("rate");
    let options = ["--scale", "0.0005", "--duration", "2", "--io", "uring"];
    let (report, ..) = run("a-qos0-rate", &scratch, &options);
    let sent = count(&report["counts"]["sent"]);
    assert!(sent > 18 * 32, "more than the first windows: {sent}");
    assert_eq!(count(&report["counts"]["delivered"]), sent);
    let scratch = Scratch::new("bulk");
    let options = ["--scale", "0.0003", "--duration", "3", "--io", "uring"];
    let (report, ..) = run("a-bandwidth", &scratch, &options);
    assert!(count(&report["counts"]["delivered"]) >= 5);
}

#[test]
fn several_processes_measure_as_one() {
    let scratch = Scratch::new("parts");
    let options = ["--scale", "0.0005", "--duration", "4", "--processes", "3"];
    let (report, _, said) = run("e-1", &scratch, &options);
    assert_eq!((&report["clients"], &report["peak"]["connections"]), (&100.into(), &100.into()));
    assert_eq!(report["counts"]["connected"], 100, "{said}");
    let sent = count(&report["counts"]["sent"]);
    assert!(sent > 0 && count(&report["counts"]["delivered"]) == sent, "{said}");
    assert_eq!(count(&sampler(&report, "Mobilesub", true)["count"]), {
        count(&sampler(&report, "Devicepub", false)["count"])
    });
    assert!(report["peak"]["broker_bytes"].is_u64());
    let options = ["--scale", "0.0001", "--processes", "2"];
    let said = ended(2, &command("e-4", &scratch, &options).output().unwrap());
    assert!(said.contains("`topic/#` hears the clients of all processes"), "{said}");
}

#[test]
fn idle_clients_are_held_and_cost_what_they_cost() {
    let scratch = Scratch::new("idle");
    let (report, ..) = run("a-idle", &scratch, &["--scale", "0.00001", "--duration", "3"]);
    assert_eq!(report["peak"]["connections"], 1008);
    assert!(report["peak"]["bytes_per_connection"].is_number());
    // So few say nothing of what one costs.
    assert_eq!(report["bars"].as_array().unwrap().len(), 2);
}

#[test]
fn a_broker_without_the_transport_ends_with_5_and_another_can_be_asked_for() {
    let scratch = Scratch::new("ws");
    let small = ["--scale", "0.00002", "--duration", "2"];
    let mut other = Command::new(PROGRAM);
    other.args(["run", "b-websocket-1m", "--broker", "/missing/rumqttd", "--results"]);
    other.arg(&scratch.0).args(small).current_dir(root()).stdin(Stdio::null());
    let said = ended(5, &other.output().unwrap());
    assert!(said.contains("rumqttd is not known to listen with ws"), "{said}");
    let options = [&small[..], &["--transport", "tcp"]].concat();
    let (report, page, _) = run("b-websocket-1m", &scratch, &options);
    assert_eq!(report["clients"], 20);
    assert!(page.contains("The source used ws, this run tcp"));
}

#[test]
fn a_wrong_scenario_ends_with_2_before_any_connection_is_made() {
    let scratch = Scratch::new("wrong");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let refuse = |scenario: &str, arguments: &[&str]| {
        let arguments = [&["--target", &address], arguments].concat();
        ended(2, &command(scenario, &scratch, &arguments).output().unwrap())
    };
    let text = fs::read_to_string(root().join("perf/scenarios/e-1.toml")).unwrap();
    let path = scratch.0.join("own.toml");
    fs::write(&path, text.replacen("connect_per_s", "conects_per_s", 1)).unwrap();
    let own = path.to_str().unwrap();
    let said = refuse(own, &[]);
    assert!(said.contains("own.toml:8: unknown field `conects_per_s`"), "{said}");
    fs::write(&path, text.replacen("clients = 100000", "clients = 900000000", 2)).unwrap();
    let said = refuse(own, &["--scale", "1"]);
    assert!(said.contains("own.toml:") && said.contains(" = "), "{said}");
    assert!(said.contains("descriptors") || said.contains("addresses"), "{said}");
    assert!(refuse("no-such-scenario", &[]).contains("perf/scenarios"));
    assert!(refuse("e-1", &["--scale", "0"]).contains("--scale"));
    let error = listener.accept().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "nobody connected");
}

#[test]
fn a_bar_that_is_not_held_ends_with_3() {
    let scratch = Scratch::new("bar");
    let text = fs::read_to_string(root().join("perf/scenarios/e-1.toml")).unwrap();
    let path = scratch.0.join("own.toml");
    fs::write(&path, format!("{text}p99_ms = 0.000001\n")).unwrap();
    let small = ["--scale", "0.001", "--duration", "2"];
    let said = ended(3, &command(path.to_str().unwrap(), &scratch, &small).output().unwrap());
    assert!(said.contains("NOT HELD"), "{said}");
    let (_, page) = scratch.report();
    assert!(page.contains("Not all bars held."));
}

/// A child that is killed when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_broker_that_dies_ends_the_run_with_what_was_measured() {
    let scratch = Scratch::new("dies");
    let mut start = Command::new(broker());
    start.args(["run", "--listen", "127.0.0.1:0", "--shards", "1", "--data-dir"]);
    start.arg(scratch.0.join("data")).env("RINGTIDE_CONFIG", "/dev/null");
    start.env_remove("NOTIFY_SOCKET").stderr(Stdio::piped());
    let mut broker = Running(start.spawn().unwrap());
    let mut log = BufReader::new(broker.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on ") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the broker did not start");
    }
    let (_, rest) = line.split_once("listening on ").unwrap();
    let address = rest.split([',', ' ']).next().unwrap().to_owned();
    let pid = broker.0.id().to_string();
    let options = ["--scale", "0.001", "--duration", "60", "--target", &address, "--pid", &pid];
    let mut generator = command("e-1", &scratch, &options);
    generator.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut generator = Running(generator.spawn().unwrap());
    let mut said = BufReader::new(generator.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("stage 1/3") {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "the run ended by itself");
    }
    broker.0.kill().unwrap();
    broker.0.wait().unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(generator.0.wait().unwrap().code(), Some(4), "{rest}");
    let (report, page) = scratch.report();
    assert!(report["cut_short"].as_str().unwrap().contains("the broker was gone"), "{report}");
    assert!(count(&report["counts"]["connected"]) >= 100);
    assert!(page.contains("Cut short: the broker was gone in stage"));
}
