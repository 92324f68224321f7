//! What a step of one process brings about outside of it: messages, and claims to be held against the ledger.

use std::sync::Arc;

use paxos_common::paxos::{
    ballot::Ballot,
    reading::ReadId,
    slot::{Slot, Version},
    value::Value,
};

use super::{ledger::Broken, network::Envelope, shared::Shared, sights::Sight};

/// Something that a process says, which the ledger must bear out.
#[derive(Clone, Debug)]
pub(crate) enum Claim {
    Proposes {
        ballot: Ballot,
        slot: Slot,
        value: Value,
        /// The command came in at this very place.
        is_own: bool,
        /// The slot is above everything that the promises of this ballot told.
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
    /// Every slot below is chosen.
    Watermark(Slot),
    /// These values are chosen, in the slots from 0 on.
    Hold(Vec<Value>),
    Answers(Version, u8),
    Learns(Slot, Value),
    /// A reader asks this learner.
    ReadBegins(usize, ReadId),
    /// It is answered from a state in which these values have been applied.
    ReadEnds(usize, ReadId, Vec<Value>),
}

#[derive(Clone, Debug)]
pub(crate) enum Output {
    Send(Shared<Envelope>),
    Claim(Claim),
    Broken(Broken),
    Saw(Sight),
}

/// In the order in which they came about.
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
