//! Event streams over HTTP/1.1: the app's next event waits for the client to have had the last one, so nothing may be kept back.

use std::fs;
use std::time::Duration;

use crate::harness::*;
use crate::in_flight::nothing_in_flight;

const TOML: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
endpoints = ["{app}"]
{keys}
[[routes]]
upstream = "app"
[[routes]]
path = "/impatient"
upstream = "app"
timeouts = { read = "300ms" }
"#;

fn gateway(app: &Address, keys: &str) -> Gateway {
    Gateway::with(TOML).set("app", app).set("keys", keys).start()
}

/// The next event, and nothing behind it; `chunked` as it comes in a chunk of its own.
#[track_caller]
fn take_event(client: &mut Client, event: &str, chunked: bool) {
    let bytes = if chunked { format!("{:x}\r\n{event}\r\n", event.len()) } else { event.to_owned() };
    assert_eq!(String::from_utf8(client.read_raw(bytes.len())).unwrap(), bytes);
}

/// How an app frames its stream.
#[derive(Clone, Copy, PartialEq)]
enum Framing {
    Chunked,
    UntilClose,
    OldUntilClose,
    Length,
}

impl Framing {
    fn head(self, media: &str) -> String {
        let (version, field) = match self {
            Self::Chunked => ("1.1", "Transfer-Encoding: chunked\r\n"),
            Self::UntilClose => ("1.1", ""),
            Self::OldUntilClose => ("1.0", ""),
            Self::Length => ("1.1", "Content-Length: 50\r\n"),
        };
        format!("HTTP/{version} 200 OK\r\nContent-Type: {media}\r\n{field}\r\n")
    }

    fn piece(self, text: &str) -> String {
        if self == Self::Chunked { format!("{:x}\r\n{text}\r\n", text.len()) } else { text.to_owned() }
    }
}

/// The head, then five events of ten bytes, each when the client has got what was before.
#[test]
fn each_event_is_there_before_the_next_is_made() {
    for framing in [Framing::Chunked, Framing::UntilClose, Framing::OldUntilClose, Framing::Length] {
        for keys in ["", "buffer_responses = false", "max_in_flight = 1", "buffer_responses = true"] {
            let gates: Vec<Gate> = (0..6).map(|_| Gate::new()).collect();
            let origin = Origin::start({
                let gates = gates.clone();
                move |connection| {
                    if connection.read_request().is_none() {
                        return;
                    }
                    connection.write(framing.head("text/event-stream; charset=utf-8"));
                    for (number, gate) in gates[..5].iter().enumerate() {
                        gate.wait();
                        connection.write(framing.piece(&format!("data: {number}{number}\n\n")));
                    }
                    gates[5].wait();
                    if framing == Framing::Chunked {
                        connection.write("0\r\n\r\n");
                    }
                }
            });
            let gateway = gateway(origin.address(), keys);
            let mut client = gateway.connect();
            client.send_request("GET", "/", &[], "");
            let head = client.response_head().expect(200);
            assert_eq!(head.field("content-type"), Some("text/event-stream; charset=utf-8"));
            let chunked = head.field("transfer-encoding") == Some("chunked");
            assert_eq!(chunked, framing != Framing::Length, "{head}");
            for (number, gate) in gates[..5].iter().enumerate() {
                gate.open();
                take_event(&mut client, &format!("data: {number}{number}\n\n"), chunked);
            }
            gates[5].open();
            if chunked {
                assert_eq!(client.read_raw(5), b"0\r\n\r\n");
            }
            nothing_in_flight(&gateway);
        }
    }
}

/// A stream that is torn must not look whole.
#[test]
fn a_stream_that_breaks_off_is_seen_to() {
    let origin = Origin::start(|connection| {
        if connection.read_request().is_none() {
            return;
        }
        connection.write(Framing::Chunked.head("text/event-stream"));
        connection.write(Framing::Chunked.piece("data: 1\n\n"));
        connection.close();
    });
    let gateway = gateway(origin.address(), "");
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    assert_eq!(client.try_response().unwrap_err().truncated().body, b"data: 1\n\n");
    assert_eq!(gateway.access_log(1)[0]["reason"], "upstream_closed");
}

