//! Hosts: one accepted spelling has one name, and the patterns of the configuration are compared with it.

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use propylon::config;
use propylon::config::model::HostPattern;
use propylon::route::host::{AllowedHosts, Host};
use regex::bytes::Regex;

use super::patterns::quoted;

/// Takes a Host value, and on further lines the entries of `allowed_hosts`.
pub fn check(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let value = lines.next().unwrap_or_default();
    let parsed = Host::parse(value);
    match (&parsed, reference(value)) {
        (Ok(host), Some((name, port))) => assert_eq!((&*host.name, host.port), (&*name, port)),
        (Err(error), None) => {
            let said = error.to_string();
            assert!(said.bytes().all(|byte| byte == b' ' || byte.is_ascii_alphanumeric()), "{said}");
        }
        (found, expected) => panic!("{found:?} instead of {expected:?} for {}", value.escape_ascii()),
    }
    let name = parsed.ok().map(|host| host.name.into_owned());
    if let Some(name) = &name {
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
        assert!(!name.contains([',', '/', '@', '%', '\\', '?', '#', '*']));
        let again = Host::parse(name.as_bytes()).expect("a name is a host");
        assert_eq!((&*again.name, again.port), (&**name, None));
        let with_port = format!("{}:8080", name.to_ascii_uppercase());
        let with_port = Host::parse(with_port.as_bytes()).expect("a name and a port");
        assert_eq!((&*with_port.name, with_port.port), (&**name, Some(8080)));
    }
    check_allowed(name.as_deref(), lines);
}

/// The same, in terms of the standard library and a grammar.
fn reference(value: &[u8]) -> Option<(String, Option<u16>)> {
    static HOST: LazyLock<Regex> = LazyLock::new(|| {
        let label = "[A-Za-z0-9_-]{1,63}";
        Regex::new(&format!(r"(?-u)^(?:(\[[0-9A-Fa-f:.]*\])|({label}(?:\.{label})*)\.?)(?::([0-9]{{1,5}}))?$")).unwrap()
    });
    let parts = HOST.captures(value)?;
    let text = |index| parts.get(index).map(|part| String::from_utf8_lossy(part.as_bytes()).into_owned());
    let port = match text(3) {
        Some(digits) => Some(digits.parse::<u16>().ok().filter(|port| *port != 0)?),
        None => None,
    };
    let name = match (text(1), text(2)) {
        (Some(address), _) => format!("[{}]", address[1..address.len() - 1].parse::<Ipv6Addr>().ok()?),
        (_, Some(name)) if name.len() <= 253 => name.to_ascii_lowercase(),
        _ => return None,
    };
    Some((name, port))
}

/// What the configuration accepts can be asked for, and stands for no other hosts than it says.
fn check_allowed<'a>(name: Option<&str>, lines: impl Iterator<Item = &'a [u8]>) {
    let entries: Vec<String> = lines.take(4).map(|line| quoted(&String::from_utf8_lossy(line))).collect();
    // One that is refused must not keep the others from being looked at.
    if !check_entries(name, &entries) {
        entries.iter().for_each(|entry| _ = check_entries(name, std::slice::from_ref(entry)));
    }
}

/// Whether the configuration accepts them.
fn check_entries(name: Option<&str>, entries: &[String]) -> bool {
    let text = format!("server.allowed_hosts = [{}]", entries.join(", "));
    let Ok((config, _)) = config::parse(&text, None) else { return false };
    let patterns = config.server.allowed_hosts;
    assert_eq!(patterns.len(), entries.len());
    let below = |host: &str, domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    let fits = |host: &str| {
        patterns.iter().any(|pattern| match pattern {
            HostPattern::Exact(exact) => host == exact,
            HostPattern::Suffix(domain) => below(host, domain),
        })
    };
    let allowed = AllowedHosts::new(&patterns);
    assert_eq!(allowed.allows(name), patterns.is_empty() || name.is_some_and(fits), "{name:?} {text}");
    for pattern in &patterns {
        let asked = match pattern {
            HostPattern::Exact(exact) => exact.clone(),
            HostPattern::Suffix(domain) if domain.len() > 251 => continue,
            HostPattern::Suffix(domain) => format!("x.{domain}"),
        };
        let host = Host::parse(asked.as_bytes()).unwrap_or_else(|error| panic!("{asked} is allowed, and is: {error}"));
        assert!(allowed.allows(Some(&host.name)), "{asked} is not allowed by {text}");
        let again = format!("server.allowed_hosts = [{}]", quoted(&pattern.to_string()));
        let again = config::parse(&again, None).expect("what is written is read back").0.server.allowed_hosts;
        assert_eq!(again, std::slice::from_ref(pattern));
    }
    true
}
