//! Leaving: readiness fails first, whoever came in time is answered, and the process ends as soon as nothing is left.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde_json::json;

use crate::harness::{Address, Broken, Client, DnsServer, Gate, Gateway, Origin, Signal, eventually, rounds};

/// Sends everything to `origin`; `{server}` is for more keys of `[server]`.
const TO_ORIGIN: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    {server}
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [upstreams.app]
    endpoints = ["{origin}"]
    [[routes]]
    upstream = "app"
    "#;

/// Answers by itself.
const ANSWERING: &str = r#"
    [server]
    listen = ["127.0.0.1:0"]
    {server}
    [admin]
    listen = ["127.0.0.1:0"]
    [log]
    access = "{dir}/access.log"
    [[routes]]
    respond = { body = "here" }
    "#;

/// Reads a request and answers it once the gate is open.
fn gated(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(move |connection| {
        while connection.read_request().is_some() {
            gate.wait();
            connection.answer(200, "from the app");
        }
    })
}

#[track_caller]
fn wait_until_closed(address: &Address) {
    eventually("new connections are refused", || Client::try_connect(address).err());
}

#[test]
fn during_the_delay_new_clients_are_served_while_readiness_fails() {
    let gateway = Gateway::with(ANSWERING).set("server", "shutdown_delay = \"1s\"").start();
    let mut kept = gateway.connect();
    assert_eq!(kept.get("/").expect(200).field("connection"), None);
    assert_eq!(gateway.admin_get("/readyz").expect(200).text(), "ready\n");

    gateway.signal(Signal::TERM);
    eventually("readiness fails", || {
        let readiness = gateway.admin_get("/readyz");
        (readiness.status == 503).then(|| assert_eq!(readiness.text(), "draining\n"))
    });
    // The process lives, and says so.
    gateway.admin_get("/healthz").expect(200);
    // New connections and old ones are served, and told that there is no next request.
    for client in [&mut gateway.connect(), &mut kept] {
        let response = client.get("/").expect(200);
        assert_eq!((response.text(), response.field("connection")), ("here", Some("close")));
        client.closed();
    }

    let (address, admin) = (gateway.addr().clone(), gateway.admin().clone());
    let log = gateway.wait_for_exit().stderr;
    assert!(log.contains("shutting down signal=SIGTERM") && log.contains("stopped"), "{log}");
    assert!(Client::try_connect(&address).is_err() && Client::try_connect(&admin).is_err());
}

#[test]
fn a_request_in_flight_ends_and_the_process_with_it() {
    let gate = Gate::new();
    let origin = gated(&gate);
    // Nobody waits for this long: the process is gone with its last request.
    let gateway =
        Gateway::with(TO_ORIGIN).set("server", "shutdown_timeout = \"1h\"").set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    origin.wait_for_requests(1);
    gateway.signal(Signal::TERM);
    wait_until_closed(gateway.addr());
    gateway.admin_get("/readyz").expect(503);
    client.assert_silent();

    gate.open();
    let response = client.response().expect(200);
    assert_eq!((response.text(), response.field("connection")), ("from the app", Some("close")));
    client.closed();
    let lines = gateway.access_log(1);
    assert_eq!(lines[0]["status"], 200);
    gateway.wait_for_exit();
}

#[test]
fn a_body_on_its_way_in_and_one_on_its_way_out_arrive_whole() {
    let big = vec![b'x'; 4 * 1024 * 1024];
    let origin = Origin::start({
        let big = big.clone();
        move |connection| {
            while let Some(request) = connection.read_request() {
                let body = if request.method == "GET" { big.clone() } else { request.body };
                connection.answer(200, body);
            }
        }
    });
    let gateway = Gateway::with(TO_ORIGIN).set("server", "").set("origin", origin.address()).start();
    let mut upload = gateway.connect();
    upload.send("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello");
    let mut download = gateway.connect();
    download.set_receive_buffer(64 * 1024);
    download.send_request("GET", "/down", &[], "");
    let head = download.response_head();
    assert_eq!((head.status, head.field("connection")), (200, None));

    gateway.signal(Signal::TERM);
    wait_until_closed(gateway.addr());
    upload.send("world");
    assert_eq!(upload.response().expect(200).text(), "helloworld");
    assert!(download.read_raw(big.len()) == big, "the whole body");
    // Its head promised nothing, but there is no next request.
    download.closed();
    gateway.wait_for_exit();
}

