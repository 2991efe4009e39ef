//! What the gateway says about itself: [`metrics`] for machines, [`access_log`] for one line a request, [`traces`] for
//! a collector, [`logging`] for diagnostics.
//!
//! This module stands at the bottom, beside `config`: it imports nothing of the crate and takes plain values. Whoever has
//! something to count asks for a handle once, when a configuration is loaded, and records through it.

pub mod access_log;
mod clock;
pub mod logging;
pub mod metrics;
pub mod traces;
mod unprintable;
