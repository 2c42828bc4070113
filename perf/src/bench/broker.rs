//! Starts the broker under test, pinned to a CPU, on a free loopback port, in a directory of its
//! own; stops it by its process id.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::failure::Failure;
use crate::options::pin;

const START_MAX: Duration = Duration::from_secs(10);
const STOP_MAX: Duration = Duration::from_secs(5);

/// Which broker it is: how to start it follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Ringtide,
    Mosquitto,
    NatsServer,
    Rumqttd,
    /// This program's null broker.
    Reflector,
}

impl Kind {
    /// Guesses from the program's name.
    pub(crate) fn of(program: &Path) -> Self {
        let name = program.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
        let known = [
            ("mosquitto", Self::Mosquitto),
            ("nats-server", Self::NatsServer),
            ("rumqttd", Self::Rumqttd),
            ("ringtide-perf", Self::Reflector),
        ];
        known.iter().find(|(part, _)| name.contains(part)).map_or(Self::Ringtide, |found| found.1)
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    pub(crate) program: PathBuf,
    pub(crate) kind: Kind,
    /// Arguments after those that the kind gives.
    pub(crate) extra: Vec<String>,
    pub(crate) cpu: usize,
}

/// A broker that runs; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    directory: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::Io(what, error)
}

impl Broker {
    /// The arguments and, if the broker wants one, the configuration file.
    fn arguments(&self, directory: &Path, port: u16, shards: u16) -> (Vec<String>, String) {
        let file = directory.join("config").display().to_string();
        let listen = format!("127.0.0.1:{port}");
        let data = directory.join("data").display().to_string();
        let shards = shards.to_string();
        let (arguments, config): (Vec<&str>, _) = match self.kind {
            Kind::Ringtide => {
                let run = ["run", "--listen", &listen, "--shards", &shards, "--data-dir", &data];
                (run.to_vec(), String::new())
            }
            Kind::Mosquitto => (vec!["-c", &file], mosquitto(port)),
            Kind::NatsServer => (vec!["-c", &file], nats(directory, port)),
            Kind::Rumqttd => (vec!["-c", &file], rumqttd(port)),
            Kind::Reflector => {
                (vec!["reflect", "--io", "uring", "--listen", &listen], String::new())
            }
        };
        let arguments = arguments.into_iter().map(str::to_owned);
        (arguments.chain(self.extra.iter().cloned()).collect(), config)
    }

    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// If it ends, or does not accept within ten seconds.
    pub(crate) fn start(&self, shards: u16) -> Result<Running, Failure> {
        let directory = fresh_directory()?;
        let port = free_port()?;
        let (arguments, config) = self.arguments(&directory, port, shards);
        fs::write(directory.join("config"), config).map_err(failed("cannot write a config"))?;
        let log = fs::File::create(directory.join("log")).map_err(failed("cannot make a log"))?;
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed("cannot make a log"))?)
            .stderr(log);
        let cpu = self.cpu;
        // A thread's affinity is inherited by what it starts.
        let spawned = std::thread::spawn(move || pin(Some(cpu)).map(|()| command.spawn()));
        let child = spawned
            .join()
            .map_err(|_| Failure::Broker("the thread that starts it failed".to_owned()))??
            .map_err(|e| {
                Failure::Broker(format!("cannot start {}: {e}", self.program.display()))
            })?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut running = Running { child, directory, address };
        running.wait_until_up()?;
        Ok(running)
    }
}

impl Running {
    fn wait_until_up(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + START_MAX;
        while Instant::now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Failure::Broker(format!("it ended with {status}: {}", self.log())));
            }
            if TcpStream::connect_timeout(&self.address, Duration::from_millis(200)).is_ok() {
                std::thread::sleep(Duration::from_millis(200));
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(Failure::Broker(format!("it does not accept connections: {}", self.log())))
    }

    /// The last lines that it has written.
    fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" | ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let end = Instant::now() + STOP_MAX;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn fresh_directory() -> Result<PathBuf, Failure> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ringtide-perf-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir_all(&directory).map_err(failed("cannot make a directory"))?;
    Ok(directory)
}

fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed("no free port"))?;
    Ok(listener.local_addr().map_err(failed("no free port"))?.port())
}

fn mosquitto(port: u16) -> String {
    format!(
        "listener {port} 127.0.0.1\n\
         allow_anonymous true\n\
         persistence false\n\
         max_queued_messages 0\n\
         max_inflight_messages 0\n\
         set_tcp_nodelay true\n\
         log_type error\n"
    )
}

fn nats(directory: &Path, port: u16) -> String {
    let store = directory.display();
    format!(
        "server_name: bench\n\
         listen: 127.0.0.1:-1\n\
         jetstream {{ store_dir: \"{store}\" }}\n\
         mqtt {{ listen: \"127.0.0.1:{port}\", max_ack_pending: 65535 }}\n"
    )
}

fn rumqttd(port: u16) -> String {
    format!(
        "id = 0\n\
         [router]\n\
         id = 0\n\
         max_connections = 20010\n\
         max_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\n\
         max_segment_count = 10\n\
         [v4.1]\n\
         name = \"v4-1\"\n\
         listen = \"127.0.0.1:{port}\"\n\
         next_connection_delay_ms = 0\n\
         [v4.1.connections]\n\
         connection_timeout_ms = 60000\n\
         max_payload_size = 20971520\n\
         max_inflight_count = 1000\n\
         dynamic_filters = true\n"
    )
}

/// The version line of a program, for the record.
pub(crate) fn version(program: &Path, kind: Kind) -> String {
    let argument = match kind {
        Kind::Ringtide => "version",
        Kind::Mosquitto => "-h",
        Kind::NatsServer | Kind::Rumqttd => "--version",
        Kind::Reflector => return "null reflector".to_owned(),
    };
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_default()
}

/// Says something to whoever watches.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}").map_err(failed("cannot write to the terminal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_follows_from_the_name() {
        assert_eq!(Kind::of(Path::new("/usr/sbin/mosquitto")), Kind::Mosquitto);
        assert_eq!(Kind::of(Path::new("target/release/ringtide")), Kind::Ringtide);
        assert_eq!(Kind::of(Path::new("ringtide-perf")), Kind::Reflector);
    }

    #[test]
    fn each_kind_gets_port_and_shards() {
        let broker = |kind| Broker { program: "x".into(), kind, extra: vec!["-z".into()], cpu: 0 };
        let (arguments, _) = broker(Kind::Ringtide).arguments(Path::new("/d"), 77, 3);
        let run = ["run", "--listen", "127.0.0.1:77", "--shards", "3", "--data-dir", "/d/data"];
        assert_eq!(arguments[..7], run);
        assert_eq!(arguments[7..], ["-z"]);
        for kind in [Kind::Mosquitto, Kind::NatsServer, Kind::Rumqttd] {
            let (arguments, config) = broker(kind).arguments(Path::new("/d"), 4477, 1);
            assert_eq!(arguments, ["-c", "/d/config", "-z"]);
            assert!(config.contains("4477"));
        }
    }
}
