//! One finished request as one line: JSON, or the combined format of NGINX and Apache.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::escape;
use super::redact::HIDDEN;
use crate::observe::clock;

/// What is said of one request. Bytes are as they came from the network; empty ones are absent, as is every `None`.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// When the request began.
    pub time: SystemTime,
    /// The request's id.
    pub request_id: &'a [u8],
    /// The id of the trace.
    pub trace_id: &'a [u8],
    /// The client's address after `trusted_proxies` was applied; none is a peer of a Unix socket.
    pub client: Option<IpAddr>,
    /// Nobody is to see who it was.
    pub hides_client: bool,
    /// The client's port, where the address is that of the connection.
    pub client_port: Option<u16>,
    /// Who came with the right password.
    pub user: Option<&'a str>,
    /// The method; empty when the head could not be read.
    pub method: &'a [u8],
    /// The host the client asked for.
    pub host: &'a [u8],
    /// The path as the client sent it.
    pub path: &'a [u8],
    /// The query without its question mark; `Some` and empty when there was only the mark.
    pub query: Option<&'a [u8]>,
    /// `HTTP/1.1` and the like.
    pub protocol: &'a str,
    /// The status sent; 499 when the client left before.
    pub status: u16,
    /// The route's name.
    pub route: Option<&'a str>,
    /// The upstream's name.
    pub upstream: Option<&'a str>,
    /// The last endpoint tried.
    pub endpoint: Option<&'a str>,
    /// The status the endpoint answered.
    pub upstream_status: Option<u16>,
    /// Why the gateway answered itself.
    pub reason: Option<&'static str>,
    /// The rate limit that refused the request, or would have.
    pub limit: Option<&'a str>,
    /// Whether it would have, and only counted it.
    pub limit_dry_run: bool,
    /// What the cache made of the request; none where no rule is for it.
    pub cache: Option<&'static str>,
    /// Why the request went past it, or its answer was not kept.
    pub cache_detail: Option<&'static str>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// From the first byte of the request to the end of the response.
    pub duration: Duration,
    /// From the first byte of the request until its body was whole; none without a body, and where it is streamed.
    pub t_receive: Option<Duration>,
    /// How long the request waited for a slot on an endpoint; zero when one was free, none when it asked for none.
    pub t_queue: Option<Duration>,
    /// How long the connection to the endpoint took, where one was made.
    pub t_connect: Option<Duration>,
    /// From the request sent upstream to the first byte of the response.
    pub t_first_byte: Option<Duration>,
    /// Attempts beyond the first.
    pub retries: u32,
    /// Whether the connection to the endpoint was open already.
    pub reused: Option<bool>,
    /// The field `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// The field `Referer`.
    pub referer: Option<&'a [u8]>,
    /// The listener the request came in by.
    pub listener: Option<&'a str>,
}

impl Entry<'_> {
    /// An entry of which nothing is known but its time; fill in the rest.
    #[must_use]
    pub fn at(time: SystemTime) -> Self {
        Self {
            time,
            request_id: b"",
            trace_id: b"",
            client: None,
            hides_client: false,
            client_port: None,
            user: None,
            method: b"",
            host: b"",
            path: b"",
            query: None,
            protocol: "",
            status: 0,
            route: None,
            upstream: None,
            endpoint: None,
            upstream_status: None,
            reason: None,
            limit: None,
            limit_dry_run: false,
            cache: None,
            cache_detail: None,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            t_receive: None,
            t_queue: None,
            t_connect: None,
            t_first_byte: None,
            retries: 0,
            reused: None,
            user_agent: None,
            referer: None,
            listener: None,
        }
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, with everything in it.
    Json,
    /// `client - user [time] "request" status bytes "referer" "user agent"`.
    Combined,
}

impl Format {
    /// Appends the line of `entry`, its line feed included.
    pub fn write(self, entry: &Entry<'_>, line: &mut Vec<u8>) {
        match self {
            Self::Json => write_json(entry, line),
            Self::Combined => write_combined(entry, line),
        }
    }
}

