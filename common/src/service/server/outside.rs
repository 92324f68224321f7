//! Connections of callers outside the cluster: at most half, so that acceptors, proposers and learners find places.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::connections::Usage;

/// Longest wait for a place of another caller. The handshake of this caller is complete.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The places of connections of clients and operators. Cheap to clone; clones share the places.
#[derive(Clone, Debug)]
pub(super) struct OutsidePlaces {
    places: Arc<Semaphore>,
    open: Arc<Mutex<Vec<Weak<Usage>>>>,
    /// A connection unused for less than this time does not make room.
    protected: Duration,
}

impl OutsidePlaces {
    /// Half of `connections`.
    pub(super) fn new(connections: usize, protected: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(connections / 2)),
            open: Arc::default(),
            protected,
        }
    }

    /// Takes a place for the connection with this usage. When all are taken, the longest unused connection makes room.
    /// `None`: every connection is used.
    pub(super) async fn take(&self, usage: &Arc<Usage>) -> Option<OwnedSemaphorePermit> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.make_room();
                let waiting = timeout(WAIT_MAX, Arc::clone(&self.places).acquire_owned());
                waiting.await.ok()?.ok()?
            }
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|usage| usage.strong_count() > 0);
        open.push(Arc::downgrade(usage));
        Some(place)
    }

    fn make_room(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = open
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|usage| !usage.is_closing())
            .filter_map(|usage| Some((usage.unused_since()?, usage)))
            .min_by_key(|&(since, _)| since);
        if let Some((since, usage)) = unused
            && since.elapsed() >= self.protected
        {
            tracing::debug!("closing a client's connection without calls: another client waits for a place");
            usage.make_room();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn outside_callers_have_half_and_the_longest_unused_makes_room() {
        let places = OutsidePlaces::new(4, Duration::ZERO);
        let usages: Vec<_> = (0..4).map(|_| Arc::new(Usage::new())).collect();
        let first = places.take(&usages[0]).await.unwrap();
        usages[0].hold();
        let second = places.take(&usages[1]).await.unwrap();
        // The connection ends, as its task would do.
        let ending = async {
            usages[1].closed().await;
            drop(second);
        };
        let (third, ()) = tokio::join!(places.take(&usages[2]), ending);
        assert!(third.is_some() && !usages[0].is_closing());
        usages[2].hold();
        assert!(
            places.take(&usages[3]).await.is_none(),
            "every connection is used"
        );
        drop((first, third));
        assert!(places.take(&usages[3]).await.is_some(), "given back");
    }
}
