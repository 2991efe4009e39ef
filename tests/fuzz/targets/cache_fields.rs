//! Fields that say what may be kept: read as the grammar of RFC 9111 section 5.2 says, and never for more than they are. And files that say
//! they are of the cache.

use std::sync::LazyLock;

use http::header::{CACHE_CONTROL, RANGE};
use http::{HeaderName, HeaderValue, StatusCode};
use propylon::cache::directives::{Request, Response};
use propylon::cache::disk::format::{FIXED, Fixed, read_middle};
use propylon::cache::freshness::{Fetched, initial_age, stated_lifetime};
use propylon::cache::{conditional, range, vary};
use propylon::headers::Headers;
use regex::bytes::Regex;

const ITEM: &str = r#"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:=(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|"((?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t \x21-\x7e])*)"))?"#;
static LIST: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(&format!(r"(?s-u)^[ \t]*(?:{ITEM})?(?:[ \t]*,[ \t]*(?:{ITEM})?)*[ \t]*$")).expect("a grammar")
});
static ONE: LazyLock<Regex> = LazyLock::new(|| Regex::new(&format!("(?s-u){ITEM}")).expect("a grammar"));

/// Takes lines of fields, as a head has them, or a file.
pub fn check(input: &[u8]) {
    check_file(input);
    let mut fields = Headers::default();
    for line in input.split(|byte| *byte == b'\n').take(50) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii())) {
            fields.append(name, value);
        }
    }
    check_directives(&fields);
    check_ranges(&fields);
    let fetched = Fetched { asked: 1_700_000_000_000, came: 1_700_000_001_000 };
    assert!(initial_age(&fields, fetched) <= (1 << 31) + 1 || fields.contains("date"));
    let _ = stated_lifetime(&fields, &Response::of(&fields), fetched);
    // Who has what is there has it, whatever else is asked.
    let unchanged = conditional::is_not_modified(&fields, StatusCode::OK, &fields);
    let star = fields.get("if-none-match").is_some_and(|value| value == "*");
    assert!(unchanged || !star);
    let mut once = Vec::new();
    if let Ok(names) = vary::fields(&fields, &[]) {
        vary::write(&names, &fields, &mut once);
        assert!(!names.iter().any(|name| name == "cookie" || name == "authorization"));
    }
}

fn check_directives(fields: &Headers) {
    let read = Response::of(fields);
    let _ = Request::of(fields);
    if Response::targeted(fields).is_some() {
        return;
    }
    let lines = || fields.get_all(CACHE_CONTROL).map(HeaderValue::as_bytes);
    if !lines().all(|line| LIST.is_match(line)) {
        return;
    }
    let items: Vec<(Vec<u8>, Option<Vec<u8>>)> = lines()
        .flat_map(|line| ONE.captures_iter(line))
        .map(|found| {
            let value = found.get(2).or(found.get(3)).map(|value| value.as_bytes().trim_ascii().to_vec());
            (found[1].to_ascii_lowercase(), value)
        })
        .collect();
    let has = |name: &str| items.iter().any(|(found, _)| found == name.as_bytes());
    assert_eq!(read.no_store, has("no-store"), "{items:?}");
    assert_eq!(read.private, has("private"), "{items:?}");
    assert_eq!(read.no_cache, has("no-cache"), "{items:?}");
    assert_eq!(read.public, has("public"), "{items:?}");
    assert_eq!(read.must_revalidate, has("must-revalidate"), "{items:?}");
    let mut ages = items.iter().filter(|(name, _)| name == b"max-age").map(|(_, value)| {
        let text = value.as_deref().unwrap_or_default();
        let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        let number = if digits { std::str::from_utf8(text).unwrap().parse().unwrap_or(u64::MAX) } else { 0 };
        number.min(1 << 31)
    });
    let first = ages.next();
    let expected = first.map(|first| if ages.all(|other| other == first) { first } else { 0 });
    assert_eq!(read.max_age, expected, "{items:?}");
}

fn check_ranges(fields: &Headers) {
    for length in [0, 1, 10, 1000] {
        if let range::Asked::Parts(parts) = range::asked(fields, length) {
            assert!(fields.contains(RANGE) && !parts.is_empty());
            assert!(parts.iter().all(|part| part.start < part.end && part.end <= length), "{parts:?} of {length}");
            assert!(parts.len() == 1 || parts.iter().map(std::ops::Range::len).sum::<usize>() <= length);
        }
    }
}

fn check_file(bytes: &[u8]) {
    let Some((fixed_bytes, rest)) = bytes.split_at_checked(FIXED) else { return };
    let Some(fixed) = Fixed::read(fixed_bytes) else { return };
    if let Some(middle) = rest.get(..fixed.middle()) {
        let _ = read_middle(fixed_bytes, &fixed, middle);
    }
}
