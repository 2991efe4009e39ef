//! Listeners: no two of them may want the same address.

use super::super::error::Report;
use super::super::model::ListenAddr;
use super::super::place::{At, Place};
use super::super::raw::{Admin, Listener, Server};
use super::super::schema::NonEmpty;

/// Checks the listeners of `server` and `admin` and the control socket against each other.
pub(super) fn check(server: &Server, admin: &Admin, report: &mut Report) {
    let mut taken: Vec<(ListenAddr, &Place)> = Vec::new();
    let control = admin.control.as_ref().map(|control| (ListenAddr::Unix(control.value.0.clone()), &control.place));
    let all = placed(server.listen.as_ref()).chain(placed(admin.listen.as_ref())).chain(control);
    for (address, place) in all {
        match taken.iter().find(|(earlier, _)| earlier.clashes_with(&address)) {
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

fn placed(list: Option<&At<NonEmpty<Listener>>>) -> impl Iterator<Item = (ListenAddr, &Place)> {
    let items = list.into_iter().flat_map(|list| &list.value.0);
    items.filter_map(|item| item.value.address.as_ref()).map(|address| (address.value.clone(), &address.place))
}
