//! Listeners' TLS from the files that the configuration names, and again when they change.
//!
//! New handshakes use what was loaded last; connections that exist keep what they have. What cannot
//! be used is told with the file and the reason, and changes nothing.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringtide_tls::{Acceptor, Identity, Material, Part, Versions};
use tracing::{error, info, warn};

use crate::config::{
    ClientCertificates, ConfigError, KeyPath, Listener, Problem, Tls, TlsVersion, Transport,
};
use crate::control::{Control, Stage};
use crate::exit::Failure;

/// How often the files are looked at. One that has changed is loaded at the next look that finds
/// it as the one before did: a certificate and its key are replaced one after the other.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// One listener's TLS, ready to be used; `None` for a listener without.
type Loaded = Option<(Material, Acceptor)>;

/// What all listeners are using, and the files that it came from.
pub struct TlsFiles {
    control: Arc<Control>,
    state: Mutex<State>,
}

struct State {
    listeners: Vec<Listener>,
    loaded: Vec<Loaded>,
    stamp: Stamp,
}

/// Which file lies at each path: enough to see that one was changed or replaced.
/// The time of its last change of rights counts, too: what could not be read may be readable.
type Stamp = Vec<Option<(u64, u64, i64, i64, i64, i64)>>;

/// Loads the TLS of all listeners and reports what should be told.
///
/// # Errors
/// The first file or key of each listener that cannot be used.
pub fn check(listeners: &[Listener]) -> Result<Vec<String>, ConfigError> {
    load_all(listeners, &[]).map(|(_, warnings)| warnings)
}

impl TlsFiles {
    /// Loads the TLS of all listeners and puts it into `control`.
    ///
    /// # Errors
    /// The first file or key of each listener that cannot be used.
    pub fn open(listeners: &[Listener], control: Arc<Control>) -> Result<TlsFiles, ConfigError> {
        let stamp = stamp(listeners);
        let (loaded, warnings) = load_all(listeners, &[])?;
        tell(&warnings);
        control.set_tls(acceptors(&loaded));
        let state = Mutex::new(State { listeners: listeners.to_vec(), loaded, stamp });
        Ok(TlsFiles { control, state })
    }

    /// Loads everything again, for listeners whose `tls` sections may be others. True if something
    /// has changed.
    ///
    /// # Errors
    /// What cannot be used; then nothing has changed.
    pub fn reload(&self, listeners: &[Listener]) -> Result<bool, ConfigError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.load_again(&mut state, listeners)
    }

    fn load_again(&self, state: &mut State, listeners: &[Listener]) -> Result<bool, ConfigError> {
        state.stamp = stamp(listeners);
        let (loaded, warnings) = load_all(listeners, &state.loaded)?;
        tell(&warnings);
        let materials = |all: &[Loaded]| -> Vec<Option<Material>> {
            all.iter().map(|one| one.as_ref().map(|(material, _)| material.clone())).collect()
        };
        let changed = materials(&loaded) != materials(&state.loaded);
        state.listeners = listeners.to_vec();
        state.loaded = loaded;
        if changed {
            self.control.set_tls(acceptors(&state.loaded));
        }
        Ok(changed)
    }

    /// Starts the thread that looks at the files, if there are any.
    ///
    /// # Errors
    /// When the thread cannot be had.
    pub fn watch(self: &Arc<Self>) -> Result<(), Failure> {
        let none = |state: &State| state.listeners.iter().all(|listener| listener.tls.is_none());
        if none(&self.state.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        let files = Arc::clone(self);
        let watch = move || files.look_again_and_again();
        let started = thread::Builder::new().name("tls-files".to_owned()).spawn(watch);
        started
            .map(|_| ())
            .map_err(|error| Failure::runtime(format!("cannot watch the TLS files: {error}")))
    }

    fn look_again_and_again(&self) {
        let mut before = None;
        while self.control.stage() == Stage::Running {
            thread::sleep(WATCH_INTERVAL);
            let (listeners, used) = {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                (state.listeners.clone(), state.stamp.clone())
            };
            let now = stamp(&listeners);
            let settled = before.replace(now.clone()).as_ref() == Some(&now);
            if now == used || !settled {
                continue;
            }
            // A reload may have come meanwhile: its listeners count.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let listeners = state.listeners.clone();
            match self.load_again(&mut state, &listeners) {
                Ok(true) => info!("TLS files have changed: new connections use them"),
                Ok(false) => {}
                Err(problems) => {
                    error!(
                        "TLS files have changed but are not used, nothing has changed: {problems}"
                    );
                }
            }
        }
    }
}

