//! What is found of several hosts: a server, a container without `/sys`, the machine of the test.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod hosts;

use hosts::Host;
use proptest::prelude::*;
use ringtide_tuning::profile::{APPLIANCE, SOURCE_E};
use ringtide_tuning::{
    Check, Demand, Done, IoUring, Mode, Profile, Root, Survey, Verdict, apply, at_start,
};

fn demand(connections: u64) -> Demand {
    Demand {
        connections,
        shards: 32,
        descriptors_own: 600,
        direct: false,
        backlog: 4096,
        ring_bytes: 4 << 20,
        memlock_bytes: 8 << 20,
        ports: vec![1884],
        io_uring: IoUring::Needed,
    }
}

fn appliance() -> Profile {
    Profile::parse(APPLIANCE, "appliance").unwrap()
}

fn checks(host: &Host, demand: &Demand) -> Vec<Check> {
    Survey::of(&Root::at(host.path()), &appliance(), demand).checks()
}

fn find<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name}"))
}

#[track_caller]
fn told(checks: &[Check], name: &str, verdict: Verdict, found: &str) {
    let check = find(checks, name);
    assert_eq!(check.verdict, verdict, "{check}");
    assert_eq!(check.found, found, "{check}");
}

#[test]
fn a_server_as_it_comes_is_told_item_by_item() {
    let host = Host::server();
    host.ethtool();
    let checks = checks(&host, &demand(0));
    use Verdict::{Advice, Ok};
    told(&checks, "kernel", Ok, "Linux 6.1.0-18-amd64");
    told(&checks, "io_uring_disabled", Ok, "0");
    told(&checks, "seccomp", Ok, "no filter");
    told(&checks, "cores", Ok, "32 usable of 32");
    told(&checks, "smt", Ok, "on");
    told(&checks, "numa", Advice, "2 nodes (node 0: cpu 0-15; node 1: cpu 16-31)");
    told(&checks, "governor", Advice, "schedutil");
    told(&checks, "transparent_hugepage", Advice, "always");
    told(&checks, "irqbalance", Advice, "running");
    told(&checks, "eth0 queues", Advice, "10 receive, 10 send, node 0");
    told(&checks, "eth0 irqs", Advice, "0 of 10 as wanted");
    told(&checks, "eth0 rps", Advice, "0 of 20 as wanted");
    told(&checks, "eth0 xps", Advice, "0 of 10 as wanted");
    told(&checks, "eth0 offloads", Advice, "generic-receive-offload off");
    told(&checks, "conntrack", Advice, "5120 tracked, 1 of clients");
    let wanted = &find(&checks, "conntrack").wanted;
    assert_eq!(wanted, "no connection of port 1883, 1884, 8883 tracked");
    told(&checks, "fs.file-max", Ok, "9223372036854775807");
    told(&checks, "fs.nr_open", Advice, "1048576");
    told(&checks, "net.core.somaxconn", Advice, "4096");
    told(&checks, "net.ipv4.tcp_rmem", Advice, "4096 131072 6291456");
    told(&checks, "nofile", Advice, "1048576");
    told(&checks, "next boot", Advice, "0 of 5 files as wanted");
    assert!(checks.iter().all(|check| check.verdict != Verdict::Short));
    let names: Vec<&String> = checks.iter().map(|check| &check.name).collect();
    let unlike: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(names.len(), unlike.len(), "{names:?}");
}

