//! The program from outside: exit codes, the banner, signals, refused configurations.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The program, with nothing from this environment that it would read.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringtide"));
    command.env_clear().env("RINGTIDE_CONFIG", "/dev/null").args(arguments);
    command
}

fn output(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A broker that has printed its banner. Killed when dropped.
struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
    banner: Vec<String>,
    /// A data directory of its own, unless the arguments name one.
    _data: Scratch,
}

impl Running {
    fn start(arguments: &[&str]) -> Running {
        Running::start_command(program(arguments))
    }

    fn start_command(mut command: Command) -> Running {
        let data = Scratch::folder();
        command.env("RINGTIDE_DATA_DIR", data.path()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut running = Running { child, log, banner: Vec::new(), _data: data };
        while running.banner.last().is_none_or(|line: &String| !line.contains("listening on")) {
            let line = running.line();
            running.banner.push(line);
        }
        running
    }

    /// The next line of the log. Panics when the program has ended.
    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "ended after {:?}", self.banner);
        line
    }

    fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file or folder of one test's own, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Scratch {
        let name = format!("ringtide-program-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Scratch(path)
    }

    /// A folder that is not there yet.
    fn folder() -> Scratch {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringtide-program-{}-data-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn version_and_help_end_well() {
    let version = output(&["version"]);
    assert!(version.status.success());
    let expected = format!("ringtide {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&version.stdout), expected);
    let help = output(&["--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("check-config"));
}

#[test]
fn wrong_arguments_end_with_2_and_a_hint() {
    for (arguments, hint) in [
        (&[][..], "`ringtide run` starts the broker"),
        (&["rn"][..], "did you mean `ringtide run`?"),
        (&["run", "--listen", "nowhere"][..], "argument --listen: `nowhere`"),
        (&["run", "--driver", "dpdk"][..], "unknown variant `dpdk`"),
    ] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(hint), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn an_unknown_key_ends_with_2_its_line_and_the_nearest_name() {
    let file = Scratch::new("unknown.toml", "[limits]\nmax_paket_bytes = 1\n");
    for command in ["check-config", "run", "config"] {
        let output = output(&[command, "--config", file.path()]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        let expected = format!(
            "ringtide: {}:2: unknown key `limits.max_paket_bytes`: did you mean \
             `max_packet_bytes`?\n",
            file.path()
        );
        assert_eq!(stderr(&output), expected, "{command}");
    }
}

#[test]
fn the_effective_configuration_says_where_each_value_comes_from() {
    let file = Scratch::new("effective.toml", "\nsys_interval_s = 3\n");
    let output = program(&["config", "--config", file.path(), "--shards", "2"])
        .env("RINGTIDE_LIMITS_RECEIVE_MAXIMUM", "9")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let origin = |start: &str| {
        let line = text.lines().find(|line| line.starts_with(start)).unwrap();
        line.rsplit("# ").next().unwrap().to_owned()
    };
    assert_eq!(origin("shards = 2"), "argument --shards");
    assert_eq!(origin("sys_interval_s = 3"), format!("{}:2", file.path()));
    assert_eq!(origin("receive_maximum = 9"), "environment RINGTIDE_LIMITS_RECEIVE_MAXIMUM");
    assert_eq!(origin("driver = "), "default");
}

#[test]
fn a_configuration_that_cannot_be_printed_is_no_success() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = program(&["config"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("standard output: No space left on device"), "{text}");
}

#[test]
fn variables_that_name_no_key_are_warned_of_by_each_command() {
    for command in ["config", "check-config"] {
        let output = program(&[command]).env("RINGTIDE_SHARD", "2").output().unwrap();
        assert!(output.status.success(), "{command}");
        let text = stderr(&output);
        assert!(text.contains("RINGTIDE_SHARD names no key"), "{command}: {text}");
    }
}

#[test]
fn what_cannot_work_is_refused_before_the_start() {
    let both = "[[listeners]]\nbind = \"0.0.0.0:1\"\n[[listeners]]\nbind = \"127.0.0.1:1\"\n";
    for (text, said) in [
        ("data_dir = \"\"\n", "`data_dir` is empty"),
        (both, "the broker's own listener \"0.0.0.0:1\" on 0.0.0.0:1 has already"),
    ] {
        let file = Scratch::new("refused.toml", text);
        for command in ["check-config", "run"] {
            let output = output(&[command, "--config", file.path()]);
            assert_eq!(output.status.code(), Some(2), "{command}");
            assert!(stderr(&output).contains(said), "{command}: {}", stderr(&output));
        }
    }
}

#[test]
fn each_problem_of_a_reload_is_a_line_of_the_log() {
    let file = Scratch::new("problems.toml", "[[listeners]]\nbind = \"127.0.0.1:0\"\n");
    let mut running = Running::start(&["run", "--config", file.path(), "--log", "json"]);
    fs::write(&file.0, "[limits]\nreceive_maximum = 0\nqueue_count_max = 0\n").unwrap();
    running.signal("HUP");
    for key in ["receive_maximum", "queue_count_max"] {
        let line = running.line_with(key);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "ERROR", "{line}");
        let message = value["message"].as_str().unwrap();
        assert!(message.contains("nothing has changed") && !message.contains('\n'), "{line}");
    }
}

#[test]
fn a_port_that_is_taken_ends_with_3_and_one_line() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let output = output(&["run", "--listen", &address]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let text = stderr(&output);
    // This host may have been found short of something before.
    assert_eq!(text.lines().filter(|line| !line.contains(" WARN ")).count(), 1, "{text}");
    assert!(text.contains(&address) && text.contains("another process has it"), "{text}");
}

#[test]
fn a_file_of_rules_that_cannot_be_read_never_means_allow() {
    let output =
        program(&["run"]).env("RINGTIDE_ACCESS_ACL_FILE", "/nonexistent/acl").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("/nonexistent/acl: named by `access.acl_file`"));
}

#[test]
fn too_few_descriptors_end_with_3_and_one_line() {
    let file = Scratch::new(
        "nofile.toml",
        "[[listeners]]\nbind = \"127.0.0.1:0\"\nmax_connections = 4000000000\n",
    );
    let output = output(&["run", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let text = stderr(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("nofile: found") && text.contains("LimitNOFILE="), "{text}");
}

#[test]
fn a_terminated_broker_ends_well() {
    for signal in ["TERM", "INT"] {
        let mut running = Running::start(&["run", "--listen", "127.0.0.1:0"]);
        let banner = running.banner.concat();
        assert!(banner.contains("durability: "), "{banner}");
        assert!(banner.contains("host glommio"), "{banner}");
        running.signal(signal);
        running.line_with("shutting down");
        assert_eq!(running.child.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_hangup_applies_what_it_can_and_names_the_rest() {
    let file = Scratch::new("hangup.toml", "[[listeners]]\nbind = \"127.0.0.1:0\"\n");
    let mut running = Running::start(&["run", "--config", file.path()]);
    let listener = "[[listeners]]\nbind = \"127.0.0.1:0\"\nbacklog = 9\n";
    fs::write(&file.0, format!("{listener}[limits]\nreceive_maximum = 7\n")).unwrap();
    running.signal("HUP");
    running.line_with("applied: limits.receive_maximum: 1024 -> 7");
    running.line_with("needs a restart: listeners[0].backlog: 4096 -> 9");

    fs::write(&file.0, "[limits]\nreceive_maximum = 0\n").unwrap();
    running.signal("HUP");
    running.line_with("nothing has changed");
    running.signal("TERM");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_hangup_reads_the_access_rules_again_unless_they_are_wrong() {
    let rules = Scratch::new("hangup.acl", "default deny\nallow all all a\n");
    let text = format!(
        "[access]\nacl_file = \"{}\"\n[[listeners]]\nbind = \"127.0.0.1:0\"\n",
        rules.path()
    );
    let file = Scratch::new("hangup-acl.toml", &text);
    let mut running = Running::start(&["run", "--config", file.path()]);
    fs::write(&rules.0, "default deny\nallow all all a\nallow all all b\n").unwrap();
    running.signal("HUP");
    running.line_with("1 changes applied");
    running.line_with("applied: access rules: 1 rule before, 2 rules now");
    for (wrong, said) in [
        ("default deny\nallow all all a/#/b\n", "line 2: `a/#/b` is no topic filter"),
        ("default deny\n\ndefault allow\n", "line 3: there is a `default` in line 1 already"),
    ] {
        fs::write(&rules.0, wrong).unwrap();
        running.signal("HUP");
        let line = running.line_with("nothing has changed");
        assert!(line.contains(said) && line.contains(rules.path()), "{line}");
        for command in ["check-config", "run"] {
            let refused = output(&[command, "--config", file.path()]);
            assert_eq!(refused.status.code(), Some(2), "{command}");
            let text = stderr(&refused);
            assert!(text.contains(said) && text.contains(rules.path()), "{text}");
        }
    }
    fs::write(&rules.0, "default deny\n").unwrap();
    running.signal("HUP");
    running.line_with("applied: access rules: 2 rules before, 0 rules now");
}

#[test]
fn json_logs_are_one_object_a_line() {
    let arguments = ["run", "--listen", "127.0.0.1:0", "--log", "json"];
    let running = Running::start(&arguments);
    for line in &running.banner {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["level"], "INFO", "{line}");
        assert!(value["message"].is_string(), "{line}");
    }
}

/// The address that a banner with one listener names.
fn address(running: &Running) -> String {
    let line = running.banner.last().unwrap();
    let (_, rest) = line.split_once("listening on ").unwrap();
    rest.split([',', ' ']).next().unwrap().to_owned()
}

/// CONNECT and its answer.
fn connect(running: &Running) {
    let mut client = TcpStream::connect(address(running)).unwrap();
    client.write_all(b"\x10\x0e\0\x04MQTT\x04\0\0\0\0\x02me").unwrap();
    let mut connack = [0; 4];
    client.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
}

#[test]
fn a_broker_that_cannot_have_its_data_never_says_that_it_listens() {
    let data = Scratch::folder();
    let arguments = ["run", "--listen", "127.0.0.1:0", "--data-dir", data.path()];
    let running = Running::start(&arguments);
    let refused = output(&arguments);
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    let text = stderr(&refused);
    assert!(text.contains("another broker runs on it"), "{text}");
    assert!(!text.contains("listening on"), "{text}");
    connect(&running);
}

#[test]
fn a_service_manager_is_told_when_connections_are_accepted() {
    let path = Scratch::folder();
    let hidden = format!("ringtide-program-{}", std::process::id());
    let by_path = UnixDatagram::bind(path.path()).unwrap();
    let address = SocketAddr::from_abstract_name(&hidden).unwrap();
    let by_name = UnixDatagram::bind_addr(&address).unwrap();
    for (socket, name) in [(by_path, path.path()), (by_name, &format!("@{hidden}"))] {
        let mut command = program(&["run", "--listen", "127.0.0.1:0"]);
        command.env("NOTIFY_SOCKET", name);
        let running = Running::start_command(command);
        let mut message = [0; 64];
        let length = socket.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1", "{name}");
        connect(&running);
    }
    let mut command = program(&["run", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", "/nonexistent/socket");
    let mut running = Running::start_command(command);
    running.line_with("cannot tell the service manager");
    connect(&running);
}

/// The next message to the service manager's socket.
fn told(socket: &UnixDatagram) -> String {
    let mut message = [0; 64];
    let length = socket.recv(&mut message).unwrap();
    String::from_utf8_lossy(&message[..length]).into_owned()
}

#[test]
fn the_watchdog_of_a_service_manager_is_pinged_by_an_idle_broker_until_it_ends() {
    let path = Scratch::folder();
    let socket = UnixDatagram::bind(path.path()).unwrap();
    let mut command = program(&["run", "--listen", "127.0.0.1:0", "--shards", "3"]);
    // Less than the second that a shard sleeps when it has nothing to do.
    command.env("NOTIFY_SOCKET", path.path()).env("WATCHDOG_USEC", "400000");
    let mut running = Running::start_command(command);
    assert_eq!(told(&socket), "READY=1");
    for _ in 0..3 {
        assert_eq!(told(&socket), "WATCHDOG=1");
    }
    running.signal("TERM");
    let last = std::iter::repeat_with(|| told(&socket)).find(|told| told != "WATCHDOG=1");
    assert_eq!(last.unwrap(), "STOPPING=1");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

#[test]
fn another_process_s_watchdog_is_left_alone() {
    let path = Scratch::folder();
    let socket = UnixDatagram::bind(path.path()).unwrap();
    let mut command = program(&["run", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", path.path()).env("WATCHDOG_USEC", "1000");
    command.env("WATCHDOG_PID", std::process::id().to_string());
    let mut running = Running::start_command(command);
    assert_eq!(told(&socket), "READY=1");
    connect(&running);
    running.signal("TERM");
    assert_eq!(told(&socket), "STOPPING=1");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_start_says_what_it_has_found_and_how_long_each_part_took() {
    let data = Scratch::folder();
    let arguments = ["run", "--listen", "127.0.0.1:0", "--log", "json", "--data-dir", data.path()];
    let mut running = Running::start(&arguments);
    connect(&running);
    running.signal("TERM");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));

    let running = Running::start(&arguments);
    let mut lines = running.banner.iter();
    let mut line_with = |text| lines.by_ref().find(|line| line.contains(text)).unwrap();
    let line = line_with("messages on their way");
    let found: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(found["message"].as_str().unwrap().starts_with("store: 1 sessions"), "{line}");
    for field in ["deal_ms", "replay_ms", "settle_ms", "sort_ms"] {
        assert!(found[field].is_u64(), "{field}: {line}");
    }
    assert!(found["records"].as_u64() >= Some(1) && found["bytes"].as_u64() >= Some(1), "{line}");
    let shards: u64 = std::iter::repeat_with(|| line_with("the shard has its sessions"))
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| line["sessions"].as_u64().unwrap())
        .find(|sessions| *sessions > 0)
        .unwrap();
    assert_eq!(shards, 1);
}
