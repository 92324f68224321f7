//! Answers of simulated acceptors, each checked against the disk behind the answer.

use paxos_common::paxos::{
    ballot::Ballot, detector::Settlement as Settled, message::AcceptAnswer, proposer::Scan, slot::Slot,
};

use super::{
    invariants::watermarks_are_true::Watermarks,
    network::{Message, Node},
    statistics::Counted,
    world::{Happening, World},
};

pub(crate) enum Answer {
    /// Sent on the request's stream, if any.
    Message(Node, Message, Option<u64>),
    /// Pages of a promise, from a slot on, limited by a scan if given.
    Pages(Node, Ballot, Slot, Option<Scan>),
    /// The answer to a step of `Form`.
    Form(Node, u64),
}

impl World<'_> {
    pub(crate) fn answer(&mut self, acceptor: usize, answer: Answer) {
        let now = self.now;
        let process = &mut self.acceptors[acceptor];
        let run = process.run;
        let promises = &mut self.invariants.promises;
        let disk = &process.disk;
        match answer {
            Answer::Form(to, number) => self.answer_form(acceptor, to, number),
            Answer::Pages(to, ballot, from, scan) => {
                promises.answered(acceptor, ballot, disk.promised);
                let due = Happening::PageDue {
                    acceptor,
                    run,
                    to,
                    ballot,
                    from,
                    scan,
                    first: true,
                };
                self.plan(now, due);
            }
            Answer::Message(to, message, stream) => {
                match &message {
                    Message::Answer(ballot, _, AcceptAnswer::Accepted { slots, known_to, .. }) => {
                        promises.answered(acceptor, *ballot, disk.promised);
                        let slots_told = slots.iter().flat_map(|range| range.from.to(range.to));
                        for slot in slots_told.filter(|slot| *slot >= disk.trimmed_to) {
                            promises.accepted(acceptor, *ballot, slot, &disk.rows);
                        }
                        if process.counts_at(*ballot) {
                            self.invariants.said(acceptor, *ballot, slots);
                        }
                        Watermarks::claimed(&self.invariants.chosen, "an acceptor", *known_to);
                    }
                    Message::Answer(_, _, AcceptAnswer::Trimmed { trimmed_to }) => {
                        assert!(
                            *trimmed_to <= disk.trimmed_to,
                            "acceptor {acceptor} reports a trim before it is durable"
                        );
                        self.statistics.count(Counted::TrimsAnswered);
                    }
                    Message::Answer(_, _, AcceptAnswer::Rejected(rejection)) => {
                        promises.answered(acceptor, rejection.promised, disk.promised);
                        self.statistics.count(Counted::Rejections);
                    }
                    Message::PrepareRejected(_, promised) => {
                        promises.answered(acceptor, *promised, disk.promised);
                        self.statistics.count(Counted::Rejections);
                    }
                    Message::Answer(..)
                    | Message::Prepare(..)
                    | Message::Accept(..)
                    | Message::FetchChosen(..)
                    | Message::Fetched(..)
                    | Message::Page(..)
                    | Message::PrepareRefused(_)
                    | Message::Ask(_)
                    | Message::Recall(_)
                    | Message::Recalled(..)
                    | Message::Said(..)
                    | Message::Alive { .. }
                    | Message::Opened
                    | Message::Observe(..)
                    | Message::Votes(_)
                    | Message::Rows(..)
                    | Message::Tail(_)
                    | Message::Tailed(..)
                    | Message::Propose { .. }
                    | Message::Cancel { .. }
                    | Message::Outcome { .. }
                    | Message::Fill(_)
                    | Message::Form(..)
                    | Message::Formed(_) => {}
                }
                match stream {
                    Some(stream) => self.stream_send(stream, false, message),
                    None => self.send(Node::Acceptor(acceptor), to, message),
                }
            }
        }
    }
}

/// The outcome of a request, derived from its answer.
pub(crate) fn settled(answer: &Answer) -> Settled {
    match answer {
        Answer::Message(_, Message::Answer(_, _, answer), _) => match answer {
            AcceptAnswer::Accepted { .. } | AcceptAnswer::Trimmed { .. } => Settled::Granted,
            AcceptAnswer::Rejected(_) | AcceptAnswer::Refused(_) => Settled::TurnedAway,
            AcceptAnswer::NoSpace => Settled::NoSpace,
        },
        Answer::Message(..) => Settled::TurnedAway,
        Answer::Pages(..) | Answer::Form(..) => Settled::Granted,
    }
}
