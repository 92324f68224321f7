//! Properties checked after every step of a simulated cluster, in a separate file for each property.
//!
//! The harness reports every event. Each property keeps the facts needed to judge the events, and panics when broken.
//! The properties share no code with the cores beyond the vocabulary types, so that a mistake is not made twice.

use paxos_common::paxos::{
    ballot::Ballot,
    quorum::Configuration,
    slot::{Slot, SlotRange},
    value::Value,
};

use promises_are_kept::Said;

pub(crate) mod answers_leave_no_gap;
pub(crate) mod ballots_are_fresh;
pub(crate) mod chosen_is_final;
pub(crate) mod commands_are_ordered_once;
pub(crate) mod eras_are_kept;
pub(crate) mod learners_agree;
pub(crate) mod new_slots_start_above;
pub(crate) mod one_value_per_ballot;
pub(crate) mod one_value_per_quorum;
pub(crate) mod progress;
pub(crate) mod promises_are_kept;
pub(crate) mod reads_are_linearizable;
pub(crate) mod retries_take_effect_once;
pub(crate) mod watermarks_are_true;

/// The commands of a value. A simulated command is its number, in eight bytes, so that a batch can be split again. A change of
/// members holds no command.
pub(crate) fn commands(value: &Value) -> impl Iterator<Item = u64> {
    let batch = value.as_bytes().iter().as_slice();
    let batch = if value.change().is_none() { batch } else { &[] };
    batch
        .chunks_exact(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes")))
}

/// Every property, and the few facts needed by several properties.
pub(crate) struct Invariants {
    pub(crate) ballots: ballots_are_fresh::Ballots,
    pub(crate) proposals: one_value_per_ballot::Proposals,
    pub(crate) votes: one_value_per_quorum::Votes,
    pub(crate) chosen: chosen_is_final::Chosen,
    pub(crate) eras: eras_are_kept::Eras,
    pub(crate) commands: commands_are_ordered_once::Commands,
    pub(crate) promises: promises_are_kept::Promises,
    pub(crate) watermarks: watermarks_are_true::Watermarks,
    pub(crate) takeovers: new_slots_start_above::Takeovers,
    pub(crate) learners: learners_agree::Sequences,
    pub(crate) reads: reads_are_linearizable::History,
    pub(crate) retries: retries_take_effect_once::Retries,
    pub(crate) progress: progress::Progress,
}

impl Invariants {
    pub(crate) fn new(configuration: &Configuration, learners: usize) -> Self {
        let acceptors = configuration.quorums().acceptors();
        Self {
            ballots: ballots_are_fresh::Ballots::default(),
            proposals: one_value_per_ballot::Proposals::default(),
            votes: one_value_per_quorum::Votes::default(),
            chosen: chosen_is_final::Chosen::default(),
            eras: eras_are_kept::Eras::new(configuration.clone()),
            commands: commands_are_ordered_once::Commands::default(),
            promises: promises_are_kept::Promises::new(acceptors),
            watermarks: watermarks_are_true::Watermarks::new(acceptors),
            takeovers: new_slots_start_above::Takeovers::default(),
            learners: learners_agree::Sequences::new(learners),
            reads: reads_are_linearizable::History::new(learners),
            retries: retries_take_effect_once::Retries::default(),
            progress: progress::Progress::default(),
        }
    }

    /// A leader sends a proposal out.
    pub(crate) fn proposed(&mut self, ballot: Ballot, slot: Slot, value: &Value) {
        if self.proposals.proposed(ballot, slot, value) {
            self.chosen.proposed(ballot, slot, value);
            self.takeovers.proposed(&self.chosen, ballot, slot, value);
            self.commands.proposed(value);
        }
    }

    /// An acceptor's disk goes back: the earlier statements are gone, and the acceptor is not counted again on this
    /// disk.
    pub(crate) fn lost(&mut self, acceptor: usize) -> Said {
        self.watermarks.lost(acceptor);
        self.promises.lost(acceptor)
    }

    /// The right disk of an acceptor is put back.
    pub(crate) fn put_back(&mut self, acceptor: usize, said: Said) {
        self.watermarks.lost(acceptor);
        self.promises.put_back(acceptor, said);
    }

    /// A new acceptor comes, with a blank disk.
    pub(crate) fn came(&mut self) {
        self.watermarks.came();
        self.promises.came();
    }

    /// An acceptor's own snapshot stands for the rows below `to` from now on.
    pub(crate) fn trimmed(&mut self, acceptor: usize, to: Slot) {
        self.watermarks.trimmed(acceptor, to);
        self.promises.trimmed(acceptor, to);
    }

    /// An acceptor reports votes. A vote overwritten within the same commit never appears on the disk, but still
    /// counts: this vote was cast first.
    pub(crate) fn said(&mut self, acceptor: usize, ballot: Ballot, slots: &[SlotRange]) {
        for slot in slots.iter().flat_map(|range| range.from.to(range.to)) {
            if let Some(value) = self.proposals.value(ballot, slot).cloned() {
                self.voted(acceptor, ballot, slot, &value);
            }
        }
    }

    /// A vote becomes durable.
    pub(crate) fn voted(&mut self, acceptor: usize, ballot: Ballot, slot: Slot, value: &Value) {
        self.proposals.voted(ballot, slot, value);
        if self.votes.voted(&self.eras, acceptor, ballot, slot, value) {
            self.chosen.chosen(ballot, slot, value, &self.proposals);
            self.eras.chosen(&self.chosen, ballot, slot, value);
            self.commands.ordered(slot, value);
        }
    }
}
