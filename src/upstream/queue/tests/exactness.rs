//! No slot too many, none lost, nobody forgotten: many tasks on several threads, leaving at any moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use super::is_idle;
use crate::config::model::{self, Priority};
use crate::upstream::chance::{below, next};
use crate::upstream::endpoint::Lease;
use crate::upstream::group::{Balance, Group, Rules};
use crate::upstream::queue::{Refused, Wanted};
use crate::upstream::reach::STEP_MAX;
use crate::upstream::rig::{RULES, Rig};

/// An app with ports 1 to 3 that notices when more requests come than it has workers.
#[derive(Default)]
struct App {
    busy: [AtomicU32; 4],
    most: [AtomicU32; 4],
    refuses: [AtomicBool; 4],
    too_many: AtomicU32,
}

impl App {
    async fn work(&self, lease: &Lease) {
        let port = port(lease);
        if self.busy[port].fetch_add(1, SeqCst) >= self.most[port].load(SeqCst) {
            self.too_many.fetch_add(1, SeqCst);
        }
        let _busy = Busy(&self.busy[port]);
        pause().await;
    }

    fn refuses(&self, lease: &Lease) -> bool {
        self.refuses[port(lease)].load(SeqCst)
    }
}

/// A worker that is done when the request ends, however it ends.
struct Busy<'a>(&'a AtomicU32);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn port(lease: &Lease) -> usize {
    lease.endpoint().label.rsplit(':').next().unwrap().parse().unwrap()
}

/// Nothing, a yield, or a moment.
async fn pause() {
    match below(next(), 4) {
        0 => {}
        1 | 2 => tokio::task::yield_now().await,
        _ => tokio::time::sleep(Duration::from_micros(next() % 300)).await,
    }
}

/// One request: it tries again where the app refuses, and may leave at any moment.
async fn request(group: Arc<Group>, app: Arc<App>) -> Option<Refused> {
    let priority = if below(next(), 8) == 0 { Priority::High } else { Priority::Normal };
    let hash = (below(next(), 2) == 0).then(next);
    let patience = match below(next(), 3) {
        0 => Duration::from_micros(next() % 2000),
        _ => Duration::from_secs(60),
    };
    let tried = async {
        let mut wanted = Wanted::new(priority, hash);
        loop {
            let lease = match group.acquire(&mut wanted).await {
                Ok(lease) => lease,
                Err(refused) => return Some(refused),
            };
            if !app.refuses(&lease) {
                lease.endpoint().record_connected();
                app.work(&lease).await;
                return None;
            }
            group.record_connect_failure(lease.endpoint(), &"refused");
            wanted.record_tried(lease.endpoint());
        }
    };
    tokio::time::timeout(patience, tried).await.unwrap_or(None)
}

/// Sends `count` requests to `groups`; all of them end.
async fn flood(groups: &[Arc<Group>], app: &Arc<App>, count: usize) -> Vec<Refused> {
    let mut tasks = Vec::new();
    for n in 0..count {
        tasks.push(tokio::spawn(request(groups[n % groups.len()].clone(), app.clone())));
        if below(next(), 50) == 0 {
            pause().await;
        }
    }
    let mut refused = Vec::new();
    for task in tasks {
        refused.extend(task.await.unwrap());
    }
    refused
}

fn app(capacity: u32) -> Arc<App> {
    let app = App::default();
    app.most.iter().for_each(|most| most.store(capacity, SeqCst));
    Arc::new(app)
}

const CALM: Rules = Rules { ejection: model::Ejection { consecutive_failures: 0, ..RULES.ejection }, ..RULES };

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn never_more_than_there_are_workers_and_nobody_is_forgotten() {
    for balance in [Balance::LeastConn, Balance::RoundRobin, Balance::P2c, Balance::Hash] {
        let group = Rig::alone(&[1, 2, 3], 2, &Rules { balance, ..CALM });
        let app = app(2);
        let refused = flood(std::slice::from_ref(&group), &app, 3000).await;
        assert_eq!((app.too_many.load(SeqCst), refused), (0, vec![]), "{balance:?}");
        assert!(is_idle(&group));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_upstreams_and_a_reload_on_one_address_are_exact_too() {
    let rig = Rig::new();
    let groups = [
        rig.group("left", &[1, 2], 2, &CALM),
        rig.group("right", &[2, 3], 2, &CALM),
        rig.group("left", &[1, 3], 2, &Rules { balance: Balance::P2c, ..CALM }),
    ];
    let app = app(2);
    let refused = flood(&groups, &app, 6000).await;
    assert_eq!((app.too_many.load(SeqCst), refused), (0, vec![]));
    assert!(groups.iter().all(|group| is_idle(group)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn probes_count_and_hold_nobody_up() {
    let group = Rig::alone(&[1, 2], 1, &CALM);
    let app = app(1);
    let probes: Vec<_> = group
        .targets()
        .list
        .iter()
        .map(|target| {
            let (endpoint, app) = (target.endpoint.clone(), app.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while count < 200 {
                    // Some give up.
                    let patience = Duration::from_millis(next() % 3);
                    if let Some(lease) = endpoint.acquire_probe(patience).await {
                        app.work(&lease).await;
                    }
                    count += 1;
                }
            })
        })
        .collect();
    let refused = flood(std::slice::from_ref(&group), &app, 2000).await;
    for probe in probes {
        probe.await.unwrap();
    }
    assert_eq!((app.too_many.load(SeqCst), refused), (0, vec![]));
    assert!(is_idle(&group));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn apps_that_come_and_go_lose_nothing() {
    let group = Rig::alone(&[1, 2], 2, &CALM);
    let app = app(2);
    let (restarts, stop) = (app.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let restarts = tokio::spawn(async move {
        while !stopped.load(SeqCst) {
            let port = 1 + below(next(), 2);
            restarts.refuses[port].store(below(next(), 2) == 0, SeqCst);
            tokio::time::sleep(Duration::from_millis(next() % 30)).await;
        }
        restarts.refuses.iter().for_each(|refuses| refuses.store(false, SeqCst));
    });
    let flooding = flood(std::slice::from_ref(&group), &app, 4000);
    let calming = async {
        tokio::time::sleep(4 * STEP_MAX).await;
        stop.store(true, SeqCst);
    };
    let (refused, ()) = tokio::join!(flooding, calming);
    restarts.await.unwrap();
    assert_eq!((app.too_many.load(SeqCst), refused), (0, vec![]));
    assert!(is_idle(&group));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_capacity_that_changes_all_the_time_strands_nobody() {
    let group = Rig::alone(&[1], 1, &CALM);
    let app = app(8);
    let endpoint = group.targets().list[0].endpoint.clone();
    let changes = tokio::spawn(async move {
        for _ in 0..500 {
            endpoint.set_capacity(Some(1 + u32::try_from(below(next(), 8)).unwrap()));
            if below(next(), 10) == 0 {
                endpoint.drain();
                tokio::task::yield_now().await;
                endpoint.undrain();
            }
            pause().await;
        }
    });
    let refused = flood(std::slice::from_ref(&group), &app, 3000).await;
    changes.await.unwrap();
    assert_eq!((app.too_many.load(SeqCst), refused), (0, vec![]));
    assert!(is_idle(&group));
}
