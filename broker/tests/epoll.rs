//! A broker without io_uring: it chooses epoll by itself and says so once, keeps what it
//! acknowledges, and refuses what only io_uring can do.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Output};

use common::broker::{ANY_PORT, WITHOUT_IO_URING, program, scratch, target, without_settings};
use common::{Broker, Client, Connect, Publish, Settings, V5, V311, code};

/// Whether a broker can be started without io_uring here.
fn can_filter() -> bool {
    if target().is_some() {
        eprintln!("skipped: the broker must be the test's own");
        return false;
    }
    let tried = filtered(&["true"]);
    let works = tried.as_ref().is_ok_and(|tried| tried.status.success());
    let required = std::env::var_os("RINGTIDE_REQUIRE_CLIENTS").is_some();
    assert!(works || !required, "no filter of system calls: {tried:?}");
    if !works {
        eprintln!("skipped: no python3, or no filter of system calls to be had: {tried:?}");
    }
    works
}

fn filtered(words: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new(WITHOUT_IO_URING[0]);
    command.args(&WITHOUT_IO_URING[1..]).args(words);
    without_settings(&mut command);
    command.env_remove("RINGTIDE_DRIVER").output()
}

fn settings(shards: u32) -> Settings {
    let mut settings = Settings::new(shards).on_disk().env("RINGTIDE_DRIVER", "auto");
    settings.without_io_uring = true;
    settings
}

#[test]
fn a_broker_without_io_uring_says_so_once_and_keeps_what_it_acknowledges() {
    if !can_filter() {
        return;
    }
    let data = scratch().join("data");
    let settings = settings(3).data_dir(&data);
    let mut broker = Broker::start(&settings);
    let log = broker.log_text();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("io_uring")).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("WARN io_uring: a seccomp filter forbids it"), "{log}");
    assert!(told[0].contains("epoll") && told[0].contains("more CPU"), "{log}");
    assert!(log.contains("host threads") && log.contains("driver: epoll"), "{log}");

    // Names on every shard, so that connections go from one to another.
    for number in 0..12 {
        let connect = Connect::new(V5, &format!("reader-{number}")).resume().expiry(u32::MAX);
        let mut reader = Client::connect(&broker.address, &connect);
        assert_eq!(reader.subscribe("kept/#", 1), 1);
        reader.disconnect();
    }
    let mut publisher = Client::connect(&broker.address, &Connect::new(V311, "publisher"));
    let large = "x".repeat(300_000);
    for text in ["first", &large, "last"] {
        assert_eq!(publisher.publish(Publish::new("kept/x", text).qos(1)), code::SUCCESS);
    }
    broker.signal("KILL");
    broker.wait();

    let mut broker = Broker::start(&settings);
    for number in 0..12 {
        let connect = Connect::new(V5, &format!("reader-{number}")).resume().expiry(u32::MAX);
        let mut reader = Client::connect(&broker.address, &connect);
        assert!(reader.session_present());
        assert!(reader.texts(3) == ["first", &large, "last"], "reader-{number} has others");
    }
    broker.signal("TERM");
    assert_eq!(broker.wait().code(), Some(0), "{}", broker.log_text());
}

#[test]
fn io_uring_by_name_is_io_uring_or_nothing() {
    if !can_filter() {
        return;
    }
    let program = program();
    let run = [&program, "run", "--listen", ANY_PORT, "--driver", "uring"];
    let refused = filtered(&run).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("io_uring: a seccomp filter forbids it"), "{said}");
    assert!(!said.contains("listening on"), "{said}");

    let check = filtered(&[&program, "tune", "check"]).unwrap();
    let said = String::from_utf8_lossy(&check.stdout);
    let line = said.lines().find(|line| line.contains(" io_uring: found")).unwrap();
    assert!(line.starts_with("advice ") && line.contains("until then epoll"), "{line}");
}

#[test]
fn epoll_by_name_is_told_in_the_banner_and_needs_no_warning() {
    if target().is_some() {
        return eprintln!("skipped: the broker must be the test's own");
    }
    let config = "[[listeners]]\nbind = \"@LISTEN@\"\n";
    let settings = Settings::new(2).config(config).env("RINGTIDE_DRIVER", "epoll");
    let broker = Broker::start(&settings);
    let log = broker.log_text();
    assert!(log.contains("host threads") && log.contains("driver: epoll"), "{log}");
    assert!(!log.contains("io_uring"), "{log}");
    let direct = settings.env("RINGTIDE_DESCRIPTORS", "direct");
    let log = Broker::start(&direct).log_text();
    assert!(log.contains("`descriptors = \"direct\"` has no meaning with epoll"), "{log}");
}

#[test]
fn glommio_needs_io_uring() {
    let check = |host: &str, driver: &str| {
        let mut command = Command::new(program());
        without_settings(&mut command);
        command.args(["check-config", "--driver", driver]).env("RINGTIDE_HOST", host);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check("threads", "epoll").0, Some(0));
    assert_eq!(check("glommio", "auto").0, Some(0));
    assert_eq!(check("glommio", "uring").0, Some(0));
    let (code, said) = check("glommio", "epoll");
    assert_eq!(code, Some(2));
    assert!(said.contains("RINGTIDE_HOST: `host` is \"glommio\", which needs io_uring"), "{said}");
}
