//! The kernel: its version, and whether io_uring is switched off.

use std::fs;

use rustix::process::geteuid;

use crate::check::{Check, Verdict};

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

/// The release of the running kernel, for example `6.1.0-18-amd64`.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The kernel is new enough for io_uring as the driver uses it.
pub fn check_version() -> Check {
    version_of(&release())
}

fn version_of(release: &str) -> Check {
    // A release that cannot be read is left to the driver's own probe.
    let enough = Version::parse(release).is_none_or(|version| version >= WANTED);
    Check {
        name: "kernel",
        found: format!("Linux {release}"),
        wanted: format!("Linux {}.{} or newer", WANTED.major, WANTED.minor),
        why: "older kernels lack io_uring features that the driver needs",
        remedy: "boot a newer kernel".into(),
        verdict: if enough { Verdict::Pass } else { Verdict::Fail },
    }
}

/// io_uring is not switched off by `kernel.io_uring_disabled`.
pub fn check_io_uring() -> Check {
    let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    io_uring_of(setting.as_deref().map(str::trim), geteuid().is_root())
}

/// 0 or no such setting: allowed; 1: only for the privileged (and for the members of
/// `kernel.io_uring_group`, which only a try can tell); 2: for nobody.
fn io_uring_of(setting: Option<&str>, root: bool) -> Check {
    let verdict = match setting {
        Some("2") => Verdict::Fail,
        Some("1") if !root => Verdict::Warn,
        _ => Verdict::Pass,
    };
    Check {
        name: "io_uring_disabled",
        found: setting.unwrap_or("no such setting").to_owned(),
        wanted: "0".into(),
        why: "the shards do all their network I/O over io_uring",
        remedy: "run `sysctl kernel.io_uring_disabled=0`, or start as a member of \
                 kernel.io_uring_group when it is 1"
            .into(),
        verdict,
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
    fn an_old_kernel_fails() {
        assert_eq!(version_of("5.15.0-100-generic").verdict, Verdict::Fail);
        assert_eq!(version_of("6.0.19").verdict, Verdict::Fail);
        assert_eq!(version_of("6.1.0").verdict, Verdict::Pass);
        assert_eq!(version_of("7.0.1").verdict, Verdict::Pass);
        assert_eq!(version_of("strange").verdict, Verdict::Pass);
    }

    #[test]
    fn the_switch_is_understood() {
        assert_eq!(io_uring_of(None, false).verdict, Verdict::Pass);
        assert_eq!(io_uring_of(Some("0"), false).verdict, Verdict::Pass);
        assert_eq!(io_uring_of(Some("1"), false).verdict, Verdict::Warn);
        assert_eq!(io_uring_of(Some("1"), true).verdict, Verdict::Pass);
        assert_eq!(io_uring_of(Some("2"), true).verdict, Verdict::Fail);
    }

    #[test]
    fn the_running_kernel_has_a_release() {
        assert!(Version::parse(&release()).is_some());
    }
}
