//! Finds the cluster: asks the acceptors until a formed acceptor answers. Learners never form a cluster. The decisions
//! are made by [`paxos::forming`](paxos_common::paxos::forming). A later configuration is found by the connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::future::join_all;
use paxos_common::{
    paxos::{
        acceptor::Membership,
        era::Era,
        forming::{FormAction, FormConflict, FormReport, Forming},
        identity::{AcceptorUuid, ClusterId},
        quorum::{Configuration, InvalidConfiguration},
    },
    peer::{
        Address, AddressBook, MessageLimits as _,
        acceptor::{Unusable, form, form_report, warn_of_list},
        waiting::ClusterWait,
    },
    sqlite::DataDir,
};
use paxos_proto::v1::acceptor_client::AcceptorClient;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::{
    acceptors::{CALL_DEADLINE, LoggedStanding, backoff},
    store::stored_configuration,
};

/// Everything needed to find the cluster.
pub(crate) struct Finder<'a> {
    /// The given addresses; gets every answer.
    pub(crate) book: Arc<AddressBook>,
    /// The cluster to work with alone.
    pub(crate) cluster: Option<ClusterId>,
    /// Of this learner.
    pub(crate) directory: &'a DataDir,
}

impl Finder<'_> {
    /// Waits until a cluster is formed. Members and quorums come from the acceptors' disks, never from a flag.
    ///
    /// Every given address is asked before an answer is believed. So a wrong list is found out as soon as the acceptors
    /// with the proof can be reached. The members of the latest configuration are asked too, until none reports a later
    /// one. While no acceptor answers at a given address, or none of the wanted cluster, the members of the stored
    /// configuration are asked.
    ///
    /// # Errors
    /// The answers prove that the addresses do not belong to the acceptors of a single cluster.
    ///
    /// # Cancel safety
    /// Safe: the function only asks.
    pub(crate) async fn find(&self) -> Result<Configuration, FormConflict> {
        let addresses = self.book.given().iter();
        let addresses = addresses.map(|address| Arc::from(address.as_str()));
        let mut forming = Forming::new(addresses.collect()).of_cluster(self.cluster);
        let mut places = AskedPlaces::default();
        let mut backoff = backoff();
        let mut is_wait_logged = false;
        let mut wait = ClusterWait::new(Instant::now());
        loop {
            let mut round = AskingRound::default();
            let twice = self
                .ask(
                    self.book.given(),
                    None,
                    &mut places,
                    &mut round,
                    (&mut forming, &mut wait),
                )
                .await;
            let mut stored = None;
            // Blank acceptors at the given addresses may be meant for another cluster than the stored one.
            if self.latest(&round).is_none() && (self.cluster.is_some() || round.answered.is_empty()) {
                stored = stored_configuration(self.directory).await;
                stored = stored.filter(|stored| self.is_wanted(stored.cluster_id()));
            }
            while let Some(known) = self.latest(&round).or(stored.as_ref())
                && let Some(members) = round.unasked(known)
            {
                // These addresses were not given to this process: another cluster there is no conflict.
                let cluster = Some(known.cluster_id());
                self.ask(
                    &members,
                    cluster,
                    &mut places,
                    &mut round,
                    (&mut forming, &mut wait),
                )
                .await;
            }
            let latest = self.latest(&round);
            let is_changed = latest.is_some_and(|latest| latest.era() > Era::FIRST);
            // The given addresses are hints once the members have changed, or once the cluster is given.
            if let Some(twice) = twice.filter(|_| !is_changed && self.cluster.is_none()) {
                return Err(InvalidConfiguration::Twice(twice).into());
            }
            match forming.next()? {
                FormAction::Formed { configuration, .. } => {
                    warn_of_list(&forming, &configuration);
                    return Ok(configuration);
                }
                FormAction::Ask(_)
                | FormAction::Store(..)
                | FormAction::Complete(..)
                | FormAction::Wait(_) => {
                    let last_list = stored.as_ref().map(Configuration::address_list);
                    wait.warn_if_due(Instant::now(), &last_list.unwrap_or_default());
                    if !is_wait_logged {
                        is_wait_logged = self.log_wait(&round, stored.as_ref());
                    }
                }
            }
            sleep(backoff.next_delay()).await;
        }
    }

    fn is_wanted(&self, cluster: ClusterId) -> bool {
        self.cluster.is_none_or(|wanted| wanted == cluster)
    }

    /// The latest configuration in force that an acceptor has reported.
    fn latest<'a>(&self, round: &'a AskingRound) -> Option<&'a Configuration> {
        let reported = round.formed.iter();
        let wanted = reported.filter(|formed| self.is_wanted(formed.cluster_id()));
        wanted.max_by_key(|formed| formed.era())
    }

    /// Asks the acceptors at these addresses. Returns an acceptor that answered twice. `of`: only answers of formed acceptors
    /// of this cluster are used.
    async fn ask(
        &self,
        addresses: &[Address],
        of: Option<ClusterId>,
        places: &mut AskedPlaces,
        round: &mut AskingRound,
        (forming, wait): (&mut Forming, &mut ClusterWait),
    ) -> Option<AcceptorUuid> {
        for address in addresses {
            places.connect(address, &self.book);
        }
        let calls = addresses.iter().map(|address| places.ask(address));
        let mut twice = None;
        for (address, answer) in addresses.iter().zip(join_all(calls).await) {
            round.asked.insert(address.clone());
            wait.heard(address.as_str(), answer.as_ref());
            let Ok(report) = answer else { continue };
            if of.is_some() && of != formed_cluster(&report.membership) {
                continue;
            }
            self.book.answered(address, report.acceptor);
            if !round.answered.insert(report.acceptor) {
                twice = Some(report.acceptor);
            }
            if let Membership::Formed(formed) = &report.membership {
                round.formed.push(formed.clone());
            }
            forming.report(report);
        }
        twice
    }

    /// Logs why the learner waits, once there is something to say; returns whether there was.
    fn log_wait(&self, round: &AskingRound, stored: Option<&Configuration>) -> bool {
        match (self.cluster, stored) {
            (_, Some(stored)) => tracing::warn!(
                cluster = %stored.cluster_id(), era = %stored.era(), last_list = stored.address_list(),
                "no member of the cluster answers, neither at the given addresses nor at the last known ones: waiting. If the \
                 members have moved, correct --acceptors"
            ),
            (Some(cluster), None) => {
                tracing::info!(%cluster, "waiting for an acceptor of the cluster");
            }
            (None, None) if round.answered.is_empty() => return false,
            (None, None) => tracing::info!("waiting for a proposer to form the cluster"),
        }
        true
    }
}

