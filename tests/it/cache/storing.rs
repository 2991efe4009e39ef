//! What is kept and what is not (RFC 9111 section 3).

use super::{Said, is_given_again, is_kept, site, status_of};
use crate::harness::Origin;

const RULE: &str = r#"ttl = "1m""#;
const FRESH: &str = "Cache-Control: max-age=60";

/// Section 3: "the request method is understood by the cache".
#[test]
fn s3_only_answers_to_get() {
    let site = site(RULE, |_, count| Said::ok(FRESH, count.to_string()));
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "REPORT"] {
        site.request(method, "/", &[]).expect(200);
        let asked = site.asked();
        site.request(method, "/", &[]).expect(200);
        assert_eq!(site.asked(), asked + 1, "{method}");
    }
    // What HEAD brings has no body to be given to a GET.
    site.request("HEAD", "/h", &[]).expect(200);
    assert_eq!(status_of(&site.request("GET", "/h", &[]).expect(200)), "propylon; fwd=miss; stored");
}

/// Section 3: "the response status code is final"; section 3.3 of incomplete responses; 4.2.2 of statuses without a lifetime.
#[test]
fn s3_which_statuses() {
    let by_status = |rule: &str, status: u16, fields: &str| {
        let fields = fields.to_owned();
        let site = site(rule, move |_, count| Said::status(status, &fields, count.to_string()));
        let first = site.get(&[]);
        let second = site.get(&[]);
        assert_eq!((first.status, second.status), (status, status));
        site.asked() == 1
    };
    // With a lifetime of its own any final status may be kept.
    for status in [200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 403, 404, 405, 410, 414, 451, 500, 501, 503] {
        assert!(by_status("", status, FRESH), "{status}");
    }
    assert!(!by_status("", 206, "Cache-Control: max-age=60\nContent-Range: bytes 0-0/5"));
    // One time of a rule is for those that last.
    for (status, expected) in [(200, true), (203, true), (301, true), (308, true), (404, true), (410, true)]
        .into_iter()
        .chain([(302, false), (307, false), (403, false), (500, false), (503, false), (204, false)])
    {
        assert_eq!(by_status(RULE, status, ""), expected, "{status}");
    }
    assert!(by_status(r#"ttl = { "503" = "1m" }"#, 503, ""));
    assert!(!by_status(r#"ttl = { "503" = "1m" }"#, 200, ""));
}

/// Section 5.2.2.5.
#[test]
fn s5_2_2_5_no_store() {
    for value in ["no-store", "max-age=60, no-store", "NO-STORE", "public, no-store, max-age=60", "x=\"a, no-store=1"] {
        assert!(!is_kept(RULE, &format!("Cache-Control: {value}"), &[]), "{value}");
        let rule = format!("{RULE}\noverride = true");
        assert!(!is_kept(&rule, &format!("Cache-Control: {value}"), &[]), "{value}, overridden");
    }
    assert!(!is_kept(RULE, "Cache-Control: max-age=60\nCache-Control: no-store", &[]));
}

/// Section 5.2.2.7.
#[test]
fn s5_2_2_7_private() {
    for value in ["private", "private, max-age=60", "private=\"x-field\", max-age=60", "Private"] {
        assert!(!is_kept(RULE, &format!("Cache-Control: {value}"), &[]), "{value}");
        assert!(!is_kept(&format!("{RULE}\noverride = true"), &format!("Cache-Control: {value}"), &[]), "{value}");
    }
}

/// Section 3.5: answers to requests with Authorization.
#[test]
fn s3_5_authorization() {
    let token = [("Authorization", "Bearer one")];
    assert!(!is_kept(RULE, "", &token));
    assert!(!is_kept(RULE, FRESH, &token));
    for value in ["public", "public, max-age=60", "s-maxage=60", "must-revalidate, max-age=60"] {
        assert!(is_kept(RULE, &format!("Cache-Control: {value}"), &token), "{value}");
    }
    // Nor is it given what was kept for those without, unless that is said to be for all.
    let given = |fields: &'static str| {
        let site = site(RULE, move |_, count| Said::ok(fields, count.to_string()));
        is_given_again(&site, &[], &token)
    };
    assert!(!given(FRESH));
    assert!(given("Cache-Control: public, max-age=60"));
}

/// A `Set-Cookie` is one user's, whatever else is said.
#[test]
fn an_answer_that_sets_a_cookie() {
    for fields in ["Set-Cookie: a=b", "Set-Cookie: a=b\nCache-Control: public, max-age=60, s-maxage=60"] {
        assert!(!is_kept(RULE, fields, &[]), "{fields}");
        assert!(!is_kept(&format!("{RULE}\noverride = true"), fields, &[]), "{fields}");
    }
}

/// Section 4.1, of storing: `Vary: *` never matches; by Cookie or Authorization it is one user's.
#[test]
fn s4_1_vary_by_what_is_one_users() {
    for vary in
        ["*", "Accept, *", "Cookie", "Accept-Encoding, cookie", "Authorization", "X-Forwarded-For", "not a name"]
    {
        assert!(!is_kept(RULE, &format!("Vary: {vary}\n{FRESH}"), &[]), "{vary}");
    }
    assert!(!is_kept(RULE, &format!("Vary: Accept\nVary: Cookie\n{FRESH}"), &[]));
    assert!(is_kept(RULE, &format!("Vary: Accept-Encoding\n{FRESH}"), &[]));
}

/// Section 3: an answer without a lifetime is only kept where a rule gives it one.
#[test]
fn s3_lifetimes() {
    assert!(!is_kept("", "", &[]));
    assert!(!is_kept("", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", &[]), "no heuristic of our own");
    assert!(is_kept(RULE, "", &[]));
    assert!(is_kept("", FRESH, &[]));
    assert!(!is_kept(RULE, "Cache-Control: max-age=0", &[]), "what it says goes before the rule");
    assert!(is_kept(&format!("{RULE}\noverride = true"), "Cache-Control: max-age=0", &[]));
    assert!(is_kept(&format!("{RULE}\noverride = true"), "Cache-Control: s-maxage=0", &[]));
    assert!(!is_kept(&format!("{RULE}\noverride = true"), "Cache-Control: no-cache", &[]), "nor above no-cache");
}

/// Section 3.3, and what is sent as it is made.
#[test]
fn s3_3_what_is_not_whole_or_never_will_be() {
    let is_kept = |response: &'static str| {
        let origin = Origin::start(move |connection| {
            if connection.read_request().is_some() {
                connection.write(response);
            }
        });
        let gateway = super::builder(&origin, RULE).start();
        let mut clients = [gateway.connect(), gateway.connect()];
        for client in &mut clients {
            client.send_request("GET", "/", &[], "");
            let _ = client.try_response();
        }
        origin.requests().len() == 1
    };
    assert!(is_kept("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"));
    assert!(is_kept("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"));
    assert!(!is_kept("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), "shorter than it says");
    assert!(!is_kept("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"), "without its last chunk");
    assert!(!is_kept("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\nab"), "it ends with its connection");
    assert!(!is_kept("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 2\r\n\r\nab"));
    assert!(!is_kept("HTTP/1.1 200 OK\r\nX-Accel-Buffering: no\r\nContent-Length: 2\r\n\r\nab"));
    assert!(!is_kept("HTTP/1.1 200 OK\r\nX-Accel-Expires: 0\r\nContent-Length: 2\r\n\r\nab"));
}

/// Section 3.1: fields that are kept with it.
#[test]
fn s3_1_fields() {
    let site = site(RULE, |_, _| {
        let hop = "Connection: x-hop\nX-Hop: 1\nKeep-Alive: timeout=5\nProxy-Authenticate: Basic";
        Said::ok(&format!("{hop}\nLink: </a>\nLink: </b>\nX-Unknown: yes\nETag: \"1\""), "body")
    });
    site.get(&[]);
    let again = site.get(&[]);
    assert_eq!(again.fields.all("link"), ["</a>", "</b>"]);
    assert_eq!((again.field("x-unknown"), again.field("etag")), (Some("yes"), Some("\"1\"")));
    for gone in ["x-hop", "connection", "keep-alive", "proxy-authenticate"] {
        assert!(!again.fields.has(gone), "{gone}");
    }
    assert_eq!(site.asked(), 1);
}

/// RFC 9213: what is said to caches like this one alone.
#[test]
fn rfc9213_a_field_for_this_kind_of_cache() {
    assert!(is_kept("", "Cache-Control: private\nCDN-Cache-Control: max-age=60", &[]));
    assert!(!is_kept("", "Cache-Control: max-age=60\nCDN-Cache-Control: no-store", &[]));
    assert!(!is_kept("", "Cache-Control: max-age=60\nCDN-Cache-Control: max-age=0", &[]));
}

/// Requests that are not answered from what is kept, nor theirs kept.
#[test]
fn requests_that_go_past() {
    for (request, reason) in [
        (("Cookie", "session=1"), "cookie"),
        (("Cookie", "_ga=1; session=1"), "cookie"),
        (("Cache-Control", "no-store"), "no_store"),
        (("If-Match", "\"1\""), "precondition"),
        (("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"), "precondition"),
    ] {
        let site = site(&format!("{RULE}\nignore_cookies = [\"_ga*\"]"), |_, count| Said::ok("", count.to_string()));
        site.get(&[]);
        for _ in 0..2 {
            assert_eq!(status_of(&site.get(&[request])), format!("propylon; fwd=bypass; detail={reason}"));
        }
        assert_eq!(site.asked(), 3, "{request:?}");
        assert_eq!(site.get(&[]).text(), "0", "what was kept stays");
        let labels = [("rule", "all"), ("reason", reason)];
        site.counts("bypass", 2.0);
        assert_eq!(site.value("propylon_cache_bypasses_total", &labels), 2.0);
    }
    let site = site(RULE, |_, count| Said::ok("", count.to_string()));
    site.gateway.connect().request("GET", "/", &[], "with a body").expect(200);
    site.gateway.connect().request("GET", "/", &[], "with a body").expect(200);
    assert_eq!(site.asked(), 2);
}

/// Cookies without influence: the app does not see them, and the answer is for all.
#[test]
fn cookies_that_are_ignored() {
    let site = site(&format!("{RULE}\nignore_cookies = [\"_ga*\", \"seen\"]"), |request, _| {
        Said::ok("", request.field("cookie").unwrap_or("none"))
    });
    assert_eq!(site.get(&[("Cookie", "_ga=1; seen=x")]).text(), "none");
    assert_eq!(status_of(&site.get(&[("Cookie", "_ga_other=2")])).split(';').nth(1), Some(" hit"));
    assert_eq!(site.get(&[("Cookie", "_ga=1; session=2")]).text(), "_ga=1; session=2");
    assert_eq!(site.asked(), 2);
}
