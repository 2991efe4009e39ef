//! `propylon purge`: by URL, by the beginning of one, by tag, all; for good or until a new answer is there.

use super::{Said, purge, site, status_of};
use crate::harness::{Gate, eventually};

/// Which of these paths are still kept, once each was.
fn kept_after(arguments: &[&str], paths: &[&'static str]) -> (String, Vec<&'static str>) {
    let site = site("ttl = \"1m\"", |request, count| {
        let tag = request.target.split('/').nth(1).unwrap_or_default().to_owned();
        Said::ok(&format!("Surrogate-Key: {tag} all-of-it\nCache-Tag: {tag}-2,other\nVary: Accept"), count.to_string())
    });
    let get = |path: &str| site.request("GET", path, &[("Accept", "a")]).text().to_owned();
    let before: Vec<String> = paths.iter().map(|path| get(path)).collect();
    let report = purge(&site.gateway, arguments);
    let kept = paths.iter().zip(before).filter(|(path, before)| get(path) == *before).map(|(path, _)| *path);
    (report, kept.collect())
}

#[test]
fn by_url_prefix_tag_and_all() {
    let paths = ["/", "/a", "/a?x=1", "/a/b", "/ab", "/c/d"];
    let without = |gone: &[&str]| -> Vec<&str> { paths.into_iter().filter(|path| !gone.contains(path)).collect() };
    for (arguments, gone, report) in [
        (&["http://test/a"][..], &["/a"][..], "purged 1 URL: 1 answer in memory dropped"),
        (&["https://TEST:80/a?x=1", "http://test"], &["/a?x=1", "/"], "purged 2 URLs: 2 answers in memory dropped"),
        (&["--prefix", "http://test/a/"], &["/a/b"], "purged 1 prefix: 1 answer in memory dropped"),
        (
            &["--prefix", "http://test/a"],
            &["/a", "/a?x=1", "/a/b", "/ab"],
            "purged 1 prefix: 4 answers in memory dropped",
        ),
        (&["--prefix", "http://other/"], &[], "purged 1 prefix: 0 answers in memory dropped"),
        (&["--tag", "c"], &["/c/d"], "purged 1 tag: 1 answer in memory dropped"),
        (&["--tag", "ab-2", "--tag", "none"], &["/ab"], "purged 2 tags: 1 answer in memory dropped"),
        (&["--tag", "all-of-it"], &paths, "purged 1 tag: 6 answers in memory dropped"),
        (&["--all"], &paths, "purged everything: 6 answers in memory dropped"),
        (&["http://test/nothing"], &[], "purged 1 URL: 0 answers in memory dropped"),
    ] {
        let (said, kept) = kept_after(arguments, &paths);
        assert_eq!((&*said, kept), (report, without(gone)), "{arguments:?}");
    }
}

#[test]
fn every_variant_of_a_url_goes() {
    let site = site("ttl = \"1m\"\nkey = { query = [\"page\"], headers = [\"X-Kind\"] }", |_, count| {
        Said::ok("Vary: Accept-Language", count.to_string())
    });
    let get = |kind: &str, language: &str| {
        let fields = [("X-Kind", kind), ("Accept-Language", language)];
        site.request("GET", "/a?page=1&utm=2", &fields).text().to_owned()
    };
    let all = || [get("x", "de"), get("x", "en"), get("y", "de")];
    let before = all();
    assert_eq!(before, all());
    assert_eq!(purge(&site.gateway, &["http://test/a?page=1"]), "purged 1 URL: 3 answers in memory dropped");
    let after = all();
    assert!(before.iter().all(|text| !after.contains(text)), "{before:?} {after:?}");
}

#[test]
fn softly_what_is_kept_is_stale() {
    let gate = Gate::new();
    let opened = gate.clone();
    let site = site("ttl = \"1m\"\nstale_while_revalidate = \"1m\"", move |_, count| {
        if count > 0 {
            opened.wait();
        }
        Said::ok("Cache-Tag: t", count.to_string())
    });
    site.get(&[]);
    assert_eq!(purge(&site.gateway, &["--soft", "--tag", "t"]), "purged 1 tag: 1 answer in memory made stale");
    let stale = site.get(&[]);
    assert_eq!(stale.text(), "0");
    assert!(status_of(&stale).starts_with("propylon; hit; ttl=-"), "{stale}");
    gate.open();
    eventually("the new one is there", || (site.get(&[]).text() == "1").then_some(()));
    let again = status_of(&site.get(&[]));
    assert!(again.starts_with("propylon; hit; ttl=") && !again.contains('-'), "{again}: it is no older for it");
}

#[test]
fn softly_without_a_window_the_app_is_asked() {
    let site = site("ttl = \"1m\"", |request, count| match request.field("if-none-match") {
        Some(_) => Said::status(304, "ETag: \"1\"", ""),
        None => Said::ok("ETag: \"1\"", count.to_string()),
    });
    site.get(&[]);
    purge(&site.gateway, &["--soft", "http://test/"]);
    assert!(status_of(&site.get(&[])).starts_with("propylon; fwd=stale; fwd-status=304"));
    assert!(status_of(&site.get(&[])).starts_with("propylon; hit"));
}

#[test]
fn what_was_on_its_way_is_purged_as_well() {
    let gate = Gate::new();
    let opened = gate.clone();
    let site = site("ttl = \"1m\"", move |_, count| {
        if count == 0 {
            opened.wait();
        }
        Said::ok("Cache-Tag: t", count.to_string())
    });
    let mut early = site.gateway.connect();
    early.send_request("GET", "/", &[], "");
    site.origin.wait_for_requests(1);
    purge(&site.gateway, &["--tag", "t"]);
    gate.open();
    assert_eq!(early.response().expect(200).text(), "0");
    assert_eq!(site.get(&[]).text(), "1");
    assert_eq!(site.value("propylon_cache_not_stored_total", &[("rule", "all"), ("reason", "purged")]), 1.0);
}

#[test]
fn what_cannot_be_purged_is_said() {
    let site = site("path = \"/a/*\"\nttl = \"1m\"", |_, _| Said::ok("", ""));
    let config = site.gateway.config_path().to_str().unwrap().to_owned();
    for (arguments, expected) in [
        (&[][..], "name what to purge: a URL, --prefix, --tag or --all"),
        (&["/a/b"], "/a/b: no scheme; expected a whole URL such as https://example.com/a"),
        (&["http://ex ample/a"], "http://ex ample/a: invalid byte in host; expected a whole URL"),
        (&["http://test/b"], "http://test/b: no rule of the cache is for it"),
        (&["--prefix", "http://test/a?x"], "http://test/a?x: a prefix ends within the path; expected no query"),
        (&["--tag", ""], "tag: expected one; found nothing"),
    ] {
        let done = site.gateway.command(&[&["purge", "--config", &config], arguments].concat());
        assert_eq!(done.code, 2, "{done:?}");
        assert!(done.stderr.starts_with(expected), "{arguments:?}: {done:?}");
    }
}
