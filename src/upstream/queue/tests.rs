//! Order, bounds and deadlines of the queue, on one thread and a clock that tests move.

mod exactness;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::ticket::Place;
use super::{Refused, Waiter, Wanted};
use crate::config::model::{self, Priority};
use crate::upstream::group::{Group, Rules};
use crate::upstream::rig::{MS, RULES, Rig, at_once, endpoint, normal, poll_once, settle, wait};

fn is_idle(group: &Group) -> bool {
    group.queue.waiting() == 0 && group.targets().list.iter().all(|target| target.endpoint.in_flight() == 0)
}

fn holds_nothing(group: &Group) -> bool {
    let inner = group.queue.inner.lock();
    inner.lanes.is_empty() && inner.alarm.is_none()
}

#[tokio::test]
async fn who_came_first_is_served_first_and_high_priority_before() {
    let group = Rig::alone(&[1], 1, &RULES);
    let mut lease = Some(at_once(&group).await);
    let mut tasks = Vec::new();
    for priority in [Priority::Normal, Priority::Normal, Priority::High, Priority::Normal, Priority::High] {
        tasks.push(Some(wait(&group, priority).await));
    }
    for next in [2, 4, 0, 1, 3] {
        drop(lease.take());
        settle().await;
        let served: Vec<_> = (0..5).filter(|i| tasks[*i].as_ref().is_some_and(JoinHandle::is_finished)).collect();
        assert_eq!(served, [next]);
        lease = Some(tasks[next].take().unwrap().await.unwrap().unwrap());
    }
    drop(lease);
    assert!(is_idle(&group) && holds_nothing(&group));
}

#[tokio::test]
async fn a_newcomer_does_not_overtake() {
    let group = Rig::alone(&[1], 1, &RULES);
    let lease = at_once(&group).await;
    let first = wait(&group, Priority::Normal).await;
    drop(lease);
    // The first has its slot but has not run yet.
    assert_eq!(group.queue.waiting(), 0);
    assert!(poll_once(group.acquire(&mut normal())).await.is_none());
    drop(first.await.unwrap().unwrap());
    assert!(is_idle(&group));
}

#[tokio::test]
async fn no_more_wait_than_may() {
    let rules = Rules { queue: model::Queue { max: 2, ..RULES.queue }, ..RULES };
    let group = Rig::alone(&[1], 1, &rules);
    let lease = at_once(&group).await;
    let tasks = [wait(&group, Priority::Normal).await, wait(&group, Priority::Normal).await];
    for priority in [Priority::Normal, Priority::High] {
        let refused = group.acquire(&mut Wanted::new(priority, None)).await.unwrap_err();
        assert_eq!(refused, Refused::Full { unreachable: false });
    }
    tasks[0].abort();
    settle().await;
    assert_eq!(group.queue.waiting(), 1, "who left makes room");
    let third = wait(&group, Priority::Normal).await;
    drop(lease);
    let [_, second] = tasks;
    drop(second.await.unwrap().unwrap());
    drop(third.await.unwrap().unwrap());
    assert!(is_idle(&group));
}

#[tokio::test]
async fn a_health_check_sends_nobody_away_even_where_nobody_may_wait() {
    let rules = Rules { queue: model::Queue { max: 0, ..RULES.queue }, ..RULES };
    let group = Rig::alone(&[1], 1, &rules);
    let probe = endpoint(&group, 0).acquire_probe(MS).await.unwrap();
    let waiting = wait(&group, Priority::Normal).await;
    assert_eq!(
        group.acquire(&mut normal()).await.unwrap_err(),
        Refused::Full { unreachable: false },
        "one for each check"
    );
    drop(probe);
    let lease = waiting.await.unwrap().unwrap();
    assert_eq!(group.acquire(&mut normal()).await.unwrap_err(), Refused::Full { unreachable: false });
    drop(lease);
    assert!(is_idle(&group));
}

#[tokio::test]
async fn where_nobody_may_wait_nobody_does() {
    let rules = Rules { queue: model::Queue { max: 0, ..RULES.queue }, ..RULES };
    let group = Rig::alone(&[1], 1, &rules);
    let mut wanted = normal();
    let lease = group.acquire(&mut wanted).await.unwrap();
    assert_eq!(group.acquire(&mut normal()).await.unwrap_err(), Refused::Full { unreachable: false });
    group.record_connect_failure(lease.endpoint(), &"refused");
    drop(lease);
    assert_eq!(
        group.acquire(&mut wanted).await.unwrap_err(),
        Refused::Full { unreachable: true },
        "nor one that had a slot before"
    );
    let nothing = Rig::alone(&[], 1, &rules);
    assert_eq!(nothing.acquire(&mut normal()).await.unwrap_err(), Refused::NoEndpoint);
}

