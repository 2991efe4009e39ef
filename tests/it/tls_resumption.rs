//! Connections that go on with the keys of an earlier one: cheaper for both, and never a way around a certificate.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp)]

use std::time::{Duration, SystemTime};

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::harness::tls::{Authority, Key, TlsClient, write};
use crate::harness::{Address, Client, Gateway, eventually};

const GATEWAY: &str = r#"
    [server]
    listen = []
    listen_tls = [
        "127.0.0.2:0",
        { address = "127.0.0.3:0", client_certs = { ca = "clients.pem" } },
        { address = "127.0.0.4:0", client_certs = { ca = "clients.pem", required = false } },
        { address = "127.0.0.5:0", client_certs = { ca = "others.pem" } },
    ]
    [[tls.certificates]]
    cert = "a.pem"
    key = "a.key"
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "{dir}/access.log"
    [[routes]]
    respond = { body = "{body}" }
"#;

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS13], &[&TLS12]];

struct Stage {
    gateway: Gateway,
    clients: Authority,
}

fn start() -> Stage {
    let (clients, others) = (Authority::new(), Authority::new());
    let gateway = Gateway::with(GATEWAY)
        .certificate("a", &Authority::shared().issue(&["a.test"]))
        .file("clients.pem", clients.pem())
        .file("others.pem", others.pem());
    Stage { gateway: gateway.start(), clients }
}

impl Stage {
    /// The listener without client certificates, the one that demands, the one that asks, and the one with another authority.
    fn listeners(&self) -> [&Address; 4] {
        self.gateway.addrs().iter().collect::<Vec<_>>().try_into().unwrap()
    }

    fn anybody(versions: &[&'static SupportedProtocolVersion]) -> TlsClient {
        TlsClient::with(Authority::shared(), "a.test", versions, None)
    }

    /// A client that shows a certificate where it is asked to.
    fn somebody(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsClient {
        TlsClient::with(Authority::shared(), "a.test", versions, Some(&self.clients.issue(&["jane"])))
    }

    fn handshakes(&self, address: &Address, result: &str) -> f64 {
        let labels = [("listener", &*address.to_string()), ("result", result)];
        self.gateway.metrics().value("propylon_tls_handshakes_total", &labels).unwrap_or_default()
    }
}

/// Connects and is served, so that tickets were received; whether it was resumed.
#[track_caller]
fn visit(address: &Address, tls: &TlsClient) -> bool {
    let mut client = Client::connect_tls(address, tls);
    client.get("/").expect(200);
    client.tls().is_resumed()
}

#[test]
fn tickets_are_good_for_as_long_as_the_process_lives() {
    let stage = start();
    let [open, ..] = stage.listeners();
    for versions in VERSIONS {
        let tls = Stage::anybody(versions);
        assert!(!visit(open, &tls));
        for _ in 0..3 {
            assert!(visit(open, &tls));
        }
        stage.gateway.rewrite_config(&GATEWAY.replace("{body}", "another"));
        stage.gateway.reload();
        assert!(visit(open, &tls));
        // A new certificate does not make them worse.
        let renewed = Authority::shared().issue(&["a.test"]);
        renewed.write(stage.gateway.dir(), "a");
        stage.gateway.reload();
        assert!(visit(open, &tls));
        // They are of a client's own, and another name is another connection.
        assert!(!visit(open, &Stage::anybody(versions)));
    }
    let results = ["full", "resumed", "failed", "timeout"].map(|result| stage.handshakes(open, result));
    assert_eq!(results, [4.0, 10.0, 0.0, 0.0]);
}

#[test]
fn who_has_shown_no_certificate_does_not_come_in_by_a_ticket() {
    let stage = start();
    let [open, demanding, asking, foreign] = stage.listeners();
    for versions in VERSIONS {
        // Its tickets are from where nobody is asked.
        let anybody = Stage::anybody(versions);
        assert!(!visit(open, &anybody) && visit(open, &anybody));
        assert!(anybody.is_refused(demanding));
        // From where a certificate may be left out.
        let anybody = Stage::anybody(versions);
        assert!(!visit(asking, &anybody) && visit(asking, &anybody));
        assert!(anybody.is_refused(demanding));

        // Who has one shows it anew, and is known then.
        let somebody = stage.somebody(versions);
        assert!(!visit(open, &somebody) && visit(open, &somebody));
        assert!(!visit(demanding, &somebody) && visit(demanding, &somebody));
        // What one authority has vouched for is nothing to another.
        assert!(somebody.is_refused(foreign));
        let somebody = stage.somebody(versions);
        assert!(!visit(demanding, &somebody) && somebody.is_refused(foreign));
    }
    assert!(stage.handshakes(demanding, "failed") > 0.0 && stage.handshakes(foreign, "failed") > 0.0);
}

#[test]
fn who_was_let_in_by_authorities_that_are_gone_is_not_let_in_again() {
    for (versions, by_reload) in [(VERSIONS[0], true), (VERSIONS[1], true), (VERSIONS[0], false)] {
        let stage = start();
        let [_, demanding, ..] = stage.listeners();
        let somebody = stage.somebody(versions);
        assert!(!visit(demanding, &somebody) && visit(demanding, &somebody));
        write(&stage.gateway.dir().join("clients.pem"), Authority::new().pem());
        if by_reload {
            stage.gateway.reload();
        } else {
            stage.gateway.wait_for_log("certificates have changed on disk, and are in use");
        }
        assert!(somebody.is_refused(demanding), "by reload: {by_reload}");
    }
}

#[test]
fn every_end_of_a_handshake_is_counted() {
    let stage = start();
    let [open, ..] = stage.listeners();
    let tls = Stage::anybody(VERSIONS[0]);
    assert!(!visit(open, &tls) && visit(open, &tls));
    // The authority is another: the client breaks off.
    assert!(TlsClient::new(&Authority::new(), "a.test").connect(open).is_err());
    // It leaves without a word.
    drop(Client::connect(open));
    eventually("both are counted", || (stage.handshakes(open, "failed") == 2.0).then_some(()));
    let results = ["full", "resumed", "failed", "timeout"].map(|result| stage.handshakes(open, result));
    assert_eq!(results, [1.0, 1.0, 2.0, 0.0]);
    let page = stage.gateway.metrics();
    let connections = page.value("propylon_connections_total", &[("listener", &open.to_string())]);
    assert_eq!(connections, Some(4.0));
}

/// On resumption a server asks nobody again by itself, and a ticket may bring the next.
#[test]
fn a_certificate_that_has_expired_since_is_not_good_any_more() {
    let stage = start();
    let [_, demanding, ..] = stage.listeners();
    for versions in VERSIONS {
        let end = SystemTime::now() + Duration::from_secs(3);
        let brief = stage.clients.issue_with(&["jane"], Key::Ecdsa, |params| params.not_after = end.into());
        let tls = TlsClient::with(Authority::shared(), "a.test", versions, Some(&brief));
        assert_eq!((visit(demanding, &tls), visit(demanding, &tls)), (false, true));
        let full = stage.handshakes(demanding, "full");
        eventually("it is turned away", || tls.is_refused(demanding).then_some(()));
        assert_eq!(stage.handshakes(demanding, "full"), full);
    }
}
