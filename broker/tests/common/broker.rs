//! The broker under test: started on a port that the system chooses, its log captured, ended
//! through its own handle. Must not speak MQTT.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{PATIENCE, eventually, websocket};

/// The address of an already running broker, if the suite is to use one.
pub fn target() -> Option<String> {
    std::env::var("RINGTIDE_TEST_TARGET").ok().filter(|t| !t.is_empty())
}

/// The program under test.
pub fn program() -> String {
    let built = env!("CARGO_BIN_EXE_ringtide");
    std::env::var("RINGTIDE_TEST_PROGRAM").unwrap_or_else(|_| built.to_owned())
}

/// How a broker is started.
#[derive(Clone, Debug)]
pub struct Settings {
    pub shards: u32,
    /// The configuration file's text; none: the embedded defaults.
    pub config: String,
    pub env: Vec<(&'static str, String)>,
    /// Files beside the configuration file; `@DIR@` in `config` stands for their folder, and
    /// `@LISTEN@` for the address, where the listener itself is to be configured.
    pub files: Vec<(&'static str, &'static str)>,
    /// Soft and hard limit of open descriptors, set by prlimit.
    pub nofile: Option<u32>,
    /// Where the data is; none: in the broker's own scratch folder.
    pub data_dir: Option<PathBuf>,
    /// A write beyond a file size limit fails, instead of ending the process with SIGXFSZ.
    pub survives_file_size_limit: bool,
    /// A filter of system calls refuses io_uring, as those of container runtimes do. Needs python3.
    pub without_io_uring: bool,
}

/// Refuses io_uring_setup with EPERM and becomes the program that is named behind it.
///
/// The filter: load the call's number; if it is 425 (on every machine) answer EPERM, else allow.
pub const WITHOUT_IO_URING: [&str; 3] = [
    "python3",
    "-c",
    "
import ctypes, os, struct, sys
class Filter(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('rules', ctypes.c_char_p)]
rules = struct.pack('HBBIHBBIHBBIHBBI',
    0x20, 0, 0, 0, 0x15, 0, 1, 425, 0x06, 0, 0, 0x00050001, 0x06, 0, 0, 0x7fff0000)
libc, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = ctypes.CDLL(None, use_errno=True), 38, 22
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) \\
        or libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(Filter(4, rules)), 0, 0):
    sys.exit(f'no filter: {os.strerror(ctypes.get_errno())}')
os.execvp(sys.argv[1], sys.argv[1:])
",
];

impl Settings {
    pub fn new(shards: u32) -> Settings {
        let seed = std::env::var("RINGTIDE_TEST_STORE_SEED").unwrap_or_else(|_| "1".to_owned());
        let settings = Settings {
            shards,
            config: String::new(),
            env: vec![("RINGTIDE_TEST_STORE_SEED", seed)],
            files: Vec::new(),
            nofile: None,
            data_dir: None,
            survives_file_size_limit: false,
            without_io_uring: false,
        };
        match std::env::var("RINGTIDE_TEST_STORE").as_deref() {
            Ok("disk") => settings.on_disk(),
            _ => settings,
        }
    }

    /// With the store that the product has, on the disk, in place of the tests' own. What waits for
    /// clients is read from it again.
    pub fn on_disk(mut self) -> Settings {
        self.env = vec![
            ("RINGTIDE_STORE_SEGMENT_BYTES", (1 << 20).to_string()),
            ("RINGTIDE_STORE_WAITING_MEMORY_BYTES_MAX", "0".to_owned()),
        ];
        self
    }

    pub fn config(mut self, toml: &str) -> Settings {
        self.config.push_str(toml);
        self
    }

    pub fn env(mut self, name: &'static str, value: &str) -> Settings {
        self.env.push((name, value.to_owned()));
        self
    }

    pub fn file(mut self, name: &'static str, text: &'static str) -> Settings {
        self.files.push((name, text));
        self
    }

    pub fn data_dir(mut self, dir: &Path) -> Settings {
        self.data_dir = Some(dir.to_owned());
        self
    }

    pub fn nofile(mut self, limit: u32) -> Settings {
        self.nofile = Some(limit);
        self
    }

    /// Whether a broker that is already there can stand in.
    pub fn is_plain(&self) -> bool {
        self.config.is_empty()
            && self.files.is_empty()
            && self.nofile.is_none()
            && self.data_dir.is_none()
            && self.env.iter().all(|(name, _)| name.contains("_STORE_"))
    }
}

