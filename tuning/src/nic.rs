//! Network cards: queues, where their interrupts go, packet steering, offloads.

use crate::check::{Check, Verdict};
use crate::item::{Form, Item, Knob};
use crate::profile::{HostItem, HostRule, Profile};
use crate::root::Root;
use crate::{cpus, machine};

const CARDS: &str = "sys/class/net";
/// Interrupts of a card that carry no packets.
const NOT_QUEUES: [&str; 6] = ["config", "mgmnt", "async", "control", "admin", "misc"];
/// Offloads that are wanted, as ethtool(8) calls them.
const OFFLOADS: [&str; 4] =
    ["rx-checksumming", "tx-checksumming", "tcp-segmentation-offload", "generic-receive-offload"];

/// A network card that carries packets in and out of the machine.
struct Card {
    name: String,
    /// Names of the queues, by number.
    receive: Vec<String>,
    send: Vec<String>,
    /// Number and label of each interrupt that belongs to a queue.
    irqs: Vec<(u32, String)>,
    /// Processors near it.
    cpus: Vec<usize>,
    /// Where they are, in words.
    place: String,
}

/// What is found of the cards, in the order in which it is told.
pub(crate) fn items(root: &Root, profile: &Profile) -> Vec<Item> {
    let mut items = Vec::new();
    if let Some(rule) = profile.host(HostItem::Irqbalance) {
        items.push(irqbalance(root, rule).into());
    }
    let cards = cards(root);
    if cards.is_empty() {
        let found = if root.exists(CARDS) { "no card, only virtual devices" } else { "unreadable" };
        let why = "packets come in by the queues of a card";
        let check = Check::new("nic", found, "", why);
        items.push(check.met(root.exists(CARDS), Verdict::Unknown).into());
    }
    for card in &cards {
        items.push(queues(card).into());
        items.extend(profile.host(HostItem::Irqs).map(|rule| irqs(root, card, rule)));
        items.extend(profile.host(HostItem::Rps).map(|rule| rps(root, card, profile, rule)));
        items.extend(profile.host(HostItem::Xps).map(|rule| xps(root, card, rule)));
        items.extend(profile.host(HostItem::Offloads).map(|rule| offloads(root, card, rule)));
    }
    items
}

fn cards(root: &Root) -> Vec<Card> {
    let names = root.list(CARDS);
    // What is made of software has no device behind it.
    let real = names.iter().filter(|name| root.exists(&format!("{CARDS}/{name}/device")));
    real.map(|name| card(root, name)).collect()
}

fn card(root: &Root, name: &str) -> Card {
    let queues = |kind: &str| {
        let mut queues = root.list(&format!("{CARDS}/{name}/queues"));
        queues.retain(|queue| queue.starts_with(kind));
        queues.sort_by_key(|queue| number_at_end(queue));
        queues
    };
    let node = root.read(&format!("{CARDS}/{name}/device/numa_node")).ok();
    let node: Option<i64> = node.and_then(|node| node.parse().ok()).filter(|node| *node >= 0);
    let near = node.map(|node| machine::of_node(root, node)).unwrap_or_default();
    let (cpus, place) = match (near.is_empty(), node) {
        (false, Some(node)) => (near, format!("node {node}")),
        _ => (machine::online(root), "any node".to_owned()),
    };
    Card {
        name: name.to_owned(),
        receive: queues("rx-"),
        send: queues("tx-"),
        irqs: interrupts(root, name),
        cpus,
        place,
    }
}

/// The card's interrupts that carry packets. A virtio card's belong to the bus device above it.
fn interrupts(root: &Root, name: &str) -> Vec<(u32, String)> {
    let device = format!("{CARDS}/{name}/device");
    let folders = [format!("{device}/msi_irqs"), format!("{device}/../msi_irqs")];
    let numbers: Vec<u32> = folders
        .iter()
        .map(|folder| root.list(folder))
        .find(|names| !names.is_empty())
        .unwrap_or_default()
        .iter()
        .filter_map(|number| number.parse().ok())
        .collect();
    let table = root.read("proc/interrupts").unwrap_or_default();
    let mut found: Vec<(u32, String)> = table
        .lines()
        .filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let number = number.trim().parse().ok().filter(|number| numbers.contains(number))?;
            let label = rest.split_whitespace().last()?.to_owned();
            (!NOT_QUEUES.iter().any(|word| label.contains(word))).then_some((number, label))
        })
        .collect();
    found.sort();
    found
}

