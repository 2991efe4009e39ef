//! Who the client is: only what trusted proxies appended is believed, read as the grammar says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::LazyLock;

use http::HeaderValue;
use propylon::config;
use propylon::config::model::TrustedProxies;
use propylon::header::client_address::{Claims, HOPS_MAX, Origin, Peer, resolve};
use propylon::header::forwarding::{Authority, Forwarding, Listener};
use propylon::header::request_hygiene::{FieldKind, classify};
use regex::bytes::Regex;

const TRUSTED: &str = "server.trusted_proxies = ['10.0.0.0/8', '127.0.0.1', 'fd00::/8', 'unix']";

/// An element of Forwarded with nothing doubtful in it, so that there is one way to divide a line of them.
static LINE: LazyLock<Regex> = LazyLock::new(|| {
    let pair = r#"[A-Za-z0-9_-]+=(?:[^"\\,;\s]+|"(?:[^"\\]|\\.)*")"#;
    let element = format!(r"[ \t]*(?:{pair})?[ \t]*(?:;[ \t]*(?:{pair})?[ \t]*)*");
    Regex::new(&format!("(?s-u)^{element}(?:,{element})*$")).expect("a grammar")
});

/// Takes a word for the peer, `https` or not, and the field lines as they were received: one a line.
pub fn check(input: &[u8]) {
    static PROXIES: LazyLock<TrustedProxies> =
        LazyLock::new(|| config::parse(TRUSTED, None).expect("a configuration").0.server.trusted_proxies);
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut words = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
    let (peer, trusted) = peer(words.next().unwrap_or_default());
    let https = words.next() == Some(b"https");
    let proxies = TrustedProxies { nets: PROXIES.nets.clone(), unix: trusted && PROXIES.unix };
    assert_eq!(peer.is_trusted(&proxies), trusted);
    let fields = Fields::read(lines);
    let case = Case { peer, https, proxies: &proxies };
    let origin = case.resolve(&fields);
    assert_eq!(origin.peer_trusted, trusted);
    check_origin(&origin, https);
    if !trusted {
        let nothing = Fields::default();
        assert_eq!(origin, case.resolve(&nothing), "a stranger is believed");
        assert_eq!((origin.client, origin.https), (peer.ip(), https));
        assert_eq!((origin.forwarded_host, origin.port), (None, None));
        return;
    }
    if let Ok(client) = case.reference(&fields) {
        assert_eq!(origin.client, client, "{}", input.escape_ascii());
    }
    case.check_left(&fields, &origin);
}

/// A peer by its word, and whether it is trusted.
fn peer(word: &[u8]) -> (Peer, bool) {
    let ip = |text: &str| Peer::Ip(text.parse().expect("an address"));
    match word {
        b"proxy" => (ip("10.0.0.1"), true),
        b"mapped" => (ip("::ffff:10.0.0.1"), true),
        b"six" => (ip("fd00::1"), true),
        b"unix" => (Peer::Unix, true),
        b"socket" => (Peer::Unix, false),
        _ => (ip("192.0.2.1"), false),
    }
}

/// Values of the fields that are asked, in the order of the input.
#[derive(Debug, Clone, Default)]
struct Fields<'a> {
    x_forwarded_for: Vec<&'a [u8]>,
    forwarded: Vec<&'a [u8]>,
    proto: Vec<&'a [u8]>,
    host: Vec<&'a [u8]>,
    port: Vec<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Those that a head may hold.
    fn read(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut fields = Self::default();
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let value = line[colon + 1..].trim_ascii();
            if HeaderValue::from_bytes(value).is_err() {
                continue;
            }
            match classify(&line[..colon]) {
                FieldKind::ForwardedFor => fields.x_forwarded_for.push(value),
                FieldKind::Forwarded => fields.forwarded.push(value),
                FieldKind::ForwardedProto => fields.proto.push(value),
                FieldKind::ForwardedHost => fields.host.push(value),
                FieldKind::ForwardedPort => fields.port.push(value),
                _ => {}
            }
        }
        fields
    }
}

/// A chain that two readers may divide in two ways.
struct Doubtful;

struct Case<'a> {
    peer: Peer,
    https: bool,
    proxies: &'a TrustedProxies,
}

