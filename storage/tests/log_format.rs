//! The bytes of a log are those that the documentation of `ringtide_storage::log` states.
#![allow(clippy::unwrap_used)]

use ringtide_storage::log::Sync;
use ringtide_storage::log::faults::FaultDisk;
use ringtide_storage::{Log, LogConfig, RecordKind, Store};

const SALT: u64 = 0x1122_3344_5566_7788;

fn config() -> LogConfig {
    let mut config = LogConfig::new("", 0x0a0b);
    config.segment_bytes = 16 << 10;
    config.sync = Sync::EachBatch;
    config
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One segment with two batches of the log's second opening.
fn segment() -> Vec<u8> {
    let disk = FaultDisk::new(1);
    let mut log = Log::open_on(&disk, config(), 1, &mut |_, _, _| Ok(())).unwrap().0;
    while log.work() {}
    log.append(RecordKind::SessionEnd, &[b"before"]);
    write(&mut log, &disk);
    drop(log);
    disk.restart();
    let mut log = Log::open_on(&disk, config(), SALT, &mut |_, _, _| Ok(())).unwrap().0;
    while log.work() {}
    log.append(RecordKind::Message, &[b"he", b"llo"]);
    log.begin_checkpoint();
    log.append(RecordKind::Watermark, &[]);
    write(&mut log, &disk);
    log.end_checkpoint();
    log.append(RecordKind::Session, &[b"x"]);
    write(&mut log, &disk);
    let mut files = disk.files();
    files.retain(|(_, bytes)| bytes.windows(5).any(|window| window == b"hello"));
    assert_eq!(files.len(), 1);
    let (name, bytes) = files.pop().unwrap();
    assert_eq!(name, "log-000000000002.seg");
    bytes
}

fn write(log: &mut Log, disk: &FaultDisk) {
    log.end_turn();
    let write = log.take_write().unwrap();
    let errno = disk.write(&write);
    log.written(write.bytes, errno);
    assert_eq!((errno, log.durable()), (0, log.appended()));
}

#[test]
fn golden_bytes() {
    let segment = segment();
    assert_eq!(segment.len(), 16 << 10);
    let header = [
        "52494e4754494445", // RINGTIDE
        "01000000",         // version
        "d35f944e",         // checksum
        "0b0a",             // log
        "0000",
        "00100000",         // block size
        "0200000000000000", // segment
        "0200000000000000", // epoch
        "0200000000000000", // first position of the epoch
        "8877665544332211", // salt
        "0040000000000000", // length
        "0100000000000000", // start
        "0100000000000000", // durable
    ];
    assert_eq!(hex(&segment[..80]), header.concat());
    assert!(segment[80..4096].iter().all(|byte| *byte == 0));

    let first = [
        "52544c42",         // RTLB
        "0100",             // version
        "0b0a",             // log
        "9100be58",         // checksum
        "02000000",         // records
        "1d000000",         // bytes of the records
        "00000000",         //
        "8877665544332211", // salt
        "0200000000000000", // epoch
        "0200000000000000", // first position of the epoch
        "0200000000000000", // segment
        "0010000000000000", // offset
        "0100000000000000", // ordinal
        "0200000000000000", // position of the first record
        "0100000000000000", // durable
        "0100000000000000", // start
        "01010000",         // message, version of the envelope
        "05000000",         // bytes of the body
        "b3900a48",         // checksum
        "68656c6c6f",       // hello
        "08010000",         // watermark
        "00000000",
        "989a10a6",
    ];
    assert_eq!(hex(&segment[4096..4096 + 96 + 0x1d]), first.concat());
    assert!(segment[4096 + 96 + 0x1d..8192].iter().all(|byte| *byte == 0));

    let second = [
        "52544c42",
        "0100",
        "0b0a",
        "91c32217",
        "01000000",
        "0d000000",
        "00000000",
        "8877665544332211",
        "0200000000000000",
        "0200000000000000",
        "0200000000000000",
        "0020000000000000", // offset
        "0200000000000000", // ordinal
        "0400000000000000", // position
        "0300000000000000", // durable
        "0300000000000000", // start: the checkpoint's begin
        "02010000010000008bac18dc78",
    ];
    assert_eq!(hex(&segment[8192..8192 + 96 + 0x0d]), second.concat());
}

/// CRC-32C bit by bit, so that the checksums do not depend on the library that makes them.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
fn checksums_are_crc32c_of_all_other_bytes() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let segment = segment();
    let u32_at = |at: usize| u32::from_le_bytes(segment[at..at + 4].try_into().unwrap());
    let around = |from: usize, at: usize, to: usize| {
        crc32c(&[&segment[from..at], &segment[at + 4..to]].concat())
    };
    assert_eq!(u32_at(12), around(0, 12, 4096));
    assert_eq!(u32_at(4096 + 8), around(4096, 4096 + 8, 4096 + 96 + 0x1d));
    assert_eq!(u32_at(8192 + 8), around(8192, 8192 + 8, 8192 + 96 + 0x0d));
    let record = 4096 + 96;
    assert_eq!(u32_at(record + 8), around(record, record + 8, record + 12 + 5));
}
