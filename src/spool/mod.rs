//! Bodies that wait: in memory first, then in a temporary file without a name, within budgets that the process shares.
//!
//! A [`Spooled`] is one body, a FIFO of bytes; the [`Depot`] is what all bodies share: the budgets, the directory, the
//! counts. What a body is of, and what is answered when it is refused, is the caller's: nothing here knows HTTP.
//!
//! The order within a body is always: pieces in memory, then the file, then a tail in memory that is not yet enough to
//! be worth a write. Memory is never a reason to refuse: what it does not take goes to the file.

mod body;
mod depot;
mod disk;
mod file;
mod memory;
mod reserved_file;

#[cfg(test)]
mod cancel_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod property_tests;

pub use body::{Full, Keep, Spooled};
pub use depot::{Depot, Limits, Totals, Usage};
pub use file::check_dir;

/// What is written to a file at once, and the most that a piece read has, in bytes.
pub const BLOCK: usize = 64 << 10;

/// The least of that, for a body that is to have little memory.
const LEAST_BLOCK: usize = 4 << 10;
