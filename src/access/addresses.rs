//! Networks as ranges that do not meet, in order: one search by halves, however many there are.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::model::Networks;

/// A set of addresses. An IPv4 address that is written as IPv6 (`::ffff:192.0.2.1`) is the IPv4 address.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
    unix: bool,
}

impl Addresses {
    #[must_use]
    pub fn build(networks: &Networks) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in &networks.nets {
            match net {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => match (net.network().to_ipv4_mapped(), net.prefix_len()) {
                    (Some(first), 96..) => {
                        let last = net.broadcast().to_ipv4_mapped().unwrap_or(first);
                        v4.push((first.to_bits(), last.to_bits()));
                    }
                    _ => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
                },
            }
        }
        Self { v4: merged(v4), v6: merged(v6), unix: networks.unix }
    }

    /// Whether an address is among them; none is a peer of a Unix socket.
    #[must_use]
    pub fn contains(&self, address: Option<IpAddr>) -> bool {
        match address.map(|address| address.to_canonical()) {
            None => self.unix,
            Some(IpAddr::V4(address)) => is_within(&self.v4, address.to_bits()),
            Some(IpAddr::V6(address)) => is_within(&self.v6, address.to_bits()),
        }
    }
}

/// In order, those that overlap made one.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.into()
}

fn is_within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after.checked_sub(1).and_then(|index| ranges.get(index)).is_some_and(|(_, last)| address <= *last)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn of(nets: &[&str], unix: bool) -> Addresses {
        Addresses::build(&Networks { nets: nets.iter().map(|net| net.parse().unwrap()).collect(), unix })
    }

    #[test]
    fn who_is_among_them() {
        let set = of(&["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "::ffff:198.51.100.0/120"], false);
        for (address, expected) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.1.2.3", true),
            ("198.51.100.9", true),
            ("::ffff:198.51.101.9", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("::a00:1", false),
        ] {
            assert_eq!(set.contains(Some(address.parse().unwrap())), expected, "{address}");
        }
        assert!(!set.contains(None) && of(&[], true).contains(None));
        assert!(of(&["0.0.0.0/0"], false).contains(Some(Ipv4Addr::BROADCAST.into())));
        assert!(!of(&["0.0.0.0/0"], false).contains(Some(Ipv6Addr::LOCALHOST.into())));
        assert!(!of(&["::/0"], false).contains(Some(Ipv4Addr::LOCALHOST.into())));
    }

    proptest! {
        #[test]
        fn the_same_as_one_by_one(
            v4 in vec((any::<u32>(), 0_u8..=32), 0..30),
            v6 in vec((any::<u128>(), 97_u8..=128), 0..10),
            asked in vec(any::<u32>(), 20),
        ) {
            let v4 = v4.iter().map(|(bits, length)| Ipv4Net::new_assert((*bits).into(), *length).trunc().into());
            let v6 = v6.iter().map(|(bits, length)| Ipv6Net::new_assert((*bits).into(), *length).trunc().into());
            let networks = Networks { nets: v4.chain(v6).collect(), unix: false };
            let set = Addresses::build(&networks);
            let edges = networks.nets.iter().flat_map(|net| [net.network(), net.broadcast()]);
            for address in asked.iter().map(|bits| IpAddr::from(Ipv4Addr::from(*bits))).chain(edges) {
                let expected = networks.nets.iter().any(|net| net.contains(&address));
                prop_assert_eq!(set.contains(Some(address)), expected);
            }
        }
    }
}
