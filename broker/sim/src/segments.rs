//! The records of a simulated disk as bytes in files, so that a shard can read them again: small
//! segments, gone when a checkpoint has made them void. A read that was begun before goes on.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use ringtide_storage::{Place, RecordKind, encode_record};

/// `ENOENT`.
const ENOENT: i32 = 2;
/// Bytes after which a segment is full.
const SEGMENT_BYTES: u32 = 3000;

/// A segment. Its file has no name.
#[derive(Debug)]
struct Segment {
    number: u32,
    file: File,
    bytes: u32,
    last: u64,
    readers: u32,
    freed: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    next: u32,
    all: VecDeque<Segment>,
    places: BTreeMap<u64, Place>,
}

impl Segments {
    /// Writes a record.
    pub(crate) fn append(&mut self, lsn: u64, kind: RecordKind, body: &[u8]) {
        let mut record = Vec::new();
        encode_record(kind, &[body], &mut record);
        if self.all.back().is_none_or(|last| last.bytes > SEGMENT_BYTES || last.freed) {
            self.next += 1;
            let (number, file) = (self.next, nameless());
            let new = Segment { number, file, bytes: 0, last: 0, readers: 0, freed: false };
            self.all.push_back(new);
        }
        let Some(segment) = self.all.back_mut() else { return };
        let offset = segment.bytes;
        segment.file.write_all_at(&record, offset.into()).expect("a temporary file can be written");
        let place = Place { segment: segment.number, offset, bytes: record.len() as u32 };
        segment.bytes += place.bytes;
        segment.last = lsn;
        self.places.insert(lsn, place);
    }

    /// Where a record stands.
    pub(crate) fn place(&self, lsn: u64) -> Option<Place> {
        self.places.get(&lsn).copied()
    }

    /// A descriptor to read from.
    pub(crate) fn begin_read(&mut self, number: u32) -> Result<i32, i32> {
        let found = self.all.iter_mut().find(|segment| segment.number == number);
        let segment = found.filter(|segment| !segment.freed).ok_or(ENOENT)?;
        segment.readers += 1;
        Ok(segment.file.as_raw_fd())
    }

    /// A read is over.
    pub(crate) fn end_read(&mut self, number: u32) {
        if let Some(segment) = self.all.iter_mut().find(|segment| segment.number == number) {
            segment.readers -= 1;
        }
        self.remove_freed();
    }

    /// All records before this one are void.
    pub(crate) fn free(&mut self, start: u64) {
        self.places = self.places.split_off(&start);
        for segment in self.all.iter_mut().filter(|segment| segment.last < start) {
            if !segment.freed {
                segment.freed = true;
                // The file is used for something else.
                let other = vec![0xaa; segment.bytes as usize];
                segment.file.write_all_at(&other, 0).expect("a temporary file can be written");
            }
        }
        self.remove_freed();
    }

    fn remove_freed(&mut self) {
        self.all.retain(|segment| !segment.freed || segment.readers > 0);
    }

    /// Forgets everything; numbers are not used again.
    pub(crate) fn clear(&mut self) {
        *self = Segments { next: self.next, ..Segments::default() };
    }
}

fn nameless() -> File {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("ringtide-sim-segment-{}-{number}", process::id());
    let path = std::env::temp_dir().join(name);
    // One that was killed under the same number may have left it.
    let _ = fs::remove_file(&path);
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    fs::remove_file(&path).expect("a temporary file can be removed");
    file.expect("a temporary file can be made")
}

#[cfg(test)]
mod tests {
    use ringtide_storage::record_at;

    use super::*;

    #[test]
    fn records_are_read_until_they_are_freed() {
        let mut segments = Segments::default();
        for lsn in 1..=100 {
            segments.append(lsn, RecordKind::Message, &[lsn as u8; 100]);
        }
        let place = segments.place(50).unwrap();
        let file = segments.begin_read(place.segment).unwrap();
        let mut bytes = vec![0; place.bytes as usize];
        let path = format!("/proc/self/fd/{file}");
        let read = |bytes: &mut Vec<u8>| {
            File::open(&path).unwrap().read_exact_at(bytes, place.offset.into()).unwrap();
        };
        read(&mut bytes);
        let (kind, body) = record_at(&bytes, place.offset.into(), place).unwrap();
        assert_eq!((kind, body), (RecordKind::Message, &[50; 100][..]));
        segments.free(90);
        assert_eq!(segments.place(50), None);
        assert!(segments.place(90).is_some());
        assert_eq!(segments.begin_read(place.segment), Err(ENOENT));
        read(&mut bytes);
        assert_eq!(record_at(&bytes, place.offset.into(), place), None, "used for something else");
        segments.end_read(place.segment);
        assert!(segments.all.len() < 5);
    }
}
