//! The rungs with changes of members: names that begin with 12.

use super::Rung;
use crate::model::{
    climb::Case,
    scenario::{
        Allowance, Members, Scenario,
        Spend::{Campaign, Change, Crash, Heartbeat, Keep, Read, Report, RestartLearner, Trim},
    },
    sights::Sight,
};

pub(in crate::model) const fn members(places: &'static [usize], phase1: usize, phase2: usize) -> Members {
    Members {
        places,
        phase1,
        phase2,
    }
}

/// One acceptor is replaced by another.
pub(in crate::model) const ONE_BY_ONE: &[Members] = &[members(&[0], 1, 1), members(&[1], 1, 1)];
/// One acceptor grows to three.
const ONE_TO_THREE: &[Members] = &[members(&[0], 1, 1), members(&[0, 1, 2], 2, 2)];
/// The second of two acceptors is left, with a read-one quorum before.
pub(in crate::model) const TWO_TO_ONE: &[Members] = &[members(&[0, 1], 2, 1), members(&[1], 1, 1)];
/// One of three acceptors leaves.
pub(in crate::model) const THREE_TO_TWO: &[Members] = &[members(&[0, 1, 2], 2, 2), members(&[0, 1], 2, 1)];
/// One of three acceptors is replaced.
pub(in crate::model) const THREE_TO_OTHERS: &[Members] =
    &[members(&[0, 1, 2], 2, 2), members(&[0, 1, 3], 2, 2)];
/// Two of three acceptors are replaced.
const THREE_TO_MOST_OTHERS: &[Members] = &[members(&[0, 1, 2], 2, 2), members(&[0, 3, 4], 2, 2)];
/// The quorums change, and not the members.
const OTHER_QUORUMS: &[Members] = &[members(&[0, 1, 2, 3], 2, 3), members(&[0, 1, 2, 3], 3, 2)];
/// The second of two acceptors is left, with a write-all quorum before.
const TWO_TO_ONE_BY_ALL: &[Members] = &[members(&[0, 1], 1, 2), members(&[1], 1, 1)];
/// There and back.
const THERE_AND_BACK: &[Members] = &[members(&[0], 1, 1), members(&[1], 1, 1), members(&[0], 1, 1)];

/// A cluster that changes, with one proposer and no command.
pub(in crate::model) fn changing(name: &'static str, acceptors: usize, eras: &'static [Members]) -> Scenario {
    Scenario {
        acceptors,
        eras,
        slots: 2,
        commands: &[1, 0],
        reach: &[&[0, 1, 2, 3, 4], &[]],
        allowance: Allowance::new(&[(Campaign, 1), (Change, 1)]),
        ..Scenario::small(name)
    }
}

/// Rungs climbed in every test run.
pub(super) fn small() -> Vec<Rung> {
    let rung = |unique_states, scenario| Rung {
        case: Case::Cluster(scenario),
        unique_states: Some(unique_states),
    };
    let allow = Allowance::new;
    vec![
        rung(
            111_327,
            Scenario {
                reach: &[&[0, 1], &[0, 1]],
                commands: &[1, 1],
                allowance: allow(&[(Campaign, 2), (Change, 1), (Report, 1)]),
                expected: &[Sight::ChangeChosen, Sight::ChangeCarriedOn],
                ..changing("12 one acceptor by another, two leaders", 2, ONE_BY_ONE)
            },
        ),
        rung(
            128_022,
            Scenario {
                learners: 1,
                allowance: allow(&[(Campaign, 1), (Change, 1), (Read, 1)]),
                expected: &[Sight::LearnerAdopted, Sight::ReadLater],
                ..changing("12 one acceptor by another, a read", 2, ONE_BY_ONE)
            },
        ),
        rung(
            12_100,
            Scenario {
                commands: &[0, 0],
                expected: &[Sight::Installation, Sight::LedLater],
                ..changing("12 one acceptor to three", 3, ONE_TO_THREE)
            },
        ),
    ]
}

