//! The generator's transports as a user runs them: scenarios over WebSocket and TLS against the
//! broker and against mosquitto, certificates that are not trusted, and `ringtide-perf transports`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use common::{PROGRAM, Scratch, broker, ended, root};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

fn perf(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(root()).stdin(Stdio::null()).output().unwrap()
}

/// Runs a small scenario with pairs over a transport; its report's notes.
#[track_caller]
fn pairs(program: &Path, transport: &str, more: &[&str]) -> String {
    let scratch = Scratch::new(&format!("pairs-{transport}"));
    let (program, results) = (program.to_str().unwrap(), scratch.0.to_str().unwrap());
    let small = ["run", "b-websocket-1m", "--scale", "0.00004", "--duration", "3"];
    let where_to = ["--broker", program, "--results", results, "--transport", transport];
    let output = perf(&[&small[..], &where_to, more].concat());
    // Latency may be anything on a loaded machine.
    assert!([Some(0), Some(3)].contains(&output.status.code()), "{output:?}");
    let (report, _) = scratch.report();
    for fault in ["lost", "duplicates", "out_of_order", "misrouted", "protocol", "disconnected"] {
        assert_eq!(report["faults"][fault], 0, "{fault}: {report}");
    }
    let count = |name: &str| report["counts"][name].as_u64().unwrap();
    assert_eq!((count("connected"), count("connects_failed")), (40, 0));
    assert!(count("sent") > 0 && count("sent") == count("delivered"), "{}", report["counts"]);
    report["notes"].to_string()
}

#[test]
fn scenarios_over_every_transport() {
    assert!(pairs(broker(), "ws", &[]).contains("over ws"));
    assert!(pairs(broker(), "ws", &["--zero-mask"]).contains("masked with zeros"));
    let notes = pairs(broker(), "tls", &["--io", "uring"]);
    assert!(notes.contains("TLSv1_3 TLS13_AES_128_GCM_SHA256; 40 full handshakes"), "{notes}");
    assert!(pairs(broker(), "wss", &["--insecure"]).contains("certificates were not verified"));
    assert!(pairs(broker(), "wss", &["--processes", "2"]).contains("over wss"));
}

#[test]
fn scenarios_with_another_broker() {
    if !Path::new(MOSQUITTO).exists() {
        let required = std::env::var_os("RINGTIDE_REQUIRE_CLIENTS").is_some();
        assert!(!required, "{MOSQUITTO} is missing: apt install mosquitto");
        return;
    }
    for transport in ["ws", "tls", "wss"] {
        let notes = pairs(Path::new(MOSQUITTO), transport, &[]);
        assert!(notes.contains(&format!("over {transport}")), "{notes}");
    }
}

#[test]
fn tls_needs_somebody_to_trust() {
    let said = ended(1, &perf(&["load", "pairs", "--transport", "tls"]));
    assert!(said.contains("tls needs --ca FILE"), "{said}");
}

/// A comparison of a few connections; its record.
#[track_caller]
fn compare(rows: &str) -> Value {
    let scratch = Scratch::new(rows.split(',').next().unwrap());
    let (program, results) = (broker().to_str().unwrap(), scratch.0.to_str().unwrap());
    let small = ["--rounds", "1", "--measure-ms", "1000", "--connections-max", "40"];
    let cpus = ["--broker-cpu", "0", "--cpu", "0", "--remark", "a test"];
    let which = ["transports", "--broker", program, "--results", results, "--rows", rows];
    let output = perf(&[&which[..], &small, &cpus].concat());
    let said = ended(0, &output);
    let mut files = std::fs::read_dir(&scratch.0).unwrap();
    let text = std::fs::read_to_string(files.next().unwrap().unwrap().path()).unwrap();
    assert!(!text.contains(results.rsplit_once('/').unwrap().0), "a folder of this host");
    let record: Value = serde_json::from_str(&text).unwrap();
    for row in record["rows"].as_array().unwrap() {
        assert_eq!(row["errors"], Value::Array(Vec::new()), "{said}");
        for run in row["runs"].as_array().unwrap() {
            assert!(run["report"]["done"].as_u64().unwrap() > 0, "{said}");
            // What is still on its way when a slow machine's time is over counts as lost.
            for fault in ["duplicates", "out_of_order", "misrouted", "protocol", "disconnected"] {
                assert_eq!(run["report"]["faults"][fault], 0, "{fault}: {said}");
            }
        }
        for result in row["results"].as_array().unwrap() {
            let measured = result["median"].is_number();
            // So few connections may take less than nothing, and a handshake no more than noise.
            assert!(measured || result["figure"].as_str().unwrap().contains("core-s"), "{said}");
        }
    }
    record
}

#[test]
fn transports_and_drivers_are_compared_and_recorded() {
    let record = compare("ws-25k,ws-q1,idle,tls-large,driver-q1");
    assert_eq!(record["rows"].as_array().unwrap().len(), 5);
    assert_eq!(record["remark"], "a test");
    assert!(record["commit"].is_string() && record["host"]["kernel"].is_string());
    let relay = record["rows"][3]["runs"].as_array().unwrap();
    assert!(relay.iter().any(|run| run["side"] == "relay"), "{relay:?}");
}

#[test]
fn handshakes_are_full_or_resumed_as_asked() {
    let record = compare("handshakes");
    let runs = record["rows"][0]["runs"].as_array().unwrap();
    let resumed = |side: &str| {
        let run = runs.iter().find(|run| run["side"] == side).unwrap();
        let notes = run["report"]["notes"].to_string();
        let (_, after) = notes.split_once("full handshakes, ").unwrap();
        after.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(resumed("tls"), 0);
    assert!(resumed("resumed") > 0);
}
