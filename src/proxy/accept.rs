//! Whether a request is served at all, and what is done with it: host, target, route, access and limits, in this order.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Method, header};

use crate::cache::entry::Entry;
use crate::config::model::{Action, Balance, HashKey, HeadLimits, RedirectPiece, RedirectTemplate, Route};
use crate::edge::exchange::Exchange;
use crate::message::RequestHead;
use crate::proxy::access;
use crate::proxy::cache;
use crate::proxy::context::{Active, origin};
use crate::proxy::cors;
use crate::proxy::forward;
use crate::proxy::limit;
use crate::proxy::rejection::{Reason, Rejection};
use crate::proxy::respond::Answer;
use crate::rate_limit::key::cookies;
use crate::route::host::Host;
use crate::route::table::Found;
use crate::route::target::{check_query, decode_path, is_acme_challenge, split_query};
use crate::upstream::{Wanted, key_number};

/// What happens next.
pub enum Next {
    /// To the upstream that is now in the request's state.
    Proxy,
    Answer(Box<Answer>),
    /// It was kept.
    Kept(Arc<Entry>),
}

/// Judges the request and, if it goes to an app, makes it what the app is to see.
///
/// # Errors
/// Why it is refused.
pub fn accept(request: &mut RequestHead, active: &mut Active) -> Result<Next, Rejection> {
    let exchange = active.exchange.clone();
    if let Some(refusal) = &exchange.refusal {
        return Err(refusal.clone());
    }
    let host = exchange.host.as_ref().map(|value| Host::parse(value.as_bytes())).transpose();
    let host = host.map_err(|error| Rejection::new(Reason::BadHost, error.to_string()))?;
    let name = host.as_ref().map(|host| &*host.name);
    if !exchange.snapshot.allowed_hosts.allows(name) {
        return Err(Reason::WrongHost.into());
    }
    if let (Some(asked), Some(name)) = (asked(&exchange), name)
        && exchange.snapshot.tls.as_ref().is_some_and(|tls| !tls.serves(asked, name))
        && !origin(&exchange).peer_trusted
    {
        // What the client knows of us it knows of another host (RFC 9110 section 15.5.20). A proxy that is trusted brings the
        // requests of many, and may have opened its connection for any of them.
        return Err(Rejection::new(Reason::WrongHost, format!("the connection was opened for {asked}")));
    }
    let (path, query) = split_query(&request.target);
    if is_to_be_secured(&exchange, path) {
        let location = secure_location(&exchange, host.as_ref(), &request.target)?;
        return Ok(Next::Answer(Box::new(Answer::empty(308).with(header::LOCATION, location))));
    }
    if request.method == Method::OPTIONS && path == b"*" {
        return Ok(Next::Answer(Box::new(Answer::empty(204))));
    }
    let decoded = decode_path(path).map_err(bad_target)?;
    query.map_or(Ok(()), check_query).map_err(bad_target)?;
    if let Some(answer) = preflight(request, active, &exchange, name, &decoded)? {
        return Ok(Next::Answer(Box::new(answer)));
    }
    let index = match exchange.snapshot.table.find(name, &decoded, &request.method) {
        Found::Route(index) => index,
        Found::NotFound => return Err(Reason::NoRoute.into()),
        Found::MethodNotAllowed(allow) => {
            let answer = Answer::rejection(Reason::MethodNotAllowed.into()).with(header::ALLOW, allow.clone());
            return Ok(Next::Answer(Box::new(answer)));
        }
    };
    let Some((route, metrics)) = exchange.snapshot.route(index) else {
        return Err(Rejection::new(Reason::Internal, "route without a configuration"));
    };
    active.route = Some(index);
    active.counted = Some(metrics.enter());
    active.origin = route.cors.as_ref().and_then(|cors| cors::allowed(&request.headers, cors));
    let access = exchange.snapshot.access(index);
    access::admit(active, access, path)?;
    limit::begin(request, active, exchange.snapshot.limits(index), name)?;
    access::begin(request, active, access)?;
    check_body(&exchange, request, route)?;
    match &route.action {
        Action::Respond { status, body, content_type } => {
            Ok(Next::Answer(Box::new(Answer::configured(*status, body, content_type))))
        }
        Action::Redirect { status, to } => {
            let answer = Answer::empty(*status).with(header::LOCATION, location(to, host.as_ref(), path, query)?);
            Ok(Next::Answer(Box::new(answer)))
        }
        Action::Upstream(index) => {
            let Some(upstream) = exchange.snapshot.upstreams.get(*index).cloned() else {
                return Err(Rejection::new(Reason::Internal, "route without an upstream"));
            };
            if let Some(entry) = cache::visit(request, active, host.as_ref(), &decoded, (path, query)) {
                active.upstream = Some(upstream);
                return Ok(Next::Kept(entry));
            }
            check_head(&exchange, upstream.config.head_limits, route)?;
            let (origin_host, port) = (exchange.host.as_ref(), host.as_ref().and_then(|host| host.port));
            let hash = match &upstream.config.balance {
                Balance::Hash(key) => hash_of(key, name, &decoded, request, active),
                _ => None,
            };
            forward::prepare(request, active, route, &upstream, origin_host.map(|value| (value, port)))?;
            active.wanted = Some(Wanted::new(route.priority, hash).with_patience(route.queue_timeout));
            active.upstream = Some(upstream);
            Ok(Next::Proxy)
        }
    }
}

