//! One line for each request, whatever became of it: who, what, how it ended and how long it took.

// Counts are whole numbers.
#![allow(clippy::float_cmp)]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Client, Gateway, Origin, Signal, eventually, rounds};

const CONFIG: &str = r#"
    [server]
    listen = ["127.0.0.1:0", "unix:{dir}/client.sock"]
    trusted_proxies = ["127.0.0.2"]
    [server.client]
    header_timeout = "300ms"
    max_body = "10B"
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    format = "{format}"
    [upstreams.app]
    endpoints = ["{origin}"]
    [upstreams.nobody]
    endpoints = ["unix:{dir}/nobody.sock"]
    retry = { connect = 0 }
    [[routes]]
    name = "app"
    path = "/app/*"
    upstream = "app"
    [routes.timeouts]
    first_byte = "1500ms"
    [[routes]]
    name = "nobody"
    path = "/nobody"
    upstream = "nobody"
    [[routes]]
    path = "/fixed"
    methods = ["GET"]
    respond = { body = "fixed" }
    [[routes]]
    name = "moved"
    path = "/old"
    redirect = { to = "https://example.com{path}{query}" }
    "#;

/// Answers, or does what the last part of the path says.
fn app() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            match request.target.rsplit('/').next().unwrap() {
                "close" => return,
                "nonsense" => {
                    connection.write("nonsense\r\n\r\n");
                    return;
                }
                "hang" => return connection.hang(),
                "slow" => {
                    connection.delay(Duration::from_millis(120));
                    connection.answer(201, "slow")
                }
                "half" => {
                    connection.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                    return;
                }
                _ => connection.answer(200, "answer"),
            };
        }
    })
}

fn start(format: &str, origin: &Origin) -> Gateway {
    Gateway::with(CONFIG).set("format", format).set("origin", origin.address()).start()
}

/// The names in the table of docs/operations.md.
fn documented_fields() -> BTreeSet<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let (_, section) = page.split_once("## The access log").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let names =
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split(',').map(|name| name.trim().trim_matches('`')));
    names.map(str::to_owned).collect()
}

fn names(line: &Value) -> BTreeSet<String> {
    line.as_object().unwrap().keys().cloned().collect()
}

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("no number {name} in {line}"))
}

#[test]
fn a_proxied_request_has_every_documented_field() {
    let origin = app();
    let gateway = start("json", &origin);
    let mut client = gateway.connect();
    let fields = [("User-Agent", "curl/8"), ("Referer", "https://example.com/"), ("Host", "Example.com:80")];
    let first = client.request("POST", "/app/x?q=1&r=", &fields, "body").expect(200);
    client.request("GET", "/app/slow", &fields, "").expect(201);

    let lines = gateway.access_log(2);
    let line = &lines[0];
    let mut expected = documented_fields();
    // Those of a request that is refused, or would be, of one that a rule of the cache is for, and of one with a password.
    expected.retain(|name| !["reason", "limit", "dry_run", "cache", "cache_detail", "user"].contains(&&**name));
    assert_eq!(names(line), expected);
    let port = client.local_addr().unwrap().port();
    let said = serde_json::json!({
        "client": "127.0.0.1", "client_port": port, "method": "POST", "host": "Example.com:80", "path": "/app/x",
        "query": "q=1&r=", "protocol": "HTTP/1.1", "status": 200, "route": "app", "upstream": "app",
        "endpoint": origin.address().to_string(), "upstream_status": 200, "bytes_in": 4, "bytes_out": 6, "retries": 0,
        "reused": false, "user_agent": "curl/8", "referer": "https://example.com/",
        "listener": gateway.addr().to_string(), "request_id": first.field("x-request-id").unwrap(),
    });
    for (name, value) in said.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} of {line}");
    }
    let time = line["time"].as_str().unwrap();
    assert!(time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    assert!(number(line, "t_connect") + number(line, "t_first_byte") <= number(line, "duration"), "{line}");

    // The second came on the same connections, and the app took its time.
    let line = &lines[1];
    assert_eq!((&line["reused"], &line["upstream_status"]), (&Value::Bool(true), &Value::from(201)));
    assert!(line.get("t_connect").is_none() && line.get("query").is_none(), "{line}");
    assert!(number(line, "t_first_byte") >= 0.12 && number(line, "duration") >= number(line, "t_first_byte"), "{line}");
    assert!(number(line, "duration") < 10.0, "{line}");
    assert!(lines[0]["request_id"] != lines[1]["request_id"]);
}

