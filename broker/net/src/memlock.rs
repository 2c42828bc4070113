//! Locked memory: how much this kernel will count, and whether the limit allows it.
//!
//! Knows the sums only. The kernel counts per user, so other processes of the same user may take
//! from the same limit.

use std::io;

use crate::sys;
use crate::uring::UringConfig;
use crate::uring::probe::{ProbeError, kernel_release, version};

/// From this kernel on the rings themselves count, not only registered buffers.
const RINGS_COUNTED_SINCE: (u32, u32) = (6, 14);
const PAGE_BYTES: u64 = 4096;
/// CAP_IPC_LOCK in the masks of /proc/self/status: its owner has no limit.
const IPC_LOCK: u64 = 1 << 14;

fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES)
}

/// Bytes of a ring with its completion queue and its entries.
pub(crate) fn ring_bytes(submissions: u64, completions: u64) -> u64 {
    if version(&kernel_release()).is_some_and(|version| version < RINGS_COUNTED_SINCE) {
        return 0;
    }
    let (submissions, completions) =
        (submissions.next_power_of_two(), completions.next_power_of_two());
    pages(64 * submissions) + pages(16 * completions + 4 * submissions + 256)
}

/// Bytes that one driver locks.
pub fn driver_bytes(config: &UringConfig) -> u64 {
    let submissions = u64::from(config.submission_entries);
    let completions = config.completion_entries.map_or(4 * submissions, u64::from);
    let rings = ring_bytes(submissions, completions);
    let buffers = if rings == 0 { 0 } else { pages(16 * u64::from(config.receive_buffers)) };
    rings + buffers
}

/// Says in time if the limit of locked memory is below `needed` bytes.
///
/// # Errors
/// [`ProbeError::Memlock`], with both numbers.
pub fn check(needed: u64) -> Result<(), ProbeError> {
    let limit = sys::memlock_limit().unwrap_or(u64::MAX);
    if limit >= needed || unlimited() { Ok(()) } else { Err(ProbeError::Memlock { limit, needed }) }
}

/// True if this process may lock as much as it likes.
fn unlimited() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & IPC_LOCK != 0)
}

/// Puts the numbers into an error for want of memory, which the kernel leaves bare.
pub(crate) fn explain(error: io::Error, config: &UringConfig) -> io::Error {
    if error.raw_os_error() != Some(libc::ENOMEM) {
        return error;
    }
    let shards = u64::from(config.peers.shards());
    let needed = shards * driver_bytes(config);
    let limit = sys::memlock_limit().unwrap_or(0);
    io::Error::new(io::ErrorKind::OutOfMemory, ProbeError::Memlock { limit, needed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Peers;

    #[test]
    fn the_sums_are_those_of_the_kernel() {
        let config = UringConfig::new(0, Peers::new(1).unwrap(), Vec::new());
        let bytes = driver_bytes(&config);
        // As found by lowering the limit on 6.18: between 100 and 150 KiB.
        assert!(bytes == 0 || (100 << 10..=152 << 10).contains(&bytes), "{bytes}");
    }

    #[test]
    fn the_limit_is_compared_unless_there_is_none() {
        assert!(check(0).is_ok());
        match check(u64::MAX) {
            Ok(()) => assert!(unlimited() || sys::memlock_limit().unwrap() == u64::MAX),
            Err(error) => assert!(error.to_string().contains("ulimit -l")),
        }
    }

    #[test]
    fn want_of_memory_is_explained() {
        let config = UringConfig::new(0, Peers::new(8).unwrap(), Vec::new());
        let error = explain(io::Error::from_raw_os_error(libc::ENOMEM), &config);
        assert!(error.to_string().contains("may be locked in memory"), "{error}");
        let other = explain(io::Error::from_raw_os_error(libc::EMFILE), &config);
        assert_eq!(other.raw_os_error(), Some(libc::EMFILE));
    }
}
