//! `[cache]` and its rules.

use std::time::Duration;

use super::super::model::{CookiePattern, HostPattern, KeyQuery, PathPattern, Ttl};
use super::super::place::At;
use super::super::schema::{Described, Inside, KeyInfo, Presence, SectionInfo, section};
use super::super::value::{AbsoluteDir, FieldName, Size};
use super::super::walk::{Node, Read, Walk};

section! {
    /// Answers of apps that are kept and given again (RFC 9111, as a shared cache). Without a rule nothing is. Whatever a rule
    /// says, never kept are answers with `Set-Cookie`, with `Cache-Control: private` or `no-store`, with `Vary` by `Cookie` or
    /// `Authorization`, event streams, and what is not whole; and a request with a cookie is never answered from here.
    Cache {
        /// Size of all answers together that are kept in memory, heads included. What is asked for often stays; what is asked
        /// for once, as by a crawler, does not push it out.
        memory: Size = r#""64MiB""#,
        /// Length of a body that is kept; longer ones are passed on. In memory at most a 32nd of `memory`; what is longer is kept on
        /// `disk` alone.
        max_body: Size = r#""8MiB""#,
        /// A second place for what is kept, which outlives the process.
        disk: CacheDisk,
        /// Whether small answers are kept in the Redis of `[redis]` as well, for all gateways that do so: one of them fetches
        /// what all want, and a purge at one reaches all.
        shared: bool = "false",
        /// What is kept, and for how long. The first rule that matches counts.
        rules: Vec<At<CacheRule>> = "[]",
    }
}

section! {
    /// Files for what is kept: after a restart it is there again. What is found torn is dropped. Everything is in one folder below
    /// `path`, which only this user may read; one process at a time has it.
    CacheDisk {
        /// The directory. It must exist and be writable: else the gateway does not start, and a reload changes nothing.
        ///
        /// Example: `"/var/cache/propylon"`
        path: AbsoluteDir = required,
        /// Size of all files together.
        max: Size = r#""1GiB""#,
    }
}

section! {
    /// Which answers are kept.
    CacheRule {
        /// Names the rule in metrics and logs. Default: made from host and path, such as `example.com/api/*`.
        name: String,
        /// The hosts it is for, without port. Empty: any.
        host: Vec<At<HostPattern>> = "[]",
        /// The paths it is for, in the form of a route's.
        path: PathPattern = r#""/*""#,
        /// How long an answer may be given again where it says nothing of that itself: one time, or a table of times by
        /// status. One time means 200, 203, 301 and 308, and at most 10 s for 404 and 410. Without it only what an answer
        /// says counts: `Cache-Control` and `Expires`.
        ///
        /// Example: `"30m"`, `{ "200" = "30m", "404" = "10s" }`
        ttl: Ttl,
        /// Whether `ttl` also counts where the answer says how long: above `max-age`, `s-maxage` and `Expires`. Never above
        /// `private`, `no-store` and `no-cache`.
        r#override: bool = "false",
        /// For how long after its time an answer is still given at once while a new one is fetched. An answer's own
        /// `stale-while-revalidate` goes before it.
        stale_while_revalidate: Duration = r#""0s""#,
        /// For how long after its time an answer is given where the app cannot be reached, takes too long or answers 500, 502,
        /// 503 or 504. An answer's own `stale-if-error` goes before it.
        stale_if_error: Duration = r#""0s""#,
        /// What tells one answer from another, beside scheme, host and path.
        key: CacheKey = "{}",
        /// Cookies that have no influence on any answer, such as those of analytics: names, `*` for any characters. Every other
        /// cookie of a request bypasses the cache. A request whose cookies are all of these goes to the app without them.
        ///
        /// Example: `["_ga*", "_gid"]`
        ignore_cookies: Vec<At<CookiePattern>> = "[]",
        /// Whether what a client says in `Cache-Control` and `Pragma` is not listened to. Otherwise it can ask for a new
        /// answer, as browsers do when a page is reloaded.
        ignore_client_directives: bool = "false",
        /// How long a request waits for the same answer that another one is fetching; then it is sent to the app itself.
        /// `"0s"`: none waits.
        collapse_timeout: Duration = r#""5s""#,
    }
}

section! {
    /// What tells one answer from another.
    CacheKey {
        /// The part of the query that counts: `"all"`, `"none"`, or a list of parameters. The app sees all of it.
        ///
        /// Example: `["page", "league"]`
        query: KeyQuery = r#""all""#,
        /// Request fields that count, as if each answer had them in `Vary`.
        ///
        /// Example: `["Accept-Language"]`
        headers: Vec<At<FieldName>> = "[]",
    }
}
