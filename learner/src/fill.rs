//! Asks the leader to have chosen what a read waits for: what a proposer that died has left half done.

use paxos_common::{
    paxos::{ballot::Ballot, message::Leadership, slot::Slot},
    peer::{Address, MESSAGE_BYTES_MAX, connect_lazy},
};
use paxos_proto::v1::{FillRequest, proposer_client::ProposerClient};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::acceptors::within_deadline;

/// Nobody has told who leads.
pub(crate) fn nobody_leads() -> Leadership {
    Leadership {
        promised: Ballot::ZERO,
        address: "".into(),
        resigned: false,
    }
}

/// The way to the proposer of the highest ballot that an acceptor told of.
pub(crate) struct Filler {
    /// Every slot below it is to be chosen.
    pub(crate) wanted: watch::Receiver<Option<Slot>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
}

impl Filler {
    /// Asks whenever somebody wants it, once each and one call at a time, until nobody can want it any more. The leader
    /// fills a bounded number of slots at a time, and who leads may not be known yet: whoever wants it repeats that.
    ///
    /// # Cancel safety
    /// Safe: the leader fills what it has heard of, which harms nobody.
    pub(crate) async fn keep_filling(mut self) {
        let mut link: Option<(Address, ProposerClient<Channel>)> = None;
        while self.wanted.changed().await.is_ok() {
            let Some(to) = *self.wanted.borrow_and_update() else {
                continue;
            };
            let Some(address) = self.leader() else {
                tracing::debug!(%to, "nobody known leads: nothing is filled");
                continue;
            };
            if link.as_ref().is_none_or(|(linked, _)| *linked != address) {
                let client = ProposerClient::new(connect_lazy(&address))
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX);
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

    /// Where the leader is reached, unless it stops.
    fn leader(&self) -> Option<Address> {
        let leadership = self.leadership.borrow();
        let leads = leadership.promised > Ballot::ZERO && !leadership.resigned;
        leads.then(|| leadership.address.parse().ok()).flatten()
    }
}

/// Takes note of what an acceptor tells, if it is later than what is known.
pub(crate) fn told(known: &watch::Sender<Leadership>, leadership: Leadership) {
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
