//! `ringtide tune`: hosts that are folders are looked at, changed and put back by the program, and
//! the machine of the test is looked at only.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../../tuning/tests/hosts/mod.rs"]
mod hosts;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use hosts::Host;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde_json::Value;

/// The program, with nothing from this environment that it would read.
fn ringtide(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringtide"));
    command.env_clear().env("RINGTIDE_CONFIG", "/dev/null").args(arguments);
    command
}

/// Runs `ringtide tune` on a host with an expected exit code; what it prints and complains of.
#[track_caller]
fn tune(host: &Host, code: i32, arguments: &[&str]) -> (String, String) {
    let root = host.path().to_str().unwrap();
    let output = ringtide(&["tune"]).args(arguments).args(["--root", root]).output().unwrap();
    ended(code, &output)
}

#[track_caller]
fn ended(code: i32, output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    (stdout, stderr)
}

/// A file that can be read and that nobody may write, not even root: memory that is sealed, which
/// the path leads to as long as this lives.
struct Sealed {
    _memory: File,
}

impl Sealed {
    fn at(host: &Host, path: &str, text: &str) -> Sealed {
        let memory = memfd_create("sealed", MemfdFlags::ALLOW_SEALING).unwrap();
        let mut memory = File::from(memory);
        memory.write_all(text.as_bytes()).unwrap();
        fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW).unwrap();
        fs::remove_file(host.at(path)).unwrap();
        let link = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
        symlink(link, host.at(path)).unwrap();
        Sealed { _memory: memory }
    }
}

/// A server on which everything can be made as the profile wants it.
fn willing() -> Host {
    let host = Host::server();
    host.write("proc/711/comm", "sleep\n");
    host
}

#[test]
fn a_host_is_made_as_wanted_once_and_put_back_exactly() {
    let host = willing();
    // A file that is not ours stands where ours goes, with a mode of its own.
    host.write("etc/sysctl.d/90-ringtide.conf", "vm.swappiness = 42\n");
    let kept = fs::Permissions::from_mode(0o640);
    fs::set_permissions(host.at("etc/sysctl.d/90-ringtide.conf"), kept).unwrap();
    let before = host.everything();

    let (planned, _) = tune(&host, 0, &["apply", "--dry-run"]);
    assert_eq!(host.everything(), before, "a dry run changes nothing");
    assert!(planned.contains("would change net.core.somaxconn: 4096 -> 32768\n"), "{planned}");
    assert!(planned.contains("\n    - vm.swappiness = 42\n"), "{planned}");
    assert!(planned.contains("\n    + LimitNOFILE=4194304\n"), "{planned}");

    let (changed, _) = tune(&host, 0, &["apply"]);
    let same = planned.replace("would change", "changed");
    let same = same.lines().filter(|line| !line.starts_with("then:"));
    let told = changed.lines().filter(|line| !line.starts_with("then:"));
    assert!(same.eq(told), "what was planned was done:\n{planned}\n{changed}");
    assert!(changed.contains("then: `systemctl daemon-reload`"), "{changed}");
    assert_eq!(host.setting("net.ipv4.tcp_rmem"), "4096 16384 16777216");
    assert_eq!(host.setting("fs.file-max"), "9223372036854775807", "more than enough stays");
    assert_eq!(host.read("proc/irq/43/smp_affinity_list"), "2\n");
    assert_eq!(host.read("proc/irq/40/smp_affinity_list"), "0-31\n", "no queue's interrupt");
    assert_eq!(host.read("sys/class/net/eth0/queues/rx-3/rps_cpus"), "0000ffff\n");
    assert_eq!(host.read("sys/class/net/eth0/queues/tx-3/xps_cpus"), "00002008\n");
    assert_eq!(host.read("sys/devices/system/cpu/cpu31/cpufreq/scaling_governor"), "performance\n");
    let limits = host.read("etc/security/limits.d/ringtide.conf");
    assert!(limits.contains("* hard nofile 4194304\n"), "{limits}");
    let sysctl = host.read("etc/sysctl.d/90-ringtide.conf");
    assert!(sysctl.contains("\nnet.core.somaxconn = 32768\n"), "{sysctl}");
    let tmpfiles = host.read("etc/tmpfiles.d/ringtide-tuning.conf");
    assert!(tmpfiles.contains("transparent_hugepage/enabled - - - - madvise\n"), "{tmpfiles}");

    let after = host.everything();
    let (again, _) = tune(&host, 0, &["apply"]);
    assert!(again.starts_with("nothing changed: "), "{again}");
    assert_eq!(host.everything(), after, "a second run changes nothing");
    let (found, _) = tune(&host, 1, &["check"]);
    assert!(found.contains("\nok      next boot: found 5 of 5 files as wanted"), "{found}");
    assert!(found.contains("\nok      eth0 irqs: found 10 of 10 as wanted"), "{found}");

    let (restored, _) = tune(&host, 0, &["revert"]);
    assert!(restored.contains("put back net.core.somaxconn: 32768 -> 4096\n"), "{restored}");
    assert_eq!(host.everything(), before);
    let (nothing, _) = tune(&host, 0, &["revert"]);
    assert!(nothing.starts_with("nothing to put back"), "{nothing}");
}

