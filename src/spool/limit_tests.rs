//! What bodies cost: never more than the limits, never more than about what was sent, and nothing at the end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;

use super::fault_tests::{all_given_back, depot, pattern, read_all};
use super::{BLOCK, Depot, Full, Keep, Limits, Spooled, Usage};

const KIB: u64 = 1 << 10;

fn limits(dir: &Path) -> Limits {
    Limits {
        memory: 1024 * KIB,
        memory_per_body: 64 * KIB,
        dir: dir.into(),
        disk: 2048 * KIB,
        disk_per_body: 1024 * KIB,
    }
}

#[tokio::test]
async fn a_small_body_is_what_it_has() {
    let depot = Depot::new(limits(Path::new("/nowhere")));
    for keep in [Keep::ForReplay, Keep::Once] {
        let mut body = Spooled::new(&depot, keep);
        assert_eq!(depot.usage(), Usage::default());
        body.push(pattern(0, 1000)).await.unwrap();
        assert_eq!(depot.usage(), Usage { memory: 1000, ..Usage::default() });
        assert_eq!(body.next().await.unwrap().unwrap(), pattern(0, 1000));
        assert_eq!(depot.usage().memory, if keep == Keep::Once { 0 } else { 1000 });
        assert!(body.next().await.unwrap().is_none());
        body.rewind();
        assert_eq!(body.unread(), if keep == Keep::Once { 0 } else { 1000 });
        drop(body);
        assert_eq!(depot.usage(), Usage::default());
    }
    assert!(size_of::<Spooled>() <= 200, "{}", size_of::<Spooled>());
}

#[tokio::test]
async fn a_body_within_little_memory_has_no_more_where_there_is_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let depot = Depot::new(limits(dir.path()));
    let mut body = Spooled::within(&depot, Keep::Once, 24 << 10);
    let all = pattern(0, 300_000);
    for at in (0..all.len()).step_by(3000) {
        body.push(all.slice(at..at + 3000)).await.unwrap();
        assert!(depot.usage().memory <= 24 * KIB, "{at}: {:?}", depot.usage());
    }
    assert!(body.is_on_disk());
    while body.unread() > 0 {
        let at = all.len() - usize::try_from(body.unread()).unwrap();
        let piece = body.next().await.unwrap().unwrap();
        assert!(piece.len() <= 12 << 10 && piece == all.slice(at..at + piece.len()), "{at}: {}", piece.len());
    }
    drop(body);
    assert_eq!(depot.usage(), Usage::default());

    let depot = Depot::new(Limits { disk: 0, ..limits(dir.path()) });
    let mut body = Spooled::within(&depot, Keep::Once, 24 << 10);
    body.push(all.slice(..60_000)).await.unwrap();
    assert!(!body.is_on_disk());
}

/// A slice of a large buffer does not keep the buffer.
#[tokio::test]
async fn small_pieces_are_copied() {
    let depot = Depot::new(limits(Path::new("/nowhere")));
    let mut body = Spooled::new(&depot, Keep::ForReplay);
    let buffer = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..20 {
        body.push(buffer.slice(..100)).await.unwrap();
    }
    assert!(buffer.is_unique());
    assert_eq!(read_all(&mut body).await, vec![7; 2000]);
}

#[tokio::test]
async fn single_bytes_cost_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    for (keep, announced) in [(Keep::ForReplay, 0), (Keep::Once, 0), (Keep::Once, 64 * KIB), (Keep::Once, 90 * KIB)] {
        let depot = Depot::new(limits(dir.path()));
        let mut body = Spooled::new(&depot, keep);
        body.announce(announced).unwrap();
        let all = pattern(0, 100_000);
        for at in 0..all.len() {
            body.push(all.slice(at..=at)).await.unwrap();
            let allowed = (2 * at + 4096).min(2 * BLOCK) as u64;
            assert!(depot.usage().memory <= allowed.max(announced), "{at}: {:?}", depot.usage());
        }
        assert_eq!(read_all(&mut body).await, all);
        assert!(!body.is_on_disk());
        drop(body);
        assert_eq!(depot.usage(), Usage::default());
    }
}