impl Case<'_> {
    fn resolve<'f>(&self, fields: &Fields<'f>) -> Origin<'f> {
        let claims = Claims {
            x_forwarded_for: fields.x_forwarded_for.clone().into_iter(),
            forwarded: fields.forwarded.clone().into_iter(),
            x_forwarded_proto: fields.proto.clone().into_iter(),
            x_forwarded_host: fields.host.clone().into_iter(),
            x_forwarded_port: fields.port.clone().into_iter(),
        };
        resolve(self.peer, self.https, self.proxies, claims)
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        self.proxies.nets.iter().any(|net| net.contains(&ip))
    }

    /// The client by the rule as it is written: from the right, the first that is not trusted, else the last before the
    /// chain ends or breaks. [`Doubtful`] where the grammar does not say how the chain is divided.
    fn reference(&self, fields: &Fields<'_>) -> Result<Option<IpAddr>, Doubtful> {
        let chain: Vec<Option<IpAddr>> = if fields.x_forwarded_for.is_empty() {
            let in_grammar = |line: &&[u8]| LINE.is_match(line);
            if !fields.forwarded.iter().all(in_grammar) {
                return Err(Doubtful);
            }
            let elements = fields.forwarded.iter().flat_map(|line| split(line, b','));
            elements.filter(|element| !element.trim_ascii().is_empty()).map(|element| node_of(&element)).collect()
        } else {
            let entries = fields.x_forwarded_for.join(&b","[..]);
            let entries = entries.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            entries.filter(|entry| !entry.is_empty()).map(node).collect()
        };
        let mut client = self.peer.ip();
        for entry in chain.iter().rev().take(HOPS_MAX) {
            let Some(ip) = entry else { break };
            client = Some(*ip);
            if !self.trusts(*ip) {
                break;
            }
        }
        Ok(client)
    }

    /// Once a stranger was found, nothing that stands left of it, or in lines before it, is looked at.
    fn check_left(&self, fields: &Fields<'_>, origin: &Origin<'_>) {
        let Some(client) = origin.client.filter(|client| !self.trusts(*client)) else { return };
        for junk in [&b"for=10.9.9.9"[..], b"\"", b"\\\"", b"10.9.9.9, \"a\\", b"for=\"[fd00::2]\";x=\"", b"unknown"] {
            let mut more = fields.clone();
            let lines = if fields.x_forwarded_for.is_empty() { &mut more.forwarded } else { &mut more.x_forwarded_for };
            let Some(first) = lines.first().copied() else { return };
            let longer = [junk, b",", first].concat();
            lines[0] = &longer;
            lines.insert(0, junk);
            let again = self.resolve(&more);
            assert_eq!((again.client, again.https), (Some(client), origin.https), "{} changes it", junk.escape_ascii());
            assert_eq!((again.forwarded_host, again.port), (origin.forwarded_host, origin.port));
        }
    }
}

/// The parts between separators outside quotes, from left to right.
fn split(line: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut quoted = false;
    let mut bytes = line.iter();
    while let Some(&byte) = bytes.next() {
        if byte == separator && !quoted {
            parts.push(Vec::new());
            continue;
        }
        let part = parts.last_mut().expect("one part at least");
        part.push(byte);
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => part.extend(bytes.next()),
            _ => {}
        }
    }
    parts
}

/// The address that an element of Forwarded gives; none where it ends the walk.
fn node_of(element: &[u8]) -> Option<IpAddr> {
    let mut seen: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for pair in split(element, b';') {
        let pair = pair.trim_ascii();
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let name = pair[..equals].to_ascii_lowercase();
        let known = [&b"for"[..], b"proto", b"host"].contains(&&*name);
        if known && seen.iter().any(|(earlier, _)| *earlier == name) {
            return None;
        }
        let value = &pair[equals + 1..];
        let inner = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        seen.push((name, inner.to_vec()));
    }
    seen.iter().find(|(name, _)| name == b"for").and_then(|(_, value)| node(value))
}

/// An address, where it is an IPv6 one with a port in brackets.
fn node(text: &[u8]) -> Option<IpAddr> {
    static PORT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?-u)^(.*):(?:[0-9]{1,5}|_[A-Za-z0-9._-]*)$").expect("a grammar"));
    if text.len() > 64 {
        return None;
    }
    let bare = PORT.captures(text).and_then(|parts| parts.get(1)).map(|bare| bare.as_bytes());
    let bracketed = bare.unwrap_or(text).strip_prefix(b"[").and_then(|text| text.strip_suffix(b"]"));
    if let Some(inner) = bracketed {
        return parse::<Ipv6Addr>(inner);
    }
    parse::<IpAddr>(text).or_else(|| bare.and_then(parse::<Ipv4Addr>))
}

fn parse<T: FromStr + Into<IpAddr>>(text: &[u8]) -> Option<IpAddr> {
    let address = std::str::from_utf8(text).ok()?.parse::<T>().ok()?;
    Some(address.into().to_canonical())
}

/// What the app is told: each field once, and well-formed.
fn check_origin(origin: &Origin<'_>, listener_https: bool) {
    assert!(origin.client.is_none_or(|ip| ip == ip.to_canonical()));
    assert!(origin.port != Some(0));
    let host = origin.forwarded_host.and_then(|host| HeaderValue::from_bytes(host).ok());
    let authority = host.as_ref().map(|value| Authority { value, port: None });
    let listener = Listener { port: Some(8080), https: listener_https };
    let fields: Vec<_> = Forwarding::new(origin, listener, authority).into_fields().collect();
    for (index, (name, value)) in fields.iter().enumerate() {
        assert!(fields[index + 1..].iter().all(|(other, _)| other != name), "{name} twice");
        let text = String::from_utf8_lossy(value.as_bytes());
        match name.as_str() {
            "x-forwarded-for" | "x-real-ip" => assert_eq!(text.parse().ok(), origin.client),
            "x-forwarded-proto" => assert_eq!(text == "https", origin.https),
            "x-forwarded-port" => assert!(text.parse::<u16>().is_ok_and(|port| port != 0)),
            "x-forwarded-host" => assert_eq!(Some(value.as_bytes()), origin.forwarded_host),
            _ => panic!("{name}"),
        }
    }
}
