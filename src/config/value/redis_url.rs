//! Where Redis is: `redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`, `unix://`, in the forms that redis-py and
//! Flask-Limiter take.

use std::net::Ipv6Addr;

use super::super::model::{RedisKind, RedisNode, RedisUrl, Secret};
use super::super::walk::{Reject, Text};
use super::address::unix_path;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl Text for RedisUrl {
    const KIND: &'static str = "Redis URL";
    const EXPECTED: &'static str = "a URL such as \"redis://127.0.0.1:6379/0\", \"rediss://\", \
                                    \"redis+sentinel://a:26379,b:26379/mymaster\", \"redis+cluster://a:6379,b:6379\" or \
                                    \"unix:///run/redis.sock\"";

    const IS_SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, Reject> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(match text.strip_prefix("unix:") {
                Some(path) if path.starts_with('/') => Reject::because("a socket is written unix:///path"),
                _ => Reject::because("it begins with redis://, rediss:// or unix://"),
            });
        };
        let (kind, tls) = match scheme {
            "redis" => ("single", false),
            "rediss" => ("single", true),
            "redis+sentinel" => ("sentinel", false),
            "rediss+sentinel" => ("sentinel", true),
            "redis+cluster" => ("cluster", false),
            "rediss+cluster" => ("cluster", true),
            "unix" | "redis+unix" => return unix(rest),
            "redis-sentinel" | "sentinel" => return Err(Reject::because("it is written redis+sentinel://")),
            "redis-cluster" | "cluster" => return Err(Reject::because("it is written redis+cluster://")),
            _ => {
                return Err(Reject::because(
                    "it begins with redis://, rediss://, redis+sentinel://, redis+cluster:// or unix://",
                ));
            }
        };
        if rest.contains(['?', '#']) {
            return Err(Reject::because("it takes no query; a \"?\" or \"#\" of a password is written %3F, %23"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        let (username, password) = user.map_or(Ok((None, None)), credentials)?;
        let port = if kind == "sentinel" { SENTINEL_PORT } else { PORT };
        let nodes = hosts.split(',').map(|host| node(host, port)).collect::<Result<Vec<_>, _>>()?;
        let url = |kind, database| Self { kind, tls, username, password, database };
        match kind {
            "single" => match <[RedisNode; 1]>::try_from(nodes) {
                Ok([node]) => Ok(url(RedisKind::Single(node), database(path)?)),
                Err(_) => Err(Reject::because("several hosts are a redis+sentinel:// or redis+cluster://")),
            },
            "sentinel" => {
                let (service, db) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err(Reject::because("it ends in the name of the master, as in \"/mymaster\""));
                }
                Ok(url(RedisKind::Sentinel { nodes, service: decoded(service)? }, database(db)?))
            }
            _ if matches!(path, "" | "0") => Ok(url(RedisKind::Cluster(nodes), 0)),
            _ => Err(Reject::because("a cluster has the database 0 alone")),
        }
    }
}

impl Text for Secret {
    const KIND: &'static str = "string";
    const EXPECTED: &'static str = "a string";
    const IS_SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, Reject> {
        Ok(Self(text.to_owned()))
    }
}

/// `[user][:password]`.
fn credentials(text: &str) -> Result<(Option<String>, Option<Secret>), Reject> {
    let (user, password) = text.split_once(':').map_or((text, None), |(user, password)| (user, Some(password)));
    let user = Some(decoded(user)?).filter(|user| !user.is_empty());
    let password = password.map(decoded).transpose()?.filter(|password| !password.is_empty());
    Ok((user, password.map(Secret)))
}

fn node(text: &str, default: u16) -> Result<RedisNode, Reject> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => {
            let host: Ipv6Addr = host.parse().map_err(|_| Reject::because("what is in brackets is no IPv6 address"))?;
            (host.to_string(), port.strip_prefix(':').or(Some(port).filter(|port| !port.is_empty())))
        }
        None => match text.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Err(Reject::because("an IPv6 address stands in brackets, and a port follows"));
            }
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte)) {
        return Err(Reject::because(
            "a host is missing, or is none; \"/\", \"@\" and \":\" of a password are written %2F, %40, %3A",
        ));
    }
    let port = match port {
        None => default,
        Some(port) => port
            .parse::<u16>()
            .ok()
            .filter(|number| *number > 0 && !port.starts_with('+'))
            .ok_or_else(|| Reject::because("a port is 1 to 65535"))?,
    };
    Ok(RedisNode { host, port })
}

