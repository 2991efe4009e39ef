//! The client side of the wire: connections are accepted, heads are read and judged, bodies are framed, and what comes out
//! is one [`exchange::Exchange`] and one [`session::Session`] for each request (RFC 9112).
//!
//! What a request means is left to `proxy`; here it is only made sure that there is exactly one reading of it.

mod alarm;
pub mod connection;
pub mod exchange;
pub mod head;
pub mod http2;
pub mod listener;
mod opening;
pub mod proxy_protocol;
mod response_writer;
pub mod session;
pub mod transport;
