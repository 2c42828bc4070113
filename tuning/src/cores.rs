//! Which processors this process may use: its affinity mask and its cgroup's CPU quota.
//!
//! A shard per processor of the mask is too many in a container that is given two processors'
//! worth of time on a host of 64: the quota counts too.

use std::fs;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::root::Root;
use crate::{cgroup, cpus};

/// Processors that may be used, and how much of their time.
#[derive(Clone, Debug, PartialEq)]
pub struct Usable {
    /// Numbers of the processors in the affinity mask, ascending. Never empty.
    pub cpus: Vec<usize>,
    /// The cgroup's quota in processors (1.5 = one and a half), if it has one.
    pub quota: Option<f64>,
}

impl Usable {
    /// How many shards fit: one per processor, no more than the quota rounded up, at least one.
    pub fn shards(&self) -> usize {
        let by_mask = self.cpus.len().max(1);
        match self.quota {
            Some(quota) if quota.is_finite() && quota > 0.0 => {
                (1..by_mask).find(|&count| count as f64 >= quota).unwrap_or(by_mask)
            }
            _ => by_mask,
        }
    }
}

/// What this process may use. A mask that cannot be read counts as processor 0 alone.
pub fn usable() -> Usable {
    let cpus = match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect(),
        Err(_) => vec![0],
    };
    Usable { cpus: if cpus.is_empty() { vec![0] } else { cpus }, quota: quota(&Root::host()) }
}

/// What a process of this host may use, by what `/proc` says of it.
pub(crate) fn usable_at(root: &Root) -> Option<Usable> {
    let status = root.read("proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let cpus = cpus::from_list(list).filter(|cpus| !cpus.is_empty())?;
    Some(Usable { cpus, quota: quota(root) })
}

/// The cgroup's CPU quota in processors, the tightest of this group and those above it.
fn quota(root: &Root) -> Option<f64> {
    cgroup::tightest(root, "cpu", read_v2, read_v1)
}

/// `cpu.max`: "max 100000" or "150000 100000".
fn read_v2(directory: &Path) -> Option<f64> {
    let text = fs::read_to_string(directory.join("cpu.max")).ok()?;
    let mut words = text.split_whitespace();
    ratio(words.next()?, words.next()?)
}

/// `cpu.cfs_quota_us` (-1 = none) over `cpu.cfs_period_us`.
fn read_v1(directory: &Path) -> Option<f64> {
    let quota = fs::read_to_string(directory.join("cpu.cfs_quota_us")).ok()?;
    let period = fs::read_to_string(directory.join("cpu.cfs_period_us")).ok()?;
    ratio(quota.trim(), period.trim())
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.parse().ok()?;
    let period: f64 = period.parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(cpus: usize, quota: Option<f64>) -> usize {
        Usable { cpus: (0..cpus).collect(), quota }.shards()
    }

    #[test]
    fn one_shard_per_processor_without_a_quota() {
        assert_eq!(with(1, None), 1);
        assert_eq!(with(8, None), 8);
    }

    #[test]
    fn a_quota_is_rounded_up_and_never_exceeds_the_mask() {
        assert_eq!(with(64, Some(1.5)), 2);
        assert_eq!(with(64, Some(0.1)), 1);
        assert_eq!(with(2, Some(16.0)), 2);
        assert_eq!(with(2, Some(f64::NAN)), 2);
    }

    #[test]
    fn this_process_may_use_a_processor() {
        let usable = usable();
        assert!(!usable.cpus.is_empty());
        assert!(usable.shards() >= 1 && usable.shards() <= usable.cpus.len());
    }

    #[test]
    fn the_tightest_group_counts() {
        let top = std::env::temp_dir().join(format!("ringtide-cores-{}", std::process::id()));
        let root = Root::at(&top);
        let write = |path: &str, text: &str| {
            let path = root.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/fs/cgroup/outer/cpu.max", "150000 100000\n");
        write("sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n");
        write("sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us", "50000\n");
        write("sys/fs/cgroup/cpu/pod/cpu.cfs_period_us", "100000\n");
        for (membership, expected) in [
            ("0::/outer/inner\n", Some(1.5)),
            ("2:cpu,cpuacct:/pod\n0::/outer\n", Some(0.5)),
            ("0::/elsewhere\n1:memory:/x\nnonsense\n", None),
        ] {
            write("proc/self/cgroup", membership);
            assert_eq!(quota(&root), expected, "{membership}");
        }
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn no_quota_reads_as_none() {
        assert_eq!(ratio("max", "100000"), None);
        assert_eq!(ratio("-1", "100000"), None);
        assert_eq!(ratio("200000", "100000"), Some(2.0));
    }
}
