use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{Filter, Received, Scratch};

const TCP4: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 56324 1883\r\n";

/// What a filter makes of a stream in these pieces: the header's length and what it tells.
fn told_in<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> Result<Option<(usize, Told)>, Fault> {
    let mut filter = Filter::behind_proxy();
    let mut scratch = Scratch::default();
    let mut before = 0;
    for piece in pieces {
        assert!(filter.awaits_proxy_header());
        let received = filter.receive(&mut piece.to_vec(), &mut scratch)?;
        if let Received { proxied: Some((used, told)), .. } = received {
            return Ok(Some((before + used, *told)));
        }
        assert_eq!(received, Received::default());
        before += piece.len();
    }
    assert!(scratch.plain.is_empty() && scratch.wire.is_empty());
    Ok(None)
}

fn told(bytes: &[u8]) -> Result<Option<(usize, Told)>, Fault> {
    told_in(std::iter::once(bytes))
}

#[track_caller]
fn refused(bytes: &[u8]) -> String {
    let fault = told(bytes).expect_err("a fault");
    assert_eq!(fault.class, Class::ProxyHeader);
    assert!(!fault.text.contains('\n'), "{fault}");
    assert_eq!(told_in(bytes.chunks(1)), Err(fault.clone()), "byte by byte");
    fault.text.into_owned()
}

fn address(text: &str) -> Client {
    Client::Address(text.parse().expect("an address"))
}

/// A header of version 2.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [v2::SIGNATURE, &[0x20 | command, family], &length, body].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

/// Addresses of version 2 with TLVs behind them.
fn inet(tlvs: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0xDC, 0x04, 0x07, 0x5B];
    v2(1, 0x11, &[&addresses, tlvs].concat())
}

/// TLS between client and proxy: the client's bits, the verdict on its certificate, and its name.
fn ssl(client: u8, verify: u32, name: &str) -> Vec<u8> {
    let inner = [tlv(0x21, b"TLSv1.3"), tlv(0x22, name.as_bytes())].concat();
    tlv(0x20, &[&[client], &verify.to_be_bytes()[..], &inner].concat())
}

/// The same header with its checksum in the place that `at` names.
fn summed(mut header: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = crc32c::crc32c(&header);
    header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    header
}

#[test]
fn lines_tell_the_client() {
    let cases = [
        (TCP4, address("192.0.2.7:56324")),
        ("PROXY TCP6 2001:db8::7 ::1 0 65535\r\n", address("[2001:db8::7]:0")),
        ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", address("[::ffff:192.0.2.7]:1")),
        ("PROXY UNKNOWN\r\n", Client::Proxy),
        ("PROXY UNKNOWN ffff::1 whatever \u{1}\r\n", Client::Proxy),
    ];
    for (line, client) in cases {
        let wanted = Ok(Some((line.len(), Told { client, ..Told::default() })));
        let bytes = [line.as_bytes(), &b"\x10rest"[..]].concat();
        assert_eq!(told(&bytes), wanted, "{line}");
        for at in 1..line.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(told_in([first, second].into_iter()), wanted, "{line} cut at {at}");
        }
        assert_eq!(told_in(bytes.chunks(1)), wanted, "{line} byte by byte");
        assert_eq!(told(&bytes[..line.len() - 1]), Ok(None));
    }
}

#[test]
fn broken_lines_are_refused() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 192.0.2.7 198.51.100.1 56324 1883\r\n",
        "PROXY TCP4 2001:db8::7 ::1 56324 1883\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 56324 1883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 65536\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +1 1883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 01 1883\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 1 1883\r\n",
        "PROXY TCP4 192.0.2.7  198.51.100.1 1 1883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 1883 \r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 1 1883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 1883\n\r\n",
    ] {
        let text = refused(line.as_bytes());
        assert!(text.starts_with("a PROXY line is not understood: \"PROXY "), "{text}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    assert!(refused(endless.as_bytes()).contains("no end within 107 bytes"));
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
    assert!(matches!(told(longest.as_bytes()), Ok(Some((107, _)))));
}

#[test]
fn what_is_no_header_is_refused_at_once() {
    for bytes in [&b"\x10\x0c\0\x04MQTT"[..], b"\x16\x03\x01", b"GET / HTTP/1.1", b"PROXy", b"\r\r"]
    {
        assert!(refused(bytes).contains("is no PROXY header"), "{bytes:?}");
    }
    assert_eq!(told(b"PROXY"), Ok(None));
    assert_eq!(told(b""), Ok(None));
    assert!(is_header(TCP4.as_bytes()) && is_header(&inet(b"")) && !is_header(b"PROX"));
}

#[test]
fn version_2_tells_the_client() {
    let six: Vec<u8> = [[0x20, 1, 0x0D, 0xB8], [0; 4], [0; 4], [0, 0, 0, 7]].concat();
    let six = [&six, &[0; 16][..], &[0x12, 0x34, 0, 1]].concat();
    let cases = [
        (inet(b""), address("192.0.2.7:56324")),
        (v2(1, 0x21, &six), address("[2001:db8::7]:4660")),
        (v2(1, 0x31, &[0; 216]), Client::Unix),
        (v2(1, 0x00, b""), Client::Proxy),
        (v2(1, 0x00, &tlv(0x04, b"padding")), Client::Proxy),
        (v2(0, 0x00, b""), Client::Proxy),
        (v2(0, 0x77, b"whatever"), Client::Proxy),
    ];
    for (header, client) in cases {
        let wanted = Ok(Some((header.len(), Told { client, ..Told::default() })));
        let bytes = [&header, &b"\x10rest"[..]].concat();
        assert_eq!(told(&bytes), wanted);
        for at in 1..header.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(told_in([first, second].into_iter()), wanted, "cut at {at}");
        }
    }
}

