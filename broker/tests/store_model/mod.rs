//! Random stores: the storage crate's model of a shard, with messages as the broker has them.
//! What a model's log says is written into a data directory as a broker would have left it.

pub(crate) mod message;
#[path = "../../../storage/tests/common/shard.rs"]
#[allow(dead_code, reason = "the storage crate's own tests use all of it")]
pub(crate) mod shard;

use std::fs;
use std::path::Path;

use ringtide_storage::record::WatermarkRecord;
use ringtide_storage::{Log, LogConfig, RecordKind, Store};
use shard::{Logged, ME, SHARDS};

/// The key of the partitions.
pub(crate) const KEY: u64 = 0x0123_4567_89ab_cdef;

/// Makes a data directory in which the model's shard has this log.
pub(crate) fn write_store(root: &Path, log: &[Logged]) {
    fs::create_dir_all(root.join("logs-1")).unwrap();
    let manifest =
        format!("format = 1\nshards = {SHARDS}\ngeneration = 1\npartition_key = \"{KEY:016x}\"\n");
    fs::write(root.join("store.toml"), manifest).unwrap();
    for number in 0..SHARDS {
        // The others have only given the model's shard what its log names.
        let mut given = Vec::new();
        WatermarkRecord { marks: Vec::new(), sent: vec![(ME, u64::MAX)] }.encode(&mut given);
        let given = [(RecordKind::Watermark, given)];
        let records = if number == ME { log } else { &given };
        let mut config = LogConfig::new(root.join("logs-1").join(number.to_string()), number);
        config.segment_bytes = 1 << 20;
        let (mut log, _) = Log::open(config, &mut |_, _, _| Ok(())).unwrap();
        for (kind, body) in records {
            log.append(*kind, &[body]);
            log.end_turn();
        }
        while log.durable() < log.appended() {
            assert_eq!(log.failed(), None);
            log.end_turn();
            if !log.write_now() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
}
