//! The one pattern language for paths, compiled: routes and cache rules match with it.
//!
//! A path is matched as [`decode_path`](super::target::decode_path) gives it. Which of several patterns wins is the
//! table's business. No pattern can be made slow by the path: literals and globs cost time in proportion to its length,
//! and so do regular expressions (the `regex` crate does not backtrack).

use memchr::memmem::Finder;
use regex::bytes::Regex;

use crate::config::model::PathPattern;

/// A path pattern ready to match.
#[derive(Debug, Clone)]
pub enum Pattern {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Glob(Glob),
    Regex(Regex),
}

impl Pattern {
    #[must_use]
    pub fn new(pattern: &PathPattern) -> Self {
        match pattern {
            PathPattern::Exact(path) => Self::Exact(path.as_bytes().into()),
            PathPattern::Prefix(path) => Self::Prefix(path.as_bytes().into()),
            PathPattern::Glob(glob) => Self::Glob(Glob::new(glob)),
            PathPattern::Regex(regex) => Self::Regex(regex.clone()),
        }
    }

    /// Whether a decoded path matches. A regular expression matches where it is found: anchors are the author's.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => path.starts_with(prefix),
            Self::Glob(glob) => glob.matches(path),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

/// A path with `*` inside its segments.
///
/// A `*` stands for any bytes but `/`, none included. A last segment that is `*` alone stands for everything below, as in
/// a prefix: `/a/*/b/*` matches `/a/x/b/` and `/a/x/b/c/d`, not `/a/x/b`.
#[derive(Debug, Clone)]
pub struct Glob {
    segments: Box<[Segment]>,
    /// Whether anything may follow the segments, behind a slash.
    below: bool,
    literal_bytes: usize,
}

#[derive(Debug, Clone)]
enum Segment {
    Literal(Box<[u8]>),
    Wild {
        head: Box<[u8]>,
        /// The literals between two stars, in order.
        middle: Box<[Finder<'static>]>,
        tail: Box<[u8]>,
    },
}

impl Glob {
    #[must_use]
    pub fn new(glob: &str) -> Self {
        let (segments, below) = match glob.strip_suffix("/*") {
            Some(above) => (above, true),
            None => (glob, false),
        };
        Self {
            segments: segments.split('/').map(Segment::new).collect(),
            below,
            literal_bytes: glob.bytes().filter(|&byte| byte != b'*').count(),
        }
    }

    /// Bytes of the pattern that are not `*`: the more there are, the closer it describes its paths.
    #[must_use]
    pub fn literal_bytes(&self) -> usize {
        self.literal_bytes
    }

    /// Whether a decoded path matches, in time proportional to its length.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let mut rest = path.split(|&byte| byte == b'/');
        self.segments.iter().all(|segment| rest.next().is_some_and(|text| segment.matches(text)))
            && rest.next().is_some() == self.below
    }
}

impl Segment {
    fn new(segment: &str) -> Self {
        let Some((head, rest)) = segment.split_once('*') else {
            return Self::Literal(segment.as_bytes().into());
        };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        Self::Wild {
            head: head.as_bytes().into(),
            middle: middle
                .split('*')
                .filter(|literal| !literal.is_empty())
                .map(|literal| Finder::new(literal.as_bytes()).into_owned())
                .collect(),
            tail: tail.as_bytes().into(),
        }
    }

    /// Ends first, then each literal between stars at its leftmost place: if any placement fits, that one does, so there
    /// is nothing to go back to.
    fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Literal(literal) => **literal == *text,
            Self::Wild { head, middle, tail } => {
                let Some(mut rest) = text.strip_prefix(&**head).and_then(|text| text.strip_suffix(&**tail)) else {
                    return false;
                };
                middle.iter().all(|literal| {
                    let behind = literal.find(rest).and_then(|at| rest.get(at + literal.needle().len()..));
                    rest = behind.unwrap_or_default();
                    behind.is_some()
                })
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exact_and_prefix() {
        let exact = Pattern::new(&PathPattern::Exact("/a".into()));
        assert!(exact.matches(b"/a"));
        assert!(!exact.matches(b"/a/") && !exact.matches(b"/A"));
        let prefix = Pattern::new(&PathPattern::Prefix("/a/".into()));
        assert!(prefix.matches(b"/a/") && prefix.matches(b"/a/b/c"));
        assert!(!prefix.matches(b"/a") && !prefix.matches(b"/ab"));
        let all = Pattern::new(&PathPattern::Prefix("/".into()));
        assert!(all.matches(b"/") && all.matches(b"/x"));
    }

    #[test]
    fn regular_expressions_see_bytes() {
        let pattern = Pattern::new(&PathPattern::Regex(Regex::new("^/v[0-9]+/").unwrap()));
        assert!(pattern.matches(b"/v12/\xff"));
        assert!(!pattern.matches(b"/x/v12/"));
    }

    #[test]
    fn globs() {
        for (glob, path, matches) in [
            ("/img/*.png", "/img/a.png", true),
            ("/img/*.png", "/img/.png", true),
            ("/img/*.png", "/img/a/b.png", false),
            ("/img/*.png", "/img/a.png/", false),
            ("/img/*.png", "/img/a.png.gif", false),
            ("/a/*/b", "/a/x/b", true),
            ("/a/*/b", "/a/b", false),
            ("/a/*/b", "/a/x/y/b", false),
            ("/a/*/b/*", "/a/x/b/", true),
            ("/a/*/b/*", "/a/x/b/c/d", true),
            ("/a/*/b/*", "/a/x/b", false),
            ("/a*", "/a", true),
            ("/a*", "/abc", true),
            ("/a*", "/a/b", false),
            ("/*a*", "/xax", true),
            ("/aba*aba", "/aba", false),
            ("/aba*aba", "/ababa", false),
            ("/aba*aba", "/abaaba", true),
            ("/*ab*ab*", "/ab", false),
            ("/*ab*ab*", "/xabyabz", true),
        ] {
            assert_eq!(Glob::new(glob).matches(path.as_bytes()), matches, "{glob} {path}");
        }
    }

    #[test]
    fn many_stars_cost_no_more() {
        let glob = Glob::new(&format!("/{}b", "a*".repeat(60)));
        let path = format!("/{}", "a".repeat(8000));
        assert!(!glob.matches(path.as_bytes()));
    }

    /// The same glob as a regular expression.
    fn as_regex(glob: &str) -> Regex {
        let (above, below) = match glob.strip_suffix("/*") {
            Some(above) => (above, "/(?s-u:.)*"),
            None => (glob, ""),
        };
        let literals: Vec<_> = above.split('*').map(regex::escape).collect();
        Regex::new(&format!("^(?-u:{}{below})$", literals.join("[^/]*"))).unwrap()
    }

    proptest! {
        #[test]
        fn a_glob_agrees_with_its_regular_expression(glob in "(/[ab*]{0,5}){1,4}", path in "(/[ab]{0,6}){1,4}") {
            prop_assert_eq!(Glob::new(&glob).matches(path.as_bytes()), as_regex(&glob).is_match(path.as_bytes()));
        }

        #[test]
        fn a_glob_matches_what_was_made_from_it(glob in "(/[ab*]{0,4}){1,4}", filling in "[ab]{0,3}") {
            let path = glob.replace('*', &filling);
            prop_assert!(Glob::new(&glob).matches(path.as_bytes()));
        }

        #[test]
        fn any_bytes_are_taken(glob in "[/*a]{0,8}", path in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = Glob::new(&glob).matches(&path);
        }
    }
}
