//! Upstreams without sockets, and exchanges as a request has them, for the tests of this folder.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Version};
use tokio::task::JoinHandle;

use crate::config::model::{self, Priority};
use crate::message::RequestHead;
use crate::observe::metrics::Metrics;
use crate::upstream::address::Address;
use crate::upstream::endpoint::{Endpoint, Lease};
use crate::upstream::group::{Balance, Group, Rules, Target};
use crate::upstream::queue::{Refused, Wanted};
use crate::upstream::registry::Registry;
use crate::upstream::response_reader::{Expected, Piece};
use crate::upstream::stream::{Broken, UpstreamStream};

pub(super) const MS: Duration = Duration::from_millis(1);

pub(super) const RULES: Rules = Rules {
    balance: Balance::LeastConn,
    queue: model::Queue { max: 10_000, timeout: Duration::from_secs(10) },
    slow_start: Duration::ZERO,
    ejection: model::Ejection { consecutive_failures: 3, time: Duration::from_secs(10), max_ejected: 50 },
};

/// What outlives a reload.
pub(super) struct Rig {
    metrics: Arc<Metrics>,
    registry: Registry,
}

impl Rig {
    pub(super) fn new() -> Self {
        let metrics = Metrics::new("0", &[]);
        Self { registry: Registry::new(metrics.clone()), metrics }
    }

    /// One configuration of an upstream with an endpoint on each of `ports`.
    pub(super) fn group(&self, name: &str, ports: &[u16], capacity: u32, rules: &Rules) -> Arc<Group> {
        let name: Arc<str> = name.into();
        let queue = self.registry.queue(&name);
        let group = Group::new(rules.clone(), self.metrics.upstream(&name), queue);
        let target = |port: &u16| {
            let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)));
            let endpoint = self.registry.endpoint(&group.queue, &address, Some(capacity));
            Target { endpoint, weight: 1, backup: false, tls: None }
        };
        group.set_targets(ports.iter().map(target).collect());
        group.queue.put_in_force(&group);
        group
    }

    /// One upstream with an endpoint on each of `ports`, and nothing else.
    pub(super) fn alone(ports: &[u16], capacity: u32, rules: &Rules) -> Arc<Group> {
        Self::new().group("app", ports, capacity, rules)
    }
}

pub(super) fn endpoint(group: &Group, index: usize) -> Arc<Endpoint> {
    group.targets().list[index].endpoint.clone()
}

pub(super) fn normal() -> Wanted {
    Wanted::new(Priority::Normal, None)
}

/// A slot that is there at once.
pub(super) async fn at_once(group: &Arc<Group>) -> Lease {
    match poll_once(group.acquire(&mut normal())).await {
        Some(Ok(lease)) => lease,
        other => panic!("no slot at once: {other:?}"),
    }
}

/// What a future answers without waiting.
pub(super) async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}

/// A request that waits on a task of its own; it has lined up when this returns.
pub(super) async fn wait(group: &Arc<Group>, priority: Priority) -> JoinHandle<Result<Lease, Refused>> {
    let before = group.queue.waiting();
    let waiting = group.clone();
    let task = tokio::spawn(async move { waiting.acquire(&mut Wanted::new(priority, None)).await });
    while group.queue.waiting() == before && !task.is_finished() {
        tokio::task::yield_now().await;
    }
    task
}

/// Lets every task run that can.
pub(super) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// A GET without fields.
pub(super) fn get(path: &str) -> RequestHead {
    RequestHead::new(Method::GET, Bytes::copy_from_slice(path.as_bytes()), Version::HTTP_11, 0)
}

/// Sends a GET of `path`, once `server` has answered it reads the answer to its end: status and body.
pub(super) async fn exchange(stream: &mut UpstreamStream, path: &str, server: impl AsyncFnOnce()) -> (u16, Vec<u8>) {
    stream.begin(&get(path), false, Expected::default());
    stream.send().await;
    server().await;
    answer(stream).await.unwrap()
}

/// Reads an answer to its end: status and body.
pub(super) async fn answer(stream: &mut UpstreamStream) -> Result<(u16, Vec<u8>), Broken> {
    let (mut status, mut body) = (0, Vec::new());
    loop {
        match stream.piece()? {
            Some(Piece::Head(head)) => status = head.status.as_u16(),
            Some(Piece::Body(data)) => body.extend_from_slice(&data),
            Some(Piece::End) => return Ok((status, body)),
            Some(Piece::Interim | Piece::Switched(_)) => {}
            None => {
                stream.came(64 * 1024).await?;
            }
        }
    }
}
