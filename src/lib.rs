//! Propylon: the gateway in front of Python.
//!
//! | module | answers for |
//! |---|---|
//! | [`config`] | text to validated values |
//! | [`observe`] | metrics, the access log, diagnostics |
//! | [`net`], [`tls`] | sockets, and TLS over them on both sides |
//! | [`route`], [`header`], [`framing`] | pure decisions about targets, hosts, fields and bodies |
//! | [`message`] | the heads of requests and responses |
//! | [`spool`] | bodies that wait, in memory and on disk |
//! | [`redis`] | the one Redis client: connection, timeout, breaker |
//! | [`access`] | who may come, by address and with a password |
//! | [`rate_limit`] | token buckets and in-flight limits, here and in Redis |
//! | [`upstream`] | endpoints: their choice, the queue before them, connections, health, addresses |
//! | [`state`] | one snapshot a request lives by, and what outlives reloads |
//! | [`edge`] | client connections and the strict reading of HTTP/1.1 |
//! | [`proxy`] | what happens to a request, step by step |
//! | [`admin`] | `/metrics`, `/healthz`, `/readyz` and the control socket |
//! | [`server`] | assembles, reloads and shuts down |
//! | [`cli`] | the command line |
//!
//! `docs/architecture.md` follows a request through them.

pub mod access;
pub mod admin;
pub mod cache;
pub mod cli;
pub mod config;
pub mod edge;
pub mod framing;
pub mod header;
pub mod headers;
pub mod message;
pub mod net;
pub mod observe;
pub mod proxy;
pub mod rate_limit;
pub mod redis;
pub mod route;
pub mod server;
pub mod spool;
pub mod state;
pub mod tls;
pub mod upstream;
