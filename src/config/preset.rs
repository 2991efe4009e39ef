//! What each preset stands for: facts about Python servers, measured against them with their default settings.
//!
//! One row for each server. `validate` fills in what the file leaves out; `reference` prints the table in the manual.

use std::time::Duration;

use super::model::{ClientAbort, Preset};
use super::value::PRESETS;

/// What is known about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// How long an idle connection to it may be reused, safely below its own limit; none: it closes after each
    /// response.
    pub keepalive: Option<Duration>,
    /// When it closes an idle connection by itself, with its default settings.
    pub closes_idle_after: Duration,
    /// Requests one worker works on at once.
    pub threads: u32,
    pub client_abort: ClientAbort,
    /// Whether it works on a handful of requests at once and lets all others wait in its backlog.
    pub is_synchronous: bool,
    /// Whether a client that sends or reads slowly takes one of that handful away from all others.
    pub is_held_by_slow_clients: bool,
    /// Bytes of the request line it takes, less what we add; none: more than we ever send.
    pub request_line_max: Option<usize>,
    /// Bytes of one field it takes.
    pub field_max: Option<usize>,
    /// Fields it takes, less those we add.
    pub headers_max: Option<usize>,
    /// For the manual: what to know about it.
    pub about: &'static str,
}

/// Requests at once for each worker of an asynchronous server: a guard against overload, not a measure of what it can
/// do.
const ASYNC: u32 = 100;

/// Gunicorn takes 100 fields and we add up to thirteen: two of them for a client's certificate, one for a nonce, one for a trace.
const GUNICORN: Facts = Facts {
    keepalive: Some(Duration::from_secs(1)),
    closes_idle_after: Duration::from_secs(2),
    threads: 1,
    client_abort: ClientAbort::Finish,
    is_synchronous: false,
    is_held_by_slow_clients: false,
    request_line_max: Some(4094),
    field_max: Some(8190),
    headers_max: Some(87),
    about: "",
};

/// An ASGI server without head limits of its own that matter here.
const ASGI: Facts = Facts {
    keepalive: Some(Duration::from_secs(3)),
    closes_idle_after: Duration::from_secs(5),
    threads: ASYNC,
    client_abort: ClientAbort::Close,
    is_synchronous: false,
    is_held_by_slow_clients: false,
    request_line_max: None,
    field_max: None,
    headers_max: None,
    about: "",
};

impl Preset {
    /// The name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        PRESETS.iter().find(|(_, preset)| *preset == self).map_or("", |(name, _)| name)
    }

    /// What is known about the server.
    #[must_use]
    pub fn facts(self) -> Facts {
        match self {
            Self::GunicornSync => Facts {
                keepalive: None,
                closes_idle_after: Duration::ZERO,
                is_synchronous: true,
                is_held_by_slow_clients: true,
                about: "Closes every connection after its response. A worker is busy from the moment it accepts a \
                    connection, so connections are never opened ahead of a request.",
                ..GUNICORN
            },
            Self::GunicornGthread => Facts {
                is_synchronous: true,
                is_held_by_slow_clients: true,
                about: "A thread that waits for the rest of a body waits for ever, and `timeout` does not bound it: \
                    `first_byte_timeout` here is the only limit.",
                ..GUNICORN
            },
            Self::GunicornGevent => Facts {
                threads: ASYNC,
                about: "As gthread, with greenlets for threads. `timeout` does not bound a request.",
                ..GUNICORN
            },
            Self::GunicornUvicorn => Facts {
                threads: ASYNC,
                client_abort: ClientAbort::Close,
                about: "The worker class of `uvicorn-worker`. Gunicorn's `keepalive` of 2 s holds, not Uvicorn's. On \
                    a Unix socket Uvicorn trusts no forwarding field unless `FORWARDED_ALLOW_IPS=*`.",
                ..GUNICORN
            },
            Self::GunicornAsgi => Facts {
                threads: ASYNC,
                client_abort: ClientAbort::Close,
                about: "Gunicorn's own ASGI worker.",
                ..GUNICORN
            },
            Self::Uvicorn => Facts {
                about: "Its `--limit-concurrency` counts open connections, idle ones included. On a Unix socket it \
                    trusts no forwarding field unless `--forwarded-allow-ips='*'`.",
                ..ASGI
            },
            Self::Hypercorn => Facts {
                about: "Ignores forwarding fields unless the app is wrapped in its `ProxyFixMiddleware`.",
                ..ASGI
            },
            Self::Daphne => Facts {
                keepalive: Some(Duration::from_secs(30)),
                closes_idle_after: Duration::from_mins(1),
                about: "Needs `--proxy-headers` to believe forwarding fields.",
                ..ASGI
            },
            Self::Granian => Facts {
                keepalive: Some(Duration::from_secs(15)),
                closes_idle_after: Duration::from_secs(30),
                headers_max: Some(87),
                about: "Takes 100 fields. Serves ASGI, RSGI and WSGI; for a WSGI app set `client_abort = \"finish\"` \
                    and `threads` to its `--blocking-threads`.",
                ..ASGI
            },
            Self::Waitress => Facts {
                keepalive: Some(Duration::from_mins(1)),
                closes_idle_after: Duration::from_secs(100),
                threads: 4,
                client_abort: ClientAbort::Finish,
                // It receives requests and sends responses beside its threads, at any client's speed.
                is_synchronous: true,
                about: "One process with 4 threads unless told otherwise. Drops forwarding fields unless \
                    `trusted_proxy` is set.",
                ..ASGI
            },
            Self::UwsgiHttp => Facts {
                keepalive: None,
                closes_idle_after: Duration::ZERO,
                threads: 1,
                client_abort: ClientAbort::Finish,
                is_synchronous: true,
                is_held_by_slow_clients: true,
                // Its buffer holds the whole head and what it derives from it.
                request_line_max: Some(3 * 1024),
                field_max: Some(3 * 1024),
                about: "uWSGI with `http-socket`. It resets a connection whose head does not fit its `buffer-size`, \
                    4 KiB unless told otherwise: with larger heads set `buffer-size=32768` there and no preset here.",
                ..ASGI
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reuse_always_ends_before_the_server_closes() {
        for (name, preset) in PRESETS {
            let facts = preset.facts();
            assert_eq!(preset.name(), name);
            assert!(!facts.about.is_empty(), "{name}");
            match facts.keepalive {
                // Half a second at least between our last use and its close.
                Some(keepalive) => assert!(keepalive + Duration::from_millis(500) <= facts.closes_idle_after, "{name}"),
                None => assert_eq!(facts.closes_idle_after, Duration::ZERO, "{name}"),
            }
        }
    }
}
