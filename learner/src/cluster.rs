//! The cluster that was found, and whose answers count: answers of members alone, and only in runs in agreement with
//! everything remembered of the member.
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

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::join_all;
use paxos_common::{
    paxos::{
        acceptor::Membership,
        identity::{AcceptorUuid, ClusterId, RunNumber},
        quorum::{Configuration, Electorate},
        witness::{Guard, GuardFinding, Witnesses},
    },
    peer::acceptor::{Unusable, check_cluster},
};
use paxos_proto::v1 as pb;

use crate::acceptors::{Introduction, ListedAcceptor};

/// A member in a run. The run agreed with everything remembered of the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) acceptor: AcceptorUuid,
    run: RunNumber,
}

/// The cluster that was found. Every answer is checked against the cluster's members and their runs.
#[derive(Debug)]
pub(crate) struct Cluster {
    id: ClusterId,
    electorate: Electorate,
    acceptors: Vec<Arc<ListedAcceptor>>,
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
    /// The cluster behind these acceptors' addresses.
    pub(crate) fn new(configuration: &Configuration, acceptors: Vec<Arc<ListedAcceptor>>) -> Self {
        let known = KnownRuns {
            guard: Guard::new(configuration.quorums()),
            shown: BTreeMap::new(),
        };
        Self {
            id: configuration.cluster_id(),
            electorate: configuration.electorate(),
            acceptors,
            known: Mutex::new(known),
        }
    }

    pub(crate) fn id(&self) -> ClusterId {
        self.id
    }

    pub(crate) fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// Identifies the acceptor behind an address. Succeeds only for a formed member on the right disk; see the head of
    /// this file.
    ///
    /// # Cancel safety
    /// Safe: the call only asks, and received facts stay true.
    pub(crate) async fn identify(&self, acceptor: &ListedAcceptor) -> Result<Member, Unusable> {
        let _turn = acceptor.turn().await?;
        let introduction = acceptor.ask().await?;
        self.check_formed(&introduction)?;
        let member = Member {
            acceptor: introduction.report.acceptor,
            run: introduction.run,
        };
        let is_witnessed = self.known().guard.is_witnessed(member.acceptor, member.run);
        let others = match is_witnessed {
            true => Vec::new(),
            false => self.hear_others(acceptor, member.acceptor).await,
        };
        let mut known = self.known();
        // Other acceptors exposed by this introduction are refused at the next answer.
        let remembers = introduction.remembers.of_members(&self.electorate);
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

    /// Asks the other acceptors for their tables, and returns the tables received within the deadline of a call.
    async fn hear_others(
        &self,
        one: &ListedAcceptor,
        member: AcceptorUuid,
    ) -> Vec<(AcceptorUuid, Witnesses)> {
        let others = self.acceptors.iter();
        let others = others.filter(|other| other.address() != one.address());
        let answers = join_all(others.map(|other| other.ask())).await;
        let reported = answers.into_iter().flatten();
        reported
            .filter(|reported| reported.report.acceptor != member && self.check_formed(reported).is_ok())
            .map(|reported| {
                (
                    reported.report.acceptor,
                    reported.remembers.of_members(&self.electorate),
                )
            })
            .collect()
    }

    /// Checks an answer received on a stream to `member`.
    pub(crate) fn check(&self, stamp: Option<&pb::Stamp>, member: Member) -> Result<(), Unusable> {
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

    fn check_formed(&self, introduction: &Introduction) -> Result<(), Unusable> {
        match &introduction.report.membership {
            Membership::Blank | Membership::Seeded(_) => Err(Unusable::Blank),
            Membership::Forming(configuration) => {
                self.check_id(configuration.cluster_id())?;
                Err(Unusable::Forming)
            }
            Membership::Formed(configuration) => {
                self.check_id(configuration.cluster_id())?;
                self.check_member(introduction.report.acceptor)
            }
        }
    }

    fn check_id(&self, found: ClusterId) -> Result<(), Unusable> {
        if found == self.id {
            Ok(())
        } else {
            let expected = self.id;
            Err(Unusable::OtherCluster { found, expected })
        }
    }

    fn check_member(&self, acceptor: AcceptorUuid) -> Result<(), Unusable> {
        if self.electorate.includes(acceptor) {
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
