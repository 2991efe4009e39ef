//! Real Python servers from the repository's `.venv`: Gunicorn, Uvicorn, Hypercorn, Daphne, Granian, uWSGI, Waitress.
//!
//! A TCP port is bound here and handed over as the server's standard input (`fd://0`), so nothing can take it in between,
//! and it is closed with the server: once that is stopped, connections are refused. Granian and Waitress take no socket from
//! outside, so these and uWSGI always listen on a Unix socket. Directories given are relative to the repository.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::client::Client;
use super::eventually::{DEADLINE, eventually, eventually_within};
use super::process::Process;
use super::socket::{Address, Listener};
use super::tls::TlsClient;

/// From the start of a server to its first answer: frameworks take a while to import on a busy machine.
const START: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Gunicorn,
    Uvicorn,
    Hypercorn,
    Daphne,
    Granian,
    Uwsgi,
    Waitress,
}

impl Program {
    /// What it is called among the environment's programs.
    fn name(self) -> &'static str {
        match self {
            Self::Gunicorn => "gunicorn",
            Self::Uvicorn => "uvicorn",
            Self::Hypercorn => "hypercorn",
            Self::Daphne => "daphne",
            Self::Granian => "granian",
            Self::Uwsgi => "uwsgi",
            Self::Waitress => "waitress-serve",
        }
    }

    fn takes_a_port(self) -> bool {
        !matches!(self, Self::Granian | Self::Uwsgi | Self::Waitress)
    }

    /// What it is always given beside its address.
    fn own_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Gunicorn => &["--no-control-socket"],
            // It ends on SIGTERM only when asked to, and serves on without an app; the app's name comes last.
            Self::Uwsgi => &["--die-on-term", "--need-app", "--module"],
            _ => &[],
        }
    }
}

/// A server to be started.
#[derive(Clone)]
pub struct PythonBuilder {
    program: Program,
    app: String,
    app_dir: PathBuf,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    unix: bool,
    probe: String,
    tls: Option<TlsClient>,
}

impl PythonBuilder {
    fn new(program: Program, app: &str) -> Self {
        Self {
            program,
            app: app.to_owned(),
            app_dir: repository().join("tests/apps"),
            arguments: Vec::new(),
            env: Vec::new(),
            unix: !program.takes_a_port(),
            probe: "/healthz".to_owned(),
            tls: None,
        }
    }

    /// Where the app's module is, from the repository's root; `tests/apps` without this.
    #[must_use]
    pub fn app_dir(mut self, dir: &str) -> Self {
        self.app_dir = repository().join(dir);
        self
    }

