//! Limits the connections of clients and operators to half of all connections: acceptors, proposers and learners have the other
//! half. One peer address has at most the free rest of the clients' half, as of all connections: see [`addresses`](super::addresses).

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::{
    addresses::{Addresses, ConnectionPlace, NoPlace},
    connections::Usage,
};

/// Longest wait for a place of another caller. The handshake of this caller is complete.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Interval of the search for a connection that makes room: connections used a moment ago do so later.
const LOOK: Duration = Duration::from_millis(100);

/// The places of connections of clients and operators. Cheap to clone; clones share the places.
#[derive(Clone, Debug)]
pub(super) struct OutsidePlaces {
    addresses: Addresses,
    /// Notified when a place is free again.
    freed: Arc<Notify>,
    open: Arc<Mutex<Vec<Weak<Usage>>>>,
    /// A connection unused for less than this time does not make room.
    protected: Duration,
}

/// A place among the connections of callers outside the cluster. Dropping the value frees the place.
#[derive(Debug)]
pub(super) struct OutsidePlace {
    place: Option<ConnectionPlace>,
    freed: Arc<Notify>,
}

impl Drop for OutsidePlace {
    fn drop(&mut self) {
        self.place = None;
        self.freed.notify_waiters();
    }
}

impl OutsidePlaces {
    /// Half of `connections`.
    pub(super) fn new(connections: usize, protected: Duration) -> Self {
        Self {
            addresses: Addresses::new(connections / 2),
            freed: Arc::default(),
            open: Arc::default(),
            protected,
        }
    }

    /// Takes a place for the connection with this usage, from this address. When all are taken, the longest unused
    /// connection makes room; when the address has its share, the longest unused connection of the address. `None`: every
    /// such connection is used.
    pub(super) async fn take(&self, usage: &Arc<Usage>, address: IpAddr) -> Option<OutsidePlace> {
        let place = match self.addresses.take(address) {
            Ok(place) => place,
            Err(_) => timeout(WAIT_MAX, self.wait(usage, address)).await.ok()?,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|usage| usage.strong_count() > 0);
        open.push(Arc::downgrade(usage));
        Some(OutsidePlace {
            place: Some(place),
            freed: Arc::clone(&self.freed),
        })
    }

