//! Finds what exists of an upstream, so that a reload goes on counting, and queueing, where it was.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::observe::metrics::Metrics;
use crate::upstream::address::Address;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::load::Load;
use crate::upstream::queue::Queue;

/// An upstream's name and an address in it.
type Member = (Arc<str>, Address);

/// Everything that outlives a configuration, for as long as anybody holds it.
#[derive(Debug)]
pub struct Registry {
    metrics: Arc<Metrics>,
    loads: Mutex<HashMap<Address, Weak<Load>>>,
    queues: Mutex<HashMap<Arc<str>, Weak<Queue>>>,
    endpoints: Mutex<HashMap<Member, Weak<Endpoint>>>,
}

impl Registry {
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, loads: Mutex::default(), queues: Mutex::default(), endpoints: Mutex::default() }
    }

    /// The queue of the upstream `name`.
    pub(super) fn queue(&self, name: &Arc<str>) -> Arc<Queue> {
        find(&mut self.queues.lock(), name.clone(), || Queue::new(name.clone()))
    }

    /// The endpoint at `address` in the upstream of `queue`: the one that exists, or a new one whose health is unknown.
    /// `capacity` is that of an address nobody has named before; see [`Endpoint::set_capacity`] for all others.
    pub(super) fn endpoint(&self, queue: &Arc<Queue>, address: &Address, capacity: Option<u32>) -> Arc<Endpoint> {
        let key = (queue.name.clone(), address.clone());
        find(&mut self.endpoints.lock(), key, || {
            let load = find(&mut self.loads.lock(), address.clone(), || Load::new(capacity));
            let metrics = self.metrics.endpoint(&queue.name, &address.to_string());
            Endpoint::new(address.clone(), metrics, load, queue.clone(), queue.is_in_service())
        })
    }
}

/// What is there under `key`, or what `make` makes. What nobody holds any more is forgotten.
fn find<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, Weak<V>>, key: K, make: impl FnOnce() -> V) -> Arc<V> {
    map.retain(|_, value| value.strong_count() > 0);
    if let Some(value) = map.get(&key).and_then(Weak::upgrade) {
        return value;
    }
    let value = Arc::new(make());
    map.insert(key, Arc::downgrade(&value));
    value
}