fn write_json(entry: &Entry<'_>, line: &mut Vec<u8>) {
    line.extend_from_slice(b"{\"time\":\"");
    clock::write_rfc3339_micros(entry.time, line);
    line.push(b'"');
    let mut object = Members(line);
    object.text("request_id", Some(entry.request_id).filter(|id| !id.is_empty()));
    object.text("trace_id", Some(entry.trace_id).filter(|id| !id.is_empty()));
    object.client(entry);
    object.number("client_port", entry.client_port);
    object.text("user", entry.user.map(str::as_bytes));
    object.text("method", Some(entry.method).filter(|method| !method.is_empty()));
    object.text("host", Some(entry.host).filter(|host| !host.is_empty()));
    object.text("path", Some(entry.path).filter(|path| !path.is_empty()));
    object.text("query", entry.query);
    object.text("protocol", Some(entry.protocol.as_bytes()).filter(|protocol| !protocol.is_empty()));
    object.number("status", Some(entry.status));
    object.text("route", entry.route.map(str::as_bytes));
    object.text("upstream", entry.upstream.map(str::as_bytes));
    object.text("endpoint", entry.endpoint.map(str::as_bytes));
    object.number("upstream_status", entry.upstream_status);
    object.text("reason", entry.reason.map(str::as_bytes));
    object.text("limit", entry.limit.map(str::as_bytes));
    object.flag("dry_run", Some(true).filter(|_| entry.limit_dry_run));
    object.text("cache", entry.cache.map(str::as_bytes));
    object.text("cache_detail", entry.cache_detail.map(str::as_bytes));
    object.number("bytes_in", Some(entry.bytes_in));
    object.number("bytes_out", Some(entry.bytes_out));
    object.seconds("duration", Some(entry.duration));
    object.seconds("t_receive", entry.t_receive);
    object.seconds("t_queue", entry.t_queue);
    object.seconds("t_connect", entry.t_connect);
    object.seconds("t_first_byte", entry.t_first_byte);
    object.number("retries", entry.upstream.map(|_| entry.retries));
    object.flag("reused", entry.reused);
    object.text("user_agent", entry.user_agent);
    object.text("referer", entry.referer);
    object.text("listener", entry.listener.map(str::as_bytes));
    line.extend_from_slice(b"}\n");
}

/// The members of an object after its first; an absent value leaves its member out.
struct Members<'a>(&'a mut Vec<u8>);

impl Members<'_> {
    fn name(&mut self, name: &'static str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &'static str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.name(name);
            self.0.push(b'"');
            escape::json(value, self.0);
            self.0.push(b'"');
        }
    }

    fn client(&mut self, entry: &Entry<'_>) {
        self.name("client");
        self.0.push(b'"');
        write_client(entry, self.0);
        self.0.push(b'"');
    }

    fn number(&mut self, name: &'static str, value: Option<impl itoa::Integer>) {
        if let Some(value) = value {
            self.name(name);
            write_number(value, self.0);
        }
    }

    /// Seconds with six digits behind the point.
    fn seconds(&mut self, name: &'static str, value: Option<Duration>) {
        if let Some(value) = value {
            self.name(name);
            write_number(value.as_secs(), self.0);
            self.0.push(b'.');
            clock::write_padded(value.subsec_micros(), 6, self.0);
        }
    }

    fn flag(&mut self, name: &'static str, value: Option<bool>) {
        if let Some(value) = value {
            self.name(name);
            self.0.extend_from_slice(if value { b"true" } else { b"false" });
        }
    }
}

fn write_combined(entry: &Entry<'_>, line: &mut Vec<u8>) {
    write_client(entry, line);
    line.extend_from_slice(b" - ");
    match entry.user.filter(|user| !user.is_empty()) {
        Some(user) => escape::combined(user.as_bytes(), line),
        None => line.push(b'-'),
    }
    line.extend_from_slice(b" [");
    clock::write_common(entry.time, line);
    line.extend_from_slice(b"] \"");
    if entry.method.is_empty() {
        line.push(b'-');
    } else {
        escape::combined(entry.method, line);
        line.push(b' ');
        escape::combined(entry.path, line);
        if let Some(query) = entry.query {
            line.push(b'?');
            if !query.is_empty() {
                escape::combined(query, line);
            }
        }
        line.push(b' ');
        escape::combined(entry.protocol.as_bytes(), line);
    }
    line.extend_from_slice(b"\" ");
    write_number(entry.status, line);
    line.push(b' ');
    write_number(entry.bytes_out, line);
    line.extend_from_slice(b" \"");
    escape::combined(entry.referer.unwrap_or_default(), line);
    line.extend_from_slice(b"\" \"");
    escape::combined(entry.user_agent.unwrap_or_default(), line);
    line.extend_from_slice(b"\"\n");
}

fn write_client(entry: &Entry<'_>, line: &mut Vec<u8>) {
    match entry.client {
        None if entry.hides_client => line.extend_from_slice(HIDDEN),
        None => line.extend_from_slice(b"unix"),
        Some(IpAddr::V4(address)) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    line.push(b'.');
                }
                write_number(octet, line);
            }
        }
        // A write to a vector does not fail.
        Some(IpAddr::V6(address)) => drop(write!(line, "{address}")),
    }
}

