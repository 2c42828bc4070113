//! Fields out of a body, each with its check.

use super::RecordError;

/// What is left of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts behind the version, which must be `version`.
    pub(super) fn new(body: &'a [u8], version: u8) -> Result<Reader<'a>, RecordError> {
        match body.split_first() {
            Some((own, rest)) if *own == version => Ok(Reader { rest }),
            Some((own, _)) => Err(RecordError::Version(*own)),
            None => Err(RecordError::Truncated),
        }
    }

    /// Reads a part that has no version of its own.
    pub(super) fn part(rest: &'a [u8]) -> Reader<'a> {
        Reader { rest }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, RecordError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, RecordError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes with their length as u32 before them.
    pub(super) fn block(&mut self) -> Result<&'a [u8], RecordError> {
        let len = self.u32()?;
        self.bytes(len as usize)
    }

    /// UTF-8 with its length as u32 before it.
    pub(super) fn text(&mut self) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.block()?).map_err(|_| RecordError::Invalid)
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), RecordError> {
        if self.rest.is_empty() { Ok(()) } else { Err(RecordError::Invalid) }
    }
}

/// Appends bytes with their length as u32 before them. No field of a record comes near 4 GiB: a
/// packet has 256 MiB at most.
pub(super) fn put_block(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}
