//! SIGHUP: reads the configuration again, applies what a running broker can change and says what
//! needs a restart.

use std::sync::Arc;

use ringtide_shard::access::Acl;

use crate::config::{
    Config, ConfigError, KeyPath, LIVE_LISTENER_KEYS, Problem, Sources, Step, flatten, load,
};
use crate::control::{Control, Live};
use crate::passwords::{self, Passwords};
use crate::preflight;
use crate::tls::TlsFiles;

/// Keys, or sections with all their keys, that a running broker can change.
const LIVE_KEYS: [&str; 6] =
    ["access", "limits", "log.level", "shared", "shutdown_timeout_s", "sys_interval_s"];

/// What a reload has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changes in force now: `KEY: OLD -> NEW`.
    pub applied: Vec<String>,
    /// Changes that wait for a restart.
    pub restart: Vec<String>,
}

/// The differences between the running configuration and a new one.
pub fn compare(running: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    let before = flatten(&running.to_table());
    let after = flatten(&new.to_table());
    let find = |leaves: &[(KeyPath, toml::Value)], path: &KeyPath| {
        leaves.iter().find(|(known, _)| known == path).map(|(_, value)| value.to_string())
    };
    let mut paths: Vec<&KeyPath> = before.iter().chain(&after).map(|(path, _)| path).collect();
    paths.sort();
    paths.dedup();
    let same = same_listeners(running, new);
    for path in paths {
        let (old, new) = (find(&before, path), find(&after, path));
        if old == new {
            continue;
        }
        let show = |value: Option<String>| value.unwrap_or_else(|| "nothing".to_owned());
        let line = format!("{path}: {} -> {}", show(old), show(new));
        let live = is_live(path) || same && is_live_in_listener(path);
        let list = if live { &mut changes.applied } else { &mut changes.restart };
        list.push(line);
    }
    changes
}

/// Whether a running broker's listeners are those of a new configuration: then the
/// settings of each belong together, and what is live can be taken over.
fn same_listeners(running: &Config, new: &Config) -> bool {
    let what = |config: &Config| -> Vec<_> {
        config.listeners.iter().map(|own| (own.bind.clone(), own.transport)).collect()
    };
    what(running) == what(new)
}

fn is_live_in_listener(path: &KeyPath) -> bool {
    matches!(path.0.as_slice(), [Step::Key(list), Step::Index(_), Step::Key(own), ..]
        if list == "listeners" && (own == "tls" || LIVE_LISTENER_KEYS.contains(&own.as_str())))
}

