//! From PEM and DER to certificates, keys and lists of revoked certificates, with reasons that a
//! person can act on.

use std::sync::Arc;

use rustls::Error;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

use crate::material::{Identity, Part, Problem};

/// An identity, ready to be used.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) key: Arc<CertifiedKey>,
    /// Names that the certificate is for, lower case, `*.` in front of a wildcard.
    pub(crate) names: Vec<String>,
}

/// Reads one identity. `now_s`, in seconds since 1970, is what dates are compared with; what is
/// wrong with them goes to `warnings`, since a clock may be wrong, too.
pub(crate) fn load(
    index: usize,
    identity: &Identity,
    now_s: i64,
    warnings: &mut Vec<Problem>,
) -> Result<Loaded, Problem> {
    let part = Part::Certificate(index);
    let chain = certificates(part, &identity.certificate)?;
    let key = private_key(index, &identity.key)?;
    let key = ring::sign::any_supported_type(&key).map_err(|error| {
        let text =
            format!("is of a kind that is not supported (RSA, P-256, P-384, Ed25519 are): {error}");
        Problem::new(Part::Key(index), text)
    })?;
    let first = chain.first().map_or(&[][..], |certificate| certificate.as_ref());
    let parsed = parse(part, first)?;
    let (names, named) = names(&parsed);
    if !named {
        let text = "names no host (subjectAltName): most clients will refuse it";
        warnings.push(Problem::new(part, text));
    }
    for (place, certificate) in chain.iter().enumerate() {
        let what = if place == 0 { "has" } else { "comes with an issuer's certificate that has" };
        let validity = parse(part, certificate)?.validity().clone();
        warn_of_dates(part, what, &validity.not_before, &validity.not_after, now_s, warnings);
    }
    let mut certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => {
            let text = "does not belong to the certificate beside it";
            return Err(Problem::new(Part::Key(index), text));
        }
    }
    if !identity.ocsp_response.is_empty() {
        certified.ocsp = Some(identity.ocsp_response.clone());
    }
    Ok(Loaded { key: Arc::new(certified), names })
}

/// All certificates of a PEM text, at least one.
pub(crate) fn certificates(
    part: Part,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| Problem::new(part, format!("is no valid PEM: {error}")))?;
    if found.is_empty() {
        let text = "has no certificate in it (\"-----BEGIN CERTIFICATE-----\" is looked for)";
        return Err(Problem::new(part, text));
    }
    Ok(found)
}

fn private_key(index: usize, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    let part = Part::Key(index);
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let text = String::from_utf8_lossy(pem);
        let encrypted = text.contains("ENCRYPTED");
        match error {
            _ if encrypted => Problem::new(
                part,
                "is encrypted; write it without a passphrase (openssl pkey -in KEY -out NEW)",
            ),
            rustls::pki_types::pem::Error::NoItemsFound => Problem::new(
                part,
                "has no private key in it (\"-----BEGIN PRIVATE KEY-----\" is looked for)",
            ),
            error => Problem::new(part, format!("is no valid PEM: {error}")),
        }
    })
}

/// The lists of revoked certificates of one file, in PEM or DER.
pub(crate) fn revocation_lists(
    index: usize,
    bytes: &[u8],
    now_s: i64,
    warnings: &mut Vec<Problem>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, Problem> {
    let part = Part::Crl(index);
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    let mut found =
        found.map_err(|error| Problem::new(part, format!("is no valid PEM: {error}")))?;
    if found.is_empty() {
        found.push(CertificateRevocationListDer::from(bytes.to_vec()));
    }
    for list in &found {
        let parsed = CertificateRevocationList::from_der(list);
        let (_, parsed) = parsed
            .map_err(|_| Problem::new(part, "is no list of revoked certificates in PEM or DER"))?;
        if let Some(next) = parsed.next_update()
            && next.timestamp() < now_s
        {
            let text = format!("should have been replaced by {next}; it is used all the same");
            warnings.push(Problem::new(part, text));
        }
    }
    Ok(found)
}

/// The subject's common name.
pub(crate) fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

/// True if a certificate is not valid any more, or cannot be read.
pub(crate) fn has_expired(der: &[u8], now_s: i64) -> bool {
    let read = X509Certificate::from_der(der);
    !read.is_ok_and(|(_, one)| one.validity().not_after.timestamp() >= now_s)
}

fn parse(part: Part, der: &[u8]) -> Result<X509Certificate<'_>, Problem> {
    let parsed = X509Certificate::from_der(der);
    parsed
        .map(|(_, certificate)| certificate)
        .map_err(|error| Problem::new(part, format!("cannot be understood: {error}")))
}

/// The DNS names that a certificate is for, and whether it names any host, addresses included.
fn names(certificate: &X509Certificate<'_>) -> (Vec<String>, bool) {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return (Vec::new(), false);
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    let all = &extension.value.general_names;
    (all.iter().filter_map(name).collect(), !all.is_empty())
}

fn warn_of_dates(
    part: Part,
    what: &str,
    not_before: &ASN1Time,
    not_after: &ASN1Time,
    now_s: i64,
    warnings: &mut Vec<Problem>,
) {
    if not_after.timestamp() < now_s {
        let text = format!("{what} expired on {not_after}: clients will refuse it");
        warnings.push(Problem::new(part, text));
    }
    if not_before.timestamp() > now_s {
        let text = format!("{what} validity from {not_before} on only: clients will refuse it");
        warnings.push(Problem::new(part, text));
    }
}
