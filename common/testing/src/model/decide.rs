//! Decisions of a modelled acceptor: a request goes into a group, as in the worker of a real acceptor.

use std::sync::Arc;

use paxos_common::paxos::{
    acceptor::{Acceptor, Group, Membership},
    message::PrepareAnswer,
};

use super::{
    acceptor::{AcceptorStep, Answer, Reading},
    disk::Disk,
    ledger::Broken,
    network::{Message, Node},
};

pub(super) fn is_heartbeat(message: &Message) -> bool {
    matches!(message, Message::Accept(accept) if accept.sequence == 0 && accept.proposals.is_empty() && !accept.resign)
}

impl AcceptorStep<'_> {
    /// Decides a request into a group. Without space on the disk, only an overtaken ballot is answered as usual.
    pub(super) fn decide(
        &mut self,
        group: &mut Group,
        from: Node,
        message: &Message,
    ) -> Result<Option<Answer>, Broken> {
        let ballot = if let Message::Prepare(prepare, _) = message {
            Some(prepare.ballot)
        } else if let Message::Accept(accept) = message {
            Some(accept.ballot)
        } else {
            None
        };
        let is_overtaken = ballot.is_some_and(|ballot| ballot < group.promised());
        if self.node.is_full && !is_overtaken {
            return Ok(self.turn_away_for_space(group, from, message));
        }
        let compared = self.compared_without_era(message);
        let message = compared.as_ref().unwrap_or(message);
        let (core, disk) = (&self.node.core, &self.node.disk);
        decide(core, disk, group, (from, message), self.cluster.scenario.copies).map(Some)
    }
}

/// Decides a request into a group.
fn decide(
    core: &Acceptor,
    disk: &Disk,
    group: &mut Group,
    (from, message): (Node, &Message),
    copies: bool,
) -> Result<Answer, Broken> {
    match message {
        Message::Prepare(prepare, scan) => Ok(match core.prepare(group, prepare) {
            PrepareAnswer::Promised => Answer::Pages(Reading {
                to: from,
                ballot: prepare.ballot,
                from: prepare.from,
                scan: *scan,
            }),
            PrepareAnswer::Rejected(rejection) => {
                Answer::Message(from, Message::PrepareRejected(prepare.ballot, rejection.promised))
            }
            // A ballot of a later era: the acceptor has not installed the configuration.
            PrepareAnswer::Refused(refused) if refused.promised.era() < prepare.ballot.era() => {
                Answer::Message(from, Message::PrepareRefused(refused.promised))
            }
            PrepareAnswer::Refused(_) => return Err(Broken::NoProcessHalts),
        }),
        Message::Form(configuration) => Ok({
            // The answer shows what the acceptor holds after the commit. Only a leader's joiners are blank here.
            let installed = core.install(group, configuration, true);
            installed.map_err(|_| Broken::NoProcessHalts)?;
            let held = group.membership().and_then(Membership::configuration);
            let held = held.or_else(|| core.membership().configuration());
            let held = held.expect("installed, or held before");
            Answer::Message(from, Message::Formed(Arc::new(held.clone())))
        }),
        Message::Accept(accept) => {
            let below = core
                .slots_to_read(accept)
                .filter_map(|slot| Some((slot, disk.held(slot)?)))
                .collect();
            let answer = match core.accept(group, accept, &below) {
                Ok(answer) => answer,
                // Only copies speak at one ballot.
                Err(violation) if copies => core.contradicted(group, accept, &violation),
                Err(_) => return Err(Broken::NoProcessHalts),
            };
            Ok(Answer::Message(
                from,
                Message::Answer(accept.ballot, accept.sequence, answer),
            ))
        }
        Message::Fetch(..)
        | Message::Page(..)
        | Message::PrepareRejected(..)
        | Message::PrepareRefused(_)
        | Message::Answer(..)
        | Message::Fetched(..)
        | Message::Formed(_)
        | Message::Tail(_)
        | Message::Tailed(..)
        | Message::Votes(..)
        | Message::Rows(..) => unreachable!("not for an acceptor: {message:?}"),
    }
}
