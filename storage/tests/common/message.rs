//! Messages as the tests know them: tenant, payload flag, origin and its position, number, topic.

/// A message's bytes. An empty payload clears a retained topic.
pub(crate) fn message(topic: &str, number: u64, (origin, lsn): (u16, u64), empty: bool) -> Vec<u8> {
    let mut bytes = 7_u32.to_le_bytes().to_vec();
    bytes.push(u8::from(empty));
    bytes.extend_from_slice(&origin.to_le_bytes());
    bytes.extend_from_slice(&lsn.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(topic.as_bytes());
    bytes
}

const HEADER: usize = 23;

pub(crate) fn topic_of(bytes: &[u8]) -> Option<(u32, &str, bool)> {
    let topic = std::str::from_utf8(bytes.get(HEADER..)?).ok()?;
    Some((7, topic, bytes[4] != 0))
}

pub(crate) fn origin_of(bytes: &[u8]) -> Option<(u16, u64)> {
    let origin = bytes.get(5..7)?.try_into().ok()?;
    let lsn = bytes.get(7..15)?.try_into().ok()?;
    Some((u16::from_le_bytes(origin), u64::from_le_bytes(lsn)))
}

pub(crate) fn number_of(bytes: &[u8]) -> u64 {
    bytes.get(15..HEADER).and_then(|n| n.try_into().ok()).map_or(0, u64::from_le_bytes)
}
