//! `[[routes]]`: the keys of a route.

use http::Method;

use super::super::model::{HostPattern, PathPattern, Priority, RedirectTemplate};
use super::super::place::At;
use super::super::schema::{Described, Inside, Int, KeyInfo, OneOrMany, Presence, SectionInfo, Table, section};
use super::super::value::{FieldName, FieldValue, RedirectStatus, Size, StripPrefix, Timeout};
use super::super::walk::{Node, Read, Walk};
use super::{Access, Cors, RateLimit};

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
        /// `"high"` goes ahead of the others in the upstream's queue. For the few requests that others depend on, such as
        /// a payment provider's callbacks; where every route is high, none is.
        priority: Priority = r#""normal""#,
        /// Length of a request body, instead of `server.client.max_body`.
        ///
        /// Example: `"50MiB"`
        max_body: Size,
        /// How much one client may ask for: one table, or a list of them.
        ///
        /// Example: `{ rate = "100/m", key = "client_ip" }`
        rate_limit: OneOrMany<RateLimit> = "[]",
        /// Who may come. Without it everybody may.
        access: Access,
        /// As `buffer_requests` of the upstream, for this route alone.
        ///
        /// Example: `false`
        buffer_requests: bool,
        /// As `buffer_responses` of the upstream, for this route alone.
        ///
        /// Example: `false`
        buffer_responses: bool,
        /// Times of this route, instead of its upstream's.
        timeouts: Timeouts = "{}",
        /// Fields changed on the way to the app.
        request_headers: HeaderEdits = "{}",
        /// Fields changed on the way to the client.
        response_headers: HeaderEdits = "{}",
        /// The set of security fields on its answers: a name under `[security_headers]`, or `"off"`.
        security_headers: String = r#""basic""#,
        /// Which pages of other origins may read its answers. Without it that is the app's affair.
        cors: Cors,
        /// Whether answers say in `Server-Timing` where the time went: waiting, in the app, in the gateway. Any client sees it then.
        server_timing: bool = "false",
    }
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
}

section! {
    /// Times of one route. Only with `upstream`.
    Timeouts {
        /// As `queue.timeout` of the upstream: how long this route's requests may wait for an endpoint.
        ///
        /// Example: `"2s"`
        queue: Timeout,
        /// As `first_byte_timeout` of the upstream.
        first_byte: Timeout,
        /// As `read_timeout` of the upstream.
        read: Timeout,
    }
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
}
