//! Outputs of a process step: messages to other processes, and claims to check against the ledger.

use std::sync::Arc;

use paxos_common::paxos::{
    ballot::Ballot,
    quorum::Configuration,
    reading::ReadId,
    slot::{Slot, Version},
    value::Value,
};

use super::{ledger::Broken, network::Envelope, shared::Shared, sights::Sight};

/// A statement by a process, to be confirmed by the ledger.
#[derive(Clone, Debug)]
pub(crate) enum Claim {
    Proposes {
        ballot: Ballot,
        slot: Slot,
        value: Value,
        /// The command was handed to this proposer's place.
        is_own: bool,
        /// The slot is at or above every mark reported by the promises of this ballot.
        may_be_new: bool,
        /// The slot is below the proposer's own watermark.
        is_repair: bool,
    },
    Votes {
        acceptor: usize,
        ballot: Ballot,
        slot: Slot,
        value: Value,
    },
    /// Every slot below the given slot is chosen.
    Watermark(Slot),
    /// The given values are chosen, in the slots from 0 on.
    Hold(Vec<Value>),
    /// The given values are the result of the slots below the given slot.
    Snapshot(Slot, Vec<Value>),
    /// A configuration takes force: an acceptor has installed it.
    InForce(Arc<Configuration>),
    Answers(Version, u8),
    Learns(Slot, Value),
    /// A read begins at this learner.
    ReadBegins(usize, ReadId),
    /// The read is answered from a state with the given values applied.
    ReadEnds(usize, ReadId, Vec<Value>),
}

#[derive(Clone, Debug)]
pub(crate) enum Output {
    Send(Shared<Envelope>),
    Claim(Claim),
    Broken(Broken),
    Saw(Sight),
}

/// Outputs in the order of their creation.
#[derive(Debug, Default)]
pub(crate) struct Outputs(Vec<Output>);

impl Outputs {
    pub(crate) fn send(&mut self, envelope: Envelope) {
        self.0.push(Output::Send(Shared::new(envelope)));
    }

    pub(crate) fn claim(&mut self, claim: Claim) {
        self.0.push(Output::Claim(claim));
    }

    pub(crate) fn broken(&mut self, broken: Broken) {
        self.0.push(Output::Broken(broken));
    }

    pub(crate) fn saw(&mut self, sight: Sight) {
        self.0.push(Output::Saw(sight));
    }

    pub(crate) fn into_shared(self) -> Arc<[Output]> {
        self.0.into()
    }
}
