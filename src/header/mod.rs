//! The gateway's own work on header fields: who the client is, which request fields go on, which are ours.
//!
//! Pure but for the random numbers in ids. Reading heads and writing them is `edge`'s and `proxy`'s business.

pub mod client_address;
mod forwarded;
pub mod forwarding;
pub mod grammar;
pub mod hop_by_hop;
pub mod request_hygiene;
pub mod request_id;
pub mod stream;
pub mod trace;
