//! Threads that take the time of one processor, so that the shard which is pinned to it falls
//! behind the others: what they have sent it then waits between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Each gets as much of the processor as the shard does.
const THREADS: usize = 8;

/// See the module's documentation. They end with this.
pub(crate) struct Busy {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    pub(crate) fn on(cpu: usize) -> Busy {
        let end = Arc::new(AtomicBool::new(false));
        let run = |_| {
            let end = Arc::clone(&end);
            std::thread::spawn(move || {
                let mut cpus = CpuSet::new();
                cpus.set(cpu);
                // The broker runs there, so this process may, too: it has the same limits.
                sched_setaffinity(None, &cpus).expect("a processor on which the broker runs");
                while !end.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..THREADS).map(run).collect();
        Busy { end, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("it only counts");
        }
    }
}
