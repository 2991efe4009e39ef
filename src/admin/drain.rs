//! `/drain` and `/undrain`: an endpoint gets no new requests, until it is to have them again.
//!
//! What is said here holds as long as the endpoint is named in the configuration, reloads included, and ends with the process.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::admin::answer::Answer;
use crate::config::suggestion;
use crate::route::target::decode_value;
use crate::state::Snapshot;
use crate::upstream::Upstream;
use crate::upstream::endpoint::{Address, Endpoint};

/// How often it is looked whether a drained endpoint has ended its work.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What was asked for.
#[derive(Debug, Default)]
struct Parameters {
    upstream: Option<String>,
    endpoint: Option<String>,
    wait: Option<String>,
}

/// Gives an endpoint no new requests. 200 says so at once, or with `wait` when nothing is in flight there any more; 202 when there
/// still is after that many seconds.
pub async fn drain(snapshot: &Snapshot, query: &str) -> Answer {
    let found = Parameters::read(query, &["upstream", "endpoint", "wait"])
        .and_then(|parameters| Ok((parameters.wait()?, parameters.find(snapshot)?)));
    let (wait, (upstream, endpoint)) = match found {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    endpoint.drain();
    let is_quiet = match wait {
        Some(wait) => quiet(&endpoint, wait).await,
        None => true,
    };
    let mut text = sentence(upstream, &endpoint);
    let is_left = |target: &crate::upstream::Target| !target.endpoint.is_drained();
    if !upstream.targets().list.iter().any(is_left) {
        text.push_str(&format!("no endpoint of {} is left: its requests wait\n", upstream.config.name));
    }
    Answer::text(if is_quiet { 200 } else { 202 }, text)
}

/// Gives an endpoint requests again.
pub fn undrain(snapshot: &Snapshot, query: &str) -> Answer {
    match Parameters::read(query, &["upstream", "endpoint"]).and_then(|parameters| parameters.find(snapshot)) {
        Ok((upstream, endpoint)) => {
            endpoint.undrain();
            Answer::text(200, sentence(upstream, &endpoint))
        }
        Err(answer) => answer,
    }
}

/// Waits until nothing is in flight to `endpoint`, or somebody wants it back; false when there still is something.
async fn quiet(endpoint: &Endpoint, wait: Duration) -> bool {
    let began = Instant::now();
    while endpoint.metrics.in_flight() > 0 {
        if began.elapsed() >= wait || !endpoint.is_drained() {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

/// How it is now.
fn sentence(upstream: &Upstream, endpoint: &Endpoint) -> String {
    let state = if endpoint.is_drained() { "is drained" } else { "takes requests" };
    let in_flight = match endpoint.metrics.in_flight() {
        1 => "1 request".to_owned(),
        count => format!("{count} requests"),
    };
    format!("{} of {} {state}, {in_flight} in flight\n", endpoint.label, upstream.config.name)
}

impl Parameters {
    /// Reads a query: names that are `allowed`, each once.
    fn read(query: &str, allowed: &[&str]) -> Result<Self, Answer> {
        let mut parameters = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "upstream" => &mut parameters.upstream,
                "endpoint" => &mut parameters.endpoint,
                "wait" if allowed.contains(&"wait") => &mut parameters.wait,
                _ => {
                    let near = suggestion(name, allowed.iter().copied());
                    return Err(bad(format!("unknown parameter \"{name}\"{near}")));
                }
            };
            let value = decode(value).ok_or_else(|| bad(format!("{name}: not percent-encoded text")))?;
            if place.replace(value).is_some() {
                return Err(bad(format!("{name} is there twice")));
            }
        }
        Ok(parameters)
    }

    fn wait(&self) -> Result<Option<Duration>, Answer> {
        let Some(wait) = &self.wait else { return Ok(None) };
        let seconds: u32 = wait.parse().map_err(|_| bad(format!("wait: expected seconds; found \"{wait}\"")))?;
        Ok(Some(Duration::from_secs(seconds.into())))
    }

    fn find<'a>(&self, snapshot: &'a Snapshot) -> Result<(&'a Upstream, Arc<Endpoint>), Answer> {
        let named = |value: &Option<String>, name: &str| {
            let value = value.clone().filter(|value| !value.is_empty());
            value.ok_or_else(|| bad(format!("missing parameter: {name}")))
        };
        let (name, endpoint) = (named(&self.upstream, "upstream")?, named(&self.endpoint, "endpoint")?);
        let known: Vec<&str> = snapshot.upstreams.iter().map(|upstream| &*upstream.config.name).collect();
        let upstream = snapshot.upstreams.iter().find(|upstream| *upstream.config.name == *name);
        let upstream = upstream.ok_or_else(|| unknown("upstream", &name, &known))?;
        let targets = upstream.targets();
        // Also as the file writes it: `/var/run/a.sock` is `/run/a.sock` where that is a link.
        let written = upstream.config.endpoints.iter().find(|config| config.addr.to_string() == endpoint);
        let address = written.and_then(|config| Address::literal(&config.addr));
        let is_meant = |one: &&Arc<Endpoint>| one.label == endpoint || Some(&one.address) == address.as_ref();
        let endpoints = || targets.list.iter().map(|target| &target.endpoint);
        if let Some(found) = endpoints().find(is_meant) {
            return Ok((upstream, found.clone()));
        }
        let known: Vec<&str> = endpoints().map(|endpoint| endpoint.label.as_str()).collect();
        Err(unknown(&format!("endpoint of {name}"), &endpoint, &known))
    }
}

pub(super) fn bad(message: String) -> Answer {
    Answer::text(400, message + "\n")
}

fn unknown(what: &str, found: &str, known: &[&str]) -> Answer {
    let near = suggestion(found, known.iter().copied());
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Answer::text(404, format!("no {what} is called \"{found}\"{near}; there are: {known}\n"))
}

pub(super) fn decode(value: &str) -> Option<String> {
    String::from_utf8(decode_value(value.as_bytes())?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_taken_off() {
        for (encoded, plain) in [
            ("", Some("")),
            ("127.0.0.1:8001", Some("127.0.0.1:8001")),
            ("unix%3A%2Frun%2fa.sock", Some("unix:/run/a.sock")),
            ("%5B::1%5D:8000", Some("[::1]:8000")),
            ("a+b", Some("a+b")),
            ("100%25", Some("100%")),
            ("%C3%A4", Some("ä")),
            ("%", None),
            ("%4", None),
            ("%4g", None),
            ("%+4", None),
            ("%ff", None),
            ("%ä", None),
        ] {
            assert_eq!(decode(encoded).as_deref(), plain, "{encoded}");
        }
    }

    #[test]
    fn parameters_are_known_and_there_once() {
        let read = |query: &str| Parameters::read(query, &["upstream", "endpoint"]);
        let good = read("upstream=app&endpoint=%5B::1%5D:1").unwrap();
        assert_eq!((good.upstream.as_deref(), good.endpoint.as_deref()), (Some("app"), Some("[::1]:1")));
        for query in ["upstrem=app", "upstream=a&upstream=b", "wait=1", "endpoint=%zz", "x"] {
            assert!(read(query).is_err(), "{query}");
        }
        assert!(Parameters::read("wait=1", &["wait"]).unwrap().wait().unwrap() == Some(Duration::from_secs(1)));
        for wait in ["wait=", "wait=-1", "wait=1s", "wait=99999999999"] {
            assert!(Parameters::read(wait, &["wait"]).unwrap().wait().is_err(), "{wait}");
        }
    }
}
