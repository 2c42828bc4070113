//! Runs a test against one broker for each shard count of the matrix. The brokers of a test file
//! are started once and shared by its tests, which keep apart by their names.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::broker::{Broker, Settings, target};
use super::client::Client;
use super::packet::Connect;
use super::{V5, V31, V311};

/// The brokers of one test file.
pub struct Fleet {
    settings: fn(u32) -> Settings,
    brokers: OnceLock<Vec<Broker>>,
}

/// The shard counts to test with.
pub fn shard_counts() -> Vec<u32> {
    let list = std::env::var("RINGTIDE_TEST_SHARDS").unwrap_or_else(|_| "1,3".to_owned());
    list.split(',').map(|n| n.trim().parse().expect("RINGTIDE_TEST_SHARDS=1,3")).collect()
}

impl Fleet {
    pub const fn new(settings: fn(u32) -> Settings) -> Fleet {
        Fleet { settings, brokers: OnceLock::new() }
    }

    fn brokers(&self) -> &[Broker] {
        self.brokers.get_or_init(|| match target() {
            Some(address) => vec![Broker::external(&address)],
            None => {
                let start = |n| Broker::start_guarded(&(self.settings)(n));
                shard_counts().into_iter().map(start).collect()
            }
        })
    }

    /// Runs a test on every broker, all at the same time. Prints the broker's log if it fails.
    pub fn run(&self, name: &str, test: impl Fn(&Cx<'_>) + Sync) {
        if target().is_some() && !(self.settings)(1).is_plain() {
            eprintln!("{name}: skipped: a foreign broker cannot be given the configuration");
            return;
        }
        let brokers = self.brokers();
        std::thread::scope(|scope| {
            let start = |broker| {
                let test = &test;
                scope.spawn(move || run_one(name, broker, test))
            };
            let runs: Vec<_> = brokers.iter().map(start).collect();
            for run in runs {
                if let Err(panic) = run.join() {
                    resume_unwind(panic);
                }
            }
        });
    }
}

/// The end of the log is what matters.
const LOG_LINES_SHOWN: usize = 60;

fn run_one(name: &str, broker: &Broker, test: &(impl Fn(&Cx<'_>) + Sync)) {
    let cx = Cx::new(name, broker);
    let outcome = catch_unwind(AssertUnwindSafe(|| test(&cx)));
    let Err(panic) = outcome else { return };
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic");
    let log = broker.log_text();
    let lines: Vec<&str> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    panic!(
        "{name} with {} shards (running: {}): {text}\n--- the broker's log ends with\n{}",
        broker.shards,
        broker.is_running(),
        tail.join("\n")
    );
}

/// One run of one test: its broker, and names that no other run uses.
pub struct Cx<'a> {
    pub broker: &'a Broker,
    tag: String,
}

static RUNS: AtomicU32 = AtomicU32::new(0);

impl<'a> Cx<'a> {
    pub fn new(name: &str, broker: &'a Broker) -> Cx<'a> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let n = RUNS.fetch_add(1, Ordering::Relaxed);
        let short: String = name.chars().take(7).collect();
        let tag = format!("{short}-{:x}{:x}-{n}", std::process::id(), now.subsec_nanos());
        Cx { broker, tag }
    }

    /// A topic of this run.
    pub fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.tag)
    }

    /// A client id of this run.
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    /// A CONNECT of 5.0 under an id of this run, Clean Start 1.
    pub fn v5(&self, name: &str) -> Connect {
        Connect::new(V5, &self.id(name))
    }

    /// A CONNECT of 3.1.1, CleanSession 1.
    pub fn v311(&self, name: &str) -> Connect {
        Connect::new(V311, &self.id(name))
    }

    /// A CONNECT of 3.1, CleanSession 1.
    pub fn v31(&self, name: &str) -> Connect {
        Connect::new(V31, &self.id(name))
    }

    pub fn version(&self, version: u8, name: &str) -> Connect {
        Connect::new(version, &self.id(name))
    }

    /// Connects and expects to be accepted.
    pub fn connect(&self, connect: Connect) -> Client {
        Client::connect(&self.broker.address, &connect)
    }

    /// Sends a CONNECT and leaves the answer to the test.
    pub fn attempt(&self, connect: &Connect) -> Client {
        let mut client = self.raw(connect.version);
        client.send(&connect.encode());
        client
    }

    /// A connection on which nothing was sent.
    pub fn raw(&self, version: u8) -> Client {
        Client::raw(&self.broker.address, version)
    }

    /// A subscriber of 5.0 that is there already.
    pub fn watcher(&self, filter: &str, options: u8) -> Client {
        let n = RUNS.fetch_add(1, Ordering::Relaxed);
        let mut client = self.connect(self.v5(&format!("watcher{n}")));
        let code = client.subscribe(filter, options);
        assert!(code < 0x80, "SUBACK {code:#04x} for {filter}");
        client
    }

    /// A publisher of 5.0 that is there already.
    pub fn publisher(&self) -> Client {
        let n = RUNS.fetch_add(1, Ordering::Relaxed);
        self.connect(self.v5(&format!("publisher{n}")))
    }
}
