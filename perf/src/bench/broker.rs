//! Starts the broker under test, pinned to a CPU, on a free loopback port, in a directory of its
//! own; stops it by its process id.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::peers::{Kind, Place};
use crate::carry::identity::Identity;
use crate::carry::link::{Link, Transport, Way};
use crate::failure::Failure;
use crate::options::pin;

const START_MAX: Duration = Duration::from_secs(10);
/// Times that a start is tried.
const STARTS_MAX: u32 = 3;
const STOP_MAX: Duration = Duration::from_secs(5);

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    pub(crate) program: PathBuf,
    pub(crate) kind: Kind,
    /// Arguments after those that the kind gives.
    pub(crate) extra: Vec<String>,
    pub(crate) cpu: usize,
    /// What its listener speaks.
    pub(crate) transport: Transport,
    /// For a broker that is to keep what it is sent.
    pub(crate) keeps: Option<Keeps>,
}

/// How a broker keeps what it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Keeps {
    /// The directory in which it gets one of its own.
    pub(crate) root: PathBuf,
    /// Ringtide's `durability`.
    pub(crate) durability: String,
}

/// A broker that runs; dropping it stops it and removes its directory.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) directory: PathBuf,
    pub(crate) address: SocketAddr,
    transport: Transport,
    shards: u16,
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::Io(what, error)
}

/// Relative paths must outlive a change of directory; bare names are looked up in `PATH`.
pub(crate) fn resolve(program: &Path) -> PathBuf {
    if program.components().count() > 1 {
        std::path::absolute(program).unwrap_or_else(|_| program.to_owned())
    } else {
        program.to_owned()
    }
}

impl Broker {
    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// If it ends, does not accept within ten seconds, or has no such listener.
    pub(crate) fn start(&self, shards: u16) -> Result<Running, Failure> {
        if !self.kind.speaks(self.transport) {
            let (program, transport) = (self.program.display(), self.transport.name());
            let text = format!("{program} is not known to listen with {transport}");
            return Err(Failure::Transport(text));
        }
        // A port that was free a moment ago may be somebody's by now.
        for _ in 1..STARTS_MAX {
            if let Ok(running) = self.start_once(shards) {
                return Ok(running);
            }
        }
        self.start_once(shards)
    }

    fn start_once(&self, shards: u16) -> Result<Running, Failure> {
        let root = self.keeps.as_ref().map_or_else(std::env::temp_dir, |keeps| keeps.root.clone());
        let directory = fresh_directory(&root)?;
        if self.transport.has_tls() {
            Identity::make(&directory)?;
        }
        let port = free_port()?;
        let child = self.spawn(&directory, port, shards)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let transport = self.transport;
        let mut running = Running { child, directory, address, transport, shards };
        running.wait_until_up()?;
        Ok(running)
    }

    /// Starts one that has ended again, on what it has kept; does not wait until it accepts.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start_again(&self, running: &mut Running) -> Result<(), Failure> {
        running.child = self.spawn(&running.directory, running.address.port(), running.shards)?;
        Ok(())
    }

    fn spawn(&self, directory: &Path, port: u16, shards: u16) -> Result<Child, Failure> {
        let (keeps, transport) = (self.keeps.is_some(), self.transport);
        let place = Place { directory, port, shards, keeps, transport };
        let (arguments, config) = self.kind.arguments(&place);
        fs::write(directory.join("config"), config).map_err(failed("cannot write a config"))?;
        let mut log = fs::OpenOptions::new();
        let log = log.create(true).append(true).open(directory.join("log"));
        let log = log.map_err(failed("cannot make a log"))?;
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .args(&self.extra)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed("cannot make a log"))?)
            .stderr(log);
        if let Some(keeps) = &self.keeps {
            command.envs(self.kind.environment(&keeps.durability));
        }
        let cpu = self.cpu;
        // A thread's affinity is inherited by what it starts.
        let spawned = std::thread::spawn(move || pin(Some(cpu)).map(|()| command.spawn()));
        spawned
            .join()
            .map_err(|_| Failure::Broker("the thread that starts it failed".to_owned()))??
            .map_err(|e| Failure::Broker(format!("cannot start {}: {e}", self.program.display())))
    }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file of those who have signed its certificate, if it has one.
    pub(crate) fn ca(&self) -> Option<PathBuf> {
        self.transport.has_tls().then(|| Identity::within(&self.directory).ca)
    }

    /// How clients reach it: by its own transport, and with trust in its own certificate unless
    /// `way` says otherwise.
    ///
    /// # Errors
    /// As [`Link::new`].
    pub(crate) fn link(&self, way: &Way) -> Result<Link, Failure> {
        let mut way = Way { transport: self.transport, ..way.clone() };
        if !way.insecure {
            way.ca = way.ca.or_else(|| self.ca());
        }
        Link::new(&way)
    }

    /// Ends it with this signal; how long it took. Nothing if it has ended before.
    ///
    /// # Errors
    /// If it has not ended after `within`.
    pub(crate) fn end(&mut self, signal: Signal, within: Duration) -> Result<Duration, Failure> {
        let began = Instant::now();
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        // The number of one that has been waited for may be another's by now.
        if !ended(&mut self.child)
            && let Some(pid) = Pid::from_raw(self.child.id() as i32)
        {
            let sent = rustix::process::kill_process(pid, signal);
            sent.map_err(|error| Failure::Io("cannot end the broker", error.into()))?;
        }
        while !ended(&mut self.child) {
            if began.elapsed() > within {
                return Err(Failure::Broker("it does not end".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(began.elapsed())
    }

    fn wait_until_up(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + START_MAX;
        let mut accepted = false;
        while Instant::now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Failure::Broker(format!("it ended with {status}: {}", self.log())));
            }
            // It may have been another one's port that accepted: then this one has ended by now.
            if accepted {
                return Ok(());
            }
            accepted =
                TcpStream::connect_timeout(&self.address, Duration::from_millis(200)).is_ok();
            std::thread::sleep(Duration::from_millis(if accepted { 200 } else { 20 }));
        }
        Err(Failure::Broker(format!("it does not accept connections: {}", self.log())))
    }

    /// The last lines that it has written.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" | ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.end(Signal::TERM, STOP_MAX).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn fresh_directory(root: &Path) -> Result<PathBuf, Failure> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ringtide-perf-{}-{number}", std::process::id());
    let directory = root.join(name);
    fs::create_dir_all(&directory).map_err(failed("cannot make a directory"))?;
    Ok(directory)
}

fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed("no free port"))?;
    Ok(listener.local_addr().map_err(failed("no free port"))?.port())
}

/// Says something to whoever watches.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}").map_err(failed("cannot write to the terminal"))
}
