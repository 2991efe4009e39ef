//! Asking whether what is kept is still true (RFC 9111 section 4.3), and giving it where it is not, or nobody answers (4.2.4,
//! RFC 5861).

use std::collections::HashMap;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{Said, app, builder, site, status_of};
use crate::harness::{Gate, eventually};

const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// Sections 4.3.1 and 4.3.3: asked by what it has, confirmed by a 304.
#[test]
fn s4_3_a_304_confirms_what_is_kept() {
    let site = site("", |request, count| {
        if request.field("if-none-match") == Some("\"1\"") {
            return Said::status(
                304,
                "ETag: \"1\"\nCache-Control: no-cache\nX-Count: new\nContent-Type: text/wrong",
                "",
            );
        }
        let fields = format!(
            "ETag: \"1\"\nLast-Modified: {THEN}\nCache-Control: no-cache\nX-Count: old\nContent-Type: text/plain"
        );
        Said::ok(&fields, count.to_string())
    });
    site.get(&[]);
    for asked in 2..4 {
        let answer = site.get(&[]).expect(200);
        assert_eq!((answer.text(), site.asked()), ("0", asked));
        assert!(status_of(&answer).starts_with("propylon; fwd=stale; fwd-status=304"), "{answer}");
        // 3.2: fields of the 304 in place of those that were kept, but for what describes the body.
        assert_eq!((answer.field("x-count"), answer.field("content-type")), (Some("new"), Some("text/plain")));
        assert_eq!(answer.field("content-length"), Some("1"));
    }
    let asked = &site.origin.requests()[1];
    assert_eq!(asked.field("if-none-match"), Some("\"1\""));
    assert_eq!(asked.field("if-modified-since"), Some(THEN));
    site.counts("revalidated", 2.0);
}

/// Section 4.3.4: the new lifetime counts.
#[test]
fn s4_3_4_a_304_makes_it_fresh_again() {
    let site = site("", |request, count| match request.field("if-none-match") {
        Some(_) => Said::status(304, "ETag: \"1\"\nCache-Control: max-age=60", ""),
        None => Said::ok("ETag: \"1\"\nCache-Control: max-age=0", count.to_string()),
    });
    for _ in 0..4 {
        assert_eq!(site.get(&[]).expect(200).text(), "0");
    }
    assert_eq!(site.asked(), 2);
}

/// Section 4.3.3: a whole answer takes the place of what was kept.
#[test]
fn s4_3_3_a_new_answer_takes_its_place() {
    let site =
        site("", |_, count| Said::ok(&format!("ETag: \"{count}\"\nCache-Control: max-age=0"), count.to_string()));
    for count in 0..3 {
        assert_eq!(site.get(&[]).expect(200).text(), count.to_string());
    }
    assert_eq!(site.origin.requests()[2].field("if-none-match"), Some("\"1\""));
}

/// Section 4.3.4: a 304 with another tag speaks of something else: asked again, without a condition.
#[test]
fn s4_3_4_a_304_of_something_else() {
    let site = site("", |request, count| match request.field("if-none-match") {
        Some(_) => Said::status(304, "ETag: \"other\"\nCache-Control: max-age=60", ""),
        None => Said::ok("ETag: \"1\"\nCache-Control: max-age=0", count.to_string()),
    });
    assert_eq!(site.get(&[]).text(), "0");
    assert_eq!(site.get(&[]).expect(200).text(), "2");
    assert_eq!(site.asked(), 3);
}

/// A 304 that makes it one user's: it is given once more, and kept no longer.
#[test]
fn a_304_that_says_private() {
    let site = site("", |request, count| match request.field("if-none-match") {
        Some(_) => Said::status(304, "ETag: \"1\"\nCache-Control: private", ""),
        None => Said::ok("ETag: \"1\"\nCache-Control: max-age=0", count.to_string()),
    });
    site.get(&[]);
    assert_eq!(site.get(&[]).expect(200).text(), "0");
    assert_eq!(site.get(&[]).expect(200).text(), "2");
}

/// Section 4.3.2: conditions of clients, answered from what is kept.
#[test]
fn s4_3_2_conditions_of_clients() {
    let site = site("", |_, _| {
        Said::ok(
            &format!(
                "ETag: \"1\"\nLast-Modified: {THEN}\nCache-Control: max-age=60\nContent-Type: text/plain\nX-Long: yes"
            ),
            "body",
        )
    });
    // The first of all asks so, too: its answer is kept, and it has it already.
    let first = site.get(&[("If-None-Match", "W/\"1\"")]).expect(304);
    assert_eq!((first.body.len(), first.field("etag")), (0, Some("\"1\"")));
    // What speaks of the body is left out; the rest is what it was, or a client would keep what the gateway adds instead.
    assert!(
        !first.fields.has("content-type") && first.fields.has("x-long") && first.fields.has("x-request-id"),
        "{first}"
    );
    assert_eq!(site.origin.requests()[0].field("if-none-match"), None, "what one client has is not for all");
    let answer = site.get(&[("If-None-Match", "\"0\", \"1\"")]).expect(304);
    assert_eq!((answer.field("etag"), answer.field("cache-control")), (Some("\"1\""), Some("max-age=60")));
    assert!(answer.fields.has("age") && answer.fields.has("date") && answer.fields.has("x-long"), "{answer}");
    site.get(&[("If-None-Match", "*")]).expect(304);
    site.get(&[("If-None-Match", "\"2\"")]).expect(200);
    site.get(&[("If-Modified-Since", THEN)]).expect(304);
    site.get(&[("If-Modified-Since", "Sat, 05 Nov 1994 08:49:37 GMT")]).expect(200);
    site.get(&[("If-None-Match", "\"2\""), ("If-Modified-Since", THEN)]).expect(200);
    site.request("HEAD", "/", &[("If-None-Match", "\"1\"")]).expect(304);
    assert_eq!(site.asked(), 1);
}

