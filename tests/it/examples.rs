//! The examples, each started as its README says, with its own `gateway.toml`; and the demo, which starts them all.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::Example;

/// What every example does, whatever is behind it.
fn works(name: &str, greeting: &str, endpoints: f64) {
    let example = Example::start(name);
    let gateway = example.gateway().start();
    let mut client = gateway.connect();
    let host = ("Host", "localhost:8080");
    let index = client.request("GET", "/", &[host], "").expect(200);
    assert!(index.text().starts_with(greeting), "{index}");

    let claims = [
        host,
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Prefix", "/forged"),
        ("SCRIPT_NAME", "/who"),
    ];
    let told = client.request("GET", "/whoami", &claims, "").expect(200).json();
    for (key, value) in [
        ("framework", name),
        ("client", "127.0.0.1"),
        ("scheme", "http"),
        ("host", "localhost:8080"),
        ("prefix", ""),
        ("path", "/whoami"),
    ] {
        assert_eq!(told[key], value, "{key} in {told}");
    }

    let echo = client.request("POST", "/echo", &[host], "x".repeat(300_000)).expect(200);
    assert_eq!(echo.json()["length"], 300_000);
    let big = client.request("GET", "/big?bytes=2000000", &[host], "").expect(200);
    assert_eq!(big.body.len(), 2_000_000);
    // The app's own error is passed on as it is, and is no fault of the gateway's or of the endpoint.
    let boom = client.request("GET", "/boom", &[host], "").expect(500);
    assert!(
        !boom.text().contains("Reason:") && boom.field("content-type") != Some("application/problem+json"),
        "{boom}"
    );
    client.request("GET", "/", &[host], "").expect(200);
    client.request("GET", "/nowhere", &[host], "").expect(404);

    let lines = gateway.access_log(7);
    for (line, status) in lines.iter().zip([200, 200, 200, 200, 500, 200, 404]) {
        assert_eq!((&line["route"], &line["upstream"]), (&name.into(), &name.into()), "{line}");
        assert_eq!((&line["status"], &line["upstream_status"]), (&status.into(), &status.into()), "{line}");
        assert!(line.get("reason").is_none(), "{line}");
    }
    let healthy = gateway.metrics().value("propylon_upstream_healthy", &[("upstream", name)]);
    assert_eq!(healthy, Some(endpoints));
    gateway.admin_get("/readyz").expect(200);
    let finished = gateway.stop();
    assert!(!finished.stderr.contains("propylon::proxy"), "{}", finished.stderr);
}

#[test]
fn flask() {
    works("flask", "hello from Flask", 1.0);
}

#[test]
fn django() {
    works("django", "hello from Django", 1.0);
}

#[test]
fn fastapi() {
    works("fastapi", "hello from FastAPI", 3.0);
}

#[test]
fn the_demo_runs_to_its_end_and_shows_what_it_says() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/demo.sh");
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .arg(script)
        .env("PROPYLON_BIN", env!("CARGO_BIN_EXE_propylon"))
        .env("TMPDIR", dir.path())
        .env_remove("KEEP")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let transcript = String::from_utf8(output.stdout).unwrap();
    let shown = format!("{transcript}\n--- stderr\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{shown}", output.status);
    let section = |title: &str| -> &str {
        let found = transcript.split("\n== ").find(|section| section.starts_with(title));
        found.unwrap_or_else(|| panic!("no section {title:?} in {shown}"))
    };

    let there = section("who is there");
    for line in ["three apps behind one gateway", "hello from Flask", "hello from Django", "hello from FastAPI"] {
        assert!(there.contains(line), "{line}: {shown}");
    }
    let saw = section("what each app saw");
    for app in ["flask", "django", "fastapi"] {
        let line = saw.lines().find(|line| line.starts_with(app)).unwrap_or_else(|| panic!("{app}: {shown}"));
        let told = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let truth = format!("{app} client 127.0.0.1 scheme http prefix /{app} path /whoami request id ");
        assert!(told.starts_with(&truth) && !told.ends_with("none"), "{line}");
    }
    let secure = section("the same over HTTPS");
    for line in
        ["TLSv1.3", "ALPN: server accepted h2", "< HTTP/2 200", "client 127.0.0.1  scheme https  host localhost:"]
    {
        assert!(secure.contains(line), "{line}: {shown}");
    }
    let events = section("an event stream over HTTP/2");
    let of_events = || events.lines().filter(|line| line.contains("data: {"));
    assert!(of_events().count() == 4 && events.contains("over HTTP/2"), "{events}");
    let upload = section("an upload of 1 MB");
    let sum = upload.lines().find_map(|line| line.strip_suffix("  -")).unwrap_or_else(|| panic!("{shown}"));
    assert!(upload.contains(&format!("\"sha256\": \"{sum}\"")) && upload.contains("\"length\": 1000000"), "{upload}");
    // "count text" a line, as uniq -c writes it.
    let counts = |title: &str| -> Vec<(u32, String)> {
        let lines = section(title).lines().skip(1).filter_map(|line| line.trim().split_once(' '));
        lines.filter_map(|(count, text)| Some((count.parse().ok()?, text.to_owned()))).collect()
    };
    let spread = counts("30 requests over three");
    assert_eq!((spread.len(), spread.iter().map(|(count, _)| count).sum()), (3, 30), "{spread:?}");
    assert_eq!(counts("one of them is killed"), [(30, "200".to_owned())]);
    assert!(section("20 clients upload").contains("\nhello from Flask"), "{shown}");
    assert_eq!(counts("8 requests to a route that lets"), [(5, "200".to_owned()), (2, "429".to_owned())]);
    let reports = counts("30 clients ask at once");
    assert!(reports[0].0 == 30 && reports[0].1.starts_with("slept 1.0 s in process"), "one process, once: {reports:?}");
    assert!(section("30 clients ask at once").contains("cache-status: propylon; hit"), "{shown}");
    assert!(section("30 clients ask at once").contains("purged 1 prefix: 1 answer"), "{shown}");
    let limited = section("8 requests to a route that lets").to_ascii_lowercase();
    for line in
        ["http/1.1 429", "retry-after: ", "ratelimit: \"limited\";r=0;t=", "ratelimit-policy: \"limited\";q=5;w=3600"]
    {
        assert!(limited.contains(line), "{line}: {shown}");
    }
    let restarted = counts("Flask's Gunicorn is stopped");
    assert!(matches!(restarted.as_slice(), [(3.., status)] if status == "200"), "{restarted:?}");
    assert!(section("a reload").contains("\nreloaded: three apps"), "{shown}");
    let wrong = section("a configuration that is wrong");
    assert!(wrong.contains("flaks") && wrong.contains("did you mean") && wrong.contains("exit code 2"), "{wrong}");
    assert!(section("the access log").contains("\"status\": 200"), "{shown}");
    let metrics = section("some metrics");
    for name in ["propylon_requests_total{", "propylon_upstream_healthy{", "propylon_upstream_requests_total{"] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    assert!(transcript.trim_end().ends_with("== stopping"), "{shown}");
    // It leaves nothing behind.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
