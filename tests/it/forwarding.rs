//! What the app is told about the client: one true value for each forwarding field, none of the client's own claims,
//! and no field that ends at this hop.

// Counts are small and whole.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::{Address, Client, Fields, Gateway, GatewayBuilder, Origin, Request};

/// Nobody is believed.
const STRICT: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{origin}"]
[[routes]]
upstream = "app"
"#;

/// The peers of this listener are believed, and 10.0.0.0/8, 192.0.2.1 and `2001:db8::/32` behind them.
const TRUSTING: &str = r#"
[server]
listen = ["127.0.0.1:0"]
trusted_proxies = ["127.0.0.1", "10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{origin}"]
[[routes]]
upstream = "app"
"#;

/// Every name an app, a framework or a server reads as a gateway's word about the client.
const SPOOFABLE: &[&str] = &[
    "Forwarded",
    "X-Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Protocol",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-By",
    "X-Forwarded-Path",
    "X-Forwarded-Uri",
    "X-Forwarded-User",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Anything-At-All",
    "X-Real-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Original-Forwarded-For",
    "X-Original-Host",
    "X-Original-URL",
    "X-Original-URI",
    "X-Rewrite-URL",
    "X-Scheme",
    "X-Url-Scheme",
    "Front-End-Https",
    "X-Accel-Redirect",
    "X-Accel-Buffering",
    "X-Accel-Mapping",
    "X-Sendfile",
    "X-Sendfile-Type",
    "X-Request-Start",
    "X-Queue-Start",
    "Proxy",
    "Client-IP",
    "Forwarded-For",
    "True-Client-IP",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "Fastly-Client-IP",
];

fn with_origin(toml: &str, origin: &Origin) -> GatewayBuilder {
    Gateway::with(toml).set("origin", origin.address())
}

/// The one request the origin got since the last time it was asked.
fn seen(origin: &Origin, client: &mut Client, fields: &[(&str, &str)]) -> Request {
    let before = origin.requests().len();
    client.request("GET", "/", fields, "").expect(200);
    let mut requests = origin.requests();
    assert_eq!(requests.len(), before + 1);
    requests.pop().unwrap()
}

fn lower_names(fields: &Fields) -> BTreeSet<String> {
    fields.names().iter().map(|name| name.to_ascii_lowercase()).collect()
}

fn is_new_id(id: &str) -> bool {
    let groups: Vec<&str> = id.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12] && groups[2].starts_with('4') && id.bytes().all(|b| b"0123456789abcdef-".contains(&b))
}

