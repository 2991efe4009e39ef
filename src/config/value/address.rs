//! Addresses: of listeners, endpoints, name servers and trusted proxies.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::super::model::{EndpointAddr, ListenAddr};
use super::super::walk::{Reject, Text};
use super::host;

/// Bytes of a Unix socket's path: `sun_path` has 108, of which one is the NUL.
const UNIX_PATH_MAX: usize = 107;

/// An entry of `trusted_proxies`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedPeer {
    Net(IpNet),
    Unix,
}

/// A name server to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

impl Text for ListenAddr {
    const KIND: &'static str = "address";
    const EXPECTED: &'static str =
        "an address to listen on such as \"0.0.0.0:8080\", \"[::]:8080\" or \"unix:/run/propylon.sock\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.starts_with('@') {
                return Err(Reject::because("a listener cannot have an abstract name"));
            }
            return unix_path(path).map(Self::Unix);
        }
        let port = text.strip_prefix("*:").or_else(|| text.strip_prefix(':')).unwrap_or(text);
        if port.parse::<u16>().is_ok() {
            return Err(Reject::Near(format!("0.0.0.0:{port}")));
        }
        if text.starts_with("localhost:") {
            return Err(Reject::Near(text.replacen("localhost", "127.0.0.1", 1)));
        }
        text.parse().map(Self::Tcp).map_err(|_| ip_hint(text))
    }
}

impl Text for EndpointAddr {
    const KIND: &'static str = "address";
    const EXPECTED: &'static str =
        "an endpoint such as \"127.0.0.1:8000\", \"[::1]:8000\", \"app:8000\", \"unix:/run/app.sock\" or \"unix:@app\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.strip_prefix('@') {
                Some(name) => abstract_name(name),
                None => unix_path(path).map(Self::Unix),
            };
        }
        if text.starts_with("https://") {
            return Err(Reject::because("without the scheme, and with `tls = true` beside it"));
        }
        if let Some(rest) = text.strip_prefix("http://") {
            return Err(Reject::Near(rest.trim_end_matches('/').to_owned()));
        }
        if text.starts_with('/') {
            return Err(Reject::Near(format!("unix:{text}")));
        }
        let port = text.strip_prefix(':').unwrap_or(text);
        if port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(Reject::Near(format!("127.0.0.1:{port}")));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => Err(Reject::because("port 0 cannot be connected to")),
            // Connecting to it works on some systems, by accident, and only ever to this machine.
            Ok(SocketAddr::V4(address)) if address.ip().is_unspecified() => {
                Err(Reject::Near(format!("127.0.0.1:{}", address.port())))
            }
            Ok(SocketAddr::V6(address)) if address.ip().is_unspecified() => {
                Err(Reject::Near(format!("[::1]:{}", address.port())))
            }
            Ok(address) => Ok(Self::Ip(address)),
            Err(_) => named(text),
        }
    }
}

/// `name:port`.
fn named(text: &str) -> Result<EndpointAddr, Reject> {
    let Some((host, port)) = text.rsplit_once(':') else { return Err(ip_hint(text)) };
    if host.contains([':', '[']) {
        return Err(ip_hint(text));
    }
    let port = match port.parse::<u16>() {
        Ok(0) | Err(_) => return Err(Reject::because(format!("{port:?} is no port, 1 to 65535"))),
        Ok(_) if port.starts_with('+') => return Err(Reject::Unlike),
        Ok(port) => port,
    };
    // A last label of digits is a mistyped address; resolvers treat such names as addresses too.
    if host
        .trim_end_matches('.')
        .rsplit('.')
        .next()
        .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err(Reject::Unlike);
    }
    let host = host::name(&host.to_ascii_lowercase())?;
    Ok(EndpointAddr::Host { host, port })
}

/// What is likely missing from something that is nearly an address.
fn ip_hint(text: &str) -> Reject {
    match text.parse::<IpAddr>() {
        // `::1:80` is an address too, so it cannot be told whether its end was meant as a port.
        Ok(IpAddr::V6(_)) => Reject::because("an IPv6 address stands in brackets, and a port follows"),
        Ok(IpAddr::V4(_)) => Reject::because("it needs a port"),
        Err(_) if !text.is_empty() && !text.contains(':') => Reject::because("it needs a port"),
        Err(_) => Reject::Unlike,
    }
}

