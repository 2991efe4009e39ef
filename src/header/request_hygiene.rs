//! Sorts request fields by name: what goes on to the app, what is ours to say, what nobody may say.
//!
//! WSGI makes `-` and `_` the same letter, so `X_Forwarded_For` would stand beside our X-Forwarded-For, and `SCRIPT_NAME`
//! would move the app's routes (CVE-2015-0219, CVE-2026-3902). Hence only letters, digits and `-` pass. Names an app, a
//! framework or a server reads as the gateway's word about the client are dropped whoever sent them, and ours are added
//! afterwards. Names that are no token at all (RFC 9110 section 5.1) are the head parser's to refuse.

/// What becomes of a request field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// Goes on as it came, unless Connection lists it.
    Keep,
    /// User-Agent: goes on, and is logged.
    UserAgent,
    /// Referer: goes on, and is logged.
    Referer,
    /// Content-Type, Authorization: goes on, once; of several, apps read this one or that.
    Single,
    /// Cookie: goes on, as one field.
    Cookie,
    /// Host: goes on; routes by it.
    Host,
    /// Content-Length: framing.
    ContentLength,
    /// Transfer-Encoding: framing.
    TransferEncoding,
    /// Connection: obeyed, then dropped ([`hop_by_hop`](super::hop_by_hop)).
    Connection,
    /// Upgrade: dropped but for an upgrade that is passed on.
    Upgrade,
    /// Expect: ours to answer.
    Expect,
    /// Meant for this hop alone; dropped (RFC 9110 section 7.6.1). Credentials for a proxy are among them: we are the
    /// last that could ask for them, and they are not the app's.
    HopByHop,
    /// X-Forwarded-For: read from trusted peers, never passed on as received; so are the next four.
    ForwardedFor,
    /// X-Forwarded-Proto
    ForwardedProto,
    /// X-Forwarded-Host
    ForwardedHost,
    /// X-Forwarded-Port
    ForwardedPort,
    /// Forwarded
    Forwarded,
    /// X-Request-ID: kept from trusted peers, replaced otherwise.
    RequestId,
    /// Claims something only a gateway may claim; dropped whoever sent it.
    Spoofable,
    /// Holds a byte other than letters, digits and `-`, or none; dropped and counted.
    BadName,
}

use FieldKind as Kind;

/// How names of what is known of a client's certificate begin in some gateways.
const SSL_CLIENT: &[u8] = b"ssl-client-";

/// Sorts a field by its raw name, in any case.
///
/// One pass over the name, then a comparison with the few known names of its length.
#[must_use]
pub fn classify(name: &[u8]) -> FieldKind {
    if name.is_empty() || !name.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Kind::BadName;
    }
    if let [b'X' | b'x', b'-', rest @ ..] = name {
        return classify_x(rest);
    }
    if name.get(..SSL_CLIENT.len()).is_some_and(|start| start.eq_ignore_ascii_case(SSL_CLIENT)) {
        return Kind::Spoofable;
    }
    let known: &[(&str, Kind)] = match name.len() {
        2 => &[("te", Kind::HopByHop)],
        4 => &[("host", Kind::Host)],
        5 => &[("proxy", Kind::Spoofable)],
        6 => &[("expect", Kind::Expect), ("cookie", Kind::Cookie)],
        7 => &[("referer", Kind::Referer), ("upgrade", Kind::Upgrade), ("trailer", Kind::HopByHop)],
        9 => &[("forwarded", Kind::Forwarded), ("client-ip", Kind::Spoofable)],
        10 => &[("user-agent", Kind::UserAgent), ("connection", Kind::Connection), ("keep-alive", Kind::HopByHop)],
        12 => &[("content-type", Kind::Single)],
        13 => &[("forwarded-for", Kind::Spoofable), ("authorization", Kind::Single)],
        11 => &[("client-cert", Kind::Spoofable)],
        14 => &[
            ("content-length", Kind::ContentLength),
            ("true-client-ip", Kind::Spoofable),
            ("http2-settings", Kind::HopByHop),
        ],
        15 => &[("front-end-https", Kind::Spoofable)],
        16 => &[
            ("proxy-connection", Kind::HopByHop),
            ("cf-connecting-ip", Kind::Spoofable),
            ("fastly-client-ip", Kind::Spoofable),
            // Daphne takes the app's root from it.
            ("daphne-root-path", Kind::Spoofable),
        ],
        17 => &[("transfer-encoding", Kind::TransferEncoding), ("client-cert-chain", Kind::Spoofable)],
        18 => &[("cf-connecting-ipv6", Kind::Spoofable), ("proxy-authenticate", Kind::HopByHop)],
        19 => &[("proxy-authorization", Kind::HopByHop)],
        _ => &[],
    };
    look_up(name, known)
}

