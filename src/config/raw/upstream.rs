//! `[upstreams.*]`: the keys of an app behind.

use std::time::Duration;

use super::super::model::{Balance, ClientAbort, EndpointAddr, Preset, StatusRanges};
use super::super::place::At;
use super::super::schema::{Described, Inside, Int, KeyInfo, NonEmpty, Presence, SectionInfo, section};
use super::super::value::{HealthHost, HealthPath, Keepalive, PemFile, Percent, ServerName, Timeout};
use super::super::walk::{Node, Read, Walk};

section! {
    /// An app behind: a named group of endpoints that answer alike.
    Upstream {
        /// The kind of server behind. It sets what suits that server: how long connections are reused, what happens
        /// when a client leaves, how long a head may be. See "Presets" below.
        preset: Preset,
        /// Where the app listens: `ip:port`, `name:port`, `unix:/path`, or `unix:@name` for an abstract socket. At
        /// least one. A name is resolved again when its TTL ends.
        ///
        /// Example: `["unix:/run/shop.sock", { address = "10.0.0.2:8000", weight = 2 }]`
        endpoints: NonEmpty<Endpoint> = required,
        /// How an endpoint is chosen. `"least_conn"`: that with the fewest requests in flight for its weight.
        /// `"round_robin"`: each in turn. `"p2c"`: the less busy of two picked at random. `"hash:<key>"`: requests with the
        /// same key go to the same endpoint, unless that has far more to do than the others. The key is `client_ip`,
        /// `host`, `path`, `header:<name>` or `cookie:<name>`; a request without that field or cookie is sent as with
        /// `"least_conn"`. An endpoint that is full is passed over, however one is chosen.
        ///
        /// Example: `"hash:cookie:sessionid"`
        balance: Balance = r#""least_conn""#,
        /// Worker processes of each endpoint. With `threads` it gives the capacity: how many requests at most this gateway
        /// has in flight to one endpoint; more wait in the queue. The cap is this gateway's own: where several gateways
        /// share a pool, each is given its share, such as 4 of 8 workers for each of two gateways. Shares that add up to
        /// more than the pool leave requests waiting at the app, where they are lost when it restarts.
        ///
        /// Example: `4`
        workers: Int<1, 100_000>,
        /// Requests one worker works on at once; needs `workers`. Default: the preset's (100 where workers are
        /// asynchronous, 4 for waitress), else 1.
        threads: Int<1, 100_000>,
        /// The capacity of one endpoint said directly, instead of `workers` and `threads`. As with `workers`, it is this
        /// gateway's share. Without any of them requests in flight are not capped.
        ///
        /// Example: `8`
        max_in_flight: Int<1, 10_000_000>,
        /// Where requests wait while every endpoint is full or being restarted.
        queue: Queue = "{}",
        /// How long an idle connection to an endpoint may be reused. It must be shorter than the server's own limit, or
        /// requests meet a closing connection. `"auto"` begins with what suits the preset, 1 s without one, and learns
        /// when the server closes; with a preset that closes after each response it is `"off"`. `"off"` is a connection
        /// for each request. A time is kept to as it is.
        keepalive_timeout: Keepalive = r#""auto""#,
        /// How long connecting may take.
        connect_timeout: Timeout = r#""1s""#,
        /// How long the app may take until the first byte of its response, or take nothing of the request; then
        /// 504. A route may set its own.
        first_byte_timeout: Timeout = r#""60s""#,
        /// How long the app may pause within a response; within an event stream at least an hour, unless a route sets its own.
        read_timeout: Timeout = r#""60s""#,
        /// What happens at the app when the client leaves: `"finish"` lets it end its work and counts it busy until
        /// then, `"close"` closes the connection, so that an ASGI app sees `http.disconnect`. What `"finish"` waits for
        /// is the work, not an answer without an end: a stream of events, or one that does not say its length, is
        /// closed with its client, and any other answer that has begun has `read_timeout` for the rest of it, unless the
        /// cache keeps it. Default: the preset's, else `"close"`.
        client_abort: ClientAbort,
        /// What is tried again.
        retry: Retry = "{}",
        /// Whether a request's body is received whole, into the spool, before a worker is taken for it. `false` passes it
        /// on as it arrives, for apps that read uploads as they come; a slow client then holds the worker, and a request
        /// with a body is not tried again. A route may set its own.
        buffer_requests: bool = "true",
        /// Whether a response is taken from the worker at the worker's speed, into the spool, and passed on at the
        /// client's. Nothing is held back for it: what has arrived is sent at once. Event streams, gRPC, ndjson,
        /// `multipart/x-mixed-replace` and responses with `X-Accel-Buffering: no` are never buffered. With `false` a slow client holds the worker. A route
        /// may set its own.
        buffer_responses: bool = "true",
        /// How long an endpoint that is healthy again, or new, takes to get its full share of the requests; `"0s"` is at
        /// once.
        ///
        /// Example: `"30s"`
        slow_start: Duration = r#""0s""#,
        /// How endpoints are found to be healthy.
        health: Health = "{}",
        /// When an endpoint is left out because of the requests that failed on it.
        ejection: Ejection = "{}",
        /// Whether endpoints are spoken to over TLS: `true`, or a table. Health checks are as well.
        ///
        /// Example: `{ ca = "/etc/propylon/internal-ca.pem" }`
        tls: UpstreamTls = "false",
    }
}

