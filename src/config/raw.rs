//! The keys of the file, exactly as written. The documentation here is the manual: `docs/configuration.md` is generated
//! from it.
//!
//! A field is `None` where the key is absent and has no default, and where its value was refused, which has been
//! reported by then. What the values mean together is for `validate`. The keys of an upstream, of a route, of TLS and of
//! security fields have files of their own.

mod access;
mod cache;
mod cors;
mod limit;
mod route;
mod security;
mod tls;
mod tracing;
mod upstream;

use std::time::Duration;

pub use access::{Access, Maintenance};
pub use cache::{Cache, CacheDisk, CacheRule};
pub use cors::Cors;
pub use limit::{RateLimit, Redis};
pub use route::{HeaderEdits, Redirect, Respond, Route};
pub use security::{Csp, SecurityHeaders};
pub use tls::{Certificate, ClientCerts, Tls, TlsListener};
pub use tracing::Tracing;
pub use upstream::{Ejection, Endpoint, Health, Queue, Retry, Upstream, UpstreamTls};

use super::model::{AccessFormat, AccessTarget, HostPattern, ListenAddr, LogLevel};
use super::place::At;
use super::schema::{Described, Inside, Int, KeyInfo, NonEmpty, Presence, SectionInfo, Table, section};
use super::value::{
    AbsoluteDir, AbsoluteFile, HeadSize, LogField, NameServer, PageFile, Rate, Size, SocketFile, Timeout, TrustedPeer,
};
use super::walk::{Node, Read, Walk};

section! {
    /// The whole file.
    Gateway {
        /// The process, and whom it listens to.
        server: Server = "{}",
        /// The listener for operators, and the control socket.
        admin: Admin = "{}",
        /// Certificates and versions of the TLS listeners.
        tls: Tls = "{}",
        /// What is written about the gateway's own doings, and about each request.
        log: Log = "{}",
        /// Which trace a request belongs to.
        tracing: Tracing = "{}",
        /// Where bodies wait: a request's until it is whole and a worker is free, a response's until the client has taken
        /// it.
        spool: Spool = "{}",
        /// The Redis that several gateways share limits through.
        redis: Redis,
        /// Everybody is answered 503 while work is done behind.
        maintenance: Maintenance = "{}",
        /// Answers that are kept and given again.
        cache: Cache = "{}",
        /// The apps behind, each under a name of your own that routes refer to.
        upstreams: Table<Upstream> = "{}",
        /// What happens to which request. The order of the routes only matters among regular expressions.
        routes: Vec<At<Route>> = "[]",
        /// Sets of security fields under names that routes refer to. `basic` is there without being written, and what a route
        /// has that names none.
        security_headers: Table<SecurityHeaders> = "{}",
        /// Own pages for answers the gateway gives itself, such as 503 while the app is down. The name is the status,
        /// 400 to 599; the value is a file, read once when the configuration is loaded, relative to the configuration
        /// file. Its extension gives the media type: `.html`, `.json` or `.txt`. An app's own errors are passed on as
        /// they are.
        ///
        /// Example: `"503" = "/etc/propylon/503.html"`
        error_pages: Table<PageFile> = "{}",
    }
}

section! {
    /// The process, and whom it listens to.
    Server {
        /// Where plain HTTP is accepted: `ip:port`, or `unix:` and a path. `[::]` is IPv6 alone; list `0.0.0.0` beside
        /// it for both. A reload binds what is new and closes what is gone.
        listen: Vec<At<Listener>> = r#"["0.0.0.0:8080"]"#,
        /// Where HTTPS is accepted, HTTP/2 and HTTP/1.1, in the form of `listen`; needs `[[tls.certificates]]`. With it,
        /// `listen = []` does without plain HTTP.
        ///
        /// Example: `["0.0.0.0:443", "[::]:443"]`
        listen_tls: Vec<At<TlsListener>> = "[]",
        /// Whether a request on `listen` is answered 308 to its `https://` address, those for
        /// `/.well-known/acme-challenge/` excepted. One that a trusted proxy says came over HTTPS is served. The port is that
        /// of the first TCP listener of `listen_tls`; none where the client sees another port than `listen` has, as behind a
        /// published container port.
        https_redirect: bool = "false",
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
}

section! {
    /// A listener; `"0.0.0.0:80"` is short for `{ address = "0.0.0.0:80" }`.
    Listener {
        /// Where it is bound.
        address: ListenAddr = required,
        /// Whether peers in `trusted_proxies` begin each connection with a PROXY protocol header, version 1 or 2, that says
        /// whom they speak for. From them it is then required; of everybody else it is refused like any other nonsense.
        proxy_protocol: bool = "false",
    }
    short address
}

section! {
    /// A listener for operators; `"127.0.0.1:9901"` is short for `{ address = "127.0.0.1:9901" }`.
    AdminListener {
        /// Where it is bound.
        address: ListenAddr = required,
    }
    short address
}

section! {
    /// What one client may take.
    Client {
        /// How long a whole request head may take to arrive, from its first byte; then 408. A PROXY protocol header and a TLS
        /// handshake have as long, each.
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
}

section! {
    /// The listener for operators, and the control socket.
    Admin {
        /// Where `/metrics`, `/healthz`, `/readyz` and `/status` are answered. They only read. Keep it off the
        /// internet.
        listen: NonEmpty<AdminListener> = r#"["127.0.0.1:9901"]"#,
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
        /// What that line is not to hold.
        redact: Redact = "{}",
    }
}

section! {
    /// What the access log is not to hold: `***` stands in its place.
    Redact {
        /// Names of query parameters whose values are not written: whole names, in any case; `"*"` is all of them. They are looked for in
        /// `referer` as well.
        query: Vec<At<String>> = r#"["access_token", "api_key", "apikey", "auth", "auth_token", "client_secret", "code", "id_token", "jwt", "key", "passwd", "password", "pwd", "refresh_token", "reset_token", "secret", "session", "sig", "signature", "token", "X-Amz-Signature"]"#,
        /// Whole values: `client`, `user`, `host`, `path`, `query`, `user_agent`, `referer`. With one of the three in the middle `referer` does not
        /// have it either.
        ///
        /// Example: `["client", "user_agent"]`
        fields: Vec<At<LogField>> = "[]",
    }
}

section! {
    /// Where bodies wait: a request's until it is whole and a worker is free, a response's until the client has taken it.
    /// That keeps slow clients away from the workers. A body is held in memory first and goes on in a file, which has no
    /// name, so that nothing is left behind whatever happens. All of it takes effect with a reload, for bodies that begin
    /// after it.
    ///
    /// A request that finds no room is answered 503; a response that finds none is read from the worker as fast as the
    /// client takes it.
    Spool {
        /// Size of all bodies together that are held in memory; past it they go to disk.
        memory: Size = r#""64MiB""#,
        /// Size of one body that is held in memory; the rest of it goes to disk. At most `memory`, and by default `memory`
        /// where that is less.
        memory_per_body: Size = r#""64KiB""#,
        /// The directory of the files. It must exist and be writable: else the gateway does not start, and a reload changes
        /// nothing. A directory in memory, as `/tmp` is on some systems, is no place for it.
        dir: AbsoluteDir = r#""/var/tmp""#,
        /// Size of all files together; `"0B"` writes none, and `memory_per_body` is then all that one body can have.
        ///
        /// Example: `"20GiB"`
        disk: Size = r#""2GiB""#,
        /// Size of one body on disk. At most `disk`, and by default `disk` where that is less. This, or
        /// `memory_per_body`, must hold the `max_body` of every route that buffers its requests.
        disk_per_body: Size = r#""1GiB""#,
    }
}
