//! Gathers records into batches in memory: one that grows, closed ones in order, and buffers to be
//! used again, so that nothing is allocated per record.

use std::collections::VecDeque;

use super::format::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, ENVELOPE_BYTES, RECORD_BYTES_MAX, padded, put_record,
};
use crate::{Mark, RecordKind};

/// Buffers that are kept for later.
const BUFFERS_KEPT: usize = 4;
/// A buffer that a large record has grown above this is not kept.
const BUFFER_KEPT_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;

/// Records on their way to the file, behind room for the batch header.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) buffer: Vec<u8>,
    /// Position of the first record.
    pub(super) first: u64,
    pub(super) records: u32,
    /// What its header says about the start.
    pub(super) start: u64,
    /// Its ordinal, from 1.
    pub(super) number: u64,
    /// Where the record that was added last begins in the buffer.
    last_at: usize,
}

impl Batch {
    /// Bytes that it takes in a segment.
    pub(super) fn padded_bytes(&self) -> u64 {
        padded(self.buffer.len() as u64)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Gather {
    open: Batch,
    closed: VecDeque<Batch>,
    buffers: Vec<Vec<u8>>,
    /// True if no record was added since the last end of a turn.
    ended: bool,
    /// What the next batch to be closed says about the start.
    pub(super) start: u64,
    /// Bytes of all batches so far, as they take place in segments; the open one without padding.
    bytes: u64,
}

impl Gather {
    /// Goes on after position `appended`, in a log that starts at `start`.
    pub(super) fn new(appended: u64, start: u64) -> Gather {
        Gather {
            open: Batch {
                buffer: vec![0; BATCH_HEADER_BYTES],
                first: appended + 1,
                records: 0,
                start,
                number: 1,
                last_at: 0,
            },
            closed: VecDeque::new(),
            buffers: Vec::new(),
            ended: true,
            start,
            bytes: 0,
        }
    }

    /// Adds a record at position `lsn`.
    pub(super) fn append(&mut self, lsn: u64, kind: RecordKind, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        assert!(length <= RECORD_BYTES_MAX, "a record of {length} bytes");
        let grown = self.open.buffer.len() + ENVELOPE_BYTES + length;
        // Never within a turn, whose records count together or not at all.
        if self.ended && grown > BATCH_BYTES_MAX && self.open.records > 0 {
            self.close();
        }
        if self.open.records == 0 {
            self.open.first = lsn;
        }
        self.open.last_at = self.open.buffer.len();
        put_record(&mut self.open.buffer, kind, parts, length as u32);
        self.open.records += 1;
        self.ended = false;
    }

    /// Where the record that was added last stands, if it still can be told.
    pub(super) fn mark(&self) -> Option<Mark> {
        let Batch { buffer, records, number, last_at, .. } = &self.open;
        (*records > 0).then(|| Mark {
            batch: *number,
            offset: *last_at as u32,
            bytes: (buffer.len() - last_at) as u32,
        })
    }

    /// The turn ends: what was gathered may be written.
    pub(super) fn end_turn(&mut self) {
        self.ended = true;
    }

    /// The next batch to be written. Closes the open one if a turn has just ended.
    pub(super) fn next(&mut self) -> Option<&Batch> {
        if self.closed.is_empty() && self.ended && self.open.records > 0 {
            self.close();
        }
        self.closed.front()
    }

    /// True if there is something that may be written.
    pub(super) fn is_ready(&self) -> bool {
        !self.closed.is_empty() || (self.ended && self.open.records > 0)
    }

    /// Takes the batch that [`Gather::next`] showed.
    pub(super) fn take(&mut self) -> Option<Batch> {
        self.closed.pop_front()
    }

    /// A buffer comes back.
    pub(super) fn reuse(&mut self, mut buffer: Vec<u8>) {
        if self.buffers.len() < BUFFERS_KEPT && buffer.capacity() <= BUFFER_KEPT_BYTES_MAX {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    /// Forgets everything: the log has failed.
    pub(super) fn clear(&mut self) {
        self.closed = VecDeque::new();
        self.buffers = Vec::new();
        self.open.buffer = vec![0; BATCH_HEADER_BYTES];
        self.open.records = 0;
    }

    /// Bytes of memory that wait to be written.
    pub(super) fn waiting_bytes(&self) -> u64 {
        let closed: usize = self.closed.iter().map(|batch| batch.buffer.len()).sum();
        (closed + self.open.buffer.len() - BATCH_HEADER_BYTES) as u64
    }

    /// Bytes that all batches so far take in segments.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + (self.open.buffer.len() - BATCH_HEADER_BYTES) as u64
    }

    fn close(&mut self) {
        let mut buffer = self.buffers.pop().unwrap_or_default();
        buffer.resize(BATCH_HEADER_BYTES, 0);
        let next = self.open.first + u64::from(self.open.records);
        let number = self.open.number + 1;
        let open = Batch { buffer, first: next, records: 0, start: self.start, number, last_at: 0 };
        let mut batch = std::mem::replace(&mut self.open, open);
        batch.start = self.start;
        self.bytes += batch.padded_bytes();
        self.closed.push_back(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_turn_appends_is_never_divided() {
        let mut gather = Gather::new(0, 1);
        let part = vec![7; 600 << 10];
        let turn = |gather: &mut Gather, records: u64| {
            for _ in 0..records {
                let lsn = gather.open.first + u64::from(gather.open.records);
                gather.append(lsn, RecordKind::Message, &[&part]);
            }
            gather.end_turn();
        };
        turn(&mut gather, 3);
        turn(&mut gather, 1);
        turn(&mut gather, 1);
        let mut records = Vec::new();
        while gather.next().is_some() {
            records.extend(gather.take().map(|batch| (batch.first, batch.records)));
        }
        assert_eq!(records, [(1, 3), (4, 1), (5, 1)]);
    }
}