/// The number at the end of `rx-3`, `virtio2-input.0`, `eth0-Tx-Rx-7`, `mlx5_comp3@pci:...`.
fn number_at_end(text: &str) -> Option<usize> {
    let text = text.split('@').next().unwrap_or_default();
    let digits = text.len() - text.bytes().rev().take_while(u8::is_ascii_digit).count();
    text[digits..].parse().ok()
}

fn queues(card: &Card) -> Check {
    let Card { name, receive, send, cpus, place, .. } = card;
    let found = format!("{} receive, {} send, {place}", receive.len(), send.len());
    let wanted = format!("one for each of {} processors", cpus.len());
    let why = "each queue is served by one processor at a time";
    Check::new(format!("{name} queues"), found, wanted, why)
        .remedy(format!(
            "`ethtool -l {name}` shows the most, `ethtool -L {name} combined N` sets it"
        ))
        .met(receive.len().min(send.len()) >= cpus.len(), Verdict::Advice)
}

fn irqs(root: &Root, card: &Card, rule: &HostRule) -> Item {
    let name = format!("{} irqs", card.name);
    if card.irqs.is_empty() || card.cpus.is_empty() {
        let check = Check::new(name, "none found", "one processor each", rule.why.clone());
        return check.verdict(Verdict::Unknown).into();
    }
    let knobs = card.irqs.iter().enumerate().map(|(index, (irq, label))| {
        let queue = number_at_end(label).unwrap_or(index);
        Knob {
            name: format!("irq {irq} ({label})"),
            path: format!("proc/irq/{irq}/smp_affinity_list"),
            form: Form::List,
            passing: true,
            wanted: card.cpus[queue % card.cpus.len()].to_string(),
        }
    });
    let knobs: Vec<Knob> = knobs.collect();
    told(root, name, "interrupts on a processor of their own", rule, knobs)
}

/// Only a card with fewer queues than processors needs it.
fn rps(root: &Root, card: &Card, profile: &Profile, rule: &HostRule) -> Item {
    let name = format!("{} rps", card.name);
    let queues = card.receive.len();
    if queues == 0 || queues >= card.cpus.len() {
        let found = format!("not needed, {queues} queues for {} processors", card.cpus.len());
        return Check::new(name, found, "", rule.why.clone()).into();
    }
    let flows = profile.sysctl("net.core.rps_sock_flow_entries");
    let flows = flows.and_then(|rule| rule.value.first().copied()).unwrap_or(0);
    let of = |queue: &String| {
        let folder = format!("{CARDS}/{}/queues/{queue}", card.name);
        let name = format!("{} {queue}", card.name);
        let spread = Knob {
            name: format!("{name} rps_cpus"),
            path: format!("{folder}/rps_cpus"),
            form: Form::Mask,
            passing: true,
            wanted: cpus::to_mask(&card.cpus),
        };
        // The kernel rounds up to a power of two.
        let flow_count = (flows / queues as u64).next_power_of_two();
        let flow = Knob {
            name: format!("{name} rps_flow_cnt"),
            path: format!("{folder}/rps_flow_cnt"),
            form: Form::Words,
            passing: true,
            wanted: flow_count.to_string(),
        };
        if flows > 0 { vec![spread, flow] } else { vec![spread] }
    };
    let knobs = card.receive.iter().flat_map(of).collect();
    told(root, name, "receive queues handed on to all processors", rule, knobs)
}

