//! The settings of the TLS listeners: certificates, versions, who may come in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use crate::config::Config;
use crate::config::model::{ClientCerts, Protocol, Tls, TlsVersion};
use crate::observe::metrics::{CertificateReading, Metrics};
use crate::tls::certificate::Certificate;
use crate::tls::store::Store;
use crate::tls::tickets::{Circle, Tickets};
use crate::tls::watch::FromFiles;
use crate::tls::{pem, provider};

/// What is offered to clients, the better first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
const NEW_VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13];
const ALL_VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

/// The TLS listeners of one configuration. The files can be read anew.
#[derive(Debug)]
pub struct ServerTls {
    tls: Tls,
    /// How clients are asked for certificates, each way once.
    ways: Vec<Option<ClientCerts>>,
    tickets: Arc<Tickets>,
    metrics: Arc<Metrics>,
    current: ArcSwap<Loaded>,
}

/// What the files held.
#[derive(Debug)]
struct Loaded {
    store: Arc<Store>,
    settings: Vec<Settings>,
}

/// How connections are made where clients' certificates are dealt with this way.
#[derive(Debug)]
struct Settings {
    way: Option<ClientCerts>,
    config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Loaded {
    /// Certificates that clients will refuse.
    fn warnings(&self) -> Vec<String> {
        let now = SystemTime::now();
        let untimely = self.store.certificates().iter().filter_map(|one| one.untimely(now));
        untimely.map(|why| format!("{why}: clients will refuse it")).collect()
    }
}

impl ServerTls {
    /// Reads all that the TLS listeners of `config` need; none where there is no such listener. Blocks.
    ///
    /// A certificate that is expired is refused where it would take the place of one that is not; a process that starts takes
    /// it with a warning: it is better than nothing.
    ///
    /// # Errors
    /// One sentence for each file that cannot be used.
    pub fn load(
        config: &Config,
        tickets: &Arc<Tickets>,
        metrics: &Arc<Metrics>,
        previous: Option<&Self>,
    ) -> Result<Option<Arc<Self>>, String> {
        let mut ways = Vec::new();
        for listener in &config.server.listen {
            if let Protocol::Https { client_certs } = &listener.protocol
                && !ways.contains(client_certs)
            {
                ways.push(client_certs.clone());
            }
        }
        if ways.is_empty() {
            return Ok(None);
        }
        let in_use = previous.map(|previous| previous.current.load_full());
        let (loaded, problems) = read(&config.tls, &ways, tickets, in_use.as_deref());
        let loaded = loaded.filter(|_| problems.is_empty()).ok_or_else(|| problems.join("\n"))?;
        Ok(Some(Arc::new(Self {
            tls: config.tls.clone(),
            ways,
            tickets: tickets.clone(),
            metrics: metrics.clone(),
            current: ArcSwap::from_pointee(loaded),
        })))
    }

    /// Shows the certificates: they are in use.
    pub fn show(&self) {
        show(&self.current.load(), &self.metrics);
    }

    /// The settings for a connection that begins now.
    #[must_use]
    pub fn settings(&self, client_certs: Option<&ClientCerts>) -> Option<Arc<ServerConfig>> {
        let current = self.current.load();
        current.settings.iter().find(|settings| settings.way.as_ref() == client_certs).map(|it| it.config.clone())
    }

    /// Whether a client may still go by the certificate it showed when it came first: rustls asks nobody when a session is resumed,
    /// and each resumption may bring the ticket of the next (rustls 0.23 `server/tls13.rs`).
    #[must_use]
    pub fn trusts(&self, client_certs: Option<&ClientCerts>, chain: &[CertificateDer<'_>]) -> bool {
        // Without authorities there is nothing to verify by, and no certificate either.
        let (Some(_), Some((certificate, rest))) = (client_certs, chain.split_first()) else { return true };
        let current = self.current.load();
        let settings = current.settings.iter().find(|settings| settings.way.as_ref() == client_certs);
        settings.is_some_and(|it| it.verifier.verify_client_cert(certificate, rest, UnixTime::now()).is_ok())
    }

    /// Whether a connection on which a client asked for `name` is good for `host` as well.
    #[must_use]
    pub fn serves(&self, name: &str, host: &str) -> bool {
        self.current.load().store.shows_the_same(name, host)
    }
}

impl FromFiles for ServerTls {
    fn files(&self) -> Vec<PathBuf> {
        let certificates = self.tls.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
        let authorities = self.ways.iter().flatten().map(|way| &way.ca);
        certificates.chain(authorities).cloned().collect()
    }

