//! Closed sets of words: presets, balance, log level and format, what a client's leaving means.

use super::super::model::{AccessFormat, Balance, ClientAbort, LogLevel, Preset};
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

macro_rules! words {
    ($type:ty, $words:expr, later $later:expr) => {
        impl Read for $type {
            fn describe() -> Described {
                let names: Vec<String> = $words.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                Described::leaf(names.join(", "))
            }

            fn read(node: Node<'_>, walk: &mut Walk<'_>) -> Option<Self> {
                word(node, walk, &$words, &$later)
            }
        }
    };
}

words!(Preset, PRESETS, later []);
words!(Balance, [("least_conn", Balance::LeastConn), ("round_robin", Balance::RoundRobin)], later ["p2c", "hash:"]);
words!(ClientAbort, [("finish", ClientAbort::Finish), ("close", ClientAbort::Close)], later []);
words!(AccessFormat, [("json", AccessFormat::Json), ("combined", AccessFormat::Combined)], later []);
words!(
    LogLevel,
    [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ],
    later []
);
