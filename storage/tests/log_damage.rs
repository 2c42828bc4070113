//! Damage on the medium and errors of the disk: nothing false is served, what is lost is told, and
//! the files are kept.
#![allow(clippy::unwrap_used)]

mod model;

pub(crate) use model::Model;
use model::{EIO, ENOSPC, Life, Random, SEGMENT_BYTES, config};
use ringtide_storage::log::faults::{Fault, FaultDisk};
use ringtide_storage::log::{OpenError, Opened, Sync, inspect_on};
use ringtide_storage::{Log, LogWrite, RecordKind, Store};

/// Where a batch's header says what it holds.
const BATCH_HEADER_BYTES: usize = 96;

fn open(model: &mut Model, disk: &FaultDisk) -> (Life, Opened) {
    model.open(disk, &config(Sync::EachBatch)).unwrap()
}

/// A log of some segments, the first of which a checkpoint has made void.
pub(crate) fn filled(seed: u64) -> (FaultDisk, Model) {
    let disk = FaultDisk::new(seed);
    let mut model = Model::default();
    let mut random = Random::new(seed);
    let (mut life, _) = open(&mut model, &disk);
    for round in 0..60 {
        model.append_one(&mut life, random.below(1500));
        if round % 3 == 0 {
            model.settle(&mut life, &disk);
        }
        if round == 30 {
            model.whole_checkpoint(&mut life, &disk, 5);
        }
    }
    model.settle(&mut life, &disk);
    drop(life);
    disk.restart();
    (disk, model)
}

fn copy(disk: &FaultDisk) -> FaultDisk {
    let copy = FaultDisk::new(1);
    for (name, bytes) in disk.files() {
        copy.put(&name, &bytes);
    }
    copy
}

#[test]
fn a_flipped_bit_anywhere_never_gives_a_false_record() {
    let (disk, model) = filled(3);
    let (mut flips, mut reported) = (0, 0);
    for (name, bytes) in disk.files() {
        // 61 and 8 have no common divisor: all bits of a byte have their turn.
        for bit in (0..bytes.len() as u64 * 8).step_by(61) {
            let copy = copy(&disk);
            assert!(copy.flip(&name, bit));
            let opened = model.judge_damaged(&copy);
            flips += 1;
            reported += u64::from(opened.damaged.is_some());
        }
    }
    assert!(flips > 5_000 && reported > 500, "{reported} of {flips}");
}

#[test]
fn a_file_cut_short_anywhere_never_gives_a_false_record() {
    let (disk, model) = filled(4);
    for (name, bytes) in disk.files() {
        // Without its header a file passes for one that was never used.
        for length in (4096..bytes.len()).step_by(509) {
            let copy = copy(&disk);
            copy.put(&name, &bytes[..length]);
            model.judge_damaged(&copy);
        }
    }
}

/// A block of 512 or 4096 bytes that stands in another place: a random byte, where it is from and
/// where it goes (file, block), and what is done to it.
pub(crate) type Move = (u8, bool, (u8, u16), (u8, u16), u8);

/// Whatever a log's blocks are replaced by, no false record is served, and what is lost is told;
/// shared with the fuzz target.
pub(crate) fn check_wreck(disk: &FaultDisk, model: &Model, moves: &[Move]) -> Opened {
    let files = disk.files();
    let mut wreck = files.clone();
    for &(byte, large, from, to, change) in moves {
        let size = if large { 4096 } else { 512 };
        let place = |(file, block): (u8, u16)| {
            let file = usize::from(file) % files.len();
            let at = usize::from(block) % (files[file].1.len() / size) * size;
            (file, at..at + size)
        };
        let (from, to) = (place(from), place(to));
        let mut block = wreck[from.0].1[from.1].to_vec();
        match change % 4 {
            0 => block.fill(0),
            1 => block.iter_mut().for_each(|old| *old = old.wrapping_mul(31).wrapping_add(byte)),
            _ => {}
        }
        wreck[to.0].1[to.1].copy_from_slice(&block);
    }
    let copy = FaultDisk::new(1);
    for (name, bytes) in &wreck {
        copy.put(name, bytes);
    }
    model.judge_wrecked(&copy)
}

#[test]
fn blocks_that_change_places_never_give_a_false_record() {
    let (disk, model) = filled(8);
    let mut random = Random::new(8);
    let mut reported = 0;
    for _ in 0..3_000 {
        let mut place = || (random.below(256) as u8, random.below(1 << 16) as u16);
        let mut moves = Vec::new();
        for _ in 0..7 {
            let ((byte, _), (change, large)) = (place(), place());
            moves.push((byte, large & 1 == 1, place(), place(), change));
        }
        moves.truncate(1 + random.below(7) as usize);
        reported += u64::from(check_wreck(&disk, &model, &moves).damaged.is_some());
    }
    assert!(reported > 500, "{reported}");
}

