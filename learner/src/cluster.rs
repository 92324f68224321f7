//! The cluster that was found, and whose answers count: of members alone, and only in runs that agree with all that is
//! remembered of them.
//!
//! An acceptor that lost its disk, or runs on an older copy of it, must not be counted: it has forgotten votes and
//! promises. Its list of runs gives it away to whoever knows of a run that the list lacks. This learner may never have
//! heard of that run itself: it was not connected then. The other acceptors have, for leaders tell them, and their disks
//! keep it. So:
//!
//! - A run that is *new here* counts only once the other acceptors have been asked what they remember, *after* it showed,
//!   and the list of runs agrees with all of it. Everybody is asked; with the acceptor itself, those that answer must be a
//!   phase-1 quorum ([`Guard::new`]). More is not demanded: else an acceptor could not come back while another is away.
//!   What the absent remember is heard when they show a run that is new here themselves, and makes the acceptor suspect
//!   then.
//! - Every answer names the run that it comes from. One from another run than its stream or call was identified for is
//!   not counted, and the acceptor has to be identified anew.
//! - Nothing but an answer to `Form` counts as an introduction, and each acceptor is identified by one task at a time. So
//!   a list that was asked for before somebody told of a newer run is introduced once at most for that run; three of them
//!   would have the [`Guard`] refuse a sound acceptor.
//!
//! It is best effort for what a leader had told nobody before the disk went back.

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
        witness::{Found, Guard, Witnesses},
    },
    wire,
};
use paxos_proto::v1 as pb;

use crate::acceptors::{Acceptor, Fault, Introduction};

/// A member in one of its runs, which agreed with all that was remembered of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) acceptor: AcceptorUuid,
    run: RunNumber,
}

/// The cluster that was found. Every answer is held against it.
#[derive(Debug)]
pub(crate) struct Cluster {
    id: ClusterId,
    electorate: Electorate,
    acceptors: Vec<Arc<Acceptor>>,
    known: Mutex<Known>,
}

/// What is known of the members' runs, for as long as this learner runs.
#[derive(Debug)]
struct Known {
    guard: Guard,
    /// The run that each member showed last, of those that agreed with all that is remembered of it.
    shown: BTreeMap<AcceptorUuid, RunNumber>,
}

impl Known {
    /// Lets only those pass of whom nothing is known that speaks against them.
    fn passed(&self, acceptor: AcceptorUuid) -> Result<(), Fault> {
        match self.guard.refusal(acceptor) {
            Some(went_back) => Err(Fault::WentBack(went_back)),
            None if self.guard.trusts(acceptor) => Ok(()),
            None => Err(Fault::Suspected),
        }
    }
}

impl Cluster {
    /// Behind these acceptors' addresses.
    pub(crate) fn new(configuration: &Configuration, acceptors: Vec<Arc<Acceptor>>) -> Self {
        let known = Known {
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

    /// Asks which acceptor stands behind an address. Succeeds only for a formed member on the disk that it had; see the
    /// head of this file.
    ///
    /// # Cancel safety
    /// Safe: it only asks, and what it has heard stays true.
    pub(crate) async fn identify(&self, acceptor: &Acceptor) -> Result<Member, Fault> {
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
        // Other acceptors that this introduction exposes are refused at their next answer.
        let remembers = introduction.remembers.of_members(&self.electorate);
        let found = known
            .guard
            .introduce(member.acceptor, &introduction.runs, remembers.iter(), &others);
        for found in found {
            if let Found::Unwitnessed { told, needed, .. } = found {
                return Err(Fault::Unwitnessed { told, needed });
            }
        }
        known.passed(member.acceptor)?;
        known.shown.insert(member.acceptor, member.run);
        Ok(member)
    }

    /// Asks the other acceptors for their tables, and returns those that arrive within the deadline of a call.
    async fn hear_others(&self, one: &Acceptor, member: AcceptorUuid) -> Vec<(AcceptorUuid, Witnesses)> {
        let others = self.acceptors.iter();
        let others = others.filter(|other| other.address() != one.address());
        let answers = join_all(others.map(|other| other.ask())).await;
        let told = answers.into_iter().flatten();
        told.filter(|told| told.report.acceptor != member && self.check_formed(told).is_ok())
            .map(|told| (told.report.acceptor, told.remembers.of_members(&self.electorate)))
            .collect()
    }

    /// Lets an answer of a stream pass, which was opened to this member.
    pub(crate) fn check(&self, stamp: Option<&pb::Stamp>, member: Member) -> Result<(), Fault> {
        let answers = self.vouch_for(stamp, |_, answers| {
            if answers.acceptor != member.acceptor {
                let (found, expected) = (answers.acceptor, member.acceptor);
                return Err(Fault::Changed { found, expected });
            }
            Ok(member.run)
        });
        answers.map(|_| ())
    }

    /// Who answers a single call, if it answers in the run that it showed last. [`Fault::Suspected`] when it has to be
    /// identified first: it may have restarted, or the answer may be late.
    pub(crate) fn vouch(&self, stamp: Option<&pb::Stamp>) -> Result<AcceptorUuid, Fault> {
        self.vouch_for(stamp, |known, answers| {
            let shown = known.shown.get(&answers.acceptor);
            shown.copied().ok_or(Fault::Suspected)
        })
    }

    /// Lets an answer pass that comes from the run expected. Nothing is taken from any other.
    fn vouch_for(
        &self,
        stamp: Option<&pb::Stamp>,
        expected: impl FnOnce(&Known, Member) -> Result<RunNumber, Fault>,
    ) -> Result<AcceptorUuid, Fault> {
        let stamp = wire::read_stamp(stamp)?;
        self.check_id(stamp.cluster.ok_or(Fault::Blank)?)?;
        self.check_member(stamp.acceptor)?;
        let mut known = self.known();
        known.passed(stamp.acceptor)?;
        let answers = Member {
            acceptor: stamp.acceptor,
            run: stamp.run,
        };
        if expected(&known, answers)? != stamp.run {
            return Err(Fault::Suspected);
        }
        known.guard.hear(stamp.acceptor, stamp.run, stamp.commit_counter);
        Ok(stamp.acceptor)
    }

    fn check_formed(&self, introduction: &Introduction) -> Result<(), Fault> {
        match &introduction.report.membership {
            Membership::Blank => Err(Fault::Blank),
            Membership::Forming(configuration) => {
                self.check_id(configuration.cluster_id())?;
                Err(Fault::Forming)
            }
            Membership::Formed(configuration) => {
                self.check_id(configuration.cluster_id())?;
                self.check_member(introduction.report.acceptor)
            }
        }
    }

    fn check_id(&self, found: ClusterId) -> Result<(), Fault> {
        if found == self.id {
            Ok(())
        } else {
            let expected = self.id;
            Err(Fault::OtherCluster { found, expected })
        }
    }

    fn check_member(&self, acceptor: AcceptorUuid) -> Result<(), Fault> {
        if self.electorate.includes(acceptor) {
            Ok(())
        } else {
            Err(Fault::Stranger(acceptor))
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}
