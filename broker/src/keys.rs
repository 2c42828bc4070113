//! The keys of hashes. Nobody may guess them: clients could choose ids that meet on one shard, or
//! topics that meet in one place of a table.

use std::fs::File;
use std::io::{self, Read};

/// A key that nobody can guess.
///
/// # Errors
/// When the system's source of random numbers cannot be read.
pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Gives the topics' hashes a seed that follows from the key of the partitions. To be called once
/// in a process, before anything is matched or a message is made: stored messages carry the hash
/// of their topic, so that whoever goes on with them needs the same seed.
pub(crate) fn seed_topics(partition_key: u64) {
    ringtide_topics::seed_hashes(mixed(partition_key));
}

/// The finalizer of splitmix64: what meets under one of the two hashes does not meet under the
/// other.
fn mixed(key: u64) -> u64 {
    let key = key.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let key = (key ^ (key >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let key = (key ^ (key >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    key ^ (key >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_not_repeated_and_seeds_are_not_their_keys() {
        let keys: HashSet<u64> = (0..100).map(|_| random().unwrap()).collect();
        let seeds: HashSet<u64> = keys.iter().map(|key| mixed(*key)).collect();
        assert_eq!((keys.len(), seeds.len()), (100, 100));
        assert!(keys.is_disjoint(&seeds));
    }
}
