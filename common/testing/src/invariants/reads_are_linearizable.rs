//! Invariant 9, its half about reads: a read sees all that anybody was told of before it began.
//!
//! The history is kept outside the cluster, in commands: a position that the cluster tells proves nothing here.

use std::collections::{BTreeMap, BTreeSet};

use paxos_common::paxos::value::Value;

use super::commands;

/// What was told to whom, in the order in which it happened.
pub(crate) struct History {
    /// Commands that a writer was answered for, or that a reader saw.
    told: Vec<u64>,
    is_told: BTreeSet<u64>,
    /// How many of those had been told when each read under way began, by learner.
    reads: BTreeMap<(usize, u64), usize>,
    learners: Vec<State>,
}

/// What a learner answers from.
#[derive(Default)]
struct State {
    /// The commands of each value, in the order in which they were applied.
    applied: Vec<Vec<u64>>,
    holds: BTreeSet<u64>,
    /// So many of the commands that were told it was found to hold: it forgets nothing while it runs.
    found_to: usize,
    /// So many of its values readers have seen.
    shown_to: usize,
}

/// What a read was about.
pub(crate) struct Saw {
    /// It saw a command that nobody had been told of.
    pub(crate) fresh_write: bool,
}

impl History {
    pub(crate) fn new(learners: usize) -> Self {
        Self {
            told: Vec::new(),
            is_told: BTreeSet::new(),
            reads: BTreeMap::new(),
            learners: (0..learners).map(|_| State::default()).collect(),
        }
    }

    /// A writer is told that its command took effect.
    pub(crate) fn acknowledged(&mut self, command: u64) {
        if self.is_told.insert(command) {
            self.told.push(command);
        }
    }

    /// A learner applies the next value.
    pub(crate) fn applied(&mut self, learner: usize, value: &Value) {
        let state = &mut self.learners[learner];
        let applied: Vec<u64> = commands(value).collect();
        state.holds.extend(&applied);
        state.applied.push(applied);
    }

    /// A learner starts again with the first `kept` values that it had applied. Whoever read there waits for nothing.
    pub(crate) fn restarted(&mut self, learner: usize, kept: usize) {
        let mut applied = std::mem::take(&mut self.learners[learner].applied);
        applied.truncate(kept);
        self.learners[learner] = State {
            holds: applied.iter().flatten().copied().collect(),
            applied,
            ..State::default()
        };
        self.reads.retain(|(of, _), _| *of != learner);
    }

    /// Somebody asks a learner.
    pub(crate) fn begins(&mut self, learner: usize, read: u64) {
        let before = self.reads.insert((learner, read), self.told.len());
        assert_eq!(before, None, "learner {learner} is asked for read {read} twice");
    }

    /// Somebody waits no more.
    pub(crate) fn abandoned(&mut self, learner: usize, read: u64) {
        self.reads.remove(&(learner, read));
    }

    /// A learner answers from all that it has applied.
    pub(crate) fn ends(&mut self, learner: usize, read: u64) -> Saw {
        let Some(must_see) = self.reads.remove(&(learner, read)) else {
            panic!("learner {learner} answers read {read}, for which nobody waits");
        };
        let state = &mut self.learners[learner];
        while state.found_to < must_see {
            let command = self.told[state.found_to];
            assert!(
                state.holds.contains(&command),
                "a read at learner {learner} misses command {command}, which somebody had been told of when it began"
            );
            state.found_to += 1;
        }
        let mut fresh_write = false;
        for command in state.applied[state.shown_to..].iter().flatten() {
            if self.is_told.insert(*command) {
                self.told.push(*command);
                fresh_write = true;
            }
        }
        state.shown_to = state.applied.len();
        Saw { fresh_write }
    }
}
