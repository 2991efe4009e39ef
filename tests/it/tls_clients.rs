//! Clients that show certificates: who is let in, and what the app is told of them.

// Counters are whole numbers, and small ones.
#![allow(clippy::float_cmp)]

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::version::{TLS12, TLS13};

use crate::harness::tls::{Authority, Issued, Key, TlsClient, openssl};
use crate::harness::{Address, Client, Gateway, Origin};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0", "unix:{dir}/gateway.sock"]
    listen_tls = [
        "127.0.0.2:0",
        { address = "127.0.0.3:0", client_certs = { ca = "clients.pem", required = false } },
        { address = "127.0.0.4:0", client_certs = { ca = "clients.pem" } },
    ]
    trusted_proxies = [{trusted}]
    [[tls.certificates]]
    cert = "a.pem"
    key = "a.key"
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    upstream = "app"
"#;

struct Stage {
    gateway: Gateway,
    origin: Origin,
    clients: Authority,
}

fn start(trusted: &str) -> Stage {
    let (origin, clients) = (Origin::echo_head(), Authority::new());
    let gateway = Gateway::with(GATEWAY)
        .set("origin", origin.address())
        .set("trusted", trusted)
        .certificate("a", &Authority::shared().issue(&["a.test"]))
        .file("clients.pem", clients.pem());
    Stage { gateway: gateway.start(), origin, clients }
}

impl Stage {
    /// The listener that asks for certificates, and the one that demands them.
    fn listeners(&self) -> [&Address; 2] {
        let at = |ip: &str| self.gateway.addrs().iter().find(|address| address.to_string().starts_with(ip)).unwrap();
        [at("127.0.0.3:"), at("127.0.0.4:")]
    }

    fn failed(&self, address: &Address) -> f64 {
        let labels = [("listener", &*address.to_string()), ("result", "failed")];
        self.gateway.metrics().value("propylon_tls_handshakes_total", &labels).unwrap_or_default()
    }
}

fn client(identity: Option<&Issued>) -> TlsClient {
    TlsClient::with(Authority::shared(), "a.test", &[&TLS13, &TLS12], identity)
}

/// The values of a field in the head that the app was sent.
fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|field| field.0.eq_ignore_ascii_case(name)).map(|field| field.1).collect()
}

#[test]
fn the_app_is_told_who_a_client_has_shown_to_be() {
    let stage = start("");
    let jane = stage.clients.issue_with(&["jane.test"], Key::Ecdsa, |params| {
        let name = &mut params.distinguished_name;
        *name = rcgen::DistinguishedName::new();
        name.push(DnType::CountryName, "PL");
        name.push(DnType::OrganizationName, "Łódź \"Söhne\" <+;>");
        name.push(DnType::OrganizationalUnitName, " #1 ");
        name.push(DnType::CommonName, "Jane, O=Admin\r\nX-Admin: 1");
    });
    let [asking, demanding] = stage.listeners();
    let subject = concat!(
        r"CN=Jane\, O\=Admin\0D\0AX-Admin: 1,",
        r"OU=\ #1\ ,",
        r#"O=\C5\81\C3\B3d\C5\BA \"S\C3\B6hne\" \<\+\;\>,"#,
        "C=PL",
    );
    // What openssl says is the same, but for the equals sign, which RFC 4514 lets be escaped or not.
    let told = openssl("x509 -noout -subject -nameopt RFC2253", &jane.cert);
    assert_eq!(told.trim_end_matches('\n'), format!("subject={}", subject.replace("\\=", "=")));
    let told = openssl("x509 -noout -fingerprint -sha256", &jane.cert);
    let fingerprint = told.trim().split_once('=').unwrap().1.replace(':', "").to_lowercase();
    for address in [asking, demanding] {
        for versions in [[&TLS13], [&TLS12]] {
            let jane = TlsClient::with(Authority::shared(), "a.test", &versions, Some(&jane));
            for resumed in [false, true] {
                let mut client = Client::connect_tls(address, &jane);
                assert_eq!(client.tls().is_resumed(), resumed);
                // On each request of the connection.
                for _ in 0..2 {
                    let answer = client.get("/").expect(200);
                    assert_eq!(values(answer.text(), "x-client-cert-subject"), [subject]);
                    assert_eq!(values(answer.text(), "x-client-cert-sha256"), [&*fingerprint]);
                }
            }
        }
    }
}