#[test]
fn the_timeout_cuts_what_does_not_end() {
    let origin = Origin::start(|connection| {
        connection.read_request();
        connection.hang();
    });
    let kept = tempfile::tempdir().unwrap();
    let gateway = Gateway::with(&TO_ORIGIN.replace("{dir}/access.log", "{kept}/access.log"))
        .set("server", "shutdown_timeout = \"300ms\"")
        .set("kept", &kept.path().display())
        .set("origin", origin.address())
        .start();
    let mut client = gateway.connect();
    client.send_request("GET", "/", &[], "");
    origin.wait_for_requests(1);
    gateway.signal(Signal::TERM);
    let cut = client.try_response();
    assert!(matches!(cut, Err(Broken::Closed | Broken::Reset)), "{cut:?}");
    let log = gateway.wait_for_exit().stderr;
    assert!(log.contains("shutdown_timeout is over, connections are cut cut=1"), "{log}");
    let line: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(kept.path().join("access.log")).unwrap()).unwrap();
    assert_eq!((&line["status"], &line["reason"], &line["method"]), (&json!(503), &json!("shutdown"), &json!("GET")));
}

#[test]
fn a_body_that_ends_with_the_connection_is_not_ended_by_a_cut() {
    let origin = Origin::start(|connection| {
        connection.read_request();
        connection.write("HTTP/1.0 200 OK\r\n\r\nhalf of ");
        connection.hang();
    });
    let gateway =
        Gateway::with(TO_ORIGIN).set("server", "shutdown_timeout = \"300ms\"").set("origin", origin.address()).start();
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert!(client.response_head().fields.has("connection"));
    assert_eq!(client.read_raw(8), b"half of ");
    gateway.signal(Signal::TERM);
    let cut = client.read_rest();
    assert!(matches!(cut, Err(Broken::Reset)), "{cut:?}");
    gateway.wait_for_exit();
}

#[test]
fn a_second_signal_cuts_at_once() {
    let origin = Origin::start(|connection| {
        connection.read_request();
        connection.hang();
    });
    for delay in ["0s", "1h"] {
        let gateway = Gateway::with(TO_ORIGIN)
            .set("server", &format!("shutdown_timeout = \"1h\"\nshutdown_delay = \"{delay}\""))
            .set("origin", origin.address())
            .start();
        let mut client = gateway.connect();
        client.send_request("GET", "/", &[], "");
        origin.wait_for_requests(1);
        gateway.signal(Signal::TERM);
        eventually("readiness fails", || (gateway.admin_get("/readyz").status == 503).then_some(()));
        client.assert_silent();
        gateway.signal(Signal::INT);
        let cut = client.try_response();
        assert!(matches!(cut, Err(Broken::Closed | Broken::Reset)), "{cut:?}");
        let log = gateway.wait_for_exit().stderr;
        assert!(log.contains("told to leave again"), "{log}");
    }
}

#[test]
fn three_signals_mean_the_same() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::QUIT, "SIGQUIT"), (Signal::INT, "SIGINT")] {
        let gateway = Gateway::with(ANSWERING).set("server", "").start();
        gateway.get("/").expect(200);
        gateway.signal(signal);
        let log = gateway.wait_for_exit().stderr;
        assert!(log.contains(&format!("signal={name}")), "{log}");
    }
}

#[test]
fn idle_connections_are_closed() {
    let gateway = Gateway::with(ANSWERING).set("server", "shutdown_timeout = \"1h\"").start();
    let mut idle: Vec<_> = (0..20).map(|_| gateway.connect()).collect();
    for client in &mut idle {
        client.get("/").expect(200);
    }
    gateway.signal(Signal::TERM);
    for client in &mut idle {
        client.closed();
    }
    gateway.wait_for_exit();
}

#[test]
fn whoever_had_connected_by_then_is_answered() {
    for _ in 0..rounds(5, 100) {
        let gateway = Gateway::with(ANSWERING).set("server", "max_connections = 5").start();
        // Idle, with a request that comes at the same moment as the signal.
        let mut kept = gateway.connect();
        kept.get("/").expect(200);
        // While the process stands still the kernel goes on making connections, some of them beyond the limit.
        gateway.signal(Signal::STOP);
        let mut waiting: Vec<_> = (0..20).map(|_| gateway.connect()).collect();
        kept.send_request("GET", "/", &[], "");
        for client in &mut waiting {
            client.send_request("GET", "/", &[], "");
        }
        gateway.signal(Signal::TERM);
        gateway.signal(Signal::CONT);
        for client in waiting.iter_mut().chain([&mut kept]) {
            assert_eq!(client.response().expect(200).text(), "here");
            client.closed();
        }
        gateway.wait_for_exit();
    }
}