fn database(text: &str) -> Result<i64, Reject> {
    match text {
        "" => Ok(0),
        text if text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| Reject::Unlike)
        }
        _ => Err(Reject::because(
            "the path is the number of a database, as in \"/0\"; a \"/\" of a password is written %2F",
        )),
    }
}

/// `/path[?db=N]`, as redis-py reads it; who connects is in `username` and `password`.
fn unix(rest: &str) -> Result<RedisUrl, Reject> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (user, path) = match path.split_once('@') {
        Some((user, path)) if !user.contains('/') => (Some(user), path),
        _ => (None, path),
    };
    let (mut username, mut password) = user.map_or(Ok((None, None)), credentials)?;
    let mut url = RedisUrl { kind: RedisKind::Unix(unix_path(&decoded(path)?)?), ..RedisUrl::default() };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("db", value)) => {
                url.database = database(value)
                    .map_err(|_| Reject::because("`db` is the number of a database, as in \"?db=0\""))?;
            }
            Some(("username", value)) => username = Some(decoded(value)?),
            Some(("password", value)) => password = Some(Secret(decoded(value)?)),
            _ => return Err(Reject::because("its query has `db`, `username` and `password` alone")),
        }
    }
    Ok(RedisUrl { username, password, ..url })
}

/// `%40` and the like (RFC 3986 section 2.1).
fn decoded(text: &str) -> Result<String, Reject> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (digit(), digit()) {
            (Some(high), Some(low)) => out.push(high * 16 + low),
            _ => return Err(Reject::because("a \"%\" stands for itself as %25")),
        }
    }
    String::from_utf8(out).map_err(|_| Reject::because("what is written with % is no text"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> RedisUrl {
        RedisUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn every_kind() {
        assert_eq!(parsed("redis://127.0.0.1").to_string(), "redis://127.0.0.1:6379");
        assert_eq!(parsed("rediss://[::1]:1/3").to_string(), "rediss://[::1]:1");
        assert_eq!(parsed("rediss://[::1]:1/3").database, 3);
        assert_eq!(parsed("redis+cluster://a,b:7").to_string(), "redis+cluster://a:6379,b:7");
        assert_eq!(parsed("rediss+cluster://a").to_string(), "rediss+cluster://a:6379");
        let sentinel = parsed("redis+sentinel://:se%40cret@a,b:7/mymaster/2");
        assert_eq!(sentinel.to_string(), "redis+sentinel://a:26379,b:7/mymaster");
        assert_eq!((sentinel.password, sentinel.database), (Some(Secret("se@cret".into())), 2));
        assert_eq!(parsed("unix:///run/redis.sock?db=1").to_string(), "unix:///run/redis.sock");
        assert_eq!(parsed("unix://u:p@/run/redis.sock").username.as_deref(), Some("u"));
        assert_eq!(parsed("redis://u:p@h").username.as_deref(), Some("u"));
        assert_eq!(format!("{:?}", parsed("redis://:hidden@h")).find("hidden"), None);
    }

    #[test]
    fn slips_are_explained() {
        for bad in [
            "",
            "unix:/run/x.sock",
            "Redis://a",
            "redis:",
            "localhost:6379",
            "http://a",
            "redis://",
            "redis://a,b",
            "redis://a:0",
            "redis://a:+1",
            "redis://a/x",
            "redis://a?x=1",
            "redis://::1",
            "redis+sentinel://a",
            "redis+sentinel://a/",
            "redis+cluster://a/1",
            "redis-sentinel://a/m",
            "unix://",
            "unix://x",
            "unix:///a?x=1",
            "redis://%zz:p@a",
        ] {
            assert!(matches!(RedisUrl::parse(bad), Err(Reject::Unlike | Reject::Because(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "((redis|rediss|unix)(\\+sentinel|\\+cluster)?://)?.{0,20}") {
            let _ = RedisUrl::parse(&text);
        }

        #[test]
        fn no_reason_shows_a_password(scheme in "(redis|rediss|Redis|unix|http)(\\+sentinel|\\+cluster)?", password in "[a-z]{12}", rest in "[a-z:/,?@\\[\\]]{0,8}") {
            if let Err(Reject::Because(reason) | Reject::Near(reason)) =
                RedisUrl::parse(&format!("{scheme}://:{password}{rest}"))
            {
                prop_assert!(!reason.contains(&password), "{}", reason);
            }
        }
    }
}
