//! The past of a cluster before a check begins, produced by the model's own steps.

use paxos_common::paxos::{proposer::Timer, slot::Slot};

use super::{
    cluster::{Action, Cluster, State},
    network::{Message, Node},
    scenario::Scenario,
    shared::Shared,
};

pub(crate) mod changes;

/// A step of the past. Proposers and acceptors are places in the cluster.
#[derive(Clone, Copy)]
enum Step {
    Campaign(usize),
    Heartbeat(usize),
    Prepare {
        proposer: usize,
        acceptor: usize,
    },
    Promise {
        acceptor: usize,
        proposer: usize,
    },
    Accept {
        proposer: usize,
        acceptor: usize,
    },
    /// An Accept of this slot alone.
    AcceptAt {
        proposer: usize,
        acceptor: usize,
        slot: u64,
    },
    Change(usize),
    Form {
        proposer: usize,
        acceptor: usize,
    },
    Formed {
        acceptor: usize,
        proposer: usize,
    },
    Vote {
        acceptor: usize,
        proposer: usize,
    },
    Watermark {
        proposer: usize,
        acceptor: usize,
    },
    Report {
        acceptor: usize,
        proposer: usize,
    },
    Commit(usize),
    Keep(usize),
    Trim(usize),
    Lose(usize),
    Restart(usize),
}

use Step::{Campaign, Commit, Heartbeat, Keep, Prepare, Promise, Report, Restart, Trim};

impl Step {
    /// Whether the model's step is this step. A message is a message as delivered.
    fn is(self, action: &Action) -> bool {
        match self {
            Campaign(proposer) => *action == Action::Fire(proposer, Timer::Election),
            Heartbeat(proposer) => *action == Action::Fire(proposer, Timer::Heartbeat),
            Prepare { proposer, acceptor } => to_acceptor(action, proposer, acceptor)
                .is_some_and(|message| matches!(message, Message::Prepare(..))),
            Promise { acceptor, proposer } => to_proposer(action, acceptor, proposer)
                .is_some_and(|message| matches!(message, Message::Page(..))),
            Self::Accept { proposer, acceptor } => to_acceptor(action, proposer, acceptor).is_some_and(
                |message| matches!(message, Message::Accept(accept) if !accept.proposals.is_empty()),
            ),
            Self::AcceptAt {
                proposer,
                acceptor,
                slot,
            } => to_acceptor(action, proposer, acceptor).is_some_and(|message| {
                let Message::Accept(accept) = message else {
                    return false;
                };
                accept.proposals.iter().any(|(at, _)| at.get() == slot)
            }),
            Self::Change(proposer) => *action == Action::Change(proposer),
            Self::Form { proposer, acceptor } => to_acceptor(action, proposer, acceptor)
                .is_some_and(|message| matches!(message, Message::Form(_))),
            Self::Formed { acceptor, proposer } => to_proposer(action, acceptor, proposer)
                .is_some_and(|message| matches!(message, Message::Formed(_))),
            Self::Vote { acceptor, proposer } => to_proposer(action, acceptor, proposer)
                .is_some_and(|message| matches!(message, Message::Answer(..))),
            Self::Watermark { proposer, acceptor } => to_acceptor(action, proposer, acceptor).is_some_and(
                |message| matches!(message, Message::Accept(accept) if accept.chosen_to > Slot::ZERO),
            ),
            Report { acceptor, proposer } => *action == Action::Report { acceptor, proposer },
            Commit(acceptor) => *action == Action::Commit(acceptor),
            Keep(place) => matches!(action, Action::Keep { acceptor, .. } if *acceptor == place),
            Trim(acceptor) => *action == Action::Trim(acceptor),
            Self::Lose(acceptor) => *action == Action::Lose(acceptor),
            Restart(proposer) => *action == Action::Restart(proposer),
        }
    }
}

/// A proposer campaigns, and these acceptors promise.
fn reign(proposer: usize, acceptors: &[usize]) -> Vec<Step> {
    let prepare = |&acceptor| [Prepare { proposer, acceptor }, Commit(acceptor)];
    let promise = |&acceptor| Promise { acceptor, proposer };
    let prepared = acceptors.iter().flat_map(prepare);
    let promised = acceptors.iter().map(promise);
    [Campaign(proposer)]
        .into_iter()
        .chain(prepared)
        .chain(promised)
        .collect()
}

/// These acceptors vote for the next proposal of a leader.
fn accept(proposer: usize, acceptors: &[usize]) -> Vec<Step> {
    let accept = |&acceptor| [Step::Accept { proposer, acceptor }, Commit(acceptor)];
    acceptors.iter().flat_map(accept).collect()
}

