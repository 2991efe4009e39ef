//! Why we answer a request ourselves: one closed set of reasons, each with its status, its word (the same in the body, the
//! log line and the metric), what the client is told, and how loud the log is.

use std::borrow::Cow;

/// A reason and, where it helps whoever reads the log, what exactly was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reason,
    pub detail: Cow<'static, str>,
    /// Seconds after which trying again makes sense, where it does (RFC 9110 section 10.2.3).
    pub retry_after: Option<u32>,
}

impl Rejection {
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into(), retry_after: reason.retry_after() }
    }

    /// The same, to be tried again after so many seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }
}

impl From<Reason> for Rejection {
    fn from(reason: Reason) -> Self {
        Self::new(reason, "")
    }
}

macro_rules! reasons {
    ($($variant:ident $status:literal $word:literal $text:literal;)*) => {
        /// The closed set of reasons.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = concat!("`", $word, "`, ", stringify!($status), ": ", $text, ".")] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of [`Reason::index`].
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),*];
            /// Every word, in the same order: the values of the metric's label.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The status it is answered with; 499 is only logged, nobody is there to read it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),* }
            }

            /// The one word for it everywhere.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// One sentence for the client.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

reasons! {
    MalformedHead 400 "malformed_head" "The request could not be understood";
    BadFraming 400 "bad_framing" "The length of the request body is ambiguous";
    BadHost 400 "bad_host" "The Host field is missing, repeated or invalid";
    BadTarget 400 "bad_target" "The request target is not acceptable";
    BadBody 400 "bad_body" "The request body is malformed";
    Unauthorized 401 "unauthorized" "A name and a password are needed here";
    AccessDenied 403 "access_denied" "This address may not come here";
    CorsRefused 403 "cors_refused" "A page of this origin may not send this request";
    NoRoute 404 "no_route" "Nothing is served here";
    MethodNotAllowed 405 "method_not_allowed" "This method is not allowed here";
    HeaderTimeout 408 "header_timeout" "The request head took too long to arrive";
    BodyTimeout 408 "body_timeout" "The request body took too long to arrive";
    WriteTimeout 408 "write_timeout" "The client took too long to take the answer";
    BodyTooLarge 413 "body_too_large" "The request body is larger than allowed";
    RequestLineTooLong 414 "request_line_too_long" "The request line is longer than allowed";
    ExpectationFailed 417 "expectation_failed" "The expectation is not supported";
    WrongHost 421 "wrong_host" "This host is not served here";
    RateLimited 429 "rate_limited" "Too many requests in too short a time";
    ConcurrencyLimited 429 "concurrency_limited" "Too many requests at once";
    LoginLimited 429 "login_limited" "Too many wrong passwords";
    HeadTooLarge 431 "head_too_large" "The request fields are larger than allowed";
    ClientClosed 499 "client_closed" "The client closed the connection";
    Internal 500 "internal" "The gateway failed";
    SpoolFailed 500 "spool_failed" "The gateway lost what it had stored";
    UpstreamClosed 502 "upstream_closed" "The application closed the connection without an answer";
    UpstreamInvalid 502 "upstream_invalid" "The application gave an invalid answer";
    AccelRedirect 502 "accel_redirect" "The application asked for an internal redirect, which is not supported";
    UpstreamUnreachable 503 "upstream_unreachable" "The application is not reachable";
    Shutdown 503 "shutdown" "The gateway is shutting down";
    QueueFull 503 "queue_full" "Too many requests are waiting";
    QueueTimeout 503 "queue_timeout" "The application was busy for too long";
    SpoolFull 503 "spool_full" "The gateway has no room for the request body";
    LimitsUnavailable 503 "limits_unavailable" "Whether this request is one too many cannot be told";
    LoginBusy 503 "login_busy" "Too many passwords are being checked";
    Maintenance 503 "maintenance" "Work is being done, please come back later";
    NoEndpoint 503 "no_endpoint" "No address of the application is known";
    NotCached 504 "not_cached" "No answer is kept, and none else was asked for";
    UpstreamTimeout 504 "upstream_timeout" "The application took too long to answer";
    VersionNotSupported 505 "version_not_supported" "This version of HTTP is not supported";
}

impl Reason {
    /// Its place in [`Reason::ALL`]: the index of its counter.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason at a place of [`Reason::ALL`].
    #[must_use]
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// What [`Rejection::retry_after`] is unless something else is known.
    #[must_use]
    pub const fn retry_after(self) -> Option<u32> {
        match self {
            Self::UpstreamUnreachable
            | Self::Shutdown
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::SpoolFull
            | Self::RateLimited
            | Self::ConcurrencyLimited
            | Self::LimitsUnavailable
            | Self::LoginLimited
            | Self::LoginBusy
            | Self::Maintenance
            | Self::NoEndpoint => Some(1),
            _ => None,
        }
    }

    /// Whether the connection has no meaning any more once this was answered: where the next request begins is unknown.
    #[must_use]
    pub const fn ends_connection(self) -> bool {
        matches!(
            self,
            Self::MalformedHead
                | Self::BadFraming
                | Self::BadHost
                | Self::BadBody
                | Self::HeaderTimeout
                | Self::BodyTimeout
                | Self::RequestLineTooLong
                | Self::HeadTooLarge
                | Self::ExpectationFailed
                | Self::VersionNotSupported
                | Self::Internal
        )
    }

    /// Whether it is why a response that had begun was cut, the client's connection with it.
    #[must_use]
    pub const fn is_of_the_transfer(self) -> bool {
        matches!(self, Self::WriteTimeout | Self::SpoolFailed)
    }

    /// Whether somebody who runs the app should look: the app or the way to it failed, not the client. That Redis is gone, or that
    /// there is maintenance, is said once, not with every request.
    #[must_use]
    pub const fn is_ours_to_mend(self) -> bool {
        self.status() >= 500
            && !matches!(
                self,
                Self::VersionNotSupported
                    | Self::LimitsUnavailable
                    | Self::NotCached
                    | Self::Maintenance
                    | Self::LoginBusy
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_indices_agree() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(Reason::from_index(index), Some(*reason));
            assert_eq!(Reason::WORDS[index], reason.word());
            assert!(reason.word().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert_eq!(Reason::WORDS.iter().filter(|word| **word == reason.word()).count(), 1);
            assert!((400..=505).contains(&reason.status()));
        }
        assert_eq!(Reason::from_index(Reason::ALL.len()), None);
    }

    #[test]
    fn the_documentation_has_each_with_its_status() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reasons.md")).unwrap();
        for reason in Reason::ALL {
            let row = format!("\n| `{}` | {} | ", reason.word(), reason.status());
            assert!(page.contains(&row), "docs/reasons.md lacks {row}");
        }
    }
}
