//! What the log is not to hold: values of query parameters, and whole members.

use std::borrow::Cow;

use super::Entry;

/// What stands for a value that is not shown.
pub const HIDDEN: &[u8] = b"***";

/// What is not written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redaction {
    /// Names of query parameters.
    names: Vec<Box<[u8]>>,
    /// Every query parameter.
    all: bool,
    /// Names of members.
    members: Vec<String>,
}

impl Redaction {
    /// Of names of query parameters, in any case, `*` for all of them; and of names of members.
    #[must_use]
    pub fn new<'a>(query: impl IntoIterator<Item = &'a str>, members: &[String]) -> Self {
        let names: Vec<Box<[u8]>> = query.into_iter().map(|name| name.as_bytes().into()).collect();
        Self { all: names.iter().any(|name| &**name == b"*"), names, members: members.to_vec() }
    }

    /// Hides members, but for what [`Redaction::query`] and [`Redaction::url`] hide of them.
    pub fn hide<'e>(&self, entry: &mut Entry<'e>) {
        for member in &self.members {
            match member.as_str() {
                "client" => (entry.client, entry.client_port, entry.hides_client) = (None, None, true),
                "user" => entry.user = entry.user.map(|_| "***"),
                // What is hidden of this request would stand in the next one's referer.
                "host" => (entry.host, entry.referer) = (HIDDEN, entry.referer.map(|_| HIDDEN)),
                "path" => (entry.path, entry.referer) = (HIDDEN, entry.referer.map(|_| HIDDEN)),
                "query" => {
                    entry.query = entry.query.map(|_| HIDDEN);
                    let without = |url: &'e [u8]| url.split(|byte| *byte == b'?').next().unwrap_or_default();
                    entry.referer = entry.referer.map(without);
                }
                "user_agent" => entry.user_agent = entry.user_agent.map(|_| HIDDEN),
                "referer" => entry.referer = entry.referer.map(|_| HIDDEN),
                _ => {}
            }
        }
    }

    /// The query without what is not to be seen.
    #[must_use]
    pub fn query<'q>(&self, query: &'q [u8]) -> Cow<'q, [u8]> {
        if !pairs(query).any(|pair| self.hides(pair)) {
            return Cow::Borrowed(query);
        }
        let mut shown = Vec::with_capacity(query.len());
        for (number, pair) in pairs(query).enumerate() {
            if number > 0 {
                shown.push(b'&');
            }
            match name(pair) {
                Some(name) if self.hides(pair) => {
                    shown.extend_from_slice(name);
                    shown.push(b'=');
                    shown.extend_from_slice(HIDDEN);
                }
                // A name of its own, which may be the secret itself.
                None if self.hides(pair) => shown.extend_from_slice(HIDDEN),
                _ => shown.extend_from_slice(pair),
            }
        }
        Cow::Owned(shown)
    }

    /// A URL whose query may hold such, as `Referer` has it.
    #[must_use]
    pub fn url<'q>(&self, url: &'q [u8]) -> Cow<'q, [u8]> {
        let Some(mark) = memchr::memchr(b'?', url) else { return Cow::Borrowed(url) };
        let Some((before, query)) = url.split_at_checked(mark + 1) else { return Cow::Borrowed(url) };
        match self.query(query) {
            Cow::Borrowed(_) => Cow::Borrowed(url),
            Cow::Owned(query) => Cow::Owned([before, &query].concat()),
        }
    }

    fn hides(&self, pair: &[u8]) -> bool {
        if self.all {
            return !pair.is_empty();
        }
        let Some(written) = name(pair) else { return false };
        let decoded = if memchr::memchr2(b'%', b'+', written).is_some() { decoded(written) } else { written.into() };
        self.names.iter().any(|hidden| hidden.eq_ignore_ascii_case(&decoded))
    }
}

fn pairs(query: &[u8]) -> impl Iterator<Item = &[u8]> {
    query.split(|byte| *byte == b'&')
}

/// None where there is no value.
fn name(pair: &[u8]) -> Option<&[u8]> {
    let equals = memchr::memchr(b'=', pair)?;
    pair.get(..equals)
}

/// As apps read it.
fn decoded(name: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, after)) = rest.split_first() {
        let escaped = (*byte == b'%').then(|| after.first_chunk::<2>()).flatten();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        if let Some(byte) = escaped.and_then(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?)) {
            out.push(byte);
            rest = after.get(2..).unwrap_or_default();
        } else {
            out.push(if *byte == b'+' { b' ' } else { *byte });
            rest = after;
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(names: &[&str], query: &str) -> String {
        String::from_utf8(Redaction::new(names.iter().copied(), &[]).query(query.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn values_of_names_that_are_listed() {
        for (query, expected) in [
            ("token=abc", "token=***"),
            ("a=1&Token=abc&b=2", "a=1&Token=***&b=2"),
            ("%74oken=abc&to%6Ben=x", "%74oken=***&to%6Ben=***"),
            ("token=a=b", "token=***"),
            ("token=", "token=***"),
            ("token&a", "token&a"),
            ("tokens=1&atoken=2&&", "tokens=1&atoken=2&&"),
            ("token%zz=1", "token%zz=1"),
            ("my+key=1&my%20key=2", "my+key=***&my%20key=***"),
            ("", ""),
        ] {
            assert_eq!(shown(&["token", "my key"], query), expected, "{query}");
        }
        assert_eq!(shown(&["*"], "a=1&secret&&b=2"), "a=***&***&&b=***");
        assert_eq!(shown(&[], "token=1"), "token=1");
        let names = Redaction::new(["token"], &[]);
        for (url, expected) in [
            ("https://a/b?token=1&c=2", "https://a/b?token=***&c=2"),
            ("https://a/token=1", "https://a/token=1"),
            ("https://a/?", "https://a/?"),
        ] {
            assert_eq!(names.url(url.as_bytes()), expected.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn nothing_else_is_lost(query in "[a-c=&%+]{0,20}") {
            prop_assert_eq!(shown(&["zz"], &query), query.clone());
            let hidden = shown(&["a"], &query);
            prop_assert!(!hidden.split('&').any(|pair| pair.starts_with("a=") && pair != "a=***"), "{}", hidden);
            prop_assert_eq!(hidden.matches('&').count(), query.matches('&').count());
        }
    }
}
