//! Certificates that change while connections are served: taken over when they are good, and left when they are not.

// Gauges are whole numbers here.
#![allow(clippy::float_cmp)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;

use rcgen::date_time_ymd;

use crate::harness::tls::{Authority, Issued, Key, TlsClient, openssl, write};
use crate::harness::{Client, Gateway, GatewayBuilder, Signal, eventually};

const GATEWAY: &str = r#"
    [server]
    listen = []
    listen_tls = ["127.0.0.2:0"]
    [[tls.certificates]]
    cert = "{certs}/a.pem"
    key = "{certs}/a.key"
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "{dir}/access.log"
    [[routes]]
    respond = { body = "first" }
"#;
const CHANGED: &str = "certificates have changed on disk, and are in use";
const STAYS: &str = "certificates have changed on disk and cannot be used, the old ones stay";

fn builder(certs: &Path) -> GatewayBuilder {
    Gateway::with(GATEWAY).set("certs", &certs.display())
}

fn issue() -> Issued {
    Authority::shared().issue(&["a.test"])
}

fn expired() -> Issued {
    Authority::shared().issue_with(&["a.test"], Key::Ecdsa, |params| params.not_after = date_time_ymd(2020, 1, 1))
}

fn tls() -> TlsClient {
    TlsClient::new(Authority::shared(), "a.test")
}

/// Whether a client that connects now is shown it.
fn shows(gateway: &Gateway, issued: &Issued) -> bool {
    gateway.connect_tls(&tls()).tls().shown() == issued.der()
}

fn refused(gateway: &Gateway) -> f64 {
    gateway.metrics().value("propylon_tls_files_refused", &[]).unwrap()
}

fn expiry(gateway: &Gateway, file: &Path) -> Option<f64> {
    let labels = [("file", file.to_str().unwrap())];
    gateway.metrics().value("propylon_tls_certificate_expiry_timestamp_seconds", &labels)
}

#[test]
fn a_renewed_certificate_is_for_those_who_come_after() {
    for by_signal in [true, false] {
        let certs = tempfile::tempdir().unwrap();
        let [first, second] = [issue(), issue()];
        let files = first.write(certs.path(), "a");
        let gateway = builder(certs.path()).start();
        let mut early = gateway.connect_tls(&tls());
        early.get("/").expect(200);
        second.write(certs.path(), "a");
        if by_signal {
            gateway.signal(Signal::HUP);
            gateway.wait_for_log("configuration reloaded");
        } else {
            gateway.wait_for_log(CHANGED);
        }
        assert!(shows(&gateway, &second));
        early.get("/").expect(200);
        assert_eq!(early.tls().shown(), first.der());
        assert_eq!(refused(&gateway), 0.0);
        assert!(expiry(&gateway, &files.cert).is_some());
        // What a reload has taken over is no change on disk.
        if by_signal {
            let third = issue();
            third.write(certs.path(), "a");
            gateway.wait_for_log(CHANGED);
            assert!(shows(&gateway, &third));
        }
        assert_eq!(gateway.log().iter().filter(|line| line.contains(CHANGED)).count(), 1);
    }
}

