//! The kernel settings that a profile may name, with what the kernel takes for each.
//!
//! A profile names only what is here: a slip is then found before anything is written, and no
//! profile can change a setting that has nothing to do with the broker.

use std::ops::RangeInclusive;

/// The kernel takes most settings as a C `int`.
const INT: RangeInclusive<u64> = 0..=(i32::MAX as u64);
const POSITIVE: RangeInclusive<u64> = 1..=(i32::MAX as u64);

/// What a kernel setting holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// How many numbers.
    pub(crate) count: usize,
    /// What each may be.
    pub(crate) range: RangeInclusive<u64>,
}

const fn one(range: RangeInclusive<u64>) -> Form {
    Form { count: 1, range }
}

/// Names as sysctl(8) writes them. Settings of more than one number are ascending.
const SETTINGS: [(&str, Form); 38] = [
    ("fs.file-max", one(64..=i64::MAX as u64)),
    // The kernel's own bounds: BITS_PER_LONG, and what a table of pointers can index.
    ("fs.nr_open", one(64..=0x3fff_ffc0)),
    ("kernel.io_uring_disabled", one(0..=2)),
    ("kernel.numa_balancing", one(0..=2)),
    ("kernel.pid_max", one(301..=4_194_304)),
    ("kernel.threads-max", one(POSITIVE)),
    ("net.core.busy_poll", one(INT)),
    ("net.core.busy_read", one(INT)),
    ("net.core.dev_weight", one(POSITIVE)),
    ("net.core.netdev_budget", one(POSITIVE)),
    ("net.core.netdev_budget_usecs", one(POSITIVE)),
    ("net.core.netdev_max_backlog", one(INT)),
    ("net.core.optmem_max", one(INT)),
    // The kernel refuses less than the overhead of one packet, twice that for sending.
    ("net.core.rmem_default", one(2304..=i32::MAX as u64)),
    ("net.core.rmem_max", one(2304..=i32::MAX as u64)),
    ("net.core.rps_sock_flow_entries", one(0..=1 << 29)),
    ("net.core.somaxconn", one(INT)),
    ("net.core.wmem_default", one(4608..=i32::MAX as u64)),
    ("net.core.wmem_max", one(4608..=i32::MAX as u64)),
    ("net.ipv4.ip_local_port_range", Form { count: 2, range: 1..=65_535 }),
    ("net.ipv4.tcp_fin_timeout", one(1..=86_400)),
    ("net.ipv4.tcp_keepalive_time", one(1..=32_767)),
    ("net.ipv4.tcp_max_orphans", one(INT)),
    ("net.ipv4.tcp_max_syn_backlog", one(POSITIVE)),
    ("net.ipv4.tcp_max_tw_buckets", one(INT)),
    ("net.ipv4.tcp_mem", Form { count: 3, range: 1..=1 << 40 }),
    ("net.ipv4.tcp_rmem", Form { count: 3, range: POSITIVE }),
    ("net.ipv4.tcp_slow_start_after_idle", one(0..=1)),
    ("net.ipv4.tcp_syncookies", one(0..=2)),
    ("net.ipv4.tcp_tw_reuse", one(0..=2)),
    ("net.ipv4.tcp_wmem", Form { count: 3, range: POSITIVE }),
    ("net.netfilter.nf_conntrack_buckets", one(1024..=1 << 30)),
    ("net.netfilter.nf_conntrack_max", one(1..=1 << 30)),
    ("net.netfilter.nf_conntrack_tcp_timeout_time_wait", one(1..=86_400)),
    ("net.nf_conntrack_max", one(1..=1 << 30)),
    ("vm.max_map_count", one(65_530..=i32::MAX as u64)),
    ("vm.swappiness", one(0..=200)),
    ("vm.zone_reclaim_mode", one(0..=7)),
];

/// What a setting holds, if it is one that a profile may name.
pub(crate) fn setting(key: &str) -> Option<&'static Form> {
    SETTINGS.iter().find(|(name, _)| *name == key).map(|(_, form)| form)
}

/// The names of all settings.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|(name, _)| *name)
}

/// Where the setting is in the host's tree.
pub(crate) fn path(key: &str) -> String {
    format!("proc/sys/{}", key.replace('.', "/"))
}

/// The candidate with the fewest edits to `name`, if that is few enough to be a slip.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|candidate| (edits(name, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= candidate.len().max(name.len()).div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits between two names; a name without its first parts (`somaxconn`) costs one.
fn edits(name: &str, candidate: &str) -> usize {
    let ends = name.len() >= 4 && candidate.ends_with(&format!(".{name}"));
    if ends { 1 } else { strsim::damerau_levenshtein(name, candidate) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_lead_into_proc() {
        assert!(SETTINGS.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(path("net.core.somaxconn"), "proc/sys/net/core/somaxconn");
        assert_eq!(path("fs.file-max"), "proc/sys/fs/file-max");
    }

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        assert_eq!(nearest("net.core.somaxcon", names()), Some("net.core.somaxconn"));
        assert_eq!(nearest("tcp_fin_timeout", names()), Some("net.ipv4.tcp_fin_timeout"));
        assert_eq!(nearest("zzz", names()), None);
    }
}
