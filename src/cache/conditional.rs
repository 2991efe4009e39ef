//! Conditions of a request, answered from what is kept (RFC 9110 section 13, RFC 9111 section 4.3.2), and those the gateway asks an
//! app under (section 4.3.1).

use http::header::{
    CONTENT_LENGTH, DATE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED, RANGE,
};
use http::{HeaderName, HeaderValue, StatusCode};

use super::freshness::date;
use crate::headers::Headers;

/// What a request can be made conditional by. Where the gateway asks for itself, none of the client's goes to the app.
pub const CONDITIONS: [HeaderName; 6] =
    [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE];

/// Fields of an answer that its 304 does not have (RFC 9110 section 15.4.5): they speak of the body. All others it has, or what the gateway
/// adds where an app says nothing would take the place of what the app has said.
const OF_THE_BODY: [&str; 5] = ["content-length", "content-type", "content-encoding", "content-range", "set-cookie"];

/// Whether only the app can answer: the request is to have an effect on a certain state alone, or wants to know of it.
#[must_use]
pub fn is_for_app(request: &Headers) -> bool {
    request.contains(IF_MATCH) || request.contains(IF_UNMODIFIED_SINCE)
}

/// Whether the client has the answer already.
#[must_use]
pub fn is_not_modified(request: &Headers, status: StatusCode, kept: &Headers) -> bool {
    // Of a 404 there is nothing that it could have.
    if status != StatusCode::OK {
        return false;
    }
    if request.contains(IF_NONE_MATCH) {
        let tag = kept.get(ETAG).map(HeaderValue::as_bytes);
        let lines = request.get_all(IF_NONE_MATCH).map(|line| line.as_bytes().trim_ascii());
        return lines.into_iter().any(|line| line == b"*" || tag.is_some_and(|tag| lists(line, tag)));
    }
    let Some(since) = date(request, &IF_MODIFIED_SINCE) else { return false };
    date(kept, &LAST_MODIFIED).or_else(|| date(kept, &DATE)).is_some_and(|changed| changed <= since)
}

/// Whether a list of entity tags has `tag`, by weak comparison (RFC 9110 section 8.8.3.2).
fn lists(mut line: &[u8], tag: &[u8]) -> bool {
    let wanted = opaque(tag);
    loop {
        line = line.trim_ascii_start();
        let weak = line.strip_prefix(b"W/").unwrap_or(line);
        let Some(inner) = weak.strip_prefix(b"\"") else { return false };
        let Some(end) = inner.iter().position(|byte| *byte == b'"') else { return false };
        if inner.get(..end) == wanted {
            return true;
        }
        let rest = inner.get(end + 1..).unwrap_or_default().trim_ascii_start();
        match rest.strip_prefix(b",") {
            Some(rest) => line = rest,
            None => return false,
        }
    }
}

fn opaque(tag: &[u8]) -> Option<&[u8]> {
    tag.strip_prefix(b"W/").unwrap_or(tag).strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// Whether a range is still one of what is kept (RFC 9110 section 13.1.5): strong tags alone, or the very date.
#[must_use]
pub fn range_is_of(request: &Headers, kept: &Headers) -> bool {
    let Some(condition) = request.get(IF_RANGE).map(HeaderValue::as_bytes) else { return true };
    if condition.starts_with(b"\"") {
        return kept.get(ETAG).is_some_and(|tag| tag.as_bytes() == condition);
    }
    // A date is a strong validator only where the answer was made a second later at least (section 8.8.2.2).
    let Some(changed) = date(kept, &LAST_MODIFIED) else { return false };
    date(request, &IF_RANGE) == Some(changed) && date(kept, &DATE).is_some_and(|made| made > changed)
}

/// What the app is asked under, to hear whether `kept` is still true.
pub fn ask_whether_changed(kept: &Headers) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let tag = kept.get(ETAG).map(|tag| (IF_NONE_MATCH, tag.clone()));
    let date = kept.get(LAST_MODIFIED).map(|date| (IF_MODIFIED_SINCE, date.clone()));
    tag.into_iter().chain(date)
}

/// Whether a 304 speaks of what is kept (RFC 9111 section 4.3.4): a strong tag must be the same, a weak one weakly.
#[must_use]
pub fn is_of(says: &Headers, kept: &Headers) -> bool {
    match (says.get(ETAG), kept.get(ETAG)) {
        (Some(said), Some(kept)) if said.as_bytes().starts_with(b"\"") => said == kept,
        (Some(said), Some(kept)) => opaque(said.as_bytes()) == opaque(kept.as_bytes()),
        (Some(_), None) => false,
        (None, _) => match (date(says, &LAST_MODIFIED), date(kept, &LAST_MODIFIED)) {
            (Some(said), Some(kept)) => said == kept,
            _ => true,
        },
    }
}