#[test]
fn every_kind_of_answer_has_one_line() {
    let origin = app();
    let gateway = start("json", &origin);
    let line = Cell::new(0);
    // A line follows its answer, so the next request waits for it.
    let logged = |status: u16| {
        line.set(line.get() + 1);
        gateway.access_log(line.get());
        status
    };
    let ask =
        |method: &str, target: &str, body: &str| logged(gateway.connect().request(method, target, &[], body).status);
    let raw = |bytes: &str| {
        let mut client = gateway.connect();
        client.send(bytes);
        logged(client.response().status)
    };
    let story: Vec<(u16, u16, Option<&str>, Option<&str>)> = vec![
        (ask("GET", "/fixed", ""), 200, None, Some("/fixed")),
        (ask("GET", "/old?x", ""), 308, None, Some("moved")),
        (ask("GET", "/missing", ""), 404, Some("no_route"), None),
        (ask("POST", "/fixed", ""), 405, Some("method_not_allowed"), None),
        (ask("POST", "/app/x", "more than ten"), 413, Some("body_too_large"), Some("app")),
        (ask("GET", "/nobody", ""), 503, Some("upstream_unreachable"), Some("nobody")),
        (ask("POST", "/app/close", ""), 502, Some("upstream_closed"), Some("app")),
        (ask("POST", "/app/nonsense", ""), 502, Some("upstream_invalid"), Some("app")),
        (ask("POST", "/app/hang", ""), 504, Some("upstream_timeout"), Some("app")),
        (raw("NONSENSE\r\n\r\n"), 400, Some("malformed_head"), None),
        (raw("GET / HTTP/1.1\r\n"), 408, Some("header_timeout"), None),
        (raw("GET / HTTP/3.0\r\nHost: a\r\n\r\n"), 505, Some("version_not_supported"), None),
    ];
    let lines = gateway.access_log(story.len());
    assert_eq!(lines.len(), story.len());
    let known = documented_fields();
    for (line, (seen, status, reason, route)) in lines.iter().zip(&story) {
        assert_eq!(seen, status);
        assert_eq!(line["status"], *status, "{line}");
        assert_eq!((line["reason"].as_str(), line["route"].as_str()), (*reason, *route), "{line}");
        assert!(names(line).is_subset(&known), "{line}");
        assert!(
            line["request_id"].is_string() && line["listener"].is_string() && line["client"] == "127.0.0.1",
            "{line}"
        );
    }
    let of = |reason: &str| lines.iter().find(|line| line["reason"] == reason).unwrap();
    assert!(of("malformed_head").get("method").is_none(), "nothing is known of a request that was not understood");
    assert!(of("no_route").get("upstream").is_none());
    assert!(of("upstream_unreachable").get("upstream_status").is_none());
    assert_eq!(of("upstream_closed")["endpoint"], origin.address().to_string());
}

#[test]
fn a_client_that_leaves_and_an_answer_that_breaks_are_told_apart() {
    let origin = app();
    let gateway = start("json", &origin);
    let mut leaving = gateway.connect();
    leaving.send_request("POST", "/app/hang", &[], "");
    origin.wait_for_requests(1);
    leaving.reset();
    let line = &gateway.access_log(1)[0];
    assert_eq!((&line["status"], &line["reason"]), (&Value::from(499), &Value::from("client_closed")));
    assert_eq!(line["bytes_out"], 0);

    let mut client = gateway.connect();
    client.send_request("GET", "/app/half", &[], "");
    let broken = client.try_response().unwrap_err().truncated();
    assert_eq!((broken.status, broken.text()), (200, "half"));
    let line = &gateway.access_log(2)[1];
    assert_eq!((&line["status"], &line["reason"]), (&Value::from(200), &Value::from("upstream_closed")));
    assert_eq!((&line["upstream_status"], &line["bytes_out"]), (&Value::from(200), &Value::from(4)));
}

