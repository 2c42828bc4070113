//! Receives straight into a caller's buffer, for frames that are larger than a pooled buffer.
//!
//! Owns the buffers while the kernel fills them.

use std::collections::HashMap;

use bytes::BytesMut;
use io_uring::{opcode, squeue, types};
use rustc_hash::FxBuildHasher;

use super::kind::Kind;

/// Bytes of one operation: the kernel's results are positive i32.
const CHUNK_BYTES_MAX: usize = 1 << 30;

struct Exact {
    buffer: BytesMut,
    until: usize,
    socket: u32,
}

#[derive(Default)]
pub(super) struct Exacts {
    under_way: HashMap<u64, Exact, FxBuildHasher>,
}

impl Exacts {
    /// Takes the buffer over and gives the entry that fills it; the buffer comes straight back if
    /// it needs nothing.
    pub(super) fn start(
        &mut self,
        token: u64,
        socket: u32,
        mut buffer: BytesMut,
        until: usize,
    ) -> Result<squeue::Entry, BytesMut> {
        if buffer.len() >= until {
            return Err(buffer);
        }
        buffer.reserve(until - buffer.len());
        let mut exact = Exact { buffer, until, socket };
        let entry = exact.entry(token);
        self.under_way.insert(token, exact);
        Ok(entry)
    }

    /// Notes that `received` bytes were appended; gives the entry for what is left, if anything
    /// is.
    pub(super) fn advance(&mut self, token: u64, received: usize) -> Option<squeue::Entry> {
        let exact = self.under_way.get_mut(&token)?;
        let len = exact.buffer.len() + received.min(exact.until - exact.buffer.len());
        // SAFETY: the capacity is at least `until`, `len` is at most `until`, and the kernel has
        // written the `received` bytes after the former length.
        unsafe { exact.buffer.set_len(len) };
        (len < exact.until).then(|| exact.entry(token))
    }

    /// Gives the buffer out; the kernel must no longer hold it.
    pub(super) fn finish(&mut self, token: u64) -> Option<BytesMut> {
        self.under_way.remove(&token).map(|exact| exact.buffer)
    }
}

impl Exact {
    fn entry(&mut self, token: u64) -> squeue::Entry {
        let fd = types::Fd(self.socket as i32);
        let len = (self.until - self.buffer.len()).min(CHUNK_BYTES_MAX);
        let start = self.buffer.spare_capacity_mut().as_mut_ptr().cast();
        opcode::Recv::new(fd, start, len as u32)
            .flags(libc::MSG_WAITALL)
            .build()
            .user_data(Kind::ReceiveExact.with(token))
    }
}
