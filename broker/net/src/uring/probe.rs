//! What this kernel can do, found by trying, before the first client comes.
//!
//! Owns the trials and the wording of what they find. A feature that the driver cannot do without
//! is an error with one line that says what to do; any other has a fallback, which is named.

use std::fmt;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::squeue::{self, Flags};
use io_uring::{IoUring, cqueue, opcode, types};
use ringtide_driver::Wait;

use super::buffers::{Buffers, GROUP};
use super::ring::{self, Ring};
use super::{Descriptors, UringConfig};
use crate::memlock::ring_bytes;

/// The oldest kernel that the driver runs on.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Entries of the rings that the trials use.
const SUBMISSIONS: u64 = 64;
const COMPLETIONS: u64 = 256;
/// How long a trial waits for its completion.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why io_uring cannot be used. Displays as one line that says what to do.
#[derive(Debug)]
pub enum ProbeError {
    /// The kernel is older than 6.1.
    KernelTooOld {
        /// What uname says.
        release: String,
    },
    /// The sysctl `kernel.io_uring_disabled` forbids it.
    Disabled {
        /// Its value: 1 for unprivileged processes, 2 for all.
        level: u32,
    },
    /// A seccomp filter forbids it: most container runtimes do by default.
    Forbidden,
    /// The limit of locked memory is too small.
    Memlock {
        /// The soft limit in bytes.
        limit: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// A feature that is needed does not work here.
    Missing {
        /// Which one.
        feature: &'static str,
    },
    /// Anything else.
    Failed {
        /// What was tried.
        trial: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeError::KernelTooOld { release } => {
                write!(f, "io_uring: Linux {release} is too old, 6.1 is the oldest that works")
            }
            ProbeError::Disabled { level } => write!(
                f,
                "io_uring: kernel.io_uring_disabled is {level}; set it to 0 with \
                 `sysctl kernel.io_uring_disabled=0`"
            ),
            ProbeError::Forbidden => write!(
                f,
                "io_uring: a seccomp filter forbids it, as container runtimes do by default; \
                 allow io_uring_setup, io_uring_enter and io_uring_register"
            ),
            ProbeError::Memlock { limit, needed } => write!(
                f,
                "io_uring: {} KiB may be locked in memory, {} KiB are needed; raise it with \
                 `ulimit -l` or LimitMEMLOCK= in the service's unit",
                limit >> 10,
                needed >> 10
            ),
            ProbeError::Missing { feature } => {
                write!(f, "io_uring: this kernel lacks {feature}; a newer one is needed")
            }
            ProbeError::Failed { trial, error } => {
                write!(f, "io_uring: the trial of {trial} failed: {error}")
            }
        }
    }
}

impl std::error::Error for ProbeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ProbeError::Failed { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// One feature and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// It works here.
    pub works: bool,
    /// What it is used for, or what is done instead.
    pub note: &'static str,
}

/// What the kernel can do. Displays as one line per feature.
#[derive(Clone, Debug)]
pub struct Findings {
    /// What uname says.
    pub release: String,
    /// Every feature that was tried.
    pub features: Vec<Feature>,
    /// Sends may skip their completions.
    pub sends_skip_completions: bool,
    /// Direct descriptors work, with everything that they need.
    pub direct_descriptors: bool,
}

impl Findings {
    /// Puts the fallbacks into a configuration: counted sends, plain descriptors.
    pub fn apply(&self, config: &mut UringConfig) {
        config.counted_sends |= !self.sends_skip_completions;
        if !self.direct_descriptors {
            config.descriptors = Descriptors::Plain;
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "io_uring on Linux {}", self.release)?;
        for Feature { name, works, note } in &self.features {
            let found = if *works { "yes" } else { "no " };
            writeln!(f, "  {found} {name}: {note}")?;
        }
        Ok(())
    }
}

