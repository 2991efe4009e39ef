//! Who may come to a route, and when nobody may, with nothing left to parse.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::ErrorPage;

/// `access` of a route.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Empty: everybody whom `deny` does not name.
    pub allow: Networks,
    pub deny: Networks,
    /// Who may come with a password; none: no password is asked for.
    pub users: Option<Users>,
}

/// Networks, and whether peers of Unix sockets are among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    pub nets: Vec<IpNet>,
    pub unix: bool,
}

impl Networks {
    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty() && !self.unix
    }
}

/// When everybody is answered 503.
#[derive(Debug, Clone, Default)]
pub struct Maintenance {
    /// While it exists.
    pub file: Option<PathBuf>,
    pub retry_after: Duration,
    /// None: that of the error pages, or our own.
    pub page: Option<Arc<ErrorPage>>,
    /// Who is served all the same.
    pub allow: Networks,
}

/// Names with hashes of their passwords, each name once, in the order they were written.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Users(pub Vec<(String, PasswordHash)>);

/// What a password is checked against.
#[derive(Clone, PartialEq, Eq)]
pub enum PasswordHash {
    /// As in the PHC string format: `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`.
    Argon2(String),
    /// As `crypt` has it: `$2b$10$…`.
    Bcrypt(String),
}

impl PasswordHash {
    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Argon2(text) | Self::Bcrypt(text) => text,
        }
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("PasswordHash")
    }
}
