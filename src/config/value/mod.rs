//! The small languages inside strings: text to value, and value to the text it is written as.
//!
//! Each file is one language with its own tests. Whether values fit together is for `validate`.

mod address;
mod balance;
mod cache;
mod collector;
mod date;
mod duration;
mod file;
mod header;
mod host;
mod limit;
mod origin;
mod path;
mod quantity;
mod redirect;
mod redis_url;
mod status;
mod users;
mod word;

pub use address::{NameServer, TrustedPeer};
pub use collector::CollectorUrl;
pub use date::Date;
pub use duration::{Keepalive, Timeout};
pub use file::{AbsoluteDir, AbsoluteFile, ListFile, PageFile, PemFile, SocketFile};
pub use header::{CorsField, FieldName, FieldValue, HealthHost, HealthPath};
pub use host::ServerName;
pub use limit::{COUNT_MAX, LimitRate};
pub use path::StripPrefix;
pub use quantity::{HeadSize, Percent, Rate, Share, Size};
pub use redirect::RedirectStatus;
pub use word::LogField;
pub use word::PRESETS;

pub use duration::text as duration_text;
pub use path::is_inside as path_is_inside;
