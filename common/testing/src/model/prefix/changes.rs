//! The past of a cluster whose members change.

use super::{Step, accept, claim, count, one_knower, play, play_and_lose, reign, restart_idle};
use crate::model::{
    cluster::{Cluster, State},
    prefix::Step::{Commit, Prepare, Promise, Report, Restart},
    scenario::Scenario,
    shared::Shared,
};

/// The first leader has a change proposed in slot 0, and only the last of three acceptors votes for it. Then the first two
/// acceptors choose a command of the second leader in slot 1: the change is void. Then both leaders die.
pub(crate) fn void_change(cluster: &Cluster, state: State) -> State {
    let at = |proposer, acceptor, slot| {
        let accept = Step::AcceptAt {
            proposer,
            acceptor,
            slot,
        };
        vec![accept, Commit(acceptor)]
    };
    let parts = [
        reign(0, &[1, 2]),
        vec![Step::Change(0)],
        at(0, 2, 0),
        reign(1, &[0, 1]),
        at(1, 0, 1),
        at(1, 1, 1),
        vec![Restart(0), Restart(1)],
    ];
    restart_idle(cluster, play_and_lose(cluster, state, &parts))
}

/// Of three acceptors, the last two choose a change to the last alone in slot 0. The change takes force, and the leader of the
/// next era has slot 0 chosen again there, and known. Then the leader dies.
pub(crate) fn switched_to_the_last(cluster: &Cluster, state: State) -> State {
    let form = |acceptor| Step::Form {
        proposer: 0,
        acceptor,
    };
    let formed = |acceptor| Step::Formed {
        acceptor,
        proposer: 0,
    };
    let parts = [
        reign(0, &[1, 2]),
        vec![Step::Change(0)],
        accept(0, &[1, 2]),
        count(0, &[1, 2]),
        vec![form(2), Commit(2), formed(2)],
        vec![
            Prepare {
                proposer: 0,
                acceptor: 2,
            },
            Commit(2),
            Promise {
                acceptor: 2,
                proposer: 0,
            },
        ],
        accept(0, &[2]),
        count(0, &[2]),
        claim(0, &[2]),
        vec![Restart(0)],
    ];
    play_and_lose(cluster, state, &parts)
}

/// A leader has a change proposed in slot 0, and the first acceptor has voted for it. The leader has not counted the vote yet.
pub(crate) fn change_voted_once(cluster: &Cluster, state: State) -> State {
    let vote = Step::AcceptAt {
        proposer: 0,
        acceptor: 0,
        slot: 0,
    };
    let parts = [reign(0, &[0, 1]), vec![Step::Change(0)], vec![vote, Commit(0)]];
    play(cluster, state, &parts)
}

/// One of two acceptors chooses a change to the other in slot 0, and the change takes force. Then the leader dies, and the next
/// processes know of the change.
pub(crate) fn switched(cluster: &Cluster, state: State) -> State {
    let idle = Cluster::new(Scenario {
        commands: &[0, 0],
        ..cluster.scenario.clone()
    });
    let mut state = state;
    state.proposers = vec![Shared::new(idle.proposer(0, 1)), Shared::new(idle.proposer(1, 1))];
    let form = Step::Form {
        proposer: 0,
        acceptor: 1,
    };
    let formed = Step::Formed {
        acceptor: 1,
        proposer: 0,
    };
    let parts = [
        reign(0, &[0]),
        vec![Step::Change(0), form, formed],
        accept(0, &[0, 1]),
        count(0, &[0, 1]),
        vec![form, Commit(1), Restart(0)],
    ];
    let mut state = play_and_lose(&idle, state, &parts);
    let node = |place| Shared::new(cluster.proposer_of(place, 2, 1));
    state.proposers = vec![node(0), node(1)];
    state
}

/// As [`change_voted_once`]. Then the leader has counted the vote.
pub(crate) fn change_counted_once(cluster: &Cluster, state: State) -> State {
    play(cluster, change_voted_once(cluster, state), &[count(0, &[0])])
}

/// The only member chooses slot 0. The leader still leads.
pub(crate) fn one_chosen_alone(cluster: &Cluster, state: State) -> State {
    let parts = [reign(0, &[0]), accept(0, &[0]), count(0, &[0])];
    play(cluster, state, &parts)
}

