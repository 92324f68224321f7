//! Requests for promises under way: for a campaign, and for the scans of a repair.

use std::collections::BTreeMap;

use paxos_common::paxos::{identity::AcceptorUuid, proposer::Scan};
use tokio::task::AbortHandle;

/// The running requests. A request ends when its pages are of no use any more. So a sick acceptor collects no requests:
/// it has at most one request of the campaign, and one for each repair under way.
#[derive(Debug, Default)]
pub(super) struct PromiseRequests(BTreeMap<(AcceptorUuid, Option<u64>), AbortHandle>);

impl PromiseRequests {
    /// Notes the request to an acceptor. An earlier request to this acceptor for the same purpose ends.
    pub(super) fn insert(&mut self, acceptor: AcceptorUuid, scan: Option<Scan>, request: AbortHandle) {
        let asked = (acceptor, scan.map(|scan| scan.number));
        if let Some(older) = self.0.insert(asked, request) {
            older.abort();
        }
    }

    /// Ends the requests to an acceptor: after the acceptor has shown its runs again, the core asks again.
    pub(super) fn end(&mut self, acceptor: AcceptorUuid) {
        self.0.retain(|&(asked, _), request| {
            if asked == acceptor {
                request.abort();
            }
            asked != acceptor
        });
    }

    /// Ends the requests whose pages are not awaited, by the number of the scan.
    pub(super) fn keep(&mut self, awaits: impl Fn(Option<u64>) -> bool) {
        self.0.retain(|&(_, scan), request| {
            let is_awaited = awaits(scan);
            if !is_awaited {
                request.abort();
            }
            is_awaited && !request.is_finished()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos_common::paxos::slot::Slot;

    /// An acceptor that never answers.
    fn silent() -> tokio::task::JoinHandle<()> {
        tokio::spawn(std::future::pending())
    }

    fn scan(number: u64) -> Option<Scan> {
        let to = Slot::ZERO;
        Some(Scan { number, to })
    }

    #[tokio::test]
    async fn a_request_ends_when_no_pages_are_awaited() {
        let mut requests = PromiseRequests::default();
        let acceptor = AcceptorUuid::from_u128(1);
        let (campaign, first, second) = (silent(), silent(), silent());
        requests.insert(acceptor, None, campaign.abort_handle());
        requests.insert(acceptor, scan(1), first.abort_handle());
        requests.insert(acceptor, scan(2), second.abort_handle());
        requests.keep(|scan| scan.is_none_or(|number| number == 2));
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(!campaign.is_finished() && !second.is_finished());
        assert_eq!(requests.0.len(), 2);
        requests.keep(|_| false);
        assert!(campaign.await.unwrap_err().is_cancelled());
        assert!(second.await.unwrap_err().is_cancelled());
        assert!(requests.0.is_empty());
    }

    #[tokio::test]
    async fn requests_to_an_acceptor_end_with_its_link() {
        let mut requests = PromiseRequests::default();
        let [gone, there] = [1, 2].map(AcceptorUuid::from_u128);
        let (to_gone, to_there) = (silent(), silent());
        requests.insert(gone, None, to_gone.abort_handle());
        requests.insert(there, None, to_there.abort_handle());
        requests.end(gone);
        assert!(to_gone.await.unwrap_err().is_cancelled());
        assert!(!to_there.is_finished());
        to_there.abort();
    }

    #[tokio::test]
    async fn a_request_replaces_the_earlier_request_for_the_same_purpose() {
        let mut requests = PromiseRequests::default();
        let acceptor = AcceptorUuid::from_u128(1);
        let (older, newer) = (silent(), silent());
        requests.insert(acceptor, None, older.abort_handle());
        requests.insert(acceptor, None, newer.abort_handle());
        assert!(older.await.unwrap_err().is_cancelled());
        assert!(!newer.is_finished());
        newer.abort();
    }
}
