//! `access` of a route, its lists and what the file adds; and `[maintenance]`.

use std::path::Path;
use std::time::Duration;

use super::super::error::Report;
use super::super::interpolate::read_bounded;
use super::super::model::{Access, Maintenance, Networks};
use super::super::place::{At, Place};
use super::super::raw;
use super::super::schema::refuse_repeats;
use super::super::value::TrustedPeer;
use super::super::walk::{Text, quoted};
use super::{error_pages, given};

/// Bytes of a file of networks; some hundred thousand of them.
const FILE_MAX: u64 = 16 << 20;
/// Mistakes of one file that are told.
const TOLD_MAX: usize = 5;

pub(super) fn build(raw: At<raw::Access>, base: &Path, report: &mut Report) -> Access {
    let (at, raw) = (raw.place, raw.value);
    let mut access = Access::default();
    (access.allow, access.deny) = (networks(given(raw.allow), report), networks(given(raw.deny), report));
    let has_file = raw.file.as_ref().is_none_or(|file| !file.value.0.as_os_str().is_empty());
    if let Some(At { value: file, place }) = raw.file.filter(|file| !file.value.0.as_os_str().is_empty()) {
        read(&base.join(file.0), &place, &mut access, report);
    }
    access.users = raw.basic_auth.map(|users| users.value);
    let says_nothing =
        access.allow.is_empty() && access.deny.is_empty() && !has_file && !raw.written.contains(&"basic_auth");
    // What was refused has been said.
    if says_nothing && report.is_clean() {
        report.problem(
            &at,
            "keeps nobody out; expected `allow`, `deny`, `file` or `basic_auth` with something in it, or no `access`",
        );
    }
    access
}

pub(super) fn maintenance(raw: raw::Maintenance, base: &Path, report: &mut Report) -> Maintenance {
    Maintenance {
        file: raw.file.map(|file| file.value.0),
        retry_after: raw.retry_after.map_or(Duration::ZERO, |time| time.value.0),
        page: raw.page.and_then(|page| error_pages::read(&page, base, report)),
        allow: networks(given(raw.allow), report),
    }
}

fn networks(list: Vec<At<TrustedPeer>>, report: &mut Report) -> Networks {
    refuse_repeats(report, &list, Clone::clone);
    let mut networks = Networks::default();
    list.into_iter().for_each(|peer| add(&mut networks, &peer.value));
    networks
}

fn add(networks: &mut Networks, peer: &TrustedPeer) {
    match peer {
        TrustedPeer::Net(net) => networks.nets.push(*net),
        TrustedPeer::Unix => networks.unix = true,
    }
}

fn read(file: &Path, place: &Place, access: &mut Access, report: &mut Report) {
    let text = read_bounded(file, FILE_MAX)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| format!("cannot read {}: not UTF-8", file.display())));
    let text = match text {
        Ok(text) => text,
        Err(reason) => return report.problem(place, reason),
    };
    let (mut wrong, mut is_empty) = (0, true);
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        is_empty = false;
        match entry(line) {
            Ok((true, peer)) => add(&mut access.allow, &peer),
            Ok((false, peer)) => add(&mut access.deny, &peer),
            Err(why) => {
                wrong += 1;
                if wrong <= TOLD_MAX {
                    report.problem(place, format!("{}, line {}: {why}", file.display(), number + 1));
                }
            }
        }
    }
    if wrong > TOLD_MAX {
        report.problem(place, format!("{}: {} more lines like these", file.display(), wrong - TOLD_MAX));
    }
    if is_empty {
        report.warn(place, format!("{} names no network", file.display()));
    }
}

/// Whether it may come, and who; a semicolon behind it, as nginx has, does no harm.
fn entry(line: &str) -> Result<(bool, TrustedPeer), String> {
    let mut words = line.trim_end_matches(';').split_whitespace();
    let (verb, network, rest) = (words.next(), words.next(), words.next());
    let may_come = match verb {
        Some("allow") => true,
        Some("deny") => false,
        _ => return Err(format!("expected `allow` or `deny` and a network; found {}", quoted(line))),
    };
    let (Some(network), None) = (network, rest) else {
        return Err(format!("expected one network after `allow` or `deny`; found {}", quoted(line)));
    };
    if network == "all" {
        let hint =
            if may_come { "without a line of `allow` all may" } else { "a line of `allow` keeps all others out" };
        return Err(format!("expected a network; found \"all\": {hint}"));
    }
    let peer = TrustedPeer::parse(network);
    peer.map(|peer| (may_come, peer)).map_err(|reject| reject.message(TrustedPeer::EXPECTED, &quoted(network)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_file() {
        let net = |text: &str| TrustedPeer::Net(text.parse().unwrap());
        assert_eq!(entry("allow 10.0.0.0/8"), Ok((true, net("10.0.0.0/8"))));
        assert_eq!(entry("deny  192.0.2.7;"), Ok((false, net("192.0.2.7/32"))));
        assert_eq!(entry("deny 2001:db8::/32"), Ok((false, net("2001:db8::/32"))));
        assert_eq!(entry("allow unix"), Ok((true, TrustedPeer::Unix)));
        for (line, why) in [
            ("10.0.0.0/8", "expected `allow` or `deny`"),
            ("allow", "expected one network"),
            ("allow 10.0.0.1 10.0.0.2", "expected one network"),
            ("deny all;", "a line of `allow` keeps all others out"),
            ("allow 10.0.0.1/8", "did you mean \"10.0.0.0/8\"?"),
            ("deny example.com", "expected a network such as"),
        ] {
            assert!(entry(line).unwrap_err().contains(why), "{line}: {:?}", entry(line));
        }
    }
}