#[test]
fn the_combined_format_is_what_analysers_read() {
    let origin = app();
    let gateway = start("combined", &origin);
    let lines = || fs::read_to_string(gateway.dir().join("access.log")).unwrap_or_default();
    let fields = [("User-Agent", "Mozilla/5.0 (X11)"), ("Referer", "https://example.com/?a=b")];
    gateway.connect().request("GET", "/app/x?q=1", &fields, "").expect(200);
    eventually("the first line", || lines().ends_with('\n').then_some(()));
    let mut client = gateway.connect();
    client.send("NONSENSE\r\n\r\n");
    client.response().expect(400);
    let text = eventually("two lines", || Some(lines()).filter(|text| text.matches('\n').count() == 2));
    let (first, second) = text.split_once('\n').unwrap();
    let time = &first["127.0.0.1 - - [".len()..][..26];
    assert_eq!((&time[2..3], &time[6..7], &time[11..12], &time[20..]), ("/", "/", ":", " +0000"), "{first}");
    assert_eq!(
        first.replace(time, "TIME"),
        "127.0.0.1 - - [TIME] \"GET /app/x?q=1 HTTP/1.1\" 200 6 \"https://example.com/?a=b\" \"Mozilla/5.0 (X11)\""
    );
    assert!(second.contains("] \"-\" 400 ") && second.ends_with(" \"-\" \"-\"\n"), "{second}");
}

/// What a client may put where it is logged, and where.
const HOSTILE: [&[u8]; 8] = [
    b"GET /app/x HTTP/1.1\r\nHost: test\r\nUser-Agent: \"} {\"status\":200,\"x\":\"\r\n\r\n",
    b"GET /app/x HTTP/1.1\r\nHost: test\r\nUser-Agent: a\\\" 200 5 \"-\" \"\\\r\n\r\n",
    b"GET /app/x HTTP/1.1\r\nHost: test\r\nUser-Agent: \xff\xfe\x80 \xc3\x28 \xe2\x80\xa8 \xe2\x80\xae\r\nReferer: \xf0\x9f\x98\r\n\r\n",
    b"GET /app/x HTTP/1.1\r\nHost: test\r\nUser-Agent: tab\there\r\n\r\n",
    b"GET /app/%0a127.0.0.1%20-%20-%22?%0d%0a=\"'<>\\ HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /app/\x01\x1b[31m HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /app/x HTTP/1.1\r\nHost: a\nb\r\n\r\n",
    b"G\"ET /app/x HTTP/1.1\r\nHost: test\r\n\r\n",
];

#[test]
fn no_client_can_forge_a_line() {
    for format in ["json", "combined"] {
        let origin = app();
        let gateway = start(format, &origin);
        for bytes in HOSTILE {
            let mut client = gateway.connect();
            client.send(bytes);
            client.response();
        }
        let read = || fs::read_to_string(gateway.dir().join("access.log")).unwrap();
        let text = eventually("every line", || Some(read()).filter(|text| text.matches('\n').count() >= HOSTILE.len()));
        assert_eq!(text.lines().count(), HOSTILE.len());
        let printable = |c: char| c == '\n' || !(c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c));
        assert!(text.chars().all(printable), "{text:?}");
        for line in text.lines() {
            if format == "json" {
                let line: Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["client"], "127.0.0.1");
                assert!(names(&line).is_subset(&documented_fields()), "{line}");
            } else {
                assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
                assert_eq!(line.matches('"').count(), 6, "{line}");
            }
        }
    }
}

#[test]
fn the_client_is_the_one_that_trusted_proxies_name() {
    let origin = app();
    let gateway = start("json", &origin);
    let claim = [("X-Forwarded-For", "203.0.113.9, 198.51.100.7")];
    // 127.0.0.1 is no proxy of ours.
    gateway.connect().request("GET", "/fixed", &claim, "").expect(200);
    let line = &gateway.access_log(1)[0];
    assert_eq!(line["client"], "127.0.0.1");
    assert!(line["client_port"].is_number());

    // Neither is whoever reaches the socket.
    let mut unix = Client::connect(&gateway.addrs()[1]);
    unix.request("GET", "/fixed", &claim, "").expect(200);
    let line = &gateway.access_log(2)[1];
    assert_eq!(
        (&line["client"], &line["listener"]),
        (&Value::from("unix"), &Value::from(gateway.addrs()[1].to_string()))
    );
    assert!(line.get("client_port").is_none());

    gateway.rewrite_config(&CONFIG.replace("127.0.0.2", "127.0.0.1"));
    gateway.signal(Signal::HUP);
    gateway.wait_for_log("configuration reloaded");
    gateway.connect().request("GET", "/fixed", &claim, "").expect(200);
    let line = &gateway.access_log(3)[2];
    assert_eq!(line["client"], "198.51.100.7");
    assert!(line.get("client_port").is_none(), "the port would be the proxy's");
}

