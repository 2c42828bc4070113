//! The bytes of a log: segment header, batch header, envelope. The module's documentation
//! ([`crate::log`]) states them byte by byte. Knows no file.

use crate::RecordKind;

/// Batches begin at multiples of this, so that no write touches a page of an earlier batch.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// The segment header takes the first block.
pub(super) const SEGMENT_HEADER_BYTES: usize = BLOCK_BYTES as usize;
/// The bytes of a batch before its records.
pub(super) const BATCH_HEADER_BYTES: usize = 96;
/// The bytes of a record before its body.
pub(super) const ENVELOPE_BYTES: usize = 12;
/// Version of the segment header and of all that follows it in the segment.
pub(super) const FORMAT_VERSION: u32 = 1;
/// A batch that is larger takes no further turn: what one turn appends is never divided.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;
/// The largest body: MQTT's largest packet is 256 MiB.
pub(super) const RECORD_BYTES_MAX: usize = 1 << 30;

const SEGMENT_MAGIC: [u8; 8] = *b"RINGTIDE";
const BATCH_MAGIC: [u8; 4] = *b"RTLB";
const BATCH_VERSION: u16 = 1;
const ENVELOPE_VERSION: u8 = 1;

/// What tells the segments and batches of one opening of one log from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The log's id.
    pub(super) log: u16,
    /// Counts the openings of the log.
    pub(super) epoch: u64,
    /// The first position of this epoch: whatever older epochs have from there on is void.
    pub(super) epoch_first: u64,
    /// Chosen at random per epoch, so that no message can hold bytes that pass for a batch.
    pub(super) salt: u64,
}

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) identity: Identity,
    pub(super) number: u64,
    /// Length of the segment, this header included.
    pub(super) bytes: u64,
    /// What was known when the segment was prepared: see [`BatchHeader::start`].
    pub(super) start: u64,
    /// What was known when the segment was prepared: see [`BatchHeader::durable`].
    pub(super) durable: u64,
}

/// What the first block of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentStart {
    Valid(SegmentHeader),
    /// Intact, but of a version that this build does not know.
    Newer(u32),
    Invalid,
}

/// What stands before the records of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) identity: Identity,
    /// The segment in which it lies.
    pub(super) segment: u64,
    /// Where it lies in the segment.
    pub(super) offset: u64,
    /// Ordinal of the batch within its epoch, from 1.
    pub(super) number: u64,
    /// Position of its first record.
    pub(super) first: u64,
    pub(super) records: u32,
    /// Bytes of its records with their envelopes.
    pub(super) body_bytes: u32,
    /// Everything up to here was on the medium when this batch was written.
    pub(super) durable: u64,
    /// Records below this are void: a checkpoint that is complete with this batch begins there.
    pub(super) start: u64,
}

impl BatchHeader {
    /// Position of its last record.
    pub(super) fn last(&self) -> u64 {
        self.first + u64::from(self.records) - 1
    }

    /// Bytes that it takes in the segment.
    pub(super) fn padded_bytes(&self) -> u64 {
        padded(BATCH_HEADER_BYTES as u64 + u64::from(self.body_bytes))
    }
}

/// `bytes` up to the next multiple of the block size.
pub(super) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// The first block of a segment as bytes.
pub(super) fn segment_header(header: &SegmentHeader) -> Vec<u8> {
    let mut block = vec![0; SEGMENT_HEADER_BYTES];
    put(&mut block, 0, &SEGMENT_MAGIC);
    put(&mut block, 8, &FORMAT_VERSION.to_le_bytes());
    put(&mut block, 16, &header.identity.log.to_le_bytes());
    put(&mut block, 20, &(BLOCK_BYTES as u32).to_le_bytes());
    put(&mut block, 24, &header.number.to_le_bytes());
    put(&mut block, 32, &header.identity.epoch.to_le_bytes());
    put(&mut block, 40, &header.identity.epoch_first.to_le_bytes());
    put(&mut block, 48, &header.identity.salt.to_le_bytes());
    put(&mut block, 56, &header.bytes.to_le_bytes());
    put(&mut block, 64, &header.start.to_le_bytes());
    put(&mut block, 72, &header.durable.to_le_bytes());
    let crc = segment_crc(&block);
    put(&mut block, 12, &crc.to_le_bytes());
    block
}

/// Reads the first block of a segment.
pub(super) fn read_segment_header(block: &[u8]) -> SegmentStart {
    let whole = block.len() == SEGMENT_HEADER_BYTES;
    if !whole || block[..8] != SEGMENT_MAGIC || u32_at(block, 12) != segment_crc(block) {
        return SegmentStart::Invalid;
    }
    let version = u32_at(block, 8);
    if version > FORMAT_VERSION {
        return SegmentStart::Newer(version);
    }
    if version != FORMAT_VERSION || u64::from(u32_at(block, 20)) != BLOCK_BYTES {
        return SegmentStart::Invalid;
    }
    SegmentStart::Valid(SegmentHeader {
        identity: Identity {
            log: u16_at(block, 16),
            epoch: u64_at(block, 32),
            epoch_first: u64_at(block, 40),
            salt: u64_at(block, 48),
        },
        number: u64_at(block, 24),
        bytes: u64_at(block, 56),
        start: u64_at(block, 64),
        durable: u64_at(block, 72),
    })
}

