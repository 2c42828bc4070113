//! Limits of the process: open descriptors (`nofile`) and locked memory (`memlock`).
//!
//! The soft limits are raised to the hard ones, which needs no privilege.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::check::{Check, Verdict};
use crate::root::{Root, unread};

/// Descriptors that the broker cannot do without, whatever it serves: rings, eventfds, listeners,
/// the standard streams and a few connections.
pub const NOFILE_MIN: u64 = 64;

/// Raises the soft `nofile` limit to the hard one and returns what is in force (`u64::MAX` for
/// none).
pub fn raise_nofile() -> u64 {
    raise(Resource::Nofile)
}

/// Raises the soft `memlock` limit to the hard one and returns what is in force, in bytes
/// (`u64::MAX` for none).
pub fn raise_memlock() -> u64 {
    raise(Resource::Memlock)
}

fn raise(resource: Resource) -> u64 {
    let Rlimit { current, maximum } = getrlimit(resource);
    if current != maximum {
        // Refused only by a sandbox; the check that follows then reports the lower figure.
        let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
    }
    getrlimit(resource).current.unwrap_or(u64::MAX)
}

/// There are enough descriptors. `found` is what [`raise_nofile`] returned.
pub fn check_nofile(found: u64, wanted: u64) -> Check {
    Check::new(
        "nofile",
        amount(found),
        format!("at least {wanted}"),
        "every connection needs a descriptor",
    )
    .remedy(format!(
        "raise the hard limit (`ulimit -Hn {wanted}`, `LimitNOFILE={wanted}` in the unit, \
         `ringtide tune apply`) or lower `max_connections`"
    ))
    .met(found >= wanted, Verdict::Short)
    .fatal()
}

/// There is enough memory that may be locked. `found` is what [`raise_memlock`] returned.
pub fn check_memlock(found: u64, wanted: u64) -> Check {
    Check::new(
        "memlock",
        kibibytes(found),
        format!("at least {}", kibibytes(wanted)),
        "the rings of a shard are locked in memory",
    )
    .remedy(format!(
        "raise the hard limit (`ulimit -Hl {}`, `LimitMEMLOCK={wanted}` in the unit, \
         `ringtide tune apply`)",
        wanted.div_ceil(1024)
    ))
    .met(found >= wanted, Verdict::Short)
    .fatal()
}

/// The hard limits of a process, by what `/proc` says of it: `nofile`, and bytes of `memlock`
/// (`u64::MAX` for none).
pub(crate) fn hard(root: &Root) -> Result<(u64, u64), String> {
    let text = root.read("proc/self/limits").map_err(|error| unread(&error))?;
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        match line.split_whitespace().nth(1)? {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        }
    };
    match (of("Max open files"), of("Max locked memory")) {
        (Some(nofile), Some(memlock)) => Ok((nofile, memlock)),
        _ => Err("not understood".to_owned()),
    }
}

pub(crate) fn amount(value: u64) -> String {
    if value == u64::MAX { "no limit".into() } else { value.to_string() }
}

pub(crate) fn kibibytes(value: u64) -> String {
    if value == u64::MAX { "no limit".into() } else { format!("{} KiB", value.div_ceil(1024)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_descriptors_fail_and_say_both_figures() {
        let check = check_nofile(20_000, 100_000);
        assert!(check.failed());
        let line = check.to_string();
        assert!(line.contains("20000") && line.contains("at least 100000"), "{line}");
        assert!(line.contains("max_connections"), "{line}");
        assert!(!check_nofile(100_000, 100_000).failed());
        assert!(!check_nofile(u64::MAX, 100_000).failed());
    }

    #[test]
    fn too_little_locked_memory_fails_in_kib() {
        let check = check_memlock(64 * 1024, 512 * 1024);
        assert!(check.failed());
        assert!(check.to_string().contains("found 64 KiB, wanted at least 512 KiB"));
        assert!(check.to_string().contains("ulimit -Hl 512"));
        assert_eq!(check_memlock(u64::MAX, 1).found, "no limit");
    }

    #[test]
    fn limits_are_read_from_proc_too() {
        let (nofile, memlock) = hard(&Root::host()).unwrap();
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        assert_eq!(nofile, maximum.unwrap_or(u64::MAX));
        assert!(memlock > 0);
    }

    #[test]
    fn raising_reaches_the_hard_limit() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!(raise_nofile(), hard);
        assert!(raise_memlock() > 0);
    }
}
