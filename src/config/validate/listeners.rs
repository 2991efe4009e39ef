//! Listeners: no two of them may want the same address, and TLS wants certificates.

use super::super::error::Report;
use super::super::model::{ClientCerts, ListenAddr, Listener, Protocol};
use super::super::place::{At, Place};
use super::super::raw::{self, Admin, Server, Tls};
use super::given;
use super::tls::path;
use std::path::Path;

/// Checks the listeners of `server` and `admin` and the control socket against each other.
pub(super) fn check(server: &Server, admin: &Admin, report: &mut Report) {
    let mut taken: Vec<(ListenAddr, &Place)> = Vec::new();
    let plain = server.listen.iter().flat_map(|list| &list.value).filter_map(|item| item.value.address.as_ref());
    let tls = server.listen_tls.iter().flat_map(|list| &list.value).filter_map(|item| item.value.address.as_ref());
    let operators = admin.listen.iter().flat_map(|list| &list.value.0).filter_map(|item| item.value.address.as_ref());
    let control = admin.control.as_ref().map(|control| (ListenAddr::Unix(control.value.0.clone()), &control.place));
    let placed = plain.chain(tls).chain(operators).map(|address| (address.value.clone(), &address.place));
    for (address, place) in placed.chain(control) {
        // Two on port 0 could both be bound, but in one section a listener has no other name than its address.
        let namesake = |(earlier, at): &&(ListenAddr, &Place)| *earlier == address && section(at) == section(place);
        match taken.iter().find(|other| other.0.clashes_with(&address) || namesake(other)) {
            Some((earlier, at)) if *earlier == address => {
                report.problem(place, format!("{address} is taken by {at} already"));
            }
            Some((earlier, at)) => {
                report.problem(place, format!("{address} clashes with {earlier} of {at}: the one includes the other"));
            }
            None => taken.push((address, place)),
        }
    }
}

/// `server` or `admin`.
fn section(place: &Place) -> Option<&str> {
    place.path.split('.').next()
}

/// Checks what the listeners need besides an address.
pub(super) fn check_needs(server: &Server, tls: &Tls, report: &mut Report) {
    let count = |list: Option<usize>| list.unwrap_or_default();
    let plain = count(server.listen.as_ref().map(|list| list.value.len()));
    let secure = count(server.listen_tls.as_ref().map(|list| list.value.len()));
    let certificates = count(tls.certificates.as_ref().map(|list| list.value.len()));
    let refused = |list: &At<_>| report.has_problem_in(&list.place.path);
    if let Some(list) = server.listen.as_ref().filter(|list| plain == 0 && secure == 0 && !refused(list)) {
        report.problem(&list.place, "expected at least one listener, here or in `listen_tls`; found an empty list");
    }
    if let Some(list) = server.listen_tls.as_ref().filter(|_| secure > 0 && certificates == 0)
        && !report.has_problem_in("tls.certificates")
    {
        report.problem(&list.place, "a TLS listener needs a certificate; expected one in [[tls.certificates]]");
    }
    if let Some(list) = tls.certificates.as_ref().filter(|_| certificates > 0 && secure == 0)
        && !server.written.contains(&"listen_tls")
    {
        report.warn(&list.place, "no certificate is used: there is no `server.listen_tls`");
    }
    if let Some(redirect) = server.https_redirect.as_ref().filter(|redirect| redirect.value && secure == 0) {
        report.problem(&redirect.place, "there is nowhere to redirect to: expected `listen_tls` beside it");
    }
    let trusts = server.trusted_proxies.as_ref().is_none_or(|list| !list.value.is_empty());
    let proxied = server.listen.iter().flat_map(|list| &list.value).map(|item| &item.value.proxy_protocol);
    let tls_proxied = server.listen_tls.iter().flat_map(|list| &list.value).map(|item| &item.value.proxy_protocol);
    for flag in proxied.chain(tls_proxied).flatten().filter(|flag| flag.value && !trusts) {
        report.problem(
            &flag.place,
            "only peers in `server.trusted_proxies` are listened to, and it names none; expected the proxies' addresses there",
        );
    }
}

/// Every listener for clients, plain ones first. Files are looked for in `base`.
pub(super) fn build(server: &mut Server, base: &Path) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for At { value, .. } in given(server.listen.take()) {
        let proxy_protocol = given(value.proxy_protocol);
        let Some(address) = value.address else { continue };
        listeners.push(Listener { address: address.value, proxy_protocol, protocol: Protocol::Http });
    }
    for At { value, .. } in given(server.listen_tls.take()) {
        let proxy_protocol = given(value.proxy_protocol);
        let client_certs = value.client_certs.and_then(|at| client_certs(at.value, base));
        let Some(address) = value.address else { continue };
        listeners.push(Listener { address: address.value, proxy_protocol, protocol: Protocol::Https { client_certs } });
    }
    listeners
}

fn client_certs(raw: raw::ClientCerts, base: &Path) -> Option<ClientCerts> {
    Some(ClientCerts { ca: path(&raw.ca?.value, base), required: given(raw.required) })
}