#[tokio::test(start_paused = true)]
async fn each_waits_until_its_own_deadline_and_no_longer() {
    let group = Rig::alone(&[1], 1, &RULES);
    let began = Instant::now();
    let lease = at_once(&group).await;
    let early = wait(&group, Priority::Normal).await;
    tokio::time::sleep(4000 * MS).await;
    let mut wanted = normal();
    let late = group.acquire(&mut wanted).await.unwrap_err();
    assert_eq!((late, began.elapsed()), (Refused::Late { unreachable: false }, 14_000 * MS));
    assert_eq!(wanted.queued(), 10_000 * MS);
    assert!(early.is_finished());
    // The deadline is of the request, not of one wait: it passed, and nothing is waited for again.
    assert!(group.acquire(&mut wanted).await.is_err());
    assert_eq!(began.elapsed(), 14_000 * MS);
    drop(lease);
    assert!(group.acquire(&mut wanted).await.is_ok(), "what is there is taken all the same");
    assert!(is_idle(&group) && holds_nothing(&group));
}

#[tokio::test(start_paused = true)]
async fn the_time_waited_is_counted() {
    let group = Rig::alone(&[1], 1, &RULES);
    let lease = at_once(&group).await;
    let release = async {
        tokio::time::sleep(300 * MS).await;
        drop(lease);
    };
    let mut wanted = normal();
    let (lease, ()) = tokio::join!(group.acquire(&mut wanted), release);
    assert_eq!(wanted.queued(), 300 * MS);
    drop(lease);
    let mut wanted = normal();
    drop(group.acquire(&mut wanted).await);
    assert_eq!((wanted.queued(), wanted.deadline()), (Duration::ZERO, None));
}

#[tokio::test]
async fn a_slot_that_nobody_takes_any_more_goes_to_the_next() {
    let group = Rig::alone(&[1], 1, &RULES);
    let lease = at_once(&group).await;
    let mut wanted = normal();
    let mut first = Box::pin(group.acquire(&mut wanted));
    assert!(poll_once(first.as_mut()).await.is_none());
    let second = wait(&group, Priority::Normal).await;
    drop(lease);
    assert_eq!(endpoint(&group, 0).in_flight(), 1);
    assert!(!second.is_finished());
    drop(first);
    drop(second.await.unwrap().unwrap());
    assert!(is_idle(&group) && holds_nothing(&group));
}

#[tokio::test]
async fn ten_thousand_leave_one_by_one() {
    let group = Rig::alone(&[1], 1, &RULES);
    let lease = at_once(&group).await;
    let mut waiting = Vec::new();
    for _ in 0..10_000 {
        let group = group.clone();
        let mut future = Box::pin(async move { group.acquire(&mut normal()).await });
        assert!(poll_once(future.as_mut()).await.is_none());
        waiting.push(future);
    }
    assert_eq!(group.acquire(&mut normal()).await.unwrap_err(), Refused::Full { unreachable: false });
    // From the middle, then from both ends.
    for left in (1..=10_000).rev() {
        assert_eq!(group.queue.waiting(), left);
        drop(waiting.swap_remove(left / 2));
    }
    drop(lease);
    assert!(is_idle(&group) && holds_nothing(&group));
}

#[tokio::test(start_paused = true)]
async fn a_timer_is_kept_only_while_somebody_waits_for_it() {
    let group = Rig::alone(&[1], 1, &RULES);
    group.record_connect_failure(&endpoint(&group, 0), &"refused");
    assert!(holds_nothing(&group));
    let waiting = wait(&group, Priority::Normal).await;
    assert!(group.queue.inner.lock().alarm.is_some());
    waiting.abort();
    settle().await;
    assert!(holds_nothing(&group));
}

