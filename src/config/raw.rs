//! The keys of the file, exactly as written. The documentation here is the manual: `docs/configuration.md` is generated
//! from it.
//!
//! A field is `None` where the key is absent and has no default, and where its value was refused, which has been
//! reported by then. What the values mean together is for `validate`.

use std::time::Duration;

use http::Method;

use super::model::{
    AccessFormat, AccessTarget, Balance, ClientAbort, EndpointAddr, HostPattern, ListenAddr, LogLevel, PathPattern,
    Preset, RedirectTemplate, StatusRanges,
};
use super::place::At;
use super::schema::{Described, Inside, Int, KeyInfo, NonEmpty, Presence, SectionInfo, Table, section};
use super::value::{
    AbsoluteFile, FieldName, FieldValue, HeadSize, HealthHost, HealthPath, Keepalive, NameServer, PageFile, Percent,
    Rate, RedirectStatus, Size, SocketFile, StripPrefix, Timeout, TrustedPeer,
};
use super::walk::{Node, Read, Walk};

section! {
    /// The whole file.
    Gateway {
        /// The process, and whom it listens to.
        server: Server = "{}",
        /// The listener for operators, and the control socket.
        admin: Admin = "{}",
        /// What is written about the gateway's own doings, and about each request.
        log: Log = "{}",
        /// The apps behind, each under a name of your own that routes refer to.
        upstreams: Table<Upstream> = "{}",
        /// What happens to which request. The order of the routes only matters among regular expressions.
        routes: Vec<At<Route>> = "[]",
        /// Own pages for answers the gateway gives itself, such as 503 while the app is down. The name is the status,
        /// 400 to 599; the value is a file, read once when the configuration is loaded, relative to the configuration
        /// file. Its extension gives the media type: `.html`, `.json` or `.txt`. An app's own errors are passed on as
        /// they are.
        ///
        /// Example: `"503" = "/etc/propylon/503.html"`
        error_pages: Table<PageFile> = "{}",
    }
    later ["tls", "redis", "spool", "security_headers", "cache"]
}

section! {
    /// The process, and whom it listens to.
    Server {
        /// Where plain HTTP is accepted: `ip:port`, or `unix:` and a path. `[::]` is IPv6 alone; list `0.0.0.0` beside
        /// it for both. A reload binds what is new and closes what is gone.
        listen: NonEmpty<Listener> = r#"["0.0.0.0:8080"]"#,
        /// Worker threads; 0 is one for each core. Takes effect with a restart.
        threads: Int<0, 1024> = "0",
        /// Peers whose `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`, `Forwarded` and `X-Request-ID` are believed: networks,
        /// addresses, and `"unix"` for the peers of Unix-socket listeners. Everybody else's are replaced. A forwarded host
        /// counts only if it is one of `allowed_hosts`.
        ///
        /// Example: `["10.0.0.0/8", "unix"]`
        trusted_proxies: Vec<At<TrustedPeer>> = "[]",
        /// The hosts that are served; a request for any other is answered 421. Empty: every host. `*.example.com` is
        /// every name below `example.com`, but not `example.com` itself.
        ///
        /// Example: `["example.com", "*.example.com"]`
        allowed_hosts: Vec<At<HostPattern>> = "[]",
        /// Client connections open at once, over all listeners; further ones wait to be accepted.
        max_connections: Int<1, 1_000_000> = "10000",
        /// Client connections open at once from one address; 0 is no limit.
        max_connections_per_ip: Int<0, 1_000_000> = "0",
        /// How long the gateway goes on accepting after it was told to stop, with `/readyz` failing already, so that a
        /// load balancer in front can take notice.
        shutdown_delay: Duration = r#""0s""#,
        /// How long requests in flight may take to finish after that; then they are cut off.
        shutdown_timeout: Duration = r#""30s""#,
        /// Where the process id is written. Takes effect with a restart.
        ///
        /// Example: `"/run/propylon.pid"`
        pid_file: AbsoluteFile,
        /// Name servers to ask for the addresses of endpoints, as `ip:port`. Empty: those of the system.
        ///
        /// Example: `["10.0.0.2:53"]`
        resolvers: Vec<At<NameServer>> = "[]",
        /// What one client may take.
        client: Client = "{}",
    }
    later ["listen_tls", "https_redirect"]
}

