//! The effective configuration as TOML, each value with its origin beside it.

use std::fmt::Write;

use super::load::Loaded;
use super::path::{KeyPath, Step, flatten};

/// Column at which origins stand.
const ORIGIN_COLUMN: usize = 44;

/// The effective configuration: valid TOML that could be used as the file.
pub fn effective(loaded: &Loaded) -> String {
    let mut text = String::new();
    let mut section = KeyPath::default();
    for (path, value) in flatten(&loaded.config.to_table()) {
        let (Some(Step::Key(name)), around) = (path.0.last(), parent(&path)) else { continue };
        if around != section {
            let _ = write!(text, "\n{}", heading(&around));
            section = around;
        }
        let line = format!("{name} = {value}");
        let _ = writeln!(text, "{line:ORIGIN_COLUMN$}# {}", loaded.layers.origin(&path));
    }
    text
}

fn parent(path: &KeyPath) -> KeyPath {
    KeyPath(path.0.get(..path.0.len().saturating_sub(1)).unwrap_or_default().to_vec())
}

fn heading(section: &KeyPath) -> String {
    let name = |step: &Step| match step {
        Step::Key(name) => Some(name.clone()),
        Step::Index(_) => None,
    };
    let names: Vec<String> = section.0.iter().filter_map(name).collect();
    match section.0.last() {
        Some(Step::Index(_)) => format!("[[{}]]\n", names.join(".")),
        _ => format!("[{}]\n", names.join(".")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources, load};

    #[test]
    fn what_is_printed_reads_back_as_the_same_configuration() {
        let environment = [
            ("RINGTIDE_SHARED_GROUPS_0_NAME", "g"),
            ("RINGTIDE_LISTENERS_1_BIND", "127.0.0.1:7"),
            ("RINGTIDE_CPUS", "0,1"),
        ];
        let environment = environment.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
        let loaded = load(&Sources { environment, ..Sources::default() }).unwrap();
        let text = effective(&loaded);
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), loaded.config, "{text}");
    }

    #[test]
    fn every_value_has_its_origin_beside_it() {
        let environment = vec![("RINGTIDE_SHARDS".to_owned(), "2".to_owned())];
        let loaded = load(&Sources { environment, ..Sources::default() }).unwrap();
        let text = effective(&loaded);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
        assert!(line("shards = 2").ends_with("# environment RINGTIDE_SHARDS"));
        assert!(line("max_packet_bytes = 2097152").ends_with("# default"));
        assert!(text.contains("\n[limits]\n") && text.contains("\n[[listeners]]\n"));
    }
}