/// With no memory at all every byte is written, and the file is gone when it is read.
#[tokio::test]
async fn single_bytes_without_memory() {
    let dir = tempfile::tempdir().unwrap();
    let depot = depot(dir.path(), 0, 64 * KIB, 64 * KIB);
    let mut body = Spooled::new(&depot, Keep::Once);
    for at in 0..300 {
        assert!(body.try_push(pattern(at, 1)).is_err());
        body.push(pattern(at, 1)).await.unwrap();
    }
    assert_eq!(depot.usage(), Usage { memory: 0, disk: 64 * KIB, files: 1 });
    assert_eq!(read_all(&mut body).await, pattern(0, 300));
    assert_eq!(depot.usage(), Usage::default());
    assert_eq!((depot.totals().bodies_on_disk, depot.totals().disk_bytes), (1, 300));
}

#[tokio::test]
async fn what_was_announced_is_never_refused() {
    let dir = tempfile::tempdir().unwrap();
    for len in [1, 5000, 64 * KIB, 64 * KIB + 1, 1024 * KIB] {
        for piece in [1000, 7000, 9000, 70_000] {
            let depot = Depot::new(limits(dir.path()));
            let mut body = Spooled::new(&depot, Keep::ForReplay);
            body.announce(len).unwrap();
            let usage = depot.usage();
            assert_eq!((usage.memory + usage.disk, usage.files), (len.next_multiple_of(64 * KIB).min(len), 0));
            // Nobody leaves anything for the rest.
            depot.set_limits(Limits { memory: 0, memory_per_body: 0, disk: 0, disk_per_body: 0, ..depot.limits() });
            let all = pattern(0, usize::try_from(len).unwrap());
            for at in (0..all.len()).step_by(piece) {
                body.push(all.slice(at..all.len().min(at + piece))).await.unwrap();
            }
            assert_eq!(depot.usage().memory + depot.usage().disk, len);
            assert!(matches!(body.push(pattern(0, 1)).await, Err(Full::Body)));
            assert_eq!(read_all(&mut body).await, all);
            body.rewind();
            assert_eq!(read_all(&mut body).await, all);
            drop(body);
            all_given_back(&depot).await;
        }
    }
}

#[tokio::test]
async fn what_was_announced_and_is_read_on_the_way_is_never_refused() {
    let dir = tempfile::tempdir().unwrap();
    for len in [5000, 60_000, 900_000] {
        let depot = Depot::new(limits(dir.path()));
        let mut body = Spooled::new(&depot, Keep::Once);
        body.announce(len).unwrap();
        depot.set_limits(Limits { memory: 0, disk: 0, disk_per_body: 0, memory_per_body: 0, ..depot.limits() });
        let all = pattern(0, usize::try_from(len).unwrap());
        let mut read = Vec::new();
        for (count, at) in (0..all.len()).step_by(700).enumerate() {
            body.push(all.slice(at..all.len().min(at + 700))).await.unwrap();
            if count % 3 > 0 {
                read.extend(body.next().await.unwrap().unwrap_or_default());
            }
            assert_eq!(depot.usage().memory.max(depot.usage().disk), len - read.len() as u64);
        }
        read.extend(read_all(&mut body).await);
        assert_eq!(read, all);
        assert_eq!(depot.usage(), Usage::default());
    }
}