#[test]
fn a_small_machine_shares_its_one_queue_out() {
    let host = Host::small();
    let checks = checks(&host, &demand(0));
    use Verdict::{Advice, Ok};
    told(&checks, "cores", Ok, "2 usable of 2");
    told(&checks, "numa", Ok, "1 node");
    told(&checks, "transparent_hugepage", Ok, "madvise");
    told(&checks, "eth0 queues", Advice, "1 receive, 1 send, any node");
    told(&checks, "eth0 irqs", Advice, "0 of 2 as wanted");
    told(&checks, "eth0 rps", Advice, "0 of 2 as wanted");
    told(&checks, "eth0 xps", Ok, "not needed, 1 queue");
    told(&checks, "conntrack", Ok, "loaded, tracks nothing");
    host.write("proc/irq/38/smp_affinity_list", "0\n");
    host.write("proc/irq/39/smp_affinity_list", "0\n");
    host.write("sys/class/net/eth0/queues/rx-0/rps_cpus", "3\n");
    host.write("sys/class/net/eth0/queues/rx-0/rps_flow_cnt", "32768\n");
    let checks = self::checks(&host, &demand(0));
    told(&checks, "eth0 irqs", Ok, "2 of 2 as wanted");
    told(&checks, "eth0 rps", Ok, "2 of 2 as wanted");
    let memory = self::checks(&host, &demand(1_000_000));
    told(&memory, "memory", Ok, "23.5 GiB in all");
}

#[test]
fn every_item_says_what_why_and_what_to_do_on_one_line() {
    for host in [Host::server(), Host::small(), Host::container(), Host::empty()] {
        for check in checks(&host, &demand(2_000_000)) {
            let line = check.to_string();
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(!check.name.is_empty() && !check.found.is_empty(), "{check:?}");
            assert!(!check.why.is_empty() || check.verdict == Verdict::Unknown, "{check:?}");
            let bad = matches!(check.verdict, Verdict::Short | Verdict::Advice);
            assert!(!bad || !check.remedy.is_empty(), "{check:?}");
        }
    }
}

#[test]
fn a_container_without_sys_is_unknown_not_wrong() {
    let checks = checks(&Host::container(), &demand(0));
    use Verdict::{Ok, Short, Unknown};
    told(&checks, "seccomp", Unknown, "a filter");
    told(&checks, "cores", Ok, "2 usable");
    for name in ["smt", "numa", "governor", "nic"] {
        told(&checks, name, Unknown, "unreadable");
    }
    told(&checks, "transparent_hugepage", Unknown, "not there");
    told(&checks, "conntrack", Ok, "not loaded");
    told(&checks, "net.netfilter.nf_conntrack_max", Ok, "not there");
    told(&checks, "fs.nr_open", Unknown, "not there");
    told(&checks, "nofile", Verdict::Advice, "1024");
    told(&checks, "memlock", Short, "64 KiB");
}

#[test]
fn the_real_host_is_read_without_harm() {
    let survey = Survey::of(&Root::host(), &appliance(), &demand(100_000));
    let checks = survey.checks();
    assert!(find(&checks, "kernel").found.starts_with("Linux "));
    assert_ne!(find(&checks, "cores").verdict, Verdict::Unknown);
    assert_ne!(find(&checks, "nofile").verdict, Verdict::Unknown);
    assert!(find(&checks, "memory").found.contains("iB"), "{checks:?}");
}

#[test]
fn a_number_of_connections_is_reckoned_up() {
    let host = Host::server();
    let checks = checks(&host, &demand(2_800_000));
    let nofile = find(&checks, "nofile");
    assert_eq!(nofile.verdict, Verdict::Short);
    assert!(nofile.why.contains("600 own + 2800000 connections: 2800600"), "{nofile}");
    told(&checks, "fs.nr_open", Verdict::Short, "1048576");
    told(&checks, "net.netfilter.nf_conntrack_max", Verdict::Short, "262144");
    told(&checks, "fs.file-max", Verdict::Ok, "9223372036854775807");
    let tcp = find(&checks, "net.ipv4.tcp_mem");
    assert_eq!(tcp.verdict, Verdict::Short);
    assert_eq!(tcp.wanted, "at least 4200000 5600000 8400000");
    // 2 800 000 x (500 + 4400 + 2 x 4096) + 32 x 4 MiB = 36 791 817 728 bytes.
    let memory = find(&checks, "memory");
    assert_eq!(memory.verdict, Verdict::Ok);
    assert_eq!(
        (memory.found.as_str(), memory.wanted.as_str()),
        ("125 GiB in all", "at least 34.3 GiB")
    );
    assert!(memory.why.contains("2800000 connections x (500 B of the broker + 4400 B"), "{memory}");
    // 28232 ports from 32768 to 60999.
    let addresses = find(&checks, "source addresses");
    assert_eq!(addresses.wanted, "at least 100 source addresses");
    // 2 800 000 / 60 s.
    let queue = find(&checks, "accept queue");
    assert_eq!((queue.found.as_str(), queue.wanted.as_str()), ("131072", "at least 46667"));
}

