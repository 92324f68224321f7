//! The past of a cluster before a check begins, produced by the model's own steps.

use paxos_common::paxos::{proposer::Timer, slot::Slot};

use super::{
    cluster::{Action, Cluster, State},
    network::{Message, Node},
};

/// The first two acceptors choose slot 0, and only the first acceptor knows. Then the leader dies.
pub(crate) fn one_knower(cluster: &Cluster, state: State) -> State {
    let mut state = cluster.play(
        state,
        &[
            |action| *action == Action::Fire(0, Timer::Election),
            |action| asks(action, 0, 0),
            |action| *action == Action::Commit(0),
            |action| asks(action, 0, 1),
            |action| *action == Action::Commit(1),
            |action| promises(action, 0, 0),
            |action| promises(action, 1, 0),
            |action| proposes(action, 0, 0),
            |action| *action == Action::Commit(0),
            |action| proposes(action, 0, 1),
            |action| *action == Action::Commit(1),
            |action| votes(action, 0, 0),
            |action| votes(action, 1, 0),
            |action| *action == Action::Fire(0, Timer::Heartbeat),
            |action| *action == Action::Fire(0, Timer::Heartbeat),
            |action| tells_watermark(action, 0),
            |action| *action == Action::Restart(0),
        ],
    );
    state.network.clear();
    state
}

/// The first proposer leads with the promises of the first two acceptors, and the first acceptor has voted for the
/// proposer's command. Each commit is readable one step before memory shows the commit.
pub(crate) fn readable_reign(cluster: &Cluster, state: State) -> State {
    cluster.play(
        state,
        &[
            |action| *action == Action::Fire(0, Timer::Election),
            |action| asks(action, 0, 0),
            |action| *action == Action::Commit(0),
            |action| *action == Action::Commit(0),
            |action| asks(action, 0, 1),
            |action| *action == Action::Commit(1),
            |action| *action == Action::Commit(1),
            |action| promises(action, 0, 0),
            |action| promises(action, 1, 0),
            |action| proposes(action, 0, 0),
            |action| *action == Action::Commit(0),
            |action| *action == Action::Commit(0),
        ],
    )
}

/// The first acceptor votes at a first ballot. Then the two other acceptors choose a different value at a second
/// ballot. Both proposers still act as leader, and every sent message may still arrive.
pub(crate) fn older_row(cluster: &Cluster, state: State) -> State {
    cluster.play(
        state,
        &[
            |action| *action == Action::Fire(0, Timer::Election),
            |action| asks(action, 0, 0),
            |action| *action == Action::Commit(0),
            |action| asks(action, 0, 1),
            |action| *action == Action::Commit(1),
            |action| promises(action, 0, 0),
            |action| promises(action, 1, 0),
            |action| proposes(action, 0, 0),
            |action| *action == Action::Commit(0),
            |action| *action == Action::Fire(1, Timer::Election),
            |action| asks(action, 1, 1),
            |action| *action == Action::Commit(1),
            |action| asks(action, 1, 2),
            |action| *action == Action::Commit(2),
            |action| promises(action, 1, 1),
            |action| promises(action, 2, 1),
            |action| proposes(action, 1, 1),
            |action| *action == Action::Commit(1),
            |action| proposes(action, 1, 2),
            |action| *action == Action::Commit(2),
            |action| votes(action, 1, 1),
            |action| votes(action, 2, 1),
        ],
    )
}

fn asks(action: &Action, proposer: usize, acceptor: usize) -> bool {
    to_acceptor(action, proposer, acceptor).is_some_and(|message| matches!(message, Message::Prepare(..)))
}

fn proposes(action: &Action, proposer: usize, acceptor: usize) -> bool {
    to_acceptor(action, proposer, acceptor)
        .is_some_and(|message| matches!(message, Message::Accept(accept) if !accept.proposals.is_empty()))
}

fn tells_watermark(action: &Action, acceptor: usize) -> bool {
    to_acceptor(action, 0, acceptor)
        .is_some_and(|message| matches!(message, Message::Accept(accept) if accept.chosen_to > Slot::ZERO))
}

fn promises(action: &Action, acceptor: usize, proposer: usize) -> bool {
    to_proposer(action, acceptor, proposer).is_some_and(|message| matches!(message, Message::Page(..)))
}

fn votes(action: &Action, acceptor: usize, proposer: usize) -> bool {
    to_proposer(action, acceptor, proposer).is_some_and(|message| matches!(message, Message::Answer(..)))
}

fn to_acceptor(action: &Action, proposer: usize, acceptor: usize) -> Option<&Message> {
    let Action::Deliver(envelope) = action else {
        return None;
    };
    let from_it = matches!(envelope.from, Node::Proposer { place, .. } if place == proposer);
    (from_it && envelope.to == Node::Acceptor(acceptor)).then_some(&envelope.message)
}

fn to_proposer(action: &Action, acceptor: usize, proposer: usize) -> Option<&Message> {
    let Action::Deliver(envelope) = action else {
        return None;
    };
    let to_it = matches!(envelope.to, Node::Proposer { place, .. } if place == proposer);
    (to_it && envelope.from == Node::Acceptor(acceptor)).then_some(&envelope.message)
}