#[test]
fn another_profile_over_the_first_keeps_the_first_originals() {
    let host = willing();
    let before = host.everything();
    tune(&host, 0, &["apply", "--profile", "source-e"]);
    assert_eq!(host.setting("fs.file-max"), "2097152");
    let sysctl = host.read("etc/sysctl.d/90-ringtide.conf");
    assert!(sysctl.contains("\nfs.file-max = 1048576\n"), "the source's value at boot: {sysctl}");
    tune(&host, 0, &["apply", "--target-connections", "5000000"]);
    assert_eq!(host.setting("net.netfilter.nf_conntrack_max"), "5000000");
    assert_eq!(host.setting("net.ipv4.tcp_mem"), "7500000 10000000 15000000");
    let limits = host.read("etc/systemd/system/ringtide.service.d/limits.conf");
    assert!(!limits.contains("LimitNOFILE=4194304\n"), "five million need more: {limits}");
    tune(&host, 0, &["revert"]);
    assert_eq!(host.everything(), before);
}

#[test]
fn what_the_kernel_refuses_is_told_and_does_not_stop_the_rest() {
    let host = willing();
    let _timeout = Sealed::at(&host, "proc/sys/net/ipv4/tcp_fin_timeout", "40\n");
    let _nr_open = Sealed::at(&host, "proc/sys/fs/nr_open", "65536\n");
    let before = host.everything();
    let (told, _) = tune(&host, 1, &["apply"]);
    assert!(told.contains("refused net.ipv4.tcp_fin_timeout: 40 -> 15: "), "{told}");
    assert!(told.contains("refused: 2"), "{told}");
    assert_eq!(host.setting("vm.swappiness"), "10", "what comes after is done");
    // With a higher limit than fs.nr_open has really become, nobody could log in.
    let limits = host.read("etc/security/limits.d/ringtide.conf");
    assert!(limits.contains("* hard nofile 65536\n"), "{limits}");
    tune(&host, 0, &["revert"]);
    assert_eq!(host.everything(), before, "what was refused needs no putting back");
}

#[test]
fn what_cannot_be_put_back_stays_in_the_record() {
    let host = willing();
    let before = host.everything();
    tune(&host, 0, &["apply"]);
    let sealed = Sealed::at(&host, "proc/sys/vm/swappiness", "10\n");
    let (told, _) = tune(&host, 1, &["revert"]);
    assert!(told.contains("refused vm.swappiness: "), "{told}");
    assert_eq!(host.setting("net.core.somaxconn"), "4096");
    drop(sealed);
    fs::remove_file(host.at("proc/sys/vm/swappiness")).unwrap();
    host.set("vm.swappiness", "10");
    let (told, _) = tune(&host, 0, &["revert"]);
    assert!(told.contains("put back vm.swappiness: 10 -> 60\n"), "{told}");
    assert_eq!(host.everything(), before);
}

