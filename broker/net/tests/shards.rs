//! Several drivers in one process: wakes, hand-overs, shared listeners, hosts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringtide_driver::conformance::loopback::until;
use ringtide_driver::conformance::shards;
use ringtide_driver::{
    Completion, Driver, ListenerId, Outgoing, Socket, Token, Turn, TurnEnd, Wait, Waker,
};
use ringtide_net::host::{ShardContext, ShardError, Shards, run_on_threads};
use ringtide_net::listen::listen_shared;
use ringtide_net::{
    Descriptors, ListenAddr, ListenOptions, Peers, UringConfig, UringDriver, listen,
};
use socket2::SockRef;
use support::driver_of;

#[test]
fn a_thread_wakes_a_sleeping_driver() {
    let peers = Peers::new(1).unwrap();
    let (mut driver, _) = driver_of(0, &peers, |_| {});
    shards::thread_wakes(&mut driver, &peers.waker(0).unwrap());
}

#[test]
fn a_wake_before_the_driver_exists_is_not_lost() {
    let peers = Peers::new(1).unwrap();
    peers.waker(0).unwrap().wake();
    let (mut driver, _) = driver_of(0, &peers, |_| {});
    until(&mut driver, |_, completion| matches!(completion, Completion::Woken).then_some(()));
}

#[test]
fn drivers_wake_each_other() {
    let peers = Peers::new(2).unwrap();
    shards::wake_each_other(move |shard| driver_of(shard, &peers, |_| {}).0);
}

fn hand_over(adjust: fn(&mut UringConfig)) {
    let peers = Peers::new(2).unwrap();
    shards::hand_over(move |shard| driver_of(shard, &peers, adjust));
}

#[test]
fn plain_descriptors_are_handed_over() {
    hand_over(|_| {});
}

#[test]
fn direct_descriptors_are_handed_over() {
    hand_over(|config| config.descriptors = Descriptors::Direct { slots_max: 8 });
}

#[test]
fn a_hand_over_to_nobody_fails_and_closes() {
    let peers = Peers::new(2).unwrap();
    let direct = |config: &mut UringConfig| {
        config.descriptors = Descriptors::Direct { slots_max: 8 };
    };
    shards::hand_over_to_nobody(driver_of(0, &peers, direct), 1);
}

#[test]
fn accepted_sockets_inherit_nodelay() {
    let (fd, address) = support::listener();
    let listener = TcpListener::from(fd);
    let _client = TcpStream::connect(address).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    assert!(accepted.nodelay().unwrap());
}

#[test]
fn a_taken_port_is_refused_whoever_has_it() {
    let options = ListenOptions { patience: Duration::ZERO, ..ListenOptions::default() };
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    // Whether the other one shares its port or not, one socket or several of ours.
    for shared in [1, 3] {
        let theirs = listen_shared(&any, &options, shared).unwrap();
        let address = SockRef::from(&theirs[0]).local_addr().unwrap().as_socket().unwrap();
        for shards in [1, 2] {
            let error = listen_shared(&ListenAddr::Tcp(address), &options, shards).unwrap_err();
            let line = error.to_string();
            assert!(line.contains("another process has it"), "{line}");
            assert!(line.contains(&address.to_string()), "{line}");
        }
    }
}

#[test]
fn a_port_is_free_again_after_its_connections_are_gone() {
    let options = ListenOptions::default();
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let sockets = listen_shared(&any, &options, 2).unwrap();
    let address = SockRef::from(&sockets[0]).local_addr().unwrap().as_socket().unwrap();
    let client = TcpStream::connect(address).unwrap();
    drop((sockets, client));
    assert_eq!(listen_shared(&ListenAddr::Tcp(address), &options, 2).unwrap().len(), 2);
}

#[test]
fn a_port_that_is_given_up_soon_is_waited_for() {
    let options = ListenOptions { patience: Duration::from_secs(60), ..Default::default() };
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let theirs = listen(&any, &options).unwrap();
    let address = SockRef::from(&theirs).local_addr().unwrap().as_socket().unwrap();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        drop(theirs);
    });
    assert!(listen(&ListenAddr::Tcp(address), &options).is_ok());
    thread.join().unwrap();
}

#[test]
fn connections_are_spread_over_the_listeners_of_an_address() {
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let listeners = listen_shared(&any, &ListenOptions::default(), 4).unwrap();
    let address = SockRef::from(&listeners[0]).local_addr().unwrap().as_socket().unwrap();
    let clients: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    let listeners: Vec<_> = listeners.into_iter().map(TcpListener::from).collect();
    let mut accepted = vec![0; listeners.len()];
    // The kernel may be a moment behind with what its clients take for connected.
    let end = Instant::now() + Duration::from_secs(60);
    while accepted.iter().sum::<usize>() < clients.len() {
        assert!(Instant::now() < end, "{accepted:?} of {}", clients.len());
        for (listener, own) in listeners.iter().zip(&mut accepted) {
            listener.set_nonblocking(true).unwrap();
            while listener.accept().is_ok() {
                *own += 1;
            }
        }
    }
    assert!(accepted.iter().all(|own| *own > 0), "a listener got nothing: {accepted:?}");
}

