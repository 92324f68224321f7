//! The cluster that was found, its present members, and whose answers count: answers of members alone, and only in runs in
//! agreement with everything remembered of the member.
//!
//! An acceptor must not be counted after a loss of its disk, or on an older copy of the disk: the acceptor has
//! forgotten votes and promises. The list of runs shows the loss to every process with memory of a run missing from the
//! list. This learner may never have heard of the missing run, for lack of a connection at the time. The other
//! acceptors have heard of the run: leaders report runs to the acceptors, and the acceptors' disks keep the reports.
//! This leads to three rules:
//!
//! - A run that is *new here* counts only after two checks. The other acceptors have been asked for their memory,
//!   *after* the run was shown; and the list of runs agrees with every answer. All other acceptors are asked. The
//!   answering acceptors, together with the acceptor in question, must form a phase-1 quorum ([`Guard::new`]). More is
//!   not demanded: otherwise an acceptor could not come back during the absence of a second acceptor. The memory of an
//!   absent acceptor is heard later, when the absent acceptor shows a run that is new here. If this memory contradicts
//!   the list, the first acceptor becomes suspect then.
//! - Every answer names the run of the sender. A stream or call was identified for a single run. An answer from any
//!   other run is not counted, and the acceptor has to be identified again.
//! - Only an answer to `Form` counts as an introduction, and no two tasks identify an acceptor at the same time. So a
//!   list requested before the report of a newer run is introduced at most once for the newer run. Three such
//!   introductions would make the [`Guard`] refuse a sound acceptor.
//!
//! The check is best effort for commits of which no leader had informed another acceptor before the disk went back.
//!
//! The cluster has one configuration at a time. A later one is adopted from a change of members that this learner applies,
//! or from an acceptor's answer to `Form`, and from nothing else; an earlier one never again. Everything that depends on the
//! configuration follows [`Cluster::follow`].

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::join_all;
use paxos_common::{
    paxos::{
        acceptor::Membership,
        era::Era,
        forming::FormReport,
        identity::{AcceptorUuid, ClusterId, RunNumber},
        quorum::{Configuration, Electorate},
        slot::Slot,
        witness::{Guard, GuardFinding, Witnesses},
    },
    peer::{
        AddressBook,
        acceptor::{Unusable, check_cluster},
    },
};
use paxos_proto::v1 as pb;
use tokio::{sync::watch, time::timeout};

use crate::acceptors::{CALL_DEADLINE, Introduction, ListedAcceptor};

/// A member in a run. The run agreed with everything remembered of the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) acceptor: AcceptorUuid,
    run: RunNumber,
}

/// A configuration, with the connections to its members.
#[derive(Debug)]
pub(crate) struct EraMembers {
    configuration: Arc<Configuration>,
    electorate: Electorate,
    acceptors: Vec<Arc<ListedAcceptor>>,
    /// See [`Reading::adopt`](paxos_common::paxos::reading::Reading::adopt).
    proves_from: Slot,
}

impl EraMembers {
    /// The members of `configuration`. Members of `before` at the same address keep their connections.
    fn new(
        configuration: &Configuration,
        proves_from: Slot,
        book: &Arc<AddressBook>,
        before: &[Arc<ListedAcceptor>],
    ) -> Self {
        let members = configuration.members().iter();
        let acceptors = members.map(|(&uuid, member)| {
            let is_same =
                |kept: &&Arc<ListedAcceptor>| kept.uuid() == uuid && *kept.listed() == member.address;
            let kept = before.iter().find(is_same).cloned();
            kept.unwrap_or_else(|| ListedAcceptor::new(uuid, Arc::clone(&member.address), Arc::clone(book)))
        });
        Self {
            acceptors: acceptors.collect(),
            electorate: configuration.electorate(),
            configuration: Arc::new(configuration.clone()),
            proves_from,
        }
    }

    pub(crate) fn configuration(&self) -> &Arc<Configuration> {
        &self.configuration
    }

    pub(crate) fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    pub(crate) fn era(&self) -> Era {
        self.electorate.era()
    }

    /// The number of acceptors that must answer: a quorum that can elect a leader.
    pub(crate) fn quorum(&self) -> usize {
        self.electorate.quorums().phase1()
    }

    pub(crate) fn acceptors(&self) -> &[Arc<ListedAcceptor>] {
        &self.acceptors
    }

    /// The connection to a member.
    pub(crate) fn acceptor(&self, uuid: AcceptorUuid) -> Option<&Arc<ListedAcceptor>> {
        self.acceptors.iter().find(|acceptor| acceptor.uuid() == uuid)
    }

    /// See [`Reading::adopt`](paxos_common::paxos::reading::Reading::adopt).
    pub(crate) fn proves_from(&self) -> Slot {
        self.proves_from
    }
}

/// The cluster that was found. Every answer is checked against the cluster's members and their runs.
#[derive(Debug)]
pub(crate) struct Cluster {
    id: ClusterId,
    book: Arc<AddressBook>,
    /// Never locked before `known`.
    present: watch::Sender<Arc<EraMembers>>,
    known: Mutex<KnownRuns>,
}

