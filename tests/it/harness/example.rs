//! An example of `examples/`, started as its README says: `start.sh` for the apps, its own `gateway.toml` for the gateway,
//! and environment variables that move both to sockets and ports of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::client::Client;
use super::eventually::eventually_within;
use super::gateway::{Gateway, GatewayBuilder};
use super::process::Process;
use super::socket::{Address, Listener};

/// From the start of the script to an answer of every app process.
const START: Duration = Duration::from_mins(1);

/// The running apps of one example; dropping it ends them.
pub struct Example {
    name: String,
    apps: Process,
    env: Vec<(&'static str, String)>,
    dir: TempDir,
}

impl Example {
    /// Starts `examples/<name>/start.sh`, and waits until each of its processes answers on its own address.
    #[track_caller]
    pub fn start(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = free_addresses(4);
        let port = |index: usize| ports[index].port().to_string();
        let socket = Address::Unix(dir.path().join("flask.sock"));
        let (env, endpoints) = match name {
            "flask" => {
                let path = dir.path().join("flask.sock").display().to_string();
                (vec![("FLASK_SOCKET", path)], vec![socket])
            }
            "django" => (vec![("DJANGO_BIND", ports[0].to_string())], ports[..1].to_vec()),
            "fastapi" => (
                vec![("FASTAPI_PORT_1", port(0)), ("FASTAPI_PORT_2", port(1)), ("FASTAPI_PORT_3", port(2))],
                ports[..3].to_vec(),
            ),
            other => panic!("no example {other}"),
        };
        let mut command = Command::new(example_dir(name).join("start.sh"));
        command.stdin(Stdio::null()).envs(env.iter().cloned());
        let mut example = Self { name: name.to_owned(), apps: Process::spawn(command, true), env, dir };
        for endpoint in endpoints {
            example.wait_until_it_answers(&endpoint);
        }
        example
    }

    /// The gateway with the example's configuration, listening on free ports.
    pub fn gateway(&self) -> GatewayBuilder {
        self.behind(&configuration(&self.name))
    }

    /// The gateway with a configuration that knows the same variables, listening on free ports.
    pub fn behind(&self, toml: &str) -> GatewayBuilder {
        let ports = [("LISTEN", "127.0.0.1:0"), ("ADMIN", "127.0.0.1:0")];
        let gateway = ports.iter().fold(Gateway::with(toml), |gateway, (name, value)| gateway.env(name, *value));
        self.env.iter().fold(gateway, |gateway, (name, value)| gateway.env(name, value.as_str()))
    }

    #[track_caller]
    fn wait_until_it_answers(&mut self, endpoint: &Address) {
        let log = self.apps.stderr.clone();
        eventually_within(START, "the example's apps answer", || {
            let ended = self.apps.try_wait();
            assert!(ended.is_none(), "start.sh ended: {}", log.tail(30));
            let mut client = Client::try_connect(endpoint).ok()?;
            let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
            client.try_send(request).ok()?;
            client.try_response().ok()
        });
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let tail = self.apps.stderr.tail(40);
            eprintln!("--- the log of the {} example\n{tail}\n---", self.name);
        }
    }
}

/// The `gateway.toml` of an example.
pub fn configuration(name: &str) -> String {
    fs::read_to_string(example_dir(name).join("gateway.toml")).unwrap()
}

fn example_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Addresses that are free now. Another process could take one before the app does: the examples' scripts take ports, not
/// sockets handed over. It would fail loudly.
pub fn free_addresses(count: usize) -> Vec<Address> {
    let any = Address::any_port();
    let held: Vec<Listener> = (0..count).map(|_| Listener::bind(&any).unwrap()).collect();
    held.iter().map(|listener| listener.address(&any)).collect()
}