/// The answer to what a browser asks beforehand, if the route that it asks for says who may; its methods need not name OPTIONS.
fn preflight(
    request: &RequestHead,
    active: &mut Active,
    exchange: &Exchange,
    host: Option<&str>,
    path: &[u8],
) -> Result<Option<Answer>, Rejection> {
    let Some(method) = cors::preflighted(request) else { return Ok(None) };
    let Found::Route(index) = exchange.snapshot.table.find(host, path, &method) else { return Ok(None) };
    let Some((route, metrics)) = exchange.snapshot.route(index) else { return Ok(None) };
    let Some(cors) = &route.cors else { return Ok(None) };
    active.route = Some(index);
    active.counted = Some(metrics.enter());
    // Browsers send no password with it.
    access::admit(active, exchange.snapshot.access(index), path)?;
    cors::answer(&request.headers, cors, &method).map(Some)
}

/// The name by which the client asked for the certificate of its connection.
fn asked(exchange: &Exchange) -> Option<&str> {
    exchange.facts.tls.as_ref()?.asked.as_deref()
}

/// Whether the request came over plain HTTP and is to come again over HTTPS.
fn is_to_be_secured(exchange: &Exchange, path: &[u8]) -> bool {
    exchange.snapshot.config.server.https_redirect
        && exchange.facts.tls.is_none()
        && !is_acme_challenge(path)
        && !origin(exchange).https
}

/// The same with `https://`.
fn secure_location(exchange: &Exchange, host: Option<&Host<'_>>, target: &[u8]) -> Result<HeaderValue, Rejection> {
    let host = host.ok_or_else(|| Rejection::new(Reason::BadHost, "redirect to the host of a request without one"))?;
    let mut location = b"https://".to_vec();
    location.extend_from_slice(host.name.as_bytes());
    let ours = exchange.facts.listener.port;
    if let Some(port) = secure_port(ours, host.port, exchange.snapshot.config.server.tls_port()) {
        location.extend_from_slice(format!(":{port}").as_bytes());
    }
    if target != b"*" {
        location.extend_from_slice(target);
    }
    HeaderValue::from_bytes(&location).map_err(|_| Rejection::new(Reason::Internal, "redirect to an invalid location"))
}

/// The port to name behind a host that is redirected to HTTPS; none for that of HTTPS itself. `ours` is that of the listener the
/// request came to, `asked` the one its Host names, `tls` that of the first TLS listener. Where the client sees our own port, it
/// is sent to that of our own TLS listener; where it sees another, that of a published container say, the port of HTTPS is the
/// likeliest.
fn secure_port(ours: Option<u16>, asked: Option<u16>, tls: Option<u16>) -> Option<u16> {
    // A port 0 was left to the system to choose.
    tls.filter(|port| ours == Some(asked.unwrap_or(80)) && ![0, 443].contains(port))
}

fn bad_target(error: crate::route::target::TargetError) -> Rejection {
    Rejection::new(Reason::BadTarget, error.to_string())
}

/// An announced body is judged before anything is done for it; one that is not is counted as it comes.
fn check_body(exchange: &Exchange, request: &RequestHead, route: &Route) -> Result<(), Rejection> {
    exchange.control.set_max_body(route.max_body);
    let announced =
        request.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match announced {
        Some(length) if length > route.max_body => {
            Err(Rejection::new(Reason::BodyTooLarge, format!("{length} of at most {} bytes", route.max_body)))
        }
        _ => Ok(()),
    }
}