/// What a 200 to a HEAD says of the answer to GET that is kept (RFC 9111 section 4.3.5): that it still is, or that it is not; nothing
/// where it has no validator.
#[must_use]
pub fn confirms(says: &Headers, kept: &Headers) -> Option<bool> {
    let length_agrees = says.get(CONTENT_LENGTH).is_none_or(|said| kept.get(CONTENT_LENGTH) == Some(said));
    if !length_agrees || !is_of(says, kept) {
        return Some(false);
    }
    let has_validator = says.contains(ETAG) || (says.contains(LAST_MODIFIED) && kept.contains(LAST_MODIFIED));
    has_validator.then_some(true)
}

/// Whether a 304 has a field of the answer that it stands for.
#[must_use]
pub fn is_of_not_modified(name: &HeaderName) -> bool {
    !OF_THE_BODY.contains(&name.as_str())
}

/// The head of a 304 out of that of the answer.
#[must_use]
pub fn not_modified(kept: &Headers) -> Headers {
    let mut head = Headers::with_capacity(kept.len() + 4);
    head.extend(kept.iter().filter(|(name, _)| is_of_not_modified(name)).cloned());
    head
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(fields: &[(&'static str, &'static str)]) -> Headers {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn unchanged(request: &[(&'static str, &'static str)], kept: &[(&'static str, &'static str)]) -> bool {
        is_not_modified(&of(request), StatusCode::OK, &of(kept))
    }

    #[test]
    fn tags_are_compared_weakly() {
        for (condition, tag, expected) in [
            ("\"a\"", "\"a\"", true),
            ("W/\"a\"", "\"a\"", true),
            ("\"a\"", "W/\"a\"", true),
            ("\"b\", W/\"a\"", "\"a\"", true),
            ("\"b\",\"c\"", "\"a\"", false),
            ("*", "\"a\"", true),
            ("a", "a", false),
            ("\"x,\\\"a\"", "\"a\"", false),
            ("\"a", "\"a\"", false),
        ] {
            assert_eq!(unchanged(&[("if-none-match", condition)], &[("etag", tag)]), expected, "{condition} {tag}");
        }
        assert!(!is_not_modified(&of(&[("if-none-match", "\"a\"")]), StatusCode::NOT_FOUND, &of(&[("etag", "\"a\"")])));
    }

    #[test]
    fn dates_count_where_there_is_no_tag_to_compare() {
        assert!(unchanged(&[("if-modified-since", THEN)], &[("last-modified", THEN)]));
        assert!(unchanged(&[("if-modified-since", LATER)], &[("last-modified", THEN)]));
        assert!(!unchanged(&[("if-modified-since", EARLIER)], &[("last-modified", THEN)]));
        assert!(unchanged(&[("if-modified-since", THEN)], &[("date", THEN)]));
        assert!(!unchanged(&[("if-modified-since", "nonsense")], &[("last-modified", THEN)]));
        // A tag that does not match is the last word.
        let both = [("if-none-match", "\"b\""), ("if-modified-since", LATER)];
        assert!(!unchanged(&both, &[("etag", "\"a\""), ("last-modified", THEN)]));
    }

    #[test]
    fn a_range_is_of_what_is_the_same_byte_by_byte() {
        let is =
            |condition, kept: &[(&'static str, &'static str)]| range_is_of(&of(&[("if-range", condition)]), &of(kept));
        assert!(range_is_of(&of(&[]), &of(&[])));
        assert!(is("\"a\"", &[("etag", "\"a\"")]));
        assert!(!is("W/\"a\"", &[("etag", "W/\"a\"")]));
        assert!(is(THEN, &[("last-modified", THEN), ("date", LATER)]));
        assert!(!is(THEN, &[("last-modified", THEN), ("date", THEN)]), "it may have changed within the second");
        assert!(!is(LATER, &[("last-modified", THEN), ("date", LATER)]));
    }

    #[test]
    fn a_304_with_another_tag_speaks_of_something_else() {
        let kept = of(&[("etag", "\"a\""), ("last-modified", THEN)]);
        assert!(is_of(&of(&[("etag", "\"a\"")]), &kept));
        assert!(!is_of(&of(&[("etag", "\"b\"")]), &kept));
        assert!(is_of(&of(&[("etag", "W/\"a\"")]), &kept));
        assert!(is_of(&of(&[]), &kept));
        assert!(!is_of(&of(&[("last-modified", LATER)]), &kept));
    }
}
