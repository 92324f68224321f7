//! Commands that this proposer does not order itself: on their way to the leader, handed back, or never looked at.

use paxos_common::{
    paxos::proposer::{Event, Outcome, Pending, Reason, RequestId},
    peer::Address,
};
use tokio::{sync::mpsc, time::Instant};

use super::{Driver, FORWARDING_BYTES_MAX, Input};
use crate::{
    forward::{Forwarded, Forwarder},
    requests::Request,
};

impl Driver {
    /// Tells callers whose commands were not looked at any more that nothing was proposed.
    pub(super) fn refuse_the_rest(&mut self, inbox: &mut mpsc::Receiver<Input>) {
        inbox.close();
        let stopping = Outcome::NotProposed(Reason::Stopping);
        while let Ok(input) = inbox.try_recv() {
            match input {
                Input::Request(Request {
                    pending,
                    reply,
                    deadline,
                    ..
                }) => {
                    self.waiting.add(pending.request, reply, deadline);
                    self.waiting.answer(pending.request, stopping);
                }
                Input::Forwarded(pending, Forwarded::Told(outcome)) => {
                    self.answer(pending.request, outcome);
                }
                Input::Forwarded(pending, Forwarded::Returned) => {
                    self.answer(pending.request, stopping);
                }
                Input::Core(_)
                | Input::Told(..)
                | Input::Stream(..)
                | Input::Introduced(..)
                | Input::Closed(_) => {}
            }
        }
        for pending in std::mem::take(&mut self.returned) {
            self.answer(pending.request, stopping);
        }
    }

    /// Answers the caller of a command that was sent on.
    pub(super) fn answer_forwarded(&mut self, request: RequestId, outcome: Outcome) {
        self.answer(request, outcome);
        self.core.handle(Event::ForwardAnswered(request));
    }

    /// Keeps a command that found no leader for a moment, so that looking for one does not become a busy loop.
    pub(super) fn give_back(&mut self, pending: Pending) {
        // When its caller has gone, it must not be proposed any more.
        if !self.waiting.contains(pending.request) {
            return self.core.handle(Event::ForwardAnswered(pending.request));
        }
        self.returned.push(pending);
        self.hand_in_at
            .get_or_insert_with(|| Instant::now() + self.leader_timeout / 8);
    }

    pub(super) fn hand_in_returned(&mut self) {
        if self.hand_in_at.is_some_and(|at| at <= Instant::now()) {
            self.hand_in_at = None;
            for pending in std::mem::take(&mut self.returned) {
                let event = if self.waiting.contains(pending.request) {
                    Event::Proposed(pending)
                } else {
                    Event::ForwardAnswered(pending.request)
                };
                self.core.handle(event);
            }
        }
    }

    /// Hands nothing more to proposers other than `leader`. What they owe is still answered by them, or becomes unknown
    /// when they have stopped.
    pub(super) fn leave_former_leaders(&mut self, leader: &str) {
        self.forwarders.retain(|address, _| address.as_str() == leader);
    }

    pub(super) fn forward(&mut self, mut pending: Pending, address: &Address, inputs: &mpsc::Sender<Input>) {
        let request = pending.request;
        if !self.waiting.contains(request) {
            return self.core.handle(Event::ForwardAnswered(request));
        }
        let bytes = pending.command.as_bytes().len();
        if self.forwarding_bytes + bytes > FORWARDING_BYTES_MAX {
            return self.answer_forwarded(request, Outcome::NotProposed(Reason::Overloaded));
        }
        if !self.forwarders.contains_key(address) {
            // One leader at a time: streams to earlier ones finish what they have and end.
            self.forwarders.clear();
        }
        let deadline = self.waiting.deadline(request);
        self.traces.forwarding(&mut pending, address);
        let forwarder = self
            .forwarders
            .entry(address.clone())
            .or_insert_with(|| Forwarder::open(address.clone(), inputs.clone()));
        match forwarder.send(pending, deadline) {
            Ok(()) => self.forwarding_bytes += bytes,
            Err((_, true)) => self.answer_forwarded(request, Outcome::NotProposed(Reason::Overloaded)),
            Err((mut pending, false)) => {
                self.forwarders.remove(address);
                self.traces.returned(&mut pending);
                self.give_back(pending);
            }
        }
    }
}
