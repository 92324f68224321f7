//! A rung of the ladder: the cluster, and the bounds for a finite number of states.

use super::{
    cluster::{Cluster, State},
    sights::Sight,
};
use crate::bug::Bug;

/// Steps limited in number by a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spend {
    Campaign,
    Repeat,
    Crash,
    Damage,
    Heartbeat,
    Check,
    Silence,
    Restart,
    Report,
    Fill,
    SwitchFeed,
    RestartLearner,
    Read,
    Limit,
    Keep,
    Trim,
    Install,
    Change,
    /// A learner adopts the configuration shown by an acceptor.
    Adopt,
    /// A disk is lost.
    Lose,
    /// A disk runs full.
    FillDisk,
}

/// Remaining number of steps of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Allowance([u8; Spend::FillDisk as usize + 1]);

impl Allowance {
    pub(crate) fn new(allowed: &[(Spend, u8)]) -> Self {
        let mut left = Self([0; Spend::FillDisk as usize + 1]);
        for &(spend, count) in allowed {
            left.0[spend as usize] = count;
        }
        left
    }

    pub(crate) fn unlimited() -> Self {
        Self([u8::MAX; Spend::FillDisk as usize + 1])
    }

    pub(crate) fn of(&self, spend: Spend) -> u8 {
        self.0[spend as usize]
    }

    pub(crate) fn spend(&mut self, spend: Spend) {
        self.0[spend as usize] -= 1;
    }
}

/// The places of the members in one era, and the sizes of the quorums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Members {
    pub(crate) places: &'static [usize],
    pub(crate) phase1: usize,
    pub(crate) phase2: usize,
}

#[derive(Clone)]
pub struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) acceptors: usize,
    pub(crate) phase1: usize,
    pub(crate) phase2: usize,
    pub(crate) proposers: usize,
    /// Number of commands given to the process of each place at the start.
    pub(crate) commands: &'static [usize],
    /// Limit of a leader's new commands under way.
    pub(crate) batches_in_flight: u64,
    /// Acceptors reached by the proposers of each place. Messages to other acceptors are lost.
    pub(crate) reach: &'static [&'static [usize]],
    /// Number of modelled slots. Messages about other slots are lost.
    pub(crate) slots: u64,
    pub(crate) learners: usize,
    pub(crate) page_rows: usize,
    /// Each page is read in a separate step, after the promise has become durable.
    pub(crate) pages_apart: bool,
    /// Requests may join a group before the group is durable.
    pub(crate) groups: bool,
    /// Readers of the disk see a commit one step before memory shows the commit.
    pub(crate) readable_first: bool,
    /// Leaders may request rows for lagging acceptors. Otherwise the messages of repair are lost.
    pub(crate) repair: bool,
    /// Leaders take in answers about slots already known to be chosen.
    pub(crate) late_answers: bool,
    pub(crate) allowance: Allowance,
    /// The first two proposers are copies of one process: both speak at the same ballots.
    pub(crate) copies: bool,
    /// The members and the quorums of each era, when the members change. Empty: all acceptors, permanently.
    pub(crate) eras: &'static [Members],
    /// Acceptors outside the first configuration are blank until they join. Otherwise these acceptors have joined already.
    pub(crate) blank_joiners: bool,
    /// Produces the past of the cluster before the check begins.
    pub(crate) prefix: fn(&Cluster, State) -> State,
    /// Sights required at least once.
    pub(crate) expected: &'static [Sight],
    pub(crate) bug: Option<Bug>,
}

impl Scenario {
    /// Whether acceptors may trim.
    pub(crate) fn trims(&self) -> bool {
        self.allowance.of(Spend::Trim) > 0
    }

    /// Three acceptors with majorities, two proposers with one command each, and one slot.
    pub(crate) fn small(name: &'static str) -> Self {
        Self {
            name,
            acceptors: 3,
            phase1: 2,
            phase2: 2,
            proposers: 2,
            commands: &[1, 1],
            batches_in_flight: 4,
            reach: &[&[0, 1, 2, 3], &[0, 1, 2, 3]],
            slots: 1,
            learners: 0,
            page_rows: 8,
            pages_apart: false,
            groups: false,
            readable_first: false,
            late_answers: false,
            repair: false,
            copies: false,
            eras: &[],
            blank_joiners: false,
            allowance: Allowance::new(&[(Spend::Campaign, 2)]),
            prefix: |_, state| state,
            expected: &[],
            bug: None,
        }
    }
}
