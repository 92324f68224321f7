//! Simulated inquiries: a standby asks the heard proposer itself, once its streams have ended.

use paxos_common::paxos::{
    ballot::Ballot,
    proposer::{Event, InquiryAnswer},
};

use super::{
    network::Node,
    statistics::Counted,
    world::{Happening, World},
};
use crate::bug::Bug;

/// An inquiry on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Inquiry {
    /// The asking proposer, and its run.
    pub(crate) from: (usize, u64),
    pub(crate) asked: usize,
    number: u64,
    ballot: Ballot,
}

impl World<'_> {
    pub(crate) fn inquire(&mut self, from: usize, number: u64, ballot: Ballot, address: &str) {
        let Some(asked) = (0..self.proposers.len()).find(|asked| address == format!("proposer {asked}"))
        else {
            return;
        };
        self.statistics.count(Counted::Inquiries);
        let inquiry = Inquiry {
            from: (from, self.proposers[from].run),
            asked,
            number,
            ballot,
        };
        let arrives = self.carry(Node::Proposer(from), Node::Proposer(asked), self.now, 0);
        self.plan(arrives, Happening::InquiryArrives(inquiry));
    }

    /// The machine accepts the connection, also while the process is paused, or refuses the connection.
    pub(crate) fn inquiry_arrives(&mut self, inquiry: Inquiry) {
        if self.proposers[inquiry.asked].is_up() {
            self.answer_inquiry(inquiry, InquiryAnswer::Connected);
            self.plan(self.now, Happening::InquiryRead(inquiry));
        } else {
            self.answer_inquiry(inquiry, InquiryAnswer::Gone);
        }
    }

    /// The asked process says whether it leads or campaigns at the ballot.
    pub(crate) fn inquiry_read(&mut self, inquiry: Inquiry) {
        let process = &self.proposers[inquiry.asked];
        if process.is_up() && process.ballot() != Some(inquiry.ballot) {
            self.answer_inquiry(inquiry, InquiryAnswer::Gone);
        }
    }

    fn answer_inquiry(&mut self, inquiry: Inquiry, answer: InquiryAnswer) {
        if self.tampering.has(Bug::ConnectedCountsAsNoAnswer) && answer == InquiryAnswer::Connected {
            return;
        }
        let (from, asked) = (Node::Proposer(inquiry.from.0), Node::Proposer(inquiry.asked));
        let arrives = self.carry(asked, from, self.now, 0);
        self.plan(arrives, Happening::InquiryAnswered(inquiry, answer));
    }

    pub(crate) fn inquiry_answered(&mut self, inquiry: Inquiry, answer: InquiryAnswer) {
        let (proposer, run) = inquiry.from;
        let process = &self.proposers[proposer];
        if process.run == run && process.is_up() {
            let number = inquiry.number;
            self.handle(proposer, Event::InquiryAnswered { number, answer });
        }
    }
}
