//! Where an endpoint listens, with nothing left to resolve.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::model::EndpointAddr;

/// Where to connect, with nothing left to resolve.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Tcp(SocketAddr),
    /// Canonical as far as its directories exist: `/var/run/a.sock` and `/run/a.sock` are one address.
    Unix(PathBuf),
    /// Linux' abstract namespace, without the leading `@`.
    Abstract(String),
}

impl Address {
    /// The address that is written out in the configuration; none for a name.
    #[must_use]
    pub fn literal(address: &EndpointAddr) -> Option<Self> {
        match address {
            EndpointAddr::Ip(address) => Some(Self::Tcp(*address)),
            EndpointAddr::Unix(path) => Some(Self::Unix(canonical(path))),
            EndpointAddr::Abstract(name) => Some(Self::Abstract(name.clone())),
            EndpointAddr::Host { .. } => None,
        }
    }
}

/// The directory is resolved and the file name kept: a restarting app may not have made its socket yet.
fn canonical(path: &Path) -> PathBuf {
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(directory)), Some(name)) => directory.join(name),
        _ => path.to_path_buf(),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}
