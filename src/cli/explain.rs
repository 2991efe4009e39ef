//! `propylon explain`: which route and which rule of the cache a request meets, and what would become of its answer.

use std::fmt::Write as _;
use std::time::SystemTime;

use clap::Args;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{ConfigFile, Failure, load};
use crate::cache::freshness::{Fetched, millis};
use crate::cache::policy::{self, Answer, Asked, Terms};
use crate::cache::rule::{Rule, Rules, Target};
use crate::config::Config;
use crate::config::model::{Action, KeyQuery, Route};
use crate::header::stream::is_stream;
use crate::headers::Headers;
use crate::observe::metrics::{Bypass, Metrics, NotStored};
use crate::route::host::{AllowedHosts, Host};
use crate::route::table::{Found, Table};
use crate::route::target::{check_query, decode_path, split_query, split_url};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// A whole URL, as a client would ask for it.
    #[arg(value_name = "URL")]
    url: String,
    /// The request's method.
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// A field of the request, such as "Cookie: a=b". May be repeated.
    #[arg(long, value_name = "FIELD")]
    header: Vec<String>,
    /// The client has shown a certificate.
    #[arg(long)]
    client_certificate: bool,
    /// The status of the app's answer.
    #[arg(long, value_name = "STATUS", default_value = "200")]
    status: u16,
    /// A field of the app's answer, such as "Cache-Control: max-age=60". May be repeated.
    #[arg(long, value_name = "FIELD")]
    response_header: Vec<String>,
    #[command(flatten)]
    file: ConfigFile,
}

impl Explain {
    pub(super) fn execute(&self) -> Result<String, Failure> {
        let (config, _) = load(&self.file.config)?;
        let asked = fields(&self.header)?;
        let said = fields(&self.response_header)?;
        let method = Method::from_bytes(self.method.as_bytes()).map_err(|_| bad(&self.method, "no method"))?;
        let status = StatusCode::from_u16(self.status).map_err(|_| bad(&self.status.to_string(), "no status"))?;
        let split = split_url(&self.url);
        let (https, authority, target) =
            split.ok_or_else(|| bad(&self.url, "expected a whole URL such as https://example.com/a"))?;
        let host = Host::parse(authority.as_bytes()).map_err(|error| bad(authority, &error.to_string()))?;
        let (path, query) = split_query(target.as_bytes());
        let mut out = format!("request     {method} {}://{authority}{target}\n", if https { "https" } else { "http" });
        if !AllowedHosts::new(&config.server.allowed_hosts).allows(Some(&host.name)) {
            return Ok(out + "answer      421, the host is not in server.allowed_hosts\n");
        }
        let decoded = match decode_path(path).and_then(|decoded| query.map_or(Ok(()), check_query).map(|()| decoded)) {
            Ok(decoded) => decoded,
            Err(error) => return Ok(out + &format!("answer      400, {error}\n")),
        };
        let Some(route) = routed(&config, &host, &decoded, &method, &mut out) else { return Ok(out) };
        let rules = Rules::build(config.cache.as_ref(), &Metrics::new("", &[]));
        let Some(rule) = rules.find(Some(&host.name), &decoded) else {
            out.push_str("rule        none: the answer is not kept\n");
            return Ok(out);
        };
        let port = host.port.filter(|port| *port != if https { 443 } else { 80 });
        let key = rule.key(&Target { https, host: &host.name, port, path, query });
        let _ = writeln!(out, "rule        {}", rule.config.name);
        let _ = writeln!(out, "key         {}", shown(rule, &key));
        if ![Method::GET, Method::HEAD].contains(&method) {
            out.push_str("cache       past it; what is kept under the key goes when the app has agreed (2xx, 3xx)\n");
            return Ok(out);
        }
        let facts = Asked {
            headers: &asked,
            has_body: false,
            is_upgrade: false,
            has_client_cert: self.client_certificate,
            host_is_plain: host.is_as_usual(authority.as_bytes(), https),
        };
        if let Some(why) = policy::bypass(rule, &facts) {
            let _ = writeln!(out, "cache       past it: {}", bypass(why));
            return Ok(out);
        }
        out.push_str("cache       asked first; what is not there is fetched once for all who want it\n");
        let authorized = asked.contains(http::header::AUTHORIZATION);
        judge(rule, status, said, (authorized, route.security.has_nonce()), &mut out);
        Ok(out)
    }
}

fn fields(lines: &[String]) -> Result<Headers, Failure> {
    let mut fields = Headers::default();
    for line in lines {
        let field = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = field.ok_or_else(|| bad(line, "no field; expected \"Name: value\""))?;
        fields.append(name, value);
    }
    Ok(fields)
}

fn bad(found: &str, why: &str) -> Failure {
    Failure::bad_input(&format!("{found}: {why}"))
}

/// Says which route it is; none where that does not lead to an app.
fn routed<'a>(
    config: &'a Config,
    host: &Host<'_>,
    path: &[u8],
    method: &Method,
    out: &mut String,
) -> Option<&'a Route> {
    let index = match Table::build(&config.routes).find(Some(&host.name), path, method) {
        Found::Route(index) => index,
        Found::NotFound => {
            out.push_str("answer      404, no route is for it\n");
            return None;
        }
        Found::MethodNotAllowed(allow) => {
            let _ = writeln!(out, "answer      405, the methods there are: {}", allow.to_str().unwrap_or_default());
            return None;
        }
    };
    let route = config.routes.get(index)?;
    let _ = write!(out, "route       {}", route.name);
    match &route.action {
        Action::Upstream(index) => {
            let upstream = config.upstreams.get(*index).map_or("", |upstream| &*upstream.name);
            let _ = writeln!(out, ", to upstream {upstream}");
            Some(route)
        }
        Action::Respond { status, .. } => {
            let _ = writeln!(out, ", answered {status} by the gateway");
            None
        }
        Action::Redirect { status, .. } => {
            let _ = writeln!(out, ", redirected with {status}");
            None
        }
    }
}

