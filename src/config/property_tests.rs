//! Whatever the text, reading it ends with a configuration or with errors; and what the files say is what comes out.

use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::model::{Action, Balance, ClientAbort, Ejection, HashKey, Keepalive, Preset, Priority, Queue};
use super::{Config, Notice, parse, parse_with};

fn ok(text: &str) -> (Config, Vec<String>) {
    let (config, warnings) = parse(text, None).unwrap_or_else(|errors| panic!("{errors}"));
    (config, warnings.iter().map(ToString::to_string).collect())
}

fn good_texts() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let good = fs::read_dir(root.join("tests/config/good")).unwrap().map(|entry| entry.unwrap().path());
    let files = good
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .chain([root.join("gateway.toml.example")]);
    files.map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn four_lines_are_a_whole_gateway() {
    let (config, warnings) = ok("[upstreams.app]\nendpoints = ['127.0.0.1:8000']\n[[routes]]\nupstream = 'app'\n");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(config.restart.threads >= 1);
    assert_eq!(config.server.addresses()[0].to_string(), "0.0.0.0:8080");
    assert_eq!(config.admin.listen[0].to_string(), "127.0.0.1:9901");
    assert_eq!(config.client.max_body, 10 << 20);
    assert_eq!(config.client.headers_max, 100);
    let app = &config.upstreams[0];
    assert_eq!((app.connect_timeout, app.first_byte_timeout), (Duration::from_secs(1), Duration::from_mins(1)));
    assert_eq!(app.keepalive, Keepalive::Learned { start: Duration::from_secs(1) });
    assert_eq!(app.queue, Queue { max: 1000, timeout: Duration::from_secs(10) });
    assert!(app.buffer_requests && app.buffer_responses && app.slow_start.is_zero());
    let ejection = Ejection { consecutive_failures: 3, time: Duration::from_secs(10), max_ejected: 50 };
    assert_eq!((&app.balance, app.ejection), (&Balance::LeastConn, ejection));
    assert_eq!((app.retry.connect, app.retry.idempotent, app.retry.budget), (2, 1, 20));
    assert_eq!((app.health.rise, app.health.fall, app.health.interval), (2, 3, Duration::from_secs(5)));
    assert!(app.health.path.is_none() && app.health.expect.contains(204));
    assert_eq!((app.client_abort, app.capacity, app.head_limits), (ClientAbort::Close, None, None));
    let [route] = config.routes.as_slice() else { panic!() };
    assert_eq!((route.path.to_string().as_str(), route.max_body, route.priority), ("/*", 10 << 20, Priority::Normal));
    assert_eq!((route.buffer_requests, route.buffer_responses, route.queue_timeout), (None, None, None));
    let spool = &config.spool;
    assert_eq!(
        (spool.memory, spool.memory_per_body, spool.disk, spool.disk_per_body),
        (64 << 20, 64 << 10, 2 << 30, 1 << 30)
    );
    assert_eq!(spool.dir, Path::new("/var/tmp"));
}

#[test]
fn an_empty_file_answers_404() {
    let (config, warnings) = ok("");
    assert!(config.routes.is_empty() && config.upstreams.is_empty());
    assert_eq!(warnings, ["there are no routes, so every request is answered 404"]);
}

#[test]
fn presets_fill_in_what_is_left_out() {
    let preset = |lines: &str| {
        ok(&format!("routes = [{{ upstream = 'a' }}]\n[upstreams.a]\nendpoints = ['a:1']\n{lines}"))
            .0
            .upstreams
            .remove(0)
    };
    let sync = preset("preset = 'gunicorn-sync'\nworkers = 4");
    assert_eq!((sync.preset, sync.keepalive, sync.capacity), (Some(Preset::GunicornSync), Keepalive::Off, Some(4)));
    let limits = sync.head_limits.unwrap();
    assert_eq!((limits.request_line_max, limits.field_max, limits.headers_max), (4094, 8190, 87));
    assert_eq!(sync.client_abort, ClientAbort::Finish);
    let uvicorn = preset("preset = 'uvicorn'\nworkers = 4\nclient_abort = 'finish'");
    assert_eq!((uvicorn.capacity, uvicorn.client_abort), (Some(400), ClientAbort::Finish));
    assert_eq!(preset("preset = 'uvicorn'\nworkers = 4\nthreads = 1").capacity, Some(4));
    assert_eq!(preset("preset = 'granian'").head_limits.unwrap().request_line_max, 8192);
    assert_eq!(preset("max_in_flight = 7").capacity, Some(7));
    assert_eq!(preset("keepalive_timeout = 'off'").keepalive, Keepalive::Off);
    assert_eq!(preset("keepalive_timeout = '3s'").keepalive, Keepalive::Fixed(Duration::from_secs(3)));
    assert_eq!(uvicorn.keepalive, Keepalive::Learned { start: Duration::from_secs(3) });
}