#[test]
fn only_root_changes_anything() {
    let host = willing();
    host.user(1000, 0);
    let before = host.everything();
    let (stdout, stderr) = tune(&host, 3, &["apply"]);
    assert!(stdout.is_empty() && stderr.contains("needs root"), "{stdout}{stderr}");
    assert!(stderr.contains("nothing was changed"), "{stderr}");
    tune(&host, 0, &["apply", "--dry-run"]);
    tune(&host, 0, &["revert"]);
    assert_eq!(host.everything(), before);
    host.user(0, 0);
    tune(&host, 0, &["apply"]);
    host.user(1000, 0);
    let tuned = host.everything();
    let (_, stderr) = tune(&host, 3, &["revert"]);
    assert!(stderr.contains("needs root"), "{stderr}");
    assert_eq!(host.everything(), tuned);
}

#[test]
fn without_a_record_that_can_be_read_nothing_is_changed() {
    let host = willing();
    host.write("var/lib/ringtide-tuning/originals.json", "{\"version\": 1, \"entr");
    let before = host.setting("vm.swappiness");
    let (_, stderr) = tune(&host, 3, &["apply"]);
    assert!(
        stderr.contains("originals.json: ") && stderr.contains("nothing was changed"),
        "{stderr}"
    );
    tune(&host, 3, &["revert"]);
    assert_eq!(host.setting("vm.swappiness"), before);
}

#[test]
fn a_file_of_another_kind_is_left_alone() {
    let host = willing();
    host.write("elsewhere", "text\n");
    let link = host.at("etc/security/limits.d/ringtide.conf");
    symlink(host.at("elsewhere"), &link).unwrap();
    let (told, _) = tune(&host, 1, &["apply"]);
    let line = "refused /etc/security/limits.d/ringtide.conf: left alone: is no plain file";
    assert!(told.contains(line), "{told}");
    assert_eq!(host.read("elsewhere"), "text\n");
    tune(&host, 0, &["revert"]);
    assert!(link.is_symlink());
}

#[test]
fn a_check_ends_with_its_worst_verdict() {
    let host = Host::server();
    let (json, _) = tune(&host, 1, &["check", "--json"]);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&report["profile"], &report["verdict"]), (&"appliance".into(), &"advice".into()));
    let checks = report["checks"].as_array().unwrap();
    let of = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
    for key in ["found", "wanted", "why", "verdict"] {
        assert!(of("net.core.somaxconn")[key].is_string(), "{key}");
    }
    assert_eq!(of("net.core.somaxconn")["found"], "4096");
    assert!(report.get("target_connections").is_none());

    let many = ["check", "--json", "--target-connections", "2000000"];
    let report: Value = serde_json::from_str(&tune(&host, 3, &many).0).unwrap();
    assert_eq!(report["verdict"], "short");
    assert_eq!(report["target_connections"], 2_000_000);

    // A profile that wants little of a host that has it.
    let profile =
        "name = \"small\"\n[sysctl.\"net.core.somaxconn\"]\nat_least = 128\nwhy = \"y\"\n";
    host.write("small.toml", profile);
    host.write("sys/devices/system/node/node0/cpulist", "0-31\n");
    fs::remove_dir_all(host.at("sys/devices/system/node/node1")).unwrap();
    fs::remove_dir_all(host.at("sys/class/net/eth0")).unwrap();
    let path = host.at("small.toml").to_str().unwrap().to_owned();
    tune(&host, 0, &["apply", "--profile", &path]);
    let (text, _) = tune(&host, 0, &["check", "--profile", &path]);
    assert!(text.contains("\nok      net.core.somaxconn: found 4096, wanted "));
    assert!(text.ends_with(" 0 advice, 0 short, 0 unknown\n"), "{text}");
}

#[test]
fn a_container_without_sys_is_told_what_cannot_be_read() {
    let (text, _) = tune(&Host::container(), 3, &["check"]);
    assert!(text.contains("\nunknown nic: found unreadable"), "{text}");
    assert!(text.contains("\nunknown seccomp: found a filter"), "{text}");
    assert!(text.contains("\nshort   memlock: found 64 KiB, wanted at least 65536 KiB"), "{text}");
}

