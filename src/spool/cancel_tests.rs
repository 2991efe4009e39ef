//! Calls that are dropped on their way, with the disk held up at each stage.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};

use super::fault_tests::{all_given_back, depot, pattern, read_all};
use super::{Keep, Limits, Spooled, Usage};

/// Polls once and drops; the output if it was there at once.
pub(super) fn abandon<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_push_has_taken_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for keep in [Keep::ForReplay, Keep::Once] {
        let depot = depot(dir.path(), 10_000, 1 << 20, 1 << 20);
        let mut body = Spooled::new(&depot, keep);
        body.push(pattern(0, 8000)).await.unwrap();
        body.push(pattern(8000, 12_000)).await.unwrap();
        {
            let _gate = depot.faults.gate.lock();
            assert!(abandon(body.push(pattern(1, 80_000))).is_none());
            assert!(abandon(body.push(pattern(2, 30_000))).is_none());
        }
        assert_eq!((body.len(), body.unread()), (20_000, 20_000));
        assert_eq!(body.next().await.unwrap().unwrap(), pattern(0, 8000));
        body.push(pattern(20_000, 90_000)).await.unwrap();
        assert_eq!(read_all(&mut body).await, pattern(8000, 102_000));
        drop(body);
        assert_eq!(depot.usage(), Usage::default());
    }
}

/// The tail is shared with a write that goes on when its push was dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_outlives_a_dropped_push() {
    let dir = tempfile::tempdir().unwrap();
    for keep in [Keep::ForReplay, Keep::Once] {
        let depot = depot(dir.path(), 1 << 20, 1 << 20, 1 << 20);
        depot.set_limits(Limits { memory_per_body: 1, ..depot.limits() });
        let mut body = Spooled::new(&depot, keep);
        body.push(pattern(0, 60_000)).await.unwrap();
        let gate = depot.faults.gate.lock();
        assert!(abandon(body.push(pattern(5, 10_000))).is_none());
        // Added to, and read, while the write waits.
        body.try_push(pattern(60_000, 5000)).unwrap();
        assert_eq!(abandon(body.next()).unwrap().unwrap().unwrap(), pattern(0, 65_000));
        drop(gate);
        body.push(pattern(65_000, 100_000)).await.unwrap();
        assert_eq!(read_all(&mut body).await, pattern(65_000, 100_000));
        drop(body);
        all_given_back(&depot).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_next_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let depot = depot(dir.path(), 0, 1 << 20, 1 << 20);
    depot.faults.uncached.store(1, Relaxed);
    for keep in [Keep::ForReplay, Keep::Once] {
        let mut body = Spooled::new(&depot, keep);
        body.push(pattern(0, 200_000)).await.unwrap();
        let gate = depot.faults.gate.lock();
        assert!(abandon(body.next()).is_none());
        assert!(abandon(body.next()).is_none());
        assert!(abandon(body.push(pattern(9, 9))).is_none());
        drop(gate);
        assert_eq!(body.unread(), 200_000);
        let first = body.next().await.unwrap().unwrap();
        assert_eq!(first, pattern(0, first.len()));
        let gate = depot.faults.gate.lock();
        assert!(abandon(body.next()).is_none());
        drop(gate);
        if keep == Keep::ForReplay {
            body.rewind();
            assert_eq!(read_all(&mut body).await, pattern(0, 200_000));
        } else {
            assert_eq!(read_all(&mut body).await, pattern(first.len(), 200_000 - first.len()));
        }
    }
    all_given_back(&depot).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_waits_for_the_write_of_a_dropped_body() {
    let dir = tempfile::tempdir().unwrap();
    let depot = depot(dir.path(), 0, 1 << 20, 1 << 20);
    let mut body = Spooled::new(&depot, Keep::Once);
    let gate = depot.faults.gate.lock();
    assert!(abandon(body.push(pattern(0, 100_000))).is_none());
    drop(body);
    assert!(depot.usage().disk >= 100_000);
    drop(gate);
    all_given_back(&depot).await;
    assert_eq!(depot.totals().disk_bytes, 100_000);
}

/// A dropped push is on the disk all the same until something is written over it, and as long on the budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dropped_push_wrote_is_accounted_for() {
    let dir = tempfile::tempdir().unwrap();
    let depot = depot(dir.path(), 0, 1 << 20, 1 << 20);
    let mut body = Spooled::new(&depot, Keep::Once);
    body.push(pattern(0, 100_000)).await.unwrap();
    let gate = depot.faults.gate.lock();
    assert!(abandon(body.push(pattern(1, 300_000))).is_none());
    drop(gate);
    body.next().await.unwrap().unwrap();
    assert!(depot.usage().disk >= 400_000);
    body.push(pattern(100_000, 10)).await.unwrap();
    body.next().await.unwrap().unwrap();
    assert!(depot.usage().disk <= 200_000);
    read_all(&mut body).await;
    all_given_back(&depot).await;
}

#[test]
fn a_runtime_that_ends_takes_nothing_along() {
    let dir = tempfile::tempdir().unwrap();
    let depot = depot(dir.path(), 0, 4 << 20, 4 << 20);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut body = Spooled::new(&depot, Keep::ForReplay);
    runtime.block_on(body.push(pattern(0, 3 << 20))).unwrap();
    drop(runtime);
    assert_eq!(depot.usage().files, 1);
    drop(body);
    let another = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    another.block_on(all_given_back(&depot));
}
