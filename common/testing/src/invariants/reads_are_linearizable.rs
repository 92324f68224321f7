//! Invariant 9, the half about reads: a read sees every command that any client knew of before the read began.
//!
//! The history is kept outside the cluster, as commands: a position reported by the cluster proves nothing here.

use std::collections::{BTreeMap, BTreeSet};

use paxos_common::paxos::value::Value;

use super::commands;

/// Commands in the order of becoming known to a client, and the reads under way.
pub(crate) struct History {
    /// Commands answered to a writer, or seen by a reader.
    answered: Vec<u64>,
    is_answered: BTreeSet<u64>,
    /// Number of commands in `answered` when each read under way began, by learner and read.
    reads: BTreeMap<(usize, u64), usize>,
    learners: Vec<RegisterState>,
}

/// The basis of a learner's answers.
#[derive(Default)]
struct RegisterState {
    /// The commands of each value, in the order of application.
    applied: Vec<Vec<u64>>,
    holds: BTreeSet<u64>,
    /// The learner holds this many of the first commands in `answered`. A running learner forgets nothing.
    found_to: usize,
    /// Number of applied values already seen by readers.
    shown_to: usize,
}

/// Circumstances of an answered read.
pub(crate) struct Saw {
    /// The read saw a command unknown to every client until then.
    pub(crate) fresh_write: bool,
}

impl History {
    pub(crate) fn new(learners: usize) -> Self {
        Self {
            answered: Vec::new(),
            is_answered: BTreeSet::new(),
            reads: BTreeMap::new(),
            learners: (0..learners).map(|_| RegisterState::default()).collect(),
        }
    }

    /// A writer gets the answer that its command took effect.
    pub(crate) fn acknowledged(&mut self, command: u64) {
        if self.is_answered.insert(command) {
            self.answered.push(command);
        }
    }

    /// A learner applies the next value.
    pub(crate) fn applied(&mut self, learner: usize, value: &Value) {
        let state = &mut self.learners[learner];
        let applied: Vec<u64> = commands(value).collect();
        state.holds.extend(&applied);
        state.applied.push(applied);
    }

    /// A learner restarts with the first `kept` applied values. The reads under way at this learner end without an
    /// answer.
    pub(crate) fn restarted(&mut self, learner: usize, kept: usize) {
        let mut applied = std::mem::take(&mut self.learners[learner].applied);
        applied.truncate(kept);
        self.learners[learner] = RegisterState {
            holds: applied.iter().flatten().copied().collect(),
            applied,
            ..RegisterState::default()
        };
        self.reads.retain(|(of, _), _| *of != learner);
    }

    /// A read begins at a learner.
    pub(crate) fn begins(&mut self, learner: usize, read: u64) {
        let before = self.reads.insert((learner, read), self.answered.len());
        assert_eq!(before, None, "learner {learner} is asked for read {read} twice");
    }

    /// A reader no longer waits.
    pub(crate) fn abandoned(&mut self, learner: usize, read: u64) {
        self.reads.remove(&(learner, read));
    }

    /// A learner answers a read from all applied values.
    pub(crate) fn ends(&mut self, learner: usize, read: u64) -> Saw {
        let Some(must_see) = self.reads.remove(&(learner, read)) else {
            panic!("learner {learner} answers read {read}, for which nobody waits");
        };
        let state = &mut self.learners[learner];
        while state.found_to < must_see {
            let command = self.answered[state.found_to];
            assert!(
                state.holds.contains(&command),
                "a read at learner {learner} misses command {command}, answered before the read began"
            );
            state.found_to += 1;
        }
        let mut fresh_write = false;
        for command in state.applied[state.shown_to..].iter().flatten() {
            if self.is_answered.insert(*command) {
                self.answered.push(*command);
                fresh_write = true;
            }
        }
        state.shown_to = state.applied.len();
        Saw { fresh_write }
    }
}
