//! Buffers of large messages, used again as soon as nobody holds the message: fresh memory costs
//! a page fault per 4 KiB, which is more than the copy into it.

use bytes::{Bytes, BytesMut};

/// Buffers that are watched.
const KEPT_MAX: usize = 16;
/// Bytes of the watched buffers, together.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Handles to the last large messages.
#[derive(Debug, Default)]
pub(crate) struct LargeBuffers {
    kept: Vec<Bytes>,
    bytes: usize,
}

impl LargeBuffers {
    /// An empty buffer for `capacity` bytes: one that was used before, if there is one.
    pub(crate) fn take(&mut self, capacity: usize) -> BytesMut {
        while let Some(at) = self.kept.iter().position(Bytes::is_unique) {
            let kept = self.kept.swap_remove(at);
            self.bytes -= kept.len();
            if let Ok(mut buffer) = kept.try_into_mut() {
                buffer.clear();
                // No more than twice as large: a small message must not pin a large buffer.
                if (capacity..=2 * capacity).contains(&buffer.capacity()) {
                    return buffer;
                }
            }
        }
        BytesMut::with_capacity(capacity)
    }

    /// Watches a message's buffer.
    pub(crate) fn watch(&mut self, raw: Bytes) {
        if self.kept.len() == KEPT_MAX || self.bytes + raw.len() > KEPT_BYTES_MAX {
            self.kept.clear();
            self.bytes = 0;
        }
        if raw.len() <= KEPT_BYTES_MAX {
            self.bytes += raw.len();
            self.kept.push(raw);
        }
    }

    /// Lets go of every buffer: what is idle for a second is given back.
    pub(crate) fn clear(&mut self) {
        self.kept = Vec::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_nobody_holds_it() {
        let mut large = LargeBuffers::default();
        let mut buffer = large.take(1000);
        let start = buffer.as_ptr();
        buffer.resize(1000, 1);
        let message = buffer.freeze();
        large.watch(message.clone());
        assert_ne!(large.take(1000).as_ptr(), start, "still held");
        drop(message);
        let again = large.take(600);
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), start);
    }

    #[test]
    fn no_more_is_watched_than_the_limits_say() {
        let mut large = LargeBuffers::default();
        for _ in 0..100 {
            large.watch(Bytes::from(vec![0; 1 << 20]));
            assert!(large.kept.len() <= KEPT_MAX && large.bytes <= KEPT_BYTES_MAX);
        }
    }
}
