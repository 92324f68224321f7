//! Notices for people: why a proposer campaigns, why it steps down, and pauses of the process.

use std::{fmt, time::Duration};

use crate::paxos::{ballot::Ballot, era::Era, identity::AcceptorUuid, slot::Slot};

/// A change with a reason for people to know. [`fmt::Display`] gives the text of a log line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// A campaign begins.
    Campaign {
        /// Ballot of the campaign.
        ballot: Ballot,
        /// The reason.
        why: Why,
    },
    /// A campaign or a reign ends.
    SteppedDown {
        /// Ballot of the campaign or reign.
        ballot: Ballot,
        /// Whether a reign ends.
        led: bool,
        /// The reason.
        why: End,
    },
    /// This process was paused for at least a leader timeout while campaigning or leading.
    StoodStill(Duration),
}

/// Why a standby campaigns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// A phase-1 quorum finds the leader gone.
    Gone(Vec<(AcceptorUuid, Gone)>),
    /// The heard proposer makes no progress, and this proposer could.
    NoProgress {
        /// The challenged ballot.
        heard: Ballot,
        /// Time without progress.
        lasted: Duration,
    },
    /// This proposer put a change of members in force, and goes on in the next era.
    Changed,
}

/// An acceptor's evidence of a gone proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gone {
    /// Nothing from the proposer arrived for this long.
    Silent(Duration),
    /// The proposer's stream ended this long ago.
    Ended(Duration),
    /// The proposer has resigned.
    Resigned,
    /// The acceptor is new, and has heard of no proposer yet.
    NoneKnown,
}

/// Why a campaign or a reign ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// An acceptor has promised a higher ballot.
    Rejected {
        /// The higher ballot.
        promised: Ballot,
    },
    /// Fewer acceptors than a quorum are present.
    Alone {
        /// Number of present acceptors needed.
        needed: usize,
        /// The absent acceptors.
        absent: Vec<(AcceptorUuid, Absent)>,
    },
    /// A campaign got no byte of a promise for this long.
    NoPromise(Duration),
    /// Two values of a slot were accepted at one ballot, and only reports of further acceptors can show which value may
    /// be chosen.
    Contested {
        /// The first such slot.
        slot: Slot,
        /// Acceptors without a complete report.
        awaited: Vec<AcceptorUuid>,
    },
    /// The runs of an acceptor contradict the tables of other acceptors, and its votes may have been counted.
    Distrusted(AcceptorUuid),
    /// Another proposer began after the evidence of this campaign, and is heard.
    Overtaken {
        /// The ballot of the other proposer.
        heard: Ballot,
    },
    /// The members have changed: this era is over.
    LaterEra(Era),
}

/// Why an acceptor is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Absent {
    /// Nothing from the acceptor arrived for this long.
    Silent(Duration),
    /// The acceptor answers, but has received nothing from here for this long.
    Deaf(Duration),
}

/// A member keeping commands waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Late {
    /// The acceptor.
    pub acceptor: AcceptorUuid,
    /// The reason.
    pub why: Lateness,
}

/// Why an acceptor does not vote in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lateness {
    /// The acceptor is absent.
    Absent(Absent),
    /// The oldest request has waited for the acceptor's disk for this long.
    Waiting(Duration),
    /// The acceptor's disk has no space.
    NoSpace,
}

