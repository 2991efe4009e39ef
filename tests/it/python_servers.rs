//! Real servers and frameworks behind the gateway: what they say they saw is the truth, whatever the client claims, and
//! everyday requests go through each of them without an error.

// Counts are small and whole.
#![allow(clippy::float_cmp, clippy::cast_precision_loss)]

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{Address, Client, Gateway, GatewayBuilder, PythonBuilder, PythonServer, Response, rounds};

/// A stranger may come by TCP; who comes by the Unix socket is believed.
const TOML: &str = r#"
[server]
listen = ["127.0.0.1:0", "unix:{dir}/in.sock"]
trusted_proxies = ["unix"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
preset = "{preset}"
endpoints = ["{app}"]
[[routes]]
name = "closed"
path = "/closed/*"
respond = { status = 403 }
[[routes]]
name = "app"
upstream = "app"
"#;

/// How an app tells what it saw at /whoami.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tells {
    /// The environ, as the server made it. It has no client: such an app reads X-Forwarded-For.
    Wsgi,
    /// The scope, as the server made it.
    Asgi,
    /// What the framework's own request object says.
    Framework,
}

/// What an app saw of a request.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    client: String,
    scheme: String,
    host: String,
    path: String,
    /// In lower case, sorted, repeated ones as often as they came.
    names: Vec<String>,
}

impl Tells {
    fn read(self, whoami: &Response) -> Seen {
        let told = whoami.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pairs = |value: &Value| -> Vec<(String, String)> {
            let pairs = value.as_array().unwrap().iter();
            pairs.map(|pair| (text(&pair[0]).to_ascii_lowercase(), text(&pair[1]))).collect()
        };
        let (client, scheme, path, fields) = match self {
            Self::Wsgi => {
                let environ = told["environ"].as_object().unwrap();
                assert_eq!(environ["SCRIPT_NAME"], "");
                assert!(["", "127.0.0.1"].contains(&environ["REMOTE_ADDR"].as_str().unwrap()), "{environ:?}");
                let field = |(name, value): (&String, &Value)| {
                    let name = name.strip_prefix("HTTP_")?.replace('_', "-").to_ascii_lowercase();
                    Some((name, text(value)))
                };
                let fields = environ.iter().filter_map(field).collect();
                let client = text(&environ["HTTP_X_FORWARDED_FOR"]);
                (client, text(&environ["wsgi.url_scheme"]), text(&environ["PATH_INFO"]), fields)
            }
            Self::Asgi => {
                assert_eq!(text(&told["root_path"]), "");
                let client = text(&told["client"][0]);
                (client, text(&told["scheme"]), text(&told["path"]), pairs(&told["headers"]))
            }
            Self::Framework => {
                assert_eq!(told["prefix"], "");
                (text(&told["client"]), text(&told["scheme"]), text(&told["path"]), pairs(&told["headers"]))
            }
        };
        let host = match self {
            Self::Framework => text(&told["host"]),
            _ => fields.iter().find(|(name, _)| name == "host").unwrap().1.clone(),
        };
        let mut names: Vec<String> = fields.into_iter().map(|(name, _)| name).collect();
        names.sort();
        Seen { client, scheme, host, path, names }
    }
}

/// A server with an app, and the gateway in front.
struct Stack {
    server: PythonServer,
    gateway: Gateway,
    preset: &'static str,
    tells: Tells,
}

impl Stack {
    #[track_caller]
    fn start(preset: &'static str, tells: Tells, server: PythonBuilder) -> Self {
        let server = server.start();
        let gateway: GatewayBuilder = Gateway::with(TOML).set("preset", preset).set("app", server.address());
        Self { gateway: gateway.start(), server, preset, tells }
    }

    fn stranger(&self) -> Client {
        let tcp = self.gateway.addrs().iter().find(|address| matches!(address, Address::Tcp(_)));
        Client::connect(tcp.unwrap())
    }

    fn trusted(&self) -> Client {
        let unix = self.gateway.addrs().iter().find(|address| matches!(address, Address::Unix(_)));
        Client::connect(unix.unwrap())
    }

    /// Everything this file asks of a server.
    fn check(&self) {
        self.is_told_the_truth();
        self.serves_bodies_both_ways();
        self.answers_without_bodies();
        self.is_kept_busy_without_an_error();
    }

