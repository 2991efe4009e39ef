//! The servers behind, how each is started, and what each keeps from its app or changes on the way to it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::case::{STREAMED, Seen};
use crate::harness::{PythonBuilder, PythonServer, Request};

/// Where a server's app gets its requests from.
pub enum Kind {
    /// No server: the bytes as they come out of the gateway, read strictly.
    Wire,
    /// Its app may only be given whole bodies.
    Wsgi(fn() -> PythonBuilder),
    /// Its app may be handed a body as it comes.
    Asgi(fn() -> PythonBuilder),
}

pub struct Server {
    pub name: &'static str,
    pub preset: &'static str,
    pub kind: Kind,
    /// Fields that its app is not told.
    hides: &'static [&'static str],
    /// It takes the first slashes of a path for one.
    merges_first_slashes: bool,
    /// Its app is called once the body is there.
    pub reads_bodies_first: bool,
    /// It gives its app an empty value for one with a byte above 0x7f.
    empties_obs_text: bool,
}

const PLAIN: Server = Server {
    name: "wire",
    preset: "uvicorn",
    kind: Kind::Wire,
    hides: &[],
    merges_first_slashes: false,
    reads_bodies_first: false,
    empties_obs_text: false,
};

/// On Unix sockets, where some of them believe whoever connects.
pub const SERVERS: &[Server] = &[
    PLAIN,
    Server {
        name: "gunicorn-sync",
        preset: "gunicorn-sync",
        kind: Kind::Wsgi(|| PythonServer::gunicorn("recorder:wsgi").unix()),
        ..PLAIN
    },
    Server {
        name: "gunicorn-asgi",
        preset: "gunicorn-asgi",
        kind: Kind::Asgi(|| PythonServer::gunicorn("recorder:asgi").args("-k asgi").unix()),
        ..PLAIN
    },
    Server {
        name: "uvicorn-httptools",
        kind: Kind::Asgi(|| PythonServer::uvicorn("recorder:asgi").args("--http httptools").unix()),
        ..PLAIN
    },
    Server {
        name: "uvicorn-h11",
        kind: Kind::Asgi(|| PythonServer::uvicorn("recorder:asgi").args("--http h11").unix()),
        ..PLAIN
    },
    Server {
        name: "hypercorn",
        preset: "hypercorn",
        kind: Kind::Asgi(|| PythonServer::hypercorn("recorder:asgi").unix()),
        ..PLAIN
    },
    Server {
        name: "daphne",
        preset: "daphne",
        kind: Kind::Asgi(|| PythonServer::daphne("recorder:asgi").unix()),
        reads_bodies_first: true,
        ..PLAIN
    },
    Server {
        name: "granian-asgi",
        preset: "granian",
        kind: Kind::Asgi(|| PythonServer::granian("recorder:asgi").args("--interface asgi")),
        ..PLAIN
    },
    Server {
        name: "granian-wsgi",
        preset: "granian",
        kind: Kind::Wsgi(|| PythonServer::granian("recorder:wsgi").args("--interface wsgi")),
        empties_obs_text: true,
        ..PLAIN
    },
    Server {
        name: "uwsgi",
        preset: "uwsgi-http",
        kind: Kind::Wsgi(|| PythonServer::uwsgi("recorder:wsgi").args("--buffer-size 32768")),
        ..PLAIN
    },
    Server {
        name: "waitress",
        preset: "waitress",
        kind: Kind::Wsgi(|| PythonServer::waitress("recorder:wsgi")),
        hides: &["x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto"],
        merges_first_slashes: true,
        ..PLAIN
    },
];

/// What an app, or the wire, says of one request. Bytes are characters of the same number.
#[derive(Debug)]
pub struct Record {
    pub method: String,
    /// None: the server does not keep it.
    pub target: Option<String>,
    /// Path and query as the app reads them. None: nobody took them apart.
    pub path: Option<(String, String)>,
    /// Names in lower case, blanks around commas taken out of the values, several of one name as one.
    pub fields: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// The body came to its end.
    pub whole: bool,
}

/// A line of `tests/apps/recorder.py`.
pub enum Line {
    /// The app was called for this path, and its body is still to come.
    Begun(String),
    Record(Record),
}

impl Line {
    pub fn parse(line: &str) -> Self {
        let told: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        match told["begun"].as_str() {
            Some(path) => Self::Begun(path.to_owned()),
            None => Self::Record(Record::from_json(&told)),
        }
    }
}

impl Record {
    fn from_json(told: &Value) -> Self {
        let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        let pair = |pair: &Value| Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned()));
        Self {
            method: text("method"),
            target: told["target"].as_str().map(str::to_owned),
            path: Some((text("path"), text("query"))),
            fields: merged(told["fields"].as_array().into_iter().flatten().filter_map(pair)),
            body: super::case::latin1(&text("body")),
            whole: told["whole"] == true,
        }
    }

    pub fn from_wire(request: Request) -> Self {
        assert_eq!(request.version, "HTTP/1.1", "{request:?}");
        Self {
            method: request.method,
            target: Some(request.target),
            path: None,
            fields: merged(request.fields.0),
            body: request.body,
            whole: true,
        }
    }

    /// Whether it belongs to a body that is handed on as it comes.
    pub fn is_streamed(&self) -> bool {
        self.target
            .as_deref()
            .or(self.path.as_ref().map(|path| &*path.0))
            .is_some_and(|path| path.starts_with(STREAMED))
    }
}

