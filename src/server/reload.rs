//! A new configuration in the place of the old one, with no request lost: load, diff, prepare, swap, retire.
//!
//! Whatever can fail comes before the swap; after a failure everything is as it was.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Mutex, watch};

use crate::admin::Reloaded;
use crate::config::model::ListenAddr;
use crate::config::{self, Config, Warning, diff};
use crate::edge::connection::Gateway;
use crate::edge::listener::{Bound, Listeners, accept_loop};
use crate::observe::access_log::Sink;
use crate::observe::logging::Logging;
use crate::observe::metrics::Reload;
use crate::server::{AdminListeners, format, level, maintenance, spool, target};
use crate::spool::Limits;
use crate::state::{Shared, Snapshot};

/// Everything a reload touches. Reloads run one after another.
pub struct Reloader {
    gateway: Gateway,
    listeners: Mutex<(Listeners, AdminListeners)>,
    logging: Logging,
    /// True once nothing is to be reloaded any more.
    over: watch::Sender<bool>,
}

/// A configuration that can be gone over to.
struct Prepared {
    new: Arc<Snapshot>,
    warnings: Vec<Warning>,
    restart: Vec<&'static str>,
    /// What is said of it to whoever asked for the reload.
    report: String,
    bound: Vec<(ListenAddr, Bound)>,
    admin_bound: Vec<(ListenAddr, Bound)>,
    sink: Option<Sink>,
    limits: Limits,
}

impl Reloader {
    pub fn new(gateway: Gateway, listeners: Mutex<(Listeners, AdminListeners)>, logging: Logging) -> Self {
        Self { gateway, listeners, logging, over: watch::Sender::new(false) }
    }

    /// The configuration of the moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.gateway.snapshot()
    }

    /// What outlives configurations.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.gateway.shared
    }

    /// From now on nothing is reloaded: what a reload prepares is dropped. Returns the configuration that stays.
    pub async fn end(&self) -> Arc<Snapshot> {
        self.over.send_replace(true);
        let _last_reload = self.listeners.lock().await;
        self.snapshot()
    }

    /// Stops accepting clients; the admin listeners stay.
    pub async fn close_listeners(&self) {
        self.listeners.lock().await.0.close().await;
    }

    /// The same, and the admin listeners with them: socket files go.
    pub async fn close_all(&self) {
        let mut listeners = self.listeners.lock().await;
        listeners.0.close().await;
        listeners.1.0.close().await;
    }

    /// Reads the configuration again and goes over to it.
    ///
    /// # Errors
    /// Every problem; the old configuration serves on.
    pub async fn reload(&self) -> Reloaded {
        let mut listeners = self.listeners.lock().await;
        let old = self.gateway.snapshot();
        let metrics = &self.gateway.shared.metrics;
        if *self.over.borrow() {
            return Err(leaving());
        }
        let Some(path) = old.config.source.clone() else {
            metrics.record_reload(Reload::Unchanged, old.generation, SystemTime::now());
            tracing::warn!("there is no configuration file to reload: the command line is the configuration");
            return Err("there is no configuration file: the process was started with --to\n".to_owned());
        };
        match self.load(&path, &old, &mut listeners).await {
            Ok((new, report)) => {
                metrics.record_reload(Reload::Applied, new.generation, SystemTime::now());
                tracing::info!(
                    generation = new.generation,
                    "configuration reloaded: {}",
                    report.trim().replace('\n', "; ")
                );
                Ok(report)
            }
            Err(problems) if *self.over.borrow() => Err(problems),
            Err(problems) => {
                metrics.record_reload(Reload::Refused, old.generation, SystemTime::now());
                for problem in problems.lines() {
                    tracing::error!(problem, "configuration refused, the old one stays");
                }
                Err(problems)
            }
        }
    }

    /// All that can fail, and all that may take its time.
    async fn prepare(
        &self,
        path: &std::path::Path,
        old: &Arc<Snapshot>,
        (clients, admin): &(Listeners, AdminListeners),
    ) -> Result<Prepared, String> {
        let owned = path.to_path_buf();
        let loaded = tokio::task::spawn_blocking(move || config::load(&owned)).await;
        let (mut config, warnings) = loaded.map_err(|error| error.to_string())?.map_err(|errors| errors.to_string())?;
        let restart = diff::restart_only_changes(&old.config, &config);
        config.restart = old.config.restart.clone();
        let report = format!("{}\n", diff::summary(&old.config, &config));
        let bound = clients.prepare(&config.server.addresses()).map_err(|problems| problems.join("\n"))?;
        let admin_bound = admin.0.prepare(&config.admin.listen).map_err(|problems| problems.join("\n"))?;
        let sink = open_log(&old.config, &config).await?;
        let limits = spool(&config.spool).await?;
        let new = Snapshot::prepare(config, &self.gateway.shared, Some(old)).await?;
        Ok(Prepared { new, warnings, restart, report, bound, admin_bound, sink, limits })
    }

    async fn load(
        &self,
        path: &std::path::Path,
        old: &Arc<Snapshot>,
        listeners: &mut (Listeners, AdminListeners),
    ) -> Result<(Arc<Snapshot>, String), String> {
        let mut over = self.over.subscribe();
        // A directory, or a name server, may take its time; whoever leaves has none for it.
        let prepared = tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => return Err(leaving()),
            prepared = self.prepare(path, old, listeners) => prepared?,
        };
        let Prepared { new, warnings, restart, mut report, bound, admin_bound, sink, limits } = prepared;
        let (clients, admin) = listeners;

        self.gateway.current.store(new.clone());
        self.gateway.shared.announce_reload();
        self.gateway.shared.depot.set_limits(limits);
        if let Some(sink) = sink {
            self.gateway.shared.access_log.retarget(sink, format(new.config.log.format));
        }
        self.logging.set_level(level(new.config.log.level));
        let gateway = &self.gateway;
        for (_, bound) in bound.iter().chain(&admin_bound) {
            tracing::info!(address = %bound.address, "listening");
        }
        clients
            .apply(&new.config.server.addresses(), bound, |name, bound, stop| {
                accept_loop(name, bound, gateway.clone(), stop)
            })
            .await;
        admin.apply(&new.config.admin.listen, admin_bound, gateway).await;
        new.start();
        if let Err(error) = maintenance::look(&new).await {
            tracing::error!(%error, "whether there is maintenance cannot be told, nothing is changed");
        }
        old.retire(&new);
        self.gateway.shared.connections.limit_changed();

        for warning in &warnings {
            tracing::warn!("{warning}");
            report.push_str(&format!("warning: {warning}\n"));
        }
        for key in restart {
            tracing::warn!(key, "this key takes effect with a restart only");
            report.push_str(&format!("warning: {key} takes effect with a restart only\n"));
        }
        Ok((new, report))
    }
}

/// What a request to reload is told by a gateway that leaves.
fn leaving() -> String {
    tracing::info!("shutting down, nothing is reloaded");
    "the gateway is shutting down, nothing is reloaded\n".to_owned()
}

/// The access log's new target, if it is another one.
async fn open_log(old: &Config, new: &Config) -> Result<Option<Sink>, String> {
    if old.log.access == new.log.access && old.log.format == new.log.format {
        return Ok(None);
    }
    let target = target(&new.log.access);
    let opened = tokio::task::spawn_blocking(move || {
        target.open().map_err(|error| format!("log.access: cannot open the access log {target}: {error}"))
    });
    opened.await.map_err(|error| error.to_string())?.map(Some)
}