#[test]
fn too_little_memory_falls_short() {
    let host = Host::server();
    host.write("proc/self/cgroup", "0::/broker\n");
    host.write("sys/fs/cgroup/broker/memory.max", "1073741824\n");
    let memory = checks(&host, &demand(1_000_000));
    told(&memory, "memory", Verdict::Short, "1 GiB of the control group");
}

#[test]
fn connections_in_the_rings_are_bounded_per_ring() {
    let host = Host::server();
    let direct = Demand { direct: true, ..demand(2_800_000) };
    let found = checks(&host, &direct);
    assert_eq!(find(&found, "nofile").verdict, Verdict::Advice);
    told(&found, "ring slots", Verdict::Ok, "33554432");
    let few = checks(&host, &Demand { shards: 2, ..direct });
    told(&few, "ring slots", Verdict::Short, "2097152");
    let nofile = find(&few, "nofile");
    assert!(nofile.why.contains("2800000 connections as slots of 2 rings: 1400000"), "{nofile}");
}

#[test]
fn an_installed_unit_is_read_with_its_drop_ins() {
    let host = Host::server();
    let unit = "[Service]\nLimitNOFILE=1048576\nLimitMEMLOCK=64M\n";
    host.write("usr/local/lib/systemd/system/ringtide.service", unit);
    let drop_in = "[Service]\nLimitNOFILE=4096:8192\n";
    host.write("etc/systemd/system/ringtide.service.d/own.conf", drop_in);
    let found = checks(&host, &demand(10_000));
    told(&found, "unit LimitNOFILE", Verdict::Short, "8192");
    told(&found, "unit LimitMEMLOCK", Verdict::Ok, "65536 KiB");
}

#[test]
fn a_file_that_the_boot_reads_later_is_named() {
    let host = Host::server();
    let root = Root::at(host.path());
    let look = || Survey::of(&root, &appliance(), &demand(0));
    apply(&root, &look(), Mode::Change).unwrap();
    host.write("usr/lib/sysctl.d/50-default.conf", "vm.swappiness = 60\n");
    told(&look().checks(), "next boot", Verdict::Ok, "5 of 5 files as wanted");
    let text = "# vm.swappiness = 7\n-vm/swappiness=60\nnet.core.somaxconn = 32768\nkernel.x = 1\n";
    host.write("etc/sysctl.d/99-sysctl.conf", text);
    host.write("lib/sysctl.d/99-sysctl.conf", "net.core.somaxconn = 1\n");
    let found = "5 of 5 files as wanted; /etc/sysctl.d/99-sysctl.conf sets vm.swappiness to 60, \
                 after them";
    told(&look().checks(), "next boot", Verdict::Advice, found);
}

#[test]
fn the_source_s_profile_tells_all_of_its_lines() {
    let host = Host::server();
    let profile = Profile::parse(SOURCE_E, "source-e").unwrap();
    let checks = Survey::of(&Root::at(host.path()), &profile, &demand(2_000_000)).checks();
    for name in ["net.nf_conntrack_max", "fs.file-max", "acceptors=64", "max_clients=1048576"] {
        find(&checks, name);
    }
    // What the number needs is more than the list gives: the list is dated there.
    let table = find(&checks, "net.netfilter.nf_conntrack_max");
    assert_eq!(table.verdict, Verdict::Short);
    assert_eq!(table.wanted, "at least 2000000");
}

