//! Assembles the process from a configuration, and runs it until it is told to leave.
//!
//! Everything that can fail does so before the first connection is accepted, with one sentence.

mod files;
mod maintenance;
mod reload;
mod renew;
mod shutdown;
mod signals;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use crate::access::logins::Logins;
use crate::admin::{Desk, Reload, bind_control, http};
use crate::config::model::{self, AccessFormat, AccessTarget, LogLevel};
use crate::config::{Config, Warning};
use crate::edge::connection::Gateway;
use crate::edge::listener::{Listeners, accept_loop};
use crate::observe::access_log::{AccessLog, Format, Target};
use crate::observe::logging::{self, Logging};
use crate::observe::metrics::{Metrics, NOTE_EVERY};
use crate::proxy::rejection::Reason;
use crate::redis;
use crate::server::files::PidFile;
use crate::server::reload::Reloader;
use crate::server::signals::{Event, Signals};
use crate::spool::{Depot, Limits, check_dir};
use crate::state::{Shared, Snapshot};
use crate::tls;

/// Runs until SIGTERM or its like.
///
/// # Errors
/// One sentence why the process cannot start.
pub fn run(config: Config, warnings: &[Warning]) -> Result<(), String> {
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), Reason::WORDS);
    let logging = logging::init(level(config.log.level)).map_err(|error| error.to_string())?;
    logging::install_panic_hook(metrics.clone());
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    files::raise_limit(config.server.max_connections);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.restart.threads)
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the worker threads: {error}"))?;
    let shared = runtime.block_on(serve(config, metrics, logging))?;
    shutdown::stop(runtime, &shared);
    Ok(())
}

async fn serve(config: Config, metrics: Arc<Metrics>, logging: Logging) -> Result<Arc<Shared>, String> {
    // Before anything is announced: a signal that comes while we start must not kill the process.
    let mut signals = Signals::watch().map_err(|error| format!("cannot watch signals: {error}"))?;
    let target = target(&config.log.access);
    let sink = target.open().map_err(|error| format!("cannot open the access log {target}: {error}"))?;
    let access_log = AccessLog::start(sink, format(config.log.format), metrics.clone())
        .map_err(|error| format!("cannot start the access log: {error}"))?;
    let shared = Shared::new(metrics, access_log, Depot::new(spool(&config.spool).await?), Logins::new()?);
    let mut listeners = Listeners::default();
    let bound = listeners.prepare(&config.server.addresses()).map_err(|problems| problems.join("\n"))?;
    let mut admin = AdminListeners::default();
    let admin_bound = admin.0.prepare(&config.admin.listen).map_err(|problems| problems.join("\n"))?;
    let control = config.restart.control.as_deref().map(bind_control).transpose()?;
    let pid_file = config.restart.pid_file.as_deref().map(PidFile::write).transpose()?;
    let wanted = config.server.addresses();
    let admin_wanted = config.admin.listen.clone();

    let snapshot = Snapshot::prepare(config, &shared, None).await?;
    let gateway = gateway(snapshot.clone(), &shared);
    maintenance::look(&snapshot).await?;
    snapshot.start();
    shared.metrics.record_start(snapshot.generation, std::time::SystemTime::now());
    listeners.apply(&wanted, bound, |name, bound, stop| accept_loop(name, bound, gateway.clone(), stop)).await;
    admin.apply(&admin_wanted, admin_bound, &gateway).await;
    announce(&snapshot, &listeners, &admin);
    // A reload is to free what only the first configuration had.
    drop(snapshot);

    let current = gateway.current.clone();
    let renewals = tokio::spawn(renew::certificates(current.clone(), shared.clone()));
    let maintenance = tokio::spawn(maintenance::watch(current.clone()));
    let notes = tokio::spawn(note(shared.metrics.clone()));
    let reloader = Arc::new(Reloader::new(gateway, Mutex::new((listeners, admin)), logging));
    let control = control.map(|bound| tokio::spawn(http::serve(bound, Desk::Control(reload_by(&reloader), current))));
    loop {
        match signals.next().await {
            Event::Reload => {
                // Aside: whoever is told to leave meanwhile does not wait for a name server.
                let reloader = reloader.clone();
                tokio::spawn(async move { reloader.reload().await });
            }
            Event::ReopenLogs => reopen(&shared),
            Event::Leave(name) => break tracing::info!(signal = name, "shutting down"),
        }
    }
    shutdown::leave(&reloader, &mut signals).await;
    renewals.abort();
    maintenance.abort();
    notes.abort();
    if let Some(control) = control {
        control.abort();
        // Its socket file goes with it.
        let _ = control.await;
    }
    drop(pid_file);
    Ok(shared)
}

/// Notes what was counted, so that what happened lately can be told.
async fn note(metrics: Arc<Metrics>) {
    loop {
        let noting = metrics.clone();
        // Aside: there may be a thousand endpoints. It ends by a panic alone, which is in the log.
        let _ = tokio::task::spawn_blocking(move || noting.note(Instant::now())).await;
        tokio::time::sleep(NOTE_EVERY).await;
    }
}