/// A running broker, or one that someone else runs.
pub struct Broker {
    pub address: String,
    pub shards: u32,
    process: Option<Process>,
    log: Option<PathBuf>,
}

struct Process {
    child: Child,
    /// The broker's own process id; the child may be the shell that guards it.
    pid: u32,
}

static STARTED: AtomicU32 = AtomicU32::new(0);

impl Broker {
    /// The broker named by `RINGTIDE_TEST_TARGET`.
    pub fn external(address: &str) -> Broker {
        Broker { address: address.to_owned(), shards: 1, process: None, log: None }
    }

    /// Starts a broker that ends when the value is dropped.
    pub fn start(settings: &Settings) -> Broker {
        Broker::start_by(settings, false)
    }

    /// Starts a broker that lives as long as this process: a static is never dropped, so a shell
    /// waits at the end of a pipe and ends the broker when this process is gone, however it went.
    pub fn start_guarded(settings: &Settings) -> Broker {
        Broker::start_by(settings, true)
    }

    fn start_by(settings: &Settings, guarded: bool) -> Broker {
        let dir = scratch();
        let log = dir.join("log");
        let child = command(settings, &dir, guarded, &log).spawn();
        let child = child.expect("the broker's program starts");
        let pid = if guarded { guarded_pid(&dir) } else { child.id() };
        let mut process = Process { child, pid };
        let mut address = process.address(&log, guarded);
        if is_tunnelled(settings) {
            address = websocket::tunnel(&address);
        }
        Broker { address, shards: settings.shards, process: Some(process), log: Some(log) }
    }

    /// The address of a listener that has a name of its own.
    pub fn address_of(&self, listener: &str) -> String {
        let mut found = None;
        eventually(&format!("the address of the listener {listener}"), || {
            let log = self.log_text();
            let mut lines = log.lines().filter_map(|line| line.split_once("listening on "));
            found = lines.find_map(|(_, rest)| {
                let (address, rest) = rest.split_once(' ')?;
                rest.starts_with(&format!("({listener})")).then(|| address.to_owned())
            });
            found.is_some()
        });
        found.expect("found above")
    }

    /// Waits for a line of the log that has all of these in it.
    pub fn expect_log(&self, texts: &[&str]) {
        eventually(&format!("a line of the log with {texts:?}"), || {
            self.log_text().lines().any(|line| texts.iter().all(|text| line.contains(text)))
        });
    }

    /// Writes another configuration file in place of the one that the broker was started with. It
    /// is read at the next HUP.
    pub fn reconfigure(&self, text: &str) {
        let log = self.log.as_ref().expect("a broker of our own");
        let text = text.replace("@LISTEN@", ANY_PORT);
        fs::write(log.with_file_name("ringtide.toml"), text).expect("a configuration file");
    }

    /// The broker's process id; none for a broker that someone else runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|p| p.pid)
    }

    /// Sends a signal by its name, such as TERM.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().expect("a broker of our own").to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.expect("kill runs").success(), "kill -s {name} {pid}");
    }

    /// Limits the size of the files that the broker writes from now on.
    pub fn limit_file_size(&self, bytes: u64) {
        let pid = self.pid().expect("a broker of our own").to_string();
        let limit = format!("--fsize={bytes}:{bytes}");
        let set = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(set.expect("prlimit runs").success(), "prlimit --pid {pid} {limit}");
    }

    /// Waits for the end of a broker that was started unguarded.
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.process.as_mut().expect("a broker of our own").child;
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("a child to ask") {
                return status;
            }
            assert!(Instant::now() < end, "the broker did not end within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Resident memory in KiB; none for a broker that someone else runs.
    pub fn resident_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// What the broker has printed so far.
    pub fn log_text(&self) -> String {
        self.log.as_deref().map_or_else(String::new, read_log)
    }

    /// Whether the broker's process still runs (true for one that someone else runs).
    pub fn is_running(&self) -> bool {
        self.pid().is_none_or(alive)
    }
}