#[test]
fn a_certificate_may_be_left_out_where_it_is_only_asked_for() {
    let stage = start("");
    let [asking, demanding] = stage.listeners();
    for versions in [[&TLS13], [&TLS12]] {
        let anybody = TlsClient::with(Authority::shared(), "a.test", &versions, None);
        let answer = Client::connect_tls(asking, &anybody).get("/").expect(200);
        assert!(!answer.text().to_lowercase().contains("client-cert"), "{answer}");
        assert!(anybody.is_refused(demanding));
    }
    assert_eq!((stage.failed(asking), stage.failed(demanding)), (0.0, 2.0));
    assert_eq!(stage.origin.requests().len(), 2);
}

#[test]
fn a_certificate_that_is_not_good_is_refused_in_the_handshake() {
    let stage = start("");
    let with = |change: &dyn Fn(&mut CertificateParams)| stage.clients.issue_with(&["jane"], Key::Ecdsa, |p| change(p));
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["jane".to_owned()]).unwrap().self_signed(&key).unwrap();
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    };
    let cases = [
        ("expired", with(&|params| params.not_after = date_time_ymd(2020, 1, 1))),
        ("not yet valid", with(&|params| params.not_before = date_time_ymd(2999, 1, 1))),
        ("for servers", with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
        ("foreign", Authority::new().issue(&["jane"])),
        ("our own server's", Authority::shared().issue(&["a.test"])),
        ("self-signed", self_signed),
    ];
    let good = with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    for address in stage.listeners() {
        for (what, issued) in &cases {
            for versions in [[&TLS13], [&TLS12]] {
                let tls = TlsClient::with(Authority::shared(), "a.test", &versions, Some(issued));
                assert!(tls.is_refused(address), "{what}");
            }
        }
        assert_eq!(stage.failed(address), 12.0);
        Client::connect_tls(address, &client(Some(&good))).get("/").expect(200);
    }
    assert_eq!((stage.origin.requests().len(), stage.gateway.access_log(2).len()), (2, 2));
}

#[test]
fn nobody_can_say_himself_who_he_has_shown_to_be() {
    let forged: Vec<(&str, &str)> = [
        "X-Client-Cert-Subject",
        "x-client-cert-subject",
        "X_Client_Cert_Subject",
        "X-Client-Cert-SHA256",
        "X-Client-Cert-Chain",
        "Client-Cert",
        "Client-Cert-Chain",
        "X-SSL-Client-Cert",
        "X-SSL-Client-S-DN",
        "X-SSL-Client-DN",
        "X-SSL-Client-Verify",
        "X-Ssl-Client-Fingerprint",
        "X-Forwarded-Client-Cert",
    ]
    .map(|name| (name, "forged"))
    .to_vec();
    for trusted in ["", "\"127.0.0.0/8\", \"unix\""] {
        let stage = start(trusted);
        let jane = stage.clients.issue(&["jane"]);
        for address in stage.gateway.addrs() {
            let demands = stage.listeners()[1] == address;
            let connect = |identity| match address.to_string() {
                plain if plain.starts_with("127.0.0.1:") || plain.starts_with("unix:") => Client::connect(address),
                _ => Client::connect_tls(address, &client(identity)),
            };
            if !demands {
                let answer = connect(None).request("GET", "/", &forged, "").expect(200);
                assert!(!answer.text().contains("forged"), "{trusted} {address}: {answer}");
            }
            let answer = connect(Some(&jane)).request("GET", "/", &forged, "").expect(200);
            assert!(!answer.text().contains("forged"), "{trusted} {address}: {answer}");
            let known = stage.listeners().contains(&address);
            assert_eq!(values(answer.text(), "x-client-cert-subject").len(), usize::from(known), "{address}: {answer}");
        }
    }
}