#[test]
fn a_request_reaches_the_app_byte_for_byte_with_our_fields_and_no_others() {
    let origin = Origin::echo_head();
    let gateway = with_origin(STRICT, &origin).start();
    let mut client = gateway.connect();
    let before = SystemTime::now();
    client.send(
        "POST /a//b%2Fc?d=%zz HTTP/1.1\r\nhOST: Shop.Example.com:8443\r\nUser-Agent:  curl/8 \t\r\nX-Empty:\r\n\
         X-Twice: 1\r\nx-twice: 2\r\nCookie: a=1; b=2\r\nX-Latin: caf\u{e9}\r\nContent-Length: 00002\r\n\r\nhi",
    );
    let answer = client.response().expect(200);
    let request = origin.requests().pop().unwrap();
    let id = request.field("x-request-id").unwrap();
    assert!(is_new_id(id), "{id}");
    assert_eq!(answer.field("x-request-id"), Some(id));
    assert_eq!(gateway.access_log(1)[0]["request_id"], id);
    let trace = request.field("traceparent").unwrap();
    assert_eq!(gateway.access_log(1)[0]["trace_id"], trace[3..35]);
    let start = request.field("x-request-start").unwrap();
    let seconds: f64 = start.strip_prefix("t=").unwrap().parse().unwrap();
    let seconds_of = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    // To the millisecond, rounded down.
    assert!((seconds_of(before) - 0.001..seconds_of(SystemTime::now())).contains(&seconds), "{start}");
    // Names are case-insensitive, so that alone is not compared.
    let head = String::from_utf8(request.raw_head.clone()).unwrap();
    let (line, fields) = head.split_once("\r\n").unwrap();
    assert_eq!(line, "POST /a//b%2Fc?d=%zz HTTP/1.1");
    let mut lines: Vec<String> = fields
        .trim_end_matches("\r\n")
        .split("\r\n")
        .map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or((line.trim_end_matches(':'), ""));
            format!("{}: {value}", name.to_ascii_lowercase())
        })
        .collect();
    lines.sort();
    let mut expected = vec![
        "content-length: 2".to_owned(),
        "cookie: a=1; b=2".to_owned(),
        "host: Shop.Example.com:8443".to_owned(),
        format!("traceparent: {trace}"),
        "user-agent: curl/8".to_owned(),
        "x-empty: ".to_owned(),
        "x-forwarded-for: 127.0.0.1".to_owned(),
        "x-forwarded-host: Shop.Example.com:8443".to_owned(),
        "x-forwarded-port: 8443".to_owned(),
        "x-forwarded-proto: http".to_owned(),
        "x-latin: caf\u{e9}".to_owned(),
        "x-real-ip: 127.0.0.1".to_owned(),
        format!("x-request-id: {id}"),
        format!("x-request-start: {start}"),
        "x-twice: 1".to_owned(),
        "x-twice: 2".to_owned(),
    ];
    expected.sort();
    assert_eq!(lines, expected);
    assert_eq!(request.body, b"hi");
}

#[test]
fn the_port_is_that_of_the_host_or_the_schemes() {
    let origin = Origin::echo_head();
    let gateway = with_origin(STRICT, &origin).start();
    let mut client = gateway.connect();
    for (host, port) in
        [("test", "80"), ("test:8000", "8000"), ("[::1]:81", "81"), ("10.1.2.3", "80"), ("test:443", "443")]
    {
        let request = seen(&origin, &mut client, &[("Host", host)]);
        assert_eq!(request.field("x-forwarded-port"), Some(port), "{host}");
        assert_eq!(request.field("host"), Some(host));
        assert_eq!(request.field("x-forwarded-host"), Some(host));
        assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    }
}

/// In every case, twice, and in each way of writing it that WSGI or a lax server reads as the same name.
#[test]
fn no_field_that_only_a_gateway_may_set_comes_through_from_a_client() {
    let origin = Origin::echo_head();
    for toml in [STRICT, TRUSTING] {
        let gateway = with_origin(toml, &origin).start();
        let mut client = gateway.connect();
        let ours = lower_names(&seen(&origin, &mut client, &[]).fields);
        let forged = "6.6.6.6/forged";
        let mut variants = 0.0;
        for name in SPOOFABLE {
            let odd_case: String = name
                .char_indices()
                .map(|(at, c)| if at % 2 == 0 { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() })
                .collect();
            let names = [
                (*name).to_owned(),
                name.to_ascii_lowercase(),
                name.to_ascii_uppercase(),
                odd_case,
                name.replace('-', "_"),
                name.replacen('-', "_", 1),
                name.replace('-', "."),
                format!("{name}_"),
                format!("_{name}"),
            ];
            variants += names.iter().collect::<BTreeSet<_>>().len() as f64;
            let fields: Vec<_> = names.iter().map(|name| (name.as_str(), forged)).collect();
            let request = seen(&origin, &mut client, &fields);
            let head = String::from_utf8(request.raw_head.clone()).unwrap();
            assert!(!head.contains(forged), "{name}: {head}");
            assert_eq!(lower_names(&request.fields), ours, "{name}");
            for own in ["x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"] {
                assert_eq!(request.fields.all(own).len(), 1, "{name}: {own}");
            }
        }
        assert!(variants > 300.0);
        let metrics = gateway.metrics();
        let dropped = |reason| metrics.value("propylon_fields_dropped_total", &[("reason", reason)]).unwrap();
        assert!(dropped("name") > 100.0, "{}", dropped("name"));
        assert!(dropped("spoofable") > 100.0, "{}", dropped("spoofable"));
    }
}

