//! The HTTP answers of a WebSocket port: short, plain text, and then the connection is closed.

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    UpgradeRequired,
    HeaderTooLarge,
    VersionNotSupported,
}

impl Status {
    /// The status line's end, and headers that belong to it.
    fn lines(self) -> (&'static str, &'static str) {
        match self {
            Status::BadRequest => ("400 Bad Request", ""),
            Status::Forbidden => ("403 Forbidden", ""),
            Status::NotFound => ("404 Not Found", ""),
            Status::MethodNotAllowed => ("405 Method Not Allowed", "Allow: GET\r\n"),
            Status::UpgradeRequired => {
                ("426 Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
            }
            Status::HeaderTooLarge => ("431 Request Header Fields Too Large", ""),
            Status::VersionNotSupported => ("505 HTTP Version Not Supported", ""),
        }
    }
}

/// Writes a refusal with its reason as the body.
pub(super) fn refuse(status: Status, reason: &str, wire: &mut Vec<u8>) {
    let (line, headers) = status.lines();
    let connection = match status {
        Status::UpgradeRequired => "Upgrade, close",
        _ => "close",
    };
    let answer = format!(
        "HTTP/1.1 {line}\r\n{headers}Connection: {connection}\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{reason}\n",
        reason.len() + 1
    );
    wire.extend_from_slice(answer.as_bytes());
}

/// Writes the answer that grants an upgrade.
//= [MQTT-6.0.0-4]
//= 3.1.1 [MQTT-6.0.0-4]
pub(super) fn accept(accept_key: &str, protocol: &str, wire: &mut Vec<u8>) {
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept_key}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    wire.extend_from_slice(answer.as_bytes());
}
