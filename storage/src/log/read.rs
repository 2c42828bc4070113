//! Records read again while the log is written: segments kept open for it, and the check of what
//! was read.

use std::io;

use super::files::{Files, SegmentFile};
use super::format::{put_record, record_kind, segment_name, take_record};
use crate::{Place, RecordKind};

/// Segments that are kept open although nothing is being read from them.
const IDLE_MAX: usize = 4;

/// A segment that is open for reading.
#[derive(Debug)]
struct Reader {
    number: u64,
    file: Box<dyn SegmentFile>,
    /// Reads under way.
    users: u32,
    /// The segment is not there any more.
    gone: bool,
}

/// The segments that are open for reading, the one used last at the end.
#[derive(Debug, Default)]
pub(super) struct Readers {
    open: Vec<Reader>,
}

impl Readers {
    /// The descriptor of a segment, opened if it is not yet.
    pub(super) fn begin(&mut self, files: &dyn Files, number: u64) -> io::Result<i32> {
        let mut reader = match self.open.iter().position(|reader| reader.number == number) {
            Some(at) => self.open.remove(at),
            None => {
                Reader { number, file: files.open(&segment_name(number))?, users: 0, gone: false }
            }
        };
        reader.users += 1;
        let descriptor = reader.file.descriptor();
        self.open.push(reader);
        self.trim();
        Ok(descriptor)
    }

    /// A read is over.
    pub(super) fn end(&mut self, number: u64) {
        if let Some(reader) = self.open.iter_mut().find(|reader| reader.number == number) {
            reader.users = reader.users.saturating_sub(1);
        }
        self.open.retain(|reader| !reader.gone || reader.users > 0);
        self.trim();
    }

    /// A segment is not there any more. One that is being read is closed when that is over.
    pub(super) fn forget(&mut self, number: u64) {
        for reader in self.open.iter_mut().filter(|reader| reader.number == number) {
            reader.gone = true;
        }
        self.open.retain(|reader| !reader.gone || reader.users > 0);
    }

    fn trim(&mut self) {
        while self.open.iter().filter(|reader| reader.users == 0).count() > IDLE_MAX {
            let Some(at) = self.open.iter().position(|reader| reader.users == 0) else { return };
            self.open.remove(at);
        }
    }
}

/// Appends a record to `out` with its envelope, as it stands in a batch. Its body is at most 1 GiB.
pub fn encode_record(kind: RecordKind, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    put_record(out, kind, parts, length as u32);
}

/// The record at a [`Place`] in what was read of its segment, of which `bytes` begins at `offset`:
/// its kind and its body. `None` if it is not all there, or is not what was written.
pub fn record_at(bytes: &[u8], offset: u64, place: Place) -> Option<(RecordKind, &[u8])> {
    let at = usize::try_from(u64::from(place.offset).checked_sub(offset)?).ok()?;
    let mut rest = bytes.get(at..at.checked_add(place.bytes as usize)?)?;
    let record = take_record(&mut rest).ok()?;
    let kind = record_kind(record.kind)?;
    rest.is_empty().then_some((kind, record.body))
}
