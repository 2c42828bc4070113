//! What a listener offers and whom it lets in: names, clients' certificates, wrong material.
#![allow(clippy::unwrap_used)]

mod common;

use common::authority::Authority;
use common::{BOTH, ClientSide, Link, NAME, NOW_S, TLS_1_2, TLS_1_3, acceptor, identity, material};
use ringtide_tls::{Acceptor, ClientCertificates, FaultClass, Material, Part};

/// The certificate that the server has shown, in DER.
fn shown(link: &Link) -> Vec<u8> {
    link.client.peer_certificates().unwrap()[0].to_vec()
}

fn der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn the_name_picks_the_certificate() {
    let authority = Authority::new("test");
    let one = authority.server(&["one.example", "192.0.2.1"]);
    let two = authority.server(&["two.example", "Mixed.Example"]);
    let wild = authority.server(&["*.wild.example"]);
    let identities = [&one, &two, &wild].map(identity).to_vec();
    let ours = acceptor(&Material { identities, ..Material::default() });
    let cases = [
        ("one.example", &one),
        ("two.example", &two),
        ("TWO.example", &two),
        ("mixed.example", &two),
        ("a.wild.example", &wild),
        // An address is never asked for by name: the first certificate is shown.
        ("192.0.2.1", &one),
    ];
    for versions in [TLS_1_2, TLS_1_3] {
        let side = ClientSide::new(&authority, versions, None);
        for (name, pair) in cases {
            let link = Link::new(&ours, side.connect(name)).handshake();
            assert!(shown(&link) == der(&pair.certificate), "{name}");
        }
        // For a name that nobody has it is the first, which the client then refuses.
        let mut link = Link::new(&ours, side.connect("three.example"));
        let (_, read) = link.run();
        assert!(read.unwrap_err().to_string().contains("three.example"));
    }
}

#[test]
fn a_clients_refusal_of_the_certificate_is_an_alert() {
    let authority = Authority::new("ours");
    let ours = acceptor(&material(&authority));
    let side = ClientSide::new(&Authority::new("theirs"), BOTH, None);
    let mut link = Link::new(&ours, side.connect(NAME));
    assert!(link.run().1.is_err());
    let (taken, _) = link.run();
    let fault = taken.unwrap_err();
    assert_eq!(fault.class, FaultClass::Alert);
    assert!(fault.text.contains("UnknownCA"), "{fault}");
}

fn mutual(authority: &Authority, mode: ClientCertificates) -> Material {
    let client_ca = authority.certificate.clone().into_bytes();
    Material { client_certificates: mode, client_ca, ..material(authority) }
}

#[test]
fn a_client_with_a_certificate_is_known_by_its_common_name() {
    let authority = Authority::new("test");
    let own = authority.client("meter-7", 7);
    for mode in [ClientCertificates::Optional, ClientCertificates::Required] {
        let ours = acceptor(&mutual(&authority, mode));
        for versions in [TLS_1_2, TLS_1_3] {
            let side = ClientSide::new(&authority, versions, Some(&own));
            let mut link = Link::new(&ours, side.connect(NAME)).handshake();
            assert_eq!(link.server.peer().common_name.as_deref(), Some("meter-7"));
            link.down(b"so that the ticket is read");
            let link = Link::new(&ours, side.connect(NAME)).handshake();
            let peer = link.server.peer();
            assert!(peer.resumed);
            assert_eq!(peer.common_name.as_deref(), Some("meter-7"), "by the ticket, too");
        }
    }
}

/// The fault that a client brings about.
fn refused(material: &Material, side: &ClientSide) -> String {
    let mut link = Link::new(&acceptor(material), side.connect(NAME));
    let (taken, read) = link.run();
    let fault = taken.unwrap_err();
    assert_eq!(fault.class, FaultClass::ClientCertificate, "{fault}");
    assert!(read.is_err(), "the client is told");
    fault.text
}

#[test]
fn clients_certificates_that_are_not_good_are_refused_with_the_reason() {
    let authority = Authority::new("test");
    let required = mutual(&authority, ClientCertificates::Required);
    let optional = mutual(&authority, ClientCertificates::Optional);
    let stranger = Authority::new("stranger").client("x", 1);
    let expired = authority.client_until("x", 1, 2001);
    let server = authority.server(&["client.example"]);
    for versions in [TLS_1_2, TLS_1_3] {
        let side = |own| ClientSide::new(&authority, versions, own);
        assert!(refused(&required, &side(None)).contains("shows no certificate"));
        Link::new(&acceptor(&optional), side(None).connect(NAME)).handshake();
        for material in [&required, &optional] {
            let text = refused(material, &side(Some(&stranger)));
            assert!(text.contains("not signed by the listener's client_ca"), "{text}");
            let text = refused(material, &side(Some(&expired)));
            assert!(text.contains("has expired"), "{text}");
            let text = refused(material, &side(Some(&server)));
            assert!(text.contains("not meant for clients"), "{text}");
        }
    }
}

#[test]
fn a_revoked_certificate_is_refused() {
    let authority = Authority::new("test");
    let mut required = mutual(&authority, ClientCertificates::Required);
    required.crls = vec![authority.revoke(&[7, 9], 4000).into_bytes()];
    for versions in [TLS_1_2, TLS_1_3] {
        let revoked = authority.client("meter-7", 7);
        let text = refused(&required, &ClientSide::new(&authority, versions, Some(&revoked)));
        assert!(text.contains("has been revoked"), "{text}");
        let good = authority.client("meter-8", 8);
        let side = ClientSide::new(&authority, versions, Some(&good));
        Link::new(&acceptor(&required), side.connect(NAME)).handshake();
    }
}