/// Sorts what follows `X-`.
fn classify_x(rest: &[u8]) -> FieldKind {
    let behind = |prefix: &str| {
        let (start, behind) = rest.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix.as_bytes()).then_some(behind)
    };
    match rest.first().map(u8::to_ascii_lowercase) {
        Some(b'f') => match behind("forwarded") {
            Some(tail @ ([] | [b'-', ..])) => classify_forwarded(tail),
            _ => Kind::Keep,
        },
        Some(b'a') if ["accel-", "amzn-mtls-", "arr-clientcert"].iter().any(|it| behind(it).is_some()) => {
            Kind::Spoofable
        }
        Some(b's') if behind("sendfile").is_some() || behind("ssl-client-").is_some() => Kind::Spoofable,
        Some(b'c') if behind("client-cert").is_some() => Kind::Spoofable,
        Some(b'c' | b'o' | b'q' | b'r' | b's' | b'u') => {
            let known: &[(&str, Kind)] = match rest.len() {
                6 => &[("scheme", Kind::Spoofable)],
                7 => &[("real-ip", Kind::Spoofable)],
                8 => &[("ssl-cert", Kind::Spoofable)],
                9 => &[("client-ip", Kind::Spoofable), ("client-dn", Kind::Spoofable), ("csp-nonce", Kind::Spoofable)],
                10 => &[("request-id", Kind::RequestId), ("url-scheme", Kind::Spoofable)],
                11 => &[
                    ("rewrite-url", Kind::Spoofable),
                    ("queue-start", Kind::Spoofable),
                    ("script-name", Kind::Spoofable),
                ],
                12 => &[("original-url", Kind::Spoofable), ("original-uri", Kind::Spoofable)],
                13 => &[
                    ("request-start", Kind::Spoofable),
                    ("original-host", Kind::Spoofable),
                    ("client-verify", Kind::Spoofable),
                ],
                17 => &[("cluster-client-ip", Kind::Spoofable)],
                22 => &[("original-forwarded-for", Kind::Spoofable)],
                _ => &[],
            };
            look_up(rest, known)
        }
        _ => Kind::Keep,
    }
}

/// Sorts what follows `X-Forwarded`. There is no end to such names in use (-Ssl, -Protocol, -Prefix, ...), and gunicorn
/// answers 400 where two of them disagree: whatever is not read is not passed on either.
fn classify_forwarded(tail: &[u8]) -> FieldKind {
    let known: &[(&str, Kind)] = match tail.len() {
        4 => &[("-for", Kind::ForwardedFor)],
        5 => &[("-host", Kind::ForwardedHost), ("-port", Kind::ForwardedPort)],
        6 => &[("-proto", Kind::ForwardedProto)],
        _ => &[],
    };
    match look_up(tail, known) {
        Kind::Keep => Kind::Spoofable,
        kind => kind,
    }
}

