//! A configuration out of flags, for `propylon run --to 127.0.0.1:8000` without any file.
//!
//! The flags are put into the document that a file would have given, so that they are read, checked and complained
//! about as a file is; only the key paths become names of flags.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::{Loaded, environment, read_document};

/// What `propylon run --to …` means: one upstream `app` of the endpoints `to`, and one route that sends everything
/// there.
///
/// `listen` replaces the default listener unless it is empty. The admin listener takes a free port of 127.0.0.1.
///
/// # Errors
/// Every flag that cannot be used, under its name in place of a key path.
pub fn from_flags(to: &[String], listen: &[String], preset: Option<&str>) -> Loaded {
    let mut app = vec![("endpoints", list(to.iter().map(|address| string(address))))];
    app.extend(preset.map(|preset| ("preset", string(preset))));
    let mut document = vec![
        ("admin", table([("listen", list([string("127.0.0.1:0")]))])),
        ("upstreams", table([("app", table(app))])),
        ("routes", list([table([("upstream", string("app"))])])),
    ];
    if !listen.is_empty() {
        document.push(("server", table([("listen", list(listen.iter().map(|address| string(address))))])));
    }
    let (config, mut report) = read_document(&table(document), None, &environment);
    report.rename(flag_of);
    report.finish("", None).map(|warnings| (config, warnings))
}

/// The flag that a key path stems from.
fn flag_of(path: &str) -> String {
    let flags = [("upstreams.app.preset", "--preset"), ("upstreams.app", "--to"), ("server.listen", "--listen")];
    flags.iter().find(|(key, _)| path.starts_with(key)).map_or(path, |(_, flag)| flag).to_owned()
}

fn string(text: &str) -> DeValue<'_> {
    DeValue::String(Cow::Borrowed(text))
}

fn list<'a>(items: impl IntoIterator<Item = DeValue<'a>>) -> DeValue<'a> {
    let mut array = DeArray::new();
    for item in items {
        array.push(Spanned::new(0..0, item));
    }
    DeValue::Array(array)
}

fn table<'a>(entries: impl IntoIterator<Item = (&'a str, DeValue<'a>)>) -> DeValue<'a> {
    let mut table = DeTable::new();
    for (key, value) in entries {
        table.insert(Spanned::new(0..0, Cow::Borrowed(key)), Spanned::new(0..0, value));
    }
    DeValue::Table(table)
}

#[cfg(test)]
mod tests {
    use super::super::model::{Action, EndpointAddr, ListenAddr, Preset};
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_whole_gateway_out_of_flags() {
        let (config, warnings) = from_flags(
            &strings(&["127.0.0.1:8000", "unix:/run/app.sock"]),
            &strings(&["127.0.0.1:8081"]),
            Some("uvicorn"),
        )
        .unwrap();
        assert_eq!(warnings, []);
        assert_eq!(config.server.addresses(), [ListenAddr::Tcp("127.0.0.1:8081".parse().unwrap())]);
        assert_eq!(config.admin.listen, [ListenAddr::Tcp("127.0.0.1:0".parse().unwrap())]);
        let [app] = config.upstreams.as_slice() else { panic!() };
        assert_eq!(app.preset, Some(Preset::Uvicorn));
        assert_eq!(app.endpoints[1].addr, EndpointAddr::Unix("/run/app.sock".into()));
        let [route] = config.routes.as_slice() else { panic!() };
        assert!(matches!(route.action, Action::Upstream(0)));
        assert_eq!(&*route.name, "/*");
        assert!(config.source.is_none());
    }

    #[test]
    fn the_listener_has_its_default_and_the_hint_names_the_flag() {
        let (config, warnings) = from_flags(&strings(&["app:8000"]), &[], None).unwrap();
        assert_eq!(config.server.addresses(), [ListenAddr::Tcp("0.0.0.0:8080".parse().unwrap())]);
        assert!(warnings[0].to_string().starts_with("--to: neither"), "{warnings:?}");
    }

    #[test]
    fn mistakes_name_their_flags() {
        let errors =
            from_flags(&strings(&["8000"]), &strings(&["localhost:80"]), Some("gunicorn")).unwrap_err().to_string();
        let lines: Vec<&str> = errors.lines().collect();
        assert!(lines[0].starts_with("--listen: expected an address"), "{errors}");
        assert!(lines[1].starts_with("--preset: expected one of"), "{errors}");
        assert!(lines[2].starts_with("--to: expected an endpoint"), "{errors}");
        assert_eq!(lines[3], "3 problems");
        assert!(from_flags(&[], &[], None).unwrap_err().to_string().starts_with("--to: expected at least one"));
    }
}