    /// Lets one connection make room, and waits for a place.
    async fn wait(&self, usage: &Arc<Usage>, address: IpAddr) -> ConnectionPlace {
        let mut has_made_room = false;
        loop {
            // Registered before the look: no free place is missed.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            match self.addresses.take(address) {
                Ok(place) => return place,
                Err(why) if !has_made_room => {
                    has_made_room = self.make_room(|open| match why {
                        NoPlace::Full => true,
                        NoPlace::OfAddress => Arc::ptr_eq(&open.address, &usage.address),
                    });
                }
                Err(_) => {}
            }
            // Without a free place, the next look follows.
            let _ = timeout(LOOK, freed).await;
        }
    }

    /// Closes the longest unused connection of those that match, unless it was used recently. Returns whether a connection
    /// closes.
    fn make_room(&self, matches: impl Fn(&Usage) -> bool) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = open
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|usage| !usage.is_closing() && matches(usage))
            .filter_map(|usage| Some((usage.unused_since()?, usage)))
            .min_by_key(|&(since, _)| since);
        let Some((_, usage)) = unused.filter(|(since, _)| since.elapsed() >= self.protected) else {
            return false;
        };
        tracing::debug!("closing a client's connection without calls: another client waits for a place");
        usage.make_room();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, number])
    }

    /// A used connection of an address.
    async fn used(places: &OutsidePlaces, usage: &Arc<Usage>, number: u8) -> Option<OutsidePlace> {
        let place = places.take(usage, address(number)).await?;
        usage.hold();
        Some(place)
    }

    fn usages<const N: usize>() -> [Arc<Usage>; N] {
        std::array::from_fn(|_| Arc::new(Usage::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn outside_callers_have_half_and_the_longest_unused_makes_room() {
        let places = OutsidePlaces::new(4, Duration::ZERO);
        let usages = usages::<4>();
        let first = used(&places, &usages[0], 1).await.unwrap();
        let second = places.take(&usages[1], address(2)).await.unwrap();
        // The connection ends, as its task would do.
        let ending = async {
            usages[1].closed().await;
            drop(second);
        };
        let (third, ()) = tokio::join!(used(&places, &usages[2], 3), ending);
        assert!(third.is_some() && !usages[0].is_closing());
        assert!(
            places.take(&usages[3], address(4)).await.is_none(),
            "every connection is used"
        );
        drop((first, third));
        assert!(places.take(&usages[3], address(4)).await.is_some(), "given back");
    }

    /// Four connections that came one after the other, of which the first was used last. `protected` is the limit of the
    /// places.
    async fn four(protected: Duration) -> (OutsidePlaces, Vec<Arc<Usage>>, Vec<Option<OutsidePlace>>) {
        let places = OutsidePlaces::new(8, protected);
        let (mut usages, mut held) = (Vec::new(), Vec::new());
        for number in 0..4 {
            let usage = Arc::new(Usage::new());
            held.push(places.take(&usage, address(number)).await);
            usages.push(usage);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        usages[0].hold();
        usages[0].release();
        (places, usages, held)
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_longest_unused_connection_makes_room() {
        let (places, usages, mut held) = four(Duration::ZERO).await;
        // The connection ends, as its task would do.
        let ending = async {
            let closed = timeout(2 * WAIT_MAX, usages[1].closed()).await;
            held[1] = None;
            closed
        };
        let late = Arc::new(Usage::new());
        let (place, closed) = tokio::join!(places.take(&late, address(4)), ending);
        let closing: Vec<_> = usages.iter().map(|usage| usage.is_closing()).collect();
        assert_eq!(closing, [false, true, false, false]);
        assert!(place.is_some() && closed.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_used_a_moment_ago_makes_room_later() {
        let (places, usages, mut held) = four(Duration::from_millis(500)).await;
        let ending = async {
            let closed = timeout(2 * WAIT_MAX, usages[1].closed()).await;
            held[1] = None;
            closed
        };
        let (late, begun) = (Arc::new(Usage::new()), tokio::time::Instant::now());
        let (place, closed) = tokio::join!(places.take(&late, address(4)), ending);
        assert!(place.is_some() && closed.is_ok());
        assert!(begun.elapsed() >= Duration::from_millis(490), "too early");
        assert_eq!(usages.iter().filter(|usage| usage.is_closing()).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn connection_used_a_moment_ago_makes_no_room() {
        let (places, usages, _held) = four(3 * WAIT_MAX).await;
        let late = Arc::new(Usage::new());
        assert!(places.take(&late, address(4)).await.is_none());
        assert!(usages.iter().all(|usage| !usage.is_closing()));
    }

    #[tokio::test(start_paused = true)]
    async fn clients_of_one_address_leave_places_to_other_addresses() {
        let places = OutsidePlaces::new(768, Duration::ZERO);
        let mut greedy = Vec::new();
        for _ in 0..192 {
            greedy.push(used(&places, &Arc::new(Usage::new()), 1).await.unwrap());
        }
        let late = Arc::new(Usage::new());
        assert!(places.take(&late, address(1)).await.is_none(), "it has its half");
        let mut others = Vec::new();
        for _ in 0..96 {
            others.push(used(&places, &Arc::new(Usage::new()), 2).await.unwrap());
        }
        assert!(used(&places, &late, 3).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn unused_connection_of_another_address_does_not_make_room_for_an_address_with_its_share() {
        let places = OutsidePlaces::new(32, Duration::ZERO);
        let [idle, late] = usages::<2>();
        let idle_place = places.take(&idle, address(2)).await;
        let mut greedy = Vec::new();
        let owner = Arc::default();
        for _ in 0..8 {
            let usage = Arc::new(Usage::of(Arc::clone(&owner)));
            greedy.push(used(&places, &usage, 1).await.unwrap());
        }
        assert!(places.take(&late, address(1)).await.is_none());
        assert!(idle_place.is_some() && !idle.is_closing());
    }
}
