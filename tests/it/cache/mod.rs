//! Answers that are kept: what RFC 9111 asks of a shared cache, clause by clause, and what users must never see of each other.

// Counts are small and whole.
#![allow(clippy::float_cmp)]

mod admission;
mod basics;
mod collapsing;
mod disk;
mod explaining;
mod freshness;
mod hostile;
mod purging;
mod reuse;
mod shared;
mod storing;
mod users;
mod validation;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{Gateway, GatewayBuilder, Origin, Request, Response, eventually};

const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    trusted_proxies = ["127.0.0.1"]
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    name = "app"
    upstream = "app"
    {more}
    [cache]
    {cache}
    [[cache.rules]]
    name = "all"
    {rule}
"#;

/// An app behind a gateway that keeps its answers.
pub struct Site {
    pub gateway: Gateway,
    pub origin: Origin,
}

/// One answer of an app, without the lines that frame it.
#[derive(Clone)]
pub struct Said {
    pub status: u16,
    pub fields: String,
    pub body: Vec<u8>,
}

impl Said {
    /// 200 with these fields, a line each, and this body.
    pub fn ok(fields: &str, body: impl AsRef<[u8]>) -> Self {
        Self::status(200, fields, body)
    }

    pub fn status(status: u16, fields: &str, body: impl AsRef<[u8]>) -> Self {
        let fields = fields.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n"));
        Self { status, fields: fields.collect(), body: body.as_ref().to_vec() }
    }

    pub fn bytes(&self, is_head: bool) -> Vec<u8> {
        let length = match self.status {
            204 | 304 => String::new(),
            _ => format!("Content-Length: {}\r\n", self.body.len()),
        };
        let head = format!("HTTP/1.1 {} Said\r\n{length}{}\r\n", self.status, self.fields);
        let body = if is_head || [204, 304].contains(&self.status) { &[][..] } else { &self.body };
        [head.as_bytes(), body].concat()
    }
}

/// An app that answers as `answer` says, told the request and how many came before it.
pub fn app(answer: impl Fn(&Request, usize) -> Said + Send + Sync + 'static) -> Origin {
    let (answer, count) = (Arc::new(answer), AtomicUsize::new(0));
    Origin::start(move |connection| {
        while let Some(request) = connection.read_request() {
            let said = answer(&request, count.fetch_add(1, Ordering::SeqCst));
            if !connection.write(said.bytes(request.method == "HEAD")) {
                return;
            }
        }
    })
}

pub fn builder(origin: &Origin, rule: &str) -> GatewayBuilder {
    builder_with(origin, rule, "", "")
}

/// The same with more keys of the route and of `[cache]`.
pub fn builder_with(origin: &Origin, rule: &str, route: &str, cache: &str) -> GatewayBuilder {
    let gateway = Gateway::with(GATEWAY).set("origin", origin.address());
    gateway.set("rule", rule).set("more", route).set("cache", cache)
}

pub fn site(rule: &str, answer: impl Fn(&Request, usize) -> Said + Send + Sync + 'static) -> Site {
    let origin = app(answer);
    let gateway = builder(&origin, rule).start();
    Site { gateway, origin }
}

impl Site {
    pub fn get(&self, fields: &[(&str, &str)]) -> Response {
        self.request("GET", "/", fields)
    }

    pub fn request(&self, method: &str, target: &str, fields: &[(&str, &str)]) -> Response {
        self.gateway.connect().request(method, target, fields, "")
    }

    /// How many requests the app has seen.
    pub fn asked(&self) -> usize {
        self.origin.requests().len()
    }

    pub fn value(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        self.gateway.metrics().value(family, labels).unwrap_or_else(|| panic!("{family} {labels:?}"))
    }

    /// Waits until so many requests came to this: each is counted when its client has the answer already.
    #[track_caller]
    pub fn counts(&self, result: &str, expected: f64) {
        let labels = [("rule", "all"), ("result", result)];
        eventually(&format!("{expected} are {result}"), || {
            (self.value("propylon_cache_requests_total", &labels) == expected).then_some(())
        });
    }
}

/// Whether an answer with these fields to a request with those is given to the same request again. Each answer has another body.
#[track_caller]
pub fn is_kept(rule: &str, fields: &str, request: &[(&str, &str)]) -> bool {
    let fields = fields.to_owned();
    let site = site(rule, move |_, count| Said::ok(&fields, count.to_string()));
    is_given_again(&site, request, request)
}

/// Whether the answer to `first` is given to `second` as well.
#[track_caller]
pub fn is_given_again(site: &Site, first: &[(&str, &str)], second: &[(&str, &str)]) -> bool {
    let before = site.get(first);
    let after = site.get(second);
    let (is_same, is_hit) = (before.body == after.body, status_of(&after).contains("; hit"));
    assert_eq!(is_same, is_hit, "{before}\n{after}");
    assert!(after.fields.has("age") || !is_hit, "{after}");
    is_hit
}

/// What the gateway says it did.
pub fn status_of(response: &Response) -> String {
    response.fields.all("cache-status").last().copied().unwrap_or_default().to_owned()
}

/// What `propylon purge` says.
#[track_caller]
pub fn purge(gateway: &Gateway, arguments: &[&str]) -> String {
    let config = gateway.config_path().to_str().unwrap();
    let done = gateway.command(&[&["purge", "--config", config], arguments].concat());
    assert_eq!(done.code, 0, "{done:?}");
    done.stdout.trim().to_owned()
}
