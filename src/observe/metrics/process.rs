//! The `process_` metrics, read from `/proc/self` at each scrape. Where there is no such directory they are absent.

use std::fs;

use super::page::{Page, float};
use super::table;

/// Ticks in a second in `/proc`: Linux shows its times in this unit to every program, whatever the kernel's own timer does.
const TICKS_PER_SECOND: f64 = 100.0;

/// What does not change while the process runs.
#[derive(Debug)]
pub(super) struct Process {
    /// Seconds since 1970. Read once: the kernel's boot time shifts a little when the clock is set.
    start_time: Option<f64>,
}

impl Process {
    pub(super) fn new() -> Self {
        let start_time = read("/proc/stat").zip(read("/proc/self/stat")).and_then(|(system, own)| {
            let boot = number_after(&system, "btime ")?;
            Some(float(boot) + float(stat_field(&own, 22)?) / TICKS_PER_SECOND)
        });
        Self { start_time }
    }

    pub(super) fn write(&self, page: &mut Page) {
        let stat = read("/proc/self/stat").unwrap_or_default();
        if let Some((user, system)) = stat_field(&stat, 14).zip(stat_field(&stat, 15)) {
            page.single(&table::PROCESS_CPU, float(user.saturating_add(system)) / TICKS_PER_SECOND);
        }
        let status = read("/proc/self/status").unwrap_or_default();
        let ProcessReading { resident_bytes, open_fds, max_fds } = ProcessReading::now();
        for (family, value) in [
            (&table::PROCESS_RESIDENT_MEMORY, resident_bytes),
            (&table::PROCESS_OPEN_FDS, open_fds),
            (&table::PROCESS_MAX_FDS, max_fds),
        ] {
            value.into_iter().for_each(|value| page.single(family, float(value)));
        }
        if let Some(threads) = number_after(&status, "Threads:") {
            page.single(&table::PROCESS_THREADS, float(threads));
        }
        if let Some(start_time) = self.start_time {
            page.single(&table::PROCESS_START_TIME, start_time);
        }
    }
}

/// What the process takes now; none where there is no `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessReading {
    pub resident_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    /// None without a limit.
    pub max_fds: Option<u64>,
}

impl ProcessReading {
    pub(super) fn now() -> Self {
        let status = read("/proc/self/status").unwrap_or_default();
        let limits = read("/proc/self/limits").unwrap_or_default();
        Self {
            resident_bytes: number_after(&status, "VmRSS:").map(|kib| kib.saturating_mul(1024)),
            open_fds: open_fds(),
            max_fds: number_after(&limits, "Max open files"),
        }
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The number that follows `key` at the beginning of a line.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// A field of `/proc/self/stat` by its number in proc(5), from the third on: the second, in parentheses, is the program's name
/// and may hold anything, so counting begins after its end.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn open_fds() -> Option<u64> {
    // Since Linux 6.2 the directory's size is the number of its entries; before, it is 0 and they are counted, less the one
    // that the counting opens.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => {
            let entries = fs::read_dir("/proc/self/fd").ok()?.count();
            u64::try_from(entries.saturating_sub(1)).ok()
        }
        size => Some(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_cannot_shift_the_fields() {
        let stat = "12 (a) b (c) 9) S 1 12 12 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 7777 1000 10";
        assert_eq!(stat_field(stat, 14), Some(250));
        assert_eq!(stat_field(stat, 15), Some(50));
        assert_eq!(stat_field(stat, 22), Some(7777));
        assert_eq!(stat_field("", 14), None);
        assert_eq!(stat_field("1 (x", 14), None);
    }

    #[test]
    fn numbers_are_found_by_the_beginning_of_their_line() {
        let status = "Name:\tVmRSS: 3\nVmRSS:\t    1234 kB\nThreads:\t7\n";
        assert_eq!(number_after(status, "VmRSS:"), Some(1234));
        assert_eq!(number_after(status, "Threads:"), Some(7));
        assert_eq!(number_after(status, "VmSwap:"), None);
        assert_eq!(number_after("Max open files  unlimited  unlimited files", "Max open files"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn descriptors_are_counted() {
        let before = open_fds().unwrap();
        let _files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        assert!(open_fds().unwrap() >= before.min(3) + 50);
    }
}
