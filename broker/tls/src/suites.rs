//! Cipher suites and versions by name.

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

use crate::material::{Part, Problem, Versions};

/// What is preferred where nobody has said otherwise: where the processor has instructions for
/// SHA-256 but none for SHA-384, a handshake costs a third less with it, and that is where a server
/// of many clients is short. 128 bits of AES are as far out of reach as 256.
const PREFERRED: [&str; 3] = [
    "TLS13_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
];

/// The names of all cipher suites that exist, those of TLS 1.3 first.
pub fn cipher_names() -> Vec<String> {
    ring::ALL_CIPHER_SUITES.iter().map(name).collect()
}

fn name(suite: &SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite())
}

/// The provider with the suites that are offered, in the order of the server's preference.
pub(crate) fn provider(ciphers: &[String]) -> Result<CryptoProvider, Problem> {
    let mut provider = ring::default_provider();
    let known = cipher_names();
    if let Some(unknown) = ciphers.iter().find(|cipher| !known.contains(cipher)) {
        let text = format!("`{unknown}` does not exist; these do: {}", known.join(", "));
        return Err(Problem::new(Part::Ciphers, text));
    }
    let order: Vec<&str> = match ciphers {
        [] => PREFERRED.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let place = |suite: &SupportedCipherSuite| order.iter().position(|own| *own == name(suite));
    if !ciphers.is_empty() {
        provider.cipher_suites.retain(|suite| place(suite).is_some());
    }
    provider.cipher_suites.sort_by_key(|suite| place(suite).unwrap_or(usize::MAX));
    Ok(provider)
}

/// The versions that are offered, each of which has a suite.
pub(crate) fn versions(
    versions: Versions,
    provider: &CryptoProvider,
) -> Result<Vec<&'static SupportedProtocolVersion>, Problem> {
    let wanted = [(versions.v1_3, &version::TLS13), (versions.v1_2, &version::TLS12)];
    let wanted: Vec<_> = wanted.into_iter().filter(|(on, _)| *on).map(|(_, v)| v).collect();
    if wanted.is_empty() {
        return Err(Problem::new(Part::Versions, "is empty: no client could connect"));
    }
    for version in &wanted {
        if !provider.cipher_suites.iter().any(|suite| suite.version() == *version) {
            let text = format!("has no suite of {:?}, which `versions` offers", version.version);
            return Err(Problem::new(Part::Ciphers, text));
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_suite_is_refused_with_those_that_exist() {
        let problem = provider(&["TLS_RSA_WITH_RC4_128_MD5".to_owned()]).unwrap_err();
        assert_eq!(problem.part, Part::Ciphers);
        assert!(problem.text.contains("`TLS_RSA_WITH_RC4_128_MD5` does not exist"));
        assert!(problem.text.contains("TLS13_AES_128_GCM_SHA256, "), "{problem}");
    }

    #[test]
    fn a_version_without_a_suite_is_refused() {
        let only_1_3 = provider(&["TLS13_AES_128_GCM_SHA256".to_owned()]).unwrap();
        let problem = versions(Versions::default(), &only_1_3).unwrap_err();
        assert!(problem.text.contains("TLSv1_2"), "{problem}");
        let chosen = versions(Versions { v1_2: false, v1_3: true }, &only_1_3).unwrap();
        assert_eq!(chosen.len(), 1);
        let none = Versions { v1_2: false, v1_3: false };
        assert_eq!(versions(none, &only_1_3).unwrap_err().part, Part::Versions);
    }
}
