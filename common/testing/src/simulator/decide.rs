//! Decisions of a simulated acceptor on queued requests, as in the worker of a real acceptor.

use std::collections::BTreeMap;

use paxos_common::paxos::{
    acceptor::{Acceptor, Group},
    message::{AcceptAnswer, PrepareAnswer},
};

use super::{
    answers::Answer,
    disks::Disk,
    forms::FormStep,
    network::{Message, Node},
};

/// Answers a request while the disk is full: an overtaken ballot is rejected as usual, other requests are not granted.
pub(crate) fn turn_away(
    core: &Acceptor,
    group: &mut Group,
    from: Node,
    message: Message,
    answers: &mut Vec<Answer>,
) {
    let answer = if let Message::Accept(accept, _) = message {
        let answer = if accept.ballot < group.promised() {
            core.accept(group, &accept, &BTreeMap::new())
                .expect("a rejection violates nothing")
        } else {
            // As in the worker: a full acceptor makes space by a trim, up to the leader's watermark.
            core.hear_claim(group, &accept);
            AcceptAnswer::NoSpace
        };
        Message::Answer(accept.ballot, accept.sequence, answer)
    } else if let Message::Prepare(prepare, _) = message
        && prepare.ballot < group.promised()
        && let PrepareAnswer::Rejected(rejection) = core.prepare(group, &prepare)
    {
        Message::PrepareRejected(prepare.ballot, rejection.promised)
    } else {
        // The call fails without an answer.
        return;
    };
    answers.push(Answer::Message(from, answer, None));
}

/// Decides a request into a group.
pub(crate) fn decide(
    core: &Acceptor,
    disk: &Disk,
    group: &mut Group,
    from: Node,
    message: Message,
    answers: &mut Vec<Answer>,
) {
    match message {
        Message::Prepare(prepare, scan) => match core.prepare(group, &prepare) {
            PrepareAnswer::Promised => {
                answers.push(Answer::Pages(from, prepare.ballot, prepare.from, scan));
            }
            PrepareAnswer::Rejected(rejection) => answers.push(Answer::Message(
                from,
                Message::PrepareRejected(prepare.ballot, rejection.promised),
                None,
            )),
            PrepareAnswer::Refused(refused) => {
                answers.push(Answer::Message(
                    from,
                    Message::PrepareRefused(refused.promised),
                    None,
                ));
            }
        },
        Message::Accept(accept, witnesses) => {
            let below = core
                .slots_to_read(&accept)
                .filter_map(|slot| Some((slot, disk.held(slot)?)))
                .collect();
            let answer = core
                .accept(group, &accept, &below)
                .unwrap_or_else(|violation| panic!("an acceptor halts: {violation}"));
            // Only a leader's witnesses are taken.
            if matches!(answer, AcceptAnswer::Accepted { .. }) {
                core.witness(group, witnesses.iter());
            }
            if let AcceptAnswer::Refused(refused) = &answer {
                let too_far = !refused.promised.admits_jump_to(accept.ballot);
                assert!(too_far, "a leader broke a bound: {refused:?}");
            }
            answers.push(Answer::Message(
                from,
                Message::Answer(accept.ballot, accept.sequence, answer),
                None,
            ));
        }
        Message::Form(number, FormStep::Install(configuration)) => {
            // A refusal changes nothing, and the answer shows what is stored.
            let _ = core.install(group, &configuration, false);
            answers.push(Answer::Form(from, number));
        }
        Message::Form(number, FormStep::Join(configuration)) => {
            let _ = core.install(group, &configuration, true);
            answers.push(Answer::Form(from, number));
        }
        Message::FetchChosen(..)
        | Message::Form(_, FormStep::Look)
        | Message::Formed(_)
        | Message::Fetched(..)
        | Message::Page(..)
        | Message::PrepareRejected(..)
        | Message::PrepareRefused(_)
        | Message::Answer(..)
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
        | Message::Fill(_) => panic!("not for an acceptor: {message:?}"),
    }
}