/// The path after `unix:`.
pub(super) fn unix_path(path: &str) -> Result<PathBuf, Reject> {
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(Reject::because("the path of a socket starts with \"/\" and names a file"));
    }
    if path.contains('\0') {
        return Err(Reject::because("a path cannot hold a NUL"));
    }
    if path.len() > UNIX_PATH_MAX {
        return Err(Reject::because(format!("the path of a socket has at most {UNIX_PATH_MAX} bytes")));
    }
    // `//` and `/./` name the same socket; endpoints are told apart by their text.
    let path: PathBuf = Path::new(path).components().collect();
    if path.file_name().is_none() { Err(Reject::because("the path of a socket names a file")) } else { Ok(path) }
}

fn abstract_name(name: &str) -> Result<EndpointAddr, Reject> {
    if name.is_empty() || name.len() > UNIX_PATH_MAX || name.contains('\0') {
        return Err(Reject::because(format!("an abstract name has 1 to {UNIX_PATH_MAX} bytes")));
    }
    Ok(EndpointAddr::Abstract(name.to_owned()))
}

impl Text for TrustedPeer {
    const KIND: &'static str = "network, address or \"unix\"";
    const EXPECTED: &'static str = "a network such as \"10.0.0.0/8\", an address such as \"10.0.0.1\", or \"unix\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(IpNet::from(address)));
        }
        let net: IpNet = text.parse().map_err(|_| Reject::Unlike)?;
        // A slip in the prefix length would silently trust another network than the one meant.
        if net.trunc() == net { Ok(Self::Net(net)) } else { Err(Reject::Near(net.trunc().to_string())) }
    }
}

impl Text for NameServer {
    const KIND: &'static str = "address";
    const EXPECTED: &'static str = "the address of a name server such as \"10.0.0.2:53\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Err(Reject::Near(SocketAddr::new(address, 53).to_string()));
        }
        let address: SocketAddr = text.parse().map_err(|_| Reject::Unlike)?;
        if address.port() == 0 { Err(Reject::Unlike) } else { Ok(Self(address)) }
    }
}

impl ListenAddr {
    /// Whether both cannot be bound at once. Port 0 takes a free port each time and never clashes.
    #[must_use]
    pub fn clashes_with(&self, other: &Self) -> bool {
        match (self, other) {
            // `[::]` is bound for IPv6 alone, so families never clash.
            (Self::Tcp(a), Self::Tcp(b)) => {
                let wild = a.ip().is_unspecified() || b.ip().is_unspecified();
                a.port() != 0 && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (wild || a.ip() == b.ip())
            }
            (Self::Unix(a), Self::Unix(b)) => a == b,
            _ => false,
        }
    }

