//! The closed sets a label's value may come from. Nothing of a request ever becomes a label, only its place in one of these.

/// Declares an enum whose variants are the values of one label.
macro_rules! closed_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every value, in the order of their indices.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The text of the label.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

closed_set! {
    /// A request's method; everything that is not named here is `other`.
    Method {
        /// GET
        Get = "GET",
        /// HEAD
        Head = "HEAD",
        /// POST
        Post = "POST",
        /// PUT
        Put = "PUT",
        /// DELETE
        Delete = "DELETE",
        /// PATCH
        Patch = "PATCH",
        /// OPTIONS
        Options = "OPTIONS",
        /// Any other, and a head that could not be read.
        Other = "other",
    }
}

impl Method {
    /// The method written as `name`, which is case-sensitive (RFC 9110 section 9.1).
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"PATCH" => Self::Patch,
            b"OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }
}

closed_set! {
    /// The class of a status code (RFC 9110 section 15).
    StatusClass {
        /// 100 to 199: of final answers only 101 is one.
        Informational = "1xx",
        /// 200 to 299.
        Successful = "2xx",
        /// 300 to 399.
        Redirection = "3xx",
        /// 400 to 499; a client that left before its answer is given as 499.
        ClientError = "4xx",
        /// 500 to 599, and whatever is no status code.
        ServerError = "5xx",
    }
}