/// Makes sure that bodies can be written where the configuration says. Blocks.
///
/// # Errors
/// One sentence that names the key and the way out.
pub fn check_spool(config: &model::Spool) -> Result<(), String> {
    if config.disk == 0 {
        return Ok(());
    }
    check_dir(&config.dir).map_err(|error| {
        format!(
            "spool.dir: no file can be made in {}: {error}; create it, let this user write to it, name another directory, \
             or do without files with `disk = \"0B\"`",
            config.dir.display()
        )
    })
}

/// Makes sure that certificates and keys can be used. What is to be warned of. Blocks.
///
/// # Errors
/// One sentence for each file that cannot be.
pub fn check_tls(config: &Config) -> Result<Vec<String>, String> {
    let server = tls::server::check(config);
    let upstreams = config.upstreams.iter().filter_map(|upstream| {
        let problem = tls::client::ClientTls::load(upstream.tls.as_ref()?).err()?;
        Some(format!("upstreams.{}.tls: {problem}", upstream.name))
    });
    let problems: Vec<_> = server.as_ref().err().cloned().into_iter().chain(upstreams).collect();
    if problems.is_empty() { server } else { Err(problems.join("\n")) }
}

/// Makes sure that what `[redis]` names can be used, without connecting. Blocks.
///
/// # Errors
/// One sentence that names the key.
pub fn check_redis(config: &Config) -> Result<(), String> {
    config.redis.as_ref().map_or(Ok(()), |redis| redis::authorities(redis).map(drop))
}

/// The spool's limits, once its directory was found usable.
async fn spool(config: &model::Spool) -> Result<Limits, String> {
    let asked = config.clone();
    let checked = tokio::task::spawn_blocking(move || check_spool(&asked)).await;
    checked.map_err(|error| error.to_string())??;
    Ok(Limits {
        memory: config.memory,
        memory_per_body: config.memory_per_body,
        dir: config.dir.clone(),
        disk: config.disk,
        disk_per_body: config.disk_per_body,
    })
}

fn gateway(snapshot: Arc<Snapshot>, shared: &Arc<Shared>) -> Gateway {
    let (shared, draining) = (shared.clone(), shared.drain_watch());
    Gateway { shared, draining, current: Arc::new(ArcSwap::new(snapshot)) }
}

/// The admin listeners; they answer to other people than the clients' do.
#[derive(Debug, Default)]
pub struct AdminListeners(Listeners);

impl AdminListeners {
    async fn apply(
        &mut self,
        wanted: &[model::ListenAddr],
        bound: Vec<(model::ListenAddr, crate::edge::listener::Bound)>,
        gateway: &Gateway,
    ) {
        let current = &gateway.current;
        self.0
            .apply(wanted, bound, |_, bound, stop| {
                let serve = http::serve(bound, Desk::Admin(current.clone()));
                async move {
                    tokio::select! {
                        () = serve => {}
                        _ = stop => {}
                    }
                }
            })
            .await;
    }
}

fn reload_by(reloader: &Arc<Reloader>) -> Reload {
    let reloader = reloader.clone();
    Arc::new(move || {
        let reloader = reloader.clone();
        Box::pin(async move { reloader.reload().await })
    })
}

fn reopen(shared: &Shared) {
    match shared.access_log.reopen() {
        Ok(()) => tracing::info!("reopened the access log"),
        Err(error) => tracing::error!(%error, "the access log cannot be reopened; the old file stays in use"),
    }
}

/// One line for each listener and upstream, for whoever started us.
fn announce(snapshot: &Snapshot, listeners: &Listeners, admin: &AdminListeners) {
    let mut text = format!("propylon {}\n", env!("CARGO_PKG_VERSION"));
    for (name, address) in listeners.addresses() {
        let scheme = if snapshot.speaks_tls(&name) { "https" } else { "http" };
        text.push_str(&format!("listening on {}\n", url(scheme, &address)));
    }
    for (_, address) in admin.0.addresses() {
        text.push_str(&format!("admin on {}\n", url("http", &address)));
    }
    for upstream in &snapshot.config.upstreams {
        let endpoints: Vec<_> = upstream.endpoints.iter().map(|endpoint| endpoint.addr.to_string()).collect();
        let preset = upstream.preset.map_or("no preset", |preset| preset.name());
        let balance = upstream.balance.name();
        text.push_str(&format!("upstream {}: {} ({preset}, {balance})\n", upstream.name, endpoints.join(", ")));
    }
    text.push_str("ready\n");
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn url(scheme: &str, address: &model::ListenAddr) -> String {
    match address {
        model::ListenAddr::Tcp(address) => format!("{scheme}://{address}"),
        model::ListenAddr::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn level(level: LogLevel) -> tracing::Level {
    match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    }
}

fn target(target: &AccessTarget) -> Target {
    match target {
        AccessTarget::Stdout => Target::Stdout,
        AccessTarget::File(path) => Target::File(path.clone()),
        AccessTarget::Off => Target::Off,
    }
}

fn format(format: AccessFormat) -> Format {
    match format {
        AccessFormat::Json => Format::Json,
        AccessFormat::Combined => Format::Combined,
    }
}
