//! Members that removed acceptors name: the client follows to them, and asks them in place of the given acceptors.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use paxos_common::peer::{Address, without_scheme};
use paxos_proto::v1::Configuration;
use tokio::time::Instant;

use super::{CAUSES_MAX, Directory, members_elsewhere};
use crate::{
    error::Cause,
    status::{AcceptorClients, ClusterReport},
};

/// Configurations that one search follows, at most: each was named by acceptors of an earlier one.
const HOPS_MAX: usize = 4;
/// Members of a named configuration that are asked, at most. The lists in answers are not trusted to be short.
const MEMBERS_MAX: usize = 64;
/// How long the named members are asked again while none answers: longer than a restart of all. Then the error is permanent:
/// other addresses are needed.
const LOST_PATIENCE: Duration = Duration::from_secs(10);

/// What the acceptors answer.
#[derive(Debug)]
pub(super) struct AcceptorsLook {
    pub(super) status: ClusterReport,
    /// Why the members are out of reach, if only removed acceptors answer.
    pub(super) lost: Option<Cause>,
}

impl Directory {
    /// Asks the acceptors: the followed members, if any, or otherwise the given acceptors. While the answering acceptors are no
    /// members any more, asks the members that they name.
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub(super) async fn look(
        &self,
        patience: Duration,
        enough: impl Fn(&ClusterReport) -> bool,
    ) -> AcceptorsLook {
        if let Some(followed) = self.followed() {
            let status = followed.status(patience, &enough).await;
            if status.answers().next().is_some() && members_elsewhere(&status).is_none() {
                return self.reached(status);
            }
            // These members were replaced, or are away: the given acceptors may know later members.
            self.follow(None);
        }
        let mut status = self.acceptors.status(patience, &enough).await;
        let have_all_answered = status.acceptors.iter().all(|report| report.answer.is_ok());
        for _ in 0..HOPS_MAX {
            let Some(members) = members_elsewhere(&status).cloned() else {
                break;
            };
            let cluster = status.answers().find_map(|answer| answer.stamp.as_ref());
            let cluster = cluster.map(|stamp| stamp.cluster_id.clone());
            let next = AcceptorClients::new(&self.addresses(&members), &self.dialer);
            let mut answers = next.status(patience, &enough).await;
            // An acceptor of another cluster, or a blank acceptor, may answer at the address of a member.
            answers.acceptors.retain(|report| match &report.answer {
                Ok(answer) => answer.stamp.as_ref().map(|stamp| &stamp.cluster_id) == cluster.as_ref(),
                Err(_) => true,
            });
            if answers.answers().next().is_none() {
                return self.lost(status, &members, &answers, have_all_answered);
            }
            tracing::debug!(era = members.era, "following removed acceptors to the members");
            self.follow(Some(Arc::new(next)));
            status = answers;
        }
        self.reached(status)
    }

    /// The members that are asked in place of the given acceptors.
    pub(super) fn followed(&self) -> Option<Arc<AcceptorClients>> {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.clone()
    }

    fn follow(&self, members: Option<Arc<AcceptorClients>>) {
        *self.followed.lock().unwrap_or_else(PoisonError::into_inner) = members;
    }

    fn reached(&self, status: ClusterReport) -> AcceptorsLook {
        *self.lost_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        AcceptorsLook { status, lost: None }
    }

    /// Only removed acceptors answer. The error is permanent once every given acceptor has answered and the members have been
    /// silent for some time.
    fn lost(
        &self,
        status: ClusterReport,
        members: &Configuration,
        asked: &ClusterReport,
        have_all_answered: bool,
    ) -> AcceptorsLook {
        let mut since = self.lost_since.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *since.get_or_insert_with(Instant::now);
        let causes = asked.acceptors.iter().filter_map(|report| {
            let cause = report.answer.as_ref().err()?;
            Some(format!("{}: {cause}", report.address))
        });
        let addresses: Vec<_> = members.members.iter().map(|member| &*member.address).collect();
        let causes: Vec<_> = causes.take(CAUSES_MAX).collect();
        let cause = Cause::unavailable(format!(
            "no given acceptor that answers is a member any more: give the members of era {}, {}. No member answers: {}",
            members.era,
            addresses.join(","),
            causes.join("; ")
        ));
        let is_permanent = have_all_answered && since.elapsed() >= LOST_PATIENCE;
        AcceptorsLook {
            status,
            lost: Some(if is_permanent { cause.permanent() } else { cause }),
        }
    }

    /// The addresses of the members, with the scheme of this client: the members of a cluster that got TLS are listed with the
    /// earlier scheme.
    fn addresses(&self, members: &Configuration) -> Vec<Address> {
        let given = self.acceptors.first().map(Address::as_str);
        let scheme = given.and_then(|given| given.split_once("://"));
        let scheme = scheme.map_or("http", |(scheme, _)| scheme);
        let members = members.members.iter().take(MEMBERS_MAX);
        let addresses = members.map(|member| format!("{scheme}://{}", without_scheme(&member.address)));
        addresses.filter_map(|address| address.parse().ok()).collect()
    }
}
