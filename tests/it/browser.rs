//! What a real browser makes of it: Chromium with the page of the FastAPI example, behind the gateway of the demo.
//!
//! `tests/browser/check.py` drives the browser and judges what it sees.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::example::{configuration, free_addresses};
use crate::harness::tls::{Authority, Issued};
use crate::harness::{Address, Example, Gateway, eventually};

/// The gateway of the demo, whose other two apps are not there.
fn demo(fastapi: &Example, toml: &str, secure: &Address, issued: &Issued, dir: &Path) -> Gateway {
    let gateway = fastapi.behind(toml).file("fullchain.pem", &issued.cert).file("privkey.pem", &issued.key);
    let dir = dir.display();
    gateway
        .env("LISTEN_TLS", secure)
        // Beside the configuration.
        .env("TLS_DIR", ".")
        .env("RUN_DIR", &dir)
        .env("FLASK_SOCKET", &format!("{dir}/flask.sock"))
        .env("DJANGO_BIND", &format!("unix:{dir}/django.sock"))
        .start()
}

/// The addresses of the page, over plain HTTP and over TLS.
fn pages(gateway: &Gateway) -> [String; 2] {
    let lines = gateway.log();
    ["http", "https"].map(|scheme| {
        let address = lines.iter().find_map(|line| line.strip_prefix(&format!("listening on {scheme}://127.0.0.1")));
        format!("{scheme}://localhost{}/fastapi/live", address.expect("a listener"))
    })
}

#[test]
fn chromium_speaks_http2_a_websocket_and_an_event_stream_uploads_and_sees_a_refusal_as_a_page() {
    let fastapi = Example::start("fastapi");
    let issued = Authority::shared().issue(&["localhost"]);
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let toml = configuration("demo");
    // Where a redirect is to lead must be known before the gateway starts.
    let free = free_addresses(2);
    let gateway = demo(&fastapi, &toml, &free[0], &issued, dirs[0].path());
    let redirecting = toml.replace("[server]\n", "[server]\nhttps_redirect = true\n");
    let redirecting = demo(&fastapi, &redirecting, &free[1], &issued, dirs[1].path());
    let [plain, secure] = pages(&gateway);
    let [redirected, target] = pages(&redirecting);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));

    let checked = Command::new(repository.join(".venv/bin/python"))
        .arg("-B")
        .arg(repository.join("tests/browser/check.py"))
        .args(["--secure", &secure, "--plain", &plain, "--redirected", &redirected, &target])
        .arg("--cert")
        .arg(gateway.dir().join("fullchain.pem"))
        // Kept, for whoever looks why it failed.
        .args(["--failures", env!("CARGO_TARGET_TMPDIR")])
        .stdin(Stdio::null())
        .output()
        .expect("the Python of .venv: run `make test` (scripts/setup.sh) first");

    let said = [checked.stdout, checked.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let log: Vec<String> = gateway.access_log_now().iter().map(Value::to_string).collect();
    assert!(checked.status.success(), "{said}--- the access log\n{}", log.join("\n"));
    // The gateway's side of it.
    for (protocol, path, status) in [
        ("HTTP/2", "", 200),
        ("HTTP/1.1", "/socket", 101),
        ("HTTP/2", "/events", 200),
        ("HTTP/2", "/upload", 200),
        ("HTTP/2", "/small", 413),
        ("HTTP/1.1", "/small", 413),
    ] {
        eventually(&format!("{protocol} {path} {status} in the access log"), || {
            let is_it = |line: &Value| {
                let path = line["path"] == format!("/fastapi/live{path}");
                path && line["protocol"] == protocol && line["status"] == status
            };
            gateway.access_log_now().into_iter().find(is_it)
        });
    }
}