#[test]
fn a_unix_path_is_taken_over_only_when_nobody_listens() {
    let path = std::env::temp_dir().join(format!("ringtide-net-{}.sock", std::process::id()));
    let addr = ListenAddr::Unix(path.clone());
    let options = ListenOptions::default();
    let first = listen(&addr, &options).unwrap();
    assert!(listen(&addr, &options).is_err(), "somebody listens there");
    drop(first);
    listen(&addr, &options).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"not a socket").unwrap();
    assert!(listen(&addr, &options).is_err(), "a file is not taken over");
    assert_eq!(std::fs::read(&path).unwrap(), b"not a socket");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn accepted_sockets_have_the_options_of_their_listener() {
    let options = ListenOptions {
        nodelay: false,
        keepalive_s: Some(90),
        user_timeout_ms: Some(12_345),
        send_buffer_bytes: Some(16_384),
        receive_buffer_bytes: Some(8192),
        ..ListenOptions::default()
    };
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    for (options, set) in [(options, true), (ListenOptions::default(), false)] {
        let listener = TcpListener::from(listen(&any, &options).unwrap());
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = listener.accept().unwrap().0;
        let accepted = SockRef::from(&stream);
        assert_eq!(accepted.tcp_nodelay().unwrap(), !set);
        assert_eq!(accepted.keepalive().unwrap(), set);
        let timeout = set.then_some(Duration::from_millis(12_345));
        assert_eq!(accepted.tcp_user_timeout().unwrap(), timeout);
        if set {
            assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(90));
            assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(30));
            assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 3);
            // The kernel doubles them for its own needs.
            assert_eq!(accepted.send_buffer_size().unwrap(), 2 * 16_384);
            assert_eq!(accepted.recv_buffer_size().unwrap(), 2 * 8192);
        }
    }
}

/// A shard that echoes until it is told to stop.
struct Echo {
    driver: UringDriver,
    sockets: Vec<Socket>,
    stop: Arc<AtomicBool>,
}

impl Turn for Echo {
    fn turn(&mut self) -> TurnEnd {
        if self.stop.load(Ordering::Acquire) {
            return TurnEnd::Done;
        }
        self.driver.submit_and_wait(Wait::AtMost(Duration::from_secs(5))).unwrap();
        while let Some(completion) = self.driver.next() {
            match completion {
                Completion::Accepted { socket, .. } => {
                    let token = Token(self.sockets.len() as u64);
                    self.sockets.push(socket);
                    self.driver.start_receive(token, socket);
                }
                Completion::Received { token, buffer } => {
                    let head = self.driver.bytes(buffer).to_vec();
                    self.driver.release(buffer);
                    let socket = self.sockets[token.0 as usize];
                    self.driver.send(token, socket, Outgoing { head, shared: Vec::new() });
                }
                Completion::Ended { token, .. } => {
                    self.driver.close(token, self.sockets[token.0 as usize]);
                }
                _ => {}
            }
        }
        TurnEnd::Again
    }
}

type Builder = Box<dyn FnOnce(ShardContext) -> Result<Echo, ShardError> + Send>;

/// More shards than this machine has cores, one address, many clients.
fn host(run: impl FnOnce(&[usize], Vec<Builder>) -> Shards) {
    let shards = 3;
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let listeners = listen_shared(&any, &ListenOptions::default(), shards).unwrap();
    let address: SocketAddr =
        SockRef::from(&listeners[0]).local_addr().unwrap().as_socket().unwrap();
    let peers = Peers::new(shards).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let builder = |listener| -> Builder {
        let (peers, stop) = (Arc::clone(&peers), Arc::clone(&stop));
        Box::new(move |context: ShardContext| {
            let mut config = UringConfig::new(context.shard, peers, vec![listener]);
            config.receive_buffers = 16;
            let mut driver = UringDriver::new(config, context.watch)?;
            driver.start_accept(ListenerId(0));
            Ok(Echo { driver, sockets: Vec::new(), stop })
        })
    };
    let running = run(&[0, 1], listeners.into_iter().map(builder).collect());
    let mut clients: Vec<_> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
    for round in 0..20u8 {
        for client in &mut clients {
            client.write_all(&[round; 64]).unwrap();
        }
        for client in &mut clients {
            let mut back = [0; 64];
            client.read_exact(&mut back).unwrap();
            assert_eq!(back, [round; 64]);
        }
    }
    stop.store(true, Ordering::Release);
    for shard in 0..shards {
        peers.waker(shard).unwrap().wake();
    }
    running.join().unwrap();
}

#[test]
fn threads_host_shards() {
    host(|cpus, builders| run_on_threads(cpus, builders).unwrap());
}

