//! What is given to whom: Vary, methods, ranges, invalidation (RFC 9111 sections 4, 4.1 and 4.4; RFC 9110 section 14).

use super::{Said, is_given_again, site, status_of};

const FRESH: &str = "Cache-Control: max-age=60";

/// Section 4.1.
#[test]
fn s4_1_vary() {
    let site = site("", |request, _| {
        let language = request.field("accept-language").unwrap_or("none");
        Said::ok(&format!("{FRESH}\nVary: Accept-Language, Accept"), language)
    });
    let get = |language: &str| site.get(&[("Accept-Language", language)]).text().to_owned();
    assert_eq!([get("de"), get("en"), get("de"), get("en")], ["de", "en", "de", "en"]);
    assert_eq!(site.asked(), 2);
    // Absent is not what anybody said.
    assert_eq!((site.get(&[]).text(), site.asked()), ("none", 3));
    assert_eq!((site.get(&[("Accept-Language", "")]).text(), site.asked()), ("", 4));
    // White space around what is listed is no difference.
    assert_eq!(get("de, en"), "de, en");
    assert_eq!((get("de,en"), site.asked()), ("de, en".into(), 5));
}

/// Section 4.1: encodings, by what they allow.
#[test]
fn s4_1_accept_encoding_is_normalised() {
    let given = |first: &str, second: &str| {
        let site = site("", |_, count| Said::ok(&format!("{FRESH}\nVary: Accept-Encoding"), count.to_string()));
        is_given_again(&site, &[("Accept-Encoding", first)], &[("Accept-Encoding", second)])
    };
    assert!(given("gzip, deflate, br", "br;q=1.0, gzip;q=0.8, deflate;q=0.1"));
    assert!(!given("gzip", "identity"));
    assert!(!given("br", "br;q=0, gzip"));
}

/// Section 4.1: an answer that depends on other fields than the last.
#[test]
fn s4_1_vary_that_changes() {
    let site = site("", |request, count| {
        let vary = if count == 0 { "" } else { "Vary: X-Kind" };
        Said::ok(&format!("{FRESH}\n{vary}"), request.field("x-kind").unwrap_or("none"))
    });
    assert_eq!(site.get(&[("X-Kind", "a")]).text(), "a");
    assert_eq!(site.get(&[("X-Kind", "b")]).text(), "a", "it was for all");
    assert_eq!(site.get(&[("X-Kind", "b"), ("Cache-Control", "no-cache")]).text(), "b");
    assert_eq!(site.get(&[("X-Kind", "c")]).text(), "c");
    assert_eq!(site.get(&[("X-Kind", "b")]).text(), "b");
    assert_eq!(site.asked(), 3);
}

/// Section 4.4: an unsafe method that succeeded.
#[test]
fn s4_4_what_changes_things_ends_what_is_kept() {
    for (method, status, ends) in [
        ("POST", 200, true),
        ("PUT", 204, true),
        ("DELETE", 303, true),
        ("PATCH", 201, true),
        ("UNKNOWN", 200, true),
        ("POST", 400, false),
        ("POST", 500, false),
        ("OPTIONS", 200, false),
    ] {
        let site = site("", move |request, count| match &*request.method {
            "GET" => Said::ok(&format!("{FRESH}\nVary: Accept"), count.to_string()),
            _ => Said::status(status, "", ""),
        });
        site.get(&[]);
        site.get(&[("Accept", "x")]);
        site.request(method, "/other", &[]);
        assert_eq!(site.get(&[]).text(), "0", "another resource");
        site.request(method, "/", &[]);
        assert_eq!(site.get(&[]).text() != "0", ends, "{method} {status}");
        assert_eq!(site.get(&[("Accept", "x")]).text() != "1", ends, "{method} {status}");
    }
}

/// Section 4.4: `Location` and `Content-Location` of the same origin.
#[test]
fn s4_4_what_an_answer_points_at_ends_as_well() {
    let site = site("", |request, count| match &*request.method {
        "GET" => Said::ok(FRESH, count.to_string()),
        _ => Said::status(201, "Location: /made\nContent-Location: http://test/listed?x=1", ""),
    });
    let get = |target: &str| site.request("GET", target, &[]).text().to_owned();
    let first = [get("/made"), get("/listed?x=1"), get("/listed")];
    site.request("POST", "/", &[]);
    let second = [get("/made"), get("/listed?x=1"), get("/listed")];
    assert_ne!(first[0], second[0]);
    assert_ne!(first[1], second[1]);
    assert_eq!(first[2], second[2]);
    // Another host is not theirs to end (section 4.4, last but one paragraph).
    let fields = [("Host", "other")];
    let others = site.request("GET", "/made", &fields).text().to_owned();
    site.request("POST", "/", &[]);
    assert_eq!(site.request("GET", "/made", &fields).text(), others);
}

