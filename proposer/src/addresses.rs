//! What the links of a proposer share: the addresses of acceptors, the connections, and the runs that were asked about.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use paxos_common::{
    paxos::{
        identity::{AcceptorUuid, RunNumber},
        quorum::Configuration,
    },
    peer::{Address, AddressBook, Dialer},
};
use tonic::transport::Channel;

/// Maximum number of kept connections. Beyond, all are opened again.
const CHANNELS_MAX: usize = 128;

/// Least age of a connection that is opened again because another acceptor answers there.
const STRANGER_AGE: Duration = Duration::from_secs(1);

/// Maximum number of remembered runs. Beyond, all are forgotten: the other acceptors are asked once more.
const WITNESSED_MAX: usize = 128;

/// What the links of a proposer share.
#[derive(Debug)]
pub(crate) struct LinkBook {
    addresses: AddressBook,
    learned: Mutex<Learned>,
}

#[derive(Debug, Default)]
struct Learned {
    channels: BTreeMap<Address, OpenedChannel>,
    /// The run of each acceptor for which the other acceptors were asked.
    witnessed: BTreeMap<AcceptorUuid, RunNumber>,
}

/// A kept connection.
#[derive(Debug)]
struct OpenedChannel {
    channel: Channel,
    at: Instant,
}

impl LinkBook {
    pub(crate) fn new(given: Vec<Address>, dialer: Dialer) -> Self {
        Self {
            addresses: AddressBook::new(given, dialer),
            learned: Mutex::default(),
        }
    }

    /// Notes the acceptor that answers at an address.
    pub(crate) fn answered(&self, address: &Address, acceptor: AcceptorUuid) {
        self.addresses.answered(address, acceptor);
    }

    /// The addresses to try for an acceptor: see [`AddressBook::candidates`].
    pub(crate) fn candidates(
        &self,
        acceptor: AcceptorUuid,
        listed: &str,
        configuration: &Configuration,
    ) -> Vec<Address> {
        let is_member = |other| configuration.members().contains_key(&other);
        self.addresses.candidates(acceptor, listed, is_member)
    }

    /// The connection to an address, shared by all links.
    pub(crate) fn channel(&self, address: &Address) -> Channel {
        let channels = &mut self.learned().channels;
        if let Some(opened) = channels.get(address) {
            return opened.channel.clone();
        }
        // Addresses of former members are not called again.
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        let channel = self.addresses.dialer().to_acceptor(address);
        let opened = OpenedChannel {
            channel: channel.clone(),
            at: Instant::now(),
        };
        channels.insert(address.clone(), opened);
        channel
    }

    /// Another acceptor than the expected one answered at an address. The name may have led to another machine when the
    /// connection was opened, and that connection stays whole: the next call opens another connection.
    pub(crate) fn answered_by_another(&self, address: &Address) {
        let channels = &mut self.learned().channels;
        let is_old = |opened: &OpenedChannel| opened.at.elapsed() >= STRANGER_AGE;
        if channels.get(address).is_some_and(is_old) {
            channels.remove(address);
        }
    }

    /// Whether the other acceptors were asked about this run.
    pub(crate) fn is_witnessed(&self, acceptor: AcceptorUuid, run: RunNumber) -> bool {
        self.learned().witnessed.get(&acceptor) == Some(&run)
    }

    /// Notes the run for which the other acceptors were asked; `None`: they must be asked again.
    pub(crate) fn witnessed(&self, acceptor: AcceptorUuid, run: Option<RunNumber>) {
        let witnessed = &mut self.learned().witnessed;
        witnessed.remove(&acceptor);
        if let Some(run) = run {
            if witnessed.len() >= WITNESSED_MAX {
                witnessed.clear();
            }
            witnessed.insert(acceptor, run);
        }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid(number: u128) -> AcceptorUuid {
        AcceptorUuid::from_u128(number)
    }

    #[test]
    fn remembered_runs_are_bounded() {
        let book = LinkBook::new(Vec::new(), Dialer::default());
        for number in 0..1_000 {
            book.witnessed(uuid(number), Some(RunNumber::from_random(1)));
        }
        assert!(book.learned().witnessed.len() <= WITNESSED_MAX);
    }

    #[test]
    fn run_is_witnessed_until_it_is_distrusted() {
        let book = LinkBook::new(Vec::new(), Dialer::default());
        let [first, second] = [1, 2].map(RunNumber::from_random);
        assert!(!book.is_witnessed(uuid(1), first));
        book.witnessed(uuid(1), Some(first));
        assert!(book.is_witnessed(uuid(1), first));
        assert!(!book.is_witnessed(uuid(1), second) && !book.is_witnessed(uuid(2), first));
        book.witnessed(uuid(1), None);
        assert!(!book.is_witnessed(uuid(1), first));
    }
}