/// Only a card with several queues has the choice.
fn xps(root: &Root, card: &Card, rule: &HostRule) -> Item {
    let name = format!("{} xps", card.name);
    let queues = card.send.len();
    if queues < 2 || card.cpus.is_empty() {
        let found = format!("not needed, {queues} queue{}", if queues == 1 { "" } else { "s" });
        return Check::new(name, found, "", rule.why.clone()).into();
    }
    let knobs = card.send.iter().enumerate().map(|(index, queue)| {
        // More queues than processors: those beyond share processors with the first.
        let own: Vec<usize> = match queues >= card.cpus.len() {
            true => vec![card.cpus[index % card.cpus.len()]],
            false => card.cpus.iter().copied().skip(index).step_by(queues).collect(),
        };
        Knob {
            name: format!("{} {queue} xps_cpus", card.name),
            path: format!("{CARDS}/{}/queues/{queue}/xps_cpus", card.name),
            form: Form::Mask,
            passing: true,
            wanted: cpus::to_mask(&own),
        }
    });
    let knobs = knobs.collect();
    told(root, name, "send queues with processors of their own", rule, knobs)
}

/// One finding for the values of all queues.
fn told(root: &Root, name: String, wanted: &str, rule: &HostRule, knobs: Vec<Knob>) -> Item {
    let readable = knobs.iter().any(|knob| root.read(&knob.path).is_ok());
    let set = knobs.iter().filter(|knob| knob.is_set(root)).count();
    let found = match readable {
        true => format!("{set} of {} as wanted", knobs.len()),
        false => "unreadable".to_owned(),
    };
    let verdict = match (readable, set == knobs.len()) {
        (false, _) => Verdict::Unknown,
        (true, true) => Verdict::Ok,
        (true, false) => Verdict::Advice,
    };
    let check = Check::new(name, found, wanted, rule.why.clone())
        .remedy("`ringtide tune apply` sets them, until the next boot")
        .verdict(verdict);
    Item { check, knobs: if readable { knobs } else { Vec::new() }, boot: Vec::new() }
}

fn offloads(root: &Root, card: &Card, rule: &HostRule) -> Item {
    let name = format!("{} offloads", card.name);
    let wanted = OFFLOADS.join(", ");
    let Some(text) = root.output("ethtool", &["-k", &card.name]) else {
        let check = Check::new(name, "ethtool does not tell", wanted, rule.why.clone());
        return check.remedy("install ethtool").verdict(Verdict::Unknown).into();
    };
    let off = |offload: &&&str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(**offload));
        line.is_none_or(|line| !line.trim_start_matches(':').trim().starts_with("on"))
    };
    let missing: Vec<&str> = OFFLOADS.iter().filter(off).copied().collect();
    let found = match missing.is_empty() {
        true => "all on".to_owned(),
        false => format!("{} off", missing.join(", ")),
    };
    Check::new(name, found, wanted, rule.why.clone())
        .remedy(format!("`ethtool -K {} rx on tx on tso on gro on`", card.name))
        .met(missing.is_empty(), Verdict::Advice)
        .into()
}

/// Looks for the program among the host's processes.
fn irqbalance(root: &Root, rule: &HostRule) -> Check {
    let processes = root.list("proc");
    let mut numbers = processes.iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    let runs = numbers
        .any(|pid| root.read(&format!("proc/{pid}/comm")).is_ok_and(|name| name == "irqbalance"));
    let found = if runs { "running" } else { "not running" };
    Check::new("irqbalance", found, "not running", rule.why.clone())
        .remedy("`systemctl disable --now irqbalance`")
        .met(!runs, Verdict::Advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_queue_is_at_the_end_of_its_name() {
        assert_eq!(number_at_end("rx-12"), Some(12));
        assert_eq!(number_at_end("virtio2-input.0"), Some(0));
        assert_eq!(number_at_end("eth0-Tx-Rx-7"), Some(7));
        assert_eq!(number_at_end("mlx5_comp3@pci:0000:00:05.0"), Some(3));
        assert_eq!(number_at_end("eth0"), Some(0));
        assert_eq!(number_at_end("lan"), None);
    }
}
