//! One connection to whatever is behind the URL: a single Redis, the master that Sentinels name, a cluster.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    RedisResult, TlsCertificates, TlsMode, Value,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::oneshot;

use crate::config::model::{Redis, RedisKind, RedisNode, Secret};

/// How long a connection may take to be made. No request waits for it.
const CONNECT: Duration = Duration::from_secs(1);
/// The same with all that belongs to it: names, logging in, Sentinels one after the other.
const WHOLE: Duration = Duration::from_secs(5);
/// Commands that wait to be written, at most; further ones wait for room, within their own time.
const WAITING: usize = 1024;

/// Threads that connect now.
static CONNECTING: AtomicUsize = AtomicUsize::new(0);
/// Between two looks at whether there are any left.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A connection that many ask over at once.
#[derive(Clone)]
pub enum Link {
    One(MultiplexedConnection),
    Cluster(Box<ClusterConnection>),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(if matches!(self, Self::One(_)) { "One" } else { "Cluster" })
    }
}

impl Link {
    /// Sends a command and waits for its answer, for as long as the caller has.
    pub async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::One(connection) => connection.send_packed_command(command).await,
            Self::Cluster(connection) => {
                redis::aio::ConnectionLike::req_packed_command(&mut **connection, command).await
            }
        };
        answer.and_then(Value::extract_error)
    }
}

/// Reads the authorities of `redis.ca`; none where it is not written. Blocks.
///
/// # Errors
/// One sentence that names the key.
pub fn authorities(config: &Redis) -> Result<Option<Vec<u8>>, String> {
    let Some(file) = &config.ca else { return Ok(None) };
    let pem = fs::read(file).map_err(|error| format!("redis.ca: cannot read {}: {error}", file.display()))?;
    let unusable = |error: &dyn std::fmt::Display| {
        format!("redis.ca: {} holds no certificate that can be used: {error}", file.display())
    };
    // All of this is looked at here, so that it is found now and not with the first connection.
    let list = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|error| unusable(&error))?;
    if list.is_empty() {
        return Err(unusable(&"it has none"));
    }
    let nowhere = ConnectionAddr::TcpTls { host: "localhost".into(), port: 1, insecure: false, tls_params: None };
    nowhere
        .into_connection_info()
        .and_then(|info| Client::build_with_tls(info, of_authorities(pem.clone())))
        .map_err(|error| unusable(&error))?;
    Ok(Some(pem))
}

fn of_authorities(pem: Vec<u8>) -> TlsCertificates {
    TlsCertificates { client_tls: None, root_cert: Some(pem) }
}

/// Connects, on a thread where that may take its time: for each connection with TLS the crate reads this system's authorities, a
/// hundred files and more (redis 1.8.1, `connection.rs:1246`). Whoever drops the future ends it.
pub async fn connect_aside(config: Redis, authorities: Option<Vec<u8>>) -> RedisResult<Link> {
    let runtime = tokio::runtime::Handle::current();
    let (waits, nobody_waits) = oneshot::channel::<()>();
    let counted = Connecting::begin();
    let connecting = tokio::task::spawn_blocking(move || {
        let _counted = counted;
        runtime.block_on(async move {
            let late = || Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
            let certificates = authorities.map(of_authorities);
            tokio::select! {
                biased;
                _ = nobody_waits => late(),
                made = tokio::time::timeout(WHOLE, connect(&config, certificates.as_ref())) => {
                    made.unwrap_or_else(|_| late())
                }
            }
        })
    });
    let made = connecting.await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()));
    drop(waits);
    made
}

