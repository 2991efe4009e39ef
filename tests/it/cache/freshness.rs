//! How long, and how old (RFC 9111 sections 4.2 and 5).

use std::time::{Duration, SystemTime};

use super::{GATEWAY, Said, app, is_kept, site, status_of};
use crate::harness::{Gate, Gateway, scripted_delay};

const OLD: &str = "Cache-Control: max-age=600\nAge: 100";
const STALE: &str = "Cache-Control: max-age=100\nAge: 150\nETag: \"1\"";

fn date(offset: i64) -> String {
    let now = SystemTime::now();
    let seconds = Duration::from_secs(offset.unsigned_abs());
    httpdate::fmt_http_date(if offset < 0 { now - seconds } else { now + seconds })
}

/// Section 4.2.1: s-maxage, then max-age, then Expires.
#[test]
fn s4_2_1_the_order_of_lifetimes() {
    assert!(is_kept("", "Cache-Control: s-maxage=60, max-age=0", &[]));
    assert!(!is_kept("", "Cache-Control: s-maxage=0, max-age=60", &[]));
    assert!(is_kept("", &format!("Cache-Control: max-age=60\nExpires: {}", date(-60)), &[]));
    assert!(!is_kept("", &format!("Cache-Control: max-age=0\nExpires: {}", date(60)), &[]));
    assert!(is_kept("", &format!("Expires: {}", date(60)), &[]));
}

