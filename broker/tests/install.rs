//! What comes with the program: installation into a folder, archive, Debian package, systemd unit
//! and container profile. What this machine cannot try is said in a line that begins with
//! `skipped:` (`cargo test -p ringtide --test install -- --nocapture` shows it).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(clippy::print_stdout, reason = "what was skipped is said")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringtide");

/// A folder of one test's own, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("install-{}-{name}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// Every file and every empty folder below, with its mode.
    fn listing(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
                let name = path.strip_prefix(&self.0).unwrap().display();
                if path.is_file() || fs::read_dir(&path).unwrap().next().is_none() {
                    found.push(format!("{mode:o} {name}"));
                }
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn skipped(why: &str) {
    println!("skipped: {why}");
}

fn has(command: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", command]).output().unwrap();
    found.status.success()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a command printed on both outputs; it must have ended well.
#[track_caller]
fn printed(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{:?}\n{all}", output.status);
    all
}

/// `make install` or `make uninstall` of this test's program into a folder.
fn install(what: &str, root: &Scratch) -> String {
    let mut command = Command::new(sources().join("scripts/install.sh"));
    command.args([what, PROGRAM]);
    command.arg(sources().join("broker/ringtide.toml"));
    command.arg(sources().join("packaging/ringtide.service"));
    command.env("DESTDIR", &root.0).env("PREFIX", "/usr");
    printed(&command.output().unwrap())
}

#[test]
fn an_installation_into_a_folder_can_be_removed_and_keeps_what_is_the_users() {
    let root = Scratch::new("folder");
    install("install", &root);
    let installed = [
        "644 etc/ringtide/ringtide.toml",
        "644 usr/lib/systemd/system/ringtide.service",
        "700 var/lib/ringtide",
        "755 usr/bin/ringtide",
    ];
    assert_eq!(root.listing(), installed);
    let config = root.at("etc/ringtide/ringtide.toml");
    fs::write(&config, "shards = 1\n").unwrap();
    let said = install("install", &root);
    assert!(said.contains("kept"), "{said}");
    assert_eq!(fs::read_to_string(&config).unwrap(), "shards = 1\n");
    install("uninstall", &root);
    let kept = [installed[0], installed[2], "755 usr/bin", "755 usr/lib/systemd/system"];
    assert_eq!(root.listing(), kept);
}

#[test]
fn make_gives_prefix_and_folder_to_the_installation() {
    let dry = |goal: &str| {
        let mut make = Command::new("make");
        make.args(["--dry-run", goal, "PREFIX=/opt/ringtide", "DESTDIR=/packed"]);
        printed(&make.current_dir(sources()).output().unwrap())
    };
    for (goal, what) in [("install", "install.sh install"), ("uninstall", "install.sh uninstall")] {
        let line = dry(goal);
        assert!(line.contains("PREFIX=/opt/ringtide DESTDIR=/packed"), "{line}");
        assert!(line.contains(what), "{line}");
    }
}

#[test]
fn the_archive_installs_itself() {
    let scratch = Scratch::new("archive");
    let folder = scratch.at("target/static");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(PROGRAM, folder.join("ringtide")).unwrap();
    let mut pack = Command::new(sources().join("scripts/tarball.sh"));
    let said = printed(&pack.arg(scratch.at("target")).output().unwrap());
    let archive = said.lines().last().unwrap();
    let unpack = ["-xzf", archive, "--strip-components=1", "-C", scratch.0.to_str().unwrap()];
    printed(&Command::new("tar").args(unpack).output().unwrap());
    let root = Scratch::new("archive-root");
    let mut own = Command::new(scratch.at("install.sh"));
    printed(&own.arg("install").env("DESTDIR", &root.0).env("PREFIX", "/opt").output().unwrap());
    let unit = fs::read_to_string(root.at("opt/lib/systemd/system/ringtide.service")).unwrap();
    assert!(unit.contains("\nExecStart=/opt/bin/ringtide run\n"), "{unit}");
    let version = Command::new(root.at("opt/bin/ringtide")).arg("version").output().unwrap();
    assert!(printed(&version).starts_with("ringtide "));
}

fn judges_units_offline() -> bool {
    let said = printed(&Command::new("systemd-analyze").arg("--version").output().unwrap());
    let version = said.split_whitespace().nth(1).and_then(|word| word.parse::<u32>().ok());
    version.is_some_and(|version| version >= 250)
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let unit = fs::read_to_string(sources().join("packaging/ringtide.service")).unwrap();
    for line in ["Type=notify", "WatchdogSec=30", "User=ringtide", "StateDirectoryMode=0700"] {
        assert!(unit.lines().any(|own| own == line), "{line}");
    }
    if !has("systemd-analyze") {
        return skipped("no systemd-analyze here: the unit is not verified");
    }
    let scratch = Scratch::new("unit");
    let path = scratch.at("ringtide.service");
    fs::write(&path, unit.replace("/usr/bin/ringtide", PROGRAM)).unwrap();
    let said = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
    // Other units of this machine may be worth a warning.
    let said = printed(&said);
    assert!(!said.contains("ringtide"), "{said}");
    if !judges_units_offline() {
        return skipped("this systemd-analyze cannot judge a unit offline (before 250)");
    }
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", "--threshold=20"]);
    let said = printed(&security.arg(&path).output().unwrap());
    assert!(said.contains("Overall exposure level"), "{said}");
}

fn connect_and_publish(address: &str) {
    let mut client = TcpStream::connect(address).unwrap();
    // CONNECT with a lasting session, SUBSCRIBE and PUBLISH of QoS 1: what is acknowledged is kept.
    client.write_all(b"\x10\x0f\0\x04MQTT\x04\0\0\0\0\x03one").unwrap();
    let mut connack = [0; 4];
    client.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    client.write_all(b"\x82\x06\0\x01\0\x01t\x01").unwrap();
    let mut suback = [0; 5];
    client.read_exact(&mut suback).unwrap();
    assert_eq!(suback, [0x90, 3, 0, 1, 1]);
    client.write_all(b"\x32\x07\0\x01t\0\x02hi").unwrap();
    let mut answers = [0; 13];
    client.read_exact(&mut answers).unwrap();
    assert!(answers.windows(4).any(|four| four == [0x40, 2, 0, 2]), "{answers:?}");
    assert!(answers.windows(2).any(|two| two == b"hi"), "{answers:?}");
}

/// The address that a broker's log names, read line by line; the lines before it are printed.
fn listening(log: &mut impl BufRead) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the broker ended before it listened");
        print!("{line}");
        if let Some((_, rest)) = line.split_once("listening on ") {
            return rest.split([',', ' ']).next().unwrap().to_owned();
        }
    }
}