#[test]
fn a_start_tells_only_what_is_configured_for() {
    let host = Host::server();
    let short = |demand: &Demand| -> Vec<String> {
        let checks = at_start(&Root::at(host.path()), demand);
        let short = checks.into_iter().filter(|check| check.verdict == Verdict::Short);
        short.map(|check| check.name).collect()
    };
    assert_eq!(short(&demand(0)), Vec::<String>::new());
    assert_eq!(short(&Demand { backlog: 65_535, ..demand(0) }), ["net.core.somaxconn"]);
    let many = ["fs.nr_open", "net.ipv4.tcp_mem", "net.netfilter.nf_conntrack_max"];
    assert_eq!(short(&demand(2_000_000)), many);
    host.set("kernel.osrelease", "5.10.0");
    assert_eq!(short(&demand(0)), ["kernel"]);
    for io_uring in [IoUring::Wanted, IoUring::Unused] {
        assert_eq!(short(&Demand { io_uring, ..demand(0) }), [] as [&str; 0]);
    }
    let nothing = at_start(&Root::at("/nonexistent"), &demand(1_000_000));
    assert!(nothing.iter().all(|check| check.verdict != Verdict::Short), "{nothing:?}");
}

#[test]
fn a_host_without_io_uring_is_advised_where_the_broker_can_do_without() {
    let host = Host::server();
    host.set("kernel.osrelease", "5.10.0");
    host.set("kernel.io_uring_disabled", "2");
    let found = checks(&host, &demand(0));
    told(&found, "kernel", Verdict::Short, "Linux 5.10.0");
    told(&found, "io_uring_disabled", Verdict::Short, "2");
    let found = checks(&host, &Demand { io_uring: IoUring::Wanted, ..demand(0) });
    for (name, value) in [("kernel", "Linux 5.10.0"), ("io_uring_disabled", "2")] {
        told(&found, name, Verdict::Advice, value);
        let check = find(&found, name);
        assert!(!check.failed() && check.to_string().contains("until then epoll"), "{check}");
    }
    let found = checks(&host, &Demand { io_uring: IoUring::Unused, ..demand(0) });
    for name in ["kernel", "io_uring_disabled", "seccomp"] {
        assert!(!found.iter().any(|check| check.name == name), "{name} matters to nobody");
    }
}

/// Text of any kind in the place of what the kernel writes.
fn damage() -> impl Strategy<Value = (usize, String)> {
    (any::<usize>(), prop_oneof!["[ -~\n\t]{0,40}", "[0-9,\\-]{0,30}", "[0-9]{0,30}"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever stands in the files, there is a finding for everything and no panic.
    #[test]
    fn damaged_files_are_told_not_stumbled_over(damages in prop::collection::vec(damage(), 1..8)) {
        let host = Host::server();
        let before = checks(&host, &demand(1_000_000)).len();
        let files: Vec<String> = host
            .everything()
            .into_iter()
            .filter(|(name, what)| what.starts_with("file") && !name.starts_with("etc"))
            .map(|(name, _)| name)
            .collect();
        for (index, text) in damages {
            host.write(&files[index % files.len()], &text);
        }
        prop_assert!(checks(&host, &demand(1_000_000)).len() + 6 >= before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// A host that was made ready for a number of connections has every setting that these need,
    /// and that fewer need, with either profile.
    #[test]
    fn what_is_made_ready_is_enough(
        connections in 1_u64..100_000_000,
        share in 1_u64..=100,
        source in any::<bool>(),
    ) {
        let host = Host::server();
        let root = Root::at(host.path());
        let profile = Profile::parse(if source { SOURCE_E } else { APPLIANCE }, "profile").unwrap();
        let survey = Survey::of(&root, &profile, &demand(connections));
        apply(&root, &survey, Mode::Change).unwrap();
        let again = Survey::of(&root, &profile, &demand(connections));
        let steps = apply(&root, &again, Mode::Change).unwrap();
        prop_assert!(steps.iter().all(|step| step.done == Done::Kept), "{steps:?}");
        for count in [connections, (connections * share / 100).max(1)] {
            let checks = Survey::of(&root, &profile, &demand(count)).checks();
            let of_kernel = checks.iter().filter(|check| check.name.contains('.'));
            let short: Vec<&Check> =
                of_kernel.filter(|check| check.verdict == Verdict::Short).collect();
            prop_assert!(short.is_empty(), "{short:?}");
        }
    }
}