#[test]
fn a_wrong_profile_is_refused_with_its_line() {
    let host = Host::server();
    let text = "name = \"own\"\n\n[sysctl.\"net.core.somaxcon\"]\nis = 1\nwhy = \"y\"\n";
    host.write("own.toml", text);
    let path = host.at("own.toml").to_str().unwrap().to_owned();
    for command in ["check", "apply"] {
        let (_, stderr) = tune(&host, 2, &[command, "--profile", &path]);
        let line = format!("{path}:3: unknown setting `net.core.somaxcon`: did you mean");
        assert!(stderr.contains(&line), "{stderr}");
    }
    let (_, stderr) = tune(&host, 2, &["check", "--profile", "applience"]);
    assert!(stderr.contains("neither a file nor one of appliance, source-e"), "{stderr}");
    let (_, stderr) = tune(&host, 2, &["check", "--target-connections", "0"]);
    assert!(stderr.contains("from 1 to 1000000000"), "{stderr}");
}

#[test]
fn a_built_in_profile_is_printed_as_a_file_that_can_be_used() {
    let host = Host::server();
    let (text, _) = ended(0, &ringtide(&["tune", "profile"]).output().unwrap());
    host.write("copy.toml", &text);
    let path = host.at("copy.toml").to_str().unwrap().to_owned();
    let own = tune(&host, 1, &["check", "--profile", &path]);
    assert_eq!(own, tune(&host, 1, &["check"]));
    let (source, _) = ended(0, &ringtide(&["tune", "profile", "source-e"]).output().unwrap());
    assert!(source.contains("acceptors=64"), "{source}");
    let (_, stderr) = ended(2, &ringtide(&["tune", "profile", "none"]).output().unwrap());
    assert!(stderr.contains("there are appliance, source-e"), "{stderr}");
}

#[test]
fn the_script_passes_its_arguments_on() {
    let program = Path::new(env!("CARGO_BIN_EXE_ringtide"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/tune.sh");
    let run = |path: &str, arguments: &[&str]| {
        let mut command = Command::new("/bin/sh");
        command.env_clear().env("RINGTIDE_CONFIG", "/dev/null").env("PATH", path);
        command.env("CARGO_TARGET_DIR", "/nonexistent").arg(&script).args(arguments);
        command.output().unwrap()
    };
    let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
    let (profile, _) = ended(0, &run(&path, &["profile", "source-e"]));
    assert!(profile.contains("name = \"source-e\""), "{profile}");
    let (_, stderr) = ended(2, &run(&path, &["check", "--profile", "applience"]));
    assert!(stderr.contains("neither a file nor one of"), "{stderr}");
}

#[test]
fn the_real_host_is_only_looked_at() {
    let output = ringtide(&["tune", "check", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let code = match report["verdict"].as_str().unwrap() {
        "ok" => 0,
        "short" => 3,
        _ => 1,
    };
    assert_eq!(output.status.code(), Some(code));
    let names: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    for name in ["kernel", "io_uring", "cores", "nofile", "net.core.somaxconn", "next boot"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}

/// The broker looks at its host in the same way, and says only what falls short.
#[test]
fn a_start_warns_of_what_falls_short_of_its_configuration() {
    let started = |backlog: &str| {
        let mut child = ringtide(&["run", "--shards", "1"])
            .env("RINGTIDE_LISTENERS_0_BIND", "127.0.0.1:0")
            .env("RINGTIDE_DURABILITY", "memory")
            .env("RINGTIDE_LISTENERS_0_BACKLOG", backlog)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| line.contains("listening on")) {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "ended after {lines:?}");
            lines.push(line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines
    };
    let about = |lines: &[String]| lines.iter().filter(|line| line.contains("somaxconn")).count();
    let lines = started("2147483646");
    let warning = lines.iter().find(|line| line.contains("somaxconn: found")).unwrap();
    assert!(
        warning.contains("WARN") && warning.contains("wanted at least 2147483646"),
        "{warning}"
    );
    assert_eq!(about(&lines), 1);
    assert_eq!(about(&started("1")), 0, "what is as wanted is not told");
}