/// Writes the header before the records that `batch` holds from [`BATCH_HEADER_BYTES`] on.
/// `header.body_bytes` must be their length.
pub(super) fn finish_batch(batch: &mut [u8], header: &BatchHeader) {
    put(batch, 0, &BATCH_MAGIC);
    put(batch, 4, &BATCH_VERSION.to_le_bytes());
    put(batch, 6, &header.identity.log.to_le_bytes());
    put(batch, 12, &header.records.to_le_bytes());
    put(batch, 16, &header.body_bytes.to_le_bytes());
    put(batch, 20, &[0; 4]);
    put(batch, 24, &header.identity.salt.to_le_bytes());
    put(batch, 32, &header.identity.epoch.to_le_bytes());
    put(batch, 40, &header.identity.epoch_first.to_le_bytes());
    put(batch, 48, &header.segment.to_le_bytes());
    put(batch, 56, &header.offset.to_le_bytes());
    put(batch, 64, &header.number.to_le_bytes());
    put(batch, 72, &header.first.to_le_bytes());
    put(batch, 80, &header.durable.to_le_bytes());
    put(batch, 88, &header.start.to_le_bytes());
    let end = BATCH_HEADER_BYTES + header.body_bytes as usize;
    let crc = batch_crc(&batch[..end]);
    put(batch, 8, &crc.to_le_bytes());
}

/// Reads the fields of a batch header; [`batch_is_intact`] tells whether they are true.
pub(super) fn read_batch_header(bytes: &[u8]) -> Option<BatchHeader> {
    if bytes.len() < BATCH_HEADER_BYTES
        || bytes[..4] != BATCH_MAGIC
        || u16_at(bytes, 4) != BATCH_VERSION
    {
        return None;
    }
    let header = BatchHeader {
        identity: Identity {
            log: u16_at(bytes, 6),
            epoch: u64_at(bytes, 32),
            epoch_first: u64_at(bytes, 40),
            salt: u64_at(bytes, 24),
        },
        segment: u64_at(bytes, 48),
        offset: u64_at(bytes, 56),
        number: u64_at(bytes, 64),
        first: u64_at(bytes, 72),
        records: u32_at(bytes, 12),
        body_bytes: u32_at(bytes, 16),
        durable: u64_at(bytes, 80),
        start: u64_at(bytes, 88),
    };
    let counts = header.records > 0
        && header.first > 0
        && header.first.checked_add(u64::from(header.records)).is_some();
    counts.then_some(header)
}

/// Whether header and records (without padding) are what was written.
pub(super) fn batch_is_intact(batch: &[u8]) -> bool {
    batch.len() >= BATCH_HEADER_BYTES && u32_at(batch, 8) == batch_crc(batch)
}

/// Appends a record behind its envelope.
pub(super) fn put_record(batch: &mut Vec<u8>, kind: RecordKind, parts: &[&[u8]], length: u32) {
    let mut envelope = [0; ENVELOPE_BYTES];
    envelope[0] = kind as u8;
    envelope[1] = ENVELOPE_VERSION;
    put(&mut envelope, 4, &length.to_le_bytes());
    let at = batch.len();
    batch.extend_from_slice(&envelope);
    for part in parts {
        batch.extend_from_slice(part);
    }
    // Over the body in one piece: the ends of each piece are summed byte by byte.
    let crc = record_crc(&batch[at..at + 8], &batch[at + ENVELOPE_BYTES..]);
    put(batch, at + 8, &crc.to_le_bytes());
}

/// A record as it stands in a batch.
pub(super) struct Record<'a> {
    pub(super) kind: u8,
    pub(super) body: &'a [u8],
}

/// Why the records of a batch cannot be read, although it is what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EnvelopeError {
    /// Fewer bytes than its length says, or a wrong checksum.
    Invalid,
    /// An envelope of a version that this build does not know.
    Newer(u8),
}

/// Takes the first record off `rest`.
pub(super) fn take_record<'a>(rest: &mut &'a [u8]) -> Result<Record<'a>, EnvelopeError> {
    let Some((envelope, after)) = rest.split_at_checked(ENVELOPE_BYTES) else {
        return Err(EnvelopeError::Invalid);
    };
    if envelope[1] != ENVELOPE_VERSION {
        return Err(EnvelopeError::Newer(envelope[1]));
    }
    let Some((body, after)) = after.split_at_checked(u32_at(envelope, 4) as usize) else {
        return Err(EnvelopeError::Invalid);
    };
    let crc = record_crc(&envelope[..8], body);
    if crc != u32_at(envelope, 8) {
        return Err(EnvelopeError::Invalid);
    }
    *rest = after;
    Ok(Record { kind: envelope[0], body })
}

/// The kind that a number names.
pub(super) fn record_kind(number: u8) -> Option<RecordKind> {
    let kinds = [
        RecordKind::Message,
        RecordKind::Session,
        RecordKind::Subscription,
        RecordKind::Queue,
        RecordKind::Exchange,
        RecordKind::Connection,
        RecordKind::SessionEnd,
        RecordKind::Watermark,
        RecordKind::Checkpoint,
        RecordKind::CheckpointEnd,
        RecordKind::Void,
    ];
    kinds.into_iter().find(|kind| *kind as u8 == number)
}

/// The file of a segment.
pub(super) fn segment_name(number: u64) -> String {
    format!("log-{number:012}.seg")
}

/// The number in a segment file's name; names of files that were set aside give none.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    let plain = digits.len() >= 12 && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Numbers grow by one: none comes near the limit, which leaves room to count on.
    plain.then(|| digits.parse().ok()).flatten().filter(|number| *number < 1 << 62)
}

/// The number of a segment that was set aside as `log-<number>.seg.corrupt-<time>`.
pub(super) fn set_aside_number(name: &str) -> Option<u64> {
    let (segment, _) = name.split_once(".corrupt-")?;
    segment_number(segment)
}

/// Over all of the block but the checksum itself.
fn segment_crc(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..])
}

/// Over all of envelope and body but the checksum itself.
fn record_crc(envelope: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(envelope), body)
}

/// Over all of header and records but the checksum itself.
fn batch_crc(batch: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&batch[..8]), &batch[12..])
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
