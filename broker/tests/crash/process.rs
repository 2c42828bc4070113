//! One broker after another on the same data directory.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::tracer::{Call, Tracer};
use crate::common::PATIENCE;
use crate::common::broker::{ANY_PORT, announced, program, scratch, without_settings};

/// Every acknowledgement follows the disk; no queue of the test overflows.
const DURABLE: &str = "\
durability = \"sync\"
sys_interval_s = 0
[limits]
queue_count_max = 1000000
queue_bytes_max = 1073741824
";

/// Small segments and frequent checkpoints, so that a short test sees many of both.
const SMALL: &str = "\
[store]
segment_bytes = 4194304
checkpoint_bytes = 2097152
";

/// See the module's documentation.
pub(crate) struct Process {
    dir: PathBuf,
    config: PathBuf,
    /// Where the last broker that was waited for listens. Each has a port of its own: the kernel
    /// may close the listeners of one that was killed after the next one is there.
    pub(crate) address: String,
    child: Option<Child>,
    /// Starts so far: each has a log file of its own.
    starts: u32,
    /// Sees to it that the broker is killed at a call.
    tracer: Option<Tracer>,
}

impl Process {
    /// Prepares a data directory. `None` if this program cannot keep anything durably.
    pub(crate) fn prepare() -> Option<Process> {
        let dir = scratch();
        let config = dir.join("ringtide.toml");
        let fits = [format!("{DURABLE}{SMALL}"), DURABLE.to_owned()].into_iter().any(|text| {
            fs::write(&config, text).expect("a configuration file");
            accepts(&config)
        });
        let address = String::new();
        fits.then_some(Process { dir, config, address, child: None, starts: 0, tracer: None })
    }

    /// What the next start is told of the broker and of the store; the rest stays.
    pub(crate) fn configure(&self, broker: &str, store: &str) {
        let text = format!("{broker}\n{DURABLE}[store]\n{store}");
        fs::write(&self.config, &text).expect("a configuration file");
        assert!(accepts(&self.config), "the broker takes this: {text}");
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the program and does not wait for it.
    pub(crate) fn spawn(&mut self, shards: u32) {
        self.spawn_by(Command::new(program()), shards);
    }

    /// The same, and the program is killed at a call of its start.
    pub(crate) fn spawn_until(&mut self, shards: u32, call: Call) {
        let mut command = Tracer::launching(call);
        command.arg(program());
        self.spawn_by(command, shards);
    }

    fn spawn_by(&mut self, mut command: Command, shards: u32) {
        assert!(self.child.is_none(), "one broker at a time");
        self.starts += 1;
        let log = File::create(self.log()).expect("a log file");
        command.args(["run", "--listen", ANY_PORT, "--shards", &shards.to_string()]);
        command.arg("--config").arg(&self.config).arg("--data-dir").arg(self.dir.join("data"));
        without_settings(&mut command);
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("the same file")).stdout(log);
        self.child = Some(command.spawn().expect("the broker's program starts"));
    }

    /// Starts the program and waits until it accepts connections.
    pub(crate) fn start(&mut self, shards: u32) {
        self.spawn(shards);
        let end = Instant::now() + PATIENCE;
        loop {
            let said = self.log_text();
            if let Some(address) = announced(&said) {
                self.address = address;
                if let Some((_, found)) = said.split_once(" store: ") {
                    eprintln!("found {}", found.lines().next().unwrap_or_default());
                }
                return;
            }
            let child = self.child.as_mut().expect("just started");
            let gone = child.try_wait().expect("a child to ask");
            assert!(gone.is_none(), "the broker ended ({gone:?}):\n{}", self.log_text());
            assert!(Instant::now() < end, "the broker is not ready:\n{said}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// From now on the program that runs is killed when one of its threads makes this call.
    pub(crate) fn kill_at(&mut self, call: Call) {
        let child = self.child.as_ref().expect("a broker runs");
        self.tracer = Tracer::attach(child.id(), call);
        assert!(self.tracer.is_some(), "strace attached to a process before");
    }

    /// Waits for the kill at a call; false if it has not come in a time, or the program has ended
    /// in an orderly way before: then it runs no more either.
    pub(crate) fn is_struck(&mut self, patience: Duration) -> bool {
        let mut child = self.child.take().expect("a broker runs");
        let end = Instant::now() + patience;
        let mut ended = child.try_wait().expect("a child to ask");
        while ended.is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
            ended = child.try_wait().expect("a child to ask");
        }
        let Some(status) = ended else {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
            self.tracer = None;
            return false;
        };
        self.tracer = None;
        let struck = status.signal() == Some(9);
        assert!(struck || status.success(), "the broker ended ({status:?}):\n{}", self.log_text());
        struck
    }

    /// The same for a program that starts: waits until it accepts connections, and then for a time.
    pub(crate) fn is_struck_at_start(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + PATIENCE;
        let child = self.child.as_mut().expect("just started");
        while child.try_wait().expect("a child to ask").is_none() {
            let said = fs::read_to_string(self.dir.join(format!("log-{}", self.starts)));
            if said.is_ok_and(|said| announced(&said).is_some()) {
                break;
            }
            assert!(Instant::now() < end, "the broker is not ready");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.is_struck(patience)
    }

    /// SIGTERM, and no waiting.
    pub(crate) fn terminate(&self) {
        let id = self.child.as_ref().expect("a broker runs").id();
        let sent = Command::new("kill").args(["-s", "TERM", &id.to_string()]).status();
        assert!(sent.expect("kill runs").success(), "the broker still ran");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("a broker runs");
        // One that has ended by itself has failed, and then said why.
        let ended = child.try_wait().expect("a child to ask");
        assert!(ended.is_none(), "the broker ended ({ended:?}):\n{}", self.log_text());
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// SIGTERM, and SIGKILL if it has not ended after a time.
    pub(crate) fn stop(&mut self, patience: Duration) {
        self.terminate();
        let mut child = self.child.take().expect("a broker runs");
        let end = Instant::now() + patience;
        while child.try_wait().expect("a child to ask").is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().expect("it ends");
    }

    /// Whether the broker runs, or how it ended.
    pub(crate) fn status(&mut self) -> String {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => "the broker runs".to_owned(),
            other => format!("the broker ended: {other:?}"),
        }
    }

    /// The processors to which the shards of the broker that runs are pinned.
    pub(crate) fn cpus(&self) -> Vec<usize> {
        let said = self.log_text();
        let listed = said.split_once(" on cpu ").and_then(|(_, rest)| rest.split_once(", host"));
        let (cpus, _) = listed.expect("the broker says where its shards are");
        cpus.split(',').map(|cpu| cpu.parse().expect("a processor's number")).collect()
    }

    fn log(&self) -> PathBuf {
        self.dir.join(format!("log-{}", self.starts))
    }

    /// What the last broker printed.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Removes the directory: nothing was found in it.
    pub(crate) fn remove(mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether the program takes a configuration.
fn accepts(config: &Path) -> bool {
    let mut command = Command::new(program());
    without_settings(&mut command);
    command.args(["check-config", "--config"]).arg(config);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.expect("the broker's program starts").success()
}
