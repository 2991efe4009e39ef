//! `access` of a route, and `[maintenance]`.

use super::super::model::Users;
use super::super::place::At;
use super::super::schema::{Described, Inside, KeyInfo, Presence, SectionInfo, section};
use super::super::value::{AbsoluteFile, ListFile, PageFile, Timeout, TrustedPeer};
use super::super::walk::{Node, Read, Walk};

section! {
    /// Who may come to a route. The address is that of the client behind `server.trusted_proxies`; one that may not come is answered
    /// 403, before limits and before anything else is done for it.
    Access {
        /// Networks and addresses that may come, and `"unix"` for peers of Unix-socket listeners that say of no client. Empty, here
        /// and in `file`: all that `deny` does not name.
        ///
        /// Example: `["10.0.0.0/8", "2001:db8::/32"]`
        allow: Vec<At<TrustedPeer>> = "[]",
        /// Those that may not, whatever `allow` says.
        ///
        /// Example: `["10.1.2.3"]`
        deny: Vec<At<TrustedPeer>> = "[]",
        /// A file with more of both: lines of `allow` or `deny` and a network, `#` begins a comment. Read when the configuration is,
        /// so also at SIGHUP. Relative to the configuration file; 16 MiB at most.
        ///
        /// Example: `"/etc/propylon/access"`
        file: ListFile = r#""""#,
        /// Names and passwords (HTTP Basic): lines of `name:hash`, as `propylon hash-password` and `htpasswd -B` write them, with
        /// Argon2 or bcrypt. Requests without the right ones are answered 401. A client (of IPv6 the /64) has ten wrong ones
        /// at once and one more each six seconds; further ones are answered 429. `Authorization` goes on to the app, unless `request_headers.remove` names it.
        ///
        /// Example: `"file:/etc/propylon/users"`
        basic_auth: Users,
    }
}

section! {
    /// Maintenance: every request for a route is answered 503 with `Retry-After`, but for those of `allow` and those below
    /// `/.well-known/acme-challenge/`. It begins with
    /// `propylon maintenance on` and ends with `propylon maintenance off`, over the control socket; and it lasts while `file` is there.
    /// What is under way is finished. `/readyz` goes on saying yes, as the page is what clients are to see.
    Maintenance {
        /// Maintenance lasts while this file exists, whatever it holds. Looked for once a second.
        ///
        /// Example: `"/run/propylon/maintenance"`
        file: AbsoluteFile,
        /// What `Retry-After` says.
        retry_after: Timeout = r#""5m""#,
        /// The page, in place of the gateway's own and of `[error_pages]`; read once when the configuration is loaded, relative to the
        /// configuration file. Its extension gives the media type: `.html`, `.json` or `.txt`.
        ///
        /// Example: `"/etc/propylon/maintenance.html"`
        page: PageFile,
        /// Who is served all the same, to see whether all is well before everybody comes: networks and addresses, and `"unix"` for
        /// peers of Unix-socket listeners that say of no client.
        ///
        /// Example: `["10.0.0.0/8"]`
        allow: Vec<At<TrustedPeer>> = "[]",
    }
}