/// Tries everything that the driver uses. Takes a few milliseconds and two descriptors or so.
///
/// # Errors
/// io_uring is not to be had, or lacks what the driver cannot do without.
pub fn probe() -> Result<Findings, ProbeError> {
    let release = kernel_release();
    if version(&release).is_some_and(|version| version < KERNEL_MIN) {
        return Err(ProbeError::KernelTooOld { release });
    }
    let mut ring = new_ring()?;
    required_features(ring.uring())?;
    let mut features = vec![
        feature("deferred task work", true, "completions are made only inside our own calls"),
        feature("opcodes", true, "all that the driver needs are there"),
    ];
    multishot_receive(&mut ring)?;
    features.push(feature("multishot receive", true, "idle connections own no buffer"));
    multishot_accept(&mut ring)?;
    features.push(feature("multishot accept", true, "one operation per listener"));
    let mut other = new_ring()?;
    let messages = attempt("ring messages", || ring_message(&mut ring, &mut other))?;
    if !messages {
        return Err(ProbeError::Missing { feature: "ring messages (MSG_RING)" });
    }
    features.push(feature("ring messages", true, "shards wake each other without eventfds"));
    let skips = attempt("sends without completions", || silent_sends(&mut ring))?;
    let note = if skips { "a send costs no completion" } else { "every send is counted instead" };
    features.push(feature("sends without completions", skips, note));
    let direct = direct_descriptors(&mut ring, &mut other);
    let note = if direct { "available on request" } else { "plain descriptors only" };
    features.push(feature("direct descriptors", direct, note));
    features.extend(optional_features(ring.uring()));
    Ok(Findings { release, features, sends_skip_completions: skips, direct_descriptors: direct })
}

fn feature(name: &'static str, works: bool, note: &'static str) -> Feature {
    Feature { name, works, note }
}

/// The running kernel's release, as uname -r prints it.
pub(crate) fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// Major and minor of a release such as `6.18.44-fc`.
pub(crate) fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn new_ring() -> Result<Ring, ProbeError> {
    match ring::build(SUBMISSIONS as u32, COMPLETIONS as u32) {
        Ok(uring) => Ok(Ring::new(uring, None)),
        Err(error) => Err(setup_error(error, disabled_level())),
    }
}

fn disabled_level() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// What a refused io_uring_setup means.
fn setup_error(error: io::Error, disabled_level: u32) -> ProbeError {
    match error.raw_os_error() {
        Some(libc::EPERM) if disabled_level > 0 => ProbeError::Disabled { level: disabled_level },
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => ProbeError::Forbidden,
        Some(libc::ENOMEM) => ProbeError::Memlock {
            limit: crate::sys::memlock_limit().unwrap_or(0),
            needed: ring_bytes(SUBMISSIONS, COMPLETIONS),
        },
        Some(libc::EINVAL) => ProbeError::Missing { feature: "deferred task work" },
        _ => ProbeError::Failed { trial: "io_uring_setup", error },
    }
}