#[test]
fn what_cannot_be_used_leaves_the_old_certificate_and_is_said() {
    type Break = fn(&Path);
    let cases: [(&str, Break); 11] = [
        ("a.key: is not the key of the certificate in ", |dir| write(&dir.join("a.key"), &issue().key)),
        ("a.pem: expired on Wed, 01 Jan 2020", |dir| drop(expired().write(dir, "a"))),
        ("a.pem: is not valid before Tue, 01 Jan 2999", |dir| {
            let early = |params: &mut rcgen::CertificateParams| params.not_before = date_time_ymd(2999, 1, 1);
            Authority::shared().issue_with(&["a.test"], Key::Ecdsa, early).write(dir, "a");
        }),
        ("a.pem: holds no certificate", |dir| write(&dir.join("a.pem"), "nothing of the kind\n")),
        ("a.pem: holds no certificate", |dir| write(&dir.join("a.pem"), "")),
        ("a.pem: a section has no end; is the file whole?", |dir| {
            let cert = issue().cert;
            write(&dir.join("a.pem"), &cert[..cert.len() / 2]);
        }),
        ("a.key: No such file or directory", |dir| fs::remove_file(dir.join("a.key")).unwrap()),
        ("a.key: the key is encrypted", |dir| {
            write(&dir.join("a.key"), &openssl("pkcs8 -topk8 -passout pass:secret", &issue().key));
        }),
        ("a.key: ", |dir| write(&dir.join("a.key"), &openssl("ec -aes256 -passout pass:secret", &issue().key))),
        ("a.pem: Is a directory", |dir| {
            fs::remove_file(dir.join("a.pem")).unwrap();
            fs::create_dir(dir.join("a.pem")).unwrap();
        }),
        ("a.pem: larger than 1048576 bytes", |dir| write(&dir.join("a.pem"), &issue().cert.repeat(4000))),
    ];
    // Side by side: each waits for the gateway to look at its files.
    thread::scope(|scope| {
        for (problem, damage) in cases {
            scope.spawn(move || {
                let certs = tempfile::tempdir().unwrap();
                let first = issue();
                let files = first.write(certs.path(), "a");
                let gateway = builder(certs.path()).allow_error(STAYS).start();
                let until = expiry(&gateway, &files.cert);
                damage(certs.path());
                let line = gateway.wait_for_log(STAYS);
                assert!(line.contains(&format!("{}/{problem}", certs.path().display())), "{line}");
                eventually("the metric says it", || (refused(&gateway) == 1.0).then_some(()));
                assert!(shows(&gateway, &first), "{problem}");
                assert!(until.is_some() && expiry(&gateway, &files.cert) == until, "{problem}");
                // It is mended.
                let _ = fs::remove_dir(certs.path().join("a.pem"));
                let second = issue();
                second.write(certs.path(), "a");
                gateway.wait_for_log(CHANGED);
                eventually("the metric says it", || (refused(&gateway) == 0.0).then_some(()));
                assert!(shows(&gateway, &second), "{problem}");
                assert_eq!(gateway.log().iter().filter(|line| line.contains(STAYS)).count(), 1, "said once");
            });
        }
    });
}

#[test]
fn a_directory_that_is_swapped_by_a_link_is_a_change() {
    // As Kubernetes mounts a secret: the files are links into `..data`, itself a link that is renamed over.
    let certs = tempfile::tempdir().unwrap();
    let place = |version: &str, issued: &Issued| {
        let dir = certs.path().join(version);
        fs::create_dir(&dir).unwrap();
        issued.write(&dir, "a");
        symlink(version, certs.path().join("..new")).unwrap();
        fs::rename(certs.path().join("..new"), certs.path().join("..data")).unwrap();
    };
    let [first, second] = [issue(), issue()];
    place("..one", &first);
    for file in ["a.pem", "a.key"] {
        symlink(Path::new("..data").join(file), certs.path().join(file)).unwrap();
    }
    let gateway = builder(certs.path()).start();
    assert!(shows(&gateway, &first));
    place("..two", &second);
    fs::remove_dir_all(certs.path().join("..one")).unwrap();
    gateway.wait_for_log(CHANGED);
    assert!(shows(&gateway, &second));
}

#[test]
fn the_expiry_is_that_of_the_certificate_in_use() {
    let certs = tempfile::tempdir().unwrap();
    let until = |year| {
        let change = |params: &mut rcgen::CertificateParams| params.not_after = date_time_ymd(year, 1, 1);
        Authority::shared().issue_with(&["a.test"], Key::Ecdsa, change)
    };
    let files = until(2100).write(certs.path(), "a");
    let gateway = builder(certs.path()).allow_error("configuration refused").start();
    assert_eq!(expiry(&gateway, &files.cert), Some(4_102_444_800.0));
    until(2101).write(certs.path(), "a");
    gateway.reload();
    assert_eq!(expiry(&gateway, &files.cert), Some(4_133_980_800.0));
    // A reload that is refused for another reason shows nothing of what it would have brought.
    let other = until(2102).write(certs.path(), "b");
    let toml =
        GATEWAY.replace("/a.", "/b.") + "[upstreams.app]\nendpoints = [\"127.0.0.1:9\"]\ntls = { ca = \"none.pem\" }";
    gateway.rewrite_config(&toml);
    gateway.try_reload();
    assert_eq!(expiry(&gateway, &files.cert), Some(4_133_980_800.0));
    assert_eq!(expiry(&gateway, &other.cert), None);
    // Without TLS there is nothing to expire.
    gateway.rewrite_config(
        &GATEWAY.replace("listen = []", "listen = [\"127.0.0.1:0\"]").replace("_tls = [\"127.0.0.2:0\"]", "_tls = []"),
    );
    gateway.reload();
    assert_eq!(expiry(&gateway, &files.cert), None);
}

