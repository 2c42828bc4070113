use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;

use super::*;

fn pair(io: &mut EpollIo) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = io.adopt(stream).unwrap();
    (socket, listener.accept().unwrap().0)
}

fn turn(io: &mut EpollIo) -> Vec<Completion> {
    io.submit_and_wait(Wait::AtMost(Duration::from_secs(5))).unwrap();
    std::iter::from_fn(|| io.next()).collect()
}

#[test]
fn bytes_arrive_and_the_end_is_seen() {
    let mut io = EpollIo::new().unwrap();
    let (socket, mut peer) = pair(&mut io);
    io.start_receive(Token(9), socket);
    peer.write_all(b"hello").unwrap();
    io.submit_and_wait(Wait::AtMost(Duration::from_secs(5))).unwrap();
    let Some(Completion::Received { token, buffer }) = io.next() else { panic!("no bytes") };
    assert_eq!((token, io.bytes(buffer)), (Token(9), &b"hello"[..]));
    drop(peer);
    let ended = turn(&mut io);
    assert!(matches!(ended[..], [Completion::Ended { token: Token(9), errno: 0 }]));
    io.close(Token(9), socket);
    assert!(matches!(turn(&mut io)[..], [Completion::Closed { token: Token(9) }]));
}

#[test]
fn a_full_socket_stalls_and_all_bytes_come_in_order() {
    let mut io = EpollIo::new().unwrap();
    let (socket, mut peer) = pair(&mut io);
    let part = Bytes::from((0..8 << 20).map(|n: u32| n as u8).collect::<Vec<_>>());
    let shared = vec![(1, part.clone()), (2, part.clone())];
    let data = Outgoing { head: b"abc".to_vec(), shared };
    let mut expected = b"a".to_vec();
    for byte in [b'b', b'c'] {
        expected.extend_from_slice(&part);
        expected.push(byte);
    }
    io.start_receive(Token(1), socket);
    io.send(Token(1), socket, data);
    let stalled = io.next();
    assert!(matches!(stalled, Some(Completion::SendStalled { token: Token(1) })), "{stalled:?}");
    let len = expected.len();
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; len];
        peer.read_exact(&mut bytes).map(|()| bytes)
    });
    let mut turns = 0;
    while !turn(&mut io).iter().any(|c| matches!(c, Completion::Sent { token: Token(1) })) {
        turns += 1;
        assert!(turns < 100_000);
    }
    assert!(reader.join().unwrap().unwrap() == expected);
}

#[test]
fn a_listener_accepts_all_that_wait() {
    let mut io = EpollIo::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    io.listen(listener).unwrap();
    let _peers: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    // The kernel may be a moment behind with what its clients take for connected.
    let mut accepted = Vec::new();
    while accepted.len() < 3 {
        accepted.extend(turn(&mut io));
    }
    assert_eq!(accepted.len(), 3);
    assert!(accepted.iter().all(|c| matches!(c, Completion::Accepted { peer: Some(_), .. })));
}
