//! The walk in cases, and the property it exists for: nobody but trusted proxies has a say.

use proptest::prelude::*;

use super::*;

fn trusted() -> TrustedProxies {
    TrustedProxies { nets: ["10.0.0.0/8", "fd00::/8"].iter().map(|net| net.parse().unwrap()).collect(), unix: true }
}

fn peer(text: &str) -> Peer {
    Peer::Ip(text.parse().unwrap())
}

/// Fields as a head lists them.
struct Fields<'a>(&'a [(&'a str, &'a str)]);

impl<'a> Fields<'a> {
    fn values(&self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a> {
        let fields = self.0.iter().filter(move |(known, _)| *known == name);
        fields.map(|(_, value)| value.as_bytes())
    }

    fn resolve(&self, peer: Peer) -> Origin<'a> {
        let claims = Claims {
            x_forwarded_for: self.values("xff"),
            forwarded: self.values("fwd"),
            x_forwarded_proto: self.values("proto"),
            x_forwarded_host: self.values("host"),
            x_forwarded_port: self.values("port"),
        };
        resolve(peer, false, &trusted(), claims)
    }
}

fn client(fields: &[(&str, &str)]) -> Option<String> {
    Fields(fields).resolve(peer("10.0.0.1")).client.map(|ip| ip.to_string())
}

#[test]
fn an_untrusted_peer_is_the_client() {
    let fields = Fields(&[
        ("xff", "6.6.6.6"),
        ("fwd", "for=6.6.6.6;proto=https;host=evil"),
        ("proto", "https"),
        ("host", "evil"),
        ("port", "1"),
    ]);
    let origin = Origin {
        client: Some("192.0.2.1".parse().unwrap()),
        peer_trusted: false,
        https: false,
        forwarded_host: None,
        port: None,
    };
    assert_eq!(fields.resolve(peer("192.0.2.1")), origin);
    assert_eq!(fields.resolve(peer("::ffff:192.0.2.1")), origin);
    assert!(fields.resolve(peer("::ffff:10.0.0.1")).peer_trusted);
}

