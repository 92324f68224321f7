//! Calls of simulated drivers to acceptors outside of streams: reports, and repeated requests for promises.

use paxos_common::paxos::{ballot::Ballot, proposer::Scan};
use rand::RngExt as _;

use super::{
    knobs::MILLISECOND,
    network::{Message, Node},
    world::{Happening, World, micros},
};

impl World<'_> {
    /// A quarter of the leader timeout is over: the proposer reports to all connected acceptors, and is answered.
    pub(crate) fn report_due(&mut self, proposer: usize, run: u64) {
        if self.proposers[proposer].run != run || !self.proposers[proposer].is_up() {
            return;
        }
        self.report_now(proposer);
        let every = self.proposers[proposer]
            .clock
            .takes(micros(self.knobs.leader_timeout) / 4);
        self.plan(self.now + every, Happening::ReportDue { proposer, run });
    }

    pub(crate) fn report_now(&mut self, proposer: usize) {
        let process = &mut self.proposers[proposer];
        process.reports += 1;
        let number = process.reports;
        process.sent.insert(number, process.clock.read(self.now));
        process.sent.retain(|&sent, _| sent + 100 > number);
        let open: Vec<usize> = process.open.iter().copied().collect();
        for acceptor in open {
            self.send(
                Node::Proposer(proposer),
                Node::Acceptor(acceptor),
                Message::Ask(number),
            );
        }
        for event in self.tamper_with_report(proposer) {
            self.handle(proposer, event);
        }
    }

    /// A driver has received all wanted pages of a call.
    pub(crate) fn call_ended(
        &mut self,
        proposer: usize,
        acceptor: usize,
        ballot: Ballot,
        scan: Option<Scan>,
    ) {
        let asking = &mut self.proposers[proposer].asking;
        let call = (acceptor, scan.map(|scan| scan.number));
        if asking
            .get(&call)
            .is_some_and(|(prepare, _)| prepare.ballot == ballot)
        {
            asking.remove(&call);
        }
    }

    /// A request or a page is lost with its connection: the driver asks again a little later.
    pub(crate) fn call_broke(&mut self, from: Node, to: Node, message: &Message) {
        let scan = if let Message::Prepare(_, scan) | Message::Page(_, scan, ..) = message {
            *scan
        } else if matches!(message, Message::PrepareRejected(..) | Message::PrepareRefused(_)) {
            None
        } else {
            return;
        };
        let ((Node::Proposer(proposer), Node::Acceptor(acceptor))
        | (Node::Acceptor(acceptor), Node::Proposer(proposer))) = (from, to)
        else {
            return;
        };
        let process = &mut self.proposers[proposer];
        let call = scan.map(|scan| scan.number);
        // A call breaks once, however many pages are lost.
        if !process.asking_again.insert((acceptor, call)) {
            return;
        }
        let again = Happening::AskAgain {
            proposer,
            run: process.run,
            acceptor,
            call,
        };
        let at = self.now + self.rng.random_range(10..=200) * MILLISECOND;
        self.plan(at, again);
    }

    pub(crate) fn ask_again(&mut self, proposer: usize, run: u64, acceptor: usize, call: Option<u64>) {
        let process = &mut self.proposers[proposer];
        if process.run != run {
            return;
        }
        process.asking_again.remove(&(acceptor, call));
        if !process.is_up() || !process.open.contains(&acceptor) {
            return;
        }
        if let Some((prepare, scan)) = process.asking.get(&(acceptor, call)).cloned() {
            self.send(
                Node::Proposer(proposer),
                Node::Acceptor(acceptor),
                Message::Prepare(prepare, scan),
            );
        }
    }
}
