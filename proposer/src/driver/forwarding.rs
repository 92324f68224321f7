//! Commands not ordered by this proposer: forwarded to the leader, handed back, or never processed.

use paxos_common::{
    paxos::proposer::{Event, Pending, Phase, ProposalOutcome, Reason, RequestId},
    peer::Address,
};
use tokio::{sync::mpsc, time::Instant};

use super::{Driver, FORWARDING_BYTES_MAX};
use crate::{
    forward::Forwarder,
    input::{Forwarded, Input},
    requests::ClientRequest,
};

impl Driver {
    /// Answers the callers of unprocessed commands: nothing was proposed.
    pub(super) fn refuse_the_rest(&mut self, inbox: &mut mpsc::Receiver<Input>) {
        inbox.close();
        let stopping = ProposalOutcome::NotProposed(Reason::Stopping);
        while let Ok(input) = inbox.try_recv() {
            match input {
                Input::Request(ClientRequest {
                    pending,
                    reply,
                    deadline,
                    ..
                }) => {
                    self.waiting.add(pending.request, reply, deadline);
                    self.waiting.answer(pending.request, stopping);
                }
                Input::Forwarded(pending, Forwarded::Decided(outcome)) => {
                    self.answer(pending.request, outcome);
                }
                Input::Forwarded(pending, Forwarded::Returned) => {
                    self.answer(pending.request, stopping);
                }
                // The caller of a change hears that the outcome is unknown, when the reply is dropped.
                Input::Core(_) | Input::Link(..) | Input::Stream(..) | Input::ChangeMembers(_) => {}
            }
        }
        for pending in self.returned.take() {
            self.answer(pending.request, stopping);
        }
    }

    /// Answers the caller of a forwarded command.
    pub(super) fn answer_forwarded(&mut self, request: RequestId, outcome: ProposalOutcome) {
        if matches!(outcome, ProposalOutcome::Chosen(_)) {
            self.returned.answered();
        }
        self.answer(request, outcome);
        self.core.handle(Event::ForwardAnswered(request));
    }

    /// Keeps a command after a search without a leader; an immediate retry would be a busy loop.
    pub(super) fn give_back(&mut self, pending: Pending) {
        // After the caller has gone, the command must not be proposed any more.
        if !self.waiting.contains(pending.request) {
            return self.core.handle(Event::ForwardAnswered(pending.request));
        }
        let bytes = pending.command.as_bytes().len();
        if self.forwarding_bytes + self.returned.bytes() + bytes > FORWARDING_BYTES_MAX {
            return self.answer_forwarded(pending.request, ProposalOutcome::NotProposed(Reason::Overloaded));
        }
        self.returned.add(pending, self.core.leader(), Instant::now());
    }

    pub(super) fn hand_in_returned(&mut self) {
        let due = match self.core.phase() {
            Phase::Leading(_) => self.returned.take(),
            Phase::Standby | Phase::Campaigning(_) => {
                self.returned.due(|| self.core.leader(), Instant::now())
            }
        };
        for pending in due {
            let event = if self.waiting.contains(pending.request) {
                Event::Proposed(pending)
            } else {
                Event::ForwardAnswered(pending.request)
            };
            self.core.handle(event);
        }
    }

    /// Hands nothing more to proposers other than `leader`. Former leaders still answer their open commands. When a
    /// former leader has stopped, the outcome of the open commands becomes unknown.
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
            return self.answer_forwarded(request, ProposalOutcome::NotProposed(Reason::Overloaded));
        }
        if !self.forwarders.contains_key(address) {
            // A single leader at a time: streams to earlier leaders finish the open commands and end.
            self.forwarders.clear();
        }
        let deadline = self.waiting.deadline(request);
        self.traces.forwarding(&mut pending, address);
        let dialer = &self.dialer;
        let forwarder = self
            .forwarders
            .entry(address.clone())
            .or_insert_with(|| Forwarder::open(address.clone(), dialer.clone(), inputs.clone()));
        match forwarder.send(pending, deadline) {
            Ok(()) => self.forwarding_bytes += bytes,
            Err((_, true)) => {
                self.answer_forwarded(request, ProposalOutcome::NotProposed(Reason::Overloaded));
            }
            Err((mut pending, false)) => {
                self.forwarders.remove(address);
                self.traces.returned(&mut pending);
                self.give_back(pending);
            }
        }
    }
}