    /// Further arguments of the server, as on its command line: `"-k gthread --threads 4"`.
    #[must_use]
    pub fn args(mut self, arguments: &str) -> Self {
        let words = arguments.split_whitespace().map(str::to_owned);
        self.arguments.extend(words);
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Listens on a Unix socket in a directory of its own instead of a TCP port.
    #[must_use]
    pub fn unix(mut self) -> Self {
        self.unix = true;
        self
    }

    /// The path asked for to see that the server answers; `/healthz` without this. Any status will do.
    #[must_use]
    pub fn probe(mut self, path: &str) -> Self {
        path.clone_into(&mut self.probe);
        self
    }

    /// It speaks TLS, as its arguments say: it is asked by this client whether it answers.
    #[must_use]
    pub fn tls(mut self, client: TlsClient) -> Self {
        self.tls = Some(client);
        self
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(self) -> PythonServer {
        let dir = tempfile::tempdir().unwrap();
        let address = if self.unix { Address::Unix(dir.path().join("app.sock")) } else { Address::any_port() };
        let (process, address) = self.spawn(&address);
        let mut server = PythonServer { start: self, process, address, dir };
        server.wait_until_it_answers();
        server
    }

    #[track_caller]
    fn spawn(&self, address: &Address) -> (Process, Address) {
        let mut command = Command::new(installed(self.program));
        command.current_dir(&self.app_dir);
        command.envs(self.env.iter().cloned());
        command.env("PYTHONUNBUFFERED", "1");
        let address = match address {
            Address::Tcp(_) => {
                let listener =
                    Listener::bind(address).unwrap_or_else(|error| panic!("{address} for a server: {error}"));
                let bound = listener.address(address);
                let Listener::Tcp(listener) = listener else { unreachable!("a TCP address gives a TCP listener") };
                // Gunicorn listens itself, the others take the socket as it is; both find it listening.
                command.stdin(Stdio::from(OwnedFd::from(listener)));
                bound
            }
            other => {
                command.stdin(Stdio::null());
                other.clone()
            }
        };
        command.args(bind_arguments(self.program, &address)).args(&self.arguments);
        command.args(self.program.own_arguments()).arg(&self.app);
        (Process::spawn(command, true), address)
    }
}

fn bind_arguments(program: Program, address: &Address) -> Vec<String> {
    let path = match address {
        Address::Unix(path) => Some(path.display().to_string()),
        _ => None,
    };
    let words = match (program, path) {
        (Program::Gunicorn | Program::Hypercorn, None) => ["--bind".to_owned(), "fd://0".to_owned()],
        (Program::Gunicorn | Program::Hypercorn, Some(path)) => ["--bind".to_owned(), format!("unix:{path}")],
        (Program::Uvicorn | Program::Daphne, None) => ["--fd".to_owned(), "0".to_owned()],
        (Program::Uvicorn | Program::Granian, Some(path)) => ["--uds".to_owned(), path],
        (Program::Daphne, Some(path)) => ["-u".to_owned(), path],
        (Program::Uwsgi, Some(path)) => ["--http-socket".to_owned(), path],
        (Program::Waitress, Some(path)) => ["--unix-socket".to_owned(), path],
        (Program::Granian | Program::Uwsgi | Program::Waitress, None) => unreachable!("it has no port"),
    };
    words.into()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn installed(program: Program) -> PathBuf {
    let name = program.name();
    let path = repository().join(".venv/bin").join(name);
    assert!(path.exists(), "{name} is missing: run `make test` (scripts/setup.sh) first");
    path
}

/// A running server, with all its processes; dropping it ends them.
pub struct PythonServer {
    start: PythonBuilder,
    process: Process,
    address: Address,
    dir: TempDir,
}

impl PythonServer {
    /// Gunicorn with an app such as `"wsgi:app"`; one sync worker unless the arguments say otherwise.
    pub fn gunicorn(app: &str) -> PythonBuilder {
        PythonBuilder::new(Program::Gunicorn, app)
    }

    /// Uvicorn with an app such as `"asgi:app"`.
    pub fn uvicorn(app: &str) -> PythonBuilder {
        PythonBuilder::new(Program::Uvicorn, app)
    }

    pub fn hypercorn(app: &str) -> PythonBuilder {
        PythonBuilder::new(Program::Hypercorn, app)
    }

    pub fn daphne(app: &str) -> PythonBuilder {
        PythonBuilder::new(Program::Daphne, app)
    }

    /// Granian, on a Unix socket; its `--interface` is among the arguments to give.
    pub fn granian(app: &str) -> PythonBuilder {
        PythonBuilder::new(Program::Granian, app)
    }

    /// uWSGI speaking HTTP, on a Unix socket.
    pub fn uwsgi(app: &str) -> PythonBuilder {
        PythonBuilder::new(Program::Uwsgi, app)
    }

    /// Waitress, on a Unix socket.
    pub fn waitress(app: &str) -> PythonBuilder {
        PythonBuilder::new(Program::Waitress, app)
    }

    /// Where it listens; displayed as an endpoint is written in the configuration.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The process that was started: Gunicorn's arbiter, Uvicorn itself.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A directory of this server's own, for files its app writes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Sends a signal to that process alone (HUP to Gunicorn's arbiter, say).
    pub fn signal(&self, signal: Signal) {
        self.process.signal_leader(signal);
    }

    /// What it wrote, standard output and error.
    pub fn log(&self) -> Vec<String> {
        [self.process.stdout.all(), self.process.stderr.all()].concat()
    }

    /// Asks it to end (SIGTERM) and waits until it has; what still runs then is killed. Its address refuses from then on.
    #[track_caller]
    pub fn stop(&mut self) {
        if self.process.try_wait().is_none() {
            self.process.signal_leader(Signal::TERM);
            self.process.wait(DEADLINE);
        }
        self.wait_until_refused();
    }

    /// Kills all its processes at once. Its address refuses from then on.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.kill();
        self.wait_until_refused();
    }

    /// The last of its workers holds the socket until the kernel has taken that worker down.
    #[track_caller]
    fn wait_until_refused(&self) {
        eventually("the Python server's address refuses", || Client::try_connect(&self.address).is_err().then_some(()));
    }

    /// Starts it again at the same address, after [`PythonServer::stop`] or [`PythonServer::kill`], and waits until it
    /// answers.
    #[track_caller]
    pub fn start_again(&mut self) {
        (self.process, self.address) = self.start.spawn(&self.address);
        self.wait_until_it_answers();
    }

    #[track_caller]
    fn wait_until_it_answers(&mut self) {
        let log = (self.process.stdout.clone(), self.process.stderr.clone());
        let shown = || format!("{}\n{}", log.0.tail(30), log.1.tail(30));
        eventually_within(START, "the Python server answers", || {
            let ended = self.process.try_wait();
            assert!(ended.is_none(), "the Python server ended: {}", shown());
            let mut client = match &self.start.tls {
                None => Client::try_connect(&self.address).ok()?,
                Some(tls) => Client::over(tls.connect(&self.address).ok()?),
            };
            let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", self.start.probe);
            client.try_send(request).ok()?;
            client.try_response().ok()
        });
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the Python server's log\n{}\n---", self.log().join("\n"));
        }
        self.process.kill();
    }
}