section! {
    /// A listener; `"0.0.0.0:80"` is short for `{ address = "0.0.0.0:80" }`.
    Listener {
        /// Where it is bound.
        address: ListenAddr = required,
    }
    later ["proxy_protocol", "client_certs"]
    short address
}

section! {
    /// What one client may take.
    Client {
        /// How long a whole request head may take to arrive, from its first byte; then 408.
        header_timeout: Timeout = r#""10s""#,
        /// Length of the request line; beyond it 414. The preset of an upstream may lower it.
        request_line_max: HeadSize = r#""8KiB""#,
        /// Length of the whole head; beyond it 431.
        header_max: HeadSize = r#""16KiB""#,
        /// Length of one field, name and value; beyond it 431. The preset of an upstream may lower it.
        field_max: HeadSize = r#""8KiB""#,
        /// Number of fields; beyond it 431. The preset of an upstream may lower it; what `request_headers.set` of the
        /// route adds counts then as well.
        headers_max: Int<1, 1000> = "100",
        /// How long a client may pause while it sends a body; then 408.
        body_idle_timeout: Timeout = r#""30s""#,
        /// How fast a body must arrive on average, once 10 s have passed; `"0B/s"` is no minimum.
        body_min_rate: Rate = r#""500B/s""#,
        /// How long a client may take no byte of a response; then the connection is closed. What a client takes shows when
        /// about a third of the kernel's send buffer has drained, so very slow readers of large answers need more.
        write_idle_timeout: Timeout = r#""30s""#,
        /// How fast a client must take a response on average, once 10 s have passed; `"0B/s"` is no minimum.
        write_min_rate: Rate = r#""500B/s""#,
        /// How long a connection may be idle between two requests; `"0s"` closes it after each response.
        keepalive_timeout: Duration = r#""75s""#,
        /// Length of a request body; beyond it 413, before the app is touched. A route may set its own.
        max_body: Size = r#""10MiB""#,
    }
    later []
}

section! {
    /// The listener for operators, and the control socket.
    Admin {
        /// Where `/metrics`, `/healthz`, `/readyz` and `/status` are answered. They only read. Keep it off the
        /// internet.
        listen: NonEmpty<Listener> = r#"["127.0.0.1:9901"]"#,
        /// The socket that `propylon reload` and the like talk to, with mode 0600. Takes effect with a restart.
        ///
        /// Example: `"unix:/run/propylon-control.sock"`
        control: SocketFile,
        /// Upstreams without a healthy endpoint of which `/readyz` fails. By default ready means: configuration loaded,
        /// listeners bound, not shutting down.
        ///
        /// Example: `["shop"]`
        ready_requires: Vec<At<String>> = "[]",
    }
    later []
}

section! {
    /// What is written about the gateway's own doings, and about each request.
    Log {
        /// How much is told on standard error.
        level: LogLevel = r#""info""#,
        /// Where one line for each request goes: standard output, a file (opened again on SIGUSR1), or nowhere.
        access: AccessTarget = r#""stdout""#,
        /// The form of that line.
        format: AccessFormat = r#""json""#,
    }
    later []
}

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
        /// How an endpoint is chosen: that with the fewest requests in flight for its weight, or each in turn.
        balance: Balance = r#""least_conn""#,
        /// Worker processes of each endpoint. With `threads` it gives the capacity: how many requests one endpoint
        /// works on at once. Today the capacity tells a busy endpoint from a dead one when health is judged; requests
        /// are not held back by it yet.
        workers: Int<1, 100_000>,
        /// Requests one worker works on at once; needs `workers`. Default: the preset's (100 where workers are
        /// asynchronous, 4 for waitress), else 1.
        threads: Int<1, 100_000>,
        /// The capacity of one endpoint said directly, instead of `workers` and `threads`.
        max_in_flight: Int<1, 10_000_000>,
        /// How long an idle connection to an endpoint may be reused. It must be shorter than the server's own limit, or
        /// requests meet a closing connection. `"auto"` is what suits the preset, 1 s without one; `"off"` is a
        /// connection for each request.
        keepalive_timeout: Keepalive = r#""auto""#,
        /// How long connecting may take.
        connect_timeout: Timeout = r#""1s""#,
        /// How long the app may take until the first byte of its response; then 504. A route may set its own.
        first_byte_timeout: Timeout = r#""60s""#,
        /// How long the app may pause within a response. A route may set its own.
        read_timeout: Timeout = r#""60s""#,
        /// What happens at the app when the client leaves: `"finish"` lets it end its work and counts it busy until
        /// then, `"close"` closes the connection, so that an ASGI app sees `http.disconnect`. Default: the preset's,
        /// else `"close"`.
        client_abort: ClientAbort,
        /// What is tried again.
        retry: Retry = "{}",
        /// How endpoints are found to be healthy.
        health: Health = "{}",
    }
    later ["queue", "buffer_requests", "buffer_responses", "slow_start", "tls", "ejection"]
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
    later []
    short address
}

