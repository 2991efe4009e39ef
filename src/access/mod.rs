//! Who may come: by address, and with a password.
//!
//! | what | file |
//! |---|---|
//! | networks, found among hundreds of thousands in a few steps | [`addresses`] |
//! | what a request says of its user | [`credentials`] |
//! | passwords checked beside the workers, and those that were right remembered | [`logins`] |
//! | a password made a hash | [`password`] |

pub mod addresses;
pub mod credentials;
pub mod logins;
pub mod password;

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::model;
use addresses::Addresses;
use logins::Gate;

/// Who may come to one route.
#[derive(Debug)]
pub struct Access {
    /// None: all that `deny` does not name.
    allow: Option<Addresses>,
    deny: Addresses,
    /// None: no password is asked for.
    pub gate: Option<Arc<Gate>>,
}

impl Access {
    #[must_use]
    pub fn build(config: &model::Access) -> Self {
        Self {
            allow: (!config.allow.is_empty()).then(|| Addresses::build(&config.allow)),
            deny: Addresses::build(&config.deny),
            gate: config.users.as_ref().map(|users| Arc::new(Gate::build(users))),
        }
    }

    /// Whether a client may come; none is a peer of a Unix socket that says of no client.
    #[must_use]
    pub fn admits(&self, client: Option<IpAddr>) -> bool {
        !self.deny.contains(client) && self.allow.as_ref().is_none_or(|allow| allow.contains(client))
    }
}