fn required_features(uring: &IoUring) -> Result<(), ProbeError> {
    let params = uring.params();
    let flags = [
        ("overflow without loss", params.is_feature_nodrop()),
        ("timeouts by argument", params.is_feature_ext_arg()),
        ("skipped completions", params.is_feature_skip_cqe_on_success()),
    ];
    if let Some((feature, _)) = flags.into_iter().find(|(_, there)| !there) {
        return Err(ProbeError::Missing { feature });
    }
    let mut probe = io_uring::Probe::new();
    let asked = uring.submitter().register_probe(&mut probe);
    asked.map_err(|error| ProbeError::Failed { trial: "opcodes", error })?;
    let opcodes = [
        ("ACCEPT", opcode::Accept::CODE),
        ("RECV", opcode::Recv::CODE),
        ("SEND", opcode::Send::CODE),
        ("SENDMSG", opcode::SendMsg::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
        ("CLOSE", opcode::Close::CODE),
        ("READ", opcode::Read::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("MSG_RING", opcode::MsgRingData::CODE),
    ];
    match opcodes.into_iter().find(|(_, code)| !probe.is_supported(*code)) {
        Some((feature, _)) => Err(ProbeError::Missing { feature }),
        None => Ok(()),
    }
}

fn optional_features(uring: &IoUring) -> [Feature; 2] {
    let bare =
        IoUring::<squeue::Entry, cqueue::Entry>::builder().setup_no_sqarray().build(2).is_ok();
    let no_iowait = uring.params().is_feature_no_iowait();
    let idle = if no_iowait { "sleep counts as idle" } else { "sleep counts as iowait" };
    [
        feature("rings without index array", bare, "saves a cache line per operation"),
        feature("waits without iowait", no_iowait, idle),
    ]
}

fn attempt(
    trial: &'static str,
    run: impl FnOnce() -> io::Result<bool>,
) -> Result<bool, ProbeError> {
    run().map_err(|error| ProbeError::Failed { trial, error })
}

/// Submits one entry whose memory outlives the trial.
fn submit(ring: &mut Ring, entry: &squeue::Entry, wait: Wait) -> io::Result<()> {
    // SAFETY: the callers keep what their entries point to until the trial is over, and cancel
    // what may still be in flight.
    unsafe { ring.push(entry) };
    ring.submit_and_wait(wait)
}

/// The next completion: its result and flags. An error after two seconds without one.
fn completion(ring: &mut Ring) -> io::Result<(i32, u32)> {
    for _ in 0..100 {
        if let Some(entry) = ring.next() {
            return Ok((entry.result(), entry.flags()));
        }
        ring.submit_and_wait(Wait::AtMost(PATIENCE / 100))?;
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Ends what a multishot trial left in flight.
fn cancel_all(ring: &mut Ring) -> io::Result<()> {
    let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
    submit(ring, &cancel, Wait::AtMost(PATIENCE))?;
    ring.submit_and_wait(Wait::Poll)?;
    while ring.next().is_some() {}
    Ok(())
}

fn multishot_receive(ring: &mut Ring) -> Result<(), ProbeError> {
    let buffers = Buffers::new(ring.uring(), 4, 64);
    let buffers = buffers.map_err(|_| ProbeError::Missing { feature: "provided buffer rings" })?;
    let result = attempt("multishot receive", || {
        let (ours, theirs) = UnixStream::pair()?;
        let entry = opcode::RecvMulti::new(types::Fd(ours.as_raw_fd()), GROUP).build();
        submit(ring, &entry, Wait::Poll)?;
        io::Write::write_all(&mut &theirs, b"tide")?;
        let (result, flags) = completion(ring)?;
        cancel_all(ring)?;
        Ok(result == 4 && cqueue::more(flags) && cqueue::buffer_select(flags).is_some())
    });
    let unregistered = ring.uring().submitter().unregister_buf_ring(GROUP);
    drop(buffers);
    unregistered.map_err(|error| ProbeError::Failed { trial: "buffer rings", error })?;
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(ProbeError::Missing { feature: "multishot receive" }),
        Err(error) => Err(error),
    }
}

fn multishot_accept(ring: &mut Ring) -> Result<(), ProbeError> {
    let works = attempt("multishot accept", || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let entry = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build();
        submit(ring, &entry, Wait::Poll)?;
        let _client = TcpStream::connect(listener.local_addr()?)?;
        let (result, flags) = completion(ring)?;
        close(result);
        cancel_all(ring)?;
        Ok(result >= 0 && cqueue::more(flags))
    })?;
    if works { Ok(()) } else { Err(ProbeError::Missing { feature: "multishot accept" }) }
}

fn close(fd: RawFd) {
    if fd >= 0 {
        // SAFETY: the kernel has just given us `fd`, nothing else owns it.
        unsafe { libc::close(fd) };
    }
}

fn ring_message(ring: &mut Ring, other: &mut Ring) -> io::Result<bool> {
    let target = types::Fd(other.uring().as_raw_fd());
    let entry = opcode::MsgRingData::new(target, 7, 1, None).build();
    submit(ring, &entry.flags(Flags::SKIP_SUCCESS), Wait::Poll)?;
    let arrived = completion(other)?;
    Ok(arrived.0 == 7 && ring.next().is_none())
}

/// The send scheme: silence if all went out, a short count or EAGAIN if not, and nothing lost.
fn silent_sends(ring: &mut Ring) -> io::Result<bool> {
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let fd = types::Fd(ours.as_raw_fd());
    let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
    let bytes = vec![1u8; 8 << 20];
    let send = |ring: &mut Ring, len: usize| {
        let entry = opcode::Send::new(fd, bytes.as_ptr(), len as u32).flags(flags).build();
        submit(ring, &entry.flags(Flags::SKIP_SUCCESS), Wait::Poll)?;
        Ok::<_, io::Error>(ring.next().map(|entry| entry.result()))
    };
    let whole = send(ring, 100)?;
    let part = send(ring, bytes.len())?;
    let full = send(ring, 100)?;
    // Whatever a kernel that misbehaves still holds must not outlive the bytes.
    cancel_all(ring)?;
    let mut arrived = 0;
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = io::Read::read(&mut &theirs, &mut chunk) {
        arrived += read;
    }
    let sent = match part {
        Some(n @ 1..) if (n as usize) < bytes.len() => n as usize,
        _ => return Ok(false),
    };
    Ok(whole.is_none() && full == Some(-libc::EAGAIN) && arrived == 100 + sent)
}

/// Direct descriptors need a table, a way to other rings, and a way out for socket options.
fn direct_descriptors(ring: &mut Ring, other: &mut Ring) -> bool {
    let mut probe = io_uring::Probe::new();
    let asked = ring.uring().submitter().register_probe(&mut probe);
    if asked.is_err() || !probe.is_supported(opcode::FixedFdInstall::CODE) {
        return false;
    }
    let tables = ring.uring().submitter().register_files_sparse(4).is_ok()
        && other.uring().submitter().register_files_sparse(4).is_ok();
    tables && send_descriptor(ring, other).unwrap_or(false)
}

/// Makes a direct descriptor, sends it to the other ring, and installs it there as a plain one.
fn send_descriptor(ring: &mut Ring, other: &mut Ring) -> io::Result<bool> {
    let (ours, _theirs) = UnixStream::pair()?;
    ring.uring().submitter().register_files_update(0, &[ours.as_raw_fd()])?;
    let target = types::Fd(other.uring().as_raw_fd());
    let anywhere = types::DestinationSlot::auto_target();
    let entry = opcode::MsgRingSendFd::new(target, types::Fixed(0), anywhere, 1).build();
    submit(ring, &entry, Wait::Poll)?;
    let (slot, _) = completion(other)?;
    let (sent, _) = completion(ring)?;
    if slot < 0 || sent < 0 {
        return Ok(false);
    }
    let entry = opcode::FixedFdInstall::new(types::Fixed(slot as u32), 0).build();
    submit(other, &entry, Wait::AtMost(PATIENCE))?;
    let (installed, _) = completion(other)?;
    close(installed);
    Ok(installed >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_advises_is_there() {
        let errors = [
            ProbeError::KernelTooOld { release: "5.4".to_owned() },
            ProbeError::Disabled { level: 2 },
            ProbeError::Forbidden,
            ProbeError::Missing { feature: "x" },
        ];
        for error in errors {
            let text = error.to_string();
            assert!(!text.contains("epoll"), "there is no other driver: {text}");
        }
    }

    #[test]
    fn this_kernel_is_found_fit() {
        let findings = probe().unwrap();
        assert!(findings.sends_skip_completions, "{findings}");
        let text = findings.to_string();
        assert_eq!(text.lines().count(), 1 + findings.features.len());
        assert!(findings.features.len() >= 8, "{text}");
    }

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert!(version("5.10.0").unwrap() < KERNEL_MIN);
        assert!(version("10.0").unwrap() > KERNEL_MIN);
        assert_eq!(version("strange"), None);
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let refusal = |errno| io::Error::from_raw_os_error(errno);
        let cases = [
            (setup_error(refusal(libc::EPERM), 2), "io_uring_disabled is 2"),
            (setup_error(refusal(libc::EPERM), 0), "seccomp"),
            (setup_error(refusal(libc::ENOSYS), 0), "seccomp"),
            (setup_error(refusal(libc::ENOMEM), 0), "KiB are needed"),
            (setup_error(refusal(libc::EINVAL), 0), "lacks deferred task work"),
            (setup_error(refusal(libc::EMFILE), 0), "Too many open files"),
            (ProbeError::KernelTooOld { release: "5.10".into() }, "5.10 is too old"),
        ];
        for (error, words) in cases {
            let line = error.to_string();
            assert!(line.contains(words) && !line.contains('\n'), "{line}");
        }
    }
}