    /// The names the app sees of a request that carries nothing but `X-Kept`.
    fn expected_names(&self) -> Vec<String> {
        let names = [
            "host",
            "traceparent",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
            "x-kept",
            "x-real-ip",
            "x-request-id",
            "x-request-start",
        ];
        let mut names: Vec<_> = names.into_iter().map(str::to_owned).collect();
        if self.preset == "gunicorn-sync" {
            names.push("connection".to_owned());
            names.sort();
        }
        names
    }

    fn is_told_the_truth(&self) {
        for forged in hostile_requests() {
            let mut fields = vec![("Host", "shop.test:8443"), ("X-Kept", "yes")];
            fields.extend(*forged);
            let answer = self.stranger().request("GET", "/%77hoami?x=%2e", &fields, "");
            assert_eq!(answer.status, 200, "{forged:?}: {answer}");
            let truth = |client: &str, scheme: &str| Seen {
                client: client.to_owned(),
                scheme: scheme.to_owned(),
                host: "shop.test:8443".to_owned(),
                path: "/whoami".to_owned(),
                names: self.expected_names(),
            };
            assert_eq!(self.tells.read(&answer), truth("127.0.0.1", "http"), "{forged:?}");

            // The same from a client behind a proxy that is believed, and that writes what it must.
            let written =
                ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-request-id"];
            let passed_on = |(name, _): &&(&str, &str)| !written.contains(&&*name.to_ascii_lowercase());
            let mut fields = vec![("Host", "shop.test:8443"), ("X-Kept", "yes")];
            fields.extend(forged.iter().filter(passed_on));
            fields.extend([
                ("X-Forwarded-For", "6.6.6.6, 203.0.113.7"),
                ("X-Forwarded-Proto", "https"),
                ("X-Request-ID", "of-the-proxy"),
            ]);
            let answer = self.trusted().request("GET", "/whoami", &fields, "");
            assert_eq!(answer.status, 200, "{forged:?}: {answer}");
            assert_eq!(self.tells.read(&answer), truth("203.0.113.7", "https"), "{forged:?}");
            assert_eq!(answer.field("x-request-id"), Some("of-the-proxy"));
        }
    }

    fn serves_bodies_both_ways(&self) {
        let upload: Vec<u8> = (0..1_000_000_u32).flat_map(|n| n.to_le_bytes().into_iter().take(1)).collect();
        let host = ("Host", "shop.test");
        let direct =
            Client::connect(self.server.address()).request("POST", "/echo", &[host], &upload).expect(200).json();
        assert_eq!(direct["length"], 1_000_000);
        let mut client = self.stranger();
        assert_eq!(client.request("POST", "/echo", &[host], &upload).expect(200).json(), direct);
        assert_eq!(client.request("POST", "/echo", &[host], "").expect(200).json()["length"], 0);
        let big = client.request("GET", "/big?bytes=1000000", &[host], "").expect(200);
        assert!(big.body.len() == 1_000_000 && big.body.iter().all(|byte| *byte == b'x'), "{}", big.body.len());
        let expecting = [host, ("Expect", "100-continue"), ("Content-Length", "5")];
        client.send_request("POST", "/echo", &expecting, "hello");
        assert_eq!(client.response().expect(200).json()["length"], 5);
    }

    /// The same bytes in pieces of no announced length.
    fn takes_a_chunked_upload(&self) {
        let mut client = self.stranger();
        let fields = [("Host", "shop.test"), ("Transfer-Encoding", "chunked")];
        client.send_request("POST", "/echo", &fields, "");
        for _ in 0..10 {
            client.send(["186a0\r\n".as_bytes(), &b"x".repeat(100_000), b"\r\n"].concat());
        }
        client.send("0\r\n\r\n");
        let chunked = client.response().expect(200).json();
        assert_eq!(chunked["length"], 1_000_000);
        let whole = client.request("POST", "/echo", &[("Host", "shop.test")], b"x".repeat(1_000_000)).expect(200);
        assert_eq!(whole.json(), chunked);
    }

