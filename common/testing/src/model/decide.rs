//! Decisions of a modelled acceptor: a request goes into a group, as in the worker of a real acceptor.

use std::sync::Arc;

use paxos_common::paxos::{
    acceptor::{Acceptor, Group, Membership},
    message::PrepareAnswer,
};

use super::{
    acceptor::{Answer, Reading},
    disk::Disk,
    ledger::Broken,
    network::{Message, Node},
};

pub(super) fn is_heartbeat(message: &Message) -> bool {
    matches!(message, Message::Accept(accept) if accept.sequence == 0 && accept.proposals.is_empty() && !accept.resign)
}

/// Decides a request into a group.
pub(super) fn decide(
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
            // The answer shows what the acceptor holds after the commit.
            let installed = core.install(group, configuration, false);
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
