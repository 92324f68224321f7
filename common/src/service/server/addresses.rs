//! Shares of peer addresses: how many connections and open calls one address may hold.
//!
//! An address may hold no more of anything than is still free. So one address has at most half of everything, and never
//! meets the limit before half of everything is in use. A second address finds the other half, and may have half of
//! this half. An address with fewer than [`FEW`] may always take what is free.
//!
//! Ordinary callers behind one address, such as a load generator, a sidecar proxy, a NAT, or all processes of one
//! machine, are within this half. Such callers share the half: a hostile caller behind the address starves the others
//! behind this address, and never other addresses.
//!
//! An IPv6 address stands for its network of 64 bits: a single machine has all addresses of such a network.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::kinds::OpenCalls;

/// An address with fewer connections, or fewer open calls of a kind, may take whatever is free. A connection with fewer
/// open calls of a kind may use the reserve of this kind: see [`shares`](super::shares).
pub(super) const FEW: usize = 8;

/// Whether an owner of `owned` may take one more, if `open` of at most `most` are taken in all. For owners that can be
/// many at little cost, such as addresses.
pub fn may_take(most: usize, open: usize, owned: usize) -> bool {
    let free = most.saturating_sub(open);
    free > 0 && owned < free.max(FEW)
}

/// The part of an address that makes an owner of connections and calls.
pub fn owner_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

/// What a peer address holds: shared by the connections of this address.
#[derive(Debug, Default)]
pub(super) struct AddressUsage {
    /// Open calls by kind.
    pub(super) open: OpenCalls,
    connections: AtomicUsize,
}

/// All addresses with connections, and the number of connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    most: usize,
    open: Arc<AtomicUsize>,
    usages: Arc<Mutex<HashMap<IpAddr, Weak<AddressUsage>>>>,
}

/// A connection's place; dropping the value frees the place.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    pub(super) address: Arc<AddressUsage>,
    open: Arc<AtomicUsize>,
}

/// Why there is no place for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// All connections are open.
    Full,
    /// The address has its share; other addresses find places.
    OfAddress,
}

impl Addresses {
    /// At most this many connections in all.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            open: Arc::default(),
            usages: Arc::default(),
        }
    }

    /// Takes a place for a connection of this address.
    ///
    /// # Errors
    /// There is no place, for this address or at all.
    pub(super) fn take(&self, address: IpAddr) -> Result<ConnectionPlace, NoPlace> {
        let mut usages = self.usages.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = owner_of(address);
        let known = usages.get(&owner).and_then(Weak::upgrade);
        let usage = known.unwrap_or_default();
        let open = self.open.load(Ordering::Relaxed);
        let owned = usage.connections.load(Ordering::Relaxed);
        if !may_take(self.most, open, owned) {
            let has_share = owned >= FEW.max(self.most.saturating_sub(open));
            return Err(if has_share {
                NoPlace::OfAddress
            } else {
                NoPlace::Full
            });
        }
        // Entries without connections remain until a new address arrives.
        if !usages.contains_key(&owner) {
            usages.retain(|_, usage| usage.strong_count() > 0);
        }
        usages.insert(owner, Arc::downgrade(&usage));
        usage.connections.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(ConnectionPlace {
            address: usage,
            open: Arc::clone(&self.open),
        })
    }

    /// What an address holds, if anything.
    pub(super) fn usage(&self, address: IpAddr) -> Option<Arc<AddressUsage>> {
        let usages = self.usages.lock().unwrap_or_else(PoisonError::into_inner);
        usages.get(&owner_of(address))?.upgrade()
    }
}

impl AddressUsage {
    /// A connection proved a caller outside the cluster: the share of the address is for other connections. The places of
    /// outside callers have shares of their own.
    pub(super) fn leave_share(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection that left the share ends.
    pub(super) fn join_share(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.address.connections.fetch_sub(1, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, number])
    }

    fn take_all(addresses: &Addresses, address: IpAddr) -> Vec<ConnectionPlace> {
        std::iter::from_fn(|| addresses.take(address).ok()).collect()
    }

    #[test]
    fn one_address_has_half_and_the_next_addresses_find_places() {
        let addresses = Addresses::new(768);
        let greedy = take_all(&addresses, address(1));
        assert_eq!(greedy.len(), 384);
        assert_eq!(addresses.take(address(1)).unwrap_err(), NoPlace::OfAddress);
        let second = take_all(&addresses, address(2));
        assert_eq!(second.len(), 192);
        let later: Vec<_> = (3..=6)
            .map(|number| take_all(&addresses, address(number)))
            .collect();
        assert!(later.iter().all(|places| places.len() >= FEW));
        drop((greedy, second, later));
        assert_eq!(take_all(&addresses, address(7)).len(), 384, "given back");
    }

    #[test]
    fn clients_behind_an_address_leave_the_share_of_the_address_to_peers() {
        let addresses = Addresses::new(768);
        let clients: Vec<_> = (0..192)
            .map(|_| addresses.take(address(1)).unwrap())
            .inspect(|place| place.address.leave_share())
            .collect();
        let peers = take_all(&addresses, address(1));
        assert_eq!(peers.len(), 288, "half of what the clients leave");
        for client in clients {
            client.address.join_share();
            drop(client);
        }
        drop(peers);
        assert_eq!(take_all(&addresses, address(1)).len(), 384, "given back");
    }

    #[test]
    fn many_addresses_fill_everything_and_no_more() {
        let addresses = Addresses::new(64);
        let places: Vec<_> = (0..64)
            .flat_map(|number| take_all(&addresses, address(number)))
            .collect();
        assert_eq!(places.len(), 64);
        assert_eq!(addresses.take(address(99)).unwrap_err(), NoPlace::Full);
        assert_eq!(addresses.take(address(0)).unwrap_err(), NoPlace::OfAddress);
    }

    #[test]
    fn addresses_of_one_machine_have_one_owner() {
        let owner = |text: &str| owner_of(text.parse().unwrap());
        assert_eq!(owner("::ffff:127.0.0.1"), owner("127.0.0.1"));
        assert_eq!(owner("2001:db8::1"), owner("2001:db8::ffff:2"));
        assert_ne!(owner("2001:db8::1"), owner("2001:db8:0:1::1"));
        assert_ne!(owner("127.0.0.1"), owner("127.0.0.2"));
    }

    #[test]
    fn addresses_without_connections_are_forgotten() {
        let addresses = Addresses::new(8);
        for number in 0..200 {
            drop(addresses.take(address(number)));
        }
        assert_eq!(addresses.usages.lock().unwrap().len(), 1);
    }
}