#[test]
fn names_that_wsgi_maps_onto_others_are_dropped_and_counted() {
    let origin = Origin::echo_head();
    let gateway = with_origin(STRICT, &origin).start();
    let mut client = gateway.connect();
    let forged = [
        ("SCRIPT_NAME", "/forged"),
        ("PATH_INFO", "/forged"),
        ("REMOTE_ADDR", "forged"),
        ("REMOTE_USER", "forged"),
        ("X-Auth_User", "forged"),
        ("Content_Length", "100"),
        ("Transfer_Encoding", "chunked"),
        ("HTTP_X_FORWARDED_PROTO", "forged"),
        ("wsgi.url_scheme", "forged"),
        ("X.Real.IP", "forged"),
        ("X!Real", "forged"),
        ("X~Real", "forged"),
    ];
    let request = seen(&origin, &mut client, &forged);
    let head = String::from_utf8(request.raw_head.clone()).unwrap();
    assert!(!head.contains("forged") && !head.contains('_'), "{head}");
    let metrics = gateway.metrics();
    let count = |reason| metrics.value("propylon_fields_dropped_total", &[("reason", reason)]);
    assert_eq!(count("name"), Some(forged.len() as f64));
    assert_eq!(count("spoofable").unwrap_or(0.0), 0.0);
    // What merely looks a bit like them is the app's own.
    let kept = [
        ("X-Forwardedness", "1"),
        ("X-Accelerate", "2"),
        ("X-Requested-With", "3"),
        ("X-Auth-User", "4"),
        ("DNT", "5"),
    ];
    let request = seen(&origin, &mut client, &kept);
    for (name, value) in kept {
        assert_eq!(request.field(name), Some(value));
    }
}

#[test]
fn connection_names_fields_of_the_clients_and_never_ours() {
    let origin = Origin::echo_head();
    let gateway = with_origin(STRICT, &origin).start();
    let mut client = gateway.connect();
    let request = seen(
        &origin,
        &mut client,
        &[
            ("Connection", "keep-alive, X-Forwarded-For, x-forwarded-proto, X-FORWARDED-HOST,X-Forwarded-Port"),
            ("Connection", "X-Real-IP, X-Request-ID, Host, Content-Length, X-Private ,, \"odd\", Cookie"),
            ("X-Private", "for the gateway alone"),
            ("Cookie", "listed, so it ends here"),
            ("X-Public", "1"),
        ],
    );
    for (name, value) in [
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-real-ip", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("test")),
        ("x-forwarded-port", Some("80")),
        ("host", Some("test")),
        ("x-public", Some("1")),
        ("x-private", None),
        ("cookie", None),
        ("connection", None),
    ] {
        assert_eq!(request.field(name), value, "{name}");
    }
    assert!(is_new_id(request.field("x-request-id").unwrap()));
    // A body keeps its length, whatever is listed.
    let listed = [("Connection", "Content-Length, Transfer-Encoding")];
    client.request("POST", "/", &listed, "body").expect(200);
    assert_eq!(origin.requests().pop().unwrap().body, b"body");
    client.get("/").expect(200);
}

/// A client behind a trusted proxy could have the proxy's own words removed that way.
#[test]
fn connection_cannot_remove_what_a_trusted_proxy_says() {
    let origin = Origin::echo_head();
    let gateway = with_origin(TRUSTING, &origin).start();
    let request = seen(
        &origin,
        &mut gateway.connect(),
        &[
            ("Connection", "X-Forwarded-For, X-Forwarded-Proto, X-Request-ID"),
            ("X-Forwarded-For", "203.0.113.9"),
            ("X-Forwarded-Proto", "https"),
            ("X-Request-ID", "of-the-proxy"),
        ],
    );
    assert_eq!(request.field("x-forwarded-for"), Some("203.0.113.9"));
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    assert_eq!(request.field("x-request-id"), Some("of-the-proxy"));
}

