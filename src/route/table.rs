//! Finds the route of a request.
//!
//! Precedence: exact host, then `*.` host (longest first), then any host; within one, an exact path, then in-segment globs
//! (most literal bytes first, then as written), then the longest prefix, then regular expressions as written. A host
//! without a path that fits leaves the request to the next. Routes with the same host and path are one resource, and its
//! methods are theirs together: the resource is chosen by host and path alone, and only then the method is looked at.
//!
//! Built once with the configuration. A look-up allocates nothing and costs the same among ten routes and ten thousand:
//! hosts, exact paths and prefixes are hashed, only globs and regular expressions are tried one by one. The hash keys are
//! the configuration's, so no client can make them collide, and no more of a path is hashed than the longest prefix has.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use http::{HeaderValue, Method};
use regex::bytes::Regex;

use super::host::{normalise, parents};
use super::pattern::Glob;
use crate::config::model::{HostPattern, PathPattern, Route};

/// What [`Table::find`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'t> {
    /// Index into the routes the table was built from.
    Route(usize),
    /// Host and path are served, not with this method; the value is that of Allow (RFC 9110 section 10.2.1).
    MethodNotAllowed(&'t HeaderValue),
    NotFound,
}

/// All routes, by host and path.
#[derive(Debug, Default)]
pub struct Table {
    exact: HashMap<String, Paths>,
    suffixes: HashMap<String, Paths>,
    any: Paths,
}

impl Table {
    /// Builds the table; indices found later are those into `routes`.
    #[must_use]
    pub fn build(routes: &[Route]) -> Self {
        let mut table = Self::default();
        for draft in drafts(routes) {
            let resource = Resource::new(&draft.routes, routes);
            let paths = match draft.host {
                None => &mut table.any,
                Some(HostPattern::Exact(name)) => table.exact.entry(name).or_default(),
                Some(HostPattern::Suffix(domain)) => table.suffixes.entry(domain).or_default(),
            };
            paths.insert(draft.path, resource);
        }
        let hosts = table.exact.values_mut().chain(table.suffixes.values_mut());
        hosts.for_each(Paths::sort);
        table.any.sort();
        table
    }

    /// Finds the route for a host (as in [`Host::name`](super::host::Host); none: a request without Host), a path as
    /// [`decode_path`](super::target::decode_path) gives it, and a method. GET implies HEAD.
    #[must_use]
    pub fn find(&self, host: Option<&str>, path: &[u8], method: &Method) -> Found<'_> {
        host.and_then(|host| self.find_at_host(host, path))
            .or_else(|| self.any.find(path))
            .map_or(Found::NotFound, |resource| resource.select(method))
    }

    fn find_at_host(&self, host: &str, path: &[u8]) -> Option<&Resource> {
        let exact = self.exact.get(host).and_then(|paths| paths.find(path));
        exact.or_else(|| parents(host).find_map(|domain| self.suffixes.get(domain)?.find(path)))
    }
}

/// Routes of one host and path, before they are compiled.
struct Draft<'r> {
    host: Option<HostPattern>,
    path: &'r PathPattern,
    routes: Vec<usize>,
}

/// Gathers the resources, in the order in which the file first names them.
fn drafts(routes: &[Route]) -> Vec<Draft<'_>> {
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    let mut places = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        let hosts: Vec<_> = match route.hosts.as_slice() {
            [] => vec![None],
            hosts => hosts.iter().map(|host| Some(normalise(host))).collect(),
        };
        for host in hosts {
            match places.entry((host.clone(), path_key(&route.path))) {
                Entry::Vacant(place) => {
                    place.insert(drafts.len());
                    drafts.push(Draft { host, path: &route.path, routes: vec![index] });
                }
                Entry::Occupied(place) => {
                    if let Some(draft) = drafts.get_mut(*place.get()) {
                        draft.routes.push(index);
                    }
                }
            }
        }
    }
    drafts
}

/// What makes two path patterns the same: their kind and text.
fn path_key(path: &PathPattern) -> (u8, &str) {
    match path {
        PathPattern::Exact(text) => (0, text),
        PathPattern::Glob(text) => (1, text),
        PathPattern::Prefix(text) => (2, text),
        PathPattern::Regex(regex) => (3, regex.as_str()),
    }
}

