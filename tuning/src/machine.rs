//! The machine itself: processors, nodes of memory, clocks, huge pages.

use crate::check::{Check, Verdict};
use crate::item::{Boot, Form, Item, Knob, chosen};
use crate::profile::{HostItem, HostRule, Profile};
use crate::root::{Root, unread};
use crate::{cores, cpus};

const CPUS: &str = "sys/devices/system/cpu";
const NODES: &str = "sys/devices/system/node";
const HUGE_PAGES: &str = "sys/kernel/mm/transparent_hugepage/enabled";

/// Processors that are switched on; none if that cannot be read.
pub(crate) fn online(root: &Root) -> Vec<usize> {
    let list = root.read(&format!("{CPUS}/online"));
    list.ok().and_then(|list| cpus::from_list(&list)).unwrap_or_default()
}

/// Processors of a node of memory; none if there is no such node.
pub(crate) fn of_node(root: &Root, node: i64) -> Vec<usize> {
    let list = root.read(&format!("{NODES}/node{node}/cpulist"));
    list.ok().and_then(|list| cpus::from_list(&list)).unwrap_or_default()
}

/// What is found of the machine, in the order in which it is told.
pub(crate) fn items(root: &Root, profile: &Profile) -> Vec<Item> {
    let mut items: Vec<Item> = vec![cores(root).into(), smt(root).into(), nodes(root).into()];
    items.extend(profile.host(HostItem::Governor).map(|rule| governor(root, rule)));
    items.extend(profile.host(HostItem::TransparentHugepage).map(|rule| huge_pages(root, rule)));
    items
}

fn cores(root: &Root) -> Check {
    let why = "one shard runs on each";
    let Some(usable) = cores::usable_at(root) else {
        return Check::new("cores", "unreadable", "", why).verdict(Verdict::Unknown);
    };
    let count = usable.cpus.len();
    let online = online(root).len();
    let found = match online {
        0 => format!("{count} usable"),
        online => format!("{count} usable of {online}"),
    };
    match usable.quota {
        Some(quota) if quota < count as f64 => {
            let found = format!("{found}, {quota:.1} by the control group's quota");
            Check::new("cores", found, "no quota below them", why)
                .remedy("a shard that has used its quota stops in the middle of its work: raise it")
                .verdict(Verdict::Advice)
        }
        _ => Check::new("cores", found, "", why),
    }
}

fn smt(root: &Root) -> Check {
    let why = "two shards on one core share its caches; both work";
    match root.read(&format!("{CPUS}/smt/active")).as_deref() {
        Ok("1") => Check::new("smt", "on", "", why),
        Ok("0") => Check::new("smt", "off", "", why),
        _ => Check::new("smt", "unreadable", "", why).verdict(Verdict::Unknown),
    }
}

fn nodes(root: &Root) -> Check {
    let why = "memory of another node is slower; a shard keeps to its own";
    let names = root.list(NODES);
    let is_node = |name: &&String| {
        name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let count = names.iter().filter(is_node).count();
    match count {
        0 => Check::new("numa", "unreadable", "", why).verdict(Verdict::Unknown),
        1 => Check::new("numa", "1 node", "", why),
        count => {
            let of = |node: usize| {
                format!("node {node}: cpu {}", cpus::to_list(&of_node(root, node as i64)))
            };
            let nodes: Vec<String> = (0..count).map(of).collect();
            Check::new("numa", format!("{count} nodes ({})", nodes.join("; ")), "", why)
                .remedy("put the shards on the card's node first (`cpus` in ringtide.toml)")
                .verdict(Verdict::Advice)
        }
    }
}

fn governor(root: &Root, rule: &HostRule) -> Item {
    let files: Vec<String> = root
        .list(CPUS)
        .iter()
        .filter(|name| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()))
        .map(|name| format!("{CPUS}/{name}/cpufreq/scaling_governor"))
        .filter(|path| root.exists(path))
        .collect();
    let wanted = rule.is.clone();
    if files.is_empty() {
        let known = root.exists(CPUS);
        let found = if known { "none: the clock is not this host's to set" } else { "unreadable" };
        let check = Check::new("governor", found, wanted, rule.why.clone());
        return check.met(known, Verdict::Unknown).into();
    }
    let mut found: Vec<String> = files.iter().filter_map(|path| root.read(path).ok()).collect();
    found.sort();
    found.dedup();
    let knob = |path: &String| Knob {
        name: format!("governor of {}", path.split('/').nth(4).unwrap_or_default()),
        path: path.clone(),
        form: Form::Words,
        passing: false,
        wanted: rule.is.clone(),
    };
    Item {
        check: Check::new("governor", found.join(" and "), wanted, rule.why.clone())
            .remedy("`ringtide tune apply` sets it")
            .met(found == [rule.is.clone()], Verdict::Advice),
        knobs: files.iter().map(knob).collect(),
        boot: vec![Boot::Write {
            path: format!("/{CPUS}/cpu*/cpufreq/scaling_governor"),
            value: rule.is.clone(),
        }],
    }
}

fn huge_pages(root: &Root, rule: &HostRule) -> Item {
    let (name, why) = ("transparent_hugepage", rule.why.clone());
    match root.read(HUGE_PAGES) {
        Err(error) => {
            Check::new(name, unread(&error), &rule.is, why).verdict(Verdict::Unknown).into()
        }
        Ok(text) => Item {
            check: Check::new(name, chosen(&text), &rule.is, why)
                .remedy("`ringtide tune apply` sets it")
                .met(chosen(&text) == rule.is, Verdict::Advice),
            knobs: vec![Knob {
                name: name.to_owned(),
                path: HUGE_PAGES.to_owned(),
                form: Form::Choice,
                passing: false,
                wanted: rule.is.clone(),
            }],
            boot: vec![Boot::Write { path: format!("/{HUGE_PAGES}"), value: rule.is.clone() }],
        },
    }
}
