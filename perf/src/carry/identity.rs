//! Certificates for brokers that are started here: an authority of the moment, and a key on P-256
//! that it has signed for the loopback address.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::tls::SERVER_NAME;
use crate::failure::Failure;

/// The files of a broker's identity, in PEM.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Identity {
    /// Where the files are in a directory.
    pub(crate) fn within(directory: &Path) -> Identity {
        let file = |name| directory.join(name);
        Identity { ca: file("ca.pem"), certificate: file("cert.pem"), key: file("key.pem") }
    }

    /// Makes one in a directory.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn make(directory: &Path) -> Result<Identity, Failure> {
        let unable = |error: rcgen::Error| Failure::Broker(format!("no certificate: {error}"));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            KeyPair::generate().and_then(|key| CertifiedIssuer::self_signed(params, key));
        let authority = authority.map_err(unable)?;
        let key = KeyPair::generate().map_err(unable)?;
        let names = vec![SERVER_NAME.to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)
            .and_then(|params| params.signed_by(&key, &authority))
            .map_err(unable)?;
        let identity = Identity::within(directory);
        let files = [
            (&identity.ca, authority.pem()),
            (&identity.certificate, certificate.pem()),
            (&identity.key, key.serialize_pem()),
        ];
        for (path, text) in files {
            fs::write(path, text).map_err(|e| Failure::Io("cannot write a certificate", e))?;
        }
        Ok(identity)
    }
}
