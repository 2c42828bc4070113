//! A reader of the log that does not read: nothing in the broker waits for it.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;

use common::broker::{ANY_PORT, announced, program, scratch, without_settings};
use common::{Client, Connect, V5, eventually};

/// Bytes of a client's name, which is in two lines of the log for each connection.
const NAME_BYTES: usize = 60_000;
/// Their lines are more than the pipe and the broker's own buffer hold.
const CLIENTS: usize = 60;

/// A broker whose log is read only when the test does it. Killed when dropped.
struct Broker<Log> {
    child: Child,
    log: Log,
    address: String,
}

impl Broker<BufReader<ChildStderr>> {
    fn start() -> Self {
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
}

fn terminate(child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
}

/// Whether a process has a handler for SIGTERM.
fn handles_terminate(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << 14 != 0
}

impl<Log> Drop for Broker<Log> {
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
    terminate(&broker.child);
    broker.line_with("shutting down");
    broker.line_with("ended");
    assert_eq!(broker.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_signal_ends_the_broker_all_the_same() {
    let mut broker = Broker::start();
    broker.flood();
    terminate(&broker.child);
    let mut status = None;
    eventually("the end of the broker", || {
        status = broker.child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once_what_hangs() {
    let dir = scratch();
    let data = dir.join("data");
    fs::create_dir(&data).unwrap();
    // A start that reads this waits for a writer, who never comes.
    assert!(Command::new("mkfifo").arg(data.join("store.toml")).status().unwrap().success());
    let config = dir.join("ringtide.toml");
    fs::write(&config, "shutdown_timeout_s = 3600\n").unwrap();
    let (_log, stderr) = io::pipe().unwrap();
    let mut filler = stderr.try_clone().unwrap();
    // It has always more to write than the pipe takes.
    thread::spawn(move || while filler.write_all(&[b'\n'; 4096]).is_ok() {});
    let mut command = Command::new(program());
    without_settings(&mut command);
    command.args(["run", "--listen", ANY_PORT]).arg("--config").arg(&config);
    let child = command.arg("--data-dir").arg(&data).stderr(stderr).spawn().unwrap();
    let mut broker = Broker { child, log: (), address: String::new() };
    eventually("signals are handled", || handles_terminate(&broker.child));
    let mut status = None;
    // Signals that come too close to each other are one.
    eventually("the end of the broker", || {
        terminate(&broker.child);
        status = broker.child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(1));
}
