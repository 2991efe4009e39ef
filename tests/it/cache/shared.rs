//! Answers that several gateways share through Redis: one fetch for all of them, purges that reach all, and what happens when Redis
//! is slow, gone, flushed or holds nonsense.

use std::fs;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use redis::Commands;
use serde_json::Value;

use super::{Said, Site, app, builder_with, purge, status_of};
use crate::harness::{
    Client, Gate, Gateway, GatewayBuilder, Origin, RedisServer, Request, Signal, eventually, scripted_delay,
};
use crate::rate_limit_redis_kinds::cluster;

/// Longer than a busy machine makes a Redis wait that is well.
const PATIENT: &str = "2s";

fn gateway(origin: &Origin, redis: &RedisServer, rule: &str) -> GatewayBuilder {
    with(origin, redis, rule, "", PATIENT)
}

fn with(origin: &Origin, redis: &RedisServer, rule: &str, cache: &str, timeout: &str) -> GatewayBuilder {
    let redis = format!("shared = true\n{cache}\n[redis]\nurl = \"{}\"\ntimeout = \"{timeout}\"\n", redis.url());
    builder_with(origin, rule, "", &redis)
}

/// Waits until a gateway knows of the purges of others: from then on it uses what is in Redis.
#[track_caller]
fn wait_until_current(gateway: &Gateway, current: bool) {
    let wanted = f64::from(u8::from(current));
    eventually(&format!("the cache in redis is used: {current}"), || {
        (gateway.metrics().value("propylon_cache_shared_current", &[]) == Some(wanted)).then_some(())
    });
}

#[track_caller]
fn start(builder: GatewayBuilder) -> Gateway {
    let gateway = builder.start();
    wait_until_current(&gateway, true);
    gateway
}

/// Two gateways in front of one app.
struct Pair {
    a: Gateway,
    b: Gateway,
    origin: Origin,
    redis: RedisServer,
}

fn pair(rule: &str, answer: impl Fn(&Request, usize) -> Said + Send + Sync + 'static) -> Pair {
    let (origin, redis) = (app(answer), RedisServer::start());
    let (a, b) = (start(gateway(&origin, &redis, rule)), start(gateway(&origin, &redis, rule)));
    Pair { a, b, origin, redis }
}

impl Pair {
    fn asked(&self) -> usize {
        self.origin.requests().len()
    }
}

fn body(gateway: &Gateway, target: &str, fields: &[(&str, &str)]) -> String {
    let answer = gateway.connect().request("GET", target, fields, "").expect(200);
    String::from_utf8(answer.body).unwrap()
}

/// Waits until so many answers came to this in Redis.
#[track_caller]
fn written(gateway: &Gateway, result: &str, count: f64) {
    gateway.counts("propylon_cache_shared_writes_total", &[("result", result)], count);
}

fn looks(gateway: &Gateway, result: &str) -> f64 {
    gateway.metrics().value("propylon_cache_shared_looks_total", &[("result", result)]).unwrap()
}

/// The keys of answers in Redis.
fn answers(redis: &RedisServer) -> Vec<String> {
    let is_answer = |key: &String| key.starts_with("propylon:cache:{") && key.ends_with('}') && !key.contains("purges");
    redis.keys().into_iter().filter(is_answer).collect()
}

#[test]
fn what_one_has_fetched_the_others_have() {
    let pair = pair("ttl = \"1h\"", |_, count| Said::ok("ETag: \"1\"\nX-Own: a", count.to_string()));
    assert_eq!(body(&pair.a, "/", &[]), "0");
    written(&pair.a, "written", 1.0);
    let answer = pair.b.get("/").expect(200);
    assert_eq!((&*answer.body, answer.field("x-own"), pair.asked()), (b"0".as_slice(), Some("a"), 1));
    assert!(status_of(&answer).contains("; hit") && answer.fields.has("age"), "{answer}");
    // It is in memory from now on.
    assert_eq!(body(&pair.b, "/", &[]), "0");
    assert_eq!((looks(&pair.b, "found"), looks(&pair.b, "lease")), (1.0, 0.0));
    // A third that begins now finds it too, conditions and ranges as well.
    let c = start(gateway(&pair.origin, &pair.redis, "ttl = \"1h\""));
    c.connect().request("GET", "/", &[("If-None-Match", "\"1\"")], "").expect(304);
    assert_eq!(pair.asked(), 1);
    let keys = answers(&pair.redis);
    let [key] = &keys[..] else { panic!("{keys:?}") };
    let left: i64 = pair.redis.ask(&format!("PTTL {key}"));
    assert!(
        (3_600_000..=4_200_000).contains(&left),
        "{left}: its time, and ten minutes in which it can be asked about"
    );
}