#[tokio::test]
async fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let depot = Depot::new(limits(dir.path()));
    let body = || Spooled::new(&depot, Keep::ForReplay);
    for len in [1024 * KIB + 1, u64::MAX] {
        assert!(matches!(body().announce(len), Err(Full::Body)));
    }
    let (mut a, mut b, mut c) = (body(), body(), body());
    a.announce(1024 * KIB).unwrap();
    b.announce(1000 * KIB).unwrap();
    for _ in 0..3 {
        assert!(matches!(c.announce(100 * KIB), Err(Full::Budget)));
    }
    assert_eq!((depot.totals().refused_body, depot.totals().refused_budget), (2, 1));
    // Refused, it may still be small.
    c.push(pattern(0, 60_000)).await.unwrap();
    assert!(matches!(c.push(pattern(0, 30_000)).await, Err(Full::Budget)));
    c.push(pattern(60_000, 20_000)).await.unwrap();
    assert_eq!(read_all(&mut c).await, pattern(0, 80_000));
    drop((a, b, c));
    assert_eq!(depot.usage(), Usage::default());
    // No memory and no disk: not that the body is too large.
    depot.set_limits(Limits { memory: 0, disk_per_body: 0, ..depot.limits() });
    assert!(matches!(body().push(pattern(0, 10)).await, Err(Full::Budget)));
    assert!(matches!(body().push(pattern(0, 70_000)).await, Err(Full::Body)));
    assert_eq!(depot.usage(), Usage::default());
}

#[tokio::test]
async fn smaller_limits_are_for_what_comes() {
    let dir = tempfile::tempdir().unwrap();
    let depot = Depot::new(limits(dir.path()));
    let mut body = Spooled::new(&depot, Keep::Once);
    body.push(pattern(0, 60_000)).await.unwrap();
    let less = Limits { memory: 1000, memory_per_body: 500, disk: 1000, disk_per_body: 1000, ..depot.limits() };
    depot.set_limits(less.clone());
    assert_eq!((depot.limits(), depot.usage().memory), (less, 60_000));
    body.push(pattern(60_000, 900)).await.unwrap();
    assert!(matches!(body.push(pattern(60_900, 101)).await, Err(Full::Body)));
    assert_eq!(read_all(&mut body).await, pattern(0, 60_900));
    body.try_push(pattern(0, 501)).unwrap_err();
    body.try_push(pattern(0, 500)).unwrap();
    assert_eq!(depot.usage(), Usage { memory: 500, ..Usage::default() });
}

#[test]
fn threads_never_pass_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let depot = Depot::new(Limits { memory: 200 * KIB, disk: 900 * KIB, ..limits(dir.path()) });
    let done = Arc::new(AtomicBool::new(false));
    let watch = {
        let (depot, done) = (depot.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Relaxed) {
                std::thread::yield_now();
                let usage = depot.usage();
                assert!(usage.memory <= 200 * KIB && usage.disk <= 900 * KIB && usage.files <= 16, "{usage:?}");
            }
        })
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    runtime.block_on(async {
        let bodies: Vec<_> = (0..16).map(|seed| tokio::spawn(mixed(depot.clone(), seed))).collect();
        for body in bodies {
            body.await.unwrap();
        }
        all_given_back(&depot).await;
    });
    done.store(true, Relaxed);
    watch.join().unwrap();
    let totals = depot.totals();
    assert!(totals.refused_budget > 0 && totals.bodies_on_disk > 0 && totals.io_errors == 0, "{totals:?}");
}

async fn mixed(depot: Arc<Depot>, seed: usize) {
    for round in 0..8 {
        let mut body = Spooled::new(&depot, if round % 2 == 0 { Keep::Once } else { Keep::ForReplay });
        let (mut pushed, mut read) = (0, 0);
        for step in 0..40 {
            let len = (seed * 7919 + round * 104_729 + step * 1299) % 30_000;
            if body.push(pattern(pushed, len)).await.is_ok() {
                pushed += len;
            }
            if step % 3 == 0
                && let Some(piece) = body.next().await.unwrap()
            {
                assert_eq!(piece, pattern(read, piece.len()));
                read += piece.len();
            }
        }
        assert_eq!(read_all(&mut body).await, pattern(read, pushed - read));
    }
}
