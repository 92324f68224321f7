//! Bounds the log lines about peer addresses: strangers write no log.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::addresses::owner_of;

/// Shortest time between two lines about one address.
const INTERVAL: Duration = Duration::from_secs(60);
/// Limit of remembered addresses. Without a place in this list an address is not logged.
const ADDRESSES_MAX: usize = 1_024;

/// Whether a line about an address is due, for one kind of lines. Cheap to clone; clones share the addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressLog(Arc<Mutex<HashMap<IpAddr, Instant>>>);

impl AddressLog {
    /// Whether a line about the address is due now. The next is due a minute after the line.
    pub(super) fn is_due(&self, address: IpAddr) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|_, at| at.elapsed() < INTERVAL);
        let owner = owner_of(address);
        if logged.contains_key(&owner) || logged.len() >= ADDRESSES_MAX {
            return false;
        }
        logged.insert(owner, Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn line_about_an_address_is_due_once_a_minute() {
        let log = AddressLog::default();
        let [one, other] = [1, 2].map(|number| IpAddr::from([127, 0, 0, number]));
        assert!(log.is_due(one) && !log.is_due(one) && log.is_due(other));
        tokio::time::advance(INTERVAL).await;
        assert!(log.is_due(one) && !log.is_due(one));
    }

    #[tokio::test(start_paused = true)]
    async fn remembered_addresses_are_bounded() {
        let log = AddressLog::default();
        let numbers = 0..2 * u32::try_from(ADDRESSES_MAX).unwrap();
        let due = numbers.filter(|&number| log.is_due(IpAddr::from(number.to_be_bytes())));
        assert_eq!(due.count(), ADDRESSES_MAX);
    }
}
