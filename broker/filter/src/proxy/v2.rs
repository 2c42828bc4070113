//! Version 2, in binary:
//!
//! ```text
//! signature 12 | 2 and command 1 | family and protocol 1 | length 2 | addresses | TLVs
//! ```
//!
//! A TLV is a type (1), a length (2) and so many bytes. All numbers are big-endian.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Client, HEADER_BYTES_MAX, Told, fault};
use crate::fault::Fault;

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes before the addresses.
const FIXED_BYTES: usize = 16;
/// Most bytes of a unique id.
const UNIQUE_ID_BYTES_MAX: usize = 128;

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_COMMON_NAME: u8 = 0x22;

/// The client has shown a certificate: on this connection, or on the one that it has resumed.
const CERTIFICATE_SHOWN: u8 = 0x02 | 0x04;

/// The length of a header of this version, once that is known.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let fixed = bytes.get(..FIXED_BYTES).filter(|bytes| bytes.starts_with(SIGNATURE))?;
    Some(FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]])))
}

/// See [`super::parse`].
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(usize, Told)>, Fault> {
    let Some(length) = length(bytes) else { return Ok(None) };
    let (version, command) = (bytes[12] >> 4, bytes[12] & 0x0F);
    if version != 2 || command > 1 {
        return Err(broken(&format!("has version {version} and command {command}")));
    }
    if length > FIXED_BYTES + HEADER_BYTES_MAX {
        let most = FIXED_BYTES + HEADER_BYTES_MAX;
        return Err(broken(&format!("is {length} bytes long, at most {most} are taken")));
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    // A proxy that looks whether somebody is here: the rest does not count.
    if command == 0 {
        return Ok(Some((length, Told::default())));
    }
    let (client, rest) = client(bytes[13], &header[FIXED_BYTES..])?;
    let mut told = Told { client, ..Told::default() };
    take_tlvs(header, length - rest.len(), &mut told)?;
    Ok(Some((length, told)))
}

/// The client by a header's family and protocol, and what follows the addresses.
fn client(family: u8, bytes: &[u8]) -> Result<(Client, &[u8]), Fault> {
    let addresses = |len: usize| {
        let short = || broken(&format!("has {} bytes, its addresses need {len}", bytes.len()));
        bytes.split_at_checked(len).ok_or_else(short)
    };
    let port = |pair: &[u8]| u16::from_be_bytes([pair[0], pair[1]]);
    match family {
        0x00 => Ok((Client::Proxy, bytes)),
        0x11 => {
            let (own, rest) = addresses(12)?;
            let source = Ipv4Addr::new(own[0], own[1], own[2], own[3]);
            Ok((Client::Address(SocketAddr::new(source.into(), port(&own[8..]))), rest))
        }
        0x21 => {
            let (own, rest) = addresses(36)?;
            let mut source = [0; 16];
            source.copy_from_slice(&own[..16]);
            let source = Ipv6Addr::from(source);
            Ok((Client::Address(SocketAddr::new(source.into(), port(&own[32..]))), rest))
        }
        0x31 => Ok((Client::Unix, addresses(216)?.1)),
        other => Err(broken(&format!(
            "speaks of family and protocol {other:#04x}; TCP over IPv4 (0x11) or IPv6 (0x21) and \
             Unix streams (0x31) are known"
        ))),
    }
}

/// Takes in all TLVs of a header, which begin at `at`.
fn take_tlvs(header: &[u8], mut at: usize, told: &mut Told) -> Result<(), Fault> {
    let mut summed = false;
    while at < header.len() {
        let (kind, value) = tlv(header, at)?;
        match kind {
            ALPN => told.protocol = Some(text(value, "ALPN")?),
            AUTHORITY => told.server_name = Some(text(value, "host name")?),
            UNIQUE_ID if value.len() > UNIQUE_ID_BYTES_MAX => {
                return Err(broken(&format!("has a unique id of {} bytes", value.len())));
            }
            UNIQUE_ID => told.unique_id = Some(value.into()),
            CRC32C if summed => return Err(broken("has two checksums")),
            CRC32C => {
                check_sum(header, at + 3, value)?;
                summed = true;
            }
            SSL => take_ssl(value, told)?,
            _ => {}
        }
        at += 3 + value.len();
    }
    Ok(())
}

/// The TLV that begins at `at`.
fn tlv(bytes: &[u8], at: usize) -> Result<(u8, &[u8]), Fault> {
    let own = bytes.get(at..).and_then(|rest| match rest {
        [kind, high, low, rest @ ..] => {
            let value = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
            Some((*kind, value))
        }
        _ => None,
    });
    own.ok_or_else(|| broken("ends within one of its TLVs"))
}

/// TLS between the client and the proxy.
fn take_ssl(value: &[u8], told: &mut Told) -> Result<(), Fault> {
    let [client, verify @ ..] = value else { return Err(broken("has an empty TLV of TLS")) };
    let Some((verify, _)) = verify.split_first_chunk::<4>() else {
        return Err(broken("has a TLV of TLS that is too short"));
    };
    // Zero says that the certificate was verified, but also that there was none.
    let verified = client & CERTIFICATE_SHOWN != 0 && u32::from_be_bytes(*verify) == 0;
    let mut at = 5;
    while at < value.len() {
        let (kind, own) = tlv(value, at)?;
        match kind {
            SSL_VERSION => told.tls_version = Some(text(own, "TLS version")?),
            SSL_COMMON_NAME if verified => told.common_name = Some(text(own, "common name")?),
            _ => {}
        }
        at += 3 + own.len();
    }
    Ok(())
}

/// The sum is that of the whole header with zeros in the sum's own place.
fn check_sum(header: &[u8], at: usize, value: &[u8]) -> Result<(), Fault> {
    let Ok(value) = <[u8; 4]>::try_from(value) else {
        return Err(broken("has a checksum that is not of four bytes"));
    };
    let sum = crc32c::crc32c(&header[..at]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    let sum = crc32c::crc32c_append(sum, &header[at + 4..]);
    match sum == u32::from_be_bytes(value) {
        true => Ok(()),
        false => Err(broken("does not have the checksum that it names")),
    }
}

/// Text that may stand in a log and be a name.
fn text(value: &[u8], what: &str) -> Result<Box<str>, Fault> {
    let text = str::from_utf8(value).ok();
    let text = text.filter(|text| !text.is_empty() && !text.contains(char::is_control));
    text.map(Into::into).ok_or_else(|| broken(&format!("has a {what} that is no text")))
}

fn broken(what: &str) -> Fault {
    fault(format!("a PROXY header of version 2 {what}"))
}
