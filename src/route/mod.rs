//! Which route a request takes: its target and host judged once, then looked up in a table built with the configuration.
//!
//! Pure: bytes in, indices out. What is done with the route found is `proxy`'s business.

pub mod host;
pub mod pattern;
pub mod table;
pub mod target;
