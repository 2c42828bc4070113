//! A cursor over received bytes that cannot panic: every read is checked and typed.

use crate::{DecodeError, DecodeErrorKind, PacketId, text, varint};

const TRUNCATED: DecodeError = DecodeError::new(DecodeErrorKind::Truncated);

/// Reads the data types of MQTT 5.0 section 1.5 from the front of a slice. After an error the
/// position is unspecified but within the slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes. Error: fewer are left.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte. Error: none is left.
    #[inline]
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A two byte integer, big-endian. Error: truncated.
    #[inline]
    pub fn two(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// A four byte integer, big-endian. Error: truncated.
    #[inline]
    pub fn four(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer. Errors: truncated, longer than it may be.
    #[inline]
    pub fn varint(&mut self) -> Result<u32, DecodeError> {
        let (value, used) = varint::read(self.rest)?.ok_or(TRUNCATED)?;
        self.take(usize::from(used))?;
        Ok(value)
    }

    /// Binary data: two bytes of length and as many bytes. Error: truncated.
    #[inline]
    pub fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.two()?;
        self.take(usize::from(len))
    }

    /// A string. Errors: truncated, bad UTF-8, U+0000.
    #[inline]
    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        Ok(text::text(bytes)?)
    }

    /// A topic name, possibly empty. Errors: as a string's, and wildcards.
    #[inline]
    pub fn topic_name(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        Ok(text::topic_name(bytes)?)
    }

    /// A packet identifier. Errors: truncated, zero.
    #[inline]
    pub fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        //= [MQTT-2.2.1-3]
        //= 3.1.1 [MQTT-2.3.1-1]
        PacketId::new(self.two()?).ok_or(DecodeErrorKind::PacketIdZero.into())
    }

    /// Ends the packet. Error: bytes are left over.
    #[inline]
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeErrorKind::TrailingBytes.into()) }
    }
}
