//! Prints what a connection at rest takes, and handshakes and records per second of processor.
//!
//! `cargo bench -p ringtide-tls --bench tls`. Only the server's side counts: clients' work is done
//! between the measured parts. Times are of this thread's processor time; memory is what was asked
//! of the allocator.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::authority::Authority;
use common::{ClientSide, NAME, TLS_1_2, TLS_1_3, acceptor, material};
use ringtide_tls::{Acceptor, ClientCertificates, Connection, Material};
use rustls::{ClientConnection, SupportedProtocolVersion};

/// Connections of one measurement.
const CONNECTIONS: usize = 2000;
/// Bytes that go each way to measure records.
const STREAM_BYTES: usize = 256 << 20;

fn main() {
    let authority = Authority::new("bench");
    let own = authority.client("meter-7", 7);
    let plain = material(&authority);
    let client_ca = authority.certificate.clone().into_bytes();
    let mutual = Material {
        client_certificates: ClientCertificates::Required,
        client_ca,
        ..material(&authority)
    };
    for (name, versions) in [("TLS 1.3", TLS_1_3), ("TLS 1.2", TLS_1_2)] {
        handshakes(name, &acceptor(&plain), &ClientSide::new(&authority, versions, None));
        let side = ClientSide::new(&authority, versions, Some(&own));
        handshakes(&format!("{name}, client certificate"), &acceptor(&mutual), &side);
        records(name, &acceptor(&plain), &authority, versions);
    }
}

/// Processor time of this thread; up to one tick late.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// What the server's side has cost.
#[derive(Default)]
struct Cost {
    time: Duration,
    bytes: i64,
}

impl Cost {
    fn count(&mut self, work: impl FnOnce()) {
        let begin = processor_time();
        let info = allocation_counter::measure(work);
        self.time += processor_time().saturating_sub(begin);
        self.bytes += info.bytes_current;
    }
}

/// Full handshakes, then as many with the tickets that those gave.
fn handshakes(name: &str, acceptor: &Acceptor, side: &ClientSide) {
    let mut cost = Cost::default();
    let sides: Vec<ClientSide> = (0..CONNECTIONS)
        .map(|_| {
            let mut config = side.config.clone();
            config.resumption = rustls::client::Resumption::in_memory_sessions(2);
            ClientSide { config }
        })
        .collect();
    for resumed in [false, true] {
        let clients = sides.iter().map(|side| side.connect(NAME)).collect();
        let servers = shake(acceptor, clients, &mut cost);
        assert!(servers.iter().all(|server| server.peer().resumed == resumed));
        let rate = CONNECTIONS as f64 / cost.time.as_secs_f64();
        let bytes = cost.bytes / CONNECTIONS as i64;
        let kind = if resumed { "resumed" } else { "full" };
        println!("{name}: {kind}: {rate:.0} handshakes/core-second, {bytes} B at rest");
        cost = Cost::default();
    }
}

/// Carries the handshakes of all clients to their ends, round by round.
fn shake(
    acceptor: &Acceptor,
    mut clients: Vec<ClientConnection>,
    cost: &mut Cost,
) -> Vec<Connection> {
    let mut servers = Vec::with_capacity(clients.len());
    cost.count(|| servers.extend(clients.iter().map(|_| Connection::new(acceptor).unwrap())));
    let mut sent: Vec<Vec<u8>> = clients.iter().map(|_| Vec::with_capacity(4096)).collect();
    let mut out: Vec<Vec<u8>> = clients.iter().map(|_| Vec::with_capacity(8192)).collect();
    let mut plain = Vec::new();
    // Two rounds are the handshake; the third takes the tickets.
    for _ in 0..3 {
        for (client, sent) in clients.iter_mut().zip(&mut sent) {
            sent.clear();
            while client.wants_write() {
                client.write_tls(sent).unwrap();
            }
        }
        cost.count(|| {
            for ((server, sent), out) in servers.iter_mut().zip(&mut sent).zip(&mut out) {
                out.clear();
                server.receive(sent, &mut plain, out).unwrap();
            }
        });
        for (client, out) in clients.iter_mut().zip(&out) {
            let mut rest = &out[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().unwrap();
            }
        }
    }
    assert!(servers.iter().all(|server| !server.is_handshaking()));
    servers
}

/// Records of 16 KiB, and of 256 bytes, each way.
fn records(
    name: &str,
    acceptor: &Acceptor,
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) {
    let mut client = ClientSide::new(authority, versions, None).connect(NAME);
    client.set_buffer_limit(None);
    let mut link = common::Link::new(acceptor, client).handshake();
    for size in [16 << 10, 256] {
        let data = vec![7; size];
        let count = STREAM_BYTES / size / if size < 1024 { 16 } else { 1 };
        let (mut down, mut up) = (Duration::ZERO, Duration::ZERO);
        let mut buffer = vec![0; 1 << 16];
        let (mut sent, mut plain, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count.div_ceil(64) {
            for _ in 0..64 {
                link.client.writer().write_all(&data).unwrap();
            }
            sent.clear();
            while link.client.wants_write() {
                link.client.write_tls(&mut sent).unwrap();
            }
            plain.clear();
            let begin = processor_time();
            for piece in sent.chunks_mut(4096) {
                link.server.receive(piece, &mut plain, &mut out).unwrap();
            }
            up += processor_time().saturating_sub(begin);
            assert_eq!(plain.len(), 64 * size);
            out.clear();
            let begin = processor_time();
            for _ in 0..64 {
                link.server.send(&data, &mut out).unwrap();
            }
            down += processor_time().saturating_sub(begin);
            let mut rest = &out[..];
            while !rest.is_empty() {
                link.client.read_tls(&mut rest).unwrap();
                link.client.process_new_packets().unwrap();
                while let Ok(1..) = link.client.reader().read(&mut buffer) {}
            }
        }
        let bytes = (count.div_ceil(64) * 64 * size) as f64;
        let rate = |time: Duration| bytes / time.as_secs_f64() / 1e6;
        let each = |time: Duration| time.as_nanos() / (count.div_ceil(64) * 64) as u128;
        println!(
            "{name}: records of {size} B: received {:.0} MB/s ({} ns each), \
             sent {:.0} MB/s ({} ns each)",
            rate(up),
            each(up),
            rate(down),
            each(down)
        );
    }
}
