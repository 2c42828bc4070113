//! Sends: as much as a socket takes at once; and the vectors that are used again.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use ringtide_driver::Outgoing;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};

/// Slices of one vectored send; more are sent by further ones.
const SLICES_MAX: usize = 64;
/// Bytes of one send: well below the most that the kernel takes at once.
const CHUNK_BYTES_MAX: usize = 1 << 30;
/// Vectors kept for reuse: at most this many, none larger than `SPARE_BYTES_MAX`.
const SPARES_MAX: usize = 2048;
const SPARE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of capacity kept for reuse in all.
const SPARE_TOTAL_BYTES_MAX: usize = 8 * 1024 * 1024;

fn flags() -> SendFlags {
    SendFlags::DONTWAIT | SendFlags::NOSIGNAL
}

/// Bytes of which a socket has not taken all.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) data: Outgoing,
    /// Bytes that are sent.
    pub(crate) sent: usize,
}

/// Sends what is left after the first `sent` bytes, which it counts on. True if all of it went
/// out; false if the socket is full, of which the kernel then tells when it no longer is.
#[inline]
pub(crate) fn transmit(socket: &OwnedFd, data: &Outgoing, sent: &mut usize) -> Result<bool, Errno> {
    let total = data.len();
    while *sent < total {
        let result = if data.shared.is_empty() {
            let rest = &data.head[*sent..];
            send(socket, &rest[..rest.len().min(CHUNK_BYTES_MAX)], flags())
        } else {
            transmit_parts(socket, data, *sent)
        };
        match result {
            Ok(more) => *sent += more,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

/// One vectored send of what is left after the first `sent` bytes.
fn transmit_parts(socket: &OwnedFd, data: &Outgoing, sent: usize) -> Result<usize, Errno> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let count = list(data, sent, &mut slices);
    sendmsg(socket, &slices[..count], &mut SendAncillaryBuffer::default(), flags())
}

/// Lists what is left after the first `sent` bytes, as much as there is room for; says how many
/// slices that are.
fn list<'a>(data: &'a Outgoing, mut sent: usize, slices: &mut [IoSlice<'a>]) -> usize {
    let mut count = 0;
    let mut room = CHUNK_BYTES_MAX;
    let mut add = |bytes: &'a [u8]| {
        let skipped = sent.min(bytes.len());
        sent -= skipped;
        let rest = &bytes[skipped..];
        let rest = &rest[..rest.len().min(room)];
        if !rest.is_empty() && count < slices.len() {
            room -= rest.len();
            slices[count] = IoSlice::new(rest);
            count += 1;
        }
    };
    let mut from = 0;
    for (position, part) in &data.shared {
        let to = (*position as usize).clamp(from, data.head.len());
        add(&data.head[from..to]);
        add(part);
        from = to;
    }
    add(&data.head[from..]);
    count
}

/// Vectors whose bytes have been sent.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    vectors: Vec<Vec<u8>>,
    bytes: usize,
}

impl Spares {
    /// Keeps a vector for later sends, if there is room for it.
    #[inline]
    pub(crate) fn keep(&mut self, mut vector: Vec<u8>) {
        let bytes = vector.capacity();
        let total = self.bytes + bytes;
        if bytes == 0
            || bytes > SPARE_BYTES_MAX
            || self.vectors.len() == SPARES_MAX
            || total > SPARE_TOTAL_BYTES_MAX
        {
            return;
        }
        vector.clear();
        self.bytes = total;
        self.vectors.push(vector);
    }

    /// An empty vector with room, if one is spare.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        let vector = self.vectors.pop()?;
        self.bytes -= vector.capacity();
        Some(vector)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn every_rest_of_a_send_is_listed_in_order() {
        let part = |text: &'static str| Bytes::from_static(text.as_bytes());
        let shared = vec![(0, part("AB")), (3, part("")), (3, part("CDE")), (9, part("F"))];
        let data = Outgoing { head: b"abcde".to_vec(), shared };
        let whole = b"ABabcCDEdeF";
        for slices_max in [8, 2] {
            for sent in 0..=whole.len() {
                let mut done = sent;
                let mut got = Vec::new();
                while done < whole.len() {
                    let mut slices = [IoSlice::new(&[]); 8];
                    let count = list(&data, done, &mut slices[..slices_max]);
                    assert!(count > 0, "nothing is listed after {done}");
                    slices[..count].iter().for_each(|slice| got.extend_from_slice(slice));
                    done = sent + got.len();
                }
                assert_eq!(got, whole[sent..]);
            }
        }
    }

    #[test]
    fn spare_vectors_are_bounded() {
        let mut spares = Spares::default();
        spares.keep(Vec::new());
        spares.keep(Vec::with_capacity(SPARE_BYTES_MAX + 1));
        assert!(spares.take().is_none());
        for _ in 0..SPARES_MAX {
            spares.keep(vec![1; SPARE_BYTES_MAX]);
        }
        let kept = std::iter::from_fn(|| spares.take());
        let bytes: usize =
            kept.inspect(|vector| assert!(vector.is_empty())).map(|v| v.capacity()).sum();
        assert_eq!(bytes, SPARE_TOTAL_BYTES_MAX);
        assert_eq!(spares.bytes, 0);
    }
}