#[test]
fn what_a_proxy_adds_is_told() {
    let tlvs = [
        tlv(0x01, b"mqtt"),
        tlv(0x02, b"broker.example"),
        tlv(0x05, &[0xAB; 128]),
        ssl(0x07, 0, "meter-7"),
        tlv(0xEA, b"a provider's own"),
        tlv(0x04, b""),
    ]
    .concat();
    let Ok(Some((_, told))) = told(&inet(&tlvs)) else { panic!("not understood") };
    assert_eq!(
        told,
        Told {
            client: address("192.0.2.7:56324"),
            protocol: Some("mqtt".into()),
            server_name: Some("broker.example".into()),
            unique_id: Some([0xAB; 128].into()),
            tls_version: Some("TLSv1.3".into()),
            common_name: Some("meter-7".into()),
        }
    );
}

#[test]
fn only_a_verified_certificate_names_its_client() {
    let name = |client: u8, verify: u32| {
        let told = told(&inet(&ssl(client, verify, "meter-7")));
        told.expect("no fault").expect("whole").1.common_name.is_some()
    };
    assert!(name(0x03, 0) && name(0x05, 0), "shown now, or on the connection that is resumed");
    assert!(!name(0x03, 18), "not verified");
    assert!(!name(0x01, 0), "none shown");
}

#[test]
fn checksums_are_verified() {
    let plain = inet(&[tlv(0x03, &[0; 4]), tlv(0x01, b"mqtt")].concat());
    let good = summed(plain.clone(), 31);
    assert!(matches!(told(&good), Ok(Some(_))));
    assert!(refused(&plain).contains("checksum"));
    for at in 16..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(told(&bad).is_err(), "a bit of byte {at}");
    }
    assert!(refused(&inet(&tlv(0x03, &[0; 5]))).contains("not of four bytes"));
    let twice = [tlv(0x03, &[0; 4]), tlv(0x03, &[0; 4])].concat();
    assert!(told(&summed(inet(&twice), 31)).is_err());
}

#[test]
fn broken_headers_of_version_2_are_refused() {
    let version = |byte: u8| [v2::SIGNATURE, &[byte, 0x11, 0, 0]].concat();
    assert!(refused(&version(0x11)).contains("version 1 and command 1"));
    assert!(refused(&version(0x22)).contains("version 2 and command 2"));
    assert!(refused(&v2(1, 0x12, &[0; 12])).contains("0x12"));
    assert!(refused(&v2(1, 0x11, &[0; 11])).contains("its addresses need 12"));
    assert!(refused(&v2(1, 0x31, &[0; 215])).contains("its addresses need 216"));
    let large = [v2::SIGNATURE, &[0x21, 0x11, 0x10, 0x01]].concat();
    assert!(refused(&large).contains("is 4113 bytes long, at most 4112"));
    for tlvs in [&b"\x01"[..], b"\x01\0", b"\x01\0\x05abcd", b"\x20\0\0", b"\x20\0\x04\x01\0\0\0"] {
        refused(&inet(tlvs));
    }
    let inside = tlv(0x20, &[&[7, 0, 0, 0, 0], &b"\x22\0\x09name"[..]].concat());
    assert!(refused(&inet(&inside)).contains("within one of its TLVs"));
    assert!(refused(&inet(&ssl(7, 0, "two\nlines"))).contains("common name that is no text"));
    assert!(refused(&inet(&tlv(0x01, b"\xFF"))).contains("ALPN that is no text"));
    assert!(refused(&inet(&tlv(0x05, &[0; 129]))).contains("unique id of 129 bytes"));
}

/// Headers of both versions, some of them broken, with something behind them.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let tlvs = vec((any::<u8>(), vec(any::<u8>(), 0..40)), 0..4)
        .prop_map(|all| all.iter().map(|(kind, value)| tlv(*kind, value)).collect::<Vec<_>>());
    let binary = (0..3_u8, prop::sample::select(vec![0x00, 0x11, 0x21, 0x31, 0x41]), tlvs)
        .prop_map(|(command, family, tlvs)| {
            let len = match family {
                0x11 => 12,
                0x21 => 36,
                0x31 => 216,
                _ => 0,
            };
            v2(command, family, &[vec![b'1'; len], tlvs.concat()].concat())
        });
    let line = prop_oneof![Just(TCP4), Just("PROXY UNKNOWN\r\n"), Just("PROXY TCP6 :: 1\r\n")];
    let header = prop_oneof![binary, line.prop_map(|line| line.as_bytes().to_vec())];
    let edit = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (header, edit, vec(any::<u8>(), 0..50)).prop_map(|(mut header, edit, rest)| {
        if let Some((at, byte)) = edit {
            let at = at.index(header.len());
            header[at] = byte;
        }
        header.extend(rest);
        header
    })
}

proptest! {
    /// A stream tells the same however it is cut, and takes no byte that is not its header's.
    #[test]
    fn any_cut_tells_the_same(
        bytes in stream(),
        cuts in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let whole = told(&bytes);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        prop_assert_eq!(&told_in(pieces), &whole);
        prop_assert_eq!(&told_in(bytes.chunks(1)), &whole);
        if let Ok(Some((length, _))) = whole {
            prop_assert!(length <= bytes.len());
            prop_assert!(told(&bytes[..length - 1]) == Ok(None));
        }
    }

    #[test]
    fn random_bytes_are_no_header_that_ends(bytes in vec(any::<u8>(), 1..300)) {
        if let Ok(Some((length, _))) = told(&bytes) {
            prop_assert!(is_header(&bytes) && length <= bytes.len());
        }
    }
}