    fn answers_without_bodies(&self) {
        let host = ("Host", "shop.test");
        let mut client = self.stranger();
        for target in ["/", "/whoami"] {
            let direct = Client::connect(self.server.address()).request("HEAD", target, &[host], "");
            let head = client.request("HEAD", target, &[host], "");
            assert_eq!((head.status, head.body.len()), (direct.status, 0), "{target}");
            client.request("GET", "/", &[host], "").expect(200);
        }
        if self.tells != Tells::Framework {
            for code in [304, 204] {
                let answer = client.request("GET", &format!("/status?code={code}"), &[host], "").expect(code);
                assert_eq!((answer.body.len(), answer.field("etag")), (0, Some("\"x\"")), "{answer}");
                client.request("GET", "/", &[host], "").expect(200);
            }
        }
        if self.tells != Tells::Framework {
            // HTTP/1.0 needs no Host; some of these servers answer 400 to a request of HTTP/1.1 without one.
            let mut old = self.stranger();
            old.send("GET / HTTP/1.0\r\n\r\n");
            old.response().expect(200);
        }
        client.request("GET", "/boom", &[host], "").expect(500);
        client.request("GET", "/closed/x", &[host], "").expect(403);
        client.request("GET", "/", &[host], "").expect(200);
    }

    /// One request after the other, as fast as they come back: connections are reused where the server keeps them.
    fn is_kept_busy_without_an_error(&self) {
        let connections = |reused| {
            let labels = [("upstream", "app"), ("reused", reused)];
            self.gateway.metrics().value("propylon_upstream_connections_total", &labels).unwrap_or(0.0)
        };
        let errors = || self.gateway.metrics().value("propylon_upstream_errors_total", &[]).unwrap_or(0.0);
        let (fresh, reused, failed) = (connections("false"), connections("true"), errors());
        let mut client = self.stranger();
        let count = rounds(200, 5000);
        for number in 0..count {
            let answer = match number % 4 {
                0 => client.request("POST", "/echo", &[("Host", "shop.test")], "1234567"),
                _ => client.request("GET", "/", &[("Host", "shop.test")], ""),
            };
            assert_eq!(answer.status, 200, "request {number}: {answer}");
        }
        let (fresh, reused) = (connections("false") - fresh, connections("true") - reused);
        assert_eq!(errors() - failed, 0.0);
        assert_eq!(fresh + reused, count as f64);
        if self.preset == "gunicorn-sync" {
            assert_eq!(reused, 0.0);
        } else {
            assert!(reused > count as f64 * 0.9, "{reused} of {count} on a connection that was open");
        }
    }
}