fn write_number(number: impl itoa::Integer, line: &mut Vec<u8>) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            request_id: b"5f0c",
            client: Some("203.0.113.9".parse().unwrap()),
            client_port: Some(50_000),
            method: b"GET",
            host: b"example.com",
            path: b"/p",
            query: Some(b"q=1"),
            protocol: "HTTP/1.1",
            status: 200,
            route: Some("shop"),
            upstream: Some("shop"),
            endpoint: Some("127.0.0.1:8001"),
            upstream_status: Some(200),
            bytes_in: 5,
            bytes_out: 123,
            duration: Duration::from_micros(1_000_042),
            t_receive: Some(Duration::from_millis(2)),
            t_queue: Some(Duration::from_micros(30)),
            t_connect: Some(Duration::from_micros(250)),
            t_first_byte: Some(Duration::from_millis(12)),
            retries: 1,
            reused: Some(false),
            user_agent: Some(b"curl/8"),
            referer: Some(b"https://example.com/"),
            listener: Some("0.0.0.0:80"),
            ..Entry::at(UNIX_EPOCH + Duration::from_micros(1_795_255_200_000_123))
        }
    }

    fn line(format: Format, entry: &Entry<'_>) -> String {
        let mut line = Vec::new();
        format.write(entry, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn json_holds_everything_in_order() {
        let expected = concat!(
            r#"{"time":"2026-11-21T10:00:00.000123Z","request_id":"5f0c","client":"203.0.113.9","client_port":50000,"#,
            r#""method":"GET","host":"example.com","path":"/p","query":"q=1","protocol":"HTTP/1.1","status":200,"#,
            r#""route":"shop","upstream":"shop","endpoint":"127.0.0.1:8001","upstream_status":200,"bytes_in":5,"#,
            r#""bytes_out":123,"duration":1.000042,"t_receive":0.002000,"t_queue":0.000030,"t_connect":0.000250,"#,
            r#""t_first_byte":0.012000,"retries":1,"reused":false,"user_agent":"curl/8","referer":"https://example.com/","listener":"0.0.0.0:80"}"#,
            "\n"
        );
        assert_eq!(line(Format::Json, &entry()), expected);
    }

    #[test]
    fn json_leaves_out_what_is_absent() {
        let bare = Entry { status: 400, reason: Some("bad_request"), ..Entry::at(UNIX_EPOCH) };
        let expected = concat!(
            r#"{"time":"1970-01-01T00:00:00.000000Z","client":"unix","status":400,"reason":"bad_request","#,
            r#""bytes_in":0,"bytes_out":0,"duration":0.000000}"#,
            "\n"
        );
        assert_eq!(line(Format::Json, &bare), expected);
    }

    #[test]
    fn combined_is_what_analysers_expect() {
        let expected = "203.0.113.9 - - [21/Nov/2026:10:00:00 +0000] \"GET /p?q=1 HTTP/1.1\" 200 123 \
                        \"https://example.com/\" \"curl/8\"\n";
        assert_eq!(line(Format::Combined, &entry()), expected);
        let bare = Entry { status: 400, client: Some("2001:db8::1".parse().unwrap()), ..Entry::at(UNIX_EPOCH) };
        let expected = "2001:db8::1 - - [01/Jan/1970:00:00:00 +0000] \"-\" 400 0 \"-\" \"-\"\n";
        assert_eq!(line(Format::Combined, &bare), expected);
        let mark = Entry { query: Some(b""), ..entry() };
        assert!(line(Format::Combined, &mark).contains("\"GET /p? HTTP/1.1\""));
    }

    proptest! {
        #[test]
        fn no_bytes_can_forge_a_line(bytes: Vec<u8>) {
            let hostile = Entry {
                request_id: &bytes,
                method: &bytes,
                host: &bytes,
                path: &bytes,
                query: Some(&bytes),
                user_agent: Some(&bytes),
                referer: Some(&bytes),
                ..entry()
            };
            let json = line(Format::Json, &hostile);
            prop_assert_eq!(json.find('\n'), Some(json.len() - 1));
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read["user_agent"].as_str(), Some(&*String::from_utf8_lossy(&bytes)));
            prop_assert_eq!(read["status"].as_u64(), Some(200));
            prop_assert_eq!(read["duration"].as_f64(), Some(1.000_042));
            let combined = line(Format::Combined, &hostile);
            prop_assert_eq!(combined.find('\n'), Some(combined.len() - 1));
            prop_assert_eq!(combined.bytes().filter(|byte| *byte == b'"').count(), 6);
        }
    }
}