fn is_live(path: &KeyPath) -> bool {
    let name = path.to_string();
    LIVE_KEYS.iter().any(|key| {
        name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

/// Reads the configuration again and puts in force what can be. `running` becomes what is in force
/// now; what waits for a restart is not in it, and is named again by the next reload.
///
/// # Errors
/// When the new configuration cannot be used; then nothing has changed.
pub fn reload(
    sources: &Sources,
    running: &mut Config,
    control: &Control,
    tls: &TlsFiles,
    passwords: &Arc<Passwords>,
) -> Result<Changes, ConfigError> {
    let new = load(sources)?.config;
    let rules = preflight::read_rules(&new.access)?;
    let users = passwords::read(&new.access)?;
    let mut changes = compare(running, &new);
    let mut listeners = running.listeners.clone();
    if same_listeners(running, &new) {
        for (own, new) in listeners.iter_mut().zip(&new.listeners) {
            own.change(new);
        }
    }
    if tls.reload(&listeners)? {
        changes.applied.push("TLS files: new connections use them as they are now".to_owned());
    }
    let users = passwords.put_in_force(users).map_err(|error| {
        let text = format!("no thread to check passwords: {error}");
        ConfigError(vec![Problem { place: "access.password_file".to_owned(), text }])
    })?;
    changes.applied.extend(users);
    changes.applied.extend(told_of_rules(control.rules().as_deref(), rules.as_ref()));
    control.set_rules(rules);
    running.listeners = listeners;
    running.access = new.access;
    running.limits = new.limits;
    running.log.level = new.log.level;
    running.shared = new.shared;
    running.shutdown_timeout_s = new.shutdown_timeout_s;
    running.sys_interval_s = new.sys_interval_s;
    control.set_live(Live::from(&*running));
    Ok(changes)
}

/// What has become of the access rules, if they are others.
fn told_of_rules(before: Option<&Acl>, now: Option<&Acl>) -> Option<String> {
    if before == now {
        return None;
    }
    let count = |rules: Option<&Acl>| match rules {
        Some(rules) if rules.rule_count() == 1 => "1 rule".to_owned(),
        Some(rules) => format!("{} rules", rules.rule_count()),
        None => "no file".to_owned(),
    };
    Some(format!("access rules: {} before, {} now", count(before), count(now)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Level, Listener, Tls};

    fn sources(variables: &[(&str, &str)]) -> Sources {
        let environment =
            variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Sources { environment, ..Sources::default() }
    }

    fn started(variables: &[(&str, &str)]) -> (Config, Arc<Control>, TlsFiles) {
        let config = load(&sources(variables)).unwrap().config;
        let control = Arc::new(Control::new(Live::from(&config)));
        let tls = TlsFiles::open(&config.listeners, Arc::clone(&control)).unwrap();
        (config, control, tls)
    }

    #[test]
    fn what_can_be_changed_is_and_what_cannot_is_named() {
        let (mut running, control, tls) = started(&[]);
        let users = Passwords::new().unwrap();
        let again = sources(&[
            ("RINGTIDE_LIMITS_RECEIVE_MAXIMUM", "7"),
            ("RINGTIDE_LOG_LEVEL", "debug"),
            ("RINGTIDE_LOG_FORMAT", "json"),
            ("RINGTIDE_SHARDS", "2"),
            ("RINGTIDE_LISTENERS_1_BIND", "127.0.0.1:9"),
        ]);
        let changes = reload(&again, &mut running, &control, &tls, &users).unwrap();
        assert_eq!(
            changes.applied,
            ["limits.receive_maximum: 1024 -> 7", "log.level: \"info\" -> \"debug\""]
        );
        let restart = changes.restart.join("\n");
        assert!(restart.contains("shards: 0 -> 2"), "{restart}");
        assert!(restart.contains("log.format: \"text\" -> \"json\""), "{restart}");
        assert!(restart.contains("listeners[1].bind: nothing -> \"127.0.0.1:9\""), "{restart}");
        assert_eq!(control.live().limits.receive_maximum, 7);
        assert_eq!(control.live().log.level, Level::Debug);
        assert_eq!(control.epoch(), 2, "of the TLS at the start, and of this");

        let changes = reload(&again, &mut running, &control, &tls, &users).unwrap();
        assert!(changes.applied.is_empty());
        assert!(!changes.restart.is_empty(), "what waits is named again");
    }

    #[test]
    fn the_tls_of_listeners_that_stay_is_taken_over() {
        let secured = |ciphers: &[&str], port: u16| {
            let tls = Tls {
                ciphers: ciphers.iter().map(ToString::to_string).collect(),
                ..Tls::default()
            };
            let bind = format!("127.0.0.1:{port}").parse().unwrap();
            let listener = Listener { bind, tls: Some(tls), ..Listener::default() };
            Config { listeners: vec![listener], ..Config::default() }
        };
        let changes = compare(&secured(&[], 1), &secured(&["A"], 1));
        assert_eq!(changes.applied, ["listeners[0].tls.ciphers: [] -> [\"A\"]"]);
        assert!(changes.restart.is_empty());
        let changes = compare(&secured(&[], 1), &secured(&["A"], 2));
        assert!(changes.applied.is_empty(), "another listener");
        assert_eq!(changes.restart.len(), 2);
    }

    #[test]
    fn a_configuration_that_cannot_be_used_changes_nothing() {
        let (mut running, control, tls) = started(&[]);
        let users = Passwords::new().unwrap();
        let before = running.clone();
        let bad = sources(&[("RINGTIDE_LIMITS_RECEIVE_MAXIMUM", "0")]);
        assert!(reload(&bad, &mut running, &control, &tls, &users).is_err());
        let missing = sources(&[("RINGTIDE_ACCESS_ACL_FILE", "/nonexistent/acl")]);
        let error = reload(&missing, &mut running, &control, &tls, &users).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/acl"), "{error}");
        assert_eq!(running, before);
        assert_eq!(control.epoch(), 1, "of the start");
    }

    #[test]
    fn other_rules_are_told_with_their_number() {
        let rules = |text: &str| Acl::parse(text).unwrap();
        let (one, two) = (rules("allow all all a"), rules("allow all all a\nallow all all b"));
        assert_eq!(told_of_rules(Some(&one), Some(&one)), None);
        assert_eq!(told_of_rules(None, None), None);
        let told = |before, now| told_of_rules(before, now).unwrap();
        assert_eq!(told(Some(&one), Some(&two)), "access rules: 1 rule before, 2 rules now");
        assert_eq!(told(None, Some(&two)), "access rules: no file before, 2 rules now");
        let denied = rules("default allow\nallow all all a");
        assert_eq!(told(Some(&one), Some(&denied)), "access rules: 1 rule before, 1 rule now");
    }

    #[test]
    fn a_key_is_not_taken_for_one_that_begins_like_it() {
        let path = |name: &str| KeyPath::default().key(name);
        assert!(is_live(&path("limits").key("queue_count_max")));
        assert!(!is_live(&path("log").key("format")));
        assert!(!is_live(&path("shards")));
    }
}