#[test]
fn walks_from_the_right() {
    for (lines, ip) in [
        (&["1.1.1.1"][..], "1.1.1.1"),
        (&["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        (&["6.6.6.6, 1.1.1.1, 10.2.3.4 ,10.0.0.9"], "1.1.1.1"),
        (&["6.6.6.6", "1.1.1.1", "10.0.0.9"], "1.1.1.1"),
        (&["1.1.1.1:80"], "1.1.1.1"),
        (&["[2001:db8::1]:80"], "2001:db8::1"),
        (&["[2001:db8::1]"], "2001:db8::1"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["::ffff:1.1.1.1"], "1.1.1.1"),
        (&["1.1.1.1, [::ffff:10.0.0.3]:1"], "1.1.1.1"),
        (&["1.1.1.1, ,, \t10.0.0.9,", ""], "1.1.1.1"),
        // All trusted: the leftmost.
        (&["10.0.0.7, fd00::1, 10.0.0.9"], "10.0.0.7"),
        // Not readable: the last good one, or the peer.
        (&["1.1.1.1, unknown, 10.0.0.9"], "10.0.0.9"),
        (&["unknown"], "10.0.0.1"),
        (&["1.1.1.1, 1.1.1.1.1"], "10.0.0.1"),
        (&["1.1.1.1:port"], "10.0.0.1"),
        (&["\"1.1.1.1\""], "10.0.0.1"),
        (&["fe80::1%eth0"], "10.0.0.1"),
        (&["[1.1.1.1]"], "10.0.0.1"),
        (&["1.1.1.1 2.2.2.2"], "10.0.0.1"),
        (&[""], "10.0.0.1"),
    ] {
        let fields: Vec<_> = lines.iter().map(|line| ("xff", *line)).collect();
        assert_eq!(client(&fields).as_deref(), Some(ip), "{lines:?}");
    }
}

#[test]
fn forwarded_stands_in() {
    for (fields, ip) in [
        (&[("fwd", "for=6.6.6.6, for=1.1.1.1, for=10.0.0.9")][..], "1.1.1.1"),
        (&[("fwd", "for=1.1.1.1"), ("fwd", "for=\"[fd00::1]:1\"")], "1.1.1.1"),
        (&[("fwd", "for=1.1.1.1, for=_hidden, for=10.0.0.9")], "10.0.0.9"),
        (&[("fwd", "for=unknown")], "10.0.0.1"),
        (&[("fwd", "for=\"1.1.1.1, for=10.0.0.9")], "10.0.0.9"),
        (&[("fwd", "for=6.6.6.6"), ("xff", "1.1.1.1")], "1.1.1.1"),
        (&[("fwd", "for=6.6.6.6"), ("xff", "")], "10.0.0.1"),
    ] {
        assert_eq!(client(fields).as_deref(), Some(ip), "{fields:?}");
    }
}

#[test]
fn a_unix_peer_has_no_address() {
    let origin = Fields(&[]).resolve(Peer::Unix);
    assert_eq!((origin.client, origin.peer_trusted), (None, true));
    let origin = Fields(&[("xff", "1.1.1.1")]).resolve(Peer::Unix);
    assert_eq!(origin.client, Some("1.1.1.1".parse().unwrap()));
    assert!(!Peer::Unix.is_trusted(&TrustedProxies::default()));
}

#[test]
fn scheme_host_and_port() {
    fn resolve<'a>(fields: &'a [(&'a str, &'a str)]) -> (bool, Option<&'a [u8]>, Option<u16>) {
        let origin = Fields(fields).resolve(peer("10.0.0.1"));
        (origin.https, origin.forwarded_host, origin.port)
    }
    assert_eq!(resolve(&[]), (false, None, None));
    let fields = [("proto", "http"), ("proto", "http , HTTPS"), ("host", "a, b.c:1 "), ("port", "80,8443")];
    assert_eq!(resolve(&fields), (true, Some(&b"b.c:1"[..]), Some(8443)));
    let fields = [("proto", "https, wss"), ("host", "a,"), ("port", "0")];
    assert_eq!(resolve(&fields), (false, None, None));
    assert_eq!(resolve(&[("port", "+80")]), (false, None, None));
    assert_eq!(resolve(&[("port", "65536")]), (false, None, None));
    // Of Forwarded, the entry the walk ended at.
    let forwarded = "for=6.6.6.6;proto=http;host=evil, for=1.1.1.1;proto=https;host=\"b.c:1\", for=10.0.0.9;proto=http";
    let fields = [("fwd", forwarded), ("proto", "http"), ("xff", "1.1.1.1")];
    assert_eq!(resolve(&fields[..1]), (true, Some(&b"b.c:1"[..]), None));
    assert!(!resolve(&fields[..2]).0);
    let hidden = [("fwd", "for=6.6.6.6;proto=http, for=_hidden;proto=https, for=10.0.0.9;proto=http")];
    assert!(resolve(&hidden).0);
    assert_eq!(client(&hidden).as_deref(), Some("10.0.0.9"));
    let fields = [fields[0], fields[2]];
    assert_eq!(resolve(&fields), (false, None, None));
}

#[test]
fn a_long_chain_ends() {
    let line = format!("1.1.1.1{}", ", 10.0.0.9".repeat(5000));
    assert_eq!(client(&[("xff", &line)]).as_deref(), Some("10.0.0.9"));
    let line = format!("1.1.1.1{}", ", 10.0.0.9".repeat(HOPS_MAX - 1));
    assert_eq!(client(&[("xff", &line)]).as_deref(), Some("1.1.1.1"));
}

proptest! {
    /// Whatever the client sent, a trusted proxy appends the client's address, other trusted ones theirs.
    #[test]
    fn a_spoofed_left_part_changes_nothing(
        spoofed in prop::collection::vec("[ -~]{0,20}", 0..4),
        same_line: bool,
        truth: u32,
        hops in prop::collection::vec("10\\.0\\.0\\.[1-9]", 0..4),
    ) {
        let truth = Ipv4Addr::from(truth | 0x8000_0000).to_string();
        let appended = [vec![truth.clone()], hops].concat().join(", ");
        let appended_elements = format!("for={}", appended.replace(", ", ", for="));
        for (name, appended) in [("xff", appended), ("fwd", appended_elements)] {
            let mut lines = spoofed.clone();
            match lines.last_mut() {
                Some(last) if same_line => *last = format!("{last}, {appended}"),
                _ => lines.push(appended),
            }
            let fields: Vec<_> = lines.iter().map(|line| (name, line.as_str())).collect();
            prop_assert_eq!(client(&fields), Some(truth.clone()));
        }
    }

    #[test]
    fn any_bytes_are_taken(line in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse_node(&line);
        let lines = [line.as_slice()];
        let lines = || lines.iter().copied();
        let claims = Claims {
            x_forwarded_for: lines(),
            forwarded: lines(),
            x_forwarded_proto: lines(),
            x_forwarded_host: lines(),
            x_forwarded_port: lines(),
        };
        resolve(peer("10.0.0.1"), true, &trusted(), claims);
    }
}
