//! Encrypted records that wait for more to go out with them, in a buffer of the thread's: whoever is done with it gives it back
//! by dropping it.

use std::cell::RefCell;

use crate::tls::stream::{RECORD_OVERHEAD, WRITE_MAX};

/// Records up to so many bytes in all; some may be small.
const BATCH_MAX: usize = WRITE_MAX + 16 * RECORD_OVERHEAD;
/// Buffers that a thread keeps while nobody has them.
const SPARE_MAX: usize = 2;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// See the module.
#[derive(Debug)]
pub struct Batch {
    buffer: Box<[u8]>,
    length: usize,
}

impl Default for Batch {
    fn default() -> Self {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        Self { buffer: spare.unwrap_or_else(|| vec![0; BATCH_MAX].into()), length: 0 }
    }
}

impl Batch {
    pub fn records(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    /// What is free behind them.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.length..).unwrap_or_default()
    }

    /// So many bytes of the room were written to.
    pub fn record_written(&mut self, bytes: usize) {
        self.length += bytes;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // At the end of a thread there is nothing to give it back to.
        let _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < SPARE_MAX
            {
                spare.push(buffer);
            }
        });
    }
}