fn look_up(name: &[u8], known: &[(&str, FieldKind)]) -> FieldKind {
    known.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name)).map_or(Kind::Keep, |&(_, kind)| kind)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every name that is known as a whole.
    const NAMES: &[(&str, Kind)] = &[
        ("User-Agent", Kind::UserAgent),
        ("Referer", Kind::Referer),
        ("Host", Kind::Host),
        ("Content-Length", Kind::ContentLength),
        ("Transfer-Encoding", Kind::TransferEncoding),
        ("Connection", Kind::Connection),
        ("Upgrade", Kind::Upgrade),
        ("Expect", Kind::Expect),
        ("Keep-Alive", Kind::HopByHop),
        ("Proxy-Connection", Kind::HopByHop),
        ("TE", Kind::HopByHop),
        ("Trailer", Kind::HopByHop),
        ("Proxy-Authenticate", Kind::HopByHop),
        ("Proxy-Authorization", Kind::HopByHop),
        ("HTTP2-Settings", Kind::HopByHop),
        ("X-Forwarded-For", Kind::ForwardedFor),
        ("X-Forwarded-Proto", Kind::ForwardedProto),
        ("X-Forwarded-Host", Kind::ForwardedHost),
        ("X-Forwarded-Port", Kind::ForwardedPort),
        ("Forwarded", Kind::Forwarded),
        ("X-Request-ID", Kind::RequestId),
        ("X-Real-IP", Kind::Spoofable),
        ("X-Scheme", Kind::Spoofable),
        ("X-Url-Scheme", Kind::Spoofable),
        ("Front-End-Https", Kind::Spoofable),
        ("X-Original-URL", Kind::Spoofable),
        ("X-Original-URI", Kind::Spoofable),
        ("X-Original-Host", Kind::Spoofable),
        ("X-Original-Forwarded-For", Kind::Spoofable),
        ("X-Rewrite-URL", Kind::Spoofable),
        ("Proxy", Kind::Spoofable),
        ("True-Client-IP", Kind::Spoofable),
        ("CF-Connecting-IP", Kind::Spoofable),
        ("CF-Connecting-IPv6", Kind::Spoofable),
        ("Fastly-Client-IP", Kind::Spoofable),
        ("Client-IP", Kind::Spoofable),
        ("Forwarded-For", Kind::Spoofable),
        ("X-Request-Start", Kind::Spoofable),
        ("X-Queue-Start", Kind::Spoofable),
        ("X-Client-IP", Kind::Spoofable),
        ("X-Cluster-Client-IP", Kind::Spoofable),
        ("X-Forwarded", Kind::Spoofable),
        ("X-Forwarded-", Kind::Spoofable),
        ("X-Forwarded-Ssl", Kind::Spoofable),
        ("X-Forwarded-Client-Cert", Kind::Spoofable),
        ("Client-Cert", Kind::Spoofable),
        ("Client-Cert-Chain", Kind::Spoofable),
        ("X-Client-Cert-Subject", Kind::Spoofable),
        ("X-Client-Cert-SHA256", Kind::Spoofable),
        ("X-SSL-Client-Verify", Kind::Spoofable),
        ("X-Client-Cert", Kind::Spoofable),
        ("X-Client-Verify", Kind::Spoofable),
        ("X-Client-DN", Kind::Spoofable),
        ("X-SSL-Cert", Kind::Spoofable),
        ("X-ARR-ClientCert", Kind::Spoofable),
        ("X-Amzn-Mtls-Clientcert-Serial-Number", Kind::Spoofable),
        ("SSL-Client-Subject-DN", Kind::Spoofable),
        ("SSL-Client", Kind::Keep),
        ("Daphne-Root-Path", Kind::Spoofable),
        ("X-Script-Name", Kind::Spoofable),
        ("X-Forwarded-Protocol", Kind::Spoofable),
        ("X-Forwarded-Prefix", Kind::Spoofable),
        ("X-Accel-Redirect", Kind::Spoofable),
        ("X-Sendfile", Kind::Spoofable),
        ("X-Sendfile-Type", Kind::Spoofable),
        ("SCRIPT_NAME", Kind::BadName),
        ("PATH_INFO", Kind::BadName),
        ("X_Forwarded_For", Kind::BadName),
        ("X-Auth_User", Kind::BadName),
        ("X.Y", Kind::BadName),
        ("", Kind::BadName),
        ("X-Forwardedness", Kind::Keep),
        ("X-", Kind::Keep),
        ("X-Accel", Kind::Keep),
        ("Accept", Kind::Keep),
        ("Cookie", Kind::Cookie),
        ("Authorization", Kind::Single),
        ("Content-Type", Kind::Single),
        ("Cookies", Kind::Keep),
        ("Sec-WebSocket-Key", Kind::Keep),
        ("X-Requested-With", Kind::Keep),
        ("X-CSRFToken", Kind::Keep),
    ];

    fn naive(name: &str) -> FieldKind {
        let lower = name.to_ascii_lowercase();
        let known = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            Kind::BadName
        } else if let Some(&(_, kind)) = known {
            kind
        } else if [
            "x-forwarded-",
            "x-accel-",
            "x-sendfile",
            "x-ssl-client-",
            "x-client-cert",
            "x-arr-clientcert",
            "x-amzn-mtls-",
            "ssl-client-",
        ]
        .iter()
        .any(|prefix| lower.starts_with(prefix))
        {
            Kind::Spoofable
        } else {
            Kind::Keep
        }
    }

    #[test]
    fn known_names() {
        for &(name, kind) in NAMES {
            assert_eq!(classify(name.as_bytes()), kind, "{name}");
            assert_eq!(naive(name), kind, "{name}");
        }
    }

    /// Known names in any case, whole or with something cut off, put on or changed.
    fn some_name() -> impl Strategy<Value = String> {
        let known = prop::sample::select(NAMES).prop_map(|(name, _)| name.to_owned());
        let near = (known, prop::collection::vec(any::<bool>(), 32), 0..8_usize, "[a-z_-]{0,2}");
        near.prop_map(|(name, upper, cut, end)| {
            let cased = name
                .chars()
                .zip(upper.into_iter().cycle())
                .map(|(c, upper)| if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
            let cased: String = cased.collect();
            match cut {
                0 => format!("{cased}{end}"),
                1 => cased.chars().skip(1).collect(),
                2 => cased.chars().take(name.len().saturating_sub(1)).collect(),
                _ => cased,
            }
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_table(name in prop_oneof![some_name(), "[ -~]{0,20}"]) {
            prop_assert_eq!(classify(name.as_bytes()), naive(&name));
        }

        #[test]
        fn case_means_nothing(name in prop::collection::vec(any::<u8>(), 0..24)) {
            prop_assert_eq!(classify(&name), classify(&name.to_ascii_uppercase()));
        }
    }
}