#[test]
fn fields_of_this_hop_are_not_passed_on() {
    let origin = Origin::echo_head();
    let gateway = with_origin(STRICT, &origin).start();
    let mut client = gateway.connect();
    let ours = lower_names(&seen(&origin, &mut client, &[]).fields);
    let hop = [
        ("Connection", "keep-alive, Upgrade, HTTP2-Settings, TE"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic c2VjcmV0"),
        ("Proxy-Authenticate", "Basic"),
        ("TE", "trailers, deflate"),
        ("Trailer", "X-Sum"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ];
    let request = seen(&origin, &mut client, &hop);
    assert_eq!(lower_names(&request.fields), ours);
    let websocket = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    // A WebSocket is asked for in every way that matters, or not at all.
    for missing in 0..websocket.len() {
        let mut fields = websocket.to_vec();
        fields.remove(missing);
        let request = seen(&origin, &mut client, &fields);
        assert!(!request.fields.has("upgrade") && !request.fields.has("connection"), "{:?}", request.fields);
    }
    // Expect is the gateway's to answer.
    client.send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\nbody");
    client.response().expect(200);
    let request = origin.requests().pop().unwrap();
    assert_eq!((request.fields.has("expect"), request.body.as_slice()), (false, b"body".as_slice()));
}

#[test]
fn an_old_client_gets_a_modern_request_made_of_its_own() {
    let origin = Origin::echo_head();
    let gateway = with_origin(STRICT, &origin).start();
    let mut client = gateway.connect();
    client.send("GET /old HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n");
    client.response().expect(200);
    let request = origin.requests().pop().unwrap();
    assert_eq!((request.version.as_str(), request.field("host")), ("HTTP/1.1", Some("test")));
    // HTTP/1.0 needs no Host. HTTP/1.1 does, and servers behind answer 400 without one.
    let mut client = gateway.connect();
    client.send("GET /older HTTP/1.0\r\n\r\n");
    client.response().expect(200);
    let request = origin.requests().pop().unwrap();
    assert_eq!((request.version.as_str(), request.field("host")), ("HTTP/1.1", Some("")));
    assert_eq!(request.field("x-forwarded-host"), None);
    assert_eq!(request.field("x-forwarded-port"), Some(&*gateway.addr().port().to_string()));
}

#[test]
fn nobody_untrusted_is_believed() {
    let origin = Origin::echo_head();
    // The peer is 127.0.0.1; it is not among these.
    let toml = TRUSTING.replace(r#""127.0.0.1", "#, "");
    let gateway = with_origin(&toml, &origin).start();
    let request = seen(
        &origin,
        &mut gateway.connect(),
        &[
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Forwarded-For", "203.0.113.9, 10.0.0.2"),
            ("Forwarded", "for=203.0.113.9;proto=https;host=evil.test"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil.test"),
            ("X-Forwarded-Port", "444"),
            ("X-Request-ID", "chosen-by-the-client"),
        ],
    );
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "test"),
        ("x-forwarded-port", "80"),
    ] {
        assert_eq!(request.field(name), Some(value), "{name}");
    }
    assert!(is_new_id(request.field("x-request-id").unwrap()));
    assert!(!request.fields.has("forwarded"));
    assert_eq!(gateway.access_log(1)[0]["client"], "127.0.0.1");
}

#[test]
fn x_forwarded_for_is_walked_from_the_right_over_trusted_proxies() {
    let origin = Origin::echo_head();
    let gateway = with_origin(TRUSTING, &origin).start();
    let mut client = gateway.connect();
    let chains: &[(&[&str], &str)] = &[
        (&["203.0.113.9"], "203.0.113.9"),
        (&["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (&["6.6.6.6, 203.0.113.9, 10.0.0.1"], "203.0.113.9"),
        (&["6.6.6.6", "203.0.113.9,10.0.0.1", "192.0.2.1"], "203.0.113.9"),
        (&["203.0.113.9 ,\t10.0.0.1 , , "], "203.0.113.9"),
        (&["203.0.113.9:4711, 10.0.0.1:80"], "203.0.113.9"),
        // IPv6, bare, in brackets, with a port; always written as RFC 5952 has it, without either.
        (&["2001:DB9:0::1"], "2001:db9::1"),
        (&["6.6.6.6, [2001:db9::1]:4711, 2001:db8::5"], "2001:db9::1"),
        (&["[2001:db9::1], [2001:db8::5]:1"], "2001:db9::1"),
        (&["::ffff:203.0.113.9, ::ffff:10.0.0.1"], "203.0.113.9"),
        // All are trusted: the leftmost is the client.
        (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (&["192.0.2.2, 192.0.2.1"], "192.0.2.2"),
        // What is no address ends the walk at its right neighbour, or at the peer.
        (&["6.6.6.6, unknown, 10.0.0.1"], "10.0.0.1"),
        (&["6.6.6.6, _hidden"], "127.0.0.1"),
        (&["6.6.6.6, 10.0.0.256"], "127.0.0.1"),
        (&["6.6.6.6, 10.0.0.1; drop table"], "127.0.0.1"),
        (&["6.6.6.6, <script>, 10.0.0.1"], "10.0.0.1"),
        (&["6.6.6.6, fe80::1%eth0"], "127.0.0.1"),
        (&[""], "127.0.0.1"),
        (&[" , ,"], "127.0.0.1"),
    ];
    for (lines, expected) in chains {
        let fields: Vec<_> = lines.iter().map(|line| ("X-Forwarded-For", *line)).collect();
        let request = seen(&origin, &mut client, &fields);
        assert_eq!(request.field("x-forwarded-for"), Some(*expected), "{lines:?}");
        assert_eq!(request.field("x-real-ip"), Some(*expected), "{lines:?}");
    }
    let lines = gateway.access_log(chains.len());
    for (line, (_, expected)) in lines.iter().zip(chains) {
        assert_eq!(line["client"], *expected);
    }
    // A chain without an end is not followed for ever.
    let long = "10.0.0.1, ".repeat(500) + "10.0.0.2";
    assert_eq!(seen(&origin, &mut client, &[("X-Forwarded-For", &long)]).field("x-real-ip"), Some("10.0.0.1"));
}

#[test]
fn forwarded_says_the_same_where_there_is_no_x_forwarded_for() {
    let origin = Origin::echo_head();
    let gateway = with_origin(TRUSTING, &origin).start();
    let mut client = gateway.connect();
    for (value, ip, proto, host) in [
        ("for=203.0.113.9", "203.0.113.9", "http", "test"),
        ("for=203.0.113.9;proto=https;host=shop.test", "203.0.113.9", "https", "shop.test"),
        ("FOR=\"203.0.113.9:80\"; Proto=HTTPS", "203.0.113.9", "https", "test"),
        ("for=\"[2001:db9::1]:4711\";proto=https, for=10.0.0.1", "2001:db9::1", "https", "test"),
        ("for=6.6.6.6;host=evil.test;proto=https, for=203.0.113.9", "203.0.113.9", "http", "test"),
        ("for=\"6.6.6.6, for=203.0.113.9;proto=https", "203.0.113.9", "https", "test"),
        ("for=203.0.113.9;host=\"evil.test/x\"", "203.0.113.9", "http", "test"),
        ("for=unknown;proto=https", "127.0.0.1", "https", "test"),
        ("for=_secret", "127.0.0.1", "http", "test"),
        ("garbage", "127.0.0.1", "http", "test"),
        ("for=203.0.113.9;for=6.6.6.6", "127.0.0.1", "http", "test"),
    ] {
        let request = seen(&origin, &mut client, &[("Forwarded", value)]);
        assert_eq!(request.field("x-forwarded-for"), Some(ip), "{value}");
        assert_eq!(request.field("x-forwarded-proto"), Some(proto), "{value}");
        assert_eq!(request.field("x-forwarded-host"), Some(host), "{value}");
        assert_eq!(request.field("host"), Some("test"));
        assert!(!request.fields.has("forwarded"), "{value}");
    }
    // Both: one of them is what the proxy wrote, and X-Forwarded-For is the usual one.
    let both = [("Forwarded", "for=6.6.6.6;proto=https"), ("X-Forwarded-For", "203.0.113.9")];
    let request = seen(&origin, &mut client, &both);
    assert_eq!(request.field("x-forwarded-for"), Some("203.0.113.9"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
}

#[test]
fn scheme_host_and_port_of_a_trusted_proxy_become_one_value_each() {
    let origin = Origin::echo_head();
    let gateway = with_origin(TRUSTING, &origin).start();
    let mut client = gateway.connect();
    for (proto, host, port, expected) in [
        ("https", "shop.test", "", ["https", "shop.test", "443"]),
        ("HTTPS", "shop.test:8443", "", ["https", "shop.test:8443", "8443"]),
        ("http, https", "evil.test, shop.test", "80, 444", ["https", "shop.test", "444"]),
        ("https, http", "", "", ["http", "test", "80"]),
        ("https", "", "", ["https", "test", "443"]),
        ("wss", "", "", ["http", "test", "80"]),
        ("https://", "", "", ["http", "test", "80"]),
        ("", "sh op.test", "", ["http", "test", "80"]),
        ("", "evil.test@shop.test", "", ["http", "test", "80"]),
        ("", "shop.test/../x", "", ["http", "test", "80"]),
        ("", "", "0", ["http", "test", "80"]),
        ("", "", "65536", ["http", "test", "80"]),
        ("", "", "+80", ["http", "test", "80"]),
        ("https", "", "8443", ["https", "test", "8443"]),
    ] {
        let all = [("X-Forwarded-Proto", proto), ("X-Forwarded-Host", host), ("X-Forwarded-Port", port)];
        let given: Vec<_> = all.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let request = seen(&origin, &mut client, &given);
        for (name, expected) in ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"].iter().zip(expected) {
            assert_eq!(request.field(name), Some(expected), "{given:?}");
        }
        assert_eq!(request.field("host"), Some("test"));
    }
    // Two lines are a list as well: the last is the nearest proxy's.
    let twice = [("X-Forwarded-Proto", "http"), ("X-Forwarded-Proto", "https")];
    assert_eq!(seen(&origin, &mut client, &twice).field("x-forwarded-proto"), Some("https"));
}

/// Many load balancers pass X-Forwarded-Host on as the client wrote it: it opens no host that is not served.
#[test]
fn a_forwarded_host_that_is_not_allowed_is_not_believed() {
    let origin = Origin::echo_head();
    let toml = TRUSTING.replace("trusted_proxies", "allowed_hosts = [\"test\", \"*.shop.test\"]\ntrusted_proxies");
    let gateway = with_origin(&toml, &origin).start();
    let mut client = gateway.connect();
    for (claimed, told) in [
        ("evil.test", "test"),
        ("shop.test", "test"),
        ("www.shop.test:8443", "www.shop.test:8443"),
        ("www.shop.test.evil.test", "test"),
    ] {
        let request = seen(&origin, &mut client, &[("X-Forwarded-Host", claimed)]);
        assert_eq!(request.field("x-forwarded-host"), Some(told), "{claimed}");
    }
    let request = seen(&origin, &mut client, &[("Forwarded", "for=203.0.113.9;host=evil.test")]);
    assert_eq!(request.field("x-forwarded-host"), Some("test"));
}

#[test]
fn a_request_id_is_kept_from_trusted_peers_where_it_is_safe() {
    let origin = Origin::echo_head();
    let gateway = with_origin(TRUSTING, &origin).start();
    let mut client = gateway.connect();
    let longest = "a".repeat(128);
    let too_long = "a".repeat(129);
    for (id, kept) in [
        ("7b5f1c9e-0000-4000-8000-000000000000", true),
        ("Root_1.2-3", true),
        (&longest, true),
        (&too_long, false),
        ("", false),
        ("two words", false),
        ("a,b", false),
        ("<script>", false),
        ("a\"b", false),
        ("a=b;c", false),
        ("caf\u{e9}", false),
    ] {
        let answer = client.request("GET", "/", &[("x-request-ID", id)], "").expect(200);
        let request = origin.requests().pop().unwrap();
        let told = request.field("x-request-id").unwrap();
        assert_eq!(told == id, kept, "{id:?}");
        assert!(kept || is_new_id(told), "{told}");
        assert_eq!(answer.field("x-request-id"), Some(told));
    }
    let two = seen(&origin, &mut client, &[("X-Request-ID", "one"), ("X-Request-ID", "two")]);
    assert!(is_new_id(two.field("x-request-id").unwrap()));
    let ids: BTreeSet<String> =
        gateway.access_log(12).iter().map(|line| line["request_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 12);
}

#[test]
fn a_unix_socket_peer_has_no_address_unless_it_is_trusted_and_says_one() {
    let origin = Origin::echo_head();
    let trusting = r#"
        [server]
        listen = ["unix:{dir}/in.sock", "127.0.0.1:0"]
        trusted_proxies = ["unix"]
        [admin]
        listen = ["127.0.0.1:0"]
        [log]
        access = "{dir}/access.log"
        [upstreams.app]
        endpoints = ["{origin}"]
        [[routes]]
        upstream = "app"
        "#;
    let claims =
        [("X-Forwarded-For", "6.6.6.6, 203.0.113.9"), ("X-Forwarded-Proto", "https"), ("X-Request-ID", "mine")];
    let gateway = with_origin(trusting, &origin).start();
    let is_unix = |address: &&Address| matches!(address, Address::Unix(_));
    let unix = gateway.addrs().iter().find(is_unix).unwrap();
    let mut client = Client::connect(unix);
    let request = seen(&origin, &mut client, &claims);
    assert_eq!(request.field("x-forwarded-for"), Some("203.0.113.9"));
    assert_eq!(request.field("x-real-ip"), Some("203.0.113.9"));
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    assert_eq!(request.field("x-request-id"), Some("mine"));
    // "unix" is about Unix sockets: the same words over TCP are a stranger's.
    let tcp = gateway.addrs().iter().find(|address| !is_unix(address)).unwrap();
    let request = seen(&origin, &mut Client::connect(tcp), &claims);
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    // Nobody said where the request comes from, and nothing is made up: 127.0.0.1 would be the app's own machine.
    let request = seen(&origin, &mut client, &[]);
    assert!(!request.fields.has("x-forwarded-for") && !request.fields.has("x-real-ip"), "{:?}", request.fields);
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    let line = gateway.access_log(3)[2].clone();
    assert_eq!(line["status"], 200);
    assert!(line.get("client").is_none_or(|client| client.is_null() || client == "unix"), "{line}");

    let strict = trusting.replace("trusted_proxies = [\"unix\"]", "trusted_proxies = [\"0.0.0.0/0\", \"::/0\"]");
    let gateway = with_origin(&strict, &origin).start();
    let unix = gateway.addrs().iter().find(is_unix).unwrap();
    let request = seen(&origin, &mut Client::connect(unix), &claims);
    assert!(!request.fields.has("x-forwarded-for") && !request.fields.has("x-real-ip"), "{:?}", request.fields);
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert!(is_new_id(request.field("x-request-id").unwrap()));
}

#[test]
fn an_ipv6_client_is_told_without_brackets() {
    let origin = Origin::echo_head();
    let toml = STRICT.replace("listen = [\"127.0.0.1:0\"]\n[admin]", "listen = [\"[::1]:0\"]\n[admin]");
    let gateway = with_origin(&toml, &origin).start();
    let request = seen(&origin, &mut gateway.connect(), &[("X-Forwarded-For", "6.6.6.6")]);
    assert_eq!(request.field("x-forwarded-for"), Some("::1"));
    assert_eq!(request.field("x-real-ip"), Some("::1"));
    assert_eq!(gateway.access_log(1)[0]["client"], "::1");
}
