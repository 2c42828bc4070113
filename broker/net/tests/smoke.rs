//! The driver against std's sockets: the first things that must work.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ringtide_driver::{Completion, Driver, ListenerId, Outgoing, Token, Wait};
use ringtide_net::{Peers, UringConfig, UringDriver};

fn driver() -> (UringDriver, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peers = Peers::new(1).unwrap();
    let config = UringConfig::new(0, peers, vec![OwnedFd::from(listener)]);
    (UringDriver::new(config, Default::default()).unwrap(), address)
}

fn turn(driver: &mut UringDriver) -> Vec<Completion> {
    driver.submit_and_wait(Wait::AtMost(Duration::from_millis(100))).unwrap();
    std::iter::from_fn(|| driver.next()).collect()
}

fn until<T>(
    driver: &mut UringDriver,
    mut pick: impl FnMut(&mut UringDriver, Completion) -> Option<T>,
) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        for completion in turn(driver) {
            if let Some(found) = pick(driver, completion) {
                return found;
            }
        }
    }
    panic!("the completion did not come");
}

#[test]
fn a_client_is_accepted_echoed_and_closed() {
    let (mut driver, address) = driver();
    driver.start_accept(ListenerId(0));
    let mut client = TcpStream::connect(address).unwrap();
    let (socket, peer) = until(&mut driver, |_, c| match c {
        Completion::Accepted { socket, peer, .. } => Some((socket, peer)),
        _ => None,
    });
    assert_eq!(peer, Some(client.local_addr().unwrap()));
    let token = Token(7);
    driver.start_receive(token, socket);
    for round in 0..3u8 {
        client.write_all(&[round; 100]).unwrap();
        until(&mut driver, |d, c| match c {
            Completion::Received { token: t, buffer } => {
                assert_eq!(t, token);
                let head = d.bytes(buffer).to_vec();
                d.release(buffer);
                d.send(token, socket, Outgoing { head, shared: Vec::new() });
                Some(())
            }
            _ => None,
        });
        turn(&mut driver);
        let mut back = [0; 100];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, [round; 100]);
        assert!(driver.reclaim().is_some());
    }
    driver.close(token, socket);
    until(&mut driver, |_, c| {
        matches!(c, Completion::Closed { token: t } if t == token).then_some(())
    });
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}
