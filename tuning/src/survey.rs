//! A look at the host: everything that the profile and the demand speak of, in one order.

use crate::check::{Check, Verdict};
use crate::demand::{Demand, IoUring, limit_checks};
use crate::item::{Item, sysctl};
use crate::profile::{HostItem, Profile, Rule};
use crate::root::Root;
use crate::{conntrack, files, kernel, machine, nic};

const IO_URING_SWITCH: &str = "kernel.io_uring_disabled";
/// An old name of [`conntrack::TABLE`]: what the one needs, the other must have too.
const CONNTRACK_ALIAS: &str = "net.nf_conntrack_max";

/// What was found, and what would make it as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    pub(crate) items: Vec<Item>,
    /// The profile's name.
    pub(crate) profile: String,
    /// Descriptors that the files for logins and the unit allow.
    pub(crate) nofile: Option<u64>,
    /// Bytes that they allow to be locked.
    pub(crate) memlock: Option<u64>,
    /// Ports whose connections should not be tracked.
    pub(crate) untracked: Vec<u16>,
}

impl Survey {
    /// Looks at the host.
    pub fn of(root: &Root, profile: &Profile, demand: &Demand) -> Survey {
        let needs = demand.needs(root, &profile.cost);
        let need = |key: &str| {
            let key = if key == CONNTRACK_ALIAS { conntrack::TABLE } else { key };
            needs.iter().find(|need| need.key == key)
        };
        let mut ports = [profile.ports.clone(), demand.ports.clone()].concat();
        ports.sort_unstable();
        ports.dedup();
        let mut items = io_uring(root, profile, demand.io_uring);
        items.extend(machine::items(root, profile));
        items.extend(nic::items(root, profile));
        items.extend(conntrack::item(root, profile, &ports));
        for (key, rule) in profile.sysctl.iter().filter(|(key, _)| key != IO_URING_SWITCH) {
            items.push(sysctl(root, key, Some(rule), need(key)));
        }
        for need in needs.iter().filter(|need| profile.sysctl(need.key).is_none()) {
            items.push(sysctl(root, need.key, None, Some(need)));
        }
        let (nofile, memlock) = (profile.nofile.as_ref(), profile.memlock.as_ref());
        let limits = limit_checks(root, demand, nofile, memlock);
        items.extend(limits.into_iter().map(Item::from));
        items.extend(demand.checks(root, &profile.cost).into_iter().map(Item::from));
        let at_least = |rule: Option<&Rule>, need: u64| {
            let wish = rule.and_then(|rule| rule.value.first().copied());
            wish.map(|wish| wish.max(need)).or((demand.connections > 0).then_some(need))
        };
        let tracking = conntrack::loaded(root) && profile.host(HostItem::Conntrack).is_some();
        let mut survey = Survey {
            items,
            profile: profile.name.clone(),
            nofile: at_least(nofile, demand.descriptors()),
            memlock: at_least(memlock, demand.memlock_bytes),
            untracked: if tracking { ports } else { Vec::new() },
        };
        let boot = survey.next_boot(root);
        survey.items.push(boot.into());
        for note in &profile.notes {
            let check = Check::new(&note.line, "nothing to look at", "", &note.answer);
            survey.items.push(check.into());
        }
        survey
    }

    /// The findings, in their order.
    pub fn checks(&self) -> Vec<Check> {
        self.items.iter().map(|item| item.check.clone()).collect()
    }

    /// What is set now must be there after the next boot too.
    fn next_boot(&self, root: &Root) -> Check {
        let files = files::wanted(root, self, files::NrOpen::Planned);
        let there = files.iter().filter(|file| file.is_there(root)).count();
        let names: Vec<String> = files.iter().map(|file| format!("/{}", file.path)).collect();
        let others = files::overridden(root, self);
        let found = format!("{there} of {} files as wanted", files.len());
        let why = "what is set live is gone after a boot";
        let check = match others.is_empty() {
            true => Check::new("next boot", found, names.join(", "), why)
                .remedy("`ringtide tune apply` writes them"),
            false => {
                let found = format!("{found}; {}, after them", others.join(", "));
                Check::new("next boot", found, names.join(", "), why)
                    .remedy("take those lines out of their files")
            }
        };
        check.met(there == files.len() && others.is_empty(), Verdict::Advice)
    }
}

/// What io_uring needs: the kernel, the switch for this process with the profile's wish for it, and
/// no filter.
fn io_uring(root: &Root, profile: &Profile, io_uring: IoUring) -> Vec<Item> {
    let switch = |check| match profile.sysctl(IO_URING_SWITCH) {
        None => Item::from(check),
        Some(rule) => Item { check, ..sysctl(root, IO_URING_SWITCH, Some(rule), None) },
    };
    let version = io_uring.weighs(kernel::check_version(root)).map(Item::from);
    let allowed = io_uring.weighs(kernel::check_io_uring(root)).map(switch);
    let filter = io_uring.weighs(kernel::check_seccomp(root)).map(Item::from);
    [version, allowed, filter].into_iter().flatten().collect()
}
