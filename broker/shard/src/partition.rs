//! Which shard a session, a retained topic or a shared group lives on.

use ringtide_topics::TenantId;

/// Partitions in all: enough to spread over 256 shards, few enough for a map that fits a page.
pub const PARTITIONS: u16 = 4096;

/// A keyed hash (SipHash-1-3 with a fixed layout would tie us to std's choice; this is the
/// published wyhash mixing step over 8-byte words), frozen: its key is kept in the data directory.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Hash of tenant and name under `key`. The function is frozen: stored partitions depend on it.
pub fn keyed_hash(key: u64, tenant: TenantId, name: &[u8]) -> u64 {
    const WORDS: [u64; 3] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3];
    let mut hash = mix(key ^ WORDS[0], u64::from(tenant.0) ^ WORDS[1]);
    for chunk in name.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash ^ u64::from_le_bytes(word), WORDS[2]);
    }
    mix(hash ^ name.len() as u64, WORDS[1])
}

/// The map from partitions to shards.
#[derive(Clone, Debug)]
pub struct PartitionMap {
    key: u64,
    shards: Box<[u16]>,
}

impl PartitionMap {
    /// Deals the partitions out evenly over `shards` shards.
    pub fn even(key: u64, shards: u16) -> PartitionMap {
        let shards = (0..PARTITIONS).map(|partition| partition % shards.max(1)).collect();
        PartitionMap { key, shards }
    }

    /// The partition of a name.
    pub fn partition(&self, tenant: TenantId, name: &str) -> u16 {
        self.partition_of(keyed_hash(self.key, tenant, name.as_bytes()))
    }

    /// The partition of a hash that [`keyed_hash`] gave under this map's key.
    pub fn partition_of(&self, hash: u64) -> u16 {
        (hash % u64::from(PARTITIONS)) as u16
    }

    /// Hash of a name under this map's key.
    pub fn hash(&self, tenant: TenantId, name: &str) -> u64 {
        keyed_hash(self.key, tenant, name.as_bytes())
    }

    /// The shard at which a partition lives.
    pub fn shard(&self, partition: u16) -> u16 {
        self.shards[usize::from(partition % PARTITIONS)]
    }

    /// The shard at which a name lives.
    pub fn home(&self, tenant: TenantId, name: &str) -> u16 {
        self.shard(self.partition(tenant, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_hashes() {
        // Stored partitions depend on these values: a change here loses sessions.
        let hashes: Vec<u64> = ["", "a", "client-1", "a-long-client-identifier"]
            .iter()
            .map(|name| keyed_hash(1, TenantId(2), name.as_bytes()) % 4096)
            .collect();
        assert_eq!(hashes, FROZEN);
    }
    const FROZEN: [u64; 4] = [344, 3054, 1357, 1950];

    #[test]
    fn names_spread_evenly() {
        for shards in [1, 2, 3, 8, 32] {
            let map = PartitionMap::even(42, shards);
            let mut counts = vec![0_u32; usize::from(shards)];
            for name in 0..32_000 {
                counts[usize::from(map.home(TenantId(0), &format!("device-{name}")))] += 1;
            }
            let fair = 32_000 / u32::from(shards);
            assert!(counts.iter().all(|count| count.abs_diff(fair) < fair / 5 + 1), "{counts:?}");
        }
    }
}
