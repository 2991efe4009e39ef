//! Names of routes and of rules: given in the file, or made from host and path.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::error::Report;
use super::super::model::{HostPattern, PathPattern};
use super::super::place::{At, Place};
use super::super::walk::quoted;

/// Names there are, and whose they are.
pub(super) struct Names(HashMap<Arc<str>, String>);

impl Names {
    /// Takes those that were written, each with its place in the file, and reports what is given twice.
    pub fn written<'a>(names: impl Iterator<Item = (&'a Arc<str>, &'a Place)>, report: &mut Report) -> Self {
        let mut taken: HashMap<Arc<str>, String> = HashMap::new();
        for (name, place) in names {
            match taken.get(name) {
                Some(at) => report.problem(place, format!("{} is the name of {at} already", quoted(name))),
                None => drop(taken.insert(name.clone(), place.path.trim_end_matches(".name").to_owned())),
            }
        }
        Self(taken)
    }

    /// A name made from `wanted` that nobody has, for what stands at `index` of `list`. It is another only where the operator gave
    /// this very name to something else.
    pub fn make(&mut self, mut wanted: String, list: &str, index: usize) -> Arc<str> {
        while self.0.contains_key(wanted.as_str()) {
            wanted = format!("{wanted} #{index}");
        }
        let name: Arc<str> = Arc::from(wanted);
        self.0.insert(name.clone(), format!("{list}[{index}]"));
        name
    }
}

/// Reports a name that no metric could carry.
pub(super) fn check(name: Option<&At<String>>, report: &mut Report) {
    let is_bad = |name: &str| name.is_empty() || name.len() > 200 || name.chars().any(char::is_control);
    if let Some(name) = name.filter(|name| is_bad(&name.value)) {
        report.problem(&name.place, format!("expected a name of 1 to 200 bytes; found {}", quoted(&name.value)));
    }
}

/// `example.com/api/*`, with the first host where there are several.
pub(super) fn host_and_path(hosts: &[HostPattern], path: &PathPattern) -> String {
    hosts.first().map_or_else(|| path.to_string(), |host| format!("{host}{path}"))
}