#[test]
fn a_head_that_is_half_there_may_be_finished() {
    let gateway = Gateway::with(ANSWERING).set("server", "shutdown_timeout = \"1h\"").start();
    let mut begun = gateway.connect();
    begun.send("GET / HTTP/1.1\r\n");
    let mut silent = gateway.connect();
    eventually("both are let in", || {
        let open = gateway.metrics().value("propylon_connections", &[])?;
        (open >= 2.0).then_some(())
    });
    gateway.signal(Signal::TERM);
    wait_until_closed(gateway.addr());
    begun.send("Host: test\r\n\r\n");
    begun.response().expect(200);
    // One that says nothing is not waited for.
    silent.closed();
    gateway.wait_for_exit();
}

#[test]
fn signals_without_a_meaning_are_logged_and_the_process_lives() {
    let gateway = Gateway::with(ANSWERING).set("server", "").start();
    let unused = [
        (Signal::USR2, "SIGUSR2"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::STKFLT, "SIGSTKFLT"),
        (Signal::TTIN, "SIGTTIN"),
        (Signal::TTOU, "SIGTTOU"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::XFSZ, "SIGXFSZ"),
        (Signal::VTALARM, "SIGVTALRM"),
        (Signal::PROF, "SIGPROF"),
        (Signal::IO, "SIGIO"),
        (Signal::POWER, "SIGPWR"),
    ];
    for (signal, name) in unused {
        gateway.signal(signal);
        let line = gateway.wait_for_log(&format!("signal={name}"));
        assert!(line.contains("WARN"), "{line}");
    }
    for number in ["34", "35", "64"] {
        let sent = Command::new("sh").args(["-c", &format!("kill -{number} {}", gateway.pid())]).status().unwrap();
        assert!(sent.success());
    }
    gateway.wait_for_log("signal=SIGRTMIN+30");
    // A terminal that changes its size, a child that ends and a pipe that breaks are worth no line.
    for signal in [Signal::WINCH, Signal::CHILD, Signal::URG, Signal::PIPE] {
        gateway.signal(signal);
    }
    assert_eq!(gateway.get("/").expect(200).text(), "here");
    assert!(!gateway.log().iter().any(|line| line.contains("SIGWINCH")));
}

