//! `rate_limit` of a route, and `[redis]`.

use super::super::model::{KeyPart, OnRedisDown, RedisUrl, Secret};
use super::super::place::At;
use super::super::schema::{Described, Inside, Int, KeyInfo, OneOrMany, Presence, SectionInfo, section};
use super::super::value::{LimitRate, PemFile, Timeout};
use super::super::walk::{Node, Read, Walk};

section! {
    /// A limit on what one client may ask of a route. Every limit of the route must agree; a request that one of them refuses
    /// takes no token of the others. Refused is 429 with `Retry-After`; the answers of a limited route say in `RateLimit` and
    /// `RateLimit-Policy` how much is left. Needs `rate`, `concurrency` or both.
    RateLimit {
        /// How many requests in how long a time: a count, `/`, and `s`, `m`, `h` or `d`, with a number before it where it is
        /// several. Tokens come back one by one, evenly over that time.
        ///
        /// Example: `"100/m"`, `"5/15m"`
        rate: LimitRate,
        /// The size of the bucket: how many requests may come at once after a quiet time. Default: the count in `rate`.
        burst: Int<1, 1_000_000_000>,
        /// Tokens one request takes.
        cost: Int<1, 1_000_000_000> = "1",
        /// Requests that may be in flight at once. Counted by this gateway alone, not shared through Redis.
        ///
        /// Example: `10`
        concurrency: Int<1, 1_000_000>,
        /// Whom a bucket is for: `client_ip` (after `trusted_proxies`; of IPv6 the /64), `header:<name>`, `cookie:<name>`, `host`,
        /// `route` (one bucket for all), or a list of them combined. Where a request has no such field or cookie, the client's
        /// address stands for it. A client can make up a field or a cookie: a limit by one of these wants another by `client_ip`
        /// beside it.
        key: OneOrMany<KeyPart> = r#""client_ip""#,
        /// Names the limit in metrics, logs and `RateLimit`. Limits of the same name share their buckets, on whichever routes
        /// they are; they must have the same rate, burst, concurrency and key. Default: the route's name.
        ///
        /// Example: `"per-client"`
        name: String,
        /// What happens while Redis does not answer: `"local"` goes on with the buckets of this process, `"allow"` lets
        /// everything pass, `"deny"` answers 503. Only with `[redis]`.
        on_redis_down: OnRedisDown = r#""local""#,
        /// Whether refusals are only counted and logged, to see whom a limit would hit.
        dry_run: bool = "false",
    }
}

section! {
    /// The Redis that several gateways share limits through. Its clock is what counts. Without it, and while it does not answer,
    /// each gateway counts for itself. Buckets are at `propylon:limit:` and a hash; they expire by themselves.
    Redis {
        /// Where it is: `redis://[user:password@]host:port/database`; `rediss://` with TLS; `redis+sentinel://host:port,…/master`
        /// and `redis+cluster://host:port,…`, with TLS `rediss+…`; `unix:///path?db=0`. A user without a
        /// password has it in `password`.
        ///
        /// Example: `"redis://127.0.0.1:6379/0"`
        url: RedisUrl = required,
        /// The password, as it is; in `url` it must be written as URLs are, with `%2F` for `/` and so on.
        ///
        /// Example: `"file:/run/secrets/redis"`
        password: Secret,
        /// How long a request waits for its answer, 5 s at most; then the limit's `on_redis_down` decides.
        timeout: Timeout = r#""20ms""#,
        /// PEM: the authorities that sign its certificate, with `rediss://`. Default: those the system trusts. Relative to the
        /// configuration file.
        ///
        /// Example: `"/etc/propylon/redis-ca.pem"`
        ca: PemFile,
        /// Who we are to the Sentinels themselves, where they ask; the user in `url` is for the Redis behind.
        sentinel_username: String,
        /// The password to it.
        ///
        /// Example: `"file:/run/secrets/sentinel"`
        sentinel_password: Secret,
    }
}