#[test]
fn an_issuer_without_a_list_lets_nobody_in_where_lists_are_used() {
    let (authority, other) = (Authority::new("one"), Authority::new("two"));
    let mut required = mutual(&authority, ClientCertificates::Required);
    required.client_ca.extend_from_slice(other.certificate.as_bytes());
    required.crls = vec![authority.revoke(&[], 4000).into_bytes()];
    let own = other.client("x", 1);
    let text = refused(&required, &ClientSide::new(&authority, BOTH, Some(&own)));
    assert!(text.contains("no list of revoked certificates"), "{text}");
}

#[test]
fn a_list_that_is_out_of_date_is_told_and_used() {
    let authority = Authority::new("test");
    let mut required = mutual(&authority, ClientCertificates::Required);
    required.crls = vec![authority.revoke(&[7], 2001).into_bytes()];
    let (ours, warnings) = Acceptor::new(&required, NOW_S).unwrap();
    assert_eq!(warnings[0].part, Part::Crl(0));
    assert!(warnings[0].text.contains("should have been replaced by"), "{}", warnings[0]);
    let own = authority.client("x", 7);
    let side = ClientSide::new(&authority, BOTH, Some(&own));
    let fault = Link::new(&ours, side.connect(NAME)).run().0.unwrap_err();
    assert!(fault.text.contains("revoked"), "{fault}");
}

#[test]
fn an_ocsp_response_goes_out_with_its_certificate() {
    let authority = Authority::new("test");
    let mut stapled = material(&authority);
    stapled.identities[0].ocsp_response = b"an answer of the issuer".to_vec();
    let side = ClientSide::new(&authority, TLS_1_2, None);
    let mut client = side.connect(NAME);
    let mut server = ringtide_tls::Connection::new(&acceptor(&stapled)).unwrap();
    let (mut sent, mut plain, mut out) = (Vec::new(), Vec::new(), Vec::new());
    client.write_tls(&mut sent).unwrap();
    server.receive(&mut sent, &mut plain, &mut out).unwrap();
    // Handshake messages of TLS 1.2 are in the clear.
    let needle = b"an answer of the issuer";
    assert!(out.windows(needle.len()).any(|window| window == needle));
}

#[test]
fn what_is_wrong_with_the_material_is_told_with_its_part() {
    let authority = Authority::new("test");
    let good = mutual(&authority, ClientCertificates::Required);
    type Change = fn(&mut Material, &Authority);
    let cases: [(Change, Part, &str); 10] = [
        (|m, _| m.identities.clear(), Part::Identities, "is empty"),
        (|m, _| m.identities[0].certificate.clear(), Part::Certificate(0), "has no certificate"),
        (|m, _| m.identities[0].key.clear(), Part::Key(0), "has no private key"),
        (
            |m, _| {
                let kind = "ENCRYPTED PRIVATE KEY";
                let pem = format!("-----BEGIN {kind}-----\nAA==\n-----END {kind}-----\n");
                m.identities[0].key = pem.into_bytes();
            },
            Part::Key(0),
            "is encrypted",
        ),
        (
            |m, a| {
                m.identities.push(ringtide_tls::Identity {
                    key: a.server(&["x.example"]).key.into_bytes(),
                    ..m.identities[0].clone()
                })
            },
            Part::Key(1),
            "does not belong to the certificate",
        ),
        (
            |m, _| {
                m.identities[0].certificate =
                    b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec()
            },
            Part::Certificate(0),
            "cannot be understood",
        ),
        (|m, _| m.client_ca.clear(), Part::ClientCa, "has no certificate"),
        (|m, _| m.crls = vec![b"nothing".to_vec()], Part::Crl(0), "is no list of revoked"),
        (|m, _| m.ciphers = vec!["AES".to_owned()], Part::Ciphers, "`AES` does not exist"),
        (
            |m, _| m.versions = ringtide_tls::Versions { v1_2: false, v1_3: false },
            Part::Versions,
            "is empty",
        ),
    ];
    for (change, part, text) in cases {
        let mut material = good.clone();
        change(&mut material, &authority);
        let problem = Acceptor::new(&material, NOW_S).unwrap_err();
        assert_eq!(problem.part, part, "{problem}");
        assert!(problem.text.contains(text), "{problem}");
    }
}

#[test]
fn dates_and_names_are_warned_of() {
    let authority = Authority::new("test");
    let mut expired = material(&authority);
    expired.identities = vec![identity(&authority.expired_server(NAME))];
    let (_, warnings) = Acceptor::new(&expired, NOW_S).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].text.starts_with("has expired on "), "{}", warnings[0]);
    assert!(warnings[0].text.contains("2001"), "{}", warnings[0]);
    let (_, warnings) = Acceptor::new(&material(&authority), 0).unwrap();
    assert!(warnings[0].text.contains("on only"), "{}", warnings[0]);
    let mut nameless = material(&authority);
    nameless.identities = vec![identity(&authority.server(&[]))];
    let (_, warnings) = Acceptor::new(&nameless, NOW_S).unwrap();
    assert!(warnings[0].text.contains("names no host"), "{}", warnings[0]);
}
