//! The rungs with changes of members: names that begin with 12.

use super::Rung;
use crate::model::{
    climb::Case,
    prefix::changes::{
        disk_lost_and_led, led_by_two, older_vote_and_a_switch, one_chosen_alone, one_chosen_by_two,
        one_chosen_then_idle, one_knower_and_a_leader, switched, void_change,
    },
    rollback,
    scenario::{
        Allowance, Members, Scenario,
        Spend::{
            Adopt, Campaign, Change, Check, Crash, Damage, Heartbeat, Install, Keep, Read, Report,
            RestartLearner, SwitchFeed, Trim,
        },
    },
    sights::Sight,
};

const fn members(places: &'static [usize], phase1: usize, phase2: usize) -> Members {
    Members {
        places,
        phase1,
        phase2,
    }
}

/// One acceptor is replaced by another.
pub(in crate::model) const ONE_BY_ONE: &[Members] = &[members(&[0], 1, 1), members(&[1], 1, 1)];
/// One acceptor grows to three.
pub(in crate::model) const ONE_TO_THREE: &[Members] = &[members(&[0], 1, 1), members(&[0, 1, 2], 2, 2)];
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
/// Two acceptors are replaced by a third, with a write-all quorum before.
const TWO_TO_ANOTHER: &[Members] = &[members(&[0, 1], 1, 2), members(&[2], 1, 1)];
/// The last of three acceptors is left.
pub(in crate::model) const THREE_TO_THE_LAST: &[Members] = &[members(&[0, 1, 2], 2, 2), members(&[2], 1, 1)];
/// The second of three acceptors is replaced.
const THREE_WITHOUT_THE_SECOND: &[Members] = &[members(&[0, 1, 2], 2, 2), members(&[0, 2, 3], 2, 2)];
/// One acceptor is replaced by another, twice.
const ONE_BY_ONE_TWICE: &[Members] = &[members(&[0], 1, 1), members(&[1], 1, 1), members(&[2], 1, 1)];
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