/// Rungs with a run time of minutes.
pub(super) fn large() -> Vec<Rung> {
    let rung = |scenario| Rung {
        case: Case::Cluster(scenario),
        unique_states: None,
    };
    let allow = Allowance::new;
    vec![
        rung(Scenario {
            allowance: allow(&[(Campaign, 1), (Change, 1), (Heartbeat, 2)]),
            expected: &[Sight::Installation, Sight::LedLater],
            ..changing("12 one acceptor by another, a copy", 2, ONE_BY_ONE)
        }),
        rung(Scenario {
            allowance: allow(&[(Campaign, 1), (Change, 1), (Heartbeat, 2), (Crash, 1)]),
            expected: &[Sight::Installation, Sight::VoteLost],
            ..changing("12 one acceptor by another, a copy, a crash", 2, ONE_BY_ONE)
        }),
        rung(Scenario {
            commands: &[0, 1],
            reach: &[&[0, 1, 2], &[1, 2]],
            allowance: allow(&[(Campaign, 2), (Change, 1)]),
            expected: &[Sight::Installation, Sight::ChangeCarriedOn],
            ..changing("12 one of three leaves, two leaders", 3, THREE_TO_TWO)
        }),
        rung(Scenario {
            slots: 3,
            commands: &[0, 0],
            allowance: allow(&[(Campaign, 1), (Change, 2)]),
            // Not satisfied by the first change: a configuration of the second change takes force.
            expected: &[Sight::SecondInstallation],
            ..changing("12 there and back", 2, THERE_AND_BACK)
        }),
        rung(Scenario {
            commands: &[1, 1],
            reach: &[&[0, 1, 2], &[1, 2]],
            allowance: allow(&[(Campaign, 2), (Change, 1)]),
            expected: &[Sight::Installation, Sight::ChangeCarriedOn],
            ..changing(
                "12 one of three leaves, two leaders with commands",
                3,
                THREE_TO_TWO,
            )
        }),
        rung(Scenario {
            reach: &[&[0, 1, 3], &[]],
            commands: &[0, 0],
            allowance: allow(&[(Campaign, 1), (Change, 1), (Crash, 1)]),
            expected: &[Sight::Installation, Sight::VoteLost],
            ..changing("12 one of three is replaced, a crash", 4, THREE_TO_OTHERS)
        }),
        rung(Scenario {
            reach: &[&[0, 1, 3, 4], &[]],
            commands: &[0, 0],
            expected: &[Sight::Installation, Sight::LedLater],
            ..changing("12 two of three are replaced", 5, THREE_TO_MOST_OTHERS)
        }),
        rung(Scenario {
            commands: &[0, 0],
            expected: &[Sight::Installation, Sight::LedLater],
            ..changing("12 other quorums of four", 4, OTHER_QUORUMS)
        }),
        rung(Scenario {
            learners: 1,
            reach: &[&[0, 1], &[0, 1]],
            commands: &[1, 1],
            allowance: allow(&[(Campaign, 2), (Change, 1), (Crash, 1), (Read, 1)]),
            expected: &[Sight::Installation, Sight::ReadLater],
            ..changing("12 the second of two is left, a crash and a read", 2, TWO_TO_ONE)
        }),
        rung(Scenario {
            reach: &[&[0, 1], &[0, 1]],
            commands: &[1, 1],
            allowance: allow(&[(Campaign, 2), (Change, 1), (Crash, 1)]),
            expected: &[Sight::Installation],
            ..changing(
                "12 the second of two is left, writes to both, a crash",
                2,
                TWO_TO_ONE_BY_ALL,
            )
        }),
        rung(Scenario {
            learners: 1,
            allowance: allow(&[(Campaign, 1), (Change, 1), (Read, 1), (RestartLearner, 1)]),
            expected: &[Sight::LearnerAdopted, Sight::LearnerRestarted],
            ..changing("12 one acceptor by another, a learner restarts", 2, ONE_BY_ONE)
        }),
        rung(Scenario {
            slots: 3,
            repair: true,
            late_answers: true,
            allowance: allow(&[(Campaign, 1), (Change, 1), (Heartbeat, 2), (Keep, 1), (Trim, 1)]),
            expected: &[Sight::Installation, Sight::Trimmed],
            ..changing("12 one acceptor by another, a trim", 2, ONE_BY_ONE)
        }),
    ]
}
