//! The installed systemd unit: which limits it gives the broker.

use std::fs;

use crate::root::Root;

/// Where systemd looks for units; the first that has one counts, drop-ins of all are read.
const FOLDERS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
const UNIT: &str = "ringtide.service";

/// What an installed unit sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnitLimits {
    /// `LimitNOFILE`, the hard one; `u64::MAX` for none.
    pub(crate) nofile: Option<u64>,
    /// `LimitMEMLOCK` in bytes, the hard one.
    pub(crate) memlock: Option<u64>,
}

/// The limits of the installed unit with its drop-ins; `None` without a unit.
pub(crate) fn limits(root: &Root) -> Option<UnitLimits> {
    let unit = FOLDERS.iter().find_map(|folder| root.read(&format!("{folder}/{UNIT}")).ok())?;
    let mut texts = vec![unit];
    // systemd applies drop-ins by the order of their names, whichever folder they are in.
    let mut drop_ins: Vec<(String, &str)> = Vec::new();
    for folder in FOLDERS {
        for name in root.list(&format!("{folder}/{UNIT}.d")) {
            let known = drop_ins.iter().any(|(other, _)| *other == name);
            if name.ends_with(".conf") && !known {
                drop_ins.push((name, folder));
            }
        }
    }
    drop_ins.sort();
    for (name, folder) in drop_ins {
        let path = root.path(&format!("{folder}/{UNIT}.d/{name}"));
        texts.push(fs::read_to_string(path).unwrap_or_default());
    }
    let mut limits = UnitLimits::default();
    for line in texts.iter().flat_map(|text| text.lines()) {
        match line.trim().split_once('=') {
            Some(("LimitNOFILE", value)) => limits.nofile = size(value).or(limits.nofile),
            Some(("LimitMEMLOCK", value)) => limits.memlock = size(value).or(limits.memlock),
            _ => {}
        }
    }
    Some(limits)
}

/// `65536`, `64M`, `infinity`, or `SOFT:HARD` of these.
fn size(text: &str) -> Option<u64> {
    let hard = text.rsplit(':').next()?.trim();
    if hard == "infinity" {
        return Some(u64::MAX);
    }
    let shift = match hard.chars().last()? {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => 0,
    };
    let digits = if shift == 0 { hard } else { &hard[..hard.len() - 1] };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_systemd_writes_them() {
        assert_eq!(size("1048576"), Some(1 << 20));
        assert_eq!(size("64M"), Some(64 << 20));
        assert_eq!(size("1024:2048"), Some(2048));
        assert_eq!(size("infinity"), Some(u64::MAX));
        assert_eq!(size("many"), None);
        assert_eq!(size(""), None);
    }
}