/// The resources of one host.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<[u8]>, Resource>,
    /// Most literal bytes first, then as written.
    globs: Vec<(Glob, Resource)>,
    /// All keys end with `/`.
    prefixes: HashMap<Box<[u8]>, Resource>,
    /// The lengths that occur among the prefixes, longest first.
    prefix_lengths: Vec<usize>,
    /// As written.
    regexes: Vec<(Regex, Resource)>,
}

impl Paths {
    fn insert(&mut self, path: &PathPattern, resource: Resource) {
        match path {
            PathPattern::Exact(text) => {
                self.exact.insert(text.as_bytes().into(), resource);
            }
            PathPattern::Glob(text) => self.globs.push((Glob::new(text), resource)),
            PathPattern::Prefix(text) => {
                self.prefix_lengths.push(text.len());
                self.prefixes.insert(text.as_bytes().into(), resource);
            }
            PathPattern::Regex(regex) => self.regexes.push((regex.clone(), resource)),
        }
    }

    /// To be called once, after the last insertion.
    fn sort(&mut self) {
        // Stable, so that the order of the file decides between equals.
        self.globs.sort_by_key(|(glob, _)| Reverse(glob.literal_bytes()));
        self.prefix_lengths.sort_unstable_by_key(|&length| Reverse(length));
        self.prefix_lengths.dedup();
    }

    fn find(&self, path: &[u8]) -> Option<&Resource> {
        let glob = || first(&self.globs, |glob| glob.matches(path));
        let regex = || first(&self.regexes, |regex| regex.is_match(path));
        self.exact.get(path).or_else(glob).or_else(|| self.longest_prefix(path)).or_else(regex)
    }

    /// Only lengths that occur are tried, and only where a segment begins behind them: neither the number of prefixes nor
    /// a path of thousands of slashes adds to the work.
    fn longest_prefix(&self, path: &[u8]) -> Option<&Resource> {
        let candidates = self.prefix_lengths.iter().filter_map(|&length| path.get(..length));
        candidates.filter(|prefix| prefix.ends_with(b"/")).find_map(|prefix| self.prefixes.get(prefix))
    }
}

fn first<P>(list: &[(P, Resource)], matches: impl Fn(&P) -> bool) -> Option<&Resource> {
    let (_, resource) = list.iter().find(|(pattern, _)| matches(pattern))?;
    Some(resource)
}

/// One host and path: which route takes which method.
#[derive(Debug)]
struct Resource {
    methods: Vec<(Method, usize)>,
    /// The route that takes whatever no other names.
    rest: Option<usize>,
    allow: HeaderValue,
}

impl Resource {
    /// Takes indices into `routes`, in the order of the file. Where two name the same method, the first has it.
    fn new(indices: &[usize], routes: &[Route]) -> Self {
        let mut methods: Vec<(Method, usize)> = Vec::new();
        let mut rest = None;
        for &index in indices {
            match routes.get(index).map(|route| route.methods.as_slice()) {
                Some([]) => rest = rest.or(Some(index)),
                Some(named) => {
                    for method in named {
                        if !methods.iter().any(|(known, _)| known == method) {
                            methods.push((method.clone(), index));
                        }
                    }
                }
                None => {}
            }
        }
        // Whoever answers GET answers HEAD (RFC 9110 section 9.3.2), unless a route names HEAD itself.
        let of = |wanted| methods.iter().position(|(method, _)| method == wanted);
        if let (Some(get), None) = (of(Method::GET), of(Method::HEAD))
            && let Some(&(_, index)) = methods.get(get)
        {
            methods.insert(get + 1, (Method::HEAD, index));
        }
        let allow: Vec<_> = methods.iter().map(|(method, _)| method.as_str()).collect();
        let allow = HeaderValue::from_str(&allow.join(", "));
        Self {
            methods,
            rest,
            // Methods are tokens, so this is never the empty value.
            allow: allow.unwrap_or(HeaderValue::from_static("")),
        }
    }

    fn select(&self, method: &Method) -> Found<'_> {
        let named = self.methods.iter().find(|(known, _)| known == method);
        match named.map(|&(_, index)| index).or(self.rest) {
            Some(index) => Found::Route(index),
            None => Found::MethodNotAllowed(&self.allow),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
