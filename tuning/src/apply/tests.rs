use proptest::prelude::*;

use super::*;
use crate::IoUring;
use crate::demand::Demand;
use crate::profile::{APPLIANCE, Profile, SOURCE_E};
use crate::revert::revert;

#[path = "../../tests/hosts/mod.rs"]
mod hosts;

use hosts::Host;

fn survey(host: &Host, profile: &str, connections: u64) -> Survey {
    let profile = Profile::parse(profile, "profile").unwrap();
    let demand = Demand {
        connections,
        shards: 32,
        descriptors_own: 600,
        direct: false,
        backlog: 4096,
        ring_bytes: 4 << 20,
        memlock_bytes: 8 << 20,
        ports: vec![1883],
        io_uring: IoUring::Needed,
    };
    Survey::of(&Root::at(host.path()), &profile, &demand)
}

/// Saves the originals and makes so many changes, as an `apply` does that is killed then.
fn killed_after(host: &Host, survey: &Survey, changes: usize) {
    let root = Root::at(host.path());
    let knobs: Vec<&Knob> = survey.items.iter().flat_map(|item| &item.knobs).collect();
    let files = files::wanted(&root, survey, NrOpen::Planned);
    drop(save(&root, &knobs, &files).unwrap());
    for knob in knobs.iter().take(changes) {
        turn(&root, knob, true);
    }
    let left = changes.saturating_sub(knobs.len());
    for file in files.iter().take(left) {
        put(&root, file, true);
    }
    // What it was writing when it was killed.
    if let Some(file) = files.get(left) {
        let draft = originals::draft(&root.path(file.path));
        if draft.parent().is_some_and(Path::exists) {
            fs::write(draft, "half of").unwrap();
        }
    }
}

fn changed(steps: &[Step]) -> usize {
    steps.iter().filter(|step| matches!(step.done, Done::Changed(_))).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// However often it is killed, and with whatever profile: what was there before the first time
    /// comes back.
    #[test]
    fn the_true_originals_outlive_a_crash(
        kills in prop::collection::vec((any::<bool>(), 0_usize..140, 0_u64..3), 1..4),
        finished in any::<bool>(),
    ) {
        let host = Host::server();
        let before = host.everything();
        for (source, changes, millions) in kills {
            let profile = if source { SOURCE_E } else { APPLIANCE };
            killed_after(&host, &survey(&host, profile, millions * 1_000_000), changes);
        }
        let root = Root::at(host.path());
        if finished {
            let steps = apply(&root, &survey(&host, APPLIANCE, 0), Mode::Change).unwrap();
            prop_assert!(!steps.iter().any(|step| matches!(step.done, Done::Refused(_))));
        }
        revert(&root).unwrap();
        prop_assert_eq!(host.everything(), before);
        prop_assert_eq!(revert(&root).unwrap(), vec![]);
    }

    /// The lines of a difference turn the old text into the new one.
    #[test]
    fn a_difference_is_exact(old in prop::collection::vec(0_u8..4, 0..8),
                             new in prop::collection::vec(0_u8..4, 0..8)) {
        let text = |lines: &[u8]| lines.iter().map(|n| format!("{n}\n")).collect::<String>();
        let lines = difference(&text(&old), &text(&new));
        let removed = lines.iter().filter(|line| line.starts_with('-')).count();
        let added = lines.iter().filter(|line| line.starts_with('+')).count();
        prop_assert_eq!(old.len() - removed, new.len() - added);
        prop_assert_eq!(lines.is_empty(), old == new);
    }
}

#[test]
fn another_process_at_work_is_waited_for_by_the_person() {
    let host = Host::server();
    let root = Root::at(host.path());
    let lock = Lock::take(&root).unwrap();
    let survey = survey(&host, APPLIANCE, 0);
    assert_eq!(apply(&root, &survey, Mode::Change), Err(TuneError::Busy));
    assert_eq!(host.setting("vm.swappiness"), "60");
    drop(lock);
    assert!(changed(&apply(&root, &survey, Mode::Change).unwrap()) > 20);
}

/// Interrupts are numbered anew at a boot: what was saved of them before says nothing then.
#[test]
fn what_a_boot_takes_away_is_not_put_back_after_it() {
    let host = Host::server();
    let root = Root::at(host.path());
    let affinity = "proc/irq/41/smp_affinity_list";
    let boot = |number: u32| host.set("kernel.random.boot_id", &format!("boot-{number}"));
    let tune = || apply(&root, &survey(&host, APPLIANCE, 0), Mode::Change).unwrap();
    host.write(affinity, "0-15\n");
    boot(1);
    tune();
    assert_eq!(host.read(affinity), "0\n");

    boot(2);
    host.write(affinity, "8-9\n");
    revert(&root).unwrap();
    assert_eq!(host.read(affinity), "8-9\n", "not the 0-15 of the boot before");
    assert_eq!(host.setting("vm.swappiness"), "60");

    tune();
    boot(3);
    host.write(affinity, "4-5\n");
    tune();
    assert_eq!(host.read(affinity), "0\n");
    revert(&root).unwrap();
    assert_eq!(host.read(affinity), "4-5\n", "the original of this boot");
}

/// Both names are one value: setting one of them must not undo the other.
#[test]
fn the_two_names_of_the_tracking_table_agree() {
    let host = Host::server();
    let survey = survey(&host, SOURCE_E, 2_000_000);
    let knob = |name: &str| {
        let mut knobs = survey.items.iter().flat_map(|item| &item.knobs);
        knobs.find(|knob| knob.name == name).map(|knob| knob.wanted.clone())
    };
    assert_eq!(knob("net.nf_conntrack_max").as_deref(), Some("2000000"));
    assert_eq!(knob("net.netfilter.nf_conntrack_max").as_deref(), Some("2000000"));
}
