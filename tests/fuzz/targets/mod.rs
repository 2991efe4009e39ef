//! What the gateway parses itself, each as one function from bytes: it panics where a promise is broken.
//!
//! libFuzzer drives them (`make fuzz`), and `cargo test` does with the corpus and mutations of it. They know the gateway
//! from outside: where it says yes or no, a reference written another way says the same.
//!
//! A target is a file here with a function `check`, its line in [`ALL`], a `[[bin]]` in `Cargo.toml` with its file in
//! `bin`, a folder in `corpus`, a file in `dict`, and a test in `main.rs`.

pub mod cache_fields;
pub mod chunks;
pub mod config;
pub mod forwarded;
pub mod head;
pub mod host;
pub mod path;
pub mod patterns;
pub mod proxy_protocol;

/// What is done with one input.
pub type Check = fn(&[u8]);

/// Every target by its name, which is also that of its file, its corpus and its dictionary.
pub const ALL: [(&str, Check); 9] = [
    ("head", head::check),
    ("chunks", chunks::check),
    ("forwarded", forwarded::check),
    ("host", host::check),
    ("path", path::check),
    ("patterns", patterns::check),
    ("config", config::check),
    ("proxy_protocol", proxy_protocol::check),
    ("cache_fields", cache_fields::check),
];
