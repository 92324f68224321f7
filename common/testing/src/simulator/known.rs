//! Facts in every message to a simulated proposer: the commit behind the message, and the known chosen slots.

use paxos_common::paxos::{
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    message::{AcceptAnswer, ReportAnswer},
    proposer::Event,
};

use super::world::{World, uuid};

impl World<'_> {
    /// Every answer states the commit behind the answer.
    pub(crate) fn heard(
        &mut self,
        proposer: usize,
        acceptor: usize,
        run: RunNumber,
        commit_counter: CommitCounter,
    ) {
        let heard = Event::Heard {
            acceptor: uuid(acceptor),
            run,
            commit_counter,
        };
        self.handle(proposer, heard);
    }

    /// Whether a report comes from a member, and not from a later era.
    fn report_counts(&self, proposer: usize, acceptor: AcceptorUuid, answer: &ReportAnswer) -> bool {
        let core = self.proposers[proposer].core.as_ref();
        core.is_some_and(|core| {
            let own = core.configuration();
            own.members().contains_key(&acceptor)
                && answer.heard.ballot.max(answer.promised).era() <= own.era()
        })
    }

    /// Remembers the slots known to be chosen, separately from the core.
    pub(super) fn note_known(&mut self, proposer: usize, event: &Event) {
        let (acceptor, known_to) = match event {
            Event::Reported {
                acceptor,
                answer: word,
                ..
            } if self.report_counts(proposer, *acceptor, word) => (*acceptor, word.known_to),
            Event::Answered {
                acceptor,
                answer: AcceptAnswer::Accepted { known_to, .. },
                ..
            } => (*acceptor, *known_to),
            Event::Introduced { .. }
            | Event::Remembered { .. }
            | Event::Heard { .. }
            | Event::Opened(_)
            | Event::Closed(_)
            | Event::StreamOpened { .. }
            | Event::StreamBroke { .. }
            | Event::Alive { .. }
            | Event::Bytes(_)
            | Event::Promised { .. }
            | Event::PrepareRejected { .. }
            | Event::PrepareRefused { .. }
            | Event::Reported { .. }
            | Event::Answered { .. }
            | Event::Fetched { .. }
            | Event::Proposed(_)
            | Event::ForwardAnswered(_)
            | Event::Cancelled(_)
            | Event::FillWanted(_)
            | Event::LaterConfiguration(_)
            | Event::ChangeMembers(_)
            | Event::SnapshotBrought(_)
            | Event::Fired(..)
            | Event::InquiryAnswered { .. }
            | Event::Resigned => return,
        };
        let core = self.proposers[proposer].core.as_ref();
        if core.is_some_and(|core| core.counts(acceptor)) {
            self.invariants.takeovers.known(proposer, known_to);
        }
    }
}