section! {
    /// What is tried again. A request that may have reached the app is never sent twice, unless it is safe to.
    Retry {
        /// Other endpoints tried when a connection cannot be made, whatever the method.
        connect: Int<0, 16> = "2",
        /// Further tries of GET, HEAD, OPTIONS and TRACE when the connection breaks before any byte of a response.
        idempotent: Int<0, 4> = "1",
        /// Share of requests that may be tried again, so that retries do not finish off an app that is failing.
        budget: Percent = r#""20%""#,
    }
    later []
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
    later []
}

section! {
    /// What happens to requests for a host and a path. Exactly one of `upstream`, `respond` and `redirect` is required.
    ///
    /// Of all routes that match, an exact host wins over `*.`, and that over any; then an exact path over one with `*`
    /// inside a segment, that over the longest prefix, and that over regular expressions, which are tried as written.
    /// Routes with the same host and path and different methods are one resource: `Allow` names the methods of all.
    Route {
        /// Names the route in metrics and logs. Default: made from host and path, such as `example.com/api/*`.
        name: String,
        /// The hosts it is for, without port. Empty: any.
        host: Vec<At<HostPattern>> = "[]",
        /// The paths it is for. `/a/b` is that path alone; `/a/*` everything below `/a/`, but not `/a`; a `*` inside a
        /// segment matches within it (`/img/*.png`); `~` begins a regular expression (`~^/v[0-9]+/`). Matched against
        /// the decoded path.
        path: PathPattern = r#""/*""#,
        /// The methods it is for; others are answered 405. Empty: any.
        methods: Vec<At<Method>> = "[]",
        /// The upstream that answers.
        upstream: String,
        /// A fixed answer.
        respond: Respond,
        /// A redirect.
        redirect: Redirect,
        /// A prefix taken off the path before the app sees it, which gets it as `X-Forwarded-Prefix`. Every path of the
        /// route must begin with it.
        ///
        /// Example: `"/api"`
        strip_prefix: StripPrefix,
        /// Length of a request body, instead of `server.client.max_body`.
        max_body: Size,
        /// Times of this route, instead of its upstream's.
        timeouts: Timeouts = "{}",
        /// Fields changed on the way to the app.
        request_headers: HeaderEdits = "{}",
        /// Fields changed on the way to the client.
        response_headers: HeaderEdits = "{}",
    }
    later ["priority", "rate_limit", "access", "security_headers", "cors"]
}

section! {
    /// A fixed answer.
    Respond {
        /// Its status, 200 to 599.
        status: Int<200, 599> = "200",
        /// Its body.
        body: String = r#""""#,
        /// Its media type.
        content_type: FieldValue = r#""text/plain; charset=utf-8""#,
    }
    later []
}

section! {
    /// A redirect.
    Redirect {
        /// Where it leads. `{path}` is the path as the client sent it, `{query}` the query with its `?`, or nothing,
        /// and `{host}` the host in lower case, without port; a request without a host is answered 400 then.
        ///
        /// Example: `"https://new.example.com{path}{query}"`
        to: RedirectTemplate = required,
        /// Its status. 307 and 308 keep the method.
        status: RedirectStatus = "308",
    }
    later []
}

section! {
    /// Times of one route. Both only with `upstream`.
    Timeouts {
        /// As `first_byte_timeout` of the upstream.
        first_byte: Timeout,
        /// As `read_timeout` of the upstream.
        read: Timeout,
    }
    later []
}

section! {
    /// Fields set and removed. Those that frame a message or belong to one connection (`Content-Length`,
    /// `Transfer-Encoding`, `Connection` and the like) cannot be; nor can a request's `Host`.
    HeaderEdits {
        /// Fields and their values, which replace what is there.
        ///
        /// Example: `{ X-Env = "prod" }`
        set: Table<FieldValue> = "{}",
        /// Fields taken away.
        ///
        /// Example: `["X-Powered-By"]`
        remove: Vec<At<FieldName>> = "[]",
    }
    later []
}