    /// Whether a connection to `endpoint` would arrive here. Names are not resolved.
    #[must_use]
    pub fn is_reached_by(&self, endpoint: &EndpointAddr) -> bool {
        match (self, endpoint) {
            (Self::Tcp(listener), EndpointAddr::Ip(address)) => {
                let here =
                    listener.ip() == address.ip() || (listener.ip().is_unspecified() && address.ip().is_loopback());
                listener.port() == address.port() && listener.is_ipv4() == address.is_ipv4() && here
            }
            (Self::Unix(listener), EndpointAddr::Unix(path)) => listener == path,
            _ => false,
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for EndpointAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(out),
            Self::Host { host, port } => write!(out, "{host}:{port}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
            Self::Abstract(name) => write!(out, "unix:@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn listeners() {
        assert_eq!(ListenAddr::parse("unix:/run//p.sock"), Ok(ListenAddr::Unix("/run/p.sock".into())));
        assert_eq!(ListenAddr::parse("[::]:80").unwrap().to_string(), "[::]:80");
        assert_eq!(ListenAddr::parse(":80"), Err(Reject::Near("0.0.0.0:80".into())));
        assert_eq!(ListenAddr::parse("localhost:80"), Err(Reject::Near("127.0.0.1:80".into())));
        assert!(matches!(ListenAddr::parse("::1:80"), Err(Reject::Because(_))));
        assert_eq!(ListenAddr::parse("80"), Err(Reject::Near("0.0.0.0:80".into())));
        for bad in ["", "80", "1.2.3.4", "1.2.3.4:99999", "unix:", "unix:run", "unix:/", "unix:@x", "host:80"] {
            assert!(ListenAddr::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoints() {
        assert_eq!(EndpointAddr::parse("unix:@app"), Ok(EndpointAddr::Abstract("app".into())));
        assert_eq!(EndpointAddr::parse("App.:8000"), Ok(EndpointAddr::Host { host: "app".into(), port: 8000 }));
        assert_eq!(EndpointAddr::parse("http://app:8000/"), Err(Reject::Near("app:8000".into())));
        assert_eq!(EndpointAddr::parse(":8000"), Err(Reject::Near("127.0.0.1:8000".into())));
        assert_eq!(EndpointAddr::parse("/run/app.sock"), Err(Reject::Near("unix:/run/app.sock".into())));
        assert_eq!(EndpointAddr::parse("0.0.0.0:80"), Err(Reject::Near("127.0.0.1:80".into())));
        let long = format!("unix:/{}", "a".repeat(107));
        for bad in [
            "",
            "app",
            ":80",
            "app:",
            "app:0",
            "app:+80",
            "1.2.3:80",
            "1.2.3.4.5:80",
            "a b:80",
            "https://a:1",
            "[::1]",
            &long,
            "unix:@",
        ] {
            assert!(EndpointAddr::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn trusted_peers() {
        assert_eq!(TrustedPeer::parse("unix"), Ok(TrustedPeer::Unix));
        assert_eq!(TrustedPeer::parse("10.0.0.1"), Ok(TrustedPeer::Net("10.0.0.1/32".parse().unwrap())));
        assert_eq!(TrustedPeer::parse("10.0.0.1/8"), Err(Reject::Near("10.0.0.0/8".into())));
        for bad in ["", "10.0.0.0/33", "10/8", "example.com", "unix:"] {
            assert!(TrustedPeer::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(NameServer::parse("::1"), Err(Reject::Near("[::1]:53".into())));
    }

    #[test]
    fn clashes_and_loops() {
        let listen = |text| ListenAddr::parse(text).unwrap();
        assert!(listen("0.0.0.0:80").clashes_with(&listen("127.0.0.1:80")));
        assert!(!listen("0.0.0.0:80").clashes_with(&listen("[::]:80")));
        assert!(!listen("127.0.0.1:80").clashes_with(&listen("127.0.0.2:80")));
        assert!(!listen("127.0.0.1:0").clashes_with(&listen("127.0.0.1:0")));
        assert!(listen("0.0.0.0:80").is_reached_by(&EndpointAddr::parse("127.0.0.1:80").unwrap()));
        assert!(!listen("0.0.0.0:80").is_reached_by(&EndpointAddr::parse("10.0.0.9:80").unwrap()));
    }

    proptest! {
        #[test]
        fn socket_addresses_are_read_back(address: SocketAddr) {
            let listen = ListenAddr::Tcp(address);
            // Zone and flow of an IPv6 address are not part of what is written here.
            let bare = SocketAddr::new(address.ip(), address.port());
            prop_assert_eq!(ListenAddr::parse(&ListenAddr::Tcp(bare).to_string()), Ok(ListenAddr::Tcp(bare)));
            prop_assert!(!listen.to_string().is_empty());
        }

        #[test]
        fn endpoints_are_read_back(
            text in r"[a-z][a-z0-9-]{0,9}(\.[a-z]{1,5}){0,2}:[1-9][0-9]{0,3}|unix:(/[a-z@.:]{1,9}){1,3}|unix:@[a-z/]{1,20}",
        ) {
            if let Ok(endpoint) = EndpointAddr::parse(&text) {
                prop_assert_eq!(EndpointAddr::parse(&endpoint.to_string()), Ok(endpoint));
            }
        }

        #[test]
        fn never_panics(text in r"(unix:|\[|::|[0-9.:]|.){0,12}") {
            let _ = (ListenAddr::parse(&text), EndpointAddr::parse(&text));
            let _ = (TrustedPeer::parse(&text), NameServer::parse(&text));
        }
    }
}
