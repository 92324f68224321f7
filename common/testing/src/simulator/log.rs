//! What happened to leaders, with times: for bounds that a scenario states.

use paxos_common::paxos::proposer::{Notice, Why};

use super::world::{Time, World};

/// Something that a bound is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    Campaigns(usize, Notice),
    Leads(usize),
    StepsDown(usize, Notice),
    /// A client was answered that its command is chosen.
    Answered,
}

impl Happened {
    /// Whose campaign it is, if it is one.
    pub(crate) fn campaigner(&self) -> Option<usize> {
        match self {
            Self::Campaigns(proposer, _) => Some(*proposer),
            Self::Leads(_) | Self::StepsDown(..) | Self::Answered => None,
        }
    }

    pub(crate) fn is_challenge(&self) -> bool {
        let notice = match self {
            Self::Campaigns(_, notice) => notice,
            Self::Leads(_) | Self::StepsDown(..) | Self::Answered => return false,
        };
        matches!(
            notice,
            Notice::Campaign {
                why: Why::NoProgress { .. },
                ..
            }
        )
    }
}

/// The happenings of a run, in order.
#[derive(Default)]
pub(crate) struct Log(pub(crate) Vec<(Time, Happened)>);

impl Log {
    /// When something of a kind happened first at `from` or later.
    pub(crate) fn first(&self, from: Time, is: impl Fn(&Happened) -> bool) -> Option<Time> {
        let found = self.0.iter().find(|(at, happened)| *at >= from && is(happened));
        found.map(|(at, _)| *at)
    }

    /// How much of a kind happened between two times.
    pub(crate) fn count(&self, from: Time, to: Time, is: impl Fn(&Happened) -> bool) -> usize {
        let within = self.0.iter().filter(|(at, _)| (from..to).contains(at));
        within.filter(|(_, happened)| is(happened)).count()
    }
}

impl World<'_> {
    pub(crate) fn happened(&mut self, happened: Happened) {
        self.log.0.push((self.now, happened));
    }
}