#[cfg(feature = "glommio")]
#[test]
fn glommio_hosts_shards() {
    use ringtide_net::host::{ExecutorOptions, run_on_glommio};
    host(|cpus, builders| run_on_glommio(cpus, &ExecutorOptions::default(), builders).unwrap());
}

#[test]
fn a_shard_that_cannot_be_built_says_why() {
    let builder = |_: ShardContext| -> Result<Echo, ShardError> { Err("no such luck".into()) };
    let error = run_on_threads(&[], vec![builder]).unwrap_err();
    assert_eq!(error.to_string(), "no such luck");
    #[cfg(feature = "glommio")]
    {
        use ringtide_net::host::{ExecutorOptions, run_on_glommio};
        let options = ExecutorOptions::default();
        let error = run_on_glommio(&[0], &options, vec![builder]).unwrap_err();
        assert_eq!(error.to_string(), "no such luck");
    }
}

/// Runs for as long as it is told to, or panics.
struct Clockwork(Option<u32>);

impl Turn for Clockwork {
    fn turn(&mut self) -> TurnEnd {
        match &mut self.0 {
            Some(0) => TurnEnd::Done,
            Some(left) => {
                *left -= 1;
                thread::sleep(Duration::from_millis(1));
                TurnEnd::Again
            }
            None => panic!("as the test wants it"),
        }
    }
}

#[test]
fn shards_that_end_while_others_start_are_counted() {
    let builder = |_: ShardContext| -> Result<Clockwork, ShardError> { Ok(Clockwork(Some(3))) };
    run_on_threads(&[], vec![builder; 20]).unwrap().join().unwrap();
}

#[test]
fn a_shard_that_panics_is_reported_while_others_run() {
    let builder = |context: ShardContext| -> Result<Clockwork, ShardError> {
        Ok(Clockwork((context.shard == 0).then_some(u32::MAX)))
    };
    let started = run_on_threads(&[], vec![builder; 2]);
    let error = started.map_err(ShardError::from).and_then(Shards::join).unwrap_err();
    assert_eq!(error.to_string(), "a shard panicked");
}

/// Runs for ever as shard 0; as any other it fails at once.
struct Failing(bool);

impl Turn for Failing {
    fn turn(&mut self) -> TurnEnd {
        thread::sleep(Duration::from_millis(1));
        if self.0 { TurnEnd::Done } else { TurnEnd::Again }
    }

    fn failure(&self) -> Option<String> {
        self.0.then(|| "the disk is gone".to_owned())
    }
}

#[test]
fn a_shard_that_fails_is_no_orderly_end() {
    let builder =
        |context: ShardContext| -> Result<Failing, ShardError> { Ok(Failing(context.shard != 0)) };
    let started = run_on_threads(&[], vec![builder; 2]);
    let error = started.map_err(ShardError::from).and_then(Shards::join).unwrap_err();
    assert_eq!(error.to_string(), "the disk is gone");
    #[cfg(feature = "glommio")]
    {
        use ringtide_net::host::{ExecutorOptions, run_on_glommio};
        let alone = |_: ShardContext| -> Result<Failing, ShardError> { Ok(Failing(true)) };
        let running = run_on_glommio(&[0], &ExecutorOptions::default(), vec![alone]).unwrap();
        assert_eq!(running.join().unwrap_err().to_string(), "the disk is gone");
    }
}

#[cfg(feature = "glommio")]
#[test]
fn glommio_tasks_run_beside_a_shard() {
    use ringtide_net::host::{ExecutorOptions, run_on_glommio};

    /// A shard that sleeps in its ring while a task of the executor counts timer ticks.
    struct Sleeper {
        driver: UringDriver,
        ticks: std::rc::Rc<std::cell::Cell<u32>>,
    }

    impl Turn for Sleeper {
        fn turn(&mut self) -> TurnEnd {
            self.driver.submit_and_wait(Wait::AtMost(Duration::from_secs(30))).unwrap();
            while self.driver.next().is_some() {}
            if self.ticks.get() < 5 { TurnEnd::Again } else { TurnEnd::Done }
        }
    }

    let peers = Peers::new(1).unwrap();
    let builder = move |context: ShardContext| -> Result<Sleeper, ShardError> {
        let config = UringConfig::new(0, peers, Vec::new());
        let driver = UringDriver::new(config, context.watch)?;
        let ticks = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = std::rc::Rc::clone(&ticks);
        glommio::spawn_local(async move {
            loop {
                glommio::timer::sleep(Duration::from_millis(1)).await;
                counted.set(counted.get() + 1);
            }
        })
        .detach();
        Ok(Sleeper { driver, ticks })
    };
    let start = Instant::now();
    let options = ExecutorOptions { guests: true, ..ExecutorOptions::default() };
    run_on_glommio(&[0], &options, vec![builder]).unwrap().join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(25), "the task was starved");
}
