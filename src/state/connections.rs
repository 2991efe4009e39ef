//! How many client connections are open, in total and from each address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Counts what is open. A connection holds a [`Place`]; that of an address that is counted holds an entry as well.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicUsize,
    freed: Notify,
    by_ip: Mutex<HashMap<IpAddr, usize>>,
}

impl Connections {
    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Waits until fewer than `limit()` are open. The limit is asked for again each time one is closed. Somebody else may be
    /// faster to take the place: see [`Connections::place`].
    pub async fn room(&self, limit: impl Fn() -> usize) {
        loop {
            let freed = self.freed.notified();
            if self.open() < limit() {
                return;
            }
            freed.await;
        }
    }

    /// Takes a place as soon as fewer than `limit()` are taken.
    pub async fn place(self: &Arc<Self>, limit: impl Fn() -> usize) -> Place {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_place(limit()) {
                return place;
            }
            freed.await;
        }
    }

    /// Takes a place whatever the limit: for a client that was let in already.
    #[must_use]
    pub fn extra_place(self: &Arc<Self>) -> Place {
        self.open.fetch_add(1, Relaxed);
        Place(self.clone())
    }

    fn try_place(self: &Arc<Self>, limit: usize) -> Option<Place> {
        let taken = self.open.fetch_update(Relaxed, Relaxed, |open| (open < limit).then_some(open + 1));
        taken.is_ok().then(|| Place(self.clone()))
    }

    /// Lets those who wait for room look again: the limit may have been raised.
    pub fn limit_changed(&self) {
        self.freed.notify_waiters();
    }

    /// Gives a connection its place. With a limit for each address (IPv6: each /64) it is refused when there are that many
    /// already.
    #[must_use]
    pub fn enter(self: &Arc<Self>, place: Place, ip: Option<IpAddr>, limit_per_ip: usize) -> Option<ConnectionPermit> {
        let ip = ip.filter(|_| limit_per_ip > 0).map(network);
        if let Some(ip) = ip {
            let mut by_ip = self.by_ip.lock();
            let count = by_ip.entry(ip).or_insert(0);
            if *count >= limit_per_ip {
                return None;
            }
            *count += 1;
        }
        Some(ConnectionPermit { place, ip })
    }
}

/// What one client is taken to be: an IPv4 address, or the /64 that one IPv6 subscriber has.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip @ IpAddr::V4(_) => ip,
    }
}

/// One of the connections that may be open, until dropped.
#[derive(Debug)]
pub struct Place(Arc<Connections>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.freed.notify_waiters();
    }
}

/// A connection that is counted, until dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    place: Place,
    ip: Option<IpAddr>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if let Some(ip) = self.ip {
            let mut by_ip = self.place.0.by_ip.lock();
            if let Some(count) = by_ip.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    by_ip.remove(&ip);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_limited_and_forgotten() {
        let connections = Arc::new(Connections::default());
        let enter = |ip: &str| connections.enter(connections.extra_place(), Some(ip.parse().unwrap()), 2);
        let first = enter("192.0.2.1");
        let second = enter("::ffff:192.0.2.1");
        assert!(first.is_some() && second.is_some());
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        let six = (enter("2001:db8::1"), enter("2001:db8::2"));
        assert!(enter("2001:db8::3").is_none());
        assert!(enter("2001:db8:0:1::3").is_some());
        drop(second);
        assert_eq!(connections.open(), 2);
        drop(six);
        assert_eq!(connections.open(), 0);
        assert!(connections.by_ip.lock().is_empty());
        assert!(connections.enter(connections.extra_place(), None, 1).is_some());
        assert_eq!(connections.open(), 0);
    }

    #[tokio::test]
    async fn room_is_waited_for() {
        let connections = Arc::new(Connections::default());
        let permit = connections.enter(connections.extra_place(), None, 0);
        let waiting = {
            let connections = connections.clone();
            tokio::spawn(async move { connections.room(|| 1).await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(permit);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_place_goes_to_one_of_those_who_wait() {
        let connections = Arc::new(Connections::default());
        let first = connections.place(|| 1).await;
        let waiting = [0, 1].map(|_| {
            let connections = connections.clone();
            tokio::spawn(async move { connections.place(|| 1).await })
        });
        tokio::task::yield_now().await;
        assert_eq!(connections.open(), 1);
        drop(first);
        for place in waiting {
            let place = place.await.unwrap();
            assert_eq!(connections.open(), 1);
            drop(place);
        }
        assert_eq!(connections.open(), 0);
    }
}