impl StatusClass {
    /// The class of `status`; a number outside 100 to 499 is a server error (RFC 9110 section 15).
    #[must_use]
    pub fn of(status: u16) -> Self {
        match status {
            100..=199 => Self::Informational,
            200..=299 => Self::Successful,
            300..=399 => Self::Redirection,
            400..=499 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

closed_set! {
    /// What went wrong between the gateway and an endpoint; an app's own status is none of these.
    UpstreamError {
        /// The endpoint refused the connection.
        ConnectRefused = "connect_refused",
        /// No connection within the connect timeout.
        ConnectTimeout = "connect_timeout",
        /// No connection for another reason: no route, no such socket file, TLS.
        ConnectOther = "connect_other",
        /// The connection was reset.
        Reset = "reset",
        /// The connection was closed before the response was whole.
        ClosedEarly = "closed_early",
        /// No first byte, or no next one, in time.
        Timeout = "timeout",
        /// What came was no valid response.
        InvalidResponse = "invalid_response",
    }
}

closed_set! {
    /// Why a request was sent once more.
    Retry {
        /// No connection was made, so nothing of the request was sent; any method.
        Connect = "connect",
        /// The method is idempotent and no byte of a response had come.
        Idempotent = "idempotent",
    }
}

closed_set! {
    /// What became of a step of a trace.
    SpanResult {
        /// The collector has taken it.
        Sent = "sent",
        /// It has not.
        Failed = "failed",
        /// Too many waited.
        Dropped = "dropped",
    }
}

closed_set! {
    /// How a password was found.
    PasswordCheck {
        /// It is that of the user.
        Right = "right",
        /// It is not, or there is no such user.
        Wrong = "wrong",
    }
}

closed_set! {
    /// Why a request did not get the slot it asked for.
    QueueDrop {
        /// The client left while it waited.
        ClientLeft = "client_left",
        /// It waited for as long as it may.
        Late = "late",
        /// As many as may were waiting already.
        Full = "full",
    }
}

closed_set! {
    /// How a health check ended.
    CheckResult {
        /// The endpoint answered as expected.
        Pass = "pass",
        /// It did not.
        Fail = "fail",
        /// It says nothing of the endpoint: every slot was busy.
        Ignored = "ignored",
    }
}

closed_set! {
    /// Why a connection was refused as soon as it was accepted.
    Refusal {
        /// `max_connections` were open.
        Limit = "limit",
        /// `max_connections_per_ip` of the same address were open.
        PerIpLimit = "per_ip_limit",
        /// A trusted peer did not say whom it speaks for, or not so that it could be understood.
        ProxyProtocol = "proxy_protocol",
        /// An HTTP/2 client sent too many frames that ask for nothing, or a block of fields without an end.
        Http2Flood = "http2_flood",
    }
}

closed_set! {
    /// How a TLS handshake ended.
    Handshake {
        /// With keys agreed on anew.
        Full = "full",
        /// With those of an earlier connection.
        Resumed = "resumed",
        /// The two could not agree, or the client left.
        Failed = "failed",
        /// It took too long.
        Late = "timeout",
    }
}

closed_set! {
    /// Why a request's field was not sent upstream.
    FieldDrop {
        /// Its name would read as another one's in a WSGI or CGI environment.
        Name = "name",
        /// Only the gateway may say it.
        Spoofable = "spoofable",
    }
}

closed_set! {
    /// What a rate limit made of a request.
    LimitDecision {
        /// It has its tokens.
        Allowed = "allowed",
        /// There are not enough.
        Refused = "refused",
        /// As many of its key as may be are in flight.
        ConcurrencyRefused = "concurrency_refused",
        /// Redis does not answer, and the limit's `on_redis_down` is `deny`.
        Unavailable = "unavailable",
        /// It was let pass by `dry_run` alone.
        DryRunRefused = "dry_run_refused",
    }
}

closed_set! {
    /// Why Redis gave no answer.
    RedisError {
        /// It was not asked: it has not answered before.
        Down = "down",
        /// Nothing came in time.
        Timeout = "timeout",
        /// The connection was lost.
        Connection = "connection",
        /// It answered with an error: full, read-only, not allowed.
        Server = "server",
        /// What came is no answer of a Redis to this question.
        Nonsense = "nonsense",
    }
}

closed_set! {
    /// How a reload ended.
    Reload {
        /// A new configuration is in force.
        Applied = "applied",
        /// The old one stayed, because the new one has errors.
        Refused = "refused",
        /// There is no file to read: the process was started with `--to`.
        Unchanged = "unchanged",
    }
}

closed_set! {
    /// What the cache made of a request that met a rule.
    CacheResult {
        /// Answered with what was kept, and fresh.
        Hit = "hit",
        /// Answered with what was kept, past its time.
        Stale = "stale",
        /// Answered with what was kept, after the app said that nothing has changed.
        Revalidated = "revalidated",
        /// Answered with what another request fetched.
        Collapsed = "collapsed",
        /// Nothing of use was kept.
        Miss = "miss",
        /// The request is not one that is answered so.
        Bypass = "bypass",
    }
}

closed_set! {
    /// Where answers are kept.
    CacheTier {
        /// In this process.
        Memory = "memory",
        /// In files.
        Disk = "disk",
    }
}

closed_set! {
    /// What became of an answer that was to be written to disk.
    DiskWrite {
        /// It is there.
        Written = "written",
        /// Too many waited.
        Skipped = "skipped",
        /// The disk did not take it.
        Failed = "failed",
    }
}

closed_set! {
    /// What a connection to Redis is for.
    RedisUser {
        /// Limits on requests.
        Limits = "limits",
        /// Answers that are shared.
        Cache = "cache",
    }
}

closed_set! {
    /// What came of asking Redis for an answer.
    SharedLook {
        /// The answer.
        Found = "found",
        /// None: this gateway fetches it for all.
        Lease = "lease",
        /// None yet: another gateway fetches it.
        Wait = "wait",
        /// Answers of late were not to be kept.
        Pass = "pass",
        /// None.
        Nothing = "nothing",
        /// One that was purged.
        Purged = "purged",
        /// What is no whole answer of this version.
        Torn = "torn",
        /// It was not asked: too many questions were under way.
        Busy = "busy",
        /// It was not asked: it does not answer, or it is not known what is purged.
        Down = "down",
        /// It did not answer this question.
        Failed = "failed",
    }
}

closed_set! {
    /// What became of an answer that was to be kept in Redis.
    SharedWrite {
        /// It is there.
        Written = "written",
        /// Each gateway keeps it for itself.
        TooLarge = "too_large",
        /// It was purged meanwhile, or another gateway was faster.
        Overtaken = "overtaken",
        /// Too many were under way.
        Skipped = "skipped",
        /// Redis did not take it.
        Failed = "failed",
    }
}

closed_set! {
    /// Why a request was not answered from the cache, nor its answer kept.
    Bypass {
        /// It has a cookie that is not one of `ignore_cookies`.
        Cookie = "cookie",
        /// It has a body.
        Body = "body",
        /// It asks for a WebSocket.
        Upgrade = "upgrade",
        /// Its client has shown who it is by a certificate.
        ClientCert = "client_cert",
        /// It says `Cache-Control: no-store`.
        NoStore = "no_store",
        /// Its host is not written in the usual way, or a trusted proxy says another: the app could tell the difference.
        Host = "host",
        /// It asks for another method in a field of its own.
        MethodOverride = "method_override",
        /// It says `If-Match` or `If-Unmodified-Since`, which only the app can answer.
        Precondition = "precondition",
    }
}

closed_set! {
    /// Why a response was not kept.
    NotStored {
        /// It sets a cookie.
        SetCookie = "set_cookie",
        /// A page with a nonce.
        Nonce = "nonce",
        /// `Cache-Control: private`.
        Private = "private",
        /// `Cache-Control: no-store`, or one that cannot be read.
        NoStore = "no_store",
        /// `Vary: *`, or by what is another for each request.
        VaryAny = "vary_any",
        /// `Vary` by `Cookie` or `Authorization`.
        VaryUser = "vary_user",
        /// To a request with `Authorization`, and it does not say that it is for all.
        Authorization = "authorization",
        /// Part of another, or none that is final.
        Status = "status",
        /// Neither it nor the rule says for how long.
        NoLifetime = "no_lifetime",
        /// Sent as it is made.
        EventStream = "event_stream",
        /// It ends with its connection: whether it is whole could not be told.
        LengthUnknown = "length_unknown",
        /// Longer than `max_body`, or than memory has room for.
        TooLarge = "too_large",
        /// It broke.
        Incomplete = "incomplete",
        /// Too much is being fetched at once.
        Busy = "busy",
        /// It was purged while it was fetched.
        Purged = "purged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_case_sensitive_and_the_rest_is_other() {
        for method in Method::ALL {
            let expected = if *method == Method::Other { Method::Other } else { *method };
            assert_eq!(Method::of(method.text().as_bytes()), expected);
        }
        assert_eq!(Method::of(b"get"), Method::Other);
        assert_eq!(Method::of(b""), Method::Other);
    }

    #[test]
    fn indices_follow_the_order_of_all() {
        for (index, class) in StatusClass::ALL.iter().enumerate() {
            assert_eq!(*class as usize, index);
        }
    }

    #[test]
    fn every_number_has_a_class() {
        assert_eq!(StatusClass::of(101).text(), "1xx");
        assert_eq!(StatusClass::of(204).text(), "2xx");
        assert_eq!(StatusClass::of(399).text(), "3xx");
        assert_eq!(StatusClass::of(499).text(), "4xx");
        for odd in [0, 99, 500, 599, 600, 999, u16::MAX] {
            assert_eq!(StatusClass::of(odd).text(), "5xx");
        }
    }
}