/// The only member of the second era trims above the change, and a learner installs the snapshot.
pub(in crate::model) fn snapshot_of_a_change(name: &'static str) -> Scenario {
    Scenario {
        learners: 1,
        prefix: switched,
        allowance: Allowance::new(&[(Campaign, 1), (Heartbeat, 2), (Keep, 1), (Trim, 1), (Install, 1)]),
        ..changing(name, 2, ONE_BY_ONE)
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
        rung(
            431,
            Scenario {
                learners: 1,
                reach: &[&[0, 1], &[1, 2]],
                commands: &[1, 1],
                prefix: older_vote_and_a_switch,
                allowance: allow(&[(Adopt, 1), (SwitchFeed, 1), (RestartLearner, 1)]),
                expected: &[Sight::LearnerShown, Sight::Learned],
                ..changing(
                    "12 a learner is shown the next era, and an older vote",
                    3,
                    THREE_TO_TWO,
                )
            },
        ),
        rung(
            3_564,
            Scenario {
                learners: 1,
                prefix: switched,
                allowance: allow(&[(Campaign, 1), (Read, 1), (Adopt, 1)]),
                expected: &[Sight::LearnerShown, Sight::ReadLater],
                ..changing("12 a learner is shown the next era, a read", 2, ONE_BY_ONE)
            },
        ),
        rung(
            1_300,
            Scenario {
                expected: &[Sight::Installed, Sight::ChosenLater],
                ..snapshot_of_a_change("12 a learner installs a snapshot of a later era")
            },
        ),
        rung(
            2_428,
            Scenario {
                commands: &[0, 0],
                expected: &[Sight::Installation, Sight::LedLater],
                ..changing("12 two by another, with writes to both", 3, TWO_TO_ANOTHER)
            },
        ),
        rung(
            3_337,
            Scenario {
                prefix: one_chosen_alone,
                allowance: allow(&[(Change, 1), (Heartbeat, 2), (Keep, 2), (Trim, 2)]),
                expected: &[Sight::JoinerLifted, Sight::Installation],
                ..changing("12 a joiner is lifted by a snapshot", 2, ONE_BY_ONE)
            },
        ),
        rung(
            111,
            Scenario {
                blank_joiners: true,
                commands: &[0, 0],
                allowance: allow(&[(Campaign, 1), (Change, 1), (Crash, 1)]),
                expected: &[Sight::Joined, Sight::Installation, Sight::VoteLost],
                ..changing("12 a blank joiner, a crash", 2, ONE_BY_ONE)
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
            prefix: switched,
            // The members of the third era hear the watermark of the second.
            allowance: allow(&[(Campaign, 1), (Change, 1), (Heartbeat, 2)]),
            // Not satisfied by the first change: a configuration of the second change takes force.
            expected: &[Sight::SecondInstallation, Sight::LedLater],
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
            reach: &[&[0, 1, 2, 3], &[]],
            commands: &[0, 0],
            prefix: led_by_two,
            allowance: allow(&[(Change, 1)]),
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
        rung(Scenario {
            reach: &[&[0, 1, 2], &[0, 1]],
            commands: &[0, 2],
            prefix: void_change,
            expected: &[Sight::ChangeVoid, Sight::CarriedOver, Sight::Duel],
            allowance: allow(&[(Campaign, 2)]),
            ..changing("12 a void change, two leaders", 3, THREE_TO_TWO)
        }),
        rung(Scenario {
            slots: 3,
            reach: &[&[0, 1, 2], &[0, 1]],
            commands: &[0, 2],
            prefix: void_change,
            allowance: allow(&[(Campaign, 1), (Change, 1)]),
            expected: &[Sight::ChangeVoid, Sight::Installation],
            ..changing("12 a void change, and then another change", 3, THREE_TO_TWO)
        }),
        rung(Scenario {
            reach: &[&[0, 1, 2], &[0, 1, 2]],
            commands: &[0, 1],
            allowance: allow(&[(Campaign, 2), (Change, 1)]),
            expected: &[Sight::Installation, Sight::ChangeCarriedOn],
            ..changing(
                "12 two by another, with writes to both, two leaders",
                3,
                TWO_TO_ANOTHER,
            )
        }),
        rung(Scenario {
            commands: &[0, 0],
            allowance: allow(&[(Campaign, 1), (Change, 1), (Crash, 1)]),
            expected: &[Sight::Installation, Sight::VoteLost],
            ..changing(
                "12 two by another, with writes to both, a crash",
                3,
                TWO_TO_ANOTHER,
            )
        }),
        rung(Scenario {
            slots: 3,
            commands: &[0, 0],
            prefix: switched,
            allowance: allow(&[(Campaign, 1), (Change, 1), (Heartbeat, 2)]),
            expected: &[Sight::SecondInstallation, Sight::LedLater],
            ..changing("12 one acceptor by another, twice", 3, ONE_BY_ONE_TWICE)
        }),
        rung(Scenario {
            repair: true,
            late_answers: true,
            prefix: one_knower_and_a_leader,
            reach: &[&[0, 1], &[1, 2]],
            allowance: allow(&[(Change, 1), (Heartbeat, 1), (Check, 2)]),
            expected: &[Sight::Repair, Sight::Installation, Sight::ScanAcrossEras],
            ..changing("12 a scan that spans the change", 3, THREE_TO_TWO)
        }),
        rung(Scenario {
            repair: true,
            late_answers: true,
            reach: &[&[0, 1, 3], &[]],
            prefix: one_chosen_by_two,
            // The leader repairs the row from memory, so no acceptor reads the row.
            allowance: allow(&[(Change, 1), (Damage, 1), (Heartbeat, 1)]),
            expected: &[Sight::Installation, Sight::ForceBesideDamage],
            ..changing("12 one of three is replaced, a damaged row", 4, THREE_TO_OTHERS)
        }),
        rung(Scenario {
            reach: &[&[0, 1, 3], &[]],
            prefix: one_chosen_then_idle,
            allowance: allow(&[(Campaign, 1), (Change, 1), (Damage, 1)]),
            expected: &[Sight::UnknownRowTold, Sight::Installation],
            ..changing("12 a damaged row, and then one is replaced", 4, THREE_TO_OTHERS)
        }),
        rung(Scenario {
            blank_joiners: true,
            prefix: disk_lost_and_led,
            reach: &[&[0, 2, 3], &[]],
            allowance: allow(&[(Change, 1)]),
            expected: &[Sight::Joined, Sight::Installation, Sight::LedLater],
            ..changing(
                "12 a member with a lost disk is replaced",
                4,
                THREE_WITHOUT_THE_SECOND,
            )
        }),
        rung(Scenario {
            slots: 3,
            learners: 1,
            prefix: one_chosen_alone,
            allowance: allow(&[
                (Change, 1),
                (Heartbeat, 2),
                (Keep, 2),
                (Trim, 2),
                (Install, 1),
                (Adopt, 1),
            ]),
            expected: &[
                Sight::JoinerLifted,
                Sight::Installation,
                Sight::Installed,
                Sight::LearnerShown,
            ],
            ..changing(
                "12 a joiner is lifted by a snapshot, a learner installs",
                2,
                ONE_BY_ONE,
            )
        }),
        rung(Scenario {
            reach: &[&[0, 1, 2], &[0, 1]],
            commands: &[0, 2],
            prefix: void_change,
            expected: &[Sight::ChangeVoid, Sight::CarriedOver],
            allowance: allow(&[(Campaign, 1)]),
            ..changing("12 a void change", 3, THREE_TO_TWO)
        }),
        Rung {
            case: Case::Rollback(rollback::Scenario {
                tables: 1,
                others_needed_later: Some(1),
                forgets: 1,
                starts: 2,
                commits: 1,
                expected: &[Sight::LostDiskRefused],
                ..rollback::Scenario::small("12 a disk that goes back while the members change")
            }),
            unique_states: None,
        },
    ]
}
