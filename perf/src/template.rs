//! Messages encoded before the run, with only the stamp and the packet id patched in on the way
//! out. Pure.

use bytes::Bytes;
use ringtide_driver::Outgoing;

use crate::sequence::Stamp;
use crate::wire::{self, Version};

/// Payloads beyond this are sent from one shared buffer and not copied into each write.
const INLINE_MAX_BYTES: usize = 8 * 1024;

/// What a publisher sends: one frame per topic, used in turn, all of the same length.
#[derive(Clone, Debug)]
pub(crate) struct Templates {
    /// The frames one after another: whole, or up to the end of the stamp if there is a `tail`.
    frames: Vec<u8>,
    frame_len: usize,
    count: usize,
    packet_id_at: Option<usize>,
    /// Where the stamp goes; `None` for payloads that are too short for one.
    stamp_at: Option<usize>,
    tail: Bytes,
}

impl Templates {
    /// `topics` must not be empty and all be of one length.
    ///
    /// # Errors
    /// Says which of these rules was broken.
    pub(crate) fn new(
        version: Version,
        qos: u8,
        topics: &[String],
        payload_len: usize,
        tail: &Bytes,
    ) -> Result<Self, String> {
        let first = topics.first().ok_or("a publisher needs a topic")?;
        let head_len = wire::publish_head(version, qos, first, payload_len).len();
        let inline = if payload_len > INLINE_MAX_BYTES { Stamp::LEN } else { payload_len };
        let frame_len = head_len + inline;
        let mut frames = Vec::with_capacity(topics.len() * frame_len);
        for topic in topics {
            frames.extend(wire::publish_head(version, qos, topic, payload_len));
            frames.resize(frames.len() + inline, b'x');
        }
        if frames.len() != topics.len() * frame_len {
            return Err("the topics of one publisher must be of one length".to_owned());
        }
        let properties = usize::from(version == Version::V5);
        Ok(Self {
            frames,
            frame_len,
            count: topics.len(),
            packet_id_at: (qos > 0).then(|| head_len - properties - 2),
            stamp_at: (payload_len >= Stamp::LEN).then_some(head_len),
            tail: tail.slice(..tail.len().min(payload_len - inline)),
        })
    }

    /// True if each message carries a stamp.
    pub(crate) fn stamped(&self) -> bool {
        self.stamp_at.is_some()
    }

    /// The shared bytes that follow the stamp of a payload of this length.
    pub(crate) fn tail(payload_len: usize) -> Bytes {
        if payload_len > INLINE_MAX_BYTES {
            Bytes::from(vec![b'x'; payload_len - Stamp::LEN])
        } else {
            Bytes::new()
        }
    }

    /// Appends message `stamp.sequence`. Topics go round in steps that visit them all.
    #[inline]
    pub(crate) fn append(&self, out: &mut Outgoing, stamp: Stamp, packet_id: u16) {
        let index = if self.count == 1 { 0 } else { stamp.sequence as usize % self.count };
        let from = index * self.frame_len;
        let start = out.head.len();
        out.head.extend_from_slice(&self.frames[from..from + self.frame_len]);
        let frame = &mut out.head[start..];
        if let Some(at) = self.packet_id_at {
            frame[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        if let Some(at) = self.stamp_at {
            frame[at..at + Stamp::LEN].copy_from_slice(&stamp.to_bytes());
        }
        if !self.tail.is_empty() {
            out.shared.push((out.head.len() as u32, self.tail.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Frame, Scanner, parse_publish, publish_topic};

    fn sent(templates: &Templates, count: u32) -> Vec<u8> {
        let mut out = Outgoing::default();
        for sequence in 0..count {
            let stamp = Stamp { publisher: 3, sequence, time_ns: 99 };
            templates.append(&mut out, stamp, sequence as u16 + 1);
        }
        let mut bytes = Vec::new();
        let mut from = 0;
        for (position, part) in &out.shared {
            bytes.extend_from_slice(&out.head[from..*position as usize]);
            bytes.extend_from_slice(part);
            from = *position as usize;
        }
        bytes.extend_from_slice(&out.head[from..]);
        assert_eq!(bytes.len(), out.len());
        bytes
    }

    fn check(version: Version, qos: u8, payload_len: usize) {
        let topics = ["t/1".to_owned(), "t/2".to_owned()];
        let tail = Templates::tail(payload_len);
        let templates = Templates::new(version, qos, &topics, payload_len, &tail).unwrap();
        let mut seen = 0;
        let on = |frame: Frame<'_>| {
            let head = parse_publish(version, &frame).unwrap();
            assert_eq!(frame.body_len - head.payload_at, payload_len);
            assert_eq!(publish_topic(&frame).unwrap(), topics[seen % 2].as_bytes());
            assert_eq!(usize::from(head.packet_id), if qos > 0 { seen + 1 } else { 0 });
            if payload_len >= Stamp::LEN {
                let stamp = Stamp::from_payload(&frame.body[head.payload_at..]).unwrap();
                assert_eq!(stamp, Stamp { publisher: 3, sequence: seen as u32, time_ns: 99 });
            }
            seen += 1;
        };
        assert_eq!(Scanner::default().scan(&sent(&templates, 5), on), Ok(()));
        assert_eq!(seen, 5);
    }

    #[test]
    fn messages_are_whole_and_patched() {
        for version in [Version::V3_1_1, Version::V5] {
            for qos in 0..=2 {
                for payload_len in
                    [0, 1, 15, 16, 256, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, 1 << 20]
                {
                    check(version, qos, payload_len);
                }
            }
        }
    }

    #[test]
    fn topics_of_two_lengths_are_refused() {
        let topics = ["a".to_owned(), "ab".to_owned()];
        let made = Templates::new(Version::V5, 0, &topics, 16, &Bytes::new());
        assert!(made.is_err_and(|e| e.contains("length")));
        assert!(Templates::new(Version::V5, 0, &[], 16, &Bytes::new()).is_err());
    }
}
