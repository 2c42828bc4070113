//! The kernel: its version, and what may keep this process from io_uring.

use crate::catalogue;
use crate::check::{Check, Verdict};
use crate::root::{Root, unread};

/// The oldest kernel on which every feature that the driver wants is there.
pub const WANTED: Version = Version { major: 6, minor: 1 };

/// A kernel's version, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl Version {
    /// Reads the numbers at the start of a release such as `6.1.0-18-amd64`.
    pub fn parse(release: &str) -> Option<Version> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Version { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

/// The kernel is new enough for io_uring as the driver uses it.
pub fn check_version(root: &Root) -> Check {
    version_of(root.read("proc/sys/kernel/osrelease").map_err(|error| unread(&error)))
}

fn version_of(release: Result<String, String>) -> Check {
    // A release that cannot be read is left to the driver's own probe.
    let (found, verdict) = match release {
        Ok(release) => match Version::parse(&release) {
            Some(version) if version >= WANTED => (format!("Linux {release}"), Verdict::Ok),
            Some(_) => (format!("Linux {release}"), Verdict::Short),
            None => (format!("Linux {release}"), Verdict::Unknown),
        },
        Err(error) => (error, Verdict::Unknown),
    };
    let wanted = format!("Linux {}.{} or newer", WANTED.major, WANTED.minor);
    Check::new(
        "kernel",
        found,
        wanted,
        "older kernels lack io_uring features that the driver needs",
    )
    .remedy("boot a newer kernel")
    .verdict(verdict)
    .fatal()
}

/// io_uring is not switched off by `kernel.io_uring_disabled` for this process.
pub fn check_io_uring(root: &Root) -> Check {
    let setting = root.read(&catalogue::path("kernel.io_uring_disabled")).ok();
    let group = root.read(&catalogue::path("kernel.io_uring_group")).ok();
    io_uring_of(setting.as_deref(), group.as_deref(), &Process::read(root))
}

/// 0 or no such setting: allowed; 1: only for the privileged and the members of
/// `kernel.io_uring_group`; 2: for nobody.
fn io_uring_of(setting: Option<&str>, group: Option<&str>, process: &Process) -> Check {
    let member = group.and_then(|group| group.parse().ok()).is_some_and(|g| process.is_member(g));
    let found = setting.unwrap_or("no such setting");
    let check = Check::new(
        "io_uring_disabled",
        found,
        "0",
        "the shards do all their network I/O over io_uring",
    )
    .remedy(
        "run `sysctl kernel.io_uring_disabled=0`, or start as a member of kernel.io_uring_group \
         when it is 1",
    );
    match setting {
        Some("2") => check.verdict(Verdict::Short).fatal(),
        // Whether a start as another user may, only its own try can tell.
        Some("1") if !process.is_privileged() && !member => check.verdict(Verdict::Short),
        Some("1") => check.verdict(Verdict::Advice),
        _ => check,
    }
}

/// No filter of system calls stands between this process and io_uring, as far as `/proc` tells.
pub fn check_seccomp(root: &Root) -> Check {
    let (found, verdict) = match Process::read(root).seccomp.as_deref() {
        Some("0") => ("no filter", Verdict::Ok),
        Some("1") => ("strict mode", Verdict::Short),
        Some(_) => ("a filter", Verdict::Unknown),
        None => ("not told", Verdict::Unknown),
    };
    let why = "most container runtimes forbid io_uring by a filter, whose rules cannot be read";
    Check::new("seccomp", found, "io_uring_setup, io_uring_enter, io_uring_register allowed", why)
        .remedy("if the broker does not start, allow the three calls in the runtime's profile")
        .verdict(verdict)
}

/// What `/proc` says of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its effective user.
    uid: Option<u32>,
    /// Its groups.
    groups: Vec<u32>,
    seccomp: Option<String>,
}

impl Process {
    pub(crate) fn read(root: &Root) -> Process {
        let status = root.read("proc/self/status").unwrap_or_default();
        let words = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().split_whitespace()
        };
        // Real, effective, saved, file system.
        let uid = words("Uid:").nth(1).and_then(|uid| uid.parse().ok());
        let gid = words("Gid:").nth(1).and_then(|gid| gid.parse().ok());
        let groups = gid.into_iter().chain(words("Groups:").flat_map(str::parse)).collect();
        Process { uid, groups, seccomp: words("Seccomp:").next().map(str::to_owned) }
    }

    /// Whether it is root's.
    pub(crate) fn is_privileged(&self) -> bool {
        self.uid == Some(0)
    }

    fn is_member(&self, group: u32) -> bool {
        self.groups.contains(&group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_by_their_first_two_numbers() {
        assert_eq!(Version::parse("6.1.0-18-amd64"), Some(Version { major: 6, minor: 1 }));
        assert_eq!(Version::parse("6.18.44-fc-v595"), Some(Version { major: 6, minor: 18 }));
        assert_eq!(Version::parse("5.15"), Some(Version { major: 5, minor: 15 }));
        assert_eq!(Version::parse("linux"), None);
        assert_eq!(Version::parse(""), None);
    }

    #[test]
    fn an_old_kernel_is_refused_an_unreadable_one_is_not() {
        let verdict = |release: &str| version_of(Ok(release.to_owned())).verdict;
        assert_eq!(verdict("5.15.0-100-generic"), Verdict::Short);
        assert_eq!(verdict("6.0.19"), Verdict::Short);
        assert_eq!(verdict("6.1.0"), Verdict::Ok);
        assert_eq!(verdict("7.0.1"), Verdict::Ok);
        assert_eq!(verdict("strange"), Verdict::Unknown);
        assert!(version_of(Ok("5.4.0".into())).failed());
        assert!(!version_of(Err("not there".into())).failed());
    }

    #[test]
    fn the_switch_is_understood() {
        let user = Process { uid: Some(1000), groups: vec![1000, 44], seccomp: None };
        let root = Process { uid: Some(0), ..Process::default() };
        let verdict = |setting, process| io_uring_of(setting, Some("44"), process).verdict;
        let stranger = Process { uid: Some(1000), groups: vec![1000], seccomp: None };
        assert_eq!(verdict(None, &stranger), Verdict::Ok);
        assert_eq!(verdict(Some("0"), &stranger), Verdict::Ok);
        assert_eq!(verdict(Some("1"), &stranger), Verdict::Short);
        assert_eq!(verdict(Some("1"), &user), Verdict::Advice);
        assert_eq!(verdict(Some("1"), &root), Verdict::Advice);
        assert_eq!(verdict(Some("2"), &root), Verdict::Short);
        assert!(io_uring_of(Some("2"), None, &root).failed());
        assert!(!io_uring_of(Some("1"), None, &stranger).failed(), "only a try can tell");
    }

    #[test]
    fn the_running_kernel_has_a_release() {
        assert!(check_version(&Root::host()).found.starts_with("Linux "));
    }
}
