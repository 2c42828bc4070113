//! Connections against rustls' own client: versions, cuts, ends, tickets.
#![allow(clippy::unwrap_used)]

mod common;

use common::authority::Authority;
use common::{BOTH, ClientSide, Link, NAME, TLS_1_2, TLS_1_3, acceptor, linked, material};
use proptest::prelude::*;
use ringtide_tls::{Acceptor, Connection, FaultClass, Versions};

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[test]
fn both_versions_carry_data_both_ways() {
    let authority = Authority::new("test");
    for (versions, name) in [(TLS_1_2, "TLS 1.2"), (TLS_1_3, "TLS 1.3"), (BOTH, "TLS 1.3")] {
        let mut link = linked(&material(&authority), &ClientSide::new(&authority, versions, None));
        let peer = link.server.peer();
        assert_eq!(peer.version, name);
        assert!(peer.cipher.starts_with("TLS"), "{peer:?}");
        assert_eq!(peer.server_name.as_deref(), Some(NAME));
        assert_eq!((peer.protocol, peer.common_name, peer.resumed), (None, None, false));
        assert_eq!(link.up(b"hello"), b"hello");
        assert_eq!(link.down(b"world"), b"world");
    }
}

#[test]
fn a_large_message_goes_both_ways_and_nothing_is_held_after_it() {
    let authority = Authority::new("test");
    let data = pattern(1 << 20);
    for versions in [TLS_1_2, TLS_1_3] {
        let mut link = linked(&material(&authority), &ClientSide::new(&authority, versions, None));
        link.cut = 4096;
        assert!(link.up(&data) == data, "1 MiB up");
        assert!(link.down(&data) == data, "1 MiB down");
        assert_eq!(link.server.held_bytes(), 0);
    }
}

#[test]
fn a_client_comes_back_with_a_ticket_on_any_connection_of_the_acceptor() {
    let authority = Authority::new("test");
    for versions in [TLS_1_2, TLS_1_3] {
        let side = ClientSide::new(&authority, versions, None);
        let ours = acceptor(&material(&authority));
        let mut first = Link::new(&ours, side.connect(NAME)).handshake();
        first.down(b"so that the ticket is read");
        // Another shard has a clone of the acceptor.
        let second = Link::new(&ours.clone(), side.connect(NAME)).handshake();
        assert!(second.server.peer().resumed);
        assert_eq!(second.server.peer().server_name.as_deref(), Some(NAME));

        // A ticket of other material is worth nothing, and no harm.
        let other = acceptor(&material(&authority));
        let mut third = Link::new(&other, side.connect(NAME)).handshake();
        assert!(!third.server.peer().resumed);
        assert_eq!(third.up(b"hello"), b"hello");
    }
}

#[test]
fn without_tickets_every_handshake_is_a_full_one() {
    let authority = Authority::new("test");
    let mut material = material(&authority);
    material.tickets = false;
    for versions in [TLS_1_2, TLS_1_3] {
        let side = ClientSide::new(&authority, versions, None);
        let ours = acceptor(&material);
        for _ in 0..2 {
            let mut link = Link::new(&ours, side.connect(NAME)).handshake();
            link.down(b"x");
            assert!(!link.server.peer().resumed);
        }
    }
}

