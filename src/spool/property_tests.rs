//! Whatever is pushed, read, rewound and abandoned, in whatever order: the bytes are those of a plain vector.

use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::cancel_tests::abandon;
use super::fault_tests::{all_given_back, pattern};
use super::{Depot, Keep, Limits, Spooled};

#[derive(Debug, Clone)]
enum Step {
    Announce(u64),
    Push(usize),
    TryPush(usize),
    AbandonPush(usize),
    Next,
    AbandonNext,
    Drain,
    Rewind,
    Limits(u64, u64),
    NoDisk(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![3 => 0..200_usize, 2 => 0..9000_usize, 1 => 0..100_000_usize];
    prop_oneof![
        1 => (0..300_000_u64).prop_map(Step::Announce),
        8 => len().prop_map(Step::Push),
        3 => len().prop_map(Step::TryPush),
        1 => len().prop_map(Step::AbandonPush),
        8 => Just(Step::Next),
        2 => Just(Step::AbandonNext),
        1 => Just(Step::Drain),
        1 => Just(Step::Rewind),
        1 => (0..100_000_u64, 0..200_000_u64).prop_map(|(memory, disk)| Step::Limits(memory, disk)),
        1 => any::<bool>().prop_map(Step::NoDisk),
    ]
}

/// A body, and what it is to be.
struct Pair {
    body: Spooled,
    pushed: usize,
    read: usize,
}

impl Pair {
    fn took(&mut self, len: usize, taken: bool) {
        self.pushed += if taken { len } else { 0 };
    }

    fn gave(&mut self, piece: &[u8]) {
        assert!(!piece.is_empty() && piece.len() <= super::BLOCK && self.read + piece.len() <= self.pushed);
        assert_eq!(piece, pattern(self.read, piece.len()));
        self.read += piece.len();
    }

    async fn next(&mut self) -> bool {
        let piece = self.body.next().await.unwrap();
        assert_eq!(piece.is_none(), self.read == self.pushed);
        piece.inspect(|piece| self.gave(piece)).is_some()
    }

    async fn take(&mut self, step: Step, keep: Keep, depot: &Depot) {
        match step {
            Step::Announce(len) => drop(self.body.announce(len)),
            Step::Push(len) => {
                let taken = self.body.push(pattern(self.pushed, len)).await.is_ok();
                self.took(len, taken);
            }
            Step::TryPush(len) => {
                let taken = self.body.try_push(pattern(self.pushed, len)).is_ok();
                self.took(len, taken);
            }
            Step::AbandonPush(len) => {
                let taken = abandon(self.body.push(pattern(self.pushed, len)));
                self.took(len, taken.is_some_and(|taken| taken.is_ok()));
            }
            Step::Next => drop(self.next().await),
            Step::AbandonNext => {
                if let Some(piece) = abandon(self.body.next()) {
                    piece.unwrap().inspect(|piece| self.gave(piece));
                }
            }
            Step::Drain => while self.next().await {},
            Step::Rewind => {
                self.body.rewind();
                self.read = if keep == Keep::ForReplay { 0 } else { self.read };
            }
            Step::Limits(memory, disk) => depot.set_limits(Limits {
                memory_per_body: memory,
                memory: memory + disk,
                disk_per_body: disk,
                ..depot.limits()
            }),
            Step::NoDisk(is) => depot.faults.write.store(if is { 28 } else { 0 }, Relaxed),
        }
        assert_eq!((self.body.len(), self.body.unread()), (self.pushed as u64, (self.pushed - self.read) as u64));
    }
}

async fn run(steps: Vec<Step>, keep: Keep, limits: Limits, cached: bool) {
    let depot = Depot::new(limits);
    depot.faults.uncached.store(i32::from(!cached), Relaxed);
    let mut pair = Pair { body: Spooled::new(&depot, keep), pushed: 0, read: 0 };
    let mut most = (depot.limits().memory, depot.limits().disk);
    for step in steps {
        pair.take(step, keep, &depot).await;
        most = (most.0.max(depot.limits().memory), most.1);
        let usage = depot.usage();
        assert!(usage.memory <= most.0 && usage.disk <= most.1 && usage.files <= 2, "{usage:?}");
        // In memory and nowhere else, a piece is charged at least by its length.
        assert!(usage.memory + usage.disk >= pair.body.unread(), "{usage:?}");
    }
    if keep == Keep::ForReplay {
        pair.body.rewind();
        pair.read = 0;
    }
    while pair.next().await {}
    drop(pair);
    all_given_back(&depot).await;
}

proptest! {
    #[test]
    fn a_body_is_a_vector(
        steps in prop::collection::vec(step(), 1..60),
        once in any::<bool>(),
        memory in prop_oneof![0..300_u64, 0..200_000_u64],
        per_body in prop_oneof![0..300_u64, 0..70_000_u64],
        disk in 0..400_000_u64,
        cached in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            memory,
            memory_per_body: per_body,
            dir: dir.path().into(),
            disk,
            disk_per_body: disk * 3 / 4,
        };
        runtime.block_on(run(steps, if once { Keep::Once } else { Keep::ForReplay }, limits, cached));
    }
}