#[test]
fn head_ranges_and_only_if_cached_are_answered_from_redis_too() {
    let pair = pair("ttl = \"1h\"", |_, _| Said::ok("ETag: \"1\"", "0123456789"));
    body(&pair.a, "/", &[]);
    written(&pair.a, "written", 1.0);
    let rule = "ttl = \"1h\"";
    let fresh = || start(gateway(&pair.origin, &pair.redis, rule));
    let answer = fresh().connect().request("GET", "/", &[("Range", "bytes=2-3")], "").expect(206);
    assert_eq!(answer.body, b"23");
    fresh().connect().request("HEAD", "/", &[], "").expect(200);
    fresh().connect().request("GET", "/", &[("Cache-Control", "only-if-cached")], "").expect(200);
    assert_eq!(pair.asked(), 1);
    fresh().connect().request("GET", "/other", &[("Cache-Control", "only-if-cached")], "").expect(504);
}

#[test]
fn variants_are_told_apart() {
    let pair = pair("ttl = \"1h\"", |request, count| {
        let language = request.field("accept-language").unwrap_or("none").to_owned();
        Said::ok("Vary: Accept-Language", format!("{language} {count}"))
    });
    let of = |gateway: &Gateway, language: &str| body(gateway, "/", &[("Accept-Language", language)]);
    assert_eq!([of(&pair.a, "de"), of(&pair.a, "en"), body(&pair.a, "/", &[])], ["de 0", "en 1", "none 2"]);
    written(&pair.a, "written", 3.0);
    assert_eq!([of(&pair.b, "en"), of(&pair.b, "de"), body(&pair.b, "/", &[])], ["en 1", "de 0", "none 2"]);
    assert_eq!(of(&pair.b, "fr"), "fr 3");
    assert_eq!(pair.asked(), 4);
}

#[test]
fn a_crowd_before_all_gateways_is_one_request() {
    const EACH: usize = 100;
    let pair = pair("ttl = \"1h\"", |_, count| {
        scripted_delay(Duration::from_millis(300));
        Said::ok("", count.to_string())
    });
    let barrier = Arc::new(Barrier::new(2 * EACH));
    std::thread::scope(|scope| {
        for gateway in [&pair.a, &pair.b] {
            for _ in 0..EACH {
                let barrier = barrier.clone();
                scope.spawn(move || {
                    let mut client = gateway.connect();
                    barrier.wait();
                    assert_eq!(client.request("GET", "/", &[], "").expect(200).body, b"0");
                });
            }
        }
    });
    assert_eq!(pair.asked(), 1);
}

#[test]
fn what_is_not_kept_serialises_nobody() {
    const EACH: usize = 10;
    let gate = Gate::new();
    let held = gate.clone();
    let pair = pair("ttl = \"1h\"", move |_, count| {
        if count > 0 {
            held.wait();
        }
        Said::ok("Cache-Control: private", count.to_string())
    });
    body(&pair.a, "/", &[]);
    std::thread::scope(|scope| {
        for _ in 0..EACH {
            scope.spawn(|| body(&pair.b, "/", &[]));
        }
        // All of them are with the app before one is answered.
        eventually("nobody waits for another", || (pair.asked() == EACH + 1).then_some(()));
        gate.open();
    });
    assert_eq!(looks(&pair.b, "lease"), 0.0, "a has found it out for both");
}

/// Two gateways, and a client of the first whose request is with the app until the gate is open.
fn with_one_under_way(collapse_timeout: &str) -> (Pair, Client, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let pair = pair(&format!("ttl = \"1h\"\ncollapse_timeout = \"{collapse_timeout}\""), move |_, count| {
        if count == 0 {
            held.wait();
        }
        Said::ok("Cache-Tag: t", count.to_string())
    });
    let mut client = pair.a.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the app is asked", || (pair.asked() == 1).then_some(()));
    (pair, client, gate)
}