/// A key for people: the URL, as much of it as counts, and the fields that count.
fn shown(rule: &Rule, key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key);
    let mut lines = text.splitn(4, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let (scheme, authority, path, query) = (next(), next(), next(), next());
    let query = match &rule.config.key_query {
        KeyQuery::All => query.get(1..).unwrap_or_default().to_owned(),
        KeyQuery::None => " without its query".to_owned(),
        KeyQuery::Only(names) => {
            let counted = query.rsplit('\n').next().unwrap_or_default().trim_start_matches('&');
            let list = names.join(", ");
            if counted.is_empty() { format!(" without any of {list}") } else { format!("?{counted}, of {list} alone") }
        }
    };
    let fields: Vec<&str> = rule.config.key_headers.iter().map(HeaderName::as_str).collect();
    let fields = if fields.is_empty() { String::new() } else { format!(", for each {}", fields.join(", ")) };
    format!("{scheme}://{authority}{path}{query}{fields}")
}

fn judge(rule: &Rule, status: StatusCode, mut said: Headers, (authorized, nonce): (bool, bool), out: &mut String) {
    use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
    if !said.contains(CONTENT_LENGTH) && !said.contains(TRANSFER_ENCODING) {
        said.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let now = millis(SystemTime::now());
    let fetched = Fetched { asked: now, came: now };
    let answer =
        Answer { status, headers: &said, fetched, is_stream: is_stream(&said), authorized, ranged: false, nonce };
    match policy::judge(rule, &answer) {
        Ok((terms, varies)) => {
            let _ = writeln!(out, "answer      {status} would be kept, {}", lifetime(&terms, now));
            if !varies.is_empty() {
                let names: Vec<&str> = varies.iter().map(HeaderName::as_str).collect();
                let _ = writeln!(out, "varies      by {}", names.join(", "));
            }
        }
        Err(why) => {
            let _ = writeln!(out, "answer      {status} would not be kept: {}", not_stored(why));
        }
    }
    match &rule.config.ttl {
        Some(ttl) => {
            let over = if rule.config.overrides {
                "whatever the answer says of its lifetime"
            } else {
                "where the answer says no lifetime"
            };
            let _ = writeln!(out, "ttl         {ttl}; {over}");
        }
        None => out.push_str("ttl         none of the rule: only what an answer says counts\n"),
    }
}

fn lifetime(terms: &Terms, now: u64) -> String {
    let seconds = |millis: u64| format!("{} s", millis / 1000);
    let mut text = match terms.fresh_until.checked_sub(now) {
        Some(left @ 1..) if !terms.no_cache => format!("fresh for {}", seconds(left)),
        _ => "and the app asked each time whether it is still true".to_owned(),
    };
    if terms.stale_while_revalidate > 0 {
        text.push_str(&format!(
            ", then given for {} while a new one is fetched",
            seconds(terms.stale_while_revalidate)
        ));
    }
    if terms.stale_if_error > 0 {
        text.push_str(&format!(", and for {} where the app fails", seconds(terms.stale_if_error)));
    }
    text
}

fn bypass(why: Bypass) -> &'static str {
    match why {
        Bypass::Cookie => "it has a cookie that is not one of ignore_cookies",
        Bypass::Body => "it has a body",
        Bypass::Upgrade => "it asks for a WebSocket",
        Bypass::ClientCert => "its client has shown who it is",
        Bypass::Host => "its host is not written in the usual way",
        Bypass::MethodOverride => "it asks for another method in a field of its own",
        Bypass::NoStore => "it says Cache-Control: no-store",
        Bypass::Precondition => "it says If-Match or If-Unmodified-Since",
    }
}

fn not_stored(why: NotStored) -> &'static str {
    match why {
        NotStored::SetCookie => "it sets a cookie",
        NotStored::Nonce => "it has a nonce, which is one request's alone",
        NotStored::Private => "it says Cache-Control: private",
        NotStored::NoStore => "it says Cache-Control: no-store, or something that cannot be read",
        NotStored::VaryAny => "it varies by what is another for each request",
        NotStored::VaryUser => "it varies by Cookie or Authorization",
        NotStored::Authorization => {
            "the request has Authorization, and it does not say public, s-maxage or must-revalidate"
        }
        NotStored::Status => "it is a part of another, or none that is final",
        NotStored::NoLifetime => {
            "neither it nor the rule says for how long, or it is over at once and has no ETag or Last-Modified"
        }
        NotStored::EventStream => "it is sent as it is made",
        NotStored::LengthUnknown => "whether it is whole could not be told",
        NotStored::TooLarge => "it is larger than cache.max_body, or without cache.disk than a 32nd of cache.memory",
        NotStored::Incomplete => "it broke",
        NotStored::Busy => "too much is being fetched at once",
        NotStored::Purged => "it was purged while it was fetched",
    }
}
