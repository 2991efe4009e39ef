//! Closed sets of words: presets, priorities, log level and format, what a client's leaving means, TLS versions.

use super::super::model::{AccessFormat, ClientAbort, LogLevel, Preset, Priority, TlsVersion};
use super::super::schema::{Described, word};
use super::super::walk::{Node, Read, Walk};

/// Every preset under its name, in the order of the manual.
pub const PRESETS: [(&str, Preset); 11] = [
    ("gunicorn-sync", Preset::GunicornSync),
    ("gunicorn-gthread", Preset::GunicornGthread),
    ("gunicorn-gevent", Preset::GunicornGevent),
    ("gunicorn-uvicorn", Preset::GunicornUvicorn),
    ("gunicorn-asgi", Preset::GunicornAsgi),
    ("uvicorn", Preset::Uvicorn),
    ("hypercorn", Preset::Hypercorn),
    ("daphne", Preset::Daphne),
    ("granian", Preset::Granian),
    ("waitress", Preset::Waitress),
    ("uwsgi-http", Preset::UwsgiHttp),
];

/// What a line of the access log may have to hide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogField(pub &'static str);

const LOG_FIELDS: [(&str, LogField); 7] = [
    ("client", LogField("client")),
    ("user", LogField("user")),
    ("host", LogField("host")),
    ("path", LogField("path")),
    ("query", LogField("query")),
    ("user_agent", LogField("user_agent")),
    ("referer", LogField("referer")),
];

macro_rules! words {
    ($type:ty, $words:expr) => {
        impl Read for $type {
            fn describe() -> Described {
                let names: Vec<String> = $words.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                Described::leaf(names.join(", "))
            }

            fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
                word(node, walk, &$words)
            }
        }
    };
}

words!(Preset, PRESETS);
words!(LogField, LOG_FIELDS);
words!(TlsVersion, [("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)]);
words!(Priority, [("normal", Priority::Normal), ("high", Priority::High)]);
words!(ClientAbort, [("finish", ClientAbort::Finish), ("close", ClientAbort::Close)]);
words!(AccessFormat, [("json", AccessFormat::Json), ("combined", AccessFormat::Combined)]);
words!(
    LogLevel,
    [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ]
);
