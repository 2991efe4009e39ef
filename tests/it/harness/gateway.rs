//! The program under test: the real binary with a configuration, watched while it runs and judged when it ends.
//!
//! At its end every gateway is sent SIGTERM and must exit with 0 in time, without the text of a panic and without a log
//! line of level ERROR that the test did not allow.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::client::Client;
use super::eventually::{DEADLINE, eventually, eventually_within};
use super::message::Response;
use super::metrics::Metrics;
use super::process::Process;
use super::socket::Address;
use super::tls::{Issued, TlsClient};
use rustix::process::Signal;

const BINARY: &str = env!("CARGO_BIN_EXE_propylon");
/// From the start of the process to its line `ready`.
const START: Duration = Duration::from_secs(20);

/// How a run of the binary that ends by itself ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// -1 where a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// What a gateway is started with, beside its TOML.
pub struct GatewayBuilder {
    toml: String,
    /// Instead of the TOML.
    flags: Option<Vec<String>>,
    values: Vec<(String, String)>,
    files: Vec<(String, String)>,
    env: Vec<(String, String)>,
    allowed_errors: Vec<String>,
    stop_bound: Duration,
}

impl GatewayBuilder {
    /// Puts `value` for every `{name}` in the TOML. `{dir}` is always there: a directory of this gateway's own.
    #[must_use]
    pub fn set(mut self, name: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.values.push((name.to_owned(), value.to_string()));
        self
    }

    /// A file in the gateway's own directory.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// `{name}.pem` and `{name}.key` in the gateway's own directory.
    #[must_use]
    pub fn certificate(self, name: &str, issued: &Issued) -> Self {
        self.file(&format!("{name}.pem"), &issued.cert).file(&format!("{name}.key"), &issued.key)
    }

    /// An environment variable of the process.
    #[must_use]
    pub fn env(mut self, name: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Lets log lines of level ERROR pass that hold `text`.
    #[must_use]
    pub fn allow_error(mut self, text: &str) -> Self {
        self.allowed_errors.push(text.to_owned());
        self
    }

    /// How long it may take to stop; 10 s without this.
    #[must_use]
    pub fn stop_bound(mut self, bound: Duration) -> Self {
        self.stop_bound = bound;
        self
    }

    /// Starts the gateway and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Gateway {
        let mut gateway = self.launch();
        gateway.wait_until_ready();
        gateway
    }

    /// Runs the gateway to its end, which must be its own doing: for configurations it refuses.
    #[track_caller]
    pub fn expect_refused(self) -> Finished {
        let mut gateway = self.launch();
        gateway.judged = true;
        gateway.finish(DEADLINE)
    }

    /// Starts the gateway and waits for nothing: see [`Gateway::wait_until_ready`].
    pub fn launch(mut self) -> Gateway {
        let dir = tempfile::tempdir().unwrap();
        self.set_dir(dir.path());
        let config = dir.path().join("gateway.toml");
        fs::write(&config, self.filled(&self.toml)).unwrap();
        for (name, text) in &self.files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let mut command = Command::new(BINARY);
        match &self.flags {
            Some(flags) => command.arg("run").args(flags.iter().map(|flag| self.filled(flag))),
            None => command.args(["run", "--config"]).arg(&config),
        };
        command.current_dir(dir.path()).stdin(Stdio::null());
        command.envs(self.env.iter().cloned());
        Gateway {
            process: Process::spawn(command, false),
            config,
            listeners: Vec::new(),
            tls: Vec::new(),
            admin: Vec::new(),
            judged: false,
            dir,
            start: self,
        }
    }

    fn set_dir(&mut self, dir: &Path) {
        self.values.push(("dir".to_owned(), dir.display().to_string()));
    }

    fn filled(&self, toml: &str) -> String {
        self.values.iter().fold(toml.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    }
}

/// A running gateway.
pub struct Gateway {
    process: Process,
    config: PathBuf,
    listeners: Vec<Address>,
    /// Those of them that speak TLS.
    tls: Vec<Address>,
    admin: Vec<Address>,
    /// Its end was looked at already.
    judged: bool,
    start: GatewayBuilder,
    /// Last, so that the process is gone when its directory goes.
    dir: TempDir,
}

impl Gateway {
    /// Starts the binary with this TOML (`{dir}` stands for its own directory) and waits until it is ready. Listen on
    /// port 0, here and in `[admin]`.
    #[track_caller]
    pub fn start(toml: &str) -> Self {
        Self::with(toml).start()
    }