fn tell(warnings: &[String]) {
    for warning in warnings {
        warn!("{warning}");
    }
}

fn acceptors(loaded: &[Loaded]) -> Vec<Option<Acceptor>> {
    loaded.iter().map(|one| one.as_ref().map(|(_, acceptor)| acceptor.clone())).collect()
}

/// Loads all listeners. Where nothing has changed the acceptor that was there is kept, and with it
/// the keys of the clients' tickets.
fn load_all(
    listeners: &[Listener],
    before: &[Loaded],
) -> Result<(Vec<Loaded>, Vec<String>), ConfigError> {
    let (mut loaded, mut warnings, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for (index, listener) in listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else {
            loaded.push(None);
            continue;
        };
        let files = Files { index, listener, tls };
        let old = before.get(index).and_then(Option::as_ref);
        match files.load(old, &mut warnings) {
            Ok(one) => loaded.push(Some(one)),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok((loaded, warnings)) } else { Err(ConfigError(problems)) }
}

/// Seconds since 1970.
fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn stamp(listeners: &[Listener]) -> Stamp {
    let of = |found: Metadata| {
        let (written, changed) = (found.mtime(), found.ctime());
        let (written_ns, changed_ns) = (found.mtime_nsec(), found.ctime_nsec());
        (found.ino(), found.len(), written, written_ns, changed, changed_ns)
    };
    let tls = listeners.iter().filter_map(|listener| listener.tls.as_ref());
    tls.flat_map(paths).map(|path| fs::metadata(path).ok().map(of)).collect()
}

/// All files that a section names.
fn paths(tls: &Tls) -> Vec<&PathBuf> {
    let own =
        tls.certificates.iter().flat_map(|own| [&own.certificate, &own.key, &own.ocsp_staple]);
    let all = own.chain([&tls.client_ca]).chain(&tls.crl);
    all.filter(|path| !path.as_os_str().is_empty()).collect()
}

/// The files of one listener.
struct Files<'a> {
    index: usize,
    listener: &'a Listener,
    tls: &'a Tls,
}

