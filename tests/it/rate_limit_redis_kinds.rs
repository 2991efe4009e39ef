//! Every way a Redis is set up: a port, a password, TLS, Sentinels, a cluster; and one that is no Redis.

use std::time::Duration;

use crate::harness::tls::Authority;
use crate::harness::{Connection, Gateway, Origin, RedisServer, Signal, eventually, eventually_within};
use crate::rate_limit_redis::{GATEWAY, PATIENT, gateway, wait_until};

/// Two gateways on one Redis share a bucket of three.
fn share(url: &str) {
    share_over(|| gateway(url, LIMIT, PATIENT).start());
}

const LIMIT: &str = r#"{ rate = "3/h" }"#;

fn share_over(start: impl Fn() -> Gateway) {
    let (a, b) = (start(), start());
    let statuses = [&a, &b, &a, &b, &a].map(|gateway| gateway.get("/").status);
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    wait_until(&a, true);
}

/// Masters' buckets in this Redis.
fn buckets(redis: &RedisServer) -> usize {
    redis.keys().iter().filter(|key| key.starts_with("propylon:limit:")).count()
}

#[test]
fn by_port_and_database() {
    let redis = RedisServer::tcp(&[]);
    share(&format!("redis://{}/3", redis.addr()));
    assert_eq!(buckets(&redis), 0);
    let mut connection = redis.connect();
    redis::cmd("SELECT").arg(3).exec(&mut connection).unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("propylon:limit:*").query(&mut connection).unwrap();
    assert_eq!(keys.len(), 1);
}

#[test]
fn with_a_user_who_may_do_what_the_guide_says_and_no_more() {
    let redis = RedisServer::start();
    redis.ask::<()>("ACL SETUSER gateway on >p@ss:word ~propylon:* resetchannels +eval +evalsha +get +set +del +time");
    redis.ask::<()>("ACL SETUSER default resetkeys -@all +auth +info +keys +acl +ping +client");
    share(&redis.url().replace("unix://", "unix://gateway:p%40ss%3Aword@"));
    // A wrong password is no Redis at all.
    let url = redis.url().replace("unix://", "unix://gateway:wrong@");
    let gateway = gateway(&url, LIMIT, PATIENT).start();
    assert_eq!(gateway.get("/").status, 200);
    let line = gateway.wait_for_log("redis is not asked until it answers");
    assert!(!line.contains("wrong") && line.contains("uthentication"), "{line}");
}

#[test]
fn a_password_that_is_changed_meanwhile_is_told_of() {
    let redis = RedisServer::start();
    let toml = GATEWAY.replace("[redis]", "[redis]\npassword = 'file:{dir}/secret'");
    redis.ask::<()>("CONFIG SET requirepass a/b%41");
    let gateway = Gateway::with(&toml).set("redis", &redis.url()).set("limit", LIMIT).set("timeout", PATIENT);
    let gateway = gateway.file("secret", "a/b%41").start();
    gateway.get("/").expect(200);
    wait_until(&gateway, true);
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    redis::cmd("AUTH").arg("a/b%41").exec(&mut connection).unwrap();
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("other").exec(&mut connection).unwrap();
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").exec(&mut connection).unwrap();
    let line = gateway.wait_for_log("redis refuses what it is asked");
    assert!(line.contains("uthentication") && !line.contains("a/b"), "{line}");
    let status = gateway.admin_get("/status").json();
    assert_eq!(status["redis"]["up"], false);
    assert!(status["redis"]["error"].as_str().unwrap().contains("uthentication"), "{status}");
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("a/b%41").exec(&mut connection).unwrap();
    wait_until(&gateway, true);
}

#[test]
fn over_tls_with_an_authority_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let issued = Authority::shared().issue(&["localhost", "127.0.0.1"]);
    let redis = RedisServer::tls_with(|address| {
        let own = Authority::shared().issue(&[&address.ip().to_string()]);
        let files = own.write(dir.path(), "redis");
        let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
        format!("--tls-cert-file {cert} --tls-key-file {key} --tls-ca-cert-file {cert} --tls-auth-clients no")
    });
    let toml = GATEWAY.replace("[redis]", "[redis]\nca = '{dir}/ca.pem'");
    let start = || {
        let url = format!("rediss://{}", redis.addr());
        let gateway = Gateway::with(&toml).set("redis", &url).set("limit", LIMIT).set("timeout", PATIENT);
        gateway.file("ca.pem", Authority::shared().pem()).start()
    };
    share_over(start);
    assert_eq!(buckets(&redis), 1);
    // Whom nobody vouches for is not asked.
    let url = format!("rediss://{}", redis.addr());
    let stranger = Gateway::with(&toml).set("redis", &url).set("limit", LIMIT).set("timeout", PATIENT);
    let stranger = stranger.file("ca.pem", &issued.cert).start();
    stranger.wait_for_log("redis is not asked until it answers");
    assert_eq!(stranger.get("/").status, 200);
    // A file that holds no certificate is found at the start.
    let broken = Gateway::with(&toml).set("redis", &url).set("limit", LIMIT).set("timeout", PATIENT);
    let refused = broken.file("ca.pem", "nothing").expect_refused();
    assert!(refused.stderr.contains("redis.ca: "), "{}", refused.stderr);
}