#[test]
fn a_gateway_that_dies_holds_the_others_up_no_longer_than_its_lease() {
    let (Pair { a, b, origin: _origin, redis: _redis }, _client, gate) = with_one_under_way("1s");
    a.kill();
    let begin = Instant::now();
    body(&b, "/", &[]);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    written(&b, "written", 1.0);
    gate.open();
}

#[test]
fn a_client_that_leaves_gives_its_lease_back() {
    let (pair, client, gate) = with_one_under_way("60s");
    drop(client);
    assert_eq!(body(&pair.b, "/", &[]), "1");
    gate.open();
}

#[test]
fn purges_reach_all_gateways_and_what_is_in_redis() {
    let pair = pair("ttl = \"1h\"", |request, count| {
        Said::ok("Cache-Tag: all, own\nVary: Accept-Encoding", format!("{} {count}", request.target))
    });
    let cases: [&[&str]; 4] = [&["http://test/a"], &["--prefix", "http://test/a"], &["--tag", "own"], &["--all"]];
    for arguments in cases {
        let before = body(&pair.a, "/a", &[]);
        eventually("b has the same", || (body(&pair.b, "/a", &[]) == before).then_some(()));
        let asked = pair.asked();
        let said = purge(&pair.a, arguments);
        assert!(said.contains("other gateways are told"), "{said}");
        let after = body(&pair.a, "/a", &[]);
        assert_ne!(after, before, "{arguments:?}");
        eventually("b has heard of it", || (body(&pair.b, "/a", &[]) != before).then_some(()));
        assert!(pair.asked() - asked <= 2, "at most each has asked once");
    }
    // Who begins now knows of it as well.
    let c = start(gateway(&pair.origin, &pair.redis, "ttl = \"1h\""));
    let last = body(&pair.a, "/a", &[]);
    assert_eq!(body(&c, "/a", &[]), last);
}

#[test]
fn a_soft_purge_makes_it_stale_for_all() {
    let rule = "ttl = \"1h\"\nstale_while_revalidate = \"1h\"";
    let pair = pair(rule, |_, count| Said::ok("Cache-Tag: t", count.to_string()));
    assert_eq!(body(&pair.a, "/", &[]), "0");
    written(&pair.a, "written", 1.0);
    assert_eq!(body(&pair.b, "/", &[]), "0");
    purge(&pair.a, &["--tag", "t", "--soft"]);
    pair.b.counts("propylon_cache_shared_purges_total", &[("direction", "received")], 1.0);
    let answer = pair.b.get("/").expect(200);
    assert_eq!(answer.body, b"0");
    assert!(status_of(&answer).contains("ttl=-"), "{}", status_of(&answer));
    eventually("it is new", || (body(&pair.b, "/", &[]) == "1").then_some(()));
    eventually("and there too", || (body(&pair.a, "/", &[]) == "1").then_some(()));
    assert_eq!(pair.asked(), 2, "one of them has asked for both");
}

#[test]
fn what_a_request_changes_is_gone_everywhere() {
    let pair = pair("ttl = \"1h\"", |request, count| match &*request.method {
        "POST" => Said::status(204, "", ""),
        _ => Said::ok("", count.to_string()),
    });
    assert_eq!(body(&pair.a, "/", &[]), "0");
    written(&pair.a, "written", 1.0);
    assert_eq!(body(&pair.b, "/", &[]), "0");
    // A third has never seen it, and changes it.
    let c = start(gateway(&pair.origin, &pair.redis, "ttl = \"1h\""));
    c.connect().request("POST", "/", &[], "").expect(204);
    for gateway in [&c, &pair.a, &pair.b] {
        eventually("it is new", || (body(gateway, "/", &[]) == "2").then_some(()));
    }
    assert_eq!(pair.asked(), 3);
}

#[test]
fn what_redis_never_had_is_gone_everywhere_as_well() {
    let pair = pair("ttl = \"1h\"", |request, count| match &*request.method {
        "POST" => Said::status(204, "", ""),
        _ => Said::ok("Cache-Control: public, max-age=3600", count.to_string()),
    });
    let fields = [("Authorization", "Bearer token")];
    assert_eq!(body(&pair.a, "/", &fields), "0");
    assert_eq!(body(&pair.a, "/", &fields), "0");
    assert_eq!(answers(&pair.redis), [""; 0]);
    pair.b.connect().request("POST", "/", &[], "").expect(204);
    eventually("it is new", || (body(&pair.a, "/", &fields) == "2").then_some(()));
    // A key that is too long to be told as it is.
    let long = format!("/{}", "x".repeat(2000));
    assert_eq!(body(&pair.a, &long, &fields), "3");
    pair.b.connect().request("POST", &long, &[], "").expect(204);
    eventually("it is new", || (body(&pair.a, &long, &fields) == "5").then_some(()));
}