/// A child that is killed when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The system calls of a broker that starts, serves a client that is kept on the disk, and ends.
fn system_calls(scratch: &Scratch, driver: &str) -> Option<BTreeSet<String>> {
    let trace = scratch.at("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-c", "-o"]).arg(&trace);
    command.args([PROGRAM, "run", "--listen", "127.0.0.1:0", "--shards", "2", "--data-dir"]);
    command.arg(scratch.at("data")).args(["--driver", driver]).env("RINGTIDE_CONFIG", "/dev/null");
    command.env_remove("NOTIFY_SOCKET").stderr(Stdio::piped());
    let mut child = Running(command.spawn().ok()?);
    let mut log = BufReader::new(child.0.stderr.take().unwrap());
    connect_and_publish(&listening(&mut log));
    // strace's own child is the broker.
    let pid = child.0.id();
    let broker = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let kill = ["-s", "TERM", broker.trim()];
    assert!(Command::new("kill").args(kill).status().unwrap().success());
    std::io::copy(&mut log, &mut std::io::sink()).unwrap();
    assert!(child.0.wait().unwrap().success());
    let table = fs::read_to_string(trace).unwrap();
    let rows = table.lines().skip(2).take_while(|line| !line.starts_with("---"));
    Some(rows.map(|line| line.split_whitespace().last().unwrap().to_owned()).collect())
}

/// The calls that systemd allows for the unit's filter: its first line's groups, less the second's.
fn unit_allows() -> BTreeSet<String> {
    let unit = fs::read_to_string(sources().join("packaging/ringtide.service")).unwrap();
    let mut allowed = BTreeSet::new();
    for filter in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (denied, names) = match filter.strip_prefix('~') {
            Some(names) => (true, names),
            None => (false, filter),
        };
        for name in names.split_whitespace().flat_map(members) {
            if denied {
                allowed.remove(&name);
            } else {
                allowed.insert(name);
            }
        }
    }
    // systemd always allows these.
    allowed.extend(members("@default"));
    allowed
}

/// The calls of a group, or the call itself.
fn members(name: &str) -> Vec<String> {
    if !name.starts_with('@') {
        return vec![name.to_owned()];
    }
    let mut command = Command::new("systemd-analyze");
    let said = printed(&command.args(["--no-pager", "syscall-filter", name]).output().unwrap());
    let lines = said.lines().map(str::trim).skip(1).filter(|line| !line.starts_with('#'));
    lines.filter(|line| !line.is_empty()).flat_map(members).collect()
}

