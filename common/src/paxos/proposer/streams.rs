//! `Accept` streams: a stream to each acceptor, in each campaign and the reign after the campaign.
//!
//! A stream carries a single ballot. The stream opens with the campaign, and is closed when the proposer steps down for
//! any reason: a proposer that is alive and does not lead must not be heard. A stream is in order and loses nothing
//! until it breaks. So nothing is sent again on an open stream; after a reopening, unanswered messages are sent again.

use std::{collections::BTreeSet, time::Duration};

use super::{Effect, Phase, Proposer};
use crate::paxos::{ballot::Ballot, identity::AcceptorUuid, message::Accept, slot::Slot};

/// The streams of the present campaign or reign.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct AcceptStreams {
    /// Acceptors with a stream kept open by the driver.
    asked: BTreeSet<AcceptorUuid>,
    /// Acceptors with an open stream.
    open: BTreeSet<AcceptorUuid>,
}

impl AcceptStreams {
    /// The driver ends the stream of an acceptor.
    pub(super) fn forget(&mut self, acceptor: AcceptorUuid) {
        self.asked.remove(&acceptor);
        self.open.remove(&acceptor);
    }

    /// Whether the driver keeps a stream of the acceptor open.
    pub(super) fn is_asked(&self, acceptor: AcceptorUuid) -> bool {
        self.asked.contains(&acceptor)
    }

    pub(super) fn is_open(&self, acceptor: AcceptorUuid) -> bool {
        self.open.contains(&acceptor)
    }
}

impl Proposer {
    /// Requests a stream, unless already requested. The first message shows the presence of this proposer, and claims
    /// nothing.
    pub(super) fn open_stream(&mut self, acceptor: AcceptorUuid) {
        let Some(ballot) = self.ballot() else { return };
        if self.streams.asked.insert(acceptor) {
            let first = self.heartbeat(ballot);
            self.effects.push(Effect::OpenStream(acceptor, first));
        }
    }

    /// Shows the presence of this proposer, and nothing else.
    pub(super) fn heartbeat(&self, ballot: Ballot) -> Accept {
        Accept {
            ballot,
            sequence: 0,
            chosen_to: Slot::ZERO,
            proposals: Vec::new(),
            address: self.address.clone(),
            resign: false,
        }
    }

    /// This proposer steps down: no acceptor hears this proposer any more.
    pub(super) fn shut_streams(&mut self, ballot: Ballot) {
        self.shut_old_streams();
        self.streams = AcceptStreams::default();
        self.effects.push(Effect::ShutStreams(ballot));
    }

    /// The streams of this campaign are open: the streams of the reign before the change of members have no use any more.
    pub(super) fn shut_old_streams(&mut self) {
        if let Some(ballot) = self.old_streams.take() {
            self.effects.push(Effect::ShutStreams(ballot));
        }
    }

    /// Leaves the streams to their last message.
    pub(super) fn leave_streams(&mut self) {
        self.streams = AcceptStreams::default();
    }

    pub(super) fn stream_opened(&mut self, acceptor: AcceptorUuid, ballot: Ballot) {
        if self.ballot() != Some(ballot) || !self.follows(acceptor) {
            return;
        }
        self.streams.open.insert(acceptor);
        self.presence.opened(acceptor, self.awake());
        let members = self.streams.open.iter();
        if members.filter(|open| self.electorate.includes(**open)).count()
            >= self.electorate.quorums().phase2()
        {
            self.shut_old_streams();
        }
        if let Phase::Leading(lead) = &mut self.phase {
            lead.reopened(acceptor);
        }
    }

    pub(super) fn stream_broke(&mut self, acceptor: AcceptorUuid, ballot: Ballot) {
        if self.ballot() != Some(ballot) {
            return;
        }
        self.streams.open.remove(&acceptor);
        if let Phase::Leading(lead) = &mut self.phase {
            lead.closed(acceptor);
        }
    }

    pub(super) fn alive(
        &mut self,
        acceptor: AcceptorUuid,
        ballot: Ballot,
        (silent, waiting, has_space): (Duration, Duration, bool),
    ) {
        if self.ballot() != Some(ballot) || !self.known.contains(&acceptor) {
            return;
        }
        self.presence
            .alive(acceptor, (silent, waiting, has_space), self.awake());
        if let Phase::Leading(lead) = &mut self.phase {
            lead.space(acceptor, has_space);
        }
    }

    /// The acceptors that count and have an open stream.
    pub(super) fn reachable(&self) -> BTreeSet<AcceptorUuid> {
        self.streams.open.intersection(&self.known).copied().collect()
    }
}