    /// A gateway that is not started yet, for placeholders, environment variables and allowed errors.
    pub fn with(toml: &str) -> GatewayBuilder {
        GatewayBuilder {
            toml: toml.to_owned(),
            flags: None,
            values: Vec::new(),
            files: Vec::new(),
            env: Vec::new(),
            allowed_errors: Vec::new(),
            stop_bound: DEADLINE,
        }
    }

    /// `propylon run` with these flags and no configuration, placeholders filled in them too.
    pub fn with_flags(flags: &[&str]) -> GatewayBuilder {
        GatewayBuilder { flags: Some(flags.iter().map(|flag| (*flag).to_owned()).collect()), ..Self::with("") }
    }

    /// Runs the binary with a configuration that it must refuse.
    #[track_caller]
    pub fn expect_refused(toml: &str) -> Finished {
        Self::with(toml).expect_refused()
    }

    /// Waits for the line `ready`, and learns the addresses named before it.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        eventually_within(START, "the gateway is ready", || {
            let lines = self.process.stderr.all();
            if lines.iter().any(|line| line == "ready") {
                return Some(());
            }
            let ended = self.process.try_wait();
            assert!(ended.is_none(), "the gateway ended instead of getting ready");
            None
        });
        let lines = self.process.stderr.all();
        let after = |prefix: &str| -> Vec<Address> {
            let addresses = lines.iter().filter_map(|line| line.strip_prefix(prefix));
            addresses.map(Address::parse).collect()
        };
        self.listeners = after("listening on ");
        self.tls = after("listening on https://");
        self.admin = after("admin on ");
    }

    /// The first listener.
    #[track_caller]
    pub fn addr(&self) -> &Address {
        self.listeners.first().expect("the gateway has no listener")
    }

    /// Every listener, in the order in which the gateway named them.
    pub fn addrs(&self) -> &[Address] {
        &self.listeners
    }

    /// The first listener that speaks TLS.
    #[track_caller]
    pub fn tls_addr(&self) -> &Address {
        self.tls.first().expect("the gateway has no listener with TLS")
    }

    /// The first admin listener.
    #[track_caller]
    pub fn admin(&self) -> &Address {
        self.admin.first().expect("the gateway has no admin listener")
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The gateway's own directory: `{dir}` in its TOML.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// A new connection to the first listener.
    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.addr())
    }

    /// A new connection to the first listener that speaks TLS.
    #[track_caller]
    pub fn connect_tls(&self, tls: &TlsClient) -> Client {
        Client::connect_tls(self.tls_addr(), tls)
    }

    /// GET on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.connect().get(target)
    }

    /// GET on the admin listener, on a connection of its own.
    #[track_caller]
    pub fn admin_get(&self, target: &str) -> Response {
        Client::connect(self.admin()).get(target)
    }

    /// A scrape of /metrics.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(self.admin_get("/metrics").expect(200).text())
    }

    /// Waits until at least `count` lines are in the access log, and gives them all. It reads `{dir}/access.log`, or
    /// standard output where there is no such file. They come in the order in which their requests began, not the one in
    /// which they were written: who has its answer may ask again before the line about it is there.
    #[track_caller]
    pub fn access_log(&self, count: usize) -> Vec<Value> {
        let mut lines = eventually(&format!("{count} access log lines"), || {
            Some(self.access_log_now()).filter(|lines| lines.len() >= count)
        });
        lines.sort_by(|one, other| one["time"].as_str().cmp(&other["time"].as_str()));
        lines
    }

    /// The access log as it is, in the order in which it was written. A line that is still being written is left out.
    #[track_caller]
    pub fn access_log_now(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir().join("access.log"))
            .unwrap_or_else(|_| self.process.stdout.all().join("\n") + "\n");
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        whole.lines().filter(|l| !l.is_empty()).map(parse).collect()
    }

    /// Waits until a metric stands at `expected`: a request is counted a moment after its client has the answer, and is in flight until
    /// after it was logged.
    #[track_caller]
    pub fn counts(&self, family: &str, labels: &[(&str, &str)], expected: f64) {
        eventually(&format!("{expected} of {family} {labels:?}"), || {
            (self.metrics().value(family, labels) == Some(expected)).then_some(())
        });
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.process.stderr.all()
    }

    /// Waits until a line of standard error holds `text`, and gives the first that does.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) -> String {
        eventually(&format!("a log line with {text:?}"), || self.log().into_iter().find(|line| line.contains(text)))
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Writes another configuration, placeholders filled as before; [`Gateway::reload`] makes it count.
    pub fn rewrite_config(&self, toml: &str) {
        // In one step, as a careful operator does it: the gateway never sees half a file.
        let mut file = tempfile::NamedTempFile::new_in(self.dir()).unwrap();
        file.write_all(self.start.filled(toml).as_bytes()).unwrap();
        file.persist(&self.config).unwrap();
    }

    /// `propylon reload`, which must succeed. The TOML needs `[admin] control = "unix:{dir}/control.sock"`.
    #[track_caller]
    pub fn reload(&self) -> Finished {
        let finished = self.try_reload();
        assert_eq!(finished.code, 0, "propylon reload failed: {}", finished.stderr);
        finished
    }

    /// `propylon reload`, however it ends.
    #[track_caller]
    pub fn try_reload(&self) -> Finished {
        self.command(&["reload", "--config", self.config.to_str().unwrap()])
    }

    /// Runs another command of the binary in the gateway's directory.
    #[track_caller]
    pub fn command(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(BINARY);
        command.args(arguments).current_dir(self.dir());
        command.envs(self.start.env.iter().cloned());
        finish(&mut Process::spawn(command, false), DEADLINE)
    }

    /// Waits until it ends by itself (after a signal, say), and judges it as [`Gateway::stop`] does.
    #[track_caller]
    pub fn wait_for_exit(mut self) -> Finished {
        self.judge()
    }

    /// Sends SIGTERM, and asserts a clean end: exit code 0 in time, no panic, no unexpected error. Dropping does the same.
    #[track_caller]
    pub fn stop(mut self) -> Finished {
        self.signal(Signal::TERM);
        self.judge()
    }

    /// Ends it without asking and without judging.
    pub fn kill(mut self) {
        self.judged = true;
        self.process.kill();
    }

    fn finish(&mut self, bound: Duration) -> Finished {
        finish(&mut self.process, bound)
    }

    fn judge(&mut self) -> Finished {
        self.judged = true;
        let finished = self.finish(self.start.stop_bound);
        let faults = faults(&finished, &self.start.allowed_errors);
        assert!(faults.is_empty(), "the gateway did not end well: {faults:#?}\n{}", finished.stderr);
        finished
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if thread::panicking() {
            let tail = self.process.stderr.tail(40);
            eprintln!("--- the gateway's log ends with\n{tail}\n---");
            self.process.kill();
        } else if !self.judged {
            self.signal(Signal::TERM);
            self.judge();
        }
    }
}

