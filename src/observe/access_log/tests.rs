//! The whole log: from an entry to the file.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Instant, SystemTime};

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn metrics() -> Arc<Metrics> {
    Metrics::new("test", &[])
}

fn file(path: &Path) -> Sink {
    Target::File(path.to_owned()).open().unwrap()
}

fn entry(path: &[u8]) -> Entry<'_> {
    Entry { method: b"GET", path, protocol: "HTTP/1.1", status: 200, ..Entry::at(SystemTime::now()) }
}

fn paths(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let path =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].as_str().unwrap().to_owned();
    text.lines().map(path).collect()
}

#[test]
fn lines_of_many_threads_all_arrive_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let metrics = metrics();
    let log = AccessLog::start(file(&path), Format::Json, Arc::clone(&metrics)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for number in 0..500 {
                    log.log(&entry(format!("/{thread}/{number}").as_bytes()));
                }
            });
        }
    });
    assert!(log.flush(LIMIT));
    let paths = paths(&path);
    assert_eq!(paths.len(), 2000);
    for thread in 0..4 {
        let own = paths.iter().filter(|path| path.starts_with(&format!("/{thread}/")));
        assert!(own.eq((0..500).map(|number| format!("/{thread}/{number}")).collect::<Vec<_>>().iter()));
    }
    assert_eq!(metrics.access_log_dropped.get(), 0);
}

#[test]
fn a_lone_line_arrives_without_a_flush() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::start(file(&path), Format::Json, metrics()).unwrap();
    log.log(&entry(b"/lone"));
    let begun = Instant::now();
    while fs::metadata(&path).unwrap().len() == 0 && begun.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(paths(&path), ["/lone"]);
}

#[test]
fn a_rotated_file_is_left_and_a_new_one_begun() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log = AccessLog::start(file(&path), Format::Json, metrics()).unwrap();
    log.log(&entry(b"/before"));
    fs::rename(&path, &old).unwrap();
    log.log(&entry(b"/between"));
    log.reopen().unwrap();
    log.log(&entry(b"/after"));
    assert!(log.flush(LIMIT));
    assert_eq!(paths(&old), ["/before", "/between"]);
    assert_eq!(paths(&path), ["/after"]);
}

#[test]
fn a_failed_reopening_keeps_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log = AccessLog::start(file(&path), Format::Json, metrics()).unwrap();
    fs::rename(&path, &old).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(log.reopen().is_err());
    log.log(&entry(b"/still"));
    assert!(log.flush(LIMIT));
    assert_eq!(paths(&old), ["/still"]);
}

#[test]
fn a_new_target_and_format_begin_with_the_next_line() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let log = AccessLog::start(file(&first), Format::Json, metrics()).unwrap();
    log.log(&entry(b"/1"));
    log.retarget(file(&second), Format::Combined);
    log.log(&entry(b"/2"));
    log.retarget(Target::Off.open().unwrap(), Format::Json);
    assert!(!log.is_on());
    log.log(&entry(b"/3"));
    log.reopen().unwrap();
    log.retarget(file(&first), Format::Json);
    log.log(&entry(b"/4"));
    assert!(log.flush(LIMIT));
    assert_eq!(paths(&first), ["/1", "/4"]);
    let combined = fs::read_to_string(&second).unwrap();
    assert_eq!(combined.lines().count(), 1);
    assert!(combined.starts_with("unix - - [") && combined.ends_with("] \"GET /2 HTTP/1.1\" 200 0 \"-\" \"-\"\n"));
}

/// Blocks in its first write until it is released.
struct Stuck(mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_reader_costs_lines_and_not_time() {
    let metrics = metrics();
    let (release, stuck) = mpsc::channel();
    let log = AccessLog::start(Sink::to(Stuck(stuck)), Format::Json, Arc::clone(&metrics)).unwrap();
    log.log(&entry(b"/first"));
    assert!(!log.flush(Duration::from_millis(200)), "the writer hangs");
    let big = vec![b'a'; 8000];
    for _ in 0..1000 {
        log.log(&entry(&big));
    }
    drop(release);
    assert!(log.flush(LIMIT));
    let dropped = metrics.access_log_dropped.get();
    assert!((400..600).contains(&dropped), "8 MB were logged and 4 MiB fit: {dropped}");
    assert_eq!(metrics.access_log_errors.get(), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_counted() {
    let metrics = metrics();
    let log = AccessLog::start(file(Path::new("/dev/full")), Format::Json, Arc::clone(&metrics)).unwrap();
    log.log(&entry(b"/1"));
    log.log(&entry(b"/2"));
    assert!(log.flush(LIMIT));
    log.log(&entry(b"/3"));
    assert!(log.flush(LIMIT));
    assert_eq!(metrics.access_log_dropped.get(), 3);
    assert!(metrics.access_log_errors.get() >= 2);
}

#[test]
fn a_dropped_log_writes_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::start(file(&path), Format::Json, metrics()).unwrap();
    log.log(&entry(b"/last"));
    drop(log);
    let begun = Instant::now();
    while fs::metadata(&path).unwrap().len() == 0 && begun.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(paths(&path), ["/last"]);
}