#[test]
fn the_container_profile_and_the_unit_allow_what_the_broker_calls() {
    let text = fs::read_to_string(sources().join("packaging/container/seccomp.json")).unwrap();
    let profile: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().unwrap();
    let allowed = rules.iter().filter(|rule| rule["action"] == "SCMP_ACT_ALLOW");
    let allowed: BTreeSet<String> = allowed
        .flat_map(|rule| rule["names"].as_array().unwrap())
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    for name in ["io_uring_setup", "io_uring_enter", "io_uring_register", "execve", "clone"] {
        assert!(allowed.contains(name), "{name}");
    }
    for name in ["mount", "ptrace", "bpf", "unshare", "setns", "init_module", "kexec_load"] {
        assert!(!allowed.contains(name), "{name}");
    }
    let traced = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).status();
    if !traced.is_ok_and(|status| status.success()) {
        return skipped("no strace here: the profile is not held against what the broker calls");
    }
    let mut called = BTreeSet::new();
    for (driver, call) in [("uring", "io_uring_enter"), ("epoll", "epoll_ctl")] {
        let more = system_calls(&Scratch::new(driver), driver).unwrap();
        assert!(more.contains(call), "{driver}: {more:?}");
        called.extend(more);
    }
    // Answered with "no such call", for the C library to use clone.
    let missing = |allowed: &BTreeSet<String>| -> Vec<String> {
        called.difference(allowed).filter(|name| *name != "clone3").cloned().collect()
    };
    assert_eq!(missing(&allowed), [] as [&str; 0], "packaging/container/seccomp.json");
    if !has("systemd-analyze") {
        return skipped("no systemd-analyze here: the unit's filter is not held against the calls");
    }
    assert_eq!(missing(&unit_allows()), [] as [&str; 0], "packaging/ringtide.service");
}

/// The package of this test's program; none where it cannot be made.
fn package(scratch: &Scratch) -> Option<PathBuf> {
    if !has("cargo-deb") || !has("dpkg") {
        skipped("no cargo-deb or no dpkg here (scripts/ensure.sh deb): no package is made");
        return None;
    }
    // A program of the profile `dev` lies in the folder `debug`.
    let folder = Path::new(PROGRAM).parent().unwrap().file_name().unwrap().to_str().unwrap();
    let profile = if folder == "debug" { "dev" } else { folder };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["deb", "--no-build", "--locked", "--offline", "-q", "-p", "ringtide"]);
    cargo.args(["--profile", profile, "-o"]).arg(scratch.at("ringtide.deb"));
    let target = Path::new(PROGRAM).parent().unwrap().parent().unwrap();
    cargo.env("CARGO_TARGET_DIR", target).current_dir(sources());
    printed(&cargo.output().unwrap());
    Some(scratch.at("ringtide.deb"))
}

#[test]
fn the_package_is_installed_runs_as_its_own_user_and_goes() {
    let scratch = Scratch::new("package");
    let Some(package) = package(&scratch) else { return };
    let contents = Command::new("dpkg-deb").arg("-c").arg(&package).output().unwrap();
    assert!(printed(&contents).contains("./usr/lib/systemd/system/ringtide.service"));
    if !is_root() || !has("unshare") {
        return skipped("not root, or no unshare: the package is made, not installed");
    }
    fs::create_dir(scratch.at("mount")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child"]);
    command.arg(sources().join("broker/tests/install/package.sh"));
    command.arg(&package).arg(scratch.at("mount"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running(command.spawn().unwrap());
    let mut said = BufReader::new(child.0.stdout.take().unwrap());
    let mut first = String::new();
    if said.read_line(&mut first).unwrap() == 0 {
        return skipped("no private overlay of this system: the package is made, not installed");
    }
    assert_eq!(first, "isolated\n");
    let states = ["/usr/bin/ringtide 755 root:root", "/etc/ringtide/ringtide.toml 644 root:root"];
    for state in states.into_iter().chain(["/var/lib/ringtide 700 ringtide:ringtide"]) {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), state);
    }
    connect_and_publish(&listening(&mut said));
    drop(child.0.stdin.take());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    let tail: Vec<&str> = rest.lines().rev().take(5).collect();
    let wanted = [
        "all gone",
        "program gone",
        "/var/lib/ringtide 700 ringtide:ringtide",
        "/etc/ringtide/ringtide.toml 644 root:root",
        "ended with 0",
    ];
    assert_eq!(tail, wanted, "{rest}");
    assert!(child.0.wait().unwrap().success());
}