#[test]
fn a_log_that_is_rotated_under_load_loses_no_line() {
    let origin = app();
    let gateway = start("json", &origin);
    let path = gateway.dir().join("access.log");
    let rotations = rounds(10, 200);
    let requests = 40;
    let mut client = gateway.connect();
    for rotation in 0..rotations {
        for _ in 0..requests {
            client.get("/fixed").expect(200);
        }
        eventually("a file to move", || path.exists().then_some(()));
        fs::rename(&path, gateway.dir().join(format!("access.log.{rotation}"))).unwrap();
        gateway.signal(Signal::USR1);
        eventually("the file is there again", || path.exists().then_some(()));
    }
    client.get("/fixed").expect(200);
    let lines = || -> usize {
        let files = fs::read_dir(gateway.dir()).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("access.log"));
        logs.map(|path| fs::read_to_string(path).unwrap().lines().count()).sum()
    };
    eventually("every line is in one of the files", || (lines() == rotations * requests + 1).then_some(()));
    assert!(!fs::read_to_string(&path).unwrap().is_empty());
    let reopened = gateway.log().iter().filter(|line| line.contains("reopened the access log")).count();
    assert_eq!(reopened, rotations);
}

#[test]
fn a_file_that_cannot_be_opened_refuses_the_start() {
    let refused = Gateway::with(&CONFIG.replace("{dir}/access.log", "{dir}/missing/access.log"))
        .set("format", "json")
        .set("origin", app().address())
        .expect_refused();
    assert_eq!(refused.code, 1);
    let said = refused.stderr.lines().last().unwrap();
    assert!(said.starts_with("cannot open the access log ") && said.contains("/missing/access.log: "), "{said}");
}

#[test]
fn a_file_that_cannot_be_opened_again_stays_in_use() {
    let kept = tempfile::tempdir().unwrap();
    fs::create_dir(kept.path().join("logs")).unwrap();
    let gateway = Gateway::with(&CONFIG.replace("{dir}/access.log", "{kept}/logs/access.log"))
        .set("kept", &kept.path().display())
        .set("format", "json")
        .set("origin", app().address())
        .allow_error("cannot be reopened")
        .start();
    fs::rename(kept.path().join("logs"), kept.path().join("moved")).unwrap();
    gateway.signal(Signal::USR1);
    let line = gateway.wait_for_log("the access log cannot be reopened");
    assert!(line.contains("ERROR"), "{line}");
    gateway.get("/fixed").expect(200);
    let moved = kept.path().join("moved/access.log");
    eventually("the line is in the old file", || fs::read_to_string(&moved).is_ok_and(|t| !t.is_empty()).then_some(()));
}

#[test]
fn standard_output_is_the_default_and_off_is_silence() {
    let config = r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        {log}
        [[routes]]
        respond = { body = "here" }
        "#;
    let gateway = Gateway::with(config).set("log", "").start();
    gateway.get("/x").expect(200);
    let finished = gateway.stop();
    let line: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(line["path"], "/x");

    let gateway = Gateway::with(config).set("log", "[log]\naccess = \"off\"").start();
    gateway.get("/x").expect(200);
    gateway.signal(Signal::USR1);
    gateway.wait_for_log("reopened");
    assert_eq!(gateway.stop().stdout, "");
}

#[test]
fn a_disk_that_is_full_costs_lines_and_no_request() {
    let config = CONFIG.replace("{dir}/access.log", "/dev/full");
    let origin = app();
    let gateway =
        Gateway::with(&config).set("format", "json").set("origin", origin.address()).allow_error("access log").start();
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.get("/fixed").expect(200);
    }
    eventually("the loss is counted", || {
        let metrics = gateway.metrics();
        let errors = metrics.value("propylon_access_log_errors_total", &[])?;
        let lost = metrics.value("propylon_access_log_dropped_total", &[])?;
        (errors >= 1.0 && lost == 20.0).then_some(())
    });
}