/// The first two of three members choose slot 0. The leader still leads.
pub(crate) fn one_chosen_by_two(cluster: &Cluster, state: State) -> State {
    let parts = [reign(0, &[0, 1]), accept(0, &[0, 1]), count(0, &[0, 1])];
    play_and_lose(cluster, state, &parts)
}

/// The first of three acceptors votes for a value that is not chosen. The others choose another value in slot 0, and a change
/// to the first two acceptors in slot 1. The second acceptor installs the configuration. Then both leaders die.
pub(crate) fn older_vote_and_a_switch(cluster: &Cluster, state: State) -> State {
    let form = Step::Form {
        proposer: 1,
        acceptor: 1,
    };
    let parts = [
        reign(0, &[0, 1]),
        accept(0, &[0]),
        reign(1, &[1, 2]),
        accept(1, &[1, 2]),
        count(1, &[1, 2]),
        vec![Step::Change(1)],
        accept(1, &[1, 2]),
        count(1, &[1, 2]),
        vec![form, Commit(1), Restart(0), Restart(1)],
    ];
    play_and_lose(cluster, state, &parts)
}

/// One acceptor chooses a change to three in slot 0, and the change takes force. A leader of the next era has the first
/// acceptor alone vote in slot 1. Then the leader dies.
pub(crate) fn first_vote_of_three(cluster: &Cluster, state: State) -> State {
    let idle = Cluster::new(Scenario {
        commands: &[0, 0],
        ..cluster.scenario.clone()
    });
    let mut state = state;
    state.proposers = vec![Shared::new(idle.proposer(0, 1)), Shared::new(idle.proposer(1, 1))];
    let form = |acceptor| Step::Form {
        proposer: 0,
        acceptor,
    };
    let formed = Step::Formed {
        acceptor: 1,
        proposer: 0,
    };
    let parts = [
        reign(0, &[0]),
        vec![Step::Change(0), form(1), formed],
        accept(0, &[0, 1]),
        count(0, &[0, 1]),
        vec![form(0), Commit(0), form(1), Commit(1), Restart(0)],
    ];
    let mut state = play_and_lose(&idle, state, &parts);
    let node = |place| Shared::new(cluster.proposer_of(place, 2, 1));
    state.proposers = vec![node(0), node(1)];
    let vote = Step::AcceptAt {
        proposer: 0,
        acceptor: 0,
        slot: 1,
    };
    let parts = [reign(0, &[0, 1]), vec![vote, Commit(0), Restart(0)]];
    play_and_lose(cluster, state, &parts)
}

/// The past of [`one_knower`]. The next leader has no commands, knows slot 0 to be chosen, and has the promises of the first two
/// acceptors. The second acceptor's watermark is below slot 1.
pub(crate) fn one_knower_and_a_leader(cluster: &Cluster, state: State) -> State {
    let report = Report {
        acceptor: 0,
        proposer: 0,
    };
    let state = restart_idle(cluster, one_knower(cluster, state));
    play(cluster, state, &[vec![report], reign(0, &[0, 1])])
}

/// The first two of three members choose slot 0. Then the leader dies, and the second acceptor loses its disk. The next leader has
/// the other two members choose slot 0 again, and has no commands.
pub(crate) fn disk_lost_and_led(cluster: &Cluster, state: State) -> State {
    let state = restart_idle(cluster, one_chosen_by_two(cluster, state));
    let parts = [
        vec![Step::Lose(1)],
        reign(0, &[0, 2]),
        accept(0, &[0, 2]),
        count(0, &[0, 2]),
    ];
    play_and_lose(cluster, state, &parts)
}

/// A leader has the promises of the first two acceptors.
pub(crate) fn led_by_two(cluster: &Cluster, state: State) -> State {
    play_and_lose(cluster, state, &[reign(0, &[0, 1])])
}

/// The first two of three members choose slot 0, and no process knows. Then the leader dies, and the next processes have no
/// commands.
pub(crate) fn one_chosen_then_idle(cluster: &Cluster, state: State) -> State {
    restart_idle(cluster, one_chosen_by_two(cluster, state))
}
