//! Whose word for a client's address is taken, and how much of it.

use super::*;

/// The client that comes of these headers when this peer sends them.
fn client(peer: &str, headers: &str) -> Option<String> {
    let networks = ["10.0.0.0/8", "2001:db8::/32"];
    let networks = networks.map(|network| network.parse().expect("a network"));
    let trusted_proxies = Networks::from(networks.to_vec());
    let mut filter = filter_with(Settings { trusted_proxies, ..settings() }, peer);
    let request = REQUEST.replace("Origin: ", &format!("{headers}Origin: "));
    let seen = Seen::of(&mut filter, cut(request.as_bytes(), &[70]));
    assert_eq!(String::from_utf8_lossy(&seen.wire), ANSWER, "{headers}");
    seen.client.map(|client| client.to_string())
}

#[test]
fn a_trusted_proxy_tells_for_whom_it_connects() {
    let cases = [
        ("X-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7:0"),
        ("X-Forwarded-For: 203.0.113.7:4711\r\n", "203.0.113.7:4711"),
        ("X-Forwarded-For: 2001:470::1\r\n", "[2001:470::1]:0"),
        ("Forwarded: for=203.0.113.7;proto=http;by=10.0.0.1\r\n", "203.0.113.7:0"),
        ("Forwarded: proto=https; For=\"[2001:470::1]:4711\"\r\n", "[2001:470::1]:4711"),
        ("Forwarded: for=\"[2001:470::1]\"\r\n", "[2001:470::1]:0"),
        ("X-Forwarded-For: 203.0.113.7\r\nForwarded: for=203.0.113.7\r\n", "203.0.113.7:0"),
    ];
    for (headers, wanted) in cases {
        for peer in ["10.1.2.3:40000", "[2001:db8::5]:40000", "[::ffff:10.1.2.3]:40000"] {
            assert_eq!(client(peer, headers).as_deref(), Some(wanted), "{peer} {headers}");
        }
    }
}

#[test]
fn nobody_else_does() {
    for peer in ["192.0.2.1:40000", "[2001:db9::5]:40000"] {
        assert_eq!(client(peer, "X-Forwarded-For: 203.0.113.7\r\n"), None);
        assert_eq!(client(peer, "Forwarded: for=203.0.113.7\r\n"), None);
    }
}

#[test]
fn what_a_client_wrote_itself_is_not_believed() {
    let cases = [
        // The proxy has appended the address that it saw.
        ("X-Forwarded-For: 198.51.100.1, 203.0.113.7\r\n", Some("203.0.113.7:0")),
        (
            "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 203.0.113.7\r\n",
            Some("203.0.113.7:0"),
        ),
        ("Forwarded: for=\"198.51.100.1, for=203.0.113.7\r\n", Some("203.0.113.7:0")),
        ("X-Forwarded-For: 198.51.100.1, 203.0.113.7, 10.0.0.9\r\n", Some("203.0.113.7:0")),
        // Not further than what can be read.
        ("X-Forwarded-For: 198.51.100.1, junk, 10.0.0.9\r\n", Some("10.0.0.9:0")),
        ("Forwarded: for=198.51.100.1, for=_hidden\r\n", None),
        ("Forwarded: for=198.51.100.1, by=10.0.0.1\r\n", None),
        ("X-Forwarded-For: unknown\r\n", None),
        ("X-Forwarded-For: \r\n", None),
        // The proxy knows one header and has passed the other on.
        ("X-Forwarded-For: 203.0.113.7\r\nForwarded: for=198.51.100.1\r\n", None),
        // A host that the client chose stands in a quoted string of the proxy's own element.
        ("Forwarded: host=\"x;for=198.51.100.1\";for=203.0.113.7\r\n", None),
        ("Forwarded: host=\"x,for=198.51.100.1\";for=203.0.113.7\r\n", None),
        ("Forwarded: for=198.51.100.1;for=203.0.113.7\r\n", None),
        ("", None),
    ];
    for (headers, wanted) in cases {
        assert_eq!(client("10.1.2.3:40000", headers).as_deref(), wanted, "{headers}");
    }
}