#[test]
fn the_queue_is_as_long_as_the_whole_pool_needs() {
    let max = |lines: &str| ok(&format!("[upstreams.a]\n{lines}")).0.upstreams[0].queue.max;
    assert_eq!(max("endpoints = ['a:1']\nworkers = 4"), 100);
    assert_eq!(max("endpoints = ['a:1', 'a:2', { address = 'a:3', backup = true }]\nworkers = 8"), 160);
    assert_eq!(max("endpoints = ['a:1', 'a:2']\nmax_in_flight = 10000000"), 1_000_000);
    assert_eq!(max("endpoints = ['a:1']\npreset = 'uvicorn'"), 1000);
    assert_eq!(max("endpoints = ['a:1']\nworkers = 4\nqueue.max = 0"), 0);
}

#[test]
fn the_share_of_one_body_shrinks_with_the_whole_unless_it_is_written() {
    let spool = |lines: &str| ok(&format!("[spool]\n{lines}")).0.spool;
    let small = spool("memory = '16KiB'\ndisk = '0B'\ndir = '/srv/spool/'");
    assert_eq!(
        (small.memory_per_body, small.disk_per_body, small.dir.as_path()),
        (16 << 10, 0, Path::new("/srv/spool"))
    );
    assert_eq!(spool("disk = '1MiB'\ndisk_per_body = '1MiB'").disk_per_body, 1 << 20);
    assert!(parse("[spool]\ndisk = '1MiB'\ndisk_per_body = '2MiB'", None).is_err());
}

#[test]
fn a_body_that_fills_the_spool_to_the_last_byte_is_allowed() {
    let text = |max: u64, buffered: bool| {
        format!(
            "spool = {{ memory_per_body = '1KiB', disk = '4KiB' }}
            upstreams.a = {{ endpoints = ['a:1'], buffer_requests = {buffered} }}
            routes = [{{ upstream = 'a', max_body = '{max}B' }}, {{ path = '/x', respond = {{}} }}]"
        )
    };
    assert!(parse(&text(4 << 10, true), None).is_ok());
    assert!(parse(&text((4 << 10) + 1, true), None).is_err());
    assert!(parse(&text((4 << 10) + 1, false), None).is_ok());
}

#[test]
fn routes_have_a_word_of_their_own() {
    let (config, _) = ok("
        upstreams.a = { endpoints = ['a:1'], balance = 'hash:cookie:SID', buffer_responses = false, slow_start = '30s' }
        [[routes]]
        upstream = 'a'
        priority = 'high'
        buffer_requests = false
        buffer_responses = true
        timeouts.queue = '2s'
    ");
    let (app, route) = (&config.upstreams[0], &config.routes[0]);
    assert_eq!(app.balance, Balance::Hash(HashKey::Cookie("SID".into())));
    assert_eq!((app.buffer_requests, app.buffer_responses, app.slow_start), (true, false, Duration::from_secs(30)));
    assert_eq!((route.priority, route.queue_timeout), (Priority::High, Some(Duration::from_secs(2))));
    assert_eq!((route.buffer_requests, route.buffer_responses), (Some(false), Some(true)));
}

#[test]
fn routes_without_names_are_named_after_what_they_match() {
    let (config, _) = ok("
        [[routes]]
        host = ['Example.com']
        path = '/api/*'
        respond = {}
        [[routes]]
        path = '/x'
        methods = ['GET', 'HEAD']
        respond = {}
        [[routes]]
        path = '/x'
        methods = ['POST']
        respond = {}
        [[routes]]
        name = '/y'
        path = '/z'
        respond = {}
        [[routes]]
        path = '/y'
        respond = {}
    ");
    let names: Vec<&str> = config.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["example.com/api/*", "GET,HEAD /x", "POST /x", "/y", "/y #4"]);
}

#[test]
fn values_come_from_the_environment_and_from_files() {
    let lookup = |name: &str| match name {
        "WORKERS" => Some("3".to_owned()),
        "PORT" => Some("8000".to_owned()),
        _ => None,
    };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), "s3cret\n").unwrap();
    let text = "
        [upstreams.app]
        endpoints = ['127.0.0.1:${PORT}', { address = 'b:1', backup = '${BACKUP:-true}' }]
        workers = '${WORKERS}'
        [[routes]]
        upstream = 'app'
        request_headers.set = { X-Token = 'file:token' }
    ";
    let (config, _) =
        parse_with(text, Some(&dir.path().join("g.toml")), &lookup).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.upstreams[0].endpoints[0].addr.to_string(), "127.0.0.1:8000");
    assert!(config.upstreams[0].endpoints[1].backup);
    assert_eq!(config.upstreams[0].capacity, Some(3));
    assert_eq!(config.routes[0].request_headers.set[0].1, "s3cret");
    assert!(matches!(config.routes[0].action, Action::Upstream(0)));
}

