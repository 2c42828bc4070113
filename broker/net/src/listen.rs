//! Listening sockets: one per shard on the same address, shared out by the kernel.
//!
//! Owns the making of sockets and the wording of what can go wrong with it; accepting is the
//! driver's business.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

/// How far apart a bind is tried while the port is taken.
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// Questions without an answer after which a silent peer is given up.
const KEEPALIVE_PROBES: u32 = 3;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl ListenAddr {
    /// The TCP port; a Unix socket has none.
    pub fn port(&self) -> Option<u16> {
        match self {
            ListenAddr::Tcp(address) => Some(address.port()),
            ListenAddr::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp(address) => address.fmt(f),
            ListenAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ListenAddr {
    type Err = std::net::AddrParseError;

    /// `ADDRESS:PORT`, `:PORT` (every IPv4 and IPv6 address), or `unix:PATH`.
    fn from_str(text: &str) -> Result<ListenAddr, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(ListenAddr::Unix(PathBuf::from(path)));
        }
        match text.strip_prefix(':') {
            Some(port) => format!("[::]:{port}").parse().map(ListenAddr::Tcp),
            None => text.parse().map(ListenAddr::Tcp),
        }
    }
}

/// How to listen.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Connections that wait to be accepted; the kernel clips it to net.core.somaxconn.
    pub backlog: u32,
    /// Send small segments at once. Accepted sockets inherit this, and all that follows.
    pub nodelay: bool,
    /// Seconds of silence after which the kernel asks whether the peer's host is still there, and
    /// gives it up after three more thirds of that; `None` = it does not ask.
    pub keepalive_s: Option<u32>,
    /// Milliseconds that sent bytes may stay unacknowledged before a connection is given up;
    /// `None` leaves it to the kernel.
    pub user_timeout_ms: Option<u32>,
    /// Bytes of the kernel's send buffer per connection; `None` leaves it to the kernel.
    pub send_buffer_bytes: Option<u32>,
    /// Bytes of the kernel's receive buffer per connection; `None` leaves it to the kernel.
    pub receive_buffer_bytes: Option<u32>,
    /// Permissions of a Unix socket's path.
    pub unix_mode: u32,
    /// How long to wait for a port that is taken: a killed broker's listeners stay in the kernel
    /// for a moment after it.
    pub patience: Duration,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            backlog: 4096,
            nodelay: true,
            keepalive_s: None,
            user_timeout_ms: None,
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            unix_mode: 0o660,
            patience: Duration::from_millis(1500),
        }
    }
}

