//! The past of a cluster before a check begins, produced by the model's own steps.

use paxos_common::paxos::{proposer::Timer, slot::Slot};

use super::{
    cluster::{Action, Cluster, State},
    network::{Message, Node},
    scenario::Scenario,
    shared::Shared,
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
            |action| tells_watermark(action, 0, 0),
            |action| *action == Action::Restart(0),
        ],
    );
    state.network.clear();
    state
}

/// The past as after [`one_knower`], and at the same ballot the third acceptor votes for the value of a copy of the leader.
/// Then the copy dies too.
pub(crate) fn one_knower_of_copies(cluster: &Cluster, state: State) -> State {
    let mut state = cluster.play(
        state,
        &[
            |action| *action == Action::Fire(1, Timer::Election),
            |action| asks(action, 1, 1),
            |action| *action == Action::Commit(1),
            |action| asks(action, 1, 2),
            |action| *action == Action::Commit(2),
            |action| promises(action, 1, 1),
            |action| promises(action, 2, 1),
            |action| proposes(action, 1, 2),
            |action| *action == Action::Commit(2),
            |action| *action == Action::Fire(0, Timer::Election),
            |action| asks(action, 0, 0),
            |action| *action == Action::Commit(0),
            // The second acceptor has promised the ballot already.
            |action| asks(action, 0, 1),
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
            |action| tells_watermark(action, 0, 0),
            |action| *action == Action::Restart(0),
            |action| *action == Action::Restart(1),
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

/// The first two acceptors choose slots 0 and 1, and only the first acceptor knows. The leader still leads.
pub(crate) fn two_chosen(cluster: &Cluster, state: State) -> State {
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
            |action| proposes(action, 0, 0),
            |action| *action == Action::Commit(0),
            |action| proposes(action, 0, 1),
            |action| *action == Action::Commit(1),
            |action| proposes(action, 0, 1),
            |action| *action == Action::Commit(1),
            |action| votes(action, 0, 0),
            |action| votes(action, 0, 0),
            |action| votes(action, 1, 0),
            |action| votes(action, 1, 0),
            |action| *action == Action::Fire(0, Timer::Heartbeat),
            |action| *action == Action::Fire(0, Timer::Heartbeat),
            |action| tells_watermark(action, 0, 0),
        ],
    )
}

/// The same. Then the leader dies.
pub(crate) fn two_chosen_once(cluster: &Cluster, state: State) -> State {
    // In the past, promises are read at once.
    let past = Cluster::new(Scenario {
        pages_apart: false,
        ..cluster.scenario.clone()
    });
    let state = two_chosen(&past, state);
    let mut state = past.play(state, &[|action| *action == Action::Restart(0)]);
    state.network.clear();
    state
}

/// The past of [`one_knower`], and then a second leader knows slot 0 to be chosen, and claims so to the last two
/// acceptors. Neither has a row of the second leader. Then the second leader dies.
pub(crate) fn two_claimed(cluster: &Cluster, state: State) -> State {
    let state = one_knower(cluster, state);
    let mut state = cluster.play(
        state,
        &[
            |action| {
                *action
                    == Action::Report {
                        acceptor: 0,
                        proposer: 1,
                    }
            },
            |action| *action == Action::Fire(1, Timer::Election),
            |action| asks(action, 1, 1),
            |action| *action == Action::Commit(1),
            |action| asks(action, 1, 2),
            |action| *action == Action::Commit(2),
            |action| promises(action, 1, 1),
            |action| promises(action, 2, 1),
            |action| *action == Action::Fire(1, Timer::Heartbeat),
            |action| *action == Action::Fire(1, Timer::Heartbeat),
            |action| tells_watermark(action, 1, 1),
            |action| tells_watermark(action, 1, 2),
            |action| *action == Action::Restart(1),
        ],
    );
    state.network.clear();
    state
}

/// The past of [`older_row`], and then a snapshot lifts the first acceptor above its older row. Then both leaders die.
pub(crate) fn older_row_lifted(cluster: &Cluster, state: State) -> State {
    let state = older_row(cluster, state);
    let mut state = cluster.play(
        state,
        &[
            |action| *action == Action::Fire(1, Timer::Heartbeat),
            |action| *action == Action::Fire(1, Timer::Heartbeat),
            |action| tells_watermark(action, 1, 0),
            |action| *action == Action::Commit(0),
            |action| matches!(action, Action::Keep { acceptor: 0, .. }),
            |action| *action == Action::Trim(0),
            |action| *action == Action::Commit(0),
        ],
    );
    // The next processes have no commands of their own.
    let idle = Scenario {
        commands: &[0, 0],
        ..cluster.scenario.clone()
    };
    let idle = Cluster::new(idle);
    state.proposers = vec![Shared::new(idle.proposer(0, 1)), Shared::new(idle.proposer(1, 1))];
    state.network.clear();
    state
}

/// Of four acceptors with quorums of 3 and 2, the first two choose slot 0, and only the first knows. Then the leader
/// dies.
pub(crate) fn one_knower_of_four(cluster: &Cluster, state: State) -> State {
    let mut state = cluster.play(
        state,
        &[
            |action| *action == Action::Fire(0, Timer::Election),
            |action| asks(action, 0, 0),
            |action| *action == Action::Commit(0),
            |action| asks(action, 0, 1),
            |action| *action == Action::Commit(1),
            |action| asks(action, 0, 2),
            |action| *action == Action::Commit(2),
            |action| promises(action, 0, 0),
            |action| promises(action, 1, 0),
            |action| promises(action, 2, 0),
            |action| proposes(action, 0, 0),
            |action| *action == Action::Commit(0),
            |action| proposes(action, 0, 1),
            |action| *action == Action::Commit(1),
            |action| votes(action, 0, 0),
            |action| votes(action, 1, 0),
            |action| *action == Action::Fire(0, Timer::Heartbeat),
            |action| *action == Action::Fire(0, Timer::Heartbeat),
            |action| tells_watermark(action, 0, 0),
            |action| *action == Action::Restart(0),
        ],
    );
    state.network.clear();
    state
}

/// Of four acceptors with quorums of 2 and 3, the first three choose slot 0, and only the first knows. Then the leader
/// dies.
pub(crate) fn one_knower_of_many(cluster: &Cluster, state: State) -> State {
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
            |action| proposes(action, 0, 2),
            |action| *action == Action::Commit(2),
            |action| votes(action, 0, 0),
            |action| votes(action, 1, 0),
            |action| votes(action, 2, 0),
            |action| *action == Action::Fire(0, Timer::Heartbeat),
            |action| *action == Action::Fire(0, Timer::Heartbeat),
            |action| tells_watermark(action, 0, 0),
            |action| *action == Action::Restart(0),
        ],
    );
    state.network.clear();
    state
}