/// The file and the place of the first batch that counts, is not the first of its segment and
/// not the last of all.
fn first_batch(disk: &FaultDisk, model: &Model) -> (String, usize) {
    let start = model.judge_damaged(disk).start.0;
    for (name, bytes) in disk.files() {
        for at in (8192..bytes.len()).step_by(4096) {
            let first = u64::from_le_bytes(bytes[at + 72..at + 80].try_into().unwrap());
            if &bytes[at..at + 4] == b"RTLB" && first > start {
                return (name, at);
            }
        }
    }
    panic!("no batch counts");
}

#[test]
fn interior_damage_is_told_and_its_file_is_kept() {
    let (disk, mut model) = filled(5);
    let (name, at) = first_batch(&disk, &model);
    disk.flip(&name, (at as u64 + 100) * 8);
    let damaged = disk.files().into_iter().find(|(file, _)| *file == name).unwrap().1;
    let lost = model.judge_damaged(&disk).damaged.unwrap();
    assert_eq!((lost.lost.len(), &lost.segments[..]), (1, std::slice::from_ref(&name)));
    let aside = |disk: &FaultDisk| {
        let files = disk.files().into_iter();
        files.filter(|(file, _)| file.contains(".corrupt-")).collect::<Vec<_>>()
    };
    let mut wants = false;
    for _ in 0..3 {
        let mut served = 0;
        let (log, opened) = Log::open_on(&disk, config(Sync::EachBatch), 99, &mut |_, _, _| {
            served += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!((opened.damaged.as_ref(), opened.records), (Some(&lost), served));
        wants = log.wants_checkpoint();
        let kept = aside(&disk);
        assert_eq!(kept.len(), 1);
        assert!(kept[0].0.starts_with(&name) && kept[0].1 == damaged);
        disk.cut();
    }
    assert!(wants, "only a checkpoint gets rid of damage");
    let (log, _) = Log::open_on(&disk, config(Sync::EachBatch), 99, &mut |_, _, _| Ok(())).unwrap();
    let mut life = Life::new(log);
    for _ in 0..3 {
        model.whole_checkpoint(&mut life, &disk, 40);
    }
    assert!(!life.log.wants_checkpoint());
    drop(life);
    disk.restart();
    assert!(disk.files().iter().all(|(file, _)| *file != name), "the checkpoint frees it");
    let kept = aside(&disk);
    assert!(kept.len() == 1 && kept[0].1 == damaged);
    open(&mut model, &disk);
}

#[test]
fn a_block_that_cannot_be_read_is_told() {
    let (disk, model) = filled(6);
    let (name, at) = first_batch(&disk, &model);
    disk.spoil(&name, at as u64 + 600);
    let damage = model.judge_damaged(&disk).damaged.unwrap();
    assert_eq!((damage.unreadable_blocks, damage.lost.len()), (1, 1));
}

#[test]
fn a_write_to_a_wrong_place_never_gives_a_false_record() {
    let mut reported = 0;
    for seed in 1..400 {
        let disk = FaultDisk::new(seed);
        let mut model = Model::default();
        let mut random = Random::new(seed);
        let (mut life, _) = open(&mut model, &disk);
        disk.plan(disk.operations() + 1 + random.below(80), Fault::Misdirect);
        for _ in 0..30 {
            model.append_one(&mut life, random.below(5000));
            model.settle(&mut life, &disk);
        }
        drop(life);
        disk.cut();
        reported += u64::from(model.judge_damaged(&disk).damaged.is_some());
    }
    assert!(reported > 50, "{reported}");
}

#[test]
fn a_write_that_fails_poisons_the_log() {
    for (errno, at) in [(EIO, 1), (ENOSPC, 1), (EIO, 2)] {
        let disk = FaultDisk::new(9);
        let mut model = Model::default();
        let (mut life, _) = open(&mut model, &disk);
        model.append_one(&mut life, 100);
        model.settle(&mut life, &disk);
        model.append_one(&mut life, 100);
        life.log.end_turn();
        disk.plan(disk.operations() + at, Fault::Fail(errno));
        model.take_write(&mut life);
        model.finish(&mut life, &disk);
        assert_eq!(life.log.failed().unwrap().errno, errno);
        model.append_one(&mut life, 100);
        life.log.end_turn();
        assert!(life.log.take_write().is_none() && !life.log.is_waiting());
        assert_eq!((life.log.durable().0, life.log.appended().0), (1, 3));
        assert_eq!(life.log.waiting_bytes(), 0);
        drop(life);
        // The page cache may hold what the medium has not.
        disk.restart();
        let (mut life, _) = open(&mut model, &disk);
        model.append_one(&mut life, 100);
        model.settle(&mut life, &disk);
        drop(life);
        disk.cut();
        open(&mut model, &disk);
    }
}

#[test]
fn a_full_disk_is_told_and_passes() {
    let disk = FaultDisk::new(10);
    let mut model = Model::default();
    let (mut life, _) = open(&mut model, &disk);
    disk.limit(3 * SEGMENT_BYTES);
    for _ in 0..100 {
        model.append_one(&mut life, 2000);
        life.log.end_turn();
        life.log.work();
        model.take_write(&mut life);
        model.finish(&mut life, &disk);
    }
    assert_eq!((life.log.is_full(), life.log.is_waiting()), (true, true));
    assert_eq!(life.log.shortage().unwrap().errno, ENOSPC);
    assert_eq!(life.log.failed(), None);
    assert!(life.log.waiting_bytes() > 100_000);
    let durable = life.log.durable();
    disk.limit(u64::MAX);
    model.settle(&mut life, &disk);
    assert!(!life.log.is_full() && life.log.durable() > durable);
    assert_eq!(life.log.waiting_bytes(), 0);
    drop(life);
    disk.cut();
    open(&mut model, &disk);
}

#[test]
fn checkpoints_come_before_the_capacity_is_reached() {
    let disk = FaultDisk::new(14);
    let mut limited = config(Sync::EachBatch);
    limited.capacity_bytes = 30 * SEGMENT_BYTES;
    limited.reserve_bytes = 1 << 40;
    let mut model = Model::default();
    let (mut life, _) = model.open(&disk, &limited).unwrap();
    let mut checkpoints = 0;
    for _ in 0..3_000 {
        model.append_one(&mut life, 1000);
        model.settle(&mut life, &disk);
        if life.log.wants_checkpoint() {
            // As batches of one record each, about eight segments.
            model.whole_checkpoint(&mut life, &disk, 170);
            checkpoints += 1;
        }
        assert!(!life.log.is_full());
    }
    assert!(checkpoints > 10, "{checkpoints}");
    let total: usize = disk.files().iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(total as u64 <= limited.capacity_bytes);
    drop(life);
    disk.cut();
    model.open(&disk, &limited).unwrap();
}

#[test]
fn a_segment_of_a_newer_format_is_refused() {
    let (disk, _) = filled(11);
    let (name, mut bytes) = disk.files().pop().unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..4096]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.put(&name, &bytes);
    let before = disk.files();
    let refused = Log::open_on(&disk, config(Sync::EachBatch), 1, &mut |_, _, _| Ok(()));
    match refused {
        Err(OpenError::Newer { file, version: 2 }) => assert_eq!(file, name),
        other => panic!("{other:?}"),
    }
    assert!(disk.files() == before);
}

/// A message may hold bytes that look like a batch, at a place where one could stand.
#[test]
fn bytes_of_a_message_never_pass_for_a_batch() {
    let disk = FaultDisk::new(12);
    let (mut log, _) =
        Log::open_on(&disk, config(Sync::EachBatch), 1234, &mut |_, _, _| Ok(())).unwrap();
    // What the second batch of the segment is going to be, had it another salt.
    let forged = {
        let disk = FaultDisk::new(13);
        let (mut log, _) =
            Log::open_on(&disk, config(Sync::EachBatch), 4321, &mut |_, _, _| Ok(())).unwrap();
        write_one(&mut log, &disk, b"first");
        write_one(&mut log, &disk, b"forged").bytes
    };
    // The body begins 12 bytes behind the batch header; the forgery stands one block later.
    let mut body = vec![0; 4096 - BATCH_HEADER_BYTES - 12];
    body.extend_from_slice(&forged);
    let write = write_one(&mut log, &disk, &body);
    assert_eq!(write.bytes[4096..4100], *b"RTLB");
    assert_eq!(write.offset, 4096);
    let (name, _) = disk.files().into_iter().next().unwrap();
    disk.flip(&name, (4096 + 100) * 8);
    let mut served = 0;
    inspect_on(&disk, 7, &mut |_, _, _| {
        served += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(served, 0);
}

fn write_one(log: &mut Log, disk: &FaultDisk, body: &[u8]) -> LogWrite {
    while log.work() {}
    log.append(RecordKind::Message, &[body]);
    log.end_turn();
    let write = log.take_write().unwrap();
    let copy =
        LogWrite { file: write.file, offset: write.offset, bytes: write.bytes.clone(), sync: true };
    let errno = disk.write(&write);
    log.written(write.bytes, errno);
    assert_eq!(log.failed(), None);
    copy
}
