//! The integration tests: the real binary in front of scripted origins and real Python servers.
//!
//! This list is the table of contents. Each file tells its stories about one feature.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::too_many_lines)]

mod harness;

// The edge: what a client may send, and what it gets.
mod access;
mod body;
mod connections;
mod cors;
mod framing;
mod head;
mod hostile;
mod http2;
mod limits;
mod listeners;
mod responses;
mod timeouts;

// TLS with clients, and what comes before it.
mod https_redirect;
mod proxy_protocol;
mod tls_apps;
mod tls_clients;
mod tls_handshakes;
mod tls_names;
mod tls_reload;
mod tls_resumption;
mod tls_stream;
mod tls_versions;

// The way of a request.
mod browser;
mod endless;
mod event_streams;
mod examples;
mod forwarding;
mod hosts;
mod hsts;
mod python_servers;
mod routing;
mod stacks;
mod websocket;
mod websocket_closing;
mod websocket_opening;
mod websocket_slot;

// Answers that are kept.
mod cache;

// How much a client may ask for.
mod rate_limit;
mod rate_limit_model;
mod rate_limit_redis;
mod rate_limit_redis_kinds;

// The app's side.
mod balancing;
mod capacity;
mod ejection;
mod hashing;
mod health;
mod holding;
mod in_flight;
mod keepalive;
mod queue;
mod resolving;
mod retries;
mod spool_budgets;
mod spool_requests;
mod spool_responses;
mod strict_responses;
mod upstream_failures;
mod upstream_tls;

// Running it.
mod access_log;
mod cli;
mod collector;
mod docs;
mod drain;
mod layout;
mod maintenance;
mod metrics;
mod reload;
mod security_fields;
mod shutdown;
mod status;
mod tracing;
