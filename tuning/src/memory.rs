//! The host's memory: what there is, and what this process's control group may use of it.

use std::fs;
use std::path::Path;

use crate::cgroup;
use crate::root::Root;

/// Version 1 says "no limit" with a number near 2^63.
const NO_LIMIT_V1: u64 = 1 << 60;

/// Bytes of memory that the broker may count on, and what bounds them.
pub(crate) fn usable(root: &Root) -> Option<(u64, &'static str)> {
    let text = root.read("proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024);
    match cgroup::tightest(root, "memory", read_v2, read_v1) {
        Some(limit) if limit < total => Some((limit, "of the control group")),
        _ => Some((total, "in all")),
    }
}

fn read_v2(directory: &Path) -> Option<u64> {
    fs::read_to_string(directory.join("memory.max")).ok()?.trim().parse().ok()
}

fn read_v1(directory: &Path) -> Option<u64> {
    let text = fs::read_to_string(directory.join("memory.limit_in_bytes")).ok()?;
    text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT_V1)
}

/// Bytes in words: 512 KiB, 1.5 GiB.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| count >= *unit) {
        None => format!("{count} B"),
        Some((name, unit)) if count.is_multiple_of(*unit) => format!("{} {name}", count / unit),
        Some((name, unit)) => format!("{:.1} {name}", count as f64 / *unit as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_largest_unit_that_fits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(512 << 10), "512 KiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }
}
