//! Requests to simulated acceptors, on their way to the worker.

use std::collections::VecDeque;

use paxos_common::paxos::{
    detector::{Claim, Settlement as Settled},
    message::UNANSWERED_MAX,
};

use super::{
    forms::FormStep,
    hearing::is_heartbeat,
    network::{Message, Node},
    world::{Happening, Time, World},
};

/// A request waiting for the worker.
pub(crate) struct Request {
    pub(crate) from: Node,
    pub(crate) message: Message,
    /// The stream that carried the request, if any.
    pub(crate) stream: Option<u64>,
    pub(crate) claim: Option<Claim>,
    pub(crate) came: Time,
}

impl World<'_> {
    pub(crate) fn acceptor_receives(&mut self, acceptor: usize, from: Node, message: Message) {
        self.acceptor_receives_on(acceptor, None, from, message);
    }

    /// A request arrives, perhaps on a stream.
    pub(crate) fn acceptor_receives_on(
        &mut self,
        acceptor: usize,
        stream: Option<u64>,
        from: Node,
        message: Message,
    ) {
        if !self.acceptors[acceptor].is_up() {
            return;
        }
        if let (Message::Ask(number), Node::Proposer(proposer)) = (&message, from) {
            self.reported_to(acceptor, proposer, *number);
            return;
        }
        if let Message::Form(number, FormStep::Look) = message {
            self.answer_form(acceptor, from, number);
            return;
        }
        let is_step = matches!(message, Message::Form(..));
        if self.acceptors[acceptor].is_blank() && !is_step {
            return;
        }
        if let Message::Recall(question) = message {
            self.recall(acceptor, from, question);
            return;
        }
        if let (Message::Observe(kind, slot), Node::Learner(learner)) = (&message, from) {
            let process = &mut self.acceptors[acceptor];
            process.observers.insert((learner, *kind));
            let due = Happening::FrameDue {
                acceptor,
                run: process.run,
                learner,
                kind: *kind,
                from: *slot,
            };
            self.plan(self.now, due);
            return;
        }
        self.tamper_with_request(acceptor, &message);
        if let Message::FetchChosen(number, first, to) = message {
            self.fetch_chosen(acceptor, from, number, (first, to));
            return;
        }
        if let Message::Tail(nonce) = message {
            self.tell_tail(acceptor, from, nonce);
            return;
        }
        if self.brings_nothing(acceptor, &message) {
            return;
        }
        let claim = self.claim(acceptor, &message);
        let queue = &mut self.acceptors[acceptor].queue;
        // At most one heartbeat of a stream waits.
        if is_heartbeat(&message) {
            let older = queue
                .iter_mut()
                .find(|request| request.stream == stream && is_heartbeat(&request.message));
            if let Some(older) = older {
                older.message = message;
                if let Some(claim) = std::mem::replace(&mut older.claim, claim) {
                    self.detect(acceptor, |detector, _| detector.settled(claim, Settled::Granted));
                }
                return;
            }
        }
        queue.push_back(Request {
            from,
            message,
            stream,
            claim,
            came: self.now,
        });
        let unanswered = queue.iter().filter(|request| request.stream == stream).count();
        assert!(
            stream.is_none() || unanswered as u64 <= UNANSWERED_MAX + 1,
            "a leader sends more than an acceptor has room for"
        );
        self.write_group(acceptor);
    }

    /// Drops a stream's requests still waiting for the worker.
    pub(crate) fn drop_waiting(&mut self, acceptor: usize, stream: u64) {
        let queue = std::mem::take(&mut self.acceptors[acceptor].queue);
        let (dropped, kept): (VecDeque<Request>, VecDeque<Request>) = queue
            .into_iter()
            .partition(|request| request.stream == Some(stream));
        self.acceptors[acceptor].queue = kept;
        for claim in dropped.into_iter().filter_map(|request| request.claim) {
            self.detect(acceptor, |detector, _| {
                detector.settled(claim, Settled::TurnedAway);
            });
        }
    }
}
