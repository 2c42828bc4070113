//! What the kernel says of a process: CPU time, context switches, memory. Reads `/proc` only.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// CPU time and switches of one thread since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ThreadUsage {
    tid: u32,
    name: String,
    cpu_ns: u64,
    voluntary: u64,
    involuntary: u64,
}

/// What a process has used since it began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    threads: Vec<ThreadUsage>,
    /// `utime` and `stime` of the whole process, ended threads included.
    user_ns: u64,
    system_ns: u64,
}

/// What a process has used between two readings.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Spent {
    /// CPU time of all threads, user and system.
    pub(crate) cpu_ns: u64,
    /// The user part of `cpu_ns`, from 0 to 1, at the resolution of ticks.
    pub(crate) user_share: f64,
    /// Times that its threads gave up the CPU themselves.
    pub(crate) voluntary_switches: u64,
    /// Times that they were made to.
    pub(crate) involuntary_switches: u64,
    /// CPU time by thread, those at 0 left out.
    pub(crate) threads: Vec<ThreadSpent>,
}

/// What one thread has used.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ThreadSpent {
    pub(crate) name: String,
    pub(crate) cpu_ns: u64,
}

/// Whether a process is there and has not ended.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Reads the usage of a process.
///
/// # Errors
/// If the process is gone.
pub(crate) fn usage(pid: u32) -> io::Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (user, system) = stat_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        let tid = path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0);
        let read = |name| fs::read_to_string(path.join(name)).unwrap_or_default();
        let status = read("status");
        threads.push(ThreadUsage {
            tid,
            name: read("comm").trim().to_owned(),
            cpu_ns: first_number(&read("schedstat")),
            voluntary: field(&status, "voluntary_ctxt_switches:"),
            involuntary: field(&status, "nonvoluntary_ctxt_switches:"),
        });
    }
    Ok(Usage { threads, user_ns: user * tick_ns, system_ns: system * tick_ns })
}

impl Usage {
    /// What was used since `before`, a reading of the same process.
    pub(crate) fn since(&self, before: &Self) -> Spent {
        let mut spent = Spent::default();
        for now in &self.threads {
            let then = before.threads.iter().find(|thread| thread.tid == now.tid);
            let none = ThreadUsage::default();
            let then = then.unwrap_or(&none);
            let cpu_ns = now.cpu_ns.saturating_sub(then.cpu_ns);
            spent.cpu_ns += cpu_ns;
            spent.voluntary_switches += now.voluntary.saturating_sub(then.voluntary);
            spent.involuntary_switches += now.involuntary.saturating_sub(then.involuntary);
            if cpu_ns > 0 {
                spent.threads.push(ThreadSpent { name: now.name.clone(), cpu_ns });
            }
        }
        let user = self.user_ns.saturating_sub(before.user_ns);
        let system = self.system_ns.saturating_sub(before.system_ns);
        let by_ticks = user + system;
        if by_ticks > 0 {
            spent.user_share = user as f64 / by_ticks as f64;
        }
        // Threads that ended meanwhile are in the ticks only.
        if by_ticks > spent.cpu_ns + TICKS_SLACK.as_nanos() as u64 {
            spent.cpu_ns = by_ticks;
        }
        spent
    }
}

/// How far ticks may be ahead of the scheduler's own account without threads having ended.
const TICKS_SLACK: Duration = Duration::from_millis(60);

fn stat_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn first_number(text: &str) -> u64 {
    text.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, first_number)
}

/// User memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// Resident, all kinds.
    pub(crate) resident: u64,
    /// Resident and private: heap, stacks and what the process has written to.
    pub(crate) anonymous: u64,
    /// Proportional share, from `smaps_rollup`.
    pub(crate) proportional: u64,
}

/// Reads the memory of a process.
///
/// # Errors
/// If the process is gone.
pub(crate) fn memory(pid: u32) -> io::Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    Ok(Memory {
        resident: field(&rollup, "Rss:") * 1024,
        anonymous: field(&rollup, "Anonymous:") * 1024,
        proportional: field(&rollup, "Pss:") * 1024,
    })
}

/// Kernel memory of the whole machine that grows with sockets, in bytes.
pub(crate) fn kernel_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&info, "Slab:") * 1024
}

/// The machine, for the record.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
}

/// Describes the machine.
pub(crate) fn host() -> Host {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpuinfo = read("/proc/cpuinfo");
    let models = cpuinfo.lines().filter(|line| line.starts_with("model name"));
    Host {
        name: read("/proc/sys/kernel/hostname"),
        kernel: read("/proc/sys/kernel/osrelease"),
        cpu: models.clone().next().and_then(|l| l.split_once(": ")).map_or("", |m| m.1).to_owned(),
        cpus: models.count(),
    }
}

/// The type of the file system that a directory is on, as `/proc/mounts` names it.
pub(crate) fn file_system(directory: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    mount_of(&mounts, &directory).unwrap_or_default().to_owned()
}

fn mount_of<'a>(mounts: &'a str, directory: &Path) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let above = mounts.filter(|(path, _)| directory.starts_with(path));
    // The last of those that are mounted at the same place lies on top.
    above.max_by_key(|(path, _)| path.len()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_any_name() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194560 100 0 0 0 12 34 0 0 20 0 1 0 5 6 7";
        assert_eq!(stat_ticks(stat), Some((12, 34)));
        assert_eq!(stat_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "nonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t5\nRss:  12 kB\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), 5);
        assert_eq!(field(text, "Rss:"), 12);
        assert_eq!(field(text, "Pss:"), 0);
    }

    #[test]
    fn usage_is_the_difference_of_two_readings() {
        let thread = |tid, cpu_ns| ThreadUsage { tid, cpu_ns, ..ThreadUsage::default() };
        let before = Usage { threads: vec![thread(1, 100)], user_ns: 0, system_ns: 0 };
        let threads = vec![thread(1, 400), thread(2, 50), thread(3, 0)];
        let after = Usage { threads, user_ns: 30, system_ns: 10 };
        let spent = after.since(&before);
        assert_eq!((spent.cpu_ns, spent.threads.len()), (350, 2));
        assert!((spent.user_share - 0.75).abs() < 1e-9);
    }

    #[test]
    fn ticks_count_when_threads_have_ended() {
        let after = Usage { threads: Vec::new(), user_ns: 1 << 30, system_ns: 0 };
        assert_eq!(after.since(&Usage::default()).cpu_ns, 1 << 30);
    }

    #[test]
    fn the_nearest_mount_names_the_file_system() {
        let mounts = "a / ext4 rw 0 0\nb /tmp tmpfs rw 0 0\nc /tmp xfs rw 0 0\nd /tm zfs rw 0 0\n";
        assert_eq!(mount_of(mounts, Path::new("/tmp/x")), Some("xfs"));
        assert_eq!(mount_of(mounts, Path::new("/var")), Some("ext4"));
        assert_eq!(mount_of("", Path::new("/")), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(usage(pid).is_ok_and(|usage| !usage.threads.is_empty()));
        assert!(memory(pid).is_ok_and(|memory| memory.resident > 0));
        assert!(host().cpus > 0);
    }
}
