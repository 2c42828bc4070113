//! WebSocket (RFC 6455) from the client's side: frames written and strictly read, and a tunnel
//! through which any test's TCP client speaks to a WebSocket listener. Shares no code with the
//! broker. Must not know MQTT.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use super::PATIENCE;

pub const CONTINUE: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
/// The bit of a message's last frame.
pub const FIN: u8 = 0x80;

/// The example key of the RFC and what must be answered to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The request for an upgrade.
pub fn request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// A masked frame; `first` is the opcode, with `FIN` for a message's last.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    // Any mask will do: it follows from the payload so that runs are the same.
    let mask = [0x5A, payload.len() as u8, payload.first().copied().unwrap_or(0), 0xC3];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, own)| byte ^ own));
    bytes
}

/// A frame of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a Close.
    pub fn code(&self) -> u16 {
        assert_eq!(self.opcode, CLOSE, "{self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

/// One connection to a WebSocket listener.
pub struct WebSocket {
    stream: TcpStream,
}

impl WebSocket {
    /// A connection on which nothing was sent.
    pub fn raw(address: &str) -> WebSocket {
        let stream = TcpStream::connect(address).expect("the broker accepts connections");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        WebSocket { stream }
    }

    /// A connection whose upgrade was granted.
    pub fn open(address: &str) -> WebSocket {
        let mut socket = WebSocket::raw(address);
        socket.send(request("/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n").as_bytes());
        let (head, _) = socket.answer();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let has = |line: &str| head.lines().any(|own| own.eq_ignore_ascii_case(line));
        assert!(has(&format!("Sec-WebSocket-Accept: {ACCEPT}")), "{head}");
        assert!(has("Sec-WebSocket-Protocol: mqtt"), "{head}");
        assert!(has("Upgrade: websocket") && has("Connection: Upgrade"), "{head}");
        socket
    }

    /// Sends bytes; a connection that the server has closed is no error here.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends bytes as one whole binary message.
    pub fn send_message(&mut self, payload: &[u8]) {
        self.send(&frame(FIN | BINARY, payload));
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The HTTP answer: its headers, and its body if it has a length.
    pub fn answer(&mut self) -> (String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.exactly(1).expect("an HTTP answer"));
        }
        let head = String::from_utf8(head).expect("text");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length = length.map_or(0, |length| length.parse().expect("a number"));
        let body = self.exactly(length).expect("the body of an HTTP answer");
        (head, String::from_utf8(body).expect("text"))
    }

    fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The next frame, checked against what holds for every frame of this server; none at the end
    /// of the stream.
    pub fn frame(&mut self) -> Option<Frame> {
        let [first, second] = self.exactly(2)?[..] else { return None };
        assert_eq!(first & 0x70, 0, "a reserved bit is set");
        assert_eq!(first & FIN, FIN, "the broker does not fragment");
        assert_eq!(second & 0x80, 0, "a server's frame is not masked");
        let length = match second {
            126 => {
                let length = self.exactly(2)?.iter().fold(0, |n, b| n << 8 | usize::from(*b));
                assert!(length >= 126, "a length of {length} in two bytes");
                length
            }
            127 => {
                let length = self.exactly(8)?.iter().fold(0, |n, b| n << 8 | usize::from(*b));
                assert!(length >= 65_536, "a length of {length} in eight bytes");
                length
            }
            length => usize::from(length),
        };
        let opcode = first & 0x0F;
        assert!([BINARY, CLOSE, PING, PONG].contains(&opcode), "opcode {opcode}");
        Some(Frame { opcode, payload: self.exactly(length)? })
    }

    /// The next frame, which must come.
    #[track_caller]
    pub fn expect_frame(&mut self) -> Frame {
        self.frame().expect("a frame")
    }

    /// Bytes of binary messages, so many or more.
    #[track_caller]
    pub fn expect_bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let frame = self.expect_frame();
            assert_eq!(frame.opcode, BINARY, "{frame:?}");
            bytes.extend(frame.payload);
        }
        bytes
    }

    /// Expects a Close with this code and the end of the stream.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) {
        let mut frame = self.expect_frame();
        while frame.opcode != CLOSE {
            frame = self.expect_frame();
        }
        assert_eq!(frame.code(), code, "{frame:?}");
        assert_eq!(self.frame(), None, "nothing follows a Close");
    }
}

/// Where TCP clients reach a WebSocket listener: each connection becomes a WebSocket, and what is
/// sent on it frames of all sizes, fragments and pings in between.
pub fn tunnel(address: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let own = listener.local_addr().expect("an address").to_string();
    let address = address.to_owned();
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let Ok(client) = client else { continue };
            let address = address.clone();
            std::thread::spawn(move || carry(client, &address, number as u64 + 1));
        }
    });
    own
}

fn carry(client: TcpStream, address: &str, seed: u64) {
    let Ok(stream) = TcpStream::connect(address) else { return };
    let _ = (stream.set_nodelay(true), client.set_nodelay(true));
    let mut server = WebSocket { stream };
    server.send(request("/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n").as_bytes());
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match server.exactly(1) {
            Some(byte) => head.extend(byte),
            None => {
                let _ = client.shutdown(Shutdown::Both);
                return;
            }
        }
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    let (Ok(from), Ok(to)) = (client.try_clone(), server.stream.try_clone()) else { return };
    std::thread::spawn(move || wrap(from, to, seed));
    unwrap(server, client);
}

/// From the server's frames to the client's bytes.
fn unwrap(mut server: WebSocket, mut client: TcpStream) {
    while let Some(frame) = server.frame() {
        match frame.opcode {
            BINARY if client.write_all(&frame.payload).is_err() => break,
            CLOSE => break,
            _ => {}
        }
    }
    let _ = (client.shutdown(Shutdown::Both), server.stream.shutdown(Shutdown::Both));
}

/// From the client's bytes to frames.
fn wrap(mut client: TcpStream, mut server: TcpStream, seed: u64) {
    let mut dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut throw = |n: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice % n
    };
    let mut chunk = vec![0; 64 << 10];
    while let Ok(length @ 1..) = client.read(&mut chunk) {
        let mut rest = &chunk[..length];
        let mut bytes = Vec::new();
        let mut opcode = BINARY;
        while !rest.is_empty() {
            let most = [1, 10, 300, 70_000][throw(4) as usize].min(rest.len() as u64);
            let (piece, after) = rest.split_at(1 + throw(most) as usize);
            rest = after;
            let last = rest.is_empty() || throw(2) == 0;
            bytes.extend(frame(if last { FIN | opcode } else { opcode }, piece));
            opcode = if last { BINARY } else { CONTINUE };
            if throw(8) == 0 {
                bytes.extend(frame(FIN | PING, b"still there?"));
            }
        }
        // The end of the read may be in the middle of a frame's header.
        let (first, second) = bytes.split_at(throw(bytes.len() as u64) as usize);
        if server.write_all(first).and_then(|()| server.write_all(second)).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Write);
}
