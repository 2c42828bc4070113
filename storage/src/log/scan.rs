//! Finds the intact batches of one segment, in order, whatever lies between them.

use std::io;

use super::files::SegmentFile;
use super::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, SegmentStart,
    batch_is_intact, read_batch_header, read_segment_header,
};

/// How much is read at once.
const CHUNK_BYTES: u64 = 4 << 20;
/// Linux: input/output error, what a bad sector gives.
const EIO: i32 = 5;

/// A window on a file. Keeps its buffer from one segment to the next.
#[derive(Debug, Default)]
pub(super) struct Window {
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    at: u64,
    /// Bytes of the buffer that are of this file.
    filled: usize,
    /// Blocks that the medium did not give.
    unreadable: u64,
}

impl Window {
    /// `length` bytes from `offset` on, which must lie within the file's `end`.
    fn bytes(
        &mut self,
        file: &dyn SegmentFile,
        end: u64,
        offset: u64,
        length: usize,
    ) -> io::Result<&[u8]> {
        let inside = offset >= self.at
            && offset - self.at + length as u64 <= self.filled as u64
            && self.filled > 0;
        if !inside {
            let wanted = CHUNK_BYTES.max(length as u64).min(end - offset) as usize;
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            self.filled = 0;
            self.at = offset;
            self.unreadable += read_what_can_be(file, &mut self.buffer[..wanted], offset)?;
            self.filled = wanted;
        }
        let from = (offset - self.at) as usize;
        Ok(&self.buffer[from..from + length])
    }
}

/// Reads a stretch; blocks that give EIO are zeros. Returns their number.
fn read_what_can_be(file: &dyn SegmentFile, bytes: &mut [u8], offset: u64) -> io::Result<u64> {
    match file.read(bytes, offset) {
        Ok(()) => return Ok(0),
        Err(error) if error.raw_os_error() == Some(EIO) => {}
        Err(error) => return Err(error),
    }
    let mut unreadable = 0;
    for (index, block) in bytes.chunks_mut(BLOCK_BYTES as usize).enumerate() {
        match file.read(block, offset + index as u64 * BLOCK_BYTES) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(EIO) => {
                block.fill(0);
                unreadable += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(unreadable)
}

/// Reads the first block of a segment of `bytes` bytes.
pub(super) fn segment_start(file: &dyn SegmentFile, bytes: u64) -> io::Result<SegmentStart> {
    if bytes < SEGMENT_HEADER_BYTES as u64 {
        return Ok(SegmentStart::Invalid);
    }
    let mut block = vec![0; SEGMENT_HEADER_BYTES];
    read_what_can_be(file, &mut block, 0)?;
    Ok(read_segment_header(&block))
}

/// A pass over the batches of a segment.
pub(super) struct Scan<'a> {
    window: &'a mut Window,
    file: &'a dyn SegmentFile,
    number: u64,
    end: u64,
    offset: u64,
}

impl<'a> Scan<'a> {
    /// A pass over segment `number`, whose file has `bytes` bytes.
    pub(super) fn new(
        window: &'a mut Window,
        file: &'a dyn SegmentFile,
        number: u64,
        bytes: u64,
    ) -> Scan<'a> {
        window.filled = 0;
        window.unreadable = 0;
        Scan { window, file, number, end: bytes, offset: SEGMENT_HEADER_BYTES as u64 }
    }

    /// The next intact batch that was written to just this place, and its records.
    ///
    /// `is_ours` judges the header before its length is believed.
    pub(super) fn next(
        &mut self,
        is_ours: &dyn Fn(&BatchHeader) -> bool,
    ) -> io::Result<Option<(BatchHeader, &[u8])>> {
        while self.end.saturating_sub(self.offset) >= BATCH_HEADER_BYTES as u64 {
            let offset = self.offset;
            let Some(header) = self.here(is_ours)? else {
                self.offset += BLOCK_BYTES;
                continue;
            };
            self.offset += header.padded_bytes();
            let length = BATCH_HEADER_BYTES + header.body_bytes as usize;
            let batch = self.window.bytes(self.file, self.end, offset, length)?;
            return Ok(Some((header, &batch[BATCH_HEADER_BYTES..])));
        }
        Ok(None)
    }

    /// The batch just here, if an intact one is. Does not move on.
    pub(super) fn here(
        &mut self,
        is_ours: &dyn Fn(&BatchHeader) -> bool,
    ) -> io::Result<Option<BatchHeader>> {
        let offset = self.offset;
        let rest = self.end.saturating_sub(offset);
        if rest < BATCH_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let bytes = self.window.bytes(self.file, self.end, offset, BATCH_HEADER_BYTES)?;
        let header = read_batch_header(bytes).filter(|header| {
            header.segment == self.number && header.offset == offset && is_ours(header)
        });
        let Some(header) = header else { return Ok(None) };
        let length = BATCH_HEADER_BYTES as u64 + u64::from(header.body_bytes);
        if length > rest {
            return Ok(None);
        }
        let batch = self.window.bytes(self.file, self.end, offset, length as usize)?;
        Ok(batch_is_intact(batch).then_some(header))
    }

    /// Blocks that the medium did not give so far.
    pub(super) fn unreadable(&self) -> u64 {
        self.window.unreadable
    }
}
