//! Which certificate a client is shown, and which hosts its connection is then good for.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};

use crate::harness::Gateway;
use crate::harness::tls::{Authority, Issued, Key, TlsClient, s_client};

const GATEWAY: &str = r#"
    [server]
    listen = []
    listen_tls = ["127.0.0.2:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [tls]
    certificates = [{certificates}]
    [[routes]]
    respond = { body = "hello" }
"#;

/// A gateway with these certificates, in this order.
fn start(certificates: &[&Issued]) -> Gateway {
    start_with(GATEWAY, certificates)
}

fn start_with(toml: &str, certificates: &[&Issued]) -> Gateway {
    let mut gateway = Gateway::with(toml);
    let mut list = String::new();
    for (number, issued) in certificates.iter().enumerate() {
        gateway = gateway.certificate(&format!("c{number}"), issued);
        list += &format!("{{ cert = \"c{number}.pem\", key = \"c{number}.key\" }}, ");
    }
    gateway.set("certificates", &list).start()
}

/// Which of the certificates a client is shown that connects with these arguments of `s_client`.
#[track_caller]
fn shown(gateway: &Gateway, certificates: &[&Issued], arguments: &str) -> usize {
    let (agreed, text) = s_client(gateway.tls_addr(), arguments);
    assert!(agreed, "{arguments}: {text}");
    let shown = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    certificates.iter().position(|issued| issued.der() == shown).expect("one of the gateway's certificates")
}

#[test]
fn a_client_is_shown_the_certificate_for_the_name_it_asks_for() {
    let authority = Authority::shared();
    let default = authority.issue(&["default.test", "127.0.0.2"]);
    let shop = authority.issue(&["shop.test", "*.shop.test", "Pay.Test"]);
    let wild = authority.issue(&["*.wild.test", "deep.under.wild.test"]);
    let exact = authority.issue(&["one.wild.test"]);
    let address = authority.issue(&["127.0.0.3", "::1"]);
    let all = [&default, &shop, &wild, &exact, &address];
    let gateway = start(&all);
    for (arguments, expected) in [
        ("-servername default.test", 0),
        ("-servername shop.test", 1),
        ("-servername SHOP.Test", 1),
        ("-servername pay.test", 1),
        ("-servername www.shop.test", 1),
        // A wildcard stands for one label, and for no less.
        ("-servername a.www.shop.test", 0),
        ("-servername wild.test", 0),
        ("-servername two.wild.test", 2),
        ("-servername deep.under.wild.test", 2),
        ("-servername other.under.wild.test", 0),
        ("-servername one.wild.test", 3),
        ("-servername ONE.wild.test", 3),
        ("-servername unknown.test", 0),
        ("-servername test", 0),
        // Not a name (RFC 6066 section 3), though some send it.
        ("-servername 127.0.0.3", 0),
        ("-noservername", 0),
        ("-noservername -tls1_2", 0),
        ("-servername two.wild.test -tls1_2", 2),
    ] {
        assert_eq!(shown(&gateway, &all, arguments), expected, "{arguments}");
    }
    // By its address a client can ask for nothing, and the default has the address in it.
    let mut client = gateway.connect_tls(&TlsClient::new(authority, "127.0.0.2"));
    assert_eq!(client.tls().shown(), default.der());
    client.get("/").expect(200);
}

#[test]
fn of_two_certificates_for_a_name_a_client_is_shown_the_one_it_can_verify() {
    let authority = Authority::shared();
    let other = authority.issue(&["other.test"]);
    let ecdsa = authority.issue(&["shop.test", "www.shop.test"]);
    // In another order, and it is still for the same names.
    let rsa = authority.issue_with(&["www.shop.test", "shop.test"], Key::Rsa, |_| {});
    let old = "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256";
    let rsa_alone = "-tls1_3 -sigalgs rsa_pss_rsae_sha256";
    let ecdsa_alone = "-tls1_3 -sigalgs ecdsa_secp256r1_sha256";
    for (all, first) in [([&ecdsa, &rsa, &other], 0), ([&rsa, &ecdsa, &other], 0)] {
        let gateway = start(&all);
        let place = |wanted: &Issued| all.iter().position(|one| one.cert == wanted.cert).unwrap();
        // The first two are the default as well.
        for name in ["shop.test", "www.shop.test", "unknown.test"] {
            let shown = |arguments: &str| shown(&gateway, &all, &format!("-servername {name} {arguments}"));
            assert_eq!(shown(old), place(&rsa), "{name}");
            assert_eq!(shown(rsa_alone), place(&rsa), "{name}");
            assert_eq!(shown(ecdsa_alone), place(&ecdsa), "{name}");
            assert_eq!(shown("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256"), place(&ecdsa), "{name}");
            assert_eq!(shown(""), first, "{name}");
        }
        assert_eq!(shown(&gateway, &all, &format!("-noservername {old}")), place(&rsa));
    }
    // Where there is none that it can verify, the two cannot agree.
    let gateway = start(&[&other]);
    let (agreed, text) = s_client(gateway.tls_addr(), &format!("-servername other.test {old}"));
    assert!(!agreed && text.contains("alert number 40"), "{text}");
}

#[test]
fn a_host_that_has_another_certificate_is_asked_for_on_another_connection() {
    let authority = Authority::shared();
    let default = authority.issue(&["default.test", "127.0.0.2"]);
    let shop = authority.issue(&["shop.test", "pay.test", "*.shop.test"]);
    let other = authority.issue(&["other.test"]);
    let gateway = start(&[&default, &shop, &other]);
    for (asked, host, status) in [
        ("shop.test", "shop.test", 200),
        ("shop.test", "SHOP.test.:8443", 200),
        // One certificate is for both, so one connection is.
        ("shop.test", "pay.test", 200),
        ("shop.test", "www.shop.test", 200),
        ("shop.test", "a.www.shop.test", 421),
        ("shop.test", "other.test", 421),
        ("shop.test", "default.test", 421),
        ("shop.test", "unknown.test", 421),
        ("www.shop.test", "shop.test", 200),
        ("other.test", "shop.test", 421),
        ("default.test", "unknown.test", 200),
        // Without a name nothing was asked for.
        ("127.0.0.2", "shop.test", 200),
        ("127.0.0.2", "127.0.0.2", 200),
        ("127.0.0.2", "unknown.test", 200),
    ] {
        for versions in [[&TLS13], [&TLS12]] {
            let tls = TlsClient::with(authority, asked, &versions, None);
            // The second connection is resumed, and what was asked for holds on it as well.
            for resumed in [false, true] {
                let mut client = gateway.connect_tls(&tls);
                assert_eq!(client.tls().is_resumed(), resumed, "{asked}");
                // It stays as good as it was for those it is for.
                for (host, status) in [(host, status), (asked, 200)] {
                    let answer = client.request("GET", "/", &[("Host", host)], "");
                    assert_eq!((answer.status, answer.field("connection")), (status, None), "{asked} {host}");
                }
            }
        }
    }
    // The host of an absolute target is the one that counts (RFC 9112 section 3.2.2).
    let mut client = gateway.connect_tls(&TlsClient::new(authority, "shop.test"));
    client.request("GET", "https://other.test/", &[("Host", "shop.test")], "").expect(421);
    client.request("GET", "https://pay.test/", &[("Host", "pay.test")], "").expect(200);
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.response().expect(200);
    let line = gateway.access_log(100).into_iter().find(|line| line["status"] == 421).unwrap();
    assert_eq!(line["reason"], "wrong_host", "{line}");
}

/// It opened its connection for one of the many whose requests it brings.
#[test]
fn a_trusted_proxy_may_bring_requests_for_any_host() {
    let authority = Authority::shared();
    let (shop, other) = (authority.issue(&["shop.test"]), authority.issue(&["other.test"]));
    for (trusted, status) in [("127.0.0.0/8", 200), ("192.0.2.1", 421)] {
        let toml = GATEWAY.replacen("[admin]", &format!("trusted_proxies = [\"{trusted}\"]\n    [admin]"), 1);
        let gateway = start_with(&toml, &[&shop, &other]);
        let mut client = gateway.connect_tls(&TlsClient::new(authority, "shop.test"));
        client.request("GET", "/", &[("Host", "other.test")], "").expect(status);
    }
}
