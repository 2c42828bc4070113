//! Which certificate a client is shown: by the name that it asks for, and by what it can verify.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::Loaded;

thread_local! {
    /// The name that the handshake which this thread is busy with has asked for: rustls'
    /// unbuffered connections tell it to the resolver and to nobody else.
    static ASKED_FOR: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// Takes the name that was asked for while the last bytes were processed.
pub(crate) fn take_asked_for() -> Option<Box<str>> {
    ASKED_FOR.take()
}

/// Certificates by name. Never empty.
#[derive(Debug)]
pub(crate) struct ByName {
    all: Vec<Arc<CertifiedKey>>,
    /// A wildcard stands under what follows its `*`, that is under `.example.com`.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl ByName {
    pub(crate) fn new(identities: Vec<Loaded>) -> ByName {
        let mut by_name: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        let mut all = Vec::new();
        for Loaded { key, names } in identities {
            for name in names {
                let name = name.strip_prefix('*').map_or(name.clone(), str::to_owned);
                by_name.entry(name).or_default().push(Arc::clone(&key));
            }
            all.push(key);
        }
        ByName { all, by_name }
    }

    /// Those that are for this name, an exact one before a wildcard; all if none is.
    fn candidates(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name.map(str::to_ascii_lowercase) else { return &self.all };
        let wildcard = name.find('.').and_then(|dot| self.by_name.get(&name[dot..]));
        self.by_name.get(&name).or(wildcard).unwrap_or(&self.all)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        ASKED_FOR.set(hello.server_name().map(Box::from));
        let candidates = self.candidates(hello.server_name());
        let verifiable =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(verifiable).or(candidates.first()).cloned()
    }
}