impl Files<'_> {
    fn load(
        &self,
        old: Option<&(Material, Acceptor)>,
        warnings: &mut Vec<String>,
    ) -> Result<(Material, Acceptor), Problem> {
        let material = self.material(warnings)?;
        let (acceptor, told) =
            Acceptor::new(&material, now_s()).map_err(|problem| self.problem(&problem))?;
        warnings.extend(told.iter().map(|warning| self.problem(warning).to_string()));
        match old {
            Some((before, acceptor)) if *before == material => Ok((material, acceptor.clone())),
            _ => Ok((material, acceptor)),
        }
    }

    fn material(&self, warnings: &mut Vec<String>) -> Result<Material, Problem> {
        let tls = self.tls;
        let mut identities = Vec::new();
        for (place, own) in tls.certificates.iter().enumerate() {
            self.warn_of_open_key(Part::Key(place), warnings);
            identities.push(Identity {
                certificate: self.read(&own.certificate, Part::Certificate(place))?,
                key: self.read(&own.key, Part::Key(place))?,
                ocsp_response: self.read_ocsp(&own.ocsp_staple, place)?,
            });
        }
        let asks = tls.client_certificates != ClientCertificates::None;
        let client_ca = if asks { self.read(&tls.client_ca, Part::ClientCa)? } else { Vec::new() };
        let crls: Result<Vec<_>, _> =
            tls.crl.iter().enumerate().map(|(at, path)| self.read(path, Part::Crl(at))).collect();
        Ok(Material {
            identities,
            client_certificates: match tls.client_certificates {
                ClientCertificates::None => ringtide_tls::ClientCertificates::None,
                ClientCertificates::Optional => ringtide_tls::ClientCertificates::Optional,
                ClientCertificates::Required => ringtide_tls::ClientCertificates::Required,
            },
            client_ca,
            crls: crls?,
            versions: Versions {
                v1_2: tls.versions.contains(&TlsVersion::V1_2),
                v1_3: tls.versions.contains(&TlsVersion::V1_3),
            },
            ciphers: tls.ciphers.clone(),
            tickets: tls.session_tickets,
            protocols: match self.listener.transport {
                Transport::Wss => vec![b"http/1.1".to_vec()],
                _ => vec![b"mqtt".to_vec()],
            },
        })
    }

    fn read(&self, path: &Path, part: Part) -> Result<Vec<u8>, Problem> {
        fs::read(path).map_err(|error| self.at(Some(path), &self.key(part), &cannot_read(&error)))
    }

    fn read_ocsp(&self, path: &Path, place: usize) -> Result<Vec<u8>, Problem> {
        if path.as_os_str().is_empty() {
            return Ok(Vec::new());
        }
        let key = self.key_path().key("certificates").index(place).key("ocsp_staple");
        fs::read(path).map_err(|error| self.at(Some(path), &key, &cannot_read(&error)))
    }

    fn warn_of_open_key(&self, part: Part, warnings: &mut Vec<String>) {
        let Some(path) = self.path(part) else { return };
        if fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0) {
            let text = "can be read by every user of this machine: take that away (chmod o-r)";
            warnings.push(self.at(Some(path), &self.key(part), text).to_string());
        }
    }

    fn problem(&self, problem: &ringtide_tls::Problem) -> Problem {
        self.at(self.path(problem.part), &self.key(problem.part), &problem.text)
    }

    /// A problem of a file, or of a key that is no file.
    fn at(&self, path: Option<&Path>, key: &KeyPath, text: &str) -> Problem {
        let listener = &self.listener.name;
        match path {
            Some(path) => Problem {
                place: path.display().to_string(),
                text: format!("named by `{key}` of listener {listener}, {text}"),
            },
            None => {
                Problem { place: format!("listener {listener}"), text: format!("`{key}` {text}") }
            }
        }
    }

    fn path(&self, part: Part) -> Option<&Path> {
        let own = |place: usize| self.tls.certificates.get(place);
        match part {
            Part::Certificate(place) => own(place).map(|own| own.certificate.as_path()),
            Part::Key(place) => own(place).map(|own| own.key.as_path()),
            Part::ClientCa => Some(&self.tls.client_ca),
            Part::Crl(place) => self.tls.crl.get(place).map(PathBuf::as_path),
            Part::Identities | Part::Versions | Part::Ciphers | Part::Whole => None,
        }
    }

    fn key_path(&self) -> KeyPath {
        KeyPath::default().key("listeners").index(self.index).key("tls")
    }

    fn key(&self, part: Part) -> KeyPath {
        let at = self.key_path();
        match part {
            Part::Certificate(place) => at.key("certificates").index(place).key("certificate"),
            Part::Key(place) => at.key("certificates").index(place).key("key"),
            Part::Identities => at.key("certificates"),
            Part::ClientCa => at.key("client_ca"),
            Part::Crl(_) => at.key("crl"),
            Part::Versions => at.key("versions"),
            Part::Ciphers => at.key("ciphers"),
            Part::Whole => at,
        }
    }
}

fn cannot_read(error: &std::io::Error) -> String {
    format!("cannot be read: {error}")
}