/// Knowledge about the members' runs, kept while this learner runs.
#[derive(Debug)]
struct KnownRuns {
    guard: Guard,
    /// The last shown run of each member, among the runs in agreement with everything remembered of the member.
    shown: BTreeMap<AcceptorUuid, RunNumber>,
}

impl KnownRuns {
    /// Lets an acceptor pass only when nothing known speaks against the acceptor.
    fn passed(&self, acceptor: AcceptorUuid) -> Result<(), Unusable> {
        match self.guard.refusal(acceptor) {
            Some(went_back) => Err(Unusable::WentBack(went_back)),
            None if self.guard.trusts(acceptor) => Ok(()),
            None => Err(Unusable::Distrusted),
        }
    }
}

impl Cluster {
    /// The cluster of this configuration, reported by an acceptor.
    pub(crate) fn new(configuration: &Configuration, book: Arc<AddressBook>) -> Self {
        let known = KnownRuns {
            guard: Guard::new(configuration.quorums()),
            shown: BTreeMap::new(),
        };
        let members = EraMembers::new(configuration, Slot::ZERO, &book, &[]);
        Self {
            id: configuration.cluster_id(),
            book,
            present: watch::Sender::new(Arc::new(members)),
            known: Mutex::new(known),
        }
    }

    pub(crate) fn id(&self) -> ClusterId {
        self.id
    }

    /// The present configuration, and its members.
    pub(crate) fn present(&self) -> Arc<EraMembers> {
        Arc::clone(&self.present.borrow())
    }

    /// Follows [`Self::present`].
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<EraMembers>> {
        self.present.subscribe()
    }

    /// Works with this configuration from now on, if it is a later one of this cluster; returns whether it is.
    /// `proves_from`: see [`Reading::adopt`](paxos_common::paxos::reading::Reading::adopt).
    pub(crate) fn adopt(&self, configuration: &Configuration, proves_from: Slot) -> bool {
        let electorate = configuration.electorate();
        let mut known = self.known();
        let is_adopted = self.present.send_if_modified(|present| {
            let is_later = electorate.is_later_than(&present.electorate);
            if is_later {
                let members = EraMembers::new(configuration, proves_from, &self.book, &present.acceptors);
                *present = Arc::new(members);
            }
            is_later
        });
        if is_adopted {
            let is_member = |acceptor| electorate.includes(acceptor);
            known.guard.adopt(configuration.quorums(), is_member);
            known.shown.clear();
            drop(known);
            tracing::info!(
                era = %configuration.era(), members = configuration.address_list(),
                "the members of the cluster have changed"
            );
        }
        is_adopted
    }

    /// Identifies the acceptor behind an address. Succeeds only for a formed member on the right disk; see the head of
    /// this file.
    ///
    /// # Cancel safety
    /// Safe: the call only asks, and received facts stay true.
    pub(crate) async fn identify(&self, acceptor: &ListedAcceptor) -> Result<Member, Unusable> {
        let _turn = acceptor.turn().await?;
        let introduction = self.ask(acceptor).await?;
        let member = Member {
            acceptor: introduction.report.acceptor,
            run: introduction.run,
        };
        self.check_present(member.acceptor)?;
        let asked_in = self.present();
        let is_witnessed = self.known().guard.is_witnessed(member.acceptor, member.run);
        let others = if is_witnessed {
            Vec::new()
        } else {
            self.hear_others(member.acceptor).await
        };
        let remembers = introduction.remembers.of_members(&asked_in.electorate);
        let mut known = self.known();
        let present = self.present();
        if present.era() != asked_in.era() {
            // The members of an earlier era were asked. A run counts once the present members were asked.
            return Err(Unusable::LaterEra(present.era()));
        }
        // Other acceptors exposed by this introduction are refused at the next answer.
        let found = known
            .guard
            .introduce(member.acceptor, &introduction.runs, remembers.iter(), &others);
        for found in found {
            if let GuardFinding::Unwitnessed { reported, needed, .. } = found {
                return Err(Unusable::Unwitnessed { reported, needed });
            }
        }
        known.passed(member.acceptor)?;
        known.shown.insert(member.acceptor, member.run);
        Ok(member)
    }

    /// Asks an acceptor how far it is in forming. A later configuration is adopted, and is an error here.
    ///
    /// # Cancel safety
    /// Safe: the call only asks, and received facts stay true.
    pub(crate) async fn ask(&self, acceptor: &ListedAcceptor) -> Result<Introduction, Unusable> {
        let present = self.present();
        let is_member = |other| present.electorate.includes(other);
        acceptor.ask(is_member, |report| self.hear(report)).await
    }

    /// Takes an acceptor's answer to `Form`: the answer of an acceptor of this cluster, or an error.
    fn hear(&self, report: &FormReport) -> Result<(), Unusable> {
        match &report.membership {
            Membership::Blank | Membership::Seeded(_) => Err(Unusable::Blank),
            Membership::Forming(configuration) => {
                self.check_id(configuration.cluster_id())?;
                Err(Unusable::Forming)
            }
            Membership::Formed(configuration) => {
                self.check_id(configuration.cluster_id())?;
                // The acceptors store configurations in force alone.
                if self.adopt(configuration, Slot::ZERO) {
                    return Err(Unusable::LaterEra(configuration.era()));
                }
                Ok(())
            }
        }
    }

