//! Hostile requests against the gateway in front of every kind of server: each is refused before a byte of it goes on, or the
//! app sees it in the one reading it has.
//!
//! The cases are tables, one file for a subject. Each has a name, the clause it breaks and what must become of it; the same
//! for every server, because what a server makes of odd bytes is what must not matter. `PROPYLON_CORPUS=1` prints for each
//! server what became of the cases, `PROPYLON_CORPUS=all` each of them.

mod case;
mod chunks;
mod cut_off;
mod fields;
mod framing;
mod hop_by_hop;
mod host;
mod request_line;
mod servers;
mod sizes;
mod smuggling;
mod stage;
mod target;

use std::collections::HashSet;

use case::{Case, Then};
use servers::{Kind, SERVERS, Server};
use stage::Stage;

/// Every case, by subject.
fn corpus() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("request line", request_line::cases()),
        ("target", target::cases()),
        ("host", host::cases()),
        ("fields", fields::cases()),
        ("framing", framing::cases()),
        ("chunks", chunks::cases()),
        ("sizes", sizes::cases()),
        ("smuggling", smuggling::cases()),
        ("hop by hop", hop_by_hop::cases()),
        ("cut off", cut_off::cases()),
    ]
}

#[track_caller]
fn server(name: &str) -> &'static Server {
    SERVERS.iter().find(|server| server.name == name).expect("a server of this name")
}

#[track_caller]
fn run(name: &str) {
    let server = server(name);
    let mut stage = Stage::start(server);
    let report = stage.run(&corpus());
    report.print(server.name);
    assert!(report.failures.is_empty(), "{name}, {} cases:\n{}", report.failures.len(), report.failures.join("\n"));
    stage.end();
}

#[test]
fn the_corpus_is_large_and_every_case_has_a_name_of_its_own_and_a_clause() {
    let cases: Vec<Case> = corpus().into_iter().flat_map(|(_, cases)| cases).collect();
    let names: HashSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "a name is there twice");
    let refused = cases.iter().filter(|case| case.is_refused() && case.then != Then::Leaves).count();
    assert!(cases.len() >= 400 && refused >= 250, "{} cases, {refused} refused", cases.len());
    let marker = |case: &&Case| case.raw.windows(case.name.len()).any(|window| window == case.name.as_bytes());
    let marked = cases.iter().filter(marker).count();
    assert!(marked * 10 > cases.len() * 9, "{marked} of {} cases can be told at the app", cases.len());
    for case in &cases {
        let has_section = case.clause.starts_with("RFC ") && case.clause.split(' ').count() == 3;
        assert!(has_section && case.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
    }
}

/// What the corpus is for: a server that is asked directly lets an app see what it must not, and the judge says so.
#[test]
fn servers_without_a_gateway_let_it_through() {
    for (name, wanted) in [
        ("uvicorn-h11", ["both-length-first", "length-twice", "old-coding", "host-with-path", "ends-lf-alone"]),
        ("uwsgi", ["both-length-first", "length-list", "coding-name-with-space", "field-folded", "host-twice"]),
    ] {
        let cases: Vec<Case> = corpus().into_iter().flat_map(|(_, cases)| cases).collect();
        let cases: Vec<Case> = cases.into_iter().filter(|case| wanted.contains(&case.name)).collect();
        assert!(cases.len() == wanted.len() && cases.iter().all(Case::is_refused));
        let mut stage = Stage::without_gateway(server(name));
        let report = stage.run(&[("direct", cases)]);
        let seen = report.failures.iter().filter(|failure| failure.contains("reached the app, not 0")).count();
        assert_eq!(seen, wanted.len(), "{name}: {:#?}", report.failures);
    }
}

#[test]
fn bytes_on_the_wire() {
    assert!(matches!(SERVERS[0].kind, Kind::Wire));
    run("wire");
}

#[test]
fn gunicorn_sync() {
    run("gunicorn-sync");
}

#[test]
fn gunicorn_asgi() {
    run("gunicorn-asgi");
}

#[test]
fn uvicorn_with_httptools() {
    run("uvicorn-httptools");
}

#[test]
fn uvicorn_with_h11() {
    run("uvicorn-h11");
}

#[test]
fn hypercorn() {
    run("hypercorn");
}

#[test]
fn daphne() {
    run("daphne");
}

#[test]
fn granian_asgi() {
    run("granian-asgi");
}

#[test]
fn granian_wsgi() {
    run("granian-wsgi");
}

#[test]
fn uwsgi() {
    run("uwsgi");
}

#[test]
fn waitress() {
    run("waitress");
}