/// RFC 9110 section 14, RFC 9111 section 3.3: parts of what is whole.
#[test]
fn ranges_of_what_is_kept() {
    let site = site("", |_, _| Said::ok(&format!("{FRESH}\nETag: \"1\"\nContent-Type: text/plain"), "0123456789"));
    site.get(&[]);
    let range = |range: &str| site.get(&[("Range", range)]);
    let part = range("bytes=2-4").expect(206);
    assert_eq!((part.text(), part.field("content-range")), ("234", Some("bytes 2-4/10")));
    assert_eq!(part.field("content-length"), Some("3"));
    assert_eq!(range("bytes=-3").expect(206).text(), "789");
    assert_eq!(range("bytes=8-").expect(206).text(), "89");
    let beyond = range("bytes=10-").expect(416);
    assert_eq!((beyond.field("content-range"), beyond.body.len()), (Some("bytes */10"), 0));
    assert_eq!(range("bytes=4-2").expect(200).text(), "0123456789");
    assert_eq!(range("chapters=1").expect(200).text(), "0123456789");
    let several = range("bytes=0-1,8-9").expect(206);
    let media = several.field("content-type").unwrap().to_owned();
    let boundary = media.strip_prefix("multipart/byteranges; boundary=").unwrap();
    assert_eq!(several.text().matches(boundary).count(), 3);
    assert!(several.text().contains("Content-Range: bytes 8-9/10\r\n\r\n89\r\n"), "{several}");
    assert!(!several.fields.has("content-range"));
    // RFC 9110 section 13.1.5: only of what the client has the beginning of.
    let with = |tag: &str| site.get(&[("Range", "bytes=2-4"), ("If-Range", tag)]);
    with("\"1\"").expect(206);
    assert_eq!(with("\"2\"").expect(200).text(), "0123456789");
    assert_eq!(with("W/\"1\"").expect(200).text(), "0123456789");
    let head = site.request("HEAD", "/", &[("Range", "bytes=2-4")]).expect(200);
    assert_eq!(head.field("content-length"), Some("10"));
    assert_eq!(site.asked(), 1);
}

/// A part that is not kept is asked for as it is, and a whole answer to that is kept.
#[test]
fn ranges_of_what_is_not_kept() {
    let site = site("", |request, _| match request.field("range") {
        Some("bytes=0-1") => Said::status(206, &format!("{FRESH}\nContent-Range: bytes 0-1/4"), "01"),
        _ => Said::ok(FRESH, "0123"),
    });
    for _ in 0..2 {
        assert_eq!(site.get(&[("Range", "bytes=0-1")]).expect(206).text(), "01");
    }
    assert_eq!(site.asked(), 2);
    // An app that knows no ranges says all.
    assert_eq!(site.get(&[("Range", "bytes=1-2")]).expect(200).text(), "0123");
    assert_eq!(site.get(&[("Range", "bytes=1-2")]).expect(206).text(), "12");
    assert_eq!(site.asked(), 3);
}

/// What the gateway adds is of the moment, not of the first answer.
#[test]
fn limits_and_edits_are_of_each_answer() {
    let origin = super::app(|_, _| Said::ok(FRESH, "body"));
    let more = r#"rate_limit = { rate = "5/h" }
    response_headers = { set = { X-Route = "1" }, remove = ["X-App"] }"#;
    let gateway = super::builder_with(&origin, "", more, "").start();
    for left in [4, 3, 2] {
        let answer = gateway.get("/").expect(200);
        assert!(answer.field("ratelimit").unwrap().contains(&format!("r={left}")), "{answer}");
        assert_eq!(answer.field("x-route"), Some("1"));
    }
    assert_eq!(origin.requests().len(), 1);
    gateway.get("/");
    gateway.get("/");
    let refused = gateway.get("/").expect(429);
    assert_eq!(status_of(&refused), "");
}
