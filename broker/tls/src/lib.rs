//! TLS 1.2 and 1.3 for a server's connections, by rustls with the ring provider.
//!
//! Everything here is a function of bytes: no sockets, no files, and a clock only inside of rustls
//! (certificates' validity, tickets' age). An [`Acceptor`] is what a listener offers, made from the
//! text of its PEM files; a [`Connection`] turns what arrives on one socket into plaintext and
//! plaintext into what is to be sent.
//!
//! rustls' *unbuffered* interface is used, so that a connection at rest owns its keys and nothing
//! else: records are opened in the buffer in which they arrived, and only a record that a buffer's
//! end cuts is copied until the rest of it has come.
//!
//! Not here: kernel TLS, pre-shared keys (rustls has none that are agreed beforehand), fetching of
//! OCSP responses (one that another program fetches is stapled), early data (0-RTT), which would
//! let a recorded CONNECT be played again.
#![forbid(unsafe_code)]

mod acceptor;
mod certificate;
mod connection;
mod fault;
mod material;
mod resolver;
mod suites;

pub use acceptor::Acceptor;
pub use connection::{Connection, Peer, Received};
pub use fault::{Fault, FaultClass};
pub use material::{ClientCertificates, Identity, Material, Part, Problem, Versions};
pub use suites::cipher_names;