#[test]
fn sentinels_name_the_master_and_the_next_one() {
    let mut master = RedisServer::tcp(&["--repl-diskless-sync-delay", "0"]);
    let (ip, port) = (master.addr().ip().to_string(), master.addr().port().to_string());
    let replica = RedisServer::tcp(&["--replicaof", &format!("{ip} {port}")]);
    eventually_within(Duration::from_secs(30), "the replica follows", || {
        replica.ask::<String>("INFO replication").contains("master_link_status:up").then_some(())
    });
    let sentinels: Vec<RedisServer> = (0..3).map(|_| RedisServer::tcp(&["--sentinel"])).collect();
    for sentinel in &sentinels {
        sentinel.ask::<()>(&format!("SENTINEL MONITOR mymaster {ip} {port} 2"));
        sentinel.ask::<()>("SENTINEL SET mymaster down-after-milliseconds 500 failover-timeout 2000");
    }
    eventually_within(Duration::from_secs(30), "the sentinels know each other and the replica", || {
        let knows = |sentinel: &RedisServer| {
            let text: String = sentinel.ask("INFO sentinel");
            text.contains("slaves=1,sentinels=3")
        };
        sentinels.iter().all(knows).then_some(())
    });
    let nodes: Vec<String> = sentinels.iter().map(|sentinel| sentinel.addr().to_string()).collect();
    let url = format!("redis+sentinel://{}/mymaster", nodes.join(","));
    share(&url);
    assert_eq!(buckets(&master), 1);

    let gateway = gateway(&url, r#"{ name = "other", rate = "3/h" }"#, PATIENT).start();
    gateway.get("/").expect(200);
    master.stop();
    wait_until(&gateway, false);
    eventually_within(Duration::from_secs(30), "the replica is the master", || {
        let told = replica.try_ask::<String>("INFO replication").ok()?;
        told.contains("role:master").then_some(())
    });
    eventually_within(Duration::from_secs(30), "the gateway has found it", || {
        (gateway.metrics().value("propylon_redis_up", &[]) == Some(1.0)).then_some(())
    });
    let statuses: Vec<u16> = (0..3).map(|_| gateway.get("/").status).collect();
    assert_eq!(statuses, [200, 200, 429], "what was taken before was replicated");
    master.start_again();
}

/// Three masters, each with a third of the slots, and a user who has these rights and what a cluster needs.
pub fn cluster(rights: &str) -> Vec<RedisServer> {
    let user = format!("gateway on >secret ~propylon:* {rights} +cluster|slots");
    let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
    let nodes: Vec<RedisServer> = (0..3).map(|_| RedisServer::tcp(&options)).collect();
    let slots = ["0 5460", "5461 10922", "10923 16383"];
    for (node, slots) in nodes.iter().zip(slots) {
        node.ask::<()>(&format!("CLUSTER ADDSLOTSRANGE {slots}"));
        node.ask::<()>(&format!("ACL SETUSER {user}"));
    }
    for node in &nodes[1..] {
        nodes[0].ask::<()>(&format!("CLUSTER MEET {} {}", node.addr().ip(), node.addr().port()));
    }
    eventually_within(Duration::from_secs(30), "the cluster is one", || {
        let is_whole = |node: &RedisServer| {
            let info: String = node.ask("CLUSTER INFO");
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        nodes.iter().all(is_whole).then_some(())
    });
    nodes
}

#[test]
fn a_cluster_holds_each_bucket_on_a_node_of_its_own() {
    let nodes = cluster("+eval +evalsha +get +set +del +time");
    let url = format!("redis+cluster://gateway:secret@{},{}", nodes[0].addr(), nodes[1].addr());
    share(&url);
    let limits = r#"[{ rate = "5/h" }, { name = "all", rate = "60/h", key = "route" }]"#;
    let gateway = gateway(&url, limits, PATIENT).start();
    let ask = |client: usize| {
        let address = format!("192.0.2.{client}");
        gateway.connect().request("GET", "/", &[("X-Forwarded-For", &address)], "")
    };
    for client in 0..12 {
        let statuses: Vec<u16> = (0..5).map(|_| ask(client).status).collect();
        assert_eq!(statuses, [200; 5], "client {client}");
    }
    assert!(nodes.iter().all(|node| buckets(node) >= 1), "{:?}", nodes.iter().map(buckets).collect::<Vec<_>>());
    // Sixty are taken; whoever asks now is refused by the one limit, and gets back what the other gave.
    let empty = || nodes.iter().map(buckets).sum::<usize>();
    let before = empty();
    for _ in 0..7 {
        let refused = ask(20).expect(429);
        assert_eq!(refused.json()["violated-policies"], serde_json::json!(["all"]));
    }
    eventually("the tokens are back", || (empty() == before).then_some(()));

    // Without one node the others are asked on, and nobody fails.
    nodes[2].signal(Signal::STOP);
    for client in 30..60 {
        assert!([200, 429].contains(&ask(client).status));
    }
    nodes[2].signal(Signal::CONT);
}

/// Answers every command with the same, login and all.
fn answering(text: &'static str) -> Origin {
    Origin::start(move |connection: &mut Connection| {
        while connection.read_raw(1).is_some() {
            if !connection.write(text) {
                return;
            }
        }
    })
}

#[test]
fn what_is_no_redis_is_not_believed() {
    for nonsense in [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "+OK\r\n",
        ":-1\r\n",
        "$3\r\nabc\r\n",
        "*3\r\n:0\r\n:999999999\r\n:0\r\n",
        "*1000000000\r\n",
        "$-5\r\n",
        "\r\n\r\n",
        "\u{0}\u{1}\u{2}",
    ] {
        let server = answering(nonsense);
        let url = format!("redis://{}", server.address());
        let gateway = gateway(&url, LIMIT, "100ms").start();
        let statuses: Vec<u16> = (0..5).map(|_| gateway.get("/").status).collect();
        // The gateway may count on it for a moment, and must get over it.
        assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{nonsense:?}: {statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 3, "{nonsense:?}: {statuses:?}");
    }
}

/// The next command of a client, its words.
fn command(connection: &mut Connection) -> Option<Vec<String>> {
    let mut line = || {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(connection.read_raw(1)?);
        }
        Some(String::from_utf8(line).unwrap().trim().to_owned())
    };
    let words: usize = line()?.strip_prefix('*')?.parse().ok()?;
    // Those of ours hold no line break, but for a script.
    let mut word = || {
        let length: usize = line()?.strip_prefix('$')?.parse().ok()?;
        let mut word = String::new();
        while word.len() < length {
            word.push_str(&line()?);
            word.push_str("\r\n");
        }
        Some(word.trim_end().to_owned())
    };
    (0..words).map(|_| word()).collect()
}

#[test]
fn what_lies_after_it_has_proved_itself_is_not_believed_either() {
    for lie in [":0\r\n", "*0\r\n", "*3\r\n:0\r\n:4\r\n:0\r\n", "*3\r\n:-5\r\n:0\r\n:0\r\n", "+OK\r\n", "$-1\r\n", "x"]
    {
        let server = Origin::start(move |connection| {
            while let Some(words) = command(connection) {
                let is_limit = words.iter().any(|word| word.starts_with("propylon:limit:"));
                if !connection.write(if is_limit { lie } else { "+OK\r\n" }) {
                    return;
                }
            }
        });
        let gateway = gateway(&format!("redis://{}", server.address()), LIMIT, "2s").start();
        let statuses: Vec<u16> = (0..5).map(|_| gateway.get("/").status).collect();
        assert_eq!(statuses, [200, 200, 200, 429, 429], "{lie:?}");
        let nonsense = [("limit", "here"), ("kind", "nonsense")];
        assert!(gateway.metrics().value("propylon_rate_limit_redis_errors_total", &nonsense) >= Some(1.0), "{lie:?}");
    }
}

#[test]
fn a_redis_that_is_no_longer_named_is_left() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let gateway = gateway(&first.url(), LIMIT, PATIENT).start();
    gateway.get("/").expect(200);
    // Somebody still has a request of the old configuration under way.
    let mut slow = gateway.connect();
    slow.send("GET / HTTP/1.1\r\n");
    gateway.rewrite_config(
        &GATEWAY.replace("{redis}", &second.url()).replace("{limit}", LIMIT).replace("{timeout}", PATIENT),
    );
    let told = gateway.reload();
    assert!(told.stdout.contains("redis changed"), "{}", told.stdout);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(buckets(&second), 1);
    let clients = || first.ask::<String>("CLIENT LIST").lines().count();
    eventually("the first has no client but the test", || (clients() == 1).then_some(()));
    gateway.reload();
    assert_eq!(
        gateway.metrics().value("propylon_redis_state_changes_total", &[("state", "up")]),
        Some(1.0),
        "it stays"
    );
    slow.send("Host: a\r\n\r\n");
    assert!([200, 429].contains(&slow.response().status));
}