#[test]
fn a_request_that_waits_costs_little() {
    let group = Rig::alone(&[1], 1, &RULES);
    let mut wanted = normal();
    // What every request makes room for, and what is added while it waits: a future, a waiter with its counts, and the entry.
    let always = size_of_val(&group.acquire(&mut wanted));
    let future = size_of_val(&group.wait(&mut wanted));
    let waiter = 2 * size_of::<usize>() + size_of::<Waiter>();
    let entry = 2 * (size_of::<Place>() + size_of::<Arc<Waiter>>());
    assert!(always <= 72 && future + waiter + entry <= 340, "{always}, {future} + {waiter} + {entry}");
}

#[tokio::test]
async fn old_and_new_requests_stand_in_one_order() {
    let rig = Rig::new();
    let old = rig.group("app", &[1], 1, &RULES);
    let lease = at_once(&old).await;
    let one = wait(&old, Priority::Normal).await;
    // A reload: the same endpoint, and another queue limit.
    let new = rig.group("app", &[1], 1, &Rules { queue: model::Queue { max: 9, ..RULES.queue }, ..RULES });
    assert!(Arc::ptr_eq(&old.queue, &new.queue));
    let two = wait(&new, Priority::Normal).await;
    let three = wait(&old, Priority::Normal).await;
    assert_eq!(new.queue.waiting(), 3);
    drop(lease);
    let one = one.await.unwrap().unwrap();
    assert!(!two.is_finished());
    drop(one);
    let two = two.await.unwrap().unwrap();
    assert!(!three.is_finished());
    drop(two);
    drop(three.await.unwrap().unwrap());
    assert!(is_idle(&new) && holds_nothing(&new));
}

#[tokio::test]
async fn a_configuration_that_has_nowhere_to_go_holds_nobody_up() {
    let rig = Rig::new();
    let old = rig.group("app", &[1], 1, &RULES);
    let gone = at_once(&old).await;
    let stuck = wait(&old, Priority::High).await;
    let new = rig.group("app", &[2], 1, &RULES);
    let lease = at_once(&rig.group("other", &[2], 1, &RULES)).await;
    let served = wait(&new, Priority::Normal).await;
    drop(lease);
    drop(served.await.unwrap().unwrap());
    assert!(!stuck.is_finished());
    drop(gone);
    drop(stuck.await.unwrap().unwrap());
    assert!(is_idle(&old) && is_idle(&new));
}

#[tokio::test]
async fn a_capacity_that_grows_lets_waiters_in_and_one_that_shrinks_throws_nobody_out() {
    let group = Rig::alone(&[1], 2, &RULES);
    let endpoint = endpoint(&group, 0);
    let mut held = vec![at_once(&group).await, at_once(&group).await];
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(wait(&group, Priority::Normal).await);
    }
    endpoint.set_capacity(Some(4));
    assert_eq!((endpoint.in_flight(), group.queue.waiting()), (4, 4));
    for task in tasks.drain(..2) {
        held.push(task.await.unwrap().unwrap());
    }
    endpoint.set_capacity(Some(1));
    for left in [3, 2, 1] {
        held.pop();
        assert_eq!((endpoint.in_flight(), group.queue.waiting()), (left, 4));
    }
    held.pop();
    assert_eq!((endpoint.in_flight(), group.queue.waiting()), (1, 3));
    endpoint.set_capacity(None);
    assert_eq!((endpoint.in_flight(), group.queue.waiting()), (4, 0));
    for task in tasks {
        drop(task.await.unwrap().unwrap());
    }
    assert!(is_idle(&group));
}

#[tokio::test]
async fn upstreams_that_share_an_address_share_its_slots_in_turn() {
    let rig = Rig::new();
    let groups = [rig.group("left", &[1], 1, &RULES), rig.group("right", &[1], 1, &RULES)];
    let mut lease = at_once(&groups[0]).await;
    assert!(poll_once(groups[1].acquire(&mut normal())).await.is_none());
    let mut tasks = [Vec::new(), Vec::new()];
    for (group, tasks) in groups.iter().zip(&mut tasks) {
        for _ in 0..20 {
            tasks.push(wait(group, Priority::Normal).await);
        }
    }
    let mut served = [0_u32, 0];
    while served != [20, 20] {
        drop(lease);
        settle().await;
        let side = usize::from(!tasks[0].first().is_some_and(JoinHandle::is_finished));
        lease = tasks[side].remove(0).await.unwrap().unwrap();
        served[side] += 1;
        assert!(served[0].abs_diff(served[1]) <= 1, "{served:?}");
    }
    drop(lease);
    assert!(groups.iter().all(|group| is_idle(group)));
}
