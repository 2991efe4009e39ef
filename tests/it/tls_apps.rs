//! Real Python servers with TLS before and behind the gateway: frameworks see that the client came over HTTPS, and servers that
//! speak TLS themselves are served like any other.

use std::thread;

use crate::harness::tls::{Authority, TlsClient, server_config};
use crate::harness::{Client, Gateway, Origin, PythonBuilder, PythonServer, eventually, rounds};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    listen_tls = ["127.0.0.2:0"]
    [[tls.certificates]]
    cert = "a.pem"
    key = "a.key"
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    preset = "{preset}"
    endpoints = ["{app}"]
    health = { path = "/healthz", interval = "1s", timeout = "1s" }
    {tls}
    [[routes]]
    upstream = "app"
"#;

fn gateway(server: &PythonServer, preset: &str, tls: &str) -> Gateway {
    let authority = Authority::shared();
    let gateway = Gateway::with(GATEWAY).set("app", server.address()).set("preset", preset).set("tls", tls);
    gateway.certificate("a", &authority.issue(&["shop.test"])).file("ca.pem", authority.pem()).start()
}

#[test]
fn frameworks_see_that_the_client_came_over_https() {
    let flask = PythonServer::gunicorn("app:app").app_dir("examples/flask").args("-k gthread --threads 4");
    let django =
        PythonServer::gunicorn("app:application").app_dir("examples/django").env("DJANGO_ALLOWED_HOSTS", "shop.test");
    for (server, preset) in [(flask, "gunicorn-gthread"), (django, "gunicorn-sync")] {
        let server = server.start();
        let gateway = gateway(&server, preset, "");
        for (host, forged) in [("shop.test", "http"), ("shop.test:8443", "http")] {
            let fields = [("Host", host), ("X-Forwarded-Proto", forged), ("X-Forwarded-Port", "80")];
            let mut secure = gateway.connect_tls(&TlsClient::new(Authority::shared(), "shop.test"));
            let told = secure.request("GET", "/whoami", &fields, "").expect(200).json();
            assert_eq!(
                (&told["scheme"], &told["host"], &told["client"]),
                (&"https".into(), &host.into(), &"127.0.0.1".into())
            );
            let fields = [("Host", host), ("X-Forwarded-Proto", "https")];
            let told = gateway.connect().request("GET", "/whoami", &fields, "").expect(200).json();
            assert_eq!(told["scheme"], "http", "{told}");
        }
    }
}

#[test]
fn the_app_is_told_the_scheme_and_the_port_that_the_client_sees() {
    let origin = Origin::echo_head();
    let toml = GATEWAY.replace("preset = \"{preset}\"", "").replace("path = \"/healthz\", ", "");
    let gateway = Gateway::with(&toml).set("app", origin.address()).set("tls", "");
    let gateway = gateway.certificate("a", &Authority::shared().issue(&["shop.test"])).start();
    let mut client = gateway.connect_tls(&TlsClient::new(Authority::shared(), "shop.test"));
    for (host, port) in [("shop.test", "443"), ("shop.test:8443", "8443"), ("shop.test:443", "443")] {
        let head = client.request("GET", "/", &[("Host", host)], "").expect(200);
        let told =
            |name: &str| head.text().lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        let seen = ["x-forwarded-proto: ", "x-forwarded-port: ", "x-forwarded-host: "].map(told);
        assert_eq!(seen, ["https", port, host], "{head}");
    }
    // Without a host it is our own port.
    client.send("GET / HTTP/1.0\r\n\r\n");
    let head = client.response().expect(200);
    let own = format!("x-forwarded-port: {}\r\n", gateway.tls_addr().port());
    assert!(head.text().contains(&own), "{head}");
}

/// A server with a certificate for its address.
fn with_certificate(server: PythonBuilder, words: [&str; 2]) -> (PythonServer, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let files = Authority::shared().issue(&["127.0.0.1"]).write(dir.path(), "server");
    let arguments = format!("{} {} {} {}", words[0], files.cert.display(), words[1], files.key.display());
    (server.args(&arguments).tls(TlsClient::new(Authority::shared(), "127.0.0.1")).start(), dir)
}

const GUNICORN: [&str; 2] = ["--certfile", "--keyfile"];
const UVICORN: [&str; 2] = ["--ssl-certfile", "--ssl-keyfile"];
const TRUSTING: &str = "tls = { ca = \"ca.pem\" }";

