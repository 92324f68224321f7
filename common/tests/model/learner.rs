//! A modelled learner: the real core, which feed it takes values from, and what its disk holds.

use paxos_common::paxos::{learner::Learner, quorum::Electorate, slot::Slot, value::Value};

use super::{
    acceptor::uuid,
    cluster::Cluster,
    ledger::Broken,
    network::{Envelope, Message, Node},
    outputs::{Claim, Outputs},
    shared::Shared,
    sights::Sight,
    tamper::LearnerScratch,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LearnerNode {
    pub(crate) core: Learner,
    /// Where values come from; what others send is not taken.
    pub(crate) feed: usize,
    /// What was handed out, in order, by all runs.
    pub(crate) handed_out: Vec<Value>,
    pub(crate) scratch: LearnerScratch,
}

impl LearnerNode {
    pub(crate) fn new(electorate: &Electorate) -> Self {
        Self {
            core: Learner::new(electorate.clone(), Slot::ZERO),
            feed: 0,
            handed_out: Vec::new(),
            scratch: LearnerScratch::default(),
        }
    }
}

/// What happens to a learner.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Input<'a> {
    Receive(&'a Shared<Envelope>),
    SwitchFeed(usize),
    /// It crashes; of what it handed out its disk holds so many slots.
    Restart(Slot),
}

/// One step of one learner.
pub(crate) struct LearnerStep<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) node: LearnerNode,
    pub(crate) outputs: Outputs,
}

impl LearnerStep<'_> {
    pub(crate) fn take(&mut self, input: &Input<'_>) {
        match *input {
            Input::Receive(envelope) => {
                self.receive(envelope);
                for (slot, value) in self.node.core.take_learned(usize::MAX) {
                    self.hand_out(slot, value);
                }
            }
            Input::SwitchFeed(feed) => {
                self.outputs.saw(Sight::FeedSwitched);
                self.node.feed = feed;
                self.node.core.change_feed();
            }
            Input::Restart(stored) => {
                self.outputs.saw(Sight::LearnerRestarted);
                self.node.core = Learner::new(self.cluster.electorate.clone(), stored);
                self.tamper_with_restart();
            }
        }
    }

    fn receive(&mut self, envelope: &Envelope) {
        let Node::Acceptor(acceptor) = envelope.from else {
            unreachable!("only acceptors tell learners")
        };
        // The window is larger than any log here, so that all of it is always taken.
        match &envelope.message {
            Message::Votes(ballot, range) => {
                let ballot = self.tamper_with_votes(*ballot);
                let _ = self.node.core.votes(uuid(acceptor), ballot, *range);
            }
            Message::Rows(rows, chosen_to) => {
                if self.node.feed == acceptor {
                    let rows = self.tamper_with_rows(rows);
                    let _ = self.node.core.rows(&rows, *chosen_to);
                }
            }
            Message::Prepare(..)
            | Message::Accept(_)
            | Message::Fetch(..)
            | Message::Page(..)
            | Message::PrepareRejected(..)
            | Message::Answer(..)
            | Message::Fetched(..) => unreachable!("not for a learner: {envelope:?}"),
        }
    }

    fn hand_out(&mut self, slot: Slot, value: Value) {
        self.outputs.saw(Sight::Learned);
        self.outputs.claim(Claim::Learns(slot, value.clone()));
        let place = usize::try_from(slot.get()).expect("few slots");
        let before = self.node.handed_out.get(place);
        let in_order = match before {
            Some(before) => *before == value,
            None => place == self.node.handed_out.len(),
        };
        if before.is_none() {
            self.node.handed_out.push(value);
        }
        if !in_order {
            self.outputs.broken(Broken::LearnersAgree);
        }
    }
}