/// Section 4.2.4, RFC 5861 section 4: an error, and what is kept in its place.
#[test]
fn s4_2_4_stale_if_error() {
    for (rule, fields, stands_in) in [
        (r#"stale_if_error = "1m""#, "Cache-Control: max-age=0", true),
        ("", "Cache-Control: max-age=0, stale-if-error=60", true),
        (r#"stale_if_error = "1m""#, "Cache-Control: max-age=0, stale-if-error=0", false),
        ("", "Cache-Control: max-age=0", false),
        (r#"stale_if_error = "1m""#, "Cache-Control: max-age=0, must-revalidate", false),
        (r#"stale_if_error = "1m""#, "Cache-Control: max-age=0, proxy-revalidate", false),
        (r#"stale_if_error = "1m""#, "Cache-Control: s-maxage=0", false),
        (r#"stale_if_error = "1m""#, "Cache-Control: no-cache", false),
    ] {
        for error in [500, 502, 503, 504, 404] {
            let site = site(rule, move |_, count| match count {
                0 => Said::ok(&format!("ETag: \"1\"\n{fields}"), "good"),
                _ => Said::status(error, "X-Error: yes", "bad"),
            });
            site.get(&[]);
            let answer = site.get(&[]);
            if stands_in && error != 404 {
                assert_eq!((answer.status, answer.text()), (200, "good"), "{rule} {fields} {error}");
                assert!(status_of(&answer).contains("stale-if-error") && !answer.fields.has("x-error"), "{answer}");
            } else {
                assert_eq!((answer.status, answer.text()), (error, "bad"), "{rule} {fields}");
            }
            assert_eq!(site.asked(), 2);
        }
    }
}

/// The same for an app that is not there, and one that breaks.
#[test]
fn an_app_that_is_gone() {
    let mut origin = app(|_, _| Said::ok("Cache-Control: max-age=0, stale-if-error=60", "good"));
    let gateway = builder(&origin, "").start();
    gateway.get("/").expect(200);
    origin.stop();
    let begin = Instant::now();
    let answer = gateway.get("/").expect(200);
    assert_eq!(answer.text(), "good");
    // A request that nothing stands in for waits 10 s.
    assert!(begin.elapsed() < Duration::from_secs(7), "{:?}", begin.elapsed());
    gateway.get("/other").expect(503);
    let lines = gateway.access_log(3);
    assert_eq!((&lines[1]["cache"], &lines[1]["status"]), (&"stale".into(), &200.into()));
    assert!(lines[1].get("reason").is_none(), "{}", lines[1]);
}

/// RFC 5861 section 3: given at once while a new one is fetched, once.
#[test]
fn stale_while_revalidate() {
    let gate = Gate::new();
    let opened = gate.clone();
    let site = site(r#"stale_while_revalidate = "1m""#, move |request, count| {
        if count > 0 {
            assert_eq!(request.field("if-none-match"), Some("\"0\""));
            opened.wait();
        }
        let age = if count == 0 { 0 } else { 60 };
        Said::ok(&format!("ETag: \"{count}\"\nCache-Control: max-age={age}"), count.to_string())
    });
    site.get(&[]);
    for _ in 0..5 {
        let answer = site.get(&[]).expect(200);
        assert_eq!(answer.text(), "0");
        assert!(status_of(&answer).starts_with("propylon; hit; ttl=-"), "{answer}");
    }
    site.origin.wait_for_requests(2);
    gate.open();
    eventually("the new answer is there", || (site.get(&[]).text() == "1").then_some(()));
    assert_eq!(site.asked(), 2);
    assert!(status_of(&site.get(&[])).contains("; hit; ttl="));
    // The gateway's own request is in nobody's log.
    let lines = site.gateway.access_log(7);
    assert!(lines.iter().all(|line| line["cache"] != "miss" || line["status"] == 200), "{lines:?}");
    site.counts("miss", 1.0);
    assert!(site.value("propylon_cache_requests_total", &[("rule", "all"), ("result", "stale")]) >= 5.0);
}

/// Without a window it is asked for first.
#[test]
fn stale_answers_are_not_given_for_nothing() {
    for strict in ["must-revalidate", "proxy-revalidate", "s-maxage=0"] {
        let fields = format!("ETag: \"1\"\nCache-Control: max-age=0, {strict}");
        let site = site(r#"stale_while_revalidate = "1m""#, move |_, count| Said::ok(&fields, count.to_string()));
        site.get(&[]);
        assert_eq!(site.get(&[]).text(), "1", "{strict}");
    }
}

/// A HEAD is answered at once too, and what it brings about is a GET: it would leave nothing to keep.
#[test]
fn a_head_is_given_what_is_stale_and_a_whole_answer_is_fetched() {
    let site = site(r#"stale_while_revalidate = "1m""#, |_, count| {
        let age = if count == 0 { 0 } else { 60 };
        Said::ok(&format!("ETag: \"{count}\"\nCache-Control: max-age={age}"), count.to_string())
    });
    site.get(&[]);
    let head = site.request("HEAD", "/", &[]).expect(200);
    assert_eq!((head.field("etag"), head.body.len()), (Some("\"0\""), 0));
    eventually("the new answer is there", || (site.get(&[]).text() == "1").then_some(()));
    let methods: Vec<String> = site.origin.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["GET", "GET"]);
}

/// RFC 5861 section 3: however many clients are given what is stale, and whenever they come, the app is asked for one new answer.
#[test]
fn a_stale_answer_is_refreshed_once() {
    const PATHS: usize = 100;
    let asked = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let counts = asked.clone();
    let site = site(r#"stale_while_revalidate = "1m""#, move |request, _| {
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(request.target.clone()).or_default();
        *count += 1;
        Said::ok(&format!("Cache-Control: max-age={}", if *count == 1 { 0 } else { 60 }), count.to_string())
    });
    let all_have_it = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = site.gateway.connect();
                for path in 0..PATHS {
                    let path = format!("/{path}");
                    client.request("GET", &path, &[], "").expect(200);
                    all_have_it.wait();
                    eventually("the new answer is there", || {
                        (client.request("GET", &path, &[], "").text() != "1").then_some(())
                    });
                }
            });
        }
    });
    let asked = asked.lock().unwrap();
    let more: Vec<_> = asked.iter().filter(|(_, count)| **count != 2).collect();
    assert!(asked.len() == PATHS && more.is_empty(), "{more:?}");
}