/// Each a set of claims that some server or framework is known to fall for.
fn hostile_requests() -> &'static [&'static [(&'static str, &'static str)]] {
    &[
        &[],
        // The leftmost or the rightmost, several lines, other notations.
        &[
            ("X-Forwarded-For", "6.6.6.6, 127.0.0.1"),
            ("X-Forwarded-For", "6.6.6.7"),
            ("x-forwarded-for", "[::1]:80"),
            ("X-Real-IP", "6.6.6.6"),
            ("Forwarded", "for=6.6.6.6;proto=https;host=evil.test"),
            ("True-Client-IP", "6.6.6.6"),
            ("CF-Connecting-IP", "6.6.6.6"),
            ("X-Client-IP", "6.6.6.6"),
            ("Client-IP", "6.6.6.6"),
        ],
        &[
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Proto", "HTTPS, http"),
            ("X-Forwarded-Host", "evil.test"),
            ("X-Forwarded-Port", "666"),
            ("X-Forwarded-Prefix", "/forged"),
            ("X-Forwarded-Path", "/forged"),
            ("X-Forwarded-Server", "evil.test"),
            ("X-Original-URL", "/forged"),
            ("X-Rewrite-URL", "/forged"),
            ("X-Original-Host", "evil.test"),
            ("X-Request-ID", "forged"),
        ],
        // Gunicorn answers 400 where two of these contradict each other.
        &[
            ("X-Forwarded-Ssl", "on"),
            ("X-Forwarded-Protocol", "ssl"),
            ("X-Forwarded-Scheme", "https"),
            ("X-Scheme", "https"),
            ("X-Url-Scheme", "https"),
            ("Front-End-Https", "on"),
        ],
        // WSGI, and Django under ASGI, read these as the names above.
        &[
            ("X_Forwarded_For", "6.6.6.6"),
            ("X_FORWARDED-FOR", "6.6.6.6"),
            ("X-Forwarded_Proto", "https"),
            ("x_forwarded_proto", "https"),
            ("X_Forwarded_Host", "evil.test"),
            ("X_Real_IP", "6.6.6.6"),
            ("X.Forwarded.For", "6.6.6.6"),
            ("X_Forwarded_Prefix", "/forged"),
            ("HTTP_X_FORWARDED_PROTO", "https"),
            ("Content_Length", "666"),
            ("Content_Type", "forged"),
        ],
        // Gunicorn obeys these from peers it trusts, which on a Unix socket is everybody.
        &[
            ("SCRIPT_NAME", "/who"),
            ("Script_Name", "/forged"),
            ("PATH_INFO", "/forged"),
            ("REMOTE_ADDR", "6.6.6.6"),
            ("REMOTE_USER", "admin"),
            ("X_Script_Name", "/forged"),
        ],
        // A field the client lists ends at the gateway; ours do not.
        &[
            ("Connection", "X-Forwarded-For, X-Forwarded-Proto, X-Real-IP, X-Forwarded-Host, Host, X-Request-ID"),
            ("Connection", "keep-alive, Upgrade, TE"),
            ("Upgrade", "websocket"),
            ("TE", "trailers"),
            ("Keep-Alive", "timeout=600"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy", "http://evil.test:3128"),
            ("Proxy-Authorization", "Basic eDp5"),
        ],
    ]
}

fn flask() -> PythonBuilder {
    PythonServer::gunicorn("app:app").app_dir("examples/flask")
}

fn django() -> PythonBuilder {
    PythonServer::gunicorn("app:application").app_dir("examples/django").env("DJANGO_ALLOWED_HOSTS", "shop.test")
}

#[test]
fn gunicorn_sync() {
    let stack = Stack::start("gunicorn-sync", Tells::Wsgi, PythonServer::gunicorn("wsgi:app").args("--workers 2"));
    stack.check();
    stack.takes_a_chunked_upload();
}

#[test]
fn gunicorn_sync_on_a_unix_socket() {
    let stack =
        Stack::start("gunicorn-sync", Tells::Wsgi, PythonServer::gunicorn("wsgi:app").args("--workers 2").unix());
    stack.check();
    stack.takes_a_chunked_upload();
}

/// Gunicorn takes the name `SCRIPT_NAME` from a peer on a Unix socket and moves its routes by it: `/pub/boom` would be
/// `/boom` to the app, and no rule about paths in the gateway would hold.
#[test]
fn gunicorn_on_a_unix_socket_is_not_told_a_script_name() {
    let server = PythonServer::gunicorn("wsgi:app").unix().start();
    // Asked directly it obeys: what follows is worth testing.
    let attack = [("SCRIPT_NAME", "/pub")];
    let direct = Client::connect(server.address()).request("GET", "/pub/whoami", &attack, "").expect(200).json();
    assert_eq!(
        (&direct["environ"]["SCRIPT_NAME"], &direct["environ"]["PATH_INFO"]),
        (&"/pub".into(), &"/whoami".into())
    );
    let gateway = Gateway::with(TOML).set("preset", "gunicorn-sync").set("app", server.address()).start();
    for name in
        ["SCRIPT_NAME", "script_name", "Script_Name", "SCRIPT-NAME", "SCRIPT.NAME", "PATH_INFO", "HTTP_SCRIPT_NAME"]
    {
        let answer = gateway.connect().request("GET", "/pub/whoami", &[(name, "/pub")], "").expect(200);
        assert_eq!(answer.json()["server"], "wsgi", "{name}");
        assert!(answer.json().get("environ").is_none(), "{name}: {answer}");
        let environ = gateway.connect().request("GET", "/whoami", &[(name, "/who")], "").expect(200).json();
        assert_eq!(
            (&environ["environ"]["SCRIPT_NAME"], &environ["environ"]["PATH_INFO"]),
            (&"".into(), &"/whoami".into())
        );
    }
}

#[test]
fn flask_on_gunicorn_gthread() {
    let stack = Stack::start("gunicorn-gthread", Tells::Framework, flask().args("-k gthread --threads 4"));
    stack.check();
    stack.takes_a_chunked_upload();
}

#[test]
fn flask_on_gunicorn_gthread_on_a_unix_socket() {
    let stack = Stack::start("gunicorn-gthread", Tells::Framework, flask().args("-k gthread --threads 4").unix());
    stack.check();
    stack.takes_a_chunked_upload();
}

#[test]
fn django_on_gunicorn_gthread() {
    Stack::start("gunicorn-gthread", Tells::Framework, django().args("-k gthread --threads 4")).check();
}

#[test]
fn django_on_gunicorn_sync_on_a_unix_socket() {
    Stack::start("gunicorn-sync", Tells::Framework, django().args("--workers 2").unix()).check();
}

#[test]
fn uvicorn_with_httptools() {
    let stack = Stack::start("uvicorn", Tells::Asgi, PythonServer::uvicorn("asgi:app").args("--http httptools"));
    stack.check();
    stack.takes_a_chunked_upload();
}

#[test]
fn uvicorn_with_h11_on_a_unix_socket() {
    let server = PythonServer::uvicorn("asgi:app").args("--http h11 --forwarded-allow-ips *").unix();
    let stack = Stack::start("uvicorn", Tells::Asgi, server);
    stack.check();
    stack.takes_a_chunked_upload();
}

#[test]
fn fastapi_on_uvicorn_with_h11() {
    let server = PythonServer::uvicorn("app:app").app_dir("examples/fastapi").args("--http h11");
    let stack = Stack::start("uvicorn", Tells::Framework, server);
    stack.check();
    stack.takes_a_chunked_upload();
}

/// FastAPI builds a whole URL from scheme and Host to add or take away a slash: a wrong one sends browsers elsewhere.
#[test]
fn fastapi_redirects_to_where_the_client_came_from() {
    let server = PythonServer::uvicorn("app:app").app_dir("examples/fastapi");
    let stack = Stack::start("uvicorn", Tells::Framework, server);
    let claims = [("Host", "shop.test:8443"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil.test")];
    let answer = stack.stranger().request("GET", "/whoami/?x=1", &claims, "").expect(307);
    assert_eq!(answer.field("location"), Some("http://shop.test:8443/whoami?x=1"));
    let answer = stack.trusted().request("GET", "/whoami/?x=1", &claims[..2], "").expect(307);
    assert_eq!(answer.field("location"), Some("https://shop.test:8443/whoami?x=1"));
}

#[test]
fn fastapi_on_gunicorn_with_the_uvicorn_worker() {
    let server = PythonServer::gunicorn("app:app").app_dir("examples/fastapi").args("-k uvicorn_worker.UvicornWorker");
    let stack = Stack::start("gunicorn-uvicorn", Tells::Framework, server);
    stack.check();
    stack.takes_a_chunked_upload();
}

#[test]
fn hypercorn() {
    let stack = Stack::start("hypercorn", Tells::Asgi, PythonServer::hypercorn("hypercorn_app:app"));
    stack.check();
    stack.takes_a_chunked_upload();
}

#[test]
fn daphne() {
    let stack = Stack::start("daphne", Tells::Asgi, PythonServer::daphne("asgi:app").args("--proxy-headers"));
    stack.check();
    stack.takes_a_chunked_upload();
}

/// Gunicorn takes 100 fields and refuses one more. What the gateway adds counts as well, and its own answer says why.
#[test]
fn gunicorn_is_never_sent_more_fields_than_it_takes() {
    let server = PythonServer::gunicorn("wsgi:app").unix().start();
    let toml = TOML.replace(
        "name = \"app\"\n",
        "name = \"app\"\npath = \"/pre/*\"\nstrip_prefix = \"/pre\"\n\
         request_headers = { set = { X-A = \"1\", X-B = \"2\", X-C = \"3\" } }\n",
    );
    let gateway = Gateway::with(&toml).set("preset", "gunicorn-sync").set("app", server.address()).start();
    let mut statuses = BTreeSet::new();
    for count in 80..=95 {
        let names: Vec<String> = (0..count).map(|number| format!("X-Field-{number}")).collect();
        let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        let answer = gateway.connect().request("GET", "/pre/whoami", &fields, "");
        match answer.status {
            200 => assert_eq!(answer.json()["environ"]["HTTP_X_C"], "3"),
            431 => assert_eq!(answer.json()["reason"], "head_too_large", "{count}"),
            other => panic!("{other} for {count} fields: {answer}"),
        }
        statuses.insert(answer.status);
    }
    assert_eq!(statuses.len(), 2);
}