    /// Asks the other members for their tables, and returns the tables received within the deadline of a call.
    async fn hear_others(&self, member: AcceptorUuid) -> Vec<(AcceptorUuid, Witnesses)> {
        let present = self.present();
        let others = present.acceptors.iter();
        let others = others.filter(|other| other.uuid() != member);
        let answers = join_all(others.map(|other| timeout(CALL_DEADLINE, self.ask(other)))).await;
        let reported = answers.into_iter().flatten().flatten();
        reported
            .map(|reported| {
                (
                    reported.report.acceptor,
                    reported.remembers.of_members(&present.electorate),
                )
            })
            .collect()
    }

    /// Checks an answer received on a stream to `member`.
    pub(crate) fn check(&self, stamp: Option<&pb::Stamp>, member: Member) -> Result<(), Unusable> {
        self.check_present(member.acceptor)?;
        let answers = self.vouch_for(stamp, |_, answers| {
            if answers.acceptor != member.acceptor {
                let (found, expected) = (answers.acceptor, member.acceptor);
                return Err(Unusable::Changed { found, expected });
            }
            Ok(member.run)
        });
        answers.map(|_| ())
    }

    /// The sender of the answer to a single call, if the answer comes from the last run shown by the sender. Returns
    /// [`Unusable::Unshown`] or [`Unusable::Distrusted`] when the acceptor has to be identified first: the acceptor may
    /// have restarted, or the answer may be late, or the shown runs contradict the remembered runs.
    pub(crate) fn vouch(&self, stamp: Option<&pb::Stamp>) -> Result<AcceptorUuid, Unusable> {
        self.vouch_for(stamp, |known, answers| {
            let shown = known.shown.get(&answers.acceptor);
            shown.copied().ok_or(Unusable::Unshown)
        })
    }

    /// Lets an answer from the expected run pass. Nothing is taken from an answer of another run.
    fn vouch_for(
        &self,
        stamp: Option<&pb::Stamp>,
        expected: impl FnOnce(&KnownRuns, Member) -> Result<RunNumber, Unusable>,
    ) -> Result<AcceptorUuid, Unusable> {
        let stamp = check_cluster(stamp, self.id)?;
        self.check_member(stamp.acceptor)?;
        let mut known = self.known();
        known.passed(stamp.acceptor)?;
        let answers = Member {
            acceptor: stamp.acceptor,
            run: stamp.run,
        };
        if expected(&known, answers)? != stamp.run {
            return Err(Unusable::Unshown);
        }
        known.guard.hear(stamp.acceptor, stamp.run, stamp.commit_counter);
        Ok(stamp.acceptor)
    }

    fn check_id(&self, found: ClusterId) -> Result<(), Unusable> {
        if found == self.id {
            Ok(())
        } else {
            let expected = self.id;
            Err(Unusable::OtherCluster { found, expected })
        }
    }

    /// Checks that a member of the present era or of an earlier era is a member still.
    fn check_present(&self, member: AcceptorUuid) -> Result<(), Unusable> {
        let present = self.present.borrow();
        if present.electorate.includes(member) {
            Ok(())
        } else {
            Err(Unusable::LaterEra(present.era()))
        }
    }

    fn check_member(&self, acceptor: AcceptorUuid) -> Result<(), Unusable> {
        if self.present.borrow().electorate.includes(acceptor) {
            Ok(())
        } else {
            Err(Unusable::Stranger(acceptor))
        }
    }

    fn known(&self) -> MutexGuard<'_, KnownRuns> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// The cluster of a configuration, without connections, for tests.
#[cfg(test)]
pub(crate) fn cluster_of(configuration: &Configuration) -> Arc<Cluster> {
    let book = AddressBook::new(Vec::new(), paxos_common::peer::Dialer::default());
    Arc::new(Cluster::new(configuration, Arc::new(book)))
}

/// A cluster with these members and majorities, for tests.
#[cfg(test)]
pub(crate) fn cluster_with<const COUNT: usize>(members: [u128; COUNT]) -> Arc<Cluster> {
    let members = members.map(|number| (AcceptorUuid::from_u128(number), Arc::from("http://a:1")));
    let quorum = COUNT / 2 + 1;
    cluster_of(&Configuration::new(members, quorum, quorum).unwrap())
}

/// The cluster adopts a change to these members and majorities, for tests.
#[cfg(test)]
pub(crate) fn change_to<const COUNT: usize>(cluster: &Cluster, members: [u128; COUNT]) {
    let address: Arc<str> = Arc::from("http://a:1");
    let members = members.map(|number| (AcceptorUuid::from_u128(number), Arc::clone(&address).into()));
    let quorum = COUNT / 2 + 1;
    let next = cluster
        .present()
        .configuration()
        .changed_to(members, quorum, quorum);
    assert!(cluster.adopt(&next.unwrap(), Slot::ZERO));
}

#[cfg(test)]
mod tests;
