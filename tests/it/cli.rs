//! What the program says on its command line, and how it ends: 0 done, 1 failed, 2 usage or configuration.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;

use crate::harness::{Address, Client, Finished, Gateway, Origin, Signal, eventually};

const GOOD: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    [admin]
    listen = ["127.0.0.1:0"]
    [upstreams.app]
    preset = "uvicorn"
    endpoints = ["127.0.0.1:8000", "unix:/run/app.sock"]
    [[routes]]
    upstream = "app"
    "#;

/// A directory with these files, for commands that end by themselves.
pub struct Place(TempDir);

impl Place {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            fs::write(place.path().join(name), text).unwrap();
        }
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn run(&self, arguments: &[&str]) -> Finished {
        let output = Command::new(env!("CARGO_BIN_EXE_propylon"))
            .args(arguments)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Finished { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

#[test]
fn version_and_help_go_to_standard_output() {
    let place = Place::new(&[]);
    let version = place.run(&["--version"]);
    assert_eq!((version.code, version.stdout), (0, format!("propylon {}\n", env!("CARGO_PKG_VERSION"))));
    let help = place.run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for command in ["run", "check", "reload", "drain", "undrain", "health"] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{}", help.stdout);
        let own = place.run(&[command, "--help"]);
        assert!(own.code == 0 && own.stdout.contains("--config <FILE>"), "{}", own.stdout);
        assert!(!own.stdout.contains('`'), "{}", own.stdout);
    }
}

#[test]
fn usage_errors_exit_2_and_say_what_is_possible() {
    let place = Place::new(&[]);
    for arguments in [
        &[][..],
        &["serve"],
        &["run", "--colour"],
        &["run", "--to", "127.0.0.1:1", "--config", "x.toml"],
        &["run", "--listen", "127.0.0.1:0"],
        &["run", "--preset", "uvicorn"],
        &["health", "--admin", "nowhere"],
    ] {
        let finished = place.run(arguments);
        assert_eq!((finished.code, finished.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(
            finished.stderr.contains("Usage: propylon") || finished.stderr.contains("--help"),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn check_says_of_the_guides_pool_what_the_guide_says() {
    let guide =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guides/protecting-workers.md")).unwrap();
    let block = |language: &str| {
        let (_, rest) = guide.split_once(&format!("```{language}\n")).unwrap();
        rest.split_once("```").unwrap().0
    };
    let place = Place::new(&[("gateway.toml", block("toml"))]);
    let checked = place.run(&["check"]);
    assert!(checked.code == 0 && checked.stdout.contains(block("text")), "{} {}", checked.stdout, checked.stderr);
}

#[test]
fn check_says_what_is_there_or_everything_that_is_wrong() {
    let bad = GOOD
        .replace("uvicorn", "uvicron")
        .replace("upstream = \"app\"", "upstream = \"ap\"")
        .replace("[admin]", "[admin]\nlissen = 1");
    let place = Place::new(&[("gateway.toml", GOOD), ("bad.toml", &bad), ("torn.toml", "[server\nlisten = 1")]);
    let good = place.run(&["check"]);
    assert_eq!((good.code, good.stderr.as_str()), (0, ""));
    assert_eq!(
        good.stdout,
        "gateway.toml: ok, 1 upstreams, 1 routes\n\
         upstream app: any number in flight to each of 2 endpoints (no `workers`, no `max_in_flight`), \
         1000 wait for 10s at most\n"
    );

    let bad = place.run(&["check", "--config", "bad.toml"]);
    assert_eq!((bad.code, bad.stdout.as_str()), (2, ""));
    for expected in
        ["bad.toml:5:", "did you mean \"listen\"?", "did you mean \"uvicorn\"?", "routes[0].upstream", "3 problems"]
    {
        assert!(bad.stderr.contains(expected), "{expected} in {}", bad.stderr);
    }
    let torn = place.run(&["check", "--config", "torn.toml"]);
    assert!(torn.code == 2 && torn.stderr.starts_with("torn.toml:1:"), "{}", torn.stderr);

    let missing = place.run(&["check", "--config", "missing.toml"]);
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.starts_with("missing.toml: cannot be read: no such file"), "{}", missing.stderr);
    let directory = place.run(&["check", "--config", "."]);
    assert!(directory.code == 2 && directory.stderr.contains("cannot be read"), "{}", directory.stderr);
}

#[test]
fn warnings_of_check_do_not_fail_it() {
    let place = Place::new(&[("gateway.toml", &GOOD.replace("preset = \"uvicorn\"", ""))]);
    let checked = place.run(&["check"]);
    assert_eq!(checked.code, 0);
    assert!(checked.stdout.starts_with("warning: gateway.toml:6:"), "{}", checked.stdout);
}

#[test]
fn without_a_file_it_says_what_to_do() {
    let place = Place::new(&[]);
    for command in ["run", "check", "reload", "health"] {
        let finished = place.run(&[command]);
        assert_eq!(finished.code, 2, "{command}");
        assert!(finished.stderr.starts_with("gateway.toml: cannot be read: no such file"), "{}", finished.stderr);
        assert!(
            finished.stderr.contains("--config") && finished.stderr.contains("propylon run --to"),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn a_wrong_configuration_does_not_run() {
    let refused =
        Gateway::expect_refused(&GOOD.replace("uvicorn", "nonsense").replace("[[routes]]", "[[routes]]\nx = 1"));
    assert_eq!((refused.code, refused.stdout.as_str()), (2, ""));
    assert!(refused.stderr.contains("nonsense") && refused.stderr.ends_with("2 problems"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("listening"), "{}", refused.stderr);
}

#[test]
fn what_it_says_when_it_starts() {
    let config = GOOD.replace(
        "listen = [\"127.0.0.1:0\"]\n    [admin]",
        "listen = [\"127.0.0.1:0\", \"unix:{dir}/c.sock\"]\n    [admin]",
    );
    let gateway = Gateway::start(&config);
    let log = gateway.log();
    let from = log.iter().position(|line| line.starts_with("propylon ")).unwrap();
    let expected = [
        format!("propylon {}", env!("CARGO_PKG_VERSION")),
        format!("listening on http://{}", gateway.addr()),
        format!("listening on unix:{}/c.sock", gateway.dir().display()),
        format!("admin on http://{}", gateway.admin()),
        "upstream app: 127.0.0.1:8000, unix:/run/app.sock (uvicorn, least_conn)".to_owned(),
        "ready".to_owned(),
    ];
    assert_eq!(log[from..from + expected.len()], expected);
}

#[test]
fn endpoints_on_the_command_line_are_a_whole_gateway() {
    let (first, second) = (
        Origin::echo_head(),
        Origin::start_unix(|connection| {
            while let Some(request) = connection.read_request() {
                connection.answer(200, request.raw_head);
            }
        }),
    );
    let gateway =
        Gateway::with_flags(&["--to", "{first}", "--to", "{second}", "--listen", "127.0.0.1:0", "--preset", "uvicorn"])
            .set("first", first.address())
            .set("second", second.address())
            .start();
    for _ in 0..4 {
        assert!(gateway.get("/hello").expect(200).text().starts_with("GET /hello HTTP/1.1\r\n"));
    }
    assert!(!first.requests().is_empty() && !second.requests().is_empty(), "both take turns");
    assert!(matches!(gateway.admin(), Address::Tcp(address) if address.ip().is_loopback()));
    gateway.admin_get("/readyz").expect(200);
    let said = gateway.wait_for_log("upstream app: ");
    assert_eq!(said, format!("upstream app: {}, {} (uvicorn, least_conn)", first.address(), second.address()));
    let lines = gateway.stop().stdout;
    assert_eq!(lines.lines().count(), 4, "the access log is on standard output");
}

#[test]
fn flags_that_cannot_be_used_are_named() {
    let place = Place::new(&[]);
    let refused = place.run(&["run", "--to", "nonsense", "--preset", "bad", "--listen", "127.0.0.1"]);
    assert_eq!(refused.code, 2);
    for flag in ["--to: ", "--preset: expected one of gunicorn-sync, ", "--listen: "] {
        assert!(refused.stderr.lines().any(|line| line.starts_with(flag)), "{flag} in {}", refused.stderr);
    }
    assert!(refused.stderr.ends_with("3 problems\n"), "{}", refused.stderr);
}

#[test]
fn a_port_that_is_taken_ends_it_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let place = Place::new(&[]);
    let began = Instant::now();
    let refused = place.run(&["run", "--to", "127.0.0.1:1", "--listen", &address.to_string()]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    let said = format!("cannot listen on {address}: the address is in use by another process\n");
    assert!(refused.stderr.ends_with(&said), "{}", refused.stderr);

    let socket = place.path().join("taken.sock");
    let _held = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let refused = place.run(&["run", "--to", "127.0.0.1:1", "--listen", &format!("unix:{}", socket.display())]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("the address is in use"), "{}", refused.stderr);
    let nowhere = place.run(&["run", "--to", "127.0.0.1:1", "--listen", "192.0.2.1:1"]);
    assert!(nowhere.code == 1 && nowhere.stderr.contains("no interface has this address"), "{}", nowhere.stderr);
}

#[test]
fn health_says_what_readyz_says() {
    let mut origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let config = r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["unix:{dir}/admin.sock", "127.0.0.1:0"]
        ready_requires = ["app"]
        [upstreams.app]
        endpoints = ["{origin}"]
        [upstreams.app.health]
        interval = "50ms"
        timeout = "50ms"
        fall = 1
        [[routes]]
        upstream = "app"
        "#;
    let gateway = Gateway::with(config).set("origin", origin.address()).start();
    let health = || gateway.command(&["health"]);
    let ready = eventually("the first check has passed", || Some(health()).filter(|finished| finished.code == 0));
    assert_eq!((ready.stdout.as_str(), ready.stderr.as_str()), ("ready", ""));
    let by_address = gateway.command(&["health", "--admin", &gateway.admin().to_string()]);
    assert_eq!(by_address.code, 0, "{}", by_address.stderr);

    origin.stop();
    let not_ready = eventually("it is not ready any more", || Some(health()).filter(|finished| finished.code != 0));
    assert_eq!(
        (not_ready.code, not_ready.stdout.as_str(), not_ready.stderr.as_str()),
        (1, "", "no healthy endpoint in app")
    );

    let admin = gateway.admin().to_string();
    let place = Place::new(&[("gateway.toml", &fs::read_to_string(gateway.config_path()).unwrap())]);
    gateway.stop();
    let nobody = place.run(&["health"]);
    assert_eq!((nobody.code, nobody.stdout.as_str()), (1, ""));
    assert!(nobody.stderr.contains("admin.sock"), "it names whom it asked: {}", nobody.stderr);
    let nobody = place.run(&["health", "--admin", &admin]);
    assert!(nobody.code == 1 && nobody.stderr.contains(&admin), "{}", nobody.stderr);
}

#[test]
fn health_gives_up_on_somebody_else() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let closing = thread::spawn(move || drop(silent.accept().unwrap()));
    let finished = Place::new(&[]).run(&["health", "--admin", &address]);
    closing.join().unwrap();
    assert_eq!(finished.code, 1);
    assert!(finished.stderr.contains(&address), "{}", finished.stderr);
}

#[test]
fn it_survives_a_shortage_of_descriptors() {
    let gateway = Gateway::with(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        [[routes]]
        respond = { body = "here" }
        "#,
    )
    .allow_error("connections cannot be accepted")
    .start();
    gateway.get("/").expect(200);
    let files = format!("/proc/{}/fd", gateway.pid());
    let room = 20;
    let open = eventually("connections are closed", || Some(fs::read_dir(&files).unwrap().count()));
    let limit = u64::try_from(open + room).unwrap();
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap());
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
    assert!(before.current > Some(limit));

    let mut clients: Vec<_> = (0..room * 3).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send_request("GET", "/", &[], "");
    }
    let served = clients.iter_mut().take(room / 2).map(|client| client.response().expect(200)).count();
    assert_eq!(served, room / 2);
    let line = gateway.wait_for_log("connections cannot be accepted");
    assert!(line.contains("Too many open files"), "{line}");

    // Whoever waits is served as soon as others leave.
    for mut client in clients.drain(room / 2..) {
        client.set_timeout(Duration::from_millis(1));
        let _ = client.try_response();
    }
    clients.clear();
    gateway.get("/").expect(200);
    let metrics = gateway.metrics();
    assert!(metrics.value("propylon_accept_errors_total", &[]).unwrap() >= 1.0);
    eventually("every connection is closed", || {
        let open = gateway.metrics().value("propylon_connections", &[])?;
        (open == 0.0).then_some(())
    });
    let complaints = gateway.log().iter().filter(|line| line.contains("cannot be accepted")).count();
    assert!(complaints <= 4, "a shortage does not flood the log: {complaints} lines");
}

#[test]
fn arguments_are_not_taken_for_more_than_they_are() {
    // A configuration whose name looks like a flag, and one with a space.
    let place = Place::new(&[("--x.toml", GOOD), ("a b.toml", GOOD)]);
    assert_eq!(place.run(&["check", "--config=--x.toml"]).code, 0);
    assert_eq!(place.run(&["check", "--config", "a b.toml"]).code, 0);
    assert_eq!(place.run(&["check", "gateway.toml"]).code, 2);
}

#[test]
fn it_ends_when_asked_by_its_terminal() {
    let origin = Origin::echo_head();
    let gateway =
        Gateway::with_flags(&["--to", "{origin}", "--listen", "127.0.0.1:0"]).set("origin", origin.address()).start();
    let address = gateway.addr().clone();
    gateway.signal(Signal::INT);
    gateway.wait_for_exit();
    assert!(Client::try_connect(&address).is_err());
}

#[test]
fn it_starts_where_the_system_has_no_certificates() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = Gateway::with(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = ["127.0.0.1:0"]
        [upstreams.app]
        endpoints = ["{origin}"]
        health = { path = "/", interval = "50ms", timeout = "50ms" }
        [[routes]]
        upstream = "app"
        "#,
    )
    .set("origin", origin.address())
    .env("SSL_CERT_FILE", "/nowhere/certificates.pem")
    .env("SSL_CERT_DIR", "/nowhere")
    .start();
    gateway.get("/").expect(200);
}