#[test]
fn a_bad_certificate_refuses_a_reload_as_a_whole() {
    let certs = tempfile::tempdir().unwrap();
    let first = issue();
    first.write(certs.path(), "a");
    let gateway = builder(certs.path()).allow_error("configuration refused").allow_error(STAYS).start();
    let mut early = gateway.connect_tls(&tls());
    gateway.rewrite_config(&GATEWAY.replace("first", "second"));
    for is_expired in [false, true] {
        let bad = if is_expired { expired() } else { Issued { key: issue().key, ..first.clone() } };
        bad.write(certs.path(), "a");
        let refused = gateway.try_reload();
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(
            refused.stderr.contains("/a.key: is not") || refused.stderr.contains("/a.pem: expired"),
            "{}",
            refused.stderr
        );
        gateway.signal(Signal::HUP);
        gateway.wait_for_log("configuration refused, the old one stays");
        assert!(shows(&gateway, &first));
        assert_eq!(gateway.connect_tls(&tls()).get("/").expect(200).text(), "first");
        assert_eq!(early.get("/").expect(200).text(), "first");
        assert_eq!(gateway.metrics().value("propylon_config_generation", &[]), Some(1.0));
    }
    first.write(certs.path(), "a");
    gateway.reload();
    assert_eq!(early.get("/").expect(200).text(), "second");
}

#[test]
fn a_process_starts_with_a_certificate_that_is_expired_and_warns() {
    let certs = tempfile::tempdir().unwrap();
    let old = expired();
    let files = old.write(certs.path(), "a");
    let gateway = builder(certs.path()).start();
    let warning = format!("{}: expired on Wed, 01 Jan 2020", files.cert.display());
    let line = gateway.wait_for_log(&warning);
    assert!(line.contains(" WARN "), "{line}");
    let (agreed, text) = crate::harness::tls::s_client(gateway.tls_addr(), "-servername a.test");
    assert!(agreed && text.contains("certificate has expired"), "{text}");
    // It stays where a reload finds it again; `check` says what is wrong.
    gateway.reload();
    let checked = gateway.command(&["check", "--config", gateway.config_path().to_str().unwrap()]);
    assert!([checked.stdout, checked.stderr].concat().contains(&warning));
}

#[test]
fn check_and_start_name_every_file_that_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let good = issue();
    good.write(dir.path(), "good");
    write(&dir.path().join("bad.pem"), "garbage");
    write(
        &dir.path().join("gateway.toml"),
        r#"
        [server]
        listen = []
        listen_tls = [
            "127.0.0.2:0",
            { address = "127.0.0.3:0", client_certs = { ca = "missing-ca.pem" } },
        ]
        [tls]
        certificates = [
            { cert = "good.pem", key = "missing.key" },
            { cert = "bad.pem", key = "good.key" },
        ]
        [upstreams.one]
        endpoints = ["127.0.0.1:9"]
        tls = { ca = "bad-ca.pem" }
        [upstreams.two]
        endpoints = ["127.0.0.1:9"]
        tls = { sni = "a.test", ca = "good.pem", cert = "missing-cert.pem", key = "good.key" }
        [[routes]]
        upstream = "one"
    "#,
    );
    let config = dir.path().join("gateway.toml");
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_propylon")).arg("check").arg("--config").arg(&config).output();
    let output = output.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    for file in [
        "missing.key",
        "bad.pem",
        "missing-ca.pem",
        "upstreams.one.tls: ",
        "bad-ca.pem",
        "upstreams.two.tls: ",
        "missing-cert.pem",
    ] {
        assert!(text.contains(file), "{file} is not named: {text}");
    }
    assert!(!text.contains("good.pem"), "{text}");
}

