//! Who is asked and who waits while endpoints restart, fail, are drained, or come back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Balance, Group, Rules, Target};
use crate::config::model::{self, Priority};
use crate::upstream::endpoint::Lease;
use crate::upstream::health::Transition;
use crate::upstream::queue::Refused;
use crate::upstream::rig::{MS, RULES, Rig, at_once, endpoint, normal, poll_once, settle, wait};

fn port(lease: &Lease) -> &str {
    lease.endpoint().label.rsplit(':').next().unwrap()
}

/// Makes the second of two endpoints a backup.
fn make_backup(group: &Group) {
    let targets = group.targets();
    let backup = |(index, target): (usize, &Target)| Target {
        endpoint: target.endpoint.clone(),
        weight: 1,
        backup: index == 1,
        tls: None,
    };
    let list = targets.list.iter().enumerate().map(backup).collect();
    group.set_targets(Vec::new());
    assert!(group.set_targets(list));
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_waited_out_and_asked_for_by_one_request_at_a_time() {
    let group = Rig::alone(&[1], 4, &RULES);
    let began = Instant::now();
    let back_at = began + 2000 * MS;
    let tries = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let order = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for n in 0..16 {
        let (group, tries, order) = (group.clone(), tries.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            let mut wanted = normal();
            loop {
                let lease = group.acquire(&mut wanted).await.unwrap();
                if Instant::now() >= back_at {
                    lease.endpoint().record_connected();
                    order.lock().push(n);
                    sleep(5 * MS).await;
                    return;
                }
                tries.lock().push(began.elapsed().as_millis());
                sleep(MS).await;
                group.record_connect_failure(lease.endpoint(), &"refused");
                wanted.record_tried(lease.endpoint());
            }
        }));
        settle().await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    // The first four were on their way; then one a step.
    let tries = tries.lock().clone();
    assert_eq!(tries[..4], [0, 0, 0, 0]);
    assert!(tries[4..].windows(2).all(|pair| pair[1] - pair[0] >= 25), "{tries:?}");
    assert!((10..=16).contains(&tries.len()), "{tries:?}");
    assert!(began.elapsed() < 2400 * MS, "{:?}", began.elapsed());
    assert_eq!(*order.lock(), (0..16).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_stays_unreachable_is_waited_for_until_the_deadline() {
    let group = Rig::alone(&[1, 2], 4, &RULES);
    let mut wanted = normal();
    let began = Instant::now();
    let refused = loop {
        match group.acquire(&mut wanted).await {
            Ok(lease) => {
                group.record_connect_failure(lease.endpoint(), &"refused");
                wanted.record_tried(lease.endpoint());
            }
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, Refused::Late { unreachable: true });
    assert_eq!(began.elapsed(), RULES.queue.timeout);
    assert_eq!(wanted.tried().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_endpoint_is_tried_at_once() {
    let group = Rig::alone(&[1, 2], 4, &RULES);
    let mut wanted = normal();
    let first = group.acquire(&mut wanted).await.unwrap();
    group.record_connect_failure(first.endpoint(), &"refused");
    wanted.record_tried(first.endpoint());
    let second = poll_once(group.acquire(&mut wanted)).await.unwrap().unwrap();
    assert_ne!(port(&first), port(&second));
    assert_eq!(wanted.deadline(), None);
    // One that has tried often enough rests for a moment.
    wanted.rest();
    let began = Instant::now();
    drop(group.acquire(&mut wanted).await.unwrap());
    assert!(began.elapsed() >= 25 * MS);
    assert_eq!(wanted.queued(), began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_failed_to_connect_keeps_the_place_ahead_of_all_who_wait() {
    let group = Rig::alone(&[1], 1, &RULES);
    let mut wanted = normal();
    let lease = group.acquire(&mut wanted).await.unwrap();
    let other = wait(&group, Priority::Normal).await;
    group.record_connect_failure(lease.endpoint(), &"refused");
    drop(lease);
    let again = group.acquire(&mut wanted).await.unwrap();
    assert!(!other.is_finished());
    again.endpoint().record_connected();
    drop(again);
    drop(other.await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_ends_without_a_word_is_followed_by_another() {
    let group = Rig::alone(&[1], 4, &RULES);
    group.record_connect_failure(&endpoint(&group, 0), &"refused");
    let trial = group.acquire(&mut normal()).await.unwrap();
    let next = wait(&group, Priority::Normal).await;
    drop(trial);
    settle().await;
    assert!(!next.is_finished());
    let began = Instant::now();
    drop(next.await.unwrap().unwrap());
    assert!(began.elapsed() <= 250 * MS);
}

#[tokio::test(start_paused = true)]
async fn the_next_trial_comes_after_its_step_also_if_the_last_one_gave_up() {
    let group = Rig::alone(&[1], 4, &RULES);
    group.record_connect_failure(&endpoint(&group, 0), &"refused");
    let trial = group.acquire(&mut normal()).await.unwrap();
    let next = wait(&group, Priority::Normal).await;
    let began = Instant::now();
    group.record_connect_failure(trial.endpoint(), &"refused");
    drop(trial);
    drop(next.await.unwrap().unwrap());
    assert_eq!(began.elapsed(), 50 * MS);
}

#[tokio::test]
async fn backups_take_over_from_what_is_down_but_not_from_what_is_busy() {
    let group = Rig::alone(&[1, 2], 1, &RULES);
    make_backup(&group);
    let busy = at_once(&group).await;
    assert_eq!(port(&busy), "1");
    let waiting = wait(&group, Priority::Normal).await;
    settle().await;
    assert!(!waiting.is_finished());
    // It is still busy, and down now as well.
    assert_eq!(endpoint(&group, 0).record_check(false, 1, 1), Some(Transition::Down));
    let lease = waiting.await.unwrap().unwrap();
    assert_eq!(port(&lease), "2");
    // Both down: the backup comes after the other again.
    endpoint(&group, 1).record_check(false, 1, 1);
    drop((busy, lease));
    assert_eq!(port(&at_once(&group).await), "1");
}

#[tokio::test(start_paused = true)]
async fn who_restarts_with_its_old_requests_still_running_keeps_nobody_from_the_backup() {
    let group = Rig::alone(&[1, 2], 1, &RULES);
    make_backup(&group);
    let running = at_once(&group).await;
    group.record_connect_failure(running.endpoint(), &"refused");
    // Its next trial is due, and there is no slot to try with.
    sleep(100 * MS).await;
    let held = at_once(&group).await;
    assert_eq!(port(&held), "2");
    let waiting = wait(&group, Priority::Normal).await;
    drop(running);
    assert_eq!(port(&waiting.await.unwrap().unwrap()), "1");
}

#[tokio::test(start_paused = true)]
async fn a_drained_endpoint_gets_nobody_until_it_is_back() {
    let group = Rig::alone(&[1, 2], 1, &RULES);
    let (one, two) = (endpoint(&group, 0), endpoint(&group, 1));
    assert!(one.drain() && !one.drain() && one.is_drained());
    let lease = at_once(&group).await;
    assert_eq!(port(&lease), "2");
    assert!(two.drain());
    drop(lease);
    assert!(one.acquire_probe(Duration::ZERO).await.is_some(), "it is still checked");
    let refused = group.acquire(&mut normal()).await.unwrap_err();
    assert_eq!(refused, Refused::Late { unreachable: true });
    let waiting = wait(&group, Priority::Normal).await;
    assert!(one.undrain() && !one.undrain());
    assert_eq!(port(&waiting.await.unwrap().unwrap()), "1");
}

#[tokio::test]
async fn a_drain_survives_a_reload() {
    let rig = Rig::new();
    let old = rig.group("app", &[1, 2], 1, &RULES);
    endpoint(&old, 0).drain();
    let new = rig.group("app", &[1, 2], 1, &RULES);
    drop(old);
    assert!(endpoint(&new, 0).is_drained());
    assert_eq!(port(&at_once(&new).await), "2");
}

#[tokio::test(start_paused = true)]
async fn who_fails_too_often_is_out_for_a_while() {
    let group = Rig::alone(&[1, 2], 9, &RULES);
    let (one, two) = (endpoint(&group, 0), endpoint(&group, 1));
    let fail = |endpoint, times| (0..times).for_each(|_| group.record_failure(endpoint));
    fail(&one, 2);
    one.record_success(&RULES.ejection);
    fail(&one, 2);
    assert!(!one.is_ejected());
    fail(&one, 1);
    assert!(one.is_ejected());
    // The other one has to stay.
    fail(&two, 9);
    assert!(!two.is_ejected());
    let held = [at_once(&group).await, at_once(&group).await];
    assert!(held.iter().all(|lease| port(lease) == "2"));
    // Nothing else is left: then it is better than nothing.
    two.drain();
    assert_eq!(port(&at_once(&group).await), "1");
    two.undrain();
    sleep(RULES.ejection.time).await;
    assert_eq!(port(&at_once(&group).await), "1");
    assert!(!one.is_ejected());
    // The one that was spared is out with its next failure.
    fail(&two, 1);
    assert!(two.is_ejected());
    // Also without any request the time ends.
    sleep(RULES.ejection.time).await;
    two.settle();
    assert!(!two.is_ejected());
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_let_in_when_an_ejection_ends() {
    let group = Rig::alone(&[1, 2], 1, &Rules { queue: model::Queue { max: 9, timeout: 60_000 * MS }, ..RULES });
    (0..3).for_each(|_| group.record_failure(&endpoint(&group, 0)));
    let busy = at_once(&group).await;
    assert_eq!(port(&busy), "2");
    let began = Instant::now();
    let lease = group.acquire(&mut normal()).await.unwrap();
    assert_eq!((port(&lease), began.elapsed()), ("1", RULES.ejection.time));
}

#[tokio::test(start_paused = true)]
async fn a_lone_endpoint_is_never_ejected_nor_the_last_that_is_well() {
    let alone = Rig::alone(&[1], 1, &RULES);
    (0..9).for_each(|_| alone.record_connect_failure(&endpoint(&alone, 0), &"refused"));
    assert!(!endpoint(&alone, 0).is_ejected());
    let group = Rig::alone(&[1, 2], 1, &RULES);
    endpoint(&group, 1).drain();
    (0..9).for_each(|_| group.record_failure(&endpoint(&group, 0)));
    assert!(!endpoint(&group, 0).is_ejected());
}

#[tokio::test(start_paused = true)]
async fn a_probe_goes_ahead_of_the_queue_and_waits_no_longer_than_it_may() {
    let group = Rig::alone(&[1], 1, &RULES);
    let one = endpoint(&group, 0);
    let busy = at_once(&group).await;
    let waiting = wait(&group, Priority::High).await;
    let began = Instant::now();
    assert!(one.acquire_probe(200 * MS).await.is_none());
    assert_eq!(began.elapsed(), 200 * MS);
    let asking = one.clone();
    let probe = tokio::spawn(async move { asking.acquire_probe(200 * MS).await });
    settle().await;
    drop(busy);
    settle().await;
    assert!(!waiting.is_finished());
    let probe = probe.await.unwrap().unwrap();
    assert!(one.is_full());
    drop(probe);
    drop(waiting.await.unwrap().unwrap());
    // One that gives up while a slot comes free leaves it to the others.
    let busy = at_once(&group).await;
    let mut probe = Box::pin(one.acquire_probe(200 * MS));
    assert!(poll_once(probe.as_mut()).await.is_none());
    let waiting = wait(&group, Priority::Normal).await;
    drop(busy);
    drop(probe);
    drop(waiting.await.unwrap().unwrap());
    assert_eq!(one.in_flight(), 0);
}

/// How many of 1000 requests that are over at once go to the first endpoint.
async fn share_of_first(group: &std::sync::Arc<Group>) -> u32 {
    let mut count = 0;
    for _ in 0..1000 {
        count += u32::from(port(&at_once(group).await) == "1");
    }
    count
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_starts_slowly() {
    for balance in [Balance::RoundRobin, Balance::LeastConn] {
        let rules = Rules { balance, slow_start: 10_000 * MS, ..RULES };
        let rig = Rig::new();
        let group = rig.group("app", &[1, 2], 1000, &rules);
        assert_eq!(share_of_first(&group).await, 500, "not at the start of the process");
        let one = endpoint(&group, 0);
        one.record_check(false, 1, 1);
        assert_eq!(share_of_first(&group).await, 0);
        one.record_check(true, 1, 1);
        if balance == Balance::RoundRobin {
            assert!((20..90).contains(&share_of_first(&group).await), "a tenth of its half");
            sleep(5000 * MS).await;
            assert!((220..330).contains(&share_of_first(&group).await));
        } else {
            let held: Vec<_> = futures_util::future::join_all((0..110).map(|_| at_once(&group))).await;
            assert_eq!(held.iter().filter(|lease| port(lease) == "1").count(), 10);
        }
        sleep(10_000 * MS).await;
        assert_eq!(share_of_first(&group).await, 500);
        // It is not refused when it is the only one.
        one.record_check(false, 1, 1);
        one.record_check(true, 1, 1);
        endpoint(&group, 1).drain();
        assert_eq!(share_of_first(&group).await, 1000);
        // A reload brings one more.
        let more = rig.group("app", &[1, 2, 3], 1000, &rules);
        endpoint(&more, 1).undrain();
        sleep(9000 * MS).await;
        assert!(share_of_first(&more).await > 250);
    }
}

#[tokio::test]
async fn requests_with_one_key_stay_together_within_bounds() {
    let group = Rig::alone(&[1, 2, 3, 4], 9, &Rules { balance: Balance::Hash, ..RULES });
    let mut ports = std::collections::HashSet::new();
    for key in 0..64 {
        let one = group.acquire(&mut crate::upstream::Wanted::new(Priority::Normal, Some(key))).await.unwrap();
        let first = port(&one).to_owned();
        drop(one);
        let again = group.acquire(&mut crate::upstream::Wanted::new(Priority::Normal, Some(key))).await.unwrap();
        assert_eq!(first, port(&again));
        ports.insert(first);
    }
    assert_eq!(ports.len(), 4);
    let mut held = Vec::new();
    for _ in 0..36 {
        held.push(group.acquire(&mut crate::upstream::Wanted::new(Priority::Normal, Some(7))).await.unwrap());
    }
    assert!(poll_once(group.acquire(&mut crate::upstream::Wanted::new(Priority::Normal, Some(7)))).await.is_none());
}