impl Process {
    /// The address of which the broker says that it listens on it.
    fn address(&mut self, log: &Path, guarded: bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().expect("a child to ask").is_some()
                || (guarded && !alive(self.pid));
            // Looked at after its process: all that it has said is there.
            let said = read_log(log);
            if let Some(address) = announced(&said) {
                return address;
            }
            assert!(!ended && Instant::now() < end, "the broker did not come up:\n{said}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input is the guard's sign to end the broker, and itself.
        if self.child.stdin.take().is_none() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// The first address that a broker says it listens on, once it has said so.
pub fn announced(log: &str) -> Option<String> {
    let (_, rest) = log.split_once("listening on ")?;
    let (address, _) = rest.split_once([',', ' '])?;
    Some(address.to_owned())
}

/// Whether a process exists and is no zombie.
fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|s| s.starts_with(" Z")))
}

fn read_log(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A fresh folder for one broker's files.
pub fn scratch() -> PathBuf {
    let n = STARTED.fetch_add(1, Ordering::Relaxed);
    let name = format!("broker-{}-{n}", std::process::id());
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a scratch folder");
    dir
}

/// Where a broker under test listens: the system chooses the port, so that nobody can be there
/// already, and the broker says which it is.
pub const ANY_PORT: &str = "127.0.0.1:0";

/// Takes from a command what its environment would say to a broker: the test alone configures it.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"RINGTIDE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("NOTIFY_SOCKET").env("RINGTIDE_CONFIG", "/dev/null");
    if let Ok(driver) = std::env::var("RINGTIDE_TEST_DRIVER") {
        command.env("RINGTIDE_DRIVER", driver);
    }
}

// The shell passes the broker's pid on, then waits for the end of its input, which is the end of
// this process, and ends that one pid.
const GUARD: &str = r#"
pidfile=$1; shift
"$@" & echo $! >"$pidfile.new"; mv "$pidfile.new" "$pidfile"
cat >/dev/null
kill -9 $!
"#;

/// Whether a broker's clients come by WebSocket although they do not know it.
fn is_tunnelled(settings: &Settings) -> bool {
    let transport = std::env::var("RINGTIDE_TEST_TRANSPORT");
    transport.as_deref() == Ok("ws") && !settings.config.contains("@LISTEN@")
}

fn command(s: &Settings, dir: &Path, guarded: bool, log: &Path) -> Command {
    let mut words = Vec::new();
    if s.survives_file_size_limit {
        words.extend(["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"].map(str::to_owned));
    }
    if s.without_io_uring {
        words.extend(WITHOUT_IO_URING.map(str::to_owned));
    }
    if let Some(limit) = s.nofile {
        words.extend(["prlimit".to_owned(), format!("--nofile={limit}:{limit}")]);
    }
    words.push(program());
    words.extend(["run".to_owned(), "--shards".to_owned(), s.shards.to_string()]);
    if !s.config.contains("@LISTEN@") {
        let transport = if is_tunnelled(s) { "ws" } else { "tcp" };
        words.extend(["--listen".to_owned(), format!("{transport}://{ANY_PORT}")]);
    }
    words.push("--data-dir".to_owned());
    let data_dir = s.data_dir.clone().unwrap_or_else(|| dir.join("data"));
    words.push(data_dir.display().to_string());
    for (name, text) in &s.files {
        fs::write(dir.join(name), text).expect("a file for the broker");
    }
    if !s.config.is_empty() {
        let path = dir.join("ringtide.toml");
        let text = s.config.replace("@DIR@", &dir.display().to_string());
        let text = text.replace("@LISTEN@", ANY_PORT);
        fs::write(&path, text).expect("a configuration file");
        words.extend(["--config".to_owned(), path.display().to_string()]);
    }
    let mut command = if guarded {
        let mut sh = Command::new("sh");
        sh.args(["-c", GUARD, "guard"]).arg(dir.join("pid")).stdin(Stdio::piped());
        sh.args(&words);
        sh
    } else {
        let mut direct = Command::new(&words[0]);
        direct.args(&words[1..]).stdin(Stdio::null());
        direct
    };
    let out = File::create(log).expect("a log file");
    let err = out.try_clone().expect("the same log file");
    without_settings(&mut command);
    command.stdout(out).stderr(err).envs(s.env.iter().map(|(k, v)| (k, v)));
    command
}

fn guarded_pid(dir: &Path) -> u32 {
    let path = dir.join("pid");
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(text) = fs::read_to_string(&path) {
            return text.trim().parse().expect("a pid");
        }
        assert!(Instant::now() < end, "the guard did not start the broker");
        std::thread::sleep(Duration::from_millis(5));
    }
}
