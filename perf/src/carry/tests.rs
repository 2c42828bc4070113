use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::identity::Identity;
use super::link::{Transport, Way};
use super::*;
use crate::epoll::EpollIo;

const TOKEN: Token = Token(5);
const TIME_MAX: Duration = Duration::from_secs(60);

/// A folder with an identity, removed when dropped.
struct Folder(PathBuf, Identity);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("carry-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let identity = Identity::make(&path).unwrap();
        Folder(path, identity)
    }

    fn server(&self) -> ServerSide {
        let read = |path| std::fs::read(path).unwrap();
        ServerSide::new(&read(&self.1.certificate), &read(&self.1.key)).unwrap()
    }

    fn link(&self, resume: bool) -> Link {
        let ca = Some(self.1.ca.clone());
        Link::new(&Way { transport: Transport::Tls, ca, resume, ..Way::default() }).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A client and the server that it is connected to, on one thread.
struct Pair {
    client: Carried<EpollIo>,
    server: Carried<EpollIo>,
    socket: Socket,
    accepted: Option<Socket>,
}

impl Pair {
    fn new(link: Link, side: ServerSide) -> Pair {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut io = EpollIo::new().unwrap();
        io.listen(listener).unwrap();
        let mut client = Carried::client(EpollIo::new().unwrap(), link);
        let socket = client.adopt(stream).unwrap();
        client.start_receive(TOKEN, socket);
        Pair { client, server: Carried::server(io, side), socket, accepted: None }
    }

    /// Lets the server send back what it gets, until the client has as much, or why not.
    fn echo(&mut self, wanted: usize) -> Result<Vec<u8>, String> {
        let began = Instant::now();
        let (mut got, mut owed, mut stalled) = (Vec::new(), Vec::new(), false);
        while got.len() < wanted {
            assert!(began.elapsed() < TIME_MAX, "{} of {wanted} bytes", got.len());
            let wait = Wait::AtMost(Duration::from_millis(1));
            self.client.submit_and_wait(wait).map_err(|error| error.to_string())?;
            while let Some(completion) = self.client.next() {
                if let Completion::Received { token, buffer } = completion {
                    assert_eq!(token, TOKEN);
                    got.extend_from_slice(self.client.bytes(buffer));
                    self.client.release(buffer);
                }
            }
            self.server.submit_and_wait(wait).map_err(|error| error.to_string())?;
            while let Some(completion) = self.server.next() {
                match completion {
                    Completion::Accepted { socket, .. } => {
                        self.server.start_receive(TOKEN, socket);
                        self.accepted = Some(socket);
                    }
                    Completion::Received { buffer, .. } => {
                        owed.extend_from_slice(self.server.bytes(buffer));
                        self.server.release(buffer);
                    }
                    Completion::SendStalled { .. } => stalled = true,
                    Completion::Sent { .. } => stalled = false,
                    _ => {}
                }
            }
            if let Some(socket) = self.accepted.filter(|_| !stalled && !owed.is_empty()) {
                let head = std::mem::take(&mut owed);
                self.server.send(TOKEN, socket, Outgoing { head, shared: Vec::new() });
            }
        }
        Ok(got)
    }
}

#[test]
fn what_is_sent_before_the_handshake_is_done_and_after_comes_back_whole() {
    let folder = Folder::new("echo");
    let link = folder.link(false);
    let mut pair = Pair::new(link.clone(), folder.server());
    let large: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let shared = vec![(2, large.clone().into())];
    pair.client.send(TOKEN, pair.socket, Outgoing { head: b"abcd".to_vec(), shared });
    let wanted = [&b"ab"[..], &large, b"cd"].concat();
    assert!(pair.echo(wanted.len()).unwrap() == wanted);
    let head = b"again".to_vec();
    pair.client.send(TOKEN, pair.socket, Outgoing { head, shared: Vec::new() });
    assert_eq!(pair.echo(5).unwrap(), b"again");
    let notes = link.notes();
    assert!(notes[1].starts_with("TLSv1_3 TLS13_AES_128_GCM_SHA256; 1 full"), "{notes:?}");
}

#[test]
fn a_certificate_of_somebody_else_ends_the_run() {
    let (folder, other) = (Folder::new("one"), Folder::new("other"));
    let told = Pair::new(other.link(false), folder.server()).echo(1).unwrap_err();
    assert!(told.contains("TLS: invalid peer certificate"), "{told}");
}