#[test]
fn a_redis_that_is_where_it_was_before_a_purge_does_not_bring_the_old_back() {
    for arguments in [["http://test/"].as_slice(), &["--tag", "t"]] {
        let mut pair = pair("ttl = \"1h\"", |_, count| Said::ok("Cache-Tag: t", count.to_string()));
        assert_eq!(body(&pair.a, "/", &[]), "0");
        written(&pair.a, "written", 1.0);
        pair.redis.ask::<()>("SAVE");
        purge(&pair.a, arguments);
        // What was purged a moment before it is lost is told again, and what was kept before that is not used.
        pair.redis.stop();
        wait_until_current(&pair.a, false);
        wait_until_current(&pair.b, false);
        pair.redis.start_again();
        assert_eq!(answers(&pair.redis).len(), 1, "the old one is there again");
        wait_until_current(&pair.a, true);
        wait_until_current(&pair.b, true);
        let c = start(gateway(&pair.origin, &pair.redis, "ttl = \"1h\""));
        for gateway in [&c, &pair.a, &pair.b] {
            assert_ne!(body(gateway, "/", &[]), "0", "{arguments:?}");
        }
    }
}

#[test]
fn another_redis_after_a_reload_is_told_what_waits() {
    let mut pair = pair("ttl = \"1h\"", |_, count| Said::ok("Cache-Tag: t", count.to_string()));
    assert_eq!(body(&pair.a, "/", &[]), "0");
    written(&pair.a, "written", 1.0);
    assert_eq!(body(&pair.b, "/", &[]), "0");
    let before = pair.redis.url();
    pair.redis.stop();
    wait_until_current(&pair.a, false);
    assert!(purge(&pair.a, &["--tag", "t"]).contains("when Redis answers"));
    let other = RedisServer::start();
    for gateway in [&pair.a, &pair.b] {
        let toml = fs::read_to_string(gateway.config_path()).unwrap();
        gateway.rewrite_config(&toml.replace(&before, &other.url()));
        assert_eq!(gateway.reload().code, 0);
        wait_until_current(gateway, true);
    }
    eventually("b has heard of it", || (body(&pair.b, "/", &[]) != "0").then_some(()));
    // And no more, where nothing is shared.
    let toml = fs::read_to_string(pair.a.config_path()).unwrap();
    pair.a.rewrite_config(&toml.replace("shared = true", "shared = false"));
    assert_eq!(pair.a.reload().code, 0);
    assert_eq!(pair.a.metrics().value("propylon_cache_shared_current", &[]), None);
    assert!(!purge(&pair.a, &["--tag", "t"]).contains("other gateways"));
}

#[test]
fn errors_that_are_not_kept_serialise_nobody() {
    const EACH: usize = 40;
    let pair = pair("ttl = \"1h\"", |_, _| {
        scripted_delay(Duration::from_millis(20));
        Said::status(401, "", "")
    });
    std::thread::scope(|scope| {
        for gateway in [&pair.a, &pair.b] {
            scope.spawn(move || (0..EACH).for_each(|_| drop(gateway.get("/").expect(401))));
        }
    });
    assert_eq!(pair.asked(), 2 * EACH);
    assert!(looks(&pair.a, "nothing") + looks(&pair.b, "nothing") > 0.0, "for a moment each asks for itself");
}

#[test]
fn what_is_not_kept_leaves_nothing_in_redis_for_long() {
    let (origin, redis) = (app(|_, _| Said::ok("Cache-Control: no-store", "")), RedisServer::start());
    let gateway = start(gateway(&origin, &redis, ""));
    for number in 0..20 {
        gateway.get(&format!("/?{number}")).expect(200);
    }
    // Ten seconds are the time for which nobody waits for such a one.
    eventually("all go soon", || {
        let keys =
            redis.keys().into_iter().filter(|key| key.starts_with("propylon:cache:{") && !key.contains("purges"));
        keys.map(|key| redis.ask::<i64>(&format!("PTTL {key}"))).all(|time| time <= 10_000).then_some(())
    });
}

