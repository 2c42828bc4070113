//! A reader of the log that does not read: nothing in the broker waits for it.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

use common::broker::{ANY_PORT, announced, program, scratch, without_settings};
use common::{Client, Connect, V5, eventually};

/// Bytes of a client's name, which is in two lines of the log for each connection.
const NAME_BYTES: usize = 60_000;
/// Their lines are more than the pipe and the broker's own buffer hold.
const CLIENTS: usize = 60;

/// A broker whose log is read only when the test does it. Killed when dropped.
struct Broker {
    child: Child,
    log: BufReader<ChildStderr>,
    address: String,
}

impl Broker {
    fn start() -> Broker {
        let dir = scratch();
        let config = dir.join("ringtide.toml");
        let limits = "[limits]\nclient_id_bytes_max = 65535\nmax_connect_bytes = 100000\n";
        fs::write(&config, limits).unwrap();
        let mut command = Command::new(program());
        without_settings(&mut command);
        command.args(["run", "--shards", "2", "--listen", ANY_PORT, "--log", "debug"]);
        command.arg("--config").arg(&config).arg("--data-dir").arg(dir.join("data"));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut broker = Broker { child, log, address: String::new() };
        let line = broker.line_with("listening on ");
        broker.address = announced(&line).unwrap();
        broker
    }

    fn line_with(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "no line with {text}");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Lets clients come and go, each of which is served.
    fn flood(&self) {
        for number in 0..CLIENTS {
            let name = format!("{number}{}", "x".repeat(NAME_BYTES));
            Client::connect(&self.address, &Connect::new(V5, &name)).disconnect();
        }
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn clients_are_served_and_lines_without_room_are_counted() {
    let mut broker = Broker::start();
    broker.flood();
    let line = broker.line_with("lines of the log were dropped");
    let (_, count) = line.trim_end().rsplit_once("lines=").unwrap();
    let dropped: usize = count.parse().unwrap();
    assert!((1..2 * CLIENTS).contains(&dropped), "{line}");
    broker.terminate();
    broker.line_with("shutting down");
    broker.line_with("ended");
    assert_eq!(broker.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_signal_ends_the_broker_all_the_same() {
    let mut broker = Broker::start();
    broker.flood();
    broker.terminate();
    let mut status = None;
    eventually("the end of the broker", || {
        status = broker.child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}
