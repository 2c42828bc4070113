//! `ringtide passwd` from outside: what it writes, what it asks, what it refuses.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::broker::{program, scratch, target, without_settings};
use common::*;

/// Runs the command with something on its standard input.
fn passwd(input: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    without_settings(&mut command);
    command.arg("passwd").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have refused its arguments and gone.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn users_come_change_and_go_and_the_broker_knows_them() {
    let file = scratch().join("users");
    let path = file.to_str().unwrap();
    let done = |output: &Output, text: &str| {
        assert!(output.status.success(), "{}", said(output));
        assert!(said(output).contains(text), "{}", said(output));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    };
    done(&passwd("one\n", &[path, "alice", "--stdin"]), "alice added");
    let first = fs::read_to_string(&file).unwrap();
    assert!(first.starts_with("alice:$7$210000$") && first.ends_with("==\n"), "{first}");
    fs::write(&file, format!("# ours\n\n{first}old:plain text\n")).unwrap();
    done(&passwd("two\r\nmore", &[path, "bob b", "--stdin", "--iterations", "10"]), "bob b added");
    done(&passwd("new", &[path, "alice", "--stdin", "--iterations", "10"]), "has a new password");
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[1], lines[3]), (5, "# ours", "", "old:plain text"));
    assert!(lines[2].starts_with("alice:$7$10$") && lines[4].starts_with("bob b:$7$10$"));
    done(&passwd("", &[path, "old", "--delete"]), "old deleted");
    if target().is_none() {
        let config = format!("[access]\npassword_file = \"{path}\"\n");
        let broker = Broker::start(&Settings::new(1).config(&config));
        for (user, password) in [("alice", "new"), ("bob b", "two")] {
            let connect = Connect::new(V5, user).username(user).password(password);
            Client::connect(&broker.address, &connect).ping();
        }
    }
    let before = fs::read_to_string(&file).unwrap();
    let refused = |output: &Output, text: &str| {
        assert_eq!(output.status.code(), Some(2), "{}", said(output));
        assert!(said(output).contains(text), "{}", said(output));
        assert_eq!(fs::read_to_string(&file).unwrap(), before);
    };
    refused(&passwd("", &[path, "old", "--delete"]), "there is no user \"old\"");
    refused(&passwd("\n", &[path, "carol", "--stdin"]), "the password is empty");
    refused(&passwd("x\n", &[path, "a:b", "--stdin"]), "has a colon");
    refused(&passwd("", &[path, "carol", "secret"]), "Unrecognized argument");
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let folder = scratch();
    let path = folder.join("missing/users");
    let output = passwd("one\n", &[path.to_str().unwrap(), "alice", "--stdin"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("missing/users: its folder cannot be opened"));
}

/// Answers one prompt after the other on a terminal that `script` makes; what was shown there.
fn on_a_terminal(file: &Path, answers: [&str; 2]) -> String {
    let command = format!("exec {} passwd {} alice --iterations 10", program(), file.display());
    let mut script = Command::new("script");
    without_settings(&mut script);
    script.args(["-q", "-e", "-c", &command, "/dev/null"]);
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    for (prompt, answer) in ["Password for alice: ", "The same again: "].iter().zip(answers) {
        let mut byte = [0];
        while !shown.ends_with(prompt.as_bytes()) {
            let ended = output.read(&mut byte).unwrap() == 0;
            assert!(!ended, "{}", String::from_utf8_lossy(&shown));
            shown.push(byte[0]);
        }
        input.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    output.read_to_end(&mut shown).unwrap();
    drop(input);
    child.wait().unwrap();
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
fn a_terminal_is_asked_twice_and_shows_nothing() {
    let mut probe = Command::new("sh");
    if !probe.args(["-c", "command -v script >/dev/null"]).status().unwrap().success() {
        eprintln!("skipped: `script`, which makes a terminal, is not installed");
        return;
    }
    let file = scratch().join("users");
    let shown = on_a_terminal(&file, ["one", "two"]);
    assert!(shown.contains("the two passwords are not the same"), "{shown}");
    assert!(!file.exists());
    let shown = on_a_terminal(&file, ["xyzzy", "xyzzy"]);
    assert!(shown.contains("alice added") && !shown.contains("xyzzy"), "{shown}");
    assert!(fs::read_to_string(&file).unwrap().starts_with("alice:$7$10$"));
}