#[test]
fn an_orderly_end_is_told_both_ways() {
    let authority = Authority::new("test");
    for versions in [TLS_1_2, TLS_1_3] {
        let mut link = linked(&material(&authority), &ClientSide::new(&authority, versions, None));
        link.client.send_close_notify();
        assert_eq!(link.run(), (Ok(()), Ok(())));
        assert!(link.ended);
        // The other direction is still open.
        assert_eq!(link.down(b"last words"), b"last words");
        let mut out = Vec::new();
        link.server.close(&mut out);
        link.give(&out).unwrap();
        assert!(link.client.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn what_comes_behind_the_end_does_not_count() {
    let authority = Authority::new("test");
    let mut link = linked(&material(&authority), &ClientSide::new(&authority, BOTH, None));
    link.client.send_close_notify();
    let mut sent = Vec::new();
    link.client.write_tls(&mut sent).unwrap();
    sent.extend_from_slice(&[23, 3, 3, 0, 32, 1, 2, 3]);
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let received = link.server.receive(&mut sent, &mut plain, &mut out).unwrap();
    assert!(received.ended && plain.is_empty());
    assert_eq!(link.server.held_bytes(), 0);
    for _ in 0..100 {
        let mut more = [23, 3, 3, 0x40, 0, 1, 2, 3];
        let received = link.server.receive(&mut more, &mut plain, &mut out).unwrap();
        assert!(received.ended && plain.is_empty());
    }
    assert_eq!(link.server.held_bytes(), 0, "nothing is kept of what does not count");
}

#[test]
fn changed_keys_are_followed() {
    let authority = Authority::new("test");
    let mut link = linked(&material(&authority), &ClientSide::new(&authority, TLS_1_3, None));
    for _ in 0..3 {
        link.client.refresh_traffic_keys().unwrap();
        assert_eq!(link.up(b"under new keys"), b"under new keys");
        assert_eq!(link.down(b"and back"), b"and back");
    }
}

#[test]
fn a_peer_that_speaks_no_tls_is_recognised() {
    let authority = Authority::new("test");
    let ours = acceptor(&material(&authority));
    let cases: [(&[u8], &str); 3] = [
        (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", "it speaks MQTT without TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "it speaks HTTP without TLS"),
        (b"\x00\x01garbage", "it does not speak TLS"),
    ];
    for (bytes, text) in cases {
        let mut server = Connection::new(&ours).unwrap();
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let fault = server.receive(&mut bytes.to_vec(), &mut plain, &mut out).unwrap_err();
        assert_eq!((fault.class, fault.text.as_str()), (FaultClass::NotTls, text));
        assert!(out.is_empty() && plain.is_empty());
    }
}

#[test]
fn a_changed_byte_is_found_and_told() {
    let authority = Authority::new("test");
    for versions in [TLS_1_2, TLS_1_3] {
        let mut link = linked(&material(&authority), &ClientSide::new(&authority, versions, None));
        std::io::Write::write_all(&mut link.client.writer(), b"hello").unwrap();
        let mut sent = Vec::new();
        link.client.write_tls(&mut sent).unwrap();
        *sent.last_mut().unwrap() ^= 1;
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let fault = link.server.receive(&mut sent, &mut plain, &mut out).unwrap_err();
        assert_eq!(fault.class, FaultClass::Protocol, "{fault}");
        assert!(plain.is_empty());
        let told = link.give(&out).unwrap_err().to_string();
        assert!(told.contains("BadRecordMac"), "{told}");
        out.clear();
        assert!(link.server.receive(&mut [23, 3, 3], &mut plain, &mut out).is_err());
        link.server.close(&mut out);
        assert!(out.is_empty(), "nothing is said behind the alert");
    }
}

#[test]
fn a_handshake_without_end_is_cut_off() {
    let authority = Authority::new("test");
    let mut server = Connection::new(&acceptor(&material(&authority))).unwrap();
    // The beginning of a ClientHello of 65000 bytes, in records of 16 KiB.
    let mut bytes = Vec::new();
    for record in 0..4 {
        bytes.extend_from_slice(&[22, 3, 1, 0x40, 0]);
        let mut body = vec![0; 1 << 14];
        if record == 0 {
            body[..4].copy_from_slice(&[1, 0, 0xfd, 0xe8]);
        }
        bytes.extend_from_slice(&body);
    }
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let mut most = 0;
    let fault = bytes.chunks_mut(4096).find_map(|piece| {
        let fault = server.receive(piece, &mut plain, &mut out).err();
        most = most.max(server.held_bytes());
        fault
    });
    assert_eq!(fault.unwrap().class, FaultClass::Protocol);
    assert!(most <= (32 << 10) + 4096, "{most}");
}

#[test]
fn nothing_in_common_is_told() {
    let authority = Authority::new("test");
    let mut only_1_3 = material(&authority);
    only_1_3.versions = Versions { v1_2: false, v1_3: true };
    let mut other_cipher = material(&authority);
    other_cipher.versions = Versions { v1_2: true, v1_3: false };
    other_cipher.ciphers = vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()];
    let mut mqtt = material(&authority);
    mqtt.protocols = vec![b"mqtt".to_vec()];
    let mut side = ClientSide::new(&authority, TLS_1_2, None);
    side.config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let cases = [
        (only_1_3, "no version of TLS in common"),
        (other_cipher, "no cipher suite in common"),
        (mqtt, "another protocol (ALPN)"),
    ];
    for (material, text) in cases {
        let mut link = Link::new(&acceptor(&material), side.connect(NAME));
        let (taken, read) = link.run();
        let fault = taken.unwrap_err();
        assert_eq!(fault.class, FaultClass::NothingInCommon, "{fault}");
        assert!(fault.text.contains(text), "{fault}");
        assert!(read.is_err(), "the client is told by an alert");
    }
}

#[test]
fn a_protocol_is_agreed_on_if_the_client_names_one() {
    let authority = Authority::new("test");
    let mut mqtt = material(&authority);
    mqtt.protocols = vec![b"mqtt".to_vec()];
    let mut side = ClientSide::new(&authority, BOTH, None);
    assert_eq!(linked(&mqtt, &side).server.peer().protocol, None);
    side.config.alpn_protocols = vec![b"x".to_vec(), b"mqtt".to_vec()];
    assert_eq!(linked(&mqtt, &side).server.peer().protocol.as_deref(), Some("mqtt"));
}

#[test]
fn nothing_can_be_sent_before_the_handshake_is_done() {
    let authority = Authority::new("test");
    let mut server = Connection::new(&acceptor(&material(&authority))).unwrap();
    let mut out = Vec::new();
    assert!(server.send(b"early", &mut out).is_err());
    server.close(&mut out);
    assert!(out.is_empty());
}

pub(crate) fn any_acceptor() -> Acceptor {
    acceptor(&material(&Authority::new("test")))
}

/// Bytes of a peer that has no keys give nothing and end no handshake; shared with the fuzz target.
pub(crate) fn check_bytes(acceptor: &Acceptor, bytes: &mut [u8], cut: usize) {
    let mut server = Connection::new(acceptor).unwrap();
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    for piece in bytes.chunks_mut(cut) {
        if server.receive(piece, &mut plain, &mut out).is_err() {
            break;
        }
    }
    assert!(plain.is_empty() && server.is_handshaking());
    assert!(server.held_bytes() <= 32 << 10, "{} bytes held", server.held_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_cut_gives_the_same(
        cut in 1_usize..600,
        pieces in prop::collection::vec(0_usize..40_000, 1..5),
        old in any::<bool>(),
    ) {
        let authority = Authority::new("test");
        let versions = if old { TLS_1_2 } else { TLS_1_3 };
        let side = ClientSide::new(&authority, versions, None);
        let mut link = Link::new(&acceptor(&material(&authority)), side.connect(NAME));
        link.cut = cut;
        let mut link = link.handshake();
        for length in pieces {
            let data = pattern(length);
            prop_assert!(link.up(&data) == data);
            prop_assert!(link.down(&data) == data);
            prop_assert_eq!(link.server.held_bytes(), 0);
        }
    }

    #[test]
    fn no_bytes_bring_it_down(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in 1_usize..64,
    ) {
        bytes.splice(0..0, [22, 3, 1]);
        check_bytes(&any_acceptor(), &mut bytes, cut);
    }
}