/// The limits of the server behind, which would answer without saying what was wrong. They leave room for our own fields,
/// not for those of the route.
fn check_head(exchange: &Exchange, limits: Option<HeadLimits>, route: &Route) -> Result<(), Rejection> {
    let Some(limits) = limits else { return Ok(()) };
    let size = exchange.size;
    if size.request_line > limits.request_line_max {
        let detail =
            format!("request line of {} bytes, the server behind takes {}", size.request_line, limits.request_line_max);
        return Err(Rejection::new(Reason::RequestLineTooLong, detail));
    }
    if size.longest_field > limits.field_max {
        let detail = format!("field of {} bytes, the server behind takes {}", size.longest_field, limits.field_max);
        return Err(Rejection::new(Reason::HeadTooLarge, detail));
    }
    let fields = size.fields + route.request_headers.set.len();
    if fields > limits.headers_max {
        let detail = format!("{fields} fields with those of the route, the server behind takes {}", limits.headers_max);
        return Err(Rejection::new(Reason::HeadTooLarge, detail));
    }
    Ok(())
}

/// What the endpoint is chosen by: a number for the value of the key, the same in every process. None where the request has no
/// such value.
fn hash_of(key: &HashKey, host: Option<&str>, path: &[u8], request: &RequestHead, active: &Active) -> Option<u64> {
    match key {
        HashKey::ClientIp => active.client.map(|ip| match ip.to_canonical() {
            IpAddr::V4(ip) => key_number(&ip.octets()),
            IpAddr::V6(ip) => key_number(&ip.octets()),
        }),
        HashKey::Host => host.map(|host| key_number(host.as_bytes())),
        HashKey::Path => Some(key_number(path)),
        HashKey::Header(name) => request.headers.get(name).map(|value| key_number(value.as_bytes())),
        HashKey::Cookie(name) => cookies(&request.headers, name).next().map(key_number),
    }
}

fn location(
    template: &RedirectTemplate,
    host: Option<&Host<'_>>,
    path: &[u8],
    query: Option<&[u8]>,
) -> Result<HeaderValue, Rejection> {
    let mut location = Vec::new();
    for piece in &template.0 {
        match piece {
            RedirectPiece::Text(text) => location.extend_from_slice(text.as_bytes()),
            // Without one, what follows it would be read as the host.
            RedirectPiece::Host => {
                let host = host
                    .ok_or_else(|| Rejection::new(Reason::BadHost, "redirect to the host of a request without one"))?;
                location.extend_from_slice(host.name.as_bytes());
            }
            // A path that begins with two slashes would be read as a host where the template begins with it.
            RedirectPiece::Path if location.is_empty() => {
                let slashes = path.iter().take_while(|b| **b == b'/').count();
                location.push(b'/');
                location.extend_from_slice(path.get(slashes..).unwrap_or_default());
            }
            RedirectPiece::Path => location.extend_from_slice(path),
            RedirectPiece::Query => {
                if let Some(query) = query {
                    location.push(b'?');
                    location.extend_from_slice(query);
                }
            }
        }
    }
    HeaderValue::from_bytes(&location).map_err(|_| Rejection::new(Reason::Internal, "redirect to an invalid location"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_that_a_redirect_to_https_names() {
        for (ours, asked, tls, expected) in [
            (Some(80), None, Some(443), None),
            (Some(80), Some(80), Some(443), None),
            (Some(8080), Some(8080), Some(443), None),
            // The client sees our own port.
            (Some(80), None, Some(8443), Some(8443)),
            (Some(80), Some(80), Some(8443), Some(8443)),
            (Some(8080), Some(8080), Some(8443), Some(8443)),
            // It sees another.
            (Some(8080), None, Some(8443), None),
            (Some(8080), Some(80), Some(8443), None),
            (Some(80), Some(8080), Some(8443), None),
            (None, None, Some(8443), None),
            (None, Some(80), Some(8443), None),
            // There is none to name.
            (Some(80), None, Some(0), None),
            (Some(80), None, None, None),
        ] {
            assert_eq!(secure_port(ours, asked, tls), expected, "{ours:?} {asked:?} {tls:?}");
        }
    }
}