section! {
    /// TLS to the endpoints; `true` is short for `{ enabled = true }`.
    UpstreamTls {
        /// Whether it is spoken at all.
        enabled: bool = "true",
        /// The name that is asked for, and that the certificate must be for. Default: the endpoint's own name, or its
        /// address; an endpoint on a Unix socket has neither.
        ///
        /// Example: `"app.internal"`
        sni: ServerName,
        /// PEM: the authorities that are trusted, instead of the system's. Relative to the configuration file.
        ///
        /// Example: `"/etc/propylon/internal-ca.pem"`
        ca: PemFile,
        /// Whether the certificate is checked. Without, anybody on the way can read and change everything.
        verify: bool = "true",
        /// PEM: the certificate that we show, with those that lead from it to its authority. Needs `key`. Relative to the
        /// configuration file.
        ///
        /// Example: `"/etc/propylon/gateway.pem"`
        cert: PemFile,
        /// PEM: its private key.
        ///
        /// Example: `"/etc/propylon/gateway-key.pem"`
        key: PemFile,
    }
    short enabled
}

section! {
    /// An endpoint; `"127.0.0.1:8000"` is short for `{ address = "127.0.0.1:8000" }`.
    Endpoint {
        /// Where it listens.
        address: EndpointAddr = required,
        /// Its share of the requests, relative to the others'.
        weight: Int<1, 1000> = "1",
        /// Whether it is used only while no other endpoint is healthy.
        backup: bool = "false",
    }
    short address
}

section! {
    /// Where requests wait while every endpoint is full or being restarted. They go in the order of their arrival, those
    /// of routes with `priority = "high"` first. A request costs the app nothing while it waits, and leaves the queue
    /// when its client does.
    Queue {
        /// Requests that may wait at once; one more is answered 503 with `Retry-After`. 0 lets none wait, through a restart
        /// of the app neither. Default: 10 for each request that all endpoints but backups work on at once, at least
        /// 100; 1000 where there is no cap, and requests only wait while the app restarts.
        ///
        /// Example: `100`
        max: Int<0, 1_000_000>,
        /// How long a request may wait; then 503 with `Retry-After`. A route may set its own.
        timeout: Timeout = r#""10s""#,
    }
}

section! {
    /// What is tried again. A request that may have reached the app is never sent twice, unless it is safe to.
    Retry {
        /// Other endpoints tried at once when a connection cannot be made, whatever the method. Then the request waits in the
        /// queue, and goes to whichever can be connected to first.
        connect: Int<0, 16> = "2",
        /// Further tries of GET, HEAD, OPTIONS and TRACE when the connection breaks before any byte of a response.
        idempotent: Int<0, 4> = "1",
        /// Share of requests that may be tried again, so that retries do not finish off an app that is failing.
        budget: Percent = r#""20%""#,
    }
}

section! {
    /// How endpoints are found to be healthy. Every endpoint is probed; without `path` a probe connects and closes.
    Health {
        /// What a probe asks for with GET. Without it a probe only connects.
        ///
        /// Example: `"/healthz"`
        path: HealthPath,
        /// The `Host` of a probe. Django answers 400 for a host that is not in its `ALLOWED_HOSTS`.
        ///
        /// Example: `"shop.example.com"`
        host: HealthHost,
        /// Time between two probes of an endpoint.
        interval: Timeout = r#""5s""#,
        /// How long a probe may take; at most `interval`.
        timeout: Timeout = r#""2s""#,
        /// Probes in a row that must succeed before an endpoint is healthy again.
        rise: Int<1, 100> = "2",
        /// Probes in a row that must fail before an endpoint is unhealthy.
        fall: Int<1, 100> = "3",
        /// The status codes that count as success. Only with `path`.
        ///
        /// Example: `"200-299,401"`
        expect: StatusRanges = r#""200-299""#,
    }
}

section! {
    /// When an endpoint is left out because of the requests that failed on it: no connection, a connection reset, no
    /// response in time. What an app answers is never a failure here, nor is a client that leaves. The last endpoint is
    /// never left out.
    Ejection {
        /// Failures in a row after which an endpoint is left out; 0 leaves none out.
        consecutive_failures: Int<0, 1000> = "3",
        /// For how long the first time; longer each time it happens again soon.
        time: Timeout = r#""10s""#,
        /// Share of the endpoints that may be left out at once, rounded down.
        max_ejected: Percent = r#""50%""#,
    }
}