/// Several lines of one name are one list to some servers and several lines to others.
fn merged(fields: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut merged: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in fields {
        let value = value.split(',').map(str::trim).collect::<Vec<_>>().join(",");
        let name = name.to_ascii_lowercase();
        let value = merged.remove(&name).map_or_else(|| value.clone(), |before| format!("{before},{value}"));
        merged.insert(name, value);
    }
    merged
}

impl Server {
    /// Whether a body may be handed on to it as it comes.
    pub fn streams(&self) -> bool {
        !matches!(self.kind, Kind::Wsgi(_))
    }

    /// What is not as it must be in `record`; `port` is the gateway's.
    pub fn differences(&self, seen: &Seen, record: &Record, port: u16) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut check = |what: &str, expected: &dyn std::fmt::Debug, got: &dyn std::fmt::Debug| {
            let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
            if expected != got {
                wrong.push(format!("{what} {got}, not {expected}"));
            }
        };
        check("method", &seen.method, &record.method);
        if let Some(target) = &record.target {
            check("target", &seen.target, target);
        }
        if let Some(path) = &record.path {
            check("path and query", &self.path(&seen.target), path);
        }
        // Of an upgrade that is none nothing but these fields may be left; whether they are is nobody's harm.
        let mut got = record.fields.clone();
        got.retain(|name, _| !name.starts_with("sec-websocket-"));
        if seen.chunked {
            let coding = got.remove("transfer-encoding");
            // Some servers tell their app, some do not.
            let fits = coding.map_or(matches!(self.kind, Kind::Asgi(_)), |coding| coding == "chunked");
            check("chunks", &true, &fits);
        }
        for (name, start) in [("x-request-id", ""), ("x-request-start", "t="), ("traceparent", "00-")] {
            let value = got.remove(name).unwrap_or_default();
            check(name, &true, &(!value.is_empty() && value.starts_with(start)));
        }
        check("fields", &self.fields(seen, port), &got);
        check(
            "body",
            &seen.body.clone().unwrap_or_default().escape_ascii().to_string(),
            &record.body.escape_ascii().to_string(),
        );
        check("end of the body", &true, &record.whole);
        wrong
    }

    /// Path and query as this server's app reads them.
    fn path(&self, target: &str) -> (String, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let bytes = decoded(path.as_bytes());
        let bytes = match self.kind {
            Kind::Asgi(_) => String::from_utf8_lossy(&bytes).into_owned().into_bytes(),
            _ => bytes,
        };
        let mut path: String = bytes.into_iter().map(char::from).collect();
        if self.merges_first_slashes {
            path = format!("/{}", path.trim_start_matches('/'));
        }
        (path, query.to_owned())
    }

    /// The client's fields and the gateway's, as this server's app is told them.
    fn fields(&self, seen: &Seen, port: u16) -> BTreeMap<String, String> {
        let mut fields = seen.fields.clone();
        let mut add = |name: &str, value: &str| fields.push((name.to_owned(), value.to_owned()));
        add("host", &seen.host);
        add("x-forwarded-for", "127.0.0.1");
        add("x-real-ip", "127.0.0.1");
        add("x-forwarded-proto", "http");
        if seen.host.is_empty() {
            add("x-forwarded-port", &port.to_string());
        } else {
            let port = seen.host.rsplit_once(':').map_or("80", |(_, port)| port);
            add("x-forwarded-host", &seen.host);
            add("x-forwarded-port", port);
        }
        if let Some(body) = seen.body.as_ref().filter(|_| !seen.chunked) {
            add("content-length", &body.len().to_string());
        }
        if ["gunicorn-sync", "uwsgi-http"].contains(&self.preset) {
            add("connection", "close");
        }
        let mut fields = merged(fields);
        fields.retain(|name, _| !self.hides.contains(&&**name));
        if self.empties_obs_text {
            fields.values_mut().filter(|value| !value.is_ascii()).for_each(String::clear);
        }
        fields
    }
}

/// Percent-decoded once; every case that is passed on has whole escapes in its path.
fn decoded(raw: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| u8::try_from(digit).unwrap());
    let (mut bytes, mut rest) = (Vec::new(), raw);
    while let [first, behind @ ..] = rest {
        let (byte, behind) = match behind {
            [high, low, behind @ ..] if *first == b'%' => (digit(*high).unwrap() << 4 | digit(*low).unwrap(), behind),
            _ => (*first, behind),
        };
        bytes.push(byte);
        rest = behind;
    }
    bytes
}