    /// A certificate that cannot be used does not keep the others from being renewed.
    fn read_again(&self) -> Result<(), String> {
        let (loaded, problems) = read(&self.tls, &self.ways, &self.tickets, Some(&self.current.load()));
        loaded.into_iter().for_each(|loaded| self.current.store(Arc::new(loaded)));
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }
}

/// Checks that all files can be used, without using them. What is to be warned of. Blocks.
///
/// # Errors
/// One sentence for each file that cannot be.
pub fn check(config: &Config) -> Result<Vec<String>, String> {
    let metrics = Metrics::new("", &[]);
    let loaded = ServerTls::load(config, &Arc::default(), &metrics, None)?;
    Ok(loaded.map(|loaded| loaded.current.load().warnings()).unwrap_or_default())
}

fn show(loaded: &Loaded, metrics: &Metrics) {
    let reading = |one: &Certificate| CertificateReading {
        file: one.files.cert.display().to_string(),
        names: one.facts.names.clone(),
        not_after: one.facts.not_after,
    };
    metrics.tls.show(loaded.store.certificates().iter().map(reading).collect());
}

/// What the files hold, and what cannot be used of it: with problems, there is something if each certificate has an older state to
/// stay with.
fn read(
    tls: &Tls,
    ways: &[Option<ClientCerts>],
    tickets: &Tickets,
    in_use: Option<&Loaded>,
) -> (Option<Loaded>, Vec<String>) {
    let (certificates, mut problems) = certificates(tls, in_use);
    let is_complete = certificates.len() == tls.certificates.len();
    let store = Arc::new(Store::new(certificates));
    let mut settings = Vec::new();
    for way in ways {
        match build(tls, way.as_ref(), &store, tickets) {
            Ok(built) => settings.push(built),
            Err(problem) => problems.push(problem),
        }
    }
    let is_complete = is_complete && settings.len() == ways.len();
    (is_complete.then_some(Loaded { store, settings }), problems)
}

fn certificates(tls: &Tls, in_use: Option<&Loaded>) -> (Vec<Certificate>, Vec<String>) {
    let now = SystemTime::now();
    let (mut loaded, mut problems) = (Vec::new(), Vec::new());
    let of_old = |is_it: &dyn Fn(&Certificate) -> bool| {
        in_use.and_then(|in_use| in_use.store.certificates().iter().find(|old| is_it(old)).cloned())
    };
    for files in &tls.certificates {
        let usable = Certificate::load(files).and_then(|certificate| {
            let is_known = in_use.is_none() || of_old(&|old| old.key.cert == certificate.key.cert).is_some();
            match certificate.untimely(now) {
                Some(why) if !is_known => return Err(why),
                Some(why) => tracing::warn!("{why}: clients will refuse it"),
                None => {}
            }
            Ok(certificate)
        });
        match usable {
            Ok(certificate) => loaded.push(certificate),
            Err(problem) => {
                problems.push(problem);
                loaded.extend(of_old(&|old| old.files == *files));
            }
        }
    }
    (loaded, problems)
}

fn build(tls: &Tls, way: Option<&ClientCerts>, store: &Arc<Store>, tickets: &Tickets) -> Result<Settings, String> {
    let versions = match tls.min_version {
        TlsVersion::V12 => ALL_VERSIONS,
        TlsVersion::V13 => NEW_VERSIONS,
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| format!("tls.min_version: {error}"))?;
    let (verifier, circle) = way.map_or_else(|| Ok((Arc::new(NoClientAuth) as Arc<_>, Circle::Anybody)), clients)?;
    let mut config = builder.with_client_cert_verifier(verifier.clone()).with_cert_resolver(store.clone());
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    config.ticketer = tickets.of(circle)?;
    // Tickets are enough, and cost no memory here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Settings { way: way.cloned(), config: Arc::new(config), verifier })
}

/// Who verifies clients' certificates, and whose tickets are good.
fn clients(way: &ClientCerts) -> Result<(Arc<dyn ClientCertVerifier>, Circle), String> {
    let authorities = pem::certificates(&way.ca)?;
    let circle = Circle::Clients {
        authorities: authorities.iter().flat_map(|der: &CertificateDer<'_>| der.iter().copied()).collect(),
        required: way.required,
    };
    let unusable = |error: &dyn std::fmt::Display| format!("{}: {error}", way.ca.display());
    let mut roots = RootCertStore::empty();
    for der in authorities {
        roots.add(der).map_err(|error| unusable(&error))?;
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    if !way.required {
        verifier = verifier.allow_unauthenticated();
    }
    Ok((verifier.build().map_err(|error| unusable(&error))?, circle))
}