#[test]
fn files_of_the_process_appear_and_go() {
    let config = r#"
        [server]
        listen = ["unix:{dir}/client.sock"]
        pid_file = "{dir}/propylon.pid"
        {server}
        [admin]
        listen = ["unix:{dir}/admin.sock"]
        control = "unix:{dir}/control.sock"
        [[routes]]
        respond = { body = "here" }
        "#;
    for second_signal in [false, true] {
        let kept = tempfile::tempdir().unwrap();
        let config = config.replace("{dir}", kept.path().to_str().unwrap());
        let delay = if second_signal { "shutdown_delay = \"1h\"" } else { "" };
        let gateway = Gateway::with(&config).set("server", delay).start();
        let pid = std::fs::read_to_string(kept.path().join("propylon.pid")).unwrap();
        assert_eq!(pid, format!("{}\n", gateway.pid()));
        let mode = |name: &str| std::fs::metadata(kept.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("control.sock"), 0o600);
        assert_eq!(mode("client.sock"), 0o666);
        gateway.get("/").expect(200);

        gateway.signal(Signal::TERM);
        if second_signal {
            gateway.wait_for_log("shutting down");
            gateway.signal(Signal::TERM);
        }
        gateway.wait_for_exit();
        let left: Vec<_> = std::fs::read_dir(kept.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

#[test]
fn a_socket_file_that_a_killed_process_left_is_no_obstacle() {
    let kept = tempfile::tempdir().unwrap();
    let config = r#"
        [server]
        listen = ["unix:{kept}/client.sock"]
        pid_file = "{kept}/propylon.pid"
        [admin]
        listen = ["127.0.0.1:0"]
        control = "unix:{kept}/control.sock"
        [[routes]]
        respond = { body = "here" }
        "#
    .replace("{kept}", kept.path().to_str().unwrap());
    Gateway::start(&config).kill();
    assert!(kept.path().join("client.sock").exists());
    let gateway = Gateway::start(&config);
    gateway.get("/").expect(200);
    assert_eq!(gateway.reload().code, 0);

    // One that lives is not pushed aside.
    let refused = Gateway::expect_refused(&config);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("in use by another process"), "{}", refused.stderr);
    gateway.get("/").expect(200);
    let pid = std::fs::read_to_string(kept.path().join("propylon.pid")).unwrap();
    assert_eq!(pid, format!("{}\n", gateway.pid()));
}

#[test]
fn a_signal_during_the_start_waits_for_its_end() {
    let dns = DnsServer::start();
    dns.silence("app.test");
    let kept = tempfile::tempdir().unwrap();
    let pid_file = kept.path().join("propylon.pid");
    let config = r#"
        [server]
        listen = ["127.0.0.1:0"]
        resolvers = ["{dns}"]
        pid_file = "{pid_file}"
        [admin]
        listen = ["127.0.0.1:0"]
        [upstreams.app]
        endpoints = ["app.test:8000"]
        [[routes]]
        path = "/app/*"
        upstream = "app"
        [[routes]]
        respond = { body = "here" }
        "#;
    let builder = || {
        let _ = std::fs::remove_file(&pid_file);
        let builder = Gateway::with(config).set("dns", &dns.address()).set("pid_file", &pid_file.display());
        let gateway = builder.launch();
        // It is written before names are asked for, and nobody answers.
        eventually("the start is under way", || pid_file.exists().then_some(()));
        gateway
    };
    let mut gateway = builder();
    gateway.signal(Signal::HUP);
    gateway.signal(Signal::USR1);
    gateway.wait_until_ready();
    assert_eq!(gateway.get("/").expect(200).text(), "here");
    gateway.wait_for_log("configuration reloaded");
    gateway.stop();

    let gateway = builder();
    gateway.signal(Signal::TERM);
    let log = gateway.wait_for_exit().stderr;
    assert!(log.contains("shutting down"), "{log}");
}

#[test]
fn a_reload_that_does_not_get_on_keeps_nobody() {
    let gateway = Gateway::with(ANSWERING).set("server", "").stop_bound(Duration::from_secs(5)).start();
    // Nobody ever writes to it: reading the configuration hangs, as from a directory that does not answer.
    let config = gateway.dir().join("gateway.toml");
    std::fs::remove_file(&config).unwrap();
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    gateway.signal(Signal::HUP);
    // Without a reader it cannot be opened.
    let _silent = eventually("it is being read", || {
        rustix::fs::open(&config, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok()
    });
    assert_eq!(gateway.get("/").expect(200).text(), "here");
    gateway.signal(Signal::TERM);
    let log = gateway.wait_for_exit().stderr;
    assert!(log.contains("shutting down, nothing is reloaded"), "{log}");
}

#[test]
fn every_line_of_the_access_log_is_written_before_the_end() {
    let gateway = Gateway::with(&ANSWERING.replace("{dir}/access.log", "{kept}/access.log"));
    let kept = tempfile::tempdir().unwrap();
    let gateway = gateway.set("server", "").set("kept", &kept.path().display()).start();
    let mut client = gateway.connect();
    let count = rounds(300, 20_000);
    for _ in 0..count {
        client.get("/").expect(200);
    }
    gateway.stop();
    let log = std::fs::read_to_string(kept.path().join("access.log")).unwrap();
    assert_eq!(log.lines().count(), count);
    assert!(log.ends_with("}\n"));
}

#[test]
fn leaving_takes_no_longer_than_it_must() {
    let gateway =
        Gateway::with(ANSWERING).set("server", "shutdown_timeout = \"1h\"").stop_bound(Duration::from_secs(5)).start();
    // Idle connections, a head that never comes, a client that does not read its answer's end.
    let mut idle = gateway.connect();
    idle.get("/").expect(200);
    let lingering = gateway.connect();
    let mut refused = gateway.connect();
    refused.send("NONSENSE\r\n\r\n");
    refused.response().expect(400);
    gateway.signal(Signal::TERM);
    gateway.wait_for_exit();
    drop((idle, lingering, refused));
}
