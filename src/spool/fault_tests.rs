//! What a disk can do to a body, and how it ends.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Depot, Full, Keep, Limits, Spooled, Usage};

/// What the disk of one depot is made to do: error numbers (0: none), and a gate that jobs wait at while it is locked.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub write: AtomicI32,
    pub read: AtomicI32,
    pub punch: AtomicI32,
    pub uncached: AtomicI32,
    pub gate: Mutex<()>,
}

fn fault(number: &AtomicI32) -> io::Result<()> {
    match number.load(Relaxed) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

impl Faults {
    pub fn write(&self) -> io::Result<()> {
        drop(self.gate.lock());
        fault(&self.write)
    }

    pub fn read(&self) -> io::Result<()> {
        drop(self.gate.lock());
        fault(&self.read)
    }

    pub fn punch(&self) -> io::Result<()> {
        fault(&self.punch)
    }

    pub fn cached(&self) -> Option<()> {
        fault(&self.uncached).ok()
    }
}

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EOPNOTSUPP: i32 = 95;

/// A depot with so little memory that everything is written.
pub(super) fn depot(dir: &Path, memory: u64, disk: u64, disk_per_body: u64) -> Arc<Depot> {
    Depot::new(Limits { memory, memory_per_body: memory, dir: dir.into(), disk, disk_per_body })
}

/// Bytes that differ by place.
pub(super) fn pattern(start: usize, len: usize) -> Bytes {
    (start..start + len).map(|at| (at ^ at >> 8 ^ at >> 16).to_le_bytes()[0]).collect()
}

pub(super) async fn read_all(body: &mut Spooled) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = body.next().await.unwrap() {
        assert!(!piece.is_empty() && piece.len() <= super::BLOCK);
        all.extend_from_slice(&piece);
    }
    all
}

/// A large file is closed elsewhere, a moment after the body is dropped.
pub(super) async fn all_given_back(depot: &Depot) {
    for _ in 0..2000 {
        if depot.usage() == Usage::default() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{:?}", depot.usage());
}

#[tokio::test]
async fn a_full_disk_refuses_what_comes_and_keeps_what_came() {
    let dir = tempfile::tempdir().unwrap();
    for keep in [Keep::ForReplay, Keep::Once] {
        let depot = depot(dir.path(), 1000, 1 << 20, 1 << 20);
        let mut body = Spooled::new(&depot, keep);
        body.push(pattern(0, 1000)).await.unwrap();
        body.push(pattern(1000, 5000)).await.unwrap();
        assert!(body.is_on_disk());
        depot.faults.write.store(ENOSPC, Relaxed);
        for _ in 0..2 {
            let Err(Full::Io(error)) = body.push(pattern(6000, 70_000)).await else { panic!() };
            assert_eq!(error.raw_os_error(), Some(ENOSPC));
        }
        assert_eq!(depot.usage().disk, 5000);
        assert_eq!((body.len(), body.unread(), depot.totals().io_errors), (6000, 6000, 2));
        depot.faults.write.store(0, Relaxed);
        body.push(pattern(6000, 100)).await.unwrap();
        assert_eq!(read_all(&mut body).await, pattern(0, 6100));
        drop(body);
        assert_eq!(depot.usage(), Usage::default());
    }
}

#[tokio::test]
async fn a_tail_that_cannot_be_written_is_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let depot = Depot::new(Limits { memory_per_body: 10, ..depot(dir.path(), 1 << 20, 1 << 20, 1 << 20).limits() });
    let mut body = Spooled::new(&depot, Keep::Once);
    depot.faults.write.store(ENOSPC, Relaxed);
    body.push(pattern(0, 60_000)).await.unwrap();
    assert!(matches!(body.push(pattern(60_000, 60_000)).await, Err(Full::Io(_))));
    assert!(!body.is_on_disk());
    assert_eq!(read_all(&mut body).await, pattern(0, 60_000));
    assert_eq!(depot.usage(), Usage::default());
    // It was read to its end, so memory is used again.
    body.try_push(pattern(0, 10)).unwrap();
    assert_eq!(depot.usage(), Usage { memory: 10, ..Usage::default() });
}

