//! Cross-origin resource sharing, with nothing left to parse.

use std::time::Duration;

use http::{HeaderName, Method};
use regex::bytes::Regex;

/// Which pages of other origins may read a route's answers (Fetch Standard, section 3.3).
#[derive(Debug, Clone)]
pub struct Cors {
    pub origins: Vec<OriginPattern>,
    pub methods: Vec<Method>,
    /// None: whichever are asked for.
    pub headers: Option<Vec<HeaderName>>,
    pub expose: Vec<HeaderName>,
    /// Whether cookies and the like may go with the request; never with [`OriginPattern::Any`].
    pub credentials: bool,
    pub max_age: Duration,
}

/// An origin, or some.
#[derive(Debug, Clone)]
pub enum OriginPattern {
    Any,
    /// As browsers write it.
    Exact(String),
    /// Matches all of it, or not.
    Regex(Regex),
}

impl OriginPattern {
    /// Whether it means this origin.
    #[must_use]
    pub fn matches(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact.as_bytes() == origin,
            // It is every page in a sandbox, whoever made it.
            Self::Regex(regex) => origin != b"null" && regex.is_match(origin),
        }
    }
}
