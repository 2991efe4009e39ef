//! The command line: what can be asked of the program, and the exit codes (0 done, 1 failed, 2 usage or configuration).

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::model::ListenAddr;
use crate::config::{self, Config, Warning};
use crate::server;

/// The configuration where none is named.
const DEFAULT_FILE: &str = "gateway.toml";
/// Usage or configuration.
const BAD_INPUT: u8 = 2;
/// Far more than any answer has.
const ANSWER_MAX: u64 = 1 << 20;
/// For an answer to `propylon health`.
const HEALTH_PATIENCE: Duration = Duration::from_secs(5);
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
    Reload {
        #[command(flatten)]
        file: ConfigFile,
        /// The control socket; otherwise the one the configuration names.
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
    },
    /// Ask the running gateway whether it is ready.
    Health {
        #[command(flatten)]
        file: ConfigFile,
        /// The admin listener; otherwise the first one the configuration names.
        #[arg(long, value_name = "ADDR")]
        admin: Option<SocketAddr>,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

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
            Command::Reload { file, control } => reload(&file.config, control),
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
    let mut text = String::new();
    for warning in warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text.push_str(&format!(
        "{}: ok, {} upstreams, {} routes\n",
        path.display(),
        config.upstreams.len(),
        config.routes.len()
    ));
    Ok(text)
}

/// The file is read here too: one that is wrong needs no process to say so.
fn reload(path: &Path, control: Option<PathBuf>) -> Result<String, Failure> {
    let control = match control {
        Some(control) => control,
        None => load(path)?.0.restart.control.ok_or_else(|| {
            Failure::bad_input(
                "no control socket: set admin.control and restart, name one with --control, or send SIGHUP",
            )
        })?,
    };
    let answer = UnixStream::connect(&control).and_then(|stream| {
        stream.set_read_timeout(Some(RELOAD_PATIENCE))?;
        ask(stream, "POST", "/reload")
    });
    match answer.map_err(|error| unreachable_at(&control.display(), &error))? {
        (200, report) => Ok(report),
        (422, problems) => Err(Failure::bad_input(&problems)),
        (status, body) => Err(Failure::failed(&format!("unexpected answer {status}: {body}"))),
    }
}

fn health(path: &Path, admin: Option<SocketAddr>) -> Result<String, Failure> {
    let address = match admin {
        Some(address) => ListenAddr::Tcp(address),
        None => load(path)?.0.admin.listen.into_iter().next().ok_or_else(|| Failure::bad_input("no admin listener"))?,
    };
    let answer = match &address {
        ListenAddr::Tcp(address) => {
            TcpStream::connect_timeout(&reachable(*address), HEALTH_PATIENCE).and_then(|stream| {
                stream.set_read_timeout(Some(HEALTH_PATIENCE))?;
                ask(stream, "GET", "/readyz")
            })
        }
        ListenAddr::Unix(path) => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(HEALTH_PATIENCE))?;
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
