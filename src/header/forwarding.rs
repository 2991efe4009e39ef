//! What the app is told about the client: one value for each field, replacing whatever was claimed.
//!
//! Replaced, not appended to: some servers take the leftmost address of a list, some the rightmost, and a scheme that is a
//! list reads as http or as garbage. [`client_address`](super::client_address) decides what is true.

use std::io::Write;
use std::net::IpAddr;

use http::{HeaderName, HeaderValue};

use super::client_address::Origin;
use crate::net::Ipv4Text;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Our own end of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// None: a Unix socket.
    pub port: Option<u16>,
    pub https: bool,
}

/// The host the client asked for: a trusted proxy's X-Forwarded-Host if it is valid, else Host.
#[derive(Debug, Clone, Copy)]
pub struct Authority<'a> {
    /// As received, with its port if it has one.
    pub value: &'a HeaderValue,
    pub port: Option<u16>,
}

/// The values to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// X-Forwarded-For and X-Real-IP: one address, no port, no brackets. None where no address is known (a Unix-socket
    /// peer that gave none): an invented one, 127.0.0.1 above all, would give strangers what an app keeps for its own
    /// machine, while without the fields Flask and Django fall back to what their server says.
    pub client: Option<HeaderValue>,
    /// X-Forwarded-Proto: `http` or `https`.
    pub proto: HeaderValue,
    /// X-Forwarded-Host; none for a request without a host.
    pub host: Option<HeaderValue>,
    /// X-Forwarded-Port: the port the client believes it talks to.
    pub port: HeaderValue,
}

impl Forwarding {
    /// Makes the values.
    ///
    /// The port is the one a trusted proxy states, else that of the host, else the scheme's. The listener's own counts only
    /// for a request without a host: behind a published container port it is not the port in any URL, and
    /// Werkzeug's `ProxyFix` builds URLs from this field.
    #[must_use]
    pub fn new(origin: &Origin<'_>, listener: Listener, host: Option<Authority<'_>>) -> Self {
        let of_scheme = if origin.https { 443 } else { 80 };
        let of_listener = listener.port.filter(|_| origin.https == listener.https);
        let port = origin.port.or(match host {
            Some(host) => host.port,
            None => of_listener,
        });
        Self {
            client: origin.client.map(ip_value),
            proto: HeaderValue::from_static(if origin.https { "https" } else { "http" }),
            host: host.map(|host| host.value.clone()),
            port: port_value(port.unwrap_or(of_scheme)),
        }
    }

    /// The fields, to be set after every claimed one was removed.
    pub fn into_fields(self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let real_ip = self.client.clone().map(|ip| (X_REAL_IP, ip));
        let client = self.client.map(|ip| (X_FORWARDED_FOR, ip));
        let host = self.host.map(|host| (X_FORWARDED_HOST, host));
        let always = [(X_FORWARDED_PROTO, self.proto), (X_FORWARDED_PORT, self.port)];
        client.into_iter().chain(real_ip).chain(host).chain(always)
    }
}

/// Writes an address, an IPv4-mapped IPv6 one as IPv4.
#[must_use]
pub fn ip_value(ip: IpAddr) -> HeaderValue {
    if let IpAddr::V4(ip) = ip.to_canonical() {
        return HeaderValue::from_bytes(Ipv4Text::of(ip).as_bytes()).unwrap_or(HeaderValue::from_static(""));
    }
    // The longest is an IPv6 address of 39 bytes; nothing cuts it short.
    let mut text = [0; 45];
    let mut rest = text.as_mut_slice();
    let written = write!(rest, "{}", ip.to_canonical()).map(|()| 45 - rest.len());
    let address = written.ok().and_then(|length| text.get(..length));
    HeaderValue::from_bytes(address.unwrap_or_default()).unwrap_or(HeaderValue::from_static(""))
}

fn port_value(port: u16) -> HeaderValue {
    match port {
        80 => HeaderValue::from_static("80"),
        443 => HeaderValue::from_static("443"),
        8080 => HeaderValue::from_static("8080"),
        8443 => HeaderValue::from_static("8443"),
        other => HeaderValue::from(other),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Listener = Listener { port: Some(8000), https: false };

    fn origin(client: Option<&str>, https: bool, port: Option<u16>) -> Origin<'static> {
        Origin { client: client.map(|ip| ip.parse().unwrap()), peer_trusted: true, https, forwarded_host: None, port }
    }

    fn fields(origin: &Origin<'_>, host: Option<(&str, Option<u16>)>) -> Vec<(String, String)> {
        let value = host.map(|(value, port)| (HeaderValue::from_str(value).unwrap(), port));
        let host = value.as_ref().map(|(value, port)| Authority { value, port: *port });
        let text = |(name, value): (HeaderName, HeaderValue)| (name.to_string(), value.to_str().unwrap().to_owned());
        Forwarding::new(origin, PLAIN, host).into_fields().map(text).collect()
    }

    fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn one_value_each() {
        let origin = origin(Some("2001:db8::1"), true, None);
        let expected = owned(&[
            ("x-forwarded-for", "2001:db8::1"),
            ("x-real-ip", "2001:db8::1"),
            ("x-forwarded-host", "a.b:8443"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "8443"),
        ]);
        assert_eq!(fields(&origin, Some(("a.b:8443", Some(8443)))), expected);
    }

    #[test]
    fn nothing_is_invented() {
        let expected = owned(&[("x-forwarded-proto", "http"), ("x-forwarded-port", "8000")]);
        assert_eq!(fields(&origin(None, false, None), None), expected);
    }

    #[test]
    fn ports() {
        let port = |origin, host| fields(&origin, host).pop().unwrap().1;
        let bare = Some(("a", None));
        assert_eq!(port(origin(None, false, None), bare), "80");
        assert_eq!(port(origin(None, true, None), bare), "443");
        assert_eq!(port(origin(None, true, None), None), "443");
        assert_eq!(port(origin(None, true, Some(8080)), bare), "8080");
        assert_eq!(port(origin(None, false, None), Some(("a:9", Some(9)))), "9");
        assert_eq!(port(origin(None, false, Some(65535)), Some(("a:9", Some(9)))), "65535");
    }

    proptest! {
        #[test]
        fn addresses_read_back(v4: u32, v6: u128) {
            for ip in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
                let value = ip_value(ip);
                prop_assert_eq!(value.to_str().unwrap().parse::<IpAddr>().unwrap(), ip.to_canonical());
            }
            let mapped = std::net::Ipv4Addr::from(v4).to_ipv6_mapped();
            prop_assert_eq!(ip_value(mapped.into()), ip_value(IpAddr::V4(v4.into())));
        }
    }
}
