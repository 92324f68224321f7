//! Faults in the middle of a change of members.

use rand::RngExt as _;

use super::{
    knobs::MILLISECOND,
    network::Node,
    statistics::Counted,
    world::{Happening, World},
};

impl World<'_> {
    /// Plans a fault right after a step of a change, with this chance: faults at random moments seldom meet a step.
    pub(super) fn plan_fault_of_change(&mut self, proposer: usize, chance: f64) {
        let is_calm = self.healed_at.is_some();
        let is_calm = is_calm || self.operator().wanted == 0;
        let rng = &mut self.operator().rng;
        if !is_calm && rng.random_bool(chance) {
            let longest = if rng.random_bool(0.5) { 4 } else { 40 };
            let at = self.now + self.operator().rng.random_range(0..=longest * MILLISECOND);
            self.plan(at, Happening::FaultOfChange { proposer });
        }
    }

    /// Causes a fault while `proposer` changes the members.
    pub(crate) fn fault_of_change(&mut self, proposer: usize) {
        if self.healed_at.is_some() {
            return;
        }
        self.statistics.count(Counted::FaultsOfChanges);
        let (leader, acceptors) = (Node::Proposer(proposer), self.acceptors.len());
        let rng = &mut self.operator().rng;
        let (kind, acceptor) = (rng.random_range(0..11), rng.random_range(0..acceptors));
        let until = self.now + self.a_while();
        self.note(|| format!("fault {kind} during the change of proposer {proposer}"));
        match kind {
            0 => self.crash(leader),
            1 => {
                self.crash(leader);
                (0..acceptors).for_each(|acceptor| self.crash(Node::Acceptor(acceptor)));
            }
            2 => {
                self.crash(leader);
                self.crash(Node::Acceptor(acceptor));
            }
            3 => self.crash(Node::Acceptor(acceptor)),
            4 => {
                for acceptor in (0..acceptors).filter(|other| other % 2 == acceptor % 2) {
                    self.network
                        .cuts
                        .insert((leader, Node::Acceptor(acceptor)), until);
                }
            }
            5 => {
                for acceptor in (0..acceptors).filter(|other| other % 2 == acceptor % 2) {
                    self.network
                        .cuts
                        .insert((Node::Acceptor(acceptor), leader), until);
                }
            }
            6 => self.stand_still(leader, until),
            7 if self.knobs.disks_lost_max > 0 => self.lose_disk(),
            8 => {
                // The new members are reached by everyone else, and hear nothing of the change.
                let era = self.invariants.eras.latest().era();
                let until = self.now + self.operator().rng.random_range(2_000..=5_000) * MILLISECOND;
                for acceptor in 0..acceptors {
                    if !self.invariants.eras.includes(era, acceptor) {
                        self.network
                            .cuts
                            .insert((leader, Node::Acceptor(acceptor)), until);
                    }
                }
            }
            9 => {
                // A single acceptor hears of the change.
                for other in (0..acceptors).filter(|&other| other != acceptor) {
                    self.network.cuts.insert((leader, Node::Acceptor(other)), until);
                }
            }
            _ => self.resign_proposer(proposer),
        }
    }
}