/// Sections 4.2.3 and 4.3.4: the age of a 304 is that of what it confirms, and what it says of its lifetime counts once.
#[test]
fn the_age_and_the_lifetime_of_a_304() {
    let site = site("", |request, count| match request.field("if-none-match") {
        Some(_) => Said::status(304, "ETag: \"1\"\nAge: 50\nCache-Control: max-age=60", ""),
        None => Said::ok("ETag: \"1\"\nCache-Control: max-age=0", count.to_string()),
    });
    site.get(&[]);
    site.get(&[]).expect(200);
    let hit = site.get(&[]).expect(200);
    let age: u64 = hit.field("age").unwrap().parse().unwrap();
    assert!((50..60).contains(&age) && site.asked() == 2, "{hit}");

    let site = super::site("", |request, count| match request.field("if-none-match") {
        Some(_) => Said::status(304, "ETag: \"1\"\nX-Accel-Expires: 60", ""),
        None => Said::ok("ETag: \"1\"\nCache-Control: max-age=0", count.to_string()),
    });
    site.get(&[]);
    site.get(&[]).expect(200);
    let hit = site.get(&[]).expect(200);
    assert!(status_of(&hit).contains("; hit; ttl=") && hit.field("x-accel-expires").is_none(), "{hit}");
}

/// Section 4.3.5: a HEAD that was passed on freshens what GET has left, or ends it.
#[test]
fn s4_3_5_a_head_freshens_what_is_kept() {
    for (of_head, expected, asked) in [
        ("ETag: \"1\"\nX-New: yes\nCache-Control: max-age=60", ("0", Some("yes")), 2),
        ("ETag: \"2\"\nCache-Control: max-age=60", ("2", None), 3),
        // Nothing that could be compared; it is asked about as before.
        ("X-New: yes\nCache-Control: max-age=60", ("0", Some("later")), 3),
    ] {
        let of_head = of_head.to_owned();
        let site = site("", move |request, count| match (&*request.method, request.field("if-none-match")) {
            ("HEAD", _) => Said::ok(&of_head, "0"),
            (_, Some(_)) => Said::status(304, "ETag: \"1\"\nX-New: later", ""),
            _ => Said::ok("ETag: \"1\"\nCache-Control: max-age=0", count.to_string()),
        });
        site.get(&[]);
        site.request("HEAD", "/", &[]).expect(200);
        let answer = site.get(&[]).expect(200);
        assert_eq!(((answer.text(), answer.field("x-new")), site.asked()), (expected, asked));
    }
    // A length that is another is another answer.
    let site = site("", |request, count| match &*request.method {
        "HEAD" => Said::ok("ETag: \"1\"\nCache-Control: max-age=60", "longer"),
        _ => Said::ok("ETag: \"1\"\nCache-Control: max-age=0", count.to_string()),
    });
    site.get(&[]);
    site.request("HEAD", "/", &[]).expect(200);
    assert_eq!(site.get(&[]).text(), "2");
    assert!(site.origin.requests()[2].field("if-none-match").is_none());
}
