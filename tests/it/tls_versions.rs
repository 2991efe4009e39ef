//! What two sides can agree on: versions, cipher suites, groups and protocols.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768;

use crate::harness::tls::{Authority, Key, TlsClient, provider, s_client};
use crate::harness::{Client, Gateway};

const GATEWAY: &str = r#"
    [server]
    listen = []
    listen_tls = ["127.0.0.2:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [tls]
    min_version = "{version}"
    [[tls.certificates]]
    cert = "ecdsa.pem"
    key = "ecdsa.key"
    [[tls.certificates]]
    cert = "rsa.pem"
    key = "rsa.key"
    [[routes]]
    respond = { body = "hello" }
"#;

fn start(version: &str) -> Gateway {
    let authority = Authority::shared();
    let gateway = Gateway::with(GATEWAY).certificate("ecdsa", &authority.issue(&["a.test"]));
    let rsa = authority.issue_with(&["a.test"], Key::Rsa, |_| {});
    gateway.certificate("rsa", &rsa).set("version", version).start()
}

/// Agrees with these arguments, and says what it printed.
#[track_caller]
fn agrees(gateway: &Gateway, arguments: &str) -> String {
    let (agreed, text) = s_client(gateway.tls_addr(), arguments);
    assert!(agreed, "{arguments}: {text}");
    text
}

/// Is turned away with this alert (RFC 8446 section 6).
#[track_caller]
fn is_refused(gateway: &Gateway, arguments: &str, alert: u8) {
    let (agreed, text) = s_client(gateway.tls_addr(), arguments);
    assert!(!agreed && text.contains(&format!("alert number {alert}\n")), "{arguments}: {text}");
}

const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;
const NO_APPLICATION_PROTOCOL: u8 = 120;

#[test]
fn versions_below_the_configured_one_are_refused() {
    let gateway = start("1.2");
    assert!(agrees(&gateway, "-tls1_3").contains("New, TLSv1.3"));
    assert!(agrees(&gateway, "-tls1_2").contains("New, TLSv1.2"));
    // Before the version, the missing signature algorithms are noticed.
    is_refused(&gateway, "-tls1_1 -cipher DEFAULT:@SECLEVEL=0", HANDSHAKE_FAILURE);
    is_refused(&gateway, "-tls1 -cipher DEFAULT:@SECLEVEL=0", HANDSHAKE_FAILURE);
    let strict = start("1.3");
    assert!(agrees(&strict, "").contains("New, TLSv1.3"));
    is_refused(&strict, "-tls1_2", PROTOCOL_VERSION);
}

#[test]
fn each_suite_of_mozillas_intermediate_list_is_accepted_alone() {
    let gateway = start("1.2");
    for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        let text = agrees(&gateway, &format!("-tls1_3 -ciphersuites {suite}"));
        assert!(text.contains(&format!("New, TLSv1.3, Cipher is {suite}\n")), "{suite}: {text}");
    }
    for suite in [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ] {
        let text = agrees(&gateway, &format!("-tls1_2 -cipher {suite}"));
        assert!(text.contains(&format!("New, TLSv1.2, Cipher is {suite}\n")), "{suite}: {text}");
    }
}

#[test]
fn suites_without_forward_secrecy_or_authenticated_encryption_are_refused() {
    let gateway = start("1.2");
    for suite in [
        "AES128-GCM-SHA256",
        "AES128-SHA",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "DHE-RSA-AES128-GCM-SHA256",
        "DHE-RSA-AES256-SHA",
        "ECDHE-ECDSA-AES128-CCM",
    ] {
        is_refused(&gateway, &format!("-tls1_2 -cipher {suite}:@SECLEVEL=0"), HANDSHAKE_FAILURE);
    }
    // This machine's openssl does not even know 3DES, so the hello is written out: TLS_RSA_WITH_3DES_EDE_CBC_SHA and
    // TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA.
    let mut client = Client::connect(gateway.tls_addr());
    let random = [7_u8; 32];
    let suites = [0, 4, 0, 0x0a, 0xc0, 0x12];
    // supported_groups, ec_point_formats and signature_algorithms.
    let extensions = [0, 24, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 6, 0, 4, 4, 1, 4, 3];
    let body = [&[3, 3][..], &random, &[0], &suites, &[1, 0], &extensions].concat();
    let hello = [&[1, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat();
    client.send([&[22, 3, 1, 0, u8::try_from(hello.len()).unwrap()][..], &hello].concat());
    // A fatal handshake_failure.
    assert_eq!(client.read_rest().unwrap(), [21, 3, 3, 0, 2, 2, HANDSHAKE_FAILURE]);
}

#[test]
fn each_group_is_accepted_alone() {
    let gateway = start("1.2");
    for (group, shown) in [("X25519", "X25519"), ("P-256", "ECDH, prime256v1"), ("P-384", "ECDH, secp384r1")] {
        // Without P-256 an old client cannot use the ECDSA key.
        for version in ["-tls1_3", "-tls1_2 -cipher aRSA"] {
            let text = agrees(&gateway, &format!("{version} -groups {group}"));
            assert!(text.contains(&format!("Server Temp Key: {shown}, ")), "{group}: {text}");
        }
    }
    is_refused(&gateway, "-tls1_3 -groups P-521", HANDSHAKE_FAILURE);
    is_refused(&gateway, "-tls1_3 -groups ffdhe2048", HANDSHAKE_FAILURE);
}

#[test]
fn the_exchange_that_is_safe_from_quantum_computers_is_accepted_and_preferred() {
    let gateway = start("1.3");
    let group = |client: &Client| client.tls().ask(|tls| tls.negotiated_key_exchange_group().unwrap().name());
    let mut tls = TlsClient::new(Authority::shared(), "a.test");
    // Alone, and among others of which the client has guessed one that is not needed.
    for groups in [vec![X25519MLKEM768], [vec![X25519MLKEM768], provider().kx_groups.clone()].concat()] {
        let offered = Arc::new(CryptoProvider { kx_groups: groups, ..(*provider()).clone() });
        let mut roots = rustls::RootCertStore::empty();
        roots.add(Authority::shared().der()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(offered).with_safe_default_protocol_versions();
        tls.config = Arc::new(builder.unwrap().with_root_certificates(roots).with_no_client_auth());
        let mut client = gateway.connect_tls(&tls);
        assert_eq!(group(&client), rustls::NamedGroup::X25519MLKEM768);
        client.get("/").expect(200);
    }
}

#[test]
fn http_1_1_is_agreed_on_and_nothing_that_is_not_spoken() {
    let gateway = start("1.2");
    for version in ["-tls1_3", "-tls1_2"] {
        let text = agrees(&gateway, &format!("{version} -alpn http/1.1"));
        assert!(text.contains("ALPN protocol: http/1.1\n"), "{text}");
        let text = agrees(&gateway, &format!("{version} -alpn http/0.9,acme-tls/1,http/1.1"));
        assert!(text.contains("ALPN protocol: http/1.1\n"), "{text}");
        // Who says nothing speaks HTTP/1.1.
        assert!(agrees(&gateway, version).contains("No ALPN negotiated\n"));
        is_refused(&gateway, &format!("{version} -alpn http/1.0"), NO_APPLICATION_PROTOCOL);
        is_refused(&gateway, &format!("{version} -alpn h3,imap"), NO_APPLICATION_PROTOCOL);
    }
    let mut silent = TlsClient::new(Authority::shared(), "a.test");
    Arc::make_mut(&mut silent.config).alpn_protocols.clear();
    gateway.connect_tls(&silent).get("/").expect(200);
}
