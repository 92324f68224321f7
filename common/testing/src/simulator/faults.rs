//! Faults: crashes, pauses, cuts, broken links, polite stops; and the end of all faults.

use std::sync::Arc;

use paxos_common::paxos::{message::Prepare, slot::Slot};
use rand::RngExt as _;

use super::{
    hearing::giant,
    knobs::MILLISECOND,
    network::{Message, Node},
    statistics::Counted,
    world::{Happening, Time, World},
};

impl World<'_> {
    /// Causes a fault, and plans the next fault.
    pub(crate) fn fault_due(&mut self) {
        if self.healed_at.is_some() {
            return;
        }
        // Each slot is damaged on a single acceptor: elsewhere, a quorum must hold the row.
        if self.knobs.damage && self.rng.random_bool(0.3) {
            let acceptor = self.some_acceptor();
            self.damage_rows(acceptor);
        }
        if self.knobs.disks_lost_max > 0 {
            self.lose_disk();
        }
        match self.rng.random_range(0..120) {
            0..=19 => {
                let node = Node::Acceptor(self.some_acceptor());
                self.crash(node);
            }
            20..=22 => {
                self.statistics.count(Counted::AllAcceptorsCrashed);
                for acceptor in 0..self.acceptors.len() {
                    self.crash(Node::Acceptor(acceptor));
                }
            }
            23..=34 => {
                let node = Node::Proposer(self.some_proposer());
                self.crash(node);
            }
            35..=42 => {
                let node = Node::Learner(self.some_learner());
                self.crash(node);
            }
            43..=57 => self.pause(),
            58..=73 => self.cut(),
            74..=79 => self.half_cut(),
            80..=85 => self.flap(),
            86..=88 => self.reset(),
            89 => self.ask_giant(),
            90..=109 => self.disk_fault(),
            _ => {
                let proposer = self.some_proposer();
                self.resign_proposer(proposer);
            }
        }
        let next = self.rng.random_range(0..=2 * self.knobs.fault_every);
        self.plan(self.now + next, Happening::FaultDue);
    }

    pub(crate) fn some_acceptor(&mut self) -> usize {
        self.rng.random_range(0..self.acceptors.len())
    }

    pub(crate) fn some_proposer(&mut self) -> usize {
        self.rng.random_range(0..self.proposers.len())
    }

    fn some_learner(&mut self) -> usize {
        self.rng.random_range(0..self.learners.len())
    }

    fn some_node(&mut self) -> Node {
        match self.rng.random_range(0..3) {
            0 => Node::Acceptor(self.some_acceptor()),
            1 => Node::Proposer(self.some_proposer()),
            _ => Node::Learner(self.some_learner()),
        }
    }

    /// Duration of a fault: mostly too short for any process to give up, sometimes far longer.
    pub(crate) fn a_while(&mut self) -> Time {
        let longest = if self.rng.random_bool(0.3) { 2_000 } else { 250 };
        self.rng.random_range(1..=longest) * MILLISECOND
    }

    fn is_up(&self, node: Node) -> bool {
        match node {
            Node::Acceptor(acceptor) => self.acceptors[acceptor].is_up(),
            Node::Proposer(proposer) => self.proposers[proposer].is_up(),
            Node::Learner(learner) => self.learners[learner].is_up(),
            Node::Clients => true,
        }
    }

    pub(crate) fn crash(&mut self, node: Node) {
        if !self.is_up(node) {
            return;
        }
        match node {
            Node::Acceptor(acceptor) => self.crash_acceptor(acceptor),
            Node::Proposer(proposer) => self.crash_proposer(proposer),
            Node::Learner(learner) => self.crash_learner(learner),
            Node::Clients => {}
        }
        let back = self.now + self.a_while();
        self.plan(back, Happening::Restart(node));
    }

    /// Starts a process, unless the process runs already.
    pub(crate) fn restart(&mut self, node: Node) {
        if self.is_up(node) {
            return;
        }
        match node {
            Node::Acceptor(acceptor) => self.start_acceptor(acceptor),
            Node::Proposer(proposer) => self.start_proposer(proposer),
            Node::Learner(learner) => self.start_learner(learner),
            Node::Clients => {}
        }
    }

    /// A process stands still, and then continues as if nothing had happened.
    fn pause(&mut self) {
        let node = self.some_node();
        let until = self.now + self.a_while();
        self.statistics.count(Counted::ProcessesPaused);
        self.note(|| format!("{node:?} is paused"));
        self.stand_still(node, until);
    }

    /// A process stands still until the given time.
    pub(crate) fn stand_still(&mut self, node: Node, until: Time) {
        if let Node::Proposer(proposer) = node {
            let now = self.now;
            self.proposers[proposer].stopped_at.get_or_insert(now);
        }
        *self.pause_of(node) = until;
    }

    fn pause_of(&mut self, node: Node) -> &mut Time {
        match node {
            Node::Acceptor(acceptor) => &mut self.acceptors[acceptor].paused_until,
            Node::Proposer(proposer) => &mut self.proposers[proposer].paused_until,
            Node::Learner(learner) => &mut self.learners[learner].paused_until,
            Node::Clients => unreachable!("clients are never paused"),
        }
    }

    /// End of a process's pause; `None` if the process is not paused.
    pub(crate) fn paused_until(&self, node: Node) -> Option<Time> {
        let until = match node {
            Node::Acceptor(acceptor) => self.acceptors[acceptor].paused_until,
            Node::Proposer(proposer) => self.proposers[proposer].paused_until,
            Node::Learner(learner) => self.learners[learner].paused_until,
            Node::Clients => 0,
        };
        (until > self.now).then_some(until)
    }

    /// Cuts a process off from some processes: messages are dropped, in one direction or in both. Sometimes the link
    /// notices.
    fn cut(&mut self) {
        let one = self.some_node();
        let until = self.now + self.a_while();
        let (incoming, outgoing) = (self.rng.random_bool(0.6), self.rng.random_bool(0.6));
        let with_all = self.rng.random_bool(0.4);
        let others: Vec<Node> = if with_all {
            let acceptors = (0..self.acceptors.len()).map(Node::Acceptor);
            let proposers = (0..self.proposers.len()).map(Node::Proposer);
            let learners = (0..self.learners.len()).map(Node::Learner);
            acceptors.chain(proposers).chain(learners).collect()
        } else {
            vec![self.some_node()]
        };
        self.statistics.count(Counted::Cuts);
        self.note(|| format!("{one:?} is cut from {others:?}, in {incoming}, out {outgoing}"));
        for other in others {
            if incoming {
                self.network.cuts.insert((other, one), until);
            }
            if outgoing {
                self.network.cuts.insert((one, other), until);
            }
            if let Some((acceptor, proposer)) = link(one, other)
                && self.rng.random_bool(0.5)
            {
                self.plan_within(200 * MILLISECOND, Happening::LinkClosed { acceptor, proposer });
            }
        }
    }

    /// A leader hears every acceptor, and a single acceptor hears the leader. This acceptor hears no other proposer.
    fn half_cut(&mut self) {
        let leader = (0..self.proposers.len()).find(|&proposer| self.proposers[proposer].leads());
        let Some(leader) = leader else { return };
        let kept = self.some_acceptor();
        let until = self.now + self.a_while();
        self.statistics.count(Counted::LeadersHalfCut);
        self.note(|| format!("leader {leader} is heard by acceptor {kept} alone"));
        for acceptor in 0..self.acceptors.len() {
            for proposer in 0..self.proposers.len() {
                if (acceptor == kept) != (proposer == leader) {
                    let way = (Node::Proposer(proposer), Node::Acceptor(acceptor));
                    self.network.cuts.insert(way, until);
                }
            }
        }
    }

    /// Resets all streams of a proposer, or of an acceptor, or between the two.
    fn reset(&mut self) {
        let (acceptor, proposer) = (self.some_acceptor(), self.some_proposer());
        let kind = self.rng.random_range(0..3);
        self.reset_streams(|stream| match kind {
            0 => stream.proposer == proposer,
            1 => stream.acceptor == acceptor,
            _ => stream.proposer == proposer && stream.acceptor == acceptor,
        });
    }

    /// Asks every acceptor to promise a ballot so high that no acceptor takes it up.
    pub(crate) fn ask_giant(&mut self) {
        self.statistics.count(Counted::GiantBallots);
        for acceptor in 0..self.acceptors.len() {
            let prepare = Prepare {
                ballot: giant(),
                from: Slot::ZERO,
                address: Arc::from("nowhere"),
            };
            self.send(
                Node::Clients,
                Node::Acceptor(acceptor),
                Message::Prepare(prepare, None),
            );
        }
    }

    /// A link breaks and comes back at once.
    fn flap(&mut self) {
        let (acceptor, proposer) = (self.some_acceptor(), self.some_proposer());
        self.statistics.count(Counted::LinksFlapped);
        self.plan(self.now, Happening::LinkClosed { acceptor, proposer });
    }

    /// Every process runs again, and every link is open.
    pub(crate) fn end_faults(&mut self) {
        let acceptors = (0..self.acceptors.len()).map(Node::Acceptor);
        let proposers = (0..self.proposers.len()).map(Node::Proposer);
        let learners = (0..self.learners.len()).map(Node::Learner);
        let nodes: Vec<Node> = acceptors.chain(proposers).chain(learners).collect();
        for node in nodes {
            *self.pause_of(node) = 0;
            self.restart(node);
        }
        for acceptor in 0..self.acceptors.len() {
            for proposer in 0..self.proposers.len() {
                self.plan(self.now + 1, Happening::LinkClosed { acceptor, proposer });
            }
        }
    }
}

/// The acceptor and the proposer of a link; `None` if the two processes have no link.
fn link(one: Node, other: Node) -> Option<(usize, usize)> {
    match (one, other) {
        (Node::Acceptor(acceptor), Node::Proposer(proposer))
        | (Node::Proposer(proposer), Node::Acceptor(acceptor)) => Some((acceptor, proposer)),
        (
            Node::Acceptor(_) | Node::Proposer(_) | Node::Learner(_) | Node::Clients,
            Node::Acceptor(_) | Node::Proposer(_) | Node::Learner(_) | Node::Clients,
        ) => None,
    }
}
