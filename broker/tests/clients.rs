//! Real clients through the broker, across shards: mosquitto's from Debian, paho-mqtt and gmqtt's
//! own suite (Python), mqtt.js. The scripts are in `clients/`; this starts the broker and them.
//!
//! A client that is not installed is skipped with the reason, unless `RINGTIDE_REQUIRE_CLIENTS=1`
//! (which `make test` sets). Python is `.venv/bin/python` of the repository, or what
//! `RINGTIDE_PYTHON` names; mqtt.js is in `clients/node_modules`.

mod common;

#[path = "../tls/tests/common/authority.rs"]
mod authority;
#[path = "secured/client.rs"]
mod client;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use client::Files;
use common::broker::scratch;
use common::fleet::shard_counts;
use common::{Broker, Settings};

/// How long one script may take. Generous: it ends by itself long before.
const SCRIPT_TIME_MAX: Duration = Duration::from_secs(300);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

fn python() -> PathBuf {
    std::env::var_os("RINGTIDE_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python"),
        PathBuf::from,
    )
}

/// Whether a probe succeeds; if not, says why the test is skipped, or fails where it must not be.
fn available(what: &str, mut probe: Command) -> bool {
    let found = probe.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    let required = std::env::var("RINGTIDE_REQUIRE_CLIENTS").is_ok_and(|v| v == "1");
    assert!(!required, "{what} is required and not installed");
    eprintln!("skipped: {what} is not installed");
    false
}

fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder()).stdin(Stdio::null());
    command
}

/// A listener for clients that speak WebSocket themselves.
const WEB: &str = "[[listeners]]\nbind = \"@LISTEN@\"\ntransport = \"ws\"\n";

/// The brokers to test with: the one that is there already, if it may be any, or the fewest and
/// the most shards.
fn brokers(listener: &str) -> Vec<Broker> {
    if let Some(address) = common::broker::target()
        && listener.is_empty()
    {
        return vec![Broker::external(&address)];
    }
    let mut counts = shard_counts();
    counts.sort_unstable();
    counts.dedup();
    let chosen: Vec<u32> = match counts.as_slice() {
        [fewest, .., most] => vec![*fewest, *most],
        one => one.to_vec(),
    };
    // Real clients meet the real store.
    let settings = |n| Settings::new(n).on_disk().config(listener);
    chosen.into_iter().map(|n| Broker::start(&settings(n))).collect()
}

/// Runs a script against every broker; it is given host and port.
fn run(script: impl Fn(&str, &str) -> Command) {
    run_on("", script);
}

/// The same with brokers that have this listener, or the usual one.
fn run_on(listener: &str, script: impl Fn(&str, &str) -> Command) {
    for broker in brokers(listener) {
        let (host, port) = broker.address.rsplit_once(':').expect("host:port");
        let path = scratch().join("out");
        let out = std::fs::File::create(&path).expect("a file for the output");
        let err = out.try_clone().expect("the same file");
        let mut child = script(host, port).stdout(out).stderr(err).spawn().expect("it starts");
        let end = Instant::now() + SCRIPT_TIME_MAX;
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child to ask") {
                break status;
            }
            if Instant::now() > end {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let said = std::fs::read_to_string(&path).unwrap_or_default();
        let shards = broker.shards;
        let log = broker.log_text();
        assert!(status.success(), "{status}, {shards} shards:\n{said}\nthe broker's log:\n{log}");
        assert!(broker.is_running(), "the broker ended:\n{log}");
    }
}

#[test]
fn mosquitto_clients() {
    if available("mosquitto_sub", command("sh", &["-c", "command -v mosquitto_sub mosquitto_pub"]))
    {
        run(|host, port| command("./mosquitto.sh", &[host, port]));
    }
}

#[test]
fn paho_mqtt() {
    if available("paho-mqtt", command(python(), &["-c", "import paho.mqtt.client"])) {
        run(|host, port| command(python(), &["-B", "paho_clients.py", host, port]));
    }
}

#[test]
fn paho_mqtt_over_websocket() {
    if available("paho-mqtt", command(python(), &["-c", "import paho.mqtt.client"])) {
        run_on(WEB, |host, port| {
            command(python(), &["-B", "paho_clients.py", host, port, "websockets"])
        });
    }
}

fn mqtt_js_to(listener: &str, scheme: &str, path: &str) {
    if available("mqtt.js", command("node", &["-e", "require('mqtt')"])) {
        run_on(listener, |host, port| {
            let mut node = command("node", &["--test", "mqtt.test.js"]);
            node.env("MQTT_URL", format!("{scheme}://{host}:{port}{path}"));
            node
        });
    }
}

#[test]
fn mqtt_js() {
    mqtt_js_to("", "mqtt", "");
}

#[test]
fn mqtt_js_over_websocket() {
    mqtt_js_to(WEB, "ws", "/mqtt");
}

/// Scripts that are given the authority's certificate, against a listener with TLS.
fn run_secured(transport: &str, script: impl Fn(&str, &str, &str) -> Command) {
    let files = Files::new();
    let listener = files.listener("secured", transport, "", "");
    run_on(&listener, |host, port| script(host, port, &files.path("ca.crt")));
}

#[test]
fn mosquitto_clients_over_tls() {
    if available("mosquitto_sub", command("sh", &["-c", "command -v mosquitto_sub mosquitto_pub"]))
    {
        run_secured("tls", |host, port, ca| command("./mosquitto.sh", &[host, port, ca]));
    }
}

#[test]
fn paho_mqtt_over_tls() {
    if available("paho-mqtt", command(python(), &["-c", "import paho.mqtt.client"])) {
        for (transport, of_paho) in [("tls", "tcp"), ("wss", "websockets")] {
            run_secured(transport, |host, port, ca| {
                command(python(), &["-B", "paho_clients.py", host, port, of_paho, ca])
            });
        }
    }
}

#[test]
fn mqtt_js_over_tls() {
    if available("mqtt.js", command("node", &["-e", "require('mqtt')"])) {
        for (transport, scheme, path) in [("tls", "mqtts", ""), ("wss", "wss", "/mqtt")] {
            run_secured(transport, |host, port, ca| {
                let mut node = command("node", &["--test", "mqtt.test.js"]);
                node.env("NODE_EXTRA_CA_CERTS", ca);
                node.env("MQTT_URL", format!("{scheme}://{host}:{port}{path}"));
                node
            });
        }
    }
}

#[test]
fn openssl_connects_and_comes_back_with_a_ticket() {
    if available("openssl", command("openssl", &["version"])) {
        run_secured("tls", |host, port, ca| command("./openssl.sh", &[host, port, ca]));
    }
}

#[test]
fn gmqtt_suite() {
    if available("gmqtt", command(python(), &["-c", "import gmqtt, pytest, pytest_asyncio, xdist"]))
    {
        let python = python().display().to_string();
        run(|host, port| command("./gmqtt_suite.sh", &[host, port, &python]));
    }
}