/// The cluster of an acceptor with a configuration in force.
fn formed_cluster(membership: &Membership) -> Option<ClusterId> {
    match membership {
        Membership::Formed(configuration) => Some(configuration.cluster_id()),
        Membership::Blank | Membership::Seeded(_) | Membership::Forming(_) => None,
    }
}

/// The answers of one round of questions.
#[derive(Debug, Default)]
struct AskingRound {
    asked: BTreeSet<Address>,
    answered: BTreeSet<AcceptorUuid>,
    /// The reported configurations in force.
    formed: Vec<Configuration>,
}

impl AskingRound {
    /// The addresses of the members that have not answered and were not asked there; `None` if there are none.
    fn unasked(&self, configuration: &Configuration) -> Option<Vec<Address>> {
        let members = configuration.members().iter();
        let silent = members.filter(|(uuid, _)| !self.answered.contains(uuid));
        let addresses = silent.filter_map(|(_, member)| member.address.parse::<Address>().ok());
        let unasked: BTreeSet<_> = addresses
            .filter(|address| !self.asked.contains(address))
            .collect();
        (!unasked.is_empty()).then(|| unasked.into_iter().collect())
    }
}

/// Connections to addresses, one for each.
#[derive(Debug, Default)]
struct AskedPlaces(BTreeMap<Address, (AcceptorClient<Channel>, LoggedStanding)>);

impl AskedPlaces {
    fn connect(&mut self, address: &Address, book: &AddressBook) {
        self.0.entry(address.clone()).or_insert_with(|| {
            let client = AcceptorClient::new(book.dialer().to_acceptor(address)).with_message_limits();
            (client, LoggedStanding::default())
        });
    }

    /// Asks at a connected address; the reason without a usable answer.
    async fn ask(&self, address: &Address) -> Result<FormReport, Unusable> {
        let (client, standing) = self.0.get(address).ok_or(Unusable::NoAddress)?;
        let asking = async {
            let answer = form(&mut client.clone(), None, CALL_DEADLINE).await?;
            Ok::<_, Unusable>(form_report(address.as_str(), &answer)?)
        };
        match asking.await {
            Ok(report) => {
                standing.answered(address.as_str());
                Ok(report)
            }
            Err(reason) => {
                standing.failed(address.as_str(), &reason);
                Err(reason)
            }
        }
    }
}
