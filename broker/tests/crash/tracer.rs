//! strace, which kills a process as a thread of it is about to make its N-th call of a kind: the
//! call is not made any more, all before it were.

use std::fmt;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::common::PATIENCE;

/// The N-th call of a kind by any one thread, from 1 on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) number: u32,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.number)
    }
}

/// A strace beside a process. It ends with the process.
pub(crate) struct Tracer {
    child: Child,
}

impl Tracer {
    /// Whether this machine lets strace do this; else why not.
    pub(crate) fn probe() -> Result<(), String> {
        let call = Call { name: "write", number: 1 };
        let mut launched = Tracer::launching(call);
        launched.args(["sh", "-c", "echo"]).stdin(Stdio::null()).stdout(Stdio::null());
        match launched.stderr(Stdio::null()).status() {
            Err(error) => return Err(format!("strace cannot be started: {error}")),
            Ok(status) if status.signal() == Some(9) => {}
            Ok(_) => return Err("strace may not trace here, or cannot inject signals".to_owned()),
        }
        let mut other = Command::new("cat");
        other.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut other = other.spawn().map_err(|error| format!("cat: {error}"))?;
        let tracer = Tracer::attach(other.id(), call);
        let _ = other.kill();
        let _ = other.wait();
        tracer.map(drop).ok_or_else(|| "strace may not attach to a running process".to_owned())
    }

    /// A command that runs the program to be added, with its arguments, and has the program's
    /// process id: the tracer is not its parent.
    pub(crate) fn launching(call: Call) -> Command {
        let mut command = strace(call);
        command.arg("-D");
        command
    }

    /// Attaches to all threads of a process. `None` if that is not allowed.
    pub(crate) fn attach(process: u32, call: Call) -> Option<Tracer> {
        let mut command = strace(call);
        command.args(["-p", &process.to_string()]).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let mut tracer = Tracer { child };
        let end = Instant::now() + PATIENCE;
        while !is_traced(process) {
            if tracer.child.try_wait().expect("a child to ask").is_some() {
                return None;
            }
            assert!(Instant::now() < end, "strace does not attach");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Some(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn strace(call: Call) -> Command {
    let mut command = Command::new("strace");
    let Call { name, number } = call;
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={name}")]);
    command.args(["-e", &format!("inject={name}:signal=KILL:when={number}")]);
    command
}

/// Whether every thread of a process has a tracer, or the process has ended.
fn is_traced(process: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return true };
    let mut states = threads.flatten().filter_map(|thread| {
        let status = fs::read_to_string(thread.path().join("status"));
        status.ok()
    });
    states.all(|text| !text.contains("\nTracerPid:\t0\n"))
}
