//! What is shown of the bodies that wait in memory and on disk.
//!
//! They are counted where they are kept, once for the process; whoever asks for the page reads the numbers there and hands them
//! in.

use super::page::{Page, float};
use super::table;

/// What the spool held and had done when it was read. Amounts are bytes; each `_total` is since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpoolReading {
    /// Memory that bodies hold.
    pub memory_bytes: u64,
    /// Memory that they may hold.
    pub memory_limit: u64,
    /// Disk space set aside for them.
    pub disk_bytes: u64,
    /// Disk space that may be.
    pub disk_limit: u64,
    /// Open files.
    pub files: u64,
    /// Bodies that went to disk, each as often as it did.
    pub bodies_on_disk_total: u64,
    /// Bytes written to files.
    pub disk_written_bytes_total: u64,
    /// Bodies that found the disk space of all used up.
    pub refused_budget_total: u64,
    /// Bodies that passed what one may have on disk.
    pub refused_body_total: u64,
    /// Files that could not be made, written or read.
    pub io_errors_total: u64,
}

pub(super) fn write(reading: &SpoolReading, page: &mut Page) {
    page.single(&table::SPOOL_MEMORY, float(reading.memory_bytes));
    page.single(&table::SPOOL_MEMORY_LIMIT, float(reading.memory_limit));
    page.single(&table::SPOOL_DISK, float(reading.disk_bytes));
    page.single(&table::SPOOL_DISK_LIMIT, float(reading.disk_limit));
    page.single(&table::SPOOL_FILES, float(reading.files));
    page.single(&table::SPOOL_BODIES_ON_DISK, float(reading.bodies_on_disk_total));
    page.single(&table::SPOOL_DISK_WRITTEN, float(reading.disk_written_bytes_total));
    // The keys of `[spool]` that set them.
    page.family(&table::SPOOL_FULL, |samples| {
        samples.count(&["disk"], reading.refused_budget_total);
        samples.count(&["disk_per_body"], reading.refused_body_total);
    });
    page.single(&table::SPOOL_IO_ERRORS, float(reading.io_errors_total));
}
