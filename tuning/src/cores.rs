//! Which processors this process may use: its affinity mask and its cgroup's CPU quota.
//!
//! A shard per processor of the mask is too many in a container that is given two processors'
//! worth of time on a host of 64: the quota counts too.

use std::fs;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity};

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
    Usable { cpus: if cpus.is_empty() { vec![0] } else { cpus }, quota: quota() }
}

/// The cgroup's CPU quota in processors, the tightest of this group and those above it.
fn quota() -> Option<f64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    quota_of(&membership, Path::new("/sys/fs/cgroup"))
}

fn quota_of(membership: &str, root: &Path) -> Option<f64> {
    let mut tightest: Option<f64> = None;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let group = group.trim_start_matches('/');
        if controllers.is_empty() {
            tighten(&mut tightest, &root.join(group), root, read_v2);
        } else if controllers.split(',').any(|controller| controller == "cpu") {
            let root = root.join("cpu");
            tighten(&mut tightest, &root.join(group), &root, read_v1);
        }
    }
    tightest
}

/// Walks from a group up to the root and keeps the smallest quota met.
fn tighten(tightest: &mut Option<f64>, group: &Path, root: &Path, read: fn(&Path) -> Option<f64>) {
    for directory in group.ancestors().take_while(|directory| directory.starts_with(root)) {
        if let Some(quota) = read(directory) {
            *tightest = Some(tightest.map_or(quota, |known| known.min(quota)));
        }
    }
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
        let root = std::env::temp_dir().join(format!("ringtide-cores-{}", std::process::id()));
        let inner = root.join("outer/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(root.join("outer/cpu.max"), "150000 100000\n").unwrap();
        fs::write(inner.join("cpu.max"), "max 100000\n").unwrap();
        let v1 = root.join("cpu/pod");
        fs::create_dir_all(&v1).unwrap();
        fs::write(v1.join("cpu.cfs_quota_us"), "50000\n").unwrap();
        fs::write(v1.join("cpu.cfs_period_us"), "100000\n").unwrap();

        assert_eq!(quota_of("0::/outer/inner\n", &root), Some(1.5));
        assert_eq!(quota_of("2:cpu,cpuacct:/pod\n0::/outer\n", &root), Some(0.5));
        assert_eq!(quota_of("0::/elsewhere\n1:memory:/x\nnonsense\n", &root), None);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn no_quota_reads_as_none() {
        assert_eq!(ratio("max", "100000"), None);
        assert_eq!(ratio("-1", "100000"), None);
        assert_eq!(ratio("200000", "100000"), Some(2.0));
    }
}
