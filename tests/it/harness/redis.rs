//! A private `redis-server`: on a Unix socket, or on a loopback address that no other test has.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use redis::{Connection, FromRedisValue};
use rustix::process::Signal;
use tempfile::TempDir;

use super::eventually::eventually;
use super::process::Process;

/// A Redis that a test starts, stops and looks into.
pub struct RedisServer {
    process: Process,
    arguments: Vec<String>,
    socket: PathBuf,
    tcp: Option<SocketAddr>,
    dir: TempDir,
}

impl RedisServer {
    /// On a Unix socket alone.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// On a Unix socket alone, with further options.
    pub fn with(options: &[&str]) -> Self {
        Self::launch(None, &["--port", "0"], options)
    }

    /// On a port as well.
    pub fn tcp(options: &[&str]) -> Self {
        let address = own_address();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        // Others are told of the address that its own connections come from.
        Self::launch(Some(address), &["--bind", &ip, "--bind-source-addr", &ip, "--port", &port], options)
    }

    /// On a port with TLS; `options` says with what, for this address.
    pub fn tls_with(options: impl FnOnce(SocketAddr) -> String) -> Self {
        let address = own_address();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let options = options(address);
        let options: Vec<&str> = options.split(' ').collect();
        Self::launch(Some(address), &["--bind", &ip, "--port", "0", "--tls-port", &port], &options)
    }

    fn launch(tcp: Option<SocketAddr>, place: &[&str], options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("redis.sock");
        let mut arguments: Vec<String> = place.iter().chain(options).map(|text| (*text).to_owned()).collect();
        let own = format!("--unixsocket {} --dir {} --appendonly no", socket.display(), dir.path().display());
        arguments.extend(own.split(' ').map(str::to_owned));
        // To Redis loopback is one address; other addresses of it would be strangers.
        arguments.extend(["--protected-mode", "no", "--save", ""].map(str::to_owned));
        if options.contains(&"--sentinel") {
            // Sentinels keep what they know in their configuration.
            fs::write(dir.path().join("sentinel.conf"), "").unwrap();
            arguments.insert(0, dir.path().join("sentinel.conf").display().to_string());
        }
        let mut server = Self { process: Self::spawn(&arguments), arguments, socket, tcp, dir };
        server.wait();
        server
    }

    fn spawn(arguments: &[String]) -> Process {
        let mut command = Command::new("redis-server");
        command.args(arguments);
        Process::spawn(command, false)
    }

    #[track_caller]
    fn wait(&mut self) {
        eventually("redis-server listens", || {
            if let Some(status) = self.process.try_wait() {
                panic!("redis-server ended with {status}:\n{}", self.process.stdout.tail(20));
            }
            UnixStream::connect(&self.socket).ok()
        });
    }

    /// For `[redis] url`, by its Unix socket.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where it listens, if on a port.
    #[track_caller]
    pub fn addr(&self) -> SocketAddr {
        self.tcp.expect("a Redis on a port")
    }

    /// A connection of the test's own.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// The answer to one command, its words between spaces.
    #[track_caller]
    pub fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// [`RedisServer::ask`] where a sentinel may cut all connections meanwhile, as it does with one that it makes the master.
    pub fn try_ask<T: FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let mut words = command.split(' ');
        let mut built = redis::cmd(words.next().unwrap());
        built.arg(words.collect::<Vec<_>>());
        built.query(&mut redis::Client::open(self.url())?.get_connection()?)
    }

    /// Keys there are.
    #[track_caller]
    pub fn keys(&self) -> Vec<String> {
        self.ask("KEYS *")
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it at once; connections break.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    /// Starts it again, empty, where it was.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.process.try_wait().is_some(), "it is still running");
        let _ = fs::remove_file(&self.socket);
        self.process = Self::spawn(&self.arguments);
        self.wait();
    }
}

/// A port of a loopback address that only this test has.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    let byte = |value: u32| u8::try_from(value % 250 + 1).unwrap();
    let ip = Ipv4Addr::new(127, byte(pid / 250), byte(pid), byte(number + 10));
    // The port of a cluster's bus is 10,000 higher.
    let free =
        || Some(TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()).filter(|address| address.port() < 50_000);
    eventually("a low port", free)
}
