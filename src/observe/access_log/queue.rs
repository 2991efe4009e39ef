//! The lines between the workers and the thread that writes: a buffer that is filled here and swapped out there.
//!
//! A push is a lock, a copy and, only when the writer sleeps for want of lines, a wake-up. Once awake the writer lets lines
//! gather for a moment, so a busy gateway wakes it twenty times a second and not for each line.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::sink::Sink;

/// How long lines gather before they are written.
const GATHER: Duration = Duration::from_millis(50);
/// A buffer that grew beyond this is given back when it is empty.
const KEPT: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    pending: Mutex<Pending>,
    /// The writer waits here for lines.
    filled: Condvar,
    /// Who flushes waits here for the writer.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    lines: Vec<u8>,
    /// Sinks to go over to, each with how many bytes of `lines` still belong to the one before.
    switches: Vec<(usize, Sink)>,
    /// Lines that did not fit since the last batch.
    dropped: u64,
    /// The writer waits for the first line and nobody has woken it yet.
    asleep: bool,
    /// The writer is to stop gathering.
    urgent: bool,
    closed: bool,
    /// Batches the writer has taken, and those it is done with.
    taken: u64,
    done: u64,
}

/// What the writer has to do next.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<u8>,
    pub(super) switches: Vec<(usize, Sink)>,
    pub(super) dropped: u64,
}

impl Queue {
    /// `capacity` in bytes of lines that wait.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, pending: Mutex::default(), filled: Condvar::new(), written: Condvar::new() }
    }

    /// Appends a line; false when the queue is full and the line is dropped.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        let mut pending = self.pending.lock();
        let length = pending.lines.len().saturating_add(line.len());
        if length > self.capacity {
            pending.dropped += 1;
            return false;
        }
        pending.lines.extend_from_slice(line);
        // Half full before the moment is over: no more gathering.
        let wake = pending.asleep || (length > self.capacity / 2 && !pending.urgent);
        pending.urgent |= length > self.capacity / 2;
        pending.asleep = false;
        drop(pending);
        if wake {
            self.filled.notify_one();
        }
        true
    }

    /// Lets what is pushed from now on go to `sink`.
    pub(super) fn switch(&self, sink: Sink) {
        let mut pending = self.pending.lock();
        let before = pending.lines.len();
        pending.switches.push((before, sink));
        self.hurry(pending);
    }

    /// Ends the writer once it has written what is there.
    pub(super) fn close(&self) {
        let mut pending = self.pending.lock();
        pending.closed = true;
        self.hurry(pending);
    }

    /// Waits until everything pushed before is written or given up, `limit` at most. False when the time was over first.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut pending = self.pending.lock();
        let waiting = !pending.lines.is_empty() || !pending.switches.is_empty();
        let goal = pending.taken + u64::from(waiting);
        if waiting {
            pending.urgent = true;
            pending.asleep = false;
            self.filled.notify_one();
        }
        while pending.done < goal {
            if self.written.wait_until(&mut pending, deadline).timed_out() {
                return pending.done >= goal;
            }
        }
        true
    }

    /// The next batch, in `batch`, whose buffer is used again; false when the queue is closed and empty. For one thread only.
    pub(super) fn take(&self, batch: &mut Batch) -> bool {
        batch.lines.clear();
        if batch.lines.capacity() > KEPT {
            batch.lines.shrink_to(KEPT);
        }
        let mut pending = self.pending.lock();
        pending.done = pending.taken;
        self.written.notify_all();
        while pending.lines.is_empty() && pending.switches.is_empty() {
            if pending.closed {
                return false;
            }
            pending.asleep = true;
            self.filled.wait(&mut pending);
        }
        pending.asleep = false;
        let gathered = Instant::now() + GATHER;
        while !pending.urgent && !pending.closed {
            if self.filled.wait_until(&mut pending, gathered).timed_out() {
                break;
            }
        }
        pending.urgent = false;
        pending.taken += 1;
        batch.dropped = std::mem::take(&mut pending.dropped);
        batch.switches = std::mem::take(&mut pending.switches);
        std::mem::swap(&mut batch.lines, &mut pending.lines);
        true
    }

    fn hurry(&self, mut pending: parking_lot::MutexGuard<'_, Pending>) {
        pending.urgent = true;
        pending.asleep = false;
        drop(pending);
        self.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let queue = Queue::new(10);
        assert!(queue.push(b"12345\n"));
        assert!(!queue.push(b"12345\n"));
        assert!(queue.push(b"123\n"));
        assert!(!queue.push(b"\n"));
        let mut batch = Batch::default();
        assert!(queue.take(&mut batch));
        assert_eq!((batch.lines.as_slice(), batch.dropped), (&b"12345\n123\n"[..], 2));
        queue.close();
        assert!(!queue.take(&mut batch));
    }

    #[test]
    fn a_flush_ends_when_its_time_is_over() {
        let queue = Queue::new(10);
        assert!(queue.flush(Duration::ZERO), "nothing to wait for");
        assert!(queue.push(b"1\n"));
        assert!(!queue.flush(Duration::from_millis(5)), "nobody writes");
        let mut batch = Batch::default();
        assert!(queue.take(&mut batch));
        assert!(!queue.flush(Duration::from_millis(5)), "taken is not written");
    }
}
