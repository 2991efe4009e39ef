//! `cors` of a route.

use std::time::Duration;

use http::Method;

use super::super::model::OriginPattern;
use super::super::place::At;
use super::super::schema::{Described, Inside, KeyInfo, Presence, SectionInfo, section};
use super::super::value::CorsField;
use super::super::value::FieldName;
use super::super::walk::{Node, Read, Walk};

section! {
    /// Which pages of other origins may read a route's answers (CORS). What browsers ask beforehand, preflight requests, is answered by
    /// the gateway; the app does not see it. Where the app's answer has an `Access-Control-` field of its own, nothing is added.
    Cors {
        /// The origins, as browsers send them; `~` begins a regular expression, which has to match all of it; `"*"` is any.
        ///
        /// Example: `["https://app.example.com"]`
        origins: Vec<At<OriginPattern>> = required,
        /// The methods.
        methods: Vec<At<Method>> = r#"["GET", "HEAD", "POST"]"#,
        /// The fields a page may set; `"*"` is whichever it asks for. Some simple ones are always allowed.
        ///
        /// Example: `["Authorization", "Content-Type"]`
        headers: Vec<At<CorsField>> = "[]",
        /// The fields of answers that a page may read, beside a few that it always may.
        ///
        /// Example: `["X-Request-ID"]`
        expose: Vec<At<FieldName>> = "[]",
        /// Whether cookies and the like may go with its requests. Not with `"*"`.
        credentials: bool = "false",
        /// How long a browser remembers what it was told beforehand.
        max_age: Duration = r#""10m""#,
    }
}
