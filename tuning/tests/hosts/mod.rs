//! Hosts that are folders: the files of `/proc`, `/sys` and `/etc` that the crate reads.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this module")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A host's tree of files, removed when dropped.
pub struct Host {
    top: PathBuf,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.top);
    }
}

impl Host {
    /// A host without any file.
    pub fn empty() -> Host {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringtide-host-{}-{number}", std::process::id());
        let top = std::env::temp_dir().join(name);
        fs::create_dir_all(&top).unwrap();
        Host { top }
    }

    /// A server of 32 processors on two nodes, 128 GB, a card of ten queues on node 0, as it comes
    /// from its distribution. This process is root's.
    pub fn server() -> Host {
        let host = Host::empty();
        host.kernel("6.1.0-18-amd64", 0);
        host.processors(32, 2);
        host.write("proc/meminfo", "MemTotal:       131072000 kB\nMemFree: 1 kB\n");
        host.write("proc/self/cgroup", "0::/user.slice\n");
        host.limits(1_048_576, "8388608");
        host.write("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
        for cpu in 0..32 {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
            host.write(&path, "schedutil\n");
        }
        host.settings();
        host.card("eth0", 10, 0);
        host.write("sys/class/net/lo/mtu", "65536\n");
        host.write("proc/711/comm", "irqbalance\n");
        host.write("etc/sysctl.d/README.sysctl", "Put settings here.\n");
        host.write("etc/security/limits.d/other.conf", "* hard core 0\n");
        host.write("var/lib/misc/one", "1\n");
        host
    }

    /// A small virtual machine: two processors, a virtio card of one queue whose interrupts belong
    /// to the bus above it, control groups of version 1, no connection tracked.
    pub fn small() -> Host {
        let host = Host::empty();
        host.set("kernel.osrelease", "6.18.44");
        host.processors(2, 1);
        host.write("proc/meminfo", "MemTotal:       24660000 kB\n");
        host.write("proc/self/cgroup", "4:memory:/job\n1:cpu:/\n0::/\n");
        host.write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
        host.limits(20_000, "8388608");
        host.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        host.settings();
        host.set("net.netfilter.nf_conntrack_count", "0");
        let bus = "sys/devices/pci0000:00/0000:00:03.0";
        host.write(&format!("{bus}/virtio2/uevent"), "");
        let mut table = String::from("            CPU0       CPU1\n");
        for (irq, label) in [(37, "config"), (38, "input.0"), (39, "output.0")] {
            host.write(&format!("{bus}/msi_irqs/{irq}"), "msix\n");
            host.write(&format!("proc/irq/{irq}/smp_affinity_list"), "0-1\n");
            let line = format!(" {irq}:   1   0  PCI-MSIX-0000:00:03.0  0-edge  virtio2-{label}\n");
            table.push_str(&line);
        }
        host.write("proc/interrupts", &table);
        host.write("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n");
        host.write("sys/class/net/eth0/queues/rx-0/rps_flow_cnt", "0\n");
        host.write("sys/class/net/eth0/queues/tx-0/tx_timeout", "0\n");
        symlink(host.at(&format!("{bus}/virtio2")), host.at("sys/class/net/eth0/device")).unwrap();
        host
    }

    /// A container that was given neither `/sys` nor a writable `/proc`: two processors, a quota
    /// that cannot be seen, a filter of system calls.
    pub fn container() -> Host {
        let host = Host::empty();
        host.kernel("6.8.0-45-generic", 2);
        host.write("proc/meminfo", "MemTotal:       16384000 kB\n");
        host.limits(1024, "65536");
        host.set("kernel.io_uring_disabled", "0");
        host.set("net.core.somaxconn", "4096");
        host
    }

    pub fn path(&self) -> &Path {
        &self.top
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.top.join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A kernel setting.
    pub fn set(&self, key: &str, value: &str) {
        self.write(&setting(key), &format!("{value}\n"));
    }

    pub fn setting(&self, key: &str) -> String {
        self.read(&setting(key)).trim().to_owned()
    }

    /// Release, and what `/proc/self/status` says: root, with or without a seccomp filter.
    fn kernel(&self, release: &str, seccomp: u32) {
        self.set("kernel.osrelease", release);
        self.user(0, seccomp);
    }

    /// Whose this process is.
    pub fn user(&self, uid: u32, seccomp: u32) {
        let cpus = if self.at("sys/devices/system/cpu/cpu31").exists() { "0-31" } else { "0-1" };
        let text = format!(
            "Name:\tringtide\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\n\
             Groups:\t\nSeccomp:\t{seccomp}\nCpus_allowed_list:\t{cpus}\n"
        );
        self.write("proc/self/status", &text);
    }

    fn processors(&self, count: usize, nodes: usize) {
        let cpus = "sys/devices/system/cpu";
        self.write(&format!("{cpus}/online"), &format!("0-{}\n", count - 1));
        self.write(&format!("{cpus}/smt/active"), "1\n");
        for cpu in 0..count {
            self.write(&format!("{cpus}/cpu{cpu}/uevent"), "");
        }
        let each = count / nodes;
        for node in 0..nodes {
            let list = format!("{}-{}\n", node * each, (node + 1) * each - 1);
            self.write(&format!("sys/devices/system/node/node{node}/cpulist"), &list);
        }
        self.user(0, 0);
    }

    fn limits(&self, nofile: u64, memlock: &str) {
        let text = format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max open files            1024                 {nofile}              files     \n\
             Max locked memory         {memlock}              {memlock}              bytes     \n"
        );
        self.write("proc/self/limits", &text);
    }

    /// The settings of Debian 12, and connection tracking with a small table.
    fn settings(&self) {
        for (key, value) in [
            ("fs.file-max", "9223372036854775807"),
            ("fs.nr_open", "1048576"),
            ("kernel.io_uring_disabled", "0"),
            ("kernel.io_uring_group", "-1"),
            ("kernel.numa_balancing", "1"),
            ("net.core.netdev_max_backlog", "1000"),
            ("net.core.optmem_max", "20480"),
            ("net.core.rmem_default", "212992"),
            ("net.core.rmem_max", "212992"),
            ("net.core.rps_sock_flow_entries", "0"),
            ("net.core.somaxconn", "4096"),
            ("net.core.wmem_default", "212992"),
            ("net.core.wmem_max", "212992"),
            ("net.ipv4.ip_local_port_range", "32768\t60999"),
            ("net.ipv4.tcp_fin_timeout", "60"),
            ("net.ipv4.tcp_max_syn_backlog", "4096"),
            ("net.ipv4.tcp_max_tw_buckets", "262144"),
            ("net.ipv4.tcp_mem", "1544025\t2058701\t3088050"),
            ("net.ipv4.tcp_rmem", "4096\t131072\t6291456"),
            ("net.ipv4.tcp_slow_start_after_idle", "1"),
            ("net.ipv4.tcp_syncookies", "1"),
            ("net.ipv4.tcp_wmem", "4096\t16384\t4194304"),
            ("kernel.random.boot_id", "6a0c0000-0000-4000-8000-000000000001"),
            ("net.netfilter.nf_conntrack_buckets", "262144"),
            ("net.netfilter.nf_conntrack_count", "5120"),
            ("net.netfilter.nf_conntrack_max", "262144"),
            ("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "120"),
            ("net.nf_conntrack_max", "262144"),
            ("vm.swappiness", "60"),
            ("vm.zone_reclaim_mode", "0"),
        ] {
            self.set(key, value);
        }
        let line =
            "ipv4 2 tcp 6 431999 ESTABLISHED src=10.0.0.9 dst=10.0.0.1 sport=4711 dport=1883";
        self.write("proc/net/nf_conntrack", &format!("{line} src=10.0.0.1 [ASSURED]\n"));
    }

    /// A card with as many queues each way, one interrupt for each pair and one that is no queue's.
    fn card(&self, name: &str, queues: usize, node: i32) {
        let folder = format!("sys/class/net/{name}");
        self.write(&format!("{folder}/device/numa_node"), &format!("{node}\n"));
        let mut table = String::from("            CPU0       CPU1\n");
        for irq in 40..=40 + queues {
            self.write(&format!("{folder}/device/msi_irqs/{irq}"), "msix\n");
            self.write(&format!("proc/irq/{irq}/smp_affinity_list"), "0-31\n");
            let label = match irq - 40 {
                0 => "ena-mgmnt@pci:0000:00:05.0".to_owned(),
                queue => format!("{name}-Tx-Rx-{}", queue - 1),
            };
            table
                .push_str(&format!(" {irq}:   1   0  IR-PCI-MSIX-0000:00:05.0  0-edge  {label}\n"));
        }
        self.write("proc/interrupts", &table);
        for queue in 0..queues {
            let queues = format!("{folder}/queues");
            self.write(&format!("{queues}/rx-{queue}/rps_cpus"), "00000000\n");
            self.write(&format!("{queues}/rx-{queue}/rps_flow_cnt"), "0\n");
            self.write(&format!("{queues}/tx-{queue}/xps_cpus"), "00000000\n");
        }
    }

    /// A program `ethtool` that tells of offloads, all on but one.
    pub fn ethtool(&self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/ethtool.sh");
        let path = self.at("usr/sbin/ethtool");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(script, path).unwrap();
    }

    /// Every file with its content and mode, every folder with its mode. The file of huge pages is
    /// read as its kernel means it: the word that is chosen.
    pub fn everything(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        self.walk(&self.top, &mut found);
        found
    }

    fn walk(&self, folder: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&self.top).unwrap().to_string_lossy().into_owned();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mode = metadata.permissions().mode();
            let owner = (metadata.uid(), metadata.gid());
            if metadata.is_dir() {
                found.insert(name, format!("folder {mode:o} {owner:?}"));
                self.walk(&path, found);
                continue;
            }
            let mut text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            if name.ends_with("transparent_hugepage/enabled") {
                let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
                text = chosen.map_or(text.trim().to_owned(), |(word, _)| word.to_owned());
            }
            found.insert(name, format!("file {mode:o} {owner:?} {text}"));
        }
    }
}

fn setting(key: &str) -> String {
    format!("proc/sys/{}", key.replace('.', "/"))
}
