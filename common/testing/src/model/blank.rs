//! Blank acceptors in the model: lost disks, and acceptors that have not joined yet.
//!
//! An acceptor has its number on its disk. So a blank acceptor is another acceptor than the one before, and every process
//! turns it away until a leader has it join. In this model the place stays the same, and a member never joins again.

use paxos_common::paxos::{acceptor::Membership, ballot::Ballot, slot::Slot};

use super::{
    acceptor::{AcceptorNode, AcceptorStep, uuid},
    cluster::Cluster,
    network::Message,
    sights::Sight,
};
use crate::bug::Bug;

impl Cluster {
    /// The membership of an acceptor without any history. Unless the scenario has blank joiners, all acceptors have joined
    /// already. Without changes of members, no acceptor needs a configuration.
    pub(crate) fn membership(&self, place: usize) -> Membership {
        let first = &self.eras[0];
        let is_joiner = self.scenario.blank_joiners && !first.members().contains_key(&uuid(place));
        if self.eras.len() > 1 && !is_joiner {
            Membership::Formed((**first).clone())
        } else {
            Membership::Blank
        }
    }
}

impl AcceptorNode {
    /// Whether this acceptor covers a slot, or covered the slot when the disk was lost: the loss of a disk breaks no rule.
    pub(crate) fn covers(&self, slot: Slot, chosen_at: Ballot) -> bool {
        let mut disks = self.lost.iter().chain([&self.disk]);
        disks.any(|disk| disk.covers(slot, chosen_at))
    }
}

impl AcceptorStep<'_> {
    /// Whether a blank acceptor turns a message away. Only a configuration that does not list the acceptor makes it join.
    pub(crate) fn turns_away(&self, message: &Message) -> bool {
        if self.cluster.eras.len() == 1 || self.node.core.formed_cluster().is_some() {
            return false;
        }
        let Message::Form(configuration) = message else {
            return true;
        };
        configuration.members().contains_key(&uuid(self.place))
    }

    /// The disk is lost, and the process starts on an empty disk.
    pub(crate) fn lose(&mut self) {
        self.outputs.saw(Sight::DiskLost);
        let membership = if self.cluster.has(Bug::BlankCounted) {
            Membership::Formed((*self.cluster.eras[0]).clone())
        } else {
            Membership::Blank
        };
        let lost = self.node.disk.clone();
        self.node = AcceptorNode {
            run: self.node.run + 1,
            lost: Some(lost),
            ..AcceptorNode::new(self.place, membership)
        };
    }
}
