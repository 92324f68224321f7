//! Why the members stay: the words of every refusal of a change, each with what to do.

use paxos_common::{
    paxos::{
        era::Era,
        proposer::ChangeRefusal,
        quorum::{Configuration, InvalidConfiguration},
        slot::Slot,
    },
    peer::Address,
};

use super::name_in;

/// Why the members stay. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChangeDenied {
    #[error("the members have changed since you looked (era {present}, not {asked}): look again")]
    OtherEra { present: Era, asked: Era },
    #[error("another change is under way: {0}. Wait for it")]
    UnderWay(String),
    #[error("acceptor {0} is no member: look again with `paxos member list`")]
    NoMember(String),
    #[error("nothing would change: name acceptors, or other quorums")]
    Nothing,
    #[error("this proposer does not lead: ask the leader")]
    NotLeading,
    #[error("this proposer does not lead any more, and has not proposed the change: ask again")]
    Deposed,
    #[error("another change of members has taken force: look again")]
    OtherMade,
    #[error(
        "slot {0} holds a vote far above the log, and the value may be chosen: the log must reach this slot before the members \
         change. Ask again then"
    )]
    VotedAhead(Slot),
    #[error("the new members did not catch up with the leader: ask again when there is less load")]
    TooSlow,
    #[error(
        "{address} does not answer the leader ({reason}): give the address that the cluster's own network knows"
    )]
    Silent { address: Address, reason: String },
    #[error(
        "{0} has stopped answering the leader, or another acceptor answers there: make sure that it runs, and that the \
         cluster's own network knows its address, and ask again"
    )]
    Gone(String),
    #[error(
        "{0} belongs to another cluster: its directory is not empty. Name an acceptor with an empty directory"
    )]
    OtherCluster(Address),
    #[error("{0} is about to form a cluster, or holds a backup: empty its directory")]
    Forming(Address),
    #[error("{0} is a member already")]
    Member(Address),
    #[error(
        "{0} itself answers there: nothing to replace. To replace its disk, stop it and start it with an empty directory"
    )]
    Itself(String),
    #[error(
        "another acceptor answers at {address} than when you looked ({found}, not {expected}): look again"
    )]
    Another {
        address: Address,
        found: String,
        expected: String,
    },
    #[error("{0} went back on its disk: empty its directory, start it again, and name it again")]
    WentBack(Address),
    #[error("{0} speaks an older protocol: update it first")]
    Outdated(String),
    #[error(
        "{0} speaks an older protocol and would be refused from then on: update it first, or give --force"
    )]
    OutdatedPeer(String),
    #[error(transparent)]
    Invalid(#[from] InvalidConfiguration),
    #[error(
        "of the {members} members after this change {needed} are needed and {answering} would answer: nothing could be \
         ordered. Start or replace {silent}"
    )]
    Never {
        members: usize,
        needed: usize,
        answering: usize,
        silent: String,
    },
    #[error(
        "after this change {answering} of {members} members answer and {needed} are needed: none may fail. First start the \
         members that do not answer, or add more members. To do so nevertheless, give --force"
    )]
    NoneToSpare {
        members: usize,
        needed: usize,
        answering: usize,
    },
    #[error(
        "only {kept} of the {members} members after this change are members now, and {needed} are needed: the new acceptors alone would \
         hold the log. Change fewer at a time, or give --force"
    )]
    MostlyNew {
        members: usize,
        needed: usize,
        kept: usize,
    },
}

impl ChangeDenied {
    /// The words for a refusal of the leader's core. `asked`: the configuration of the refused change.
    pub(crate) fn of_core(refusal: &ChangeRefusal, asked: &Configuration) -> Self {
        match refusal {
            ChangeRefusal::NotLeading => Self::NotLeading,
            ChangeRefusal::NoChange => Self::Nothing,
            &ChangeRefusal::OtherEra { present, asked } => Self::OtherEra {
                present,
                asked: asked.before(),
            },
            ChangeRefusal::UnderWay => {
                Self::UnderWay("it began under an earlier leader, or at the same moment".to_owned())
            }
            &ChangeRefusal::Never {
                members,
                needed,
                answering,
            } => Self::Never {
                members,
                needed,
                answering,
                silent: "a member that does not answer".to_owned(),
            },
            &ChangeRefusal::VotedAhead(slot) => Self::VotedAhead(slot),
            ChangeRefusal::Silent(joiner) => Self::Gone(match asked.members().get(joiner) {
                Some(member) => format!("{} at {}", name_in(asked, *joiner), member.address),
                None => name_in(asked, *joiner),
            }),
            ChangeRefusal::TooSlow => Self::TooSlow,
            ChangeRefusal::Another => Self::OtherMade,
            ChangeRefusal::Deposed => Self::Deposed,
        }
    }
}
