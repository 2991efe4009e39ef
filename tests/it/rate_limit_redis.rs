//! Limits that gateways share through Redis, and what becomes of them when Redis is slow, gone, full, flushed or not itself.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::{Gateway, GatewayBuilder, RedisServer, Response, Signal, eventually, rounds, scripted_delay};

/// A route that answers by itself, so that nothing but the limit takes time.
pub const GATEWAY: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    trusted_proxies = ["127.0.0.1"]
    [admin]
    listen = ["127.0.0.1:0"]
    control = "unix:{dir}/control.sock"
    [log]
    access = "{dir}/access.log"
    [redis]
    url = "{redis}"
    timeout = "{timeout}"
    [[routes]]
    name = "here"
    respond = { body = "here" }
    rate_limit = {limit}
"#;

/// Longer than a busy machine makes a Redis wait that is well; where the time itself matters a test has another.
pub const PATIENT: &str = "2s";

pub fn gateway(url: &str, limit: &str, timeout: &str) -> GatewayBuilder {
    Gateway::with(GATEWAY).set("redis", url).set("limit", limit).set("timeout", timeout)
}

#[track_caller]
pub fn wait_until(gateway: &Gateway, up: bool) {
    let wanted = f64::from(u8::from(up));
    eventually(&format!("redis is up: {up}"), || {
        (gateway.metrics().value("propylon_redis_up", &[]) == Some(wanted)).then_some(())
    });
}

fn from(gateway: &Gateway, address: &str) -> Response {
    gateway.connect().request("GET", "/", &[("X-Forwarded-For", address)], "")
}

fn errors(gateway: &Gateway, kind: &str) -> Option<f64> {
    gateway.metrics().value("propylon_rate_limit_redis_errors_total", &[("limit", "here"), ("kind", kind)])
}

#[test]
fn gateways_share_their_buckets() {
    let redis = RedisServer::start();
    let limit = r#"{ rate = "3/h" }"#;
    let (a, b) = (gateway(&redis.url(), limit, PATIENT).start(), gateway(&redis.url(), limit, PATIENT).start());
    let answer = a.get("/").expect(200);
    assert!(answer.field("ratelimit").unwrap().starts_with("\"here\";r=2;t="));
    assert_eq!([b.get("/").status, a.get("/").status, b.get("/").status, a.get("/").status], [200, 200, 429, 429]);
    let refused = b.get("/").expect(429);
    let wait: u32 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1100..=1200).contains(&wait), "{wait}");
    assert_eq!([errors(&a, "down"), errors(&a, "timeout"), errors(&b, "down")], [Some(0.0); 3]);
    assert!(a.metrics().value("propylon_rate_limit_redis_seconds_count", &[("limit", "here")]).unwrap() >= 2.0);
}

#[test]
fn what_lies_in_redis_is_hashed_expires_and_is_found_as_the_guide_finds_it() {
    let redis = RedisServer::start();
    let limit = r#"[
        { name = "per-client", rate = "100/m" },
        { name = "per-key", rate = "10/s", burst = 100, key = ["client_ip", "header:x-api-key"] },
    ]"#;
    let gateway = gateway(&redis.url(), limit, PATIENT).start();
    let secret = "s3cret-".repeat(500);
    let fields = [("X-Api-Key", &*secret), ("X-Forwarded-For", "192.0.2.1")];
    // 12 s of tokens: far more than the commands take on a busy machine.
    for _ in 0..20 {
        gateway.connect().request("GET", "/", &fields, "").expect(200);
    }

    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guides/rate-limiting.md")).unwrap();
    let (_, block) = guide.split_once("```sh\nkey=").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let script = format!("redis-cli() {{ command redis-cli -s '{}' \"$@\"; }}\nkey={block}", redis.socket().display());
    let output = Command::new("bash").args(["-euc", &script]).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    let [missing, full_at, deleted] = lines[..] else { panic!("{lines:?} {:?}", output.stderr) };
    assert!((1..=12_001).contains(&missing.parse::<i64>().unwrap()), "{missing} ms for twenty tokens");
    assert!(full_at.split(' ').all(|number| number.parse::<u64>().is_ok()), "{full_at}");
    assert_eq!(deleted, "1");

    let buckets = || redis.keys().into_iter().filter(|key| key.starts_with("propylon:limit:")).collect::<Vec<_>>();
    eventually("a full bucket is gone", || buckets().is_empty().then_some(()));
    gateway.connect().request("GET", "/", &fields, "").expect(200);
    assert!(buckets().iter().all(|key| key.len() == "propylon:limit:".len() + 32));
}

