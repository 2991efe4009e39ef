//! Frames that cost us more than their sender, counted (RFC 9113 section 10.5). The library bounds what they may hold of memory, not
//! how many there are.
//!
//! Pure over the bytes a client sends. Each connection has a credit: frames that ask for nothing take from it, time and traffic
//! that was asked for give to it.

use std::time::Duration;

/// What a client may spend at once.
const CREDIT_MAX: i64 = 2000;
/// What it gets back each second.
const CREDIT_EACH_SECOND: i64 = 50;
/// Bytes of a response for which it gets back one: window updates come with them.
const BYTES_EACH: u64 = 1024;
/// What it gets back for a request that was answered: some clients pay for each answer at once, on the stream and on the connection,
/// however small it is, and say a word on its priority before.
const CREDIT_EACH_ANSWER: i64 = 5;
/// A DATA frame of so much pays for itself.
const SOLID_DATA: usize = 64;
/// The connection preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Follows the frames of one connection.
#[derive(Debug)]
pub struct Counter {
    /// Bytes until the next frame's head.
    skip: usize,
    head: [u8; HEAD],
    filled: usize,
    credit: i64,
    /// Bytes of responses that were not turned into credit yet.
    sent: u64,
    /// A block of fields has begun and not ended: nothing else may come on the connection.
    in_fields: bool,
}

impl Default for Counter {
    fn default() -> Self {
        Self { skip: PREFACE, head: [0; HEAD], filled: 0, credit: CREDIT_MAX, sent: 0, in_fields: false }
    }
}

impl Counter {
    /// Takes note of what the client has sent.
    pub fn received(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let taken = (HEAD - self.filled).min(bytes.len());
            if let (Some(to), Some(from)) = (self.head.get_mut(self.filled..self.filled + taken), bytes.get(..taken)) {
                to.copy_from_slice(from);
            }
            self.filled += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.filled == HEAD {
                self.filled = 0;
                self.frame();
            }
        }
    }

    fn frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.skip = length;
        match kind {
            DATA if length >= SOLID_DATA || flags & END_STREAM != 0 => {}
            HEADERS => self.in_fields = flags & END_HEADERS == 0,
            CONTINUATION => {
                self.in_fields = flags & END_HEADERS == 0;
                self.credit -= 1;
            }
            // Resets, window updates, pings, settings, priorities, what nobody knows, and crumbs of data.
            _ => self.credit -= 1,
        }
    }

    /// Takes note of what was sent to the client.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        self.earn((self.sent / BYTES_EACH).try_into().unwrap_or(CREDIT_MAX));
        self.sent %= BYTES_EACH;
    }

    /// Takes note of a request whose client has waited for the answer.
    pub fn answered(&mut self) {
        self.earn(CREDIT_EACH_ANSWER);
    }

    /// Takes note of the time that has passed.
    pub fn passed(&mut self, time: Duration) {
        let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.earn(millis.saturating_mul(CREDIT_EACH_SECOND) / 1000);
    }

    fn earn(&mut self, credit: i64) {
        self.credit = self.credit.saturating_add(credit).min(CREDIT_MAX);
    }

    /// Whether the client has spent more than it had.
    #[must_use]
    pub fn is_flooded(&self) -> bool {
        self.credit < 0
    }

    /// Whether the client is in the middle of a block of fields: a wait for it that must end.
    #[must_use]
    pub fn is_within_fields(&self) -> bool {
        self.in_fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).unwrap().to_be_bytes();
        let mut bytes = vec![size[1], size[2], size[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(HEAD + length, 0);
        bytes
    }

    fn after(frames: &[Vec<u8>]) -> Counter {
        let mut counter = Counter::default();
        counter.received(&[0; PREFACE]);
        frames.iter().for_each(|frame| counter.received(frame));
        counter
    }

    #[test]
    fn floods_are_told_from_traffic() {
        let many = |frame: Vec<u8>| vec![frame; 2001];
        for (what, kind, flags, length) in [
            ("PING", 6, 0, 8),
            ("SETTINGS", 4, 0, 0),
            ("PRIORITY", 2, 0, 5),
            ("RST_STREAM", 3, 0, 4),
            ("WINDOW_UPDATE", 8, 0, 4),
            ("empty DATA", 0, 0, 0),
            ("crumbs", 0, 0, 1),
            ("CONTINUATION", 9, 0, 100),
            ("unknown", 77, 0, 10),
        ] {
            assert!(after(&many(frame(kind, flags, length))).is_flooded(), "{what}");
        }
        assert!(!after(&many(frame(DATA, 0, 1000))).is_flooded());
        assert!(!after(&many(frame(HEADERS, END_HEADERS | END_STREAM, 30))).is_flooded());
    }

    #[test]
    fn a_download_pays_for_its_window_updates_and_time_heals() {
        let mut counter = after(&[]);
        for _ in 0..10_000 {
            counter.sent(16 * 1024);
            counter.received(&frame(8, 0, 4));
            counter.received(&frame(8, 0, 4));
        }
        assert!(!counter.is_flooded());
        let mut counter = after(&vec![frame(6, 0, 8); 2001]);
        counter.passed(Duration::from_millis(20));
        assert!(!counter.is_flooded());
        counter.passed(Duration::MAX);
        assert_eq!(counter.credit, CREDIT_MAX);
    }

    #[test]
    fn an_answer_pays_for_what_its_client_says_about_it() {
        let mut counter = after(&[]);
        for _ in 0..10_000 {
            counter.received(&frame(2, 0, 5));
            counter.received(&frame(HEADERS, END_HEADERS | END_STREAM, 30));
            counter.answered();
            (0..4).for_each(|_| counter.received(&frame(8, 0, 4)));
        }
        assert!(!counter.is_flooded());
    }

    #[test]
    fn a_block_of_fields_is_open_until_its_end() {
        assert!(after(&[frame(HEADERS, 0, 5)]).is_within_fields());
        assert!(after(&[frame(HEADERS, 0, 5), frame(CONTINUATION, 0, 5)]).is_within_fields());
        assert!(!after(&[frame(HEADERS, 0, 5), frame(CONTINUATION, END_HEADERS, 5)]).is_within_fields());
        assert!(!after(&[frame(HEADERS, END_HEADERS, 5)]).is_within_fields());
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_means_nothing(
            frames in prop::collection::vec((any::<u8>(), any::<u8>(), 0..300_usize), 0..20),
            cuts in prop::collection::vec(1..40_usize, 1..20),
        ) {
            let mut bytes = vec![0; PREFACE];
            for (kind, flags, length) in frames {
                bytes.extend(frame(kind, flags, length));
            }
            let mut whole = Counter::default();
            whole.received(&bytes);
            let mut cut = Counter::default();
            let mut rest = &bytes[..];
            for size in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                cut.received(piece);
                rest = after;
            }
            prop_assert_eq!((whole.credit, whole.in_fields, whole.skip), (cut.credit, cut.in_fields, cut.skip));
        }
    }
}
