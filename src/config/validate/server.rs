//! `[server]`, `[server.client]`, `[admin]`, `[log]` and `[tracing]`.

use std::num::NonZero;
use std::path::Path;
use std::thread::available_parallelism;

use http::{HeaderName, HeaderValue};

use super::super::error::{Report, suggestion};
use super::super::model::{
    AccessFormat, AccessTarget, Admin, ClientLimits, Collector, Log, LogLevel, Redact, RestartOnly, Server, Tracing,
    TrustedProxies,
};
use super::super::place::{At, Place};
use super::super::raw::{self, AdminListener};
use super::super::schema::{Int, NonEmpty, refuse_repeats};
use super::super::value::{AbsoluteFile, SocketFile, TrustedPeer};
use super::super::walk::quoted;
use super::upstream::Built;
use super::{given, listeners};

/// What only a restart changes.
pub(super) fn build_restart_only(
    threads: Option<At<Int<0, 1024>>>,
    pid_file: Option<At<AbsoluteFile>>,
    control: Option<At<SocketFile>>,
) -> RestartOnly {
    let threads = match given(threads).0 {
        0 => available_parallelism().map_or(1, NonZero::get),
        threads => threads as usize,
    };
    RestartOnly { threads, pid_file: pid_file.map(|file| file.value.0), control: control.map(|file| file.value.0) }
}

/// `[server]` but for what only a restart changes.
pub(super) fn build(raw: &mut raw::Server, base: &Path, report: &mut Report) -> Server {
    let listen = listeners::build(raw, base);
    let hosts = raw.allowed_hosts.as_ref().map_or(&[][..], |list| &list.value);
    refuse_repeats(report, hosts, Clone::clone);
    let resolvers = raw.resolvers.as_ref().map_or(&[][..], |list| &list.value);
    refuse_repeats(report, resolvers, |server| server.0);
    Server {
        listen,
        https_redirect: raw.https_redirect.as_ref().is_some_and(|redirect| redirect.value),
        trusted_proxies: trusted(raw.trusted_proxies.as_ref().map_or(&[][..], |list| &list.value), report),
        allowed_hosts: hosts.iter().map(|host| host.value.clone()).collect(),
        max_connections: raw.max_connections.as_ref().map_or(1, |max| max.value.0) as usize,
        max_connections_per_ip: raw.max_connections_per_ip.as_ref().map_or(0, |max| max.value.0) as usize,
        shutdown_delay: raw.shutdown_delay.as_ref().map(|delay| delay.value).unwrap_or_default(),
        shutdown_timeout: raw.shutdown_timeout.as_ref().map(|timeout| timeout.value).unwrap_or_default(),
        resolvers: resolvers.iter().map(|server| server.value.0).collect(),
    }
}

fn trusted(peers: &[At<TrustedPeer>], report: &mut Report) -> TrustedProxies {
    refuse_repeats(report, peers, Clone::clone);
    let mut trusted = TrustedProxies::default();
    for peer in peers {
        match peer.value {
            TrustedPeer::Unix => trusted.unix = true,
            TrustedPeer::Net(net) => {
                if net.prefix_len() == 0 {
                    report.warn(&peer.place, format!("{net} is everybody: any client can claim any address"));
                }
                trusted.nets.push(net);
            }
        }
    }
    trusted
}

/// `[server.client]`.
pub(super) fn build_client(raw: raw::Client, report: &mut Report) -> ClientLimits {
    if let Some(whole) = &raw.header_max {
        for (name, part) in [("request_line_max", &raw.request_line_max), ("field_max", &raw.field_max)] {
            if let Some(part) = part
                && part.is_written()
                && part.value.0 > whole.value.0
            {
                report.problem(&part.place, format!("`{name}` is above `header_max`, the limit of the whole head"));
            }
        }
    }
    ClientLimits {
        header_timeout: given(raw.header_timeout).0,
        request_line_max: given(raw.request_line_max).0,
        header_max: given(raw.header_max).0,
        field_max: given(raw.field_max).0,
        headers_max: given(raw.headers_max).0 as usize,
        body_idle_timeout: given(raw.body_idle_timeout).0,
        body_min_rate: given(raw.body_min_rate).0,
        write_idle_timeout: given(raw.write_idle_timeout).0,
        write_min_rate: given(raw.write_min_rate).0,
        keepalive_timeout: given(raw.keepalive_timeout),
        max_body: given(raw.max_body).0,
    }
}

