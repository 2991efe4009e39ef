//! `[security_headers.*]`: what every answer says to protect whoever reads it.

use std::time::Duration;

use super::super::place::At;
use super::super::schema::{Described, Inside, KeyInfo, Presence, SectionInfo, Table, section};
use super::super::value::{Date, FieldName, FieldValue};
use super::super::walk::{Node, Read, Walk};

section! {
    /// A set of security fields, on every answer of the routes that name it, the app's and the gateway's own, whatever their
    /// status. A field that the app sets itself stays as it is, and is never doubled.
    SecurityHeaders {
        /// `Strict-Transport-Security`: browsers come back over HTTPS alone. Sent over HTTPS only, as it must be. Where
        /// another route for the same host has a longer time this one is not sent, as it would take its place.
        hsts: Hsts = "{}",
        /// `Content-Security-Policy`: what a page may load, and who may frame it.
        csp: Csp = "{}",
        /// Further fields and their values. `X-Frame-Options` is left out where the app's own policy has `frame-ancestors`,
        /// which says more.
        fields: Table<FieldValue> = r#"{ X-Content-Type-Options = "nosniff", X-Frame-Options = "SAMEORIGIN", Referrer-Policy = "strict-origin-when-cross-origin" }"#,
        /// Names of fields whose value here wins over the app's.
        ///
        /// Example: `["X-Frame-Options"]`
        r#override: Vec<At<FieldName>> = "[]",
        /// Fields that are taken off the app's answers: they tell strangers what it runs on.
        remove: Vec<At<FieldName>> = r#"["Server", "X-Powered-By"]"#,
        /// Whether `Secure` (over HTTPS) and `SameSite=Lax` are added to the app's cookies where they say neither that nor
        /// anything else of it.
        harden_cookies: bool = "false",
    }
}

section! {
    /// `Strict-Transport-Security` (RFC 6797). Begin with a short time: it cannot be taken back sooner.
    Hsts {
        /// How long a browser keeps to it after each answer; `"0s"` has it forget.
        max_age: Duration = r#""5m""#,
        /// The day the ramp begins: from then on the time that is sent is as long as it has been kept, 5 minutes at least, until
        /// it is `max_age`. Without it `max_age` is sent at once.
        ///
        /// Example: `"2026-12-01"`
        ramp_from: Date,
        /// Whether it holds for every name below the host as well.
        include_subdomains: bool = "false",
        /// Whether the host may be put on the lists that browsers come with.
        preload: bool = "false",
    }
}

section! {
    /// `Content-Security-Policy` (W3C, Content Security Policy Level 3). A policy that does not suit an app breaks its pages: try
    /// it with `report_only` first.
    Csp {
        /// The policy. Empty: none is sent. `{nonce}` stands for the nonce, with `nonce = true`.
        ///
        /// Example: `"default-src 'self'; script-src 'self' 'nonce-{nonce}'; frame-ancestors 'none'"`
        policy: FieldValue = r#""""#,
        /// Whether it is sent as `Content-Security-Policy-Report-Only`: browsers report what it would forbid, and forbid nothing.
        report_only: bool = "false",
        /// Whether each request has a nonce of its own, which the app reads from `X-CSP-Nonce` and writes into its `<script>`
        /// elements. Pages with one are not kept by the cache.
        nonce: bool = "false",
    }
}