#[test]
fn while_one_refreshes_the_others_ask_redis_now_and_then() {
    let gate = Gate::new();
    let held = gate.clone();
    let pair = pair("ttl = \"1s\"\nstale_while_revalidate = \"1h\"", move |_, count| {
        if count > 0 {
            held.wait();
        }
        Said::ok("", count.to_string())
    });
    assert_eq!(body(&pair.a, "/", &[]), "0");
    written(&pair.a, "written", 1.0);
    assert_eq!(body(&pair.b, "/", &[]), "0");
    eventually("its time is over", || {
        body(&pair.a, "/", &[]);
        (pair.asked() == 2).then_some(())
    });
    let (before, begin) = (looks(&pair.b, "wait"), Instant::now());
    for _ in 0..500 {
        assert_eq!(body(&pair.b, "/", &[]), "0");
    }
    let (asked, time) = (looks(&pair.b, "wait") - before, begin.elapsed().as_secs_f64());
    assert!(asked < 10.0 + time * 100.0, "{asked} questions in {time} s");
    gate.open();
    eventually("it is new", || (body(&pair.b, "/", &[]) == "1").then_some(()));
    assert_eq!(pair.asked(), 2);
}

#[test]
fn what_was_fetched_before_a_purge_is_not_kept_after_it() {
    for arguments in [["http://test/"].as_slice(), &["--tag", "t"]] {
        let (pair, mut client, gate) = with_one_under_way("5s");
        purge(&pair.b, arguments);
        gate.open();
        client.response().expect(200);
        // One that is fetched before the purge is known counts as purged too, so there may be a third.
        eventually("the other knows of it", || (body(&pair.a, "/", &[]) != "0").then_some(()));
        for gateway in [&pair.a, &pair.b] {
            assert_ne!(body(gateway, "/", &[]), "0");
        }
    }
}

#[test]
fn without_redis_each_goes_on_by_itself_and_purges_are_told_later() {
    let mut pair = pair("ttl = \"1h\"", |_, count| Said::ok("Cache-Tag: t", count.to_string()));
    assert_eq!(body(&pair.a, "/", &[]), "0");
    written(&pair.a, "written", 1.0);
    assert_eq!(body(&pair.b, "/", &[]), "0");
    pair.redis.stop();
    wait_until_current(&pair.a, false);
    wait_until_current(&pair.b, false);
    assert_eq!([body(&pair.a, "/", &[]), body(&pair.a, "/new", &[])], ["0", "1"]);
    let said = purge(&pair.a, &["--tag", "t"]);
    assert!(said.contains("are told when Redis answers"), "{said}");
    assert_eq!([body(&pair.a, "/", &[]), body(&pair.b, "/", &[])], ["2", "0"], "b cannot know");
    pair.redis.start_again();
    eventually("b knows", || (body(&pair.b, "/", &[]) != "0").then_some(()));
}