#[test]
fn versions_and_client_certificates_count_for_those_who_come_after() {
    let certs = tempfile::tempdir().unwrap();
    issue().write(certs.path(), "a");
    let clients = Authority::new();
    clients.write(certs.path(), "clients.pem");
    let gateway = builder(certs.path()).start();
    let old = TlsClient::with(Authority::shared(), "a.test", &[&rustls::version::TLS12], None);
    let mut early = gateway.connect_tls(&old);
    early.get("/").expect(200);

    gateway
        .rewrite_config(&GATEWAY.replace("[[tls.certificates]]", "[tls]\nmin_version = \"1.3\"\n[[tls.certificates]]"));
    gateway.reload();
    assert!(old.is_refused(gateway.tls_addr()));
    early.get("/").expect(200);
    let mut new = gateway.connect_tls(&tls());
    new.get("/").expect(200);

    let demanding = r#"{ address = "127.0.0.2:0", client_certs = { ca = "{certs}/clients.pem" } }"#;
    gateway.rewrite_config(&GATEWAY.replace("\"127.0.0.2:0\"", demanding));
    gateway.reload();
    assert!(tls().is_refused(gateway.tls_addr()));
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let jane = TlsClient::with(Authority::shared(), "a.test", &versions, Some(&clients.issue(&["jane"])));
    gateway.connect_tls(&jane).get("/").expect(200);
    early.get("/").expect(200);
    new.get("/").expect(200);
}

#[test]
fn an_address_goes_over_to_tls_and_back() {
    let certs = tempfile::tempdir().unwrap();
    issue().write(certs.path(), "a");
    let plain = r#"listen = ["127.0.0.1:0", "127.0.0.2:0"]"#;
    let toml = GATEWAY.replace("listen = []", plain).replace("listen_tls = [\"127.0.0.2:0\"]", "listen_tls = []");
    let gateway = Gateway::with(&toml).set("certs", &certs.path().display()).start();
    let address = gateway.addrs()[1].clone();
    let mut before = Client::connect(&address);
    before.get("/").expect(200);

    gateway.rewrite_config(&GATEWAY.replace("listen = []", "listen = [\"127.0.0.1:0\"]"));
    gateway.reload();
    let mut secure = Client::connect_tls(&address, &tls());
    secure.get("/").expect(200);
    // A connection stays what it was.
    before.get("/").expect(200);
    let mut wrong = Client::connect(&address);
    wrong.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(wrong.read_rest().unwrap().first(), Some(&21), "an alert");

    gateway.rewrite_config(&toml);
    gateway.reload();
    Client::connect(&address).get("/").expect(200);
    secure.get("/").expect(200);
    before.get("/").expect(200);
    assert!(tls().connect(&address).is_err());
}

#[test]
fn one_that_cannot_be_used_does_not_keep_others_from_being_renewed() {
    let certs = tempfile::tempdir().unwrap();
    let first = issue();
    first.write(certs.path(), "a");
    let of_another = || Authority::shared().issue(&["b.test"]);
    of_another().write(certs.path(), "b");
    let another = "[[tls.certificates]]\n    cert = \"{certs}/b.pem\"\n    key = \"{certs}/b.key\"\n    [admin]";
    let gateway = Gateway::with(&GATEWAY.replacen("[admin]", another, 1)).set("certs", &certs.path().display());
    let gateway = gateway.allow_error(STAYS).start();
    fs::remove_file(certs.path().join("a.key")).unwrap();
    gateway.wait_for_log(STAYS);
    let renewed = of_another();
    renewed.write(certs.path(), "b");
    let of_b = TlsClient::new(Authority::shared(), "b.test");
    eventually("b is renewed", || (gateway.connect_tls(&of_b).tls().shown() == renewed.der()).then_some(()));
    assert!(shows(&gateway, &first) && refused(&gateway) == 1.0);
    // What is mended is taken over.
    let second = issue();
    second.write(certs.path(), "a");
    gateway.wait_for_log(CHANGED);
    assert!(shows(&gateway, &second));
    eventually("nothing is refused any more", || (refused(&gateway) == 0.0).then_some(()));
}