/// Why an address cannot be listened on. Displays as one line that says what to do.
#[derive(Debug)]
pub struct ListenError {
    /// The address.
    pub addr: ListenAddr,
    /// What the system said.
    pub error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListenError { addr, error } = self;
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                let shows = match addr {
                    ListenAddr::Tcp(_) => "ss -ltnp",
                    ListenAddr::Unix(_) => "ss -lxp",
                };
                write!(
                    f,
                    "cannot listen on {addr}: another process has it; stop that process \
                     (`{shows}` shows it) or choose another address"
                )
            }
            io::ErrorKind::NotFound => write!(
                f,
                "cannot listen on {addr}: there is no such directory; make it, and let the \
                 broker's user write to it"
            ),
            io::ErrorKind::AlreadyExists => write!(
                f,
                "cannot listen on {addr}: what is there is no socket; remove it or choose another \
                 path"
            ),
            io::ErrorKind::PermissionDenied => write!(
                f,
                "cannot listen on {addr}: permission denied; ports below 1024 need \
                 CAP_NET_BIND_SERVICE, a path needs a writable directory"
            ),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "cannot listen on {addr}: this host has no such address")
            }
            _ => write!(f, "cannot listen on {addr}: {error}"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Makes one listening socket.
///
/// # Errors
/// As the system says, see [`ListenError`].
pub fn listen(addr: &ListenAddr, options: &ListenOptions) -> Result<OwnedFd, ListenError> {
    listen_shared(addr, options, 1).map(|mut sockets| sockets.remove(0))
}

/// Makes one listening socket per shard on the same address. Port 0 gives all of them the same
/// free port.
///
/// A Unix path has one queue only: its sockets are duplicates of one.
///
/// # Errors
/// As the system says; also if another process has the port with SO_REUSEPORT, where the system
/// would let both share it and clients would land on either.
pub fn listen_shared(
    addr: &ListenAddr,
    options: &ListenOptions,
    shards: u16,
) -> Result<Vec<OwnedFd>, ListenError> {
    let made = match addr {
        ListenAddr::Tcp(address) => listen_tcp(*address, options, shards),
        ListenAddr::Unix(path) => listen_unix(path, options, shards),
    };
    made.map_err(|error| ListenError { addr: addr.clone(), error })
}

fn tcp_socket(address: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(seconds) = options.keepalive_s {
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(seconds.into()))
            .with_interval(Duration::from_secs(seconds.div_ceil(KEEPALIVE_PROBES).into()))
            .with_retries(KEEPALIVE_PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if let Some(ms) = options.user_timeout_ms {
        socket.set_tcp_user_timeout(Some(Duration::from_millis(ms.into())))?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if address.ip().is_unspecified() && address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

fn listen_tcp(
    address: SocketAddr,
    options: &ListenOptions,
    shards: u16,
) -> io::Result<Vec<OwnedFd>> {
    // SO_REUSEPORT lets any process of the same user join a port in silence. A bind and listen
    // without it fails if anyone is there. With it set afterwards, the others can still join.
    let first = tcp_socket(address, options)?;
    bind_patiently(&first, address, options.patience)?;
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    let bound = first.local_addr()?;
    let mut sockets = Vec::with_capacity(usize::from(shards));
    if shards > 1 {
        first.set_reuse_port(true)?;
    }
    first.listen(backlog)?;
    sockets.push(first.into());
    for _ in 1..shards {
        let socket = tcp_socket(address, options)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound)?;
        socket.listen(backlog)?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

/// Binds; waits a little for a port that seems taken. The kernel closes what a killed process had
/// in its rings, listeners included, some time after the process is gone: a restart must not fail
/// for that.
fn bind_patiently(socket: &Socket, address: SocketAddr, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    loop {
        match socket.bind(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                thread::sleep(BIND_PAUSE);
            }
            other => return other,
        }
    }
}

/// The path of a Unix socket that is listened on. Dropped, it removes the path, unless something
/// else is there by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl SocketFile {
    /// The path of an address that is listened on; `None` for a TCP port.
    ///
    /// # Errors
    /// When the path cannot be looked at.
    pub fn of(addr: &ListenAddr) -> Result<Option<SocketFile>, ListenError> {
        let ListenAddr::Unix(path) = addr else { return Ok(None) };
        match identity(path) {
            Ok(id) => Ok(Some(SocketFile { path: path.clone(), id })),
            Err(error) => Err(ListenError { addr: addr.clone(), error }),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|id| id == self.id) {
            // Left behind, it is recognised by the next start: nobody listens on it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn listen_unix(path: &Path, options: &ListenOptions, shards: u16) -> io::Result<Vec<OwnedFd>> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    remove_stale_patiently(path, &address, options.patience)?;
    socket.bind(&address)?;
    // Nobody can connect before it listens, so there is no moment with other permissions.
    fs::set_permissions(path, fs::Permissions::from_mode(options.unix_mode))?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    let mut sockets = Vec::with_capacity(usize::from(shards));
    for _ in 1..shards {
        sockets.push(socket.try_clone()?.into());
    }
    sockets.push(socket.into());
    Ok(sockets)
}

/// Makes way for a socket; waits a little for one that seems to be listened on, for the same reason
/// as with ports.
fn remove_stale_patiently(path: &Path, address: &SockAddr, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    loop {
        match remove_stale(path, address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                // Each try is a connection to whoever may be there.
                thread::sleep(5 * BIND_PAUSE);
            }
            other => return other,
        }
    }
}

/// Removes the path if it is a socket that nobody listens on any more.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::from(io::ErrorKind::AlreadyExists));
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose queue is full is one all the same.
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::Error::from(io::ErrorKind::AddrInUse)),
    }
}
