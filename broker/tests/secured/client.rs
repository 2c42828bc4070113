//! TLS for the tests: certificates of an authority of the test's own, brokers that use them, and a
//! client's side of rustls in front of [`Client`].
//!
//! A connection's TLS is undone between two sockets: what the test's client sees is a plain stream.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion, version,
};

use crate::authority::{Authority, Pair};
use crate::common::broker::scratch;
use crate::common::{Broker, Client, Connect, PATIENCE, Settings, eventually};

/// The name in the server's certificate.
pub const NAME: &str = "broker.example";
pub const TLS_1_2: &[&SupportedProtocolVersion] = &[&version::TLS12];
pub const TLS_1_3: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// A folder with the files of one broker's TLS.
pub struct Files {
    pub dir: PathBuf,
    pub authority: Authority,
}

impl Files {
    /// With the authority's certificate in `ca.crt` and a certificate for [`NAME`] in `server.crt`
    /// and `server.key`.
    pub fn new() -> Files {
        let files = Files { dir: scratch(), authority: Authority::new("test authority") };
        files.write("ca.crt", &files.authority.certificate);
        files.write_pair("server", &files.authority.server(&[NAME, "127.0.0.1"]));
        files
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Writes a file beside its place and moves it there, as who renews a certificate does.
    pub fn write(&self, name: &str, text: &str) {
        let new = self.dir.join(format!("{name}.new"));
        let _ = fs::remove_file(&new);
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&new).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        fs::rename(new, self.dir.join(name)).unwrap();
    }

    pub fn write_pair(&self, name: &str, pair: &Pair) {
        self.write(&format!("{name}.crt"), &pair.certificate);
        self.write(&format!("{name}.key"), &pair.key);
    }

    /// A listener's section: `keys` are of the listener, `tls` of its TLS.
    pub fn listener(&self, name: &str, transport: &str, keys: &str, tls: &str) -> String {
        let (certificate, key) = (self.path("server.crt"), self.path("server.key"));
        format!(
            "[[listeners]]\nname = \"{name}\"\nbind = \"@LISTEN@\"\ntransport = \"{transport}\"\n\
             {keys}\n[listeners.tls]\n{tls}\n[[listeners.tls.certificates]]\n\
             certificate = \"{certificate}\"\nkey = \"{key}\"\n"
        )
    }

    /// A broker with a listener of TLS called `secured` and one of TCP called `plain`.
    pub fn broker(&self, shards: u32, keys: &str, tls: &str) -> Broker {
        let plain = "[[listeners]]\nname = \"plain\"\nbind = \"@LISTEN@\"\n";
        let listeners = self.listener("secured", "tls", keys, tls) + plain;
        Broker::start(&Settings::new(shards).config(&listeners))
    }

    /// What a client is made from that trusts the authority.
    pub fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&Pair>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(der(&self.authority.certificate)).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![der(&pair.certificate)], key).unwrap()
            }
        };
        config.resumption = Resumption::in_memory_sessions(4);
        config
    }
}

/// The certificate of a PEM text.
pub fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// The address of a listener, by its name.
pub fn address_of(broker: &Broker, name: &str) -> String {
    let mut found = None;
    eventually(&format!("the address of the listener {name}"), || {
        let log = broker.log_text();
        let mut lines = log.lines().filter_map(|line| line.split_once("listening on "));
        found = lines.find_map(|(_, rest)| {
            let (address, rest) = rest.split_once(' ')?;
            rest.starts_with(&format!("({name})")).then(|| address.to_owned())
        });
        found.is_some()
    });
    found.unwrap()
}

/// A TLS connection whose handshake is done.
pub struct Secured {
    tcp: TcpStream,
    tls: ClientConnection,
}

impl Secured {
    /// Connects and asks for the certificate of `name`.
    pub fn connect(address: &str, config: &ClientConfig, name: &str) -> io::Result<Secured> {
        Secured::over(TcpStream::connect(address)?, config, name)
    }

