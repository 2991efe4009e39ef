//! Who the client is, and what it typed, as far as trusted proxies say so (X-Forwarded-*, RFC 7239).
//!
//! Everyone can write a forwarding field. What a trusted peer appended on the right is believed, and what stands left of it
//! only as far as trusted proxies reach. A trusted proxy must therefore write, or delete, X-Forwarded-Proto, -Host and
//! -Port, and Forwarded where it sends no X-Forwarded-For: what it passes on unread would be the client's own words.
//!
//! Must be asked before `Connection` is obeyed: a client behind a trusted proxy could otherwise have the proxy's own
//! fields removed. Whether a forwarded host is a host at all is the caller's to check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::forwarded;
use crate::config::model::TrustedProxies;

/// How many entries of a forwarding chain are looked at. No real chain is as long, and each costs a walk over the ranges.
pub const HOPS_MAX: usize = 32;

/// The other end of a connection (with the PROXY protocol: the source address it states).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Ip(IpAddr),
    /// A Unix socket, which states no address.
    Unix,
}

impl Peer {
    /// The address, an IPv4-mapped IPv6 address as IPv4.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(ip.to_canonical()),
            Self::Unix => None,
        }
    }

    /// Whether its forwarding fields are believed.
    #[must_use]
    pub fn is_trusted(self, trusted: &TrustedProxies) -> bool {
        self.ip().map_or(trusted.unix, |ip| is_trusted_ip(ip, trusted))
    }
}

/// The forwarding fields as received: for each name its values, one for each field line, first line first.
///
/// Nothing is read from them unless the peer is trusted.
#[derive(Debug, Clone, Copy)]
pub struct Claims<I> {
    /// X-Forwarded-For
    pub x_forwarded_for: I,
    /// Forwarded
    pub forwarded: I,
    /// X-Forwarded-Proto
    pub x_forwarded_proto: I,
    /// X-Forwarded-Host
    pub x_forwarded_host: I,
    /// X-Forwarded-Port
    pub x_forwarded_port: I,
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Never an IPv4-mapped IPv6 address. None: a Unix-socket peer that gives no address.
    pub client: Option<IpAddr>,
    /// Whether the peer is trusted, for the other fields that are believed from trusted peers alone.
    pub peer_trusted: bool,
    /// Whether the client speaks https, to us or to a trusted proxy.
    pub https: bool,
    /// The host a trusted proxy was asked for, not validated.
    pub forwarded_host: Option<&'a [u8]>,
    /// The port a trusted proxy was asked on, not 0.
    pub port: Option<u16>,
}

/// Finds out where a request comes from. `listener_https`: whether our own listener speaks TLS.
///
/// If the peer is trusted, X-Forwarded-For is walked from right to left over trusted addresses. The first that is not
/// trusted is the client; if all are, the leftmost. An entry that is no address ("unknown", "_hidden") ends the walk at
/// the entry right of it, or at the peer; so do [`HOPS_MAX`] entries. Empty entries are passed over. Without a field line
/// X-Forwarded-For, Forwarded is walked the same way.
///
/// Scheme, host and port are the rightmost of a list. A scheme other than `http` and `https` is ignored. Where there is no
/// X-Forwarded-Proto or -Host, and Forwarded was walked, the entry its walk ended at says both: it is the one that a trusted
/// proxy wrote about the client, even where it hides the client's address.
///
/// Allocates nothing.
pub fn resolve<'a, I>(peer: Peer, listener_https: bool, trusted: &TrustedProxies, claims: Claims<I>) -> Origin<'a>
where
    I: DoubleEndedIterator<Item = &'a [u8]>,
{
    let mut origin = Origin {
        client: peer.ip(),
        peer_trusted: peer.is_trusted(trusted),
        https: listener_https,
        forwarded_host: None,
        port: None,
    };
    if !origin.peer_trusted {
        return origin;
    }
    let mut chain = claims.x_forwarded_for.rev().peekable();
    let mut said = forwarded::Element::default();
    if chain.peek().is_some() {
        let entries = chain.flat_map(|line| line.rsplit(|&byte| byte == b','));
        let entries = entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty());
        let client = walk(entries.map(parse_node), |&ip| is_trusted_ip(ip, trusted));
        origin.client = client.or(origin.client);
    } else {
        let elements = claims.forwarded.rev().flat_map(forwarded::elements_from_right);
        let believed = walk(elements, |element| {
            origin.client = element.node.or(origin.client);
            element.node.is_some_and(|ip| is_trusted_ip(ip, trusted))
        });
        said = believed.unwrap_or_default();
    }
    let proto = last_value(claims.x_forwarded_proto).or(said.proto);
    origin.https = proto.and_then(parse_scheme).unwrap_or(listener_https);
    origin.forwarded_host = last_value(claims.x_forwarded_host).or(said.host);
    origin.port = last_value(claims.x_forwarded_port).and_then(parse_port);
    origin
}

/// Follows a chain from our side: the entry at which belief ends, or the last good one.
fn walk<T>(entries: impl Iterator<Item = Option<T>>, mut is_trusted: impl FnMut(&T) -> bool) -> Option<T> {
    let mut last = None;
    for entry in entries.take(HOPS_MAX).map_while(|entry| entry) {
        let go_on = is_trusted(&entry);
        last = Some(entry);
        if !go_on {
            break;
        }
    }
    last
}

/// `ip` must be canonical; ranges are compared as written, so IPv4 ranges are to be written as IPv4.
fn is_trusted_ip(ip: IpAddr, trusted: &TrustedProxies) -> bool {
    trusted.nets.iter().any(|net| net.contains(&ip))
}

/// Takes `1.2.3.4`, `2001:db8::1` or `[2001:db8::1]`, the first and the last with or without a port.
pub(super) fn parse_node(node: &[u8]) -> Option<IpAddr> {
    // Longer than any address with its port: not worth looking at.
    let text = std::str::from_utf8(node).ok().filter(|text| text.len() <= 64)?;
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_node_port);
        let address = port_fits.then(|| address.parse::<Ipv6Addr>().ok())??;
        return Some(IpAddr::V6(address).to_canonical());
    }
    match text.split_once(':') {
        Some((address, port)) if is_node_port(port) => address.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        _ => text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical()),
    }
}

/// RFC 7239 section 6: digits, or `_` and a name.
fn is_node_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(name) => name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)),
        None => matches!(port.len(), 1..=5) && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// The last element of the last line; none if that is empty.
fn last_value<'a>(mut lines: impl DoubleEndedIterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let last = lines.next_back()?.rsplit(|&byte| byte == b',').next()?;
    Some(last.trim_ascii()).filter(|value| !value.is_empty())
}

fn parse_scheme(value: &[u8]) -> Option<bool> {
    if value.eq_ignore_ascii_case(b"https") {
        Some(true)
    } else if value.eq_ignore_ascii_case(b"http") {
        Some(false)
    } else {
        None
    }
}

fn parse_port(value: &[u8]) -> Option<u16> {
    let digits = value.iter().all(u8::is_ascii_digit).then_some(value)?;
    let port = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (port != 0).then_some(port)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