impl Notice {
    /// A label for metrics, from a small fixed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Campaign { why, .. } => match why {
                Why::NoProgress { .. } => "no_progress",
                Why::Changed => "changed",
                Why::Gone(said) => {
                    let all = |is: fn(&Gone) -> bool| said.iter().all(|(_, gone)| is(gone));
                    if all(|gone| *gone == Gone::NoneKnown) {
                        "none_known"
                    } else if all(|gone| *gone == Gone::Resigned) {
                        "resigned"
                    } else if all(|gone| matches!(gone, Gone::Resigned | Gone::Ended(_))) {
                        "ended"
                    } else {
                        "silent"
                    }
                }
            },
            Self::SteppedDown { why, .. } => match why {
                End::Rejected { .. } => "rejected",
                End::Alone { .. } => "alone",
                End::NoPromise(_) => "no_promise",
                End::Contested { .. } => "contested",
                End::Distrusted(_) => "distrusted",
                End::Overtaken { .. } => "overtaken",
                End::LaterEra(_) => "later_era",
            },
            Self::StoodStill(_) => "stood_still",
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Campaign { ballot, why } => {
                let era = ballot.era();
                if why.is_first() && era > Era::FIRST {
                    write!(
                        f,
                        "campaign at ballot {ballot}: era {era} is new: no acceptor has heard of a leader in it"
                    )
                } else {
                    write!(f, "campaign at ballot {ballot}: {why}")
                }
            }
            Self::SteppedDown { ballot, led, why } => {
                let what = if *led { "reign" } else { "campaign" };
                write!(f, "the {what} at ballot {ballot} ends: {why}")
            }
            Self::StoodStill(lasted) => write!(
                f,
                "this process was paused for {} ms, and another proposer may have taken over: raise --leader-timeout",
                lasted.as_millis()
            ),
        }
    }
}

impl Why {
    /// Whether no acceptor has heard of a leader: the first campaign of the era.
    fn is_first(&self) -> bool {
        match self {
            Self::Gone(said) => said.iter().all(|(_, gone)| *gone == Gone::NoneKnown),
            Self::NoProgress { .. } | Self::Changed => false,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(_) if self.is_first() => {
                f.write_str("the cluster is new: no acceptor has heard of a leader")
            }
            Self::Gone(said) => {
                write!(f, "the leader is gone: ")?;
                list_evidence(f, said)
            }
            Self::NoProgress { heard, lasted } => write!(
                f,
                "no progress for {} s at ballot {heard}, and a quorum answers this proposer",
                lasted.as_secs()
            ),
            Self::Changed => f.write_str("this proposer has put a change of members in force"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected { promised } => write!(f, "an acceptor has promised ballot {promised}"),
            Self::Alone { needed, absent } => {
                write!(f, "fewer than {needed} acceptors are reachable: ")?;
                list_evidence(f, absent)
            }
            Self::NoPromise(lasted) => write!(f, "no byte of a promise arrived for {} s", lasted.as_secs()),
            Self::Contested { slot, awaited } => {
                write!(
                    f,
                    "two values of slot {slot} were accepted at one ballot (a copied proposer, or a forged message): start \
                     the acceptors that have not reported: "
                )?;
                list(f, awaited, |f, acceptor| write!(f, "acceptor {acceptor}"))
            }
            Self::Distrusted(acceptor) => write!(
                f,
                "the runs of acceptor {acceptor} contradict the tables of other acceptors: votes may be lost"
            ),
            Self::Overtaken { heard } => write!(f, "an acceptor hears another proposer, at ballot {heard}"),
            Self::LaterEra(era) => write!(f, "the members have changed, and era {era} begins"),
        }
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(lasted) => write!(f, "silent for {} ms", lasted.as_millis()),
            Self::Ended(lasted) => write!(f, "stream ended {} ms ago", lasted.as_millis()),
            Self::Resigned => write!(f, "resigned"),
            Self::NoneKnown => write!(f, "has heard of no leader"),
        }
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(lasted) => write!(f, "silent for {} ms", lasted.as_millis()),
            Self::Deaf(lasted) => write!(
                f,
                "received nothing from this proposer for {} ms",
                lasted.as_millis()
            ),
        }
    }
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acceptor, why } = self;
        match why {
            Lateness::Absent(absent) => write!(f, "acceptor {acceptor}: {absent}"),
            Lateness::Waiting(lasted) => write!(
                f,
                "acceptor {acceptor}: its disk keeps a request waiting for {} ms",
                lasted.as_millis()
            ),
            Lateness::NoSpace => write!(f, "acceptor {acceptor}: no space on its disk"),
        }
    }
}

/// The evidence of each acceptor.
fn list_evidence<T: fmt::Display>(f: &mut fmt::Formatter<'_>, said: &[(AcceptorUuid, T)]) -> fmt::Result {
    list(f, said, |f, (acceptor, what)| {
        write!(f, "acceptor {acceptor}: {what}")
    })
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    item: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (number, listed) in items.iter().enumerate() {
        if number > 0 {
            f.write_str(", ")?;
        }
        item(f, listed)?;
    }
    Ok(())
}
