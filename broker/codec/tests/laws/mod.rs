//! Laws that hold for any bytes whatever. The property tests and the fuzz targets share them: each
//! takes bytes and panics where the codec breaks its word.

#![allow(dead_code, reason = "each user takes the laws that it tests")]

use ringtide_codec::{
    Connect, DecodeError, Packet, PropertyIter, Publish, PublishOut, QoS, Role, UserProperties,
    Version, decode, fixed_header,
};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// The first byte picks role and version, the rest is what a peer sends: packet after packet, until
/// one is refused or incomplete.
pub(crate) fn stream(bytes: &[u8]) {
    let Some((&choice, mut rest)) = bytes.split_first() else {
        return;
    };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let mut version = VERSIONS[usize::from(choice >> 1) % VERSIONS.len()];
    let limit = if choice & 0x80 == 0 { u32::MAX } else { 64 };
    while let Ok(Some(header)) = fixed_header(rest, limit) {
        assert!((2..=5).contains(&header.header_len), "{header:?}");
        assert!(header.total_len() <= limit as usize, "{header:?}");
        let Some((packet, after)) = rest.split_at_checked(header.total_len()) else {
            return;
        };
        match packet_law(role, version, packet) {
            Ok(Packet::Connect(connect)) => version = connect.version,
            Ok(_) => {}
            Err(error) => {
                assert!(error.reason.is_error(), "{error:?}");
                return;
            }
        }
        rest = after;
    }
}

/// The first byte picks role and version, the second begins a packet of which the rest is the body:
/// every input reaches a decoder, where in [`stream`] the remaining length would have to be right.
pub(crate) fn packet(bytes: &[u8]) {
    let Some(([choice, first], body)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let mut framed = vec![*choice & 0x7F, *first];
    let len = body.len().min(16_383);
    if len < 0x80 {
        framed.push(len as u8);
    } else {
        framed.extend([len as u8 | 0x80, (len >> 7) as u8]);
    }
    framed.extend(&body[..len]);
    stream(&framed);
}

/// Decodes one whole packet and, if it is accepted, holds the codec to its word: what it encodes
/// has the length it foretold, decodes to the same packet, and is the same bytes ever after.
pub(crate) fn packet_law(
    role: Role,
    version: Version,
    bytes: &[u8],
) -> Result<Packet<'_>, DecodeError> {
    let header = fixed_header(bytes, u32::MAX)?.expect("a whole packet");
    let body = &bytes[usize::from(header.header_len)..];
    let packet = decode(role, version, &header, body)?;
    assert_eq!(packet.packet_type(), header.packet_type);
    let encoded = encode(&packet, version);
    assert_eq!(encoded.len(), packet.packet_len(version), "{packet:?}");
    let again = fixed_header(&encoded, u32::MAX).expect("own header").expect("own packet");
    assert_eq!(again.total_len(), encoded.len());
    let body = &encoded[usize::from(again.header_len)..];
    let decoded = decode(role, version, &again, body).expect("own encoding");
    assert_eq!(decoded, packet);
    assert_eq!(encode(&decoded, version), encoded);
    match &packet {
        Packet::Publish(publish) => forward_law(publish),
        Packet::Connect(connect) => connect_law(connect, bytes, usize::from(header.header_len)),
        Packet::Subscribe(subscribe) => assert_eq!(subscribe.filters().count(), subscribe.len()),
        Packet::Unsubscribe(packet) => assert_eq!(packet.filters().count(), packet.len()),
        _ => {}
    }
    Ok(packet)
}

fn encode(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(version, &mut out);
    out
}

fn connect_law(connect: &Connect<'_>, bytes: &[u8], header_len: usize) {
    assert_eq!(Connect::peek_version(&bytes[header_len..]), Some(connect.version));
    if let Some(will) = &connect.will {
        assert!(!will.topic.is_empty() && !will.topic.contains(['+', '#', '\0']));
        assert!(PropertyIter::new(&will.properties).all(|property| {
            let mut copy = Vec::new();
            property.write(&mut copy);
            copy.len() == property.encoded_len()
        }));
    }
}

/// What a broker sends on of a message it has received keeps topic, payload and the properties that
/// travel, whatever the receiver's version, and never more than was foretold.
fn forward_law(publish: &Publish<'_>) {
    assert_eq!(publish.packet_id.is_some(), publish.qos != QoS::AtMostOnce);
    assert!(!publish.topic.contains(['+', '#', '\0']));
    let mut forward = Vec::new();
    publish.properties.forward_into(&mut forward);
    assert_eq!(publish.properties.forward_is_raw, forward == publish.properties.raw);
    for version in VERSIONS {
        let out = PublishOut {
            version,
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: if publish.topic.is_empty() { "t" } else { publish.topic },
            packet_id: publish.packet_id,
            message_expiry_s: publish.properties.message_expiry_s,
            topic_alias: publish.properties.topic_alias,
            subscription_ids: &[1, 128, 268_435_455],
            forward: &forward,
            payload_len: publish.payload.len(),
        };
        sent_law(&out, publish, &forward);
    }
}

fn sent_law(out: &PublishOut<'_>, publish: &Publish<'_>, forward: &[u8]) {
    let mut bytes = Vec::new();
    out.write(publish.payload, &mut bytes);
    assert_eq!(bytes.len(), out.packet_len());
    let header = fixed_header(&bytes, u32::MAX).expect("own header").expect("own packet");
    let body = &bytes[usize::from(header.header_len)..];
    let received = Publish::decode(out.version, header.flags, body).expect("own encoding");
    assert_eq!(
        (received.dup, received.qos, received.retain, received.packet_id),
        (publish.dup, publish.qos, publish.retain, publish.packet_id)
    );
    assert_eq!((received.topic, received.payload), (out.topic, publish.payload));
    let is_v5 = out.version.is_v5();
    assert_eq!(received.properties.subscription_ids, is_v5);
    assert_eq!(received.properties.topic_alias, out.topic_alias.filter(|_| is_v5));
    assert_eq!(received.properties.message_expiry_s, out.message_expiry_s.filter(|_| is_v5));
    let mut travelled = Vec::new();
    received.properties.forward_into(&mut travelled);
    assert_eq!(travelled, if is_v5 { forward } else { &[] });
}

/// Walking bytes that nobody checked ends, and shows no more than is there.
pub(crate) fn properties(bytes: &[u8]) {
    let shown: usize = PropertyIter::new(bytes).map(|property| property.encoded_len()).sum();
    assert!(shown <= bytes.len());
    if let Ok(user) = UserProperties::parse(bytes) {
        let mut copy = Vec::new();
        user.write(&mut copy);
        assert_eq!(copy, bytes);
    }
}