/// Returns when no thread connects any more, after `limit` at the latest. In a runtime that stops meanwhile their timers would panic
/// (tokio 1.54, `runtime/time/entry.rs:534`).
pub async fn quiet(limit: Duration) {
    let connecting = async {
        while CONNECTING.load(SeqCst) > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let _ = tokio::time::timeout(limit, connecting).await;
}

/// A thread that is counted, until dropped.
struct Connecting;

impl Connecting {
    fn begin() -> Self {
        CONNECTING.fetch_add(1, SeqCst);
        Self
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        CONNECTING.fetch_sub(1, SeqCst);
    }
}

/// Connects, logs in, and makes sure that it is a master where Sentinels were asked.
async fn connect(config: &Redis, certificates: Option<&TlsCertificates>) -> RedisResult<Link> {
    let options = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        // Requests have their own, shorter time; this frees what is kept of them.
        .set_response_timeout(Some(CONNECT.max(config.timeout)))
        .set_pipeline_buffer_size(WAITING);
    match &config.url.kind {
        RedisKind::Single(node) => one(info(config, address(config, node))?, certificates, &options).await,
        RedisKind::Unix(path) => one(info(config, ConnectionAddr::Unix(path.clone()))?, None, &options).await,
        RedisKind::Sentinel { nodes, service } => sentinel(config, nodes, service, certificates, &options).await,
        RedisKind::Cluster(nodes) => cluster(config, nodes, certificates).await,
    }
}

fn address(config: &Redis, node: &RedisNode) -> ConnectionAddr {
    let (host, port) = (node.host.clone(), node.port);
    if config.url.tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

/// Small questions leave at once, whatever is on the way already.
fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn info(config: &Redis, address: ConnectionAddr) -> RedisResult<ConnectionInfo> {
    let mut login = RedisConnectionInfo::default().set_db(config.url.database);
    if let Some(user) = &config.url.username {
        login = login.set_username(user);
    }
    if let Some(Secret(password)) = &config.url.password {
        login = login.set_password(password);
    }
    Ok(address.into_connection_info()?.set_redis_settings(login).set_tcp_settings(tcp()))
}

async fn one(
    info: ConnectionInfo,
    certificates: Option<&TlsCertificates>,
    options: &AsyncConnectionConfig,
) -> RedisResult<Link> {
    let client = match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates.clone())?,
        None => Client::open(info)?,
    };
    Ok(Link::One(client.get_multiplexed_async_connection_with_config(options).await?))
}

async fn sentinel(
    config: &Redis,
    nodes: &[RedisNode],
    service: &str,
    certificates: Option<&TlsCertificates>,
    options: &AsyncConnectionConfig,
) -> RedisResult<Link> {
    let addresses = nodes.iter().map(|node| address(config, node));
    let mut builder = SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)?
        .set_client_to_redis_db(config.url.database)
        .set_client_to_redis_tcp_settings(tcp());
    if config.url.tls {
        builder =
            builder.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_sentinel_tls_mode(TlsMode::Secure);
    }
    if let Some(certificates) = certificates {
        builder = builder.set_client_to_redis_certificates(certificates.clone());
        builder = builder.set_client_to_sentinel_certificates(certificates.clone());
    }
    if let Some(user) = &config.url.username {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(Secret(password)) = &config.url.password {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(user) = &config.sentinel_username {
        builder = builder.set_client_to_sentinel_username(user);
    }
    if let Some(Secret(password)) = &config.sentinel_password {
        builder = builder.set_client_to_sentinel_password(password);
    }
    Ok(Link::One(builder.build()?.get_async_connection_with_config(options).await?))
}

async fn cluster(config: &Redis, nodes: &[RedisNode], certificates: Option<&TlsCertificates>) -> RedisResult<Link> {
    let infos = nodes.iter().map(|node| info(config, address(config, node))).collect::<RedisResult<Vec<_>>>()?;
    let mut builder = ClusterClientBuilder::new(infos)
        .connection_timeout(CONNECT)
        .response_timeout(config.timeout)
        // To where a slot has moved, and once more.
        .retries(2)
        .tcp_settings(tcp());
    if let Some(user) = &config.url.username {
        builder = builder.username(user);
    }
    if let Some(Secret(password)) = &config.url.password {
        builder = builder.password(password);
    }
    if let Some(certificates) = certificates {
        builder = builder.certs(certificates.clone());
    }
    let client = builder.build()?;
    let connected = tokio::time::timeout(2 * CONNECT, client.get_async_connection()).await;
    let connection = connected.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))?;
    Ok(Link::Cluster(Box::new(connection)))
}