/// Section 4.2.1: what cannot be read, or contradicts itself, is stale.
#[test]
fn s4_2_1_lifetimes_that_are_none() {
    for value in ["max-age", "max-age=", "max-age=x", "max-age=-1", "max-age=60, max-age=0", "max-age=1.5"] {
        assert!(!is_kept(r#"ttl = "1m""#, &format!("Cache-Control: {value}"), &[]), "{value}");
    }
    assert!(is_kept("", "Cache-Control: max-age=\"60\"", &[]));
    assert!(is_kept("", "Cache-Control: max-age=60, max-age=60", &[]));
    assert!(is_kept("", "Cache-Control: max-age=99999999999999999999", &[]));
}

/// Section 5.3: Expires, with Date and without; a value that is no date is in the past.
#[test]
fn s5_3_expires() {
    let with_date = |expires: i64, made: i64| format!("Expires: {}\nDate: {}", date(expires), date(made));
    assert!(is_kept("", &with_date(60, 0), &[]));
    // Its clock is an hour ahead: what counts is the difference.
    assert!(is_kept("", &with_date(3660, 3600), &[]));
    assert!(!is_kept("", &with_date(3600, 3600), &[]));
    assert!(!is_kept("", &format!("Expires: {}", date(-1)), &[]));
    for none in ["0", "-1", "now", "Thu, 99 Foo 2030 00:00:00 GMT"] {
        assert!(!is_kept(r#"ttl = "1m""#, &format!("Expires: {none}"), &[]), "{none}");
    }
}

/// Section 4.2.3: the age from Age, and from Date.
#[test]
fn s4_2_3_age() {
    assert!(!is_kept("", "Cache-Control: max-age=60\nAge: 60", &[]));
    assert!(is_kept("", "Cache-Control: max-age=60\nAge: 30", &[]));
    assert!(!is_kept("", &format!("Cache-Control: max-age=60\nDate: {}", date(-61)), &[]));
    assert!(is_kept("", &format!("Cache-Control: max-age=60\nDate: {}", date(-30)), &[]));
    assert!(is_kept("", &format!("Cache-Control: max-age=60\nDate: {}", date(600)), &[]), "a clock that is ahead");
    for none in ["x", "-5", "1.5", ""] {
        assert!(is_kept("", &format!("Cache-Control: max-age=60\nAge: {none}"), &[]), "{none}");
    }
    assert!(is_kept("", "Cache-Control: max-age=60\nAge: 5, 100", &[]), "the first counts");
}

/// Section 5.1: what is given has an Age, with that of its arrival in it.
#[test]
fn s5_1_age_is_said() {
    let site = site("", |_, _| Said::ok("Cache-Control: max-age=600\nAge: 100", "body"));
    assert_eq!(site.get(&[]).field("age"), Some("100"));
    let again = site.get(&[]);
    let age: u32 = again.field("age").unwrap().parse().unwrap();
    assert!((100..=102).contains(&age), "{again}");
    let ttl: u32 = status_of(&again).split("ttl=").nth(1).unwrap().parse().unwrap();
    assert!((497..=500).contains(&ttl), "{again}");
}

/// A rule's time counts from the arrival, however old an answer says it is.
#[test]
fn a_rules_time_counts_from_the_arrival() {
    assert!(is_kept(r#"ttl = "1m""#, &format!("Date: {}", date(-600)), &[]));
    assert!(is_kept(r#"ttl = "1m""#, "Age: 600", &[]));
}

/// Section 4.2: what has had its time is not given.
#[test]
fn s4_2_time_passes() {
    let site = site(r#"ttl = "300ms""#, |_, count| Said::ok("", count.to_string()));
    assert_eq!(site.get(&[]).text(), "0");
    crate::harness::eventually("its time is over", || {
        let answer = site.get(&[]);
        (answer.text() == "1").then_some(())
    });
}

/// Section 5.2.1: what a request says of the answers it takes.
#[test]
fn s5_2_1_what_a_client_takes() {
    let given = |fields: &'static str, request: &str| {
        let site = site("", move |_, count| Said::ok(fields, count.to_string()));
        site.get(&[]);
        let answer = site.get(&[("Cache-Control", request)]);
        assert_eq!(answer.text() == "0", status_of(&answer).contains("; hit"), "{answer}");
        answer.text() == "0"
    };
    // 5.2.1.1 max-age
    assert!(given(OLD, "max-age=200"));
    assert!(!given(OLD, "max-age=50"));
    assert!(!given("Cache-Control: max-age=600", "max-age=0"));
    assert!(!given(OLD, "max-age=nonsense"));
    // 5.2.1.2 max-stale
    assert!(!given(STALE, "max-age=1000"));
    assert!(given(STALE, "max-stale"));
    assert!(given(STALE, "max-stale=100"));
    assert!(!given(STALE, "max-stale=20"));
    assert!(!given(STALE, "max-stale=nonsense"));
    for strict in ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=100"] {
        let fields = format!("Cache-Control: max-age=100, {strict}\nAge: 150\nETag: \"1\"");
        assert!(!given(fields.leak(), "max-stale"), "{strict}");
    }
    // 5.2.1.3 min-fresh
    assert!(given(OLD, "min-fresh=400"));
    assert!(!given(OLD, "min-fresh=550"));
    // 5.2.1.4 no-cache
    assert!(!given(OLD, "no-cache"));
    // 5.2.1.6 no-transform, 5.2.3 extensions
    assert!(given(OLD, "no-transform, x-unknown=1"));
}

/// Section 5.2.1.7.
#[test]
fn s5_2_1_7_only_if_cached() {
    let site = site("", |_, count| Said::ok("Cache-Control: max-age=60", count.to_string()));
    let only = [("Cache-Control", "only-if-cached")];
    let refused = site.get(&only).expect(504);
    assert_eq!(refused.json()["reason"], "not_cached");
    assert_eq!(site.asked(), 0);
    site.get(&[]);
    assert_eq!(site.get(&only).expect(200).text(), "0");
    assert_eq!(site.asked(), 1);
}

/// Section 5.4: Pragma counts where there is no Cache-Control.
#[test]
fn s5_4_pragma() {
    let site = site("", |_, count| Said::ok("Cache-Control: max-age=60", count.to_string()));
    site.get(&[]);
    assert_eq!(site.get(&[("Pragma", "no-cache")]).text(), "1");
    assert_eq!(site.get(&[("Pragma", "no-cache"), ("Cache-Control", "max-age=100")]).text(), "1");
}

/// An operator need not listen to clients.
#[test]
fn clients_that_are_not_listened_to() {
    let rule = "ttl = \"1m\"\nignore_client_directives = true";
    let site = site(rule, |_, count| Said::ok("", count.to_string()));
    site.get(&[]);
    for said in ["no-cache", "max-age=0", "no-store", "only-if-cached"] {
        assert_eq!(site.get(&[("Cache-Control", said), ("Pragma", "no-cache")]).text(), "0", "{said}");
    }
}

/// Section 4.2.3: an answer is as old as the question to the app, and not as the wait for a worker.
#[test]
fn time_in_the_queue_is_no_age() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = app(move |request, count| {
        if request.target == "/busy" {
            held.wait();
        }
        Said::ok("Cache-Control: max-age=3", count.to_string())
    });
    let toml = GATEWAY.replace("endpoints = [\"{origin}\"]", "endpoints = [\"{origin}\"]\nmax_in_flight = 1");
    let gateway = Gateway::with(&toml).set("origin", origin.address());
    let gateway = gateway.set("rule", "").set("more", "").set("cache", "").start();
    let (mut busy, mut waiting) = (gateway.connect(), gateway.connect());
    busy.send_request("GET", "/busy", &[], "");
    origin.wait_for_requests(1);
    waiting.send_request("GET", "/", &[], "");
    scripted_delay(Duration::from_millis(3200));
    gate.open();
    busy.response().expect(200);
    assert_eq!(waiting.response().expect(200).text(), "1");
    let again = gateway.get("/").expect(200);
    assert!(again.text() == "1" && status_of(&again).contains("; hit"), "{again}");
}