#[test]
fn a_bucket_that_is_known_to_be_empty_costs_redis_nothing() {
    let redis = RedisServer::start();
    let gateway =
        gateway(&redis.url(), r#"[{ rate = "2/h" }, { name = "all", rate = "1000/h", key = "route" }]"#, PATIENT)
            .start();
    for expected in [200, 200, 429] {
        assert_eq!(from(&gateway, "192.0.2.1").status, expected);
    }
    let asked = || gateway.metrics().value("propylon_rate_limit_redis_seconds_count", &[("limit", "here")]).unwrap();
    let before = asked();
    for _ in 0..50 {
        let refused = from(&gateway, "192.0.2.1").expect(429);
        assert!(refused.field("ratelimit").unwrap().starts_with("\"here\";r=0;t="));
    }
    assert!((asked() - before).abs() < 0.5, "Redis was asked");
    assert_eq!(gateway.metrics().value("propylon_rate_limit_known_empty_total", &[("limit", "here")]), Some(51.0));
    // What one limit refused took nothing of the other.
    let other = from(&gateway, "192.0.2.2").expect(200);
    assert!(other.field("ratelimit").unwrap().contains("\"all\";r=997;"), "{:?}", other.field("ratelimit"));
}

/// What `clients` got that ask both gateways as fast as they can for a time: when each that was let pass had its answer, in order, how
/// many were refused, and when the last request was over.
fn admitted(gateways: &[Arc<Gateway>; 2], clients: usize, time: Duration) -> (Vec<Duration>, u64, Duration) {
    let refused = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let client = |number: usize| {
        let (gateway, refused) = (gateways[number % 2].clone(), refused.clone());
        std::thread::spawn(move || {
            let mut client = gateway.connect();
            let mut passed = Vec::new();
            while begin.elapsed() < time {
                match client.get("/").status {
                    200 => passed.push(begin.elapsed()),
                    429 => _ = refused.fetch_add(1, Ordering::Relaxed),
                    other => panic!("{other}"),
                }
            }
            passed
        })
    };
    let threads: Vec<_> = (0..clients).map(client).collect();
    let mut passed: Vec<Duration> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    passed.sort();
    (passed, refused.load(Ordering::Relaxed), begin.elapsed())
}

#[test]
fn two_gateways_admit_burst_and_rate_and_not_one_more() {
    let redis = RedisServer::start();
    let limit = r#"{ rate = "70/s", burst = 200, key = "route" }"#;
    let start = || Arc::new(gateway(&redis.url(), limit, PATIENT).start());
    let gateways = [start(), start()];
    let time = Duration::from_secs(u64::try_from(rounds(3, 60)).unwrap());
    let (passed, refused, end) = admitted(&gateways, 50, time);
    // The bucket is full until the first is taken, which is before its answer is there; the last may be taken until the end.
    let tokens = |time: Duration| 200 + 70 * usize::try_from(time.as_millis()).unwrap() / 1000;
    let (least, most) = (tokens(time.saturating_sub(passed[0])), tokens(end));
    eprintln!(
        "{} of {} admitted in {end:?}; {least} to {most} were to be",
        passed.len(),
        passed.len() as u64 + refused
    );
    assert!((least - 1..=most).contains(&passed.len()), "{} of {least} to {most}", passed.len());
    assert!(refused > 0);
}

#[test]
fn without_redis_the_buckets_of_the_process_go_on() {
    let mut redis = RedisServer::start();
    let gateway = gateway(&redis.url(), r#"{ rate = "4/h" }"#, PATIENT).start();
    assert_eq!([from(&gateway, "192.0.2.1").status, from(&gateway, "192.0.2.1").status], [200, 200]);
    redis.stop();
    // What was taken before is not forgotten.
    let statuses: Vec<u16> = (0..4).map(|_| from(&gateway, "192.0.2.1").status).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
    assert_eq!(from(&gateway, "192.0.2.2").status, 200);
    wait_until(&gateway, false);
    redis.start_again();
    wait_until(&gateway, true);
    assert_eq!(from(&gateway, "192.0.2.3").status, 200);
    assert_eq!(redis.keys().iter().filter(|key| key.starts_with("propylon:limit:")).count(), 1);
    let of = |text: &str| gateway.log().iter().filter(|line| line.contains(text)).count();
    assert_eq!((of("redis answers"), of("redis is not asked")), (2, 1));
    let changes = |state| gateway.metrics().value("propylon_redis_state_changes_total", &[("state", state)]);
    assert_eq!((changes("up"), changes("down")), (Some(2.0), Some(1.0)));
}

#[test]
fn allow_and_deny_while_redis_is_gone() {
    let mut redis = RedisServer::start();
    let with =
        |policy| gateway(&redis.url(), &format!(r#"{{ rate = "1/h", on_redis_down = "{policy}" }}"#), PATIENT).start();
    let (allowing, denying) = (with("allow"), with("deny"));
    redis.stop();
    wait_until(&allowing, false);
    wait_until(&denying, false);
    for _ in 0..5 {
        let answer = allowing.get("/").expect(200);
        assert!(answer.field("ratelimit").is_none());
        let refused = denying.get("/").expect(503);
        assert_eq!(
            (refused.field("retry-after"), &refused.json()["reason"]),
            (Some("1"), &"limits_unavailable".into())
        );
    }
    let unavailable = [("limit", "here"), ("decision", "unavailable")];
    assert_eq!(denying.metrics().value("propylon_rate_limit_decisions_total", &unavailable), Some(5.0));
    redis.start_again();
    wait_until(&denying, true);
    assert_eq!([denying.get("/").status, denying.get("/").status], [200, 429]);
}

#[test]
fn a_gateway_starts_without_redis_and_finds_it_later() {
    let mut redis = RedisServer::start();
    redis.stop();
    let gateway = gateway(&redis.url(), r#"{ rate = "1/h" }"#, PATIENT).start();
    assert_eq!([gateway.get("/").status, gateway.get("/").status], [200, 429]);
    assert!(gateway.log().iter().any(|line| line.contains("redis is not asked until it answers")));
    redis.start_again();
    wait_until(&gateway, true);
    from(&gateway, "192.0.2.9").expect(200);
    assert!(redis.keys().iter().any(|key| key.starts_with("propylon:limit:")));
}

#[test]
fn a_redis_that_hangs_holds_nobody_up_for_longer_than_its_time() {
    let redis = RedisServer::start();
    let gateway = gateway(&redis.url(), r#"{ rate = "1000000/s" }"#, "300ms").start();
    gateway.get("/").expect(200);
    redis.signal(Signal::STOP);
    let begin = Instant::now();
    // Some wait one after the other, each as long as it may, until it is given up; nobody after them does. Its heartbeat may be one
    // of those that find it out.
    for _ in 0..25 {
        gateway.get("/").expect(200);
    }
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(gateway.metrics().value("propylon_redis_up", &[]), Some(0.0));
    let late = errors(&gateway, "timeout").unwrap();
    assert!((1.0..=5.0).contains(&late), "{late}");
    assert_eq!(errors(&gateway, "down"), Some(25.0 - late));
    redis.signal(Signal::CONT);
    wait_until(&gateway, true);
    gateway.get("/").expect(200);
    assert_eq!(errors(&gateway, "down"), Some(25.0 - late));
}

#[test]
fn a_redis_that_is_full_is_not_asked_until_it_has_room() {
    let redis = RedisServer::start();
    let gateway = gateway(&redis.url(), r#"{ rate = "2/h" }"#, PATIENT).start();
    redis.ask::<()>("CONFIG SET maxmemory-policy noeviction");
    redis.ask::<()>("CONFIG SET maxmemory 1");
    for number in 0..6 {
        from(&gateway, &format!("192.0.2.{number}")).expect(200);
    }
    wait_until(&gateway, false);
    assert!(errors(&gateway, "server") >= Some(1.0));
    assert_eq!([from(&gateway, "192.0.2.1").status, from(&gateway, "192.0.2.1").status], [200, 429]);
    redis.ask::<()>("CONFIG SET maxmemory 0");
    wait_until(&gateway, true);
    from(&gateway, "192.0.2.100").expect(200);
    assert_eq!(redis.keys().iter().filter(|key| key.starts_with("propylon:limit:")).count(), 1);
}

#[test]
fn a_redis_that_is_flushed_or_has_forgotten_the_script_is_asked_on() {
    let redis = RedisServer::start();
    let gateway = gateway(&redis.url(), r#"{ rate = "2/h" }"#, PATIENT).start();
    let ask = |address| from(&gateway, address).status;
    assert_eq!([ask("192.0.2.1"), ask("192.0.2.2")], [200, 200]);
    redis.ask::<()>("SCRIPT FLUSH");
    assert_eq!([ask("192.0.2.2"), ask("192.0.2.3")], [200, 200]);
    assert_eq!(redis.keys().iter().filter(|key| key.starts_with("propylon:limit:")).count(), 3);
    redis.ask::<()>("FLUSHALL");
    // Full again, but for the one of which it is known that it was empty until later.
    assert_eq!([ask("192.0.2.1"), ask("192.0.2.1"), ask("192.0.2.1"), ask("192.0.2.2")], [200, 200, 429, 429]);
    assert_eq!(gateway.metrics().value("propylon_redis_up", &[]), Some(1.0));
    assert_eq!(errors(&gateway, "server"), Some(0.0));
}

#[test]
fn a_master_that_becomes_a_replica_is_left() {
    let redis = RedisServer::start();
    let gateway = gateway(&redis.url(), r#"{ rate = "2/h" }"#, PATIENT).start();
    redis.ask::<()>("REPLICAOF 127.0.0.1 1");
    for number in 0..6 {
        from(&gateway, &format!("192.0.2.{number}")).expect(200);
    }
    wait_until(&gateway, false);
    redis.ask::<()>("REPLICAOF NO ONE");
    wait_until(&gateway, true);
}

/// Asks without a pause until `stop`; when each request began, and how long it took.
fn asking(gateway: &Arc<Gateway>, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<(Instant, Duration)>> {
    let (gateway, stop) = (gateway.clone(), stop.clone());
    std::thread::spawn(move || {
        let mut client = gateway.connect();
        let mut times = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            client.get("/").expect(200);
            times.push((begin, begin.elapsed()));
        }
        times
    })
}

#[test]
fn every_fault_one_after_the_other_and_no_request_fails() {
    let mut redis = RedisServer::start();
    let gateway = Arc::new(gateway(&redis.url(), r#"{ rate = "1000000/s" }"#, "20ms").start());
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4).map(|_| asking(&gateway, &stop)).collect();
    let mut phases: Vec<(&str, Instant)> = Vec::new();
    // What is found out while it lasts, and how requests fare in the rest of it.
    let mut phase = |name, after: Option<bool>| {
        phases.push((name, Instant::now()));
        move |gateway: &Gateway| {
            after.into_iter().for_each(|up| wait_until(gateway, up));
            scripted_delay(Duration::from_millis(u64::try_from(rounds(50, 1000)).unwrap()));
        }
    };
    for _ in 0..rounds(2, 10) {
        phase("well", Some(true))(&gateway);
        let gone = phase("killed", Some(false));
        redis.stop();
        gone(&gateway);
        let back = phase("started again", Some(true));
        redis.start_again();
        back(&gateway);
        let hangs = phase("SIGSTOP", Some(false));
        redis.signal(Signal::STOP);
        hangs(&gateway);
        let goes_on = phase("SIGCONT", Some(true));
        redis.signal(Signal::CONT);
        goes_on(&gateway);
        let flushed = phase("FLUSHALL", None);
        redis.ask::<()>("FLUSHALL");
        flushed(&gateway);
        let forgotten = phase("SCRIPT FLUSH", None);
        redis.ask::<()>("SCRIPT FLUSH");
        forgotten(&gateway);
        let cut = phase("CLIENT KILL", None);
        redis.ask::<i64>("CLIENT KILL TYPE normal SKIPME yes");
        cut(&gateway);
        let full = phase("full", Some(false));
        redis.ask::<()>("CONFIG SET maxmemory 1");
        full(&gateway);
        let room = phase("room again", Some(true));
        redis.ask::<()>("CONFIG SET maxmemory 0");
        room(&gateway);
        let replica = phase("a replica", Some(false));
        redis.ask::<()>("REPLICAOF 127.0.0.1 1");
        replica(&gateway);
        let master = phase("a master again", Some(true));
        redis.ask::<()>("REPLICAOF NO ONE");
        master(&gateway);
    }
    stop.store(true, Ordering::Relaxed);
    let times: Vec<(Instant, Duration)> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let names: Vec<&str> = phases.iter().map(|(name, _)| *name).collect();
    for name in names.iter().take(12) {
        let within = |begin: Instant| {
            let last = phases.iter().rev().find(|(_, from)| *from <= begin);
            last.is_some_and(|(phase, _)| phase == name)
        };
        let mut took: Vec<Duration> = times.iter().filter(|(begin, _)| within(*begin)).map(|(_, took)| *took).collect();
        took.sort();
        let at = |permille: usize| took[took.len() * permille / 1000];
        eprintln!(
            "{name:<16} {:>7} p50 {:?} p99 {:?} longest {:?}",
            took.len(),
            at(500),
            at(990),
            took.last().unwrap()
        );
    }
}
