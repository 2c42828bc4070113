//! Connection tracking: whether it is there, and whether it tracks the clients' connections.

use crate::check::{Check, Verdict};
use crate::item::Item;
use crate::profile::{HostItem, Profile};
use crate::root::Root;

/// The most connections that are tracked.
pub(crate) const TABLE: &str = "net.netfilter.nf_conntrack_max";
const FOLDER: &str = "proc/sys/net/netfilter";
/// The rules that exempt the MQTT ports, in the host's tree.
pub(crate) const RULES: &str = "etc/ringtide/notrack.nft";
/// Lines of the table that are looked at: one of a client is enough.
const LINES_MAX: usize = 100_000;

/// Connections that are tracked now; 0 without connection tracking.
pub(crate) fn tracked(root: &Root) -> u64 {
    root.number(&format!("{FOLDER}/nf_conntrack_count")).unwrap_or(0)
}

/// Whether the module is loaded.
pub(crate) fn loaded(root: &Root) -> bool {
    root.exists(&format!("{FOLDER}/nf_conntrack_max"))
}

pub(crate) fn item(root: &Root, profile: &Profile, ports: &[u16]) -> Option<Item> {
    let rule = profile.host(HostItem::Conntrack)?;
    let numbers: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let wanted = format!("no connection of port {} tracked", numbers.join(", "));
    let check = Check::new("conntrack", "", wanted, rule.why.clone()).remedy(format!(
        "load /{RULES}, which `ringtide tune apply` writes (`nft -f /{RULES}`); a firewall that \
         lets in by state must accept these ports by number"
    ));
    if !loaded(root) {
        return Some(Check { found: "not loaded".into(), ..check }.into());
    }
    let count = tracked(root);
    if count == 0 {
        return Some(Check { found: "loaded, tracks nothing".into(), ..check }.into());
    }
    let (found, verdict) = match of_clients(root, ports) {
        Some(0) => (format!("{count} tracked, none of a client"), Verdict::Ok),
        Some(own) => (format!("{count} tracked, {own} of clients"), Verdict::Advice),
        // The table can be read by root only, and where the kernel shows it.
        None => (format!("{count} tracked, whose cannot be read"), Verdict::Advice),
    };
    Some(Check { found, ..check }.verdict(verdict).into())
}

/// Entries of the table that are connections to one of the ports; `None` if it cannot be read.
fn of_clients(root: &Root, ports: &[u16]) -> Option<usize> {
    let table = root.read("proc/net/nf_conntrack").ok()?;
    let is_own = |line: &&str| {
        let port = line.split_whitespace().find_map(|word| word.strip_prefix("dport="));
        port.and_then(|port| port.parse().ok()).is_some_and(|port: u16| ports.contains(&port))
    };
    Some(table.lines().take(LINES_MAX).filter(is_own).count())
}

/// The rules that exempt the ports, both ways. Loading them twice changes nothing.
pub(crate) fn rules(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let ports = ports.join(", ");
    format!(
        "#!/usr/sbin/nft -f\n\
         # No connection tracking for MQTT clients. Load: `nft -f /{RULES}`;\n\
         # away with it: `nft delete table inet ringtide_notrack`. It is not loaded by itself: a\n\
         # firewall that lets in by state (ct state established) must first accept these ports by\n\
         # their numbers, both ways.\n\
         table inet ringtide_notrack\n\
         delete table inet ringtide_notrack\n\
         table inet ringtide_notrack {{\n    \
             chain prerouting {{\n        \
                 type filter hook prerouting priority raw; policy accept;\n        \
                 tcp dport {{ {ports} }} notrack\n    \
             }}\n    \
             chain output {{\n        \
                 type filter hook output priority raw; policy accept;\n        \
                 tcp sport {{ {ports} }} notrack\n    \
             }}\n\
         }}\n"
    )
}