#[test]
fn a_redis_that_does_not_answer_costs_its_timeout_and_then_nothing() {
    let (origin, redis) = (app(|_, count| Said::ok("", count.to_string())), RedisServer::start());
    let gateway = start(with(&origin, &redis, "ttl = \"1h\"", "", "50ms"));
    redis.signal(Signal::STOP);
    let begin = Instant::now();
    for number in 0..50 {
        body(&gateway, &format!("/{number}"), &[]);
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    wait_until_current(&gateway, false);
    redis.signal(Signal::CONT);
    wait_until_current(&gateway, true);
    body(&gateway, "/again", &[]);
    eventually("it is used again", || {
        let written = gateway.metrics().value("propylon_cache_shared_writes_total", &[("result", "written")]);
        written.filter(|count| *count >= 1.0)
    });
}

#[test]
fn a_flushed_redis_costs_a_fetch_and_no_purge() {
    let pair = pair("ttl = \"1h\"", |_, count| Said::ok("Cache-Tag: t", count.to_string()));
    assert_eq!(body(&pair.a, "/", &[]), "0");
    written(&pair.a, "written", 1.0);
    let _: () = redis::cmd("FLUSHALL").query(&mut pair.redis.connect()).unwrap();
    eventually("the log begins anew", || {
        pair.redis.keys().contains(&"propylon:cache:{purges}".to_owned()).then_some(())
    });
    assert_eq!(body(&pair.a, "/", &[]), "0", "it is in memory");
    assert_eq!(body(&pair.b, "/", &[]), "1");
    purge(&pair.a, &["--tag", "t"]);
    eventually("b has heard of it", || (body(&pair.b, "/", &[]) == "2").then_some(()));
}

#[test]
fn nonsense_in_redis_is_not_served() {
    let pair = pair("ttl = \"1h\"", |_, count| Said::ok("", count.to_string()));
    assert_eq!(body(&pair.a, "/", &[]), "0");
    written(&pair.a, "written", 1.0);
    let mut redis = pair.redis.connect();
    let key = answers(&pair.redis).remove(0);
    let whole: Vec<u8> = redis.hget(&key, ".").unwrap();
    // One bit, somewhere in the middle; half of it; nothing that was ever an answer.
    let mut torn = whole.clone();
    torn[whole.len() / 2] ^= 1;
    for (number, value) in [torn, whole[..whole.len() / 2].to_vec(), vec![b'9'; 400]].into_iter().enumerate() {
        let _: () = redis.hset(&key, ".", value).unwrap();
        let c = start(gateway(&pair.origin, &pair.redis, "ttl = \"1h\""));
        assert_eq!(body(&c, "/", &[]), (number + 1).to_string());
        assert_eq!((looks(&c, "torn"), looks(&c, "lease")), (1.0, 1.0));
    }
    // Another type altogether.
    let _: () = redis.del(&key).unwrap();
    let _: () = redis.set(&key, "text").unwrap();
    let c = start(gateway(&pair.origin, &pair.redis, "ttl = \"1h\""));
    assert_eq!(body(&c, "/", &[]), "4");
    assert_eq!(looks(&c, "failed"), 1.0);
}

#[test]
fn an_answer_of_another_key_is_not_given() {
    let pair = pair("ttl = \"1h\"", |request, _| Said::ok("", request.target.clone()));
    assert_eq!(body(&pair.a, "/one", &[]), "/one");
    written(&pair.a, "written", 1.0);
    let mut redis = pair.redis.connect();
    let one = answers(&pair.redis).remove(0);
    assert_eq!(body(&pair.a, "/two", &[]), "/two");
    written(&pair.a, "written", 2.0);
    let two = answers(&pair.redis).into_iter().find(|key| *key != one).unwrap();
    let value: Vec<u8> = redis.hget(&one, ".").unwrap();
    let _: () = redis.hset(&two, ".", value).unwrap();
    assert_eq!(body(&pair.b, "/two", &[]), "/two");
}

/// What the guide says that a user needs.
fn rights() -> String {
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guides/caching.md")).unwrap();
    let line = guide.lines().find(|line| line.starts_with("ACL SETUSER")).unwrap();
    line.split_once("~propylon:* ").unwrap().1.to_owned()
}

/// Whether gateways with this Redis share what they keep, and purge it.
#[track_caller]
fn share(url: &str) {
    let origin = app(|request, count| Said::ok("Cache-Tag: t\nVary: Accept", format!("{} {count}", request.target)));
    let gateway = || {
        let redis = format!("shared = true\n[redis]\nurl = \"{url}\"\ntimeout = \"{PATIENT}\"\n");
        start(builder_with(&origin, "ttl = \"1h\"", "", &redis))
    };
    let (a, b) = (gateway(), gateway());
    let targets = ["/a", "/b", "/c", "/d", "/e", "/f"];
    let kept = targets.map(|target| body(&a, target, &[]));
    written(&a, "written", 6.0);
    assert_eq!(targets.map(|target| body(&b, target, &[])), kept);
    assert_eq!(origin.requests().len(), 6);
    purge(&a, &["http://test/a", "--tag", "t"]);
    for (target, before) in targets.iter().zip(&kept) {
        eventually("b has heard of it", || (body(&b, target, &[]) != *before).then_some(()));
    }
    b.counts("propylon_cache_shared_looks_total", &[("result", "failed")], 0.0);
}

#[test]
fn with_a_user_who_may_do_what_the_guide_says_and_no_more() {
    let redis = RedisServer::start();
    redis.ask::<()>(&format!("ACL SETUSER gateway on >secret ~propylon:* resetchannels {}", rights()));
    share(&redis.url().replace("unix://", "unix://gateway:secret@"));
}

#[test]
fn in_a_cluster() {
    let nodes = cluster(&rights());
    share(&format!("redis+cluster://gateway:secret@{},{}", nodes[0].addr(), nodes[1].addr()));
    let kept = |node: &RedisServer| answers(node).len();
    assert!(nodes.iter().filter(|node| kept(node) > 0).count() > 1, "{:?}", nodes.iter().map(kept).collect::<Vec<_>>());
}

#[test]
fn large_answers_are_kept_by_each_and_purged_by_all() {
    let pair = pair("ttl = \"1h\"", |request, count| match &*request.method {
        "POST" => Said::status(204, "", ""),
        _ => Said::ok("", format!("{count}{}", "x".repeat(300_000))),
    });
    let number = |gateway: &Gateway| body(gateway, "/", &[]).trim_end_matches('x').to_owned();
    assert_eq!(number(&pair.a), "0");
    written(&pair.a, "too_large", 1.0);
    assert_eq!([number(&pair.b), number(&pair.b)], ["1", "1"]);
    let c = start(gateway(&pair.origin, &pair.redis, "ttl = \"1h\""));
    c.connect().request("POST", "/", &[], "").expect(204);
    for gateway in [&pair.a, &pair.b] {
        eventually("it is new", || number(gateway).parse::<usize>().is_ok_and(|number| number > 1).then_some(()));
    }
}

#[test]
fn validation_is_for_all() {
    let pair = pair("ttl = \"1s\"\noverride = true", |request, count| match request.field("if-none-match") {
        Some("\"1\"") => Said::status(304, "ETag: \"1\"\nX-New: yes", ""),
        _ => Said::ok("ETag: \"1\"", count.to_string()),
    });
    assert_eq!(body(&pair.a, "/", &[]), "0");
    written(&pair.a, "written", 1.0);
    eventually("its time is over", || (pair.b.get("/").field("x-new") == Some("yes")).then_some(()));
    assert!(pair.origin.requests().iter().skip(1).all(|request| request.field("if-none-match").is_some()));
}

#[test]
fn what_was_purged_while_a_gateway_was_away_is_not_on_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, redis) =
        (app(|request, count| Said::ok("Cache-Tag: t", format!("{} {count}", request.target))), RedisServer::start());
    let disk = format!("disk = {{ path = \"{}\", max = \"16MiB\" }}", folder.path().display());
    let with_disk = || with(&origin, &redis, "ttl = \"1h\"", &disk, PATIENT);
    let (a, b) = (start(with_disk()), start(gateway(&origin, &redis, "ttl = \"1h\"")));
    // Told before it is kept: of no concern to what is on disk after.
    purge(&b, &["--tag", "t"]);
    a.counts("propylon_cache_shared_purges_total", &[("direction", "received")], 1.0);
    let kept = body(&a, "/kept", &[]);
    eventually("it is on disk", || {
        a.metrics().value("propylon_cache_disk_writes_total", &[("result", "written")]).filter(|count| *count == 1.0)
    });
    a.stop();
    let a = start(with_disk());
    eventually("the disk is known", || a.metrics().value("propylon_cache_disk_loaded", &[]).filter(|is| *is == 1.0));
    for key in answers(&redis) {
        let _: i64 = redis.ask(&format!("DEL {key}"));
    }
    assert_eq!(body(&a, "/kept", &[]), kept, "the restart has not dropped it");
    a.stop();
    purge(&b, &["--tag", "t"]);
    let a = start(with_disk());
    assert_ne!(body(&a, "/kept", &[]), kept);
}

#[test]
fn the_metrics_and_the_status_say_what_is_shared() {
    let pair = pair("ttl = \"1h\"", |_, count| Said::ok("", count.to_string()));
    let site = Site { gateway: pair.a, origin: pair.origin };
    let status: Value = serde_json::from_slice(&site.gateway.admin_get("/status").expect(200).body).unwrap();
    assert_eq!(status["cache"]["shared"]["up"], true);
    assert_eq!(status["cache"]["shared"]["current"], true);
    assert_eq!(site.value("propylon_redis_up", &[("user", "cache")]), 1.0);
    assert_eq!(site.value("propylon_redis_up", &[("user", "limits")]), 1.0);
}
