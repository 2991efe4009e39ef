//! `Strict-Transport-Security`: over HTTPS alone, on every answer, never in place of the app's own (RFC 6797 section 7).

use crate::harness::tls::{Authority, TlsClient};
use crate::harness::{Client, Gateway, Origin};

const CONFIG: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    listen_tls = ["127.0.0.2:0"]
    trusted_proxies = ["127.0.0.1"]
    [admin]
    listen = ["127.0.0.1:0"]
    [[tls.certificates]]
    cert = "gateway.pem"
    key = "gateway.key"
    [security_headers.long]
    hsts = { max_age = "1h", include_subdomains = true, preload = true }
    [security_headers.forget]
    hsts = { max_age = "0s" }
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    host = ["localhost"]
    upstream = "app"
    [[routes]]
    host = ["long.test"]
    path = "/short"
    upstream = "app"
    [[routes]]
    host = ["long.test"]
    path = "/long"
    respond = { body = "long" }
    security_headers = "long"
    [[routes]]
    host = ["forget.test"]
    path = "/forget"
    upstream = "app"
    security_headers = "forget"
    [[routes]]
    host = ["off.test"]
    path = "/off"
    upstream = "app"
    security_headers = "off"
    [[routes]]
    host = ["nobody.test"]
    path = "/moved"
    redirect = { to = "/x" }
    "#;

#[test]
fn it_is_said_over_https_on_every_answer_and_the_apps_own_stays() {
    let origin = Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            let own = if request.target == "/own" { "Strict-Transport-Security: max-age=9\r\n" } else { "" };
            connection.write(format!("HTTP/1.1 200 OK\r\n{own}Content-Length: 2\r\n\r\nok"));
        }
    });
    let issued = Authority::shared().issue(&["localhost"]);
    let gateway = Gateway::with(CONFIG).set("origin", origin.address()).certificate("gateway", &issued).start();
    let mut plain = gateway.connect();
    let mut secure = Client::connect_tls(&gateway.addrs()[1], &TlsClient::new(Authority::shared(), "localhost"));
    for (host, target, status, expected) in [
        ("localhost", "/", 200, Some("max-age=300")),
        ("localhost", "/own", 200, Some("max-age=9")),
        ("long.test", "/long", 200, Some("max-age=3600; includeSubDomains; preload")),
        ("forget.test", "/forget", 200, Some("max-age=0")),
        ("off.test", "/off", 200, None),
        // The app says it itself, if not in each answer: a shorter time would take the place of its own.
        ("localhost", "/", 200, None),
        // So would one beside the longer one of the same host, or in an answer that could be of any.
        ("long.test", "/short", 200, None),
        ("long.test", "/a/../b", 400, None),
    ] {
        let response = secure.request("GET", target, &[("Host", host)], "").expect(status);
        let said = response.fields.all("strict-transport-security");
        assert_eq!(said, expected.into_iter().collect::<Vec<_>>(), "{host} {target}");
        let response = plain.request("GET", target, &[("Host", host)], "").expect(status);
        let own = expected.filter(|_| target == "/own");
        assert_eq!(response.field("strict-transport-security"), own, "{target} over plain HTTP");
    }
    // A proxy in front of us has spoken TLS with the client.
    let response =
        plain.request("GET", "/forget", &[("Host", "forget.test"), ("X-Forwarded-Proto", "https")], "").expect(200);
    assert_eq!(response.field("strict-transport-security"), Some("max-age=0"));
}