#[test]
fn an_event_stream_may_be_silent_for_longer_than_other_answers() {
    let origin = Origin::start(|connection| {
        let Some(request) = connection.read_request() else { return };
        let media = if request.target == "/page" { "text/html" } else { "Text/Event-Stream;charset=utf-8" };
        connection.write(Framing::Chunked.head(media) + &Framing::Chunked.piece("data: 1\n\n"));
        if request.target != "/events" {
            return connection.hang();
        }
        // Three times what others may be silent for.
        connection.delay(Duration::from_millis(900));
        connection.write(format!("{}0\r\n\r\n", Framing::Chunked.piece("data: 2\n\n")));
    });
    let gateway = gateway(origin.address(), "read_timeout = \"300ms\"");
    assert_eq!(gateway.get("/events").expect(200).text(), "data: 1\n\ndata: 2\n\n");
    // Another kind of answer may not, and where the route has its say neither may this one.
    for target in ["/page", "/impatient"] {
        let mut client = gateway.connect();
        client.send_request("GET", target, &[], "");
        assert_eq!(client.try_response().unwrap_err().truncated().body, b"data: 1\n\n", "{target}");
    }
    let reasons: Vec<_> = gateway.access_log(3).iter().map(|line| line["reason"].clone()).collect();
    assert_eq!(reasons[1..], ["upstream_timeout", "upstream_timeout"]);
    nothing_in_flight(&gateway);
}

#[test]
fn an_app_is_told_at_once_that_the_client_has_left() {
    let origin = Origin::start(|connection| {
        if connection.read_request().is_none() {
            return;
        }
        connection.write(Framing::Chunked.head("text/event-stream"));
        // Nothing more to say: only the close can tell it.
        assert!(connection.peer_closed());
    });
    let gateway = gateway(origin.address(), "max_in_flight = 1");
    for leave in [drop as fn(Client), Client::reset] {
        let mut client = gateway.connect();
        client.send_request("GET", "/", &[], "");
        client.response_head().expect(200);
        leave(client);
        nothing_in_flight(&gateway);
        eventually("the app's connection is closed", || (origin.open_connections() == 0).then_some(()));
    }
    let statuses: Vec<_> = gateway.access_log(2).iter().map(|line| line["reason"].clone()).collect();
    assert_eq!(statuses, ["client_closed", "client_closed"]);
}

/// By http.disconnect, which `asgi.py` writes down.
#[test]
fn an_asgi_app_is_told_of_the_disconnect() {
    let dir = tempfile::tempdir().unwrap();
    for (number, server) in [
        PythonServer::uvicorn("asgi:app").unix(),
        PythonServer::hypercorn("asgi:app").unix(),
        PythonServer::daphne("asgi:app").unix(),
        PythonServer::gunicorn("asgi:app").args("-k asgi").unix(),
        PythonServer::granian("asgi:app").args("--interface asgi"),
    ]
    .into_iter()
    .enumerate()
    {
        let record = dir.path().join(number.to_string());
        let server = server.env("RECORD_FILE", &record.display()).start();
        let gateway = gateway(server.address(), "");
        let mut client = gateway.connect();
        client.send_request("GET", "/events-until-disconnect", &[], "");
        client.response_head().expect(200);
        take_event(&mut client, "data: here\n\n", true);
        drop(client);
        eventually("http.disconnect", || {
            fs::read_to_string(&record).ok().filter(|text| text == "GET /events-until-disconnect\n")
        });
        nothing_in_flight(&gateway);
    }
}

#[test]
fn frameworks_stream_event_by_event() {
    let step_dir = tempfile::tempdir().unwrap();
    for (number, server) in [
        PythonServer::gunicorn("streams:flask").args("-k gthread --threads 2"),
        PythonServer::gunicorn("streams:django_app").args("-k gthread --threads 2"),
        PythonServer::uvicorn("streams:starlette"),
    ]
    .into_iter()
    .enumerate()
    {
        let steps = step_dir.path().join(number.to_string());
        fs::create_dir(&steps).unwrap();
        let server = server.unix().env("STEP_DIR", &steps.display()).start();
        let gateway = gateway(server.address(), "");
        let mut client = gateway.connect();
        client.send_request("GET", "/events", &[("Host", "localhost")], "");
        let head = client.response_head().expect(200);
        assert!(head.field("content-type").unwrap().starts_with("text/event-stream"), "{head}");
        for event in 0..3 {
            take_event(&mut client, &format!("data: {event}\n\n"), true);
            fs::write(steps.join(event.to_string()), "").unwrap();
        }
        assert_eq!(client.read_raw(5), b"0\r\n\r\n");
        client.get("/other").expect(200);
    }
}