    /// The same over a connection on which something else may have been sent before.
    pub fn over(mut tcp: TcpStream, config: &ClientConfig, name: &str) -> io::Result<Secured> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::new(config.clone()), name).unwrap();
        while tls.is_handshaking() || tls.wants_write() {
            tls.complete_io(&mut tcp)?;
        }
        Ok(Secured { tcp, tls })
    }

    /// The certificate that the broker has shown.
    pub fn shown(&self) -> CertificateDer<'static> {
        self.tls.peer_certificates().unwrap()[0].clone().into_owned()
    }

    pub fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub fn version(&self) -> String {
        format!("{:?}", self.tls.protocol_version().unwrap())
    }

    /// What the broker says next: bytes, its end, or that it ends the connection, with the reason.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        let read = rustls::Stream::new(&mut self.tls, &mut self.tcp).read(&mut buffer)?;
        buffer.truncate(read);
        Ok(buffer)
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        rustls::Stream::new(&mut self.tls, &mut self.tcp).write_all(bytes)
    }

    /// A plain stream to what is in the connection.
    pub fn into_stream(self) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let outer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (inner, _) = listener.accept().unwrap();
        self.serve(inner);
        outer
    }

    /// Carries what comes on a plain stream, and back, until either ends.
    fn serve(self, inner: TcpStream) {
        inner.set_nodelay(true).unwrap();
        self.tcp.set_read_timeout(None).unwrap();
        let tls = Arc::new(Mutex::new(self.tls));
        let (down_tls, down_tcp) = (Arc::clone(&tls), self.tcp.try_clone().unwrap());
        let (down_inner, tcp) = (inner.try_clone().unwrap(), self.tcp);
        thread::spawn(move || down(&down_tls, down_tcp, down_inner));
        thread::spawn(move || up(&tls, tcp, inner));
    }

    /// An MQTT client on the connection.
    pub fn into_client(self, connect: &Connect) -> Client {
        let mut client = Client::on(self.into_stream(), connect.version);
        client.send(&connect.encode());
        client.expect_connack(0);
        client
    }
}

/// Where clients without TLS reach a listener that has it.
pub fn proxy(address: &str, config: &ClientConfig) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let (address, config) = (address.to_owned(), config.clone());
    thread::spawn(move || {
        while let Ok((inner, _)) = listener.accept() {
            if let Ok(secured) = Secured::connect(&address, &config, NAME) {
                secured.serve(inner);
            }
        }
    });
    own
}

/// From the broker to the test, until either ends.
fn down(tls: &Mutex<ClientConnection>, mut tcp: TcpStream, mut inner: TcpStream) {
    let mut buffer = vec![0; 16 << 10];
    let mut plain = Vec::new();
    loop {
        let read = match tcp.read(&mut buffer) {
            Ok(read @ 1..) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(_) | Err(_) => break,
        };
        plain.clear();
        if open_records(&mut tls.lock().unwrap(), &buffer[..read], &mut plain).is_err()
            || inner.write_all(&plain).is_err()
        {
            break;
        }
    }
    let _ = inner.shutdown(Shutdown::Both);
    let _ = tcp.shutdown(Shutdown::Both);
}

fn open_records(
    tls: &mut ClientConnection,
    mut bytes: &[u8],
    plain: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    let mut buffer = vec![0; 16 << 10];
    while !bytes.is_empty() {
        if tls.read_tls(&mut bytes).is_ok_and(|read| read == 0) {
            return Ok(());
        }
        tls.process_new_packets()?;
        while let Ok(read @ 1..) = tls.reader().read(&mut buffer) {
            plain.extend_from_slice(&buffer[..read]);
        }
    }
    Ok(())
}

/// From the test to the broker, until either ends.
fn up(tls: &Mutex<ClientConnection>, mut tcp: TcpStream, mut inner: TcpStream) {
    let mut buffer = vec![0; 16 << 10];
    let mut records = Vec::new();
    loop {
        let read = match inner.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        records.clear();
        {
            let mut tls = tls.lock().unwrap();
            if read == 0 {
                tls.send_close_notify();
            } else {
                tls.writer().write_all(&buffer[..read]).unwrap();
            }
            while tls.wants_write() {
                tls.write_tls(&mut records).unwrap();
            }
        }
        // Without the lock: what comes down goes on while the broker takes nothing.
        if tcp.write_all(&records).is_err() || read == 0 {
            break;
        }
    }
    let _ = tcp.shutdown(Shutdown::Write);
}
