//! Names of files: where something is written, where a socket is bound, which page is read.

use std::path::{Path, PathBuf};

use super::super::model::AccessTarget;
use super::super::walk::{Reject, Text};
use super::address::unix_path;

/// A file by its absolute path. Relative ones would depend on where the process was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AbsoluteFile(pub PathBuf);

/// A directory by its absolute path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AbsoluteDir(pub PathBuf);

/// `unix:/run/x.sock`, held without `unix:`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketFile(pub PathBuf);

/// A page to be read, relative to the configuration file, and the media type its extension stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageFile {
    pub path: PathBuf,
    pub content_type: &'static str,
}

/// A PEM file, relative to the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PemFile(pub PathBuf);

/// A file of networks, relative to the configuration file; empty: there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFile(pub PathBuf);

impl Text for ListFile {
    const KIND: &'static str = "file";
    const EXPECTED: &'static str = "the path of a file of networks such as \"/etc/propylon/access\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if text.ends_with('/') || text.contains(['\0', '\n']) { Err(Reject::Unlike) } else { Ok(Self(text.into())) }
    }
}

impl Text for PemFile {
    const KIND: &'static str = "PEM file";
    const EXPECTED: &'static str = "the path of a PEM file such as \"/etc/propylon/fullchain.pem\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if text.is_empty() || text.ends_with('/') || text.contains('\0') {
            return Err(Reject::Unlike);
        }
        if text.contains("-----BEGIN") {
            return Err(Reject::because("the path is wanted, not what the file holds"));
        }
        Ok(Self(text.into()))
    }
}

impl Text for AbsoluteFile {
    const KIND: &'static str = "path";
    const EXPECTED: &'static str = "an absolute path such as \"/run/propylon.pid\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if !text.starts_with('/') || text.ends_with('/') || text.contains('\0') {
            return Err(Reject::Unlike);
        }
        Ok(Self(text.into()))
    }
}

impl Text for AbsoluteDir {
    const KIND: &'static str = "directory";
    const EXPECTED: &'static str = "the absolute path of a directory such as \"/var/tmp\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        if !text.starts_with('/') || text.contains('\0') {
            return Err(Reject::Unlike);
        }
        // Two ways to write one directory are no change.
        Ok(Self(Path::new(text).components().collect()))
    }
}

impl Text for SocketFile {
    const KIND: &'static str = "socket";
    const EXPECTED: &'static str = "a socket such as \"unix:/run/propylon-control.sock\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        match text.strip_prefix("unix:") {
            Some(path) => unix_path(path).map(Self),
            None if text.starts_with('/') => Err(Reject::Near(format!("unix:{text}"))),
            None => Err(Reject::Unlike),
        }
    }
}

impl Text for AccessTarget {
    const KIND: &'static str = "\"stdout\", \"off\" or a path";
    const EXPECTED: &'static str = "\"stdout\", \"off\" or an absolute path";

    fn parse(text: &str) -> Result<Self, Reject> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "off" => Ok(Self::Off),
            path => match AbsoluteFile::parse(path) {
                Ok(file) => Ok(Self::File(file.0)),
                // A slip in "stdout" must not become a file of that name.
                Err(reject) => Err(super::super::error::nearest(path, ["stdout", "off"])
                    .map_or(reject, |near| Reject::Near(near.to_owned()))),
            },
        }
    }
}

impl Text for PageFile {
    const KIND: &'static str = "file";
    const EXPECTED: &'static str = "a file that ends in .html, .json or .txt";

    fn parse(text: &str) -> Result<Self, Reject> {
        let content_type = match Path::new(text).extension().and_then(|extension| extension.to_str()) {
            Some("html") => "text/html; charset=utf-8",
            Some("json") => "application/json",
            Some("txt") => "text/plain; charset=utf-8",
            _ => return Err(Reject::Unlike),
        };
        Ok(Self { path: text.into(), content_type })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_files_are() {
        assert_eq!(AccessTarget::parse("/var/log/a.log"), Ok(AccessTarget::File("/var/log/a.log".into())));
        assert_eq!(AccessTarget::parse("stdot"), Err(Reject::Near("stdout".into())));
        assert!(AccessTarget::parse("logs/a.log").is_err());
        assert!(AbsoluteFile::parse("/run/").is_err());
        assert_eq!(AbsoluteDir::parse("/var//tmp/"), AbsoluteDir::parse("/var/tmp"));
        assert_eq!(AbsoluteDir::parse("/"), Ok(AbsoluteDir("/".into())));
        assert!(AbsoluteDir::parse("").is_err() && AbsoluteDir::parse("tmp").is_err());
        assert_eq!(SocketFile::parse("/run/x"), Err(Reject::Near("unix:/run/x".into())));
        assert_eq!(SocketFile::parse("unix:/run/x"), Ok(SocketFile("/run/x".into())));
        assert_eq!(PageFile::parse("a/503.html").unwrap().content_type, "text/html; charset=utf-8");
        assert!(PageFile::parse("503").is_err() && PageFile::parse("x.HTM").is_err());
    }
}
