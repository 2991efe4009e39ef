//! The command line: what can be asked of the program, and the exit codes (0 done, 1 failed, 2 usage or configuration).

mod explain;
mod password;
mod purge;

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cache;
use crate::config::model::{EndpointAddr, EndpointConfig, ListenAddr, Upstream};
use crate::config::{self, Config, Warning};
use crate::server;

/// The configuration where none is named.
const DEFAULT_FILE: &str = "gateway.toml";
/// Usage or configuration.
const BAD_INPUT: u8 = 2;
/// Far more than any answer has.
const ANSWER_MAX: u64 = 1 << 20;
/// For an answer that nothing has to be done for.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// For an answer to `propylon reload`: names are resolved meanwhile.
const RELOAD_PATIENCE: Duration = Duration::from_secs(60);

/// The gateway in front of Python.
#[derive(Debug, Parser)]
#[command(name = "propylon", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Run(Run),
    /// Read the configuration and say what is wrong with it.
    Check(ConfigFile),
    /// Make the running gateway read its configuration again, and wait until it has.
    Reload(Control),
    /// Give an endpoint of the running gateway no new requests; those in flight end as they would.
    Drain {
        #[command(flatten)]
        target: Target,
        /// Wait until nothing is in flight there any more, for so long at most.
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u32>,
    },
    /// Give an endpoint that was drained requests again.
    Undrain(Target),
    /// Drop what the running gateway keeps in its cache.
    Purge(purge::Purge),
    /// Answer everybody 503 with the page of maintenance, or not any more.
    Maintenance {
        /// What is to be; `status` only says how it is.
        switch: Switch,
        #[command(flatten)]
        control: Control,
    },
    /// Make the hash of a password, for `access.basic_auth`; it is read from the terminal or from standard input.
    HashPassword(password::HashPassword),
    /// Say which route and which cache rule a request meets, and what would become of its answer.
    Explain(explain::Explain),
    /// Ask the running gateway whether it is ready.
    Health {
        #[command(flatten)]
        file: ConfigFile,
        /// The admin listener; otherwise the first one the configuration names.
        #[arg(long, value_name = "ADDR")]
        admin: Option<SocketAddr>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
    Status,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

/// How the running gateway is told something.
#[derive(Debug, Args)]
struct Control {
    #[command(flatten)]
    file: ConfigFile,
    /// The control socket; otherwise the one the configuration names.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// An endpoint of the running gateway.
#[derive(Debug, Args)]
struct Target {
    /// The upstream's name.
    upstream: String,
    #[arg(help = ENDPOINT_HELP)]
    endpoint: String,
    #[command(flatten)]
    control: Control,
}

const ENDPOINT_HELP: &str = "Its endpoint as the status shows it: 127.0.0.1:8000, [::1]:8000 or unix:/run/app.sock";
const TO_HELP: &str = "Send everything to this endpoint, with no configuration file: 127.0.0.1:8000 or unix:/run/app.sock. May be repeated";

#[derive(Debug, Args)]
struct Run {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE, conflicts_with_all = ["to", "listen", "preset"])]
    config: PathBuf,
    // No doc comment: the help would show the backquotes that one needs around the path.
    #[arg(long, value_name = "ADDR", help = TO_HELP)]
    to: Vec<String>,
    /// Listen here instead of 0.0.0.0:8080. May be repeated.
    #[arg(long, value_name = "ADDR", requires = "to")]
    listen: Vec<String>,
    /// The kind of server behind: uvicorn, gunicorn-sync and so on.
    #[arg(long, value_name = "NAME", requires = "to")]
    preset: Option<String>,
}

impl Cli {
    /// Does what was asked.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        let done = match self.command {
            Command::Run(run) => run.execute(),
            Command::Check(file) => check(&file.config),
            Command::Reload(control) => reload(&control),
            Command::Drain { target, wait } => target.tell("drain", wait),
            Command::Undrain(target) => target.tell("undrain", None),
            Command::Purge(purge) => purge.execute(),
            Command::Maintenance { switch, control } => maintenance(switch, &control),
            Command::HashPassword(password) => password.execute(),
            Command::Explain(explain) => explain.execute(),
            Command::Health { file, admin } => health(&file.config, admin),
        };
        match done {
            Ok(text) => {
                let _ = std::io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Err(failure) => {
                let _ = writeln!(std::io::stderr(), "{}", failure.text.trim_end());
                ExitCode::from(failure.code)
            }
        }
    }
}

/// What to print, and the exit code.
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn bad_input<T: ToString + ?Sized>(text: &T) -> Self {
        Self { code: BAD_INPUT, text: text.to_string() }
    }

    fn failed<T: ToString + ?Sized>(text: &T) -> Self {
        Self { code: 1, text: text.to_string() }
    }
}

impl Run {
    fn execute(self) -> Result<String, Failure> {
        let (config, warnings) = if self.to.is_empty() {
            load(&self.config)?
        } else {
            config::from_flags(&self.to, &self.listen, self.preset.as_deref())
                .map_err(|error| Failure::bad_input(&error))?
        };
        server::run(config, &warnings).map_err(|error| Failure::failed(&error))?;
        Ok(String::new())
    }
}

fn load(path: &Path) -> Result<(Config, Vec<Warning>), Failure> {
    config::load(path).map_err(|errors| {
        let mut text = errors.to_string();
        if path == Path::new(DEFAULT_FILE) && !path.exists() {
            text.push_str("\nname a file with --config, or do without one: propylon run --to 127.0.0.1:8000");
        }
        Failure::bad_input(&text)
    })
}

