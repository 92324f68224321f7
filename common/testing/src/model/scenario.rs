//! What a rung of the ladder consists of, and how far it goes: the bounds that make its states finite.

use super::{
    cluster::{Cluster, State},
    sights::Sight,
    tamper::Bug,
};

/// Steps of which only so many may happen.
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
}

/// How many of each are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Allowance([u8; Spend::Limit as usize + 1]);

impl Allowance {
    pub(crate) fn new(allowed: &[(Spend, u8)]) -> Self {
        let mut left = Self([0; Spend::Limit as usize + 1]);
        for &(spend, count) in allowed {
            left.0[spend as usize] = count;
        }
        left
    }

    pub(crate) fn unlimited() -> Self {
        Self([u8::MAX; Spend::Limit as usize + 1])
    }

    pub(crate) fn of(&self, spend: Spend) -> u8 {
        self.0[spend as usize]
    }

    pub(crate) fn spend(&mut self, spend: Spend) {
        self.0[spend as usize] -= 1;
    }
}

#[derive(Clone)]
pub struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) acceptors: usize,
    pub(crate) phase1: usize,
    pub(crate) phase2: usize,
    pub(crate) proposers: usize,
    /// Commands that the process of each place has from its start.
    pub(crate) commands: &'static [usize],
    /// How many new commands a leader has under way.
    pub(crate) batches_in_flight: u64,
    /// Whom the proposers of each place reach: what they send to others is lost.
    pub(crate) reach: &'static [&'static [usize]],
    /// How many slots are modelled; messages about others are lost.
    pub(crate) slots: u64,
    pub(crate) learners: usize,
    pub(crate) page_rows: usize,
    /// Pages are read in steps of their own, after the promise has become durable.
    pub(crate) pages_apart: bool,
    /// Requests may join a group that is not durable yet.
    pub(crate) groups: bool,
    /// Readers of the disk see a commit a step before memory shows it.
    pub(crate) readable_first: bool,
    /// Leaders may ask for what lagging acceptors lack; else those messages are lost.
    pub(crate) repair: bool,
    /// Leaders take in answers about what they know to be chosen.
    pub(crate) late_answers: bool,
    pub(crate) allowance: Allowance,
    /// What has happened before the check begins.
    pub(crate) prefix: fn(&Cluster, State) -> State,
    /// What must be seen sometimes.
    pub(crate) expected: &'static [Sight],
    pub(crate) bug: Option<Bug>,
}

impl Scenario {
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
            allowance: Allowance::new(&[(Spend::Campaign, 2)]),
            prefix: |_, state| state,
            expected: &[],
            bug: None,
        }
    }
}