#[test]
fn a_secret_is_in_no_message() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), "s3cret\u{7f}").unwrap();
    let text = "routes = [{ respond = {}, response_headers.set = { X-Token = 'file:token' } }]";
    let errors = parse(text, Some(&dir.path().join("g.toml"))).unwrap_err().to_string();
    assert!(errors.contains("file:token") && !errors.contains("s3cret"), "{errors}");
}

#[test]
fn deep_and_long_input_ends() {
    for text in [
        format!("{} = 1", vec!["a"; 200_000].join(".")),
        format!("[{}]", vec!["a"; 200_000].join(".")),
        format!("x = {{ {} = 1 }}", vec!["a"; 200_000].join(".")),
        format!("x = [\n{} = 1 }}]", vec!["{a"; 200_000].join(".")),
        format!("a = {}", "[".repeat(200_000)),
        format!("a = {}", "{a=".repeat(200_000)),
        "a = 1\n".repeat(20_000),
        format!("routes = [{}]", "{},".repeat(2_000)),
    ] {
        assert!(parse(&text, None).is_err());
    }
}

proptest! {
    #[test]
    fn any_text_ends_in_a_configuration_or_in_errors(
        text in r#"(\[\[?[a-z.]{0,9}\]?\]?|[a-z_.]{1,9} ?= ?|"[^"\n]{0,9}"|'|\{|\}|,|[0-9]{1,4}|\n|\$\{|.){0,40}"#,
    ) {
        let _ = parse(&text, None);
    }

    #[test]
    fn a_good_file_with_a_few_changes_does_not_panic(
        pick: prop::sample::Index,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, ".{0,3}"), 1..6),
    ) {
        let texts = good_texts();
        let mut text: Vec<char> = pick.get(&texts).chars().collect();
        for (at, kind, new) in edits {
            let at = at.index(text.len().max(1)).min(text.len());
            let end = match kind {
                0 => at,
                1 => (at + 1).min(text.len()),
                2 => (at + 7).min(text.len()),
                _ => text.iter().skip(at).position(|c| *c == '\n').map_or(text.len(), |line| at + line),
            };
            text.splice(at..end, new.chars());
        }
        let text: String = text.into_iter().collect();
        match parse(&text, None) {
            Ok(_) => {}
            Err(errors) => prop_assert!(!errors.problems().is_empty()),
        }
    }

    #[test]
    fn values_of_other_types_are_refused_and_placed(
        key in prop::sample::select(super::reference::key_paths()),
        value in prop::sample::select(vec!["1.5", "2020-01-01", "-1", "[[]]"]),
    ) {
        // Keys inside lists and under names of one's own need a frame that is not made here.
        prop_assume!(!key.contains(['[', '*']));
        let errors = parse(&format!("{key} = {value}"), None).unwrap_err();
        let told = |problem: &Notice| problem.line == Some(1) && problem.path.starts_with(&key);
        prop_assert!(errors.problems().iter().any(told), "{}", errors);
    }
}
