//! Traces and ids: what goes on to the app, what stands in the log, and what never does.

use serde_json::Value;

use crate::harness::http2::Http2;
use crate::harness::tls::Authority;
use crate::harness::{Gateway, Origin, Request};

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn app() -> Origin {
    Origin::start(|connection| {
        while let Some(request) = connection.read_request() {
            let more = if request.target == "/own" { "Server-Timing: db;dur=5\r\n" } else { "" };
            connection
                .write(format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nCache-Control: max-age=60\r\n{more}\r\napp"));
        }
    })
}

fn start(origin: &Origin, more: &str) -> Gateway {
    let toml = format!(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        listen_tls = ["127.0.0.2:0"]
        {more}
        [[tls.certificates]]
        cert = "gateway.pem"
        key = "gateway.key"
        [admin]
        listen = ["127.0.0.1:0"]
        [upstreams.app]
        endpoints = ["{{origin}}"]
        [[routes]]
        upstream = "app"
        [[routes]]
        path = "/own"
        upstream = "app"
        server_timing = true
        [[routes]]
        path = "/kept"
        upstream = "app"
        server_timing = true
        [[routes]]
        path = "/ours"
        respond = {{ body = "ours" }}
        server_timing = true
        [[cache.rules]]
        path = "/kept"
        "#
    );
    let issued = Authority::shared().issue(&["localhost"]);
    Gateway::with(&toml).set("origin", origin.address()).certificate("gateway", &issued).start()
}

const LOG: &str = "trusted_proxies = []\n[log]\naccess = \"{dir}/access.log\"";

fn one(request: &Request, name: &str) -> Option<String> {
    let all = request.fields.all(name);
    assert!(all.len() <= 1, "{name}: {all:?}");
    all.first().map(|value| (*value).to_owned())
}

/// The trace, the step and the flags of a field of version 00.
fn parts(field: &str) -> (String, String, String) {
    let parts: Vec<&str> = field.split('-').collect();
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    assert!(lengths == [2, 32, 16, 2] && parts[0] == "00" && parts.iter().all(|part| is_hex(part)), "{field}");
    (parts[1].to_owned(), parts[2].to_owned(), parts[3].to_owned())
}

#[test]
fn a_trace_goes_on_and_begins_where_there_is_none() {
    let origin = app();
    let gateway = start(&origin, LOG);
    let mut client = gateway.connect();
    let state = [("tracestate", "congo=t61rcWkgMzE"), ("baggage", "user=7")];
    let said = |traceparent: &'static str| [("traceparent", traceparent), state[0], state[1]];
    client.request("GET", "/", &said(GIVEN), "").expect(200);
    client.get("/").expect(200);
    client.request("GET", "/", &said("00-nonsense"), "").expect(200);
    client.request("GET", "/", &[("traceparent", GIVEN), ("traceparent", GIVEN)], "").expect(200);
    client.request("GET", "/ours", &said(GIVEN), "").expect(200);
    client.request("GET", "/a/../b", &said(GIVEN), "").expect(400);

    let requests = origin.requests();
    let fields = |index: usize| {
        let request: &Request = &requests[index];
        (one(request, "traceparent").unwrap(), one(request, "tracestate"), one(request, "baggage"))
    };
    let (given, kept, carried) = fields(0);
    assert_eq!((&*given, kept.as_deref(), carried.as_deref()), (GIVEN, Some(state[0].1), Some(state[1].1)));
    // A new one, which is recorded.
    let begun: Vec<_> = [1, 2, 3].map(|index| parts(&fields(index).0)).into();
    assert!(begun.iter().all(|(trace, step, flags)| trace != TRACE && step.len() == 16 && flags == "01"), "{begun:?}");
    assert!(begun[0].0 != begun[1].0 && begun[0].1 != begun[1].1);
    // What belonged to the one that could not be read is gone; baggage is not of it.
    let (_, kept, carried) = fields(2);
    assert_eq!((kept, carried.as_deref()), (None, Some(state[1].1)));

    let lines = gateway.access_log(6);
    let logged: Vec<&str> = lines.iter().map(|line| line["trace_id"].as_str().unwrap()).collect();
    assert_eq!(logged[..5], [TRACE, &begun[0].0, &begun[1].0, &begun[2].0, TRACE]);
    assert_eq!(logged[5], TRACE, "of what is refused as well");
    assert!(lines.iter().all(|line| line["request_id"].as_str().unwrap().len() == 36));
}

#[test]
fn over_http2_the_same() {
    let origin = app();
    let gateway = start(&origin, LOG);
    let client = Http2::connect(gateway.tls_addr());
    client.request("GET", "/", &[("traceparent", GIVEN)], "").expect(200);
    client.request("GET", "/", &[], "").expect(200);
    let requests = origin.requests();
    assert_eq!(one(&requests[0], "traceparent").as_deref(), Some(GIVEN));
    let (begun, ..) = parts(&one(&requests[1], "traceparent").unwrap());
    assert_eq!(gateway.access_log(2)[1]["trace_id"], *begun);
}

#[test]
fn who_decides_what_is_recorded() {
    for (trusted, sample, said, expected) in [
        ("[]", "0%", Some("01"), "00"),
        ("[]", "100%", Some("01"), "01"),
        ("[]", "100%", Some("00"), "00"),
        ("[]", "0%", None, "00"),
        // A trusted proxy has decided already.
        ("[\"127.0.0.0/8\"]", "0%", Some("01"), "01"),
        ("[\"127.0.0.0/8\"]", "0%", None, "00"),
    ] {
        let origin = app();
        let gateway = start(&origin, &format!("trusted_proxies = {trusted}\n[tracing]\nsample = \"{sample}\""));
        let field = said.map(|flags| format!("{}{flags}", &GIVEN[..53]));
        let fields: Vec<(&str, &str)> = field.iter().map(|field| ("traceparent", &**field)).collect();
        gateway.connect().request("GET", "/", &fields, "").expect(200);
        let (trace, _, flags) = parts(&one(&origin.requests()[0], "traceparent").unwrap());
        assert_eq!((flags.as_str(), trace == TRACE), (expected, said.is_some()), "{trusted} {sample} {said:?}");
    }
}

#[test]
fn no_trace_begins_where_none_is_to() {
    let origin = app();
    let gateway = start(&origin, &format!("{LOG}\n[tracing]\nstart = false"));
    gateway.get("/").expect(200);
    gateway.connect().request("GET", "/", &[("traceparent", "x"), ("tracestate", "a=b")], "").expect(200);
    gateway.connect().request("GET", "/", &[("traceparent", GIVEN)], "").expect(200);
    let requests = origin.requests();
    let of = |index: usize| one(&requests[index], "traceparent");
    assert_eq!((of(0), of(1), of(2).as_deref()), (None, None, Some(GIVEN)));
    assert_eq!(one(&requests[1], "tracestate"), None);
    let lines = gateway.access_log(3);
    assert_eq!((lines[0].get("trace_id"), &lines[2]["trace_id"]), (None, &Value::from(TRACE)));
}

#[test]
fn where_the_time_went_is_said_where_it_is_to_be() {
    let origin = app();
    let gateway = start(&origin, LOG);
    let mut client = gateway.connect();
    assert_eq!(client.get("/").expect(200).field("server-timing"), None);
    let names = |text: &str| -> Vec<String> {
        text.split(", ").map(|part| part.split(';').next().unwrap().to_owned()).collect()
    };
    let answer = client.request("POST", "/own", &[], "body").expect(200);
    let [theirs, ours] = answer.fields.all("server-timing")[..] else { panic!("{answer}") };
    assert_eq!(theirs, "db;dur=5");
    assert_eq!(names(ours), ["receive", "queue", "app", "gateway", "total"]);
    for part in ours.split(", ") {
        let (_, time) = part.split_once(";dur=").unwrap();
        assert!(time.parse::<f64>().unwrap() >= 0.0, "{part}");
    }
    assert_eq!(names(client.get("/ours").expect(200).field("server-timing").unwrap()), ["gateway", "total"]);
    let miss = client.get("/kept").expect(200);
    assert!(miss.field("server-timing").unwrap().ends_with(", cache;desc=miss"), "{miss}");
    let hit = client.get("/kept").expect(200);
    let said = hit.fields.all("server-timing");
    assert_eq!(said.len(), 1, "what the first was told is not kept");
    assert!(said[0].starts_with("gateway;dur=") && said[0].ends_with(", cache;desc=hit"), "{hit}");
}

#[test]
fn what_the_log_does_not_hold() {
    let target = "/a?token=secret1&page=2&%70assword=secret2&key=";
    let fields = [("Referer", "https://test/x?code=secret3&y=1"), ("User-Agent", "secret4")];
    for (redact, query, referer, agent) in [
        ("", "token=***&page=2&%70assword=***&key=***", "https://test/x?code=***&y=1", "secret4"),
        (
            "redact = { query = [\"page\"] }",
            "token=secret1&page=***&%70assword=secret2&key=",
            "https://test/x?code=secret3&y=1",
            "secret4",
        ),
        (
            "redact = { query = [\"*\"], fields = [\"user_agent\", \"client\", \"path\"] }",
            "token=***&page=***&%70assword=***&key=***",
            "***",
            "***",
        ),
        ("redact = { fields = [\"query\"] }", "***", "https://test/x", "secret4"),
        (
            "redact = { query = [\"*\"] }",
            "token=***&page=***&%70assword=***&key=***",
            "https://test/x?code=***&y=***",
            "secret4",
        ),
        ("redact = { fields = [\"query\", \"referer\", \"host\"] }", "***", "***", "secret4"),
    ] {
        let origin = app();
        let gateway = start(&origin, &format!("{LOG}\n{redact}"));
        gateway.connect().request("GET", target, &fields, "").expect(200);
        assert_eq!(origin.requests()[0].target, target, "the app sees all of it");
        let line = gateway.access_log(1).remove(0);
        let said = (&line["query"], &line["referer"], &line["user_agent"]);
        assert_eq!(said, (&query.into(), &referer.into(), &agent.into()), "{redact}");
        let is_hidden = redact.contains("client");
        assert_eq!((line["client"] == "***", line.get("client_port").is_none()), (is_hidden, is_hidden), "{line}");
        assert_eq!(line["path"], if is_hidden { "***" } else { "/a" });
        assert_eq!(line["host"] == "***", redact.contains("host"));
    }
}