/// Requests of every kind, some of them side by side.
fn check(server: &PythonServer, gateway: &Gateway) {
    let upload: Vec<u8> = (0..1_000_000_u32).flat_map(|n| n.to_le_bytes().into_iter().take(1)).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                for _ in 0..rounds(3, 100) {
                    assert_eq!(client.request("POST", "/echo", &[], &upload).expect(200).json()["length"], 1_000_000);
                    assert_eq!(client.get("/big?bytes=700000").expect(200).body.len(), 700_000);
                    client.get("/whoami").expect(200);
                    client.get("/status?code=204").expect(204);
                    client.get("/boom").expect(500);
                }
            });
        }
    });
    eventually("health checks pass", || {
        let checks = |result| gateway.metrics().value("propylon_upstream_health_checks_total", &[("result", result)]);
        (checks("pass") > Some(1.0)).then_some(())
    });
    // Nothing of it looks like a fault to the server.
    let complaints: Vec<_> =
        server.log().into_iter().filter(|line| line.contains("SSL") || line.contains("Invalid request")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn gunicorn_sync_behind_tls() {
    let (server, _dir) = with_certificate(PythonServer::gunicorn("wsgi:app").args("--workers 2"), GUNICORN);
    check(&server, &gateway(&server, "gunicorn-sync", TRUSTING));
}

#[test]
fn gunicorn_gthread_behind_tls() {
    let server = PythonServer::gunicorn("wsgi:app").args("-k gthread --threads 4");
    let (server, _dir) = with_certificate(server, GUNICORN);
    let gateway = gateway(&server, "gunicorn-gthread", TRUSTING);
    check(&server, &gateway);
    // Its connections are kept.
    let reused = gateway.metrics().value("propylon_upstream_connections_total", &[("reused", "true")]);
    assert!(reused.is_some_and(|count| count > 10.0), "{reused:?}");
}

#[test]
fn uvicorn_behind_tls() {
    let (server, _dir) = with_certificate(PythonServer::uvicorn("asgi:app"), UVICORN);
    let gateway = gateway(&server, "uvicorn", TRUSTING);
    check(&server, &gateway);
    let events = gateway
        .connect_tls(&TlsClient::new(Authority::shared(), "shop.test"))
        .request("GET", "/events?count=3&gap=0.01", &[("Host", "shop.test")], "")
        .expect(200);
    assert_eq!(events.text(), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
}

#[test]
fn uvicorn_that_demands_a_certificate() {
    let clients = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let ca = clients.write(dir.path(), "clients.pem");
    let us = clients.issue(&["gateway"]);
    us.write(dir.path(), "us");
    let arguments = format!("--ssl-cert-reqs 2 --ssl-ca-certs {}", ca.display());
    let files = Authority::shared().issue(&["127.0.0.1"]).write(dir.path(), "server");
    let arguments =
        format!("{arguments} --ssl-certfile {} --ssl-keyfile {}", files.cert.display(), files.key.display());
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let probe = TlsClient::with(Authority::shared(), "127.0.0.1", &versions, Some(&us));
    let server = PythonServer::uvicorn("asgi:app").args(&arguments).tls(probe).start();
    let identity = format!("cert = \"{0}/us.pem\", key = \"{0}/us.key\"", dir.path().display());
    let known = gateway(&server, "uvicorn", &format!("tls = {{ ca = \"ca.pem\", {identity} }}"));
    known.get("/whoami").expect(200);
    let unknown = gateway(&server, "uvicorn", TRUSTING);
    let answer = unknown.connect().request("POST", "/echo", &[], "1");
    assert!([502, 503].contains(&answer.status), "{answer}");
    // It hangs up without a word.
    unknown.wait_for_log("reason=upstream_closed");
}

#[test]
fn curl_gets_what_it_asks_for() {
    let origin = Origin::start_tls(server_config(&Authority::shared().issue(&["127.0.0.1"]), None), |connection| {
        while let Some(request) = connection.read_request() {
            connection.answer(200, request.body);
        }
    });
    let toml = GATEWAY.replace("preset = \"{preset}\"", "").replace("path = \"/healthz\", ", "");
    let gateway = Gateway::with(&toml).set("app", origin.address()).set("tls", TRUSTING);
    let gateway = gateway.certificate("a", &Authority::shared().issue(&["shop.test"]));
    let gateway = gateway.file("ca.pem", Authority::shared().pem()).start();
    let port = gateway.tls_addr().port();
    for version in ["1.2", "1.3"] {
        let curl = std::process::Command::new("curl")
            .args(["-sS", "--fail", "--cacert"])
            .arg(gateway.dir().join("ca.pem"))
            .args(["--tlsv1.2", "--tls-max", version, "--resolve", &format!("shop.test:{port}:127.0.0.2")])
            .args(["--data-binary", "@-", "-w", " %{http_code} %{ssl_verify_result} %{num_connects}"])
            .args([format!("https://shop.test:{port}/one"), format!("https://shop.test:{port}/two")])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(curl.stdout).unwrap();
        // Verified, and over one connection.
        assert_eq!(text, " 200 0 1 200 0 0", "{}", String::from_utf8_lossy(&curl.stderr));
    }
    let mut plain = Client::connect(gateway.addr());
    plain.get("/").expect(200);
}
