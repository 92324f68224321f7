//! Asks the leader to have the slots below a waiting read chosen: a dead proposer may have left slots half done.

use paxos_common::{
    paxos::{ballot::Ballot, message::Leadership, slot::Slot},
    peer::{Address, Dialer, MessageLimits as _},
};
use paxos_proto::v1::{FillRequest, proposer_client::ProposerClient};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::acceptors::within_deadline;

/// No acceptor has reported a leader.
pub(crate) fn no_leader() -> Leadership {
    Leadership {
        promised: Ballot::ZERO,
        address: "".into(),
        resigned: false,
    }
}

/// Connection to the proposer of the highest ballot reported by any acceptor.
pub(crate) struct Filler {
    /// Watermark: every slot below is to be chosen.
    pub(crate) wanted: watch::Receiver<Option<Slot>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) dialer: Dialer,
}

impl Filler {
    /// Sends one request to the leader for each change of `wanted`, one call at a time, until `wanted` is closed. The
    /// leader fills a bounded number of slots per request, and the leader may still be unknown: the requester repeats
    /// the request.
    ///
    /// # Cancel safety
    /// Safe: the leader fills the slots of a received request, and this does no harm.
    pub(crate) async fn keep_filling(mut self) {
        let mut link: Option<(Address, ProposerClient<Channel>)> = None;
        while self.wanted.changed().await.is_ok() {
            let Some(to) = *self.wanted.borrow_and_update() else {
                continue;
            };
            let Some(address) = self.leader() else {
                tracing::debug!(%to, "no leader is known: nothing is filled");
                continue;
            };
            if link.as_ref().is_none_or(|(linked, _)| *linked != address) {
                let client = ProposerClient::new(self.dialer.to_proposer(&address)).with_message_limits();
                link = Some((address, client));
            }
            let Some((address, client)) = &mut link else {
                continue;
            };
            match within_deadline(client.fill(FillRequest { to: to.get() })).await {
                Ok(answer) => {
                    let chosen_to = answer.into_inner().chosen_to;
                    tracing::debug!(%address, %to, chosen_to, "asked the leader to fill");
                }
                Err(fault) => tracing::debug!(%address, %to, %fault, "the leader does not fill"),
            }
        }
    }

    /// The leader's address; `None` while the leader is unknown or stops.
    fn leader(&self) -> Option<Address> {
        let leadership = self.leadership.borrow();
        let leads = leadership.promised.round() > 0 && !leadership.resigned;
        leads.then(|| leadership.address.parse().ok()).flatten()
    }
}

/// Records an acceptor's report, if later than the known leadership.
pub(crate) fn record_leadership(known: &watch::Sender<Leadership>, leadership: Leadership) {
    known.send_if_modified(|known| {
        let later = leadership.promised > known.promised
            || leadership.promised == known.promised && leadership.resigned && !known.resigned;
        if later {
            *known = leadership;
        }
        later
    });
}

#[cfg(test)]
mod tests;