/// The votes of these acceptors reach the leader.
fn count(proposer: usize, acceptors: &[usize]) -> Vec<Step> {
    let vote = |&acceptor| Step::Vote { acceptor, proposer };
    acceptors.iter().map(vote).collect()
}

/// The leader claims its watermark to these acceptors.
fn claim(proposer: usize, acceptors: &[usize]) -> Vec<Step> {
    let claim = |&acceptor| Step::Watermark { proposer, acceptor };
    let claims = acceptors.iter().map(claim);
    [Heartbeat(proposer); 2].into_iter().chain(claims).collect()
}

fn play(cluster: &Cluster, state: State, parts: &[Vec<Step>]) -> State {
    let steps = parts.iter().flatten();
    cluster.play(state, steps.map(|&step| move |action: &Action| step.is(action)))
}

/// As [`play`]. Messages on their way are lost at the end.
fn play_and_lose(cluster: &Cluster, state: State, parts: &[Vec<Step>]) -> State {
    let mut state = play(cluster, state, parts);
    state.network.clear();
    state
}

/// Both proposers start again, without commands of their own.
fn restart_idle(cluster: &Cluster, mut state: State) -> State {
    let idle = Cluster::new(Scenario {
        commands: &[0, 0],
        ..cluster.scenario.clone()
    });
    state.proposers = vec![Shared::new(idle.proposer(0, 1)), Shared::new(idle.proposer(1, 1))];
    state
}

/// The leader of `promised` has slot 0 chosen by `voted`, and only the first acceptor knows. Then the leader dies.
fn chosen_and_known_once(cluster: &Cluster, state: State, promised: &[usize], voted: &[usize]) -> State {
    let parts = [
        reign(0, promised),
        accept(0, voted),
        count(0, voted),
        claim(0, &[0]),
        vec![Restart(0)],
    ];
    play_and_lose(cluster, state, &parts)
}

/// The first two acceptors choose slot 0, and only the first acceptor knows. Then the leader dies.
pub(crate) fn one_knower(cluster: &Cluster, state: State) -> State {
    chosen_and_known_once(cluster, state, &[0, 1], &[0, 1])
}

/// Of four acceptors with quorums of 3 and 2, the first two choose slot 0, and only the first knows. Then the leader
/// dies.
pub(crate) fn one_knower_of_four(cluster: &Cluster, state: State) -> State {
    chosen_and_known_once(cluster, state, &[0, 1, 2], &[0, 1])
}

/// Of four acceptors with quorums of 2 and 3, the first three choose slot 0, and only the first knows. Then the leader
/// dies.
pub(crate) fn one_knower_of_many(cluster: &Cluster, state: State) -> State {
    chosen_and_known_once(cluster, state, &[0, 1], &[0, 1, 2])
}

/// The past as after [`one_knower`], and at the same ballot the third acceptor votes for the value of a copy of the leader.
/// Then the copy dies too.
pub(crate) fn one_knower_of_copies(cluster: &Cluster, state: State) -> State {
    let prepare = |acceptor| Prepare {
        proposer: 0,
        acceptor,
    };
    let promise = |acceptor| Promise {
        acceptor,
        proposer: 0,
    };
    // The second acceptor has promised the ballot already.
    let second = vec![
        Campaign(0),
        prepare(0),
        Commit(0),
        prepare(1),
        promise(0),
        promise(1),
    ];
    let parts = [
        reign(1, &[1, 2]),
        accept(1, &[2]),
        second,
        accept(0, &[0, 1]),
        count(0, &[0, 1]),
        claim(0, &[0]),
        vec![Restart(0), Restart(1)],
    ];
    play_and_lose(cluster, state, &parts)
}

/// The first proposer leads with the promises of the first two acceptors, and the first acceptor has voted for the
/// proposer's command. Each commit is readable one step before memory shows the commit.
pub(crate) fn readable_reign(cluster: &Cluster, state: State) -> State {
    let steps = [reign(0, &[0, 1]), accept(0, &[0])].concat();
    let with_memory = |step| vec![step; if matches!(step, Commit(_)) { 2 } else { 1 }];
    play(
        cluster,
        state,
        &steps.into_iter().map(with_memory).collect::<Vec<_>>(),
    )
}

