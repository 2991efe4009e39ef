//! What a case is: bytes, the clause they break, and what must become of them.
//!
//! `CASE` stands for the case's name, in the bytes and in what is expected: it is the marker by which a request is found
//! again at the app. Bytes are written as text where they can be; `latin1` makes the others.

/// Where paths begin whose bodies are handed on as they come.
pub const STREAMED: &str = "/streamed/";

/// Status and reason of an answer of the gateway's own. None: an answer that is no refusal has no reason.
pub type Told = (u16, Option<&'static str>);

pub const HEAD: Told = (400, Some("malformed_head"));
pub const FRAMING: Told = (400, Some("bad_framing"));
pub const HOST: Told = (400, Some("bad_host"));
pub const TARGET: Told = (400, Some("bad_target"));
pub const BODY: Told = (400, Some("bad_body"));
pub const METHOD: Told = (405, Some("method_not_allowed"));
pub const BODY_TOO_LARGE: Told = (413, Some("body_too_large"));
pub const LINE_TOO_LONG: Told = (414, Some("request_line_too_long"));
pub const EXPECTATION: Told = (417, Some("expectation_failed"));
pub const HEAD_TOO_LARGE: Told = (431, Some("head_too_large"));
pub const VERSION: Told = (505, Some("version_not_supported"));

/// A request as the app must see it, beside the fields that the gateway adds to every one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    /// The target as it goes on, byte for byte.
    pub target: String,
    pub host: String,
    /// Names in lower case; several of one name as one value.
    pub fields: Vec<(String, String)>,
    /// None: no body is announced.
    pub body: Option<Vec<u8>>,
    /// Its length is not known when the head goes on: chunks, where else it is a number.
    pub chunked: bool,
}

/// GET of `target` for the host `test`, without fields.
pub fn get(target: &str) -> Seen {
    Seen {
        method: "GET".into(),
        target: target.into(),
        host: "test".into(),
        fields: Vec::new(),
        body: None,
        chunked: false,
    }
}

/// POST of `body`, as [`get`].
pub fn post(target: &str, body: impl AsRef<[u8]>) -> Seen {
    Seen { method: "POST".into(), body: Some(body.as_ref().to_vec()), ..get(target) }
}

impl Seen {
    pub fn method(self, method: &str) -> Self {
        Self { method: method.into(), ..self }
    }

    pub fn host(self, host: &str) -> Self {
        Self { host: host.into(), ..self }
    }

    pub fn body(self, body: impl AsRef<[u8]>) -> Self {
        Self { body: Some(body.as_ref().to_vec()), ..self }
    }

    pub fn chunked(self) -> Self {
        Self { chunked: true, ..self }
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    fn named(&self, case: &str) -> Self {
        let text = |text: &String| text.replace("CASE", case);
        Self {
            method: self.method.clone(),
            target: text(&self.target),
            host: text(&self.host),
            fields: self.fields.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            body: self.body.as_ref().map(|body| replace(body, case)),
            chunked: self.chunked,
        }
    }
}

/// What one of the answers on a connection must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The gateway's own; nothing reaches the app.
    Own(Told),
    /// The app's, which saw exactly this.
    App(Box<Seen>),
}

/// What happens once the bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The gateway closes, whatever it was sent behind: a whole request is, and must not be served.
    Closes,
    /// The connection is good for another request, which is sent and served.
    Goes,
    /// The client leaves, once by closing its side and once by breaking the connection. No request came to its end, so
    /// none reaches an app that is given whole ones alone.
    Leaves,
    /// The same where the body is handed on as it comes. The app may see the beginning of it, but never an end.
    Tears,
}

pub struct Case {
    pub name: &'static str,
    /// What is broken, or used against the reader: section of a standard.
    pub clause: &'static str,
    pub raw: Vec<u8>,
    pub answers: Vec<Answer>,
    pub then: Then,
}

impl Case {
    fn new(name: &'static str, clause: &'static str, raw: &[u8], answers: &[Answer], then: Then) -> Self {
        let named = |answer: &Answer| match answer {
            Answer::App(seen) => Answer::App(Box::new(seen.named(name))),
            Answer::Own(told) => Answer::Own(*told),
        };
        Self { name, clause, raw: replace(raw, name), answers: answers.iter().map(named).collect(), then }
    }

    /// Whether the app is given the body as it comes, which is not for every kind of app.
    pub fn is_streamed(&self) -> bool {
        self.raw.windows(STREAMED.len()).any(|window| window == STREAMED.as_bytes())
    }

    /// Whether every answer is the gateway's, and no app is asked.
    pub fn is_refused(&self) -> bool {
        self.answers.iter().all(|answer| matches!(answer, Answer::Own(_)))
    }
}

/// Refused, and the connection closed.
pub fn refused(name: &'static str, clause: &'static str, told: Told, raw: impl AsRef<[u8]>) -> Case {
    Case::new(name, clause, raw.as_ref(), &[Answer::Own(told)], Then::Closes)
}

/// Answered by the gateway as a request that is whole and understood: the connection is kept.
pub fn answered(name: &'static str, clause: &'static str, told: Told, raw: impl AsRef<[u8]>) -> Case {
    Case::new(name, clause, raw.as_ref(), &[Answer::Own(told)], Then::Goes)
}

/// Passed on, in one reading.
pub fn passed(name: &'static str, clause: &'static str, raw: impl AsRef<[u8]>, seen: Seen) -> Case {
    several(name, clause, raw, &[Answer::App(Box::new(seen))], Then::Goes)
}

/// Passed on, and the connection closed.
pub fn last(name: &'static str, clause: &'static str, raw: impl AsRef<[u8]>, seen: Seen) -> Case {
    several(name, clause, raw, &[Answer::App(Box::new(seen))], Then::Closes)
}

/// Several requests on one connection.
pub fn several(
    name: &'static str,
    clause: &'static str,
    raw: impl AsRef<[u8]>,
    answers: &[Answer],
    then: Then,
) -> Case {
    Case::new(name, clause, raw.as_ref(), answers, then)
}

/// A request whose client leaves before its end.
pub fn cut_off(name: &'static str, clause: &'static str, raw: impl AsRef<[u8]>) -> Case {
    Case::new(name, clause, raw.as_ref(), &[], Then::Leaves)
}

/// A body that is handed on as it comes, and never comes to its end.
pub fn torn(name: &'static str, clause: &'static str, raw: impl AsRef<[u8]>) -> Case {
    Case::new(name, clause, raw.as_ref(), &[], Then::Tears)
}

/// The bytes whose numbers the characters have: `\u{ff}` is one byte.
pub fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).expect("a character above U+00FF")).collect()
}

fn replace(bytes: &[u8], case: &str) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len() + 64);
    let mut rest = bytes;
    while let Some(at) = rest.windows(4).position(|window| window == b"CASE") {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(case.as_bytes());
        rest = &rest[at + 4..];
    }
    replaced.extend_from_slice(rest);
    replaced
}