#[tokio::test]
async fn a_read_that_fails_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let depot = depot(dir.path(), 0, 1 << 20, 1 << 20);
    let mut body = Spooled::new(&depot, Keep::Once);
    body.push(pattern(0, 100_000)).await.unwrap();
    depot.faults.uncached.store(1, Relaxed);
    depot.faults.read.store(EIO, Relaxed);
    for _ in 0..2 {
        assert_eq!(body.next().await.unwrap_err().raw_os_error(), Some(EIO));
    }
    assert_eq!((body.unread(), depot.totals().io_errors), (100_000, 2));
    depot.faults.read.store(0, Relaxed);
    assert_eq!(read_all(&mut body).await, pattern(0, 100_000));
}

#[tokio::test]
async fn directories_that_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for bad in [dir.path().join("none"), file, "/proc".into()] {
        let depot = depot(&bad, 10, 1 << 20, 1 << 20);
        let mut body = Spooled::new(&depot, Keep::Once);
        body.push(pattern(0, 10)).await.unwrap();
        assert!(matches!(body.push(pattern(10, 10)).await, Err(Full::Io(_))), "{}", bad.display());
        assert_eq!((depot.totals().io_errors, depot.usage().files), (1, 0));
        assert_eq!(read_all(&mut body).await, pattern(0, 10));
        depot.set_limits(Limits { dir: dir.path().into(), ..depot.limits() });
        body.push(pattern(10, 100)).await.unwrap();
        assert_eq!(read_all(&mut body).await, pattern(10, 100));
    }
}

/// What the file holds on disk: the bytes of its blocks.
fn blocks() -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = std::fs::read_link(&path).ok()?;
        name.to_str()?.contains("only-of-this-test").then(|| std::fs::metadata(path).ok())?
    });
    files.map(|file| file.blocks() * 512).sum()
}

#[tokio::test]
async fn what_was_read_once_leaves_the_disk() {
    const MIB: usize = 1 << 20;
    let dir = tempfile::Builder::new().prefix("only-of-this-test").tempdir().unwrap();
    let depot = depot(dir.path(), 0, 4 << 20, 4 << 20);
    let mut body = Spooled::new(&depot, Keep::Once);
    let (mut pushed, mut read) = (0, 0);
    // A reader that never catches up, for four times what the disk may hold.
    while pushed < 16 * MIB {
        while pushed - read < 2 * MIB {
            body.push(pattern(pushed, 100_000)).await.unwrap();
            pushed += 100_000;
        }
        let piece = body.next().await.unwrap().unwrap();
        assert_eq!(piece, pattern(read, piece.len()));
        read += piece.len();
        assert!(depot.usage().disk <= (pushed - read + MIB + 3 * 65536) as u64, "{:?}", depot.usage());
    }
    let bound = (pushed - read + MIB + 3 * 65536) as u64;
    assert!(blocks() > 0 && blocks() <= bound, "{} {bound}", blocks());
    assert_eq!(depot.totals().bodies_on_disk, 1);
    assert_eq!(read_all(&mut body).await, pattern(read, pushed - read));
    all_given_back(&depot).await;
}

#[tokio::test]
async fn without_holes_the_file_goes_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let depot = depot(dir.path(), 0, 4 << 20, 4 << 20);
    depot.faults.punch.store(EOPNOTSUPP, Relaxed);
    let mut body = Spooled::new(&depot, Keep::Once);
    for round in 0..3 {
        for at in 0..40 {
            body.push(pattern(at * 100_000, 100_000)).await.unwrap();
        }
        assert!(matches!(body.push(pattern(0, 200_000)).await, Err(Full::Body)));
        while body.unread() > 100_000 {
            body.next().await.unwrap().unwrap();
        }
        assert!(depot.usage().disk >= 4_000_000);
        while body.next().await.unwrap().is_some() {}
        assert!(!body.is_on_disk());
        all_given_back(&depot).await;
        assert_eq!(depot.totals().bodies_on_disk, round + 1);
    }
    assert_eq!(depot.totals().refused_body, 1);
}

/// The system agrees with what the tests above inject: a file in a directory is no directory to make one in.
#[test]
fn the_device_that_is_full() {
    let mut full = std::fs::File::options().read(true).write(true).open("/dev/full").unwrap();
    full.read_exact(&mut [0]).unwrap();
    assert_eq!(io::Write::write(&mut full, b"x").unwrap_err().raw_os_error(), Some(ENOSPC));
}