/// The first acceptor votes at a first ballot. Then the two other acceptors choose a different value at a second
/// ballot. Both proposers still act as leader, and every sent message may still arrive.
pub(crate) fn older_row(cluster: &Cluster, state: State) -> State {
    let parts = [
        reign(0, &[0, 1]),
        accept(0, &[0]),
        reign(1, &[1, 2]),
        accept(1, &[1, 2]),
        count(1, &[1, 2]),
    ];
    play(cluster, state, &parts)
}

/// Of five acceptors, the first votes at a first ballot, and the second promises the ballot. Then the last three choose
/// a different value at a second ballot. Both proposers still act as leader, and every sent message may still arrive.
pub(crate) fn older_row_of_five(cluster: &Cluster, state: State) -> State {
    let parts = [
        reign(0, &[0, 1, 2]),
        accept(0, &[0]),
        reign(1, &[2, 3, 4]),
        accept(1, &[2, 3, 4]),
    ];
    play(cluster, state, &parts)
}

/// The first two acceptors choose slots 0 and 1, and only the first acceptor knows. The leader still leads.
pub(crate) fn two_chosen(cluster: &Cluster, state: State) -> State {
    let both_slots = &[0, 0, 1, 1];
    let parts = [
        reign(0, &[0, 1]),
        accept(0, both_slots),
        count(0, both_slots),
        claim(0, &[0]),
    ];
    play(cluster, state, &parts)
}

/// The same. Then the leader dies.
pub(crate) fn two_chosen_once(cluster: &Cluster, state: State) -> State {
    // In the past, promises are read at once.
    let past = Cluster::new(Scenario {
        pages_apart: false,
        ..cluster.scenario.clone()
    });
    let state = two_chosen(&past, state);
    play_and_lose(&past, state, &[vec![Restart(0)]])
}

/// The first two of three acceptors choose slots 0 and 1. The third has a snapshot of both recorded, below the claim of the
/// leader. Then the leader dies.
pub(crate) fn two_recorded(cluster: &Cluster, state: State) -> State {
    let both_slots = &[0, 0, 1, 1];
    let parts = [
        reign(0, &[0, 1]),
        accept(0, both_slots),
        count(0, both_slots),
        claim(0, &[2]),
        vec![Commit(2), Keep(2), Keep(2), Restart(0)],
    ];
    restart_idle(cluster, play_and_lose(cluster, state, &parts))
}

/// The past of [`two_recorded`], and then a second leader has the first two acceptors choose slot 0 again. The leader still
/// leads, and claims less than the leader before.
pub(crate) fn two_recorded_and_one_claimed(cluster: &Cluster, state: State) -> State {
    let accept_first = |acceptor| {
        let accept = Step::AcceptAt {
            proposer: 1,
            acceptor,
            slot: 0,
        };
        vec![accept, Commit(acceptor)]
    };
    let parts = [
        reign(1, &[0, 1]),
        accept_first(0),
        accept_first(1),
        count(1, &[0, 1]),
    ];
    play_and_lose(cluster, two_recorded(cluster, state), &parts)
}

/// The past of [`one_knower`], and then a second leader knows slot 0 to be chosen, and claims so to the last two
/// acceptors. Neither has a row of the second leader. Then the second leader dies.
pub(crate) fn two_claimed(cluster: &Cluster, state: State) -> State {
    let report = Report {
        acceptor: 0,
        proposer: 1,
    };
    let parts = [
        vec![report],
        reign(1, &[1, 2]),
        claim(1, &[1, 2]),
        vec![Restart(1)],
    ];
    play_and_lose(cluster, one_knower(cluster, state), &parts)
}

/// The past of [`older_row`], and then a snapshot lifts the first acceptor above its older row. Then both leaders die.
pub(crate) fn older_row_lifted(cluster: &Cluster, state: State) -> State {
    let parts = [claim(1, &[0]), vec![Commit(0), Keep(0), Trim(0), Commit(0)]];
    restart_idle(cluster, play_and_lose(cluster, older_row(cluster, state), &parts))
}

fn to_acceptor(action: &Action, proposer: usize, acceptor: usize) -> Option<&Message> {
    let Action::Deliver(envelope) = action else {
        return None;
    };
    let is_from = matches!(envelope.from, Node::Proposer { place, .. } if place == proposer);
    (is_from && envelope.to == Node::Acceptor(acceptor)).then_some(&envelope.message)
}

fn to_proposer(action: &Action, acceptor: usize, proposer: usize) -> Option<&Message> {
    let Action::Deliver(envelope) = action else {
        return None;
    };
    let is_to = matches!(envelope.to, Node::Proposer { place, .. } if place == proposer);
    (is_to && envelope.from == Node::Acceptor(acceptor)).then_some(&envelope.message)
}
