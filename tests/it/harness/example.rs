//! An example of `examples/`, started as its README says: `start.sh` for the apps, its own `gateway.toml` for the gateway,
//! and environment variables that move both to sockets and ports of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
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
        Self::start_with(name, &[])
    }

    /// [`Example::start`] with further variables, for the script and for the gateway.
    #[track_caller]
    pub fn start_with(name: &str, variables: &[(&'static str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut env, endpoints) = places(name, dir.path());
        env.extend(variables.iter().map(|(variable, value)| (*variable, (*value).to_owned())));
        let mut command = Command::new(example_dir(name).join("start.sh"));
        command.stdin(Stdio::null()).envs(env.iter().cloned());
        let mut example = Self { name: name.to_owned(), apps: Process::spawn(command, true), env, dir };
        for endpoint in endpoints {
            example.wait_until_it_answers(&endpoint);
        }
        example
    }

    /// What the apps wrote to standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.apps.stderr.all()
    }

    /// Kills one of the servers that `start.sh` has started, the first being 0, with all its workers.
    #[track_caller]
    pub fn kill_server(&self, number: usize) {
        let parents = parents();
        let servers = children(&parents, self.apps.pid());
        let mut doomed = vec![servers[number]];
        let mut next = 0;
        while next < doomed.len() {
            doomed.extend(children(&parents, doomed[next]));
            next += 1;
        }
        // The parent first: it would start others in place of its workers.
        for pid in doomed {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            // A worker may be faster.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// The gateway with the example's configuration, listening on free ports.
    pub fn gateway(&self) -> GatewayBuilder {
        self.behind(&configuration(&self.name))
    }

    /// The gateway with a configuration that knows the same variables, listening on free ports.
    pub fn behind(&self, toml: &str) -> GatewayBuilder {
        let ports = [("LISTEN", "127.0.0.1:0"), ("LISTEN_TLS", "127.0.0.2:0"), ("ADMIN", "127.0.0.1:0")];
        let run_dir = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        let gateway = Gateway::with(toml).env("RUN_DIR", &run_dir.display());
        let gateway = ports.iter().fold(gateway, |gateway, (name, value)| gateway.env(name, *value));
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

/// Where an example's apps listen: the variables that say so, and the addresses.
fn places(name: &str, dir: &Path) -> (Vec<(&'static str, String)>, Vec<Address>) {
    let on_ports = |names: &[&'static str]| {
        let addresses = free_addresses(names.len());
        let ports = addresses.iter().map(|address| address.port().to_string());
        (names.iter().copied().zip(ports).collect(), addresses)
    };
    match name {
        "flask" => {
            let path = dir.join("flask.sock");
            (vec![("FLASK_SOCKET", path.display().to_string())], vec![Address::Unix(path)])
        }
        "django" => {
            let addresses = free_addresses(1);
            (vec![("DJANGO_BIND", addresses[0].to_string())], addresses)
        }
        "fastapi" => on_ports(&["FASTAPI_PORT_1", "FASTAPI_PORT_2", "FASTAPI_PORT_3"]),
        "predictions" => on_ports(&["API_PORT", "SITE_PORT"]),
        "screener" => on_ports(&["SCREENER_PORT_1", "SCREENER_PORT_2", "SCREENER_PORT_3"]),
        "products" => on_ports(&["PRODUCTS_PORT_1", "PRODUCTS_PORT_2", "PRODUCTS_PORT_3"]),
        "directory" => on_ports(&["DIRECTORY_PORT"]),
        "courses" => on_ports(&["COURSES_PORT_1", "COURSES_PORT_2"]),
        other => panic!("no example {other}"),
    }
}

/// Each process that runs and its parent, the oldest first.
fn parents() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let pids = entries.filter_map(|name| name.parse().ok());
    // "pid (name) state parent …"; it may have ended meanwhile.
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        Some((pid, rest.split(' ').nth(1)?.parse().ok()?))
    };
    let mut parents: Vec<_> = pids.filter_map(parent).collect();
    parents.sort_unstable();
    parents
}

fn children(parents: &[(u32, u32)], of: u32) -> Vec<u32> {
    parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid).collect()
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