#[track_caller]
fn finish(process: &mut Process, bound: Duration) -> Finished {
    let status = process.wait(bound);
    Finished {
        code: status.code().unwrap_or(-1),
        stdout: process.stdout.all().join("\n"),
        stderr: process.stderr.all().join("\n"),
    }
}

/// What is wrong with the way a gateway ran and ended.
fn faults(finished: &Finished, allowed_errors: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    if finished.code != 0 {
        faults.push(format!("exit code {}", finished.code));
    }
    for line in finished.stderr.lines() {
        let allowed = allowed_errors.iter().any(|text| line.contains(text));
        // "2026-11-21T10:00:00Z ERROR propylon::proxy: what happened"
        let is_error = line.split_whitespace().nth(1) == Some("ERROR");
        if line.contains("panicked") || (is_error && !allowed) {
            faults.push(line.to_owned());
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_an_error_and_an_exit_code_are_faults() {
        let stderr = "ready\n2026-11-21T10:00:00Z ERROR propylon::x: disk full\n2026-11-21T10:00:00Z  INFO propylon::x: ERROR in a text\nthread 'main' panicked at src/x.rs";
        let mut finished = Finished { code: 0, stdout: String::new(), stderr: stderr.to_owned() };
        assert_eq!(faults(&finished, &[]).len(), 2);
        finished.code = 1;
        assert_eq!(faults(&finished, &["disk full".to_owned()]).len(), 2);
    }
}