/// Of five acceptors, the first votes at a first ballot, and the second promises the ballot. Then the last three choose
/// a different value at a second ballot. Both proposers still act as leader, and every sent message may still arrive.
pub(crate) fn older_row_of_five(cluster: &Cluster, state: State) -> State {
    cluster.play(
        state,
        &[
            |action| *action == Action::Fire(0, Timer::Election),
            |action| asks(action, 0, 0),
            |action| *action == Action::Commit(0),
            |action| asks(action, 0, 1),
            |action| *action == Action::Commit(1),
            |action| asks(action, 0, 2),
            |action| *action == Action::Commit(2),
            |action| promises(action, 0, 0),
            |action| promises(action, 1, 0),
            |action| promises(action, 2, 0),
            |action| proposes(action, 0, 0),
            |action| *action == Action::Commit(0),
            |action| *action == Action::Fire(1, Timer::Election),
            |action| asks(action, 1, 2),
            |action| *action == Action::Commit(2),
            |action| asks(action, 1, 3),
            |action| *action == Action::Commit(3),
            |action| asks(action, 1, 4),
            |action| *action == Action::Commit(4),
            |action| promises(action, 2, 1),
            |action| promises(action, 3, 1),
            |action| promises(action, 4, 1),
            |action| proposes(action, 1, 2),
            |action| *action == Action::Commit(2),
            |action| proposes(action, 1, 3),
            |action| *action == Action::Commit(3),
            |action| proposes(action, 1, 4),
            |action| *action == Action::Commit(4),
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

fn tells_watermark(action: &Action, proposer: usize, acceptor: usize) -> bool {
    to_acceptor(action, proposer, acceptor)
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