fn check(path: &Path) -> Result<String, Failure> {
    let (config, warnings) = load(path)?;
    server::check_spool(&config.spool).map_err(|error| Failure::bad_input(&error))?;
    server::check_redis(&config).map_err(|error| Failure::bad_input(&error))?;
    cache::disk::check(config.cache.as_ref()).map_err(|error| Failure::bad_input(&error))?;
    let of_tls = server::check_tls(&config).map_err(|error| Failure::bad_input(&error))?;
    let mut text = String::new();
    for warning in warnings.iter().map(ToString::to_string).chain(of_tls) {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text.push_str(&format!(
        "{}: ok, {} upstreams, {} routes\n",
        path.display(),
        config.upstreams.len(),
        config.routes.len()
    ));
    for upstream in &config.upstreams {
        text.push_str(&format!("upstream {}: {}\n", upstream.name, bounds(upstream)));
    }
    Ok(text)
}

/// How many requests an upstream works on at once, and how many wait.
fn bounds(upstream: &Upstream) -> String {
    let count = upstream.endpoints.len();
    let is_name = |endpoint: &EndpointConfig| matches!(endpoint.addr, EndpointAddr::Host { .. });
    // A name stands for as many addresses as it has when it is asked for.
    let endpoints = match (upstream.endpoints.iter().any(is_name), count) {
        (false, 1) => "its endpoint".to_owned(),
        (false, _) => format!("each of {count} endpoints"),
        (true, _) => "each address of its endpoints".to_owned(),
    };
    let in_flight = match upstream.capacity {
        Some(capacity) => format!(
            "at most {capacity} in flight from this gateway to {endpoints} (several gateways in front of one pool: give each its share)"
        ),
        None => format!("any number in flight to {endpoints} (no `workers`, no `max_in_flight`)"),
    };
    let queue = match upstream.queue.max {
        0 => "none waits".to_owned(),
        max => format!("{max} wait for {:?} at most", upstream.queue.timeout),
    };
    format!("{in_flight}, {queue}")
}

/// The file is read here too: one that is wrong needs no process to say so.
fn reload(control: &Control) -> Result<String, Failure> {
    match control.post("/reload", RELOAD_PATIENCE, ", or send SIGHUP")? {
        (200, report) => Ok(report),
        (422, problems) => Err(Failure::bad_input(&problems)),
        (status, body) => Err(Failure::failed(&format!("unexpected answer {status}: {body}"))),
    }
}

fn maintenance(switch: Switch, control: &Control) -> Result<String, Failure> {
    let target = match switch {
        Switch::On => "/maintenance?on=true",
        Switch::Off => "/maintenance?on=false",
        Switch::Status => "/maintenance",
    };
    match control.post(target, ANSWER_PATIENCE, ", or create maintenance.file")? {
        (200, report) => Ok(report),
        (status, body) => Err(Failure::failed(&format!("unexpected answer {status}: {body}"))),
    }
}

impl Control {
    /// Asks the running gateway. `otherwise` says what can be done without a control socket.
    fn post(&self, target: &str, patience: Duration, otherwise: &str) -> Result<(u16, String), Failure> {
        let control = match &self.control {
            Some(control) => control.clone(),
            None => load(&self.file.config)?.0.restart.control.ok_or_else(|| {
                let missing = "no control socket: set admin.control and restart, name one with --control";
                Failure::bad_input(&format!("{missing}{otherwise}"))
            })?,
        };
        let answer = UnixStream::connect(&control).and_then(|stream| {
            stream.set_read_timeout(Some(patience))?;
            ask(stream, "POST", target)
        });
        answer.map_err(|error| unreachable_at(&control.display(), &error))
    }
}

impl Target {
    fn tell(&self, what: &str, wait: Option<u32>) -> Result<String, Failure> {
        let (upstream, endpoint) = (encode(&self.upstream), encode(&self.endpoint));
        let mut target = format!("/{what}?upstream={upstream}&endpoint={endpoint}");
        if let Some(seconds) = wait {
            target.push_str(&format!("&wait={seconds}"));
        }
        let patience = ANSWER_PATIENCE + Duration::from_secs(wait.unwrap_or_default().into());
        match self.control.post(&target, patience, "")? {
            (200, report) => Ok(report),
            (202, report) => Err(Failure::failed(&report)),
            (400 | 404, problem) => Err(Failure::bad_input(&problem)),
            (status, body) => Err(Failure::failed(&format!("unexpected answer {status}: {body}"))),
        }
    }
}

/// As it stands in a query, whatever is in it.
fn encode(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/".contains(&byte);
    let encoded =
        value.bytes().map(|byte| if is_plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") });
    encoded.collect()
}

fn health(path: &Path, admin: Option<SocketAddr>) -> Result<String, Failure> {
    let address = match admin {
        Some(address) => ListenAddr::Tcp(address),
        None => load(path)?.0.admin.listen.into_iter().next().ok_or_else(|| Failure::bad_input("no admin listener"))?,
    };
    let answer = match &address {
        ListenAddr::Tcp(address) => {
            TcpStream::connect_timeout(&reachable(*address), ANSWER_PATIENCE).and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
                ask(stream, "GET", "/readyz")
            })
        }
        ListenAddr::Unix(path) => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
            ask(stream, "GET", "/readyz")
        }),
    };
    match answer.map_err(|error| unreachable_at(&address, &error))? {
        (200, body) => Ok(body),
        (_, body) => Err(Failure::failed(&body)),
    }
}

fn unreachable_at(address: &impl Display, error: &io::Error) -> Failure {
    Failure::failed(&format!("cannot reach the gateway at {address}: {error}"))
}

/// An address that listens everywhere is reached on this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// One request, one answer: the admin server closes after each.
fn ask(mut stream: impl Read + Write, method: &str, path: &str) -> io::Result<(u16, String)> {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: propylon\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::other("no answer in time"),
        _ => error,
    })?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no answer"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| io::Error::other("no HTTP"))?, body.to_owned()))
}
