//! Members that answer at another address than the configuration says.

use std::time::Duration;

use futures::future::join_all;
use paxos_client::Client;
use paxos_common::{paxos::identity::AcceptorUuid, wire};

use super::look::{MembersLook, SeenAcceptor, SeenState};

impl MembersLook {
    /// Asks at the listed addresses of the members that advertise another address. A member that does not answer there has
    /// moved. One acceptor may have several addresses: an answer at the listed address proves that the list is right.
    ///
    /// # Cancel safety
    /// Safe: the call only asks.
    pub(super) async fn find_moved(&mut self, client: &Client, patience: Duration) {
        let suspects = self.members.iter_mut();
        let suspects = suspects.filter(|member| member.answers_at.is_some());
        join_all(suspects.map(async |member| {
            let found = match member.address.parse() {
                Ok(address) => client.acceptor_status(&address, patience).await.ok(),
                Err(_) => None,
            };
            let there = found.and_then(|answer| Some(wire::read_stamp(answer.stamp.as_ref()).ok()?.acceptor));
            member.listed_answers(there);
        }))
        .await;
    }
}

impl SeenAcceptor {
    /// Takes the acceptor that answers at the listed address.
    pub(super) fn listed_answers(&mut self, there: Option<AcceptorUuid>) {
        if there == Some(self.uuid) {
            self.answers_at = None;
        } else if self.answers_at.is_some() {
            self.state = SeenState::Elsewhere;
        }
    }
}
