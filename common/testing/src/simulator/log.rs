//! Leadership events with times, for the bounds of a scenario.

use paxos_common::paxos::proposer::{Notice, Why};

use super::world::{Time, World};

/// An event for the bounds of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    Campaigns(usize, Notice),
    Leads(usize),
    StepsDown(usize, Notice),
    /// A client's command was answered as chosen.
    Answered,
    /// A change of members is done, or refused.
    Changed,
    ChangeRefused,
}

impl Happened {
    /// The campaigning proposer, if the event is a campaign.
    pub(crate) fn campaigner(&self) -> Option<usize> {
        match self {
            Self::Campaigns(proposer, _) => Some(*proposer),
            Self::Leads(_) | Self::StepsDown(..) | Self::Answered | Self::Changed | Self::ChangeRefused => {
                None
            }
        }
    }

    pub(crate) fn is_challenge(&self) -> bool {
        let notice = match self {
            Self::Campaigns(_, notice) => notice,
            Self::Leads(_) | Self::StepsDown(..) | Self::Answered | Self::Changed | Self::ChangeRefused => {
                return false;
            }
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

/// The events of a run, in order.
#[derive(Default)]
pub(crate) struct Log(pub(crate) Vec<(Time, Happened)>);

impl Log {
    /// Time of the first matching event at or after `from`.
    pub(crate) fn first(&self, from: Time, is: impl Fn(&Happened) -> bool) -> Option<Time> {
        let found = self.0.iter().find(|(at, happened)| *at >= from && is(happened));
        found.map(|(at, _)| *at)
    }

    /// The longest time between two neighbouring matching events at or after `from`.
    pub(crate) fn longest_gap(&self, from: Time, is: impl Fn(&Happened) -> bool) -> Time {
        let matching = self.0.iter().filter(|(at, happened)| *at >= from && is(happened));
        let times: Vec<Time> = matching.map(|(at, _)| *at).collect();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or(Time::MAX)
    }

    /// Number of matching events at or after `from` and before `to`.
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