/// `[admin]` but for the control socket.
pub(super) fn build_admin(
    listen: Option<&At<NonEmpty<AdminListener>>>,
    ready_requires: Option<At<Vec<At<String>>>>,
    upstreams: &[Built],
    report: &mut Report,
) -> Admin {
    if let Some(names) = &ready_requires {
        refuse_repeats(report, &names.value, Clone::clone);
    }
    let names = given(ready_requires);
    let ready_requires = names.iter().filter_map(|name| find_upstream(name, upstreams, report)).collect();
    let addresses = listen.iter().flat_map(|list| &list.value.0).filter_map(|item| item.value.address.as_ref());
    Admin { listen: addresses.map(|address| address.value.clone()).collect(), ready_requires }
}

/// The index of the upstream that is called so; `None` after having reported that there is none.
pub(super) fn find_upstream(name: &At<String>, upstreams: &[Built], report: &mut Report) -> Option<usize> {
    let found = upstreams.iter().position(|upstream| *upstream.value.name == *name.value);
    if found.is_none() {
        let near = suggestion(&name.value, upstreams.iter().map(|upstream| &*upstream.value.name));
        let hint = if upstreams.is_empty() { ": there is no [upstreams] table" } else { "" };
        report.problem(
            &name.place,
            format!("expected the name of an upstream; found {}{near}{hint}", quoted(&name.value)),
        );
    }
    found
}

/// `[tracing]`.
pub(super) fn build_tracing(raw: raw::Tracing, report: &mut Report) -> Tracing {
    let mut headers = Vec::new();
    for (name, value) in given(raw.headers).0 {
        match HeaderName::from_bytes(name.value.as_bytes()) {
            Ok(parsed) if HeaderValue::from_str(&value.value.0).is_ok() => headers.push((parsed, value.value)),
            Ok(_) => {
                report.problem(&value.place, "expected the value of a field; found something else, which is not shown");
            }
            Err(_) => {
                report.problem(&name.place, format!("expected the name of a field; found {}", quoted(&name.value)));
            }
        }
    }
    if raw.otlp.is_none() && !headers.is_empty() && !raw.written.contains(&"otlp") {
        report.problem(&Place::root().key("tracing", None).key("headers", None), "has no effect without `otlp`");
    }
    let service_name = given(raw.service_name);
    Tracing {
        collector: raw.otlp.map(|url| Collector { url: url.value.0, headers, service_name }),
        start: raw.start.as_ref().is_none_or(|start| start.value),
        sample: raw.sample.as_ref().map_or(1_000_000, |share| share.value.0),
    }
}

/// `[log]`.
pub(super) fn build_log(raw: raw::Log, report: &mut Report) -> Log {
    let redact = given(raw.redact);
    let (query, fields) = (given(redact.query), given(redact.fields));
    refuse_repeats(report, &query, |name| name.to_ascii_lowercase());
    refuse_repeats(report, &fields, Clone::clone);
    Log {
        redact: Redact {
            query: query.into_iter().map(|name| name.value).collect(),
            fields: fields.into_iter().map(|field| field.value.0.to_owned()).collect(),
        },
        level: raw.level.as_ref().map_or(LogLevel::Info, |level| level.value),
        access: raw.access.as_ref().map_or(AccessTarget::Stdout, |access| access.value.clone()),
        format: raw.format.as_ref().map_or(AccessFormat::Json, |format| format.value),
    }
}
