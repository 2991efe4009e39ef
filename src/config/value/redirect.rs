//! Where a redirect leads: `https://new.example.com{path}{query}`, and with which status (RFC 9110 section 15.4).

use std::fmt;

use super::super::error::nearest;
use super::super::model::{RedirectPiece, RedirectTemplate};
use super::super::schema::Described;
use super::super::walk::{Node, Read, Reject, Text, Walk};

const PLACEHOLDERS: [&str; 3] = ["path", "query", "host"];

/// The status of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedirectStatus(pub u16);

impl Read for RedirectStatus {
    fn describe() -> Described {
        Described::leaf("301, 302, 303, 307 or 308")
    }

    fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
        const EXPECTED: &str = "one of 301, 302, 303, 307, 308";
        let code = walk.integer(node, 0, 999)?;
        match u16::try_from(code) {
            Ok(code @ (301 | 302 | 303 | 307 | 308)) => Some(Self(code)),
            _ => walk.accept(Err(Reject::Unlike), node.place, EXPECTED, &code.to_string()),
        }
    }
}

impl Text for RedirectTemplate {
    const KIND: &'static str = "URL with {path}, {query}, {host}";
    const EXPECTED: &'static str = "a target such as \"https://new.example.com{path}{query}\" or \"/new/\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        // The path begins with one slash and no more when a target begins with it.
        let local = text.starts_with('/') || text.starts_with("{path}");
        let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        if !local && authority.is_none() {
            return Err(Reject::because("it starts with \"/\", {path}, \"http://\" or \"https://\""));
        }
        // A browser reads both as the name of another host.
        if text.starts_with("//") || text.starts_with("/\\") {
            return Err(Reject::because("a target on another host names its scheme"));
        }
        // The path is the client's: without a host before it, the client would choose the host.
        if authority.is_some_and(|rest| {
            rest.is_empty()
                || rest.starts_with(['/', '?', '#', ':', '@'])
                || rest.starts_with("{path}")
                || rest.starts_with("{query}")
        }) {
            return Err(Reject::because("a host follows the scheme"));
        }
        if text.contains("/{path}") {
            return Err(Reject::because("{path} begins with a \"/\" of its own"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Reject::because("a target has neither spaces nor anything outside ASCII"));
        }
        pieces(text).map(Self)
    }
}

fn pieces(text: &str) -> Result<Vec<RedirectPiece>, Reject> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        push_text(&mut pieces, before)?;
        let (name, after) = after.split_once('}').ok_or_else(|| Reject::because("a \"{\" has no \"}\""))?;
        pieces.push(match name {
            "path" => RedirectPiece::Path,
            "query" => RedirectPiece::Query,
            "host" => RedirectPiece::Host,
            _ => {
                let near =
                    nearest(name, PLACEHOLDERS).map_or_else(String::new, |near| format!(" (did you mean {{{near}}}?)"));
                return Err(Reject::because(format!("{{{name}}} is none of {{path}}, {{query}}, {{host}}{near}")));
            }
        });
        rest = after;
    }
    push_text(&mut pieces, rest)?;
    Ok(pieces)
}

fn push_text(pieces: &mut Vec<RedirectPiece>, text: &str) -> Result<(), Reject> {
    if text.contains('}') {
        return Err(Reject::because("a \"}\" has no \"{\""));
    }
    if !text.is_empty() {
        pieces.push(RedirectPiece::Text(text.to_owned()));
    }
    Ok(())
}

impl fmt::Display for RedirectTemplate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| {
            out.write_str(match piece {
                RedirectPiece::Text(text) => text,
                RedirectPiece::Host => "{host}",
                RedirectPiece::Path => "{path}",
                RedirectPiece::Query => "{query}",
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pieces_in_order() {
        let template = RedirectTemplate::parse("https://{host}/v2{path}{query}").unwrap();
        let text = |text: &str| RedirectPiece::Text(text.into());
        assert_eq!(
            template.0,
            [text("https://"), RedirectPiece::Host, text("/v2"), RedirectPiece::Path, RedirectPiece::Query]
        );
        assert_eq!(RedirectTemplate::parse("{path}/").unwrap().0, [RedirectPiece::Path, text("/")]);
        assert_eq!(RedirectTemplate::parse("/new/").unwrap().0, [text("/new/")]);
    }

    #[test]
    fn targets_that_would_lead_astray() {
        let bad = [
            "",
            "new",
            "{query}",
            "{host}/x",
            "//evil",
            "/\\evil",
            "/{path}",
            "https://{path}",
            "https://",
            "https:///x",
            "ftp://x",
            "https://a/{path}",
            "https://a{pth}",
            "https://a{path",
            "https://a}",
            "/a b",
            "/ä",
            "/a\r\nb",
            "javascript:x",
            "https://a{}",
        ];
        for bad in bad {
            assert!(RedirectTemplate::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            text in r"(https?://[a-z.]{1,9}|/[a-z]{1,5})(\{path\}|\{query\}|\{host\}|[a-z]){0,4}",
        ) {
            let template = RedirectTemplate::parse(&text).unwrap();
            prop_assert_eq!(template.to_string(), text);
        }

        #[test]
        fn never_panics(text in r"(https://|/|\{|\}|path|.){0,12}") {
            let _ = RedirectTemplate::parse(&text);
        }
    }
}
