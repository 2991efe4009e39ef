//! `[security_headers.*]`: what every answer says to protect whoever reads it.

use std::time::Duration;

use super::super::place::At;
use super::super::schema::{Described, Inside, KeyInfo, Presence, SectionInfo, section};
use super::super::walk::{Node, Read, Walk};

section! {
    /// A set of security fields, on every answer of the routes that name it, the app's and the gateway's own. A field that the app
    /// sets itself stays as it is.
    SecurityHeaders {
        /// `Strict-Transport-Security`: browsers come back over HTTPS alone. Sent over HTTPS only, as it must be.
        hsts: Hsts = "{}",
    }
    later ["csp", "fields", "override"]
}

section! {
    /// `Strict-Transport-Security` (RFC 6797). Begin with a short time: it cannot be taken back sooner.
    Hsts {
        /// How long a browser keeps to it after each answer; `"0s"` has it forget.
        max_age: Duration = r#""5m""#,
        /// Whether it holds for every name below the host as well.
        include_subdomains: bool = "false",
        /// Whether the host may be put on the lists that browsers come with.
        preload: bool = "false",
    }
    later []
}
