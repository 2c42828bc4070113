//! What a listener offers: certificates, versions, suites, whose clients' certificates it takes.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::certificate::{certificates, load, revocation_lists};
use crate::material::{ClientCertificates, Material, Part, Problem};
use crate::resolver::ByName;
use crate::suites;

/// A listener's TLS, shared by all its connections on all shards.
///
/// Tickets are made with keys of its own, which change every six hours: a ticket of another
/// acceptor, or of this listener before its material was loaded anew, is not honoured. A client
/// comes back with a ticket unseen by the check of its certificate, so a ticket must not outlive
/// the list of revoked certificates that it was given under.
#[derive(Clone)]
pub struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    /// Makes it. `now_s`, seconds since 1970, is what certificates' dates are compared with for
    /// the second result: what should be told, but keeps nothing from working.
    ///
    /// # Errors
    /// The first part that cannot be used, with the reason.
    pub fn new(material: &Material, now_s: i64) -> Result<(Acceptor, Vec<Problem>), Problem> {
        let mut warnings = Vec::new();
        let provider = Arc::new(suites::provider(&material.ciphers)?);
        let versions = suites::versions(material.versions, &provider)?;
        if material.identities.is_empty() {
            return Err(Problem::new(Part::Identities, "is empty: at least one is needed"));
        }
        let loaded = material.identities.iter().enumerate();
        let loaded: Result<Vec<_>, _> =
            loaded.map(|(index, identity)| load(index, identity, now_s, &mut warnings)).collect();
        let names = ByName::new(loaded?);
        let whole = |error: rustls::Error| Problem::new(Part::Whole, error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(whole)?;
        let verifier = verifier(material, &provider, now_s, &mut warnings)?;
        let mut config =
            builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(names));
        config.ignore_client_order = true;
        config.alpn_protocols.clone_from(&material.protocols);
        // Sessions are kept by the clients, in tickets: nothing is shared between shards for them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = usize::from(material.tickets);
        if material.tickets {
            config.ticketer = Ticketer::new().map_err(whole)?;
        }
        Ok((Acceptor(Arc::new(config)), warnings))
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// Whose certificates are taken.
fn verifier(
    material: &Material,
    provider: &Arc<CryptoProvider>,
    now_s: i64,
    warnings: &mut Vec<Problem>,
) -> Result<Arc<dyn ClientCertVerifier>, Problem> {
    if material.client_certificates == ClientCertificates::None {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates(Part::ClientCa, &material.client_ca)? {
        roots.add(certificate).map_err(|error| {
            let text = format!("has a certificate that cannot be used: {error}");
            Problem::new(Part::ClientCa, text)
        })?;
    }
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    for (index, bytes) in material.crls.iter().enumerate() {
        builder = builder.with_crls(revocation_lists(index, bytes, now_s, warnings)?);
    }
    // Lists say something about clients; one for each CA above them is more than people have.
    builder = builder.only_check_end_entity_revocation();
    if material.client_certificates == ClientCertificates::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| Problem::new(Part::ClientCa, error.to_string()))
}
